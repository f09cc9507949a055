"""What a worker tends: services are watched and kept alive, rollouts go on, alerts are delivered."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from boucle.core.records import Event, Rollout, Service
from boucle.core.where import field
from boucle.flow.action import check_keys
from boucle.flow.schedule import span
from boucle.ops.worker.unit import Hold, State, Unit
from boucle.ops.worker.verbs import Verbs
from boucle.settings import FILE, Settings, part

if TYPE_CHECKING:
    from boucle.workspace import Workspace

WATCH, SEAL = "10 seconds", "1 day"
REVIVE = 2.0  # seconds between looks at whether services live
DELIVER = 5.0  # seconds between tries to deliver alerts when nothing new has happened


def tending(ws: Workspace, verbs: Verbs) -> list[Unit]:
    """A unit for each service that answers, for each rollout that has not ended, for the services and for the alerts."""
    every, sealing = watch_seconds(ws.settings), seal_seconds(ws.settings)
    services = ws.store.find(Service, field("status").within(["ready", "trial"]), order=["name", "revision"])
    rollouts = ws.store.find(Rollout, field("status").within(["running", "waiting", "paused"]), order=["started"])
    return [
        *(_rollout(ws, r, verbs) for r in rollouts),
        Unit("services", _each(ws, REVIVE), lambda hold: _services(hold, verbs)),
        *(_watch(ws, s, verbs, every) for s in services),
        *(_seal(ws, name, verbs, sealing) for name in sorted({s.name for s in services}) if sealing),
        Unit("alerts", lambda state: _each(ws, DELIVER)(state) or state.get("seen") != newest(ws),
             lambda hold: _alerts(hold, verbs)),
    ]  # fmt: skip


def watch_seconds(settings: Settings) -> float:
    """How often each service is looked at: [worker] watch in boucle.toml; raises `Invalid`."""
    return span(_table(settings).get("watch", WATCH), f"{settings.project / FILE}: [worker]: watch")


def seal_seconds(settings: Settings) -> float:
    """How often traffic is sealed into a dataset version: [worker] seal in boucle.toml, 0 for never; raises `Invalid`."""
    given = _table(settings).get("seal", SEAL)
    return 0.0 if given == "never" else span(given, f"{settings.project / FILE}: [worker]: seal")


def _table(settings: Settings) -> dict[str, Any]:
    file = settings.project / FILE
    return dict(check_keys(part(settings.table, "worker", file), {"watch": str, "seal": str}, f"{file}: [worker]"))


def newest(ws: Workspace) -> int:
    """The sequence number of the journal's last event."""
    found = ws.store.find(Event, order=["-sequence"], limit=1)
    return found[0].sequence if found else 0


def _each(ws: Workspace, seconds: float) -> Callable[[State], bool]:
    return lambda state: ws.now() - float(state.get("last", 0.0)) >= seconds


def _services(hold: Hold, verbs: Verbs) -> list[str]:
    hold.keep({**hold.state, "last": hold.ws.now()})
    return [f"{service.key} had died and is {service.status} again" for service in verbs.revive(hold.ws)]


def _watch(ws: Workspace, service: Service, verbs: Verbs, every: float) -> Unit:
    def do(hold: Hold) -> list[str]:
        before = hold.state.get("status", "pass")
        hold.keep({**hold.state, "last": ws.now()})
        seen: Any = verbs.look(ws, service.key)
        if seen.status == before:
            return []
        hold.keep({**hold.state, "status": seen.status})
        return [f"{seen.status}, {seen.sentence}"]

    return Unit(f"watch:{service.key}", _each(ws, every), do)


def _seal(ws: Workspace, name: str, verbs: Verbs, every: float) -> Unit:
    def due(state: State) -> bool:
        return "last" not in state or ws.now() - float(state["last"]) >= every

    def do(hold: Hold) -> list[str]:
        first = "last" not in hold.state
        hold.keep({**hold.state, "last": ws.now()})
        if first:
            return []  # a service that has just begun has nothing to seal yet
        sealed = verbs.seal(ws, name)
        return [f"{sealed.rows:,} predictions became {sealed.dataset.key}"] if sealed.new else []

    return Unit(f"seal:{name}", due, do)


def _rollout(ws: Workspace, rollout: Rollout, verbs: Verbs) -> Unit:
    def due(_: State) -> bool:
        return True  # the rollout itself knows what it waits for

    def do(_: Hold) -> list[str]:
        now = ws.store.get(Rollout, rollout.id) or rollout
        after = verbs.proceed(ws, now)
        if (after.status, after.phase) == (now.status, now.phase):
            return []
        phase = f" in phase {after.phase}" if after.phase else ""
        return [f"{after.service} to {after.model} is {after.status}{phase}"]

    return Unit(f"rollout:{rollout.id}", due, do)


def _alerts(hold: Hold, verbs: Verbs) -> list[str]:
    ws = hold.ws
    seen = newest(ws)
    followed = dict(verbs.follow(ws, hold.state.get("follow", {})))
    hold.keep({**hold.state, "follow": followed, "seen": seen, "last": ws.now()})
    sent = verbs.deliver(ws)
    return [f"{sent} delivered"] if sent else []
