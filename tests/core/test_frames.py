"""Frames: what becomes one, what one becomes, and the laws of cutting."""

import datetime as dt
import math

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boucle.core import frames
from boucle.core.errors import Invalid
from boucle.core.frames import Frame, arrow_schema, arrow_type, rechunk, to_batch, to_pandas, to_rows, type_name
from boucle.core.schema import SCALARS, Schema

TABLE = pa.table({"a": [1, None], "b": ["x", "y"]})


@pytest.mark.parametrize("data", [
    TABLE, TABLE.to_batches()[0], {"a": [1, None], "b": ["x", "y"]}, [{"a": 1, "b": "x"}, {"b": "y"}],
    pl.DataFrame({"a": [1, None], "b": ["x", "y"]}), pd.DataFrame({"a": pd.array([1, None], "Int64"), "b": ["x", "y"]}),
    Frame.of(TABLE),
])  # fmt: skip
def test_what_becomes_a_frame(data):
    frame = Frame.of(data)
    assert frame.table().to_pylist() == TABLE.to_pylist()
    assert [(c.type, c.nullable) for c in frame.schema.columns] == [("int64", True), ("string", False)]
    assert len(frame) == 2


def test_what_does_not():
    for data, message in [
        (5, "not a table"), ([], "not a table"), ("text", "not a table"), ({"a": [1, "x"]}, "one type"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "occur twice"), (pd.DataFrame({"a": [1, "x"]}), "one type"),
        (pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]), "occur twice"),
    ]:  # fmt: skip
        with pytest.raises(Invalid, match=message):
            Frame.of(data)


def test_columns_rows_and_order():
    frame = Frame.of(TABLE)
    assert frame.select(["b"]).table().column_names == ["b"]
    assert frame.drop("b").columns == ("a",)
    assert frame.take([1, 0, 1]).table()["b"].to_pylist() == ["y", "x", "y"]
    assert frame.head(1).num_rows == 1
    assert frame.table(["b", "a"]).column_names == ["b", "a"]
    with pytest.raises(Invalid, match="no column named 'c'"):
        frame.batches(["c"])


def test_numpy():
    matrix = Frame.of({"a": [1, None], "b": [True, False]}).numpy()
    assert matrix[0].tolist() == [1, 1]
    assert math.isnan(matrix[1, 0])


@given(
    st.recursive(
        st.sampled_from(SCALARS),
        lambda t: st.builds("list<{}>".format, t) | st.builds("struct<x: {}, y: int64>".format, t),
    )
)
def test_type_names_go_both_ways(name):
    assert type_name(arrow_type(name)) == name


def test_unknown_types():
    with pytest.raises(Invalid, match="not a column type"):
        arrow_type("complex")


