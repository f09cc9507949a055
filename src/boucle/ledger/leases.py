"""Leases: one holder at a time looks after something, and whoever holds it next goes on where the last one was.

A lease runs out when it is not renewed, so that nothing waits for a worker that is gone. A worker that only seemed gone
may come back later and believe that it still holds it: `holding` and `keep` are fenced by the lease's token and refuse its
writes (Gray and Cheriton 1989; the token as in Burrows 2006, "The Chubby lock service").
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from boucle.core.errors import Conflict, Invalid
from boucle.core.records import Lease

if TYPE_CHECKING:
    from boucle.workspace import Workspace

SECONDS = 10.0


def take(ws: Workspace, name: str, holder: str, seconds: float = SECONDS) -> Lease | None:
    """The lease, when nobody else holds it or theirs has run out; else None.

    Its state is as the last holder left it; its token is one higher than theirs. A holder is one thread of one process: two
    that give the same name share the lease.
    """
    if not holder:
        raise Invalid("a lease needs a holder", expected="a name that no other process and thread has")
    now = ws.now()
    with ws.store.transaction():
        found = ws.store.get(Lease, name) or Lease(name=name)
        if found.holder not in ("", holder) and found.until > now:
            return None
        token = found.token + (found.holder != holder)
        mine = replace(found, holder=holder, until=now + seconds, token=token)
        ws.store.put(mine)
    return mine


def renew(ws: Workspace, lease: Lease, seconds: float = SECONDS) -> Lease:
    """The same lease for so many seconds from now; raises `Conflict` when it was lost."""
    with holding(ws, lease):
        mine = replace(_kept(ws, lease), until=ws.now() + seconds)
        ws.store.put(mine)
    return mine


def keep(ws: Workspace, lease: Lease, state: Mapping[str, Any]) -> Lease:
    """Write the state that the next holder will find; raises `Conflict` when the lease was lost."""
    with holding(ws, lease):
        mine = replace(_kept(ws, lease), state=dict(state))
        ws.store.put(mine)
    return mine


@contextmanager
def holding(ws: Workspace, lease: Lease) -> Iterator[None]:
    """A transaction of the store for the lease's holder alone; raises `Conflict`, before anything is written, when it was
    lost. A lease that has run out and that nobody has taken since is not lost."""
    with ws.store.transaction():
        kept = _kept(ws, lease)
        if (kept.token, kept.holder) != (lease.token, lease.holder):
            raise Conflict(
                f"{lease.holder} lost the lease {lease.name} to {kept.holder or 'nobody yet'}",
                expected=f"token {lease.token}, and it is {kept.token} now",
                fix="nothing: whoever holds it now goes on",
            )
        yield


def release(ws: Workspace, lease: Lease) -> None:
    """Let others have it at once; one that was lost already stays with whoever holds it."""
    with ws.store.transaction():
        kept = _kept(ws, lease)
        if (kept.token, kept.holder) == (lease.token, lease.holder):
            ws.store.put(replace(kept, holder="", until=0.0))


def _kept(ws: Workspace, lease: Lease) -> Lease:
    return ws.store.get(Lease, lease.name) or Lease(name=lease.name)
