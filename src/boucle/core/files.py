"""Files as sources meet them: found by name, perhaps compressed, read as chunks of bytes with bounded memory."""

from __future__ import annotations

import difflib
import lzma
import os
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from boucle.core.errors import Invalid, NotFound, Unavailable

CHUNK = 1 << 22
# What a compressed file may unpack to unless it is told otherwise: texts hardly ever shrink to less than a hundredth.
UNPACKED, RATIO = 1 << 30, 200
LZMA_ERROR = lzma.LZMAError
_XZ_MEMORY = 1 << 28  # the largest dictionary an .xz file may ask for, in bytes

# How a compressed file begins; its name is not believed.
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ\x00": "xz"}
_COMPRESSED_ENDINGS = (".gz", ".bz2", ".zst", ".xz")
_FOREIGN = {
    b"PAR1": "a Parquet file", b"PK\x03\x04": "a zip archive or office document", b"%PDF": "a PDF document",
    b"\x89PNG": "a PNG image", b"\xff\xd8\xff": "a JPEG image", b"ARROW1": "an Arrow file", b"Obj\x01": "an Avro file",
    b"ORC": "an ORC file", b"FEA1": "a Feather file of the first version",
    b"SQLite format 3": "an SQLite database", b"\x89HDF": "an HDF5 file", b"\xd0\xcf\x11\xe0": "an old office document",
}  # fmt: skip


def locate(url: str) -> Path:
    """The file that a path or `file:` URL names.

    Raises `NotFound` with the near names of its folder, and `Invalid` for a folder, an empty file, or another kind of
    URL.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "file":
        url = urllib.parse.unquote(parts.path)
    elif "://" in url:
        raise Invalid(f"{parts.scheme}:// is not a place this source reads from", expected="the path of a file")
    if not url or "\0" in url:
        raise Invalid(f"{url!r} is not a path", expected="the path of a file")
    path = Path(url).expanduser()
    if path.is_dir():
        raise Invalid(f"{path} is a folder", expected="a file", fix=f"name one file in {path}")
    if not path.exists():
        raise NotFound(
            f"no file {path}", expected=_nearby(path), fix="check the path; it is taken from where you are now"
        )
    if path.is_file() and path.stat().st_size == 0:
        raise Invalid(f"{path} is empty", expected="a file with data in it")
    return path


def _nearby(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"the folder {folder} to exist"
    names = [p.name for p in sorted(folder.iterdir())[:5000]]
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5) or names[:5]
    return f"one of {', '.join(near)} in {folder}" if near else f"a file in {folder}, which is empty"


def ending(url: str) -> str:
    """The ending that says the format: `.csv` for `x.CSV.gz`."""
    path = Path(urllib.parse.urlsplit(url).path if "://" in url else url)
    if path.suffix.lower() in _COMPRESSED_ENDINGS:
        path = path.with_suffix("")
    return path.suffix.lower()


def compression(path: Path) -> str:
    """gzip, bz2, zstd, xz, or '' by how the file begins."""
    with _opened(path) as file:
        head: bytes = file.read(8)
    return next((name for magic, name in _COMPRESSED.items() if head.startswith(magic)), "")


def chunks(path: Path, size: int = CHUNK, *, largest: int = 0) -> Iterator[bytes]:
    """The decompressed content, in pieces; raises `Invalid` where a compressed file is cut off or damaged, or unpacks to
    more than `largest` bytes (0: to more than 1 GiB and more than 200 times its size)."""
    kind = compression(path)
    left = largest or max(UNPACKED, RATIO * path.stat().st_size)
    with _opened(path) as raw:
        file = _unpacked(raw, kind)
        try:
            while piece := file.read(size):
                left -= len(piece)
                if kind and left < 0:
                    raise _bomb(path, kind, largest)
                yield piece
        except (OSError, EOFError, lzma.LZMAError, pa.ArrowException) as error:
            if not kind:
                raise Unavailable(f"{path} cannot be read: {error}") from error
            raise Invalid(
                f"{path} is cut off or damaged ({kind}: {error})",
                expected=f"a complete {kind} file",
                fix="fetch the file again",
            ) from error


def _bomb(path: Path, kind: str, largest: int) -> Invalid:
    size = path.stat().st_size
    told = f"{largest} bytes" if largest else f"{max(UNPACKED, RATIO * size)} bytes, {RATIO} times its size or 1 GiB"
    return Invalid(
        f"{path} has {size} bytes and unpacks to more than {told} ({kind})",
        expected="a file that was not made to fill a disk",
        fix="if it is right, say how much it may be in bytes: largest=100000000000",
    )


def largest(options: Mapping[str, Any]) -> int:
    """The option `largest` as bytes, 0 where it is not given; raises `Invalid` for what is no such number."""
    value = options.get("largest")
    if value is None:
        return 0
    try:
        count = int(value)
    except (TypeError, ValueError):
        count = 0
    if isinstance(value, bool) or count <= 0:
        raise Invalid(f"option largest={value!r}", expected="a number of bytes above 0")
    return count


def _unpacked(raw: pa.NativeFile, kind: str) -> Any:
    if kind == "xz":
        return Xz(raw)
    return pa.CompressedInputStream(raw, kind) if kind else raw


class Xz:
    """Reads .xz streams with bounded memory, which `lzma.LZMAFile` does not offer."""

    def __init__(self, raw: pa.NativeFile) -> None:
        self.raw, self.left, self.unpacker = raw, b"", lzma.LZMADecompressor(memlimit=_XZ_MEMORY)

    def read(self, size: int) -> bytes:
        while True:
            if self.unpacker.eof:
                self.left = (self.unpacker.unused_data or self.raw.read(65_536)).lstrip(b"\0")
                if not self.left:
                    return b""
                self.unpacker = lzma.LZMADecompressor(memlimit=_XZ_MEMORY)
            elif self.unpacker.needs_input:
                self.left = self.raw.read(65_536)
                if not self.left:
                    raise EOFError("the file ends before its end mark")
            piece = self.unpacker.decompress(self.left, size)
            self.left = b""
            if piece:
                return piece


def _opened(path: Path) -> pa.NativeFile:
    try:
        return pa.OSFile(os.fsencode(path), "rb")
    except OSError as error:
        raise Unavailable(f"{path} cannot be opened: {error}", fix="check who may read it") from error


def check_text(path: Path, head: bytes) -> None:
    """Raise `Invalid` when the first bytes are plainly not text, saying what they look like."""
    for magic, name in _FOREIGN.items():
        if head.startswith(magic):
            raise Invalid(
                f"{path} is {name}, not text",
                expected="a text file",
                fix="name the source it needs, such as source=parquet",
            )
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return
    sample = head[:65_536]
    controls = sum(sample.count(c) for c in range(32) if c not in (9, 10, 12, 13, 27, 28, 29, 30, 31))
    if controls > max(3, len(sample) // 20):
        raise Invalid(
            f"{path} is not text: {controls} of its first {len(sample)} bytes are control characters",
            expected="a text file in UTF-8, UTF-16 with a byte-order mark, or Windows-1252",
        )
