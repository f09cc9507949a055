"""The Arrow type of documents whose values have types of their own: found over all of them, then filled with values."""

from __future__ import annotations

import datetime as dt
import decimal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from boucle.core.errors import Invalid

_KINDS: dict[type, str] = {
    bool: "bool", int: "int", float: "float", decimal.Decimal: "decimal", str: "string", bytes: "binary",
    dt.datetime: "timestamp", list: "list", dict: "struct",
}  # fmt: skip
_NUMBERS = ("int", "float", "decimal")
_DEEPEST = 64
_FIELDS = 20_000


@dataclass(slots=True)
class Shape:
    """What the values at one place of the documents are."""

    path: str = ""
    kind: str = ""
    first: str = ""  # the document in which it was seen so
    whole: int = 1  # digits before and after the point of decimals
    scale: int = 0
    item: Shape | None = None
    fields: dict[str, Shape] = field(default_factory=dict)

    def look(self, value: Any, document: str, depth: int = 0) -> None:
        """Take in one more value. Raises `Invalid` for one of another type than before (numbers go together)."""
        if value is None:
            return
        kind = _KINDS.get(type(value), "")
        if not kind or depth > _DEEPEST:
            what = f"a {type(value).__name__}" if not kind else "nested too deeply"
            raise Invalid(f"{document}: {self.path!r} is {what}", expected="numbers, text, times, lists or documents")
        if kind != self.kind:
            if not self.kind:
                self.kind, self.first = kind, document
            elif kind in _NUMBERS and self.kind in _NUMBERS:
                self.kind = max(kind, self.kind, key=("int", "decimal", "float").index)
            else:
                raise Invalid(
                    f"{document}: {self.path!r} is of type {kind}, and in {self.first} of type {self.kind}",
                    expected="values of one type at each place",
                    fix="read those alike, by a query",
                )
        if kind == "int" and not -(2**63) <= value < 2**63:
            raise Invalid(f"{document}: {self.path!r} does not fit into 64 bits", expected="a smaller integer or text")
        if kind == "int":
            self.whole = max(self.whole, len(str(abs(value))))
        elif kind == "decimal":
            self._digits(value)
        elif kind == "list":
            if self.item is None:
                self.item = Shape(f"{self.path}[]")
            for part in value:
                self.item.look(part, document, depth + 1)
        elif kind == "struct":
            for name, part in value.items():
                if name not in self.fields:
                    if len(self.fields) >= _FIELDS:
                        raise Invalid(
                            f"{self.path or 'the documents'} have more than {_FIELDS} fields", expected="less"
                        )
                    self.fields[name] = Shape(f"{self.path}.{name}" if self.path else name)
                self.fields[name].look(part, document, depth + 1)

    def _digits(self, value: decimal.Decimal) -> None:
        exponent = value.as_tuple().exponent
        if not isinstance(exponent, int):  # NaN and infinity are floats
            self.kind = "float"
            return
        self.scale = max(self.scale, -exponent)
        self.whole = max(self.whole, value.adjusted() + 1)

    def arrow(self) -> pa.DataType:
        """The Arrow type that holds them all; decimals beyond 38 digits are float64."""
        if self.kind == "list":
            return pa.list_(self.item.arrow() if self.item else pa.null())
        if self.kind == "struct":
            return pa.struct([(name, part.arrow()) for name, part in self.fields.items()])
        if self.kind == "decimal" and self.whole + self.scale <= 38:
            return pa.decimal128(self.whole + self.scale, self.scale)
        return {
            "bool": pa.bool_(), "int": pa.int64(), "float": pa.float64(), "decimal": pa.float64(), "string": pa.string(),
            "binary": pa.binary(), "timestamp": pa.timestamp("us", "UTC"),
        }.get(self.kind, pa.null())  # fmt: skip

    def fit(self, value: Any) -> Any:
        """A value as Arrow takes it for that type."""
        if value is None:
            return None
        if self.kind == "list":
            return [self.item.fit(part) for part in value] if self.item else value
        if self.kind == "struct":
            return {name: part.fit(value.get(name)) for name, part in self.fields.items()}
        if self.kind == "float" or (self.kind == "decimal" and self.whole + self.scale > 38):
            return float(value)
        return decimal.Decimal(value) if self.kind == "decimal" else value


def batch(rows: Sequence[Mapping[str, Any]], shape: Shape, names: Sequence[str]) -> pa.RecordBatch:
    """Documents as a record batch of these fields; raises `Invalid` where one changed its type since it was looked at."""
    arrays = []
    for name in names:
        part = shape.fields[name]
        try:
            arrays.append(pa.array([part.fit(row.get(name)) for row in rows], part.arrow()))
        except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise Invalid(f"{name!r} changed while it was read: {error}", expected=str(part.arrow())) from None
    return pa.RecordBatch.from_arrays(arrays, names=list(names))
