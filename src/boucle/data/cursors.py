"""Incremental loads: how far a source was read, by a column whose values grow. What was reached is kept with the version."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from boucle.core.errors import Invalid, NotFound
from boucle.core.frames import Frame, arrow_type, type_name
from boucle.core.records import Dataset
from boucle.core.schema import jsonable

_ORDERED = ("int", "uint", "float", "decimal", "string", "date", "timestamp")


class Track:
    """Follows one column: lets newer rows through and notes the greatest value."""

    def __init__(self, column: str, value: Any, inclusive: bool) -> None:
        self.column, self._after, self._inclusive = column, value, inclusive
        self._value, self._type = value, ""

    @classmethod
    def after(cls, column: str, before: Dataset | None, *, inclusive: bool) -> Self:
        """On from where a version came to. Raises `Invalid` when that was by another column."""
        known = (before.position if before else {}).get("cursor")
        if known is None:
            return cls(column, None, inclusive)
        if known["column"] != column:
            raise Invalid(
                f"{before.key if before else ''} was read by the cursor {known['column']!r}",
                expected=f"the same cursor, not {column!r}",
                fix="load all of it anew: --full",
            )
        track = cls(column, _value(known["value"], known["type"]), inclusive)
        track._type = known["type"]
        return track

    def asked(self) -> dict[str, Any]:
        """The options of a source that can leave out old rows by itself."""
        known = {} if self._after is None else {"after": self._after, "inclusive": self._inclusive}
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
        mask = pc.is_valid(values)
        if self._after is not None:
            test = pc.greater_equal if self._inclusive else pc.greater
            try:
                mask = pc.and_kleene(mask, test(values, pa.scalar(self._after).cast(values.type)))
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                raise Invalid(
                    f"the cursor {self.column!r} is {values.type} now, and came to {self._after!r} before: {error}",
                    expected="the same type",
                    fix="load all of it anew: --full",
                ) from None
        here = pc.max(values).as_py()
        if here is not None:
            self._value = here if self._value is None else max(self._value, here)
        return batch.filter(mask)

    def position(self) -> dict[str, Any]:
        """What to keep with the version."""
        if self._value is None:
            return {}
        return {"cursor": {"column": self.column, "value": jsonable(self._value), "type": self._type}}


def _value(value: Any, kind: str) -> Any:
    """A kept value as it was."""
    if kind == "timestamp":
        return dt.datetime.fromisoformat(value)
    if kind == "date":
        return dt.date.fromisoformat(value)
    return pa.scalar(value).cast(arrow_type(kind)).as_py()
