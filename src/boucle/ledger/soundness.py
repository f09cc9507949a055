"""Soundness: everything that is stored checked against everything that refers to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from boucle.core import labels, predictions
from boucle.core.errors import BoucleError, Corrupt, NotFound
from boucle.core.records import (
    RELATIONS,
    Alert,
    Artifact,
    Code,
    Dataset,
    Event,
    Lease,
    Model,
    Record,
    Rollout,
    Run,
    Service,
    Verdict,
)
from boucle.ledger import contents

if TYPE_CHECKING:
    from boucle.workspace import Workspace


@dataclass(slots=True)
class Report:
    """Problems in words, and how much was looked at."""

    problems: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


def check(ws: Workspace) -> Report:
    """Check store, blobs, what records say of blobs and of each other, and what services wrote: predictions, failures, labels."""
    report = Report()
    report.problems += ws.store.check()
    report.problems += ws.blobs.check()
    kinds: tuple[type[Record], ...] = (Dataset, Code, Run, Artifact, Model, Service, Rollout, Verdict, Lease, Alert)
    for kind in kinds:
        try:
            records = ws.store.find(kind)
        except Corrupt as error:
            report.problems.append(f"the {kind.KIND}s cannot be read: {error.what}")
            continue
        report.counts[f"{kind.KIND}s"] = len(records)
        for record in records:
            report.problems += _of_others(ws, record)
            report.problems += _missing(ws, record)
    _edges(ws, report)
    report.counts["events"] = ws.store.count(Event)
    report.counts["blobs"] = sum(1 for _ in ws.blobs.list())
    return report


def _of_others(ws: Workspace, record: Record) -> Iterator[str]:
    """What is wrong with what a record says of other records, and with the files that are its own."""
    match record:
        case Service():
            if record.folder:
                yield from predictions.check(Path(record.folder, "predictions"))
                yield from predictions.check(Path(record.folder, "failures"))
                try:
                    labels.read(Path(record.folder))
                except Corrupt as error:
                    yield error.what
        case Model():
            if ws.store.get(Artifact, record.artifact) is None:
                yield f"{record} has no bundle: artifact {record.artifact[:12]} is not there"
        case Rollout():
            if record.model and ws.store.get(Model, record.model) is None:
                yield f"{record} is of model {record.model}, which is not there"
            for revision in filter(None, (record.before, record.after)):
                if ws.store.get(Service, f"{record.service}@{revision}") is None:
                    yield f"{record} is of {record.service}@{revision}, which is not there"
        case Lease():
            if record.holder and not record.until:
                yield f"{record} is held by {record.holder} without an end"
        case Alert():
            if record.status == "resolved" and not record.resolved:
                yield f"{record} is resolved, and nobody knows when"
            if record.status not in ("open", "acknowledged", "resolved"):
                yield f"{record} is {record.status!r}, which no alert is"


def _missing(ws: Workspace, record: Record) -> Iterator[str]:
    """The blobs that a record cannot do without and that are not there, and what cannot be read of it."""
    try:
        for blob in contents.required(ws.blobs, record):
            if not ws.blobs.has(blob):
                yield f"{record} needs blob {blob[:12]}, which is not there"
    except NotFound:
        return  # it was named just now
    except BoucleError as error:
        yield f"{record}: {error.what}"


def _edges(ws: Workspace, report: Report) -> None:
    edges = ws.store.edges()
    report.counts["edges"] = len(edges)
    for edge in edges:
        if edge.relation not in RELATIONS:
            report.problems.append(f"edge {edge.source} --{edge.relation}--> {edge.target}: no such relation")
