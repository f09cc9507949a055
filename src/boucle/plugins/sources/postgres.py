# ruff: noqa: S608  names are quoted and values bound, see Style
"""PostgreSQL: rows come and go by COPY as CSV, which Arrow reads and writes itself, in the types of the database."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
from psycopg import conninfo, errors

from boucle.core.errors import Conflict, Invalid, NotFound, Refused, Unavailable
from boucle.core.frames import Frame
from boucle.plugins.sources import sql
from boucle.ports.source import Mode, Reading

STYLE = sql.Style(positional="%s", named="%({})s", percent=True)
_BLOCK = 1 << 23  # bytes of CSV per batch
_CONNECT = 10  # seconds
_Array = Callable[[pa.Array], pa.Array]


class PostgresSource:
    """Tables and queries of PostgreSQL, and of databases that speak its protocol and COPY."""

    name: ClassVar[str] = "postgres"
    suffixes: ClassVar[tuple[str, ...]] = ()
    schemes: ClassVar[tuple[str, ...]] = ("postgresql", "postgres")
    options: ClassVar[Mapping[str, str]] = sql.OPTIONS

    def read(self, url: str, options: Mapping[str, Any]) -> Reading:
        """The rows of a table or query as one snapshot, a table's in the order of its primary key or of the cursor.
        Placeholders of a query are those of psycopg: %s and %(name)s.

        NUMERIC becomes a decimal of its precision, and without one (or beyond 38 digits) float64; times with a zone are in
        UTC; an interval is a duration, a month of which has 30 days as PostgreSQL reckons; uuid, enumerations, json and
        whatever has no counterpart are text. Raises `NotFound`, `Refused` (password, privileges), `Unavailable` or
        `Invalid`.
        """
        ask = sql.asked(self.name, url, options)
        with _connected(ask) as connection:
            ask = sql.need(ask, lambda: _tables(connection))
            columns = _columns(connection, ask)
            order = _order(connection, ask)
            version = connection.info.parameter_status("server_version") or ""
        after = sql.compared(ask, {c.name: c.type for c in columns})
        cursor = STYLE.name(ask.cursor) if ask.cursor else ""

        def opener(names: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
            wanted = sql.chosen(columns, names)
            text, values = sql.statement(
                STYLE, ask, [c.expression for c in wanted], order=order, cursor=cursor, after=after
            )
            with _connected(ask) as connection:
                yield from _copied(connection, text, values, wanted)

        return Reading(Frame(sql.schema_of(columns), opener), {"database": f"PostgreSQL {version}".strip()})

    def write(self, frame: Frame, url: str, mode: Mode, key: Sequence[str], options: Mapping[str, Any]) -> int:
        """Write all rows in one transaction; until it ends, others read what was there before. A table that is not there is
        made. Replacing keeps the table, its indexes and its grants, and needs no more columns than it has; merging changes
        the columns written and no others. Raises `Conflict` where a constraint does not hold."""
        ask = sql.asked(self.name, url, options, {k: sql.OPTIONS[k] for k in ("table", "password")})
        if not ask.table:
            raise Invalid("no table to write to", expected="its name, behind # in the URL or as the option table")
        rows = sql.rows_of(frame)
        sql.check_write(self.name, mode, key, rows.schema)
        target = STYLE.name(*ask.table)
        with _connected(ask, write=True) as connection:
            there = _types_there(connection, ask)
            if there:
                sql.check_columns(ask, rows.schema, list(there))
                if mode != "append":  # one writer after the other; readers go on
                    connection.execute(_sql(f"LOCK TABLE {target} IN SHARE ROW EXCLUSIVE MODE"), ())
            else:
                there = {f.name: _sql_type(f.type) for f in rows.schema}
                columns = ", ".join(f"{STYLE.name(n)} {t}" for n, t in there.items())
                unique = f", PRIMARY KEY ({', '.join(map(STYLE.name, key))})" if key else ""
                connection.execute(_sql(f"CREATE TABLE {target} ({columns}{unique})"), ())
            if mode == "replace":
                connection.execute(_sql(f"DELETE FROM {target}"), ())  # unlike TRUNCATE, nobody sees it empty
            into = "boucle_staged" if mode == "merge" else target
            names = ", ".join(map(STYLE.name, rows.schema.names))
            if mode == "merge":
                connection.execute(
                    _sql(f"CREATE TEMP TABLE {into} ON COMMIT DROP AS SELECT {names} FROM {target} LIMIT 0"), ()
                )
            written = _copy_in(connection, f"COPY {into} ({names}) FROM STDIN (FORMAT csv)", rows, there)
            if mode == "merge":
                connection.execute(_sql(f"ANALYZE {into}"), ())
                sql.check_keys(STYLE, into, key, lambda text: connection.execute(_sql(text), ()).fetchone())
                for text in sql.merging(STYLE, target, into, rows.schema.names, key):
                    connection.execute(_sql(text), ())
            connection.commit()
        return written


def _sql(text: str) -> Any:
    """A statement whose names are quoted and whose values are bound."""
    return text


def _copying(text: str, values: Any) -> tuple[Any, Any]:
    """A COPY and its values; without any, psycopg leaves % as it is."""
    return (text, values) if values else (text.replace("%%", "%"), None)


@contextmanager
def _connected(ask: sql.Asked, *, write: bool = False) -> Iterator[psycopg.Connection[Any]]:
    sql.split(ask.url)
    given: dict[str, Any] = {"password": ask.password} if ask.password else {}
    if "connect_timeout=" not in ask.url:
        given["connect_timeout"] = _CONNECT
    try:
        place = conninfo.make_conninfo(ask.url, client_encoding="utf8", application_name="boucle", **given)
        connection = psycopg.connect(place)
    except psycopg.ProgrammingError:
        raise Invalid(
            "the postgresql URL cannot be read", expected="postgresql://user:password@host:port/database"
        ) from None
    except psycopg.Error as error:
        raise _told(error, ask) from None
    try:
        connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED if write else _SNAPSHOT
        connection.read_only = not write
        for setting in (
            "timezone = 'UTC'", "datestyle = 'ISO'", "intervalstyle = 'iso_8601'", "extra_float_digits = 1",
            "bytea_output = 'hex'", "synchronize_seqscans = off",
        ):  # fmt: skip
            connection.execute(_sql(f"SET LOCAL {setting}"))
        yield connection
    except psycopg.Error as error:
        raise _told(error, ask) from None
    finally:
        connection.close()  # what was not committed is undone


_SNAPSHOT = psycopg.IsolationLevel.REPEATABLE_READ


def _told(error: psycopg.Error, ask: sql.Asked) -> Exception:
    """What a database's error is to us, without what it says about secrets."""
    where = sql.shown(ask.url)
    text = sql.hidden(error.diag.message_primary or str(error), ask)
    if isinstance(error, errors.InvalidAuthorizationSpecification | errors.InsufficientPrivilege) or (
        error.sqlstate is None and re.search("password|authentication", text)
    ):
        return Refused(f"{where}: {text}", expected="a user and password that may", fix="see the option password")
    if isinstance(error, errors.UndefinedTable | errors.InvalidSchemaName | errors.InvalidCatalogName):
        return NotFound(f"{where}: {text}", expected="a table, schema and database that are there")
    if isinstance(error, errors.IntegrityError | errors.SerializationFailure | errors.DeadlockDetected):
        return Conflict(f"{where}: {text}", expected="rows that keep to the constraints of the table")
    state = error.sqlstate or ""
    gone = state[:2] in ("08", "53", "57", "58") or (not state and isinstance(error, psycopg.OperationalError))
    if gone:
        if "does not exist" in text and "database" in text:
            return NotFound(f"{where}: {text}", expected="a database that is there")
        return Unavailable(f"{where}: {text}", expected="a server that answers", fix="check host and port, try again")
    return Invalid(f"{ask.what} of {where}: {text}", expected="SQL and values that the database takes")


