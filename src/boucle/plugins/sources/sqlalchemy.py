"""Every database that has a dialect for SQLAlchemy: its URL behind `sqlalchemy+`, such as `sqlalchemy+oracle+oracledb://...`."""

from __future__ import annotations

import re
import urllib.parse
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy import exc, pool, schema

from boucle.core import files
from boucle.core.errors import Conflict, Invalid, MissingExtra, NotFound, Refused, Unavailable
from boucle.core.frames import Frame
from boucle.plugins.sources import sql
from boucle.plugins.sources import sqlalchemy_types as types
from boucle.ports.source import Mode, Reading

_PREFIX = "sqlalchemy+"
_SAMPLE = 1000  # rows that tell the types of a query
_FETCHED = 8192  # rows at most that wait here
_PIECE = 2000  # rows of an INSERT
_CONNECT = 10  # seconds
_PATIENT = dict.fromkeys(("psycopg", "psycopg2", "pymysql"), "connect_timeout") | {"pyodbc": "timeout"}
# Whose transactions undo everything; of others it is not known here, and the warehouses among them have none.
_WHOLE = frozenset({
    "postgresql", "mysql", "mariadb", "sqlite", "oracle", "mssql", "snowflake", "ibm_db_sa", "redshift", "cockroachdb",
})  # fmt: skip
_MAKES_WITHIN = frozenset({"postgresql", "sqlite", "mssql", "ibm_db_sa", "redshift"})  # to make a table can be undone
_TEMPORARY = frozenset({"postgresql", "mysql", "mariadb", "sqlite", "snowflake", "redshift"})
_SERIALIZABLE = frozenset({"postgresql", "mysql", "mariadb", "mssql", "oracle"})
_JOINS = _TEMPORARY | {"mssql"}  # have UPDATE ... FROM
_HAS_NAN = frozenset({"postgresql", "snowflake", "redshift"})
_UNDOES_NOTHING = frozenset({"myisam", "aria", "memory", "csv", "archive"})  # engines of MySQL
_BACKSLASHED = frozenset({"mysql", "mariadb", "bigquery", "clickhouse", "databricks", "snowflake"})
_UTC = {"mysql": "SET SESSION time_zone = '+00:00'", "postgresql": "SET timezone = 'UTC'"}
_UTC["mariadb"] = _UTC["mysql"]


