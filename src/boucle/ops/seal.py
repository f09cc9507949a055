"""Seal: what a service was asked and answered becomes data. One window after the other as versions of a dataset, and, once it
is known what really happened, as rows that the next model learns from.
"""

from __future__ import annotations

import datetime as dt
import heapq
import itertools
import json
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from boucle.core import predictions
from boucle.core.errors import Conflict, Invalid, NotFound, Unavailable
from boucle.core.frames import Frame, to_batch
from boucle.core.labels import read
from boucle.core.records import Artifact, Dataset, Edge, Model, Service
from boucle.core.refs import Ref, check_name, id_time, parse_time
from boucle.core.schema import FLOATS, INTEGERS, Column, Schema, evolve
from boucle.core.where import field as where
from boucle.ledger import datasets, recording, services, tables

if TYPE_CHECKING:
    from boucle.workspace import Workspace

_BEHIND = 1.0  # seconds; a log may still get ids so much older than its newest
_BATCH = 8192  # rows that are held at a time
_FEW = 200  # predictions that are looked up one by one rather than by reading the log
_SHOWN = 3
_BEFORE = (
    Column("prediction_id", "string"), Column("time", "timestamp"), Column("revision", "int64"), Column("model", "string"),
)  # fmt: skip
_PLAIN = ("bool", *INTEGERS, *FLOATS, "string", "date", "timestamp")  # others are kept as text
_AFTER = ("prediction", "confidence", "latency_us", "request", "label")


@dataclass(frozen=True, slots=True)
class Sealed:
    """What came of it: the newest version (None when there never was a row), whether it is new, and what is in the window:
    rows, how many of them have a label and how many a label that is no answer the model could give, the first and last id,
    from when to when (epoch seconds), and the revisions that answered."""

    dataset: Dataset | None
    new: bool
    rows: int = 0
    labelled: int = 0
    unreadable: int = 0
    first: str = ""
    last: str = ""
    start: float = 0.0
    end: float = 0.0
    revisions: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Growth:
    """What `grow` would add: to which version of which dataset, the rows, what they are set aside for and a few of those,
    and the revisions that answered."""

    dataset: Dataset
    target: str
    rows: int
    set_aside: Mapping[str, int]
    examples: tuple[str, ...]
    revisions: tuple[int, ...]
    table: pa.Table = field(repr=False, compare=False)
    ids: frozenset[str] = field(repr=False, compare=False)  # all that are in, those in the dataset already among them


def seal(ws: Workspace, service: Service | str, into: str = "", *, dry_run: bool = False) -> Sealed:
    """Make what all revisions of a service answered since the last time the next version of `<service>-predictions`.

    A version is one window. Its columns: prediction_id, time, revision, model, the model's inputs, prediction, confidence (the
    probability of what was predicted), latency_us, request, and label as far as it is known now. Revisions with other inputs
    give the columns of all, null where there is none; an input with the name of another column is called `input_<name>`. The
    probe at deployment and what a shadow answered are left out. How far it came is written in the version itself (tag
    `sealed`), so that whoever is killed leaves nothing half done, and nothing is sealed twice or left out. The last second
    waits for the next time. Memory holds the labels of the window and a batch of rows. Nothing new makes no version; `dry_run`
    makes none either. Raises `NotFound`, `Invalid` for a dataset that holds something else, `Conflict` when somebody else
    sealed meanwhile.

    >>> seal(ws, "churn").dataset
    """
    name = _name(ws, service)
    into = check_name(into or f"{name}-predictions", "dataset name")
    before = datasets.latest(ws, into)
    window = _Window(ws, _revisions(ws, name), _reached(before, name), ws.now() - _BEHIND)
    if dry_run:
        for _ in window.batches():
            pass
        return replace(window.found, dataset=before)
    stored = tables.write(ws.blobs, Frame(window.schema, window.batches))
    found = window.found
    if not stored.rows:
        return replace(found, dataset=before)
    tags = {
        "service": name, "first": found.first, "last": found.last, "from": _iso(found.start), "to": _iso(found.end),
        "rows": found.rows, "labelled": found.labelled, "unreadable_labels": found.unreadable,
        "renamed": {n: c for n, c in window.inputs.items() if n != c},
    }  # fmt: skip
    with ws.store.transaction():
        _unchanged(ws, into, before)
        dataset, new = datasets.commit(
            ws, into, stored, source=f"service:{name}", tags={"sealed": tags}, evolve=True,
            description=f"what {name} was asked and answered",
        )  # fmt: skip
        _link(ws, dataset, [f"service:{name}@{r}" for r in found.revisions])
    return replace(found, dataset=dataset, new=new)


