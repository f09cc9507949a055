"""Blobs as read-only files: `root/ab/cdef...`, named by digest, written next door and moved into place. Those that came
together lie in packs: `root/packs`, see `packs`."""

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
from boucle.plugins.blobs.packs import Packs

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
        self._packs = Packs(self.root / "packs", self._temporary, durable)

    @classmethod
    def connect(cls, location: str, root: Path, *, synchronous: str = "normal") -> Self:
        return cls(location or root / "blobs", durable=synchronous == "full")

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

    def put_many(self, items: Iterable[bytes | bytearray | memoryview]) -> list[str]:
        with self._explained():
            return self._packs.add(items, self._lies_apart)

    def open(self, digest: str) -> BinaryIO:
        place = self._place(digest)
        with self._explained(digest):
            return self._packs.open(bytes.fromhex(digest)) or place.open("rb")

    def get(self, digest: str) -> bytes:
        with self._explained(digest):
            packed = self._packs.read(bytes.fromhex(digest)) if _is_digest(digest) else None
            data = self._place(digest).read_bytes() if packed is None else packed
        if _hasher(len(data)).update(data).hexdigest() != digest:
            raise _damaged(digest)
        return data

    def has(self, digest: str) -> bool:
        place = self._place(digest)
        with self._explained():
            return self._packed(digest) or place.is_file()

    def size(self, digest: str) -> int:
        place = self._place(digest)
        with self._explained(digest):
            found = self._packs.find(bytes.fromhex(digest))
            return place.stat().st_size if found is None else found[0].lengths[found[1]]

    def stored(self, digest: str) -> float:
        place = self._place(digest)
        with self._explained(digest):
            packed = self._packs.stored(bytes.fromhex(digest))
            try:
                return max(place.stat().st_mtime, packed)
            except FileNotFoundError:
                if packed:
                    return packed
                raise

    def path(self, digest: str) -> Path:
        """What lies in a pack is written as a file of its own first."""
        place = self._place(digest)
        with self._explained(digest):
            if not place.exists() and (packed := self._packs.open(bytes.fromhex(digest))) is not None:
                with packed:
                    if self._store(_chunks(packed), 0, apart=True) != digest:
                        raise _damaged(digest)
            place.stat()
            return place

    def remove(self, digest: str) -> bool:
        place = self._place(digest)
        with self._explained():
            packed = self._packs.remove(bytes.fromhex(digest))
            try:
                place.unlink()
            except FileNotFoundError:
                return packed
            self._sync(place.parent)
            return True

    def list(self) -> Iterator[str]:
        with self._explained():
            packed: set[bytes] = set()
            for pack in self._packs:
                for raw, _, _ in pack.live():
                    if raw not in packed:
                        packed.add(raw)
                        yield raw.hex()
            for folder in sorted(self._folders()):
                for entry in os.scandir(folder):
                    digest = folder.name + entry.name
                    if _is_digest(digest) and bytes.fromhex(digest) not in packed:
                        yield digest

    def check(self) -> Iterator[str]:
        try:
            digests = list(self.list())
        except Corrupt as error:
            yield error.what
            return
        for digest in digests:
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
        """Remove temporary files older than a day, write packs again that are mostly removed, join small ones; returns how
        many files went."""
        with self._explained():
            swept = self._packs.sweep()
            for path in self._stale():
                path.unlink(missing_ok=True)
                swept += 1
        return swept

    def _store(self, chunks: Iterable[bytes], size: int, *, apart: bool = False) -> str:
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
                if self._lies_apart(digest, file.tell()) or (not apart and self._packed(digest)):
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
        return self._lies_apart(digest, size) or self._packed(digest)

    def _lies_apart(self, digest: str, size: int) -> bool:
        place = self._place(digest)
        try:
            if place.stat().st_size != size:  # a file cut short is written again
                return False
            os.utime(place)  # whoever removes what is old sees that somebody came to need it
        except FileNotFoundError:
            return False
        return True

    def _packed(self, digest: str) -> bool:
        return self._packs.keep(bytes.fromhex(digest))

    def _folders(self) -> Iterator[Path]:
        if self.root.is_dir():
            for entry in os.scandir(self.root):
                if len(entry.name) == 2 and _DIGITS.issuperset(entry.name):
                    yield Path(entry.path)

    def _stale(self) -> Iterator[Path]:
        begun = [Path(e.path) for e in os.scandir(self._temporary)] if self._temporary.is_dir() else []
        for path in [*begun, *self._packs.orphans()]:
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _STALE:
                    yield path

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
                    f"no blob {digest}", expected="a digest that was stored", fix="boucle doctor finds what is missing"
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
    hasher = _hasher(file.seek(0, os.SEEK_END))
    file.seek(0)
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
