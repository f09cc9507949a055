"""A store in a temporary folder, for demonstrations: the SQLite store, removed when it is closed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar, TypeVar

from boucle.core.records import Edge, Event, Points, Record
from boucle.core.where import Where
from boucle.ports.lookup import lookup
from boucle.ports.store import Store

R = TypeVar("R", bound=Record)


class TempStore:
    """Hands everything on to a store that it found by name, as any program may."""

    name: ClassVar[str] = "temp"
    capabilities: ClassVar[frozenset[str]] = frozenset({"sql"})

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="boucle-temp-")
        self._inner: Store = lookup("store", "sqlite")(Path(self._folder.name) / "store.db")

    def put(self, *records: Record) -> None:
        self._inner.put(*records)

    def add(self, *records: Record) -> None:
        self._inner.add(*records)

    def get(self, kind: type[R], key: str) -> R | None:
        return self._inner.get(kind, key)

    def find(
        self,
        kind: type[R],
        where: Where | None = None,
        *,
        order: Sequence[str] = (),
        limit: int | None = None,
        after: R | None = None,
    ) -> list[R]:
        return self._inner.find(kind, where, order=order, limit=limit, after=after)

    def count(self, kind: type[Record], where: Where | None = None) -> int:
        return self._inner.count(kind, where)

    def drop(self, kind: type[Record], *keys: str) -> int:
        return self._inner.drop(kind, *keys)

    def link(self, *edges: Edge) -> None:
        self._inner.link(*edges)

    def edges(self, *, source: str | None = None, target: str | None = None, relation: str | None = None) -> list[Edge]:
        return self._inner.edges(source=source, target=target, relation=relation)

    def add_points(self, owner: str, points: Iterable[Points]) -> None:
        self._inner.add_points(owner, points)

    def points(self, owner: str, name: str | None = None) -> list[Points]:
        return self._inner.points(owner, name)

    def append(self, event: Event) -> Event:
        return self._inner.append(event)

    def events(
        self, *, after: int = 0, type: str | None = None, subject: str | None = None, limit: int | None = None
    ) -> list[Event]:
        return self._inner.events(after=after, type=type, subject=subject, limit=limit)

    def transaction(self) -> AbstractContextManager[None]:
        return self._inner.transaction()

    def check(self) -> Iterator[str]:
        return self._inner.check()

    def close(self) -> None:
        self._inner.close()
        self._folder.cleanup()
