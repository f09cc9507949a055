"""Incremental loads: how far a source was read, by a column whose values grow. What was reached is kept with the version."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Sequence
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from boucle.core.errors import Corrupt, Invalid, NotFound
from boucle.core.frames import Frame, arrow_type, type_name
from boucle.core.records import Dataset
from boucle.core.schema import jsonable

_ORDERED = ("int", "uint", "float", "decimal", "string", "date", "timestamp")
_NUMBER = r"^[+-]?\d+(\.\d*)?$"
_FINER = re.compile(r"(.*\.\d{6})(\d{3})(.*)")


class Track:
    """Follows one column: lets newer rows through and notes the greatest value."""

    def __init__(self, column: str, value: pa.Scalar | None, inclusive: bool) -> None:
        self.column, self._after, self._inclusive = column, value, inclusive
        self._value, self._type = value, ""

    @classmethod
    def after(cls, column: str, before: Dataset | None, *, inclusive: bool) -> Self:
        """On from where a version came to. Raises `Invalid` when that was by another column."""
        known = (before.position if before else {}).get("cursor")
        if known is None:
            return cls(column, None, inclusive)
        try:
            column_before, value, kind = known["column"], known["value"], known["type"]
            reached = _value(value, kind)
        except (TypeError, KeyError, ValueError, ArithmeticError, pa.ArrowException):
            raise Corrupt(
                f"what {before.key if before else ''} says of its cursor cannot be read",
                expected="what was written",
                fix="load all of it anew: --full",
            ) from None
        if column_before != column:
            raise Invalid(
                f"{before.key if before else ''} was read by the cursor {column_before!r}",
                expected=f"the same cursor, not {column!r}",
                fix="load all of it anew: --full",
            )
        track = cls(column, reached, inclusive)
        track._type = kind
        return track

    def asked(self) -> dict[str, Any]:
        """The options of a source that can leave out old rows by itself."""
        known = {} if self._after is None else {"after": _plain(self._after), "inclusive": self._inclusive}
        return {"cursor": self.column, **known}

    def newer(self, frame: Frame) -> Frame:
        """Only the rows past what was reached; those without a value stay out."""
        if self.column not in frame.columns:
            raise NotFound.named("cursor column", self.column, frame.columns)
        kind = frame.schema[self.column].type
        if not kind.startswith(_ORDERED):
            raise Invalid(
                f"the cursor {self.column!r} has the type {kind}", expected="numbers, times or texts, which grow"
            )

        def opener(columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
            self._value = self._after
            wanted = None if columns is None else [*columns, *({self.column} - set(columns))]
            for batch in frame.batches(wanted):
                kept = self._kept(batch)
                yield kept if columns is None else kept.select(list(columns))

        return Frame(frame.schema, opener)

    def _kept(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        values = batch.column(self.column)
        self._type = type_name(values.type)
        if pa.types.is_float16(values.type):
            values = values.cast(pa.float32())
        mask = pc.is_valid(values)
        if pa.types.is_floating(values.type):
            self._check_finite(values)
            mask = pc.and_kleene(mask, pc.is_finite(values))
        elif pa.types.is_string(values.type):
            self._check_text(values)
        if self._after is not None:
            test = pc.greater_equal if self._inclusive else pc.greater
            mask = pc.and_kleene(mask, test(*_alike(values, self._after, self.column)))
        here = pc.max(values.filter(mask))
        if here.is_valid:
            self._value = here if self._value is None or _less(self._value, here, self.column) else self._value
        return batch.filter(mask)

    def _check_finite(self, values: pa.Array) -> None:
        if pc.any(pc.is_inf(values)).as_py():
            raise Invalid(f"the cursor {self.column!r} is infinite in a row", expected="values that others can be past")

    def _check_text(self, values: pa.Array) -> None:
        """Numbers of different lengths do not grow as texts do: '10' comes before '9'."""
        numbers = values.filter(pc.match_substring_regex(values, _NUMBER))
        before = len(self._value.as_py()) if self._value is not None and _is_number(self._value) else None
        lengths = set(pc.utf8_length(numbers).unique().to_pylist()) | ({before} - {None})
        if len(lengths) > 1:
            raise Invalid(
                f"the cursor {self.column!r} holds numbers as text, of different lengths: '10' comes before '9' there",
                expected="a column of numbers or times, or texts that sort as they grow",
                fix="name the type with the option types, such as types={'id': 'int64'}",
            )

    def position(self) -> dict[str, Any]:
        """What to keep with the version."""
        if self._value is None:
            return {}
        return {"cursor": {"column": self.column, "value": _told(self._value), "type": self._type}}


def _is_number(value: pa.Scalar) -> bool:
    return pa.types.is_string(value.type) and re.match(_NUMBER, value.as_py()) is not None


def _less(one: pa.Scalar, other: pa.Scalar, column: str) -> bool:
    values, value = _alike(pa.repeat(other, 1), one, column)
    return bool(pc.greater(values, value)[0].as_py())


def _alike(values: pa.Array, value: pa.Scalar, column: str) -> tuple[pa.Array, pa.Scalar]:
    """Values and what was reached before in one type: that of the values, or where it is finer that one's."""
    try:
        return values, value.cast(values.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        try:
            return values.cast(value.type), value
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise Invalid(
                f"the cursor {column!r} is {values.type} now, and came to {_told(value)!r} before: {error}",
                expected="the same type",
                fix="load all of it anew: --full",
            ) from None


def _plain(value: pa.Scalar) -> Any:
    """As Python has it; of times what is finer than a microsecond is cut off, so that none is taken to be older."""
    if pa.types.is_timestamp(value.type) and value.type.unit == "ns":
        return pa.scalar(value.value // 1000, pa.timestamp("us", value.type.tz)).as_py()
    return value.as_py()


def _told(value: pa.Scalar) -> Any:
    """A value as JSON, without loss."""
    known = _plain(value)
    if pa.types.is_timestamp(value.type) and value.type.unit == "ns" and (rest := value.value % 1000):
        text = known.isoformat(timespec="microseconds")
        return f"{text[:26]}{rest:03}{text[26:]}"
    return jsonable(known)


def _value(value: Any, kind: str) -> pa.Scalar:
    """A kept value as it was."""
    if kind == "timestamp":
        finer = _FINER.fullmatch(value)
        known = pa.scalar(dt.datetime.fromisoformat(finer[1] + finer[3] if finer else value))
        if finer is None:
            return known
        return pa.scalar(known.value * 1000 + int(finer[2]), pa.timestamp("ns", known.type.tz))
    if kind == "date":
        return pa.scalar(dt.date.fromisoformat(value))
    if kind == "decimal":
        import decimal

        return pa.scalar(decimal.Decimal(value))
    return pa.scalar(value, pa.float32() if kind == "float16" else arrow_type(kind))
