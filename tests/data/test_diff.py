"""Differences of stored versions, against plain lists and counters."""

from __future__ import annotations

import datetime as dt
import io
import math
from collections import Counter
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from boucle.core.errors import Invalid, NotFound
from boucle.core.frames import Frame
from boucle.core.records import Dataset
from boucle.data import diff as module
from boucle.data.diff import diff
from boucle.data.ingest import ingest
from boucle.ledger import datasets, tables
from boucle.plugins.stores.memory import MemoryStore


class Shelf:
    """Blobs in a dict that count how often they are opened."""

    def __init__(self):
        self.kept, self.opened = {}, 0

    def put(self, data):
        key = blake3(bytes(data)).hexdigest()
        self.kept[key] = bytes(data)
        return key

    def get(self, key):
        return self.kept[key]

    def has(self, key):
        return key in self.kept

    def open(self, key):
        self.opened += 1
        return io.BytesIO(self.kept[key])


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """New workspaces, one for each example."""
    folder = tmp_path_factory.mktemp("diff")

    def new(*versions):
        ws = SimpleNamespace(
            store=MemoryStore(), blobs=Shelf(), actor="ann", root=folder, now=lambda: 0.0, folder=lambda *_: folder
        )
        for i, table in enumerate(versions):
            datasets.commit(ws, "ab"[i], Frame.of(table))
        return ws

    yield new
    assert not list(folder.iterdir()), "temporary files were left"


@pytest.fixture
def small(monkeypatch):
    """Blocks of a few rows, fingerprints matched a few at a time, cells in a file."""
    monkeypatch.setattr(tables, "most_rows", lambda columns: 8)
    monkeypatch.setattr(module, "_TOGETHER", 16)
    monkeypatch.setattr(module, "_HELD", 0)


def compare(make, a, b, key=None, **options):
    return diff(make(a, b), "a@1", "b@1", key, **options)


# --- the oracle -------------------------------------------------------------------------------------------------------


def token(value):
    """A value such that equality is the one that is documented."""
    match value:
        case None:
            return ("null",)
        case bool():
            return ("bool", value)
        case float() if math.isnan(value):
            return ("nan",)
        case float() if math.isinf(value):
            return ("inf", value)
        case float() if value == 0 and math.copysign(1, value) < 0:
            return ("-0",)
        case int() | float() | Decimal():
            return ("number", Fraction(value))
        case dt.datetime() if value.tzinfo:
            return ("instant", value.astimezone(dt.UTC))
        case dt.datetime():
            return ("moment", value)
        case dt.date():
            return ("moment", dt.datetime.combine(value, dt.time()))
        case list():
            return ("list", *map(token, value))
        case dict():
            return ("struct", *((k, token(v)) for k, v in value.items()))
    return (type(value).__name__, value)


def rows_of(table, names):
    return [tuple(token(row[n]) for n in names) for row in table.to_pylist()]


def expected(a, b, key):
    """(removed, added, changed) with the rows of a key, or by position where that fits, or else as a whole; and how."""
    both = Counter(a) & Counter(b)
    gone, fresh = Counter(a) - both, Counter(b) - both
    removed, added = gone.total(), fresh.total()
    if key is not None:
        keys = [Counter(), Counter()]
        for counted, left in zip(keys, (gone, fresh), strict=True):
            for row, count in left.items():
                counted[tuple(row[i] for i in key)] += count
        changed = (keys[0] & keys[1]).total()
        unique = all(n < 2 for counted in keys for n in counted.values())
        return "key", removed - changed, added - changed, changed, unique
    here = sum(x != y for x, y in zip(a, b, strict=False))
    if here + max(0, len(a) - len(b)) == removed:
        return "position", max(0, len(a) - len(b)), max(0, len(b) - len(a)), here, True
    return "rows", removed, added, 0, True


