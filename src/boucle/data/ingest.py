"""Ingestion: anything tabular becomes a dataset version, with its statistics, and with what was wrong set aside."""

from __future__ import annotations

import json
import os
import re
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from boucle.core import files
from boucle.core.errors import Invalid
from boucle.core.frames import Frame
from boucle.core.records import Dataset
from boucle.core.refs import check_name
from boucle.ledger import datasets, tables
from boucle.measure.quality import Profiler, observed
from boucle.ports import lookup
from boucle.ports.source import BadLine, Reading

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Ingested:
    """What came of it: the version, whether it is new, the lines set aside, what the source found out, and how long
    it took."""

    dataset: Dataset
    new: bool
    bad: list[BadLine] = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def ingest(
    ws: datasets.Ledger,
    source: Any,
    name: str,
    *,
    options: Mapping[str, Any] | None = None,
    description: str = "",
    tags: Mapping[str, Any] | None = None,
    evolve: bool = False,
    renames: Mapping[str, str] | None = None,
    owner: str = "",
    licence: str = "",
    on_bad: str = "set_aside",
    progress: Callable[[int], None] | None = None,
) -> Ingested:
    """Make a file, or anything `Frame.of` takes, the next version of the dataset `name`.

    `options` go to the source plugin; `source` among them names the plugin, which is otherwise chosen by the file's
    ending. Lines that cannot be read are set aside and kept as a blob (its digest is the tag `bad_lines`), or, with
    `on_bad="fail"`, raise `Invalid`. `progress` is called with the rows read so far. Nothing is visible before all of
    it is stored; the same content as the latest version makes no new one. Raises `NotFound` or `Invalid` for a source
    that cannot be read or has no rows, and `Refused` for a schema that does not follow from the latest.

        ingest(ws, "transactions.csv.gz", "tx").dataset.ref  # dataset:tx@1
    """
    started = time.monotonic()
    check_name(name, "dataset name")
    if on_bad not in ("set_aside", "fail"):
        raise Invalid(f"on_bad={on_bad!r}", expected="set_aside or fail")
    reading, origin = _reading(source, dict(options or {}))
    profiler = Profiler()
    frame = observed(_watched(reading, on_bad, progress), profiler)
    stored = tables.write(ws.blobs, frame)
    if stored.rows == 0:
        said = (
            f"all {len(reading.bad)} lines were set aside: {_listed(reading.bad)}" if reading.bad else "it has no rows"
        )
        raise Invalid(f"{origin or 'the table'} gives no dataset: {said}", expected="at least one row")
    bad = list(reading.bad)
    statistics = ws.blobs.put(_json(profiler.result().to_json()))
    noted = dict(tags or {})
    if bad:
        noted["bad_lines"] = ws.blobs.put(b"".join(_json(asdict(line)) + b"\n" for line in bad))
    dataset, new = datasets.commit(
        ws,
        name,
        stored,
        source=origin,
        statistics=statistics,
        description=description,
        tags=noted,
        owner=owner,
        licence=licence,
        evolve=evolve,
        renames=renames,
    )
    return Ingested(dataset, new, bad, reading.found, time.monotonic() - started)


def preview(source: Any, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What ingesting would find, reading everything and storing nothing: rows, columns, found, bad lines. JSON."""
    reading, _ = _reading(source, dict(options or {}))
    rows = sum(batch.num_rows for batch in reading.frame.batches())
    return {
        "rows": rows,
        "columns": [c.to_json() for c in reading.frame.schema.columns],
        "found": reading.found,
        "bad": [asdict(line) for line in reading.bad],
    }


def bad_lines(ws: datasets.Ledger, dataset: Dataset) -> list[BadLine]:
    """The lines that were set aside when a version was ingested."""
    digest = dataset.tags.get("bad_lines")
    return [BadLine(**json.loads(line)) for line in ws.blobs.get(digest).splitlines()] if digest else []


def source_for(url: str) -> str:
    """The name of the source plugin for a path or URL, by its ending; raises `Invalid` when none reads it."""
    ending, known = files.ending(url), {}
    for plugin in lookup.names("source"):
        for suffix in lookup.lookup("source", plugin).suffixes:
            known[suffix] = plugin
            if suffix == ending:
                return plugin
    raise Invalid(
        f"no source reads files that end in {ending!r}"
        if ending
        else f"{shown(url)} has no ending to choose a source by",
        expected=f"one of {', '.join(sorted(known))}, also compressed (.gz, .bz2, .zst, .xz)",
        fix="name the source with the option source, such as source=csv",
    )


def shown(url: str) -> str:
    """A URL or path as it may be written down: without user, password, query and fragment; paths made absolute."""
    if "://" not in url:
        return str(Path(url).expanduser().absolute())
    parts = urllib.parse.urlsplit(url)
    host = re.sub(r".*@", "", parts.netloc)
    return urllib.parse.urlunsplit((parts.scheme, host, parts.path, "", ""))


def _reading(source: Any, options: dict[str, Any]) -> tuple[Reading, str]:
    if isinstance(source, str | os.PathLike):
        url = os.fspath(source)
        if "://" not in url:
            files.locate(url)  # a file that is not there is a better message than an ending that is not known
        plugin = options.pop("source", "") or source_for(url)
        reading: Reading = lookup.lookup("source", plugin)().read(url, options)
        return reading, shown(url)
    if options:
        raise Invalid(f"option {next(iter(options))!r} is for files", expected="no options with a table in memory")
    frame = Frame.of(source)
    return Reading(frame), frame.ref or f"memory:{type(source).__module__.partition('.')[0]}.{type(source).__name__}"


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
    return "; ".join(f"line {line.number}: {line.why}" for line in bad[:_SHOWN]) + more


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
