"""Hashes of values and rows."""

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from boucle.core.frames import Frame
from boucle.core.hashes import hash_rows, hash_values, repeated

CELL = st.none() | st.integers(-3, 3)


@settings(deadline=None)
@given(rows=st.lists(st.tuples(CELL, st.none() | st.sampled_from(["a", "b", ""])), max_size=30))
def test_equal_rows_and_only_they_have_equal_hashes(rows):
    columns = [pa.array([r[0] for r in rows], pa.int64()), pa.array([r[1] for r in rows], pa.string())]
    hashes = hash_rows(columns).tolist()
    assert len(set(zip(rows, hashes, strict=True))) == len(set(rows)) == len(set(hashes))


@settings(deadline=None)
@given(values=st.lists(st.none() | st.integers(0, 4), max_size=30), size=st.integers(1, 7))
def test_repeated_rows(values, size):
    table = pa.table({"a": pa.array(values, pa.int64())})
    frame = Frame(Frame.of(table).schema, lambda _: iter(table.to_batches(max_chunksize=size)))
    assert repeated(frame, ["a"], skip_nulls=False)[0] == len(values) - len(set(values))
    present = [v for v in values if v is not None]
    assert repeated(frame, ["a"], skip_nulls=True)[0] == len(present) - len(set(present))


def test_encodings_hash_alike():
    plain = pa.array(["x", None, "y"])
    for other in (plain.dictionary_encode(), plain.cast(pa.large_string()), plain.cast(pa.string_view())):
        assert np.array_equal(hash_values(other), hash_values(plain))
    zeros = hash_values(pa.array([0.0, -0.0]))
    assert zeros[0] == zeros[1]
