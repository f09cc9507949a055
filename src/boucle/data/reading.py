# ruff: noqa: PTH115, PTH116  a Path for each of very many files would cost more than looking at them
"""Files as blobs: read once, cut, hashed and stored by several threads that take turns at finding the next piece.

Reading, hashing, cutting and writing all let other threads go on. What is hashed is what is stored: the bytes of a buffer.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3

from boucle.core import chunks
from boucle.core.errors import Conflict
from boucle.data.folder import Found, Row
from boucle.ports.blobs import Blobs

_STRETCH = 8 << 20  # bytes of a buffer
_PACK = 512 << 20  # bytes stored together: what a killed process may lose of each thread
_SOME = 16 << 20  # bytes of small files given out at once
_TRIES = 5

Progress = Callable[[int], None]  # called with bytes that are done


@dataclass(slots=True)
class Large:
    """A file that is cut, and what is known of its chunks."""

    found: Found
    before: list[chunks.Chunk] = field(default_factory=list)  # of the version that is known
    same: list[bool] = field(default_factory=list)  # which of them are still there
    now: dict[int, chunks.Chunk] = field(default_factory=dict)  # by offset

    def chunks(self) -> list[chunks.Chunk]:
        return [self.now[offset] for offset in sorted(self.now)]


@dataclass(slots=True)
class Taken:
    """What was stored: by path, the digest of the content or its chunks, and the state of the file it was read in."""

    whole: dict[str, tuple[str, Row]] = field(default_factory=dict)
    large: dict[str, Large] = field(default_factory=dict)


def take(
    blobs: Blobs,
    root: str,
    found: Sequence[Found],
    before: Callable[[str], list[chunks.Chunk]],
    progress: Progress | None = None,
) -> Taken:
    """Store files. `before` gives the chunks that a large file had in the version known, which are looked at first.

    Raises `Conflict` for a file that changes faster than it is read.
    """
    taken, left = Taken(), list(found)
    for _ in range(_TRIES):
        small = [f for f in left if f.size <= chunks.SMALLEST]
        large = [Large(f, before(f.path)) for f in left if f.size > chunks.SMALLEST]
        for file in large:
            file.same = [False] * len(file.before)
        known = [file for file in large if file.before]
        if known:
            together(_Looking(root, known).work, len(known) > 1 or known[0].found.size > 4 * _STRETCH)
        storing = _Storing(blobs, root, small, large, taken, progress)
        together(storing.work, len(left) > 16 or any(f.found.size > 4 * _STRETCH for f in large))
        left = []
        for file in large:
            now = _state(root, file.found.path)
            if now == file.found.row and sum(size for _, size in file.chunks()) == file.found.size:
                taken.large[file.found.path] = file
            elif now is not None:
                left.append(Found(file.found.path, file.found.mode, now))
        left += [Found(f.path, f.mode, now) for f in storing.again if (now := _state(root, f.path)) is not None]
        if not left:
            return taken
    raise Conflict(
        f"{left[0].path} changes faster than it is read",
        expected="a file that stays as it is",
        fix="stop what writes it",
    )


def unchanged(root: str, found: Found, known: Sequence[chunks.Chunk]) -> bool:
    """Whether a file still has the content of these chunks."""
    if found.size != sum(size for _, size in known):
        return False
    if found.mode == "l":
        return blake3(os.fsencode(os.readlink(f"{root}/{found.path}"))).hexdigest() == known[0][0]
    file = Large(found, list(known), [False] * len(known))
    together(_Looking(root, [file]).work, found.size > 4 * _STRETCH)
    return all(file.same) and _state(root, found.path) == found.row


def _state(root: str, path: str) -> Row | None:
    try:
        now = os.stat(f"{root}/{path}", follow_symlinks=False)
    except FileNotFoundError:
        return None
    return now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino


def together(work: Callable[[], None], several: bool) -> None:
    """Let threads work, this one among them; the first error of any is raised."""
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  raised below, in the thread that asked
            errors.append(error)

    number = (
        min(3, (os.cpu_count() or 1) + 1) if several else 1
    )  # one more than there are cores: some wait for the disk
    threads = [threading.Thread(target=guarded, daemon=True) for _ in range(number - 1)]
    for thread in threads:
        thread.start()
    guarded()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


class _Looking:
    """Which chunks of a known version are still where they were."""

    def __init__(self, root: str, files: Sequence[Large]) -> None:
        self._root, self._tasks, self._stopped = root, self._given(files), False

    def _given(self, files: Sequence[Large]) -> Iterator[tuple[Large, int, int, int]]:
        """File, first chunk and the one after the last, offset: as much as a buffer holds."""
        given = []
        for file in files:
            first, offset, size = 0, 0, 0
            for i, (_, length) in enumerate(file.before):
                if size and size + length > _STRETCH:
                    given.append((file, first, i, offset))
                    first, offset, size = i, offset + size, 0
                size += length
            given.append((file, first, len(file.before), offset))
        return iter(given)  # of a list: whoever asks next gets the next

    def work(self) -> None:
        buffer = memoryview(bytearray(_STRETCH))
        try:
            for file, first, last, offset in self._tasks:
                if self._stopped:
                    return
                lengths = [size for _, size in file.before[first:last]]
                view = buffer[: sum(lengths)] if sum(lengths) <= _STRETCH else memoryview(bytearray(sum(lengths)))
                descriptor = _opened(f"{self._root}/{file.found.path}")
                if descriptor is None:
                    return
                try:
                    got = os.preadv(descriptor, [view], offset)
                finally:
                    os.close(descriptor)
                at = 0
                for i, length in enumerate(lengths, first):
                    end = at + length
                    file.same[i] = end <= got and blake3(view[at:end]).hexdigest() == file.before[i][0]
                    at = end
        except BaseException:
            self._stopped = True
            raise


_Piece = (
    tuple[Large, int, list[int]] | list[Found]
)  # of a file: offset, lengths of the chunks in the buffer; or small files


class _Storing:
    """Reading what is new into blobs."""

    def __init__(
        self,
        blobs: Blobs,
        root: str,
        small: Sequence[Found],
        large: Sequence[Large],
        taken: Taken,
        progress: Progress | None,
    ) -> None:
        self._blobs, self._root, self._taken, self._progress = blobs, root, taken, progress
        self._turn, self._pieces, self._ended = threading.Lock(), self._next(small, large), False
        next(self._pieces)
        self.again: list[Found] = []  # files that changed while they were read

    def work(self) -> None:
        buffer = memoryview(bytearray(_STRETCH))
        try:
            while not self._ended:
                notes: list[tuple[Any, Any]] = []
                for digest, (what, where) in zip(self._blobs.put_many(self._items(buffer, notes)), notes, strict=True):
                    if isinstance(what, Large):
                        what.now[where[0]] = digest, where[1]
                    else:
                        self._taken.whole[what.path] = digest, where
        except BaseException:
            self._ended = True
            raise

    def _items(self, buffer: memoryview, notes: list[tuple[Any, Any]]) -> Iterator[memoryview]:
        """What one pack gets; `notes` says for each item what it is."""
        stored = 0
        while stored < _PACK:
            with self._turn:
                if self._ended:
                    return
                try:
                    piece = self._pieces.send(buffer)
                except StopIteration:
                    self._ended = True
                    return
            done = 0
            if isinstance(piece, list):
                for found in piece:
                    read = self._read(found, buffer)
                    if read is not None:
                        notes.append((found, read[1]))
                        yield read[0]
                        done += len(read[0])
            else:
                file, offset, lengths = piece
                for length in lengths:
                    notes.append((file, (offset + done, length)))
                    yield buffer[done : done + length]
                    done += length
            stored += done
            if self._progress is not None:
                self._progress(done)

    def _next(self, small: Sequence[Found], large: Sequence[Large]) -> Generator[_Piece, memoryview, None]:
        """Pieces of work, one after the other; a large file is cut in the buffer that is sent."""
        buffer = yield []
        some: list[Found] = []
        size = 0
        for found in small:
            some.append(found)
            size += found.size + 4096
            if size > _SOME:
                buffer = yield some
                some, size = [], 0
        if some:
            buffer = yield some
        for file in large:
            descriptor = _opened(f"{self._root}/{file.found.path}")
            if descriptor is None:
                continue
            try:
                kept, offset = chunks.unmoved(file.before, file.same, file.found.size), 0
                while offset < file.found.size:
                    if (chunk := kept.get(offset)) is not None:
                        file.now[offset] = chunk
                        offset += chunk[1]
                        continue
                    got = os.preadv(descriptor, [buffer], offset)
                    lengths, at = [], 0
                    for length in chunks.cuts(buffer[:got], ends=offset + got >= file.found.size) if got else ():
                        lengths.append(length)
                        at += length
                        if offset + at in kept:
                            break
                    if not lengths:
                        break  # it is shorter than it was, which will be noticed
                    buffer = yield file, offset, lengths
                    offset += at
            finally:
                os.close(descriptor)

    def _read(self, found: Found, buffer: memoryview) -> tuple[memoryview, Row] | None:
        """The content of a small file and its state before and after, or None when it must be looked at again."""
        path = f"{self._root}/{found.path}"
        if found.mode == "l":
            target = os.fsencode(os.readlink(path))
            buffer[: len(target)] = target
            return buffer[: len(target)], found.row
        descriptor = _opened(path)
        if descriptor is None:
            self.again.append(found)
            return None
        try:
            got = os.preadv(descriptor, [buffer], 0)
            now = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        # It was seen before it was read: a change while it was read shows as a change since it was seen.
        if (now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino) != found.row or got != now.st_size:
            self.again.append(found)
            return None
        return buffer[:got], found.row


def _opened(path: str) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
