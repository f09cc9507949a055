"""Watch: what comes in and out of a service, against the rows its model was trained on. Nothing has to be configured.

The reference is found by lineage: service -> model -> the rows it was trained on, or else the datasets it derives from, or
else the first thousand rows that were asked. What was read of the log stays read: its counts are kept in the service's
folder, in chunks of equal size that are merged when there are many, and each look reads on from there.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import operator
import os
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from blake3 import blake3

from boucle.core import predictions
from boucle.core.errors import Corrupt, Invalid, NotFound
from boucle.core.frames import Frame, arrow_type
from boucle.core.records import Artifact, Edge, Model, Service, Verdict
from boucle.core.refs import Ref, new_id, parse_time
from boucle.core.schema import Column, Schema, jsonable
from boucle.core.where import field as where
from boucle.ledger import bundles, datasets, services, tables
from boucle.ledger.journal import note
from boucle.measure.drift import Drift, drift
from boucle.measure.evidence import CHUNK
from boucle.measure.sketch import Reference, Window, kind_of
from boucle.ops.label import Outcome, outcomes

if TYPE_CHECKING:
    from boucle.workspace import Workspace

PREDICTION = "(prediction)"  # among the columns: what the model answered
CHECK = "drift"
FORMAT = 1
FIRST = 1000  # rows that are the reference where there is no other
_MOST_CHUNKS = 64
_ASKED = 5000  # rows that the model is asked to learn how it usually answers
_BEHIND = 1.0  # seconds; a log may still get ids so much older than its newest
_QUANTILES = (0.5, 0.95, 0.99)
_STEPS = 8  # buckets of latency per doubling: quantiles to 4.5 % (compare DDSketch, Masson, Rim and Lee 2019)


@dataclass(frozen=True, slots=True)
class Watched:
    """What a look at a service found: traffic, drift, and how good its labelled predictions were.

    `since_time` says for each column that moved when the rows begin that show it. `latency` has seconds per quantile.
    """

    service: str
    model: str
    reference: str
    status: str
    sentence: str
    rows: int
    probes: int
    first: float
    last: float
    latency: dict[str, float]
    drift: Drift | None
    since_time: dict[str, float] = field(default_factory=dict)
    outcome: Outcome | None = None
    outcomes: tuple[Outcome, ...] = ()
    verdict: str = ""
    sketches: Window | None = field(default=None, repr=False, compare=False)  # the rows that the scores are of
    against: Reference | None = field(default=None, repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        plain = {f: getattr(self, f) for f in (
            "service", "model", "reference", "status", "sentence", "rows", "probes", "first", "last", "latency",
            "since_time", "verdict",
        )}  # fmt: skip
        plain["drift"] = self.drift.to_json() if self.drift else None
        plain["outcome"] = self.outcome.to_json() if self.outcome else None
        plain["outcomes"] = [o.to_json() for o in self.outcomes]
        out: dict[str, Any] = jsonable(plain)
        return out


def watch(
    ws: Workspace, service: Service | str, *, since: float | str | None = None, window: int | None = None
) -> Watched:
    """Look at what a revision answered and judge it; look as often as you like.

    Without `since` and `window` all that was ever answered is judged, and a change is found whenever it began: a `Verdict`
    (check `drift`) is kept when the judgement changes, and the event `service.drift` when its status does. With `since` (a
    time) or `window` (the last rows) only those are judged, nothing is kept, and the guarantee on false alarms holds for
    this one window. Answers to the probe at deployment are left out. Raises `NotFound` and `Invalid`.

    >>> watch(ws, "churn").status
    """
    found = service if isinstance(service, Service) else services.resolve(ws, service)
    if window is not None and window < 1:
        raise Invalid(f"a window of {window} rows", expected="1 or more")
    moment = parse_time(since) if isinstance(since, str) else since
    model = ws.store.get(Model, found.model)
    if model is None:
        raise NotFound(f"{found} has lost its model {found.model}", expected="a registered model", fix="boucle fsck")
    schema = _schema(ws, model)
    reference, origin = _reference(ws, found, model, schema)
    partial = moment is not None or window is not None
    chosen = _chosen(found, moment, window) if partial else []
    tally = _folded(chosen, reference, schema) if partial else _caught_up(found, reference, schema)
    judged = drift(reference, tally.windows) if reference is not None and tally.windows else None
    status, sentence = (judged.status, judged.sentence) if judged else ("pass", _nothing(tally, reference))
    labelled = outcomes(ws, found, since=moment or 0.0)
    verdict = "" if partial or judged is None else _keep(ws, found, judged, origin)
    return Watched(
        service=found.key, model=model.key, reference=origin, status=status, sentence=sentence, rows=tally.rows,
        probes=tally.probes, first=tally.first, last=tally.last, latency=_quantiles(tally.latency), drift=judged,
        since_time=_since(judged, tally), outcome=labelled[0] if labelled else None,
        outcomes=labelled[1] if labelled else (), verdict=verdict,
        sketches=_shown(judged, tally), against=reference,
    )  # fmt: skip


# --- the reference -----------------------------------------------------------------------------------------------------


def _schema(ws: Workspace, model: Model) -> Schema:
    artifact = ws.store.get(Artifact, model.artifact)
    if artifact is None:
        raise NotFound(f"{model} has lost its bundle", expected=f"artifact {model.artifact[:12]}", fix="boucle fsck")
    return Schema.from_json(json.loads(ws.blobs.get(artifact.value["files"]["bundle.json"]))["input"])


def _reference(ws: Workspace, service: Service, model: Model, schema: Schema) -> tuple[Reference | None, str]:
    """The reference of a service and where it comes from; made once and kept in its folder, which may be deleted."""
    path = Path(service.folder, "watch", "reference.json")
    kept = _read_json(path)
    if kept and kept["format"] == FORMAT and kept["digest"] == model.digest:
        return Reference.from_json(kept["reference"]), kept["origin"]
    rows, origin = _training_rows(ws, model, schema)
    known = [c for c in schema.columns if rows is None or _alike(c, rows.schema)]
    watched = [c.name for c in known if c.kind != "identifier"]
    reference = Reference.of(rows.select(watched)) if rows is not None and watched else Reference(0, {})
    if rows is not None and len(known) == len(schema):
        answers = _answers(ws, model, schema, rows)
    else:
        first = list(itertools.islice(_records(service), FIRST))
        if len(first) < FIRST:
            return (reference if reference.columns else None), origin
        if rows is None and watched:
            reference = Reference.of(_inputs(first, schema, watched))
        answers = _outputs(first)
    said = Reference.of({PREDICTION: answers})
    reference = Reference(reference.rows, {**reference.columns, **said.columns})
    _write_json(
        path, {"format": FORMAT, "digest": model.digest, "origin": origin, "reference": reference.to_json()}
    )  # fmt: skip
    return reference, origin


def _alike(column: Column, schema: Schema) -> bool:
    return column.name in schema and kind_of(schema[column.name].type) == kind_of(column.type)


def _training_rows(ws: Workspace, model: Model, schema: Schema) -> tuple[Frame | None, str]:
    for role in ("trained_on", "derived"):
        best: tuple[int, Frame, str] | None = None
        for edge in ws.store.edges(source=str(model), relation=role):
            frame = _frame(ws, edge.target)
            shared = sum(n in frame.schema for n in schema.names) if frame is not None else 0
            if frame is not None and shared and len(frame) and (best is None or shared > best[0]):
                best = (shared, frame, edge.target)
        if best is not None:
            return best[1], best[2]
    return None, f"the first {FIRST:,} rows that were asked"


def _frame(ws: Workspace, ref: str) -> Frame | None:
    kind, _, key = ref.partition(":")
    if kind == "dataset":
        return datasets.frame(ws, datasets.resolve(ws, Ref.parse(ref)))
    artifact = ws.store.get(Artifact, key) if kind == "artifact" else None
    if artifact is None or artifact.value.get("codec") != "frame":
        return None
    return tables.read(ws.blobs, artifact.value["manifest"], ref)


def _answers(ws: Workspace, model: Model, schema: Schema, rows: Frame) -> pa.Array:
    """What the model says to rows it has not seen, or else to those it learned from. Its answers, not the truth: a model that
    is any good answers more evenly than the truth varies, and that must not count as drift."""
    if "holdout" in model.tags:
        kept = tables.read(ws.blobs, model.tags["holdout"])
        rows = kept if all(_alike(c, kept.schema) for c in schema.columns) else rows
    table = rows.select(schema.names).sample(_ASKED).table()
    arrays = [table.column(c.name).combine_chunks().cast(arrow_type(c.type), safe=False) for c in schema.columns]
    batch = pa.RecordBatch.from_arrays(arrays, names=list(schema.names))
    with tempfile.TemporaryDirectory(dir=ws.folder("tmp")) as scratch:
        predictor = bundles.materialise(ws, model, Path(scratch, "bundle")).load()
        return predictor.predict(batch).column("prediction")


# --- the log -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Tally:
    """What was read of a log: chunks of `unit` rows each (the last of a look may have fewer) with the time they begin."""

    after: str = ""
    unit: int = CHUNK
    rows: int = 0
    probes: int = 0
    first: float = 0.0
    last: float = 0.0
    windows: tuple[Window, ...] = ()
    times: tuple[float, ...] = ()
    latency: Mapping[int, int] = field(default_factory=dict)


def _records(service: Service, after: str = "") -> Iterable[dict[str, Any]]:
    found = predictions.scan(Path(service.folder, "predictions"), after)
    return (r for r in found if r["request"] != "probe")


def _chosen(service: Service, moment: float | None, window: int | None) -> list[dict[str, Any]]:
    found = (r for r in _records(service) if moment is None or r["time"] >= moment)
    return list(deque(found, maxlen=window))


def _folded(records: Sequence[Mapping[str, Any]], reference: Reference | None, schema: Schema) -> _Tally:
    tally, at = _Tally(), 0
    while at < len(records):
        part = records[at : at + tally.unit]
        at += len(part)
        tally = _absorbed(tally, part, reference, schema)
        tally = _halved(tally) if tally.rows == tally.unit * len(tally.times) else tally
    return tally


def _caught_up(service: Service, reference: Reference | None, schema: Schema) -> _Tally:
    """All that was answered: what is kept of earlier looks, whole chunks since (which are kept), and the rest."""
    path = Path(service.folder, "watch", "state.json")
    mark = blake3(json.dumps(reference.to_json()).encode()).hexdigest() if reference else ""
    tally = _restored(path, mark)
    before, settled = tally.after, time.time() - _BEHIND
    held: list[dict[str, Any]] = []
    asked = 0
    for record in predictions.scan(Path(service.folder, "predictions"), tally.after):
        held.append(record)
        asked += record["request"] != "probe"
        if asked == tally.unit and record["time"] < settled:
            tally, held, asked = _halved(_absorbed(tally, held, reference, schema)), [], 0
    if reference is not None and tally.after != before:
        _write_json(path, _stored(tally, mark))
    return _absorbed(tally, held, reference, schema)


def _absorbed(
    tally: _Tally, records: Sequence[Mapping[str, Any]], reference: Reference | None, schema: Schema
) -> _Tally:  # fmt: skip
    asked = [r for r in records if r["request"] != "probe"]
    if not asked:
        return replace(
            tally, probes=tally.probes + len(records), after=records[-1]["id"] if records else tally.after
        )  # fmt: skip
    latency = dict(tally.latency)
    for record in asked:
        bucket = int(_STEPS * math.log2(max(1, record["latency_us"])))
        latency[bucket] = latency.get(bucket, 0) + 1
    windows, times = list(tally.windows), list(tally.times)
    for start in range(0, len(asked), tally.unit):
        part = asked[start : start + tally.unit]
        times.append(part[0]["time"])
        if reference is not None:
            windows.append(_window(part, reference, schema))
    return replace(
        tally, after=records[-1]["id"], rows=tally.rows + len(asked), probes=tally.probes + len(records) - len(asked),
        first=tally.first or asked[0]["time"], last=asked[-1]["time"], windows=tuple(windows), times=tuple(times),
        latency=latency,
    )  # fmt: skip


def _window(records: Sequence[Mapping[str, Any]], reference: Reference, schema: Schema) -> Window:
    inputs = [n for n in reference.columns if n != PREDICTION]
    batch = _inputs(records, schema, inputs)
    columns: dict[str, Any] = dict(zip(batch.schema.names, batch.columns, strict=True))
    if PREDICTION in reference.columns:
        columns[PREDICTION] = _outputs(records)
    found = {n: c.sketch(columns[n]) for n, c in reference.columns.items()}
    return Window(len(records), found)


def _inputs(records: Sequence[Mapping[str, Any]], schema: Schema, names: Sequence[str]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [_input(schema[n].type, [r["inputs"].get(n) for r in records]) for n in names], names=list(names)
    )


def _input(type_: str, values: list[Any]) -> pa.Array:
    """JSON values that the service has checked already; of what is neither number nor text only whether it is there."""
    kind = kind_of(type_)
    if kind == "number":
        return pa.array(np.array(values, np.float64))  # None becomes NaN, which is missing as well
    if kind == "category":
        return pa.array(values, arrow_type(type_))
    return pa.array([None if v is None else b"" for v in values], pa.binary())


def _outputs(records: Sequence[Mapping[str, Any]]) -> pa.Array:
    return pa.array([r["output"]["prediction"] for r in records])


def _halved(tally: _Tally) -> _Tally:
    """Chunks are merged in pairs when there are many, so that what is kept does not grow."""
    if len(tally.times) < _MOST_CHUNKS:
        return tally
    pairs = [a + b for a, b in zip(tally.windows[::2], tally.windows[1::2], strict=True)]
    return replace(tally, unit=2 * tally.unit, windows=tuple(pairs), times=tally.times[::2])


def _restored(path: Path, mark: str) -> _Tally:
    kept = _read_json(path)
    if not kept or kept["format"] != FORMAT or kept["mark"] != mark:
        return _Tally()
    tally = kept["tally"]
    windows = tuple(Window.from_json(w) for w in tally["windows"])
    latency = {int(k): v for k, v in tally["latency"].items()}
    return _Tally(**{**tally, "windows": windows, "times": tuple(tally["times"]), "latency": latency})


def _stored(tally: _Tally, mark: str) -> dict[str, Any]:
    plain = {f: getattr(tally, f) for f in _Tally.__slots__}
    plain["windows"] = [w.to_json() for w in tally.windows]
    return {"format": FORMAT, "mark": mark, "tally": plain}


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise Corrupt(f"{path} cannot be read: {error}", expected="JSON", fix=f"delete {path.parent}") from None
    return found


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{new_id()}")
    with draft.open("w", encoding="utf-8") as file:
        json.dump(value, file, separators=(",", ":"))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


# --- what is said ------------------------------------------------------------------------------------------------------


def _nothing(tally: _Tally, reference: Reference | None) -> str:
    if reference is None:
        return f"no training rows are known, and of the first {FIRST:,} rows to compare with {tally.rows:,} have come"
    return "nothing was asked yet"


def _shown(judged: Drift | None, tally: _Tally) -> Window | None:
    if judged is None:
        return None
    parts = {c.name: [w.columns[c.name] for w in tally.windows[c.since // tally.unit :]] for c in judged.columns}
    return Window(judged.rows, {n: functools.reduce(operator.add, sketches) for n, sketches in parts.items()})


def _since(judged: Drift | None, tally: _Tally) -> dict[str, float]:
    if judged is None:
        return {}
    return {c.name: tally.times[c.since // tally.unit] for c in judged.columns if c.status != "pass"}


def _quantiles(latency: Mapping[int, int]) -> dict[str, float]:
    total, out = sum(latency.values()), {}
    for q in _QUANTILES if total else ():
        seen = 0
        for bucket in sorted(latency):
            seen += latency[bucket]
            if seen >= q * total:
                out[f"p{q * 100:g}"] = 2 ** ((bucket + 0.5) / _STEPS) / 1e6
                break
    return out


def _keep(ws: Workspace, service: Service, judged: Drift, origin: str) -> str:
    """The verdict's id, an old one where the judgement is the same."""
    subject = str(service)
    asked = (where("subject") == subject) & (where("check") == CHECK)
    before = next(iter(ws.store.find(Verdict, asked, order=["-created"], limit=1)), None)
    moved = sorted(c.name for c in judged.columns if c.status != "pass")
    if before is not None and (before.status, before.evidence["moved"]) == (judged.status, moved):
        return before.id
    columns = [asdict(c) for c in judged.columns]
    worst = max(judged.columns, key=lambda c: c.scores.effect)
    verdict = Verdict(
        id=new_id(), subject=subject, check=CHECK, status=judged.status, summary=judged.sentence, score=worst.scores.effect,
        evidence=jsonable({"moved": moved, "reference": origin, "rows": judged.rows, "level": judged.level,
                           "columns": columns}),
        created=time.time(), actor=ws.actor,
    )  # fmt: skip
    with ws.store.transaction():
        ws.store.put(verdict)
        ws.store.link(Edge(str(verdict), "judges", subject, verdict.created))
        was = before.status if before else "pass"
        if was != judged.status:
            note(
                ws, "service.drift", subject, reason=judged.sentence, before=was, after=judged.status, columns=moved,
                verdict=verdict.id,
            )  # fmt: skip
    return verdict.id
