"""From messages to rows: what a message says, by its format, and whether it fits the table."""

from __future__ import annotations

import csv
import io
import itertools
import json
import struct
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from boucle.core import guess
from boucle.core.errors import Invalid, NotFound, Unavailable
from boucle.core.frames import arrow_type, schema_of
from boucle.core.schema import Schema
from boucle.ports.lookup import missing_extra
from boucle.ports.stream import Received

FORMATS = ("json", "avro", "text", "bytes", "csv")
OPTIONS = ("types", "columns", "delimiter", "schema", "registry")  # of ours, the others are the stream's
_PLAIN = (pa.int64(), pa.float64(), pa.bool_(), pa.string(), pa.null())  # read the same by Arrow and by us

Reasons = dict[int, str]  # which message -> why it was set aside


@dataclass(frozen=True, slots=True)
class Decoded:
    """The rows of messages, which messages they are of, and why the others were set aside."""

    batch: pa.RecordBatch | None
    of: list[int]
    bad: Reasons = field(default_factory=dict)


class Decoder:
    """Reads messages of one format into rows of one table, whose columns only ever become more."""

    def __init__(self, format: str, options: Mapping[str, Any], arrow: pa.Schema | None) -> None:
        """`arrow` is the schema of the rows that there are already. Raises `Invalid` for options that do not fit."""
        if format not in FORMATS:
            raise Invalid(f"format {format!r}", expected=f"one of {', '.join(FORMATS)}")
        self.arrow = arrow
        self._types = {name: arrow_type(kind) for name, kind in (options.get("types") or {}).items()}
        self._format = format
        self._columns = _columns(format, options, arrow)
        self._delimiter = options.get("delimiter", ",")
        self._avro = _Avro(options) if format == "avro" else None

    def decode(self, messages: Sequence[Received]) -> Decoded:
        """The rows of those that can be read and fit. Columns that are new are taken in, null in what came before."""
        if self._format == "json" and (batch := self._quick(messages)) is not None:
            return Decoded(batch, list(range(len(messages))))
        bad: Reasons = {}
        rows: list[dict[str, Any]] = []
        of: list[int] = []
        read = self._reader()
        for i, message in enumerate(messages):
            try:
                row = read(message.value)
            except RecursionError:
                bad[i] = "nested too deeply"
            except (ValueError, EOFError, LookupError, TypeError, csv.Error, struct.error, zlib.error) as error:
                bad[i] = str(error) or type(error).__name__
            else:
                rows.append(row)
                of.append(i)
        if self._format == "csv":
            return self._fit_text(rows, of, bad)
        return self._fit(rows, of, bad)

    def _quick(self, messages: Sequence[Received]) -> pa.RecordBatch | None:
        """All rows by Arrow's own reader, or None when one of them may need a closer look."""
        if self.arrow is None or not messages or any(f.type not in _PLAIN for f in self.arrow):
            return None
        lines = b"\n".join([m.value for m in messages])
        if lines.count(b"\n") != len(messages) - 1:
            return None
        options = pj.ParseOptions(explicit_schema=self.arrow, unexpected_field_behavior="error")
        try:
            table = pj.read_json(io.BytesIO(lines), pj.ReadOptions(block_size=len(lines) + 1024), options)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return None
        if table.num_rows != len(messages):
            return None
        return table.combine_chunks().to_batches()[0]

    def _reader(self) -> Callable[[bytes], dict[str, Any]]:
        if self._avro is not None:
            return self._avro.read
        return {"json": _json, "text": _text, "bytes": _bytes, "csv": self._csv}[self._format]

    def _csv(self, value: bytes) -> dict[str, Any]:
        lines = list(
            csv.reader(io.StringIO(value.decode().rstrip("\r\n"), newline=""), delimiter=self._delimiter, strict=True)
        )
        if len(lines) != 1:
            raise ValueError(f"{len(lines)} lines of CSV, not one")
        if len(lines[0]) != len(self._columns):
            raise ValueError(f"{len(lines[0])} fields, not {len(self._columns)}")
        return dict(zip(self._columns, lines[0], strict=True))

    def _fit_text(self, rows: list[dict[str, Any]], of: list[int], bad: Reasons) -> Decoded:
        """Rows of texts: their types are guessed over all of the first rows, and asked of those that follow."""
        text = {name: pa.array([row[name] for row in rows], pa.string()) for name in self._columns}
        if self.arrow is None and rows:
            kinds = {}
            for name, values in text.items():
                seen = guess.Guess()
                seen.look(values)
                kinds[name] = self._types.get(name) or arrow_type("string" if seen.type == "null" else seen.type)
            self.arrow = pa.schema(kinds.items())
        if not rows:
            return Decoded(None, [], bad)
        assert self.arrow is not None
        keep = [True] * len(rows)
        plans = [guess.Plan(f.name, schema_of(pa.schema([f]))[f.name].type, missing=guess.MISSING) for f in self.arrow]
        for plan in plans:
            try:
                plan.apply(text[plan.name])
            except Invalid:
                for i, row in enumerate(rows):
                    try:
                        plan.apply(pa.array([row[plan.name]], pa.string()))
                    except Invalid as error:
                        keep[i] = False
                        bad.setdefault(of[i], error.what)
        kept = pa.array(keep)
        arrays = [plan.apply(text[plan.name].filter(kept)).cast(self.arrow.field(plan.name).type) for plan in plans]
        batch = pa.RecordBatch.from_arrays(arrays, schema=self.arrow)
        return Decoded(batch, [i for i, ok in zip(of, keep, strict=True) if ok], bad)

    def _fit(self, rows: list[dict[str, Any]], of: list[int], bad: Reasons) -> Decoded:
        arrow = self._with_new(rows)
        arrays = self._arrays(rows, arrow)
        if arrays is None:
            kept: list[int] = []
            for i, row in enumerate(rows):
                if why := self._misfit(row, arrow):
                    bad[of[i]] = why
                else:
                    kept.append(i)
            rows, of = [rows[i] for i in kept], [of[i] for i in kept]
            arrow = self._with_new(rows)  # what only those brought that were set aside is no column
            arrays = self._arrays(rows, arrow)
            assert arrays is not None, "rows that fit one by one fit together"
        if not rows or not len(arrow):
            bad.update(dict.fromkeys(of, "an object without keys"))
            return Decoded(None, [], bad)
        self.arrow = arrow
        return Decoded(pa.RecordBatch.from_arrays(arrays, schema=arrow), of, bad)

    def _with_new(self, rows: Sequence[Mapping[str, Any]]) -> pa.Schema:
        """The columns there are, and those that are new in these rows, with the type of their values."""
        arrow = self.arrow if self.arrow is not None else pa.schema([])
        known = {f.name for f in arrow if f.type != pa.null()}
        names = dict.fromkeys(key for row in rows for key in row if key not in known)
        for name in names:
            values = [row[name] for row in rows if row.get(name) is not None]
            new = pa.field(name, self._types.get(name) or _type(values))
            at = arrow.get_field_index(name)
            arrow = arrow.append(new) if at < 0 else arrow.set(at, new)
        return arrow

    def _arrays(self, rows: Sequence[Mapping[str, Any]], arrow: pa.Schema) -> list[pa.Array] | None:
        try:
            columns = self._values(rows, arrow)
            return [pa.array(columns[f.name], f.type) for f in arrow]
        except (Invalid, *_UNFIT):
            return None

    def _values(self, rows: Sequence[Mapping[str, Any]], arrow: pa.Schema) -> Mapping[str, list[Any]]:
        if self._format != "json":
            return {f.name: [row.get(f.name) for row in rows] for f in arrow}
        return _nullable(arrow).decode(rows)

    def _misfit(self, row: Mapping[str, Any], arrow: pa.Schema) -> str:
        """Why a row does not fit, or ''."""
        try:
            columns = self._values([row], arrow)
        except Invalid as error:
            return f"{error.what.removeprefix('row 0, ').removeprefix('row 0: ')}, expected {error.expected}"
        for f in arrow:
            try:
                pa.array(columns[f.name], f.type)
            except _UNFIT as error:
                return f"column {f.name!r} is not of type {f.type}: {error}"[:300]
        return ""


