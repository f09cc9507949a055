"""Checks on the values of columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from boucle.core.errors import Invalid
from boucle.core.frames import Frame
from boucle.core.hashes import repeated
from boucle.core.schema import jsonable
from boucle.ports.check import Finding

_EXAMPLES = 5


class Required:
    """Values are there: neither null nor NaN."""

    name: ClassVar[str] = "required"
    options: ClassVar[dict[str, str]] = {
        "columns": "the columns (or `column`, for one)",
        "share": "the share of rows that may be without a value; 0",
    }

    def run(self, frame: Frame, options: Mapping[str, Any]) -> Finding:
        """Fails when a column lacks more values than allowed; the score is the largest share that does."""
        columns, allowed = columns_of(frame, options, self), number(options, "share", 0.0)
        missing, rows = dict.fromkeys(columns, 0), 0
        for batch in frame.batches(columns):
            rows += batch.num_rows
            for name in columns:
                missing[name] += _absent(batch.column(name))
        shares = {name: count / rows if rows else 0.0 for name, count in missing.items()}
        worst = max(shares, key=lambda name: shares[name])
        failing = [name for name in columns if shares[name] > allowed]
        summary = (
            f"{worst} has no value in {missing[worst]} of {rows} rows ({shares[worst]:.2%})"
            if missing[worst]
            else f"{', '.join(columns)}: a value in all {rows} rows"
        )
        return Finding(
            "fail" if failing else "pass", summary, shares[worst], allowed, {"missing": missing, "rows": rows}
        )


def _absent(column: pa.Array) -> int:
    nan = pc.sum(pc.is_nan(column)).as_py() if pa.types.is_floating(column.type) else 0
    return int(column.null_count + (nan or 0))


class Unique:
    """No two rows have the same values in these columns together (rows with a null in them do not count)."""

    name: ClassVar[str] = "unique"
    options: ClassVar[dict[str, str]] = {"columns": "the columns that together name a row (or `column`, for one)"}

    def run(self, frame: Frame, options: Mapping[str, Any]) -> Finding:
        """Fails when there are rows whose key another row before them has; the score is how many."""
        columns = columns_of(frame, options, self)
        count, rows, examples = repeated(frame, columns, skip_nulls=True)
        key = ", ".join(columns)
        summary = f"{count} of {rows} rows repeat an earlier {key}" if count else f"{key} is unique over {rows} rows"
        return Finding("fail" if count else "pass", summary, float(count), 0.0, {"rows": rows, "examples": examples})


class Between:
    """Values lie between two bounds, which are allowed themselves."""

    name: ClassVar[str] = "between"
    options: ClassVar[dict[str, str]] = {
        "columns": "the columns (or `column`, for one)",
        "low": "the least value allowed; none",
        "high": "the greatest value allowed; none",
        "share": "the share of values that may lie outside; 0",
    }

    def run(self, frame: Frame, options: Mapping[str, Any]) -> Finding:
        """Fails when more values lie outside than allowed; nulls and NaN are not judged. Bounds of times are ISO
        8601."""
        columns, allowed = columns_of(frame, options, self), number(options, "share", 0.0)
        low, high = options.get("low"), options.get("high")
        if low is None and high is None:
            raise Invalid("check between has neither low nor high", expected="at least one of them")
        outside, values = 0, 0
        examples: list[dict[str, Any]] = []
        for batch in frame.batches(columns):
            for name in columns:
                column = batch.column(name).drop_null()
                wrong = _outside(column, low, high, name)
                values += len(column)
                if count := pc.sum(wrong).as_py() or 0:
                    outside += count
                    room = _EXAMPLES - len(examples)
                    examples += [
                        {"column": name, "value": jsonable(v)} for v in column.filter(wrong)[:room].to_pylist()
                    ]
        share = outside / values if values else 0.0
        span = f"{'-inf' if low is None else low} to {'inf' if high is None else high}"
        summary = (
            f"{outside} of {values} values of {', '.join(columns)} are not in {span} (such as {examples[0]['value']})"
            if outside
            else f"all {values} values of {', '.join(columns)} are in {span}"
        )
        status = "fail" if share > allowed else "pass"
        return Finding(status, summary, share, allowed, {"outside": outside, "values": values, "examples": examples})


def _outside(column: pa.Array, low: Any, high: Any, name: str) -> pa.Array:
    wrong = None
    for bound, compare in ((low, pc.less), (high, pc.greater)):
        if bound is None:
            continue
        here = compare(column, scalar(bound, column.type, name))
        wrong = here if wrong is None else pc.or_(wrong, here)
    return wrong


class Allowed:
    """Values are among those listed."""

    name: ClassVar[str] = "allowed"
    options: ClassVar[dict[str, str]] = {
        "columns": "the columns (or `column`, for one)",
        "values": "the values allowed",
        "share": "the share of values that may be others; 0",
    }

    def run(self, frame: Frame, options: Mapping[str, Any]) -> Finding:
        """Fails when more values are others than allowed; nulls are not judged."""
        columns, allowed = columns_of(frame, options, self), number(options, "share", 0.0)
        listed = options.get("values")
        if not isinstance(listed, Sequence) or isinstance(listed, str) or not listed:
            raise Invalid(f"check allowed has values={listed!r}", expected="a list of values")
        others: Counter[Any] = Counter()
        rest = values = 0
        for batch in frame.batches(columns):
            for name in columns:
                column = batch.column(name).drop_null()
                if pa.types.is_dictionary(column.type):
                    column = column.dictionary_decode()
                known = _values(listed, column.type, name)
                strange = column.filter(pc.invert(pc.is_in(column, value_set=known)))
                values += len(column)
                rest += len(strange)
                if len(others) < 1000 and len(strange):
                    counts = strange.value_counts()[:1000]
                    others.update({jsonable(c["values"].as_py()): c["counts"].as_py() for c in counts})
        share = rest / values if values else 0.0
        common = [[value, count] for value, count in others.most_common(_EXAMPLES)]
        summary = (
            f"{rest} of {values} values of {', '.join(columns)} are not among the {len(listed)} allowed "
            f"(such as {common[0][0]!r})"
            if rest
            else f"all {values} values of {', '.join(columns)} are among the {len(listed)} allowed"
        )
        return Finding(
            "fail" if share > allowed else "pass", summary, share, allowed, {"others": common, "values": values}
        )


def _values(listed: Sequence[Any], kind: pa.DataType, name: str) -> pa.Array:
    whole = pa.types.is_integer(kind)
    plain = [int(v) if whole and isinstance(v, float) and v.is_integer() else v for v in listed]
    return pa.array([s.as_py() for s in (scalar(v, kind, name) for v in plain) if s.type == kind], kind)


# --- options --------------------------------------------------------------------------------------------------------


def columns_of(frame: Frame, options: Mapping[str, Any], check: Any) -> list[str]:
    """The columns a check is to look at; raises `Invalid` for unknown options and columns that are not there."""
    for option in options:
        if option not in check.options and option != "column":
            raise Invalid(f"check {check.name} has no option {option!r}", expected=f"one of {', '.join(check.options)}")
    given = options.get("columns", options.get("column"))
    columns = [given] if isinstance(given, str) else list(given or ())
    if not columns:
        raise Invalid(f"check {check.name} was given no column", expected="columns=[...] or column=...")
    for name in columns:
        frame.schema[name]
    return columns


def number(options: Mapping[str, Any], name: str, default: float) -> float:
    """An option that is a number."""
    value = options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Invalid(f"option {name}={value!r}", expected="a number")
    return float(value)


def scalar(value: Any, kind: pa.DataType, column: str) -> pa.Scalar:
    """A bound or allowed value as a value of the column."""
    try:
        if isinstance(value, str) and not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            return pa.scalar(value).cast(kind)
        if pa.types.is_integer(kind) and isinstance(value, float):
            return pa.scalar(value)
        return pa.scalar(value, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError) as error:
        raise Invalid(
            f"{value!r} cannot be compared with column {column!r} of type {kind}", expected=str(kind)
        ) from error