# --- reading ---------------------------------------------------------------------------------------------------------


def _tables(connection: psycopg.Connection[Any]) -> list[str]:
    found = connection.execute(
        "SELECT n.nspname, c.relname, pg_table_is_visible(c.oid) FROM pg_class c JOIN pg_namespace n "
        "ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'v', 'm', 'f', 'p') "
        "AND n.nspname !~ '^(pg_|information_schema$)'"
    ).fetchall()
    return sorted(table if visible else f"{schema}.{table}" for schema, table, visible in found)


def _columns(connection: psycopg.Connection[Any], ask: sql.Asked) -> list[sql.Read]:
    values, _ = ask.bound(STYLE)
    try:
        found = connection.execute(_sql(f"SELECT * FROM {ask.relation(STYLE)} LIMIT 0"), values).description or []
    except errors.UndefinedTable:
        if ask.query:
            raise
        connection.rollback()
        raise NotFound.named("table", ".".join(ask.table), _tables(connection)) from None
    sql.distinct([c.name for c in found], ask)
    oids = [c.type_code for c in found]
    types = {
        row[0]: row[1:]
        for row in connection.execute(
            "SELECT t.oid, t.typname, t.typtype::text, t.typcategory::text, e.typname FROM pg_type t "
            "LEFT JOIN pg_type e ON e.oid = t.typelem WHERE t.oid = ANY(%s)",
            (oids,),
        )
    }
    return [_column(c.name, types[c.type_code], c.precision, c.scale) for c in found]