def applied(found, a, names):
    """What becomes of the rows of `a` when the difference happens to them."""
    rows = {i: list(row) for i, row in enumerate(a)}
    for row in found.removed_rows:
        assert [token(row.values[n]) for n in names] == rows.pop(row.number)
    for row in found.changed_rows:
        assert row.cells
        for name, (old, new) in row.cells.items():
            place = names.index(name)
            assert rows[row.numbers[0]][place] == token(old)
            rows[row.numbers[0]][place] = token(new)
    kept = [tuple(r) for _, r in sorted(rows.items())]
    return kept + [tuple(token(r.values[n]) for n in names) for r in found.added_rows]


TEXT = st.sampled_from(["", "a", "b", "ab", "é", "x" * 300, "x" * 299 + "y"])
INT = st.sampled_from([0, 1, 2, -1, 2**53, 2**53 + 1, 2**63 - 1, -(2**63)])
FLOAT = st.sampled_from([0.0, -0.0, 1.0, 0.5, float("nan"), float("inf"), 2.0**53, -1.0])
KINDS = {
    "int": (pa.int64(), INT),
    "small": (pa.int8(), st.integers(-2, 2)),
    "unsigned": (pa.uint64(), st.sampled_from([0, 1, 2**64 - 1, 2**53 + 1])),
    "float": (pa.float64(), FLOAT),
    "half": (pa.float32(), FLOAT),
    "text": (pa.string(), TEXT),
    "bytes": (pa.binary(), st.sampled_from([b"", b"a", b"\0", b"x" * 300])),
    "bool": (pa.bool_(), st.booleans()),
    "date": (pa.date32(), st.sampled_from([dt.date(1969, 12, 31), dt.date(2026, 3, 1)])),
    "time": (pa.timestamp("us"), st.sampled_from([dt.datetime(2026, 3, 1), dt.datetime(1969, 12, 31, 23, 0, 0, 1)])),
    "milli": (pa.timestamp("ms"), st.sampled_from([dt.datetime(2026, 3, 1), dt.datetime(1969, 12, 31, 23, 0, 0)])),
    "zoned": (pa.timestamp("us", "Europe/Paris"), st.sampled_from([dt.datetime(2026, 3, 1, tzinfo=dt.UTC)])),
    "utc": (pa.timestamp("s", "UTC"), st.sampled_from([dt.datetime(2026, 3, 1, tzinfo=dt.UTC)])),
    "decimal": (pa.decimal128(30, 2), st.sampled_from([Decimal("1.00"), Decimal("0.10"), Decimal(2**53 + 1)])),
    "list": (pa.list_(pa.float64()), st.lists(st.none() | FLOAT, max_size=3)),
    "struct": (pa.struct([("x", pa.int64()), ("y", pa.list_(pa.string()))]),
               st.fixed_dictionaries({"x": st.none() | INT, "y": st.none() | st.lists(TEXT, max_size=2)})),
}  # fmt: skip


@st.composite
def pairs(draw):
    """Two tables that have something to do with each other, and a key or none."""
    names = ["id", "b", "c"][: draw(st.integers(1, 3))]
    kinds = [draw(st.sampled_from(list(KINDS))) for _ in names]
    size = draw(st.integers(0, 24))

    def values(kind, count):
        return draw(st.lists(st.none() | KINDS[kind][1], min_size=count, max_size=count))

    columns = [values(kind, size) for kind in kinds]
    if draw(st.booleans()):
        kinds[0], columns[0] = "int", list(range(size))
    rows = list(zip(*columns, strict=True)) if size else []
    fresh = list(zip(*(values(kind, 4) for kind in kinds), strict=True))
    other = list(rows)
    for what in draw(st.lists(st.sampled_from(["edit", "drop", "insert", "append", "shuffle", "double"]), max_size=4)):
        at = draw(st.integers(0, max(0, len(other) - 1)))
        if what == "insert":
            other.insert(at, draw(st.sampled_from(fresh)))
        elif what == "append":
            other += fresh[: draw(st.integers(1, 4))]
        elif what == "shuffle":
            other = draw(st.permutations(other))
        elif other and what == "drop":
            del other[at]
        elif other and what == "double":
            other.append(other[at])
        elif other:
            place = draw(st.integers(0, len(names) - 1))
            row = list(other[at])
            row[place] = draw(st.none() | KINDS[kinds[place]][1])
            other[at] = tuple(row)
    a = table(names, kinds, rows)
    b = table(names, kinds, other)
    wider = {"int8": "float64", "float": "double", "timestamp[ms]": "timestamp[us]", "date32[day]": "timestamp[s]"}
    if draw(st.booleans()):
        for i, field in enumerate(b.schema):
            if str(field.type) in wider:
                b = b.set_column(i, field.name, b[field.name].cast({"double": pa.float64(), "float64": pa.float64(),
                    "timestamp[us]": pa.timestamp("us"), "timestamp[s]": pa.timestamp("s")}[wider[str(field.type)]]))  # fmt: skip
    if draw(st.booleans()):
        b = b.append_column("more", pa.array(range(b.num_rows), pa.int64()))
    key = draw(st.none() | st.lists(st.sampled_from(names), min_size=1, unique=True))
    return a, b, key


