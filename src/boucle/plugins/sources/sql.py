# ruff: noqa: S608  names are quoted and values bound, see Style
"""What the sources for SQL databases share: what is asked of one, as a statement whose values are bound, and how rows become
batches and go back."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import re
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from boucle.core.errors import Invalid, NotFound
from boucle.core.frames import BATCH_ROWS, Frame, arrow_schema, type_name
from boucle.core.schema import Column, Schema, jsonable
from boucle.ports.place import bare
from boucle.ports.source import Mode

OPTIONS: dict[str, str] = {
    "table": "what to read, such as orders or sales.orders; in the URL it may stand behind #",
    "query": "a SELECT statement instead of a table",
    "params": "values for the placeholders of the query: a list or a mapping",
    "cursor": "the column that tells what is new",
    "after": "only rows whose cursor is greater than this",
    "inclusive": "true: or equal to it",
    "password": "where it is not in the URL",
}
MODES = ("append", "replace", "merge")
_BYTES = 1 << 25  # of values in a batch, about
_PIECE = 1 << 22  # and in one fetch


@dataclass(frozen=True, slots=True)
class Style:
    """How a database wants its SQL."""

    quote: str = '"'
    positional: str = "?"
    named: str = ":{}"
    percent: bool = False  # whether a lone % means a placeholder to the driver

    def name(self, *parts: str) -> str:
        """An identifier of one or more parts, quoted."""
        return ".".join(self._one(part) for part in parts)

    def _one(self, part: str) -> str:
        if not part or "\0" in part:
            raise Invalid(f"{part!r} is not a name", expected="a name of at least one character")
        text = self.quote + part.replace(self.quote, 2 * self.quote) + self.quote
        return text.replace("%", "%%") if self.percent else text


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be read or written, and where."""

    url: str  # without the table behind #
    table: tuple[str, ...] = ()
    query: str = ""
    params: Any = None
    cursor: str = ""
    after: Any = None
    password: str = ""
    inclusive: bool = False

    @property
    def what(self) -> str:
        return "the query" if self.query else f"table {'.'.join(self.table)!r}"

    def relation(self, style: Style) -> str:
        """What stands behind FROM."""
        if not self.query:
            return style.name(*self.table)
        text = self.query.strip().rstrip(";")
        if style.percent and self.params is None:
            text = text.replace("%", "%%")
        return f"(\n{text}\n) boucle_query"

    def bound(self, style: Style, extra: Any = None, *, more: bool = False) -> tuple[Any, str]:
        """The values to bind, and the placeholder of `extra` among them where there is `more`."""
        if isinstance(self.params, Mapping):
            values = dict(self.params)
            return (values | {"boucle_after": extra}, style.named.format("boucle_after")) if more else (values, "")
        given = list(self.params or ())
        return ([*given, extra], style.positional) if more else (given, "")


def asked(source: str, url: str, options: Mapping[str, Any], known: Mapping[str, str] = OPTIONS) -> Asked:
    """What URL and options ask for. Raises `Invalid` for options that are unknown or do not go together."""
    unknown = [o for o in options if o not in known]
    if unknown:
        raise Invalid(f"the {source} source has no option {unknown[0]!r}", expected=f"one of {', '.join(known)}")
    address, _, behind = url.partition("#")
    table, query = options.get("table") or urllib.parse.unquote(behind), options.get("query") or ""
    if table and query:
        raise Invalid("both a table and a query", expected="one of them")
    if options.get("params") is not None and not query:
        raise Invalid("params without a query", expected="the query whose placeholders they fill")
    if not isinstance(options.get("params") or [], list | tuple | Mapping):
        raise Invalid("params is neither a list nor a mapping", expected="a list or a mapping")
    if options.get("after") is not None and not options.get("cursor"):
        raise Invalid("after without a cursor", expected="the column it is compared with, as the option cursor")
    return Asked(
        address, named(table) if table else (), str(query), options.get("params"), options.get("cursor") or "",
        options.get("after"), options.get("password") or "", bool(options.get("inclusive")),
    )  # fmt: skip


def named(table: Any) -> tuple[str, ...]:
    """The parts of a table's name: `sales.orders`, `"with.dot".orders`, or a list of them."""
    if isinstance(table, list | tuple) and all(isinstance(t, str) for t in table):
        return tuple(table)
    if not isinstance(table, str):
        raise Invalid(f"table={table!r}", expected="a name such as orders or sales.orders")
    parts = re.findall(r'"((?:[^"]|"")*)"(?:\.|$)|([^".]+)(?:\.|$)', table)
    if "".join(f'"{q}".' if q else f"{p}." for q, p in parts) != table + ".":
        return (table,)  # an odd name is a name as well
    return tuple(q.replace('""', '"') or p for q, p in parts)


