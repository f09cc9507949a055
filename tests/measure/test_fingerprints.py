"""Fingerprints: equal exactly where values are."""

import datetime as dt
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boucle.measure.fingerprints import of_rows, of_values

DAY = dt.datetime(2026, 3, 1)
TOKYO = dt.datetime(2026, 3, 1, 9, tzinfo=dt.timezone(dt.timedelta(hours=9)))


def first(values, kind):
    return tuple(of_values(pa.array(values, kind))[:, 0].tolist())


SAME = [
    [([1], pa.int8()), ([1], pa.uint64()), ([1.0], pa.float16()), ([1.0], pa.float64()), ([Decimal("1.00")], pa.decimal128(9, 2)),
     ([Decimal(1)], pa.decimal256(50, 0))],
    [([2**53 + 2], pa.int64()), ([2.0**53 + 2], pa.float64()), ([Decimal(2**53 + 2)], pa.decimal128(38, 0))],
    [([2**53 + 1], pa.int64()), ([Decimal(2**53 + 1)], pa.decimal128(38, 3))],
    [([2**63], pa.uint64()), ([2.0**63], pa.float64())],
    [([2**64 - 1], pa.uint64()), ([Decimal(2**64 - 1)], pa.decimal128(38, 1))],
    [([-(2**63)], pa.int64()), ([-(2.0**63)], pa.float64())],
    [([float("nan")], pa.float64()), ([float("nan")], pa.float32())],
    [([-0.0], pa.float64()), ([-0.0], pa.float32())],
    [([0], pa.int64()), ([0.0], pa.float64())],
    [([None], pa.int64()), ([None], pa.string()), ([None], pa.list_(pa.int8())), ([None], pa.null()), ([None], pa.decimal128(9))],
    [([Decimal("0.1")], pa.decimal128(9, 1)), ([Decimal("0.100")], pa.decimal256(60, 3))],
    [([0.1], pa.float64())],
    [([DAY.date()], pa.date32()), ([DAY.date()], pa.date64()), ([DAY], pa.timestamp("s")), ([DAY], pa.timestamp("ns"))],
    [([TOKYO], pa.timestamp("us", "UTC")), ([TOKYO], pa.timestamp("ms", "Asia/Tokyo"))],
    [([DAY.replace(microsecond=1)], pa.timestamp("us")), ([DAY.replace(microsecond=1)], pa.timestamp("ns"))],
    [([dt.timedelta(seconds=1)], pa.duration("s")), ([dt.timedelta(seconds=1)], pa.duration("us"))],
    [([dt.time(1)], pa.time32("s")), ([dt.time(1)], pa.time64("ns"))],
    [(["1"], pa.string()), (["1"], pa.large_string()), (["1"], pa.string_view()), (["1"], pa.dictionary(pa.int8(), pa.string()))],
    [([b"1"], pa.binary()), ([b"1"], pa.binary(1))],
    [([""], pa.string())],
    [([b""], pa.binary())],
    [([True], pa.bool_())],
    [([[]], pa.list_(pa.int64())), ([[]], pa.large_list(pa.string()))],
    [([[1, None]], pa.list_(pa.int64())), ([[1.0, None]], pa.list_(pa.float32(), 2))],
    [([[None, 1]], pa.list_(pa.int64()))],
    [([{"a": 1}], pa.struct([("a", pa.int64())]))],
    [([{"b": 1}], pa.struct([("b", pa.int64())]))],
    [([{"a": None}], pa.struct([("a", pa.int64())]))],
    [(["x" * 257], pa.string())],
    [(["x" * 256 + "y"], pa.string())],
]  # fmt: skip


def test_equal_values_and_no_others_have_equal_fingerprints():
    groups = [{first(*one) for one in group} for group in SAME]
    assert [len(g) for g in groups] == [1] * len(SAME)
    assert len(set.union(*groups)) == len(SAME)


@given(st.lists(st.none() | st.text(max_size=20) | st.text("ab", min_size=250, max_size=300), max_size=20), st.data())
def test_of_a_slice_they_are_a_slice(values, data):
    for array in (
        pa.array(values, pa.string()),
        pa.array([None if v is None else [v, v] for v in values], pa.list_(pa.string())),
    ):
        whole = of_values(array)
        start = data.draw(st.integers(0, len(values)))
        assert (of_values(array.slice(start)) == whole[:, start:]).all()
        lanes = list(map(tuple, whole.T.tolist()))
        assert [lanes.index(lane) for lane in lanes] == [values.index(v) for v in values]


@pytest.mark.parametrize("kind", [pa.int64(), pa.float32(), pa.bool_(), pa.timestamp("us", "UTC"), pa.decimal128(9, 2)])
def test_all_null_and_empty(kind):
    assert len(set(map(tuple, of_values(pa.nulls(3, kind)).T.tolist()))) == 1
    assert of_values(pa.array([], kind)).shape == (2, 0)


def test_a_row_is_its_values_in_their_order():
    a, b = of_values(pa.array([1, 2])), of_values(pa.array([2, 1]))
    ab, ba = of_rows([a, b], 2), of_rows([b, a], 2)
    assert (ab[:, 0] == ba[:, 1]).all()
    assert (ab != ba).all()
    assert of_rows([], 3).shape == (2, 3)


def test_a_million_different_rows_have_different_fingerprints():
    numbers = np.arange(1 << 20)
    rows = of_rows([of_values(pa.array(numbers % 1024)), of_values(pa.array(numbers // 1024))], len(numbers))
    for lane in rows:
        assert len(np.unique(lane)) == len(numbers)
