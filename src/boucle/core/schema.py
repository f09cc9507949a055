"""Schemas: named, typed, nullable columns; how they may evolve; how JSON is checked against them.

Nothing here needs Arrow, so commands that only show a schema start fast; `core.frames` maps to and from Arrow.
"""

from __future__ import annotations

import datetime as dt
import difflib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from boucle.core.errors import Invalid

# Scalar types by name; nested ones are written list<T> and struct<name: T, ...>.
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
FLOATS = ("float16", "float32", "float64")
SCALARS = (
    "null", "bool", *INTEGERS, *FLOATS, "decimal", "string", "binary", "date", "time", "timestamp", "duration",
)  # fmt: skip
KINDS = ("", "number", "category", "text", "time", "identifier")

_WIDER: dict[str, tuple[str, ...]] = {
    "null": tuple(t for t in SCALARS if t != "null"),
    "int8": ("int16", "int32", "int64", "float16", "float32", "float64"),
    "int16": ("int32", "int64", "float32", "float64"),
    "int32": ("int64", "float64"),
    "uint8": ("uint16", "uint32", "uint64", "int16", "int32", "int64", "float16", "float32", "float64"),
    "uint16": ("uint32", "uint64", "int32", "int64", "float32", "float64"),
    "uint32": ("uint64", "int64", "float64"),
    "float16": ("float32", "float64"),
    "float32": ("float64",),
    "date": ("timestamp",),
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its storage `type`, whether nulls are allowed, and its `kind`, what it means to a model."""

    name: str
    type: str
    nullable: bool = True
    kind: str = ""  # one of KINDS
    categories: tuple[Any, ...] = ()  # the values seen, for documentation; others are not refused
    description: str = ""

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {"name": self.name, "type": self.type, "nullable": self.nullable}
        if self.kind:
            out["kind"] = self.kind
        if self.categories:
            out["categories"] = list(self.categories)
        if self.description:
            out["description"] = self.description
        return out


@dataclass(frozen=True, slots=True)
class Schema:
    """An ordered set of columns with distinct names."""

    columns: tuple[Column, ...] = ()
    _index: dict[str, int] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        for i, column in enumerate(self.columns):
            if column.name in self._index:
                raise Invalid(f"two columns are named {column.name!r}", expected="distinct column names")
            self._index[column.name] = i

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    def __contains__(self, name: object) -> bool:
        return name in self._index

    def __getitem__(self, name: str) -> Column:
        if name not in self._index:
            near = difflib.get_close_matches(name, self.names, n=3) or list(self.names[:8])
            raise Invalid(f"no column named {name!r}", expected=f"one of {', '.join(near)}")
        return self.columns[self._index[name]]

    def select(self, names: Iterable[str]) -> Schema:
        return Schema(tuple(self[n] for n in names))

    def without(self, *names: str) -> Schema:
        return Schema(tuple(c for c in self.columns if c.name not in names))

    def replaced(self, name: str, **changes: Any) -> Schema:
        """The same schema with one column changed."""
        self[name]
        return Schema(tuple(replace(c, **changes) if c.name == name else c for c in self.columns))

    def to_json(self) -> dict[str, Any]:
        return {"columns": [c.to_json() for c in self.columns]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Schema:
        return cls(
            tuple(
                Column(
                    c["name"],
                    c["type"],
                    c.get("nullable", True),
                    c.get("kind", ""),
                    tuple(c.get("categories", ())),
                    c.get("description", ""),
                )
                for c in data["columns"]
            )
        )

    def json_schema(self, sample: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """One row as JSON Schema 2020-12, the dialect of OpenAPI 3.1."""
        out: dict[str, Any] = {
            "type": "object",
            "properties": {c.name: _property(c) for c in self.columns},
            "required": [c.name for c in self.columns if not c.nullable],
            "additionalProperties": False,
        }
        if sample is not None:
            out["examples"] = [dict(sample)]
        return out

    def decode(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
        """Check rows of JSON values and turn them into columns of Python values.

        A missing key of a nullable column is null. Integers pass for floats, and floats without a fraction for
        integers; nothing else is converted silently. Times are ISO 8601. Raises `Invalid` naming row and column.
        """
        columns: dict[str, list[Any]] = {}
        for i, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise Invalid(f"row {i} is {_said(row)}", expected="an object with one value per column")
            if len(row) > len(self.columns) or any(key not in self._index for key in row):
                unknown = next(key for key in row if key not in self._index)
                near = difflib.get_close_matches(str(unknown), self.names, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise Invalid(f"row {i}: unknown column {unknown!r}{hint}", expected=f"columns {_listed(self.names)}")
        for column in self.columns:
            read = _READERS.get(column.type, _read_any)
            name, nullable = column.name, column.nullable
            values: list[Any] = []
            for i, row in enumerate(rows):
                value = row.get(name)
                if value is None:
                    if not nullable:
                        said = "is null" if name in row else "is missing"
                        raise Invalid(f"row {i}, column {name!r} {said}", expected=_expected(column))
                    values.append(None)
                    continue
                try:
                    values.append(read(value, column.type))
                except (TypeError, ValueError, OverflowError):
                    raise Invalid(f"row {i}, column {name!r} is {_said(value)}", expected=_expected(column)) from None
            columns[name] = values
        return columns


def _listed(names: Sequence[str], most: int = 12) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def _said(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _expected(column: Column) -> str:
    return _WORDS.get(column.type, column.type) + (", or null" if column.nullable else "")


_WORDS = {
    "bool": "true or false",
    "string": "a string",
    "date": "a date such as 2026-11-01",
    "timestamp": "a time such as 2026-11-01T09:30:00Z",
    "binary": "bytes as a base64 string",
    **{t: f"an integer ({t})" for t in INTEGERS},
    **dict.fromkeys(FLOATS, "a number"),
}


def _read_bool(value: Any, _: str) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


_RANGES = {
    **{f"int{b}": (-(2 ** (b - 1)), 2 ** (b - 1) - 1) for b in (8, 16, 32, 64)},
    **{f"uint{b}": (0, 2**b - 1) for b in (8, 16, 32, 64)},
}


def _read_int(value: Any, kind: str) -> int:
    if type(value) is not int:
        if isinstance(value, bool) or not isinstance(value, float) or not value.is_integer():
            raise TypeError
        value = int(value)
    low, high = _RANGES[kind]
    if not low <= value <= high:
        raise ValueError
    return int(value)


def _read_float(value: Any, _: str) -> float:
    if type(value) is float:
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    return float(value)


def _read_string(value: Any, _: str) -> str:
    if not isinstance(value, str):
        raise TypeError
    value.encode()  # a lone surrogate is not text and would fail much later
    return value


def _read_date(value: Any, _: str) -> dt.date:
    return dt.date.fromisoformat(value)


def _read_timestamp(value: Any, _: str) -> dt.datetime:
    moment = dt.datetime.fromisoformat(value)
    return moment.astimezone(dt.UTC).replace(tzinfo=None) if moment.tzinfo else moment


def _read_binary(value: Any, _: str) -> bytes:
    import base64

    return base64.b64decode(value, validate=True)


def _read_any(value: Any, _: str) -> Any:
    return value


_READERS: dict[str, Callable[[Any, str], Any]] = {
    "bool": _read_bool,
    "string": _read_string,
    "date": _read_date,
    "timestamp": _read_timestamp,
    "binary": _read_binary,
    **dict.fromkeys(INTEGERS, _read_int),
    **dict.fromkeys(FLOATS, _read_float),
}


def _property(column: Column) -> dict[str, Any]:
    kinds: dict[str, dict[str, Any]] = {
        "bool": {"type": "boolean"},
        "string": {"type": "string"},
        "date": {"type": "string", "format": "date"},
        "timestamp": {"type": "string", "format": "date-time"},
        "binary": {"type": "string", "contentEncoding": "base64"},
        **{t: {"type": "integer", "minimum": r[0], "maximum": r[1]} for t, r in _RANGES.items()},
        **{t: {"type": "number"} for t in FLOATS},
    }
    out = dict(kinds.get(column.type, {}))
    if column.nullable and "type" in out:
        out["type"] = [out["type"], "null"]
    if column.description:
        out["description"] = column.description
    if column.kind == "category" and column.categories:
        out["examples"] = list(column.categories[:10])
    return out


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between two schemas. `safe` ones can be read by whoever knew the old schema."""

    column: str
    what: str
    safe: bool


def evolve(old: Schema, new: Schema, renames: Mapping[str, str] | None = None) -> list[Change]:
    """What changed from `old` to `new`. Safe: a column added (null for rows from before), a type widened without loss,
    nulls newly allowed, a rename that `renames` (old name -> new name) declares. Anything else is not."""
    renames = dict(renames or {})
    changes = []
    taken = set()
    for column in old.columns:
        name = renames.get(column.name, column.name)
        taken.add(name)
        if name not in new:
            changes.append(Change(column.name, "removed", False))
            continue
        now = new[name]
        if name != column.name:
            changes.append(Change(column.name, f"renamed to {name}", True))
        if now.type != column.type:
            wider = now.type in _WIDER.get(column.type, ())
            changes.append(Change(name, f"{column.type} became {now.type}", wider))
        if now.nullable and not column.nullable:
            changes.append(Change(name, "may now be null", True))
        elif column.nullable and not now.nullable:
            changes.append(Change(name, "may no longer be null", True))
    changes += [Change(c.name, f"added ({c.type})", True) for c in new.columns if c.name not in taken]
    return changes


def check_evolution(name: str, old: Schema, new: Schema, renames: Mapping[str, str] | None = None) -> list[Change]:
    """The changes, or `Refused` when one of them is not safe."""
    from boucle.core.errors import Refused

    changes = evolve(old, new, renames)
    bad = [c for c in changes if not c.safe]
    if bad:
        raise Refused(
            f"the schema of {name} changed: " + "; ".join(f"{c.column}: {c.what}" for c in bad),
            expected="columns widened, added as nullable, or renamed by a mapping",
            fix=f"ingest under another name, or pass --evolve to accept the new schema for {name}",
        )
    return changes


def jsonable(value: Any) -> Any:
    """A value as JSON can carry it without loss of meaning: times as ISO 8601, NaN and infinities as null, bytes as
    base64."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(v) for v in value]
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, bytes):
        import base64

        return base64.b64encode(value).decode()
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:  # a NumPy scalar
        return jsonable(value.item())
    if hasattr(value, "tolist"):
        return jsonable(value.tolist())
    return str(value)
