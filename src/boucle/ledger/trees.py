"""Folders of files as blobs: a manifest that names every file, and how to read one.

A manifest is UTF-8 text: the line `boucle files 1`, then for each file, in the order of the paths, a line

    digest mode size path

The mode is f for a file, x for one that may be executed, l for a symbolic link (the content is where it points to); as a
capital, F or X, when the digest is that of a list of chunks (see `core.chunks`). Paths are relative, with '/'; backslashes,
control characters and bytes that are not UTF-8 are written as `\\xNN`. Empty folders are not kept. The same files give
the same manifest, whose digest is the digest of the version.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from boucle.core import chunks
from boucle.core.errors import Corrupt, Invalid, NotFound
from boucle.ports.blobs import Blobs

if TYPE_CHECKING:
    import pyarrow as pa

    from boucle.core.frames import Frame

HEAD = "boucle files 1"
OURS = frozenset({".boucle", ".git"})  # folders that are never part of a version
DEEPEST = 4000  # bytes of a path

_LINE = re.compile(r"([0-9a-f]{64}) ([fxlFX]) (0|[1-9]\d{0,17}) (.+)")
_ODD = re.compile("[\\\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_ESCAPED = re.compile(r"\\(x[0-9a-f]{2})?")
_TOGETHER, _MANY = 16 << 20, 4096  # bytes and files that are stored at once
_SMALL = 4 << 20  # bytes of contents in a batch of a frame


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a version."""

    path: str  # as the system names it
    mode: str  # f, x, l, or F, X
    size: int
    digest: str

    @property
    def cut(self) -> bool:
        """Whether the digest names a list of chunks."""
        return self.mode in "FX"

    @property
    def line(self) -> str:
        return f"{self.digest} {self.mode} {self.size} {escaped(self.path)}"


class Tree:
    """The files of a version, in the order of their paths."""

    def __init__(self, manifest: str, lines: list[str]) -> None:
        self.manifest, self.lines = manifest, lines

    def __len__(self) -> int:
        return len(self.lines)

    def __iter__(self) -> Iterator[Entry]:
        """Every file; raises `Corrupt` at a line that is none."""
        return map(entry, self.lines)

    @cached_property
    def paths(self) -> list[str]:
        """The paths as they are written in the manifest; raises `Corrupt` when they cannot be those of one folder."""
        try:
            paths = [line.split(" ", 3)[3] for line in self.lines]
        except IndexError:
            raise _corrupt(self.manifest, "a line has too few parts") from None
        if any(map(str.__ge__, paths, paths[1:])):
            raise _corrupt(self.manifest, "the paths are not in order")
        folders: set[str] = set()
        for folder in {path.rpartition("/")[0] for path in paths}:
            while folder and folder not in folders:
                folders.add(folder)
                folder = folder.rpartition("/")[0]  # noqa: PLW2901
        if both := folders.intersection(paths):
            raise _corrupt(self.manifest, f"{min(both)!r} is both a file and a folder")
        return paths

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(int(line.split(" ", 3)[2]) for line in self.lines)


def escaped(path: str) -> str:
    """A path as it is written in a manifest."""
    return _ODD.sub(_escape, path) if _ODD.search(path) else path


def _escape(found: re.Match[str]) -> str:
    return "".join(f"\\x{byte:02x}" for byte in found[0].encode("utf-8", "surrogateescape"))


def unescaped(text: str) -> str:
    """The path that a manifest means; raises `Corrupt` for what `escaped` does not give, or what could lead elsewhere."""
    try:
        raw = (
            _ESCAPED.sub(lambda found: "\\" if found[1] is None else chr(_byte(found[1])), text)
            if "\\" in text
            else text
        )
        path = raw.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
        sound = escaped(path) == text and len(os.fsencode(path)) <= DEEPEST
    except UnicodeEncodeError:
        sound = False
    parts = path.split("/") if sound else [""]
    if not sound or "\0" in path or any(p in ("", ".", "..") or p.lower() in OURS for p in parts):
        raise Corrupt(f"{text[:200]!r} is not a path of a file in a version", expected="a relative path without '..'")
    return path


def _byte(code: str) -> int:
    number = int(code[1:], 16)
    return number if number < 0x80 else 0xDC00 + number


def entry(line: str) -> Entry:
    """A line of a manifest; raises `Corrupt`."""
    found = _LINE.fullmatch(line)
    if found is None:
        raise Corrupt(f"{line[:200]!r} is no line of a manifest", expected="digest mode size path")
    return Entry(unescaped(found[4]), found[2], int(found[3]), found[1])


def inside(link: str, target: str) -> bool:
    """Whether a symbolic link at a path points into its own folder, whatever other links that holds.

    '..' may only stand at the beginning, where it leaves folders that are no links.
    """
    parts = target.split("/")
    ups = next((i for i, part in enumerate(parts) if part != ".."), len(parts))
    return bool(target) and not target.startswith("/") and ups <= link.count("/") and ".." not in parts[ups:]


