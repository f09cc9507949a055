"""What records are made of: the one place that knows which of their fields name blobs.

`required` is what a record cannot do without. `live` is wider, as whoever removes blobs must err on the side of keeping: it
adds whatever looks like a digest anywhere in a record.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from boucle.core.errors import BoucleError, Corrupt
from boucle.core.records import RECORDS, Artifact, Code, Dataset, Event, Model, Record, Run
from boucle.core.schema import Schema
from boucle.ledger import tables, trees
from boucle.ports.blobs import Blobs

if TYPE_CHECKING:
    from boucle.workspace import Workspace

# Every kind but the journal, which tells of what was and holds nothing.
KINDS: tuple[type[Record], ...] = tuple(kind for kind in RECORDS.values() if kind is not Event)

_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")


def blobs_of(blobs: Blobs, dataset: Dataset) -> Iterator[str]:
    """Every blob that a version needs, some twice: its manifest and what that names, statistics, lines set aside.

    What names others comes before them. Raises `NotFound` or `Corrupt` where it cannot be read.
    """
    yield from besides(dataset)
    yield from trees.needed(blobs, dataset.manifest) if dataset.type == "files" else _of_table(blobs, dataset.manifest)


def besides(dataset: Dataset) -> list[str]:
    """The blobs that a version names besides its manifest."""
    grown = dataset.tags.get("grown", {})
    named = [
        dataset.statistics,
        dataset.tags.get("bad_lines", ""),
        dataset.position.get("held", ""),  # rows of a stream that wait for their window
        dataset.position.get("recent", ""),  # ids of messages that a queue may give out again
        grown.get("ids", "") if isinstance(grown, Mapping) else "",  # which predictions came into it
    ]
    return [blob for blob in named if blob]


def agrees(blobs: Blobs, dataset: Dataset) -> bool:
    """Whether what a record says of its digest, rows and columns is what its manifest says; raises `NotFound` or `Corrupt`."""
    if dataset.type == "files":
        return dataset.digest == dataset.manifest and dataset.rows == len(trees.files(blobs, dataset.manifest))
    manifest = tables.load_manifest(blobs, dataset.manifest)
    said = (manifest["digest"], manifest["rows"], _columns(manifest["schema"]))
    return (dataset.digest, dataset.rows, _columns(dataset.schema)) == said and tables.agrees(manifest)


def _columns(schema: Mapping[str, Any]) -> list[tuple[str, str]] | None:
    try:
        return [(c.name, c.type) for c in Schema.from_json(schema).columns]
    except (BoucleError, KeyError, TypeError, AttributeError):
        return None


def required(blobs: Blobs, record: Record) -> Iterator[str]:
    """Every blob that a record cannot do without; what names others comes before them, and raises `NotFound` or `Corrupt`
    where it cannot be read."""
    match record:
        case Dataset():
            yield from blobs_of(blobs, record)
        case Code():
            yield from filter(None, [record.diff, record.sources])
            if record.sources:
                yield from _of_sources(blobs, record)
        case Run():
            yield from filter(None, [record.environment, record.log, record.inputs.get("parts", "")])
        case Artifact():
            yield from _of_value(blobs, record.value)
        case Model():
            if "holdout" in record.tags:
                yield from _of_table(blobs, record.tags["holdout"])


def live(ws: Workspace) -> set[str]:
    """All digests that any record refers to, blobs among them or not.

    Raises `NotFound` or `Corrupt` where a record's contents cannot be read: then nobody knows what it needs.
    """
    found: set[str] = set()
    for kind in KINDS:
        for record in ws.store.find(kind):
            found.update(required(ws.blobs, record))
            found.update(_digests(dataclasses.asdict(record)))
    return found


def _of_table(blobs: Blobs, manifest: str) -> Iterator[str]:
    yield manifest
    content = tables.load_manifest(blobs, manifest)
    for block in content["blocks"]:
        yield from tables.stored_in(block)
    if content.get("tree"):
        yield from trees.needed(blobs, content["tree"])


def _of_value(blobs: Blobs, value: Mapping[str, Any]) -> Iterator[str]:
    if value.get("codec") == "frame":
        yield from _of_table(blobs, str(value["manifest"]))
        return
    if "blob" in value:
        yield str(value["blob"])
    files = value.get("files")
    yield from map(str, files.values()) if isinstance(files, Mapping) else ()


def _of_sources(blobs: Blobs, code: Code) -> Iterator[str]:
    try:
        found = [str(source["blob"]) for source in json.loads(blobs.get(code.sources)).values()]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Corrupt(f"blob {code.sources[:12]} does not list the sources of {code}", expected="JSON") from None
    yield from found


def _digests(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield from _DIGEST.findall(value)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _digests(key)
            yield from _digests(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _digests(inner)
