"""The store: records, edges, points and events. The narrow waist under everything that is remembered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar, Protocol, Self, TypeVar

from boucle.core.records import Edge, Event, Points, Record
from boucle.core.where import Where

R = TypeVar("R", bound=Record)


class Store(Protocol):
    """Keeps records by kind and key. Safe for use from many threads and, unless `capabilities` lacks `shared`, from many
    processes at once.

    Every method is atomic by itself; inside `transaction()` all of them succeed or none does, and what was written is
    seen by later reads of the same transaction. A transaction that another writer has blocked waits; it does not fail.
    """

    name: ClassVar[str]
    capabilities: ClassVar[frozenset[str]]  # of: durable, shared, sql

    @classmethod
    def connect(cls, location: str, root: Path, *, synchronous: str = "normal") -> Self:
        """Open the store at a location (what follows the ':' of the setting), by default inside the workspace folder."""

    def put(self, *records: Record) -> None:
        """Insert, or replace the record with the same kind and key."""

    def add(self, *records: Record) -> None:
        """Insert; raises `Conflict` when one of them exists, and then none is inserted."""

    def get(self, kind: type[R], key: str) -> R | None:
        """The record, or None."""

    def find(
        self,
        kind: type[R],
        where: Where | None = None,
        *,
        order: Sequence[str] = (),
        limit: int | None = None,
        after: R | None = None,
    ) -> list[R]:
        """The records that match, in order. `order` names paths, descending with a leading '-'; ties are broken by key.
        None sorts last either way. `after` is the last record of the page before (keyset paging)."""

    def count(self, kind: type[Record], where: Where | None = None) -> int:
        """How many match."""

    def drop(self, kind: type[Record], *keys: str) -> int:
        """Remove; returns how many there were. Edges stay: history does not forget."""

    def link(self, *edges: Edge) -> None:
        """Add edges; one that exists (same source, relation, target) keeps its first time."""

    def edges(self, *, source: str | None = None, target: str | None = None, relation: str | None = None) -> list[Edge]:
        """The edges that match all given parts, oldest first."""

    def add_points(self, owner: str, points: Iterable[Points]) -> None:
        """Append to series of numbers that belong to a record, named by its reference."""

    def points(self, owner: str, name: str | None = None) -> list[Points]:
        """The series of an owner, or the one named; each in the order it was logged."""

    def append(self, event: Event) -> Event:
        """Add to the journal; returns the event with its sequence, time, and place in the hash chain."""

    def events(
        self,
        *,
        after: int = 0,
        type: str | None = None,
        subject: str | None = None,
        limit: int | None = None,
    ) -> list[Event]:
        """The journal in order, from past a sequence number on. `subject` also matches its versions: `model:churn`
        gives the events of `model:churn@3`. `type` also matches what begins with it and a dot."""

    def transaction(self) -> AbstractContextManager[None]:
        """All or nothing. Nested ones join the outermost."""

    def check(self) -> Iterator[str]:
        """Problems found in what is stored, in words; nothing when it is sound."""

    def close(self) -> None:
        """Let go of files and connections."""
