"""Delta Lake tables: read as of a version or a moment, written in one transaction of its log.

`delta:///folder/of/table`, or `delta+s3://bucket/table` (also `delta+gs`, `delta+az`), whose credentials come from the
options or, by the rules of delta-rs, from the environment.
"""

from __future__ import annotations

import datetime as dt
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import pyarrow as pa
from deltalake import DeltaTable, QueryBuilder, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, DeltaProtocolError, TableNotFoundError

from boucle.core.errors import BoucleError, Conflict, Invalid, NotFound, Unavailable
from boucle.core.frames import BATCH_ROWS, Frame, schema_of
from boucle.plugins.sources.lake import Counted, check_there, check_types, filled, keyed, settings_of
from boucle.plugins.sources.sql import check_write, rows_of
from boucle.ports.source import Mode, Reading

_OPTIONS = {
    "version": "the version to read; the newest",
    "at": "read what the table was at a moment, such as 2026-11-01T12:00Z",
    "storage": 'settings of the storage as delta-rs knows them, such as {"AWS_REGION": "eu-west-3"}',
}


class DeltaSource:
    """Delta Lake, through delta-rs."""

    name: ClassVar[str] = "delta"
    suffixes: ClassVar[tuple[str, ...]] = ()
    schemes: ClassVar[tuple[str, ...]] = ("delta", "delta+s3", "delta+gs", "delta+az")
    options: ClassVar[dict[str, str]] = _OPTIONS

    def read(self, url: str, options: Mapping[str, Any]) -> Reading:
        """The rows of one version. Raises `NotFound` for a table or version that is not there."""
        place, storage = _place(url), settings_of("delta", options, _OPTIONS, "storage")
        if options.get("version") is not None and options.get("at") is not None:
            raise Invalid("both version and at are given", expected="one of them")
        table = _table(place, storage)
        if options.get("version") is not None or options.get("at") is not None:
            _travel(table, options)
        version = table.version()
        arrow = pa.schema(table.schema().to_arrow())

        def opener(columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
            pinned = _table(place, storage)
            if pinned.version() != version:
                pinned.load_as_version(version)
            return _batches(pinned, arrow.names if columns is None else list(columns))

        rows = (
            sum(pa.table(table.get_add_actions(flatten=True)).column("num_records").to_pylist(), 0)
            if _plain(table)
            else None
        )
        return Reading(Frame(schema_of(arrow), opener, rows), {"version": version, "files": len(table.file_uris())})

    def write(self, frame: Frame, url: str, mode: Mode, key: Sequence[str], options: Mapping[str, Any]) -> int:
        """Write in one commit of the table's log; older versions stay. `merge` holds the rows in memory."""
        place, storage = _place(url), settings_of("delta", options, _OPTIONS, "storage")
        if options.get("version") is not None or options.get("at") is not None:
            raise Invalid("version and at are for reading", expected="neither when writing")
        rows = rows_of(frame)
        check_write("delta", mode, key, rows.schema)
        check_types(rows, lambda t: pa.types.is_time(t) or pa.types.is_duration(t), "Delta")
        counted = Counted(rows)
        try:
            if not DeltaTable.is_deltatable(place, storage or None):
                new = (
                    keyed(counted.rows, key).to_reader()
                    if mode == "merge"
                    else pa.RecordBatchReader.from_batches(rows.schema, counted.rows.batches)
                )
                write_deltalake(place, new, mode="error", storage_options=storage or None)
                return counted.count
            table = _table(place, storage)
            there = pa.schema(table.schema().to_arrow())
            check_there(rows, there.names, _shown(place))
            if mode == "merge":
                same = " AND ".join(f"t.{_quoted(k)} = s.{_quoted(k)}" for k in key)
                values = {_quoted(c): f"s.{_quoted(c)}" for c in rows.schema.names}
                merger = table.merge(keyed(counted.rows, key), same, source_alias="s", target_alias="t")
                merger.when_matched_update(values).when_not_matched_insert(values).execute()
            else:
                verb: Literal["overwrite", "append"] = "overwrite" if mode == "replace" else "append"
                write_deltalake(table, filled(counted.rows, there), mode=verb)
        except (DeltaError, OSError, ValueError, pa.ArrowException) as error:
            counted.again()
            raise _explained(error, place) from None
        return counted.count


def _place(url: str) -> str:
    scheme, _, rest = url.partition("://")
    if not rest:
        raise Invalid(f"{url} names no table", expected="delta:///folder/of/table or delta+s3://bucket/table")
    if scheme == "delta":
        return urllib.parse.unquote(rest.partition("?")[0])
    return f"{scheme.removeprefix('delta+')}://{rest}"


def _table(place: str, storage: dict[str, str]) -> DeltaTable:
    try:
        return DeltaTable(place, storage_options=storage or None)
    except (DeltaError, OSError, ValueError) as error:
        raise _explained(error, place) from None


def _travel(table: DeltaTable, options: Mapping[str, Any]) -> None:
    version, at, newest = options.get("version"), options.get("at"), table.version()
    if version is not None:
        if isinstance(version, bool) or not str(version).isdecimal():
            raise Invalid(f"version={version!r}", expected=f"a number from 0 to {newest}")
        wanted: int | dt.datetime = int(version)
        found = int(version) <= newest
    else:
        try:
            moment = dt.datetime.fromisoformat(str(at))
        except ValueError:
            raise Invalid(f"at={at!r}", expected="a time such as 2026-11-01T12:00:00+00:00") from None
        wanted = moment = moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
        found = moment.timestamp() * 1000 >= min(entry["timestamp"] for entry in table.history())
    try:
        if found:
            table.load_as_version(wanted)
    except DeltaError:
        found = False  # its files were vacuumed away, or its log was
    if not found:
        said = f"version {version}" if version is not None else f"version at {at}"
        raise NotFound(f"the table has no {said}", expected=f"a version up to {newest} that is kept still")


def _plain(table: DeltaTable) -> bool:
    """Whether the files hold just the rows."""
    return "deletionVectors" not in (table.protocol().reader_features or [])


def _batches(table: DeltaTable, columns: list[str]) -> Iterator[pa.RecordBatch]:
    try:
        if _plain(table):
            try:
                yield from table.to_pyarrow_dataset().to_batches(columns=columns, batch_size=BATCH_ROWS)
                return
            except DeltaProtocolError:
                pass  # a feature that only the engine behind SQL knows
        chosen = ", ".join(map(_quoted, columns))
        result = QueryBuilder().register("t", table).execute(f"SELECT {chosen} FROM t")  # noqa: S608  names are quoted
        yield from pa.RecordBatchReader.from_stream(result)
    except (DeltaError, OSError, pa.ArrowException) as error:
        raise _explained(error, table.table_uri) from None


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _shown(place: str) -> str:
    return place.partition("?")[0]


def _explained(error: Exception, place: str) -> BoucleError:
    shown = _shown(place)
    if isinstance(error, TableNotFoundError):
        return NotFound(f"no Delta table at {shown}", expected="a folder with a _delta_log", fix="check the path")
    if isinstance(error, CommitFailedError):
        return Conflict(
            f"{shown} was changed by somebody else meanwhile: {error}", expected="one writer", fix="try again"
        )
    if isinstance(error, OSError):
        return Unavailable(f"{shown}: {error}", expected="storage that answers", fix="check network and credentials")
    return Invalid(f"{shown}: {str(error)[:500]}", expected="a Delta table that fits", fix="see the message")