_UNFIT = (
    pa.ArrowInvalid,
    pa.ArrowTypeError,
    pa.ArrowNotImplementedError,
    OverflowError,
    UnicodeError,
    TypeError,
    ValueError,
)


def _nullable(arrow: pa.Schema) -> Schema:
    return schema_of(pa.schema([f.with_nullable(True) for f in arrow]))


def _type(values: list[Any]) -> pa.DataType:
    """The type of values; where they do not go together, that of the first, and the others will not fit."""
    try:
        kind = pa.infer_type(values)
    except _UNFIT:
        kind = pa.null()
        for value in values:
            try:
                kind = pa.infer_type([value])
                break
            except _UNFIT:
                continue
    return pa.null() if _hollow(kind) else kind


def _hollow(kind: pa.DataType) -> bool:
    """Whether a type has an object without keys in it, which no file can hold."""
    if pa.types.is_struct(kind):
        return not kind.num_fields or any(_hollow(f.type) for f in kind)
    return pa.types.is_list(kind) and _hollow(kind.value_type)


def _json(value: bytes) -> dict[str, Any]:
    try:
        row = json.loads(value)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}" if value else "not JSON: the message is empty") from None
    if not isinstance(row, dict):
        raise ValueError(f"a JSON {type(row).__name__}, not an object")
    return row


