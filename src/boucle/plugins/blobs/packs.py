"""Many blobs in one file: `NAME.pack` holds their bytes one after the other, `NAME.index` says where each lies.

A pack is visible once its index is, which is moved into place last. An index is the line `boucle pack 1`, the number of
blobs, their digests in order, offsets, lengths (64 bits each, little-endian) and the BLAKE3 digest of all that. What is
removed is marked: its digest is added to `NAME.dead`, until `sweep` writes the pack again without it.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import mmap
import os
import sys
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from blake3 import blake3

from boucle.core.errors import Corrupt

_HEAD = b"boucle pack 1\n\0\0"
_BUFFER = 8 << 20  # bytes written at once
_TICK = 20_000_000  # nanoseconds within which two changes of a folder may bear the same time
_LEARNT = 0.25  # how much a write says about the next
_SMALL = 32 << 20  # bytes of a pack that is joined with others
_MANY = 16  # small packs, from which joining pays


class Pack:
    """The index of one pack."""

    __slots__ = ("dead", "digests", "lengths", "name", "offsets")

    def __init__(self, name: str, digests: bytes, offsets: array[int], lengths: array[int], dead: frozenset[bytes]):
        self.name, self.digests, self.offsets, self.lengths, self.dead = name, digests, offsets, lengths, dead

    def __len__(self) -> int:
        return len(self.offsets)

    def find(self, digest: bytes) -> int:
        """The place of a blob in the index, or -1."""
        digests = self.digests
        at = bisect_left(range(len(self.offsets)), digest, key=lambda i: digests[i * 32 : i * 32 + 32])
        return at if digests[at * 32 : at * 32 + 32] == digest and digest not in self.dead else -1

    def live(self) -> Iterator[tuple[bytes, int, int]]:
        """Digest, offset and length of each blob that was not removed."""
        for i, (offset, length) in enumerate(zip(self.offsets, self.lengths, strict=True)):
            digest = self.digests[i * 32 : i * 32 + 32]
            if digest not in self.dead:
                yield digest, offset, length


class _Index:
    """All packs that there were at some moment."""

    __slots__ = ("_asked", "_places", "_total", "packs")

    def __init__(self, packs: dict[str, Pack]) -> None:
        self.packs, self._asked, self._total = packs, 0, sum(map(len, packs.values()))
        self._places: dict[bytes, tuple[Pack, int]] | None = None  # made once enough was asked for

    def find(self, digest: bytes) -> tuple[Pack, int] | None:
        if self._places is None:
            self._asked += 1
            if self._asked * 8 < self._total or not self._total:
                return self._search(digest)
            self._places = {p.digests[i * 32 : i * 32 + 32]: (p, i) for p in self.packs.values() for i in range(len(p))}
        found = self._places.get(digest)
        return self._search(digest) if found is not None and digest in found[0].dead else found

    def _search(self, digest: bytes) -> tuple[Pack, int] | None:
        for pack in self.packs.values():
            if (at := pack.find(digest)) >= 0:
                return pack, at
        return None


class Packs:
    """The packs of a folder. Safe for many threads and processes."""

    def __init__(self, folder: Path, temporary: Path, durable: bool) -> None:
        self.folder, self._temporary, self._durable = folder, temporary, durable
        self._at = str(folder)  # a Path for each blob would cost more than reading a small one
        self._index = _Index({})
        self._stamp = -1  # when the folder changed last, as far as is known; -1 when that must be looked up

    def __iter__(self) -> Iterator[Pack]:
        return iter(self._current().packs.values())

    def find(self, digest: bytes) -> tuple[Pack, int] | None:
        """Where a blob lies: a pack and the place in its index."""
        return self._current().find(digest)

    def keep(self, digest: bytes) -> bool:
        """Whether a blob lies in a pack, which is then as young as one that was written now."""
        found = self.find(digest)
        if found is None:
            return False
        try:
            os.utime(f"{self._at}/{found[0].name}.pack")
        except FileNotFoundError:
            return False  # swept meanwhile, or lost
        return True

    def stored(self, digest: bytes) -> float:
        """When a blob was put into a pack last, or 0."""
        found = self.find(digest)
        try:
            return (self.folder / f"{found[0].name}.pack").stat().st_mtime if found else 0.0
        except FileNotFoundError:
            return 0.0

    def read(self, digest: bytes) -> bytes | None:
        """The bytes of a blob as they lie there, or None."""
        opened = self._opened(digest)
        if opened is None:
            return None
        descriptor, offset, length = opened
        try:
            return _exactly(descriptor, offset, length)
        finally:
            os.close(descriptor)

    def open(self, digest: bytes) -> io.BufferedReader | None:
        """A reader of one blob, or None."""
        opened = self._opened(digest)
        return None if opened is None else io.BufferedReader(_Section(*opened), 1 << 16)

    def add(self, items: Iterable[bytes | bytearray | memoryview], elsewhere: Callable[[str, int], bool]) -> list[str]:
        """Write a pack of what is neither in one nor `elsewhere`; returns the digests of all items."""
        fresh, digests = dict[bytes, tuple[int, int]](), list[str]()
        draft: _Draft | None = None
        try:
            for item in items:
                size = len(item)
                hasher = blake3(item)
                digest = hasher.digest()
                text = digest.hex()
                digests.append(text)
                if digest in fresh or self.keep(digest) or elsewhere(text, size):
                    continue
                if draft is None:
                    draft = _Draft(self._temporary)
                fresh[digest] = draft.size, size
                draft.write(item)
            if draft is not None:
                self._publish(draft, fresh)
        except BaseException:
            if draft is not None:
                draft.discard()
            raise
        return digests

    def remove(self, digest: bytes) -> bool:
        """Mark a blob as removed, in every pack that has it."""
        if self.find(digest) is None:
            return False
        with self._alone():
            self._stamp, removed = -1, False
            for pack in self:
                if pack.find(digest) >= 0:
                    marks = os.open(self.folder / f"{pack.name}.dead", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
                    try:
                        os.write(marks, digest)
                        if self._durable:
                            os.fsync(marks)
                    finally:
                        os.close(marks)
                    removed = True
            os.utime(self.folder)  # adding to a file does not change its folder, which is what others look at
            self._stamp = -1
        return removed

    def sweep(self) -> int:
        """Write packs again that are mostly removed, and join small ones; returns how many went."""
        if not self._current().packs:
            return 0
        with self._alone():
            self._stamp = -1
            whole = {p.name: sum(p.lengths) for p in self}
            alive = {p.name: sum(length for _, _, length in p.live()) for p in self}
            small = [n for n in whole if whole[n] < _SMALL]
            going = {n for n in whole if alive[n] * 2 < whole[n] or not alive[n]} | set(
                small if len(small) >= _MANY else ()
            )
            old = [p for p in self if p.name in going]
            if old:
                self._rewrite(old)
                for pack in old:
                    for ending in ("index", "pack", "dead"):  # once the index is gone, nobody looks for the rest
                        (self.folder / f"{pack.name}.{ending}").unlink(missing_ok=True)
                self._stamp = -1
        return len(old)

    def orphans(self) -> Iterator[Path]:
        """Packs whose index never came."""
        with contextlib.suppress(FileNotFoundError):
            names = {entry.name for entry in os.scandir(self.folder)}
            for name in names:
                stem, _, ending = name.partition(".")
                if ending in ("pack", "dead") and f"{stem}.index" not in names:
                    yield self.folder / name

    def _rewrite(self, old: list[Pack]) -> None:
        fresh: dict[bytes, tuple[int, int]] = {}
        draft = _Draft(self._temporary)
        try:
            for pack in old:
                descriptor = os.open(self.folder / f"{pack.name}.pack", os.O_RDONLY)
                try:
                    for digest, offset, length in pack.live():
                        if digest not in fresh:
                            fresh[digest] = draft.size, length
                            draft.write(_exactly(descriptor, offset, length))
                finally:
                    os.close(descriptor)
            if fresh:
                self._publish(draft, fresh)
            else:
                draft.discard()
        except BaseException:
            draft.discard()
            raise

    def _publish(self, draft: _Draft, fresh: dict[bytes, tuple[int, int]]) -> None:
        draft.close(self._durable)
        index = draft.path.with_suffix(".index")
        name = os.urandom(16).hex()
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(index, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
            try:
                _write(descriptor, memoryview(index_of(fresh)))
                if self._durable:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            draft.path.replace(self.folder / f"{name}.pack")
            index.replace(self.folder / f"{name}.index")
        except BaseException:
            index.unlink(missing_ok=True)
            raise
        if self._durable:
            for folder in (self.folder, self.folder.parent):
                descriptor = os.open(folder, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        self._stamp = -1

    def _current(self) -> _Index:
        try:
            stamp = os.stat(self._at).st_mtime_ns  # noqa: PTH116
        except FileNotFoundError:
            return _Index({})
        if stamp != self._stamp:
            now = time.time_ns()
            packs = self._loaded(self._index.packs)
            if packs != self._index.packs:
                self._index = _Index(packs)
            # Of a folder that changed just now it cannot be known that it will not change again at the same time.
            self._stamp = stamp if now - stamp > _TICK else -1
        return self._index

    def _loaded(self, before: dict[str, Pack]) -> dict[str, Pack]:
        while True:
            names = {entry.name for entry in os.scandir(self.folder)}
            try:
                return {
                    stem: self._read(stem, before.get(stem), f"{stem}.dead" in names)
                    for stem in sorted(n[:-6] for n in names if n.endswith(".index"))
                }
            except FileNotFoundError:
                continue  # swept meanwhile

    def _read(self, name: str, before: Pack | None, some_dead: bool) -> Pack:
        dead: frozenset[bytes] = frozenset()
        if some_dead:
            marks = (self.folder / f"{name}.dead").read_bytes()
            dead = frozenset(marks[i : i + 32] for i in range(0, len(marks) - 31, 32))
        if before is not None and before.dead == dead:
            return before
        path = self.folder / f"{name}.index"
        return Pack(name, *read_index(path.read_bytes(), str(path)), dead)

    def _opened(self, digest: bytes) -> tuple[int, int, int] | None:
        while (found := self.find(digest)) is not None:
            pack, at = found
            try:
                descriptor = os.open(f"{self._at}/{pack.name}.pack", os.O_RDONLY)
            except FileNotFoundError:
                if not (self.folder / f"{pack.name}.index").exists():
                    self._stamp = -1
                    continue  # swept meanwhile: it lies in another now
                raise
            return descriptor, pack.offsets[at], pack.lengths[at]
        return None

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        descriptor = os.open(self.folder / "lock", os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


# Seconds for a byte that is written past the page cache (True) and into it, as the last writes took; the beginning is a guess
# that lets the first be tried, and the second when the disk is slower than most are.
_cost = {True: 0.0, False: 2.5e-9}


def index_of(places: Mapping[bytes, tuple[int, int]]) -> bytes:
    """The index of a pack in which blobs lie at these offsets, with these lengths."""
    order = sorted(places)
    offsets, lengths = (_little(array("Q", [places[d][i] for d in order])).tobytes() for i in (0, 1))
    body = _HEAD + len(order).to_bytes(8, "little") + b"".join(order) + offsets + lengths
    return bytes(body + blake3(body).digest())


def read_index(raw: bytes, path: str) -> tuple[bytes, array[int], array[int]]:
    """The digests, offsets and lengths of an index; raises `Corrupt`."""
    body, count = raw[:-32], int.from_bytes(raw[16:24], "little")
    if not raw.startswith(_HEAD) or len(body) != 24 + 48 * count or blake3(body).digest() != raw[-32:]:
        raise Corrupt(f"{path} is not what was written", expected="the index of a pack", fix="restore it from a backup")
    offsets, lengths = array("Q"), array("Q")
    offsets.frombytes(body[24 + 32 * count : 24 + 40 * count])
    lengths.frombytes(body[24 + 40 * count :])
    return body[24 : 24 + 32 * count], _little(offsets), _little(lengths)


class _Draft:
    """The bytes of a pack on their way to the disk.

    Full buffers go past the page cache or into it, whichever was faster lately: filling fresh memory of the system often costs
    more than a fast disk does, and throws out what others need. What fits into one buffer goes the usual way.
    """

    __slots__ = ("_buffer", "_descriptor", "_direct", "_filled", "_written", "path", "size")

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{os.urandom(16).hex()}.pack"
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
        self._buffer: mmap.mmap | None = None  # its memory begins at a page, as direct writes need
        self._direct, self._filled, self._written, self.size = False, 0, 0, 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Add to the end."""
        view = memoryview(data).cast("B")
        self.size += len(view)
        if self._buffer is None:
            self._buffer = mmap.mmap(-1, _BUFFER)
        while len(view) > (room := _BUFFER - self._filled):
            self._buffer[self._filled :] = view[:room]
            self._filled, view = _BUFFER, view[room:]
            self._go(direct=_cost[True] <= _cost[False])
            self._flush()
        self._buffer[self._filled : self._filled + len(view)] = view
        self._filled += len(view)

    def close(self, durable: bool) -> None:
        """Write the rest."""
        self._go(direct=False)  # which takes whole pages only
        self._flush()
        if durable:
            os.fsync(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = -1

    def discard(self) -> None:
        """Leave nothing behind."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self.path.unlink(missing_ok=True)

    def _flush(self) -> None:
        if not self._filled or self._buffer is None:
            return
        started, done, whole = time.perf_counter(), 0, memoryview(self._buffer)
        while done < self._filled:
            try:
                done += os.pwrite(self._descriptor, whole[done : self._filled], self._written + done)
            except OSError:
                if not self._direct:
                    raise
                self._go(direct=False)
                _cost[True] = 1.0  # this file system does not take them
        took = (time.perf_counter() - started) / self._filled
        _cost[self._direct] += _LEARNT * (took - _cost[self._direct])
        self._written += self._filled
        self._filled = 0

    def _go(self, *, direct: bool) -> None:
        flag = getattr(os, "O_DIRECT", 0)
        if flag and direct != self._direct:
            flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
            with contextlib.suppress(OSError):
                fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags | flag if direct else flags & ~flag)
                self._direct = direct


class _Section(io.RawIOBase):
    """A part of a file, as a file."""

    def __init__(self, descriptor: int, offset: int, length: int) -> None:
        self._descriptor, self._offset, self._length, self._at = descriptor, offset, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        wanted = max(0, min(len(buffer), self._length - self._at))
        got = os.preadv(self._descriptor, [memoryview(buffer)[:wanted]], self._offset + self._at) if wanted else 0
        self._at += got
        return got

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._length}[whence]
        if at < 0:
            raise ValueError(f"position {at} is before the beginning")
        self._at = at
        return at

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


def _exactly(descriptor: int, offset: int, length: int) -> bytes:
    data = os.pread(descriptor, length, offset)
    while len(data) < length:
        more = os.pread(descriptor, length - len(data), offset + len(data))
        if not more:
            break  # the file is shorter than its index says, which the digest will show
        data += more
    return data


def _write(descriptor: int, view: memoryview) -> None:
    while len(view):
        view = view[os.write(descriptor, view) :]


def _little(numbers: array[int]) -> array[int]:
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
