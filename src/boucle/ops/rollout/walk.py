"""Walking a rollout: thin code that puts each phase into force, gathers the facts, and does what `plan.decide` says.

All that it knows is in the rollout's record: whoever goes on after a kill puts the phase into force once more, which changes
nothing where it is in force already, and reads the logs from where the record says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boucle.core import predictions
from boucle.core.errors import BoucleError, Conflict, Invalid, NotFound, Refused, Unavailable
from boucle.core.labels import FILE as LABELS
from boucle.core.records import Edge, Model, Rollout, Service, Verdict
from boucle.core.refs import Ref, id_at, new_id
from boucle.core.schema import jsonable
from boucle.core.where import field
from boucle.ledger import bundles, gates, models, services
from boucle.ledger.journal import note
from boucle.ops import deploy, host
from boucle.ops.rollout import tally as tallies
from boucle.ops.rollout.plan import Decision, Facts, Phase, Policy, decide, plan
from boucle.ops.rollout.replay import replay
from boucle.ops.rollout.tally import Tally
from boucle.settings import FILE, part

if TYPE_CHECKING:
    from boucle.workspace import Workspace

_INSIST = 50
_TRIES = 3  # to start a new revision
_SETTLE_SECONDS = 1.0  # a log may still get lines so much older than its newest


def policy_for(ws: Workspace, service: str, **changes: Any) -> Policy:
    """What boucle.toml says of rollouts of a service ([rollouts.SERVICE], or else [rollouts.default]), with changes."""
    path = ws.settings.project / FILE
    tables = part(ws.settings.table, "rollouts", path)
    for name in tables:
        # All are read, for one with a mistake would surprise at the worst moment.
        Policy.from_table(part(tables, name, path), f"[rollouts.{name}]")
    name = service if service in tables else "default"
    given = {k: v for k, v in changes.items() if v is not None}
    return Policy.from_table({**part(tables, name, path), **given}, f"[rollouts.{name}]")


def start(
    ws: Workspace, model: Ref | str, service: str = "", *, reason: str = "", policy: Policy | None = None
) -> Rollout:  # fmt: skip
    """Begin to try a model in the place of the one that a service runs; `turn` goes on with it.

    Raises `NotFound` where no such service runs, `Refused` while it is frozen, `Conflict` while another rollout is going on, and
    `Invalid` when the service runs that model already.
    """
    chosen = models.resolve(ws, model)
    name = service or chosen.name
    host.settle(ws)
    old = next((s for s in host.revisions(ws, name) if s.status == "ready"), None)
    if old is None:
        raise NotFound(
            f"no service {name} runs whose place {chosen.key} could take", fix=f"boucle deploy {chosen.key} --name {name}"
        )  # fmt: skip
    _check_thawed(ws, name)
    deploy.check_free(ws, name)
    if old.digest == chosen.digest:
        raise Invalid(f"{old.key} runs {chosen.key} already", expected="another version", fix=f"boucle models {name}")
    followed = policy or policy_for(ws, name)
    phases = plan(followed)
    now = ws.now()
    with ws.store.transaction():
        deploy.check_free(ws, name)
        new = services.reserve(ws, name, chosen, old.target, now)
        rollout = Rollout(
            id=new_id(), service=name, strategy=followed.strategy, phase=phases[0].name, policy=jsonable(asdict(followed)),
            model=chosen.key, before=old.revision, after=new.revision, started=now, actor=ws.actor, reason=reason,
        )  # fmt: skip
        ws.store.put(rollout)
        _note(ws, rollout, "started", strategy=followed.strategy, phases=[p.name for p in phases])
    return rollout


def turn(ws: Workspace, rollout: Rollout) -> Rollout:
    """Go on with a rollout as far as it goes now; safe to repeat at any time, and by anybody. Returns it as it is then."""
    while True:
        now = ws.store.get(Rollout, rollout.id)
        if now is None:
            raise NotFound(f"there is no rollout {rollout.id}", fix="boucle rollout")
        if now.status != "running" or now.strategy == "replace" or frozen(ws, now.service):
            return now
        try:
            after = _step(ws, now)
        except Conflict:
            continue  # a person, or another worker, was faster
        if after is None:
            return ws.store.get(Rollout, rollout.id) or now


def _step(ws: Workspace, rollout: Rollout) -> Rollout | None:
    """One decision. None when there is nothing to do before more is known."""
    policy = _policy(rollout)
    phases = plan(policy)
    at = next(i for i, p in enumerate(phases) if p.name == rollout.phase)
    phase = phases[at]
    state = dict(rollout.phases.get(phase.name, {}))
    if not state.get("started"):
        waits = _leave_to_begin(ws, rollout, phase, policy, state)
        if waits is not None:
            return waits if waits.status != "running" else _back(ws, waits, _said(waits, phase), since=rollout)
        if phase.kind != "replay":
            old = _revision(ws, rollout, rollout.before)
            if old.status in ("failed", "stopped"):
                return _back(ws, rollout, Decision("back", f"{old.key}, whose place it should take, is {old.status}"))
            if not _stands(ws, rollout):
                return None
        tried = int(state.get("tried", 0))
        try:
            rollout = _begin(ws, rollout, phase)
        except (BoucleError, OSError) as error:
            if isinstance(error, Conflict):
                raise
            if isinstance(error, Unavailable) and tried + 1 < _TRIES:
                # Not what it answers is wrong: a process ended, which others may have done.
                kept = {**state, "tried": tried + 1, "said": f"{phase.name} could not begin yet: {error.what}"}
                _write(ws, rollout, phases={**rollout.phases, phase.name: kept})
                return None
            return _back(ws, rollout, Decision("back", f"{phase.name} could not begin: {error}"))
        state = dict(rollout.phases[phase.name])
    _hold(ws, rollout, phase)
    tally, broken = _look(ws, rollout, phase, policy, state)
    facts = _facts(ws, rollout, phase, phases, policy, tally, broken, state)
    decision = decide(phase, policy, facts)
    if decision.action == "wait":
        kept = {**state, "evidence": tally.to_json(), "said": decision.sentence, "measures": _plain(facts)}
        if kept != state:
            _write(ws, rollout, phases={**rollout.phases, phase.name: kept})
        return None
    done = {
        **state, "evidence": tally.to_json(), "said": decision.sentence, "measures": _plain(facts), "ended": ws.now(),
        "status": "finished" if decision.action == "go" else "failed",
    }  # fmt: skip
    changed = replace(rollout, phases={**rollout.phases, phase.name: done})
    if decision.action == "back":
        return _back(ws, changed, decision, since=rollout)
    if at + 1 == len(phases):
        return _finish(ws, changed, decision, since=rollout)
    following = replace(changed, phase=phases[at + 1].name)
    with ws.store.transaction():
        _check_unchanged(ws, rollout)
        ws.store.put(following)
        _verdict(ws, rollout, phase.name, "pass", decision, done["measures"])
        _note(ws, following, "phase", ended=phase.name, begins=following.phase, sentence=decision.sentence)
    return following


def _leave_to_begin(
    ws: Workspace, rollout: Rollout, phase: Phase, policy: Policy, state: Mapping[str, Any]
) -> Rollout | None:
    """None when a phase may begin; the rollout as it waits for a person; or with the gate's refusal in the phase."""
    if phase.name in policy.approve and not state.get("approved"):
        return _wait(ws, rollout, phase, f"{phase.name} begins when a person approves it")
    if phase.kind != "all":
        return None
    model = _model(ws, rollout)
    if model.stage == "production":
        return None
    outcome = gates.judge_model(ws, model, "production")
    open_ones = [c for c in outcome.conditions if not c.holds]
    if not open_ones:
        return None
    said = f"{model.key} may not enter production: {'; '.join(c.said for c in open_ones)}"
    if all(c.name == "approvals" for c in open_ones):
        return _wait(ws, rollout, phase, said)
    return replace(rollout, phases={**rollout.phases, phase.name: {**state, "said": said, "status": "failed"}})


