# ruff: noqa: PTH115, PTH208  a Path for each of very many files would cost more than looking at them
"""A working folder: what lies in it now, and what is remembered of the version that it holds.

What is remembered lies in `.boucle/trees`: for each file its size, times and inode when its content was known last, so
that only what changed since is read again. A file that changed no earlier than that was noted is read again anyway: its
time could not show a second change.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import json
import marshal
import os
import re
import signal
import stat
import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blake3 import blake3

from boucle.core.errors import Invalid
from boucle.ledger import trees

IGNORE = ".boucleignore"
DRAFTS = ".boucle-"  # how the folders begin that a checkout writes files in before they come into place
MARGIN = 10_000_000  # nanoseconds between two times that no file system takes for the same

_HEAD = b"boucle folder 1\n"
_FORK = 4000  # files from which a second process pays
_UNSURE = -1  # as a size: the file has to be read again

Row = tuple[int, int, int, int]  # size, changed, inode changed (nanoseconds), inode


@dataclass(frozen=True, slots=True)
class Found:
    """A file that is not as it was remembered."""

    path: str
    mode: str  # f, x or l
    row: Row

    @property
    def size(self) -> int:
        return self.row[0]


@dataclass(slots=True)
class Seen:
    """What a scan saw: what changed, what is gone, and what is left out with the reason."""

    changed: list[Found] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


@dataclass(slots=True)
class Memory:
    """The version that a folder holds as far as is known, and the state of each file then."""

    ref: str = ""  # name@version
    manifest: str = ""
    paths: list[str] = field(default_factory=list)  # as written in the manifest, in its order
    columns: tuple[array[int], ...] = field(default_factory=lambda: tuple(array("q") for _ in range(4)))

    def index(self) -> dict[str, int]:
        """The place of each path, as the system names it."""
        names: list[str] = self.paths
        if "\\" in "".join(names):
            names = [trees.unescaped(p) for p in names]
        return dict(zip(names, range(len(names)), strict=True))

    def row(self, i: int) -> Row:
        """The state of a file then."""
        size, changed, inode_changed, inode = self.columns
        return size[i], changed[i], inode_changed[i], inode[i]


class Folder:
    """A working folder and the place where its memory lies."""

    def __init__(self, root: Path, project: Path, folder: str | os.PathLike[str]) -> None:
        given = Path(folder)
        self.path = given.resolve()
        if self.path.is_relative_to(root.resolve()):
            raise Invalid(f"{given} lies in the workspace's own folder", expected="a folder with your files")
        if self.path.exists() and not self.path.is_dir():
            raise Invalid(f"{given} is a file", expected="a folder")
        # Below the project the memory moves with it.
        name = os.path.relpath(self.path, project) if self.path.is_relative_to(project) else str(self.path)
        self.place = root / "trees" / blake3(os.fsencode(name)).hexdigest()[:24]
        self.journal = self.place.with_suffix(".doing")

    @contextlib.contextmanager
    def alone(self, *, wait: bool = True) -> Iterator[bool]:
        """Nobody else takes a snapshot or checks out meanwhile; gives whether that is so, which without `wait` may not be."""
        self.place.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.place.with_suffix(".lock"), os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                held = True
            except BlockingIOError:
                held = False
            yield held
        finally:
            os.close(descriptor)

    def tick(self) -> int:
        """The time of the file system now, in nanoseconds."""
        place = self.place.with_suffix(".lock")
        os.utime(place)
        return place.stat().st_mtime_ns

    def remembered(self) -> Memory:
        """What is known; nothing when there is no memory that can be read."""
        try:
            raw = self.place.read_bytes()
        except FileNotFoundError:
            return Memory()
        end = raw.find(b"\n", len(_HEAD))
        if not raw.startswith(_HEAD) or end < 0:
            return Memory()  # of an older version, or cut off: everything is read again
        head = json.loads(raw[len(_HEAD) : end])
        count, at = head["files"], end + 1 + head["names"]
        if len(raw) != at + 32 * count:
            return Memory()
        paths = raw[end + 1 : at].decode().split("\n") if count else []
        columns = tuple(array("q", raw[at + 8 * i * count : at + 8 * (i + 1) * count]) for i in range(4))
        if sys.byteorder == "big":
            for column in columns:
                column.byteswap()
        return Memory(head["ref"], head["manifest"], paths, columns)

    def remember(self, memory: Memory, since: int) -> None:
        """Note what the folder holds. Files that changed at `since` or later will be read again."""
        sizes = memory.columns[0]
        if max(memory.columns[1], default=0) >= since:
            for i, changed in enumerate(memory.columns[1]):
                if changed >= since:
                    sizes[i] = _UNSURE
        names = "\n".join(memory.paths).encode()
        head = {"ref": memory.ref, "manifest": memory.manifest, "files": len(memory.paths), "names": len(names)}
        columns = memory.columns
        if sys.byteorder == "big":
            columns = tuple(array("q", column) for column in columns)
            for column in columns:
                column.byteswap()
        draft = self.place.with_suffix(f".{os.getpid()}")
        draft.write_bytes(b"".join([_HEAD, json.dumps(head).encode(), b"\n", names, *map(bytes, columns)]))
        draft.replace(self.place)

    def scan(self, memory: Memory) -> Seen:
        """Compare every file with what is remembered, reading none of them."""
        if len(memory.paths) < _FORK or not _may_fork():
            return _merged(memory, _walk(self.path, memory, memory.index(), _ignored(self.path), None))
        index, ignored = memory.index(), _ignored(self.path)
        with _elsewhere(lambda: _walk(self.path, memory, index, ignored, 1)) as other:
            return _merged(memory, _walk(self.path, memory, index, ignored, 0), other())

    @contextlib.contextmanager
    def scanning(self, memory: Memory) -> Iterator[Callable[[], Seen]]:
        """The same, by another process meanwhile where that pays: what is given waits for it, and may be called once."""
        if len(memory.paths) < _FORK or not self.path.is_dir() or not _may_fork():
            yield lambda: self.scan(memory)
            return
        index, ignored = memory.index(), _ignored(self.path)
        with _elsewhere(lambda: _walk(self.path, memory, index, ignored, None)) as other:
            yield lambda: _merged(memory, other())


# What changed, a byte for each file remembered that says whether it is there, and what is left out.
_Part = tuple[list[tuple[str, str, Row]], bytes, list[tuple[str, str]]]


def _walk(folder: Path, memory: Memory, index: dict[str, int], ignored: _Ignored | None, half: int | None) -> _Part:
    """All files, or only every second one."""
    seen, there = Seen(), bytearray(len(memory.paths))
    sizes, changed, inode_changed, inodes = memory.columns
    root, below = str(folder), [""]
    try:
        top = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return [], bytes(there), []
    try:
        while below:
            prefix = below.pop()
            try:
                inside = os.open(prefix[:-1] or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=top)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    continue  # gone since it was seen
                raise
            try:
                # Below a descriptor the system need not follow the whole path for each file.
                with os.scandir(inside) as entries:
                    for found in entries:
                        name = found.name
                        path = prefix + name
                        if found.is_dir(follow_symlinks=False):
                            ours = name[:1] == "." and (name.lower() in trees.OURS or name.startswith(DRAFTS))
                            if not ours and (ignored is None or not ignored(path, True)):
                                below.append(path + "/")
                            continue
                        if half is not None and hash(path) & 1 != half:
                            continue
                        if ignored is not None and ignored(path, False):
                            continue
                        i = index.get(path, -1)
                        try:
                            now = found.stat(follow_symlinks=False)
                        except FileNotFoundError:
                            continue
                        if i >= 0:
                            there[i] = 1
                            if (
                                inodes[i] == now.st_ino
                                and inode_changed[i] == now.st_ctime_ns
                                and changed[i] == now.st_mtime_ns
                                and sizes[i] == now.st_size
                            ):
                                continue
                        _changed(seen, root, path, now)
            finally:
                os.close(inside)
    finally:
        os.close(top)
    return [(f.path, f.mode, f.row) for f in seen.changed], bytes(there), seen.skipped


def _merged(memory: Memory, *parts: _Part) -> Seen:
    seen, there = Seen(), 0
    for changed, present, skipped in parts:
        seen.changed += [Found(*found) for found in changed]
        seen.skipped += skipped
        there |= int.from_bytes(present, "little")
    marks = there.to_bytes(len(memory.paths), "little")
    at = marks.find(0)
    while at >= 0:
        seen.gone.append(trees.unescaped(memory.paths[at]))
        at = marks.find(0, at + 1)
    return seen


def state(now: os.stat_result) -> Row:
    """What is remembered of a file."""
    return now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino


def _changed(seen: Seen, root: str, path: str, now: os.stat_result) -> None:
    mode, row = now.st_mode, state(now)
    if path.rpartition("/")[2].lower() in trees.OURS:
        return
    if stat.S_ISREG(mode):
        seen.changed.append(Found(path, "x" if mode & stat.S_IXUSR else "f", row))
    elif stat.S_ISLNK(mode):
        try:
            target = os.readlink(f"{root}/{path}")
        except OSError:
            return  # gone
        if trees.inside(path, target):
            seen.changed.append(Found(path, "l", row))
        else:
            seen.skipped.append((path, f"a link to {target}, which is outside"))
    else:
        seen.skipped.append((path, "neither a file nor a link"))


def _may_fork() -> bool:
    # The copy of a process has one thread: it may only be made of one that has no other, not even of a native library.
    try:
        return hasattr(os, "fork") and len(os.listdir("/proc/self/task")) == 1 and len(os.sched_getaffinity(0)) > 1
    except (OSError, AttributeError):
        return False


@contextlib.contextmanager
def _elsewhere(work: Callable[[], _Part]) -> Iterator[Callable[[], _Part]]:
    """Let a copy of this process work; what is given waits for the result."""
    reading, writing = os.pipe()
    gc.freeze()  # collecting what both have would copy all of it
    child = os.fork()
    if child == 0:
        code = 1
        try:
            gc.disable()
            raw = marshal.dumps(work())
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(raw)
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    waiting = True

    def result() -> _Part:
        nonlocal waiting
        with os.fdopen(reading, "rb", closefd=False) as pipe:
            raw = pipe.read()
        _, status = os.waitpid(child, 0)
        waiting = False
        if status:
            return work()  # what stopped it shows here
        part: _Part = marshal.loads(raw)  # noqa: S302  from the child, which is this program
        return part

    try:
        yield result
    finally:
        gc.unfreeze()
        os.close(reading)
        if waiting:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


class _Ignored:
    """The patterns of a `.boucleignore`; the last that matches decides."""

    def __init__(self, lines: Sequence[str]) -> None:
        self._rules: list[tuple[Any, bool, bool]] = []
        for line in lines:
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            keeps, text = text.startswith("!"), text.removeprefix("!")
            folders, text = text.endswith("/"), text.rstrip("/")
            anchored, text = "/" in text, text.removeprefix("/")
            self._rules.append(
                (re.compile(("" if anchored else "(?:.*/)?") + _pattern(text), re.DOTALL), keeps, folders)
            )

    def __call__(self, path: str, folder: bool) -> bool:
        ignored = False
        for pattern, keeps, folders in self._rules:
            if (folder or not folders) and ignored == keeps and pattern.fullmatch(path):
                ignored = not keeps
        return ignored


def _pattern(glob: str) -> str:
    out, i = "", 0
    while i < len(glob):
        if glob.startswith("**/", i):
            out, i = out + "(?:.*/)?", i + 3
        elif glob.startswith("**", i):
            out, i = out + ".*", i + 2
        elif glob[i] in "*?":
            out, i = out + ("[^/]*" if glob[i] == "*" else "[^/]"), i + 1
        elif glob[i] == "[" and (end := glob.find("]", i + 2)) > 0:
            inner = glob[i + 1 : end].replace("\\", "\\\\").replace("[", "\\[")
            inner = "^" + inner[1:] if inner[0] == "!" else inner.replace("^", "\\^")
            out, i = f"{out}[{inner}]", end + 1
        else:
            out, i = out + re.escape(glob[i]), i + 1
    return out


def _ignored(folder: Path) -> _Ignored | None:
    try:
        text = (folder / IGNORE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise Invalid(f"{folder / IGNORE} is not UTF-8: {error}", expected="a pattern on each line") from None
    try:
        return _Ignored(text.splitlines())
    except re.error as error:
        raise Invalid(
            f"{folder / IGNORE}: {error}", expected="a pattern on each line, such as *.tmp or /cache/"
        ) from None


@dataclass(frozen=True, slots=True)
class Journal:
    """A checkout that is going on: what the folder is to be, and the files that are changed in place."""

    ref: str = ""
    manifest: str = ""
    patched: tuple[str, ...] = ()


def journal(place: Folder) -> Journal:
    """The checkout that was begun in a folder and did not end; an empty one when there is none."""
    try:
        said = json.loads(place.journal.read_text(encoding="utf-8"))
        return Journal(said["ref"], said["manifest"], tuple(said["patched"]))
    except FileNotFoundError:
        return Journal()
    except (ValueError, KeyError, TypeError):
        return Journal("?")
