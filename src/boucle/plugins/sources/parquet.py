"""Parquet files, row group by row group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from boucle.core import files
from boucle.core.errors import Invalid
from boucle.core.frames import BATCH_ROWS, Frame, schema_of
from boucle.ports.source import Reading

_CELLS = 1 << 22


class ParquetSource:
    """Apache Parquet."""

    name: ClassVar[str] = "parquet"
    suffixes: ClassVar[tuple[str, ...]] = (".parquet", ".pq")
    schemes: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[dict[str, str]] = {}

    def read(self, url: str, options: Mapping[str, Any]) -> Reading:
        """The rows of a file. Raises `NotFound`, or `Invalid` for what is not a whole Parquet file."""
        if options:
            raise Invalid(f"the parquet source has no option {next(iter(options))!r}", expected="no options")
        path = files.locate(url)
        with _opened(path) as file:
            arrow, rows, groups = file.schema_arrow, file.metadata.num_rows, file.num_row_groups
        twice = [n for n, count in Counter(arrow.names).items() if count > 1]
        if twice:
            raise Invalid(
                f"{path}: column names occur twice: {', '.join(map(repr, twice[:5]))}", expected="distinct column names"
            )
        size = max(256, min(BATCH_ROWS, _CELLS // max(1, len(arrow))))

        def opener(columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
            return _batches(path, columns, size)

        frame = Frame(schema_of(arrow.remove_metadata()), opener, rows)
        return Reading(frame, {"row_groups": groups})


def _opened(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> Invalid:
    return Invalid(
        f"{path} is not a whole Parquet file: {error}",
        expected="a Parquet file as it was written",
        fix="fetch the file again; a file that was cut off has lost the end, where its index stands",
    )


def _batches(path: Path, columns: Sequence[str] | None, size: int) -> Iterator[pa.RecordBatch]:
    with _opened(path) as file:
        try:
            for batch in file.iter_batches(batch_size=size, columns=None if columns is None else list(columns)):
                yield batch if columns is None else batch.select(list(columns))
        except (pa.ArrowInvalid, OSError) as error:
            raise _damaged(path, error) from error