def _said(rollout: Rollout, phase: Phase) -> Decision:
    return Decision("back", str(rollout.phases[phase.name]["said"]))


def _wait(ws: Workspace, rollout: Rollout, phase: Phase, sentence: str) -> Rollout:
    state = {**rollout.phases.get(phase.name, {}), "said": sentence}
    waiting = replace(rollout, status="waiting", phases={**rollout.phases, phase.name: state})
    with ws.store.transaction():
        _check_unchanged(ws, rollout)
        ws.store.put(waiting)
        _note(ws, waiting, "waiting", sentence=sentence)
    return waiting


def _begin(ws: Workspace, rollout: Rollout, phase: Phase) -> Rollout:
    """Give the new revision its part. What is recorded comes first, and what runs follows it: whoever is killed in between has
    it put in force by the next one."""
    old, new = _revision(ws, rollout, rollout.before), _revision(ws, rollout, rollout.after)
    if phase.kind != "replay" and not _runs(ws, new):
        new = _place(ws, rollout, old, new)
    state = {**rollout.phases.get(phase.name, {}), "started": ws.now(), "status": "running", "share": phase.share}
    begun = replace(rollout, phases={**rollout.phases, phase.name: state})
    with ws.store.transaction():
        _check_unchanged(ws, rollout)
        ws.store.put(begun)
        if phase.kind != "replay":
            # As they are now: they may have died and been brought back meanwhile.
            old, new = _revision(ws, rollout, rollout.before), _revision(ws, rollout, rollout.after)
            if new.status == "starting":
                new = services.change(ws, new, "trial", reason=f"rollout {rollout.id}: {phase.name}")
            _share(ws, old, round(1.0 - phase.share, 6), phase)
            _share(ws, new, phase.share, phase, shadow=phase.kind == "shadow")
    _hold(ws, begun, phase)
    return begun


