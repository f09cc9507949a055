"""JSON: one object per line, an array of objects, or a document with a list of objects in it; plain or compressed.

The file is read twice, first for the union of all keys and the type of each over every row, then for the values. A
line that is not an object is set aside; a key whose values have types that do not go together is an error that names
both lines.
"""

from __future__ import annotations

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
from boucle.plugins.sources.columnar import known
from boucle.plugins.sources.json_document import DECODER, LONGEST, OPENED, Found, content, record_of, walk, word
from boucle.ports.source import BadLine, Reading

MOST_COLUMNS = 10_000  # beyond it, the keys are data, and every row would have a cell for each
_BLOCK = 1 << 23  # bytes of text per batch
_CELLS = 1 << 22  # values per batch, nulls included
_SHOWN = 500


class JsonlSource:
    """Files of JSON objects."""

    name: ClassVar[str] = "jsonl"
    suffixes: ClassVar[tuple[str, ...]] = (".jsonl", ".ndjson", ".json", ".geojson")
    schemes: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[dict[str, str]] = {
        "record": "the path of the list whose objects are the rows, such as features or data.items, or . for the whole; "
        "found by itself where there is one",
        "types": "column -> type, for text that stands for times or numbers",
        "largest": "how many bytes a compressed file may unpack to; without it 1 GiB or 200 times its size",
    }

    def read(self, url: str, options: Mapping[str, Any]) -> Reading:
        """The objects of a file as rows. Raises `NotFound`, or `Invalid` for a file that is empty, is not text, is
        cut off, has more than 10,000 keys, or has a key with values of types that do not go together (integers and
        floats do)."""
        known(options, self)
        largest = files.largest(options)
        path = files.locate(url)
        bad: list[BadLine] = []
        keys: dict[str, _Kind] = {}
        rows, record = 0, record_of(path, options.get("record"), largest)
        for line, row, _ in _rows(path, record, bad, largest):
            rows += 1
            for key, value in row.items():
                kind = keys.get(key)
                if kind is None:
                    if len(keys) == MOST_COLUMNS:
                        raise _too_many(f"{path}, line {line}", "the objects have")
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
        schema, by_name = Schema(tuple(plan.column for plan in plans)), {plan.column.name: plan for plan in plans}
        layout = "lines" if record is None else "document" if record else "array"
        reading = Reading(Frame(schema, lambda _: iter(())), {"layout": layout})
        if record:
            reading.found["record"] = record
        if kind_of_file := files.compression(path):
            reading.found["compression"] = kind_of_file
        if bad:
            reading.found["bad_lines"] = len(bad)

        def opener(columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
            reading.bad.clear()
            return _batches(
                path, record, plans if columns is None else [by_name[c] for c in columns], reading.bad, largest
            )

        reading.frame = Frame(schema, opener, rows)
        return reading


# --- objects --------------------------------------------------------------------------------------------------------


def _rows(
    path: Path, record: str | None, bad: list[BadLine], largest: int
) -> Iterator[tuple[int, dict[str, Any], int]]:
    """Line number, object and bytes of each object: one per line, or of the list at `record` in a document."""
    return _of_lines(path, bad, largest) if record is None else _of_document(path, record, bad, largest)


def _of_lines(path: Path, bad: list[BadLine], largest: int) -> Iterator[tuple[int, dict[str, Any], int]]:
    for number, raw in enumerate(_lines(path, largest), 1):
        if not raw.strip():
            continue
        try:
            row, why = DECODER.decode(raw.decode().strip()), ""
        except UnicodeDecodeError as error:
            row, why = None, f"broken UTF-8: byte 0x{raw[error.start]:02x}"
        except RecursionError:
            row, why = None, "nested too deeply"
        except ValueError as error:
            row, why = None, f"not JSON: {error}"
        if not why and not isinstance(row, dict):
            why = f"a JSON {word(row)}, not an object"
        if why:
            bad.append(BadLine(number, raw[: 4 * _SHOWN].decode(errors="backslashreplace").rstrip()[:_SHOWN], why))
        else:
            yield number, row, len(raw)


def _lines(path: Path, largest: int) -> Iterator[bytes]:
    held: list[bytes] = []
    have = 0
    for piece in content(path, largest):
        first, *others = piece.split(b"\n")
        held.append(first)
        have += len(first)
        if have > LONGEST:
            raise Invalid(f"{path} has a line of more than {LONGEST} bytes", expected="one object per line")
        if others:
            yield b"".join(held)
            yield from others[:-1]
            held, have = [others[-1]], len(others[-1])
    if have:
        yield b"".join(held)


def _of_document(
    path: Path, record: str, bad: list[BadLine], largest: int
) -> Iterator[tuple[int, dict[str, Any], int]]:
    seen = False
    for found in walk(path, record, largest):
        seen = True
        if found.value is OPENED:
            continue
        if not isinstance(found.value, dict):
            said = json.dumps(found.value)[:_SHOWN]
            bad.append(BadLine(found.line, said, f"a JSON {word(found.value)}, not an object"))
        else:
            yield found.line, _feature(path, found), found.size
    if not seen:
        raise NotFound(f"{path} has no list at {record!r}", expected="the path of one, such as data.items")


def _feature(path: Path, found: Found) -> dict[str, Any]:
    """A feature of GeoJSON (RFC 7946) as its properties and its geometry, which is GeoJSON text; any other object as it is."""
    row: dict[str, Any] = found.value
    properties = row.get("properties")
    if row.get("type") != "Feature" or "geometry" not in row or not isinstance(properties, dict | None):
        return row
    shape = row["geometry"]
    own = {"geometry": None if shape is None else json.dumps(shape, separators=(",", ":"), ensure_ascii=False)}
    if "id" in row:
        own["id"] = row["id"]
    properties = properties or {}
    twice = [k for k in own if k in properties and k != "id"]
    if twice:
        raise Invalid(f"{path}, line {found.line}: a feature has a property {twice[0]!r}", expected="another name")
    return {**own, **properties} if "id" in properties else {**properties, **own}


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
                    if len(self.fields) == MOST_COLUMNS:
                        raise _too_many(f"line {line}", f"the objects under {self.path!r} have")
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


def _too_many(where: str, who: str) -> Invalid:
    return Invalid(
        f"{where}: {who} more than {MOST_COLUMNS:,} different keys",
        expected="the same keys in most objects: each is a column",
        fix="name the list that holds the rows with the option record, or read the lines as they are with source=text",
    )


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


def _width(arrow: pa.DataType) -> int:
    """How many values a row of the type has, lists aside."""
    if not pa.types.is_struct(arrow):
        return 1
    return sum(_width(arrow.field(i).type) for i in range(arrow.num_fields))


def _batches(
    path: Path, record: str | None, plans: list[_Plan], bad: list[BadLine], largest: int
) -> Iterator[pa.RecordBatch]:
    held: list[dict[str, Any]] = []
    size, most = 0, 1 + min(BATCH_ROWS - 1, _CELLS // max(sum(_width(p.arrow) for p in plans), 1))
    for _, row, length in _rows(path, record, bad, largest):
        held.append(row)
        size += length
        if len(held) == most or size > _BLOCK:
            yield _batch(held, plans)
            held, size = [], 0
    if held:
        yield _batch(held, plans)


def _batch(rows: list[dict[str, Any]], plans: list[_Plan]) -> pa.RecordBatch:
    arrays = []
    present = set().union(*rows)
    for plan in plans:
        name = plan.column.name
        if name not in present:
            arrays.append(pa.nulls(len(rows), plan.arrow))
            continue
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
