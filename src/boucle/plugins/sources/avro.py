"""Avro object container files, block by block.

The frame of the file (header, blocks, their compression) is read here, with every length checked against what is there;
what is inside a block is decoded by fastavro. Logical types are stripped from the schema that it sees, except decimals:
Arrow makes dates and times of the plain numbers, faster and without Python's limits on years.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import fastavro
import pyarrow as pa
from fastavro.schema import SchemaParseException, UnknownType

from boucle.core import files
from boucle.core.errors import Invalid
from boucle.core.frames import Frame
from boucle.plugins.sources.avro_schema import Converted, converted, without_logical_types
from boucle.plugins.sources.columnar import WRONG, batch_rows, damaged, described, known
from boucle.ports.source import Reading

_WHAT = "Avro file"
_MAGIC = b"Obj\x01"
_BLOCK = 1 << 26  # bytes of one block, and what it may unpack to unless `largest` says more
_BATCH = 1 << 23  # bytes of a batch, about
_DECODING = (*WRONG, EOFError, ValueError, TypeError, IndexError, KeyError, ArithmeticError, RecursionError)


class AvroSource:
    """Apache Avro."""

    name: ClassVar[str] = "avro"
    suffixes: ClassVar[tuple[str, ...]] = (".avro",)
    schemes: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[dict[str, str]] = {
        "schema": "the schema to read with (JSON, or the path of an .avsc file): columns added with a default, renamed by "
        "aliases, widened, left out",
        "largest": "how many bytes it may unpack to; without it 1 GiB or 200 times the file's size, and 64 MiB a block",
    }

    def read(self, url: str, options: Mapping[str, Any]) -> Reading:
        """The rows of a file. Raises `NotFound`, or `Invalid` for what is not a whole Avro file of records, for a schema
        that is recursive or does not go together with the one asked for, and for unions of several kinds of records."""
        known(options, self)
        largest = files.largest(options)
        path = files.locate(url)
        header = _header(path, largest)
        writer = without_logical_types(path, header.schema)
        reader = _asked(path, options.get("schema"))
        plan = converted(path, header.schema if reader is None else reader)
        if not plan.least or not converted(path, header.schema).least:
            raise Invalid(
                f"{path}: its rows take no bytes", expected="records with at least one field that is not null"
            )
        schema = described(path, _WHAT, plan.arrow)
        given = None if reader is None else without_logical_types(path, reader)
        rows = sum(count for count, _ in _blocks(path, header, largest))

        def opener(columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
            return _batches(path, header, writer, given, plan, columns, largest)

        found = {"codec": header.codec, "record": str(header.schema.get("name", ""))}
        if kind := files.compression(path):
            found["compression"] = kind
        return Reading(Frame(schema, opener, rows), found)


class _Header:
    """What stands before the blocks."""

    __slots__ = ("codec", "schema", "size", "sync")

    def __init__(self, schema: Any, codec: str, sync: bytes, size: int) -> None:
        self.schema, self.codec, self.sync, self.size = schema, codec, sync, size


class _Bytes:
    """A file that is read from front to back, with the numbers Avro writes."""

    def __init__(self, path: Path, largest: int) -> None:
        self.path, self.at, self._held = path, 0, b""
        self._pieces = files.chunks(path, 1 << 20, largest=largest)

    def read(self, size: int) -> bytes:
        """So many bytes, or those that are left."""
        if not 0 <= size <= _BLOCK:
            raise damaged(self.path, _WHAT, f"at byte {self.at} a length of {size} bytes is declared")
        parts, have = [self._held], len(self._held)
        while have < size:
            piece = next(self._pieces, None)
            if piece is None:
                break
            parts.append(piece)
            have += len(piece)
        data = b"".join(parts)
        self._held = data[size:]
        self.at += min(size, len(data))
        return data[:size]

    def exactly(self, size: int) -> bytes:
        """So many bytes; raises `Invalid` where the file ends before."""
        data = self.read(size)
        if len(data) < size:
            raise damaged(
                self.path, _WHAT, f"it ends at byte {self.at}, where {size - len(data)} more bytes should follow"
            )
        return data

    def long(self) -> int | None:
        """A number as Avro writes it (zig-zag, seven bits a byte); None at the end of the file."""
        value = shift = 0
        while True:
            byte = self.read(1)
            if not byte:
                if shift:
                    raise damaged(self.path, _WHAT, f"it ends at byte {self.at}, within a number")
                return None
            value |= (byte[0] & 0x7F) << shift
            if not byte[0] & 0x80:
                return (value >> 1) ^ -(value & 1)
            shift += 7
            if shift > 63:
                raise damaged(self.path, _WHAT, f"the number before byte {self.at} has more than 64 bits")

    def length(self) -> int:
        """A number that must be there."""
        value = self.long()
        if value is None:
            raise damaged(self.path, _WHAT, f"it ends at byte {self.at}")
        return value


def _header(path: Path, largest: int) -> _Header:
    file = _Bytes(path, largest)
    if file.read(4) != _MAGIC:
        raise damaged(path, _WHAT, "it does not begin with Obj and 1")
    about: dict[str, bytes] = {}
    while count := file.length():
        if count < 0:
            count = -count
            file.length()
        for _ in range(count):
            key = file.exactly(file.length()).decode(errors="replace")
            about[key] = file.exactly(file.length())
    sync = file.exactly(16)
    codec = about.get("avro.codec", b"null").decode(errors="replace") or "null"
    if codec not in _CODECS:
        raise Invalid(f"{path} has the codec {codec!r}", expected=f"one of {', '.join(_CODECS)}")
    try:
        schema = json.loads(about.get("avro.schema", b""))
    except (ValueError, RecursionError) as error:
        raise damaged(path, _WHAT, f"its schema is not JSON: {error}") from error
    if not isinstance(schema, dict) or schema.get("type") != "record":
        raise Invalid(f"{path} does not hold records", expected="an Avro file whose schema is a record")
    return _Header(schema, codec, sync, file.at)


def _asked(path: Path, given: Any) -> dict[str, Any] | None:
    if given is None:
        return None
    text = str(given)
    try:
        if isinstance(given, Mapping):
            schema: Any = dict(given)
        elif text.lstrip().startswith("{"):
            schema = json.loads(text)
        else:
            schema = json.loads(files.locate(text).read_bytes())
    except (ValueError, RecursionError) as error:
        if isinstance(error, Invalid):
            raise
        raise Invalid(f"the option schema is not JSON: {error}", expected="an Avro schema") from error
    if not isinstance(schema, dict) or schema.get("type") != "record":
        raise Invalid(f"the option schema for {path} is not a record", expected='{"type": "record", "fields": [...]}')
    return schema


# --- blocks ---------------------------------------------------------------------------------------------------------


def _blocks(path: Path, header: _Header, largest: int) -> Iterator[tuple[int, bytes]]:
    """How many rows each block has, and its bytes as they are in the file."""
    file = _Bytes(path, largest)
    file.exactly(header.size)
    while (count := file.long()) is not None:
        data = file.exactly(file.length())
        if file.exactly(16) != header.sync:
            raise damaged(path, _WHAT, f"the block that ends at byte {file.at} has another mark than the header")
        if count < 0:
            raise damaged(path, _WHAT, f"the block that ends at byte {file.at} declares {count} rows")
        yield count, data


def _inflated(data: bytes, most: int) -> bytes:
    unpacker = zlib.decompressobj(-15)
    out = unpacker.decompress(data, most + 1)
    if len(out) <= most and not unpacker.eof:
        raise ValueError("a deflated block is cut off")
    return out


def _unsnapped(data: bytes, most: int) -> bytes:
    size = shift = 0
    for byte in data[:5]:
        size |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            break
    if size > most:
        return bytes(most + 1)
    out: bytes = pa.decompress(data[:-4], size, "snappy", asbytes=True)
    if struct.pack(">I", zlib.crc32(out)) != data[-4:]:
        raise ValueError("a block does not have the checksum that stands behind it")
    return out


def _streamed(codec: str) -> Callable[[bytes, int], bytes]:
    def unpack(data: bytes, most: int) -> bytes:
        raw = pa.BufferReader(data)
        file = files.Xz(raw) if codec == "xz" else pa.CompressedInputStream(raw, codec)
        parts, have = [], 0
        while have <= most and (piece := file.read(1 << 20)):
            parts.append(piece)
            have += len(piece)
        return b"".join(parts)

    return unpack


_CODECS: dict[str, Callable[[bytes, int], bytes]] = {
    "null": lambda data, _: data, "deflate": _inflated, "snappy": _unsnapped, "bzip2": _streamed("bz2"),
    "xz": _streamed("xz"), "zstandard": _streamed("zstd"),
}  # fmt: skip


class _Plain(io.RawIOBase):
    """The same file with its blocks unpacked, as fastavro reads it."""

    def __init__(self, path: Path, header: _Header, schema: Any, least: int, largest: int) -> None:
        self._blocks = _blocks(path, header, largest)
        self._path, self._header, self._least, self._most = path, header, least, largest or _BLOCK
        self._data, self._at = _written(schema, header.sync), 0

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            raise ValueError(f"a length of {size}")
        if self._at == len(self._data) and size:
            block = next(self._blocks, None)
            self._data, self._at = b"" if block is None else self._unpacked(*block), 0
        out = self._data[self._at : self._at + size]
        self._at += len(out)
        return out

    def _unpacked(self, count: int, packed: bytes) -> bytes:
        try:
            data = _CODECS[self._header.codec](packed, self._most)
        except (*WRONG, ValueError, EOFError, zlib.error, files.LZMA_ERROR) as error:
            raise damaged(self._path, _WHAT, error) from error
        if len(data) > self._most:
            raise Invalid(
                f"{self._path}: a block of {len(packed)} bytes unpacks to more than {self._most}",
                expected="blocks of some megabytes",
                fix="if it is right, say how much it may be in bytes: largest=1000000000",
            )
        if count * self._least > len(data):
            raise damaged(self._path, _WHAT, f"a block of {len(data)} bytes declares {count} rows")
        return _number(count) + _number(len(data)) + data + self._header.sync


def _number(value: int) -> bytes:
    value, out = (value << 1) ^ (value >> 63), bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _written(schema: Any, sync: bytes) -> bytes:
    text = json.dumps(schema).encode()
    key = b"avro.schema"
    return _MAGIC + _number(1) + _number(len(key)) + key + _number(len(text)) + text + _number(0) + sync


def _batches(
    path: Path,
    header: _Header,
    writer: Any,
    reader: Any,
    plan: Converted,
    columns: Sequence[str] | None,
    largest: int,
) -> Iterator[pa.RecordBatch]:
    names = plan.arrow.names if columns is None else list(columns)
    chosen = [(n, plan.arrow.field(n).type, plan.convert.get(n)) for n in names]
    most = batch_rows(len(plan.arrow))
    least = converted(path, header.schema).least
    try:
        rows = fastavro.reader(_Plain(path, header, writer, least, largest), reader)  # type: ignore[arg-type]
        held: list[Any] = []
        for row in rows:
            held.append(row)
            if len(held) == most:
                yield _batch(held, chosen)
                held = []
        if held:
            yield _batch(held, chosen)
    except Invalid:
        raise
    except (*_DECODING, SchemaParseException, UnknownType, fastavro.read.SchemaResolutionError) as error:
        raise damaged(path, _WHAT, error or type(error).__name__) from error


def _batch(rows: list[Any], chosen: list[tuple[str, pa.DataType, Callable[[Any], Any] | None]]) -> pa.RecordBatch:
    arrays = []
    for name, kind, convert in chosen:
        values = [row[name] for row in rows] if convert is None else [convert(row[name]) for row in rows]
        arrays.append(pa.array(values, kind))
    return pa.RecordBatch.from_arrays(arrays, names=[name for name, _, _ in chosen])
