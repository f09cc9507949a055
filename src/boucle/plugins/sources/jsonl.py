"""JSON: one object per line, or an array of objects; plain or compressed.

The file is read twice, first for the union of all keys and the type of each over every row, then for the values. A
line that is not an object is set aside; a key whose values have types that do not go together is an error that names
both lines.
"""

from __future__ import annotations

import codecs
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from boucle.core import files, guess
from boucle.core.errors import Invalid, NotFound
from boucle.core.frames import BATCH_ROWS, Frame, arrow_type, type_name
from boucle.core.schema import Column, Schema
from boucle.ports.source import BadLine, Reading

_BLOCK = 1 << 23  # bytes of text per batch
_LONGEST = 1 << 26  # bytes of one object
_SHOWN = 500
_SPACE = " \t\r\n"


class JsonlSource:
    """Files of JSON objects."""

    name: ClassVar[str] = "jsonl"
    suffixes: ClassVar[tuple[str, ...]] = (".jsonl", ".ndjson", ".json")
    schemes: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[dict[str, str]] = {"types": "column -> type, for text that stands for times or numbers"}

    def read(self, url: str, options: Mapping[str, Any]) -> Reading:
        """The objects of a file as rows. Raises `NotFound`, or `Invalid` for a file that is empty, is not text, is
        cut off, or has a key with values of types that do not go together (integers and floats do)."""
        unknown = [o for o in options if o not in self.options]
        if unknown:
            raise Invalid(
                f"the jsonl source has no option {unknown[0]!r}", expected=f"one of {', '.join(self.options)}"
            )
        path = files.locate(url)
        bad: list[BadLine] = []
        keys: dict[str, _Kind] = {}
        rows, array = 0, _is_array(path)
        for line, row, _ in _rows(path, array, bad):
            rows += 1
            for key, value in row.items():
                kind = keys.get(key)
                if kind is None:
                    kind = keys[key] = _Kind(key)
                kind.look(value, line)
        if not rows and bad:
            raise Invalid(
                f"{path}: none of its {len(bad)} lines is a JSON object ({bad[0].why})",
                expected="one object per line, or an array of objects",
            )
        if not rows:
            raise Invalid(f"{path} has no rows", expected="at least one object")
        if not keys:
            raise Invalid(f"{path}: the objects have no keys", expected='objects such as {"a": 1}')
        plans = _plans(keys, options.get("types") or {}, rows)
        schema = Schema(tuple(plan.column for plan in plans))
        reading = Reading(Frame(schema, lambda _: iter(())), {"layout": "array" if array else "lines"})
        if kind_of_file := files.compression(path):
            reading.found["compression"] = kind_of_file
        if bad:
            reading.found["bad_lines"] = len(bad)

        def opener(columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
            reading.bad.clear()
            chosen = plans if columns is None else [next(p for p in plans if p.column.name == c) for c in columns]
            return _batches(path, array, chosen, reading.bad)

        reading.frame = Frame(schema, opener, rows)
        return reading


# --- objects --------------------------------------------------------------------------------------------------------


def _is_array(path: Path) -> bool:
    head = next(files.chunks(path, 65_536), b"")
    files.check_text(path, head)
    text = head.decode("utf-16", "replace") if _utf16(head) else head.decode(errors="replace")
    if not text.strip("\ufeff" + _SPACE + "\0"):
        raise Invalid(f"{path} holds nothing but white space", expected="JSON objects")
    return text.lstrip("\ufeff" + _SPACE).startswith("[")


def _utf16(head: bytes) -> bool:
    return head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))


def _content(path: Path) -> Iterator[bytes]:
    """The content as UTF-8 without a mark."""
    pieces = files.chunks(path)
    first = next(pieces, b"")
    if _utf16(first):
        decoder = codecs.getincrementaldecoder("utf-16")("strict")
        try:
            for piece in itertools.chain([first], pieces):
                yield decoder.decode(piece).encode()
        except UnicodeError as error:
            raise Invalid(f"{path} is not UTF-16: {error}", expected="text in UTF-8 or UTF-16") from error
        return
    yield first.removeprefix(codecs.BOM_UTF8)
    yield from pieces


