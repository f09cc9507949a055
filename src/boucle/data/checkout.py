# ruff: noqa: PTH116  a Path for each of very many files would cost more than looking at them
"""Checkout: a folder becomes a version. Only files that differ are touched, and of large ones only the chunks that do."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from boucle.core import chunks
from boucle.core.errors import Conflict, Corrupt, Invalid, NotFound
from boucle.data import reading, snapshot
from boucle.data.folder import DRAFTS, MARGIN, Folder, Found, Memory, Row
from boucle.ledger import trees

if TYPE_CHECKING:
    from boucle.core.records import Dataset
    from boucle.workspace import Workspace

LINKS = ("auto", "reflink", "hardlink", "copy")
_CLONE = 0x40049409  # FICLONE of Linux: the same blocks under another name, until one of them is written to
_SOME = 32  # files that a thread takes at once


@dataclass(frozen=True, slots=True)
class CheckedOut:
    """What came of it: the version, the files written and removed, and how: reflink, hardlink, copy, patch or symlink."""

    dataset: Dataset
    written: list[str]
    removed: list[str]
    how: dict[str, int]
    overwritten: list[str] = field(default_factory=list)  # changes that no version holds
    skipped: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0


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


@dataclass(slots=True)
class _Plan:
    write: list[trees.Entry] = field(default_factory=list)
    patch: list[tuple[trees.Entry, list[chunks.Chunk], list[chunks.Chunk]]] = field(
        default_factory=list
    )  # before, after
    remove: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    right: dict[str, Row] = field(default_factory=dict)  # files that are already as they should be, as they are now


def checkout(
    ws: Workspace,
    ref: str,
    folder: str | os.PathLike[str],
    *,
    link: str = "auto",
    force: bool = False,
    dry_run: bool = False,
    progress: reading.Progress | None = None,
) -> CheckedOut:
    """Make a folder hold exactly the files of a version; it is made when it is not there.

    What was changed, added or never part of a version is not overwritten or removed, but raises `Conflict`, unless `force`.
    `link` says how a file that is stored as a whole comes into the folder: `reflink` where the file system can, otherwise a
    copy; `hardlink` as a read-only file that shares its bytes with the store. Run it again when it was cut off.
    """
    started = time.monotonic()
    from boucle.ledger import datasets, recording

    if link not in LINKS:
        raise Invalid(f"link={link!r}", expected=f"one of {', '.join(LINKS)}")
    dataset = datasets.resolve(ws, ref)
    if dataset.type != "files":
        raise Invalid(
            f"{dataset.ref} is a table", expected="a version of files", fix=f"boucle data export {dataset.key} FILE"
        )
    place = Folder(ws.root, ws.project, folder)
    if not dry_run:
        place.path.mkdir(parents=True, exist_ok=True)
    with place.alone():
        since = place.tick()
        memory, base = snapshot.known(ws, place)
        tree = trees.files(ws.blobs, dataset.manifest) if dataset.manifest != base.manifest else base
        same = _same_paths(base, tree)
        paths = memory.paths if same is not None else tree.paths
        plan, skipped = _planned(ws, place, memory, base, tree, paths, force, link)
        how: Counter[str] = Counter()
        rows: dict[str, Row] = dict(plan.right)
        if not dry_run:
            if place.journal.exists():
                _clear(place)
            work = plan.write or plan.patch or plan.remove
            if work:
                _begin(place, dataset, plan)
                writer = _Writer(ws, place, plan, link, since - MARGIN, progress)
                how, written = writer.work()
                rows |= written
            if work or plan.right or place.journal.exists() or memory.ref != dataset.key:
                place.remember(_after(memory, dataset, tree, paths, same, rows), since)
            place.journal.unlink(missing_ok=True)
    recording.note_read(str(dataset.ref), dataset.digest, ref)
    written_paths = sorted([e.path for e in plan.write] + [e.path for e, _, _ in plan.patch])
    return CheckedOut(
        dataset, written_paths, sorted(plan.remove), dict(how), sorted(plan.lost), skipped, time.monotonic() - started
    )


def _clear(place: Folder) -> None:
    """Remove what a checkout that was cut off had not brought into place."""
    for entry in os.scandir(place.path):
        if entry.name.startswith(DRAFTS) and entry.is_dir(follow_symlinks=False):
            _gone(entry.path)


def _gone(folder: str) -> None:
    for entry in os.scandir(folder):
        Path(entry.path).unlink()
    Path(folder).rmdir()


def _same_paths(base: trees.Tree, tree: trees.Tree) -> list[int] | None:
    """Where two versions of the same paths differ; None when their paths are not the same."""
    if len(base) != len(tree):
        return None
    differing = [i for i, (a, b) in enumerate(zip(base.lines, tree.lines, strict=True)) if a != b]
    for i in differing:
        if base.lines[i].split(" ", 3)[3:] != tree.lines[i].split(" ", 3)[3:]:
            return None
    return differing


def _planned(
    ws: Workspace,
    place: Folder,
    memory: Memory,
    base: trees.Tree,
    tree: trees.Tree,
    paths: list[str],
    force: bool,
    link: str,
) -> tuple[_Plan, list[tuple[str, str]]]:
    """What has to be done; raises `Conflict` for changes that would be lost."""
    plan = _Plan()
    seen = place.scan(memory)
    begun = journal(place)
    half = _manifest(ws, begun.manifest)
    changed = {trees.escaped(f.path): f for f in seen.changed}
    gone = {trees.escaped(p) for p in seen.gone}
    there = set(base.lines)
    was = dict(zip(memory.paths, base.lines, strict=True)) if changed or gone else {}
    there.difference_update(was[p] for p in gone | changed.keys() if p in was)
    wanted = {path: line for line in tree.lines if (path := line.split(" ", 3)[3]) in changed} if changed else {}
    meant = {path: line for line in half if (path := line.split(" ", 3)[3]) in changed} if changed else {}
    stale: dict[str, Found] = {}
    for path, found in changed.items():
        line = wanted.get(path)
        if line is not None and snapshot.matches(ws, place, found, trees.entry(line)):
            there.add(line)
            plan.right[path] = found.row
            continue
        stale[path] = found
        ours = (was.get(path), meant.get(path))
        known = found.path in begun.patched or any(
            other is not None and other != line and snapshot.matches(ws, place, found, trees.entry(other))
            for other in ours
        )
        if not known:
            plan.lost.append(found.path)
    lines = tree.lines if not there else [line for line in tree.lines if line not in there]
    targets = set(paths) if len(paths) != len(memory.paths) or stale or paths is not memory.paths else None
    if targets is not None:
        plan.remove = [trees.unescaped(p) for p in memory.paths if p not in targets and p not in gone]
        plan.remove += [f.path for p, f in stale.items() if p not in targets and p not in was]
    if plan.lost and not force:
        shown = ", ".join(sorted(plan.lost)[:10]) + (f" and {len(plan.lost) - 10} more" if len(plan.lost) > 10 else "")
        raise Conflict(
            f"{len(plan.lost):,} changed since the last snapshot would be lost: {shown}",
            expected="a folder whose files are all in a version",
            fix="boucle data snapshot them first, or --force to lose them",
        )
    old = {}
    if any(line[65:66] in "FX" for line in lines):
        large = {line.split(" ", 3)[3] for line in lines if line[65:66] in "FX"}
        old = {p: line for line in there if line[65] in "FX" and (p := line.split(" ", 3)[3]) in large}
    for line in lines:
        entry = trees.entry(line)
        path = trees.escaped(entry.path)
        if path in old and link != "hardlink" and old[path][65] == line[65] and _own(place, entry.path):
            before = trees.chunks_of(ws.blobs, trees.entry(old[path]))
            plan.patch.append((entry, before, trees.chunks_of(ws.blobs, entry)))
        else:
            plan.write.append(entry)
    return plan, seen.skipped


def _manifest(ws: Workspace, manifest: str) -> list[str]:
    try:
        return trees.files(ws.blobs, manifest).lines if manifest else []
    except (NotFound, Corrupt, Invalid):
        return []


def _own(place: Folder, path: str) -> bool:
    """Whether a file may be changed in place: it has no other name, and may be written to."""
    now = os.stat(place.path / path, follow_symlinks=False)
    return now.st_nlink == 1 and bool(now.st_mode & 0o200)


def _begin(place: Folder, dataset: Dataset, plan: _Plan) -> None:
    """Note what is being done before it is."""
    before = journal(place)
    patched = [*before.patched, *(entry.path for entry, _, _ in plan.patch)]
    said = {"ref": dataset.key, "manifest": dataset.manifest, "patched": patched}
    draft = place.journal.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps(said), encoding="utf-8")
    draft.replace(place.journal)


def _after(
    memory: Memory, dataset: Dataset, tree: trees.Tree, paths: list[str], same: list[int] | None, rows: dict[str, Row]
) -> Memory:
    """What the folder holds then."""
    if same is not None:
        index = (
            {paths[i]: i for i in same}
            if rows.keys() <= {paths[i] for i in same}
            else dict(zip(paths, range(len(paths)), strict=True))
        )
        for path, row in rows.items():
            for column, value in zip(memory.columns, row, strict=True):
                column[index[path]] = value
        return Memory(dataset.key, tree.manifest, paths, memory.columns)
    every = dict(zip(memory.paths, zip(*memory.columns, strict=True), strict=True)) | rows
    columns = tuple(array("q", column) for column in zip(*(every[p] for p in paths), strict=True))
    return Memory(dataset.key, tree.manifest, paths, columns or Memory().columns)


class _Writer:
    """Carries out a plan: removes, then writes and patches by several threads."""

    def __init__(
        self, ws: Workspace, place: Folder, plan: _Plan, link: str, time_ns: int, progress: reading.Progress | None
    ) -> None:
        self._blobs, self._place, self._plan, self._link, self._progress = ws.blobs, place, plan, link, progress
        # What is written bears a time before the checkout began, so that any later change shows, however soon it comes.
        self._time = time_ns
        self._clones = link in ("auto", "reflink") and "paths" in ws.blobs.capabilities
        self._how: Counter[str] = Counter()
        self._rows: dict[str, Row] = {}
        self._root = self._drafts = -1
        self._lock = threading.Lock()

    def work(self) -> tuple[Counter[str], dict[str, Row]]:
        drafts = f"{DRAFTS}{os.getpid()}-{time.time_ns()}"
        self._root = os.open(self._place.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._remove()
            tasks = self._tasks()
            if self._plan.write:
                os.mkdir(drafts, dir_fd=self._root)
                self._drafts = os.open(drafts, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=self._root)

            def take_turns() -> None:
                try:
                    for task in tasks:
                        task()
                finally:
                    for _ in tasks:  # after an error the others end as well
                        pass

            reading.together(take_turns, len(self._plan.write) > _SOME or bool(self._plan.patch))
        finally:
            if self._drafts >= 0:
                os.close(self._drafts)
                _gone(f"{self._place.path}/{drafts}")
            os.close(self._root)
        return self._how, self._rows

    def _tasks(self) -> Iterator[Callable[[], None]]:
        given: list[Callable[[], None]] = []
        for entry, before, after in self._plan.patch:
            given += self._patches(entry, before, after)
        folders: dict[str, list[trees.Entry]] = {}
        for entry in self._plan.write:
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

    def _remove(self) -> None:
        left: set[str] = set()
        for path in self._plan.remove:
            folder, _, name = path.rpartition("/")
            with contextlib.suppress(FileNotFoundError, NotADirectoryError), self._opened(folder, make=False) as inside:
                os.unlink(name, dir_fd=inside)
            while folder:
                left.add(folder)
                folder = folder.rpartition("/")[0]
        for folder in sorted(left, key=len, reverse=True):
            above, _, name = folder.rpartition("/")
            with (
                contextlib.suppress(OSError),
                self._opened(above, make=False) as inside,
            ):  # it holds other files, or is gone
                os.rmdir(name, dir_fd=inside)

    @contextlib.contextmanager
    def _opened(self, folder: str, *, make: bool) -> Iterator[int]:
        """A folder below the root, reached through no link."""
        at = os.dup(self._root)
        try:
            for name in folder.split("/") if folder else ():
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(name, dir_fd=at)
                try:
                    below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
                except OSError as error:
                    if make and error.errno in (errno.ELOOP, errno.ENOTDIR):
                        raise Conflict(
                            f"{self._place.path}/{folder}: {name} is no folder", expected="a folder or nothing there"
                        ) from None
                    raise
                os.close(at)
                at = below
            yield at
        finally:
            os.close(at)

    def _writing(self, some: Sequence[tuple[str, list[trees.Entry]]]) -> Callable[[], None]:
        def write() -> None:
            for folder, entries in some:
                with self._opened(folder, make=True) as inside:
                    for entry in entries:
                        self._write(inside, entry)

        return write

    def _write(self, inside: int, entry: trees.Entry) -> None:
        name, draft = entry.path.rpartition("/")[2], f"{threading.get_ident()}"
        how = self._made(draft, entry)
        try:
            # Replacing a file makes ext4 write the new one to the disk at once (auto_da_alloc); coming after it does not.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=inside)
            os.rename(draft, name, src_dir_fd=self._drafts, dst_dir_fd=inside)
        except IsADirectoryError:
            raise Conflict(
                f"{self._place.path}/{entry.path} is a folder", expected="a file or nothing there", fix="move it away"
            ) from None
        now = os.stat(name, dir_fd=inside, follow_symlinks=False)
        self._note(entry, how, now)
        if self._progress is not None:
            self._progress(entry.size)

    def _note(self, entry: trees.Entry, how: str, now: os.stat_result) -> None:
        with self._lock:
            self._how[how] += 1
            self._rows[trees.escaped(entry.path)] = now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino

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
                for digest, size in trees.chunks_of(self._blobs, entry):
                    data = self._content(digest, size, entry)
                    if os.write(descriptor, data) != size:
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), entry.path)
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
        path, offset = self._place.path / entry.path, 0
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
                    if os.pwrite(descriptor, data, at) != len(data):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), entry.path)
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
