"""Profiles: exact where they say so, close where they estimate, the same however the table was cut."""

import json
import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boucle.core.errors import Invalid, NotFound
from boucle.core.frames import Frame
from boucle.measure.quality import Profile, Profiler, observed, profile

NUMBERS = st.lists(st.none() | st.floats(-1e6, 1e6), min_size=1, max_size=60)


@settings(deadline=None)
@given(values=NUMBERS)
def test_small_tables_are_described_exactly(values):
    got = profile(Frame.of(pa.table({"x": pa.array(values, pa.float64())})))["x"]
    wanted = pd.Series(values, dtype=float)
    assert (got.nulls, got.present) == (int(wanted.isna().sum()), int(wanted.count()))
    assert got.distinct == len({v + 0.0 for v in values if v is not None})
    if wanted.count():
        assert got.mean == pytest.approx(wanted.mean(), abs=1e-6)
        assert (got.min, got.max) == (wanted.min(), wanted.max())
        assert got.quantiles["0.5"] == pytest.approx(wanted.median())
    if wanted.count() > 1:
        assert got.std == pytest.approx(wanted.std(), abs=1e-6)


@settings(deadline=None)
@given(values=NUMBERS, cut=st.integers(0, 60))
def test_merging_is_the_same_as_seeing_all(values, cut):
    table = pa.table({"x": pa.array(values, pa.float64()), "w": [str(v)[:2] for v in values]})
    first, second = Profiler(1), Profiler(2)
    for profiler, part in ((first, table.slice(0, cut)), (second, table.slice(cut))):
        for batch in part.to_batches():
            profiler.update(batch)
    first.merge(second)
    got, whole = first.result(), profile(Frame.of(table))
    assert got.rows == whole.rows
    for a, b in zip(got.columns, whole.columns, strict=True):
        assert (a.nulls, a.distinct, a.min, a.max, a.top) == (b.nulls, b.distinct, b.min, b.max, b.top)
        assert a.mean == (None if b.mean is None else pytest.approx(b.mean, abs=1e-6))
        assert a.quantiles == pytest.approx(b.quantiles)


def test_large_tables_are_described_closely():
    rng = np.random.default_rng(7)
    n = 200_000
    table = {
        "x": rng.normal(size=n),
        "i": rng.integers(0, 50_000, n),
        "k": rng.choice(["a", "b", "c"], n, p=[0.7, 0.2, 0.1]),
    }
    got = profile(Frame.of(table))
    assert not got["x"].distinct_exact
    assert got["x"].distinct == pytest.approx(n, rel=0.15)
    assert got["i"].distinct == pytest.approx(len(np.unique(table["i"])), rel=0.15)
    assert got["x"].mean == pytest.approx(table["x"].mean(), abs=1e-12)
    for q, value in got["x"].quantiles.items():
        assert (table["x"] < value).mean() == pytest.approx(float(q), abs=0.025)
    assert got["k"].top == [[v, int((table["k"] == v).sum())] for v in "abc"]
    assert got["k"].top_exact
    assert sum(got["x"].histogram["shares"]) == pytest.approx(1)


def test_frequent_values_among_many():
    values = [i if i % 3 else 7 for i in range(150_000)]
    got = profile(Frame.of({"i": values}))["i"]
    assert not got.top_exact
    assert got.top[0][0] == 7
    assert got.top[0][1] == pytest.approx(50_000, rel=0.02)


def test_stable_far_from_zero():
    values = 1e9 + np.arange(1000) / 1000
    assert profile(Frame.of({"x": values}))["x"].std == pytest.approx(values.std(ddof=1), rel=1e-6)


def test_kinds_of_columns():
    times = pd.to_datetime(["2026-01-01", "2026-01-03", None])
    got = profile(Frame.of(pd.DataFrame({
        "t": times, "w": ["a", "bbb", None], "b": [True, False, True], "n": [None] * 3, "f": [1.0, math.inf, 3.0],
    })))  # fmt: skip
    assert (got["t"].min, got["t"].max) == ("2026-01-01T00:00:00", "2026-01-03T00:00:00")
    assert got["t"].quantiles["0.5"] == pytest.approx(pd.Timestamp("2026-01-02").timestamp())
    assert (got["w"].min, got["w"].max, got["w"].mean, got["w"].nulls) == (1, 3, 2.0, 1)
    assert got["b"].top == [[True, 2], [False, 1]]
    assert (got["n"].nulls, got["n"].distinct, got["n"].mean) == (3, 0, None)
    assert (got["f"].mean, got["f"].max) == (2.0, None)
    with pytest.raises(NotFound, match="'zz'"):
        got["zz"]


def test_nan_is_counted_apart():
    got = profile(Frame.of(pa.table({"x": pa.array([1.0, math.nan, None])})))["x"]
    assert (got.nulls, got.nan, got.mean) == (1, 1, 1.0)


def test_other_types_do_not_stop_it():
    table = pa.table({
        "d": pa.array([1, None]).cast(pa.decimal128(30, 2)), "l": [[1], None], "s": [{"x": 1}, {"x": 2}],
        "y": [b"\x00", b"\xff"], "u": pa.array([2**64 - 1, 0], pa.uint64()), "c": pa.array(["a",
        "b"]).dictionary_encode(),
        "z": pa.array([1, 2], pa.timestamp("ns", "UTC")), "m": pa.array([1, 2], pa.time32("s")),
        "dur": pa.array([1, 2], pa.duration("s")),
    })  # fmt: skip
    got = profile(Frame.of(table))
    assert [c.distinct for c in got.columns] == [1, 1, 2, 2, 2, 2, 2, 2, 2]
    assert got["u"].max == 2**64 - 1
    assert Profile.from_json(json.loads(json.dumps(got.to_json(), allow_nan=False))) == got


def test_observed_while_read():
    profiler = Profiler()
    frame = observed(Frame.of({"a": [1, 2], "b": [3, 4]}), profiler)
    for _ in range(2):
        assert frame.table().num_rows == 2
    frame.table(["a"])
    assert profiler.result() == profile(Frame.of({"a": [1, 2], "b": [3, 4]}))


def test_only_the_same_columns_go_together():
    profiler, other = Profiler(), Profiler(1)
    profiler.update(pa.RecordBatch.from_pydict({"a": [1]}))
    other.update(pa.RecordBatch.from_pydict({"b": [1]}))
    with pytest.raises(Invalid, match="other columns"):
        profiler.update(pa.RecordBatch.from_pydict({"b": [1]}))
    with pytest.raises(Invalid, match="different columns"):
        profiler.merge(other)


def test_memory_stays_bounded():
    profiler = Profiler()
    for i in range(40):
        profiler.update(pa.RecordBatch.from_pydict({"i": np.arange(i * 5000, (i + 1) * 5000)}))
    column = profiler._columns[0]
    assert len(profiler._priorities) == len(profiler._sample[0]) == 8192
    assert len(column.hashes) <= 1024
    assert len(column.counts) <= 4 * 1024
