"""Avro schemas: as Arrow types, with what values need on the way, and stripped of logical types."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from boucle.core.errors import Invalid

_DEEPEST = 64
_PLAIN: dict[str, pa.DataType] = {
    "null": pa.null(), "boolean": pa.bool_(), "int": pa.int32(), "long": pa.int64(), "float": pa.float32(),
    "double": pa.float64(), "bytes": pa.binary(), "string": pa.string(),
}  # fmt: skip
_LOGICAL: dict[tuple[str, str], pa.DataType] = {
    ("int", "date"): pa.date32(), ("int", "time-millis"): pa.time32("ms"), ("long", "time-micros"): pa.time64("us"),
    **{("long", f"timestamp-{w}"): pa.timestamp(u, "UTC") for w, u in (("millis", "ms"), ("micros", "us"), ("nanos", "ns"))},
    **{("long", f"local-timestamp-{w}"): pa.timestamp(u) for w, u in (("millis", "ms"), ("micros", "us"), ("nanos", "ns"))},
}  # fmt: skip
# The fewest bytes a value takes.
_LEAST = {"null": 0, "float": 4, "double": 8}
_WIDTHS = ("int", "long", "float", "double")

Convert = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Converted:
    """A schema as Arrow has it, what turns a value into one for Arrow (where anything does), and the fewest bytes of a row."""

    arrow: pa.Schema
    convert: dict[str, Convert]
    least: int


@dataclass(frozen=True, slots=True)
class _Kind:
    type: pa.DataType
    least: int
    convert: Convert | None = None


def converted(path: Path, schema: Mapping[str, Any]) -> Converted:
    """Map a schema of records; raises `Invalid` for what has no column."""
    try:
        json.dumps(schema, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        raise Invalid(
            f"{path}: its schema has names that are no text, or is nested too deeply", expected="a flat schema"
        ) from None
    kind = _Mapper(path).of(schema, "", (), 0)
    fields = list(kind.type)
    arrow = pa.schema([pa.field(f.name, f.type, f.nullable) for f in fields])
    found = _Mapper(path).converters(schema)
    return Converted(arrow, found, kind.least)


class _Mapper:
    """Walks one schema, keeping the types that were given names."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.named: dict[str, Any] = {}

    def converters(self, schema: Mapping[str, Any]) -> dict[str, Convert]:
        space = _space(schema, "")
        self.named[_name(schema, "")] = schema
        out = {}
        for field in schema["fields"]:
            convert = self.of(field["type"], space, (_name(schema, ""),), 1).convert
            if convert is not None:
                out[field["name"]] = convert
        return out

    def wrong(self, what: str, expected: str = "a schema as the Avro specification has it") -> Invalid:
        return Invalid(f"{self.path}: {what}", expected=expected)

    def of(self, schema: Any, space: str, within: tuple[str, ...], depth: int) -> _Kind:
        """The Arrow type of a schema."""
        if depth > _DEEPEST:
            raise self.wrong(f"its schema is nested more than {_DEEPEST} deep", "a flatter schema")
        if isinstance(schema, list):
            return self._union(schema, space, within, depth)
        if isinstance(schema, str):
            if schema in _PLAIN:
                return _Kind(_PLAIN[schema], _LEAST.get(schema, 1))
            name = schema if "." in schema or not space else f"{space}.{schema}"
            name = name if name in self.named else schema
            if name not in self.named:
                raise self.wrong(f"its schema names the type {schema!r}, which is not there")
            if name in within:
                raise self.wrong(f"the record {name!r} holds itself", "types that end somewhere")
            return self.of(self.named[name], space, within, depth)
        if not isinstance(schema, Mapping):
            raise self.wrong(f"its schema holds {schema!r}"[:200])
        kind = schema.get("type")
        if isinstance(kind, Mapping | list):
            return self.of(kind, space, within, depth + 1)
        if kind in ("record", "error"):
            return self._record(schema, space, within, depth)
        if kind == "enum":
            self.named[_name(schema, space)] = schema
            return _Kind(pa.string(), 1)
        if kind == "fixed":
            self.named[_name(schema, space)] = schema
            return self._fixed(schema)
        if kind in ("array", "map"):
            return self._many(schema, str(kind), space, within, depth)
        if kind == "bytes" and schema.get("logicalType") == "decimal":
            return _Kind(self._decimal(schema), 1)
        logical = _LOGICAL.get((str(kind), str(schema.get("logicalType"))))
        return _Kind(logical, 1) if logical is not None else self.of(kind, space, within, depth + 1)

    def _record(self, schema: Mapping[str, Any], space: str, within: tuple[str, ...], depth: int) -> _Kind:
        name, inner = _name(schema, space), _space(schema, space)
        self.named[name] = schema
        fields = schema.get("fields")
        if not isinstance(fields, list) or not all(
            isinstance(f, Mapping) and isinstance(f.get("name"), str) and "type" in f for f in fields
        ):
            raise self.wrong(f"the record {name!r} has no proper list of fields")
        kinds = [(f["name"], self.of(f["type"], inner, (*within, name), depth + 1)) for f in fields]
        nullable = [k.type == pa.null() or _nullable(f["type"]) for (_, k), f in zip(kinds, fields, strict=True)]
        arrow = pa.struct([pa.field(n, k.type, may) for (n, k), may in zip(kinds, nullable, strict=True)])
        converts = {n: k.convert for n, k in kinds if k.convert is not None}
        return _Kind(arrow, sum(k.least for _, k in kinds), _of_record(converts) if converts else None)

    def _fixed(self, schema: Mapping[str, Any]) -> _Kind:
        size = schema.get("size")
        if not isinstance(size, int) or not 0 <= size <= 1 << 20:
            raise self.wrong(f"a fixed type has the size {size!r}", "a number of bytes")
        if schema.get("logicalType") == "decimal":
            return _Kind(self._decimal(schema), size)
        return _Kind(pa.binary(), size)

    def _decimal(self, schema: Mapping[str, Any]) -> pa.DataType:
        precision, scale = schema.get("precision"), schema.get("scale", 0)
        if (
            not isinstance(precision, int)
            or not isinstance(scale, int)
            or not 0 < precision <= 76
            or not 0 <= scale <= precision
        ):
            raise self.wrong(f"a decimal has precision {precision!r} and scale {scale!r}", "at most 76 digits")
        return pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)

    def _many(self, schema: Mapping[str, Any], kind: str, space: str, within: tuple[str, ...], depth: int) -> _Kind:
        item = self.of(schema.get("items" if kind == "array" else "values"), space, within, depth + 1)
        if kind == "array":
            if not item.least:  # any number of them fits into a few bytes
                raise self.wrong("its schema has an array whose values take no bytes", "values that are not all null")
            return _Kind(pa.list_(item.type), 1, _of_list(item.convert) if item.convert else None)
        return _Kind(pa.map_(pa.string(), item.type), 1, _of_map(item.convert))

    def _union(self, schema: list[Any], space: str, within: tuple[str, ...], depth: int) -> _Kind:
        kinds = [(s, self.of(s, space, within, depth + 1)) for s in schema if s != "null"]
        if not kinds:
            return _Kind(pa.null(), 1)
        if len(kinds) == 1:
            return _Kind(kinds[0][1].type, 1, _or_none(kinds[0][1].convert))
        if all(s in _WIDTHS for s, _ in kinds):
            names = [s for s, _ in kinds]
            wide = pa.int64() if set(names) <= {"int", "long"} else pa.float64()
            return _Kind(wide, 1, None if wide == pa.int64() else _or_none(float))
        if any(not isinstance(s, str) or s not in _BRANCHES for s, _ in kinds):
            raise self.wrong(
                f"a column is a union of {', '.join(_said(s) for s, _ in kinds)}",
                "unions of null and one type, or of plain types",
            )
        arrow = pa.struct([pa.field(s, k.type) for s, k in kinds])
        return _Kind(arrow, 1, _of_union([s for s, _ in kinds]))


