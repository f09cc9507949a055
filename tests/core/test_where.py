import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boucle.core.errors import Invalid
from boucle.core.records import Run, Verdict
from boucle.core.where import And, Compare, Not, Or, Where, arranged, check_question, field, matches, plain, value_at

RUN = Run(
    id="r1", name="Train É", started=2.0, params={"depth": 3, "on": True, "lr": "0.1", "list": [1, "a"], "a.b": "dotted"},
    metrics={"auc": 0.9, "nan": math.nan},
)  # fmt: skip
scalars = st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=3))


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (field("name") == "Train É", True),
        (field("key") == "r1", True),
        (field("params.depth") == 3.0, True),
        (field("params.depth") == "3", False),
        (field("params.depth") != "3", True),
        (field("params.depth") < "9", False),
        (field("params.lr") > 0, False),
        (field("params.on") == 1, True),
        (field("params.on") == True, True),  # noqa: E712
        (field("params.list") == [1, "a"], True),
        (field("params.list") == '[1,"a"]', True),
        (field("params.a.b") == "dotted", True),
        (field("params.none") == None, True),  # noqa: E711
        (field("params.none") != 1, True),
        (field("params.none") < 1, False),
        (field("params.none") >= None, False),
        (field("metrics.nan") == None, True),  # noqa: E711
        (Compare("metrics.nan", "=", math.nan), True),
        (Compare("metrics.auc", "=", math.nan), False),
        (field("metrics.auc").within([0.9, None]), True),
        (field("params.none").within([1, None]), True),
        (field("params.none").within([1]), False),
        (field("name").within(()), False),
        (field("name").contains("rAIN"), True),
        (field("name").contains("é"), False),
        (field("params.depth").contains("3"), False),
        (field("name").starts("Tra"), True),
        (field("name").starts("tra"), False),
        (field("params.none").starts(""), False),
        (And(()), True),
        (Or(()), False),
        (~(field("name") == "x") & (field("started") <= 2) | (field("pid") > 5), True),
    ],
    ids=str,
)
def test_what_an_expression_means(where: Where, expected: bool) -> None:
    assert matches(RUN, where) is expected
    assert matches(RUN, ~where) is not expected


def test_no_expression_matches_all() -> None:
    assert matches(RUN, None)


@pytest.mark.parametrize(
    "where",
    [field("nothing") == 1, field("params") == {}, field("name.x") == 1, field("ref") == 1, Compare("name", "~", 1),
     field("name").contains(5), field("params.none").starts(None)],  # type: ignore[arg-type]
    ids=str,
)  # fmt: skip
def test_a_question_without_meaning_is_refused(where: Where) -> None:
    with pytest.raises(Invalid):
        matches(RUN, where)
    with pytest.raises(Invalid):
        check_question(Run, Or((And(()), Not(where))))


def test_an_order_without_meaning_is_refused() -> None:
    check_question(Run, None, ["-metrics.auc", "key"])
    with pytest.raises(Invalid):
        check_question(Run, None, ["-metrics"])


@given(scalars, scalars)
def test_exactly_one_order_holds_between_values_that_compare(a: Any, b: Any) -> None:
    run = Run(id="r", name="x", started=0.0, params={"a": a})
    holds = [matches(run, Compare("params.a", op, b)) for op in ("<", "=", ">")]
    first, second = plain(a), plain(b)
    comparable = first is not None and second is not None and isinstance(first, str) == isinstance(second, str)
    assert sum(holds) == 1 if comparable else holds == [False, first is None and second is None, False]
    assert matches(run, Compare("params.a", "!=", b)) is not holds[1]
    assert matches(run, Compare("params.a", "<=", b)) is (comparable and (holds[0] or holds[1]))
    assert matches(run, Compare("params.a", ">=", b)) is (comparable and (holds[2] or holds[1]))
    assert matches(run, field("params.a").within([b])) is holds[1]


@given(scalars)
def test_plain_values_stay_as_they_are(value: Any) -> None:
    once = plain(value)
    assert type(once) in (type(None), int, float, str)
    assert plain(once) == once


def test_numbers_beyond_64_bits_count_as_floats() -> None:
    assert plain(2**63) == 2.0**63
    assert isinstance(plain(2**63), float)
    assert plain(10**400) == math.inf
    assert plain(-(10**400)) == -math.inf


def test_an_order_puts_numbers_before_texts_and_none_last() -> None:
    values = {"a": "x", "b": 2, "c": None, "d": 1.5, "e": "A", "f": True}
    runs = [Run(id=k, name="same", started=0.0, params={"v": v}) for k, v in values.items()]
    assert [r.id for r in arranged(runs, ["params.v"])] == ["f", "d", "b", "e", "a", "c"]
    assert [r.id for r in arranged(runs, ["-params.v"])] == ["a", "e", "b", "d", "f", "c"]
    assert [r.id for r in arranged(runs[::-1], ["-name"])] == list("abcdef")


@given(st.lists(st.tuples(scalars, scalars), max_size=8), st.sampled_from(["", "-"]), st.sampled_from(["", "-"]))
def test_the_first_of_an_order_leads_and_the_key_breaks_ties(rows: list[Any], one: str, two: str) -> None:
    runs = [Run(id=f"{i}", name="x", started=0.0, params={"a": a, "b": b}) for i, (a, b) in enumerate(rows)]
    by_both = arranged(runs, [f"{one}params.a", f"{two}params.b"])
    by_first = arranged(runs, [f"{one}params.a"])
    assert [plain(value_at(r, "params.a")) for r in by_both] == [plain(value_at(r, "params.a")) for r in by_first]
    for a, b in itertools.pairwise(by_first):
        if plain(value_at(a, "params.a")) == plain(value_at(b, "params.a")):
            assert a.key < b.key


def test_an_optional_field_is_a_value_like_any() -> None:
    verdict = Verdict(id="v", subject="s", check="c", status="pass")
    assert matches(verdict, field("score") == None)  # noqa: E711
    assert not matches(verdict, field("score") < 1)