def table(names, kinds, rows):
    return pa.table(
        {n: pa.array([r[i] for r in rows], KINDS[k][0]) for i, (n, k) in enumerate(zip(names, kinds, strict=True))}
    )


@settings(max_examples=150)
@given(pairs())
def test_the_difference_is_what_plain_counting_says(make, pair):
    check_pair(make, pair)


@settings(max_examples=150)
@given(pair=pairs())
def test_and_with_blocks_of_a_few_rows(make, pair):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "most_rows", lambda columns: 8)
        patch.setattr(module, "_TOGETHER", 16)
        patch.setattr(module, "_HELD", 0)
        check_pair(make, pair)


def check_pair(make, pair):
    a, b, key = pair
    names = [n for n in a.column_names if n in b.column_names]
    found = compare(make, a, b, key, rows=1000)
    mine, theirs = rows_of(a, names), rows_of(b, names)
    assert found.rows == (len(mine), len(theirs))
    if found.by == "digest":
        assert (mine, found.same) == (theirs, True)
        return
    used = None if found.by != "key" else [names.index(k) for k in found.key]
    assert found.key == tuple(key) if key else found.by == "key" or not found.key
    by, removed, added, changed, unique = expected(mine, theirs, used)
    assert (found.by, found.removed, found.added, found.changed) == (by, removed, added, changed)
    assert found.ambiguous <= changed * (not unique)
    after = applied(found, mine, names)
    if by == "position":
        assert after == theirs
    else:
        assert Counter(after) == Counter(theirs)
    counted = Counter(n for row in found.changed_rows for n in row.cells)
    assert counted == (found.cells or {})
    assert found.reordered == (Counter(mine) == Counter(theirs) and mine != theirs)
    assert found.same == (mine == theirs and not found.schema)
    for row in found.changed_rows:
        assert row.key == {k: row.key[k] for k in found.key}
    back = diff(make(b, a), "a@1", "b@1", key, rows=1000)
    assert (back.by, back.key, back.removed, back.added, back.changed, back.reordered) == (
        found.by, found.key, found.added, found.removed, found.changed, found.reordered,
    )  # fmt: skip
    if not found.ambiguous:
        assert back.cells == found.cells
        assert tokens(back, mirror=True) == tokens(found)


def tokens(found, mirror=False):
    turn = -1 if mirror else 1
    return {
        row.numbers[::turn]: {n: tuple(map(token, cell))[::turn] for n, cell in row.cells.items()}
        for row in found.changed_rows
    }


