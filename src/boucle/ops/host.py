"""The processes behind a service: what each should serve follows from the records of its revisions, and is brought
about here.

A service has one address. One process answers at it and has its revisions loaded; a revision that cannot share that process
has one of its own, which requests are passed on to. `apply` makes what runs equal to what the records say, as often as it
is asked. One process at a time changes what runs of a service, and a record is only changed by whoever knows how it is now: a
person, several workers and the death of any of them meet here.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boucle.core.errors import BoucleError, Unavailable
from boucle.core.records import Rollout, Service
from boucle.core.route import Arm, Route
from boucle.core.where import field
from boucle.ledger import services
from boucle.ledger.journal import note
from boucle.ports.target import Placed, Placement, Target

if TYPE_CHECKING:
    from boucle.workspace import Workspace

LIVE = ("ready", "trial", "died")  # what should run
RUNNING = ("running", "waiting", "paused")  # rollouts that are not over
ABANDONED_SECONDS = 120.0  # a revision that is still starting by then has been left by whoever started it
_SOON = (
    5.0  # seconds from one start to the next; what lived for longer was healthy, and whoever killed it may do so again
)
_RESTARTS = 5  # deaths so soon, or failures to start, in a row; then a revision is given up


def revisions(ws: Workspace, name: str) -> list[Service]:
    """The revisions of a service that should run, newest first."""
    return ws.store.find(Service, (field("name") == name) & field("status").within(LIVE), order=["-revision"])


def rollout_of(ws: Workspace, name: str) -> Rollout | None:
    """The rollout of a service that is not over yet. A deploy that is going on, or was killed, is none."""
    found = ws.store.find(Rollout, (field("service") == name) & field("status").within(list(RUNNING)))
    return next((r for r in found if r.strategy != "replace"), None)


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
    found = [s for s in ws.store.find(Service, known, order=["revision"]) if s.handle]
    # What was starting in a process that died meanwhile is placed once more.
    return [s for s in found if s.status != "starting" or _target(ws, s).alive(s.handle)]


def front(ws: Workspace, name: str) -> Service | None:
    """The newest revision that was put into the process that answers at the service's address; None when none runs."""
    return next((s for s in _insiders(ws, name) if _target(ws, s).alive(s.handle)), None)


def _insiders(ws: Workspace, name: str) -> list[Service]:
    """The revisions that were put into a process at the service's address: what should run, then what is over."""
    live = (field("name") == name) & field("status").within([*LIVE, "starting"])
    over = (field("name") == name) & field("status").within(["stopped", "failed"])
    found = ws.store.find(Service, live, order=["-revision"])
    found += ws.store.find(Service, over, order=["-revision"], limit=20)
    return [s for s in found if s.handle and not s.handle.get("apart")]


@contextmanager
def _alone_with(ws: Workspace, name: str) -> Iterator[None]:
    """One process at a time changes what runs of a service; one that is killed lets go of it."""
    with (ws.folder("services", name) / "changing").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _move_on(ws: Workspace, service: Service, status: str, *, reason: str = "", **fields: Any) -> Service | None:
    """Change a revision that is still as it was read; None where somebody else was faster."""
    with ws.store.transaction():
        now = ws.store.get(Service, service.key)
        if now is None or (now.status, now.handle) != (service.status, service.handle):
            return None
        return services.change(ws, now, status, reason=reason, **fields)


