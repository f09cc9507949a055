# ruff: noqa: PTH116  a Path for each of very many files would cost more than looking at them
"""Checkout: a folder becomes a version. Only files that differ are touched, and of large ones only the chunks that do."""

from __future__ import annotations

import json
import os
import time
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from boucle.core.errors import Conflict, Corrupt, Invalid, NotFound
from boucle.data import reading, snapshot
from boucle.data.folder import DRAFTS, MARGIN, Folder, Memory, Row, Seen, journal, state
from boucle.data.writing import Writer, discard, opened
from boucle.ledger import trees

if TYPE_CHECKING:
    from boucle.core.records import Dataset
    from boucle.workspace import Workspace

LINKS = ("auto", "reflink", "hardlink", "copy")


@dataclass(frozen=True, slots=True)
class CheckedOut:
    """What came of it: the version, the files written and removed, and how: reflink, hardlink, copy, patch or symlink."""

    dataset: Dataset
    written: list[str]
    removed: list[str]
    how: dict[str, int]
    overwritten: list[str] = field(default_factory=list)  # changes that no version holds
    kept: list[str] = field(default_factory=list)  # changes of files that are the same in both versions, or in neither
    skipped: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Differences:
    """Lines, by path, of the version that a folder holds and of the one it is to hold, where they differ."""

    before: dict[str, str] = field(default_factory=dict)
    after: dict[str, str] = field(default_factory=dict)
    places: dict[str, int] | None = None  # in both manifests, when they have the same paths

    def __contains__(self, path: str) -> bool:
        return path in self.after or path in self.before


@dataclass(slots=True)
class _Plan:
    write: dict[str, str] = field(default_factory=dict)  # lines by path
    remove: list[str] = field(default_factory=list)  # as written in a manifest
    # Lines of files that are as remembered, may be written to and have no other name: they can be changed in place.
    own: dict[str, str] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
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
    """Make a folder hold the files of a version; it is made when it is not there.

    Local changes of files that differ between the two versions are not overwritten, but raise `Conflict` before anything
    is written. Those of other files, and files that are in neither version, stay as they are and are told, and what was
    deleted comes back. With `force` the folder holds exactly the version.

    `link` says how a file that is stored as a whole comes into the folder: `reflink` where the file system can, otherwise a
    copy; `hardlink` as a read-only file that shares its bytes with the store. Run it again when it was cut off.
    """
    started = time.monotonic()
    if link not in LINKS:
        raise Invalid(f"link={link!r}", expected=f"one of {', '.join(LINKS)}")
    place = Folder(ws.root, ws.project, folder)
    plans, how, rows = list[_Plan](), Counter[str](), dict[str, Row]()
    with place.alone():
        since = place.tick()
        remembered = place.remembered()
        with place.scanning(remembered) as scanned:
            dataset = _resolved(ws, ref)
            memory, base = snapshot.known(ws, remembered)
            tree = trees.files(ws.blobs, dataset.manifest) if dataset.manifest != base.manifest else base
            differ, begun = _differ(base, tree), journal(place)

            def carry_out(plan: _Plan) -> None:
                plans.append(plan)
                rows.update(plan.right)
                if (plan.write or plan.remove) and not dry_run:
                    writer = Writer(
                        ws.blobs, place.path, plan.write, plan.remove, plan.own, link, since - MARGIN, progress
                    )
                    _begin(place, dataset, writer.changed_in_place)
                    writer.work(how, rows)

            if not dry_run:
                place.path.mkdir(parents=True, exist_ok=True)
                if begun.ref:
                    _clear(place)
            own = _untouched(place, memory, differ) if base.manifest and not begun.ref else None
            if own is None:
                seen = scanned() if memory is remembered else place.scan(memory)
                carry_out(_planned(ws, place, base, tree, differ, seen, force))
            else:  # nothing can be lost: it is written while another process looks at all else
                carry_out(_Plan(dict(differ.after), _removed(differ), own))
                seen = scanned()
                others = Seen(
                    [f for f in seen.changed if trees.escaped(f.path) not in differ],
                    [p for p in seen.gone if trees.escaped(p) not in differ],
                    seen.skipped,
                )
                carry_out(_planned(ws, place, base, tree, _Differences(), others, force))
        if not dry_run:
            if rows or begun.ref or memory.ref != dataset.key or memory.manifest != tree.manifest:
                place.remember(_after(memory, dataset, tree, differ, rows), since)
            place.journal.unlink(missing_ok=True)
    from boucle.ledger import recording

    recording.note_read(str(dataset.ref), dataset.digest, ref)
    written = sorted(trees.unescaped(path) for plan in plans for path in plan.write)
    removed = sorted(trees.unescaped(path) for plan in plans for path in plan.remove)
    lost, kept = sorted(p for plan in plans for p in plan.lost), sorted(p for plan in plans for p in plan.kept)
    seconds = time.monotonic() - started
    return CheckedOut(dataset, written, removed, dict(how), lost, kept, seen.skipped, seconds)


