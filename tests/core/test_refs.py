import itertools
import os
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boucle.core import refs
from boucle.core.errors import Invalid
from boucle.core.refs import KINDS, NAME, Ref, check_name, id_time, new_id, parse_time

names = st.from_regex(NAME, fullmatch=True)
versions = st.one_of(
    st.just(""),
    st.integers(1, 10**6).map(str),
    st.sampled_from(["latest", "production", "sha1f3a", "{2026-11-01}", "{2026-11-01T09:30}", "{2 hours ago}"]),
)
NOW = 1_780_000_000.0


@given(st.sampled_from(KINDS), names, versions)
def test_a_reference_reads_back_as_it_is_written(kind: str, name: str, version: str) -> None:
    ref = Ref(kind, name, version)
    assert Ref.parse(str(ref)) == ref
    assert Ref.parse(str(ref), kind) == ref
    assert Ref.parse(str(ref).partition(":")[2], kind) == ref


@given(st.text(max_size=20))
def test_any_text_is_a_reference_or_is_refused(text: str) -> None:
    try:
        ref = Ref.parse(text, "dataset")
    except Invalid as error:
        assert str(error)
    else:
        assert Ref.parse(str(ref)) == ref


@pytest.mark.parametrize(
    "text", ["tx", "nothing:tx", "dataset:", "dataset:tx@", "dataset:a b", "dataset:../x", ":", "", "dataset:tx/y@1"]
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        Ref.parse(text)


def test_the_kind_asked_for_is_the_only_one_accepted() -> None:
    with pytest.raises(Invalid, match="does not refer to a model"):
        Ref.parse("dataset:tx@1", "model")


def test_versions_say_what_they_are() -> None:
    ref = Ref("model", "churn")
    assert ref.at(3).number == 3
    assert ref.at("latest").number is None
    assert ref.at("٣").number is None
    assert ref.at("sha1f3a").digest == "1f3a"
    assert ref.at("sha1f3").digest is None
    assert ref.at("shaXYZW").digest is None
    assert ref.at("{1970-01-02}").moment() == 86400
    assert ref.at("3").moment() is None
    assert ref.at("{2 hours ago}").moment(NOW) == NOW - 7200
    assert str(ref.at(3)) == "model:churn@3"


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "9", "a" * 128])
def test_a_usable_name(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "-a", ".a", "a b", "a/b", "a@b", "a:b", "é", "a\n", "a" * 129, "..", None, 5])
def test_an_unusable_name_gets_a_suggestion_that_is_usable(name: object) -> None:
    with pytest.raises(Invalid) as caught:
        check_name(name)  # type: ignore[arg-type]
    assert check_name(caught.value.fix.split("'")[1])


@given(st.text())
def test_every_suggestion_is_usable(name: str) -> None:
    try:
        check_name(name)
    except Invalid as error:
        check_name(error.fix.removeprefix("use for example ").strip("'\""))


def test_times() -> None:
    day = 86400
    midnight = NOW // day * day
    assert parse_time("now", NOW) == NOW
    assert parse_time("today", NOW) == midnight
    assert parse_time("yesterday", NOW) == midnight  # as it stood when yesterday ended
    assert parse_time(" 3 Days ago ", NOW) == NOW - 3 * day
    assert parse_time("1 week ago", NOW) == NOW - 7 * day
    assert parse_time("1970-01-01T01:00+01:00") == 0
    assert parse_time("1970-01-01T00:00:01Z") == 1


@pytest.mark.parametrize(
    "text", ["", "soon", "2026-13-01", "3 years ago", "99999999999999 days ago", "9999999 weeks ago"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        parse_time(text)


def test_ids_strictly_increase() -> None:
    ids = [new_id() for _ in range(5000)]
    assert all(a < b for a, b in itertools.pairwise(ids))
    assert {len(i) for i in ids} == {26}


def test_ids_of_threads_differ() -> None:
    made: list[list[str]] = []

    def work() -> None:
        made.append([new_id() for _ in range(500)])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({i for some in made for i in some}) == 2000
    assert all(some == sorted(some) for some in made)


@pytest.fixture
def own_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """A generator of the test's own: one that has seen a wrong clock would give wrong ids to every later test."""
    monkeypatch.setattr(refs, "_ids", type(refs._ids)())


@pytest.mark.usefixtures("own_ids")
def test_ids_go_on_when_the_clock_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = new_id()
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000_000)
    assert new_id() > before


@pytest.mark.usefixtures("own_ids")
def test_a_forked_child_does_not_repeat_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 10**19)  # one moment for all
    new_id()
    mine = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: mine + 1)
    child = new_id()
    monkeypatch.setattr(os, "getpid", lambda: mine)
    assert new_id()[10:] != child[10:]
    assert new_id()[:10] == child[:10]


def test_an_id_tells_its_time() -> None:
    assert id_time("01ARZ3NDEKTSV4RRFFQ69G5FAV") == 1469922850.259  # the example of the specification
    assert id_time("01arz3ndektsv4rrffq69g5fav") == 1469922850.259


@pytest.mark.parametrize(
    "text", ["", "01ARZ", "01ARZ3NDEKTSV4RRFFQ69G5FA!", "I" * 26, "8" + "0" * 25, "0" * 27, "\u0131" * 26]
)
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        id_time(text)
