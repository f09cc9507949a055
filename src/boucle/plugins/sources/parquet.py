"""Parquet files, row group by row group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from boucle.core import files
from boucle.core.frames import Frame
from boucle.plugins.sources.columnar import WRONG, batch_rows, damaged, described, fits, known, not_packed
from boucle.ports.source import Reading

_WHAT = "Parquet file"


class ParquetSource:
    """Apache Parquet."""

    name: ClassVar[str] = "parquet"
    suffixes: ClassVar[tuple[str, ...]] = (".parquet", ".pq")
    schemes: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[dict[str, str]] = {
        "largest": "how many bytes the columns may unpack to; without it 1 GiB or 1000 times the file's size",
    }

    def read(self, url: str, options: Mapping[str, Any]) -> Reading:
        """The rows of a file. Raises `NotFound`, or `Invalid` for what is not a whole Parquet file."""
        known(options, self)
        largest = files.largest(options)
        path = files.locate(url)
        not_packed(path, _WHAT)
        with _opened(path) as file:
            try:
                arrow, about = file.schema_arrow, file.metadata
                rows, groups = about.num_rows, about.num_row_groups
                declared = sum(about.row_group(i).total_byte_size for i in range(groups))
            except WRONG as error:
                raise damaged(path, _WHAT, error) from error
        schema = described(path, _WHAT, arrow)
        fits(path, declared, largest)
        size = batch_rows(len(arrow))

        def opener(columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
            return _batches(path, columns, size)

        frame = Frame(schema, opener, rows)
        return Reading(frame, {"row_groups": groups})


def _opened(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True)
    except WRONG as error:
        raise damaged(path, _WHAT, error) from error


def _batches(path: Path, columns: Sequence[str] | None, size: int) -> Iterator[pa.RecordBatch]:
    with _opened(path) as file:
        batches = file.iter_batches(batch_size=size, columns=None if columns is None else list(columns))
        while True:
            try:
                batch = next(batches, None)
                if batch is None:
                    return
                batch.validate(full=True)
            except WRONG as error:
                raise damaged(path, _WHAT, error) from error
            yield batch if columns is None else batch.select(list(columns))
