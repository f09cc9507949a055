"""Gates: the facts about a model are gathered here; `core.stages.judge` decides."""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boucle.core.records import Model, Verdict
from boucle.core.refs import new_id
from boucle.core.stages import Condition, Facts, Gate, judge
from boucle.core.where import field

if TYPE_CHECKING:
    from boucle.core.frames import Frame
    from boucle.measure.scores import Predictions
    from boucle.workspace import Workspace


@dataclass(frozen=True, slots=True)
class GateOutcome:
    """A gate's conditions for one model, and the verdict they make."""

    conditions: tuple[Condition, ...]
    verdict: Verdict


def gate_for(ws: Workspace, stage: str) -> Gate:
    """The gate that boucle.toml sets; without one, the model must only be proved."""
    # All are read, for one with a misspelt name would guard nothing and nobody would notice.
    gates = {name: Gate.from_table(name, table) for name, table in ws.settings.gates.items()}
    return gates.get(stage) or Gate.from_table(stage, {})


def judge_model(ws: Workspace, model: Model, stage: str) -> GateOutcome:
    """Gather the facts, judge them, and make the verdict (not stored yet)."""
    gate = gate_for(ws, stage)
    if stage in ("none", "archived"):
        gate = Gate(stage, verdicts=())  # leaving needs no leave
    facts, evidence = _facts(ws, model, gate)
    conditions = judge(gate, facts)
    failed = [c for c in conditions if not c.holds]
    verdict = Verdict(
        id=new_id(),
        subject=str(model),
        check=f"gate:{stage}",
        status="fail" if failed else "pass",
        summary="; ".join(c.said for c in (failed or conditions)) or "nothing is asked",
        evidence={"conditions": [asdict(c) for c in conditions], **evidence},
        created=time.time(),
        actor=ws.actor,
    )
    return GateOutcome(tuple(conditions), verdict)


def _facts(ws: Workspace, model: Model, gate: Gate) -> tuple[Facts, dict[str, Any]]:
    newest: dict[str, str] = {}
    for verdict in ws.store.find(Verdict, field("subject") == str(model), order=["created"]):
        newest[verdict.check] = verdict.status
    approvals = frozenset(
        e.actor for e in ws.store.events(subject=str(model), type="model.approved") if e.data.get("stage") == gate.stage
    )
    comparison = None
    evidence: dict[str, Any] = {}
    higher = True
    if gate.better:
        from boucle.measure.scores import HIGHER_IS_BETTER

        higher = HIGHER_IS_BETTER.get(gate.better, True)
        comparison, evidence = _against_production(ws, model, gate.better)
    facts = Facts(
        model=str(model), stage=model.stage, metrics=model.metrics, verdicts=newest, approvals=approvals,
        trainer=model.actor, comparison=comparison, higher_is_better=higher,
    )  # fmt: skip
    return facts, evidence


def _against_production(
    ws: Workspace, model: Model, metric: str
) -> tuple[tuple[float, float, float, float, bool] | None, dict[str, Any]]:
    """Both models on the candidate's untouched rows. Without such rows, their recorded metrics are compared, and no
    significance is claimed."""
    current = ws.store.find(Model, (field("name") == model.name) & (field("stage") == "production"), limit=1)
    if not current or current[0].version == model.version:
        return None, {}
    before = current[0]
    if "holdout" not in model.tags:
        old, new = before.metrics.get(metric), model.metrics.get(metric)
        if old is None or new is None:
            nan = float("nan")
            return (nan, nan, nan, nan, False), {"compared": f"{metric} is not known of both"}
        return (old, new, new - old, new - old, False), {"compared": "metrics recorded at registration"}
    from boucle.ledger import tables
    from boucle.measure.compare import paired

    holdout = tables.read(ws.blobs, model.tags["holdout"])
    truth = holdout.table([model.tags["target"]]).column(0).to_pylist()
    answers = [_answers(ws, m, holdout) for m in (before, model)]
    result = paired(model.task, metric, truth, *answers)
    evidence = {"compared": f"{len(truth)} untouched rows", "production": before.key}
    return (result.before, result.after, result.low, result.high, result.significant and result.better), evidence


def _answers(ws: Workspace, model: Model, holdout: Frame) -> Predictions:
    import numpy as np

    from boucle.core.frames import to_batch, to_rows
    from boucle.ledger.bundles import materialise
    from boucle.measure.scores import Predictions

    with tempfile.TemporaryDirectory(dir=ws.folder("tmp")) as scratch:
        bundle = materialise(ws, model, Path(scratch, "bundle"))
        schema = bundle.input
        predictor = bundle.load()
        rows = to_rows(holdout.select([n for n in schema.names if n in holdout.schema]).table())
        answer = predictor.predict(to_batch(schema, schema.decode(rows)))
    values = answer.column("prediction").to_pylist()
    if "probabilities" not in answer.schema.names:
        return Predictions(values)
    shares = answer.column("probabilities")
    # Column names are text; the labels themselves keep the type of the predictions.
    kind = type(values[0])
    classes = [kind(f.name) if kind in (int, float) else f.name for f in shares.type]
    matrix = np.column_stack([shares.field(i).to_numpy() for i in range(shares.type.num_fields)])
    return Predictions(values, matrix, classes, model.tags.get("positive"))