def place(ws: Workspace, service: Service, host: str, port: int, *, apart: bool = False) -> Service:
    """Have a new revision loaded, without a share of the traffic: in the service's process, or in one of its own where it
    cannot share that, or with `apart`. Another address means another process. Raises `Unavailable` when it cannot be loaded."""
    with _alone_with(ws, service.name):
        now = ws.store.get(Service, service.key) or service
        if now.status != "starting":
            raise Unavailable(f"{service} is {now.status}", expected="a revision that is starting")
        placed = _place(ws, now, host, port, apart)
        known = _move_on(ws, now, "starting", reason=placed.reason, url=placed.url, handle=placed.handle)
        if known is None:
            if placed.own:
                _target(ws, service).stop(placed.handle)
            raise Unavailable(f"{service} was stopped while it was starting")
        if known.handle.get("apart"):
            # It is on record now, so it may stay; until then it would have ended with this process.
            _target(ws, known).route(known.handle, _alone(known))
            at = front(ws, service.name)
            if at is not None:
                _target(ws, at).route(at.handle, route_of(ws, service.name))
        return known


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a revision is loaded, and whether in a process that was started for it."""

    url: str
    handle: dict[str, Any]
    own: bool
    reason: str = ""


def _place(ws: Workspace, service: Service, host: str, port: int, apart: bool) -> _Place:
    runner, at = _target(ws, service), front(ws, service.name)
    if at is None or at.target != service.target or (host_of(at.url), port_of(at.url)) != (host, port):
        folder = ws.folder("services", service.name)
        placed = runner.start(Placement(service.name, Route((arm_of(service),)), folder, host, port))
        return _Place(placed.url, dict(placed.handle), own=True)
    if service.handle.get("apart") and runner.alive(service.handle):
        return _Place(service.url, dict(service.handle), own=True)  # whoever started it was killed before it went on
    reason = ""
    if not apart:
        route = route_of(ws, service.name)
        route = replace(route, arms=tuple(a for a in route.arms if a.revision != service.revision))
        inside = replace(service, handle={})
        state = runner.route(at.handle, replace(route, arms=(*route.arms, arm_of(inside))))[service.revision]
        if state == "ready":
            return _Place(at.url, dict(at.handle), own=False)
        runner.route(at.handle, route)
        if not state.startswith("apart"):
            raise Unavailable(f"{service} cannot be loaded: {state}", fix=f"see {ws.root / 'services' / service.name}")
        reason = f"in a process of its own: {state.partition(': ')[2]}"
    placed = _start_apart(ws, service)
    return _Place(placed.url, {**placed.handle, "apart": True}, own=True, reason=reason)


def _start_apart(ws: Workspace, service: Service) -> Placed:
    unshared = Route((replace(arm_of(service), share=0.0, shadow=False, url=""),), inner=True)
    return _target(ws, service).start(Placement(service.name, unshared, Path(service.folder)))


def _alone(service: Service) -> Route:
    """Seen from inside, a process of its own has all of what it is asked."""
    return Route((replace(arm_of(service), share=1.0, url="", shadow=False),), inner=True)


def apply(ws: Workspace, name: str) -> Mapping[int, str]:
    """Make what runs equal to what the records say; returns how each revision is. Processes that nothing is left in end.
    Raises `Unavailable` where nothing runs."""
    with _alone_with(ws, name):
        for service in revisions(ws, name):
            if service.handle.get("taking"):
                _take_over(ws, service, _target(ws, service))
        at, route = front(ws, name), route_of(ws, name)
        winner = next(
            (s for s in revisions(ws, name) if [a.revision for a in route.arms if a.url] == [s.revision]), None
        )
        states: Mapping[int, str] = {a.revision: "ready" for a in route.arms}
        if winner is not None and len(route.arms) == 1:
            # The process at the address may have died before it could hand it over.
            at = at or next(iter(_insiders(ws, name)), None)
            if at is not None:
                _move_in(ws, winner, at)
        elif at is not None and route.arms and _target(ws, at).routed(at.handle) != route.digest:
            states = _target(ws, at).route(at.handle, route)
        if at is None:
            raise Unavailable(f"service {name} does not run", fix=f"boucle deploy {name}")
        _end_empty(ws, name, at)
        return states


def _move_in(ws: Workspace, winner: Service, at: Service) -> None:
    """The only revision left has a process of its own: that one takes the address over, and the other ends by itself. It is on
    record before it begins, for a kill in between must not leave an address that nobody knows the owner of."""
    taking = replace(winner, handle={**winner.handle, "taking": {"handle": dict(at.handle), "url": at.url}})
    if _keep_as(ws, winner, taking):
        _take_over(ws, taking, _target(ws, winner))


def _keep_as(ws: Workspace, service: Service, changed: Service) -> bool:
    """Write a handle and an address, where the revision is still as it was read."""
    with ws.store.transaction():
        now = ws.store.get(Service, service.key)
        if now is None or (now.status, now.handle) != (service.status, service.handle):
            return False
        ws.store.put(replace(now, url=changed.url, handle=changed.handle))
        return True


def _take_over(ws: Workspace, winner: Service, runner: Target) -> None:
    """Begin or end the handing over of an address, wherever it stopped."""
    handle = {k: v for k, v in winner.handle.items() if k not in ("apart", "taking")}
    other, url = winner.handle["taking"]["handle"], winner.handle["taking"]["url"]
    if runner.address(handle) != url and runner.alive(other):
        runner.take(handle, other)
    if runner.address(handle) == url:
        runner.route(handle, Route((replace(arm_of(winner), url=""),)))
        _keep_as(ws, winner, replace(winner, url=url, handle=handle))
        return
    # Whoever had the address died before it could hand it over: `keep` starts the winner there.
    runner.stop(handle)
    _move_on(ws, winner, "died", reason="its address was lost with another process", url=url, handle=handle)


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
    now = ws.store.get(Service, service.key) or service  # its handle may be newer than what is at hand
    ended = services.change(ws, now, status, reason=reason, share=0.0, shadow=False)
    if front(ws, service.name) is not None:
        apply(ws, service.name)
    elif ended.handle:
        _target(ws, ended).stop(ended.handle)
    return ended


def settle(ws: Workspace) -> list[Service]:
    """Bring the records of services in line with what really runs, and what runs in line with the records; returns those
    that had died. A revision that had answered is `died`, and `keep` brings it back."""
    died = []
    for rollout in ws.store.find(Rollout, (field("status") == "running") & (field("strategy") == "replace")):
        if ws.now() - rollout.started > ABANDONED_SECONDS:
            _end_abandoned(ws, rollout)
    for service in ws.store.find(Service, field("status").within(["ready", "trial", "starting"])):
        runner = _target(ws, service)
        runs = bool(service.handle) and runner.alive(service.handle)
        if service.status == "starting":
            going = rollout_of(ws, service.name)
            tried = going is not None and going.after == service.revision
            if tried or ws.now() - service.created < ABANDONED_SECONDS:
                continue  # somebody may be bringing it up right now
            died.append(retire(ws, service, "failed", reason="whoever deployed it did not finish"))
        elif not runs:
            gone = _move_on(ws, service, "died", reason="its process does not run any more")
            died += [gone] if gone is not None else []
    for name in sorted({s.name for s in ws.store.find(Service, field("status").within(["ready", "trial"]))}):
        alone = all(s.handle.get("apart") for s in revisions(ws, name))
        if front(ws, name) is not None or alone:
            _apply_if_it_runs(ws, name)
    return died


def _apply_if_it_runs(ws: Workspace, name: str) -> None:
    try:
        apply(ws, name)
    except Unavailable:
        return  # it died just now, which the next look finds; the other services go on


def _end_abandoned(ws: Workspace, rollout: Rollout) -> None:
    """A deploy whose process was killed: it is over, the way its revision says."""
    after = ws.store.get(Service, f"{rollout.service}@{rollout.after}")
    status = "failed" if after is None or after.status in ("starting", "failed") else "finished"
    reason = "whoever began it did not finish"
    with ws.store.transaction():
        now = ws.store.get(Rollout, rollout.id)
        if now is not None and now.status == "running":
            ws.store.put(replace(now, status=status, ended=ws.now(), reason=reason))
            subject = f"service:{rollout.service}@{rollout.after}"
            note(ws, f"rollout.{status}", subject, reason=reason, phases=now.phases)


def keep(ws: Workspace) -> list[Service]:
    """Bring back services whose process has died, at the address they had; returns the revisions that run again. One that
    dies again and again is given up as `failed`."""
    settle(ws)
    back: list[Service] = []
    for name in sorted({s.name for s in ws.store.find(Service, field("status") == "died")}):
        with _alone_with(ws, name):
            # First what answers at the address.
            dead = [s for s in revisions(ws, name) if s.status == "died"]
            found = [_revive(ws, s) for s in sorted(dead, key=lambda s: (_before(ws, s) == "trial", s.revision))]
        back += [s for s in found if s is not None]
        _apply_if_it_runs(ws, name)
    return back


def _revive(ws: Workspace, service: Service) -> Service | None:
    status, (tried, said) = _before(ws, service), _crashes(ws, service)
    if tried >= _RESTARTS:
        reason = f"it could not be kept running, tried {tried} times: {said}"
        _move_on(ws, service, "failed", reason=reason)
        return None
    runner = _target(ws, service)
    try:
        at = _start_again(ws, service, status)
    except BoucleError as error:
        # The address may be in use for a moment, or the machine short of memory.
        note(ws, "service.unavailable", str(service), reason=error.what)
        return None
    with ws.store.transaction():
        back = _move_on(ws, service, status, url=at.url, handle=at.handle)
        if back is not None:
            note(ws, "service.restarted", str(back), url=back.url)
    if back is None:
        if at.own:
            runner.stop(at.handle)
        return None
    if back.handle.get("apart"):
        runner.route(back.handle, _alone(back))
    return back


def _start_again(ws: Workspace, service: Service, status: str) -> _Place:
    """A process without a share, which ends with this one until it is on record."""
    runner = _target(ws, service)
    if runner.alive(service.handle):
        return _Place(service.url, dict(service.handle), own=False)  # whoever started it was killed before it said so
    if service.handle.get("apart") or status == "trial":
        # A trial that shared a process with what it should replace may have ended it. Now it can end nothing but itself.
        placed = _start_apart(ws, service)
        return _Place(placed.url, {**placed.handle, "apart": True}, own=True)
    at = front(ws, service.name)
    if at is not None:
        return _Place(at.url, dict(at.handle), own=False)
    route, folder = Route((arm_of(service, share=0.0),)), ws.folder("services", service.name)
    host, port = host_of(service.url), port_of(service.url)
    placed = runner.start(Placement(service.name, route, folder, host, port), timeout=120.0)
    return _Place(placed.url, dict(placed.handle), own=True)


def _crashes(ws: Workspace, service: Service) -> tuple[int, str]:
    """How often in a row it did not start, or died soon after; and what was said last."""
    kinds = ("service.restarted", "service.unavailable")
    tried = [e for kind in kinds for e in ws.store.events(type=kind, subject=str(service))]
    count, said, until = 0, "it died soon after it was started", ws.now()
    for event in sorted(tried, key=lambda e: -e.sequence):
        if event.type == "service.restarted" and until - event.time > _SOON:
            break
        said = event.reason if not count and event.reason else said
        count, until = count + 1, event.time
    return count, said


def _before(ws: Workspace, service: Service) -> str:
    rollout = rollout_of(ws, service.name)
    return "trial" if rollout is not None and rollout.after == service.revision else "ready"


def address(ws: Workspace, name: str) -> str:
    """Where people ask a service, whichever process answers there or did so last; '' where it never had an address. A
    revision in a process of its own has another one, until it takes this one over."""
    for service in revisions(ws, name):
        if service.handle.get("taking"):
            return str(service.handle["taking"]["url"])
    at = front(ws, name) or next(iter(_insiders(ws, name)), None)
    return at.url if at is not None else ""


def port_of(url: str) -> int:
    """The port of an address."""
    return int(url.rpartition(":")[2].partition("/")[0])


def host_of(url: str) -> str:
    """The host of an address."""
    return url.partition("://")[2].rpartition(":")[0].strip("[]")


def _target(ws: Workspace, service: Service) -> Target:
    target: Any = ws.target(service.target)
    return target  # type: ignore[no-any-return]