def _rows(path: Path, array: bool, bad: list[BadLine]) -> Iterator[tuple[int, dict[str, Any], int]]:
    """Line number, object and bytes of each object."""
    return _of_array(path, bad) if array else _of_lines(path, bad)


def _of_lines(path: Path, bad: list[BadLine]) -> Iterator[tuple[int, dict[str, Any], int]]:
    for number, raw in enumerate(_lines(path), 1):
        if not raw.strip():
            continue
        try:
            row, why = _DECODER.decode(raw.decode().strip()), ""
        except UnicodeDecodeError as error:
            row, why = None, f"broken UTF-8: byte 0x{raw[error.start]:02x}"
        except RecursionError:
            row, why = None, "nested too deeply"
        except ValueError as error:
            row, why = None, f"not JSON: {error}"
        if not why and not isinstance(row, dict):
            why = f"a JSON {_word(row)}, not an object"
        if why:
            bad.append(BadLine(number, raw.decode(errors="backslashreplace").rstrip()[:_SHOWN], why))
        else:
            yield number, row, len(raw)


def _lines(path: Path) -> Iterator[bytes]:
    held = b""
    for piece in _content(path):
        *whole, held = (held + piece).split(b"\n") if b"\n" in piece else (held + piece,)
        if len(held) > _LONGEST:
            raise Invalid(f"{path} has a line of more than {_LONGEST} bytes", expected="one object per line")
        yield from whole
    if held:
        yield held