def grow(
    ws: Workspace,
    service: Service | str,
    *,
    least: int = 1,
    recent: int | None = None,
    since: float | str | None = None,
    nulls: Collection[str] = (),
) -> Dataset:
    """Add what a service was asked, where it is known what really happened, to the dataset its model learned from.

    The dataset is found by lineage. Its next version has the rows of the newest one and every labelled prediction that is not
    in it: inputs as asked, the label as the target. Columns that are no input become null where they may be; `nulls` names
    those that may from now on. Labels that are no value of the target and inputs that the columns cannot hold are set aside and
    counted in the tag `grown`; corrected, they come in the next time. A label that changes after that changes nothing any more.
    `recent` keeps only the last rows, `since` takes only what was asked since. Memory holds the new rows. Raises `Unavailable`
    when there are fewer than `least`, `Invalid` when no dataset or target is known or the rows lack a column, `Conflict` when
    the dataset changed meanwhile.

    >>> grow(ws, "churn", least=100).ref
    """
    if recent is not None and recent < 1:
        raise Invalid(f"the {recent} most recent rows", expected="1 or more")
    found = growth(ws, service, since=since, nulls=nulls)
    name = _name(ws, service)
    if found.rows < max(1, least):
        aside = sum(found.set_aside.values())
        shown = f", and {aside} set aside ({'; '.join(found.examples)})" if aside else ""
        raise Unavailable(
            f"{max(1, least)} new labelled predictions of {name} are needed, {found.rows} are there{shown}",
            expected="what really happened, by the ids of predictions",
            fix=f"boucle label {name} FILE",
        )
    before = found.dataset
    stored = tables.write(ws.blobs, _joined(datasets.frame(ws, before), found.table, recent))
    tags = {
        "service": name, "rows": found.rows, "set_aside": dict(found.set_aside), "examples": list(found.examples),
        "ids": ws.blobs.put("\n".join(sorted(found.ids)).encode()), **({"recent": recent} if recent else {}),
    }  # fmt: skip
    with ws.store.transaction():
        _unchanged(ws, before.name, before)
        dataset, _ = datasets.commit(
            ws, before.name, stored, source=f"service:{name}", tags={**before.tags, "grown": tags}, evolve=True
        )
        _link(ws, dataset, [str(before), *(f"service:{name}@{r}" for r in found.revisions)])
    return dataset


def learned(ws: Workspace, model: Model) -> frozenset[str]:
    """The predictions of services that came into the data a model was made from, by id."""
    found: set[str] = set()
    for edge in ws.store.edges(source=str(model)):
        if edge.relation in ("derived", "trained_on", "tested_on") and edge.target.startswith("dataset:"):
            grown = datasets.resolve(ws, Ref.parse(edge.target)).tags.get("grown")
            found.update(ws.blobs.get(grown["ids"]).decode().split() if grown else ())
    return frozenset(found)


def growth(
    ws: Workspace, service: Service | str, *, since: float | str | None = None, nulls: Collection[str] = ()
) -> Growth:
    """What `grow` would add now; nothing is stored."""
    one = service if isinstance(service, Service) else services.resolve(ws, service)
    moment = parse_time(since, ws.now()) if isinstance(since, str) else since or 0.0
    dataset, target, inputs = _learned_from(ws, one)
    schema = Schema.from_json(dataset.schema)
    _check_columns(dataset, schema, inputs, target, nulls)
    used = frozenset(ws.blobs.get(dataset.tags["grown"]["ids"]).decode().split() if "grown" in dataset.tags else ())
    arrow = datasets.frame(ws, dataset).head(0).schema
    sorter = _Sorter(schema, arrow, target)
    revisions: set[int] = set()
    ids: set[str] = set()
    parts: list[pa.RecordBatch] = []
    for rows in _parts(_labelled(_revisions(ws, one.name), used, moment)):
        good, batch = sorter.sort(rows)
        parts.append(batch)
        ids.update(record["id"] for record, _ in good)
        revisions.update(record["revision"] for record, _ in good)
    return Growth(
        dataset=dataset, target=target, rows=len(ids), set_aside=dict(sorter.set_aside), examples=tuple(sorter.examples),
        revisions=tuple(sorted(revisions)), table=pa.Table.from_batches(parts, arrow), ids=used | ids,
    )  # fmt: skip


