"""Deploy: put a model behind an address. A new revision is started and proved before the old one is stopped."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boucle.core.bundle import Bundle, differences
from boucle.core.errors import Conflict, Invalid, NotFound, Refused, Unavailable
from boucle.core.records import Model, Rollout, Service
from boucle.core.refs import Ref, check_name, new_id
from boucle.ledger import bundles, models, services
from boucle.ledger.journal import note
from boucle.ops import host as processes
from boucle.ops.ask import post

if TYPE_CHECKING:
    from boucle.workspace import Workspace

Listener = Callable[[str, float], None]


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
    processes.settle(ws)
    check_free(ws, service_name)
    old = next(iter(processes.revisions(ws, service_name)), None)
    chosen = target or ws.settings.target
    ws.target(chosen)
    known = processes.port_of(at) if (at := processes.address(ws, service_name)) and old else 0
    where = port or known or _free_port(host)
    if where != known:
        _check_port(host, where)
    service = services.reserve(ws, service_name, model, chosen, ws.now())
    rollout = Rollout(
        id=new_id(), service=service_name, strategy="replace", model=model.key, before=old.revision if old else 0,
        after=service.revision, started=ws.now(), actor=ws.actor, reason=reason,
    )  # fmt: skip
    ws.store.put(rollout)
    walk = _Walk(ws, rollout, listen or (lambda *_: None))
    try:
        with walk.phase("unpack"):
            bundle = bundles.materialise(ws, model, Path(service.folder, "bundle"))
        with walk.phase("start"):
            service = processes.place(ws, service, host, where)
        with walk.phase("probe"):
            probe(bundle, service)
        with walk.phase("switch"):
            with ws.store.transaction():
                service = services.change(ws, service, "ready", reason=reason, share=1.0)
                for other in processes.revisions(ws, service_name):
                    if other.revision != service.revision:
                        services.change(ws, other, "stopped", reason=f"{service.key} took over", share=0.0)
            processes.apply(ws, service_name)
    except BaseException as error:
        processes.retire(ws, service, "failed", reason=f"{type(error).__name__}: {error}")
        walk.end("failed")
        raise
    walk.end("finished")
    return services.resolve(ws, service.ref)


def check_free(ws: Workspace, name: str) -> None:
    """Raise `Conflict` while a rollout of the service is going on that looks after itself."""
    going = processes.rollout_of(ws, name)
    if going is not None:
        raise Conflict(
            f"a rollout of {name} is {going.status} (revision {going.after}, {going.phase or going.strategy})",
            expected="one at a time",
            fix=f"wait for it, or end it: boucle rollout abort {name}",
        )


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
        self.rollout = replace(self.rollout, status=status, ended=self.ws.now())
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
        self.began = time.perf_counter()
        self.walk.note(self.name, status="running", started=self.walk.ws.now())

    def __exit__(self, kind: object, error: object, _: object) -> None:
        seconds = time.perf_counter() - self.began
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


def probe(bundle: Bundle, service: Service) -> None:
    """Ask a revision the bundle's sample; raises `Refused` when an answer differs from the golden one."""
    answers = post(service.url, bundle.sample, request_id="probe", revision=service.revision)
    if answers[0]["digest"] != service.digest:
        raise Refused(f"{service} answered with another model's digest", expected=service.digest)
    for i, (golden, now) in enumerate(zip(bundle.golden, answers, strict=True)):
        said = {k: v for k, v in now.items() if k in golden}
        for path, before, after in differences(golden, said):
            raise Refused(
                f"the new revision answers sample row {i} differently: {path} is {after!r}", expected=repr(before)
            )


def stop(ws: Workspace, ref: Ref | str, *, reason: str = "") -> Service:
    """Stop a service with all its revisions, or one of them: requests that are being answered are finished, and the log is
    written out. A rollout that is going on is aborted."""
    parsed = ref if isinstance(ref, Ref) else Ref.parse(ref, "service")
    service = services.resolve(ws, parsed)
    if service.status not in (*processes.LIVE, "starting"):
        raise Invalid(f"{service} is {service.status} already", expected="a service that runs", fix="boucle services")
    going = processes.rollout_of(ws, service.name)
    if going is not None:
        with ws.store.transaction():
            ws.store.put(replace(going, status="aborted", ended=ws.now()))
            note(
                ws,
                "rollout.aborted",
                f"service:{service.name}@{going.after}",
                reason=reason or "the service was stopped",
            )
    if not parsed.version:
        for other in processes.revisions(ws, service.name):
            if other.revision != service.revision:
                services.change(ws, other, "stopped", reason=reason, share=0.0, shadow=False)
    return processes.retire(ws, service, reason=reason)


def _check_port(host: str, port: int) -> None:
    """Before anything is started or recorded."""
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
