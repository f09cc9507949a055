"""Arrays as tables, a row for each place along the first axis: NumPy's .npy and .npz, and the IDX format of MNIST.

Numbers of further axes are a flat list per row, in C order, whose shape is told. Nothing is ever unpickled.
"""

from __future__ import annotations

import io
import math
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from boucle.core import files
from boucle.core.errors import BoucleError, Invalid, NotFound
from boucle.core.frames import Frame, schema_of
from boucle.plugins.sources.columnar import UNPACKED, damaged, known
from boucle.ports.source import Reading

_BATCH = 8 << 20  # bytes
_RATIO = 1000
_IDX = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_WRONG = (
    ValueError, struct.error, zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, OverflowError,
    RuntimeError, SyntaxError, TypeError, KeyError, MemoryError, tokenize.TokenError,
)  # fmt: skip


class ArraysSource:
    """Files of arrays."""

    name: ClassVar[str] = "arrays"
    suffixes: ClassVar[tuple[str, ...]] = (".npy", ".npz", ".idx")
    schemes: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[dict[str, str]] = {
        "arrays": "names of the arrays of an .npz file that are columns; all of them",
        "largest": "how many bytes the arrays may unpack to; without it 1 GiB or 1000 times the file's size",
    }

    def read(self, url: str, options: Mapping[str, Any]) -> Reading:
        """The arrays of a file as columns. Raises `NotFound`, or `Invalid` for what is no whole file of arrays, holds objects, or
        holds arrays of different lengths."""
        known(options, self)
        path = files.locate(url)
        wanted = options.get("arrays")
        names = wanted.split(",") if isinstance(wanted, str) else list(wanted or [])
        most = files.largest(options) or max(UNPACKED, _RATIO * path.stat().st_size)
        with ExitStack() as held:
            arrays = _guarded(path, lambda: _opened(path, names, most, held))
            rows, fields = arrays[0].rows, [pa.field(a.name, a.type, nullable=False) for a in arrays]
        shapes = {a.name: "x".join(map(str, a.shape)) for a in arrays if a.shape}
        schema = schema_of(pa.schema(fields))

        def opener(columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
            return _batches(path, names, most, list(schema.names if columns is None else columns))

        return Reading(Frame(schema, opener, rows), {"shape": shapes} if shapes else {})


@dataclass(slots=True)
class _Array:
    """An array whose rows are about to be read."""

    name: str
    rows: int
    shape: tuple[int, ...]  # of a row
    dtype: Any
    file: Any

    @property
    def width(self) -> int:
        """Bytes of a row."""
        return int(math.prod(self.shape) * self.dtype.itemsize)

    @property
    def type(self) -> pa.DataType:
        plain = pa.from_numpy_dtype(self.dtype.newbyteorder("=")) if self.dtype.kind != "U" else pa.string()
        return pa.list_(plain, math.prod(self.shape)) if self.shape else plain

    def take(self, count: int) -> pa.Array:
        data = bytearray()
        while len(data) < count * self.width:
            piece = self.file.read(min(count * self.width - len(data), 1 << 20))
            if not piece:
                raise EOFError("it ends before its last number")
            data += piece
        flat = np.frombuffer(bytes(data), self.dtype)
        values = pa.array(flat.tolist() if self.dtype.kind == "U" else flat.astype(self.dtype.newbyteorder("=")))
        return pa.FixedSizeListArray.from_arrays(values, math.prod(self.shape)) if self.shape else values


def _guarded(path: Path, work: Any) -> Any:
    try:
        return work()
    except BoucleError:
        raise
    except _WRONG as error:
        raise damaged(path, "file of arrays", error) from None


def _batches(path: Path, names: list[str], most: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
    with ExitStack() as held:
        arrays = [a for a in _guarded(path, lambda: _opened(path, names, most, held)) if a.name in columns]
        arrays.sort(key=lambda a: columns.index(a.name))
        left = arrays[0].rows
        size = max(1, _BATCH // max(1, *(a.width for a in arrays)))
        while left:
            count = min(size, left)
            values = _guarded(path, lambda n=count: [a.take(n) for a in arrays])
            left -= count
            yield pa.RecordBatch.from_arrays(values, names=columns)
        if any(a.file.read(1) for a in arrays):
            raise damaged(path, "file of arrays", "it goes on behind its last number")


def _opened(path: Path, names: list[str], most: int, held: ExitStack) -> list[_Array]:
    stream = held.enter_context(io.BufferedReader(_Stream(files.chunks(path, 1 << 20, largest=most))))
    head = stream.peek(6)[:6]
    if head.startswith(b"PK"):
        arrays = _of_npz(held.enter_context(zipfile.ZipFile(path)), path, names, held)
    elif names:
        raise Invalid(f"{path} holds one array", expected="no option arrays, which is for .npz files")
    elif head.startswith(b"\x93NUMPY"):
        arrays = [_of_npy(stream, "value", path)]
    elif head[:2] == b"\0\0" and len(head) > 3 and head[2] in _IDX and 0 < head[3] < 16:
        stream.read(4)
        sizes = struct.unpack(f">{head[3]}I", stream.read(4 * head[3]))
        arrays = [_Array("value", sizes[0], sizes[1:], np.dtype(_IDX[head[2]]), stream)]
    else:
        raise Invalid(f"{path} holds no arrays", expected="a .npy, .npz or IDX file")
    if len({a.rows for a in arrays}) > 1:
        raise Invalid(
            f"the arrays of {path} have different lengths: {', '.join(f'{a.name} {a.rows:,}' for a in arrays[:8])}",
            expected="one length",
            fix=f"name those that belong together: --option arrays={arrays[0].name}",
        )
    declared = sum(a.rows * a.width for a in arrays)
    if declared > most:
        raise Invalid(f"{path} declares to hold {declared:,} bytes", expected=f"at most {most:,}", fix="say largest=")
    return arrays


def _of_npz(archive: zipfile.ZipFile, path: Path, names: list[str], held: ExitStack) -> list[_Array]:
    there = {i.filename.removesuffix(".npy"): i for i in archive.infolist() if i.filename.endswith(".npy")}
    for name in names:
        if name not in there:
            raise NotFound.named("array", name, there)
    if not there:
        raise Invalid(f"{path} holds no arrays", expected="an .npz file as numpy.savez makes it")
    return [_of_npy(held.enter_context(archive.open(there[n])), n, path) for n in names or there]


def _of_npy(file: Any, name: str, path: Path) -> _Array:
    """An array by its header (NumPy enhancement proposal 1)."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    with warnings.catch_warnings(action="ignore"):  # of headers as Python 2 wrote them
        shape, fortran, dtype = read(file)
    if dtype.kind not in "biufU":
        raise Invalid(f"array {name!r} of {path} holds {dtype}", expected="numbers, booleans or texts")
    if not shape or (fortran and len(shape) > 1):
        what = "is a single number" if not shape else "has its numbers column by column (Fortran order)"
        raise Invalid(f"array {name!r} of {path} {what}", expected="rows", fix="save numpy.ascontiguousarray of it")
    return _Array(name, int(shape[0]), tuple(map(int, shape[1:])), dtype, file)


class _Stream(io.RawIOBase):
    """Chunks as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._held = chunks, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._held:
            piece = next(self._chunks, None)
            if piece is None:
                return 0
            self._held = memoryview(piece)
        count = min(len(buffer), len(self._held))
        buffer[:count] = self._held[:count]
        self._held = self._held[count:]
        return count