class SqlalchemySource:
    """Tables and queries of any database that SQLAlchemy has a dialect and a driver for."""

    name: ClassVar[str] = "sqlalchemy"
    suffixes: ClassVar[tuple[str, ...]] = ()
    schemes: ClassVar[tuple[str, ...]] = (f"{_PREFIX}*",)
    options: ClassVar[Mapping[str, str]] = sql.OPTIONS

    def read(self, url: str, options: Mapping[str, Any]) -> Reading:
        """The rows of a table or query as one statement gives them, a table's in the order of its primary key or of the cursor.
        Placeholders of a query are `:name` in every dialect, and `?` for a list of values.

        A table has the types that SQLAlchemy reflects. A query's are those of the first 1000 rows (of a column that is null in
        all of them, of its first value), and a later value that does not fit raises `Invalid`. The query stands behind FROM.
        Raises `MissingExtra` (dialect or driver), `NotFound`, `Refused`, `Unavailable` or `Invalid`.
        """
        ask = sql.asked(self.name, url, options)
        with _connected(ask, reads=True) as connection:
            dialect = connection.dialect
            ask = sql.need(ask, lambda: _tables(connection, None))
            given = _table(connection, ask) if ask.table else _query(connection, ask)
            columns = _typed(connection, ask, given)
        after = sql.compared(ask, {c.name: c.type for c in columns})

        def opener(names: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
            wanted = sql.chosen(columns, names)
            statement = given.select([c.name for c in wanted], dialect.name, ask, after)
            with _connected(ask, reads=True) as connection, _streamed(connection, statement, given.values) as rows:
                yield from sql.batches(_fetching(rows, ask), wanted)

        version = ".".join(str(v) for v in dialect.server_version_info or ())
        return Reading(Frame(sql.schema_of(columns), opener), {"database": f"{dialect.name} {version}".strip()})

    def write(self, frame: Frame, url: str, mode: Mode, key: Sequence[str], options: Mapping[str, Any]) -> int:
        """Write all rows in one transaction; until it ends, others read what was there before. A table that is not there is
        made; where that ends a transaction (Oracle, MySQL, Snowflake) it is filled under another name, `boucle_new_...`, and
        renamed. Raises `Refused` for databases and engines without transactions, `Conflict` where a constraint does not hold
        or somebody else has changed the same rows."""
        ask = sql.asked(self.name, url, options, {k: sql.OPTIONS[k] for k in ("table", "password")})
        if not ask.table:
            raise Invalid("no table to write to", expected="its name, behind # in the URL or as the option table")
        dialect = _engine(ask).dialect.name
        if dialect not in _WHOLE:
            raise Refused(
                f"{dialect} has no transactions that boucle knows of, so that rows could be written in part",
                expected=f"one of {', '.join(sorted(_WHOLE))}",
                fix="export files, and load them with the database's own tool",
            )
        rows = sql.rows_of(frame)
        sql.check_write(self.name, mode, key, rows.schema)
        with _connected(ask, serializable=mode == "merge") as connection:
            there = _there(connection, ask)
            if not there:
                return _make(connection, ask, rows, key)
            sql.check_columns(ask, rows.schema, list(there))
            target = _declared(ask.table, {n: there[n] for n in rows.schema.names})
            if mode == "merge":
                return _merge(connection, target, rows, key)
            if mode == "replace":
                connection.execute(sa.delete(target))
            written = _insert(connection, target, rows)
            connection.commit()
        return written


# --- a connection ----------------------------------------------------------------------------------------------------


def _engine(ask: sql.Asked) -> sa.Engine:
    sql.split(ask.url)
    try:
        url = sa.make_url(ask.url.removeprefix(_PREFIX))
        if ask.password:
            url = url.set(password=ask.password)
        option = _PATIENT.get(url.get_driver_name(), "")
        given = {option: _CONNECT} if option and option not in url.query else {}
        json = {"json_serializer": sql.as_json} if url.get_backend_name() in _JSON else {}
        return sa.create_engine(url, poolclass=pool.NullPool, hide_parameters=True, connect_args=given, **json)
    except exc.NoSuchModuleError:
        dialect = ask.url.removeprefix(_PREFIX).partition("://")[0]
        raise MissingExtra(
            f"SQLAlchemy has no dialect {dialect!r} here",
            expected="one of SQLAlchemy's own, or the package that brings it",
            fix="such as pip install snowflake-sqlalchemy, trino[sqlalchemy], sqlalchemy-bigquery or ibm_db_sa",
        ) from None
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"the driver {error.name} is not installed", expected="it to be", fix=f"pip install {error.name}"
        ) from None
    except (exc.ArgumentError, ValueError, TypeError):
        raise Invalid(
            "the SQLAlchemy URL cannot be read", expected="sqlalchemy+DIALECT+DRIVER://user:password@host:port/database"
        ) from None


_JSON = frozenset({"postgresql", "mysql", "mariadb", "sqlite", "mssql"})


@contextmanager
def _connected(ask: sql.Asked, *, reads: bool = False, serializable: bool = False) -> Iterator[sa.Connection]:
    engine = _engine(ask)
    dialect = engine.dialect.name
    path = _file(engine)
    if path and reads:  # it would make an empty one
        files.locate(str(path))
    fresh = path is not None and not path.exists()
    try:
        connection = engine.connect()
    except exc.SQLAlchemyError as error:
        raise _told(error, ask, connecting=True) from None
    try:
        with connection:
            connection = connection.execution_options(sqlite_raw_colnames=True)
            if serializable and dialect in _SERIALIZABLE:
                connection = connection.execution_options(isolation_level="SERIALIZABLE")
            _set(connection, dialect, reads=reads)
            yield connection
    except exc.SQLAlchemyError as error:
        raise _told(error, ask) from None
    finally:
        if path and fresh and path.exists() and not path.stat().st_size:
            path.unlink()


def _file(engine: sa.Engine) -> Path | None:
    """The file of a SQLite database."""
    plain = engine.dialect.name == "sqlite" and "uri" not in engine.url.query
    return Path(engine.url.database or "") if plain else None