def need(ask: Asked, tables: Callable[[], Sequence[str]]) -> Asked:
    """With a table or a query: that of a database with only one table may be left out. Raises `Invalid`."""
    if ask.table or ask.query:
        return ask
    known = list(tables())
    if len(known) != 1:
        raise Invalid(
            f"{shown(ask.url)} has {len(known)} tables",
            expected=f"the name of one: {', '.join(known[:8])}" if known else "a table",
            fix="name it behind # in the URL, as the option table, or give the option query",
        )
    return replace(ask, table=named(known[0]))


def shown(url: str) -> str:
    """A URL without user, password, query and table."""
    return re.split(r"[?#]", bare(url), maxsplit=1)[0] if "://" in url else url.partition("#")[0]


def split(url: str) -> urllib.parse.SplitResult:
    """The parts of a URL; raises `Invalid`, which does not repeat it, for what is none."""
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port
    except ValueError:
        raise Invalid(
            f"the {url.partition(':')[0]} URL cannot be read",
            expected="scheme://user:password@host:port/database",
            fix="write special characters of user and password as %XX",
        ) from None
    return parts


def secrets(ask: Asked) -> list[str]:
    """What must not be seen of a URL and its options."""
    authority = ask.url.partition("://")[2].split("/", 1)[0]
    raw = authority.rpartition("@")[0].partition(":")[2]
    return sorted({s for s in (raw, urllib.parse.unquote(raw), ask.password) if s}, key=len, reverse=True)


def hidden(text: str, ask: Asked) -> str:
    """A text of the driver, in one line, without the password."""
    for secret in secrets(ask):
        text = text.replace(secret, "***")
    return " ".join(text.split())


def statement(
    style: Style, ask: Asked, columns: Sequence[str], *, order: Sequence[str] = (), cursor: str = "", after: Any = None
) -> tuple[str, Any]:
    """SELECT these expressions (of `cursor` only what is greater than `after`), and the values to bind."""
    after = None if ask.after is None else after
    values, place = ask.bound(style, after, more=after is not None)
    text = f"SELECT {', '.join(columns)} FROM {ask.relation(style)}"
    if after is not None:
        text += f" WHERE {cursor} {'>=' if ask.inclusive else '>'} {place}"
    by = ([cursor] if cursor else []) + [o for o in order if o != cursor]
    return text + (f" ORDER BY {', '.join(by)}" if by else ""), values