def _share(ws: Workspace, service: Service, share: float, phase: Phase, *, shadow: bool = False) -> None:
    changed = replace(service, share=share, shadow=shadow)
    if changed != service:
        ws.store.put(changed)
        note(ws, "service.share", str(service), reason=phase.name, share=share, shadow=shadow)


def _place(ws: Workspace, rollout: Rollout, old: Service, new: Service) -> Service:
    bundle = bundles.materialise(ws, _model(ws, rollout), Path(new.folder, "bundle"))
    # One that could not be started beside the old revision may have ended the process of both: it has one of its own then.
    apart = bool(rollout.phases.get(rollout.phase, {}).get("tried"))
    where = host.address(ws, old.name) or old.url
    placed = host.place(ws, new, host.host_of(where), host.port_of(where), apart=apart)
    deploy.probe(bundle, placed)
    return placed


def _stands(ws: Workspace, rollout: Rollout) -> bool:
    """Whether nothing has died that `host.keep` will bring back."""
    old, new = _revision(ws, rollout, rollout.before), _revision(ws, rollout, rollout.after)
    running = new.status not in ("trial", "died") or _runs(ws, new)
    return running and old.status != "died" and host.front(ws, rollout.service) is not None


def _runs(ws: Workspace, service: Service) -> bool:
    return service.status == "trial" and bool(service.handle) and ws.target(service.target).alive(service.handle)


def _hold(ws: Workspace, rollout: Rollout, phase: Phase) -> None:
    """See that what runs is what the phase asks for."""
    if phase.kind != "replay" and host.front(ws, rollout.service) is not None:
        host.apply(ws, rollout.service)


# --- facts -------------------------------------------------------------------------------------------------------------


def _look(
    ws: Workspace, rollout: Rollout, phase: Phase, policy: Policy, state: Mapping[str, Any]
) -> tuple[Tally, str]:  # fmt: skip
    tally = Tally.from_json(state.get("evidence", {}))
    old, new = _revision(ws, rollout, rollout.before), _revision(ws, rollout, rollout.after)
    model, began = _model(ws, rollout), float(state["started"])
    if new.status in ("failed", "stopped"):
        return tally, f"{new.key} is {new.status}"
    until = ws.now() - _SETTLE_SECONDS
    if phase.kind == "replay":
        return replay(ws, tally, old, model, Path(new.folder), policy, until)
    start = id_at(began)
    mirrored = phase.kind == "shadow"
    live = {r["id"]: r for r in tallies.read_answers(tally.before, old, start, until, shadow=False)}
    lines = tallies.read_answers(tally.after, new, start, until, shadow=mirrored)
    if mirrored:
        _pair(tally, old, live, lines, model)
    known = {**live, **{r["id"]: r for r in lines}}
    for seen, service in ((tally.before, old), (tally.after, new)):
        for record, label in tallies.read_labels(seen, service, began, known):
            wrong = tallies.loss(model, record["output"]["prediction"], label)
            if wrong is not None:
                tally.numbers = tallies.are_numbers(model, record["output"]["prediction"])
                seen.loss.add(wrong)
    return tally, ""


