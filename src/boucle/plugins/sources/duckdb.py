# ruff: noqa: S608  names are quoted and values bound, see Style
"""DuckDB database files: Arrow in and out."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import duckdb
import pyarrow as pa

from boucle.core import files
from boucle.core.errors import Conflict, Invalid, NotFound, Unavailable
from boucle.core.frames import Frame
from boucle.plugins.sources import sql
from boucle.ports.source import Mode, Reading

STYLE = sql.Style(named="${}")
_OPTIONS = {k: v for k, v in sql.OPTIONS.items() if k != "password"}
_ROWS = 8192
_CONFIG: dict[str, Any] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
}  # nothing is fetched


class DuckdbSource:
    """Tables and queries of a DuckDB file."""

    name: ClassVar[str] = "duckdb"
    suffixes: ClassVar[tuple[str, ...]] = (".duckdb", ".ddb")
    schemes: ClassVar[tuple[str, ...]] = ("duckdb",)
    options: ClassVar[Mapping[str, str]] = _OPTIONS

    def read(self, url: str, options: Mapping[str, Any]) -> Reading:
        """The rows of a table or query, in the order of the primary key or of the cursor. Placeholders of a query are ? and
        $name. An interval is a duration (a month of 30 days), a map a list of keys and values, an enumeration text. Raises
        `Unavailable` while another process writes to the file."""
        ask = sql.asked(self.name, url, options, _OPTIONS)
        path = files.locate(str(_path(ask.url)))
        with _opened(path, ask) as connection:
            ask = sql.need(ask, lambda: _tables(connection))
            columns = _columns(connection, ask)
            order = _order(connection, ask)
        after = sql.compared(ask, {c.name: c.type for c in columns})
        cursor = STYLE.name(ask.cursor) if ask.cursor else ""

        def opener(names: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
            wanted = sql.chosen(columns, names)
            text, values = sql.statement(
                STYLE, ask, [c.expression for c in wanted], order=order, cursor=cursor, after=after
            )
            schema = pa.schema([pa.field(c.name, c.type) for c in wanted])
            with _opened(path, ask) as connection:
                stream = connection.sql(text, params=values or None).to_arrow_reader(_ROWS)
                yield from sql.gathered(_cast(b, schema) for b in stream)

        return Reading(Frame(sql.schema_of(columns), opener), {"database": f"DuckDB {duckdb.__version__}"})

    def write(self, frame: Frame, url: str, mode: Mode, key: Sequence[str], options: Mapping[str, Any]) -> int:
        """Write all rows in one transaction; a table that is not there is made, and so is the file. Raises `Unavailable` while
        another process has the file open, `Conflict` where a constraint does not hold."""
        ask = sql.asked(self.name, url, options, {"table": sql.OPTIONS["table"]})
        if not ask.table:
            raise Invalid("no table to write to", expected="its name, behind # in the URL or as the option table")
        rows = sql.rows_of(frame)
        sql.check_write(self.name, mode, key, rows.schema)
        stream = _Stream(rows)
        try:
            with _opened(_path(ask.url), ask, write=True) as connection:
                _write(connection, ask, rows.schema, stream, mode, key)
        except (Invalid, Unavailable):
            if stream.error is not None:  # what DuckDB makes of an error of ours
                raise stream.error from None
            raise
        return stream.written


class _Stream:
    """The rows as DuckDB pulls them: how many, and why no more."""

    def __init__(self, rows: sql.Rows) -> None:
        self._rows, self.written = rows, 0
        self.error: BaseException | None = None

    def reader(self) -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(self._rows.schema, self._counted())

    def _counted(self) -> Iterator[pa.RecordBatch]:
        try:
            for batch in self._rows.batches:
                self.written += batch.num_rows
                yield batch
        except BaseException as error:
            self.error = error
            raise


def _write(
    connection: duckdb.DuckDBPyConnection,
    ask: sql.Asked,
    schema: pa.Schema,
    stream: _Stream,
    mode: Mode,
    key: Sequence[str],
) -> None:
    target, names = STYLE.name(*ask.table), ", ".join(map(STYLE.name, schema.names))
    connection.register("boucle_shape", schema.empty_table())
    connection.register("boucle_rows", stream.reader())
    connection.execute("BEGIN")
    there = _there(connection, ask)
    if there:
        sql.check_columns(ask, schema, there)
    else:
        connection.execute(f"CREATE TABLE {target} AS SELECT * FROM boucle_shape")
    if mode == "replace":
        connection.execute(f"DELETE FROM {target}")
    into = target
    if mode == "merge":
        into = "temp.boucle_staged"
        connection.execute(f"CREATE TEMP TABLE boucle_staged AS SELECT {names} FROM {target} LIMIT 0")
    connection.execute(f"INSERT INTO {into} ({names}) SELECT {names} FROM boucle_rows")
    if mode == "merge":
        sql.check_keys(STYLE, into, key, lambda text: connection.execute(text).fetchone())
        for text in sql.merging(STYLE, target, into, schema.names, key):
            connection.execute(text)
    connection.execute("COMMIT")


def _path(url: str) -> Path:
    if "://" not in url:
        return Path(url).expanduser()
    rest = url.partition("://")[2].partition("?")[0]
    if not rest.startswith("/") or rest == "/":
        raise Invalid(f"{url} names no file", expected="duckdb:///relative.duckdb or duckdb:////absolute/path.duckdb")
    return Path(urllib.parse.unquote(rest[1:])).expanduser()


@contextmanager
def _opened(path: Path, ask: sql.Asked, *, write: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
    fresh = write and not path.exists()
    connection = None
    try:
        connection = duckdb.connect(str(path), read_only=not write, config=_CONFIG)
        connection.execute("SET TimeZone = 'UTC'")
        yield connection
        fresh = False
    except duckdb.Error as error:
        raise _told(error, path, ask) from None
    finally:
        if connection is not None:
            connection.close()
        if fresh:  # nothing came of it
            for left in (path, path.with_name(path.name + ".wal")):
                with suppress(OSError):
                    left.unlink()


def _told(error: duckdb.Error, path: Path, ask: sql.Asked) -> Exception:
    text = " ".join(str(error).split("\n\nLINE")[0].split())
    if isinstance(error, duckdb.ConstraintException | duckdb.TransactionException):
        return Conflict(f"{ask.what} of {path}: {text}", expected="rows that keep to its constraints")
    if "not a valid DuckDB" in text or "Corrupt" in text or isinstance(error, duckdb.SerializationException):
        return Invalid(f"{path} is not a whole DuckDB database: {text}", expected="a database file as it was written")
    if isinstance(error, duckdb.IOException | duckdb.ConnectionException):
        return Unavailable(f"{path}: {text}", expected="nobody else to have it open for writing", fix="try again")
    return Invalid(f"{ask.what} of {path}: {text}", expected="SQL that DuckDB understands")


def _tables(connection: duckdb.DuckDBPyConnection) -> list[str]:
    found = connection.execute(
        "SELECT table_schema, table_name FROM information_schema.tables "
        "WHERE table_schema NOT IN ('information_schema', 'pg_catalog')"
    ).fetchall()
    return sorted(name if schema == "main" else f"{schema}.{name}" for schema, name in found)


def _there(connection: duckdb.DuckDBPyConnection, ask: sql.Asked) -> list[str]:
    schema = ask.table[-2] if len(ask.table) > 1 else "main"
    found = connection.execute(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = ? AND table_name = ? "
        "ORDER BY ordinal_position",
        [schema, ask.table[-1]],
    )
    return [row[0] for row in found.fetchall()]


def _columns(connection: duckdb.DuckDBPyConnection, ask: sql.Asked) -> list[sql.Read]:
    values, _ = ask.bound(STYLE)
    if ask.query:
        ask_for = f"SELECT * FROM {ask.relation(STYLE)} LIMIT 0"
        connection.sql(ask_for, params=values or None)  # it is one SELECT
        sql.distinct([d[0] for d in connection.sql(ask.query, params=values or None).description], ask)
    try:
        text = f"SELECT * FROM {ask.relation(STYLE)} LIMIT 0"
        found = connection.sql(text, params=values or None)
    except duckdb.CatalogException:
        if ask.query:
            raise
        raise NotFound.named("table", ".".join(ask.table), _tables(connection)) from None
    schema = found.to_arrow_reader(1).schema
    return [_column(f, str(kind)) for f, kind in zip(schema, found.types, strict=True)]


def _order(connection: duckdb.DuckDBPyConnection, ask: sql.Asked) -> list[str]:
    if not ask.table:
        return []
    schema = ask.table[-2] if len(ask.table) > 1 else "main"
    found = connection.execute(
        "SELECT unnest(constraint_column_names) FROM duckdb_constraints() "
        "WHERE constraint_type = 'PRIMARY KEY' AND schema_name = ? AND table_name = ?",
        [schema, ask.table[-1]],
    )
    return [STYLE.name(row[0]) for row in found.fetchall()]


def _column(field: pa.Field, said: str) -> sql.Read:
    """How a column is selected, and as what it is read."""
    name, kind, quoted = field.name, field.type, STYLE.name(field.name)
    t = pa.types
    if t.is_interval(kind):
        return sql.Read(name, pa.duration("us"), f"epoch_us({quoted}) AS {quoted}")
    if t.is_map(kind):
        pair = pa.struct([("key", _plain(kind.key_type)), ("value", _plain(kind.item_type))])
        return sql.Read(name, pa.list_(pair), f"map_entries({quoted}) AS {quoted}")
    if t.is_dictionary(kind) or t.is_union(kind) or said in ("TIME WITH TIME ZONE", "BIT", "UHUGEINT", "BIGNUM"):
        return sql.Read(name, pa.string(), f"{quoted}::VARCHAR AS {quoted}")
    return sql.Read(name, _plain(kind), quoted)


def _plain(kind: pa.DataType) -> pa.DataType:
    t = pa.types
    if t.is_list(kind) or t.is_large_list(kind):
        return pa.list_(_plain(kind.value_type))
    if t.is_fixed_size_list(kind):
        return pa.list_(_plain(kind.value_type), kind.list_size)
    if t.is_struct(kind):
        return pa.struct([pa.field(f.name, _plain(f.type)) for f in kind])
    if t.is_dictionary(kind):
        return _plain(kind.value_type)
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _cast(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    arrays = []
    for column, field in zip(batch.columns, schema, strict=True):
        plain = column.storage if isinstance(column, pa.ExtensionArray) else column
        arrays.append(plain if plain.type == field.type else plain.cast(field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
