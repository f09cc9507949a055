"""The contract of sources: subclass, give `source` and `write`, and run with pytest."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from boucle.core.errors import Invalid, NotFound
from boucle.ports.source import Source

SAMPLE = pa.table({"n": [1, 2, 3], "x": [0.5, None, 2.5], "word": ["a", "b b", "ü"]})


class SourceContract:
    """What every source of files must do."""

    def source(self) -> Source:
        """A new one."""
        raise AssertionError("give the source to test")

    def write(self, table: pa.Table, folder: Path) -> Path:
        """A file of its format, holding the table."""
        raise AssertionError(f"write {table.num_rows} rows into {folder}, in the format of the source")

    def test_names_itself(self) -> None:
        source = self.source()
        assert source.name
        assert all(s.startswith(".") and s == s.lower() for s in source.suffixes)
        assert all(s and "/" not in s and s == s.lower() for s in source.schemes)
        assert all(name and what for name, what in source.options.items())

    def test_gives_the_rows_in_order(self, tmp_path: Path) -> None:
        reading = self.source().read(str(self.write(SAMPLE, tmp_path)), {})
        assert reading.frame.columns == ("n", "x", "word")
        assert reading.frame.table().to_pylist() == SAMPLE.to_pylist()
        assert not reading.bad

    def test_types_and_rows_are_known_before_the_values(self, tmp_path: Path) -> None:
        frame = self.source().read(str(self.write(SAMPLE, tmp_path)), {}).frame
        assert [c.type for c in frame.schema.columns] == ["int64", "float64", "string"]
        assert frame.rows in (None, 3)

    def test_can_be_read_again(self, tmp_path: Path) -> None:
        frame = self.source().read(str(self.write(SAMPLE, tmp_path)), {}).frame
        assert frame.table().equals(frame.table())

    def test_gives_only_the_columns_asked_for(self, tmp_path: Path) -> None:
        frame = self.source().read(str(self.write(SAMPLE, tmp_path)), {}).frame
        assert frame.table(["word", "n"]).to_pylist() == SAMPLE.select(["word", "n"]).to_pylist()
        assert [b.schema.names for b in frame.batches(["x"])] == [["x"]]

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        path = self.write(SAMPLE, tmp_path)
        with pytest.raises(NotFound, match=path.name):
            self.source().read(str(path.with_name("x" + path.name)), {})

    def test_an_empty_file(self, tmp_path: Path) -> None:
        path = self.write(SAMPLE, tmp_path)
        path.write_bytes(b"")
        with pytest.raises(Invalid, match="is empty"):
            self.source().read(str(path), {})

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(Invalid, match="is a folder"):
            self.source().read(str(tmp_path), {})

    def test_bytes_of_something_else(self, tmp_path: Path) -> None:
        path = self.write(SAMPLE, tmp_path)
        path.write_bytes(bytes(range(256)) * 8)
        with pytest.raises(Invalid, match="not "):
            self.source().read(str(path), {})

    def test_an_unknown_option(self, tmp_path: Path) -> None:
        with pytest.raises(Invalid, match="wings"):
            self.source().read(str(self.write(SAMPLE, tmp_path)), {"wings": 2})
