"""What the sources of columnar and binary files share: options, plain errors, distinct names, batches of bounded size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from boucle.core import files
from boucle.core.errors import Invalid
from boucle.core.frames import BATCH_ROWS, schema_of
from boucle.core.schema import Schema

# What Arrow's readers raise for bytes that are not right; its own errors also inherit other builtins.
WRONG = (pa.ArrowException, OSError, UnicodeError, OverflowError, MemoryError)
_CELLS = 1 << 22
UNPACKED, RATIO = 1 << 30, 1000  # what a file may declare to hold: columns of one value shrink very far


def known(options: Mapping[str, Any], source: Any) -> None:
    """Raise `Invalid` for an option that the source does not have."""
    unknown = [o for o in options if o not in source.options]
    if unknown:
        raise Invalid(
            f"the {source.name} source has no option {unknown[0]!r}",
            expected=f"one of {', '.join(source.options)}" if source.options else "no options",
        )


def not_packed(path: Path, what: str) -> None:
    """Raise `Invalid` when a file of a format that is read at many places is compressed as a whole."""
    if kind := files.compression(path):
        raise Invalid(
            f"{path} is compressed with {kind}",
            expected=f"{what} as it was written: the format compresses its columns itself",
            fix="unpack it first",
        )


def damaged(path: Path, what: str, error: object) -> Invalid:
    """The error for bytes that are not what the format says."""
    said = " ".join(str(error).split())
    return Invalid(
        f"{path} is not a whole {what}: {said[:300]}",
        expected=f"{'an' if what[0] in 'AEIO' else 'a'} {what} as it was written",
        fix="fetch the file again, or write it again: it is cut off, changed, or protected by a password",
    )


def distinct(path: Path, names: list[str]) -> None:
    """Raise `Invalid` when columns have the same name."""
    twice = [n for n, count in Counter(names).items() if count > 1]
    if twice:
        raise Invalid(
            f"{path}: column names occur twice: {', '.join(map(repr, twice[:5]))}", expected="distinct column names"
        )


def described(path: Path, what: str, arrow: pa.Schema) -> Schema:
    """Our schema of the columns of a file; raises `Invalid` when two have one name, or a name is no text."""
    try:
        distinct(path, arrow.names)
        return schema_of(arrow.remove_metadata())
    except WRONG as error:
        raise damaged(path, what, error) from error


def fits(path: Path, declared: int, largest: int) -> None:
    """Raise `Invalid` when a file declares that it holds far more bytes than it could in good faith."""
    size = path.stat().st_size
    most = largest or max(UNPACKED, RATIO * size)
    if declared > most:
        raise Invalid(
            f"{path} has {size} bytes and declares to hold {declared}",
            expected=f"at most {most}",
            fix="if it is right, say how much it may be in bytes: largest=100000000000",
        )


def batch_rows(columns: int) -> int:
    """Rows of a batch, fewer for wide tables."""
    return max(256, min(BATCH_ROWS, _CELLS // max(1, columns)))


def sliced(batch: pa.RecordBatch, rows: int) -> Iterator[pa.RecordBatch]:
    """A batch in pieces of at most that many rows."""
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)
