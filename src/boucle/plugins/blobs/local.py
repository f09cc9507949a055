"""Blobs as read-only files: `root/ab/cdef...`, named by digest, written next door and moved into place."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Self

from blake3 import blake3

from boucle.core.errors import Corrupt, Invalid, NotFound, Unavailable

_CHUNK = 4 << 20  # bytes held in memory while streaming
_LARGE = 8 << 20  # bytes from which hashing in several threads pays
_STALE = 86_400.0  # seconds after which a temporary file belongs to nobody
_DIGITS = frozenset("0123456789abcdef")


class LocalBlobs:
    """A folder of files. With `durable`, `put` returns only when the bytes and the folder entry are on the disk."""

    name: ClassVar[str] = "local"
    capabilities: ClassVar[frozenset[str]] = frozenset({"durable", "shared", "paths"})

    def __init__(self, root: str | os.PathLike[str], durable: bool = True) -> None:
        self.root = Path(root)
        self.durable = durable
        self._temporary = self.root / "tmp"
        self._count = itertools.count()

    @classmethod
    def connect(cls, location: str, root: Path) -> Self:
        return cls(location or root / "blobs")

    def put(self, data: bytes | Path | Iterable[bytes]) -> str:
        with self._explained():
            if isinstance(data, bytes | bytearray | memoryview):
                data = bytes(data)
                digest = str(_hasher(len(data)).update(data).hexdigest())
                return digest if self._holds(digest, len(data)) else self._store([data], len(data))
            if isinstance(data, Path):
                with _opened(data) as file:
                    size = os.fstat(file.fileno()).st_size
                    digest = _hashed(file)  # reading twice is cheaper than writing what is there already
                    file.seek(0)
                    return digest if self._holds(digest, size) else self._store(_chunks(file), size)
            return self._store(data, 0)

    def open(self, digest: str) -> BinaryIO:
        with self._explained(digest):
            return self._place(digest).open("rb")

    def get(self, digest: str) -> bytes:
        with self._explained(digest):
            data = self._place(digest).read_bytes()
        if _hasher(len(data)).update(data).hexdigest() != digest:
            raise _damaged(digest)
        return data

    def has(self, digest: str) -> bool:
        with self._explained():
            return self._place(digest).is_file()

    def size(self, digest: str) -> int:
        with self._explained(digest):
            return self._place(digest).stat().st_size

    def path(self, digest: str) -> Path:
        with self._explained(digest):
            place = self._place(digest)
            place.stat()
            return place

    def remove(self, digest: str) -> bool:
        place = self._place(digest)
        with self._explained():
            try:
                place.unlink()
            except FileNotFoundError:
                return False
            self._sync(place.parent)
            return True

    def list(self) -> Iterator[str]:
        with self._explained():
            for folder in sorted(self._folders()):
                for entry in os.scandir(folder):
                    digest = folder.name + entry.name
                    if _is_digest(digest):
                        yield digest

    def check(self) -> Iterator[str]:
        for digest in self.list():
            try:
                with self.open(digest) as file:
                    found = _hashed(file)
            except NotFound:
                continue  # removed since it was listed
            except Unavailable as error:
                yield error.what
                continue
            if found != digest:
                yield _damaged(digest).what
        for path in self._stale():
            yield f"{path} was left behind by a write that was cut off"

    def sweep(self) -> int:
        """Remove temporary files older than a day; returns how many there were."""
        swept = 0
        with self._explained():
            for path in self._stale():
                path.unlink(missing_ok=True)
                swept += 1
        return swept

    def _store(self, chunks: Iterable[bytes], size: int) -> str:
        self._temporary.mkdir(parents=True, exist_ok=True)
        # The process, thread and count make the name ours alone; O_EXCL proves it.
        written = self._temporary / f"{os.getpid()}-{threading.get_ident()}-{next(self._count)}-{time.time_ns()}"
        hasher = _hasher(size)
        try:
            with written.open("xb") as file:
                for chunk in chunks:
                    hasher.update(chunk)
                    file.write(chunk)
                file.flush()
                os.fchmod(file.fileno(), 0o444)
                digest = str(hasher.hexdigest())
                place = self._place(digest)
                if self._holds(digest, file.tell()):
                    written.unlink()
                    return digest
                if self.durable:
                    os.fsync(file.fileno())
            try:
                written.replace(place)
            except FileNotFoundError:
                place.parent.mkdir(exist_ok=True)
                self._sync(self.root)
                written.replace(place)
            self._sync(place.parent)
        except BaseException:
            written.unlink(missing_ok=True)
            raise
        return digest

    def _place(self, digest: str) -> Path:
        if not _is_digest(digest):
            raise Invalid(f"{digest!r} is not a digest", expected="64 lower-case hexadecimal digits")
        return self.root / digest[:2] / digest[2:]

    def _holds(self, digest: str, size: int) -> bool:
        try:
            return self._place(digest).stat().st_size == size  # a file cut short is written again
        except FileNotFoundError:
            return False

    def _folders(self) -> Iterator[Path]:
        if self.root.is_dir():
            for entry in os.scandir(self.root):
                if len(entry.name) == 2 and _DIGITS.issuperset(entry.name):
                    yield Path(entry.path)

    def _stale(self) -> Iterator[Path]:
        if self._temporary.is_dir():
            for entry in os.scandir(self._temporary):
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - entry.stat().st_mtime > _STALE:
                        yield Path(entry.path)

    def _sync(self, folder: Path) -> None:
        if self.durable:
            handle = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    @contextlib.contextmanager
    def _explained(self, digest: str = "") -> Iterator[None]:
        try:
            yield
        except (Invalid, NotFound, Corrupt, Unavailable):
            raise
        except OSError as error:
            if digest and isinstance(error, FileNotFoundError):
                raise NotFound(
                    f"no blob {digest}", expected="a digest that was stored", fix="boucle check finds what is missing"
                ) from None
            raise self._unavailable(error) from error

    def _unavailable(self, error: OSError) -> Unavailable:
        what = f"blobs in {self.root}: {error.strerror or error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return Unavailable(what, expected="room on the disk", fix="free some space and try again")
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return Unavailable(what, expected="a folder that can be written", fix=f"chmod -R u+w {self.root}")
        return Unavailable(what, expected="a disk that answers", fix=f"look at {self.root}")


def _is_digest(text: str) -> bool:
    return isinstance(text, str) and len(text) == 64 and _DIGITS.issuperset(text)


def _hasher(size: int) -> Any:
    return blake3(max_threads=blake3.AUTO if size >= _LARGE else 1)


def _hashed(file: BinaryIO) -> str:
    hasher = _hasher(os.fstat(file.fileno()).st_size)
    for chunk in _chunks(file):
        hasher.update(chunk)
    return str(hasher.hexdigest())


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise NotFound(f"no file {path}", expected="a file to store") from None
    except IsADirectoryError:
        raise Invalid(f"{path} is a folder", expected="a file to store") from None


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk


def _damaged(digest: str) -> Corrupt:
    return Corrupt(
        f"blob {digest} no longer has the content it was stored with",
        expected="bytes with that digest",
        fix="restore the file from a backup, or remove it and make it again",
    )