def _set(connection: sa.Connection, dialect: str, *, reads: bool) -> None:
    """Times in UTC, and where the database can be told so, that nothing is changed."""
    if reads and dialect == "postgresql":
        connection.execution_options(postgresql_readonly=True)
    texts = [_UTC[dialect]] if dialect in _UTC else []
    if dialect == "sqlite":
        texts.append("PRAGMA query_only = ON" if reads else "BEGIN IMMEDIATE")
    elif dialect in types.MYSQL:
        texts.append("SET SESSION TRANSACTION READ ONLY" if reads else "SET SESSION sql_mode = 'STRICT_ALL_TABLES'")
        texts.append("SET SESSION net_write_timeout = 3600")  # while a reader is busy with what it got
    for text in texts:
        connection.exec_driver_sql(text)


def _secrets(ask: sql.Asked) -> list[str]:
    """What of a URL and its options is nobody's business: the password, and all that is asked for behind ?."""
    query = ask.url.partition("?")[2]
    told = [v for _, v in urllib.parse.parse_qsl(query) if len(v) > 3]
    raw = [p.partition("=")[2] for p in query.split("&") if len(p.partition("=")[2]) > 3]
    inner = [m for v in told for m in re.findall(r"(?i)(?:pwd|password|token|secret|key)\s*=\s*\{?([^;}]+)", v)]
    return sorted({*sql.secrets(ask), *told, *raw, *inner}, key=len, reverse=True)


def _told(error: exc.SQLAlchemyError, ask: sql.Asked, *, connecting: bool = False) -> Exception:
    """What a database's error is to us: its own words, without statement, values and secrets."""
    cause = getattr(error, "orig", None) or error
    numbered = len(getattr(cause, "args", ())) > 1 and isinstance(cause.args[0], int)  # (number, text)
    text = str(cause.args[1] if numbered else cause) or type(cause).__name__
    for secret in _secrets(ask):
        text = text.replace(secret, "***")
    text = " ".join(text.split())[:500]
    where = sql.shown(ask.url)
    state = str(getattr(cause, "sqlstate", None) or "")
    if isinstance(error, exc.NoSuchTableError):
        return NotFound(f"{where}: no table {text}", expected="a table that is there")
    if state[:2] == "28" or state == "42501" or _DENIED.search(text):
        return Refused(f"{where}: {text}", expected="a user and password that may", fix="see the option password")
    if isinstance(error, exc.IntegrityError) or state[:2] == "40" or _CLASHED.search(text):
        return Conflict(
            f"{where}: {text}", expected="rows that keep to the constraints of the table, and nobody changing them"
        )
    invalidated = bool(getattr(error, "connection_invalidated", False))
    if connecting or invalidated or isinstance(error, exc.InterfaceError) or _BUSY.search(text):
        return Unavailable(f"{where}: {text}", expected="a server that answers", fix="check host and port, try again")
    return Invalid(f"{ask.what} of {where}: {text}", expected="SQL and values that the database takes")


_DENIED = re.compile(
    r"(?i)password|authenticat|access denied|permission denied|login failed|insufficient priv|not authorized|"
    r"command denied|ORA-01017|ORA-01031|ORA-28000"
)
_CLASHED = re.compile(r"(?i)deadlock|ORA-08177|could not serialize|cannot be null")
_BUSY = re.compile(
    r"(?i)database is locked|lock wait timeout|timed? ?out|connection (?:reset|refused|is closed)|ORA-03113"
)


# --- reading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Given:
    """What is read: what stands behind FROM, the columns with their types, and the values of its placeholders."""

    source: sa.FromClause
    columns: Mapping[str, types.Type]
    values: Mapping[str, Any]
    order: Sequence[str] = ()

    def select(self, names: Sequence[str], dialect: str, ask: sql.Asked, after: Any) -> sa.Select[Any]:
        """SELECT these columns, of the cursor's only what is greater than `after`."""
        found = {n: sa.column(n, t) for n, t in self.columns.items()}
        out = sa.select(*(types.selected(found[n], self.columns[n], dialect).label(n) for n in names))
        out = out.select_from(self.source)
        if after is not None:
            value, kind = types.compared(self.columns[ask.cursor], after, dialect)
            place = sa.bindparam("boucle_after", value, type_=kind)
            cursor = found[ask.cursor]
            out = out.where(cursor >= place if ask.inclusive else cursor > place)
        by = ([ask.cursor] if ask.cursor else []) + [n for n in self.order if n != ask.cursor]
        return out.order_by(*(found[n] for n in by))


def _place(table: Sequence[str]) -> tuple[str, str | None]:
    return table[-1], ".".join(table[:-1]) or None


def _called(name: str, connection: sa.Connection) -> str:
    """The name of a column, which SQLAlchemy takes from MySQL as it is quoted there."""
    return name.replace("``", "`") if connection.dialect.name in types.MYSQL else name