def _pair(
    tally: Tally, old: Service, live: Mapping[str, dict[str, Any]], lines: list[dict[str, Any]], model: Model
) -> None:  # fmt: skip
    """What was mirrored was answered a moment ago: mostly at hand, or else it was read in an earlier look."""
    folder = Path(old.folder, "predictions")
    pairs = [(live.get(line["shadow"]) or predictions.find(folder, line["shadow"]), line) for line in lines]
    known = [(was["output"]["prediction"], now["output"]["prediction"]) for was, now in pairs if was is not None]
    tally.spread = tally.spread or tallies.spread_of([was for was, _ in known])
    for was, now in known:
        tallies.compare(tally, was, now, model)


def _facts(
    ws: Workspace, rollout: Rollout, phase: Phase, phases: tuple[Phase, ...], policy: Policy, tally: Tally, broken: str,
    state: Mapping[str, Any],
) -> Facts:  # fmt: skip
    old = _revision(ws, rollout, rollout.before)
    found = tallies.measures(tally, policy, policy.alpha / len(phases))
    shown = [n for s in rollout.phases.values() for n, m in s.get("measures", {}).items() if m["state"] == "ok"]
    labelled = bool(tally.labelled or "score" in found or Path(old.folder, LABELS).is_file())
    rows = tally.pairs if phase.kind == "replay" else tally.after.rows
    return Facts(rows, ws.now() - float(state["started"]), found, broken, shown, labelled)


def _plain(facts: Facts) -> dict[str, Any]:
    out: dict[str, Any] = jsonable(
        {
            n: {"state": m.state, "harm": asdict(m.harm), "allowed": m.allowed, "said": m.said}
            for n, m in facts.measures.items()
        }
    )
    return out


# --- the end -----------------------------------------------------------------------------------------------------------


def _finish(ws: Workspace, rollout: Rollout, decision: Decision, *, since: Rollout) -> Rollout:
    model = _model(ws, rollout)
    ended = replace(rollout, status="finished", ended=ws.now())
    with ws.store.transaction():
        _check_unchanged(ws, since)
        old, new = _revision(ws, rollout, rollout.before), _revision(ws, rollout, rollout.after)
        if new.status not in ("trial", "died"):
            raise Conflict(f"{new.key} is {new.status}", expected="one that can win", fix="look again: boucle rollout")
        ws.store.put(ended)
        services.change(ws, new, "ready", reason=f"rollout {rollout.id}: it won", share=1.0, shadow=False)
        services.change(ws, old, "stopped", reason=f"{new.key} won", share=0.0, shadow=False)
        _verdict(ws, rollout, rollout.phase, "pass", decision, rollout.phases[rollout.phase]["measures"])
        _note(
            ws, ended, "finished", phases=_brief(ended), sentence=decision.sentence, model=model.key,
            seconds=round(ended.ended - ended.started, 3),
        )  # fmt: skip
        if model.stage != "production":
            # In the same write, for nobody comes back to a rollout that is over. Its gate was asked before it got everything;
            # what changed since then is a person's doing, and said.
            try:
                models.advance(ws, model.ref, "production", reason=f"rollout {rollout.id}")
            except (Refused, Invalid) as error:
                _note(ws, ended, "stage", sentence=f"{model.key} serves, but did not enter production: {error.what}")
    _apply(ws, rollout.service)
    return ended