def _of_array(path: Path, bad: list[BadLine]) -> Iterator[tuple[int, dict[str, Any], int]]:
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    text, at, line = "", 0, 1
    pieces = _content(path)
    more = True

    def wrong(what: str) -> Invalid:
        return Invalid(
            f"{path}, line {line}: {what}", expected="an array of objects", fix="or write one object per line"
        )

    opened = closed = False
    while True:
        while at < len(text) and text[at] in _SPACE:
            line += text[at] == "\n"
            at += 1
        if at < len(text) and not opened:
            opened, at = True, at + 1
            continue
        if at < len(text) and closed:
            raise wrong("there is something after the end of the array")
        if at < len(text) and text[at] == "]":
            closed, at = True, at + 1
            continue
        if at < len(text):
            try:
                value, end = _DECODER.raw_decode(text, at)
                # A number or word at the end of what was read may go on.
                follows = end
                while follows < len(text) and text[follows] in _SPACE:
                    follows += 1
                if follows < len(text) or not more:
                    if follows >= len(text):
                        raise wrong("the array is cut off")
                    if text[follows] not in ",]":
                        raise wrong("a value is not followed by ',' or ']'")
                    if isinstance(value, dict):
                        yield line, value, end - at
                    else:
                        bad.append(
                            BadLine(line, text[at : min(end, at + _SHOWN)], f"a JSON {_word(value)}, not an object")
                        )
                    line += text.count("\n", at, follows)
                    at = follows + (text[follows] == ",")
                    continue
            except ValueError as error:
                if isinstance(error, Invalid):
                    raise
                if not more or len(text) - at > _LONGEST:
                    raise wrong(f"not JSON: {error}") from error
            except RecursionError as error:
                raise wrong("nested too deeply") from error
        if not more:
            if closed:
                return
            raise wrong("the array is cut off")
        piece = next(pieces, None)
        more = piece is not None
        try:
            text, at = text[at:] + decoder.decode(piece or b"", final=not more), 0
        except UnicodeDecodeError as error:
            raise wrong(f"broken UTF-8: {error.reason}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        twice = next(k for i, (k, _) in enumerate(pairs) if k in [p[0] for p in pairs[:i]])
        raise ValueError(f"key {twice!r} occurs twice")
    return row


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _word(value: Any) -> str:
    return {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}.get(
        type(value), "number"
    )


# --- types ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Kind:
    """What the values under one key are."""

    path: str
    type: str = ""  # bool, int, float, string, list, struct
    line: int = 0  # where it was first seen so
    count: int = 0  # values that are not null
    item: _Kind | None = None
    fields: dict[str, _Kind] = field(default_factory=dict)

    def look(self, value: Any, line: int) -> None:
        """Take in one more value."""
        if value is None:
            return
        self.count += 1
        kind = _NAMES[type(value)]
        if kind != self.type:
            if not self.type:
                self.type, self.line = kind, line
            elif {kind, self.type} == {"int", "float"}:
                self.type = "float"
            else:
                raise Invalid(
                    f"line {line}: {self.path!r} is {_article(kind)}, and in line {self.line} {_article(self.type)}",
                    expected="values of one type under each key",
                    fix="write them alike, or set one of the lines aside",
                )
        if kind == "int" and not -(2**63) <= value < 2**63:
            raise Invalid(
                f"line {line}: {self.path!r} is {value}, which does not fit into 64 bits",
                expected="a smaller integer or a string",
            )
        if kind == "list":
            if self.item is None:
                self.item = _Kind(f"{self.path}[]")
            for part in value:
                self.item.look(part, line)
        elif kind == "struct":
            for key, part in value.items():
                if key not in self.fields:
                    self.fields[key] = _Kind(f"{self.path}.{key}")
                self.fields[key].look(part, line)

    def arrow(self) -> pa.DataType:
        """The Arrow type that holds them all."""
        if self.type == "list":
            return pa.list_(self.item.arrow() if self.item else pa.null())
        if self.type == "struct":
            return pa.struct([(k, v.arrow()) for k, v in self.fields.items()])
        return {"bool": pa.bool_(), "int": pa.int64(), "float": pa.float64(), "string": pa.string()}.get(
            self.type, pa.null()
        )


_NAMES = {bool: "bool", int: "int", float: "float", str: "string", list: "list", dict: "struct"}


def _article(kind: str) -> str:
    return {"int": "an integer", "struct": "an object"}.get(kind, f"a {kind}")


@dataclass(frozen=True, slots=True)
class _Plan:
    column: Column
    arrow: pa.DataType
    text: guess.Plan | None = None  # how text becomes values, where the user gave a type


def _plans(keys: Mapping[str, _Kind], types: Mapping[str, str], rows: int) -> list[_Plan]:
    for name in types:
        if name not in keys:
            raise NotFound.named("column", name, keys, fix="see the option types")
    plans = []
    for name, kind in keys.items():
        given, nullable = types.get(name), kind.count < rows
        if given and kind.type == "string" and given != "string":
            text = guess.Plan(name, given)
            plans.append(_Plan(Column(name, given, nullable), arrow_type(given), text))
        else:
            arrow = arrow_type(given) if given else kind.arrow()
            plans.append(_Plan(Column(name, type_name(arrow), nullable), arrow))
    return plans


def _batches(path: Path, array: bool, plans: list[_Plan], bad: list[BadLine]) -> Iterator[pa.RecordBatch]:
    held: list[dict[str, Any]] = []
    size = 0
    for _, row, length in _rows(path, array, bad):
        held.append(row)
        size += length
        if len(held) == BATCH_ROWS or size > _BLOCK:
            yield _batch(held, plans)
            held, size = [], 0
    if held:
        yield _batch(held, plans)


def _batch(rows: list[dict[str, Any]], plans: list[_Plan]) -> pa.RecordBatch:
    arrays = []
    for plan in plans:
        name = plan.column.name
        values = [row.get(name) for row in rows]
        try:
            if plan.text is not None:
                arrays.append(plan.text.apply(pa.array(values, pa.string())).cast(plan.arrow))
            else:
                arrays.append(pa.array(values, plan.arrow))
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError) as error:
            raise Invalid(
                f"column {name!r} does not hold {plan.column.type}: {error}", expected=plan.column.type
            ) from error
    return pa.RecordBatch.from_arrays(arrays, names=[p.column.name for p in plans])