def write(blobs: Blobs, lines: Sequence[str]) -> str:
    """Store a manifest of lines that are in order."""
    return blobs.put_many([text(lines)])[0]


def text(lines: Sequence[str]) -> bytes:
    """The manifest of lines that are in order."""
    return "\n".join([HEAD, *lines, ""]).encode()


def files(blobs: Blobs, manifest: str) -> Tree:
    """The files of a version; raises `NotFound`, and `Corrupt` for what is not a manifest."""
    try:
        lines = blobs.get(manifest).decode().split("\n")
    except UnicodeDecodeError:
        raise _corrupt(manifest, "it is not UTF-8") from None
    if lines[0] != HEAD or lines[-1]:
        raise _corrupt(manifest, f"it does not begin with {HEAD!r}, or is cut off")
    return Tree(manifest, lines[1:-1])


def chunks_of(blobs: Blobs, file: Entry) -> list[chunks.Chunk]:
    """The chunks of a file, one for a file that is not cut; raises `Corrupt` where they are not as long as the file."""
    if not file.cut:
        return [(file.digest, file.size)]
    found = chunks.from_list(blobs.get(file.digest), file.digest)
    if sum(size for _, size in found) != file.size:
        raise Corrupt(
            f"{file.path} is {file.size:,} bytes and its chunks are not", expected="chunks of that many bytes"
        )
    return found


def needed(blobs: Blobs, manifest: str) -> Iterator[str]:
    """Every digest that a version needs: of its manifest, its files, lists of chunks and chunks. Some come twice."""
    yield manifest
    for file in files(blobs, manifest):
        yield file.digest
        if file.cut:
            yield from (digest for digest, _ in chunks_of(blobs, file))


def present(blobs: Blobs, manifest: str) -> bool:
    """Whether all that a version needs is there."""
    try:
        return all(map(blobs.has, needed(blobs, manifest)))
    except (NotFound, Corrupt):
        return False


def open_file(blobs: Blobs, file: Entry) -> BinaryIO:
    """A seekable reader of one file of a version."""
    if not file.cut:
        return blobs.open(file.digest)
    return io.BufferedReader(_Joined(blobs, chunks_of(blobs, file)), 1 << 16)


def add(blobs: Blobs, items: Iterable[tuple[str, bytes | Path | BinaryIO]]) -> Tree:
    """Store files under paths, and the manifest of them all; what is large is cut into chunks.

    Raises `Invalid` for a path that cannot be one, or that comes twice. Memory holds 16 MiB of one file, and as much of small
    ones, which are stored together.
    """
    lines: dict[str, str] = {}
    small: list[tuple[str, str, str, bytes]] = []
    held = 0

    def store() -> None:
        for (name, path, mode, content), digest in zip(small, blobs.put_many(c for *_, c in small), strict=True):
            lines[name] = Entry(path, mode, len(content), digest).line
        small.clear()

    for path, content in items:
        try:
            unescaped(name := escaped(path))
        except Corrupt:
            raise Invalid(f"{path!r} cannot be the path of a file", expected="a relative path without '..'") from None
        if name in lines:
            raise Invalid(f"{path!r} comes twice", expected="one file for each path")
        lines[name] = ""
        with _opened(content) as file:
            mode = "x" if isinstance(content, Path) and os.access(content, os.X_OK) else "f"
            head = _head(file)
            if len(head) > chunks.SMALLEST:
                lines[name] = _large(blobs, path, mode, head, file).line
                continue
        small.append((name, path, mode, head))
        held += len(head)
        if held > _TOGETHER or len(small) >= _MANY:
            store()
            held = 0
    store()
    ordered = [lines[name] for name in sorted(lines)]
    try:
        Tree("", ordered).paths  # noqa: B018  says when a file is also a folder
    except Corrupt as error:
        raise Invalid(error.what, expected="paths of one folder") from None
    return Tree(write(blobs, ordered), ordered)


@contextmanager
def _opened(content: bytes | Path | BinaryIO) -> Iterator[Any]:
    if isinstance(content, Path):
        with content.open("rb") as file:
            yield file
    else:
        yield io.BytesIO(content) if isinstance(content, bytes) else content


def _head(file: Any) -> bytes:
    """The first bytes: all of a small file, and one more than that of a larger one."""
    head = b""
    while len(head) <= chunks.SMALLEST and (piece := file.read(chunks.SMALLEST + 1 - len(head))):
        head += piece
    return head


def _large(blobs: Blobs, path: str, mode: str, head: bytes, file: Any) -> Entry:
    sizes: list[int] = []
    digests = blobs.put_many(_pieces(head, file, sizes))
    listed = blobs.put(chunks.to_list(list(zip(digests, sizes, strict=True))))
    return Entry(path, mode.upper(), sum(sizes), listed)