def _back(
    ws: Workspace, rollout: Rollout, decision: Decision, *, since: Rollout | None = None, status: str = "failed",
    reason: str = "",
) -> Rollout:  # fmt: skip
    """The old revision answers everything again, and the new one is stopped."""
    phases = rollout.phases
    if phases.get(rollout.phase, {}).get("status") != "failed":
        state = {**phases.get(rollout.phase, {}), "said": decision.sentence, "status": "failed", "ended": ws.now()}
        phases = {**phases, rollout.phase: state}
    ended = replace(rollout, status=status, ended=ws.now(), phases=phases)
    with ws.store.transaction():
        _check_unchanged(ws, since or rollout)
        old, new = _revision(ws, rollout, rollout.before), _revision(ws, rollout, rollout.after)
        ws.store.put(ended)
        if old.status != "stopped":
            ws.store.put(replace(old, share=1.0, shadow=False))
        services.change(ws, new, "stopped", reason=decision.sentence, share=0.0, shadow=False)
        _verdict(ws, rollout, rollout.phase, "fail", decision, phases[rollout.phase].get("measures", {}))
        _note(ws, ended, status, reason=reason, phases=_brief(ended), sentence=decision.sentence, model=rollout.model)
    _apply(ws, rollout.service)
    return ended


def _apply(ws: Workspace, name: str) -> None:
    if host.front(ws, name) is not None:
        host.apply(ws, name)


# --- what people say ---------------------------------------------------------------------------------------------------


def going(ws: Workspace, service: str) -> Rollout:
    """The rollout of a service that is going on; raises `NotFound`."""
    found = host.rollout_of(ws, service)
    if found is None:
        raise NotFound(f"no rollout of {service} is going on", fix="boucle rollout")
    return found


def _insist(change: Callable[[], Rollout]) -> Rollout:
    """What a person wants comes through, though a worker may be writing all the time."""
    for _ in range(_INSIST):
        try:
            return change()
        except Conflict:
            continue
    return change()


def pause(ws: Workspace, service: str, *, reason: str = "") -> Rollout:
    """Leave everything as it is until `resume`."""
    return _insist(lambda: _change(ws, service, ("running", "waiting"), "paused", "paused", reason))


def resume(ws: Workspace, service: str, *, reason: str = "") -> Rollout:
    """Go on with a rollout that was paused."""
    return _insist(lambda: _change(ws, service, ("paused",), "running", "resumed", reason))


def approve(ws: Workspace, service: str, *, reason: str = "") -> Rollout:
    """Let the phase begin that waits for a person. Where the model's gate asks for approvals, this counts as one."""
    rollout = going(ws, service)
    if rollout.status != "waiting":
        raise Invalid(f"the rollout of {service} is {rollout.status}", expected="one that waits for an approval")
    model = _model(ws, rollout)
    asked = gates.gate_for(ws, "production").approvals
    if plan(_policy(rollout))[-1].name == rollout.phase and asked:
        models.approve(ws, model.ref, "production", reason=reason or f"rollout {rollout.id}")
    state = {**rollout.phases.get(rollout.phase, {}), "approved": ws.actor}
    changed = replace(rollout, status="running", phases={**rollout.phases, rollout.phase: state})
    with ws.store.transaction():
        _check_unchanged(ws, rollout)
        ws.store.put(changed)
        _note(ws, changed, "approved", reason=reason, phase=rollout.phase)
    return changed


def abort(ws: Workspace, service: str, *, reason: str = "") -> Rollout:
    """End a rollout at once: the old revision, which is still loaded, answers everything again."""
    said = f"ended by {ws.actor}" + (f": {reason}" if reason else "")
    return _insist(
        lambda: _back(ws, going(ws, service), Decision("back", said), status="aborted", reason=reason)
    )  # fmt: skip


def back(ws: Workspace, service: str, *, reason: str = "") -> Service:
    """To the revision before: at once while a rollout is going on, or else by deploying its model again."""
    found = host.rollout_of(ws, service)
    if found is not None:
        abort(ws, service, reason=reason)
        return services.resolve(ws, service)
    now = services.resolve(ws, service)
    past = ws.store.find(Rollout, (field("service") == now.name) & (field("status") == "finished"), order=["-started"])
    last = next((r for r in past if r.after == now.revision and r.before), None)
    if last is None:
        raise NotFound(f"{now} has no revision before it", fix="boucle services --all")
    earlier = _revision(ws, last, last.before)
    return deploy.deploy(ws, Ref.parse(earlier.model, "model"), now.name, reason=reason or f"back from {now.key}")


