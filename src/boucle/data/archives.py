"""Archives of files: members taken out in order with bounded memory and disk, wherever their names would lead.

Members lie under numbers of our own, so no name can write outside the folder. Whatever is no plain file (links, devices) or has
a name that could lead elsewhere is left out and named.
"""

from __future__ import annotations

import contextlib
import lzma
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from boucle.core import files
from boucle.core.errors import BoucleError, Invalid, Unavailable
from boucle.ports.place import checked

_PIECE = 1 << 20
_MOST = 200_000  # members
_INDEX = 1 << 26  # bytes of the list of members at the end of a zip archive
_SHOWN = 5
_NAME = re.compile(r"[^A-Za-z0-9._-]+")
_WRONG = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, struct.error,
    OverflowError, RecursionError, NotImplementedError, RuntimeError, MemoryError, KeyError, IndexError, TypeError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Member:
    """A file that was taken out: its path in the archive, where it lies now, and when it was changed (0 where not told)."""

    path: str
    local: Path
    size: int
    modified: float = 0.0


@dataclass(slots=True)
class Unpacked:
    """The members of an archive in their order; of those with one path the last. `skipped` says what was left out, and why."""

    members: list[Member] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def unpack(path: Path, folder: Path, *, largest: int = 0, said: Callable[[int], None] | None = None) -> Unpacked:
    """Take the members of a zip or (compressed) tar archive out into a folder; `said` is told the bytes so far.

    Raises `Invalid` for what is not a whole archive, is encrypted, or unpacks to more than `largest` bytes (0: to more than
    1 GiB and more than 200 times its size); what was taken out by then is removed with the folder by the caller.
    """
    most = largest or max(files.UNPACKED, files.RATIO * path.stat().st_size)
    into = _Folder(path, folder, most, told=largest > 0, said=said)
    with path.open("rb") as file:
        head = file.read(4)
    try:
        if head[:2] == b"PK":
            _unzip(path, into)
        else:
            _untar(path, into, largest)
    except BoucleError:
        raise
    except _WRONG as error:
        raise Invalid(
            f"{path} is not a whole archive: {str(error)[:200] or type(error).__name__}",
            expected="a zip or tar archive as it was made",
            fix="fetch the file again",
        ) from None
    return into.result()


class _Folder:
    """Where members go, how much there may be of them, and what was left out."""

    def __init__(
        self, archive: Path, folder: Path, most: int, *, told: bool, said: Callable[[int], None] | None
    ) -> None:
        self.archive, self.folder, self.left, self.most, self.told, self.said = archive, folder, most, most, told, said
        self.members: dict[str, Member] = {}
        self.skipped: dict[str, list[str]] = {}
        self.seen = 0

    def skip(self, name: str, why: str) -> None:
        names = self.skipped.setdefault(why, [])
        names.append(repr(name[:100])) if len(names) < _SHOWN else names.append("")

    def allows(self, name: str) -> bool:
        """Whether a member of that name may be taken out; counts it."""
        self.seen += 1
        if self.seen > _MOST:
            raise Invalid(
                f"{self.archive} has more than {_MOST:,} members", expected="fewer", fix="unpack it and name the folder"
            )
        try:
            checked(name)
            name.encode()
        except (Invalid, UnicodeEncodeError):
            self.skip(name, "a name that could lead elsewhere")
            return False
        return True

    def take(self, name: str, pieces: Iterator[bytes], modified: float) -> None:
        """Write a member, as long as there is room."""
        local = self.folder / f"{self.seen}-{_NAME.sub('_', name.rpartition('/')[2])[-80:]}"
        size = 0
        with local.open("xb") as out:
            for piece in pieces:
                size += len(piece)
                self.left -= len(piece)
                if self.left < 0:
                    raise self._bomb()
                try:
                    out.write(piece)
                except OSError as error:
                    raise Unavailable(f"{local} cannot be written: {error.strerror}", fix="make room") from error
        if name in self.members:
            self.members[name].local.unlink()
            del self.members[name]
        self.members[name] = Member(name, local, size, modified)
        if self.said is not None:
            self.said(self.most - self.left)

    def _bomb(self) -> Invalid:
        size = self.archive.stat().st_size
        rule = "" if self.told else f", {files.RATIO} times its size or 1 GiB"
        return Invalid(
            f"{self.archive} has {size} bytes and unpacks to more than {self.most} bytes{rule}",
            expected="an archive that was not made to fill a disk",
            fix="if it is right, say how much it may be in bytes: largest=100000000000",
        )

    def result(self) -> Unpacked:
        skipped = []
        for why, names in self.skipped.items():
            shown = ", ".join(n for n in names if n)
            skipped.append(f"{why}: {shown}" + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""))
        return Unpacked(list(self.members.values()), skipped)


