"""What the active run reads and writes.

While a run is active (a context variable, so threads and nested steps each have their own), the functions that read and
write things report here; nobody declares an edge by hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

from boucle.core import graph
from boucle.core.errors import Invalid

if TYPE_CHECKING:
    from boucle.ports.blobs import Blobs
    from boucle.ports.store import Store
    from boucle.workspace import Workspace


class Recorder(Protocol):
    """Whoever is running now and wants to know what is read and written."""

    def read(self, ref: str, digest: str, asked: str) -> None:
        """`ref` was read and had this digest; `asked` is the reference as given, which may point elsewhere later."""

    def made(self, ref: str) -> None:
        """`ref` was written."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Numbers of this run."""

    @property
    def ws(self) -> Workspace:
        """The workspace it runs in."""

    @property
    def run(self) -> str:
        """The id of the run."""

    @property
    def used(self) -> list[str]:
        """What was read so far."""


class Ledger(Protocol):
    """What is needed of a workspace."""

    @property
    def store(self) -> Store: ...
    @property
    def blobs(self) -> Blobs: ...
    @property
    def actor(self) -> str: ...
    def now(self) -> float: ...


active: ContextVar[Recorder | None] = ContextVar("boucle_active_run", default=None)


def note_read(ref: str, digest: str = "", asked: str = "") -> None:
    """Called by every function that reads something with a reference."""
    recorder = active.get()
    if recorder is not None:
        recorder.read(ref, digest, asked or ref)


def note_made(ref: str) -> None:
    """Called by every function that writes something with a reference."""
    recorder = active.get()
    if recorder is not None:
        recorder.made(ref)


def current_run() -> str:
    """The id of the active run, or ''."""
    recorder = active.get()
    return recorder.run if recorder is not None else ""


def running() -> Recorder:
    """The active run; raises `Invalid` outside of one."""
    recorder = active.get()
    if recorder is None:
        raise Invalid(
            "no run is going on here",
            expected="a call from inside a pipeline, or a `with boucle.track(...)` block",
            fix="wrap it: with boucle.track(ws, 'name') as run: ...",
        )
    return recorder


def log_metrics(metrics: Mapping[str, float], step: int | None = None) -> None:
    """Numbers of the active run; outside of a run nothing happens, so that a step can be tried by itself."""
    recorder = active.get()
    if recorder is not None:
        recorder.log_metrics(metrics, step)


def used_now() -> list[str]:
    """What the active run has read so far."""
    recorder = active.get()
    return recorder.used if recorder is not None else []


def datasets_above(ws: Ledger, refs: list[str]) -> list[str]:
    """The dataset versions that these things were made from, directly or through artifacts, sorted."""

    def up(ref: str) -> Iterator[str]:
        kind = ref.partition(":")[0]
        if kind == "artifact":
            yield from (e.source for e in ws.store.edges(target=ref, relation="made"))
        elif kind == "run":
            yield from (e.target for e in ws.store.edges(source=ref, relation="used"))

    return sorted(r for r in graph.reach(refs, up) if r.startswith("dataset:"))
