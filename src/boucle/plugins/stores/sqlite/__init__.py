# ruff: noqa: S608  the names in statements come from the record classes, values are always bound
"""A store in one SQLite file: the default. Any number of threads and processes on one machine may use it at once.

Tables, columns and views are described in `tables`; how questions become SQL, in `queries`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Concatenate, Literal, ParamSpec, Self, TypeVar

from boucle.core import chain
from boucle.core.errors import BoucleError, Conflict, Corrupt, Invalid, Refused, Unavailable
from boucle.core.records import RECORDS, Edge, Event, Points, Record
from boucle.core.rows import from_json, to_json
from boucle.core.where import Compare, Where, plain
from boucle.plugins.stores.sqlite.points import pack, unpack
from boucle.plugins.stores.sqlite.queries import COUNT, Question, Sql, conjuncts, past_prefix, plan
from boucle.plugins.stores.sqlite.tables import (
    Table,
    attribute_number,
    check_version,
    present_version,
    reconcile,
    wanted_layout,
)

R = TypeVar("R", bound=Record)
P = ParamSpec("P")
T = TypeVar("T")

_Name = tuple[str, str, str]  # kind, field, key of a `dict` field

PATIENCE = 60.0  # seconds that a write waits for other writers

_ATTRIBUTES = (
    "SELECT a.name, a.value FROM attributes a JOIN attribute_names n ON n.number = a.name "
    "WHERE a.record = ? AND n.kind = ?"
)


class _Link:
    """One thread's connection. As a context it is a write: a transaction outside of any, a savepoint within one."""

    __slots__ = ("__weakref__", "closed", "connection", "depth", "execute", "known", "new", "pid", "turn")

    def __init__(self, connection: sqlite3.Connection, known: dict[_Name, int], turn: threading.Lock) -> None:
        self.connection, self.execute = connection, connection.execute
        # Threads of one process take turns here: SQLite would let them wait by sleeping.
        self.turn = turn
        self.pid, self.depth, self.closed = os.getpid(), 0, False
        self.known = known  # numbers of attribute names that are committed
        self.new: dict[_Name, int] = {}  # those that the open transaction has seen or given out

    def __enter__(self) -> _Link:
        if self.depth == 0:
            self.turn.acquire()
            try:
                self.execute("BEGIN IMMEDIATE")
            except BaseException:
                self.turn.release()
                raise
        elif self.connection.in_transaction:
            self.execute("SAVEPOINT nested")
        else:
            raise Unavailable("an earlier write of this transaction failed", expected="all of it or nothing")
        self.depth += 1
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.depth -= 1
        try:
            self._end(kind)
        finally:
            if self.depth == 0:
                self.turn.release()

    def _end(self, kind: type[BaseException] | None) -> None:
        if kind is not None:
            self.new.clear()
            if self.connection.in_transaction:  # SQLite ends a transaction itself when the disk fails
                self.execute("ROLLBACK TO nested" if self.depth else "ROLLBACK")
                if self.depth:
                    self.execute("RELEASE nested")
            return
        if not self.connection.in_transaction:
            raise Unavailable("an earlier write of this transaction failed", expected="all of it or nothing")
        if self.depth:
            self.execute("RELEASE nested")
            return
        try:
            self.execute("COMMIT")
        except BaseException:
            self.new.clear()
            if self.connection.in_transaction:
                self.execute("ROLLBACK")
            raise
        if self.new:
            self.known.update(self.new)
            self.new.clear()

    def joined(self) -> contextlib.AbstractContextManager[_Link]:
        """A write that is part of the transaction around it, where there is one: for what cannot fail half-way but by a
        fault of the disk, which ends the whole transaction."""
        return contextlib.nullcontext(self) if self.depth and self.connection.in_transaction else self

    @contextlib.contextmanager
    def one_view(self) -> Iterator[None]:
        """Several reads of the same state, whatever others write meanwhile."""
        if self.connection.in_transaction:
            yield
            return
        self.execute("BEGIN")
        try:
            yield
        finally:
            self.execute("ROLLBACK")

    def __del__(self) -> None:
        if self.pid == os.getpid():
            self.connection.close()
        else:  # SQLite forbids a child to close, or even to forget, what it inherited over a fork
            _inherited.append(self.connection)