@settings(max_examples=60)
@given(st.data())
def test_with_blocks_that_have_moved(make, data):
    """Longer tables of rows that repeat, cut and put together again."""
    values = st.lists(st.integers(0, data.draw(st.integers(0, 50))), min_size=20, max_size=80)
    rows = data.draw(values)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=3)))
    parts = [rows[i:j] for i, j in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
    parts.insert(data.draw(st.integers(0, len(parts))), data.draw(st.lists(st.integers(0, 3), max_size=2)))
    other = [v for part in data.draw(st.permutations(parts) | st.just(parts)) for v in part]
    if data.draw(st.booleans()) and other:
        other[data.draw(st.integers(0, len(other) - 1))] = 99
    a, b = (pa.table({"v": pa.array(v, pa.int64()), "w": pa.array(v, pa.int8())}) for v in (rows, other))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "most_rows", lambda columns: 8)
        patch.setattr(module, "_TOGETHER", 16)
        check_pair(make, (a, b, data.draw(st.none() | st.just(["v"]))))


# --- one thing at a time ------------------------------------------------------------------------------------------------

IDS = {"id": [1, 2, 3, 4], "city": ["Lyon", None, "Nice", "Lyon"], "x": [1.0, 2.0, 3.0, 4.0]}


def test_a_key_is_found_and_cells_are_told_by_column(make):
    found = compare(
        make, IDS, {"id": [4, 2, 1, 5], "city": ["Lyon", "Nancy", "Lyon", "Nice"], "x": [4.5, 2.5, 1.0, 0.0]}
    )
    assert (found.by, found.key, found.key_found) == ("key", ("id",), True)
    assert (found.added, found.removed, found.changed, found.cells) == (1, 1, 2, {"city": 1, "x": 2})
    rows = {r.key["id"]: r.cells for r in found.changed_rows}
    assert rows == {2: {"city": (None, "Nancy"), "x": (2.0, 2.5)}, 4: {"x": (4.0, 4.5)}}
    assert [(r.number, r.values["id"]) for r in found.removed_rows + found.added_rows] == [(2, 3), (3, 5)]
    assert not found.same


def test_a_given_key_comes_before_a_found_one(make):
    found = compare(make, IDS, {**IDS, "id": [1, 2, 3, 5]}, "x")
    assert (found.key, found.key_found, found.cells) == (("x",), False, {"id": 1})


def test_without_a_key_it_is_the_place_when_rows_have_kept_theirs(make):
    a, b = {"c": ["a", "b", "b", "a"]}, {"c": ["a", "c", "b", "a", "d"]}
    found = compare(make, a, b)
    assert (found.by, found.changed, found.added, found.removed, found.cells) == ("position", 1, 1, 0, {"c": 1})
    assert found.changed_rows[0].numbers == (1, 1)
    assert not found.appended
    moved = compare(make, a, {"c": ["x", "a", "b", "b", "a"]})
    assert (moved.by, moved.changed, moved.added, moved.removed) == ("rows", 0, 1, 0)


def test_rows_behind_the_last_are_appended(make):
    found = compare(make, {"c": ["a", "b", "b"]}, {"c": ["a", "b", "b", "b"]})
    assert (found.appended, found.added, found.added_rows[0].number) == (True, 1, 3)


def test_another_order_is_a_difference_by_itself(make):
    found = compare(make, IDS, {n: v[::-1] for n, v in IDS.items()})
    assert (found.reordered, found.same, found.added, found.removed, found.changed) == (True, False, 0, 0, 0)


def test_rows_with_the_same_key_go_together_when_equal_then_in_order(make):
    a = {"k": [1, 1, 1, 2], "v": ["p", "q", "r", "s"]}
    b = {"k": [1, 1, 2, 2], "v": ["q", "z", "s", "t"]}
    found = compare(make, a, b, "k")
    assert (found.changed, found.removed, found.added, found.ambiguous) == (1, 1, 1, 1)
    assert found.changed_rows[0].cells == {"v": ("p", "z")}
    assert found.removed_rows[0].values == {"k": 1, "v": "r"}


def test_what_only_looks_like_a_key_is_none(make):
    """Unique as far as is known (the number of distinct values is an estimate), but not where rows differ."""
    a = {"id": list(range(3000)), "v": [0] * 3000}
    b = {"id": [0, 0, 0, *range(3, 3000)], "v": [1, 2, 3, *[0] * 2997]}
    found = compare(make, a, b)
    assert (found.by, found.changed, found.key) == ("position", 3, ())
    assert compare(make, a, b, "id").ambiguous == 1


