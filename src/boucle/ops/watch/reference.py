"""What the traffic of a service is compared with: found by lineage, made once, kept in the service's folder."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from boucle.core.errors import Corrupt, NotFound
from boucle.core.frames import Frame, arrow_type
from boucle.core.records import Artifact, Model, Service
from boucle.core.refs import Ref, new_id
from boucle.core.schema import Column, Schema
from boucle.ledger import bundles, datasets, tables
from boucle.measure.estimate import Calibration
from boucle.measure.sketch import Reference, kind_of
from boucle.measure.stretches import in_time_order
from boucle.ops.label import task_of
from boucle.ops.watch import log
from boucle.ops.watch.odd import threshold

if TYPE_CHECKING:
    from boucle.workspace import Workspace

PREDICTION = "(prediction)"  # among the columns: what the model answered
FIRST = 1000  # rows that are the reference where there is no other
FORMAT = 3
_ASKED = 5000  # rows that the model is asked to learn how it usually answers


@dataclass(frozen=True, slots=True, eq=False)
class Origin:
    """The reference of a service, where it comes from, how the model's probabilities are to be taken (None for a model
    without), from which surprise on a row is odd, and how wrong the model was on each row that was kept back from it: 0 or 1,
    or the distance of an amount. `reference` is None while there is none yet."""

    reference: Reference | None
    said: str
    calibration: Calibration | None = None
    odd: float = float("inf")
    errors: tuple[float, ...] = ()

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(n for n in self.reference.columns if n != PREDICTION) if self.reference else ()


def layout(ws: Workspace, model: Model) -> log.Layout:
    """The schemas of a model's bundle."""
    artifact = ws.store.get(Artifact, model.artifact)
    if artifact is None:
        raise NotFound(f"{model} has lost its bundle", expected=f"artifact {model.artifact[:12]}", fix="boucle fsck")
    manifest = json.loads(ws.blobs.get(artifact.value["files"]["bundle.json"]))
    return log.Layout(Schema.from_json(manifest["input"]), Schema.from_json(manifest["output"]))


def find(ws: Workspace, service: Service, model: Model, layout: log.Layout) -> Origin:
    """The reference of a service; that in its folder, which may be deleted, where there is one."""
    path = Path(service.folder, "watch", "reference.json")
    kept = read_json(path)
    if kept and kept["format"] == FORMAT and kept["digest"] == model.digest:
        taken = Calibration.from_json(kept["calibration"]) if kept["calibration"] else None
        return Origin(Reference.from_json(kept["reference"]), kept["origin"], taken, kept["odd"], tuple(kept["errors"]))
    schema = layout.inputs
    rows, said = _training_rows(ws, model, schema)
    known = [c for c in schema.columns if rows is None or _alike(c, rows.schema)]
    watched = [c.name for c in known if c.kind != "identifier"]
    ordered = rows is not None and in_time_order(rows)
    reference = (
        Reference.of(rows.select(watched), ordered=ordered) if rows is not None and watched else Reference(0, {})
    )
    errors: tuple[float, ...] = ()
    calibration: Calibration | None = None
    if rows is not None and len(known) == len(schema):
        answers, calibration, errors = _answers(ws, model, schema, rows)
        said_before = Reference.of({PREDICTION: answers}, ordered=ordered, every=max(1.0, len(rows) / len(answers)))
    else:
        first = _first(service, layout)
        if first is None:
            return Origin(reference if reference.columns else None, said)
        inputs, answers = first
        if rows is None and watched:
            rows = Frame.of(inputs.select(watched))
            reference = Reference.of(rows, ordered=True)
        said_before = Reference.of({PREDICTION: answers}, ordered=True)
    odd = threshold(rows.select(watched)) if rows is not None and watched else float("inf")
    whole = Reference(reference.rows, {**reference.columns, **said_before.columns})
    kept = {"format": FORMAT, "digest": model.digest, "origin": said, "reference": whole.to_json(), "odd": odd}
    write_json(path, {**kept, "calibration": calibration.to_json() if calibration else None, "errors": list(errors)})
    return Origin(whole, said, calibration, odd, errors)


