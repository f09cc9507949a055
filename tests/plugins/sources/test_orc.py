"""ORC files."""

import pyarrow as pa
import pytest
from pyarrow import orc

from boucle.core.errors import Invalid
from boucle.plugins.sources.orc import OrcSource
from boucle.testing.source import SourceContract


class TestContract(SourceContract):
    source = OrcSource

    def write(self, table, folder):
        path = folder / "sample.orc"
        orc.write_table(table, str(path), compression="zstd")
        return path


def test_nested_and_batches(tmp_path):
    table = pa.table({"l": [[1], None, []] * 30_000, "s": [{"a": 1, "b": "x"}] * 90_000})
    path = str(tmp_path / "x.orc")
    orc.write_table(table, path)
    reading = OrcSource().read(path, {})
    assert reading.frame.rows == 90_000
    assert reading.frame.schema["l"].type == "list<int64>"
    assert max(b.num_rows for b in reading.frame.batches()) <= 65_536
    assert reading.frame.table().to_pylist() == table.to_pylist()


def test_a_file_that_only_begins_like_one(tmp_path):
    path = tmp_path / "x.orc"
    path.write_bytes(b"ORC" + bytes(100))
    with pytest.raises(Invalid, match="not a whole ORC file"):
        OrcSource().read(str(path), {})


def test_what_stops_half_way_is_no_end(tmp_path):
    path = tmp_path / "x.orc"
    orc.write_table(pa.table({"n": list(range(300_000))}), str(path), stripe_size=1000, compression="uncompressed")
    reading = OrcSource().read(str(path), {})
    batches = reading.frame.batches()
    assert next(batches).num_rows
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 20_000] = b"\xff" * 20_000
    path.write_bytes(raw)
    with pytest.raises(Invalid, match="not a whole ORC file"):
        OrcSource().read(str(path), {}).frame.table()
