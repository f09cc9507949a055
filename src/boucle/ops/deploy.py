"""Deploy: put a model behind an address. A new revision is started and proved before the old one is stopped."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boucle.core.bundle import Bundle, differences
from boucle.core.errors import Invalid, NotFound, Refused, Unavailable
from boucle.core.records import Model, Rollout, Service
from boucle.core.refs import Ref, check_name, new_id
from boucle.core.where import field
from boucle.ledger import bundles, models, services
from boucle.ledger.journal import note
from boucle.ops.ask import post
from boucle.ports.target import Placement

if TYPE_CHECKING:
    from boucle.workspace import Workspace

Listener = Callable[[str, float], None]
ABANDONED_SECONDS = 120.0  # a deploy that has not come to an end by then never will


def deploy(
    ws: Workspace,
    ref: Ref | str,
    name: str = "",
    *,
    target: str = "",
    host: str = "127.0.0.1",
    port: int = 0,
    reason: str = "",
    listen: Listener | None = None,
) -> Service:
    """Run a model as a service; returns its revision, ready.

    `ref` without a version means the one in production. The service has the model's name unless told otherwise. With
    `port` 0 the address of the revision before is kept, or a free port is taken. The new revision must answer the
    bundle's sample as it did when it was packed before it takes over; if it does not, the old one goes on as if nothing
    had happened and `Refused` is raised.
    """
    parsed = ref if isinstance(ref, Ref) else Ref.parse(ref, "model")
    model = _choose(ws, parsed)
    service_name = check_name(name or model.name, "service name")
    settle(ws)
    old = services.current(ws, service_name)
    chosen = target or ws.settings.target
    runner = ws.target(chosen)
    where = port or (_port(old.url) if old else 0) or _free_port(host)
    if old is None or _port(old.url) != where:
        _check_free(host, where)
    service = services.reserve(ws, service_name, model, chosen, time.time())
    rollout = Rollout(
        id=new_id(), service=service_name, strategy="replace", model=model.key, before=old.revision if old else 0,
        after=service.revision, started=time.time(), actor=ws.actor, reason=reason,
    )  # fmt: skip
    ws.store.put(rollout)
    walk = _Walk(ws, rollout, listen or (lambda *_: None))
    folder = Path(service.folder)
    placed = None
    try:
        with walk.phase("unpack"):
            bundle = bundles.materialise(ws, model, folder / "bundle")
        with walk.phase("start"):
            placed = runner.start(
                Placement(service_name, service.revision, model.key, bundle.folder, folder, host, where, hold=True)
            )
            service = services.change(ws, service, "starting", url=placed.url, handle=dict(placed.handle))
        with walk.phase("probe"):
            _probe(bundle, placed.url, model)
        with walk.phase("switch"):
            # Both answer at the address for a moment, so that nobody finds it closed.
            url = runner.expose(placed.handle)
            service = services.change(ws, service, "ready", reason=reason, url=url)
            if old is not None:
                ws.target(old.target).stop(old.handle)
                services.change(ws, old, "stopped", reason=f"{service.key} took over")
    except BaseException as error:
        if placed is not None:
            runner.stop(placed.handle)
        services.change(ws, service, "failed", reason=f"{type(error).__name__}: {error}")
        walk.end("failed")
        raise
    walk.end("finished")
    return service


class _Walk:
    """Keeps the rollout's record up to date, phase by phase."""

    def __init__(self, ws: Workspace, rollout: Rollout, listen: Listener) -> None:
        self.ws, self.rollout, self.listen = ws, rollout, listen

    def phase(self, name: str) -> _Phase:
        return _Phase(self, name)

    def note(self, name: str, **facts: Any) -> None:
        self.rollout = replace(
            self.rollout, phases={**self.rollout.phases, name: {**self.rollout.phases.get(name, {}), **facts}}
        )
        self.ws.store.put(self.rollout)

    def end(self, status: str) -> None:
        self.rollout = replace(self.rollout, status=status, ended=time.time())
        with self.ws.store.transaction():
            self.ws.store.put(self.rollout)
            note(
                self.ws,
                f"rollout.{status}",
                f"service:{self.rollout.service}@{self.rollout.after}",
                phases=self.rollout.phases,
            )


class _Phase:
    def __init__(self, walk: _Walk, name: str) -> None:
        self.walk, self.name = walk, name

    def __enter__(self) -> None:
        self.began = time.time()
        self.walk.note(self.name, status="running", started=self.began)

    def __exit__(self, kind: object, error: object, _: object) -> None:
        seconds = time.time() - self.began
        status = "failed" if error is not None else "finished"
        self.walk.note(self.name, status=status, seconds=round(seconds, 4), **({"error": str(error)} if error else {}))
        self.walk.listen(self.name, seconds)


def _choose(ws: Workspace, ref: Ref) -> Model:
    if ref.version:
        return models.resolve(ws, ref)
    try:
        return models.resolve(ws, ref.at("production"))
    except NotFound:
        model = models.resolve(ws, ref)
        raise Refused(
            f"no version of {ref.name} is in production",
            expected="a version that passed the gate, or one named outright",
            fix=f"boucle promote {model.key} production, or boucle deploy {model.key}",
        ) from None


def _probe(bundle: Bundle, url: str, model: Model) -> None:
    """Ask the running service the bundle's sample; raises `Refused` when an answer differs from the golden one."""
    answers = post(url, bundle.sample, request_id="probe")
    if answers[0]["digest"] != model.digest:
        raise Refused(f"{url} answered with another model's digest", expected=model.digest)
    for i, (golden, now) in enumerate(zip(bundle.golden, answers, strict=True)):
        said = {k: v for k, v in now.items() if k in golden}
        for path, before, after in differences(golden, said):
            raise Refused(
                f"the new revision answers sample row {i} differently: {path} is {after!r}", expected=repr(before)
            )


def stop(ws: Workspace, ref: Ref | str, *, reason: str = "") -> Service:
    """Stop a service: requests that are being answered are finished, and its log is written out."""
    service = services.resolve(ws, ref)
    if service.status not in ("ready", "starting"):
        raise Invalid(f"{service} is {service.status} already", expected="a service that runs", fix="boucle services")
    ws.target(service.target).stop(service.handle)
    return services.change(ws, service, "stopped", reason=reason)


def settle(ws: Workspace) -> list[Service]:
    """Bring the records of services in line with what really runs; returns those that had died."""
    died = []
    for service in ws.store.find(Service, field("status").within(["ready", "starting"])):
        runner = ws.target(service.target)
        runs = bool(service.handle) and runner.alive(service.handle)
        if service.status == "starting":
            if time.time() - service.created < ABANDONED_SECONDS:
                continue  # somebody may be deploying it right now
            if runs:
                runner.stop(service.handle)
            died.append(services.change(ws, service, "failed", reason="whoever deployed it did not finish"))
        elif not runs:
            died.append(services.change(ws, service, "failed", reason="it does not run any more"))
    return died


def _port(url: str) -> int:
    return int(url.rpartition(":")[2].partition("/")[0])


def _check_free(host: str, port: int) -> None:
    """Revisions of one service share a port for a moment; a port of anybody else is not to be shared."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise Unavailable(
                f"port {port} of {host} cannot be had: {error.strerror}",
                expected="a free port",
                fix="choose another with --port, or see `boucle services`",
            ) from error


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
