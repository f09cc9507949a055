"""A small expression tree for questions to a store. Each store compiles it to its own indexed query.

    where = (field("status") == "finished") & (field("metrics.auc") > 0.9)

A path is a field of the record, or `field.key` for a key of one of its `dict` fields.
"""

from __future__ import annotations

import dataclasses
import json
import math
import operator
import re
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from boucle.core.errors import Invalid
from boucle.core.records import Record
from boucle.core.schema import jsonable

R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class Compare:
    """`path op value`; op is one of = != < <= > >= in contains starts. See `matches` for what each means."""

    path: str
    op: str
    value: Any

    def __and__(self, other: Where) -> And:
        return And((self, other))

    def __or__(self, other: Where) -> Or:
        return Or((self, other))

    def __invert__(self) -> Not:
        return Not(self)


@dataclass(frozen=True, slots=True)
class And:
    parts: tuple[Where, ...]

    def __and__(self, other: Where) -> And:
        return And((*self.parts, other))

    def __or__(self, other: Where) -> Or:
        return Or((self, other))

    def __invert__(self) -> Not:
        return Not(self)


@dataclass(frozen=True, slots=True)
class Or:
    parts: tuple[Where, ...]

    def __and__(self, other: Where) -> And:
        return And((self, other))

    def __or__(self, other: Where) -> Or:
        return Or((*self.parts, other))

    def __invert__(self) -> Not:
        return Not(self)


@dataclass(frozen=True, slots=True)
class Not:
    part: Where

    def __and__(self, other: Where) -> And:
        return And((self, other))

    def __or__(self, other: Where) -> Or:
        return Or((self, other))

    def __invert__(self) -> Where:
        return self.part


Where = Compare | And | Or | Not


@dataclass(frozen=True, slots=True, eq=False)
class field:  # noqa: N801, PLW1641  read as a word in an expression, and equality makes one
    """The start of a comparison: `field("name") == "churn"`."""

    path: str

    def __eq__(self, value: object) -> Compare:  # type: ignore[override]
        return Compare(self.path, "=", value)

    def __ne__(self, value: object) -> Compare:  # type: ignore[override]
        return Compare(self.path, "!=", value)

    def __lt__(self, value: Any) -> Compare:
        return Compare(self.path, "<", value)

    def __le__(self, value: Any) -> Compare:
        return Compare(self.path, "<=", value)

    def __gt__(self, value: Any) -> Compare:
        return Compare(self.path, ">", value)

    def __ge__(self, value: Any) -> Compare:
        return Compare(self.path, ">=", value)

    def within(self, values: Iterable[Any]) -> Compare:
        """The value is one of these; None among them also finds what is missing."""
        return Compare(self.path, "in", tuple(values))

    def contains(self, text: str) -> Compare:
        """The text occurs in it, letter case ignored (ASCII)."""
        return Compare(self.path, "contains", text)

    def starts(self, text: str) -> Compare:
        """It begins with the text, letter case observed."""
        return Compare(self.path, "starts", text)


def value_at(record: Record, path: str) -> Any:
    """The value a path names on a record, None where a key is absent; raises as `check_path` does."""
    head, rest = check_path(type(record), path)
    value = getattr(record, head)
    return value.get(rest) if rest else value


def check_path(kind: type[Record], path: str) -> tuple[str, str]:
    """The field and the key that a path names.

    Raises `Invalid` for a field that the kind does not have, a `dict` field without a key, a key in any other field.
    """
    head, _, rest = path.partition(".")
    known = fields_of(kind)
    if known.get(head) != bool(rest):
        raise Invalid(
            f"{path!r} does not name a value of a {kind.KIND}",
            expected=f"one of {', '.join(f'{n}.<key>' if keyed else n for n, keyed in known.items())}",
        )
    return head, rest


def check_question(kind: type[Record], where: Where | None, order: Sequence[str] = ()) -> None:
    """Raise `Invalid` for an expression or an order that could not be answered for any record of the kind."""
    for path in order:
        check_path(kind, path.removeprefix("-"))
    match where:
        case And(parts) | Or(parts):
            for part in parts:
                check_question(kind, part)
        case Not(part):
            check_question(kind, part)
        case Compare(path, op, wanted):
            check_path(kind, path)
            _compare(None, op, wanted)


_fields: dict[type[Record], dict[str, bool]] = {}


