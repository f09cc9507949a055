"""Rows as an Avro object container file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from fastavro.write import Writer

from boucle.core.errors import Invalid

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def records(schema: pa.Schema, batches: Iterator[pa.RecordBatch], sink: Any) -> Iterator[None]:
    """Write to a sink, batch by batch; every column may be null. Raises `Invalid` for a name or type that Avro does not have."""
    plain = pa.schema([pa.field(f.name, _plain(f.type)) for f in schema])
    writer = Writer(sink, _record("row", plain), codec="deflate")
    yield
    for batch in batches:
        for row in batch.cast(plain, safe=False).to_pylist():
            writer.write(row)
        yield
    writer.flush()
    yield


def _plain(kind: pa.DataType) -> pa.DataType:
    """The nearest type that Avro has."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_uint64(kind):
        return pa.decimal128(20, 0)
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", tz=kind.tz)
    return pa.time64("us") if pa.types.is_time(kind) else kind


def _record(name: str, fields: Any) -> dict[str, Any]:
    wrong = [f.name for f in fields if not _NAME.match(f.name)]
    if wrong:
        raise Invalid(f"Avro has no field {wrong[0]!r}", expected="letters, digits and _", fix="write .parquet instead")
    made = [{"name": f.name, "type": _or_null(f"{name}_{f.name}", f.type), "default": None} for f in fields]
    return {"type": "record", "name": name, "fields": made}


def _or_null(name: str, kind: pa.DataType) -> Any:
    return "null" if pa.types.is_null(kind) else ["null", _type(name, kind)]


def _type(name: str, kind: pa.DataType) -> Any:
    t = pa.types
    if t.is_integer(kind):
        return "int" if kind.bit_width < 32 or t.is_int32(kind) else "long"
    if t.is_decimal(kind):
        return {"type": "bytes", "logicalType": "decimal", "precision": kind.precision, "scale": kind.scale}
    if t.is_timestamp(kind):
        local = "" if kind.tz else "local-"
        return {"type": "long", "logicalType": f"{local}timestamp-micros"}
    if t.is_list(kind) or t.is_large_list(kind) or t.is_fixed_size_list(kind):
        return {"type": "array", "items": _or_null(f"{name}_item", kind.value_type)}
    if t.is_struct(kind):
        return _record(name, list(kind))
    for test, plain in (
        (t.is_boolean, "boolean"), (t.is_float64, "double"), (t.is_floating, "float"), (t.is_string, "string"),
        (t.is_large_string, "string"), (t.is_binary, "bytes"), (t.is_large_binary, "bytes"),
        (t.is_fixed_size_binary, "bytes"),
    ):  # fmt: skip
        if test(kind):
            return plain
    if t.is_date(kind):
        return {"type": "int", "logicalType": "date"}
    if t.is_time(kind):
        return {"type": "long", "logicalType": "time-micros"}
    raise Invalid(
        f"Avro has no type for {kind}", expected="numbers, text, times, lists or structs", fix="write .parquet"
    )