# Plain types that can be told apart in a union by the Python type of the value.
_BRANCHES: dict[str, tuple[type, ...]] = {
    "boolean": (bool,), "int": (int,), "long": (int,), "float": (float,), "double": (float,), "string": (str,),
    "bytes": (bytes,),
}  # fmt: skip


def _said(schema: Any) -> str:
    return str(schema.get("name") or schema.get("type")) if isinstance(schema, Mapping) else str(schema)


def _nullable(schema: Any) -> bool:
    return isinstance(schema, list) and "null" in schema


def _space(schema: Mapping[str, Any], space: str) -> str:
    name = str(schema.get("name", ""))
    return name.rpartition(".")[0] if "." in name else str(schema.get("namespace") or space)


def _name(schema: Mapping[str, Any], space: str) -> str:
    name, inner = str(schema.get("name", "")), _space(schema, space)
    return name if "." in name or not inner else f"{inner}.{name}"


def _of_record(converts: dict[str, Convert]) -> Convert:
    def convert(value: Any) -> Any:
        return value if value is None else {**value, **{n: c(value[n]) for n, c in converts.items()}}

    return convert


def _of_list(convert: Convert) -> Convert:
    return lambda value: None if value is None else [convert(v) for v in value]


def _of_map(convert: Convert | None) -> Convert:
    if convert is None:
        return lambda value: None if value is None else list(value.items())
    return lambda value: None if value is None else [(k, convert(v)) for k, v in value.items()]


def _or_none(convert: Convert | None) -> Convert | None:
    return None if convert is None else lambda value: None if value is None else convert(value)


def _of_union(branches: list[str]) -> Convert:
    def convert(value: Any) -> Any:
        if value is None:
            return None
        chosen = next(b for b in branches if type(value) in _BRANCHES[b])
        if chosen == "int" and "long" in branches and not -(2**31) <= value < 2**31:
            chosen = "long"
        return {chosen: value}

    return convert


def without_logical_types(path: Path, schema: Any, depth: int = 0) -> Any:
    """The same schema for a reader that is to give plain numbers and bytes; decimals stay."""
    if depth > 4 * _DEEPEST:
        raise Invalid(f"{path}: its schema is nested too deeply", expected="a flatter schema")
    if isinstance(schema, list):
        return [without_logical_types(path, s, depth + 1) for s in schema]
    if isinstance(schema, Mapping):
        keep = schema.get("logicalType") == "decimal"
        return {
            k: without_logical_types(path, v, depth + 1) if k in ("type", "items", "values", "fields") else v
            for k, v in schema.items()
            if k != "logicalType" or keep
        }
    return schema
