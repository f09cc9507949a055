"""A unit of a worker's work: what it is called, when it is due, and what is then done under its lease."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from boucle.core.errors import BoucleError, Conflict
from boucle.core.records import Lease
from boucle.ledger import leases

if TYPE_CHECKING:
    from boucle.workspace import Workspace

State = dict[str, Any]

LONGEST = 60.0  # seconds until something that fails again and again is tried again


class Hold:
    """A lease that is held just now, and its state."""

    __slots__ = ("lease", "ws")

    def __init__(self, ws: Workspace, lease: Lease) -> None:
        self.ws, self.lease = ws, lease

    @property
    def state(self) -> State:
        return dict(self.lease.state)

    def keep(self, state: Mapping[str, Any]) -> None:
        """Write the state; raises `Conflict` when the lease was lost."""
        self.lease = leases.keep(self.ws, self.lease, state)

    @contextmanager
    def writing(self, state: Mapping[str, Any]) -> Iterator[None]:
        """One transaction with the new state in it; raises `Conflict`, and writes nothing, when the lease was lost."""
        with leases.holding(self.ws, self.lease):
            kept = leases.keep(self.ws, self.lease, state)
            yield
        self.lease = kept


@dataclass(frozen=True, slots=True)
class Unit:
    """Something that one worker at a time looks after. `due` sees the state that was kept last."""

    name: str
    due: Callable[[State], bool]
    do: Callable[[Hold], list[str]]

    def awaits(self, ws: Workspace, state: State | None = None) -> bool:
        """Whether there is something to do now, for whoever could hold the lease."""
        if state is None:
            lease = ws.store.get(Lease, self.name)
            if lease is not None and lease.holder and lease.until > ws.now():
                return False
            state = dict(lease.state) if lease else {}
        trouble = state.get("trouble", {})
        return bool(ws.now() >= trouble.get("again", 0.0) and self.due(state))


def failed(hold: Hold, error: Exception) -> str:
    """Note that a unit failed, so that it is tried again later each time; returns what to tell."""
    said = error.what if isinstance(error, BoucleError) else f"{type(error).__name__}: {error}"
    count = hold.state.get("trouble", {}).get("count", 0) + 1
    pause = min(LONGEST, 2.0**count)
    try:
        trouble = {"count": count, "again": hold.ws.now() + pause, "said": said}
        hold.keep({**hold.state, "trouble": trouble})
    except Conflict:
        return f"{said}; another worker has taken it over"
    return f"{said}; the next try is in {pause:g} seconds"


def succeeded(hold: Hold) -> None:
    """Forget that it failed before."""
    if "trouble" in hold.state:
        hold.keep({k: v for k, v in hold.state.items() if k != "trouble"})
