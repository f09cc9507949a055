"""What a version and new rows make together: rows appended, or merged by key. Pure: frames in, frame out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import compute

from boucle.core.errors import Invalid, NotFound, Refused
from boucle.core.frames import BATCH_ROWS, Frame, type_name
from boucle.core.schema import Column, Schema
from boucle.ledger.tables import plain_batches

_DIGITS = {8: 3, 16: 5, 32: 10, 64: 20}  # of integers with so many bits, as Arrow's cast to decimals counts them
_ROW, _NEW = "\0row", "\0new"  # no column of a file is named so


@dataclass(frozen=True, slots=True)
class Combined:
    """Either only rows that go behind a stored table as it is (`grows`), or the whole new content."""

    frame: Frame
    grows: bool


def appended(old: Frame, arrow: pa.Schema, new: Frame) -> Combined:
    """The rows of `new` behind those of `old`, whose stored Arrow schema is `arrow`.

    A column that `new` lacks is null there, one that it adds is null before; types are widened to hold both. Raises `Refused`
    for types that have nothing in common.
    """
    plain, _ = plain_batches(new)
    target = _together(arrow, plain)
    schema = _described(target, old.schema, new.schema)

    def fresh(columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        return _narrowed((_fitted(b, target) for b in plain_batches(new)[1]), columns)

    rows = Frame(schema, fresh, new.rows)
    if target == arrow:
        return Combined(rows, grows=True)

    def whole(columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        yield from _narrowed((_fitted(b, target) for b in old.batches()), columns)
        yield from fresh(columns)

    return Combined(Frame(schema, whole), grows=False)


def check_related(there: str, old: Sequence[str], new: Sequence[str]) -> None:
    """Raises `Refused` for rows that share no column with those they would join: another table, and the wrong name."""
    if set(old).isdisjoint(new):
        raise Refused(
            f"the new rows share no column with {there}",
            expected=f"some of {', '.join(old[:5])}",
            fix="take them in under another name",
        )


def merged(old: Frame, arrow: pa.Schema, new: Frame, key: Sequence[str]) -> Frame:
    """The rows of `old`, each replaced by the row of `new` with the same key where there is one, and behind them the rows whose
    key is new. Of several new rows with one key the last counts; old rows with one key become one.

    Holds `new` in memory, and `old` batch by batch. Raises `NotFound` for a key column that is not there, `Invalid` for nulls
    in it, and `Refused` as `appended` does.
    """
    for name in key:
        for columns in (old.schema.names, new.schema.names):
            if name not in columns:
                raise NotFound.named("key column", name, columns)
    plain, batches = plain_batches(new)
    target = _together(arrow, plain)
    for name in key:
        if pa.types.is_nested(target.field(name).type):
            raise Invalid(
                f"the key column {name!r} holds {type_name(target.field(name).type)}",
                expected="numbers, texts or times, which can be compared",
            )
    delta = _last_of_each(pa.Table.from_batches([_fitted(b, target) for b in batches], target), key)

    def opener(columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        return _narrowed(_merged(old, target, delta, key), columns)

    return Frame(_described(target, old.schema, new.schema), opener)


def fitted(frame: Frame, arrow: pa.Schema) -> Frame:
    """A frame in the types of a stored schema; raises `Refused` when it does not go into it."""
    plain, _ = plain_batches(frame)
    if _together(arrow, plain) != arrow:
        raise _apart(arrow, plain)

    def opener(columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        return _narrowed((_fitted(b, arrow) for b in plain_batches(frame)[1]), columns)

    return Frame(_described(arrow, frame.schema, frame.schema), opener, frame.rows)


def _merged(old: Frame, target: pa.Schema, delta: pa.Table, key: Sequence[str]) -> Iterator[pa.RecordBatch]:
    numbered = _keys(delta, key).append_column(_NEW, pa.array(np.arange(delta.num_rows)))
    used = np.zeros(delta.num_rows, bool)
    for batch in old.batches():
        here = pa.Table.from_batches([_fitted(batch, target)])
        keys = _keys(here, key).append_column(_ROW, pa.array(np.arange(here.num_rows)))
        met = keys.join(numbered, list(key), join_type="inner", use_threads=False)
        if not met.num_rows:
            yield from here.to_batches()
            continue
        rows, places = np.asarray(met[_ROW]), np.asarray(met[_NEW])
        order = np.argsort(rows)
        rows, places = rows[order], places[order]
        chosen = np.arange(here.num_rows)
        chosen[rows] = here.num_rows + places
        kept = np.ones(here.num_rows, bool)
        first = np.zeros(len(places), bool)
        first[np.unique(places, return_index=True)[1]] = True
        kept[rows[~first | used[places]]] = False
        used[places] = True
        taken = pa.concat_tables([here, delta]).take(pa.array(chosen[kept])).combine_chunks()
        yield from taken.to_batches()
    rest = delta.take(pa.array(np.flatnonzero(~used)))
    yield from rest.combine_chunks().to_batches(max_chunksize=BATCH_ROWS)


def _last_of_each(table: pa.Table, key: Sequence[str]) -> pa.Table:
    for name in key:
        if table[name].null_count:
            raise Invalid(
                f"{table[name].null_count} of {table.num_rows} rows have no value in the key column {name!r}",
                expected="a value in every row",
                fix="choose another key, or drop these rows",
            )
    numbered = _keys(table, key).append_column(_ROW, pa.array(np.arange(table.num_rows)))
    last = numbered.group_by(list(key), use_threads=False).aggregate([(_ROW, "max")])[f"{_ROW}_max"]
    return table if len(last) == table.num_rows else table.take(last.sort())


def _keys(table: pa.Table, key: Sequence[str]) -> pa.Table:
    """The key columns, with one zero: Arrow tells -0.0 from 0.0 when it groups and joins."""
    columns = [table[name] for name in key]
    arrays = [compute.add(c, pa.scalar(0, c.type)) if pa.types.is_floating(c.type) else c for c in columns]
    return pa.table(arrays, names=list(key))


def _together(arrow: pa.Schema, plain: pa.Schema) -> pa.Schema:
    """The narrowest schema that holds both: the old columns in their order, then the new ones."""
    fields = []
    for field in [*arrow, *(f for f in plain if f.name not in arrow.names)]:
        both = [pa.schema([pa.field("x", s.field(field.name).type)]) for s in (arrow, plain) if field.name in s.names]
        try:
            kind = pa.unify_schemas(both, promote_options="permissive").field("x").type
            kind = _roomy(kind, [s.field("x").type for s in both])
        except (pa.ArrowTypeError, pa.ArrowInvalid):
            raise _apart(arrow, plain) from None
        fields.append(pa.field(field.name, kind))
    return pa.schema(fields)


def _roomy(kind: pa.DataType, parts: Sequence[pa.DataType]) -> pa.DataType:
    """A decimal with as many digits before the point as the integers that shall go into it may have."""
    if not pa.types.is_decimal128(kind):
        return kind
    digits = max((_DIGITS[p.bit_width] for p in parts if pa.types.is_integer(p)), default=0)
    return pa.decimal128(min(38, max(kind.precision, digits + kind.scale)), kind.scale)


def _apart(arrow: pa.Schema, plain: pa.Schema) -> Refused:
    differs = [
        f"{f.name}: {type_name(arrow.field(f.name).type)} there, {type_name(f.type)} here"
        for f in plain
        if f.name in arrow.names and f.type != arrow.field(f.name).type
    ]
    return Refused(
        f"the new rows do not fit the dataset: {'; '.join(differs) or 'they have other columns'}",
        expected="types that go into one another",
        fix='name the type with the option types, such as types={"zip": "string"}, or take them in under another name',
    )


def _fitted(batch: pa.RecordBatch, target: pa.Schema) -> pa.RecordBatch:
    arrays: list[Any] = []
    for field in target:
        if field.name not in batch.schema.names:
            arrays.append(pa.nulls(batch.num_rows, field.type))
            continue
        column = batch.column(field.name)
        try:
            arrays.append(column if column.type == field.type else _cast(column, field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise Refused(
                f"column {field.name!r} does not go from {column.type} to {field.type} without loss: {error}",
                expected="values that both types can hold",
                fix="take the rows in under another name",
            ) from None
    return pa.RecordBatch.from_arrays(arrays, schema=target)


def _cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    out = column.cast(kind)
    # Arrow checks all other casts for loss, but not that of decimals to floats.
    if pa.types.is_decimal(column.type) and pa.types.is_floating(kind) and not out.cast(column.type).equals(column):
        raise pa.ArrowInvalid(f"the numbers have more digits than {kind}")
    return out


def _narrowed(batches: Iterator[pa.RecordBatch], columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
    return batches if columns is None else (b.select(list(columns)) for b in batches)


def _described(target: pa.Schema, old: Schema, new: Schema) -> Schema:
    """The target as our schema, with what was said about each column."""
    known = {**{c.name: c for c in new.columns}, **{c.name: c for c in old.columns}}
    return Schema(tuple(replace(known.get(f.name, Column(f.name, "")), type=type_name(f.type)) for f in target))
