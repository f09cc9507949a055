"""A service's log in columns: blocks of lines, parsed by Arrow, in the order of their ids.

Arrow parses a block several times faster than Python its lines. Where it cannot, because a value is not of the type the schema
says, Python reads the block line by line, and says which line is damaged if one is.
"""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json as pj
from numpy.typing import NDArray

from boucle.core import predictions
from boucle.core.frames import arrow_type
from boucle.core.schema import INTEGERS, Column, Schema
from boucle.measure.sketch import kind_of

FOLDER, FAILURES = "predictions", "failures"

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Consecutive lines. `asked` are those that are not probes; `mirrored` those of a shadow. `requests` are numbered: lines
    of one request have the same number, and it is larger than those before."""

    ids: pa.Array
    times: Floats
    latency: Floats  # microseconds
    asked: NDArray[np.bool_]
    mirrored: NDArray[np.bool_]
    requests: NDArray[np.int64]
    inputs: Mapping[str, pa.Array]
    prediction: pa.Array
    probabilities: pa.StructArray | None

    def __len__(self) -> int:
        return len(self.times)

    def slice(self, start: int, end: int) -> Block:
        part = slice(start, end)
        length = end - start
        return Block(
            self.ids.slice(start, length), self.times[part], self.latency[part], self.asked[part], self.mirrored[part],
            self.requests[part], {n: a.slice(start, length) for n, a in self.inputs.items()},
            self.prediction.slice(start, length),
            self.probabilities.slice(start, length) if self.probabilities is not None else None,
        )  # fmt: skip

    def filter(self, mask: NDArray[np.bool_]) -> Block:
        if mask.all():
            return self
        chosen = pa.array(mask)
        return Block(
            self.ids.filter(chosen), self.times[mask], self.latency[mask], self.asked[mask], self.mirrored[mask],
            self.requests[mask], {n: a.filter(chosen) for n, a in self.inputs.items()}, self.prediction.filter(chosen),
            self.probabilities.filter(chosen) if self.probabilities is not None else None,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Layout:
    """The types in which the log of a service is read."""

    inputs: Schema
    output: Schema

    def schema(self) -> pa.Schema:
        said = [pa.field(c.name, _output_type(c)) for c in self.output.columns if c.name in _SAID]
        return pa.schema(
            [
                ("id", pa.string()), ("time", pa.float64()), ("latency_us", pa.float64()), ("request", pa.string()),
                ("shadow", pa.string()), ("inputs", pa.struct([(c.name, _input_type(c.type)) for c in self.inputs.columns])),
                ("output", pa.struct(said or [("prediction", pa.string())])),
            ]
        )  # fmt: skip


_SAID = ("prediction", "probabilities")


def _input_type(type_: str) -> pa.DataType:
    """JSON values that the service has checked already; of what is neither number, text nor vector only whether it is there."""
    kind = kind_of(type_)
    if kind == "number":
        return pa.float64()
    if kind == "vector":
        return pa.list_(pa.float32())
    return pa.bool_() if type_ == "bool" else pa.string()


def _output_type(column: Column) -> pa.DataType:
    if column.name == "probabilities":
        found = arrow_type(column.type)
        return found if pa.types.is_struct(found) else pa.string()
    if kind_of(column.type) == "number":
        return pa.int64() if column.type in INTEGERS else pa.float64()
    return pa.bool_() if column.type == "bool" else pa.string()


def read(folder: Path, layout: Layout, after: str = "") -> Iterator[Block]:
    """The log of a service's folder past an id. Raises `Corrupt` for a damaged line."""
    schema = layout.schema()
    at = after
    for raw in predictions.blocks(folder / FOLDER, after):
        table = _parsed(raw, schema)
        if table is None:
            count = raw.count(b"\n")
            lines = itertools.islice(predictions.scan(folder / FOLDER, at), count)
            table = pa.Table.from_pylist([_fitted(line, schema) for line in lines], schema=schema)
        block = _block(table.combine_chunks())
        at = block.ids[-1].as_py()
        yield block


def _parsed(raw: bytes, schema: pa.Schema) -> pa.Table | None:
    """None where a value is not of its type, or a line has no id."""
    try:
        table = pj.read_json(
            io.BytesIO(raw),
            pj.ReadOptions(use_threads=False, block_size=len(raw) + 1),
            pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
    except pa.ArrowInvalid:
        return None
    complete = table.num_rows == raw.count(b"\n") and not any(table.column(n).null_count for n in ("id", "time"))
    return table if complete else None


def _fitted(line: Mapping[str, Any], schema: pa.Schema) -> dict[str, Any]:
    out = {name: line.get(name) for name in ("id", "time", "latency_us", "request")}
    out["shadow"] = str(line["shadow"]) if line.get("shadow") else None
    inputs, output = schema.field("inputs").type, schema.field("output").type
    out["inputs"] = {f.name: _of_type(line["inputs"].get(f.name), f.type) for f in inputs}
    out["output"] = {f.name: _of_type(line["output"].get(f.name), f.type) for f in output}
    return out


def _of_type(value: Any, type_: pa.DataType) -> Any:
    if value is None:
        return None
    if pa.types.is_floating(type_) or pa.types.is_integer(type_):
        return float(value) if pa.types.is_floating(type_) else int(value)
    if pa.types.is_string(type_):
        return value if isinstance(value, str) else json.dumps(value)
    return value


def _block(table: pa.Table) -> Block:
    def one(name: str) -> pa.Array:
        column = table.column(name)
        return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)

    request = one("request")
    plain = np.asarray(request.fill_null("").dictionary_encode().indices)
    inputs, output = one("inputs"), one("output")
    said = {f.name: output.field(i) for i, f in enumerate(output.type)}
    probe = np.asarray(pa.compute.equal(request.fill_null(""), "probe"))
    shares = said.get("probabilities")
    return Block(
        one("id"), np.asarray(one("time")), np.asarray(one("latency_us").fill_null(0.0)), ~probe,
        np.asarray(one("shadow").is_valid()), np.cumsum(np.concatenate([[0], plain[1:] != plain[:-1]])),
        {f.name: inputs.field(i) for i, f in enumerate(inputs.type)},
        said.get("prediction", pa.nulls(len(output), pa.string())),
        shares if shares is not None and pa.types.is_struct(shares.type) else None,
    )  # fmt: skip
