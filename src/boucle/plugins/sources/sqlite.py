# ruff: noqa: S608  names are quoted and values bound, see Style
"""SQLite database files, read and written with the standard library."""

from __future__ import annotations

import datetime as dt
import decimal
import re
import sqlite3
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from boucle.core import files
from boucle.core.errors import Conflict, Invalid, NotFound, Unavailable
from boucle.core.frames import Frame
from boucle.plugins.sources import sql
from boucle.ports.source import Mode, Reading

STYLE = sql.Style()
_OPTIONS = {k: v for k, v in sql.OPTIONS.items() if k != "password"}
_PATIENCE = 10.0  # seconds that a writer waits for another
_EPOCH = dt.datetime(1970, 1, 1)


class SqliteSource:
    """Tables and queries of a SQLite file."""

    name: ClassVar[str] = "sqlite"
    suffixes: ClassVar[tuple[str, ...]] = (".sqlite", ".sqlite3", ".db")
    schemes: ClassVar[tuple[str, ...]] = ("sqlite",)
    options: ClassVar[Mapping[str, str]] = _OPTIONS

    def read(self, url: str, options: Mapping[str, Any]) -> Reading:
        """The rows of a table or query, a table's in the order of their row ids or of the cursor. Types are those that columns
        were declared with; a value of another type raises `Invalid` when it is read."""
        ask = sql.asked(self.name, url, options, _OPTIONS)
        path = files.locate(str(_path(ask.url)))
        with _opened(path, ask) as connection:
            ask = sql.need(ask, lambda: _tables(connection))
            columns = _columns(connection, ask)
            order = _order(connection, ask)
        types = {c.name: c.type for c in columns}
        after = sql.compared(ask, types)
        cursor = STYLE.name(ask.cursor) if ask.cursor else ""
        if ask.cursor and (exact := _EXACT.get(type(after))):
            cursor, after = f"{exact.__name__}({cursor})", exact(after)

        def opener(names: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
            wanted = sql.chosen(columns, names)
            text, values = sql.statement(
                STYLE, ask, [c.expression for c in wanted], order=order, cursor=cursor, after=after
            )
            with _opened(path, ask) as connection:
                yield from sql.batches(connection.execute(text, values).fetchmany, wanted)

        return Reading(Frame(sql.schema_of(columns), opener), {"database": f"SQLite {sqlite3.sqlite_version}"})

    def write(self, frame: Frame, url: str, mode: Mode, key: Sequence[str], options: Mapping[str, Any]) -> int:
        """Write all rows in one transaction; a table that is not there is made, and so is the file. Times are kept as ISO 8601
        text. Raises `Invalid` for NaN and infinity, which SQLite would turn into null, and `Unavailable` when somebody else
        has been writing for ten seconds."""
        ask = sql.asked(self.name, url, options, {"table": sql.OPTIONS["table"]})
        if not ask.table:
            raise Invalid("no table to write to", expected="its name, behind # in the URL or as the option table")
        rows = sql.rows_of(frame)
        sql.check_write(self.name, mode, key, rows.schema)
        with _clean(_path(ask.url)) as path, _opened(path, ask, write=True) as connection:
            connection.execute("BEGIN IMMEDIATE")
            target = STYLE.name(*ask.table)
            there = [row[1] for row in _info(connection, ask.table)]
            if there:
                sql.check_columns(ask, rows.schema, there)
            else:
                connection.execute(f"CREATE TABLE {target} ({_declared(rows.schema, key)})")
            if mode == "replace":
                connection.execute(f"DELETE FROM {target}")
            into = "temp.boucle_staged" if mode == "merge" else target
            if mode == "merge":
                connection.execute(f"CREATE TEMP TABLE boucle_staged ({_declared(rows.schema, ())})")
            written = _insert(connection, into, rows)
            if mode == "merge":
                sql.check_keys(STYLE, into, key, lambda text: connection.execute(text).fetchone())
                for text in sql.merging(STYLE, target, into, rows.schema.names, key):
                    connection.execute(text)
            connection.execute("COMMIT")
        return written


def _path(url: str) -> Path:
    if "://" not in url:
        return Path(url).expanduser()
    rest = url.partition("://")[2].partition("?")[0]
    if not rest.startswith("/") or rest == "/":
        raise Invalid(f"{url} names no file", expected="sqlite:///relative.db or sqlite:////absolute/path.db")
    return Path(urllib.parse.unquote(rest[1:])).expanduser()


@contextmanager
def _clean(path: Path) -> Iterator[Path]:
    """The path, at which no empty file stays behind where nothing came of it."""
    fresh = not path.exists()
    try:
        yield path
    finally:
        if fresh and path.exists() and not path.stat().st_size:
            path.unlink()


@contextmanager
def _opened(path: Path, ask: sql.Asked, *, write: bool = False) -> Iterator[sqlite3.Connection]:
    mode = "rwc" if write else "ro"
    place = f"file:{urllib.parse.quote(str(path.absolute()))}?mode={mode}"
    try:
        with closing(sqlite3.connect(place, uri=True, isolation_level=None, timeout=_PATIENCE)) as connection:
            for function in _EXACT.values():
                connection.create_function(function.__name__, 1, function, deterministic=True)
            yield connection
    except sqlite3.Error as error:
        raise _told(error, path, ask) from None


def _told(error: sqlite3.Error, path: Path, ask: sql.Asked) -> Exception:
    text = " ".join(str(error).split())
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Unavailable(f"{path} is being written to: {text}", fix="try again")
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return Invalid(f"{path} is not a whole SQLite database: {text}", expected="a database file as it was written")
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL):
        return Unavailable(f"{path}: {text}", expected="a file and folder that may be opened so, and room on the disk")
    if code == sqlite3.SQLITE_CONSTRAINT:
        return Conflict(f"{ask.what} of {path}: {text}", expected="rows that keep to its constraints")
    return Invalid(f"{ask.what} of {path}: {text}", expected="SQL that SQLite understands")


