"""Parquet files."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from boucle.core.errors import Invalid
from boucle.plugins.sources.parquet import ParquetSource
from boucle.testing.source import SourceContract


class TestContract(SourceContract):
    source = ParquetSource

    def write(self, table, folder):
        path = folder / "sample.parquet"
        pq.write_table(table, path)
        return path


@pytest.mark.parametrize("kept", [4, 100, -1])
def test_cut_off(tmp_path, kept):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": list(range(1000))}), path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(Invalid, match="not a whole Parquet file"):
        ParquetSource().read(str(path), {})


def test_damage_in_the_middle(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": list(range(1000))}), path, compression="zstd", write_page_checksum=True)
    raw = bytearray(path.read_bytes())
    raw[200] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(Invalid, match="not a whole Parquet file"):
        ParquetSource().read(str(path), {}).frame.table()


def test_names_that_occur_twice(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]), path)
    with pytest.raises(Invalid, match="occur twice"):
        ParquetSource().read(str(path), {})


def test_row_groups_are_read_one_by_one(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": list(range(1000))}), path, row_group_size=300)
    reading = ParquetSource().read(str(path), {})
    assert (reading.found, reading.frame.rows) == ({"row_groups": 4}, 1000)
    assert reading.frame.table()["a"].to_pylist() == list(range(1000))