def fields_of(kind: type[Record]) -> dict[str, bool]:
    """The fields of a kind that a path may begin with, and whether each is a `dict` and needs a key."""
    if kind not in _fields:
        hints = typing.get_type_hints(kind)
        keyed = {f.name: typing.get_origin(hints[f.name]) is dict for f in dataclasses.fields(kind)}
        _fields[kind] = {"key": False} | keyed
    return _fields[kind]


def plain(value: Any) -> float | int | str | None:
    """What a value counts as in a comparison: None, a number, or a text.

    True and False are 1 and 0. NaN counts as missing. A whole number beyond 64 bits counts as the nearest float, a list
    or mapping as its compact JSON, anything else as what `jsonable` makes of it.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        if -(2**63) <= value < 2**63:
            return int(value)
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    if isinstance(value, float):
        return None if math.isnan(value) else float(value)
    if isinstance(value, list | tuple | dict):
        return json.dumps(jsonable(value), ensure_ascii=False, separators=(",", ":"))
    return plain(jsonable(value))


def text_of(op: str, wanted: Any) -> str:
    """The text that `contains` or `starts` looks for; raises `Invalid` for anything else."""
    if not isinstance(wanted, str):
        raise Invalid(f"{wanted!r} cannot be looked for in a text", expected=f"a text for {op!r}")
    return wanted


def matches(record: Record, where: Where | None) -> bool:
    """The meaning of an expression, in plain Python: the reference that every store's compiler is tested against.

    Values are compared as `plain` sees them. A missing value equals None and nothing else, is in no order with
    anything, and is `in` a list that holds None. Numbers and texts are never equal and in no order with each other.
    """
    match where:
        case None:
            return True
        case And(parts):
            return all(matches(record, part) for part in parts)
        case Or(parts):
            return any(matches(record, part) for part in parts)
        case Not(part):
            return not matches(record, part)
        case Compare(path, op, wanted):
            return _compare(plain(value_at(record, path)), op, wanted)


def _compare(value: Any, op: str, wanted: Any) -> bool:
    if op == "in":
        return value in [plain(w) for w in wanted]
    if op == "contains":
        sought = _fold(text_of(op, wanted))
        return isinstance(value, str) and sought in _fold(value)
    if op == "starts":
        sought = text_of(op, wanted)
        return isinstance(value, str) and value.startswith(sought)
    if op not in _ORDERED:
        raise Invalid(f"{op!r} is not a comparison", expected="one of = != < <= > >= in contains starts")
    wanted = plain(wanted)
    if op in ("=", "!="):
        return bool(_ORDERED[op](value, wanted))
    if value is None or wanted is None or isinstance(value, str) != isinstance(wanted, str):
        return False
    return bool(_ORDERED[op](value, wanted))


_ORDERED: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _fold(text: str) -> str:
    return "".join(c.lower() if c.isascii() else c for c in text)


def arranged(records: Iterable[R], order: Sequence[str] = ()) -> list[R]:
    """The meaning of an order, in plain Python: paths, descending with a leading '-', ties broken by key.

    Numbers come before texts, the other way round when descending; None is last either way.
    """
    result = sorted(records, key=lambda record: record.key)
    for path in reversed(order):
        name = path.removeprefix("-")
        down = path.startswith("-")
        values = {id(record): plain(value_at(record, name)) for record in result}
        missing = [record for record in result if values[id(record)] is None]
        present = [record for record in result if values[id(record)] is not None]
        present.sort(key=lambda r: (isinstance(v := values[id(r)], str), v), reverse=down)
        result = present + missing
    return result


_CONDITION = re.compile(r"\s*([A-Za-z_][\w.\-/]*)\s*(!=|<=|>=|=|<|>|~)\s*(.*?)\s*\Z")


def read(text: str) -> Compare:
    """A comparison as people type it: `metrics.auc>0.9`, `status=finished`, `name~churn` (contains). A value that reads as
    JSON is one, anything else is text. Raises `Invalid`."""
    found = _CONDITION.match(text)
    if not found:
        raise Invalid(f"{text!r} is not a condition", expected="FIELD=VALUE, with one of = != < <= > >= ~ (contains)")
    path, op, value = found.groups()
    try:
        wanted = json.loads(value)
    except ValueError:
        wanted = value
    return Compare(path, "contains" if op == "~" else op, str(wanted) if op == "~" else wanted)
