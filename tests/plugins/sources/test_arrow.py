"""Arrow files, streams and Feather."""

import pyarrow as pa
import pyarrow.feather as feather
import pytest

from boucle.core.errors import Invalid
from boucle.plugins.sources.arrow import ArrowSource
from boucle.testing.source import SourceContract


class TestFile(SourceContract):
    source = ArrowSource

    def write(self, table, folder):
        path = folder / "sample.arrow"
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        return path


class TestStream(SourceContract):
    source = ArrowSource

    def write(self, table, folder):
        path = folder / "sample.arrows"
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return path


class TestFeather(SourceContract):
    source = ArrowSource

    def write(self, table, folder):
        path = folder / "sample.feather"
        feather.write_feather(table, str(path), compression="lz4")
        return path


@pytest.mark.parametrize("compression", ["lz4", "zstd", "uncompressed"])
def test_batches_nested_and_dictionaries(tmp_path, compression):
    table = pa.table({"l": [[1], None, []] * 9, "s": [{"a": 1}] * 27, "d": pa.array(["x", None, "y"] * 9)})
    table = table.set_column(2, "d", table["d"].dictionary_encode())
    path = str(tmp_path / "x.feather")
    feather.write_feather(table, path, compression=compression, chunksize=10)
    reading = ArrowSource().read(path, {})
    assert reading.found == {"layout": "file", "batches": 3}
    assert reading.frame.rows == 27
    assert reading.frame.table().to_pylist() == table.to_pylist()


def test_large_batches_are_given_in_pieces(tmp_path):
    path = tmp_path / "x.arrow"
    table = pa.table({"n": list(range(150_000))})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    sizes = [b.num_rows for b in ArrowSource().read(str(path), {}).frame.batches()]
    assert sizes == [65_536, 65_536, 18_928]


def test_a_column_that_declares_to_unpack_to_far_too_much(tmp_path):
    path = tmp_path / "x.feather"
    feather.write_feather(pa.table({"n": list(range(9000))}), str(path), compression="zstd")
    raw = path.read_bytes()
    told = (9000 * 8).to_bytes(8, "little")
    assert raw.count(told) >= 1
    path.write_bytes(raw.replace(told, (1 << 45).to_bytes(8, "little")))
    with pytest.raises(Invalid, match="declares to hold"):
        ArrowSource().read(str(path), {})


def test_rows_that_take_no_bytes(tmp_path):
    path = tmp_path / "x.arrow"
    batch = pa.RecordBatch.from_arrays([pa.nulls(1 << 22)], names=["n"])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    with pytest.raises(Invalid, match="declares 4194304 rows in 0 bytes"):
        ArrowSource().read(str(path), {})


def test_the_first_feather_is_named(tmp_path):
    path = tmp_path / "x.feather"
    path.write_bytes(b"FEA1" + bytes(60))
    with pytest.raises(Invalid, match="version 1"):
        ArrowSource().read(str(path), {})
