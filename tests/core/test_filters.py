"""Filters: what can be read, what it means, and that no part is dropped in which a row matches."""

from __future__ import annotations

import contextlib
import datetime as dt
import decimal
import math

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boucle.core import filters
from boucle.core.errors import Invalid
from boucle.core.frames import Frame, schema_of
from boucle.core.scan import Held
from boucle.core.where import And, Compare, Not, Or, Where, _compare, field, plain


@pytest.mark.parametrize(("text", "expected"), [
    ("amount>10", field("amount") > 10),
    ("amount >= -1.5e3", field("amount") >= -1500.0),
    ("amount <> 3", field("amount") != 3),
    ("a == 1", field("a") == 1),
    ("country in ('FR','DE')", field("country").within(["FR", "DE"])),
    ("a=1 and b=2 or not c=3", Or((And((field("a") == 1, field("b") == 2)), ~(field("c") == 3)))),
    ("a=1 and (b=2 or c=3)", And((field("a") == 1, Or((field("b") == 2, field("c") == 3))))),
    ("NOT (a=1)", ~(field("a") == 1)),
    ("a is null", field("a") == None),  # noqa: E711
    ("a is not null", field("a") != None),  # noqa: E711
    ("a not in (1, null)", ~field("a").within([1, None])),
    ("a between 1 and 2 and b = 3", And((And((field("a") >= 1, field("a") <= 2)), field("b") == 3))),
    ("a ~ 'x' and b starts 'y'", And((field("a").contains("x"), field("b").starts("y")))),
    ("name = 'O''Brien'", field("name") == "O'Brien"),
    ('"a ""b"" and" = true', field('a "b" and') == True),  # noqa: E712
    ("day >= 2026-11-01", field("day") >= "2026-11-01"),
    ("at < 2026-11-01T09:30:00.5+02:00", field("at") < "2026-11-01T09:30:00.5+02:00"),
    ("größe > 1", field("größe") > 1),
    ("a.b = 'and'", field("a.b") == "and"),
])  # fmt: skip
def test_what_can_be_read(text: str, expected: Where) -> None:
    assert filters.parse(text) == expected


@pytest.mark.parametrize(("text", "place"), [
    ("", "it ends at character 1"), ("a >", "it ends at character 4"), ("a > 1 b", "'b' stands at character 7"),
    ("a > b", "single quotes"),
    ('a = "FR"', "single quotes"), ("a in ()", "a value"), ("a in (1", "')'"), ("(a = 1", "')'"),
    ("a = 'x", "at character 5"), ("a = 1)", "')'"),
    ("a like 'x'", "'like'"), ("and", "it ends"), ("a is 3", "'null'"), ("a between 1, 2", "'and'"),
    ("a; drop table", "at character 2"), ("1 = 1", "name"),
    ("a = 1.2.3", "character"), ("a not = 3", "in, between"), ("a=1 and", "it ends"), ("__import__('os')", "'('"),
    ("a = 5x", "character"),
])  # fmt: skip
def test_what_cannot(text: str, place: str) -> None:
    with pytest.raises(Invalid) as caught:
        filters.parse(text)
    assert place in str(caught.value)


def test_hostile_texts_end_soon() -> None:
    for text in (
        "(" * 10_000,
        "not " * 4000 + "a=1",
        "a" * 30_000,
        "a=1 and " * 2000,
        "'" * 9999,
        "-" * 9999,
        '"' * 9999,
        "1" * 15_000,
    ):
        with pytest.raises(Invalid):
            filters.parse(text)
    assert len(filters.columns(filters.parse(" or ".join(f"a = {i}" for i in range(1000))))) == 1


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(Invalid):
        filters.parse(text)


TABLE = pa.table({
    "i": pa.array([1, None, 3], pa.int64()), "small": pa.array([1, -128, None], pa.int8()),
    "u": pa.array([0, 2**64 - 1, None], pa.uint64()),
    "f": pa.array([1.5, math.nan, None]), "f32": pa.array([0.1, 2.0, None], pa.float32()),
    "h": pa.array([1.5, 2, None], pa.float16()),
    "s": ["Lyon", "", None], "d": pa.array(["Lyon", "x", None]).dictionary_encode(),
    "v": pa.array(["Lyon", "x", None], pa.string_view()),
    "b": [True, False, None], "day": [dt.date(2026, 1, 1), dt.date(2026, 1, 2), None],
    "at": pa.array([dt.datetime(2026, 1, 1, 12), dt.datetime(2026, 1, 1, 13), None], pa.timestamp("s")),
    "tz": pa.array([dt.datetime(2026, 1, 1, 12), dt.datetime(2026, 1, 1, 13), None], pa.timestamp("ns", "Europe/Paris")),
    "x": pa.array([decimal.Decimal("1.25"), decimal.Decimal(2), None], pa.decimal128(9, 2)),
    "t": pa.array([dt.time(9, 30), dt.time(10), None], pa.time32("s")),
    "l": [[1], [2], None], "n": pa.nulls(3),
})  # fmt: skip