def _tables(connection: sa.Connection, within: str | None) -> list[str]:
    inspector = sa.inspect(connection)
    try:
        found = [*inspector.get_table_names(within), *inspector.get_view_names(within)]
    except (exc.SQLAlchemyError, NotImplementedError):
        return []
    return sorted(f"{within}.{name}" if within else name for name in found)


def _there(connection: sa.Connection, ask: sql.Asked) -> dict[str, types.Type]:
    """The columns of a table and their types, none when it is not there."""
    name, within = _place(ask.table)
    inspector = sa.inspect(connection)
    try:
        found = {_called(c["name"], connection): c["type"] for c in inspector.get_columns(name, within)}
        told = inspector.get_table_options(name, within) if connection.dialect.name in types.MYSQL else {}
    except exc.NoSuchTableError:
        return {}
    engine = next((str(v) for k, v in told.items() if k.endswith("_engine")), "")
    if engine.lower() in _UNDOES_NOTHING:
        raise Refused(
            f"{ask.what} has an engine without transactions, so that rows could be written in part", expected="InnoDB"
        )
    return found


def _table(connection: sa.Connection, ask: sql.Asked) -> _Given:
    name, within = _place(ask.table)
    inspector = sa.inspect(connection)
    try:
        columns = {_called(c["name"], connection): c["type"] for c in inspector.get_columns(name, within)}
    except exc.NoSuchTableError:
        columns = {}
    if not columns:
        raise NotFound.named("table", ".".join(ask.table), _tables(connection, within))
    order: Sequence[str] = ()
    with suppress(NotImplementedError, exc.NoSuchTableError):  # a view
        order = [_called(n, connection) for n in inspector.get_pk_constraint(name, within)["constrained_columns"]]
    return _Given(sa.table(name, schema=within), columns, {}, order)


_NONE = sa.literal_column("1") == sa.literal_column("0")


def _query(connection: sa.Connection, ask: sql.Asked) -> _Given:
    text, values = _prepared(ask, connection.dialect.name)
    source = sa.text(text).columns().subquery("boucle_query")
    with _streamed(connection, sa.select(sa.text("*")).select_from(source).where(_NONE), values) as rows:
        names = [str(n) for n in rows.keys()]  # noqa: SIM118  it is no mapping
    plain = [re.sub(r":\d+$", "", n) if connection.dialect.name == "sqlite" else n for n in names]
    sql.distinct([p if p in names else n for n, p in zip(names, plain, strict=True)], ask)  # SQLite says id and id:1
    return _Given(source, dict.fromkeys(names, sa.types.NullType()), values)


_PIECES = r"""'(?:[^'{0}]|''{1})*'|"(?:[^"{0}]|""{1})*"|`[^`]*`|{2}--[^\n]*|/\*.*?\*/|[?;()]"""


def _prepared(ask: sql.Asked, dialect: str) -> tuple[str, dict[str, Any]]:
    """The query with `:name` for each placeholder and no other colons that look so, and the values. Raises `Invalid` for more
    than one statement, and what would leave the parentheses that it is put in."""
    slashes = ("\\\\", r"|\\.") if dialect in _BACKSLASHED else ("", "")
    brackets = r"\[[^\]]*\]|" if dialect in ("mssql", "sqlite") else ""  # elsewhere they are those of arrays
    positional = ask.params is not None and not isinstance(ask.params, Mapping)
    values = list(ask.params or ()) if positional else []
    text = ask.query.strip().rstrip(";")
    out: list[str] = []
    end = depth = count = 0
    for piece in re.finditer(_PIECES.format(*slashes, brackets), text, re.DOTALL):
        found = piece[0]
        out.append(text[end : piece.start()])
        end = piece.end()
        depth += {"(": 1, ")": -1}.get(found, 0)
        if found == ";" or depth < 0:
            raise Invalid(f"the query of {sql.shown(ask.url)} is not one statement", expected="a single SELECT")
        if found == "?" and positional:
            count += 1
            found = f":boucle_{count}"
        elif len(found) > 1:
            found = re.sub(r"(?<![:\w\\]):(?=\w)", r"\\:", found)
        out.append(found)
    if positional and count != len(values):
        raise Invalid(f"{count} placeholders and {len(values)} params", expected="a value for each ? of the query")
    named = {f"boucle_{i}": v for i, v in enumerate(values, 1)} if positional else dict(ask.params or {})
    return "\n" + "".join(out) + text[end:] + "\n", named


