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

WATCH = "10 seconds"
REVIVE = 2.0  # seconds between looks at whether services live
DELIVER = 5.0  # seconds between tries to deliver alerts when nothing new has happened


def tending(ws: Workspace, verbs: Verbs) -> list[Unit]:
    """A unit for each service that answers, for each rollout that has not ended, for the services and for the alerts."""
    every = watch_seconds(ws.settings)
    services = ws.store.find(Service, field("status").within(["ready", "trial"]), order=["name", "revision"])
    rollouts = ws.store.find(Rollout, field("status").within(["running", "waiting", "paused"]), order=["started"])
    return [
        *(_rollout(ws, r, verbs) for r in rollouts),
        Unit("services", _each(ws, REVIVE), lambda hold: _services(hold, verbs)),
        *(_watch(ws, s, verbs, every) for s in services),
        Unit("alerts", lambda state: _each(ws, DELIVER)(state) or state.get("seen") != newest(ws),
             lambda hold: _alerts(hold, verbs)),
    ]  # fmt: skip


def watch_seconds(settings: Settings) -> float:
    """How often each service is looked at: [worker] watch in boucle.toml; raises `Invalid`."""
    file = settings.project / FILE
    place = f"{file}: [worker]"
    given = check_keys(part(settings.table, "worker", file), {"watch": str}, place)
    return span(given.get("watch", WATCH), f"{place}: watch")


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