_inherited: list[sqlite3.Connection] = []
_NOTHING = contextlib.nullcontext()


def _explained(
    method: Callable[Concatenate[SqliteStore, P], T],
) -> Callable[Concatenate[SqliteStore, P], T]:
    """Turn what sqlite3 raises into our errors."""

    def call(self: SqliteStore, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(self, *args, **kwargs)
        except sqlite3.Error as error:
            raise explain(error, self.path) from error
        except (UnicodeEncodeError, OverflowError) as error:
            raise Invalid(str(error), expected="text without lone surrogates, integers of at most 64 bits") from error

    functools.update_wrapper(call, method)
    return call


def explain(error: sqlite3.Error, path: Path) -> BoucleError:
    """Our error for one of sqlite3."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    what = f"the store {path}: {error}"
    if code == sqlite3.SQLITE_NOTADB:
        return Invalid(what, expected="a store that boucle made", fix="give another path, or move that file away")
    if code == sqlite3.SQLITE_CORRUPT:
        return Corrupt(what, expected="what was written", fix="restore the file from a backup")
    if code == sqlite3.SQLITE_FULL:
        return Unavailable(what, expected="room on the disk", fix=f"free some space on {path.parent} and try again")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        fix = f"make {path.parent} and everything in it writable" if path.parent.is_dir() else f"mkdir -p {path.parent}"
        return Unavailable(what, expected="a folder that can be written", fix=fix)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Unavailable(what, expected=f"other writers to end within {PATIENCE:g} seconds", fix="try again")
    if code in (sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_RANGE) or "too many SQL variables" in str(error):
        return Invalid(what, expected="less in one record or question")
    if code in (sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH) or "binding" in str(error):
        return Invalid(what, expected="values of the types that the records declare")
    if "user-defined function" in str(error):
        return Corrupt(what, expected="JSON that parses", fix="boucle fsck names the record")
    return Unavailable(what, expected="a disk that answers", fix="boucle fsck")


def _json_value(text: str, key: str) -> Any:
    return plain(from_json(text).get(key))


class SqliteStore:
    """A database file, made when it is not there.

    `synchronous` is what a commit waits for: `normal` survives the end of the process, `full` that of the machine too.
    """

    name: ClassVar[str] = "sqlite"
    capabilities: ClassVar[frozenset[str]] = frozenset({"durable", "shared", "sql"})

    def __init__(
        self,
        path: str | os.PathLike[str],
        synchronous: Literal["normal", "full"] = "normal",
        kinds: Iterable[type[Record]] = tuple(RECORDS.values()),
    ) -> None:
        if synchronous not in ("normal", "full"):
            raise Invalid(f"synchronous is {synchronous!r}", expected="normal or full")
        self.path = Path(path)
        self._synchronous = synchronous
        self._tables: dict[type[Record], Table[Any]] = {kind: Table(kind) for kind in kinds}
        self._layout = wanted_layout(self._tables)
        self._known: dict[_Name, int] = {}
        self._local = threading.local()
        self._links: weakref.WeakSet[_Link] = weakref.WeakSet()
        self._pid, self._lock, self._turn = os.getpid(), threading.Lock(), threading.Lock()
        self._link()  # whatever is wrong with the file shows here

    @classmethod
    def connect(cls, location: str, root: Path, *, synchronous: str = "normal") -> Self:
        return cls(location or root / "store.db", "full" if synchronous == "full" else "normal")

    @_explained
    def put(self, *records: Record) -> None:
        encoded = self._encoded(records)
        with self._link().joined() as link:
            for record, table, row, dicts in encoded:
                if table.dicts:
                    self._write(link, table, record.key, row, dicts)
                else:
                    link.execute(table.puts, [record.key, *row])

    @_explained
    def add(self, *records: Record) -> None:
        encoded = self._encoded(records)
        with self._link() as link:
            for record, table, row, dicts in encoded:
                inserted = link.execute(table.inserts, [record.key, *row]).fetchone()
                if inserted is None:
                    raise Conflict(f"{record} exists already", expected="a new key")
                if table.dicts:
                    self._add_attributes(link, table, inserted[0], dicts)

    @_explained
    def get(self, kind: type[R], key: str) -> R | None:
        table = self._table(kind)
        query = f'SELECT {table.selects} FROM "{table.name}" r WHERE key = ?'
        row = self._link().execute(query, (key,)).fetchone()
        return None if row is None else table.decode(row)

    @_explained
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
        table = self._table(kind)
        link = self._link()
        # One column that equals a text is what is asked most, and its statement never changes.
        common = _equality(where) if not order and limit is None and after is None else None
        if common is not None and common.path in table.equals:
            return [table.decode(row) for row in link.execute(table.equals[common.path], (common.value,)).fetchall()]
        question = Question(table, functools.partial(self._number, link), conjuncts(where), tuple(order), after)
        reads = plan(question, table.selects, limit is not None, functools.partial(_none, link))
        if common is not None:
            table.equals[common.path] = reads[0].text
        rows: list[tuple[Any, ...]] = []
        with link.one_view() if len(reads) > 1 else _NOTHING:
            for read in reads:
                left = -1 if limit is None else limit - len(rows)
                if left:
                    rows += link.execute(f"{read.text} LIMIT ?", (*read.values, left)).fetchall()
        decode = table.decode
        return [decode(row) for row in rows]

    @_explained
    def count(self, kind: type[Record], where: Where | None = None) -> int:
        table, link = self._table(kind), self._link()
        question = Question(table, functools.partial(self._number, link), conjuncts(where))
        (read,) = plan(question, COUNT, False, functools.partial(_none, link))
        return int(link.execute(read.text, read.values).fetchone()[0])

    @_explained
    def drop(self, kind: type[Record], *keys: str) -> int:
        table = self._table(kind)
        if kind is Event:
            raise _journal_only_grows()
        dropped = 0
        with self._link() as link:
            for key in keys:
                query = f'DELETE FROM "{table.name}" WHERE key = ? RETURNING number'
                for (number,) in link.execute(query, (key,)).fetchall():
                    dropped += 1
                    for name, _ in link.execute(_ATTRIBUTES, (number, kind.KIND)).fetchall() if table.dicts else ():
                        link.execute("DELETE FROM attributes WHERE record = ? AND name = ?", (number, name))
        return dropped

    @_explained
    def link(self, *edges: Edge) -> None:
        rows = [(e.source, e.relation, e.target, e.time, to_json(e.detail)) for e in edges]
        with self._link().joined() as link:
            link.connection.executemany("INSERT INTO edges VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", rows)

    @_explained
    def edges(self, *, source: str | None = None, target: str | None = None, relation: str | None = None) -> list[Edge]:
        given = {"source": source, "target": target, "relation": relation}
        asked = {name: value for name, value in given.items() if value is not None}
        text = "SELECT source, relation, target, time, detail FROM edges"
        if asked:
            text += " WHERE " + " AND ".join(f"{name} = ?" for name in asked)
        rows = self._link().execute(text + " ORDER BY time, source, relation, target", tuple(asked.values()))
        return [Edge(s, r, t, time, from_json(detail)) for s, r, t, time, detail in rows.fetchall()]

    @_explained
    def add_points(self, owner: str, points: Iterable[Points]) -> None:
        rows = [(owner, series.name, *pack(series)) for series in points]
        with self._link().joined() as link:
            link.connection.executemany(
                "INSERT INTO points (owner, name, n, first_step, last_step, last_time, last_value, packing, data)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [row for row in rows if row[2]],
            )

    @_explained
    def points(self, owner: str, name: str | None = None) -> list[Points]:
        text = "SELECT name, n, first_step, last_step, last_time, packing, data FROM points WHERE owner = ?"
        values: tuple[str, ...] = (owner,)
        if name is not None:
            text, values = text + " AND name = ?", (owner, name)
        series: dict[str, list[tuple[Any, ...]]] = {}
        for row in self._link().execute(text + " ORDER BY name, number", values).fetchall():
            series.setdefault(row[0], []).append(row[1:])
        return [unpack(each, segments) for each, segments in series.items()]

    @_explained
    def append(self, event: Event) -> Event:
        table = self._table(Event)
        with self._link().joined() as link:
            last = link.execute("SELECT sequence, digest FROM events ORDER BY sequence DESC LIMIT 1").fetchone()
            placed = chain.chained(event, *((last[0] + 1, last[1]) if last else (1, "")))
            link.execute(table.adds, [placed.key, *table.encode(placed)[0]])
        return placed

    @_explained
    def events(
        self,
        *,
        after: int = 0,
        type: str | None = None,
        subject: str | None = None,
        limit: int | None = None,
    ) -> list[Event]:
        table = self._table(Event)
        # Who reads on from a number wants the end of the journal; the other indexes help only from the start.
        column = "+r." if after > 0 else "r."
        parts: list[str] = ["r.sequence > ?"]
        values: list[Any] = [after]
        for name, wanted, mark in (("type", type, "."), ("subject", subject, "@")):
            if wanted is not None:
                begin = wanted + mark
                field = f"{column}{name}"
                parts.append(f"({field} = ? OR ({field} >= ? AND {field} < ?))")
                values += [wanted, begin, past_prefix(begin)]
        text = f"SELECT {table.selects} FROM events r WHERE {' AND '.join(parts)} ORDER BY r.sequence LIMIT ?"
        rows = self._link().execute(text, (*values, -1 if limit is None else limit)).fetchall()
        return [table.decode(row) for row in rows]

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        link = self._link()
        try:
            with link:
                yield
        except sqlite3.Error as error:
            raise explain(error, self.path) from error

    def check(self) -> Iterator[str]:
        link = self._link()
        try:
            for (found,) in link.execute("PRAGMA integrity_check").fetchall():
                if found != "ok":
                    yield f"the file {self.path}: {found}"
        except sqlite3.Error as error:
            yield str(explain(error, self.path))
            return
        for kind, table in self._tables.items():
            query = f'SELECT key, {table.number}, {table.selects} FROM "{table.name}" r'
            for key, number, *row in link.execute(query).fetchall():
                try:
                    record = table.decode(row)
                except Corrupt as error:
                    yield f"{kind.KIND}:{key}: {error.what}"
                    continue
                if record.key != key:
                    yield f"{kind.KIND}:{key} is kept under a key that is not its own"
                number_of = functools.partial(self._number, link)
                if table.dicts and _attributes(table, table.encode(record)[1], number_of) != dict(
                    link.execute(_ATTRIBUTES, (number, kind.KIND)).fetchall()
                ):
                    yield f"{kind.KIND}:{key}: its attributes are not what its record says"
        for owner, name in link.execute("SELECT DISTINCT owner, name FROM points").fetchall():
            try:
                self.points(owner, name)
            except Corrupt as error:
                yield f"{owner}: {error.what}"
        try:
            yield from chain.broken(self.events())
            self.edges()
        except (Corrupt, ValueError) as error:
            yield f"the journal or an edge holds JSON that does not parse: {error}"

    def close(self) -> None:
        with self._lock:
            links = list(self._links)
            self._links.clear()
        for link in links:
            if link.pid == os.getpid():
                link.closed = True
                link.connection.close()

    def _link(self) -> _Link:
        link: _Link | None = getattr(self._local, "link", None)
        if link is None or link.closed or link.pid != os.getpid():
            link = self._local.link = self._open()
        return link

    @_explained
    def _open(self) -> _Link:
        connection = sqlite3.connect(
            self.path, timeout=PATIENCE, isolation_level=None, check_same_thread=False, cached_statements=512
        )
        try:
            for setting in (f"synchronous = {self._synchronous}", "cache_size = -16000", "wal_autocheckpoint = 4000"):
                connection.execute(f"PRAGMA {setting}")
            connection.create_function("json_value", 2, _json_value, deterministic=True)
            try:
                version, found = connection.execute(
                    "SELECT user_version, (SELECT value FROM boucle WHERE name = 'layout') FROM pragma_user_version"
                ).fetchone()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
                    raise
                version, found = 0, ""  # an empty file, or one from elsewhere: no such table
            check_version(version)
            if found != self._layout or version < present_version():
                reconcile(connection, self._tables.values(), self._layout, PATIENCE)
        except BaseException:
            connection.close()
            raise
        if self._pid != os.getpid():  # a fork, whose parent's threads may have held the locks
            self._pid, self._lock, self._turn = os.getpid(), threading.Lock(), threading.Lock()
            self._links = weakref.WeakSet()
        link = _Link(connection, self._known, self._turn)
        with self._lock:
            self._links.add(link)
        return link

    def _table(self, kind: type[R]) -> Table[R]:
        try:
            return self._tables[kind]
        except KeyError:
            known = ", ".join(k.__name__ for k in self._tables)
            raise Invalid(f"this store keeps no {kind.__name__}", expected=f"one of {known}") from None

    def _encoded(self, records: Sequence[Record]) -> list[tuple[Record, Table[Any], list[Any], list[dict[str, Any]]]]:
        result = []
        for record in records:
            if isinstance(record, Event):
                raise _journal_only_grows()
            table = self._table(type(record))
            result.append((record, table, *table.encode(record)))
        return result

    def _write(self, link: _Link, table: Table[Any], key: str, row: list[Any], dicts: list[dict[str, Any]]) -> None:
        inserted = link.execute(table.inserts, [key, *row]).fetchone()
        if inserted is not None:
            self._add_attributes(link, table, inserted[0], dicts)
            return
        (number,) = link.execute(f'SELECT number FROM "{table.name}" WHERE key = ?', (key,)).fetchone()
        link.execute(table.updates, [*row, number])
        before = dict(link.execute(_ATTRIBUTES, (number, table.kind.KIND)).fetchall())
        now = _attributes(table, dicts, functools.partial(self._number_or_new, link))
        for name in before.keys() - now.keys():
            link.execute("DELETE FROM attributes WHERE record = ? AND name = ?", (number, name))
        link.connection.executemany(
            "INSERT OR REPLACE INTO attributes VALUES (?, ?, ?)",
            [(number, name, value) for name, value in now.items() if name not in before or before[name] != value],
        )

    def _add_attributes(self, link: _Link, table: Table[Any], number: int, dicts: list[dict[str, Any]]) -> None:
        now = _attributes(table, dicts, functools.partial(self._number_or_new, link))
        if now:
            link.connection.executemany(
                "INSERT INTO attributes VALUES (?, ?, ?)", [(number, name, value) for name, value in now.items()]
            )

    def _number(self, link: _Link, name: _Name) -> int | None:
        found = self._known.get(name)
        if found is None:
            row = link.execute(
                "SELECT number FROM attribute_names WHERE kind = ? AND field = ? AND name = ?", name
            ).fetchone()
            if row is not None:
                found = row[0]
                (link.new if link.depth else self._known)[name] = row[0]
        return found

    def _number_or_new(self, link: _Link, name: _Name) -> int:
        found = self._known.get(name) or link.new.get(name)
        if found is None:
            found = link.new[name] = attribute_number(link.connection, *name)
        return found


def _attributes(
    table: Table[Any], dicts: list[dict[str, Any]], number_of: Callable[[_Name], int | None]
) -> dict[int | None, Any]:
    """What `attributes` holds of a record: number of the name -> value. Missing values have no row."""
    result = {}
    for field, mapping in zip(table.dicts, dicts, strict=True):
        for name, value in mapping.items():
            counted = value if type(value) is str else plain(value)
            if counted is not None:
                result[number_of((table.kind.KIND, field, name))] = counted
    return result


def _equality(where: Where | None) -> Compare | None:
    """The condition, when it is that one column equals some text."""
    if isinstance(where, Compare) and where.op == "=" and type(where.value) is str and where.value:
        return where if "." not in where.path else None
    return None


def _none(link: _Link, read: Sql) -> bool:
    return link.execute(read.text, read.values).fetchone() is None


def _journal_only_grows() -> Refused:
    return Refused("events are neither replaced nor removed", expected="store.append(event)")