def test_columns_that_came_went_and_changed(make):
    b = {"id": [1, 2, 3, 4], "x": [1, 2, 3, 5], "new": [0, 0, 0, 0]}
    found = compare(make, IDS, b)
    said = {(c.column, c.what, c.safe) for c in found.schema}
    assert {("city", "removed", False), ("new", "added (int64)", True), ("x", "float64 became int64", False)} == said
    assert (found.changed, found.cells) == (1, {"x": 1})  # 1.0 is 1
    turned = compare(make, {"a": [1], "b": [2]}, {"b": [2], "a": [1]})
    assert [c.column for c in turned.schema] == ["*"]
    assert (turned.added, turned.changed, turned.same) == (0, 0, False)


def test_a_zone_that_a_time_gets_is_told(make):
    moment = dt.datetime(2026, 3, 1)
    a = pa.table({"id": [1, 2], "t": pa.array([moment, None], pa.timestamp("us"))})
    b = pa.table({"id": [1, 2], "t": pa.array([moment, None], pa.timestamp("us", "UTC"))})
    found = compare(make, a, b)
    assert [(c.column, c.what, c.safe) for c in found.schema] == [
        ("t", "timestamp[us] became timestamp[us, tz=UTC]", False)
    ]
    assert found.cells == {"t": 1}
    finer = compare(make, a, a.set_column(1, "t", a["t"].cast(pa.timestamp("ns"))))
    assert ([c.safe for c in finer.schema], finer.cells) == ([True], {})


def test_columns_that_swap_their_names(make, small):
    """Their blocks have the same digests, for those are of values."""
    a = {"x": list(range(40)), "y": list(range(40, 80))}
    found = compare(make, pa.table(a), pa.table([a["x"], a["y"]], ["y", "x"]))
    assert (found.by, found.changed, found.cells) == ("position", 40, {"x": 40, "y": 40})
    assert [c.column for c in found.schema] == ["*"]


def test_blocks_in_another_order(make, small):
    a = pa.table({"id": list(range(400)), "v": [i % 7 for i in range(400)]})
    found = compare(make, a, pa.concat_tables([a.slice(200), a.slice(0, 200)]))
    assert (found.reordered, found.same, found.added, found.removed, found.changed) == (True, False, 0, 0, 0)
    assert found.compared < 100
    ws = make(a)
    sizes = [b["rows"] for b in tables.load_manifest(ws.blobs, datasets.resolve(ws, "a").manifest)["blocks"]]
    whole, first = a.slice(0, sum(sizes[:-1])), sizes[0]  # cut where a block ends, the same blocks come out again
    turned = compare(make, whole, pa.concat_tables([whole.slice(first), whole.slice(0, first)]))
    assert (turned.reordered, turned.same, turned.compared) == (True, False, 0)


def test_no_column_in_common(make):
    found = compare(make, {"a": [1, 2]}, {"b": [1, 2, 3]})
    assert (found.added, found.removed, found.changed) == (3, 2, 0)
    assert found.removed_rows[0].values == {"a": 1}


def test_what_json_would_hide(make):
    nan = float("nan")
    found = compare(make, {"id": [1, 2, 3], "x": [None, nan, 0.0]}, {"id": [1, 2, 3], "x": [nan, nan, -0.0]})
    assert found.cells == {"x": 2}
    rows = found.to_json()["changed_rows"]
    assert [r["cells"]["x"] for r in rows] == [[None, "NaN"], [0.0, -0.0]]
    assert math.copysign(1, rows[1]["cells"]["x"][1]) == -1


def test_times_that_python_cannot_hold(make):
    a = pa.table({"id": [1], "t": pa.array([1], pa.time64("ns"))})
    found = compare(make, a, a.set_column(1, "t", pa.array([2], pa.time64("ns"))))
    assert found.changed_rows[0].cells == {"t": ("00:00:00.000000001", "00:00:00.000000002")}