@pytest.mark.parametrize(("text", "rows"), [
    ("i > 1", [2]), ("i >= 1.5", [2]), ("i > 0.5", [0, 2]), ("i = 1.0", [0]), ("i = 1.5", []),
    ("i != 1.5", [0, 1, 2]), ("i != 1", [1, 2]), ("not i = 1", [1, 2]),
    ("i is null", [1]), ("i in (3, null)", [1, 2]), ("i < 1e300", [0, 2]), ("i > 99999999999999999999", []),
    ("i in (1, 2.5, 99999999999999999999)", [0]),
    ("small < 1000", [0, 1]), ("small > 1000", []), ("small >= -1000", [0, 1]), ("small = 1000", []),
    ("u > 9223372036854775808", [1]), ("u >= -1", [0, 1]),
    ("f > 1", [0]), ("f is null", [1, 2]), ("f != 1.5", [1, 2]), ("f32 = 0.1", [0]), ("f32 > 0.1", [1]),
    ("h >= 1.5", [0, 1]),
    ("s = 'Lyon'", [0]), ("s < 'M'", [0, 1]), ("s contains 'YO'", [0]), ("s starts 'L'", [0]),
    ("s starts ''", [0, 1]), ("s ~ ''", [0, 1]),
    ("d = 'Lyon'", [0]), ("d in ('x')", [1]), ("v = 'Lyon'", [0]), ("v starts 'L'", [0]), ("v ~ 'LY'", [0]),
    ("d ~ 'ly'", [0]),
    ("b = true", [0]), ("b != true", [1, 2]), ("day > 2026-01-01", [1]), ("day = '2026-01-01'", [0]),
    ("at > 2026-01-01T12:00:00.5", [1]), ("at >= 2026-01-01T13:00:00+01:00", [0, 1]), ("at = 2026-01-01T12:00", [0]),
    ("at < 2026-01-02", [0, 1]),
    ("tz >= 2026-01-01T13:00:00Z", [1]), ("tz >= 2026-01-01T13:00:00", [1]), ("tz > 0001-01-01", [0, 1]),
    ("x > 1.25", [1]), ("x = 1.25", [0]), ("x < 1.254", [0]),
    ("t > '09:30'", [1]), ("t >= '09:30:00.5'", [1]), ("l is not null", [0, 1]), ("n is null", [0, 1, 2]),
])  # fmt: skip
def test_what_it_means(text: str, rows: list[int]) -> None:
    frame = Frame.of(TABLE.append_column("row", pa.array([0, 1, 2])))
    assert frame.where(text).table(["row"])["row"].to_pylist() == rows


@pytest.mark.parametrize("text", [
    "nope = 1", "i = 'x'", "i = true", "s = 1", "s ~ 1", "b = 1", "day = 'x'",
    "at > 5", "x = 'a'", "l = 1", "f starts 'x'", "t > 'noon'", "n > 1",
])  # fmt: skip
def test_what_could_never_match_is_an_error(text: str) -> None:
    with pytest.raises(Invalid):
        Frame.of(TABLE).where(text)


VALUES = {
    "int64": st.integers(-5, 5), "float64": st.sampled_from([-1.5, 0.0, 2.0, math.nan]),
    "string": st.text("abA", max_size=3),
    "bool": st.booleans(),
}  # fmt: skip


@st.composite
def questions(draw: st.DrawFn, kinds: dict[str, str]) -> Where:
    if draw(st.integers(0, 2)) == 0:
        parts = tuple(draw(questions(kinds)) for _ in range(2))
        return draw(st.sampled_from([And(parts), Or(parts), Not(parts[0])]))
    name = draw(st.sampled_from(sorted(kinds)))
    ops = ["=", "!=", "<", "<=", ">", ">=", "in"] + (["contains", "starts"] if kinds[name] == "string" else [])
    op = draw(st.sampled_from(ops))
    one = VALUES[kinds[name]]
    if op in ("contains", "starts"):
        return Compare(name, op, draw(one))
    return Compare(
        name, op, tuple(draw(st.lists(one | st.none(), max_size=3))) if op == "in" else draw(one | st.none())
    )


def meant(row: dict[str, object], where: Where) -> bool:
    match where:
        case And(parts):
            return all(meant(row, p) for p in parts)
        case Or(parts):
            return any(meant(row, p) for p in parts)
        case Not(part):
            return not meant(row, part)
        case Compare(path, op, wanted):
            return _compare(plain(row[path]), op, wanted)


@given(st.data())
def test_it_means_what_the_store_means_and_no_part_is_dropped_in_which_a_row_matches(data: st.DataObject) -> None:
    kinds = {k: k for k in VALUES}
    parts, rows = [], []
    for _ in range(3):
        some = [{k: data.draw(st.none() | VALUES[k]) for k in kinds} for _ in range(data.draw(st.integers(0, 4)))]
        table = pa.table({k: pa.array([r[k] for r in some], getattr(pa, {"bool": "bool_"}.get(k, k))()) for k in kinds})
        ranges = {}
        for k in kinds:
            known = [r[k] for r in some if r[k] is not None and r[k] == r[k]]
            if known:
                ranges[k] = [min(known), max(known)]
        parts.append(Held(table, ranges))
        rows += some
    frame = Frame.of_parts(schema_of(table.schema), parts)
    where = data.draw(questions(kinds))
    found = frame.where(where).table().to_pylist()
    expected = [r for r in rows if meant(r, where)]
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert all(a[k] == b[k] or (a[k] != a[k] and b[k] != b[k]) for k in kinds)


def test_ranges_of_times_that_are_finer_than_ours() -> None:
    where = filters.bound(field("at") > dt.datetime(2026, 1, 1), schema_of(pa.schema([("at", pa.timestamp("ns"))])))
    assert filters.may_match(where, {"at": ["2025-01-01T00:00:00", "2026-01-01T00:00:00.000000500"]})
    assert not filters.may_match(where, {"at": ["2025-01-01T00:00:00", "2025-12-31T00:00:00"]})
    assert filters.may_match(field("s").starts("b"), {"s": ["abc", "bcd"]})
    assert not filters.may_match(field("s").starts("c"), {"s": ["abc", "bcd"]})


@pytest.mark.parametrize("ranges", [{"x": ["a", "b"]}, {"x": [None, {}]}, {"x": [[1], [2]]}, {"x": []}, {"x": 3}])
def test_ranges_that_mean_nothing_skip_nothing(ranges):
    assert filters.may_match(Compare("x", ">", 3), ranges)
