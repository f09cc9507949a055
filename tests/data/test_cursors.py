"""How far a source was read: what comes once, whatever its type."""

from __future__ import annotations

import datetime as dt
import decimal
import math

import numpy as np
import pyarrow as pa
import pytest

from boucle.core.errors import Corrupt, Invalid
from boucle.core.records import Dataset
from boucle.data.cursors import Track
from boucle.data.ingest import ingest
from boucle.ledger import datasets
from boucle.workspace import init


@pytest.fixture
def ws(tmp_path):
    with init(tmp_path / "project", store="memory") as ws:
        yield ws


@pytest.mark.parametrize(
    "values",
    [
        pa.array([10**18 + i for i in range(6)], pa.timestamp("ns")),
        pa.array([10**18 + i for i in range(6)], pa.timestamp("ns", "Europe/Paris")),
        pa.array([2**63 + i for i in range(6)], pa.uint64()),
        pa.array(np.arange(6, dtype=np.float16)),
        pa.array([decimal.Decimal(i) / 8 for i in range(6)], pa.decimal128(12, 3)),
        pa.array([decimal.Decimal(i) for i in range(6)], pa.decimal256(60, 2)),
        pa.array([decimal.Decimal(i) for i in range(6)], pa.decimal64(12, 2)),
        pa.array([dt.date(2026, 1, 1 + i) for i in range(6)]),
        pa.array([f"v{i}" for i in range(6)], pa.string_view()),
        pa.array([f"v{i}" for i in range(6)], pa.large_string()),
        pa.array([f"v{i}" for i in range(6)]).dictionary_encode(),
        pa.array([str(100 + i) for i in range(6)]),
    ],
    ids=lambda v: str(v.type)[:30],
)
def test_each_row_comes_once(ws, values):
    table = pa.table({"at": values})
    for upto in (3, 5, 6, 6):
        found = ingest(ws, table.slice(0, upto), "x", mode="append", cursor="at").dataset
        assert found.rows == upto
    assert datasets.frame(ws, found).table()["at"].to_pylist() == values.to_pylist()


def test_numbers_as_text_are_refused_where_their_order_is_another(ws):
    with pytest.raises(Invalid, match="numbers as text"):
        ingest(ws, {"id": ["8", "9", "10"]}, "x", mode="append", cursor="id")
    ingest(ws, {"id": ["8", "9"]}, "x", mode="append", cursor="id")
    with pytest.raises(Invalid, match="numbers as text"):
        ingest(ws, {"id": ["10"]}, "x", mode="append", cursor="id")
    assert datasets.latest(ws, "x").rows == 2


def test_nan_has_no_place_and_infinity_is_refused(ws):
    ingest(ws, {"x": [1.0, math.nan]}, "x", mode="append", cursor="x")
    assert ingest(ws, {"x": [1.0, math.nan, 2.0]}, "x", mode="append", cursor="x").dataset.rows == 2
    with pytest.raises(Invalid, match="infinite"):
        ingest(ws, {"x": [math.inf]}, "x", mode="append", cursor="x")


@pytest.mark.parametrize("said", [3, {}, {"column": "a", "value": [], "type": "timestamp"}, {"column": "a"}])
def test_a_position_that_cannot_be_read_is_told(said):
    kept = {"cursor": said}
    before = Dataset(name="x", version=1, digest="", manifest="", rows=0, size=0, schema={}, created=0.0, position=kept)
    with pytest.raises(Corrupt, match="cursor"):
        Track.after("a", before, inclusive=False)
