"""The processes behind a service: what each should serve follows from the records of its revisions, and is brought
about here.

A service has one address. One process answers at it and has its revisions loaded; a revision that cannot share that process
has one of its own, which requests are passed on to. `apply` makes what runs equal to what the records say, as often as it
is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boucle.core.errors import BoucleError, Unavailable
from boucle.core.records import Rollout, Service
from boucle.core.route import Arm, Route
from boucle.core.where import field
from boucle.ledger import services
from boucle.ledger.journal import note
from boucle.ports.target import Placement, Target

if TYPE_CHECKING:
    from boucle.workspace import Workspace

LIVE = ("ready", "trial", "died")  # what should run
RUNNING = ("running", "waiting", "paused")  # rollouts that are not over
ABANDONED_SECONDS = 120.0  # a revision that is still starting by then has been left by whoever started it
_RESTARTS, _RESTART_SECONDS = 5, 300.0


def revisions(ws: Workspace, name: str) -> list[Service]:
    """The revisions of a service that should run, newest first."""
    return ws.store.find(Service, (field("name") == name) & field("status").within(LIVE), order=["-revision"])


def rollout_of(ws: Workspace, name: str) -> Rollout | None:
    """The rollout of a service that is not over yet."""
    found = ws.store.find(Rollout, (field("service") == name) & field("status").within(list(RUNNING)), limit=1)
    return found[0] if found else None


def arm_of(service: Service, *, share: float | None = None) -> Arm:
    """A revision as part of a route."""
    folder = Path(service.folder)
    return Arm(
        service.revision, service.model, str(folder / "bundle"), str(folder / "predictions"), str(folder / "failures"),
        service.share if share is None else share, service.shadow, service.url if service.handle.get("apart") else "",
    )  # fmt: skip


def route_of(ws: Workspace, name: str) -> Route:
    """How the traffic of a service should be split, by the records."""
    rollout = rollout_of(ws, name)
    arms = tuple(arm_of(s) for s in _placed(ws, name))
    return Route(arms, str(rollout.policy.get("by", "")), rollout.id) if rollout else Route(arms)


def _placed(ws: Workspace, name: str) -> list[Service]:
    """What should run, and what somebody is about to bring up."""
    known = (field("name") == name) & field("status").within([*LIVE, "starting"])
    return [s for s in ws.store.find(Service, known, order=["revision"]) if s.handle]


def front(ws: Workspace, name: str) -> Service | None:
    """The newest revision that was put into the process that answers at the service's address; None when none runs."""
    known = ws.store.find(Service, field("name") == name, order=["-revision"], limit=20)
    inside = (s for s in known if s.handle and not s.handle.get("apart"))
    return next((s for s in inside if _target(ws, s).alive(s.handle)), None)


def place(ws: Workspace, service: Service, host: str, port: int) -> Service:
    """Have a new revision loaded, without a share of the traffic: in the service's process, or in one of its own where it
    cannot share that. Another address means another process. Raises `Unavailable` when it cannot be loaded."""
    runner = _target(ws, service)
    at = front(ws, service.name)
    if at is None or at.target != service.target or (host_of(at.url), port_of(at.url)) != (host, port):
        folder = ws.folder("services", service.name)
        placed = runner.start(Placement(service.name, Route((arm_of(service),)), folder, host, port))
        return services.change(ws, service, "starting", url=placed.url, handle=dict(placed.handle))
    route = route_of(ws, service.name)
    route = replace(route, arms=tuple(a for a in route.arms if a.revision != service.revision))
    state = runner.route(at.handle, replace(route, arms=(*route.arms, arm_of(service))))[service.revision]
    if state == "ready":
        return services.change(ws, service, "starting", url=at.url, handle=dict(at.handle))
    runner.route(at.handle, route)
    if not state.startswith("apart"):
        raise Unavailable(f"{service} cannot be loaded: {state}", fix=f"see {ws.root / 'services' / service.name}")
    apart = _start_apart(ws, service)
    # On record now, so that it may stay; until then it would have ended with this process.
    reason = f"in a process of its own: {state.partition(': ')[2]}"
    apart = services.change(ws, apart, "starting", reason=reason)
    runner.route(apart.handle, _alone(apart))
    runner.route(at.handle, replace(route, arms=(*route.arms, arm_of(apart))))
    return apart