def test_of_every_column_that_changed_an_example_is_shown(make):
    size = 50
    a = {"id": list(range(size)), "x": [0] * size, "y": [0] * size}
    b = {"id": list(range(size)), "x": [1] * size, "y": [0] * (size - 1) + [1]}
    found = compare(make, a, b, rows=3)
    assert [r.key["id"] for r in found.changed_rows] == [0, 1, 2, 49]
    assert found.cells == {"x": 50, "y": 1}
    none = compare(make, a, b, rows=0)
    assert (none.changed_rows, none.changed) == ((), 50)


def test_statistics_that_moved(make):
    a = {"id": [1, 2, 3, 4], "x": [1.0, 2.0, 3.0, None], "kind": ["a", "a", "b", "b"], "same": [1, 1, 2, 2]}
    found = compare(make, a, {**a, "x": [1.0, 2.0, 6.0, 3.0], "kind": ["a", "a", "c", "c"]})
    moved = {m.column: m for m in found.moved}
    assert set(moved) == {"x", "kind"}
    assert moved["x"].statistics["nulls"] == (0.25, 0.0)
    assert moved["x"].statistics["mean"] == (2.0, 3.0)
    assert (moved["kind"].fresh, moved["kind"].vanished) == (("c",), ("b",))


def test_blocks_that_both_have_are_not_read(make, small):
    a = pa.table({"id": list(range(800)), "v": [i % 7 for i in range(800)]})
    values = a["v"].to_pylist()
    values[400] = 100
    for b, by in (
        (a.set_column(1, "v", pa.array(values)), "changed"),
        (pa.concat_tables([a.slice(0, 400), a.slice(401)]), "removed"),
        (pa.concat_tables([a, pa.table({"id": [9999], "v": [1]})]), "added"),
    ):
        ws = make()
        ingest(ws, a, "a")
        ingest(ws, b, "b")
        ws.blobs.opened = 0
        found = diff(ws, "a", "b")
        assert (getattr(found, by), found.by) == (1, "key")
        assert found.compared <= 80
        assert ws.blobs.opened <= 40


def test_a_table_of_many_blocks_with_scattered_changes(make, small):
    random = np.random.default_rng(0)
    size = 1000
    a = pa.table({"id": random.permutation(size), "v": random.integers(0, 9, size), "w": random.normal(size=size)})
    changed = random.choice(size, 100, replace=False)
    values = a["v"].to_numpy().copy()
    values[changed] += 10
    b = a.set_column(1, "v", pa.array(values)).take(pa.array(random.permutation(size)))
    found = compare(make, a, b, "id", rows=1000)
    assert (found.changed, found.added, found.removed, found.cells) == (100, 0, 0, {"v": 100})
    ids = a["id"].to_numpy()
    assert sorted(r.key["id"] for r in found.changed_rows) == sorted(ids[changed].tolist())
    assert all(new == old + 10 for r in found.changed_rows for old, new in r.cells.values())


def test_same_content_is_told_by_the_digest(make):
    found = compare(make, IDS, IDS, "id")
    assert (found.by, found.same, found.compared) == ("digest", True, 0)


def test_what_cannot_be_compared(make):
    ws = make(IDS, IDS)
    with pytest.raises(NotFound):
        diff(ws, "a@1", "a@2")
    with pytest.raises(Invalid, match="no column named 'idd'"):
        diff(ws, "a", "b", "idd")
    with pytest.raises(Invalid, match="-1 rows"):
        diff(ws, "a", "b", rows=-1)
    ws.store.put(
        Dataset(name="f", version=1, digest="d", manifest="m", rows=0, size=0, schema={}, type="files", created=0.0)
    )
    with pytest.raises(Invalid, match="of type files"):
        diff(ws, "a", "f")
    with pytest.raises(Invalid, match="a key for f@1"):
        diff(ws, "f", "f", "id")