# --- the log as a table ------------------------------------------------------------------------------------------------


class _Window:
    """What was answered past an id, as batches. `found` says what it was once all of them have been read."""

    def __init__(self, ws: Workspace, revisions: Sequence[Service], after: str, until: float) -> None:
        self._revisions, self._after, self._until = revisions, after, until
        asked, said = _Union(), _Union()
        for revision in revisions:
            manifest = _manifest(ws, revision)
            asked.add(Schema.from_json(manifest["input"]))
            said.add(Schema.from_json(manifest["output"]).select(["prediction"]))
        self.inputs = _names_of(asked.types)  # input -> the column it is in
        answer = said.types.get("prediction", "")
        answer = answer if answer in _PLAIN else "string"
        types = dict(zip(_AFTER, (answer, "float64", "int64", "string", answer), strict=True))
        inputs = [Column(self.inputs[n], t) for n, t in asked.types.items()]
        self.schema = Schema((*_BEFORE, *inputs, *(Column(n, t) for n, t in types.items())))
        self._texts = {n for n in asked.mixed if asked.types[n] == "string"}
        self._answer, self._text_answer = Column("label", answer), answer == "string"
        self.found = Sealed(None, False)

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Everything from the beginning, a batch of rows at a time."""
        known = {i: v for i, v in _told(self._revisions) if i > self._after}
        self.found = Sealed(None, False)
        answered: set[int] = set()
        for records in _parts(_merged(self._revisions, self._after, self._until)):
            told = [known.get(r["id"]) for r in records]
            read = [None if v is None else _as_value(v, self._answer) for v in told]
            batch = to_batch(self.schema, self.schema.decode(list(map(self._row, records, read))))
            answered.update(r["revision"] for r in records)
            seen = self.found
            self.found = replace(
                seen, rows=seen.rows + len(records), labelled=seen.labelled + sum(v is not None for v in read),
                unreadable=seen.unreadable + sum(v is None for v in read) - sum(v is None for v in told),
                first=seen.first or records[0]["id"], last=records[-1]["id"], start=seen.start or records[0]["time"],
                end=records[-1]["time"], revisions=tuple(sorted(answered)),
            )  # fmt: skip
            yield batch if columns is None else batch.select(list(columns))

    def _row(self, record: Mapping[str, Any], label: Any) -> dict[str, Any]:
        output = record["output"]
        said = output["prediction"]
        row = {self.inputs[n]: _as_text(v) if n in self._texts else v for n, v in record["inputs"].items()}
        return {
            **row, "prediction_id": record["id"], "time": _iso(record["time"]), "revision": record["revision"],
            "model": record["model"], "prediction": _as_text(said) if self._text_answer else said,
            "confidence": (output.get("probabilities") or {}).get(_as_text(said)), "latency_us": record["latency_us"],
            "request": record["request"], "label": label,
        }  # fmt: skip


class _Union:
    """The columns of several schemas: each of a type that holds all its values, text where there is no other."""

    def __init__(self) -> None:
        self.types: dict[str, str] = {}
        self.mixed: set[str] = set()

    def add(self, schema: Schema) -> None:
        for column in schema.columns:
            before = self.types.setdefault(column.name, column.type)
            if before != column.type:
                self.mixed.add(column.name)
                wide = (before, column.type, "int64", "float64")
                self.types[column.name] = next(
                    (t for t in wide if _holds(t, before) and _holds(t, column.type)), "string"
                )


def _holds(wide: str, narrow: str) -> bool:
    return all(c.safe for c in evolve(Schema((Column("", narrow),)), Schema((Column("", wide),))))


def _names_of(inputs: Collection[str]) -> dict[str, str]:
    taken = {c.name for c in _BEFORE} | set(_AFTER)
    out = {}
    for name in inputs:
        column = name
        while column in taken or (column != name and column in inputs):
            column = f"input_{column}"
        taken.add(column)
        out[name] = column
    return out


def _as_text(value: Any) -> Any:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _iso(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).replace(tzinfo=None).isoformat()


def _merged(revisions: Sequence[Service], after: str = "", until: float = math.inf) -> Iterator[dict[str, Any]]:
    """What people were answered by any of these revisions, by id; up to a moment."""
    logs = [predictions.scan(Path(r.folder, "predictions"), after) for r in revisions]
    for record in heapq.merge(*logs, key=lambda r: str(r["id"])):
        if id_time(record["id"]) >= until:
            return
        if _counts(record):
            yield record


def _counts(record: Mapping[str, Any]) -> bool:
    """Whether people were answered with it."""
    return record["request"] != "probe" and "shadow" not in record


def _told(revisions: Sequence[Service]) -> Iterator[tuple[str, Any]]:
    for revision in revisions:
        yield from read(Path(revision.folder)).items()


def _parts(rows: Iterator[Any]) -> Iterator[list[Any]]:
    while part := list(itertools.islice(rows, _BATCH)):
        yield part


def _name(ws: Workspace, service: Service | str) -> str:
    return (service if isinstance(service, Service) else services.resolve(ws, service)).name


def _revisions(ws: Workspace, name: str) -> list[Service]:
    """Those that ever answered, the first one first."""
    found = ws.store.find(Service, where("name") == name, order=["revision"])
    return [s for s in found if Path(s.folder, "predictions").is_dir()]


def _manifest(ws: Workspace, service: Service) -> dict[str, Any]:
    model = ws.store.get(Model, service.model)
    artifact = ws.store.get(Artifact, model.artifact) if model else None
    if artifact is None:
        raise NotFound(
            f"{service} has lost its model {service.model}", expected="a registered model", fix="boucle fsck"
        )
    found: dict[str, Any] = json.loads(ws.blobs.get(artifact.value["files"]["bundle.json"]))
    return found


def _reached(before: Dataset | None, service: str) -> str:
    if before is None:
        return ""
    sealed = before.tags.get("sealed")
    if sealed is None or sealed["service"] != service:
        raise Invalid(
            f"{before} does not hold what {service} answered",
            expected="a dataset that was made by sealing this service, or a new one",
            fix=f"boucle seal {service} --into ANOTHER-NAME",
        )
    return str(sealed["last"])


def _unchanged(ws: Workspace, name: str, before: Dataset | None) -> None:
    now = datasets.latest(ws, name)
    if now != before:
        raise Conflict(
            f"{now} came in between", expected=f"{before or 'no version'} to be the newest", fix="do it again"
        )


def _link(ws: Workspace, dataset: Dataset, sources: Sequence[str]) -> None:
    ws.store.link(*(Edge(str(dataset), "derived", source, ws.now()) for source in sources))


# --- labelled rows -----------------------------------------------------------------------------------------------------


def _labelled(
    revisions: Sequence[Service], used: Collection[str], since: float
) -> Iterator[tuple[dict[str, Any], Any]]:  # fmt: skip
    """Predictions with their labels, by id, without those that are in already."""
    wanted = {i: v for i, v in _told(revisions) if i not in used}
    if len(wanted) <= _FEW:
        found = [r for s in revisions for i in wanted if (r := predictions.find(Path(s.folder, "predictions"), i))]
        records: Iterator[dict[str, Any]] = iter(sorted(found, key=lambda r: str(r["id"])))
    else:
        before = min(wanted)[:10] + "0" * 16  # of the same moment, and not younger
        records = (r for r in _merged(revisions, before) if r["id"] in wanted)
    for record in records:
        if record["time"] >= since and _counts(record):
            yield record, wanted[record["id"]]


class _Sorter:
    """Turns labelled predictions into rows of a dataset, and counts what cannot be one."""

    def __init__(self, schema: Schema, arrow: pa.Schema, target: str) -> None:
        self._arrow, self._target = arrow, schema[target]
        self._loose = Schema(tuple(replace(c, nullable=c.name != target) for c in schema.columns))
        self.set_aside: Counter[str] = Counter()
        self.examples: list[str] = []

    def sort(self, rows: Sequence[tuple[Mapping[str, Any], Any]]) -> tuple[list[Any], pa.RecordBatch]:
        """The pairs that become rows, and those rows."""
        good = []
        for record, label in rows:
            value = _as_value(label, self._target)
            if value is None:
                self._leave(record, "label", f"{label!r} is no {self._target.type}")
            else:
                good.append((record, value))
        try:
            return good, self._batch(good)
        except _UNFIT:
            fit = [pair for pair in good if self._fits(pair)]
            return fit, self._batch(fit)

    def _fits(self, pair: tuple[Mapping[str, Any], Any]) -> bool:
        try:
            self._batch([pair])
        except _UNFIT as error:
            self._leave(pair[0], "inputs", str(getattr(error, "what", error)))
            return False
        return True

    def _batch(self, good: Sequence[tuple[Mapping[str, Any], Any]]) -> pa.RecordBatch:
        rows = [{**record["inputs"], self._target.name: value} for record, value in good]
        return to_batch(self._loose, self._loose.decode(rows)).cast(self._arrow)

    def _leave(self, record: Mapping[str, Any], what: str, said: str) -> None:
        self.set_aside[what] += 1
        if len(self.examples) < _SHOWN:
            self.examples.append(f"{record['id']}: {said}")


_UNFIT = (Invalid, pa.ArrowException, TypeError, ValueError, OverflowError)


def _as_value(label: Any, column: Column) -> Any:
    """A label as JSON of the column's type, None when it is none of its values. Files with labels often have only text."""
    kind = column.type
    try:
        if kind == "bool":
            return {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}[str(label).lower()]
        if kind in FLOATS:
            return float(label) if math.isfinite(float(label)) else None
        if kind in INTEGERS:
            number = _whole(label)
            Schema((replace(column, name="label"),)).decode([{"label": number}])  # it must fit, too
            return number
        if kind == "string":
            return _as_text(label)
        Schema((replace(column, name="label"),)).decode([{"label": label}])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return label


