"""Snapshots: a folder of files becomes a dataset version; what changed since."""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from boucle.core import chunks
from boucle.core.errors import Conflict, Corrupt, Invalid, NotFound
from boucle.data import reading
from boucle.data.folder import Folder, Found, Memory, Row, Seen, journal
from boucle.ledger import datasets, trees

if TYPE_CHECKING:
    from boucle.core.records import Dataset
    from boucle.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Changes:
    """How a folder differs from the version that it holds; paths are sorted."""

    ref: str  # of that version; empty when no snapshot was taken yet
    added: list[str] = field(default_factory=list)
    modified: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    unchanged: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)  # what is not part of a version, and why
    unfinished: str = ""  # the version whose checkout was cut off

    def __bool__(self) -> bool:
        return bool(self.added or self.modified or self.removed)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What came of it: the version, whether it is new, and how it differs from what the folder held before."""

    dataset: Dataset
    new: bool
    changes: Changes
    seconds: float


def snapshot(
    ws: Workspace,
    folder: str | os.PathLike[str],
    name: str,
    *,
    description: str = "",
    progress: reading.Progress | None = None,
) -> Snapshot:
    """Make the files of a folder the next version of the dataset `name`.

    Only files whose size, times or inode changed are read, and of large ones only the chunks that changed are stored. The
    same files make no new version. What a `.boucleignore` in the folder names, `.git` and `.boucle` are left out, and
    links to the outside and devices are skipped. What a killed snapshot had stored is not stored again. `progress` is
    called, from any thread, with the number of bytes read since.

    Raises `NotFound` for a folder that is not there, `Invalid` for one without files, and `Conflict` after a checkout
    that was cut off or for a file that changes faster than it is read.

        snapshot(ws, "photos", "photos").dataset.ref  # dataset:photos@1
    """
    started = time.monotonic()
    from boucle.core.refs import check_name

    check_name(name, "dataset name")
    place = opened(ws, folder)
    with place.alone():
        if place.journal.exists():
            raise Conflict(
                f"a checkout into {place.path} was cut off",
                expected="a folder that holds one version",
                fix=f"boucle data checkout {unfinished(place)} {place.path}",
            )
        since = place.tick()
        memory, tree = known(ws, place.remembered())
        seen = place.scan(memory)
        taken = _take(ws, place, tree, seen, progress)
        fresh = {trees.escaped(path): row for path, (_, row) in taken.whole.items()}
        fresh |= {trees.escaped(path): file.found.row for path, file in taken.large.items()}
        lines, lists = _lines(seen, taken)
        gone = {trees.escaped(path) for path in seen.gone}
        gone |= {path for path in map(trees.escaped, (f.path for f in seen.changed)) if path not in lines}
        merged, new_lines = _merged(memory, tree, lines, fresh, gone)
        if not new_lines:
            raise Invalid(f"{place.path} holds no files", expected="at least one", fix="name the folder with the files")
        if new_lines is not tree.lines:
            manifest = ws.blobs.put_many([*lists, trees.text(new_lines)])[-1]
            old, tree = tree, trees.Tree(manifest, new_lines)
        else:
            old = tree
        dataset, new = datasets.commit_files(ws, name, tree, source=str(place.path), description=description)
        changes = _differences(memory.ref, old, lines, gone, len(new_lines), seen)
        merged.ref, merged.manifest = dataset.key, tree.manifest
        if seen.changed or gone or (merged.ref, merged.manifest) != (memory.ref, memory.manifest):
            place.remember(merged, since)
    return Snapshot(dataset, new, changes, time.monotonic() - started)


def status(ws: Workspace, folder: str | os.PathLike[str] = ".") -> Changes:
    """How a folder differs from the version it holds: the one that a snapshot or checkout left there last.

    Reads only files whose size, times or inode changed. Raises `NotFound` for a folder that is not there.
    """
    place = opened(ws, folder)
    if not place.place.parent.is_dir():
        return Changes("", sorted(f.path for f in place.scan(Memory()).changed))
    with place.alone(wait=False) as held:
        since = place.tick() if held else 0
        memory = place.remembered()
        seen = place.scan(memory)
        undone = unfinished(place) if place.journal.exists() else ""
        if not (seen.changed or seen.gone):
            return Changes(memory.ref, unchanged=len(memory.paths), skipped=seen.skipped, unfinished=undone)
        tree = trees.files(ws.blobs, memory.manifest) if memory.manifest else trees.Tree("", [])
        index = dict(zip(memory.paths, tree.lines, strict=True))
        added, modified, touched = list[str](), list[str](), dict[str, Row]()
        for found in seen.changed:
            line = index.get(path := trees.escaped(found.path))
            if line is None:
                added.append(found.path)
            elif matches(ws, place, found, trees.entry(line)):
                touched[path] = found.row
            else:
                modified.append(found.path)
        if touched and held and not undone:
            _touch(memory, touched)
            place.remember(memory, since)
        same = len(memory.paths) - len(modified) - len(seen.gone)
        return Changes(memory.ref, sorted(added), sorted(modified), sorted(seen.gone), same, seen.skipped, undone)


def opened(ws: Workspace, folder: str | os.PathLike[str]) -> Folder:
    """The working folder; raises `NotFound` when it is not there."""
    place = Folder(ws.root, ws.project, folder)
    if not place.path.is_dir():
        raise NotFound(f"no folder {folder}", expected="a folder with files", fix="check the path")
    return place


def known(ws: Workspace, memory: Memory) -> tuple[Memory, trees.Tree]:
    """What is remembered of a folder, and the version it holds; nothing when that version is no longer stored."""
    if memory.manifest:
        try:
            tree = trees.files(ws.blobs, memory.manifest)
            if len(tree) == len(memory.paths):
                return memory, tree
        except (NotFound, Corrupt):
            pass
    return Memory(), trees.Tree("", [])


def matches(ws: Workspace, place: Folder, found: Found, entry: trees.Entry) -> bool:
    """Whether a file has the content of an entry, and may be executed or not as it says; read only when the size fits."""
    if found.size != entry.size or found.mode != entry.mode.lower():
        return False
    return reading.unchanged(str(place.path), found, trees.chunks_of(ws.blobs, entry))


def unfinished(place: Folder) -> str:
    """The version whose checkout was cut off."""
    return journal(place).ref


def _take(
    ws: Workspace, place: Folder, tree: trees.Tree, seen: Seen, progress: reading.Progress | None
) -> reading.Taken:
    """Store what changed."""
    if not seen.changed:
        return reading.Taken()
    large = {trees.escaped(f.path) for f in seen.changed if f.size > chunks.SMALLEST}
    before: dict[str, str] = {}
    if large and tree.lines:
        before = {path: line for line in tree.lines if (path := line.split(" ", 3)[3]) in large}

    def chunks_before(path: str) -> list[chunks.Chunk]:
        line = before.get(trees.escaped(path))
        try:
            return trees.chunks_of(ws.blobs, trees.entry(line)) if line and line[65] in "FX" else []
        except (NotFound, Corrupt):
            return []

    return reading.take(ws.blobs, str(place.path), seen.changed, chunks_before, progress)


def _lines(seen: Seen, taken: reading.Taken) -> tuple[dict[str, str], list[bytes]]:
    """The line of each file that was stored, and the lists of chunks."""
    modes = {f.path: f.mode for f in seen.changed}
    lines: dict[str, str] = {}
    lists: list[bytes] = []
    for path, (digest, row) in taken.whole.items():
        name = trees.escaped(path)
        lines[name] = f"{digest} {modes[path]} {row[0]} {name}"
    from blake3 import blake3

    for path, file in taken.large.items():
        name, listed = trees.escaped(path), chunks.to_list(file.chunks())
        lists.append(listed)
        lines[name] = f"{blake3(listed).hexdigest()} {modes[path].upper()} {file.found.size} {name}"
    return lines, lists


def _merged(
    memory: Memory, tree: trees.Tree, lines: dict[str, str], rows: dict[str, Row], gone: set[str]
) -> tuple[Memory, list[str]]:
    """The memory and the manifest with what changed; the same list of lines when nothing did."""
    index = dict(zip(memory.paths, range(len(memory.paths)), strict=True)) if lines else {}
    if not gone.intersection(memory.paths) and all(path in index for path in lines):
        new = tree.lines
        for path, line in lines.items():
            if new[index[path]] != line:
                new = list(new) if new is tree.lines else new
                new[index[path]] = line
        _touch(memory, rows, index)
        return Memory(memory.ref, memory.manifest, memory.paths, memory.columns), new
    kept = zip(memory.paths, tree.lines, zip(*memory.columns, strict=True), strict=True)
    every = [entry for entry in kept if entry[0] not in gone and entry[0] not in lines]
    every += [(path, line, rows[path]) for path, line in lines.items()]
    every.sort(key=lambda entry: entry[0])
    columns = tuple(array("q", [row[i] for _, _, row in every]) for i in range(4))
    return Memory(memory.ref, memory.manifest, [e[0] for e in every], columns), [e[1] for e in every]


def _touch(memory: Memory, rows: dict[str, Row], index: dict[str, int] | None = None) -> None:
    index = dict(zip(memory.paths, range(len(memory.paths)), strict=True)) if index is None else index
    for path, row in rows.items():
        for column, value in zip(memory.columns, row, strict=True):
            column[index[path]] = value


def _differences(
    ref: str, old: trees.Tree, lines: dict[str, str], gone: Iterable[str], total: int, seen: Seen
) -> Changes:
    before = set(old.lines)
    paths = {line.split(" ", 3)[3] for line in old.lines} if lines or gone else set()
    added = sorted(trees.unescaped(p) for p in lines if p not in paths)
    modified = sorted(trees.unescaped(p) for p, line in lines.items() if p in paths and line not in before)
    removed = sorted(trees.unescaped(p) for p in gone if p in paths)
    return Changes(ref, added, modified, removed, total - len(added) - len(modified), seen.skipped)


def holds(ws: Workspace, folder: Path) -> str:
    """The version that a folder holds as far as is known: name@version, or ''."""
    return Folder(ws.root, ws.project, folder).remembered().ref
