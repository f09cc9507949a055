"""Datasets between stores: push, pull, sync, and mirror, which also checks and mends both copies.

A remote is any place that can be written to. It holds blobs by their digest (as `plugins.blobs.remote` lays them out) and for
each version one small file, `datasets/NAME/VERSION.json`, which is written after all that it needs and never replaced. So an
interrupted push goes on where it stopped, and two at once do not disturb each other.
"""

from __future__ import annotations

import dataclasses
import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from boucle.core.errors import BoucleError, Conflict, Corrupt, Invalid, NotFound
from boucle.core.records import Dataset, Event
from boucle.core.refs import Ref, check_name
from boucle.ledger import contents, datasets
from boucle.ports import place as places
from boucle.ports.lookup import lookup
from boucle.ports.place import Place
from boucle.ports.vault import revealed
from boucle.settings import FILE, part

if TYPE_CHECKING:
    from boucle.workspace import Workspace

T = TypeVar("T")
R = TypeVar("R")

FORMAT = 1
Progress = Callable[[int, int], None]  # bytes that are done, and of how many

_SMALL = 512 << 10  # bytes up to which blobs travel together
_PACK = 8 << 20
_LARGE = 16 << 20  # bytes from which a blob is not held in memory
_CHUNK = 4 << 20
_THREADS = 8
_RECORD = re.compile(r"datasets/([^/]+)/([1-9]\d{0,17})\.json\Z")
_LONGEST = 16 << 20  # bytes of a record
_LATEST = 253_402_300_800.0  # the year 10,000, which no date can show
_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Remote:
    """A second store: what it is called, where it is, and its blobs."""

    name: str
    url: str  # as it may be shown
    place: Place
    blobs: Any  # of the plugin `remote`


@dataclass(frozen=True, slots=True)
class Moved:
    """What was sent or fetched, or with `dry_run` would be: versions, blobs and bytes; and how many versions were there."""

    remote: str
    datasets: tuple[str, ...]
    there: int
    blobs: int
    bytes: int
    dry_run: bool = False
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Mirrored:
    """What came of a mirror: blobs that were compared, what was sent, and in words what was wrong, mended, and lost."""

    remote: str
    checked: int
    datasets: tuple[str, ...]
    sent: int
    bytes: int
    problems: list[str] = field(default_factory=list)
    mended: list[str] = field(default_factory=list)
    seconds: float = 0.0


def remotes(ws: Workspace) -> list[dict[str, Any]]:
    """The remotes of boucle.toml ([remotes.NAME]): name, url as it may be shown, and the names of their options."""
    return [
        {"remote": name, "url": places.shown(url), "options": sorted(options)}
        for name, (url, options) in sorted(_configured(ws).items())
    ]


def opened(ws: Workspace, remote: str) -> Remote:
    """The remote of that name in boucle.toml, or at a URL or path; nothing is asked of it yet. Secrets of its options
    (`vault:NAME`) come from the vault. Raises `NotFound` with the nearest names."""
    known = _configured(ws)
    if remote in known:
        url, options = known[remote]
        url = url if "://" in url else str(ws.project / url)
    elif "://" in remote or "/" in remote or remote in (".", ".."):
        url, options = remote, {}
    else:
        raise NotFound.named(
            "remote",
            remote,
            known,
            fix=f"add [remotes.{remote}] with a url to {ws.project / FILE}, or give a URL or path",
        )
    found = revealed(lambda: ws.vault, {"url": url, **options})
    place = places.connect(found.pop("url"), found)
    return Remote(
        remote if remote in known else places.shown(url), places.shown(url), place, lookup("blobs", "remote")(place)
    )


