"""The journal: what happened, who did it, why. Appended to, never changed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from boucle.core.records import Event

if TYPE_CHECKING:
    from boucle.workspace import Workspace


def note(ws: Workspace, type: str, subject: str, *, reason: str = "", **data: Any) -> Event:
    """Add an event by the acting user."""
    return ws.store.append(Event(type=type, subject=subject, time=ws.now(), actor=ws.actor, reason=reason, data=data))


def follow(ws: Workspace, *, after: int = 0, type: str | None = None, pause: float = 1.0) -> Iterator[Event]:
    """Events as they come, for ever."""
    while True:
        for event in ws.store.events(after=after, type=type, limit=1000):
            after = event.sequence
            yield event
        time.sleep(pause)