@contextmanager
def _streamed(connection: sa.Connection, statement: sa.Select[Any], values: Mapping[str, Any]) -> Iterator[Any]:
    """The rows of a statement as the server sends them. What is not read to its end is given up with the connection."""
    streaming = connection.execution_options(stream_results=True, max_row_buffer=_FETCHED)
    rows = streaming.execute(statement, dict(values))
    cursor: Any = rows.cursor
    try:
        yield rows
    finally:
        left: Any = getattr(cursor, "_result", None)
        if getattr(left, "unbuffered_active", False):  # PyMySQL would read all the rest
            left.unbuffered_active, cursor.connection = False, None
            if not connection.invalidated:
                connection.invalidate()
        rows.close()


def _fetching(rows: Any, ask: sql.Asked) -> Callable[[int], Sequence[Any]]:
    def fetch(count: int) -> Sequence[Any]:
        try:
            return list(rows.fetchmany(count))
        except (ValueError, TypeError, ArithmeticError) as error:
            raise Invalid(
                f"{ask.what} of {sql.shown(ask.url)} has a value that its type does not allow: {error}",
                expected="values of the types that the table has",
                fix="read it as text, by a query with CAST",
            ) from None

    return fetch


def _typed(connection: sa.Connection, ask: sql.Asked, given: _Given) -> list[sql.Read]:
    """The columns with their Arrow types; where SQLAlchemy does not say them, the values do."""
    dialect = connection.dialect.name
    kinds = {n: types.arrow_type(t, dialect) for n, t in given.columns.items()}
    asked = [n for n, kind in kinds.items() if kind is None]
    if asked:
        kinds |= _sampled(connection, ask, given, asked)
    late = [n for n in asked if kinds[n] == pa.null()]
    for name in late:
        kinds |= _sampled(connection, ask, given, [name], late=True)
    out = []
    for name, kind in kinds.items():
        assert kind is not None
        json = isinstance(given.columns[name], sa.JSON)
        out.append(sql.Read(name, kind, "", types.converted(kind, dialect, json=json)))
    return out


def _sampled(
    connection: sa.Connection, ask: sql.Asked, given: _Given, names: Sequence[str], *, late: bool = False
) -> dict[str, pa.DataType | None]:
    statement = sa.select(*(sa.column(n, given.columns[n]) for n in names)).select_from(given.source).limit(_SAMPLE)
    if late:
        statement = statement.where(sa.column(names[0]).is_not(None))
    with _streamed(connection, statement, given.values) as rows:
        described = rows.cursor.description
        found = _fetching(rows, ask)(_SAMPLE + 1)
        columns = list(zip(*found, strict=True)) or [()] * len(names)
        return {n: types.seen(n, v, d) for n, v, d in zip(names, columns, described, strict=True)}


# --- writing ---------------------------------------------------------------------------------------------------------


def _declared(
    table: Sequence[str], columns: Mapping[str, types.Type], key: Sequence[str] = (), prefix: str = ""
) -> sa.Table:
    name, within = _place(table)
    whole: dict[str, Any] = {f"{d}_{k}": v for d in types.MYSQL for k, v in _INNODB.items()}
    return sa.Table(
        name, sa.MetaData(),
        *(sa.Column(n, t, primary_key=n in key, autoincrement=False) for n, t in columns.items()),
        schema=within, prefixes=[prefix] if prefix else [], **whole,
    )  # fmt: skip


_INNODB = {"engine": "InnoDB", "charset": "utf8mb4", "collate": "utf8mb4_bin"}


def _make(connection: sa.Connection, ask: sql.Asked, rows: sql.Rows, key: Sequence[str]) -> int:
    """Fill a new table; where it could not be undone, under another name until it is whole."""
    dialect = connection.dialect.name
    within = dialect in _MAKES_WITHIN
    name = ask.table if within else (*ask.table[:-1], f"boucle_new_{uuid.uuid4().hex[:12]}")
    table = _declared(name, {f.name: types.made(f.type, dialect, key=f.name in key) for f in rows.schema}, key)
    connection.execute(schema.CreateTable(table))
    try:
        written = _insert(connection, table, rows)
        connection.commit()
        if not within:
            quote = connection.dialect.identifier_preparer
            final = quote.quote(ask.table[-1])
            if table.schema and dialect != "oracle":
                final = f"{quote.quote_schema(table.schema)}.{final}"
            connection.exec_driver_sql(f"ALTER TABLE {quote.format_table(table)} RENAME TO {final}")
            connection.commit()
    except BaseException as error:
        if not within:
            _drop(connection, table)
        if key and isinstance(error, exc.IntegrityError):
            raise Invalid(
                f"two rows to merge have the same key {', '.join(key)}, or one has none", expected="each key once"
            ) from None
        raise
    return written