def push(
    ws: Workspace,
    remote: str,
    names: Sequence[str] | None = None,
    *,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Moved:
    """Send versions that a remote does not have: all, or those of `names` (`tx` is all of tx, `tx@3` one).

    Raises `Conflict`, before anything is sent, for a version that is something else there, and `Corrupt` or `NotFound` for
    a blob that is not what it should be here.
    """
    started, there = time.monotonic(), opened(ws, remote)
    mine = _chosen(ws, names)
    others = _versions(there)
    same = _agreed(there, [d for d in mine if d.key in others])
    fresh = [d for d in mine if d.key not in same]
    needed = {b for d in fresh for b in contents.blobs_of(ws.blobs, d)}
    held = there.blobs.sizes() if needed else {}
    missing = {b: ws.blobs.size(b) for b in needed if b not in held}
    if not dry_run:
        _send(ws, there, missing, progress)
        for dataset in sorted(fresh, key=lambda d: (d.name, d.version)):
            _publish(ws, there, dataset)
    return Moved(
        there.name, tuple(d.key for d in fresh), len(same), len(missing), sum(missing.values()), dry_run,
        time.monotonic() - started,
    )  # fmt: skip


def pull(
    ws: Workspace,
    remote: str,
    names: Sequence[str] | None = None,
    *,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Moved:
    """Fetch versions that are not here: all of a remote, or those of `names`. They keep their numbers and where they came
    from; nothing of them is visible before all of it is here.

    Raises `NotFound` for a name that the remote does not have, `Conflict` for a version that is something else here, and
    `Corrupt` for what is not what was pushed.
    """
    started, there = time.monotonic(), opened(ws, remote)
    wanted = _wanted(there, names)
    here = {key: found for key in wanted if (found := ws.store.get(Dataset, key)) is not None}
    _agreed(there, list(here.values()))
    fresh = _each(lambda key: _fetched(there, key), [key for key in wanted if key not in here])
    needed = {b for found in _each(lambda d: _needed(there, d), fresh) for b in found}
    missing = [b for b in needed if not ws.blobs.has(b)]
    sizes = there.blobs.sizes() if missing else {}
    if lost := [b for b in missing if b not in sizes]:
        raise NotFound(
            f"{there.name} lacks {len(lost)} of the blobs that it needs, such as {lost[0][:12]}",
            expected="all that was pushed", fix=f"boucle data mirror {there.name} --repair, where they still are",
        )  # fmt: skip
    if not dry_run:
        _fetch(ws, there, {b: sizes[b] for b in missing}, progress)
        if gone := [b for b in needed if not ws.blobs.has(b)]:
            raise Conflict(
                f"blob {gone[0][:12]} was here and was removed meanwhile", expected="no gc just now", fix="pull again"
            )
        _receive(ws, there, fresh)
    return Moved(
        there.name, tuple(d.key for d in fresh), len(here), len(missing), sum(sizes[b] for b in missing), dry_run,
        time.monotonic() - started,
    )  # fmt: skip


def sync(
    ws: Workspace,
    remote: str,
    names: Sequence[str] | None = None,
    *,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> tuple[Moved, Moved]:
    """Both ways: what was fetched, and what was sent. A name may be on one side only; raises as `pull` and `push` do."""
    there = opened(ws, remote)
    mine, others = {d.key for d in ws.store.find(Dataset)}, set(_versions(there))
    chosen = names if names is not None else sorted(mine | others)
    asked = [(n, Ref.parse(n, "dataset")) for n in chosen]
    of_both = {
        side: [n for n, ref in asked if any(_meant(ref, key) for key in keys)]
        for side, keys in (("in", others), ("out", mine))
    }
    if unknown := [n for n, _ in asked if n not in of_both["in"] and n not in of_both["out"]]:
        raise NotFound.named("dataset", unknown[0], [*mine, *others])
    fetched = pull(ws, remote, of_both["in"], dry_run=dry_run, progress=progress)
    return fetched, push(ws, remote, of_both["out"], dry_run=dry_run, progress=progress)


def mirror(
    ws: Workspace, remote: str, *, repair: bool = False, quick: bool = False, progress: Progress | None = None
) -> Mirrored:
    """Keep a whole second copy: every blob that a record of this workspace needs, and the versions of all datasets.

    What is missing there is sent. Then every blob is read on both sides (with `quick` only looked for); what is damaged, or
    missing here, is a problem, which `repair` mends from the other side. What is sound nowhere stays a problem.
    """
    started, there = time.monotonic(), opened(ws, remote)
    mended = (
        [f"{path} of {there.name}: removed, its blobs are sent again" for path in there.blobs.mend()] if repair else []
    )
    either: Any = _Either(ws.blobs, there.blobs)
    kinds, problems, needed = contents.KINDS, list[str](), set[str]()
    for kind in kinds:
        for record in ws.store.find(kind):
            try:
                needed.update(contents.required(either, record))
            except BoucleError as error:
                problems.append(f"{record}: {error.what}")
    held = there.blobs.sizes()
    order = sorted(needed)
    states = _each(lambda b: (_state(ws.blobs, b, quick), _state(there.blobs, b, quick) if b in held else ""), order)
    sending: dict[str, int] = {}
    for blob, (here, beyond) in zip(order, states, strict=True):
        if here == beyond == "sound":
            continue
        if here != "sound" and beyond != "sound":
            problems.append(f"blob {blob[:12]} is {here or 'missing'} here and {beyond or 'missing'} in {there.name}")
        elif here == "sound" and not beyond:
            sending[blob] = ws.blobs.size(blob)
        elif not repair:
            where = f"{beyond} in {there.name}" if here == "sound" else f"{here or 'missing'} here"
            problems.append(f"blob {blob[:12]} is {where}")
        elif here == "sound":
            there.blobs.remove(blob)
            sending[blob] = ws.blobs.size(blob)
            mended.append(f"blob {blob[:12]} of {there.name}, from here")
        else:
            _mend(ws, there, blob)
            mended.append(f"blob {blob[:12]} here, from {there.name}")
    _send(ws, there, sending, progress)
    versions: tuple[str, ...] = ()
    if not problems:
        versions = push(ws, remote).datasets
    return Mirrored(
        there.name,
        len(order),
        versions,
        len(sending),
        sum(sending.values()),
        problems,
        mended,
        time.monotonic() - started,
    )


# --- remotes ------------------------------------------------------------------------------------------------------------


def _configured(ws: Workspace) -> dict[str, tuple[str, dict[str, Any]]]:
    file, found = ws.project / FILE, {}
    for name, table in part(ws.settings.table, "remotes", file).items():
        check_name(name, "name of a remote")
        if not isinstance(table, dict) or not isinstance(table.get("url"), str):
            raise Invalid(
                f"{file}: [remotes.{name}] has no url", expected='url = "s3://..." or a path', fix=f"edit {file}"
            )
        if others := sorted(set(table) - {"url", "options"}):
            raise Invalid(
                f"{file}: [remotes.{name}] has {', '.join(others)}",
                expected="url and options",
                fix=f"put them into the options: options = {{ {others[0]} = ... }}",
            )
        options = table.get("options", {})
        if not isinstance(options, dict):
            raise Invalid(f"{file}: [remotes.{name}] options is no table", expected="options = { name = value }")
        found[name] = (table["url"], options)
    return found


def _versions(there: Remote) -> dict[str, str]:
    """name@version -> path of its record."""
    found = {}
    for entry in there.place.list("datasets/"):
        if named := _RECORD.match(entry.path):
            found[f"{named[1]}@{named[2]}"] = entry.path
    return found


def _path(key: str) -> str:
    name, _, version = key.partition("@")
    return f"datasets/{name}/{version}.json"


def _fetched(there: Remote, key: str) -> Dataset:
    """The record of a version as it is there; it was written by others, so nothing of it is believed."""
    raw = b"".join(there.place.read(_path(key), 0, _LONGEST))
    try:
        said = json.loads(raw, parse_constant=_no_number)
        known, fields = int(said["format"]), dict(said["dataset"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise Corrupt(
            f"{_path(key)} in {there.name} is not the record of a version", expected="what push wrote"
        ) from None
    if known != FORMAT or (unknown := set(fields) - {f.name for f in dataclasses.fields(Dataset)}):
        raise Invalid(
            f"{key} in {there.name} was written by a newer version of boucle"
            + (f" (format {known})" if known != FORMAT else f" (field {min(unknown)!r})"),
            expected=f"format {FORMAT}", fix="use that version",
        )  # fmt: skip
    kinds: dict[str, Any] = {"str": str, "int": int, "float": (int, float), "Json": dict}
    fits = all(isinstance(fields[f.name], kinds[str(f.type)]) for f in dataclasses.fields(Dataset) if f.name in fields)
    try:
        dataset = Dataset(**fields) if fits else None
    except TypeError:
        dataset = None
    if dataset is None or dataset.key != key or not _possible(dataset):
        raise Corrupt(f"{_path(key)} in {there.name} is not the record of {key}", expected="what push wrote")
    check_name(dataset.name, "dataset name")
    return dataset


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def _possible(dataset: Dataset) -> bool:
    named = [dataset.digest, dataset.manifest, *contents.besides(dataset)]
    counts = (dataset.version, dataset.rows, dataset.size)
    return (
        dataset.type in ("table", "files")
        and all(isinstance(blob, str) and _DIGEST.fullmatch(blob) for blob in named)
        and all(type(number) is int and 0 <= number < 1 << 63 for number in counts)
        and type(dataset.created) in (int, float)
        and 0 <= dataset.created < _LATEST
    )


def _needed(there: Remote, dataset: Dataset) -> set[str]:
    """The blobs of a version that is there; raises `Corrupt` where its record tells of another content than its manifest."""
    needed = set(contents.blobs_of(there.blobs, dataset))
    if not contents.agrees(there.blobs, dataset):
        raise Corrupt(
            f"the record of {dataset.key} in {there.name} is not that of its content", expected="what push wrote"
        )
    return needed


def _agreed(there: Remote, mine: Sequence[Dataset]) -> set[str]:
    """The versions that are the same there; raises `Conflict` when one is not."""
    theirs = _each(lambda d: _fetched(there, d.key), mine)
    differing = [(a, b) for a, b in zip(mine, theirs, strict=True) if a.digest != b.digest]
    if differing:
        ours, other = differing[0]
        more = f", and {len(differing) - 1} more differ" if len(differing) > 1 else ""
        raise Conflict(
            f"{ours.key} is {ours.digest[:12]} here ({ours.rows:,} rows, by {ours.actor or 'nobody'}) and {other.digest[:12]} in "
            f"{there.name} ({other.rows:,} rows, by {other.actor or 'nobody'}){more}",
            expected="one content for a version",
            fix=f"keep yours under another name: boucle data export {ours.key} FILE, then boucle data ingest FILE "
            f"--name {ours.name}-mine; or name the datasets to move",
        )
    return {d.key for d in mine}


def _publish(ws: Workspace, there: Remote, dataset: Dataset) -> None:
    said = {"format": FORMAT, "dataset": dataclasses.asdict(dataset)}
    try:
        there.place.write(_path(dataset.key), json.dumps(said, ensure_ascii=False, sort_keys=True).encode(), new=True)
    except Conflict:
        _agreed(there, [dataset])  # another was first; with the same content all is well
        return
    _noted(ws, "dataset.pushed", dataset, there)


def _receive(ws: Workspace, there: Remote, fresh: Sequence[Dataset]) -> None:
    with ws.store.transaction():
        for dataset in sorted(fresh, key=lambda d: (d.name, d.version)):
            before = ws.store.get(Dataset, dataset.key)
            if before is None:
                ws.store.add(dataset)
                _noted(ws, "dataset.pulled", dataset, there)
            elif before.digest != dataset.digest:
                raise Conflict(
                    f"{dataset.key} was made here meanwhile", expected="one content for a version", fix="pull again"
                )


def _noted(ws: Workspace, what: str, dataset: Dataset, there: Remote) -> None:
    data = {"remote": there.url, "digest": dataset.digest}
    ws.store.append(Event(type=what, subject=str(dataset.ref), time=ws.now(), actor=ws.actor, data=data))


# --- what is meant --------------------------------------------------------------------------------------------------------


def _chosen(ws: Workspace, names: Sequence[str] | None) -> list[Dataset]:
    if names is None:
        return ws.store.find(Dataset, order=("name", "version"))
    found: dict[str, Dataset] = {}
    for name in names:
        ref = Ref.parse(name, "dataset")
        for dataset in [datasets.resolve(ws, ref)] if ref.version else datasets.versions(ws, ref.name):
            found[dataset.key] = dataset
    return list(found.values())


def _wanted(there: Remote, names: Sequence[str] | None) -> list[str]:
    known = _versions(there)
    if names is None:
        if not known:
            raise NotFound(
                f"there are no datasets in {there.name}", expected="what somebody pushed", fix="boucle data push"
            )
        return sorted(known)
    found: dict[str, None] = {}
    for name in names:
        ref = Ref.parse(name, "dataset")
        if ref.version and ref.number is None and ref.version != "latest":
            raise Invalid(f"{name} names a version by what only its own workspace knows", expected="a number or latest")
        meant = [k for k in known if _meant(ref, k)]
        if not meant:
            raise NotFound.named(f"dataset in {there.name}", name, [*known, *(k.partition("@")[0] for k in known)])
        if ref.version == "latest":
            meant = [max(meant, key=lambda k: int(k.partition("@")[2]))]
        found.update(dict.fromkeys(meant))
    return list(found)


def _meant(ref: Ref, key: str) -> bool:
    name, _, version = key.partition("@")
    return name == ref.name and (ref.number is None or version == str(ref.number))


# --- blobs ----------------------------------------------------------------------------------------------------------------


class _Either:
    """Blobs for reading, from wherever they are sound."""

    def __init__(self, *sides: Any) -> None:
        self._sides = sides

    def get(self, digest: str) -> bytes:
        for side in self._sides[:-1]:
            try:
                return bytes(side.get(digest))
            except (NotFound, Corrupt):
                continue
        return bytes(self._sides[-1].get(digest))


class _Count:
    """Bytes that are done, told to whoever wants to know."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress, self._turn = 0, total, progress, threading.Lock()

    def add(self, number: int) -> None:
        with self._turn:
            self._done += number
            if self._progress is not None:
                self._progress(self._done, self._total)


def _send(ws: Workspace, there: Remote, missing: dict[str, int], progress: Progress | None) -> None:
    count = _Count(sum(missing.values()), progress)

    def work(digests: list[str]) -> None:
        if len(digests) > 1:
            there.blobs.put_many(map(ws.blobs.get, digests))  # `get` checks what is sent
        else:
            (digest,) = digests
            with ws.blobs.open(digest) as file:
                got = there.blobs.put(_pieces(file) if missing[digest] > _LARGE else ws.blobs.get(digest))
            if got != digest:
                there.blobs.remove(got)
                raise _damaged(digest, "here")
        count.add(sum(missing[d] for d in digests))

    there.blobs.sizes()  # so that threads need not look
    _each(work, list(_parcels(missing)))


def _parcels(sizes: dict[str, int]) -> Iterator[list[str]]:
    """What travels together: large blobs alone, small ones in the order of their digests, so that whoever goes on later
    makes the same packs."""
    small: list[str] = []
    filled = 0
    for digest in sorted(sizes):
        if sizes[digest] > _SMALL:
            yield [digest]
            continue
        small.append(digest)
        filled += sizes[digest]
        if filled >= _PACK:
            yield small
            small, filled = [], 0
    if small:
        yield small


def _fetch(ws: Workspace, there: Remote, missing: dict[str, int], progress: Progress | None) -> None:
    count = _Count(sum(missing.values()), progress)

    def work(digests: list[str]) -> None:
        if len(digests) > 1:
            ws.blobs.put_many(data for _, data in there.blobs.get_many(digests))
        elif missing[digests[0]] <= _LARGE:
            ws.blobs.put(there.blobs.get(digests[0]))
        elif (got := ws.blobs.put(there.blobs.read(digests[0]))) != digests[0]:
            ws.blobs.remove(got)
            raise _damaged(digests[0], f"in {there.name}")
        count.add(sum(missing[d] for d in digests))

    _each(work, there.blobs.groups(sorted(missing)))


def _state(blobs: Any, digest: str, quick: bool) -> str:
    """sound, damaged, or '' for missing."""
    try:
        if quick:
            return "sound" if blobs.has(digest) else ""
        from blake3 import blake3

        hasher = blake3()
        for piece in _pieces_of(blobs, digest):
            hasher.update(piece)
    except NotFound:
        return ""
    except Corrupt:
        return "damaged"
    return "sound" if hasher.hexdigest() == digest else "damaged"


def _pieces_of(blobs: Any, digest: str) -> Iterator[bytes]:
    with blobs.open(digest) as file:
        yield from _pieces(file)


def _pieces(file: Any) -> Iterator[bytes]:
    while piece := file.read(_CHUNK):
        yield piece


def _mend(ws: Workspace, there: Remote, digest: str) -> None:
    """Put a sound copy from there in the place of what is damaged or missing here."""
    ws.blobs.remove(digest)
    if ws.blobs.put(there.blobs.read(digest)) != digest:
        raise _damaged(digest, f"in {there.name}")


def _damaged(digest: str, where: str) -> Corrupt:
    return Corrupt(
        f"blob {digest} {where} no longer has the content it was stored with", expected="bytes with that digest",
        fix="boucle data mirror REMOTE --repair mends it where the other copy is sound",
    )  # fmt: skip


def _each(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """The results of all, by several threads; after the first error no more are begun, and it is raised."""
    with ThreadPoolExecutor(_THREADS) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            return [f.result() for f in futures]
        except BaseException:
            for f in futures:
                f.cancel()
            raise
