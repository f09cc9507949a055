"""Services: revisions of what runs a model, and how one followed the other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from boucle.core.errors import NotFound
from boucle.core.records import Edge, Model, Service
from boucle.core.refs import Ref
from boucle.core.where import field
from boucle.ledger.journal import note

if TYPE_CHECKING:
    from boucle.workspace import Workspace


def resolve(ws: Workspace, ref: Ref | str) -> Service:
    """A revision by number, or the one that is ready (else the newest) when none is named."""
    parsed = ref if isinstance(ref, Ref) else Ref.parse(ref, "service")
    revisions = ws.store.find(Service, field("name") == parsed.name, order=["-revision"])
    if not revisions:
        known = {s.name for s in ws.store.find(Service)}
        raise NotFound.named("service", parsed.name, known, fix="boucle deploy MODEL")
    if parsed.version in ("", "latest"):
        return next((s for s in revisions if s.status == "ready"), revisions[0])
    for service in revisions:
        if parsed.number == service.revision:
            return service
    raise NotFound(
        f"service {parsed.name} has no revision {parsed.version!r}",
        expected=f"one of {', '.join(f'@{s.revision}' for s in revisions[:8])}",
    )


def current(ws: Workspace, name: str) -> Service | None:
    """The revision that is ready, or None."""
    found = ws.store.find(Service, (field("name") == name) & (field("status") == "ready"), order=["-revision"], limit=1)
    return found[0] if found else None


def reserve(ws: Workspace, name: str, model: Model, target: str, created: float) -> Service:
    """The next revision of a service, in status `starting`, tied to its model."""
    with ws.store.transaction():
        newest = ws.store.find(Service, field("name") == name, order=["-revision"], limit=1)
        revision = newest[0].revision + 1 if newest else 1
        service = Service(
            name=name, revision=revision, model=model.key, digest=model.digest, target=target, created=created,
            actor=ws.actor, folder=str(Path(ws.root, "services", name, str(revision))),
        )  # fmt: skip
        ws.store.add(service)
        ws.store.link(Edge(str(service), "serves", str(model), created))
        note(ws, "service.starting", str(service), model=model.key)
    return service


def change(ws: Workspace, service: Service, status: str, *, reason: str = "", **fields: object) -> Service:
    """Move a revision to a status and note it."""
    with ws.store.transaction():
        after = replace(service, status=status, **fields)  # type: ignore[arg-type]
        ws.store.put(after)
        note(ws, f"service.{status}", str(after), reason=reason, url=after.url, model=after.model)
    return after