def _drop(connection: sa.Connection, table: sa.Table) -> None:
    with suppress(exc.SQLAlchemyError):
        connection.rollback()
        connection.execute(schema.DropTable(table))
        connection.commit()


def _insert(connection: sa.Connection, table: sa.Table, rows: sql.Rows) -> int:
    dialect = connection.dialect.name
    kinds = [table.columns[f.name].type for f in rows.schema]
    places = {
        table.columns[f.name]: sa.bindparam(f"c{i}", type_=types.bound(kind, f.type, dialect))
        for i, (f, kind) in enumerate(zip(rows.schema, kinds, strict=True))
    }
    statement = sa.insert(table).values(places)
    names = [f"c{i}" for i in range(len(kinds))]
    written = 0
    for batch in rows.batches:
        if dialect not in _HAS_NAN:
            sql.finite(rows.schema, batch, dialect)
        for start in range(0, batch.num_rows, _PIECE):
            part = batch.slice(start, _PIECE)
            columns = [types.sent(c, kind, dialect) for c, kind in zip(part.columns, kinds, strict=True)]
            connection.execute(statement, [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)])
        written += batch.num_rows
    return written


def _merge(connection: sa.Connection, target: sa.Table, rows: sql.Rows, key: Sequence[str]) -> int:
    """Stage the rows, change those that are there, add the others."""
    dialect, columns = connection.dialect.name, {c.name: c.type for c in target.columns}
    untold = [n for n, kind in columns.items() if isinstance(kind, sa.types.NullType)]
    if untold:
        raise Invalid(f"SQLAlchemy does not know the type of column {untold[0]!r}", expected="a type that it can stage")
    temporary = dialect in _TEMPORARY
    name = f"{'#' if dialect == 'mssql' else ''}boucle_staged_{uuid.uuid4().hex[:12]}"
    place = () if temporary or dialect == "mssql" or not target.schema else (target.schema,)
    staged = _declared((*place, name), columns, prefix="TEMPORARY" if temporary else "")
    connection.execute(schema.CreateTable(staged))
    try:
        written = _insert(connection, staged, rows)
        _check_keys(connection, staged, key)
        same = sa.and_(*(target.columns[k] == staged.columns[k] for k in key))
        others = [n for n in columns if n not in key]
        if others and dialect in _JOINS:
            sets = {target.columns[n]: staged.columns[n] for n in others}
            connection.execute(sa.update(target).values(sets).where(same))
        elif others:
            connection.execute(schema.CreateIndex(sa.Index(f"{name}_key", *(staged.columns[k] for k in key))))
            one = {target.columns[n]: sa.select(staged.columns[n]).where(same).scalar_subquery() for n in others}
            connection.execute(sa.update(target).values(one).where(sa.exists().where(same)))
        held = target.alias("held")
        known = sa.exists().where(*(held.columns[k] == staged.columns[k] for k in key))
        new = sa.select(*staged.columns).where(~known)
        connection.execute(sa.insert(target).from_select(list(columns), new))
        connection.commit()
    finally:
        if not temporary and dialect != "mssql":
            _drop(connection, staged)
    return written


def _check_keys(connection: sa.Connection, staged: sa.Table, key: Sequence[str]) -> None:
    """Raise `Invalid` where the rows to merge have a key twice, or none."""
    keys = [staged.columns[k] for k in key]
    if connection.execute(sa.select(sa.literal(1)).where(sa.or_(*(k.is_(None) for k in keys))).limit(1)).first():
        raise Invalid(f"the key {', '.join(key)} is null in a row", expected="a key in every row to merge")
    twice = connection.execute(sa.select(*keys).group_by(*keys).having(sa.func.count() > 1).limit(1)).first()
    if twice:
        said = ", ".join(f"{k}={v}" for k, v in zip(key, twice, strict=True))
        raise Invalid(f"two rows to merge have the key {said}", expected="each key once")