def _tables(connection: sqlite3.Connection) -> list[str]:
    found = connection.execute(
        "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite@_%' ESCAPE '@'"
    )
    return sorted(row[0] for row in found)


def _info(connection: sqlite3.Connection, table: Sequence[str]) -> list[Any]:
    """Rows of (number, name, declared type, not null, default, place in the primary key)."""
    if len(table) > 2 or (len(table) == 2 and table[0] not in ("main", "temp")):
        return []
    schema = table[0] if len(table) == 2 else "main"
    found = connection.execute("SELECT * FROM pragma_table_info(?, ?)", (table[-1], schema)).fetchall()
    return found if any(t == table[-1].lower() for t in map(str.lower, _tables(connection))) or schema == "temp" else []


def _columns(connection: sqlite3.Connection, ask: sql.Asked) -> list[sql.Read]:
    if ask.table:
        declared = [(row[1], row[2]) for row in _info(connection, ask.table)]
        if not declared:
            raise NotFound.named("table", ".".join(ask.table), _tables(connection))
    else:
        declared = _described(connection, ask)
    sql.distinct([name for name, _ in declared], ask)
    bare = [name for name, kind in declared if not kind]
    seen = _stored(connection, ask, bare) if bare else {}
    return [_column(name, _type(kind) if kind else seen[name]) for name, kind in declared]


def _described(connection: sqlite3.Connection, ask: sql.Asked) -> list[tuple[str, str]]:
    """Names and declared types of a query's columns. A view keeps the types as they were declared, but cannot have
    parameters; a table made of the query keeps what kind of values they are."""
    values, _ = ask.bound(STYLE)
    connection.execute(f"SELECT * FROM {ask.relation(STYLE)} LIMIT 0", values)
    sql.distinct([d[0] for d in connection.execute(ask.query, values).description], ask)
    made = "TABLE" if ask.params else "VIEW"
    limit = " LIMIT 0" if ask.params else ""
    text = f"CREATE TEMP {made} boucle_described AS SELECT * FROM {ask.relation(STYLE)}{limit}"
    connection.execute(text, values)
    found = connection.execute("SELECT name, type FROM pragma_table_info('boucle_described', 'temp')").fetchall()
    connection.execute(f"DROP {made} temp.boucle_described")
    # NUM is what a table made of a query says for everything that is not plainly a number or text.
    return [(name, "" if kind in ("NUM", "BLOB") and ask.params else kind) for name, kind in found]


