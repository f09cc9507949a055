"""A store in memory, for tests and for trying things out: gone when the process ends, seen by no other process.

It keeps encoded rows and answers questions with `core.where` itself, so it is also the reference for every other store.
"""

from __future__ import annotations

import contextlib
import threading
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from boucle.core import chain
from boucle.core.errors import Conflict, Invalid, Refused
from boucle.core.records import Edge, Event, Points, Record
from boucle.core.rows import from_json, layout, to_json
from boucle.core.where import Where, arranged, check_question, matches

R = TypeVar("R", bound=Record)


class MemoryStore:
    """Everything in dictionaries behind one lock. A transaction holds the lock, so other threads wait for it to end."""

    name: ClassVar[str] = "memory"
    capabilities: ClassVar[frozenset[str]] = frozenset()

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._rows: dict[type[Record], dict[str, list[Any]]] = {}
        self._edges: dict[tuple[str, str, str], tuple[Edge, str]] = {}
        self._points: dict[tuple[str, str], list[Points]] = {}
        self._events: list[list[Any]] = []
        self._undo: list[Callable[[], object]] = []
        self._depth = 0

    @classmethod
    def connect(cls, location: str, root: Path, *, synchronous: str = "normal") -> Self:  # noqa: ARG003  nothing to open
        return cls()

    def put(self, *records: Record) -> None:
        with self.transaction():
            for record, row in _encoded(records):
                rows = self._rows.setdefault(type(record), {})
                before = rows.get(record.key)
                rows[record.key] = row
                self._undo.append(_restore(rows, record.key, before))

    def add(self, *records: Record) -> None:
        encoded = _encoded(records)
        with self.transaction():
            seen: set[tuple[type[Record], str]] = set()
            for record, _ in encoded:
                name = (type(record), record.key)
                if name in seen or record.key in self._rows.get(type(record), {}):
                    raise Conflict(f"{record} exists already", expected="a new key")
                seen.add(name)
            self.put(*records)

    def get(self, kind: type[R], key: str) -> R | None:
        with self._lock:
            row = self._of(kind).get(key)
            return None if row is None else layout(kind).decode(row)

    def find(
        self,
        kind: type[R],
        where: Where | None = None,
        *,
        order: Sequence[str] = (),
        limit: int | None = None,
        after: R | None = None,
    ) -> list[R]:
        if limit is not None and limit < 0:
            raise Invalid(f"a limit of {limit}", expected="0 or more")
        check_question(kind, where, order)
        with self._lock:
            found = self._matching(kind, where)
        if after is None:
            return arranged(found, order)[:limit]
        # The record of the page before may be gone by now; its values still say where that page ended.
        ordered = arranged([*(r for r in found if r.key != after.key), after], order)
        place = next(i for i, record in enumerate(ordered) if record is after)
        return ordered[place + 1 :][:limit]

    def count(self, kind: type[Record], where: Where | None = None) -> int:
        check_question(kind, where)
        with self._lock:
            return len(self._matching(kind, where))

    def drop(self, kind: type[Record], *keys: str) -> int:
        if kind is Event:
            raise _journal_only_grows()
        with self.transaction():
            rows, dropped = self._rows.get(kind, {}), 0
            for key in keys:
                if (row := rows.pop(key, None)) is not None:
                    dropped += 1
                    self._undo.append(_restore(rows, key, row))
            return dropped

    def link(self, *edges: Edge) -> None:
        details = [to_json(edge.detail) for edge in edges]
        with self.transaction():
            for edge, detail in zip(edges, details, strict=True):
                name = (edge.source, edge.relation, edge.target)
                if name not in self._edges:
                    self._edges[name] = (edge, detail)
                    self._undo.append(_restore(self._edges, name, None))

    def edges(self, *, source: str | None = None, target: str | None = None, relation: str | None = None) -> list[Edge]:
        with self._lock:
            found = [
                Edge(edge.source, edge.relation, edge.target, edge.time, from_json(detail))
                for edge, detail in self._edges.values()
                if source in (None, edge.source) and target in (None, edge.target) and relation in (None, edge.relation)
            ]
        return sorted(found, key=lambda e: (e.time, e.source, e.relation, e.target))

    def add_points(self, owner: str, points: Iterable[Points]) -> None:
        copies = [_copied(series) for series in points]
        with self.transaction():
            for series in copies:
                if len(series):
                    parts = self._points.setdefault((owner, series.name), [])
                    parts.append(series)
                    self._undo.append(parts.pop)

    def points(self, owner: str, name: str | None = None) -> list[Points]:
        with self._lock:
            return [
                Points.joined(series, parts)
                for (of, series), parts in sorted(self._points.items())
                if of == owner and name in (None, series) and parts
            ]

    def append(self, event: Event) -> Event:
        with self.transaction():
            last = layout(Event).decode(self._events[-1]) if self._events else Event(type="")
            placed = chain.chained(event, last.sequence + 1, last.digest)
            self._events.append(layout(Event).encode(placed)[0])
            self._undo.append(self._events.pop)
            return placed

    def events(
        self,
        *,
        after: int = 0,
        type: str | None = None,
        subject: str | None = None,
        limit: int | None = None,
    ) -> list[Event]:
        with self._lock:
            journal = [layout(Event).decode(row) for row in self._events[max(after, 0) :]]
        return [
            event
            for event in journal
            if (type is None or event.type == type or event.type.startswith(f"{type}."))
            and (subject is None or event.subject == subject or event.subject.startswith(f"{subject}@"))
        ][:limit]

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        with self._lock:
            mark = len(self._undo)
            self._depth += 1
            try:
                yield
            except BaseException:
                while len(self._undo) > mark:
                    self._undo.pop()()
                raise
            finally:
                self._depth -= 1
                if not self._depth:
                    self._undo.clear()

    def check(self) -> Iterator[str]:
        yield from chain.broken(self.events())

    def close(self) -> None:
        """Nothing to let go of: the content stays for as long as the object does."""

    def _of(self, kind: type[Record]) -> dict[str, list[Any]]:
        return {str(row[0]): row for row in self._events} if kind is Event else self._rows.get(kind, {})

    def _matching(self, kind: type[R], where: Where | None) -> list[R]:
        decode = layout(kind).decode
        return [record for row in self._of(kind).values() if matches(record := decode(row), where)]


def _encoded(records: Sequence[Record]) -> list[tuple[Record, list[Any]]]:
    for record in records:
        if isinstance(record, Event):
            raise _journal_only_grows()
    return [(record, layout(type(record)).encode(record)[0]) for record in records]


def _journal_only_grows() -> Refused:
    return Refused("events are neither replaced nor removed", expected="store.append(event)")


def _restore(rows: dict[Any, Any], key: Any, before: Any) -> Callable[[], object]:
    if before is None:
        return lambda: rows.pop(key)
    return lambda: rows.update({key: before})


def _copied(series: Points) -> Points:
    try:
        steps, times, values = array("q", series.steps), array("d", series.times), array("d", series.values)
    except (TypeError, ValueError, OverflowError) as error:
        wanted = "integer steps, numbers as times and values"
        raise Invalid(f"series {series.name!r}: {error}", expected=wanted) from error
    if not len(steps) == len(times) == len(values):
        raise Invalid(
            f"series {series.name!r} has {len(steps)} steps, {len(times)} times and {len(values)} values",
            expected="the same number of each",
        )
    return Points(series.name, steps.tolist(), times.tolist(), values.tolist())
