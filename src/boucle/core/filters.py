"""Filters on the rows of a table: `core.where` expressions whose paths are columns. Read from text, checked against a
schema, and evaluated batch by batch.

    amount > 10 and country in ('FR', 'DE') and not (note is null or note starts 'test')

What an expression means is what `core.where.matches` says: a missing value (null, NaN) equals null and nothing else, is
in no order with anything, and therefore differs from every value; `not` is plain negation.
"""

from __future__ import annotations

import datetime as dt
import decimal
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from boucle.core.errors import Invalid
from boucle.core.schema import FLOATS, INTEGERS, Column, Schema
from boucle.core.where import And, Compare, Not, Or, Where

MOST_CHARACTERS = 20_000
MOST_NESTED = 50
_LONGEST_NUMBER = 100  # characters

_EXAMPLE = "such as: amount > 10 and country in ('FR', 'DE')"


# --- reading text ---------------------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"""\s*(?:
    (?P<time>\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?)
    |(?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)(?![\w.])
    |(?P<text>'(?:[^']|'')*')
    |"(?P<quoted>(?:[^"]|"")+)"
    |(?P<op><=|>=|!=|<>|==|=|<|>|~|\(|\)|,)
    |(?P<word>[^\W\d][\w.]*)
    )""",
    re.VERBOSE,
)
_SAME = {"==": "=", "<>": "!=", "~": "contains"}
_COMPARISONS = frozenset(("=", "==", "!=", "<>", "<", "<=", ">", ">=", "~", "contains", "starts"))
_VALUES: dict[str, Any] = {"true": True, "false": False, "null": None}


def parse(text: str) -> Where:
    """Read a filter. Raises `Invalid` with the place where it stops making sense.

    Comparisons are = != < <= > >=, `in (...)`, `between a and b`, `contains 'x'` (also ~; ASCII case ignored), `starts 'x'`, and
    `is null`, each also with `not` (`x not in (1, 2)`, `x is not null`); they are joined by `and`, `or`, `not` and parentheses.
    Values are numbers, 'text' ('' is a quote in it), true, false, null, and dates and times, which need no quotes. A column whose
    name is not a word stands in double quotes.
    """
    if len(text) > MOST_CHARACTERS:
        raise Invalid(f"a filter of {len(text):,} characters", expected=f"at most {MOST_CHARACTERS:,}")
    return _Reader(text).whole()


class _Reader:
    """Recursive descent over the tokens."""

    def __init__(self, text: str) -> None:
        self._text, self._tokens, self._at, self._depth = text, list(_tokens(text)), 0, 0

    def whole(self) -> Where:
        found = self._either()
        if self._peek()[0] != "end":
            raise self._wrong("'and', 'or' or the end")
        return found

    def _either(self) -> Where:
        parts = [self._both()]
        while self._word("or"):
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _both(self) -> Where:
        parts = [self._one()]
        while self._word("and"):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _one(self) -> Where:
        self._depth += 1
        if self._depth > MOST_NESTED:
            raise Invalid(f"a filter nested more than {MOST_NESTED} deep", expected="fewer parentheses")
        try:
            if self._word("not"):
                return ~self._one()
            if self._op("("):
                inside = self._either()
                self._need(")")
                return inside
            return self._comparison()
        finally:
            self._depth -= 1

    def _comparison(self) -> Where:
        kind, column, _ = self._peek()
        if kind not in ("word", "quoted"):
            raise self._wrong("the name of a column")
        self._at += 1
        if self._word("is"):
            negated = self._word("not")
            if not self._word("null"):
                raise self._wrong("'null' or 'not null'")
            return Compare(column, "!=" if negated else "=", None)
        negated = self._word("not")
        made = self._tested(column, negated)
        return ~made if negated else made

    def _tested(self, column: str, negated: bool) -> Where:
        if self._word("in"):
            self._need("(")
            values = [self._value()]
            while self._op(","):
                values.append(self._value())
            self._need(")")
            return Compare(column, "in", tuple(values))
        if self._word("between"):
            low = self._value()
            if not self._word("and"):
                raise self._wrong("'and' and the upper bound")
            return Compare(column, ">=", low) & Compare(column, "<=", self._value())
        kind, op, _ = self._peek()
        if kind == "word" and op.lower() in _COMPARISONS:
            op = op.lower()
        elif kind != "op" or op not in _COMPARISONS or negated:
            words = "in, between, contains or starts"
            raise self._wrong(words if negated else f"a comparison: = != < <= > >= ~ {words} or is null")
        self._at += 1
        return Compare(column, _SAME.get(op, op), self._value())

    def _value(self) -> Any:
        kind, value, _ = self._peek()
        if kind == "word" and value.lower() in _VALUES:
            self._at += 1
            return _VALUES[value.lower()]
        if kind not in ("number", "text", "time"):
            raise self._wrong("a value: a number, 'text' in single quotes, a date, true, false or null")
        self._at += 1
        if kind == "number":
            if len(value) > _LONGEST_NUMBER:
                raise Invalid(
                    f"a number of {len(value):,} characters", expected=f"at most {_LONGEST_NUMBER} in a filter"
                )
            return int(value) if re.fullmatch(r"[+-]?\d+", value) else float(value)
        return value

    def _peek(self) -> tuple[str, str, int]:
        return self._tokens[self._at]

    def _word(self, wanted: str) -> bool:
        return self._taken("word", wanted)

    def _op(self, wanted: str) -> bool:
        return self._taken("op", wanted)

    def _taken(self, kind: str, wanted: str) -> bool:
        found, value, _ = self._peek()
        if found == kind and value.lower() == wanted:
            self._at += 1
            return True
        return False

    def _need(self, op: str) -> None:
        if not self._op(op):
            raise self._wrong(f"{op!r}")

    def _wrong(self, expected: str) -> Invalid:
        kind, value, at = self._peek()
        found = "it ends" if kind == "end" else f"{value[:40]!r} stands"
        return Invalid(f"a filter that cannot be read: {found} at character {at + 1}", expected=expected, fix=_EXAMPLE)


def _tokens(text: str) -> Iterator[tuple[str, str, int]]:
    at, end = 0, len(text.rstrip())
    while at < end:
        found = _TOKEN.match(text, at)
        if found is None:
            at += len(text[at:]) - len(text[at:].lstrip())
            raise Invalid(
                f"a filter that cannot be read: {text[at : at + 20]!r} at character {at + 1}",
                expected="names, values and comparisons; quotes in pairs",
                fix=_EXAMPLE,
            )
        kind = str(found.lastgroup)
        value = found[kind]
        start, at = found.start(kind), found.end()
        if kind == "text":
            value = value[1:-1].replace("''", "'")
        elif kind == "quoted":
            value = value.replace('""', '"')
        yield kind, value, start
    yield "end", "", len(text)


# --- checking against a schema --------------------------------------------------------------------------------------


def columns(where: Where) -> list[str]:
    """The columns that are looked at, each once."""
    match where:
        case And(parts) | Or(parts):
            return list(dict.fromkeys(name for part in parts for name in columns(part)))
        case Not(part):
            return columns(part)
        case Compare(path, _, _):
            return [path]


def bound(where: Where, schema: Schema) -> Where:
    """The same filter with every value in the type of its column. Raises `Invalid` for a column that is not there and for a
    value that could never be compared with it."""
    match where:
        case And(parts):
            return And(tuple(bound(p, schema) for p in parts))
        case Or(parts):
            return Or(tuple(bound(p, schema) for p in parts))
        case Not(part):
            return ~bound(part, schema)
        case Compare(path, op, value):
            return _bound(schema[path], op, value)


def _bound(column: Column, op: str, value: Any) -> Where:
    name = column.name
    if op in ("contains", "starts"):
        if column.type != "string" or not isinstance(value, str):
            raise Invalid(f"{name} {op} {value!r}", expected=f"a text column and a text; {name!r} is {column.type}")
        return Compare(name, op, value)
    if op == "in":
        return _any_of(name, [_bound(column, "=", v) for v in value])
    if op not in ("=", "!=", "<", "<=", ">", ">="):
        raise Invalid(f"{op!r} is not a comparison", expected="one of = != < <= > >= in contains starts")
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return Compare(name, op, None) if op in ("=", "!=") else _never(name)
    read = _VALUE.get(column.type)
    if read is None:
        raise Invalid(f"column {name!r} is {column.type} and has no order", expected=f"{name} is null, or is not null")
    try:
        typed = read(value)
    except (TypeError, ValueError, ArithmeticError):
        raise Invalid(
            f"column {name!r} is {column.type}, and {value!r} is not", expected=_WANTED.get(column.type, "a number")
        ) from None
    return _whole(column, op, typed) if column.type in INTEGERS else Compare(name, op, typed)


def _any_of(name: str, parts: list[Where]) -> Where:
    """One list again, except for what cannot be in one."""
    plain = [p for p in parts if isinstance(p, Compare) and p.op == "="]
    return Compare(name, "in", tuple(p.value for p in plain))


def _never(name: str) -> Compare:
    return Compare(name, "in", ())


def _whole(column: Column, op: str, value: float) -> Where:
    """A comparison of integers with a number that may have a fraction or be beyond them."""
    name = column.name
    bits = int(column.type.lstrip("uint"))
    low, high = (0, 2**bits - 1) if column.type.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    if op in ("=", "!="):
        if value == value // 1 and low <= value <= high:
            return Compare(name, op, int(value))
        return _never(name) if op == "=" else ~_never(name)
    if op in ("<", "<="):
        if value > high:
            return Compare(name, "!=", None)
        if value < low:
            return _never(name)
        return Compare(name, op, int(value)) if value == value // 1 else Compare(name, "<=", math.floor(value))
    if value < low:
        return Compare(name, "!=", None)
    if value > high:
        return _never(name)
    return Compare(name, op, int(value)) if value == value // 1 else Compare(name, ">=", math.ceil(value))


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    return value


def _float32(value: Any) -> float:
    import struct

    return float(struct.unpack("f", struct.pack("f", _number(value)))[0])


def _decimal(value: Any) -> decimal.Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float | decimal.Decimal):
        raise TypeError
    return decimal.Decimal(str(value))


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _date(value: Any) -> dt.date:
    if isinstance(value, dt.datetime):
        raise TypeError
    return value if isinstance(value, dt.date) else dt.date.fromisoformat(value)


def _moment(value: Any) -> dt.datetime:
    """Without a zone, in UTC where there was one."""
    if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        value = dt.datetime(value.year, value.month, value.day)
    read = value if isinstance(value, dt.datetime) else dt.datetime.fromisoformat(value)
    return read.astimezone(dt.UTC).replace(tzinfo=None) if read.tzinfo else read


def _clock(value: Any) -> dt.time:
    return value if isinstance(value, dt.time) else dt.time.fromisoformat(value)


_VALUE: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(INTEGERS, _number), **dict.fromkeys(FLOATS, lambda v: float(_number(v))), "float32": _float32,
    "decimal": _decimal, "string": _string, "bool": _bool, "date": _date, "timestamp": _moment, "time": _clock,
}  # fmt: skip
_WANTED = {
    "string": "text in single quotes", "bool": "true or false", "date": "a date such as 2026-11-01",
    "timestamp": "a time such as 2026-11-01T09:30", "time": "a time of day such as '09:30'",
}  # fmt: skip


# --- evaluating -----------------------------------------------------------------------------------------------------

_KERNELS: dict[str, Callable[[Any, Any], Any]] = {
    "=": pc.equal, "!=": pc.not_equal, "<": pc.less, "<=": pc.less_equal, ">": pc.greater, ">=": pc.greater_equal,
}  # fmt: skip


def mask(where: Where, batch: pa.RecordBatch) -> pa.BooleanArray:
    """Which rows match a bound filter; never null."""
    match where:
        case And(parts):
            return _folded(pc.and_, [mask(p, batch) for p in parts])
        case Or(parts):
            return _folded(pc.or_, [mask(p, batch) for p in parts])
        case Not(part):
            return pc.invert(mask(part, batch))
        case Compare(path, op, value):
            return _compared(_plain(batch.column(path)), op, value)


def _folded(join: Callable[[Any, Any], Any], masks: list[Any]) -> Any:
    out = masks[0]
    for more in masks[1:]:
        out = join(out, more)
    return out


def _plain(column: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    elif pa.types.is_run_end_encoded(column.type):
        column = pc.run_end_decode(column)
    if pa.types.is_string_view(column.type):
        return column.cast(pa.large_string())
    return column.cast(pa.float32()) if pa.types.is_float16(column.type) else column


def _compared(column: pa.Array, op: str, value: Any) -> Any:
    missing = pc.is_null(column, nan_is_null=pa.types.is_floating(column.type))
    if op == "in":
        return _folded(pc.or_, [_compared(column, "=", v) for v in value] or [pa.repeat(False, len(column))])
    if value is None:
        return missing if op == "=" else pc.invert(missing)
    if op == "contains":
        # Only ASCII letters are alike, as everywhere in filters.
        folded = "".join(c.lower() if c.isascii() else c for c in value)
        return pc.fill_null(pc.match_substring(pc.ascii_lower(column), folded), False)
    if op == "starts":
        return pc.fill_null(pc.starts_with(column, value), False)
    if pa.types.is_null(column.type):
        return pa.repeat(op == "!=", len(column))
    return pc.fill_null(_KERNELS[op](*_alike(column, value)), op == "!=")


def _alike(column: pa.Array, value: Any) -> tuple[pa.Array, pa.Scalar]:
    """A column and a value in one type."""
    kind = column.type
    if isinstance(value, dt.datetime) and pa.types.is_timestamp(kind) and kind.tz:
        value = value.replace(tzinfo=dt.UTC)
    if pa.types.is_time(kind):  # Arrow would cut what is finer than the column
        return column.cast(pa.time64("ns")), pa.scalar(value, type=pa.time64("us")).cast(pa.time64("ns"))
    if pa.types.is_timestamp(kind) and value.microsecond % {"s": 1_000_000, "ms": 1000}.get(kind.unit, 1):
        finer = pa.timestamp("us", tz=kind.tz)  # of a time with a zone Arrow would cut what is finer than the column
        return column.cast(finer, safe=False), pa.scalar(value, type=finer)
    try:
        return column, pa.scalar(value, type=kind)
    except (pa.ArrowInvalid, OverflowError):
        # The value is finer than the column's unit or digits.
        if pa.types.is_timestamp(kind):
            finer = pa.timestamp("us", tz=kind.tz)
            return column.cast(finer, safe=False), pa.scalar(value, type=finer)
        return column.cast(pa.float64()), pa.scalar(float(value), type=pa.float64())


def may_match(where: Where, ranges: Mapping[str, Sequence[Any]]) -> bool:
    """Whether a row of a part with these ranges could match a bound filter; True where that cannot be told."""
    match where:
        case And(parts):
            return all(may_match(p, ranges) for p in parts)
        case Or(parts):
            return any(may_match(p, ranges) for p in parts)
        case Not():
            return True  # of what is missing in the part nothing is known, and it would match
        case Compare(path, op, value):
            if op == "in" and not value:
                return False
            if path not in ranges or value is None or op in ("!=", "contains"):
                return True
            if op == "in":
                return any(may_match(Compare(path, "=", v), ranges) for v in value)
            try:
                low, high = ranges[path]
                return _within(low, high, op, value)
            except (TypeError, ValueError):
                return True  # ranges may come from elsewhere


def _within(low: Any, high: Any, op: str, value: Any) -> bool:
    if isinstance(value, dt.datetime):
        # What is finer than a microsecond was cut off.
        low, high = _moment(low), _moment(high)
        if high < dt.datetime.max - dt.timedelta(microseconds=1):
            high += dt.timedelta(microseconds=1)
    elif isinstance(value, dt.date):
        low, high = _date(low), _date(high)
    elif isinstance(value, dt.time | decimal.Decimal) or isinstance(value, str) != isinstance(low, str):
        return True
    if op == "starts":
        return bool(low[: len(value)] <= value <= high[: len(value)])
    if op == "=":
        return bool(low <= value <= high)
    if op in ("<", "<="):
        return bool(low < value if op == "<" else low <= value)
    return bool(high > value if op == ">" else high >= value)
