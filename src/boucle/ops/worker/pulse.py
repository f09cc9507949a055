"""The heartbeat: leases are renewed by a thread of their own while whoever holds them works."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from boucle.core.errors import BoucleError, Conflict
from boucle.core.records import Lease
from boucle.ledger import leases
from boucle.ops.worker.unit import Hold

if TYPE_CHECKING:
    from boucle.workspace import Workspace


class Pulse:
    """Renews what is held three times before it would run out."""

    def __init__(self, ws: Workspace, seconds: float) -> None:
        self._ws, self._seconds = ws, seconds
        self._held: dict[str, Lease] = {}
        self._lost: set[str] = set()
        self._lock, self._end = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._beat, name="boucle-pulse", daemon=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        if self._thread.ident is not None:
            self._thread.join()

    @contextmanager
    def hold(self, name: str, holder: str) -> Iterator[Hold | None]:
        """The lease of that name for as long as the context lasts; None when somebody else has it."""
        lease = leases.take(self._ws, name, holder, self._seconds)
        if lease is None:
            yield None
            return
        with self._lock:
            self._held[name] = lease
            self._lost.discard(name)
            if self._thread.ident is None:
                self._thread.start()
        try:
            yield Hold(self._ws, lease)
        finally:
            with self._lock:
                self._held.pop(name, None)
            leases.release(self._ws, lease)

    def lost(self, name: str) -> bool:
        """Whether somebody else holds now what was held here."""
        return name in self._lost

    def _beat(self) -> None:
        while not self._end.wait(0.3 * self._seconds):
            with self._lock:
                held = dict(self._held)
            for name, lease in held.items():
                try:
                    leases.renew(self._ws, lease, self._seconds)
                except Conflict:
                    with self._lock:
                        if self._held.get(name) is lease:
                            del self._held[name]
                            self._lost.add(name)
                except BoucleError:
                    continue  # the store does not answer just now; there are two more beats before it runs out
