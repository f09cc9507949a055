# ruff: noqa: S608  names are quoted and values bound, see Style
"""MariaDB and MySQL: rows are fetched one by one as the server sends them, and Arrow turns their text into values."""

from __future__ import annotations

import hashlib
import ssl
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, ClassVar, cast

import pyarrow as pa
import pymysql
from pymysql.constants import FIELD_TYPE as F
from pymysql.constants import FLAG
from pymysql.converters import conversions
from pymysql.cursors import Cursor, SSCursor

from boucle.core.errors import Conflict, Invalid, NotFound, Refused, Unavailable
from boucle.core.frames import Frame
from boucle.plugins.sources import sql
from boucle.ports.source import Mode, Reading

STYLE = sql.Style(quote="`", positional="%s", named="%({})s", percent=True)
_CONNECT = 10  # seconds
_STALLED = 3600  # seconds that the server waits for a reader that is busy with what it got; 60 of its own accord
_PATIENCE = 10  # seconds that somebody else may be making the same table
_PIECE = 2000  # rows of an INSERT
_ENCODERS = {k: v for k, v in conversions.items() if not isinstance(k, int)}
_BINARY = 63  # the character set of what is no text


class MysqlSource:
    """Tables and queries of MariaDB and MySQL."""

    name: ClassVar[str] = "mysql"
    suffixes: ClassVar[tuple[str, ...]] = ()
    schemes: ClassVar[tuple[str, ...]] = ("mysql", "mariadb")
    options: ClassVar[Mapping[str, str]] = sql.OPTIONS

    def read(self, url: str, options: Mapping[str, Any]) -> Reading:
        """The rows of a table or query as one consistent snapshot, a table's in the order of its primary key or of the cursor.
        Placeholders of a query are %s and %(name)s. TINYINT(1) is bool, DECIMAL a decimal (beyond 38 digits float64),
        TIMESTAMP in UTC, DATETIME without a zone, TIME a duration, JSON and ENUM text. In the URL, `?ssl=true` asks for
        TLS and `?ssl_ca=FILE` says whom to believe. Raises `NotFound`, `Refused`, `Unavailable` or `Invalid`."""
        ask = sql.asked(self.name, url, options)
        with _connected(ask) as connection:
            ask = sql.need(ask, lambda: _tables(connection, ask))
            columns = _columns(connection, ask)
            order = _order(connection, ask)
            version = connection.get_server_info()
        after = sql.compared(ask, {c.name: c.type for c in columns})
        cursor = STYLE.name(ask.cursor) if ask.cursor else ""

        def opener(names: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
            wanted = sql.chosen(columns, names)
            text, values = sql.statement(
                STYLE, ask, [c.expression for c in wanted], order=order, cursor=cursor, after=after
            )
            with _connected(ask) as connection:
                stream = SSCursor(connection)
                try:
                    stream.execute(text, values)
                    yield from sql.batches(stream.fetchmany, wanted)
                finally:  # what is left is not read: the connection is closed
                    if stream._result is not None:
                        stream._result.unbuffered_active = False
                    stream.connection = None

        return Reading(Frame(sql.schema_of(columns), opener), {"database": version})

    def write(self, frame: Frame, url: str, mode: Mode, key: Sequence[str], options: Mapping[str, Any]) -> int:
        """Write all rows in one transaction; until it ends, others read what was there before. A table that is not there is
        filled under another name first and renamed, because to make one ends a transaction. What is equal, MariaDB decides
        by the collation of the key: tables made here tell capitals apart. Raises `Refused` for tables of an engine without
        transactions, `Conflict` where a constraint does not hold."""
        ask = sql.asked(self.name, url, options, {k: sql.OPTIONS[k] for k in ("table", "password")})
        if not ask.table:
            raise Invalid("no table to write to", expected="its name, behind # in the URL or as the option table")
        rows = sql.rows_of(frame)
        sql.check_write(self.name, mode, key, rows.schema)
        with _connected(ask, write=True) as connection:
            there = _there(connection, ask)
            if not there:
                return _made(connection, ask, rows, key)
            sql.check_columns(ask, rows.schema, there)
            return _changed(connection, ask, rows, mode, key)


@contextmanager
def _connected(ask: sql.Asked, *, write: bool = False) -> Iterator[Any]:
    connection: Any = None
    try:
        connection = pymysql.connect(**_place(ask))
        _run(connection, "SET SESSION time_zone = '+00:00', sql_mode = 'STRICT_ALL_TABLES'")
        if not write:
            _run(connection, f"SET SESSION net_write_timeout = {_STALLED}")
            _run(connection, "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            _run(connection, "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
        yield connection
    except pymysql.MySQLError as error:
        raise _told(error, ask) from None
    finally:
        if connection is not None:
            with suppress(pymysql.MySQLError):
                connection.close()


def _place(ask: sql.Asked) -> dict[str, Any]:
    parts = sql.split(ask.url)
    asked = dict(urllib.parse.parse_qsl(parts.query))
    unknown = [k for k in asked if k not in ("ssl", "ssl_ca")]
    if unknown:
        raise Invalid(f"the URL asks for {unknown[0]!r}", expected="ssl=true or ssl_ca=FILE after the ?")
    place: dict[str, Any] = {
        "host": parts.hostname or "127.0.0.1", "port": parts.port or 3306, "connect_timeout": _CONNECT,
        "user": urllib.parse.unquote(parts.username or ""), "charset": "utf8mb4", "conv": _ENCODERS,
        "password": ask.password or urllib.parse.unquote(parts.password or ""),
        "database": urllib.parse.unquote(parts.path.strip("/")) or None,
    }  # fmt: skip
    if asked:
        place["ssl"] = ssl.create_default_context(cafile=asked.get("ssl_ca"))
    return place


_REFUSED = {1044, 1045, 1095, 1130, 1142, 1143, 1227, 1370, 1698, 1820, 1862}
_ABSENT = {1049, 1146}
_CONFLICT = {1022, 1048, 1062, 1169, 1213, 1216, 1217, 1364, 1451, 1452, 1557, 1586, 4025, 3819}
_GONE = {0, 1040, 1053, 1077, 1152, 1158, 1159, 1160, 1161, 1184, 1205, 1317, 1927, 3024}


def _told(error: pymysql.MySQLError, ask: sql.Asked) -> Exception:
    """What a database's error is to us, without what it says about secrets."""
    code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    text = sql.hidden(str(error.args[1] if len(error.args) > 1 else error) or "the connection is gone", ask)
    where = sql.shown(ask.url)
    if code in _REFUSED:
        return Refused(f"{where}: {text}", expected="a user and password that may", fix="see the option password")
    if code in _ABSENT:
        return NotFound(f"{where}: {text}", expected="a table and database that are there")
    if code in _CONFLICT:
        return Conflict(f"{where}: {text}", expected="rows that keep to the constraints of the table")
    if code in _GONE or 2000 <= code < 2100:
        return Unavailable(f"{where}: {text}", expected="a server that answers", fix="check host and port, try again")
    return Invalid(f"{ask.what} of {where}: {text}", expected="SQL and values that the database takes")


def _run(connection: Any, text: str, values: Any = ()) -> Cursor:
    cursor = Cursor(connection)
    cursor.execute(text, values)
    return cursor


# --- reading ---------------------------------------------------------------------------------------------------------


def _tables(connection: Any, ask: sql.Asked) -> list[str]:
    schema = f"{STYLE.name(ask.table[0])}" if len(ask.table) > 1 else ""
    try:
        found = _run(connection, f"SHOW TABLES FROM {schema}" if schema else "SHOW TABLES").fetchall()
    except pymysql.MySQLError:
        return []
    return sorted(f"{ask.table[0]}.{row[0]}" if schema else str(row[0]) for row in found)


def _columns(connection: Any, ask: sql.Asked) -> list[sql.Read]:
    values, _ = ask.bound(STYLE)
    try:
        cursor = _run(connection, f"SELECT * FROM {ask.relation(STYLE)} LIMIT 0", values)
    except pymysql.err.ProgrammingError as error:
        if error.args[0] != 1146 or ask.query:
            raise
        raise NotFound.named("table", ".".join(ask.table), _tables(connection, ask)) from None
    # The description leaves out signs and character sets.
    fields = cast(Any, cursor)._result.fields
    sql.distinct([f.name for f in fields], ask)
    return [_column(f) for f in fields]


def _order(connection: Any, ask: sql.Asked) -> list[str]:
    if not ask.table:
        return []
    rows = _run(connection, f"SHOW KEYS FROM {STYLE.name(*ask.table)} WHERE Key_name = 'PRIMARY'").fetchall()
    return [STYLE.name(row[4]) for row in sorted(rows, key=lambda r: int(r[3]))]


_INTEGERS = {F.TINY: 8, F.SHORT: 16, F.INT24: 32, F.LONG: 32, F.LONGLONG: 64}
_US = pa.timestamp("us")


def _column(field: Any) -> sql.Read:
    """How a column is selected, and what its text becomes."""
    name, code, unsigned = field.name, field.type_code, bool(field.flags & FLAG.UNSIGNED)
    quoted = STYLE.name(name)
    kind: pa.DataType
    if code == F.TINY and field.length == 1 and not unsigned:
        kind = pa.bool_()
    elif code in _INTEGERS:
        kind = getattr(pa, f"{'u' if unsigned else ''}int{_INTEGERS[code]}")()
    elif code == F.YEAR:
        kind = pa.int16()
    elif code == F.FLOAT:  # as text it would lose digits
        return sql.Read(name, pa.float32(), f"({quoted} + 0e0)", sql.parsed(pa.float32()))
    elif code == F.DOUBLE:
        kind = pa.float64()
    elif code in (F.DECIMAL, F.NEWDECIMAL):
        precision = field.length - (field.scale > 0) - (not unsigned)
        kind = pa.decimal128(precision, field.scale) if 0 < precision <= 38 else pa.float64()
    elif code in (F.DATE, F.NEWDATE):
        kind = pa.date32()
    elif code == F.DATETIME:
        kind = _US
    elif code == F.TIMESTAMP:
        return sql.Read(
            name, pa.timestamp("us", "UTC"), quoted, lambda v: sql.parsed(_US)(v).cast(pa.timestamp("us", "UTC"))
        )
    elif code == F.TIME:
        return sql.Read(name, pa.duration("us"), quoted, _spans)
    elif code == F.BIT:
        return sql.Read(name, pa.uint64(), quoted, _bits)
    elif field.charsetnr == _BINARY and code not in (F.NULL, F.JSON):
        return sql.Read(name, pa.binary(), quoted)
    else:
        return sql.Read(name, pa.string(), quoted)
    return sql.Read(name, kind, quoted, sql.parsed(kind))


def _spans(values: list[Any]) -> pa.Array:
    """Texts such as -838:59:59.000001."""
    out: list[int | None] = []
    for value in values:
        if value is None:
            out.append(None)
            continue
        hours, minutes, seconds = value.lstrip("-").split(":")
        whole, _, part = seconds.partition(".")
        span = (int(hours) * 3600 + int(minutes) * 60 + int(whole)) * 1_000_000 + int(part.ljust(6, "0") or 0)
        out.append(-span if value.startswith("-") else span)
    return pa.array(out, pa.int64()).cast(pa.duration("us"))


def _bits(values: list[Any]) -> pa.Array:
    return pa.array([None if v is None else int.from_bytes(v, "big") for v in values], pa.uint64())


# --- writing ---------------------------------------------------------------------------------------------------------


def _there(connection: Any, ask: sql.Asked) -> list[str]:
    """The columns of a table, none when it is not there."""
    where = "table_schema = COALESCE(%s, DATABASE()) AND table_name = %s"
    values = (ask.table[0] if len(ask.table) > 1 else None, ask.table[-1])
    found = _run(
        connection,
        "SELECT e.transactions FROM information_schema.tables t LEFT JOIN information_schema.engines e "
        f"ON e.engine = t.engine WHERE {where}",
        values,
    ).fetchone()
    if found is None:
        return []
    if found[0] == "NO":
        raise Refused(
            f"{ask.what} has an engine without transactions, so that rows could be written in part",
            expected="InnoDB",
            fix=f"ALTER TABLE {ask.table[-1]} ENGINE=InnoDB",
        )
    order = f"SELECT column_name FROM information_schema.columns WHERE {where} ORDER BY ordinal_position"
    return [str(row[0]) for row in _run(connection, order, values).fetchall()]


def _made(connection: Any, ask: sql.Asked, rows: sql.Rows, key: Sequence[str]) -> int:
    """Fill a new table and give it its name when it is whole."""
    mark = hashlib.sha256("\0".join(ask.table).encode()).hexdigest()[:16]
    fresh, target = STYLE.name(*ask.table[:-1], f"boucle_new_{mark}"), STYLE.name(*ask.table)
    if _run(connection, "SELECT GET_LOCK(%s, %s)", (f"boucle_{mark}", _PATIENCE)).fetchone()[0] != "1":
        raise Conflict(f"somebody else is making {ask.what}", fix="try again when it is there")
    columns = [f"{STYLE.name(f.name)} {_sql_type(f.type, f.name in key)}" for f in rows.schema]
    if key:
        columns.append(f"INDEX ({', '.join(map(STYLE.name, key))})")
    _run(connection, f"DROP TABLE IF EXISTS {fresh}")  # of one that was killed
    _run(
        connection,
        f"CREATE TABLE {fresh} ({', '.join(columns)}) ENGINE=InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
    )
    try:
        written = _insert(connection, fresh, rows)
        if key:
            sql.check_keys(STYLE, fresh, key, lambda text: _run(connection, text).fetchone())
        connection.commit()
        _run(connection, f"RENAME TABLE {fresh} TO {target}")
    except BaseException:
        with suppress(pymysql.MySQLError):
            connection.rollback()
            _run(connection, f"DROP TABLE IF EXISTS {fresh}")
        raise
    return written


def _changed(connection: Any, ask: sql.Asked, rows: sql.Rows, mode: Mode, key: Sequence[str]) -> int:
    """Change a table that is there, in one transaction."""
    target = STYLE.name(*ask.table)
    if mode != "merge":
        connection.begin()
        if mode == "replace":
            _run(connection, f"DELETE FROM {target}")
        written = _insert(connection, target, rows)
        connection.commit()
        return written
    staged = STYLE.name(*ask.table[:-1], "boucle_staged")
    columns = rows.schema.names
    names = ", ".join(map(STYLE.name, columns))
    _run(connection, f"CREATE TEMPORARY TABLE {staged} SELECT {names} FROM {target} LIMIT 0")
    for name in columns:  # nulls in a key are found below, and said
        found = _run(connection, f"SHOW FULL COLUMNS FROM {staged} LIKE %s", (_pattern(name),)).fetchone()
        kind = found[1].replace("%", "%%") + (f" COLLATE {found[2]}" if found[2] else "")
        _run(connection, f"ALTER TABLE {staged} MODIFY {STYLE.name(name)} {kind} NULL")
        if name in key:
            cut = "(191)" if "text" in kind or "blob" in kind else ""
            _run(connection, f"ALTER TABLE {staged} ADD INDEX ({STYLE.name(name)}{cut})")
    written = _insert(connection, staged, rows)
    sql.check_keys(STYLE, staged, key, lambda text: _run(connection, text).fetchone())
    same = " AND ".join(f"t.{STYLE.name(k)} = s.{STYLE.name(k)}" for k in key)
    sets = ", ".join(f"t.{STYLE.name(c)} = s.{STYLE.name(c)}" for c in columns if c not in key)
    connection.begin()
    if sets:
        _run(connection, f"UPDATE {target} AS t JOIN {staged} AS s ON {same} SET {sets}")
    _run(connection, sql.adding(STYLE, target, staged, columns, key))
    connection.commit()
    return written


def _pattern(name: str) -> str:
    return name.replace("\\", "\\\\").replace("_", "\\_").replace("%", "\\%")


def _insert(connection: Any, into: str, rows: sql.Rows) -> int:
    names = ", ".join(map(STYLE.name, rows.schema.names))
    text = f"INSERT INTO {into} ({names}) VALUES ({', '.join(['%s'] * len(rows.schema))})"
    written = 0
    for batch in rows.batches:
        sql.finite(rows.schema, batch, "MariaDB")
        for start in range(0, batch.num_rows, _PIECE):
            part = batch.slice(start, _PIECE)
            values = list(zip(*(_values(c) for c in part.columns), strict=True))
            Cursor(connection).executemany(text, values)
        written += batch.num_rows
    return written


def _values(column: pa.Array) -> list[Any]:
    """What PyMySQL writes of a column."""
    kind, t = column.type, pa.types
    if t.is_timestamp(kind):
        return list(column.cast(pa.timestamp("us")).to_pylist())
    values = list(column.to_pylist())
    if t.is_nested(kind):
        return [None if v is None else sql.as_json(v) for v in values]
    return values


def _sql_type(kind: pa.DataType, key: bool) -> str:
    t = pa.types
    if t.is_decimal(kind):
        return f"DECIMAL({kind.precision}, {kind.scale})"
    if t.is_integer(kind):
        bits = kind.bit_width
        return {8: "TINYINT", 16: "SMALLINT", 32: "INT", 64: "BIGINT"}[bits] + (
            " UNSIGNED" if t.is_unsigned_integer(kind) else ""
        )
    if t.is_timestamp(kind):
        return "TIMESTAMP(6) NULL DEFAULT NULL" if kind.tz else "DATETIME(6)"
    for test, name in (
        (t.is_boolean, "BOOLEAN"), (t.is_float32, "FLOAT"), (t.is_float64, "DOUBLE"), (t.is_date, "DATE"),
        (t.is_time, "TIME(6)"), (t.is_duration, "TIME(6)"),
        (t.is_string, "VARCHAR(255)" if key else "LONGTEXT"), (t.is_null, "LONGTEXT"),
        (t.is_binary, "VARBINARY(255)" if key else "LONGBLOB"),
    ):  # fmt: skip
        if test(kind):
            return name
    return "JSON"
