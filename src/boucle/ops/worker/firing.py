"""Firings: what a rule or a schedule does, action by action.

That it fires, what it will do and how far the journal was read is written in one transaction. Each action that ended is
written before the next begins, so that whoever takes over a firing goes on with the action that did not end. An action
that was cut off is begun again; each sees what it did before: a pipeline reuses its finished steps, a rollout that was
started carries the name of its firing, a dataset that has grown since says so.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boucle.core.errors import BoucleError, Conflict, Invalid, NotFound, Unavailable
from boucle.core.records import Dataset, Event, Model, Rollout, Service
from boucle.core.refs import Ref
from boucle.core.where import field
from boucle.flow import rules, schedule
from boucle.flow.action import Action, action
from boucle.flow.rules import Rule
from boucle.flow.schedule import Schedule, in_words
from boucle.ledger.journal import note
from boucle.ops.worker.tending import newest
from boucle.ops.worker.unit import Hold, State, Unit
from boucle.ops.worker.verbs import Verbs

if TYPE_CHECKING:
    from boucle.workspace import Workspace

READ = 500  # events that are read at once; past so many the place in the journal is written down
AGAIN = (10.0, 600.0)  # seconds between tries of something that is missing, at first and at last


def by_rule(ws: Workspace, rule: Rule, verbs: Verbs, stop: threading.Event | None = None) -> Unit:
    """The unit of a rule. A new rule begins at the end of the journal."""

    def unread(state: State) -> list[Event]:
        return ws.store.events(after=state["cursor"], limit=READ)

    def due(state: State) -> bool:
        if "doing" in state:
            return bool(ws.now() >= state["doing"]["again"])
        if "cursor" not in state:
            return True
        events = unread(state)
        return len(events) == READ or any(rules.applies(rule, e) for e in events)

    def do(hold: Hold) -> list[str]:
        state = hold.state
        if "doing" in state:
            return carry_on(hold, verbs, stop)
        if "cursor" not in state:
            hold.keep({**state, "cursor": newest(ws)})
            return [f"waits for {rule.on} from now on"]
        said: list[str] = []
        while True:
            events = unread(state)
            made = rules.decide(rule, events, state, ws.now())
            said += [f"{e.type} of {e.subject} left out: {why}" for e, why in made.skipped]
            state = made.state
            if made.fires is not None or len(events) < READ or (stop is not None and stop.is_set()):
                break
        if made.fires is None:
            hold.keep(state)
            return said
        event = made.fires
        doing = _doing(rule.do, rule.arguments, ws.now(), rule.wait, event=event.sequence, subject=event.subject)
        with hold.writing({**state, "doing": doing}):
            _note(ws, hold, "fired", f"{event.type} of {event.subject}", event=event.sequence, do=doing["do"])
        return [*said, f"fired by {event.type} of {event.subject}", *carry_on(hold, verbs, stop)]

    return Unit(f"rule:{rule.name}", due, do)


def by_schedule(ws: Workspace, planned: Schedule, verbs: Verbs, stop: threading.Event | None = None) -> Unit:
    """The unit of a schedule. A new one, and one whose times were changed, begins now."""

    def due(state: State) -> bool:
        if "doing" in state:
            return bool(ws.now() >= state["doing"]["again"])
        return state.get("of") != planned.when or bool(schedule.due(planned, state["until"], ws.now()))

    def do(hold: Hold) -> list[str]:
        state = hold.state
        if "doing" in state:
            return carry_on(hold, verbs, stop)
        if state.get("of") != planned.when:
            hold.keep({**state, "of": planned.when, "until": ws.now()})
            return [f"next at {schedule.shown_in_zone(planned, schedule.next_fire(planned, ws.now()))}"]
        fires = schedule.due(planned, state["until"], ws.now())
        moment = fires[0] if planned.missed == "all" else fires[-1]
        return fire_schedule(hold, planned, moment, verbs, stop)

    return Unit(f"schedule:{planned.name}", due, do)


def fire_schedule(
    hold: Hold, planned: Schedule, moment: float, verbs: Verbs, stop: threading.Event | None = None
) -> list[str]:
    """Do what a schedule says, for one of its times (or for a moment that a person chose)."""
    ws = hold.ws
    doing = _doing(planned.do, planned.arguments, ws.now(), rules.WAIT)
    until = max(moment, hold.state.get("until", moment))
    state = {**hold.state, "of": planned.when, "until": until, "fired": moment, "doing": doing}
    with hold.writing(state):
        _note(ws, hold, "fired", planned.when, at=moment, do=doing["do"])
    return [f"fired for {schedule.shown_in_zone(planned, moment)}", *carry_on(hold, verbs, stop)]


def _doing(
    do: tuple[Action, ...], arguments: Mapping[str, Any], now: float, wait: float, event: int = 0, subject: str = ""
) -> State:
    return {
        "do": [str(a) for a in do], "with": dict(arguments), "event": event, "subject": subject, "at": now,
        "until": now + wait, "step": 0, "again": 0.0, "made": {},
    }  # fmt: skip


def carry_on(hold: Hold, verbs: Verbs, stop: threading.Event | None = None) -> list[str]:
    """Go on with a firing: to its end, to something that is missing, or until `stop` is set."""
    ws, said = hold.ws, list[str]()
    while (doing := hold.state["doing"])["step"] < len(doing["do"]):
        if stop is not None and stop.is_set():
            return said
        act = action(doing["do"][doing["step"]])
        try:
            made, words = _PERFORM[act.verb](_Firing(ws, hold.lease.name, doing, verbs, stop), act.argument)
        except (Unavailable, Conflict) as error:
            if ws.now() >= doing["until"]:
                return [*said, _ended(hold, act, error)]
            return [*said, *_waits(hold, act, error)]
        except Exception as error:  # noqa: BLE001  a rule that fails is recorded, and blocks no other
            return [*said, _ended(hold, act, error)]
        said.append(words)
        after = {**doing, "step": doing["step"] + 1, "again": 0.0, "made": {**doing["made"], **made}}
        after.pop("waits", None)
        hold.keep({**hold.state, "doing": after})
    doing = hold.state["doing"]
    state = {k: v for k, v in hold.state.items() if k not in ("doing", "failed")}
    with hold.writing({**state, "done": ws.now()}):
        _note(ws, hold, "done", "", event=doing["event"], seconds=ws.now() - doing["at"], **doing["made"])
    return [*said, "done"]


def _waits(hold: Hold, act: Action, error: BoucleError) -> list[str]:
    doing, now = hold.state["doing"], hold.ws.now()
    pause = min(AGAIN[1], max(AGAIN[0], (now - doing["at"]) / 10))
    after = {**doing, "again": min(now + pause, max(doing["until"], now)), "waits": error.what}
    hold.keep({**hold.state, "doing": after})
    if doing.get("waits") == error.what:
        return []
    return [f"{act} waits for at most {in_words(doing['until'] - now)}: {error.what}"]


def _ended(hold: Hold, act: Action, error: Exception) -> str:
    reason = error.what if isinstance(error, BoucleError) else f"{type(error).__name__}: {error}"
    doing = hold.state["doing"]
    state = {k: v for k, v in hold.state.items() if k != "doing"}
    with hold.writing({**state, "failed": reason, "done": hold.ws.now()}):
        _note(hold.ws, hold, "failed", reason, event=doing["event"], action=str(act), **doing["made"])
    return f"{act} failed: {reason}"


def _note(ws: Workspace, hold: Hold, what: str, reason: str, **data: Any) -> None:
    kind = hold.lease.name.partition(":")[0]
    note(ws, f"{kind}.{what}", hold.lease.name, reason=reason, **data)


# --- the actions -------------------------------------------------------------------------------------------------------


class _Firing:
    """What an action may know: whose firing it is, how far that has come, and what it is about."""

    __slots__ = ("doing", "name", "stop", "verbs", "ws")

    def __init__(
        self, ws: Workspace, name: str, doing: Mapping[str, Any], verbs: Verbs, stop: threading.Event | None
    ) -> None:
        self.ws, self.name, self.doing, self.verbs, self.stop = ws, name, doing, verbs, stop

    @property
    def id(self) -> str:
        """The same for the same firing, whoever carries it on."""
        of = f"event {self.doing['event']}" if self.doing["event"] else f"{self.doing['at']:.3f}"
        return f"{self.name}, {of}"

    def about(self, kind: str) -> str:
        """What the event is about, when it is of that kind, else ''."""
        found, _, rest = str(self.doing["subject"]).partition(":")
        return rest if found == kind else ""

    def model(self) -> Model:
        """The one that was made before, or that the event is about."""
        key = self.doing["made"].get("model") or self.about("model")
        found = self.ws.store.get(Model, key) if key else None
        if found is None:
            raise NotFound(
                f"there is no model to bring out: no run before made one, and the event is about {self.doing['subject']!r}",
                expected="a pipeline that registers a model, or an event of a model",
                fix="name it: rollout MODEL",
            )
        return found


_Made = tuple[dict[str, Any], str]  # what came of an action, for those after it, and in words


def _seal(firing: _Firing, argument: str) -> _Made:
    words = argument.split()
    least = int(words.pop()) if words and words[-1].isdecimal() else 1
    service = words[0] if words else firing.about("service").partition("@")[0]
    if not service:
        raise Invalid(f"seal: the event is about {firing.doing['subject']!r}", expected="a service", fix="seal SERVICE")
    since = firing.ws.store.find(Dataset, field("created") >= firing.doing["at"], order=["-created"])
    for dataset in since:
        if dataset.tags.get("grown", {}).get("service") == service:
            return {"dataset": dataset.key}, f"{dataset.key} has grown already"
    dataset = firing.verbs.grow(firing.ws, service, least=least)
    return {"dataset": dataset.key}, f"sealed the labelled traffic of {service} into {dataset.key}"


def _run(firing: _Firing, name: str) -> _Made:
    from boucle.flow.execute import execute
    from boucle.flow.load import load

    ws = firing.ws
    _forget(ws.project)
    pipeline, arguments = load(ws.settings, name)
    with _interruptible(firing.stop):
        done = execute(ws, pipeline, {**arguments, **firing.doing["with"]})
    model = made_by(ws, done.run.id)
    said = f"ran {name}: run {done.run.id}, {len(done.outcomes) - done.reused} of {len(done.outcomes)} steps anew"
    if model is None:
        return {"run": done.run.id}, said
    return {"run": done.run.id, "model": model.key}, f"{said}, made {model.key}"


def _rollout(firing: _Firing, argument: str) -> _Made:
    ws = firing.ws
    if argument:
        from boucle.ledger.models import resolve

        model = resolve(ws, Ref.parse(argument, "model"))
    else:
        model = firing.model()
    name = firing.about("service").partition("@")[0]
    served = ws.store.find(Service, (field("name") == (name or model.name)) & (field("status") == "ready"))
    if any(s.model == model.key for s in served):
        return {}, f"{model.key} is served already"
    for before in ws.store.find(Rollout, field("service") == (name or model.name)):
        if before.reason == firing.id and before.model == model.key:
            return {"rollout": before.id}, f"rollout {before.id} of {model.key} was started before"
    started = firing.verbs.start(ws, str(model), name, reason=firing.id)
    return {"rollout": started.id}, f"started rollout {started.id} of {model.key}"


def _promote(firing: _Firing, stage: str) -> _Made:
    model = firing.model()
    if model.stage == stage:
        return {}, f"{model.key} is in {stage} already"
    firing.verbs.promote(firing.ws, model, stage, reason=firing.id)
    return {}, f"{model.key} is in {stage}"


def _alert(firing: _Firing, argument: str) -> _Made:
    severity, _, text = argument.partition(" ")
    firing.verbs.alert(
        firing.ws, firing.name.replace(":", "."), firing.doing["subject"] or firing.name, severity=severity,
        title=text.strip(), data={"event": firing.doing["event"], **firing.doing["made"]},
    )  # fmt: skip
    return {}, f"raised a {severity} alert"


_PERFORM: dict[str, Callable[[_Firing, str], _Made]] = {
    "seal": _seal, "run": _run, "rollout": _rollout, "promote": _promote, "alert": _alert,
}  # fmt: skip


def made_by(ws: Workspace, run: str) -> Model | None:
    """The newest model version that a pipeline's run made, in its own steps or in those of before that it reused."""
    me = f"run:{run}"
    steps = [e.source for e in ws.store.edges(target=me, relation="part_of")]
    steps += [e.target for e in ws.store.edges(source=me, relation="used") if e.target.startswith("run:")]
    made = {e.target for r in (me, *steps) for e in ws.store.edges(source=r, relation="made")}
    found = [ws.store.get(Model, ref.removeprefix("model:")) for ref in made if ref.startswith("model:")]
    return max((m for m in found if m), key=lambda m: (m.created, m.version), default=None)


def _forget(project: Path) -> None:
    """A worker lives longer than the code of a project: its modules are imported anew for each run."""
    own = {p.stem for p in project.iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()}
    for name, module in list(sys.modules.items()):
        place = getattr(module, "__file__", None)
        if name.partition(".")[0] in own and place and Path(place).resolve().is_relative_to(project):
            del sys.modules[name]


@contextmanager
def _interruptible(stop: threading.Event | None) -> Iterator[None]:
    """SIGTERM and SIGINT end what runs inside as Ctrl-C does, where signals arrive: in the main thread."""
    if stop is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        stop.set()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        if stop.is_set():  # it came a moment ago
            raise KeyboardInterrupt
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