def _first(service: Service, layout: log.Layout) -> tuple[pa.Table, pa.Array] | None:
    """Inputs and answers of the first rows that were asked; None while there are too few."""
    parts: list[log.Block] = []
    for block in log.read(Path(service.folder), layout):
        parts.append(block.filter(block.asked))
        if sum(map(len, parts)) >= FIRST:
            break
    else:
        return None
    inputs = pa.concat_tables([pa.table(dict(p.inputs)) for p in parts]).slice(0, FIRST)
    return inputs, pa.concat_arrays([p.prediction for p in parts]).slice(0, FIRST)


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


def _answers(
    ws: Workspace, model: Model, schema: Schema, rows: Frame
) -> tuple[pa.Array, Calibration | None, tuple[float, ...]]:
    """What the model says to rows it has not seen, or else to those it learned from. Its answers, not the truth: a model that
    is any good answers more evenly than the truth varies, and that must not count as drift. Where the rows were kept back
    with their truth, how often it is right when it is how sure, and how wrong it was on each."""
    truth: list[Any] = []
    if "holdout" in model.tags:
        kept = tables.read(ws.blobs, model.tags["holdout"])
        if all(_alike(c, kept.schema) for c in schema.columns):
            rows = kept.sample(_ASKED)
            truth = rows.table([model.tags["target"]]).column(0).to_pylist()
    table = rows.select(schema.names).sample(_ASKED).table()
    arrays = [table.column(c.name).combine_chunks().cast(arrow_type(c.type), safe=False) for c in schema.columns]
    batch = pa.RecordBatch.from_arrays(arrays, names=list(schema.names))
    with tempfile.TemporaryDirectory(dir=ws.folder("tmp")) as scratch:
        predictor = bundles.materialise(ws, model, Path(scratch, "bundle")).load()
        said = predictor.predict(batch)
    answers = said.column("prediction")
    pairs = zip(answers.to_pylist(), truth, strict=False)
    known = [(a, v) for a, v in pairs if a is not None and v is not None]
    return answers, _calibration(model, said, truth), tuple(_error(model, a, v) for a, v in known)


def _error(model: Model, answer: Any, truth: Any) -> float:
    if task_of(model, [(0.0, truth, {"prediction": answer})]) == "regression":
        return abs(float(answer) - float(truth))
    return float(named(answer) != named(truth))


def _calibration(model: Model, said: pa.RecordBatch, truth: Sequence[Any]) -> Calibration | None:
    shares = said.column("probabilities") if "probabilities" in said.schema.names else None
    if shares is None or not pa.types.is_struct(shares.type) or shares.type.num_fields < 2:
        return None
    classes, positive = [f.name for f in shares.type], model.tags.get("positive")
    labelled = [i for i, t in enumerate(truth) if t is not None]
    if not labelled:
        return Calibration.of(classes, positive=named(positive))
    answers = said.column("prediction").to_pylist()
    return Calibration.of(
        classes, [named(answers[i]) for i in labelled], matrix(shares)[labelled], [named(truth[i]) for i in labelled],
        named(positive),
    )  # fmt: skip


def named(value: Any) -> str | None:
    """A class as it is named beside its probability."""
    if value is None:
        return None
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def matrix(shares: pa.StructArray) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Probabilities of shape (rows, classes); what is missing is NaN."""
    columns = [shares.field(i).cast(pa.float64()).to_numpy(zero_copy_only=False) for i in range(shares.type.num_fields)]
    return np.stack(columns, axis=1)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file; None where there is no file. Raises `Corrupt`."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise Corrupt(f"{path} cannot be read: {error}", expected="JSON", fix=f"delete {path.parent}") from None
    return found


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """All of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{new_id()}")
    with draft.open("w", encoding="utf-8") as file:
        file.write(json.dumps(value, separators=(",", ":")))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
