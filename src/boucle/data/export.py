"""Export: rows as files, whole or in part, in the common formats."""

from __future__ import annotations

import bz2
import json
import lzma
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from boucle.core.errors import Invalid, Unavailable
from boucle.core.frames import Frame, to_rows
from boucle.core.refs import Ref
from boucle.core.where import Where
from boucle.ledger import datasets, recording
from boucle.ports.lookup import missing_extra

FORMATS = {
    ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".parquet": "parquet", ".arrow": "arrow", ".feather": "feather",
    ".orc": "orc", ".avro": "avro",
}  # fmt: skip
TEXTS = ("csv", "tsv", "jsonl")  # those that may be compressed as a whole; the others compress inside
PACKED = (".gz", ".bz2", ".xz", ".zst")

_PIECE = 1 << 20  # bytes of text that are written at once


def export(
    ws: recording.Ledger,
    ref: Ref | str,
    file: Path,
    *,
    where: Where | str | None = None,
    columns: Sequence[str] | None = None,
    limit: int | None = None,
) -> int:
    """Write a version, or the rows of it that match, to a file in the format of its ending; returns the number of rows.

    `where` is a filter as in `Frame.where`; blocks that cannot match are not read. Endings are those of `FORMATS`, for text also
    with one of `PACKED` behind. The file appears when it is complete, and memory holds one batch. Raises `Invalid` for another
    ending, a filter or column that is wrong, and a type that the format does not have.

        export(ws, "tx@3", Path("paris.csv.gz"), where="city = 'Paris'", columns=["id", "amount"])
    """
    known(file)  # before anything is read
    return write(chosen(datasets.load(ws, ref), where, columns, limit), file)


