"""Arrays as tables."""

import gzip
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from boucle.core.errors import BoucleError, Invalid, NotFound
from boucle.plugins.sources.arrays import ArraysSource


def read(path, **options):
    return ArraysSource().read(str(path), options).frame.table()


def idx(array, code):
    return b"\0\0" + bytes([code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def same(column, array):
    return np.array_equal(np.array(column.to_pylist()).reshape(array.shape), array)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    array=hnp.arrays(st.sampled_from(["u1", "i2", ">i4", "?", "f4"]), hnp.array_shapes(max_dims=3, max_side=5)).filter(
        lambda a: a.dtype.kind != "f" or not np.isnan(a).any()
    )
)
def test_npy_gives_back_what_was_saved(tmp_path, array):
    np.save(tmp_path / "x.npy", array)
    table = read(tmp_path / "x.npy")
    assert (table.num_rows, table.column_names) == (len(array), ["value"])
    assert same(table["value"], array)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_has_a_column_for_each_array(tmp_path, save):
    x, y = np.arange(12.0).reshape(3, 2, 2), np.array(["a", "b", "c"])
    save(tmp_path / "x.npz", x=x, y=y, other=np.arange(5))
    with pytest.raises(Invalid, match="different lengths: x 3, y 3, other 5"):
        read(tmp_path / "x.npz")
    reading = ArraysSource().read(str(tmp_path / "x.npz"), {"arrays": "y,x"})
    assert (reading.frame.columns, reading.found) == (("y", "x"), {"shape": {"x": "2x2"}})
    assert reading.frame.table(["y"]).to_pylist() == [{"y": "a"}, {"y": "b"}, {"y": "c"}]
    assert same(reading.frame.table()["x"], x)
    with pytest.raises(NotFound, match="'z'"):
        read(tmp_path / "x.npz", arrays=["z"])


@pytest.mark.parametrize(("code", "dtype"), [(8, "u1"), (9, "i1"), (11, ">i2"), (12, ">i4"), (13, ">f4"), (14, ">f8")])
def test_idx(tmp_path, code, dtype):
    array = np.arange(24, dtype=dtype).reshape(4, 3, 2)
    (tmp_path / "x-idx3-ubyte.gz").write_bytes(gzip.compress(idx(array, code)))
    assert same(read(tmp_path / "x-idx3-ubyte.gz")["value"], array)


def test_objects_are_never_unpickled(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(Invalid, match="holds object"):
        read(tmp_path / "x.npy")


def test_what_declares_too_much(tmp_path):
    (tmp_path / "x.idx").write_bytes(b"\0\0\x08\x02" + struct.pack(">II", 1 << 31, 1 << 31))
    with pytest.raises(Invalid, match="declares to hold"):
        read(tmp_path / "x.idx")


@pytest.mark.parametrize("cut", [-1, 1])
def test_a_wrong_length(tmp_path, cut):
    content = idx(np.arange(9, dtype="u1"), 8)
    (tmp_path / "x.idx").write_bytes(content[:cut] if cut < 0 else content + b"!")
    with pytest.raises(Invalid, match="not a whole file of arrays"):
        read(tmp_path / "x.idx")


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["npy", "npz", "idx"]),
    edits=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=5),
    cut=st.integers(0, 400),
)
def test_damage_is_told(tmp_path, kind, edits, cut):
    path, array = tmp_path / f"x.{kind}", np.arange(20, dtype="u1").reshape(5, 4)
    {"npy": np.save, "npz": np.savez}.get(kind, lambda p, a: p.write_bytes(idx(a, 8)))(path, array)
    content = bytearray(path.read_bytes())
    for at, value in edits:
        content[at % len(content)] = value
    path.write_bytes(content[: len(content) - cut % len(content)])
    try:
        read(path, largest=1 << 20)
    except BoucleError as error:
        assert isinstance(error, Invalid)
