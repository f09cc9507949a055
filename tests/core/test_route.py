"""Routes: who gets which part of the traffic."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boucle.core.errors import Invalid
from boucle.core.route import Arm, Route, choose, main, point


def arms(**shares):
    return tuple(Arm(int(r[1:]), "m@1", "b", "l", share=s) for r, s in shares.items())


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=5), st.floats(0, 1, exclude_max=True))
def test_somebody_always_answers(shares, place):
    route = tuple(Arm(i, "m@1", "b", "l", share=s) for i, s in enumerate(shares))
    assert choose(route, place) in route


@given(st.text(), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_whoever_got_the_new_revision_keeps_it_while_its_share_grows(key, one, other):
    less, more = sorted((one, other))
    place = point(key, "salt")
    before = choose(arms(r1=1 - less, r2=less), place).revision
    after = choose(arms(r1=1 - more, r2=more), place).revision
    assert after >= before


def test_the_parts_are_as_asked():
    split = arms(r1=0.75, r2=0.25)
    count = sum(choose(split, point(f"user{i}", "x")).revision == 2 for i in range(20_000))
    assert abs(count / 20_000 - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 20_000)


def test_another_salt_is_another_assignment():
    same = sum((point(f"{i}", "a") < 0.5) == (point(f"{i}", "b") < 0.5) for i in range(2000))
    assert 850 < same < 1150


def test_a_part_of_nothing_gets_nothing():
    split = arms(r1=1.0, r2=0.0)
    assert {choose(split, i / 100).revision for i in range(100)} == {1}
    assert main(split).revision == 1
    assert main(arms(r1=0.0)) is None


def test_it_comes_back_from_json():
    route = Route(arms(r1=0.5, r2=0.5), by="customer", salt="01X")
    assert Route.from_json(route.to_json()) == route
    assert Route.from_json(route.to_json()).digest == route.digest
    assert Route(route.arms).digest != route.digest


@pytest.mark.parametrize(
    "bad",
    [arms(r1=1.5), (Arm(1, "m", "b", "l"), Arm(1, "m", "b", "l")), (Arm(1, "m", "b", "l", share=0.5, shadow=True),)],
)
def test_what_does_not_fit_is_refused(bad):
    with pytest.raises(Invalid):
        Route(bad)