def _start_apart(ws: Workspace, service: Service) -> Service:
    unshared = Route((replace(arm_of(service), share=0.0, shadow=False, url=""),), inner=True)
    placed = _target(ws, service).start(Placement(service.name, unshared, Path(service.folder)))
    return replace(service, url=placed.url, handle={**placed.handle, "apart": True})


def _alone(service: Service) -> Route:
    """Seen from inside, a process of its own has all of what it is asked."""
    return Route((replace(arm_of(service), share=1.0, url="", shadow=False),), inner=True)


def apply(ws: Workspace, name: str) -> Mapping[int, str]:
    """Make what runs equal to what the records say; returns how each revision is. Processes that nothing is left in end.
    Raises `Unavailable` where nothing runs."""
    for service in revisions(ws, name):
        if service.handle.get("taking"):
            _take_over(ws, service, _target(ws, service))
    at, route = front(ws, name), route_of(ws, name)
    if at is None:
        raise Unavailable(f"service {name} does not run", fix=f"boucle deploy {name}")
    runner = _target(ws, at)
    states: Mapping[int, str] = {a.revision: "ready" for a in route.arms}
    if len(route.arms) == 1 and route.arms[0].url:
        _move_in(ws, name, at, runner)
    elif route.arms and runner.routed(at.handle) != route.digest:
        states = runner.route(at.handle, route)
    _end_empty(ws, name, at)
    return states


def _move_in(ws: Workspace, name: str, at: Service, runner: Target) -> None:
    """The only revision left has a process of its own: that one takes the address over, and the other ends by itself. It is on
    record before it begins, for a kill in between must not leave an address that nobody knows the owner of."""
    (winner,) = revisions(ws, name)
    taking = replace(winner, handle={**winner.handle, "taking": {"handle": dict(at.handle), "url": at.url}})
    ws.store.put(taking)
    _take_over(ws, taking, runner)


def _take_over(ws: Workspace, winner: Service, runner: Target) -> None:
    """Begin or end the handing over of an address, wherever it stopped."""
    handle = {k: v for k, v in winner.handle.items() if k not in ("apart", "taking")}
    other, url = winner.handle["taking"]["handle"], winner.handle["taking"]["url"]
    if runner.address(handle) != url and runner.alive(other):
        runner.take(handle, other)
    if runner.address(handle) == url:
        runner.route(handle, Route((replace(arm_of(winner), url=""),)))
        ws.store.put(replace(winner, url=url, handle=handle))
        return
    # Whoever had the address died before it could hand it over: `keep` starts the winner there.
    runner.stop(handle)
    services.change(ws, replace(winner, url=url, handle=handle), "died", reason="its address was lost with another process")


def _end_empty(ws: Workspace, name: str, at: Service) -> None:
    live = [s.handle.get("pid") for s in _placed(ws, name)]
    over = ws.store.find(
        Service, (field("name") == name) & field("status").within(["stopped", "failed"]), order=["-revision"], limit=20
    )  # fmt: skip
    for service in over:
        pid = service.handle.get("pid")
        # The process that the address is handed over from still answers its last requests.
        if pid and pid not in live and (pid != at.handle["pid"] or not live):
            _target(ws, service).stop(service.handle)


def retire(ws: Workspace, service: Service, status: str = "stopped", *, reason: str = "") -> Service:
    """Take a revision out of service; its process ends when nothing else is in it."""
    ended = services.change(ws, service, status, reason=reason, share=0.0, shadow=False)
    if front(ws, service.name) is not None:
        apply(ws, service.name)
    elif service.handle:
        _target(ws, service).stop(service.handle)
    return ended