def _whole(label: Any) -> int:
    try:
        return int(label) if not isinstance(label, float) else int(str(label).removesuffix(".0"))
    except ValueError:
        if float(label).is_integer():
            return int(float(label))
        raise


def _learned_from(ws: Workspace, service: Service) -> tuple[Dataset, str, list[str]]:
    """The newest version of the dataset that the model of a service learned from, its target, and the model's inputs."""
    model = ws.store.get(Model, service.model)
    inputs = list(Schema.from_json(_manifest(ws, service)["input"]).names)
    target = str((model.tags if model else {}).get("target", ""))
    if not target:
        raise Invalid(
            f"nothing says which column {service.model} predicts",
            expected="a model that was registered with a holdout and its target",
            fix="train it with boucle.train, or name holdout= and target= when registering",
        )
    edges = [
        e for role in ("trained_on", "derived") for e in ws.store.edges(source=f"model:{service.model}", relation=role)
    ]
    refs = recording.datasets_above(ws, [e.target for e in edges])
    found = [datasets.resolve(ws, name) for name in dict.fromkeys(Ref.parse(r).name for r in refs)]
    usable = [d for d in found if target in Schema.from_json(d.schema)]
    if not usable:
        raise Invalid(
            f"no dataset with the column {target!r} is known that {service.model} was trained on",
            expected="a model trained on a dataset of this workspace",
            fix=f"boucle why model:{service.model}",
        )
    return max(usable, key=lambda d: sum(n in Schema.from_json(d.schema) for n in inputs)), target, inputs


