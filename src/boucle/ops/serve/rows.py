"""From the body of a request to rows of JSON values."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from typing import Any

from boucle.core.errors import Invalid
from boucle.core.schema import FLOATS, INTEGERS, Schema
from boucle.ops.serve.errors import Malformed, WrongMedia

JSON, CSV = "application/json", "text/csv"
_SHAPE = "one row as an object, or an array of rows"

Row = dict[str, Any]


def _no_constant(name: str) -> float:
    raise Malformed(f"{name} is not JSON", expected="a number", fix="send null for a value that is not known")


_decoder = json.JSONDecoder(parse_constant=_no_constant)


def read(body: bytes, media: str, schema: Schema) -> tuple[list[Row], bool]:
    """The rows of a body, and whether it was one row by itself. They are not checked against the schema yet.

    JSON: one object is one row; an array, or an object with the only key `rows`, is many. CSV: a header and one line
    for each row, an empty field is null. Raises `Malformed`, `WrongMedia`, and `Invalid` for JSON of another shape.
    """
    kind, text = decoded(body, media, (JSON, CSV))
    return (_csv(text, schema), False) if kind == CSV else _json(text, schema)


def decoded(body: bytes, media: str, read_here: Sequence[str]) -> tuple[str, str]:
    """The type of a body, which must be one of those that are read here, and its text; raises `WrongMedia` and `Malformed`."""
    kind = media.partition(";")[0].strip().lower()
    if kind not in read_here:
        raise WrongMedia(
            f"a body of type {kind or 'unknown'} is not read here",
            expected=" or ".join(read_here),
            fix=f"send the header Content-Type: {JSON}",
        )
    try:
        return kind, body.decode()
    except UnicodeDecodeError as error:
        raise Malformed(f"byte {error.start} of the body is not UTF-8", expected="UTF-8") from None


def too_deep(expected: str = _SHAPE) -> Malformed:
    """Said wherever reading runs out of stack."""
    return Malformed("the body is nested too deeply", expected=expected)


def parsed(text: str, expected: str) -> Any:
    """The value that a text is in JSON; raises `Malformed`, which says what was expected."""
    try:
        return _decoder.decode(text)
    except json.JSONDecodeError as error:
        raise Malformed(
            f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}", expected=expected
        ) from None
    except RecursionError:
        raise too_deep(expected) from None
    except ValueError as error:  # an integer of thousands of digits
        if isinstance(error, Malformed):
            raise
        raise Malformed(f"the body is not usable JSON: {error}", expected="numbers of usual size") from None


def _json(text: str, schema: Schema) -> tuple[list[Row], bool]:
    value = parsed(text, _SHAPE)
    if isinstance(value, dict):
        if len(value) != 1 or "rows" not in value or "rows" in schema:
            return [value], True
        value = value["rows"]
    if not isinstance(value, list):
        raise Invalid(
            f"the body is {named(value)}", expected='one row as an object, an array of rows, or {"rows": [...]}'
        )
    return value, False


def named(value: object) -> str:
    """What kind of JSON value it is, in words."""
    kinds = {type(None): "null", bool: "a boolean", str: "a string", dict: "an object", list: "an array"}
    return kinds.get(type(value), "a number")


def _csv(text: str, schema: Schema) -> list[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, None)
        if header is None:
            raise Malformed("the body is empty", expected="a header with column names, then one line for each row")
        columns = [(name, _READERS.get(schema[name].type, str)) for name in header]
        if len(set(header)) < len(header):
            raise Invalid("a column occurs twice in the header", expected="distinct column names")
        rows = []
        for fields in reader:
            if not fields:
                continue
            if len(fields) != len(header):
                raise Malformed(f"line {reader.line_num} has {len(fields)} fields", expected=f"{len(header)} fields")
            rows.append({name: read(field) for (name, read), field in zip(columns, fields, strict=True)})
        return rows
    except csv.Error as error:
        raise Malformed(
            f"line {reader.line_num} is not CSV: {error}", expected="fields in double quotes or without any"
        ) from None


def _number(kind: type[int] | type[float]) -> Callable[[str], Any]:
    def read(field: str) -> Any:
        try:
            return kind(field) if field else None
        except ValueError:
            return field  # the schema says what is wrong with it, with row and column

    return read


def _bool(field: str) -> Any:
    return {"": None, "true": True, "false": False}.get(field.lower(), field)


_READERS: dict[str, Callable[[str], Any]] = {
    "bool": _bool,
    "string": lambda field: field or None,
    **dict.fromkeys(("date", "timestamp", "binary"), lambda field: field or None),
    **dict.fromkeys(INTEGERS, _number(int)),
    **dict.fromkeys(FLOATS, _number(float)),
}