def freeze(ws: Workspace, service: str, *, reason: str = "") -> None:
    """Nothing about the service changes by itself any more: no rollout begins, goes on or is rolled back."""
    name = services.resolve(ws, service).name
    note(ws, "rollout.frozen", f"service:{name}", reason=reason)


def thaw(ws: Workspace, service: str, *, reason: str = "") -> None:
    """The end of `freeze`."""
    name = services.resolve(ws, service).name
    note(ws, "rollout.unfrozen", f"service:{name}", reason=reason)


def frozen(ws: Workspace, service: str) -> str:
    """Who froze a service and why, in words; '' when it is not frozen."""
    found = [
        e
        for kind in ("rollout.frozen", "rollout.unfrozen")
        for e in ws.store.events(type=kind, subject=f"service:{service}")
    ]
    last = max(found, key=lambda e: e.sequence, default=None)
    if last is None or last.type == "rollout.unfrozen":
        return ""
    return f"{last.actor} froze it" + (f": {last.reason}" if last.reason else "")


def _check_thawed(ws: Workspace, name: str) -> None:
    said = frozen(ws, name)
    if said:
        raise Refused(
            f"{name} is frozen: {said}", expected="a service that may change", fix=f"boucle rollout thaw {name}"
        )


def _change(
    ws: Workspace, service: str, allowed: tuple[str, ...], status: str, event: str, reason: str
) -> Rollout:  # fmt: skip
    rollout = going(ws, service)
    if rollout.status not in allowed:
        raise Invalid(f"the rollout of {service} is {rollout.status}", expected=f"one that is {' or '.join(allowed)}")
    changed = replace(rollout, status=status)
    with ws.store.transaction():
        _check_unchanged(ws, rollout)
        ws.store.put(changed)
        _note(ws, changed, event, reason=reason)
    return changed


# --- records -----------------------------------------------------------------------------------------------------------


def _policy(rollout: Rollout) -> Policy:
    return Policy.from_table(rollout.policy, f"rollout {rollout.id}")


def _model(ws: Workspace, rollout: Rollout) -> Model:
    model = ws.store.get(Model, rollout.model)
    if model is None:
        raise NotFound(f"rollout {rollout.id} has lost its model {rollout.model}", fix="boucle fsck")
    return model


def _revision(ws: Workspace, rollout: Rollout, number: int) -> Service:
    service = ws.store.get(Service, f"{rollout.service}@{number}")
    if service is None:
        raise NotFound(f"rollout {rollout.id} has lost revision {number}", fix="boucle fsck")
    return service


def _write(ws: Workspace, rollout: Rollout, **changes: Any) -> None:
    with ws.store.transaction():
        _check_unchanged(ws, rollout)
        ws.store.put(replace(rollout, **changes))


def _check_unchanged(ws: Workspace, rollout: Rollout) -> None:
    """Within a transaction: what is to be written was decided on what is there still."""
    now = ws.store.get(Rollout, rollout.id)
    if now is None or (now.status, now.phase, now.phases) != (rollout.status, rollout.phase, rollout.phases):
        raise Conflict(f"rollout {rollout.id} was changed meanwhile", fix="look again: boucle rollout")


def _verdict(
    ws: Workspace, rollout: Rollout, phase: str, status: str, decision: Decision, measures: Mapping[str, Any]
) -> None:
    subject = f"service:{rollout.service}@{rollout.after}"
    verdict = Verdict(
        id=new_id(), subject=subject, check=f"rollout:{phase}", status=status, summary=decision.sentence,
        evidence={"rollout": rollout.id, "measures": dict(measures)}, created=ws.now(), actor=ws.actor,
    )  # fmt: skip
    ws.store.put(verdict)
    ws.store.link(Edge(str(verdict), "judges", subject, ws.now()))


def _note(ws: Workspace, rollout: Rollout, event: str, *, reason: str = "", **data: Any) -> None:
    subject = f"service:{rollout.service}@{rollout.after}"
    note(ws, f"rollout.{event}", subject, reason=reason or rollout.reason, rollout=rollout.id, **data)


def _brief(rollout: Rollout) -> dict[str, Any]:
    """The phases without their sums, for the journal."""
    return {n: {k: v for k, v in s.items() if k not in ("evidence", "measures")} for n, s in rollout.phases.items()}
