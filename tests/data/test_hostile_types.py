"""Tables of types and names that are rare: kept as they are, in whatever way they come."""

from __future__ import annotations

import datetime as dt
import decimal
import math

import numpy as np
import pyarrow as pa
import pytest

from boucle.core.errors import Invalid
from boucle.core.frames import Frame, to_rows
from boucle.data.ingest import ingest
from boucle.data.validate import statistics
from boucle.ledger import datasets, tables
from boucle.workspace import init

N = 10
RARE = {
    "dictionary": pa.array([None if i == 3 else "abc"[i % 3] for i in range(N)]).dictionary_encode(),
    "null in dictionary": pa.DictionaryArray.from_arrays(pa.array([0, 1] * 5), pa.array(["a", None])),
    "large string": pa.array([str(i) for i in range(N)], pa.large_string()),
    "string view": pa.array([str(i) * (i + 1) for i in range(N)], pa.string_view()),
    "binary view": pa.array([b"x" * i for i in range(N)], pa.binary_view()),
    "list": pa.array([[i, None] if i % 2 else None for i in range(N)]),
    "list view": pa.array([[i] * i if i % 4 else None for i in range(N)], pa.list_view(pa.int32())),
    "lists of list views": pa.array([[[i]] if i % 4 else None for i in range(N)], pa.list_(pa.list_view(pa.int32()))),
    "fixed list": pa.array([[i, i] if i % 3 else None for i in range(N)], pa.list_(pa.int32(), 2)),
    "struct": pa.array([{"a": i, "b": None} if i % 4 else None for i in range(N)]),
    "map": pa.array([[("k", i)] if i % 3 else None for i in range(N)], pa.map_(pa.string(), pa.int64())),
    "list of maps": pa.array([[[("k", i)]] for i in range(N)], pa.list_(pa.map_(pa.string(), pa.int64()))),
    "decimal32": pa.array([decimal.Decimal(i) / 4 for i in range(N)], pa.decimal32(5, 2)),
    "decimal64": pa.array([decimal.Decimal(i) / 4 for i in range(N)], pa.decimal64(12, 2)),
    "decimal256": pa.array([decimal.Decimal(i) / 4 for i in range(N)], pa.decimal256(60, 2)),
    "nanoseconds": pa.array([10**18 + i for i in range(N)], pa.timestamp("ns", "Europe/Paris")),
    "far time": pa.array([10**13 + i for i in range(N)], pa.timestamp("s")),
    "early time": pa.array([i - 2**62 for i in range(N)], pa.timestamp("us")),
    "far day": pa.array([10**8 + i for i in range(N)], pa.int32()).cast(pa.date32()),
    "duration": pa.array(range(N), pa.duration("ns")),
    "null": pa.nulls(N),
    "float16": pa.array(np.array([math.nan, math.inf] * 5, np.float16)),
    "bytes": pa.array([bytes([i] * 4) for i in range(N)], pa.binary(4)),
    "no bytes": pa.array([b""] * N, pa.binary(0)),
    "runs": pa.RunEndEncodedArray.from_arrays(pa.array([4, 10], pa.int32()), pa.array([1, 2])),
    "uuid": pa.array([bytes([i] * 16) for i in range(N)], pa.uuid()),
    "infinite": pa.array([math.inf, -math.inf] * 5),
}  # fmt: skip


@pytest.fixture
def ws(tmp_path):
    with init(tmp_path / "project", store="memory") as ws:
        yield ws


@pytest.mark.parametrize("values", RARE.values(), ids=RARE)
def test_however_it_comes_it_is_the_same(ws, values):
    table = pa.table({"id": range(N), "x": values})
    whole = tables.write(ws.blobs, Frame.of(table))
    grown = tables.write(ws.blobs, Frame.of(table.slice(0, 4)))
    for part in (table.slice(4, 3), table.slice(7)):
        grown = tables.append(ws.blobs, grown.manifest, Frame.of(part))
    assert grown.digest == whole.digest
    again = tables.read(ws.blobs, grown.manifest).table()
    assert tables.digest(Frame.of(again)) == whole.digest
    assert ingest(ws, table, "one").dataset.digest == whole.digest
    ingest(ws, table.slice(0, 6), "two")
    assert ingest(ws, table.slice(6), "two", mode="append").dataset.digest == whole.digest
    merged = ingest(ws, table.slice(2, 3), "two", mode="merge", key=["id"]).dataset
    assert merged.digest == whole.digest
    assert len(to_rows(again)) == N
    assert statistics(ws, "one").rows == N


@pytest.mark.parametrize("kind", [pa.struct([]), pa.month_day_nano_interval(), pa.list_(pa.struct([]))], ids=str)
def test_what_cannot_be_kept_is_refused(ws, kind):
    with pytest.raises(Invalid, match="cannot be stored"):
        ingest(ws, pa.table({"x": pa.nulls(3, kind)}), "x")
    assert datasets.latest(ws, "x") is None


@pytest.mark.parametrize("flip", [False, True])
def test_a_column_named_as_the_part_of_another(ws, flip):
    table = pa.table({"a": [{"b": 100 + i} for i in range(5)], "a.b": range(5)})
    frame = datasets.frame(ws, ingest(ws, table.select(["a.b", "a"]) if flip else table, "x").dataset)
    assert frame.table(["a.b"])["a.b"].to_pylist() == [0, 1, 2, 3, 4]
    assert frame.where('"a.b" < 3').table().num_rows == 3


@pytest.mark.parametrize("name", ["__row__", "a b", 'a"b', "a'b", "a.b.c", "%", "\n", "list.element", "select", "ä"])
def test_rows_are_merged_by_a_column_of_any_name(ws, name):
    ingest(ws, {name: [1, 2], "v": ["a", "b"]}, "x")
    found = ingest(ws, {name: [2, 3], "v": ["c", "d"]}, "x", mode="merge", key=[name]).dataset
    assert datasets.frame(ws, found).table()["v"].to_pylist() == ["a", "c", "d"]


def test_keys_that_are_lists_are_refused(ws):
    with pytest.raises(Invalid, match="key column"):
        ingest(ws, {"k": [[1], [2]]}, "x", mode="merge", key=["k"])


def test_a_time_finer_than_its_column_equals_nothing(ws):
    moments = pa.array([dt.datetime(2020, 1, 1, tzinfo=dt.UTC)], pa.timestamp("ms", "America/New_York"))
    frame = Frame.of(pa.table({"t": moments}))
    counts = [frame.where(f"t {op} 2020-01-01T00:00:00.0005").table().num_rows for op in ("=", ">=", "<", "!=")]
    assert counts == [0, 0, 1, 1]