def _check_columns(
    dataset: Dataset, schema: Schema, inputs: Sequence[str], target: str, nulls: Collection[str]
) -> None:  # fmt: skip
    for name in nulls:
        schema[name]  # a wrong name fails here, with the nearest right ones
    lost = [n for n in inputs if n not in schema]
    if lost:
        raise Invalid(
            f"{dataset} has no column for what the model is asked: {', '.join(lost)}",
            expected="a dataset that holds every input of the model",
            fix="make the rows in a pipeline from what `boucle seal` keeps",
        )
    unknown = [c.name for c in schema.columns if not c.nullable and c.name not in {*inputs, target, *nulls}]
    if unknown:
        raise Invalid(
            f"the service is not asked {', '.join(unknown)}, and {dataset} has a value in every row",
            expected="columns that are inputs of the model, or may be null",
            fix="let them be null from now on: " + " ".join(f"--null {n}" for n in unknown),
        )


def _joined(before: Frame, added: pa.Table, recent: int | None) -> Frame:
    total = len(before) + added.num_rows
    leave = max(0, total - recent) if recent else 0

    def opener(columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        at = 0
        for batch in itertools.chain(
            before.batches(columns), added.select(list(columns or added.column_names)).to_batches()
        ):
            start = min(batch.num_rows, max(0, leave - at))
            at += batch.num_rows
            if start < batch.num_rows:
                yield batch.slice(start)

    return Frame(before.schema, opener, total - leave)