@given(sizes=st.lists(st.integers(0, 9), max_size=12), rows=st.integers(1, 10))
def test_rechunk(sizes, rows):
    total = sum(sizes)
    whole = pa.RecordBatch.from_pydict({"a": pa.array(range(total), pa.int64())})
    parts, at = [], 0
    for size in sizes:
        parts.append(whole.slice(at, size))
        at += size
    cut = list(rechunk(parts, rows))
    assert [b.num_rows for b in cut] == [rows] * (total // rows) + ([total % rows] if total % rows else [])
    assert [v for b in cut for v in b["a"].to_pylist()] == list(range(total))


CELLS = {
    "bool": st.booleans(), "int64": st.integers(-(2**63), 2**63 - 1), "int8": st.integers(-128, 127),
    "float64": st.floats(allow_nan=False, allow_infinity=False), "string":
    st.text(st.characters(codec="utf-8"), max_size=5),
    "date": st.dates(), "timestamp": st.datetimes(), "binary": st.binary(max_size=5),
}  # fmt: skip


@given(st.data())
def test_rows_come_back_from_json(data):
    kinds = data.draw(st.lists(st.sampled_from(sorted(CELLS)), min_size=1, max_size=4))
    rows = data.draw(st.integers(0, 5))
    columns = {
        f"c{i}": data.draw(st.lists(st.none() | CELLS[k], min_size=rows, max_size=rows)) for i, k in enumerate(kinds)
    }
    schema = Schema.from_json({"columns": [{"name": f"c{i}", "type": k} for i, k in enumerate(kinds)]})
    batch = to_batch(schema, columns)
    assert to_batch(schema, schema.decode(to_rows(batch))).equals(batch)


@given(st.data())
def test_pandas_dtypes_depend_on_types_and_nulls_alone(data):
    kind = data.draw(st.sampled_from(["string", "float64", "float32", "int64", "bool", "date", "timestamp", "decimal"]))
    cells = {**CELLS, "float32": st.just(0.5), "decimal": st.decimals(-99, 99, places=2)}[kind]
    if kind in ("date", "timestamp"):
        cells = cells.filter(lambda v: v.year > 1)
    values = data.draw(st.lists(cells, min_size=1, max_size=4))
    nulls = data.draw(st.booleans())
    array = pa.array([*values, None] if nulls else values, arrow_type(kind))
    got = to_pandas(pa.table({"x": array}))["x"].dtype
    plain = {"string": "object", "date": "datetime64[us]", "timestamp": "datetime64[us]", "decimal": "float64"}.get(
        kind, kind
    )
    assert str(got) == ("float64" if nulls and kind in ("int64", "bool") else plain)
    coded = array.dictionary_encode() if kind == "string" else array
    assert to_pandas(pa.table({"x": coded}))["x"].dtype == got


def test_pandas_of_nulls_and_fine_times():
    frame = to_pandas(pa.table({
        "s": pa.array([None], pa.string()), "n": pa.nulls(1), "t": pa.array([1], pa.timestamp("ns")),
        "z": pa.array([0], pa.timestamp("us", "Europe/Paris")), "l": [[1]],
    }))  # fmt: skip
    assert [str(d) for d in frame.dtypes] == ["object", "float64", "datetime64[us]", "datetime64[us]", "object"]
    assert isinstance(frame["s"][0], float)
    assert frame["z"][0] == pd.Timestamp(0)


def test_rows_are_json():
    assert to_rows(pa.table({"t": [dt.date(2026, 1, 2)], "f": [math.nan], "b": [b"\x00"]})) == [
        {"t": "2026-01-02", "f": None, "b": "AA=="}
    ]


def test_lazy_and_repeatable():
    opened = []

    def opener(columns):
        opened.append(columns)
        return iter(TABLE.to_batches())

    frame = Frame(frames.schema_of(TABLE.schema), opener)
    assert opened == []
    assert len(frame) == len(frame) == 2
    assert [list(c) for c in opened] == [["a"]]  # counting needs no more
    assert frame.polars().shape == (2, 2)
    assert isinstance(frame.numpy(["a"]), np.ndarray)


def test_no_batches():
    empty = Frame(frames.schema_of(TABLE.schema), lambda _: iter(()))
    assert empty.table().schema == arrow_schema(empty.schema)
    assert empty.head().num_rows == 0


@given(st.integers(0, 300), st.integers(0, 120), st.integers(0, 5))
def test_sample_draws_rows_in_order_without_repeating(rows, wanted, seed):
    frame = Frame.of(pa.table({"x": pa.array(range(rows), pa.int64())}))
    drawn = frame.sample(wanted, seed).table().column("x").to_pylist()
    assert len(drawn) == min(rows, wanted)
    assert drawn == sorted(set(drawn))
    assert drawn == frame.sample(wanted, seed).table().column("x").to_pylist()


def test_sample_draws_each_row_about_equally_often():
    frame = Frame.of(pa.table({"x": range(10)}))
    counts = [0] * 10
    for seed in range(400):
        for x in frame.sample(3, seed).table().column("x").to_pylist():
            counts[x] += 1
    assert all(80 < c < 160 for c in counts), counts  # 120 expected, 4 standard deviations about 37