def _resolved(ws: Workspace, ref: str) -> Dataset:
    from boucle.ledger import datasets

    dataset = datasets.resolve(ws, ref)
    if dataset.type != "files":
        raise Invalid(
            f"{dataset.ref} is a table", expected="a version of files", fix=f"boucle data export {dataset.key} FILE"
        )
    return dataset


def _clear(place: Folder) -> None:
    """Remove what a checkout that was cut off had not brought into place."""
    for entry in os.scandir(place.path):
        if entry.name.startswith(DRAFTS) and entry.is_dir(follow_symlinks=False):
            discard(entry.path)


def _differ(base: trees.Tree, tree: trees.Tree) -> _Differences:
    """Where two versions differ; raises `Corrupt` when the paths of the second cannot be those of one folder."""
    if len(base) == len(tree):
        found = [i for i, same in enumerate(map(str.__eq__, base.lines, tree.lines)) if not same]
        before, after = ({_path(lines[i]): lines[i] for i in found} for lines in (base.lines, tree.lines))
        if list(before) == list(after):
            return _Differences(before, after, dict(zip(before, found, strict=True)))
    tree.paths  # noqa: B018  says when they cannot be
    old, new = set(base.lines), set(tree.lines)
    before, after = (
        {_path(line): line for line in lines if line not in others}
        for lines, others in ((base.lines, new), (tree.lines, old))
    )
    return _Differences(before, after)


def _path(line: str) -> str:
    parts = line.split(" ", 3)
    return parts[3] if len(parts) == 4 else trees.entry(line).path  # which says that it is no line


def _removed(differ: _Differences) -> list[str]:
    return [path for path in differ.before if path not in differ.after]


