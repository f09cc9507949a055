"""Ingestion: anything tabular becomes a dataset version, with its statistics, and with what was wrong set aside."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from boucle.core.errors import Conflict, Invalid
from boucle.core.frames import Frame
from boucle.core.records import Dataset
from boucle.core.refs import check_name
from boucle.data import combine, cursors, profiles
from boucle.data.choice import source_for as source_for  # noqa: PLC0414  told to others
from boucle.data.gather import Gathered, gathered
from boucle.data.gather import shown as shown  # noqa: PLC0414
from boucle.ledger import datasets, recording, tables
from boucle.measure.quality import Profiler, observed
from boucle.ports.source import BadLine, Mode, Reading
from boucle.ports.vault import revealed
from boucle.settings import FILE, part
from boucle.workspace import Workspace

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Ingested:
    """What came of it: the version, whether it is new, the lines set aside, what the source found out, how many rows it gave,
    and how long it took."""

    dataset: Dataset
    new: bool
    bad: list[BadLine] = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)
    rows: int = 0
    seconds: float = 0.0


def ingest(
    ws: Workspace,
    source: Any,
    name: str,
    *,
    mode: Mode = "replace",
    key: Sequence[str] = (),
    cursor: str = "",
    full: bool = False,
    options: Mapping[str, Any] | None = None,
    description: str = "",
    tags: Mapping[str, Any] | None = None,
    evolve: bool = False,
    renames: Mapping[str, str] | None = None,
    owner: str = "",
    licence: str = "",
    on_bad: str = "set_aside",
    origin: str = "",
    progress: Callable[[int], None] | None = None,
    said: Callable[[str], None] | None = None,
) -> Ingested:
    """Make files, what a database or another system gives, or anything `Frame.of` takes, the next version of `name`.

    `source` is a path or URL of a file, folder, glob or archive, the URL of a system, the name of an entry [sources.NAME] of
    boucle.toml, or a table. Many files are one table; files that are no tables are a row each (see `data.gather` and
    `data.media`). `options` go to `data.gather`, the source plugin, and the place where files lie; `source` among them names
    the plugin, which is otherwise chosen by the URL's scheme or the file's ending; a value `vault:NAME` is looked up in the
    vault, and kept nowhere. Lines that cannot be read are set aside and kept as a blob (its digest is the tag `bad_lines`),
    or, with `on_bad="fail"`, raise `Invalid`. `progress` is called with the rows read so far, `said` with words about files
    that are fetched, unpacked, looked at or stored.

    `mode` says what the version holds: the new rows (`replace`), the rows of the latest version and behind them the new ones
    (`append`), or each row of the latest version unless there is a new one with the same `key` (`merge`). With a `cursor`, a
    column that grows (a time of change, a number), only rows past the one that the latest version came to are taken; when
    merging, also those that are level with it. `full` forgets the cursor and takes all rows, in place of what there was.

    Nothing is visible before all of it is stored; the same content as the latest version makes no new one. Raises `NotFound`
    or `Invalid` for a source that cannot be read or has no rows, and `Refused` for a schema that does not follow from the
    latest.

        ingest(ws, "transactions.csv.gz", "tx").dataset.ref  # dataset:tx@1
    """
    started = time.monotonic()
    check_name(name, "dataset name")
    if on_bad not in ("set_aside", "fail"):
        raise Invalid(f"on_bad={on_bad!r}", expected="set_aside or fail")
    _check_mode(mode, key, cursor)
    before = datasets.latest(ws, name)
    based = before if mode != "replace" and not full else None
    if before is not None and before.type != "table":
        raise Invalid(
            f"{before.key} holds files",
            expected="a dataset of rows",
            fix="ingest under another name, or boucle data snapshot FOLDER for the next version of the files",
        )
    track = cursors.Track.after(cursor, based, inclusive=mode == "merge") if cursor else None
    with _gathered(ws, source, dict(options or {}), mode, based, track, said=said) as got:
        reading, origin = got.reading, origin or got.origin
        if got.empty and based is not None:
            return Ingested(based, False, [], reading.found, 0, time.monotonic() - started)
        frame = tables.as_stored(_watched(reading, on_bad, progress))
        if track is not None:
            frame = track.newer(frame)
        counted = _Counted()
        stored, profiler = _stored(ws, based, counted.of(frame), mode, tuple(key), got.tree)
    if stored.rows == 0:
        why = (
            f"all {len(reading.bad)} lines were set aside: {_listed(reading.bad)}" if reading.bad else "it has no rows"
        )
        raise Invalid(f"{origin or 'the table'} gives no dataset: {why}", expected="at least one row")
    bad = list(reading.bad)
    if not tables.present(ws.blobs, stored.manifest):  # it took longer than the grace of somebody's gc
        raise Conflict(
            "blobs were removed while they were about to be needed", expected="no gc that spares nothing just now",
            fix="ingest again",
        )  # fmt: skip
    noted = dict(tags or {})
    if bad:
        noted["bad_lines"] = ws.blobs.put(b"".join(_json(asdict(line)) + b"\n" for line in bad))
    dataset, new = datasets.commit(
        ws,
        name,
        stored,
        source=origin,
        statistics=ws.blobs.put(_json(profiler.result().to_json())),
        description=description,
        tags=noted,
        owner=owner,
        licence=licence,
        evolve=evolve,
        renames=renames,
        position={**(track.position() if track else {}), **got.position} if track or got.position else None,
        after=None if mode == "replace" or full else before.key if before else "",
    )
    if mode == "append":
        profiles.keep(ws, dataset, profiler)
    return Ingested(dataset, new, bad, reading.found, counted.rows, time.monotonic() - started)


def _check_mode(mode: str, key: Sequence[str], cursor: str) -> None:
    if mode not in ("replace", "append", "merge"):
        raise Invalid(f"mode={mode!r}", expected="replace, append or merge")
    if isinstance(key, str):
        raise Invalid(f"key={key!r}", expected="a list of columns")
    if bool(key) != (mode == "merge"):
        raise Invalid(
            "merging needs a key" if mode == "merge" else f"a key means nothing to mode={mode!r}",
            expected="the columns that name a row, with mode=merge",
            fix="name them: --key COLUMN" if mode == "merge" else "--mode merge",
        )
    if cursor and mode == "replace":
        raise Invalid(
            f"cursor={cursor!r} with mode='replace' would lose the rows from before",
            expected="append or merge",
            fix="--mode append",
        )


def _stored(
    ws: Workspace, before: Dataset | None, frame: Frame, mode: str, key: tuple[str, ...], tree: str
) -> tuple[tables.Stored, Profiler]:
    """What was stored, and its profile."""
    if before is not None:
        tree = _joined(ws, before, tree, replaces="path" in key)
    if before is None:
        profiler = Profiler()
        empty = Frame(frame.schema, lambda _: iter(()), 0)
        if mode == "merge":  # of several rows with one key the last counts here too
            plain, _ = tables.plain_batches(frame)
            frame = combine.merged(empty, plain, frame, key)
        return tables.write(ws.blobs, observed(frame, profiler), tree=tree), profiler
    old, arrow = datasets.frame(ws, before), tables.arrow_of(tables.load_manifest(ws.blobs, before.manifest))
    combine.check_related(before.key, arrow.names, frame.schema.names)
    if mode == "append":
        both = combine.appended(old, arrow, frame)
        if both.grows:
            profiler = profiles.continued(ws, before)
            grown = profiles.followed(both.frame, profiler)
            return tables.append(ws.blobs, before.manifest, grown, tree=tree), profiler
        whole = both.frame
    else:
        whole = combine.merged(old, arrow, frame, key)
    profiler = Profiler()
    return tables.write(ws.blobs, observed(whole, profiler), tree=tree), profiler


class _Counted:
    """How many rows went by."""

    rows = 0

    def of(self, frame: Frame) -> Frame:
        def opener(columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
            self.rows = 0
            for batch in frame.batches(columns):
                self.rows += batch.num_rows
                yield batch

        return Frame(frame.schema, opener, frame.rows, frame.digest, frame.ref)


def _joined(ws: Workspace, before: Dataset, tree: str, *, replaces: bool) -> str:
    """The files of a version and new ones."""
    old = tables.load_manifest(ws.blobs, before.manifest).get("tree", "")
    if not old or not tree:
        return tree or str(old)
    from boucle.data import media

    return media.joined(ws, old, tree, replaces=replaces)


def preview(
    ws: Workspace,
    source: Any,
    options: Mapping[str, Any] | None = None,
    *,
    said: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """What ingesting would find, reading everything and storing nothing: rows, columns, found, bad lines. JSON."""
    with _gathered(ws, source, dict(options or {}), "append", None, None, keep=False, said=said) as got:
        reading = got.reading
        rows = sum(batch.num_rows for batch in reading.frame.batches())
    return {
        "rows": rows,
        "columns": [c.to_json() for c in reading.frame.schema.columns],
        "found": reading.found,
        "bad": [asdict(line) for line in reading.bad],
    }


def bad_lines(ws: recording.Ledger, dataset: Dataset) -> list[BadLine]:
    """The lines that were set aside when a version was ingested."""
    digest = dataset.tags.get("bad_lines")
    return [BadLine(**json.loads(line)) for line in ws.blobs.get(digest).splitlines()] if digest else []


@contextmanager
def _gathered(
    ws: Workspace,
    source: Any,
    options: dict[str, Any],
    mode: Mode,
    before: Dataset | None,
    track: cursors.Track | None,
    *,
    keep: bool = True,
    said: Callable[[str], None] | None = None,
) -> Iterator[Gathered]:
    if not isinstance(source, str | os.PathLike):
        if options:
            raise Invalid(f"option {next(iter(options))!r} is for files", expected="no options with a table in memory")
        frame = Frame.of(source)
        kind = f"{type(source).__module__.partition('.')[0]}.{type(source).__name__}"
        yield Gathered(Reading(frame), frame.ref or f"memory:{kind}")
        return
    url, options = _configured(ws, os.fspath(source), options)
    if options.get("new_files") and mode == "replace":
        raise Invalid("new_files with mode='replace' would lose the rows from before", expected="append or merge")

    def asked(plugin: Any) -> Mapping[str, Any]:
        knows = track is not None and {"cursor", "after", "inclusive"} <= set(plugin.options)
        return track.asked() if track is not None and knows else {}

    with gathered(ws, url, options, before=before, asked=asked, keep=keep, said=said) as got:
        yield got


def _configured(ws: Workspace, url: str, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """URL and options with what boucle.toml says of a source of that name, and with the secrets in place of their names."""
    known, named = part(ws.settings.table, "sources", ws.project / FILE), False
    if url in known and not Path(url).exists():
        entry = part(known, url, ws.project / FILE)
        if not isinstance(entry.get("url"), str):
            raise Invalid(
                f"[sources.{url}] has no url", expected="the path or URL to read", fix=f"edit {ws.project / FILE}"
            )
        options = {**entry, **options}
        url = options.pop("url")
        named = True
    found = revealed(lambda: ws.vault, {"url": url, **options})
    url = found.pop("url")
    if named and "://" not in url:  # a path in boucle.toml is one from there, wherever the command is given
        url = str(ws.project / Path(url).expanduser())
    return url, found


def _watched(reading: Reading, on_bad: str, progress: Callable[[int], None] | None) -> Frame:
    """The frame of a reading that fails at the first bad line where that is wanted, and tells how far it is."""
    frame = reading.frame

    def opener(columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        rows = 0
        for batch in frame.batches(columns):
            _refuse(reading.bad, on_bad)
            rows += batch.num_rows
            yield batch
            if progress is not None:
                progress(rows)
        _refuse(reading.bad, on_bad)

    return Frame(frame.schema, opener, frame.rows, frame.digest, frame.ref)


def _refuse(bad: Sequence[BadLine], on_bad: str) -> None:
    if bad and on_bad == "fail":
        raise Invalid(
            f"lines that cannot be read: {_listed(bad)}", expected="none", fix="mend them, or let them be set aside"
        )


def _listed(bad: Sequence[BadLine]) -> str:
    more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
    return "; ".join(f"{f'{b.file}, ' if b.file else ''}line {b.number}: {b.why}" for b in bad[:_SHOWN]) + more


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
