"""Checks on a table as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from boucle.core.errors import Invalid
from boucle.core.frames import Frame
from boucle.core.hashes import repeated
from boucle.ports.check import Finding


class Rows:
    """The number of rows lies between two bounds."""

    name: ClassVar[str] = "rows"
    options: ClassVar[dict[str, str]] = {
        "least": "the fewest rows allowed; 1",
        "most": "the most rows allowed; no bound",
    }

    def run(self, frame: Frame, options: Mapping[str, Any]) -> Finding:
        """Fails when there are fewer or more; the score is the number of rows."""
        _known(options, self)
        least, most = options.get("least", 1), options.get("most")
        for name, value in (("least", least), ("most", most)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
                raise Invalid(f"option {name}={value!r}", expected="a number of rows")
        rows = len(frame)
        if rows < least:
            return Finding("fail", f"{rows} rows, fewer than {least}", float(rows), float(least), {"rows": rows})
        if most is not None and rows > most:
            return Finding("fail", f"{rows} rows, more than {most}", float(rows), float(most), {"rows": rows})
        return Finding("pass", f"{rows} rows", float(rows), float(least), {"rows": rows})


class Duplicates:
    """Whole rows that occur more than once."""

    name: ClassVar[str] = "duplicates"
    options: ClassVar[dict[str, str]] = {
        "columns": "the columns that are compared; all",
        "share": "the share of rows that may repeat an earlier one; 0",
    }

    def run(self, frame: Frame, options: Mapping[str, Any]) -> Finding:
        """Fails when more rows repeat an earlier one than allowed; nulls are equal to each other here."""
        _known(options, self)
        allowed = options.get("share", 0.0)
        if isinstance(allowed, bool) or not isinstance(allowed, int | float):
            raise Invalid(f"option share={allowed!r}", expected="a number")
        columns = list(options.get("columns") or frame.columns)
        for name in columns:
            frame.schema[name]
        count, rows, examples = repeated(frame, columns, skip_nulls=False)
        share = count / rows if rows else 0.0
        summary = f"{count} of {rows} rows repeat an earlier row" if count else f"all {rows} rows differ"
        return Finding(
            "fail" if share > allowed else "pass",
            summary,
            share,
            float(allowed),
            {"duplicates": count, "examples": examples},
        )


def _known(options: Mapping[str, Any], check: Any) -> None:
    for option in options:
        if option not in check.options:
            raise Invalid(f"check {check.name} has no option {option!r}", expected=f"one of {', '.join(check.options)}")