def distinct(names: Sequence[str], ask: Asked) -> None:
    """Raise `Invalid` where two columns have one name."""
    twice = sorted({n for n in names if names.count(n) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise Invalid(
            f"{ask.what}: column names occur twice: {', '.join(map(repr, twice[:5]))}",
            expected="distinct column names",
            fix="give them names with AS",
        )


def compared(ask: Asked, types: Mapping[str, pa.DataType]) -> Any:
    """`after` as a value of the cursor's type. Raises `Invalid` for a cursor that is no column, or a value that does not fit."""
    if not ask.cursor:
        return None
    if ask.cursor not in types:
        raise NotFound.named("column", ask.cursor, types, fix="see the option cursor")
    if ask.after is None:
        return None
    kind, value = types[ask.cursor], ask.after
    t = pa.types
    try:
        if t.is_timestamp(kind) and isinstance(value, str | dt.datetime):
            moment = dt.datetime.fromisoformat(value) if isinstance(value, str) else value
            if kind.tz and moment.tzinfo is None:
                return moment.replace(tzinfo=dt.UTC)
            return moment if kind.tz or moment.tzinfo is None else moment.astimezone(dt.UTC).replace(tzinfo=None)
        if isinstance(value, str) and t.is_date(kind):
            return dt.date.fromisoformat(value)
        if isinstance(value, str) and t.is_time(kind):
            return dt.time.fromisoformat(value)
        if t.is_integer(kind) and not isinstance(value, float):
            return int(value)
        if t.is_floating(kind):
            return float(value)
        if t.is_decimal(kind):
            return decimal.Decimal(str(value))
    except (ValueError, TypeError, ArithmeticError):
        raise Invalid(
            f"after={value!r} cannot be compared with column {ask.cursor!r}", expected=f"a {type_name(kind)}"
        ) from None
    return value


# --- rows to batches -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Read:
    """A column that is read: its name, its Arrow type, how it is selected, and what becomes of the values that come."""

    name: str
    type: pa.DataType
    expression: str
    array: Callable[[list[Any]], pa.Array] | None = None  # None: they are of the type already


def schema_of(columns: Sequence[Read]) -> Schema:
    return Schema(tuple(Column(c.name, type_name(c.type)) for c in columns))


def chosen(columns: Sequence[Read], names: Sequence[str] | None) -> list[Read]:
    """These of the columns, in that order."""
    if names is None:
        return list(columns)
    by_name = {c.name: c for c in columns}
    return [by_name[n] for n in names]


def batches(fetch: Callable[[int], Sequence[Sequence[Any]]], columns: Sequence[Read]) -> Iterator[pa.RecordBatch]:
    """Record batches of the rows that `fetch(n)` gives, until it gives none: of so many rows as fit into bounded memory."""
    held: list[Sequence[Any]] = []
    size, step = 0, 64
    while rows := fetch(step):
        held.extend(rows)
        weight = sum(len(v) if isinstance(v, str | bytes) else 16 for row in rows for v in row)
        size += weight
        step = max(1, min(8192, _PIECE * len(rows) // max(weight, 1)))
        if size >= _BYTES or len(held) >= BATCH_ROWS:
            yield batch(held, columns)
            held, size = [], 0
    if held:
        yield batch(held, columns)


def gathered(small: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Small batches joined to larger ones, of bounded memory."""
    held: list[pa.RecordBatch] = []
    for one in small:
        held.append(one)
        if sum(b.num_rows for b in held) >= BATCH_ROWS or sum(b.nbytes for b in held) >= _BYTES:
            yield pa.concat_batches(held)
            held = []
    if held:
        yield pa.concat_batches(held)


def batch(rows: Sequence[Sequence[Any]], columns: Sequence[Read]) -> pa.RecordBatch:
    """One record batch; raises `Invalid` naming the column whose values do not have its type."""
    arrays = []
    for column, values in zip(columns, zip(*rows, strict=True), strict=True):
        try:
            arrays.append(column.array(list(values)) if column.array else pa.array(values, column.type))
        except (pa.ArrowInvalid, pa.ArrowTypeError, ValueError, TypeError, OverflowError, ArithmeticError) as error:
            if isinstance(error, Invalid):
                raise
            raise unfit(column.name, column.type, error) from None
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema([pa.field(c.name, c.type) for c in columns]))


def unfit(name: str, kind: pa.DataType, why: object) -> Invalid:
    return Invalid(
        f"column {name!r} has a value that is not {kind}: {why}",
        expected=str(kind),
        fix="read it as text, by a query with CAST",
    )


def parsed(kind: pa.DataType) -> Callable[[list[Any]], pa.Array]:
    """Texts as values of a type."""
    return lambda values: pa.array(values, pa.string()).cast(kind)


# --- writing ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rows:
    """What is to be written: plain batches of one schema."""

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]


def rows_of(frame: Frame) -> Rows:
    """The batches of a frame with dictionaries decoded; raises `Invalid` for types that no database has."""
    stream = frame.batches()
    first = next(stream, None)
    found = first.schema if first is not None else arrow_schema(frame.schema)
    if not len(found):
        raise Invalid("the table has no columns", expected="at least one")
    schema = pa.schema([pa.field(f.name, _plain(f.name, f.type)) for f in found])

    def plain() -> Iterator[pa.RecordBatch]:
        if first is not None:
            yield _cast(first, schema)
        for one in stream:
            yield _cast(one, schema)

    return Rows(schema, plain())


def _plain(name: str, kind: pa.DataType) -> pa.DataType:
    t = pa.types
    if t.is_dictionary(kind) or t.is_run_end_encoded(kind):
        return _plain(name, kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(name, kind.storage_type)
    if t.is_large_string(kind) or t.is_string_view(kind):
        return pa.string()
    if t.is_large_binary(kind) or t.is_binary_view(kind) or t.is_fixed_size_binary(kind):
        return pa.binary()
    if t.is_float16(kind):
        return pa.float32()
    if t.is_date(kind):
        return pa.date32()
    if t.is_time(kind):
        return pa.time64("us")
    if t.is_timestamp(kind):
        return pa.timestamp("us", "UTC" if kind.tz else None)
    if t.is_duration(kind):
        return pa.duration("us")
    if t.is_union(kind) or t.is_interval(kind):
        raise Invalid(f"column {name!r} is {kind}", expected="numbers, text, times, lists or structs")
    return kind


def _cast(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    arrays = []
    for name, kind in zip(schema.names, schema.types, strict=True):
        column = batch.column(name)
        try:
            column = column.storage if isinstance(column, pa.ExtensionArray) else column
            arrays.append(column if column.type == kind else column.cast(kind))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise Invalid(f"column {name!r} does not become {kind}: {error}", expected="values that fit") from None
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def check_write(source: str, mode: Mode, key: Sequence[str], schema: pa.Schema) -> None:
    """Raise `Invalid` for a mode and key that do not go together, or a key that is no column."""
    if mode not in MODES:
        raise Invalid(f"{source}: mode={mode!r}", expected=f"one of {', '.join(MODES)}")
    if mode == "merge" and not key:
        raise Invalid("merge without a key", expected="the columns by which rows are the same", fix="--key COLUMN")
    if mode != "merge" and key:
        raise Invalid(f"a key is for merge, and the mode is {mode}", expected="no key, or merge")
    for name in key:
        if name not in schema.names:
            raise NotFound.named("column", name, schema.names, fix="see the key of the merge")


def check_columns(ask: Asked, schema: pa.Schema, there: Sequence[str]) -> None:
    """Raise `Invalid` where a column is to be written that the table does not have."""
    missing = [n for n in schema.names if n not in there]
    if missing:
        raise Invalid(
            f"{ask.what} has no column {', '.join(map(repr, missing[:5]))}",
            expected=f"columns among {', '.join(there[:12])}",
            fix="add the column to the table, leave it out, or drop the table and have it made anew",
        )


def merging(style: Style, target: str, staged: str, columns: Sequence[str], key: Sequence[str]) -> list[str]:
    """The statements that bring staged rows into a table: change the rows that are there, add the others. Unlike ON CONFLICT
    they need no unique index, and leave the columns alone that the staged rows do not have."""
    same = " AND ".join(f"t.{style.name(k)} = s.{style.name(k)}" for k in key)
    sets = ", ".join(f"{style.name(c)} = s.{style.name(c)}" for c in columns if c not in key)
    change = [f"UPDATE {target} AS t SET {sets} FROM {staged} AS s WHERE {same}"] if sets else []
    return [*change, adding(style, target, staged, columns, key)]


def adding(style: Style, target: str, staged: str, columns: Sequence[str], key: Sequence[str]) -> str:
    """Add the staged rows whose key is not there yet."""
    same = " AND ".join(f"t.{style.name(k)} = s.{style.name(k)}" for k in key)
    names = ", ".join(style.name(c) for c in columns)
    return (
        f"INSERT INTO {target} ({names}) SELECT {names} FROM {staged} AS s "
        f"WHERE NOT EXISTS (SELECT 1 FROM {target} AS t WHERE {same})"
    )


def check_keys(style: Style, staged: str, key: Sequence[str], one: Callable[[str], Any]) -> None:
    """Raise `Invalid` where the rows to merge have a key twice, or none. `one` gives the first row of a statement."""
    names = [style.name(k) for k in key]
    if one(f"SELECT 1 FROM {staged} WHERE {' OR '.join(f'{n} IS NULL' for n in names)} LIMIT 1"):
        raise Invalid(f"the key {', '.join(key)} is null in a row", expected="a key in every row to merge")
    listed = ", ".join(names)
    twice = one(f"SELECT {listed} FROM {staged} GROUP BY {listed} HAVING count(*) > 1 LIMIT 1")
    if twice:
        said = ", ".join(f"{k}={v}" for k, v in zip(key, twice, strict=True))
        raise Invalid(f"two rows to merge have the key {said}", expected="each key once")


def finite(schema: pa.Schema, batch: pa.RecordBatch, database: str) -> None:
    """Raise `Invalid` for numbers that a database without NaN and infinity would change."""
    import pyarrow.compute as pc

    for name, column in zip(schema.names, batch.columns, strict=True):
        if pa.types.is_floating(column.type) and pc.any(pc.invert(pc.is_finite(column))).as_py():
            raise Invalid(
                f"column {name!r} holds NaN or infinity, which {database} does not have",
                expected="numbers and nulls",
                fix="make them null first",
            )


def as_json(value: Any) -> str:
    """A list or struct as JSON text."""
    return json.dumps(jsonable(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