def settle(ws: Workspace) -> list[Service]:
    """Bring the records of services in line with what really runs, and what runs in line with the records; returns those
    that had died. A revision that had answered is `died`, and `keep` brings it back."""
    died = []
    for rollout in ws.store.find(Rollout, (field("status") == "running") & (field("strategy") == "replace")):
        if ws.now() - rollout.started > ABANDONED_SECONDS:
            ws.store.put(replace(rollout, status="failed", ended=ws.now(), reason="whoever began it did not finish"))
    for service in ws.store.find(Service, field("status").within(["ready", "trial", "starting"])):
        runner = _target(ws, service)
        runs = bool(service.handle) and runner.alive(service.handle)
        if service.status == "starting":
            going = rollout_of(ws, service.name)
            tried = going is not None and going.after == service.revision and going.strategy != "replace"
            if tried or ws.now() - service.created < ABANDONED_SECONDS:
                continue  # somebody may be bringing it up right now
            died.append(retire(ws, service, "failed", reason="whoever deployed it did not finish"))
        elif not runs:
            died.append(services.change(ws, service, "died", reason="its process does not run any more"))
    for name in sorted({s.name for s in ws.store.find(Service, field("status").within(["ready", "trial"]))}):
        going = rollout_of(ws, name)
        taking = any(s.handle.get("taking") for s in revisions(ws, name))
        if (front(ws, name) is not None or taking) and (going is None or going.strategy != "replace"):
            apply(ws, name)
    return died


def keep(ws: Workspace) -> list[Service]:
    """Bring back services whose process has died, at the address they had; returns the revisions that run again. One that
    dies again and again is given up as `failed`."""
    settle(ws)
    back: list[Service] = []
    for name in sorted({s.name for s in ws.store.find(Service, field("status") == "died")}):
        dead = [s for s in revisions(ws, name) if s.status == "died"]
        since = ws.now() - _RESTART_SECONDS
        tried = ws.store.events(type="service.restarted", subject=f"service:{name}")
        if sum(e.time >= since for e in tried) >= _RESTARTS * len(dead):
            for service in dead:
                services.change(
                    ws, service, "failed", reason=f"it died {_RESTARTS} times within {_RESTART_SECONDS:g} s"
                )
            continue
        try:
            back += _revive(ws, name, dead)
        except BoucleError as error:
            for service in dead:
                services.change(ws, service, "failed", reason=f"it could not be started again: {error.what}")
    return back


def _revive(ws: Workspace, name: str, dead: Sequence[Service]) -> list[Service]:
    changed = [_start_apart(ws, s) for s in dead if s.handle.get("apart")]
    for service in changed:
        ws.store.put(service)
        _target(ws, service).route(service.handle, _alone(service))
    inside = [s for s in dead if not s.handle.get("apart")]
    if inside:
        # What has a process of its own may live on; requests are passed on to it as before.
        at = inside[0]
        runner = _target(ws, at)
        route = route_of(ws, name)
        placed = runner.start(
            Placement(name, route, ws.folder("services", name), host_of(at.url), port_of(at.url)), timeout=120.0
        )
        changed += [replace(s, url=placed.url, handle=dict(placed.handle)) for s in inside]
    back = []
    for service in changed:
        status = str(_before(ws, service))
        back.append(services.change(ws, service, status, url=service.url, handle=service.handle))
        note(ws, "service.restarted", str(service), url=service.url)
    apply(ws, name)
    return back


def _before(ws: Workspace, service: Service) -> str:
    rollout = rollout_of(ws, service.name)
    return "trial" if rollout is not None and rollout.after == service.revision else "ready"


def port_of(url: str) -> int:
    """The port of an address."""
    return int(url.rpartition(":")[2].partition("/")[0])


def host_of(url: str) -> str:
    """The host of an address."""
    return url.partition("://")[2].rpartition(":")[0].strip("[]")


def _target(ws: Workspace, service: Service) -> Target:
    target: Any = ws.target(service.target)
    return target  # type: ignore[no-any-return]