def _order(connection: psycopg.Connection[Any], ask: sql.Asked) -> list[str]:
    if not ask.table:
        return []
    plain = sql.Style().name(*ask.table)
    found = connection.execute(
        "SELECT a.attname FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY k(number, place) "
        "JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number "
        "WHERE i.indrelid = to_regclass(%s) AND i.indisprimary ORDER BY k.place",
        (plain,),
    )
    return [STYLE.name(row[0]) for row in found]


_UTC = pa.timestamp("us", "UTC")
_SIMPLE: dict[str, pa.DataType] = {
    "bool": pa.bool_(), "int2": pa.int16(), "int4": pa.int32(), "int8": pa.int64(), "oid": pa.int64(),
    "float4": pa.float32(), "float8": pa.float64(), "date": pa.date32(), "time": pa.time64("us"),
    "timestamp": pa.timestamp("us"),
}  # fmt: skip


def _column(name: str, found: Sequence[Any], precision: int | None, scale: int | None) -> sql.Read:
    """How a column is selected, and what its text becomes."""
    kind, _, category, element = found
    quoted = STYLE.name(name)
    if kind in _SIMPLE:
        return sql.Read(name, _SIMPLE[kind], quoted)
    if kind == "timestamptz":
        return sql.Read(name, _UTC, f"{quoted} AT TIME ZONE 'UTC'")
    if kind == "numeric":
        if precision and 0 <= (scale or 0) <= precision <= 38:
            return sql.Read(name, pa.decimal128(precision, scale or 0), quoted)
        return sql.Read(name, pa.float64(), f"{quoted}::float8")
    if kind == "money":
        return sql.Read(name, pa.decimal128(19, 2), f"{quoted}::numeric(19, 2)")
    if kind == "interval":
        return sql.Read(name, pa.duration("us"), f"(extract(epoch FROM {quoted}) * 1000000)::int8")
    if kind == "bytea":
        return sql.Read(name, pa.binary(), f"encode({quoted}, 'hex')")
    if category == "A" and element:
        inner = _SIMPLE.get(element, _UTC if element == "timestamptz" else pa.string())
        if element == "numeric":
            inner = pa.float64()
        return sql.Read(name, pa.list_(inner), f"to_json({quoted})")
    if kind == "record" or category == "C":
        return sql.Read(name, pa.string(), f"to_json({quoted})")
    return sql.Read(name, pa.string(), f"{quoted}::text" if kind == "bpchar" else quoted)


def _copied(
    connection: psycopg.Connection[Any], text: str, values: Any, columns: Sequence[sql.Read]
) -> Iterator[pa.RecordBatch]:
    held: list[bytes | bytearray | memoryview] = []
    size = 0
    with connection.cursor() as cursor, cursor.copy(*_copying(f"COPY ({text}) TO STDOUT (FORMAT csv)", values)) as copy:
        for piece in copy:  # of whole rows
            held.append(piece)
            size += len(piece)
            if size >= _BLOCK:
                yield _parsed(b"".join(held), columns)
                held, size = [], 0
    if held:
        yield _parsed(b"".join(held), columns)


def _parsed(block: bytes, columns: Sequence[sql.Read]) -> pa.RecordBatch:
    """Rows of CSV as one batch; what a type of Arrow cannot hold raises `Invalid`."""
    texts = [_wire(c.type) for c in columns]
    numbers = [str(i) for i in range(len(columns))]
    try:
        table = pa_csv.read_csv(
            pa.py_buffer(block),
            pa_csv.ReadOptions(column_names=numbers, block_size=len(block) + 1),
            pa_csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
            pa_csv.ConvertOptions(
                column_types=dict(zip(numbers, texts, strict=True)), null_values=[""], true_values=["t"],
                false_values=["f"], strings_can_be_null=True, quoted_strings_can_be_null=False,
            ),
        )  # fmt: skip
    except pa.ArrowInvalid as error:
        found = re.search(r"CSV column #(\d+): (.*)", str(error).splitlines()[0])
        if not found:
            raise Invalid(f"the database sent what is not CSV: {error}", expected="rows of CSV") from None
        column = columns[int(found[1])]
        raise sql.unfit(column.name, column.type, found[2].rpartition(": ")[2]) from None
    arrays = []
    for column, chunked in zip(columns, table.columns, strict=True):
        array = chunked.combine_chunks() if chunked.num_chunks != 1 else chunked.chunk(0)
        arrays.append(_meant(array, column))
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema([pa.field(c.name, c.type) for c in columns]))


def _wire(kind: pa.DataType) -> pa.DataType:
    """The type that a column has as CSV."""
    if pa.types.is_duration(kind):
        return pa.int64()
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us")
    return pa.string() if pa.types.is_list(kind) or pa.types.is_binary(kind) else kind


