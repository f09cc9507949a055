"""A record as a row of plain values, and back: what all stores that keep columns share.

The columns of a kind are its fields: `str` is text, `int` integer, `float` real, `bool` an integer 0 or 1, and `dict`
its JSON as text. A value that JSON cannot carry is kept as `jsonable` sees it, so NaN and infinities inside a `dict`
come back as None; NaN in an optional `float` field does too.
"""

from __future__ import annotations

import dataclasses
import json
import numbers
import operator
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from boucle.core.errors import Corrupt, Invalid
from boucle.core.records import Record
from boucle.core.schema import jsonable

R = TypeVar("R", bound=Record)

Kept = Literal["text", "integer", "real", "boolean", "json"]

_KEPT: dict[Any, Kept] = {str: "text", int: "integer", float: "real", bool: "boolean", dict: "json"}
_PYTHON: dict[Kept, type] = {kept: python for python, kept in _KEPT.items()}
_dumps = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
# `loads` without the search for white space, which we never write.
_scan: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Column:
    """One field: its name, what it is kept as, whether it may be None, whether it is searched, and its default."""

    name: str
    kept: Kept
    optional: bool
    searchable: bool
    default: Any  # None when there is none


class Layout(Generic[R]):
    """How the records of one kind become rows. Make it with `layout`, which keeps it."""

    __slots__ = (
        "_booleans",
        "_fill",
        "_get",
        "_integers",
        "_json",
        "_optional",
        "_reals",
        "_texts",
        "_types",
        "columns",
        "kind",
        "searchable_dicts",
    )

    def __init__(self, kind: type[R]) -> None:
        self.kind = kind
        hints = typing.get_type_hints(kind)
        self.columns = tuple(_column(kind, f, hints[f.name]) for f in dataclasses.fields(kind))
        names = [c.name for c in self.columns]
        self._get = operator.attrgetter(*names)
        self._fill = [getattr(kind, name).__set__ for name in names]
        self._types = [_PYTHON[c.kept] for c in self.columns]

        def places(kept: Kept) -> list[int]:
            return [i for i, c in enumerate(self.columns) if c.kept == kept]

        self._json, self._booleans, self._integers = places("json"), places("boolean"), places("integer")
        self._reals, self._texts = places("real"), [*places("text"), *places("json")]
        self.searchable_dicts = tuple(i for i in self._json if self.columns[i].searchable)

    def encode(self, record: R) -> tuple[list[Any], list[dict[str, Any]]]:
        """The row (in the order of `columns`), and the searchable `dict` fields as they will be read back.

        Raises `Invalid` for a value of the wrong type, one that JSON or UTF-8 cannot carry, an integer beyond 64 bits.
        """
        row = list(self._get(record))
        if list(map(type, row)) != self._types:
            self._coerce(row)
        searched = [row[i] for i in self.searchable_dicts]
        for i in self._json:
            row[i] = self._json_text(i, row[i], searched)
        for i in self._reals:
            if row[i] != row[i]:
                if not self.columns[i].optional:
                    raise self._wrong(i, row[i])
                row[i] = None
        for i in self._integers:
            if not -(2**63) <= row[i] < 2**63:
                raise self._wrong(i, row[i])
        text = "".join([row[i] for i in self._texts])
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise Invalid(
                    f"{record} holds text that is not Unicode: {error.reason}", expected="text without lone surrogates"
                ) from error
        return row, searched

    def decode(self, row: Sequence[Any]) -> R:
        """The record of a row. Raises `Corrupt` when its JSON does not parse."""
        values = list(row)
        for i in self._json:
            values[i] = from_json(values[i])
        for i in self._booleans:
            values[i] = bool(values[i])
        record = object.__new__(self.kind)
        # The slots themselves: a frozen dataclass takes five times as long to fill its fields by `__init__`.
        for fill, value in zip(self._fill, values, strict=True):
            fill(record, value)
        return record

    def _coerce(self, row: list[Any]) -> None:
        for i, (column, value) in enumerate(zip(self.columns, row, strict=True)):
            if type(value) is _PYTHON[column.kept] or (value is None and column.optional):
                continue
            match column.kept:
                case "text" if isinstance(value, str):
                    row[i] = str.__str__(value)
                case "integer" if isinstance(value, numbers.Integral):
                    row[i] = int(value)
                case "real" if isinstance(value, numbers.Real):
                    row[i] = float(value)
                case "json" if isinstance(value, Mapping):
                    row[i] = dict(value)
                case _:
                    raise self._wrong(i, value)

    def _json_text(self, place: int, value: dict[str, Any], searched: list[dict[str, Any]]) -> str:
        if not value:
            return "{}"
        try:
            "".join(value)  # fails for keys that are not text, which JSON would make text of
            return _dumps(value)
        except (TypeError, ValueError):
            try:
                text = _dumps(jsonable(value))
            except (TypeError, ValueError, RecursionError):
                raise self._wrong(place, value) from None
        if place in self.searchable_dicts:
            searched[self.searchable_dicts.index(place)] = from_json(text)
        return text

    def _wrong(self, place: int, value: Any) -> Invalid:
        column = self.columns[place]
        expected = {
            "text": "a text",
            "integer": "an integer of at most 64 bits",
            "real": "a number",
            "boolean": "True or False",
            "json": "a mapping that JSON can carry",
        }[column.kept]
        said = repr(value)
        return Invalid(
            f"{self.kind.KIND}: {column.name} is {said if len(said) < 80 else said[:77] + '...'}",
            expected=expected + (", or None" if column.optional else ""),
        )


_layouts: dict[type[Record], Layout[Any]] = {}


def layout(kind: type[R]) -> Layout[R]:
    """The layout of a kind, made once."""
    found = _layouts.get(kind)
    if found is None:
        found = _layouts[kind] = Layout(kind)
    return found


def from_json(text: str) -> Any:
    """What `encode` or `to_json` wrote for a mapping. Raises `Corrupt` when it does not parse."""
    if text == "{}":
        return {}
    try:
        value, end = _scan(text, 0)
        if end == len(text):
            return value
        problem = f"more after its end: {text[end : end + 20]!r}"
    except (StopIteration, TypeError, ValueError) as error:
        problem = str(error) or "nothing there"
    raise Corrupt(
        f"stored JSON does not parse: {problem}",
        expected="what was written",
        fix="boucle fsck, then restore the store from a backup",
    )


def to_json(value: Mapping[str, Any]) -> str:
    """Compact JSON of a mapping; what JSON cannot carry is kept as `jsonable` sees it, or raises `Invalid`."""
    if not value:
        return "{}"
    try:
        return _dumps(value)
    except (TypeError, ValueError):
        try:
            return _dumps(jsonable(value))
        except (TypeError, ValueError, RecursionError) as error:
            raise Invalid(f"a mapping cannot be kept as JSON: {error}", expected="values JSON can carry") from error


def _column(kind: type[Record], field: dataclasses.Field[Any], hint: Any) -> Column:
    optional = False
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        given = typing.get_args(hint)
        optional = type(None) in given
        hint = next(a for a in given if a is not type(None))
    kept = _KEPT.get(typing.get_origin(hint) or hint)
    if kept is None:
        raise Invalid(
            f"{kind.__name__}.{field.name} is {hint}, which no store can keep",
            expected="str, int, float, bool, dict[str, Any], or one of them or None",
        )
    default = field.default if field.default is not dataclasses.MISSING else None
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    return Column(field.name, kept, optional, bool(field.metadata.get("searchable")), default)
