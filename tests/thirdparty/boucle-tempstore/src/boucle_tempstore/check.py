"""A check that dates fall on working days."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from boucle.core.errors import Invalid
from boucle.core.frames import Frame
from boucle.ports.check import Finding


class Weekdays:
    """Fails when a date is a Saturday or Sunday. Missing dates do not count."""

    name: ClassVar[str] = "weekdays"
    options: ClassVar[dict[str, str]] = {"column": "a column of dates or timestamps"}

    def run(self, frame: Frame, options: Mapping[str, Any]) -> Finding:
        column = options.get("column")
        if set(options) != {"column"} or column not in frame.schema:
            raise Invalid(f"weekdays cannot look at {dict(options)}", expected="column = a column of the table")
        if frame.schema[column].type not in ("date", "timestamp"):
            raise Invalid(f"column {column!r} is {frame.schema[column].type}", expected="dates or timestamps")
        rows = weekends = 0
        for batch in frame.batches([column]):
            days = [day.weekday() for day in batch.column(0).to_pylist() if day is not None]
            rows += len(days)
            weekends += sum(day >= 5 for day in days)
        share = weekends / rows if rows else 0.0
        return Finding(
            "fail" if weekends else "pass",
            f"{weekends} of {rows} dates in {column} are on a weekend",
            share,
            0.0,
            {"weekends": weekends, "rows": rows},
        )
