"""Models: registered versions, their stages, and how they came there.

Registration packs a bundle, has it proved in a clean process, and refuses what does not give its own golden outputs again.
Every move between stages is an event with actor, reason and evidence, so that the past can be asked.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boucle.core.bundle import framework_for, pack
from boucle.core.errors import Invalid, NotFound, Refused
from boucle.core.records import Artifact, Edge, Event, Model, Run, Verdict
from boucle.core.refs import Ref, check_name, new_id, parse_time
from boucle.core.stages import EXCLUSIVE, STAGES, check_move
from boucle.core.where import field
from boucle.ledger import bundles, environment, gates, recording
from boucle.ledger.journal import note

if TYPE_CHECKING:
    from boucle.core.frames import Frame
    from boucle.core.schema import Schema
    from boucle.workspace import Workspace

SAMPLE_ROWS = 20


def register(
    ws: Workspace,
    name: str,
    model: Any,
    *,
    data: Frame,
    input: Schema | None = None,
    task: str = "",
    metrics: Mapping[str, float] | None = None,
    trained: Frame | None = None,
    holdout: Frame | None = None,
    target: str = "",
    card: str = "",
    description: str = "",
    requirements: Sequence[str] = (),
    tags: Mapping[str, Any] | None = None,
) -> Model:
    """Pack a model, prove the bundle in a clean process, and register it as the next version of `name`.

    `data` is a table of raw input as the model will get it (a few rows spread over it become the sample). `trained` are
    the rows it learned from, for lineage. `holdout` are untouched rows with their `target` column, kept so that a later
    version can be compared with this one on the same rows.
    `requirements` names further distributions the model needs. Raises `Refused` when the proof fails; nothing is
    registered then.
    """
    check_name(name, "model name")
    from boucle.core.frames import Frame

    data = Frame.of(data)
    schema = input or data.schema
    sample = _spread(data.select(schema.names))
    framework = framework_for(model)
    names = [*framework.requirements(model), *requirements]
    run = recording.current_run()
    sources = recording.datasets_above(ws, recording.used_now())
    roles = {"trained_on": _known(ws, trained), "tested_on": _known(ws, holdout)}
    references = {"run": run, "datasets": sources, "code": _code_of(ws, run), "actor": ws.actor, **roles}
    with tempfile.TemporaryDirectory(dir=ws.folder("tmp")) as scratch:
        bundle = pack(
            Path(scratch, "bundle"),
            model,
            name=name,
            input=schema,
            sample=sample,
            task=task,
            requirements=environment.requirements(names, ws.project),
            environment=environment.capture(),
            references=references,
            metrics=metrics,
            card=card,
        )
        proof = bundles.prove(bundle.folder)
        if not proof["ok"]:
            raise Refused(
                f"{name} is not registered: the packed copy does not answer as the model did. {proof['said']}",
                expected=f"the same answers to {len(bundle.golden)} rows in a clean process",
                fix="pack everything the model needs: code in modules, files beside them, packages in `requirements`",
            )
        artifact = bundles.keep(ws, bundle, run)
    kept = _keep_holdout(ws, holdout, target)
    now = time.time()
    with ws.store.transaction():
        newest = ws.store.find(Model, field("name") == name, order=["-version"], limit=1)
        record = Model(
            name=name,
            version=newest[0].version + 1 if newest else 1,
            digest=bundle.digest,
            artifact=artifact.digest,
            task=task,
            framework=bundle.framework,
            run=run,
            metrics=dict(metrics or {}),
            created=now,
            actor=ws.actor,
            description=description,
            tags={**(tags or {}), **kept},
        )
        if ws.store.get(Artifact, artifact.digest) is None:
            ws.store.put(artifact)
        ws.store.put(record)
        verdict = Verdict(
            id=new_id(), subject=str(record), check="proof", status="pass", summary=proof["said"],
            evidence=proof, run=run, created=now, actor=ws.actor,
        )  # fmt: skip
        ws.store.put(verdict)
        edges = [Edge(str(record), "packs", str(artifact), now), Edge(str(verdict), "judges", str(record), now)]
        edges += [Edge(str(record), "derived", source, now) for source in sources]
        edges += [Edge(str(record), role, rows, now) for role, rows in roles.items() if rows]
        if run:
            edges.append(Edge(f"run:{run}", "made", str(record), now))
        ws.store.link(*edges)
        note(ws, "model.registered", str(record), digest=record.digest, run=run, metrics=dict(metrics or {}))
    recording.note_made(str(record))
    return record


def _known(ws: Workspace, rows: Frame | None) -> str:
    """The reference of a table that is a dataset version or an artifact; '' for one that was never stored."""
    if rows is None or not rows.digest:
        return ""
    if rows.ref:
        return rows.ref
    return f"artifact:{rows.digest}" if ws.store.get(Artifact, rows.digest) else ""


def _spread(data: Frame) -> Any:
    """A few rows from all over a table, those with nulls among them, so that the proof sees more than the first lines."""
    import numpy as np

    rows = len(data)
    if rows <= SAMPLE_ROWS:
        return data.table()
    return data.take(np.unique(np.linspace(0, rows - 1, SAMPLE_ROWS).astype(int))).table()


def _code_of(ws: Workspace, run: str) -> str:
    record = ws.store.get(Run, run) if run else None
    active = recording.active.get()
    return record.code if record else getattr(getattr(active, "record", None), "code", "")


def _keep_holdout(ws: Workspace, holdout: Frame | None, target: str) -> dict[str, str]:
    if holdout is None:
        return {}
    from boucle.ledger import tables

    if target not in holdout.schema:
        raise Invalid(f"the holdout has no target column {target!r}", expected="the column with the truth")
    return {"holdout": tables.write(ws.blobs, holdout).manifest, "target": target}


def resolve(ws: Workspace, ref: Ref | str) -> Model:
    """The version that a reference names: a number, `latest` (also when left out), a stage, `sha...`, or `{time}`: what
    was in production at that moment."""
    parsed = ref if isinstance(ref, Ref) else Ref.parse(ref, "model")
    versions = ws.store.find(Model, field("name") == parsed.name, order=["-version"])
    if not versions:
        known = {m.name for m in ws.store.find(Model)}
        raise NotFound.named("model", parsed.name, known, fix="boucle models")
    moment = parsed.moment()
    if moment is not None:
        number = state_at(ws, parsed.name, moment).get("production")
        if number is None:
            raise NotFound(f"no version of {parsed.name} was in production then", fix=f"boucle history {parsed.name}")
        return next(m for m in versions if m.version == number)
    for model in versions:
        if (
            parsed.version in ("", "latest")
            or parsed.number == model.version
            or (parsed.version in STAGES and parsed.version == model.stage)
            or (parsed.digest is not None and model.digest.startswith(parsed.digest))
        ):
            return model
    raise NotFound(
        f"no version of model {parsed.name} is {parsed.version!r}",
        expected=f"one of {', '.join(f'@{m.version} ({m.stage})' for m in versions[:8])}",
        fix=f"boucle models {parsed.name}",
    )


def versions(ws: Workspace, name: str = "") -> list[Model]:
    """All versions of a model, or of all models, newest first."""
    return ws.store.find(Model, field("name") == name if name else None, order=["name", "-version"])


@dataclass(frozen=True, slots=True)
class Move:
    """A move between stages that was made: the model after it, and whom it replaced."""

    model: Model
    before: str
    replaced: Model | None
    event: Event


def advance(ws: Workspace, ref: Ref | str, stage: str, *, reason: str = "") -> Move:
    """Bring a model to a stage, through the gate that boucle.toml sets for it.

    Raises `Refused` with each condition that does not hold; the refusal is recorded too. The version that was in an
    exclusive stage before leaves it in the same transaction.
    """
    model = resolve(ws, ref)
    check_move(str(model), model.stage, stage)
    outcome = gates.judge_model(ws, model, stage)
    ws.store.put(outcome.verdict)
    ws.store.link(Edge(str(outcome.verdict), "judges", str(model), time.time()))
    if outcome.verdict.status == "fail":
        note(ws, "model.refused", str(model), reason=reason, stage=stage, conditions=outcome.verdict.evidence)
        failed = [c.said for c in outcome.conditions if not c.holds]
        raise Refused(
            f"{model} may not go to {stage}: " + "; ".join(failed),
            expected=f"every condition of the gate to {stage} (boucle.toml, [gates.{stage}])",
            fix=f"boucle approve {model.key} {stage}"
            if any(c.name == "approvals" and not c.holds for c in outcome.conditions)
            else f"boucle show {model.key}",
        )
    return move(ws, model, stage, reason=reason, evidence={"gate": outcome.verdict.id})


def move(
    ws: Workspace, model: Model, stage: str, *, reason: str = "", evidence: Mapping[str, Any] | None = None
) -> Move:
    """Change a stage and note it, without asking a gate. Whoever is in an exclusive stage already makes room."""
    with ws.store.transaction():
        now = ws.store.get(Model, model.key) or model
        check_move(str(now), now.stage, stage)
        replaced = None
        if stage in EXCLUSIVE:
            for other in ws.store.find(Model, (field("name") == now.name) & (field("stage") == stage)):
                replaced = replace(other, stage=EXCLUSIVE[stage])
                ws.store.put(replaced)
                note(
                    ws, "model.stage", str(replaced), reason=f"{now.key} took its place",
                    before=stage, after=replaced.stage,
                )  # fmt: skip
        moved = replace(now, stage=stage)
        ws.store.put(moved)
        event = note(
            ws, "model.stage", str(moved), reason=reason, before=now.stage, after=stage, evidence=dict(evidence or {})
        )
    return Move(moved, now.stage, replaced, event)


def approve(ws: Workspace, ref: Ref | str, stage: str, *, reason: str = "") -> Event:
    """Say yes to a version entering a stage, as the acting user."""
    model = resolve(ws, ref)
    if stage not in STAGES:
        raise NotFound.named("stage", stage, STAGES)
    return note(ws, "model.approved", str(model), reason=reason, stage=stage)


def rollback(ws: Workspace, name: str, *, reason: str = "") -> Move:
    """Bring back the version that was in production before the present one."""
    current = resolve(ws, Ref("model", name, "production"))
    for event in reversed(ws.store.events(subject=f"model:{name}", type="model.stage")):
        version = int(Ref.parse(event.subject).version)
        if event.data["after"] == "production" and version != current.version:
            model = resolve(ws, Ref("model", name, str(version)))
            if model.stage == "archived":
                return move(ws, model, "production", reason=reason or f"rollback from {current.key}")
    raise NotFound(
        f"{name} has no earlier version that was in production",
        expected="one to go back to",
        fix=f"boucle history {name}",
    )


def history(ws: Workspace, name: str) -> list[Event]:
    """Everything that happened to a model, oldest first."""
    events = ws.store.events(subject=f"model:{name}")
    if not events:
        resolve(ws, Ref("model", name))
    return events


def state_at(ws: Workspace, name: str, moment: float | str) -> dict[str, int]:
    """Which version was in each stage at a moment (epoch seconds or text), from the journal alone."""
    at = parse_time(moment) if isinstance(moment, str) else moment
    stages: dict[int, str] = {}
    for event in ws.store.events(subject=f"model:{name}"):
        if event.time <= at and event.type in ("model.stage", "model.registered"):
            stages[int(Ref.parse(event.subject).version)] = event.data.get("after", "none")
    return {stage: version for version, stage in sorted(stages.items()) if stage != "archived"}