def _text(value: bytes) -> dict[str, Any]:
    return {"text": value.decode()}


def _bytes(value: bytes) -> dict[str, Any]:
    return {"bytes": value}


def _columns(format: str, options: Mapping[str, Any], arrow: pa.Schema | None) -> list[str]:
    if format != "csv":
        return []
    given = options.get("columns") or (list(arrow.names) if arrow is not None else [])
    names = given.split(",") if isinstance(given, str) else list(given)
    if not names:
        raise Invalid("messages of CSV have no header", expected="the names of their columns", fix="columns=a,b,c")
    return names


class _Avro:
    """Datums of Avro: each a small container file, or bare with the schema given, or after the five bytes by which schema
    registries of Confluent's kind name it."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        try:
            import fastavro
        except ImportError:
            raise missing_extra("fastavro", "avro", "format") from None
        self._avro = fastavro
        self._registry = str(options.get("registry", "")).rstrip("/")
        if self._registry and not self._registry.startswith(("http://", "https://")):
            raise Invalid(
                "the option 'registry' does not fit", expected="http:// or https://, the address of a registry"
            )
        self._known: dict[int, Any] = {}
        given = options.get("schema")
        if isinstance(given, str) and not given.lstrip().startswith(("{", "[", '"')):
            if not Path(given).is_file():
                raise NotFound(f"no file {given}", expected="a schema of Avro in JSON")
            given = Path(given).read_text(encoding="utf-8")
        try:
            self._schema = (
                fastavro.parse_schema(json.loads(given) if isinstance(given, str) else given) if given else None
            )
        except (ValueError, KeyError, fastavro.schema.SchemaParseException, fastavro.schema.UnknownType) as error:
            raise Invalid(f"the schema is none: {error}", expected="a schema of Avro in JSON") from None

    def read(self, value: bytes) -> dict[str, Any]:
        stream = io.BytesIO(value)
        if value.startswith(b"Obj\x01"):
            rows = list(itertools.islice(self._avro.reader(stream), 2))
            if len(rows) != 1:
                raise ValueError(f"a container file with {'several records' if rows else 'no record'}, not one")
            (row,) = rows
        else:
            schema = self._schema
            if value[:1] == b"\x00" and len(value) >= 5 and (self._registry or schema is None):
                stream.seek(5)
                schema = self._named(int.from_bytes(value[1:5], "big"))
            if schema is None:
                raise ValueError("a bare datum of Avro, and no schema was given by the option schema")
            row = self._avro.schemaless_reader(stream, schema, None)
            if stream.read(1):
                raise ValueError("more bytes than the schema has use for")
        if not isinstance(row, dict):
            raise ValueError(f"a {type(row).__name__}, not a record")
        return row

    def _named(self, number: int) -> Any:
        if number not in self._known:
            if not self._registry:
                raise ValueError(
                    f"its schema is number {number} of a registry: give its address by the option registry"
                )
            try:
                with urllib.request.urlopen(f"{self._registry}/schemas/ids/{number}", timeout=10) as answer:  # noqa: S310
                    self._known[number] = self._avro.parse_schema(json.loads(json.load(answer)["schema"]))
            except urllib.error.HTTPError as error:
                error.close()
                if error.code == 404:
                    raise ValueError(f"the registry has no schema {number}") from None
                raise Unavailable(f"the schema registry answered {error.code}", expected="a schema") from None
            except OSError as error:
                raise Unavailable(
                    f"the schema registry does not answer: {type(error).__name__}", expected="a schema"
                ) from None
        return self._known[number]


def seconds(column: pa.Array, unit: str) -> pa.Array:
    """A column of event times as seconds since the epoch, null where there is none. Numbers are in `unit` (s or ms)."""
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        numbers = pc.divide(column.cast(pa.float64()), 1000.0 if unit == "ms" else 1.0)
        return pc.if_else(pc.is_finite(numbers), numbers, None)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return pc.divide(column.cast(pa.timestamp("us"), safe=False).cast(pa.int64()).cast(pa.float64()), 1e6)
    if pa.types.is_string(kind):
        for form in ("zoned", "timestamp"):
            if (times := guess.read(column, form)) is not None:
                return seconds(times, unit)
        singles = [column.slice(i, 1) for i in range(len(column))]
        found = [
            next((t for f in ("zoned", "timestamp") if (t := guess.read(s, f)) is not None), None) for s in singles
        ]
        return pa.array([None if t is None else seconds(t, unit)[0].as_py() for t in found], pa.float64())
    return pa.nulls(len(column), pa.float64())