def _meant(array: pa.Array, column: sql.Read) -> pa.Array:
    kind = column.type
    if array.type == kind:
        return array
    if pa.types.is_binary(kind):
        return pa.array([None if v is None else bytes.fromhex(v) for v in array.to_pylist()], kind)
    if not pa.types.is_list(kind):
        return array.cast(kind)
    values = [None if v is None else json.loads(v) for v in array.to_pylist()]
    try:
        if pa.types.is_floating(kind.value_type):  # NaN and infinity are words there
            return pa.array([None if v is None else [None if x is None else float(x) for x in v] for v in values], kind)
        if pa.types.is_temporal(kind.value_type):
            return pa.array(values, pa.list_(pa.string())).cast(kind)
        if pa.types.is_string(kind.value_type):
            return pa.array(
                [v and [x if x is None or isinstance(x, str) else json.dumps(x) for x in v] for v in values], kind
            )
        return pa.array(values, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, ValueError) as error:
        raise sql.unfit(column.name, kind, f"{error}; arrays of several dimensions are read with to_json") from None


# --- writing ---------------------------------------------------------------------------------------------------------


def _types_there(connection: psycopg.Connection[Any], ask: sql.Asked) -> dict[str, str]:
    """Name and type of each column of a table, empty when it is not there."""
    found = connection.execute(
        "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute WHERE attrelid = to_regclass(%s) "
        "AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        (sql.Style().name(*ask.table),),
    )
    return dict(found.fetchall())


def _sql_type(kind: pa.DataType) -> str:
    t = pa.types
    if t.is_decimal(kind):
        return f"numeric({kind.precision}, {kind.scale})"
    if t.is_timestamp(kind):
        return "timestamp with time zone" if kind.tz else "timestamp without time zone"
    for test, name in (
        (t.is_boolean, "boolean"), (t.is_int8, "smallint"), (t.is_int16, "smallint"), (t.is_uint8, "smallint"),
        (t.is_int32, "integer"), (t.is_uint16, "integer"), (t.is_int64, "bigint"), (t.is_uint32, "bigint"),
        (t.is_uint64, "numeric(20, 0)"), (t.is_float32, "real"), (t.is_float64, "double precision"),
        (t.is_binary, "bytea"), (t.is_date, "date"), (t.is_time, "time without time zone"), (t.is_duration, "interval"),
        (t.is_string, "text"), (t.is_null, "text"),
    ):  # fmt: skip
        if test(kind):
            return name
    if _is_list(kind) and not t.is_nested(kind.value_type) and not t.is_binary(kind.value_type):
        return f"{_sql_type(kind.value_type)}[]"
    return "jsonb"


def _is_list(kind: pa.DataType) -> bool:
    t = pa.types
    return bool(t.is_list(kind) or t.is_large_list(kind) or t.is_fixed_size_list(kind))


def _copy_in(connection: psycopg.Connection[Any], text: str, rows: sql.Rows, there: Mapping[str, str]) -> int:
    written = 0
    options = pa_csv.WriteOptions(include_header=False, quoting_style="all_valid")
    with connection.cursor() as cursor, cursor.copy(*_copying(text, ())) as copy:
        for batch in rows.batches:
            written += batch.num_rows
            for start in range(0, batch.num_rows, 8192):
                part = batch.slice(start, 8192)
                arrays = [
                    _text(c, there[n]) if pa.types.is_nested(c.type) or c.type in _ODD else c
                    for n, c in zip(rows.schema.names, part.columns, strict=True)
                ]
                out = io.BytesIO()
                pa_csv.write_csv(pa.RecordBatch.from_arrays(arrays, names=rows.schema.names), out, options)
                copy.write(out.getbuffer())
    return written


_ODD = (pa.binary(), pa.duration("us"), pa.null())


def _text(column: pa.Array, there: str) -> pa.Array:
    """A column that CSV does not know, as PostgreSQL reads it."""
    if pa.types.is_null(column.type):
        return column.cast(pa.string())
    if pa.types.is_duration(column.type):
        return pc.binary_join_element_wise(column.cast(pa.int64()).cast(pa.string()), "microseconds", " ")
    values = column.to_pylist()
    if pa.types.is_binary(column.type):
        return pa.array([None if v is None else "\\x" + v.hex() for v in values], pa.string())
    write = _literal if there.endswith("[]") else sql.as_json
    return pa.array([None if v is None else write(v) for v in values], pa.string())


def _literal(values: Sequence[Any]) -> str:
    """A list as PostgreSQL writes an array."""
    out = []
    for value in values:
        if value is None:
            out.append("NULL")
        elif isinstance(value, bool | int | float):
            out.append(str(value))
        else:
            text = value.isoformat() if hasattr(value, "isoformat") else str(value)
            out.append('"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"')
    return "{" + ",".join(out) + "}"
