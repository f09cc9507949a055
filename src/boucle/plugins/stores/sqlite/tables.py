# ruff: noqa: S608  the names in statements come from the record classes, values are always bound
"""The tables of the SQLite store, made from the record classes, and how an older database becomes a present one.

One table per kind, named in the plural, with a column per field. `number` is the row's own number (`sequence` for
events), `key` the record's key. Searchable scalar fields have an index each; the keys of searchable `dict` fields are
rows of `attributes`, in order of record and, by its index, in order of value.

Views for people who come with SQL:

raw_data        datasets that came from outside: key, name, version, digest, rows, size, source, created, actor, owner
processed_data  datasets and frames that a run made: kind, key, name, digest, size, run, created
metrics         the latest value of each metric: run, name, step, time, value (step is NULL where no series was logged)
logs            what happened, oldest first: time, kind (run or event), subject, name, status, message, log (a blob)
models          is a table

Opening a database compares one stored text, the layout of all kinds. Where it differs, missing tables, columns and
indexes are added; nothing is ever dropped. Changes of data are numbered steps, `MIGRATIONS`, counted by `user_version`.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from boucle.core.errors import Invalid
from boucle.core.records import Event, Record
from boucle.core.rows import Column, from_json, layout, to_json
from boucle.core.where import plain

R = TypeVar("R", bound=Record)

# Each step changes data in a way that adding columns cannot, and runs once, in order, within the opening transaction.
# A released step is never edited or removed.
MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = ()

_SQL_TYPES = {"text": "TEXT", "integer": "INTEGER", "real": "REAL", "boolean": "INTEGER", "json": "TEXT"}
_EMPTY: dict[str, Any] = {"text": "", "integer": 0, "real": 0.0, "boolean": False, "json": {}}


class Table(Generic[R]):
    """One kind: its statements, written once."""

    __slots__ = (
        "adds", "columns", "decode", "dicts", "encode", "equals", "inserts",
        "kind", "name", "number", "puts", "selects", "terms", "updates",
    )  # fmt: skip

    def __init__(self, kind: type[R]) -> None:
        shape = layout(kind)
        self.kind, self.name = kind, f"{kind.KIND}s"
        self.number = "sequence" if kind is Event else "number"
        self.columns = {c.name: c for c in shape.columns}
        self.dicts = tuple(shape.columns[i].name for i in shape.searchable_dicts)
        self.encode, self.decode = shape.encode, shape.decode
        self.equals: dict[str, str] = {}  # column -> the statement that finds the rows where it is one text
        self.terms: dict[str, Any] = {}  # what `queries` has made of the scalar fields
        quoted = [f'"{name}"' for name in self.columns]
        self.selects = ", ".join(f"r.{q}" for q in quoted)
        insert = f'INSERT INTO "{self.name}" (key, {", ".join(quoted)}) VALUES (?{", ?" * len(quoted)})'
        self.adds = f"{insert} ON CONFLICT (key) DO NOTHING"
        self.inserts = f"{self.adds} RETURNING {self.number}"
        self.puts = f"{insert} ON CONFLICT (key) DO UPDATE SET {', '.join(f'{q} = excluded.{q}' for q in quoted)}"
        self.updates = f'UPDATE "{self.name}" SET {", ".join(f"{q} = ?" for q in quoted)} WHERE number = ?'

    def definition(self) -> str:
        """The CREATE TABLE statement."""
        parts = [] if self.kind is Event else ["number INTEGER PRIMARY KEY"]
        parts += ["key TEXT NOT NULL UNIQUE"]
        parts += [
            '"sequence" INTEGER PRIMARY KEY' if c.name == self.number else _definition(c) for c in self.columns.values()
        ]
        listed = ",\n  ".join(parts)
        return f'CREATE TABLE "{self.name}" (\n  {listed}\n)'

    def indexes(self) -> list[str]:
        """The CREATE INDEX statements."""
        return [
            f'CREATE INDEX IF NOT EXISTS "{self.name}_{c.name}" ON "{self.name}" ("{c.name}")'
            + (f" WHERE \"{c.name}\" <> ''" if sparse(c) else "")
            for c in self.columns.values()
            if c.searchable and c.kept != "json"
        ]


def sparse(column: Column) -> bool:
    """Whether a column is so often empty that its index leaves the empty ones out."""
    return column.kept == "text" and column.default == "" and not column.optional


def _definition(column: Column) -> str:
    sql = f'"{column.name}" {_SQL_TYPES[column.kept]}'
    if column.optional:
        return sql if column.default is None else f"{sql} DEFAULT {_literal(column.default)}"
    return f"{sql} NOT NULL DEFAULT {_literal(_EMPTY[column.kept] if column.default is None else column.default)}"


def _literal(value: Any) -> str:
    if isinstance(value, dict):
        value = to_json(value)
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return repr(int(value) if isinstance(value, bool) else value)


_FIXED = """
CREATE TABLE IF NOT EXISTS boucle (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS attribute_names (
  number INTEGER PRIMARY KEY, kind TEXT NOT NULL, field TEXT NOT NULL, name TEXT NOT NULL, UNIQUE (kind, field, name)
);
CREATE TABLE IF NOT EXISTS attributes (
  record INTEGER NOT NULL, name INTEGER NOT NULL, value, PRIMARY KEY (record, name)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS attributes_value ON attributes (name, value);
CREATE TABLE IF NOT EXISTS edges (
  source TEXT NOT NULL, relation TEXT NOT NULL, target TEXT NOT NULL, time REAL NOT NULL, detail TEXT NOT NULL,
  PRIMARY KEY (source, relation, target)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS edges_target ON edges (target, relation);
CREATE TABLE IF NOT EXISTS points (
  number INTEGER PRIMARY KEY, owner TEXT NOT NULL, name TEXT NOT NULL, n INTEGER NOT NULL,
  first_step INTEGER NOT NULL, last_step INTEGER NOT NULL, last_time REAL, last_value REAL,
  packing INTEGER NOT NULL, data BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS points_owner ON points (owner, name);
"""

_VIEWS = {
    "raw_data": """
SELECT key, name, version, digest, rows, size, source, created, actor, owner FROM datasets WHERE run = ''""",
    "processed_data": """
SELECT 'dataset' AS kind, key, name, digest, size, run, created FROM datasets WHERE run <> ''
UNION ALL
SELECT 'artifact', key, name, digest, size, run, created FROM artifacts WHERE type = 'frame'""",
    "metrics": """
SELECT r.key AS run, n.name, p.last_step AS step, coalesce(p.last_time, nullif(r.ended, 0), r.started) AS time, a.value
FROM attributes a
JOIN attribute_names n ON n.number = a.name AND n.kind = 'run' AND n.field = 'metrics'
JOIN runs r ON r.number = a.record
LEFT JOIN points p ON p.number = (SELECT max(number) FROM points WHERE owner = 'run:' || r.key AND name = n.name)
UNION ALL
SELECT substr(p.owner, 5), p.name, p.last_step, p.last_time, p.last_value FROM points p
WHERE p.owner LIKE 'run:%'
  AND p.number = (SELECT max(number) FROM points WHERE owner = p.owner AND name = p.name)
  AND NOT EXISTS (
    SELECT 1 FROM runs r JOIN attributes a ON a.record = r.number JOIN attribute_names n ON n.number = a.name
    WHERE r.key = substr(p.owner, 5) AND n.kind = 'run' AND n.field = 'metrics' AND n.name = p.name
  )""",
    "logs": """
SELECT coalesce(nullif(ended, 0), started) AS time, 'run' AS kind, 'run:' || key AS subject, name, status,
  error AS message, log FROM runs
UNION ALL
SELECT time, 'event', subject, type, '', reason, '' FROM events
ORDER BY 1""",
}


def wanted_layout(kinds: Iterable[type[Record]]) -> str:
    """The text that tells whether a database fits these classes."""
    shapes = {
        kind.KIND: {c.name: [c.kept, c.optional, c.searchable, c.default] for c in layout(kind).columns}
        for kind in kinds
    }
    return json.dumps({"kinds": shapes, "fixed": _FIXED, "views": _VIEWS}, sort_keys=True)


def reconcile(connection: sqlite3.Connection, tables: Iterable[Table[Any]], wanted: str, patience: float) -> None:
    """Make the database fit: tables, columns and indexes that are missing, then the migrations it has not seen."""
    _use_wal(connection, patience)
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        check_version(version)
        known = _known_layout(connection)
        if known != wanted:
            _add_missing(connection, list(tables), json.loads(known)["kinds"] if known else {})
            connection.execute("INSERT OR REPLACE INTO boucle VALUES ('layout', ?)", (wanted,))
        if version:  # a database made just now has nothing to migrate
            for step in MIGRATIONS[version - 1 :]:
                step(connection)
        connection.execute(f"PRAGMA user_version = {present_version()}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def present_version() -> int:
    """What `user_version` is in a database that has seen all migrations."""
    return 1 + len(MIGRATIONS)


def check_version(version: int) -> None:
    """Refuse a database that a newer release has migrated."""
    if version > present_version():
        raise Invalid(
            f"the store has version {version} and was written by a newer boucle",
            expected=f"version {present_version()} or older",
            fix="pip install --upgrade boucle",
        )


def _use_wal(connection: sqlite3.Connection, patience: float) -> None:
    # The switch needs the file for itself and, unlike a write, does not wait for it when others open it as well.
    until = time.monotonic() + patience
    connection.execute("PRAGMA page_size = 2048")  # measured: small commits cost a sixth less than with 4096
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.005)


def _known_layout(connection: sqlite3.Connection) -> str:
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'boucle'").fetchone():
        return ""
    row = connection.execute("SELECT value FROM boucle WHERE name = 'layout'").fetchone()
    return str(row[0]) if row else ""


def _add_missing(connection: sqlite3.Connection, tables: list[Table[Any]], known: dict[str, Any]) -> None:
    for view in _VIEWS:
        connection.execute(f"DROP VIEW IF EXISTS {view}")
    for statement in _FIXED.split(";\n"):
        connection.execute(statement)
    for table in tables:
        there = {row[1] for row in connection.execute(f'PRAGMA table_info("{table.name}")')}
        if not there:
            connection.execute(table.definition())
        for column in table.columns.values():
            if there and column.name not in there:
                connection.execute(f'ALTER TABLE "{table.name}" ADD COLUMN {_definition(column)}')
        for statement in table.indexes():
            connection.execute(statement)
        for field in table.dicts:
            before = known.get(table.kind.KIND, {}).get(field)
            if there and before is not None and not before[2]:
                _index_dicts(connection, table, field)
    for view, query in _VIEWS.items():
        connection.execute(f"CREATE VIEW {view} AS {query}")


def _index_dicts(connection: sqlite3.Connection, table: Table[Any], field: str) -> None:
    """Fill `attributes` for a `dict` field that has become searchable, maybe not for the first time."""
    connection.execute(
        "DELETE FROM attributes WHERE name IN (SELECT number FROM attribute_names WHERE kind = ? AND field = ?)",
        (table.kind.KIND, field),
    )
    query = f'SELECT {table.number}, "{field}" FROM "{table.name}" WHERE "{field}" <> \'{{}}\''
    for number, text in connection.execute(query).fetchall():
        for name, value in from_json(text).items():
            connection.execute(
                "INSERT OR REPLACE INTO attributes VALUES (?, ?, ?)",
                (number, attribute_number(connection, table.kind.KIND, field, name), plain(value)),
            )


def attribute_number(connection: sqlite3.Connection, kind: str, field: str, name: str) -> int:
    """The number of a key of a `dict` field, a new one if need be. Needs the write lock."""
    row = connection.execute(
        "SELECT number FROM attribute_names WHERE kind = ? AND field = ? AND name = ?", (kind, field, name)
    ).fetchone()
    if row is None:
        row = connection.execute(
            "INSERT INTO attribute_names (kind, field, name) VALUES (?, ?, ?) RETURNING number", (kind, field, name)
        ).fetchone()
    return int(row[0])
