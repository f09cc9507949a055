"""Writing the files of a version into a folder: new ones next door and then into place, those that may be in place."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from boucle.core import chunks
from boucle.core.errors import Conflict, Corrupt
from boucle.data import reading
from boucle.data.folder import DRAFTS, Row, state
from boucle.ledger import trees
from boucle.ports.blobs import Blobs

_CLONE = 0x40049409  # FICLONE of Linux: the same blocks under another name, until one of them is written to
_SOME = 32  # files that a thread takes at once
_MUCH = 64 << 20  # bytes from which several threads pay: of small files, they mostly wait for each other


def discard(folder: str) -> None:
    """Remove a folder of drafts."""
    for entry in os.scandir(folder):
        Path(entry.path).unlink()
    Path(folder).rmdir()


@contextlib.contextmanager
def opened(root: int, folder: str, *, make: bool = False) -> Iterator[int]:
    """A folder below another, reached through no link; with `make`, made where it is not there, or `Conflict`."""
    at = os.dup(root)
    try:
        for name in folder.split("/") if folder else ():
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, dir_fd=at)
            try:
                below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            except OSError as error:
                if make and error.errno in (errno.ELOOP, errno.ENOTDIR):
                    raise Conflict(f"{folder}: {name} is no folder", expected="a folder or nothing there") from None
                raise
            os.close(at)
            at = below
        yield at
    finally:
        os.close(at)


class Writer:
    """Carries out a plan: removes, then writes and patches by several threads."""

    def __init__(
        self,
        blobs: Blobs,
        folder: Path,
        write: dict[str, str],  # lines of a manifest by path
        remove: Iterable[str],
        own: dict[str, str],  # what may be changed in place: the lines of what is there
        link: str,
        time_ns: int,
        progress: reading.Progress | None,
    ) -> None:
        self._blobs, self._folder, self._link, self._progress = blobs, folder, link, progress
        # What is written bears a time before the checkout began, so that any later change shows, however soon it comes.
        self._time = time_ns
        self._clones = link in ("auto", "reflink") and "paths" in blobs.capabilities
        self._how, self._rows = Counter[str](), dict[str, Row]()
        self._root = self._drafts = -1
        self._lock = threading.Lock()
        self._remove = [trees.unescaped(path) for path in remove]
        self._patch: list[tuple[trees.Entry, list[chunks.Chunk], list[chunks.Chunk]]] = []  # before, after
        self._over: set[str] = set()  # small files that are changed in place
        self._write: list[trees.Entry] = []
        for path, line in write.items():
            entry = trees.entry(line)
            if path in own and link != "hardlink" and own[path][65] == entry.mode != "l":
                if entry.cut:
                    before = trees.chunks_of(blobs, trees.entry(own[path]))
                    self._patch.append((entry, before, trees.chunks_of(blobs, entry)))
                    continue
                if entry.size <= chunks.SMALLEST:
                    self._over.add(entry.path)
            self._write.append(entry)

    @property
    def changed_in_place(self) -> list[str]:
        """The files that are neither as before nor as after when they are cut off."""
        return [*(entry.path for entry, _, _ in self._patch), *self._over]

    def work(self, how: Counter[str], rows: dict[str, Row]) -> None:
        """Do it, and note how and what the files are like then."""
        drafts = f"{DRAFTS}{os.getpid()}-{time.time_ns()}"
        self._root = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._clear_away()
            tasks = self._tasks()
            if len(self._write) > len(self._over):
                os.mkdir(drafts, dir_fd=self._root)
                self._drafts = os.open(drafts, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=self._root)

            def take_turns() -> None:
                try:
                    for task in tasks:
                        task()
                finally:
                    for _ in tasks:  # after an error the others end as well
                        pass

            reading.together(take_turns, bool(self._patch) or sum(entry.size for entry in self._write) > _MUCH)
        finally:
            if self._drafts >= 0:
                os.close(self._drafts)
                discard(f"{self._folder}/{drafts}")
            os.close(self._root)
        how.update(self._how)
        rows.update(self._rows)

    def _tasks(self) -> Iterator[Callable[[], None]]:
        given: list[Callable[[], None]] = []
        for entry, before, after in self._patch:
            given += self._patches(entry, before, after)
        folders: dict[str, list[trees.Entry]] = {}
        for entry in self._write:
            folders.setdefault(entry.path.rpartition("/")[0], []).append(entry)
        some: list[tuple[str, list[trees.Entry]]] = []
        count = 0
        for folder, entries in folders.items():
            for i in range(0, len(entries), _SOME):
                some.append((folder, entries[i : i + _SOME]))
                count += len(some[-1][1])
                if count >= _SOME:
                    given.append(self._writing(some))
                    some, count = [], 0
        if some:
            given.append(self._writing(some))
        return iter(given)  # of a list: whoever asks next gets the next

    def _clear_away(self) -> None:
        left: set[str] = set()
        for path in self._remove:
            folder, _, name = path.rpartition("/")
            with contextlib.suppress(FileNotFoundError, NotADirectoryError), opened(self._root, folder) as inside:
                os.unlink(name, dir_fd=inside)
            while folder:
                left.add(folder)
                folder = folder.rpartition("/")[0]
        for folder in sorted(left, key=len, reverse=True):
            above, _, name = folder.rpartition("/")
            with (
                contextlib.suppress(OSError),
                opened(self._root, above) as inside,
            ):  # it holds other files, or is gone
                os.rmdir(name, dir_fd=inside)

    def _writing(self, some: Sequence[tuple[str, list[trees.Entry]]]) -> Callable[[], None]:
        def write() -> None:
            for folder, entries in some:
                with opened(self._root, folder, make=True) as inside:
                    for entry in entries:
                        name = entry.path.rpartition("/")[2]
                        if entry.path in self._over:
                            self._overwrite(inside, name, entry)
                        else:
                            self._replace(inside, name, entry)
                        if self._progress is not None:
                            self._progress(entry.size)

        return write

    def _overwrite(self, inside: int, name: str, entry: trees.Entry) -> None:
        """Change a small file in place, which is far cheaper than a new file: the system has its pages already."""
        data = self._content(entry.digest, entry.size, entry)
        descriptor = os.open(name, os.O_WRONLY | os.O_NOFOLLOW, dir_fd=inside)
        try:
            self._put(descriptor, data, 0, entry)
            os.ftruncate(descriptor, entry.size)
            os.utime(descriptor, ns=(self._time, self._time))
            self._note(entry, "patch", os.fstat(descriptor))
        finally:
            os.close(descriptor)

    def _replace(self, inside: int, name: str, entry: trees.Entry) -> None:
        draft = f"{threading.get_ident()}"
        how = self._made(draft, entry)
        try:
            # Replacing a file makes ext4 write the new one to the disk at once (auto_da_alloc); coming after it does not.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=inside)
            os.rename(draft, name, src_dir_fd=self._drafts, dst_dir_fd=inside)
        except IsADirectoryError:
            raise Conflict(
                f"{self._folder}/{entry.path} is a folder", expected="a file or nothing there", fix="move it away"
            ) from None
        now = os.stat(name, dir_fd=inside, follow_symlinks=False)
        self._note(entry, how, now)

    def _note(self, entry: trees.Entry, how: str, now: os.stat_result) -> None:
        with self._lock:
            self._how[how] += 1
            self._rows[trees.escaped(entry.path)] = state(now)

    def _made(self, draft: str, entry: trees.Entry) -> str:
        """Write the content as a draft; returns how."""
        if entry.mode == "l":
            target = os.fsdecode(self._blobs.get(entry.digest))
            if not trees.inside(entry.path, target):
                raise Corrupt(f"{entry.path} links to {target}, which is outside", expected="links to the inside")
            os.symlink(target, draft, dir_fd=self._drafts)
            return "symlink"
        if self._link == "hardlink" and not entry.cut and "paths" in self._blobs.capabilities:
            source = self._blobs.path(entry.digest)
            with contextlib.suppress(OSError):  # another disk, or more names than a file may have
                if entry.mode == "f":
                    os.link(source, draft, dst_dir_fd=self._drafts)
                    return "hardlink"
        descriptor = os.open(
            draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o777 if entry.mode in "xX" else 0o666, dir_fd=self._drafts
        )
        try:
            how = "reflink" if self._cloned(descriptor, entry) else "copy"
            if how == "copy":
                at = 0
                for digest, size in trees.chunks_of(self._blobs, entry):
                    self._put(descriptor, self._content(digest, size, entry), at, entry)
                    at += size
            os.utime(descriptor, ns=(self._time, self._time))
        finally:
            os.close(descriptor)
        return how

    def _cloned(self, descriptor: int, entry: trees.Entry) -> bool:
        if not self._clones or entry.cut or (entry.size <= chunks.SMALLEST and self._link == "auto"):
            return False
        with self._blobs.path(entry.digest).open("rb") as source:
            try:
                fcntl.ioctl(descriptor, _CLONE, source.fileno())
            except OSError:
                self._clones = False
                return False
        return True

    def _put(self, descriptor: int, data: bytes, at: int, entry: trees.Entry) -> None:
        if os.pwrite(descriptor, data, at) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), entry.path)

    def _content(self, digest: str, size: int, entry: trees.Entry) -> bytes:
        data = self._blobs.get(digest)
        if len(data) != size:
            raise Corrupt(f"{entry.path}: blob {digest} is not {size:,} bytes", expected="what the manifest says")
        return data

    def _patches(
        self, entry: trees.Entry, before: Sequence[chunks.Chunk], after: Sequence[chunks.Chunk]
    ) -> Iterator[Callable[[], None]]:
        """One task for each chunk that is not where it should be; the last of them to end sets length and time."""
        there, offset = {}, 0
        for chunk in before:
            there[offset] = chunk
            offset += chunk[1]
        path, offset = self._folder / entry.path, 0
        tasks: list[tuple[int, chunks.Chunk]] = []
        for chunk in after:
            if there.get(offset) != chunk:
                tasks.append((offset, chunk))
            offset += chunk[1]
        waiting = [len(tasks)]

        def end() -> None:
            descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
            try:
                os.ftruncate(descriptor, entry.size)
                os.utime(descriptor, ns=(self._time, self._time))
                self._note(entry, "patch", os.fstat(descriptor))
            finally:
                os.close(descriptor)

        def patch(at: int, chunk: chunks.Chunk) -> Callable[[], None]:
            def write() -> None:
                data = self._content(*chunk, entry)
                descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
                try:
                    self._put(descriptor, data, at, entry)
                finally:
                    os.close(descriptor)
                if self._progress is not None:
                    self._progress(len(data))
                with self._lock:
                    waiting[0] -= 1
                    last = not waiting[0]
                if last:
                    end()

            return write

        return iter([patch(at, chunk) for at, chunk in tasks] or [end])