def _stored(connection: sqlite3.Connection, ask: sql.Asked, names: Sequence[str]) -> dict[str, pa.DataType]:
    """The types of columns without a declared one: by all the values they hold."""
    values, _ = ask.bound(STYLE)
    kinds = ", ".join(f"group_concat(DISTINCT typeof({STYLE.name(n)}))" for n in names)
    row = connection.execute(f"SELECT {kinds} FROM {ask.relation(STYLE)}", values).fetchone()
    out = {}
    for name, said in zip(names, row, strict=True):
        held = set((said or "").split(",")) - {"null", ""}
        if held == {"integer", "real"}:
            held = {"real"}
        if len(held) > 1:
            raise Invalid(
                f"column {name!r} of {ask.what} holds {' and '.join(sorted(held))}",
                expected="values of one type",
                fix="read it by a query with CAST",
            )
        out[name] = _TYPEOF[held.pop()] if held else pa.null()
    return out


_TYPEOF = {"integer": pa.int64(), "real": pa.float64(), "text": pa.string(), "blob": pa.binary()}


def _order(connection: sqlite3.Connection, ask: sql.Asked) -> list[str]:
    keys = sorted((row[5], row[1]) for row in _info(connection, ask.table) if row[5]) if ask.table else []
    return [STYLE.name(name) for _, name in keys]


def _type(declared: str) -> pa.DataType:
    """The Arrow type of a declared one; what is not known goes by SQLite's rules of affinity."""
    text = declared.upper()
    word = re.sub(r"\s*\(.*?\)", "", text).strip()
    sizes = [int(n) for n in re.findall(r"\d+", text[len(word) :])]
    if word in _DECLARED:
        return _DECLARED[word]
    if word in ("DECIMAL", "NUMERIC", "TEXT_DECIMAL") and sizes and sizes[0] <= 38:
        return pa.decimal128(sizes[0], sizes[1] if len(sizes) > 1 else 0)
    if "INT" in text:
        return pa.int64()
    if any(w in text for w in ("CHAR", "CLOB", "TEXT")):
        return pa.string()
    if "BLOB" in text:
        return pa.binary()
    return pa.float64() if word in _NUMBERS or any(w in text for w in ("REAL", "FLOA", "DOUB")) else pa.string()


_NUMBERS = ("NUMERIC", "DECIMAL", "NUMBER", "NUM", "MONEY")
_UTC = pa.timestamp("us", "UTC")
_DECLARED = {
    "BOOLEAN": pa.bool_(), "BOOL": pa.bool_(), "DATE": pa.date32(), "TIME": pa.time64("us"),
    "DATETIME": pa.timestamp("us"), "TIMESTAMP": pa.timestamp("us"), "TIMESTAMP WITH TIME ZONE": _UTC,
    "TIMESTAMPTZ": _UTC, "JSON": pa.string(), "UUID": pa.string(), "INTERVAL": pa.duration("us"),
    "SMALLINT": pa.int64(), "FLOAT": pa.float64(),
}  # fmt: skip


def _column(name: str, kind: pa.DataType) -> sql.Read:
    t = pa.types
    convert: Callable[[list[Any]], pa.Array] | None = None
    if t.is_boolean(kind):
        convert = _bools
    elif t.is_timestamp(kind):

        def convert(values: list[Any]) -> pa.Array:
            return pa.array([boucle_moment(v) for v in values], pa.int64()).cast(kind)
    elif t.is_date(kind):

        def convert(values: list[Any]) -> pa.Array:
            return pa.array([boucle_day(v) for v in values], pa.int32()).cast(kind)
    elif t.is_time(kind):

        def convert(values: list[Any]) -> pa.Array:
            return pa.array([None if v is None else dt.time.fromisoformat(v) for v in values], kind)
    elif t.is_decimal(kind):

        def convert(values: list[Any]) -> pa.Array:
            return pa.array([None if v is None else decimal.Decimal(str(v)) for v in values], kind)
    elif t.is_floating(kind):

        def convert(values: list[Any]) -> pa.Array:
            return pa.array(values, pa.float64())

    return sql.Read(name, kind, STYLE.name(name), convert)


def _bools(values: list[Any]) -> pa.Array:
    odd = next((v for v in values if v not in (0, 1, None)), None)
    if odd is not None:
        raise ValueError(repr(odd))
    return pa.array([None if v is None else bool(v) for v in values], pa.bool_())


