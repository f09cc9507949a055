"""The verbs that a worker calls, each imported when it is first needed; tests give others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from boucle.core.records import Dataset, Model, Rollout, Service

if TYPE_CHECKING:
    from boucle.workspace import Workspace


def _grow(ws: Workspace, service: str, *, least: int) -> Dataset:
    from boucle.ops.seal import grow

    return grow(ws, service, least=least)


def _start(ws: Workspace, model: str, service: str, *, reason: str) -> Rollout:
    from boucle.ops.rollout import start

    return start(ws, model, service, reason=reason)


def _proceed(ws: Workspace, rollout: Rollout) -> Rollout:
    from boucle.ops.rollout import turn

    return turn(ws, rollout)


def _revive(ws: Workspace) -> list[Service]:
    from boucle.ops.host import keep

    return keep(ws)


def _look(ws: Workspace, service: str) -> Any:
    from boucle.ops.watch import watch

    return watch(ws, service)


def _seal(ws: Workspace, service: str) -> Any:
    from boucle.ops.seal import seal

    return seal(ws, service)


def _promote(ws: Workspace, model: Model, stage: str, *, reason: str) -> object:
    from boucle.ledger.models import advance

    return advance(ws, model.ref, stage, reason=reason)


def _alert(ws: Workspace, name: str, subject: str, **facts: Any) -> object:
    from boucle.ops.alert import raise_

    return raise_(ws, name, subject, **facts)


def _follow(ws: Workspace, state: Mapping[str, Any]) -> Mapping[str, Any]:
    from boucle.ops.alert import follow

    return follow(ws, state)


def _deliver(ws: Workspace) -> int:
    from boucle.ops.alert import deliver

    return deliver(ws)


@dataclass(frozen=True, slots=True)
class Verbs:
    """What a worker can do."""

    grow: Callable[..., Dataset] = _grow  # (ws, service, least=)
    start: Callable[..., Rollout] = _start  # (ws, model, service, reason=)
    proceed: Callable[..., Rollout] = _proceed  # (ws, rollout): as far as it goes now
    revive: Callable[..., list[Service]] = _revive  # (ws): the services that had died
    look: Callable[..., Any] = _look  # (ws, service)
    seal: Callable[..., Any] = _seal  # (ws, service): its traffic since the last time becomes a dataset version
    promote: Callable[..., object] = _promote  # (ws, model, stage, reason=)
    alert: Callable[..., object] = _alert  # (ws, name, subject, severity=, title=, data=)
    follow: Callable[..., Mapping[str, Any]] = _follow  # (ws, state)
    deliver: Callable[..., int] = _deliver  # (ws)


VERBS = Verbs()