# --- zip ------------------------------------------------------------------------------------------------------------


def _unzip(path: Path, into: _Folder) -> None:
    size = _index_size(path)
    if size > _INDEX:
        raise Invalid(
            f"the list of members of {path} has {size:,} bytes",
            expected=f"at most {_INDEX:,}",
            fix="unpack it and name the folder",
        )
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = member.filename
            kind = (member.external_attr >> 28) & 0xF if member.create_system == 3 else 0
            if member.is_dir():
                continue
            if kind not in (0, 8):
                into.seen += 1
                into.skip(name, "not a plain file")
            elif member.flag_bits & 1:
                raise Invalid(f"{path}: {name!r} is encrypted", expected="an archive without a password")
            elif into.allows(name):
                with archive.open(member) as file:
                    into.take(name, _read(file), _moment(member.date_time))


def _index_size(path: Path) -> int:
    """Bytes of the central directory, from the records at the end (APPNOTE.TXT 4.3.14 to 4.3.16)."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - 65_557))
        tail = file.read()
        at = tail.rfind(b"PK\5\6")
        if at < 0 or at + 22 > len(tail):
            raise zipfile.BadZipFile("its end is missing")
        declared = int.from_bytes(tail[at + 12 : at + 16], "little")
        big = tail.rfind(b"PK\6\6", 0, at)
        if 0 <= big <= len(tail) - 48:  # `zipfile` believes it whatever the other record says
            declared = max(
                declared if declared != 0xFFFFFFFF else 0, int.from_bytes(tail[big + 40 : big + 48], "little")
            )
    return min(declared, size)


def _read(file: IO[bytes]) -> Iterator[bytes]:
    while piece := file.read(_PIECE):
        yield piece


def _moment(parts: tuple[int, ...]) -> float:
    with contextlib.suppress(ValueError):
        year, month, day, hour, minute, second = parts
        return datetime(year, month, day, hour, minute, min(second, 59), tzinfo=UTC).timestamp()
    return 0.0


# --- tar ------------------------------------------------------------------------------------------------------------


def _untar(path: Path, into: _Folder, largest: int) -> None:
    stream = _Forward(files.chunks(path, _PIECE, largest=largest))
    with tarfile.open(fileobj=stream, mode="r:", ignore_zeros=False, errorlevel=2) as archive:  # type: ignore[call-overload]
        while (member := archive.next()) is not None:
            archive.members = []  # they would all be kept otherwise
            name = member.name.removeprefix("./")
            if member.isdir():
                continue
            if not member.isreg() or member.sparse is not None:
                into.seen += 1
                into.skip(name, "not a plain file")
            elif into.allows(name):
                stream.seek(member.offset_data)
                modified = member.mtime if isinstance(member.mtime, int | float) and 0 < member.mtime < 2**40 else 0
                into.take(name, stream.pieces(member.size), float(modified))


class _Forward:
    """A stream that `tarfile` reads as a file: forward only, but for the last byte, and without large headers."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._held, self._at, self._last = chunks, memoryview(b""), 0, b""

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence or offset < self._at - len(self._last) or offset > 1 << 62:
            raise tarfile.ReadError("its parts overlap")
        if offset < self._at:
            self._held, self._at = memoryview(self._last + bytes(self._held)), offset
            self._last = b""
        for _ in self.pieces(offset - self._at, whole=False):
            pass
        return self._at

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _PIECE:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return b"".join(self.pieces(size, whole=False))

    def pieces(self, size: int, *, whole: bool = True) -> Iterator[bytes]:
        """The next bytes; raises when there are not as many and the whole is wanted."""
        if size < 0:
            raise tarfile.ReadError("a part of negative size")
        while size:
            if not self._held:
                self._held = memoryview(next(self._chunks, b""))
                if not self._held:
                    if whole:
                        raise tarfile.ReadError("unexpected end of data")
                    return
            piece = bytes(self._held[:size])
            self._held, self._at, self._last = self._held[len(piece) :], self._at + len(piece), piece[-1:]
            size -= len(piece)
            yield piece

    def close(self) -> None:
        """The file is closed by whoever opened it."""