def boucle_moment(value: Any) -> int | None:
    """Microseconds since 1970 of a time as SQLite keeps it: ISO 8601 text, or a number of seconds since 1970."""
    if value is None or isinstance(value, int):
        return None if value is None else value * 1_000_000
    if isinstance(value, float):
        return round(value * 1_000_000)
    moment = value if isinstance(value, dt.datetime) else dt.datetime.fromisoformat(value)
    plain = moment.astimezone(dt.UTC).replace(tzinfo=None) if moment.tzinfo else moment
    return (plain - _EPOCH) // dt.timedelta(microseconds=1)


def boucle_day(value: Any) -> int | None:
    """Days since 1970 of a date as text."""
    if value is None:
        return None
    return (value if isinstance(value, dt.date) else dt.date.fromisoformat(value)).toordinal() - _EPOCH.toordinal()


def boucle_clock(value: Any) -> int | None:
    """Microseconds since midnight of a time of day as text."""
    if value is None:
        return None
    time = value if isinstance(value, dt.time) else dt.time.fromisoformat(value)
    return ((time.hour * 60 + time.minute) * 60 + time.second) * 1_000_000 + time.microsecond


def boucle_number(value: Any) -> float | None:
    """A decimal, which may be kept as text, for comparing."""
    return None if value is None else float(value)


# Values of these types are compared as what they mean and not as how they were written.
_EXACT: dict[type, Callable[[Any], Any]] = {
    dt.datetime: boucle_moment,
    dt.date: boucle_day,
    dt.time: boucle_clock,
    decimal.Decimal: boucle_number,
}


def _declared(schema: pa.Schema, key: Sequence[str]) -> str:
    columns = [f"{STYLE.name(f.name)} {_sql_type(f.type)}" for f in schema]
    if key:
        columns.append(f"PRIMARY KEY ({', '.join(STYLE.name(k) for k in key)})")
    return ", ".join(columns)


def _sql_type(kind: pa.DataType) -> str:
    t = pa.types
    if t.is_decimal(kind):  # SQLite keeps 15 digits of a number; longer ones go in as text
        return f"{'DECIMAL' if kind.precision <= 15 else 'TEXT_DECIMAL'}({kind.precision}, {kind.scale})"
    for test, name in (
        (t.is_boolean, "BOOLEAN"), (t.is_integer, "INTEGER"), (t.is_floating, "REAL"), (t.is_string, "TEXT"),
        (t.is_binary, "BLOB"), (t.is_date, "DATE"), (t.is_time, "TIME"), (t.is_duration, "INTERVAL"),
        (t.is_null, "TEXT"),
    ):  # fmt: skip
        if test(kind):
            return name
    if t.is_timestamp(kind):
        return "TIMESTAMP WITH TIME ZONE" if kind.tz else "TIMESTAMP"
    return "JSON"


def _insert(connection: sqlite3.Connection, into: str, rows: sql.Rows) -> int:
    names = ", ".join(STYLE.name(n) for n in rows.schema.names)
    text = f"INSERT INTO {into} ({names}) VALUES ({', '.join('?' * len(rows.schema))})"
    written = 0
    for batch in rows.batches:
        sql.finite(rows.schema, batch, "SQLite")
        connection.executemany(text, zip(*(_values(c) for c in batch.columns), strict=True))
        written += batch.num_rows
    return written


def _values(column: pa.Array) -> list[Any]:
    """What SQLite keeps of a column."""
    kind, t = column.type, pa.types
    if t.is_duration(kind):
        return list(column.cast(pa.int64()).to_pylist())
    values = column.to_pylist()
    if t.is_timestamp(kind) or t.is_date(kind) or t.is_time(kind):
        return [None if v is None else v.isoformat(*([" "] if t.is_timestamp(kind) else [])) for v in values]
    if t.is_decimal(kind):
        return [None if v is None else str(v) for v in values]
    if t.is_nested(kind):
        return [None if v is None else sql.as_json(v) for v in values]
    if t.is_uint64(kind) and any(v is not None and v >= 2**63 for v in values):
        raise Invalid("a number does not fit into 64 bits with a sign, which is what SQLite has", expected="less")
    return list(values)