def chosen(frame: Frame, where: Where | str | None, columns: Sequence[str] | None, limit: int | None) -> Frame:
    """Some rows and columns of a frame; the filter may use any column. Raises `Invalid`."""
    found = frame if where is None else frame.where(where)
    found = found if columns is None else found.select(columns)
    if limit is None:
        return found
    if limit < 0:
        raise Invalid(f"a limit of {limit}", expected="0 or more")

    def first(names: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        left = limit
        for batch in found.batches(names) if left else ():
            yield batch.slice(0, left)
            left -= batch.num_rows
            if left <= 0:
                return

    return Frame(found.schema, first, None if found.rows is None else min(limit, found.rows))


def write(frame: Frame, file: Path) -> int:
    """Write a frame to a file, all or nothing, in the format of its ending; returns the number of rows. Raises `Invalid`."""
    form, packed = known(file)
    rows = 0

    def counted(names: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        nonlocal rows
        for batch in frame.batches(names):
            rows += batch.num_rows
            yield batch

    pieces = pack(encode(Frame(frame.schema, counted), form), packed)
    try:
        descriptor, draft = tempfile.mkstemp(dir=file.resolve().parent, prefix=f".{file.name[:100]}.")
        try:
            with os.fdopen(descriptor, "wb") as target:
                for piece in pieces:
                    target.write(piece)
                target.flush()
                os.fsync(target.fileno())
            mask = os.umask(0)
            os.umask(mask)
            Path(draft).chmod(0o666 & ~mask)  # as any new file, and not as a temporary one
            Path(draft).replace(file)
        finally:
            Path(draft).unlink(missing_ok=True)
    except Invalid:
        raise
    except OSError as error:
        if isinstance(error, Unavailable) or not error.errno:
            raise
        raise Unavailable(
            f"cannot write {file}: {error.strerror or error}", expected="a folder that may be written to"
        ) from error
    return rows


def known(file: Path) -> tuple[str, str]:
    """The format and the compression that a file's name asks for; raises `Invalid`."""
    path, packed = file, ""
    if file.suffix.lower() in PACKED:
        path, packed = file.with_suffix(""), file.suffix.lower()
    form = FORMATS.get(path.suffix.lower())
    if form is None or (packed and form not in TEXTS):
        raise Invalid(
            f"{file} ends in {''.join(file.suffixes[-2:])!r}",
            expected=f"one of {', '.join(FORMATS)}; text also with one of {', '.join(PACKED)} behind",
        )
    return form, packed


# --- formats --------------------------------------------------------------------------------------------------------


def encode(frame: Frame, form: str) -> Iterator[bytes]:
    """The rows in a format, in pieces of bytes as they are made. Formats are those of `FORMATS`, and `arrows`, the Arrow stream
    format. Raises `Invalid` for a type that the format does not have."""
    schema, batches = frame.opened()
    try:
        yield from _ENCODERS[form](schema, batches, form)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise Invalid(
            f"{form} cannot hold these columns: {error}",
            expected="numbers, text and times" if form in ("csv", "tsv") else "types that the format has",
            fix="leave those columns out, or write .parquet",
        ) from error


class _Sink:
    """A file for writers that is emptied as it fills."""

    closed = False

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._at = 0

    def write(self, data: Any) -> int:
        piece = bytes(data)
        self._pieces.append(piece)
        self._at += len(piece)
        return len(piece)

    def tell(self) -> int:
        return self._at

    def flush(self) -> None: ...

    def close(self) -> None: ...

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def taken(self) -> Iterator[bytes]:
        pieces, self._pieces = self._pieces, []
        if pieces:
            yield b"".join(pieces)


def _written(make: Callable[[Any], Any], batches: Iterator[pa.RecordBatch]) -> Iterator[bytes]:
    sink = _Sink()
    writer = make(pa.PythonFile(sink, mode="w"))
    yield from sink.taken()
    for batch in batches:
        writer.write(pa.Table.from_batches([batch]))
        yield from sink.taken()
    writer.close()
    yield from sink.taken()


def _arrow(schema: pa.Schema, batches: Iterator[pa.RecordBatch], form: str) -> Iterator[bytes]:
    def make(sink: Any) -> Any:
        match form:
            case "parquet":
                return pa.parquet.ParquetWriter(sink, schema, compression="zstd")
            case "arrows":
                return pa.ipc.new_stream(sink, schema)
            case "feather":
                return pa.ipc.new_file(sink, schema, options=pa.ipc.IpcWriteOptions(compression="lz4"))
        return pa.ipc.new_file(sink, schema)

    return _written(make, batches)


def _narrow(schema: pa.Schema) -> pa.Schema:
    """What the older formats know: float16 is float32 there, and dictionaries are their values."""

    def plain(kind: pa.DataType) -> pa.DataType:
        if pa.types.is_dictionary(kind):
            return plain(kind.value_type)
        return pa.float32() if pa.types.is_float16(kind) else kind

    return pa.schema([pa.field(f.name, plain(f.type)) for f in schema])


def _separated(schema: pa.Schema, batches: Iterator[pa.RecordBatch], form: str) -> Iterator[bytes]:
    plain = _narrow(schema)
    nested = [f.name for f in plain if pa.types.is_nested(f.type)]
    if nested:
        raise Invalid(
            f"{form} cannot hold lists and structs: {', '.join(nested[:5])}",
            expected="numbers, text and times",
            fix="leave those columns out, or write .jsonl or .parquet",
        )
    options = pa.csv.WriteOptions(delimiter="\t" if form == "tsv" else ",")
    return _written(lambda sink: pa.csv.CSVWriter(sink, plain, write_options=options), (b.cast(plain) for b in batches))


def _orc(schema: pa.Schema, batches: Iterator[pa.RecordBatch], _: str) -> Iterator[bytes]:

    from pyarrow import orc

    plain = _narrow(schema)
    return _written(lambda sink: orc.ORCWriter(sink, compression="zstd"), (b.cast(plain) for b in batches))


def _lines(_: pa.Schema, batches: Iterator[pa.RecordBatch], __: str) -> Iterator[bytes]:
    for batch in batches:
        for start in range(0, batch.num_rows, 4096):
            rows = to_rows(batch.slice(start, 4096))
            yield "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _avro(schema: pa.Schema, batches: Iterator[pa.RecordBatch], _: str) -> Iterator[bytes]:
    try:
        from boucle.data.avro import records
    except ImportError:
        raise missing_extra("fastavro", "avro", "format") from None
    sink = _Sink()
    for _done in records(schema, batches, sink):
        yield from sink.taken()


_ENCODERS: dict[str, Callable[[pa.Schema, Iterator[pa.RecordBatch], str], Iterator[bytes]]] = {
    "csv": _separated, "tsv": _separated, "jsonl": _lines, "parquet": _arrow, "arrow": _arrow, "feather": _arrow,
    "arrows": _arrow, "orc": _orc, "avro": _avro,
}  # fmt: skip


def pack(pieces: Iterator[bytes], packed: str) -> Iterator[bytes]:
    """The same bytes compressed: '' not at all, or one of `PACKED`. The same bytes in give the same bytes out."""
    if not packed:
        yield from pieces
        return
    if packed == ".zst":
        sink = _Sink()
        with pa.CompressedOutputStream(pa.PythonFile(sink, mode="w"), "zstd") as stream:
            for piece in pieces:
                stream.write(piece)
                yield from sink.taken()
        yield from sink.taken()
        return
    presses: dict[str, Callable[[], Any]] = {
        ".gz": lambda: zlib.compressobj(6, zlib.DEFLATED, 31), ".bz2": bz2.BZ2Compressor, ".xz": lzma.LZMACompressor,
    }  # fmt: skip
    press = presses[packed]()
    for piece in pieces:
        yield press.compress(piece)
    yield press.flush()