def _pieces(head: bytes, file: Any, sizes: list[int]) -> Iterator[memoryview]:
    buffer = bytearray(4 * chunks.LARGEST)
    view, held, ended = memoryview(buffer), len(head), False
    view[:held] = head
    while not ended:
        while held < len(buffer) and not ended:
            got = file.readinto(view[held:]) if hasattr(file, "readinto") else _read_into(file, view[held:])
            held, ended = held + (got or 0), not got
        at = 0
        for length in list(chunks.cuts(view[:held], ends=ended)) if held else []:
            sizes.append(length)
            yield view[at : at + length]
            at += length
        view[: held - at] = bytes(view[at:held])
        held -= at


def _read_into(file: Any, view: memoryview) -> int:
    data = file.read(len(view))
    view[: len(data)] = data
    return len(data)


class _Joined(io.RawIOBase):
    """Chunks one after the other, as a file; one of them is in memory."""

    def __init__(self, blobs: Blobs, parts: Sequence[chunks.Chunk]) -> None:
        self._blobs, self._parts, self._at = blobs, parts, 0
        self._starts = [0]
        for _, size in parts:
            self._starts.append(self._starts[-1] + size)
        self._held, self._bytes = -1, b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        from bisect import bisect_right

        if self._at >= self._starts[-1] or not len(buffer):
            return 0
        i = bisect_right(self._starts, self._at) - 1
        if i != self._held:
            self._held, self._bytes = i, self._blobs.get(self._parts[i][0])
            if len(self._bytes) != self._parts[i][1]:
                raise Corrupt(
                    f"chunk {self._parts[i][0]} is not as long as its list says", expected="the list to be right"
                )
        begin = self._at - self._starts[i]
        piece = self._bytes[begin : begin + len(buffer)]
        memoryview(buffer)[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._starts[-1]}[whence]
        if at < 0:
            raise ValueError(f"position {at} is before the beginning")
        self._at = at
        return at

    def tell(self) -> int:
        return self._at


SCHEMA: dict[str, Any] = {
    "columns": [
        {"name": "path", "type": "string", "nullable": False},
        {"name": "size", "type": "int64", "nullable": False},
        {"name": "digest", "type": "string", "nullable": False},
        {"name": "mode", "type": "string", "nullable": False},
        {"name": "media_type", "type": "string", "nullable": True},
        {"name": "content", "type": "binary", "nullable": False},
    ]
}


def frame(blobs: Blobs, manifest: str, ref: str = "") -> Frame:
    """The files of a version as a table: path, size, digest, mode, media_type by the ending, and content.

    Contents are read only when that column is asked for, a few MiB at a time. A path that is not UTF-8 is given as it is
    written in the manifest.
    """
    from boucle.core.frames import Frame, arrow_schema
    from boucle.core.schema import Schema

    tree = files(blobs, manifest)
    schema = Schema.from_json(SCHEMA)

    def opener(columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        names = schema.names if columns is None else tuple(columns)
        arrow = arrow_schema(schema.select(names))
        for some in _batches(tree, "content" in names):
            values = {
                "path": [escaped(e.path) for e in some],
                "size": [e.size for e in some],
                "digest": [e.digest for e in some],
                "mode": [e.mode.lower() for e in some],
                "media_type": [media_type(e.path) for e in some] if "media_type" in names else [],
                "content": [_content(blobs, e) for e in some] if "content" in names else [],
            }
            yield pa.RecordBatch.from_arrays([pa.array(values[n], arrow.field(n).type) for n in names], schema=arrow)

    return Frame(schema, opener, len(tree), manifest, ref)


def media_type(path: str) -> str | None:
    """What a file holds, by the ending of its name."""
    import mimetypes

    return mimetypes.guess_type(path)[0]


def _batches(tree: Tree, contents: bool) -> Iterator[list[Entry]]:
    some: list[Entry] = []
    size = 0
    for file in tree:
        if some and (len(some) >= 65_536 or (contents and size + file.size > _SMALL)):
            yield some
            some, size = [], 0
        some.append(file)
        size += file.size
    if some:
        yield some


def _content(blobs: Blobs, file: Entry) -> bytes:
    if file.size > (1 << 31) - 1:
        raise Invalid(
            f"{file.path} has {file.size:,} bytes",
            expected="at most 2 GiB in a cell",
            fix="read it with trees.open_file",
        )
    return b"".join(blobs.get(digest) for digest, _ in chunks_of(blobs, file))


def _corrupt(manifest: str, why: str) -> Corrupt:
    return Corrupt(f"manifest {manifest[:12]}: {why}", expected="what was written", fix="boucle fsck")
