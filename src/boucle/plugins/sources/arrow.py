"""Arrow IPC files and streams, and Feather files, which are the same.

The frame of the file (which messages it has, how many rows and bytes each declares) is walked before Arrow's own reader
sees it, because a column that is compressed may declare any size, and Arrow would reserve it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import pyarrow as pa

from boucle.core import files
from boucle.core.frames import Frame
from boucle.plugins.sources.columnar import WRONG, batch_rows, damaged, described, fits, known, not_packed, sliced
from boucle.ports.source import Reading

_WHAT = "Arrow file"
_MAGIC = b"ARROW1"
_METADATA = 1 << 26  # bytes of one message's description
_BATCH, _DICTIONARY = 3, 2  # kinds of messages, of those that have a body


class ArrowSource:
    """Apache Arrow's own format: files, streams, Feather."""

    name: ClassVar[str] = "arrow"
    suffixes: ClassVar[tuple[str, ...]] = (".arrow", ".feather", ".ipc", ".arrows")
    schemes: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[dict[str, str]] = {
        "largest": "how many bytes the columns may unpack to; without it 1 GiB or 1000 times the file's size",
    }

    def read(self, url: str, options: Mapping[str, Any]) -> Reading:
        """The rows of a file or stream. Raises `NotFound`, or `Invalid` for what is not a whole one."""
        known(options, self)
        largest = files.largest(options)
        path = files.locate(url)
        not_packed(path, _WHAT)
        with path.open("rb") as file:
            head = file.read(8)
        if head.startswith(b"FEA1"):
            raise damaged(path, _WHAT, "it is a Feather file of version 1; write it again with a newer library")
        is_file = head.startswith(_MAGIC)
        walked = _walked(path, 8 if is_file else 0)
        fits(path, walked.declared, largest)
        try:
            with _opened(path, is_file) as reader:
                arrow = reader.schema
        except WRONG as error:
            raise damaged(path, _WHAT, error) from error
        schema = described(path, _WHAT, arrow)
        size = batch_rows(len(arrow))

        def opener(columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
            return _batches(path, is_file, columns, size)

        found = {"layout": "file" if is_file else "stream", "batches": walked.batches}
        return Reading(Frame(schema, opener, walked.rows), found)


def _opened(path: Path, is_file: bool) -> Any:
    # Read, not mapped into memory: a file that somebody cuts off meanwhile would end the process.
    source = pa.OSFile(str(path), "rb")
    return pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)


def _batches(path: Path, is_file: bool, columns: Sequence[str] | None, size: int) -> Iterator[pa.RecordBatch]:
    try:
        with _opened(path, is_file) as reader:
            count = reader.num_record_batches if is_file else None
            number = 0
            while count is None or number < count:
                batch = reader.get_batch(number) if is_file else next(reader, None)
                if batch is None:
                    return
                number += 1
                batch.validate(full=True)
                chosen = batch if columns is None else batch.select(list(columns))
                yield from sliced(chosen.replace_schema_metadata(None), size)
    except WRONG as error:
        raise damaged(path, _WHAT, error) from error


# --- the frame of the file ------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Walked:
    """What the messages of a file declare."""

    rows: int = 0
    batches: int = 0
    declared: int = 0  # bytes of all columns when unpacked


def _walked(path: Path, start: int) -> _Walked:
    """Walk the messages; raises `Invalid` where one does not lie within the file."""
    size, out = path.stat().st_size, _Walked()
    with path.open("rb") as file:
        at = start
        while True:
            file.seek(at)
            prefix = file.read(8)
            if len(prefix) < 4 and at == start:
                raise damaged(path, _WHAT, "it ends before its schema")
            if len(prefix) < 4:
                return out
            length, at = _length(prefix, at)
            if length == 0:
                return out
            if not 0 < length <= min(_METADATA, size - at):
                raise damaged(path, _WHAT, f"a message at byte {at} declares a description of {length} bytes")
            file.seek(at)
            try:
                kind, header, body = _message(file.read(length))
                at += length
                if not 0 <= body <= size - at:
                    raise damaged(path, _WHAT, f"a message at byte {at} declares {body} bytes")
                if kind in (_BATCH, _DICTIONARY):
                    _add(out, path, kind, header, file, at, body)
            except (struct.error, IndexError) as error:
                raise damaged(path, _WHAT, f"a message at byte {at} is not sound") from error
            at += body


def _length(prefix: bytes, at: int) -> tuple[int, int]:
    """The bytes of a message's description and where it begins; files of before 2019 have no mark before the length."""
    if prefix.startswith(b"\xff\xff\xff\xff"):
        return (struct.unpack("<i", prefix[4:8])[0], at + 8) if len(prefix) == 8 else (0, at)
    return struct.unpack("<i", prefix[:4])[0], at + 4


def _add(out: _Walked, path: Path, kind: int, header: _Table, file: BinaryIO, at: int, body: int) -> None:
    if kind == _DICTIONARY:
        header = header.table(1)
    rows = header.number(0, "<q")
    declared = 0
    if header.slot(3):
        for offset, length in header.pairs(2):
            if length > 8:
                if not 0 <= offset <= body - 8:
                    raise damaged(path, _WHAT, f"a column at byte {at + offset} lies outside its message")
                file.seek(at + offset)
                unpacked: int = struct.unpack("<q", file.read(8))[0]
                declared += length if unpacked < 0 else unpacked  # -1: not compressed after all
    else:
        declared = body
    # A column takes a bit per row at the very least; only those that are null throughout take none.
    if not 0 <= rows <= max(1 << 20, 8 * declared):
        raise damaged(path, _WHAT, f"a message at byte {at} declares {rows} rows in {declared} bytes")
    out.declared += declared
    if kind == _BATCH:
        out.rows += rows
        out.batches += 1


@dataclass(frozen=True, slots=True)
class _Table:
    """One table of a FlatBuffer (github.com/google/flatbuffers, internals): fields found through a table of offsets."""

    data: bytes
    at: int

    def slot(self, field: int) -> int:
        """Where a field lies, or 0 when it is not set."""
        index = self.at - struct.unpack_from("<i", self.data, self.at)[0]
        if index < 0:
            raise IndexError(index)
        if 4 + 2 * field >= struct.unpack_from("<H", self.data, index)[0]:
            return 0
        offset: int = struct.unpack_from("<H", self.data, index + 4 + 2 * field)[0]
        return self.at + offset if offset else 0

    def number(self, field: int, form: str) -> int:
        """A scalar, 0 when it is not set."""
        at = self.slot(field)
        return int(struct.unpack_from(form, self.data, at)[0]) if at else 0

    def table(self, field: int) -> _Table:
        """Another table."""
        at = self.slot(field)
        if not at:
            raise IndexError(field)
        return _Table(self.data, at + struct.unpack_from("<I", self.data, at)[0])

    def pairs(self, field: int) -> list[tuple[int, int]]:
        """A vector of two 64-bit numbers each."""
        at = self.slot(field)
        if not at:
            return []
        at += struct.unpack_from("<I", self.data, at)[0]
        count = struct.unpack_from("<I", self.data, at)[0]
        if count * 16 > len(self.data):
            raise IndexError(count)
        return [struct.unpack_from("<qq", self.data, at + 4 + 16 * i) for i in range(count)]


def _message(data: bytes) -> tuple[int, _Table, int]:
    """Kind, header and bytes of the body of a message (Message.fbs of Arrow's format)."""
    root = _Table(data, struct.unpack_from("<I", data, 0)[0])
    return root.number(1, "<B"), root.table(2), root.number(3, "<q")
