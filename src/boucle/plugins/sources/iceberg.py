"""Apache Iceberg tables: read as of a snapshot, written in one commit.

`iceberg+https://catalog.example/` (a REST catalog), `iceberg+sqlite:///catalog.db` or `iceberg+postgresql://...` (an SQL
catalog), with the option `table`; or, to read only, `iceberg:///path/to/table/metadata/x.metadata.json`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar

import pyarrow as pa
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.exceptions import (
    CommitFailedException,
    NamespaceAlreadyExistsError,
    NoSuchNamespaceError,
    NoSuchTableError,
    RESTError,
    ValidationError,
)
from pyiceberg.table import StaticTable, Table

from boucle.core.errors import BoucleError, Conflict, Invalid, NotFound, Unavailable
from boucle.core.frames import Frame, schema_of
from boucle.plugins.sources.lake import Counted, check_there, check_types, filled, keyed, settings_of
from boucle.plugins.sources.sql import check_write, rows_of
from boucle.ports.source import Mode, Reading

_OPTIONS = {
    "table": "namespace.name of the table",
    "snapshot": "the id of the snapshot, or the name of a branch or tag, to read; the newest",
    "at": "read what the table was at a moment, such as 2026-11-01T12:00Z",
    "catalog": 'properties of the catalog and its storage, such as {"warehouse": "s3://lake"}',
    "token": "of a REST catalog",
}
_ERRORS = (
    NoSuchTableError, NoSuchNamespaceError, CommitFailedException, ValidationError, RESTError, OSError, ValueError,
    pa.ArrowException,
)  # fmt: skip


class IcebergSource:
    """Apache Iceberg, through PyIceberg."""

    name: ClassVar[str] = "iceberg"
    suffixes: ClassVar[tuple[str, ...]] = ()
    schemes: ClassVar[tuple[str, ...]] = (
        "iceberg", "iceberg+http", "iceberg+https", "iceberg+sqlite", "iceberg+postgresql"
    )  # fmt: skip
    options: ClassVar[dict[str, str]] = _OPTIONS

    def read(self, url: str, options: Mapping[str, Any]) -> Reading:
        """The rows of one snapshot. Raises `NotFound` for a table or snapshot that is not there."""
        table = _table(url, options)
        snapshot = _snapshot(table, options)
        arrow = _plain(table.scan(snapshot_id=snapshot).projection().as_arrow())

        def opener(columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
            fields = tuple(arrow.names if columns is None else columns)
            try:
                scan = table.scan(selected_fields=fields, snapshot_id=snapshot)
                for batch in scan.to_arrow_batch_reader():
                    yield batch.select(list(fields)).cast(pa.schema([arrow.field(f) for f in fields]))
            except _ERRORS as error:
                raise _explained(error, table) from None

        found = {"snapshot": snapshot, "table": ".".join(table.name())}
        return Reading(Frame(schema_of(arrow), opener), {k: v for k, v in found.items() if v})

    def write(self, frame: Frame, url: str, mode: Mode, key: Sequence[str], options: Mapping[str, Any]) -> int:
        """Write in one commit; the table and its namespace are made when they are not there.

        `merge` holds the rows in memory. Raises `Conflict` when somebody else commits at the same time.
        """
        catalog, name = _catalog(url, options), _name(options)
        if options.get("snapshot") is not None or options.get("at") is not None:
            raise Invalid("snapshot and at are for reading", expected="neither when writing")
        rows = rows_of(frame)
        check_write("iceberg", mode, key, rows.schema)
        check_types(rows, _unfit, "Iceberg")
        counted = Counted(rows)
        try:
            table = _there(catalog, name)
            if table is not None:
                check_there(rows, table.schema().as_arrow().names, name)
            if mode == "merge":
                delta = keyed(counted.rows, key)
                if table is None:
                    _make(catalog, name, rows.schema, delta.to_reader())
                else:
                    table.upsert(delta, join_cols=list(key))
            elif table is None:
                reader = pa.RecordBatchReader.from_batches(rows.schema, counted.rows.batches)
                _make(catalog, name, rows.schema, reader)
            else:
                reader = filled(counted.rows, _plain(table.schema().as_arrow()))
                commit = table.overwrite if mode == "replace" else table.append
                commit(reader)
        except _ERRORS as error:
            counted.again()
            raise _explained(error, None, name) from None
        return counted.count


def _there(catalog: Catalog, name: str) -> Table | None:
    try:
        return catalog.load_table(name)
    except (NoSuchTableError, NoSuchNamespaceError):
        return None


def _make(catalog: Catalog, name: str, arrow: pa.Schema, rows: pa.RecordBatchReader) -> None:
    """Make the table and its first snapshot in one commit."""
    with suppress(NamespaceAlreadyExistsError):
        catalog.create_namespace(name.rpartition(".")[0])
    with catalog.create_table_transaction(name, schema=arrow) as together:
        together.append(rows)


def _unfit(kind: pa.DataType) -> bool:
    t = pa.types
    return bool(t.is_duration(kind) or t.is_null(kind) or (t.is_unsigned_integer(kind) and kind.bit_width == 64))


def _plain(arrow: pa.Schema) -> pa.Schema:
    """Without the ids of fields, which the writer finds by name, and with the plain form of each type."""
    return pa.schema([pa.field(f.name, _small(f.type), f.nullable) for f in arrow])


def _small(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_large_string(kind):
        return pa.string()
    if pa.types.is_large_binary(kind):
        return pa.binary()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(_small(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(f.name, _small(f.type)) for f in kind])
    return kind


def _name(options: Mapping[str, Any]) -> str:
    name = options.get("table")
    if not isinstance(name, str) or "." not in name:
        raise Invalid(f"table={name!r}", expected="namespace.name", fix="--option table=shop.orders")
    return name


def _properties(options: Mapping[str, Any]) -> dict[str, str]:
    token = {"token": str(options["token"])} if options.get("token") else {}
    return {**settings_of("iceberg", options, _OPTIONS, "catalog"), **token}


def _catalog(url: str, options: Mapping[str, Any]) -> Catalog:
    scheme, _, rest = url.partition("://")
    kind = scheme.removeprefix("iceberg+")
    if scheme == "iceberg":
        raise Invalid("a metadata file can only be read", expected="the URL of a catalog, such as iceberg+https://...")
    given = {"type": "rest" if kind.startswith("http") else "sql", "uri": f"{kind}://{rest}", **_properties(options)}
    try:
        return load_catalog("boucle", **given)
    except _ERRORS as error:
        raise _explained(error, None, "the catalog") from None


def _table(url: str, options: Mapping[str, Any]) -> Table:
    scheme, _, rest = url.partition("://")
    try:
        if scheme == "iceberg":
            return StaticTable.from_metadata(rest, properties=_properties(options))
        return _catalog(url, options).load_table(_name(options))
    except _ERRORS as error:
        raise _explained(error, None, str(options.get("table") or rest)) from None


def _snapshot(table: Table, options: Mapping[str, Any]) -> int | None:
    wanted, moment = options.get("snapshot"), options.get("at")
    if wanted is not None and moment is not None:
        raise Invalid("both snapshot and at are given", expected="one of them")
    known = [s.snapshot_id for s in table.snapshots()]
    if moment is not None:
        try:
            then = dt.datetime.fromisoformat(str(moment))
        except ValueError:
            raise Invalid(f"at={moment!r}", expected="a time such as 2026-11-01T12:00:00+00:00") from None
        then = then if then.tzinfo else then.replace(tzinfo=dt.UTC)
        found = table.snapshot_as_of_timestamp(int(then.timestamp() * 1000))
        if found is None:
            raise NotFound(f"the table had no snapshot at {moment}", expected="a later moment")
        return found.snapshot_id
    if wanted is None:
        current = table.current_snapshot()
        return current.snapshot_id if current else None
    by_name = table.snapshot_by_name(str(wanted))
    if by_name is not None:
        return by_name.snapshot_id
    if str(wanted).isdecimal() and int(wanted) in known:
        return int(wanted)
    raise NotFound(
        f"the table has no snapshot {wanted}", expected=f"one of {', '.join(map(str, known[-5:]))}, or a branch or tag"
    )


def _explained(error: Exception, table: Table | None, name: str = "") -> BoucleError:
    what = name or (".".join(table.name()) if table is not None else "the table")
    if isinstance(error, NoSuchTableError | NoSuchNamespaceError | FileNotFoundError):
        return NotFound(f"no Iceberg table {what}", expected="namespace.name of a table of the catalog")
    if isinstance(error, CommitFailedException):
        return Conflict(f"{what} was changed by somebody else meanwhile", expected="one writer", fix="try again")
    if isinstance(error, OSError | RESTError):
        kind = type(error).__name__  # the text may hold the URL with its credentials
        return Unavailable(f"the catalog or storage of {what} did not answer ({kind})", expected="it to be there")
    return Invalid(f"{what}: {str(error)[:500]}", expected="a table that fits")