def _untouched(place: Folder, memory: Memory, differ: _Differences) -> dict[str, str] | None:
    """Lines of the files that differ and may be changed in place; None unless all that differ are as remembered, or gone."""
    own: dict[str, str] = {}
    index = differ.places or {path: i for i, path in enumerate(memory.paths) if path in differ.before}
    folders: dict[str, list[str]] = {}
    for path in differ.before | differ.after:
        folders.setdefault(path.rpartition("/")[0], []).append(path)
    try:
        root = os.open(place.path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        for folder, paths in folders.items():
            try:
                with opened(root, _unescaped(folder)) as inside:
                    for path in paths:
                        try:
                            now = os.stat(_unescaped(path.rpartition("/")[2]), dir_fd=inside, follow_symlinks=False)
                        except FileNotFoundError:
                            continue
                        if path not in differ.before or state(now) != memory.row(index[path]):
                            return None
                        if now.st_nlink == 1 and now.st_mode & 0o200:
                            own[path] = differ.before[path]
            except FileNotFoundError:
                continue
            except OSError:  # a link or a file where a folder should be
                return None
    finally:
        os.close(root)
    return own


def _unescaped(text: str) -> str:
    return trees.unescaped(text) if "\\" in text else text


def _planned(
    ws: Workspace, place: Folder, base: trees.Tree, tree: trees.Tree, differ: _Differences, seen: Seen, force: bool
) -> _Plan:
    """What has to be done about what differs and what was seen; raises `Conflict` for changes that would be lost."""
    begun = journal(place)
    changed = {trees.escaped(f.path): f for f in seen.changed}
    gone = {trees.escaped(p) for p in seen.gone}
    plan = _Plan(dict(differ.after), [path for path in _removed(differ) if path not in gone])
    as_before = (path for path in differ.after if path in differ.before and not (path in changed or path in gone))
    plan.own = {path: differ.before[path] for path in as_before if _own(place, path)}
    if not (changed or gone):
        return plan
    was, wanted, meant = (
        {path: line for line in lines if (path := _path(line)) in changed or path in gone}
        for lines in (base.lines, tree.lines, _manifest(ws, begun.manifest))
    )
    folders = {above for path in plan.write for above in _above(path)}
    for path, found in changed.items():
        line = wanted.get(path)
        if line is not None and snapshot.matches(ws, place, found, trees.entry(line)):
            plan.right[path] = found.row
            plan.write.pop(path, None)
            continue
        known = found.path in begun.patched or any(
            snapshot.matches(ws, place, found, trees.entry(other))
            for other in {was.get(path), meant.get(path)}
            if other is not None and other != line
        )
        in_the_way = path in folders or any(above in plan.write for above in _above(path))
        if not (known or path in differ or in_the_way or force):
            plan.kept.append(found.path)
            continue
        if not known:
            plan.lost.append(found.path)
        if line is not None:
            plan.write[path] = line
        elif path not in differ.before:
            plan.remove.append(path)
    if plan.lost and not force:
        shown = ", ".join(sorted(plan.lost)[:10]) + (f" and {len(plan.lost) - 10} more" if len(plan.lost) > 10 else "")
        raise Conflict(
            f"{len(plan.lost):,} changed since the last snapshot would be lost: {shown}",
            expected="files that differ between the versions to be as one of them has them",
            fix="boucle data snapshot them first, or --force to lose them",
        )
    standing = {trees.escaped(path) for path in [*plan.kept, *(path for path, _ in seen.skipped)]}
    standing_in = {above for path in standing for above in _above(path)}
    for path in gone & wanted.keys():
        if path not in standing_in and standing.isdisjoint(_above(path)):
            plan.write[path] = wanted[path]
    return plan


def _above(path: str) -> list[str]:
    """The folders that a path lies in."""
    parts = path.split("/")
    return ["/".join(parts[:i]) for i in range(1, len(parts))]


def _manifest(ws: Workspace, manifest: str) -> list[str]:
    try:
        return trees.files(ws.blobs, manifest).lines if manifest else []
    except (NotFound, Corrupt, Invalid):
        return []


def _own(place: Folder, path: str) -> bool:
    """Whether a file may be changed in place: it has no other name, and may be written to."""
    now = os.stat(place.path / _unescaped(path), follow_symlinks=False)
    return now.st_nlink == 1 and bool(now.st_mode & 0o200)


def _begin(place: Folder, dataset: Dataset, changed_in_place: list[str]) -> None:
    """Note what is being done before it is."""
    patched = [*journal(place).patched, *changed_in_place]
    said = {"ref": dataset.key, "manifest": dataset.manifest, "patched": patched}
    draft = place.journal.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps(said), encoding="utf-8")
    draft.replace(place.journal)


def _after(memory: Memory, dataset: Dataset, tree: trees.Tree, differ: _Differences, rows: dict[str, Row]) -> Memory:
    """What the folder holds then."""
    if differ.places is not None:
        index = differ.places
        if not rows.keys() <= index.keys():
            index = dict(zip(memory.paths, range(len(memory.paths)), strict=True))
        for path, row in rows.items():
            for column, value in zip(memory.columns, row, strict=True):
                column[index[path]] = value
        return Memory(dataset.key, tree.manifest, memory.paths, memory.columns)
    every = dict(zip(memory.paths, zip(*memory.columns, strict=True), strict=True)) | rows
    columns = tuple(array("q", column) for column in zip(*(every[p] for p in tree.paths), strict=True))
    return Memory(dataset.key, tree.manifest, tree.paths, columns or Memory().columns)
