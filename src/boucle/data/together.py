"""Many files as one table: columns by name, types unified, values of the path as columns of their own."""

from __future__ import annotations

import re
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa

from boucle.core.errors import BoucleError, Invalid
from boucle.core.frames import Frame, arrow_type, type_name
from boucle.core.schema import INTEGERS, Column, Schema
from boucle.ledger.tables import plain_batches
from boucle.ports.source import BadLine, Reading

_EMPTY = "__HIVE_DEFAULT_PARTITION__"
_EXACT = frozenset(
    {"null", "bool", "string", "date", *INTEGERS, "float32", "float64"}
)  # names that say all of an Arrow type
_NUMBER = re.compile(r"-?\d{1,18}")
_RUNS = re.compile(r"[0-9a-fA-F]{8,}|\d+")
_WORKERS = 2


@dataclass(frozen=True, slots=True)
class Item:
    """A file to read: its path below what was named, and where it lies here."""

    path: str
    local: Path
    size: int = 0
    modified: float = 0.0
    temporary: bool = False


@contextmanager
def named(item: Item) -> Iterator[None]:
    """Errors about the place where a file lies for now speak of its path instead."""
    try:
        yield
    except BoucleError as error:
        local = str(item.local)
        if not item.temporary or local not in f"{error.what}{error.expected}{error.fix}":
            raise
        what, expected, fix = (t.replace(local, item.path) for t in (error.what, error.expected, error.fix))
        raise type(error)(what, expected=expected, fix=fix) from None


def one_table(
    items: Sequence[Item],
    read: Callable[[str], Reading],
    *,
    file: str = "",
    folders: Sequence[str] = (),
    union: bool = False,
    said: Callable[[int], None] | None = None,
) -> Reading:
    """The rows of all files, in their order.

    Columns go by name. Types are widened to hold all (integers and floats become floats, dates and times times); a column that
    a file lacks is null there, when the names of the files differ in numbers only, they lie in partitions, or `union` says that
    they are one table. Partitions (`year=2025/`) and the levels that `folders` names become columns, as does, with `file`,
    the path. Raises `Invalid` naming two files that do not go together. Bad lines say their file.
    """
    readings = _readings(items, read, said)
    places = _places(items, folders, {c for r in readings for c in r.frame.columns})
    if len(items) > 1:
        _check_alike(items, readings, union or any("=" in i.path.rpartition("/")[0] for i in items))
    target = _together(items, readings)
    lacking = Counter(n for r in readings for n in target.names if n not in r.frame.schema)
    extra = [(n, kind) for n, (kind, _) in places.items()]
    if file:
        if file in target.names or file in places:
            raise Invalid(f"there is a column {file!r} already", expected="another name for the column of the files")
        extra.append((file, pa.string()))
        places = {**places, file: (pa.string(), [i.path for i in items])}
    schema = Schema(
        tuple(
            Column(f.name, type_name(f.type), bool(lacking[f.name]) or any(_nullable(r, f.name) for r in readings))
            for f in target
        )
        + tuple(Column(n, type_name(kind), None in places[n][1]) for n, kind in extra)
    )
    counts = [r.frame.rows for r in readings]
    whole = Reading(Frame(schema, lambda _: iter(())), _found(items, readings, lacking))

    def opener(columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        whole.bad.clear()
        names = list(schema.names if columns is None else columns)
        fields = [target.field(n) if n in target.names else pa.field(n, places[n][0]) for n in names]
        for i, (item, reading) in enumerate(zip(items, readings, strict=True)):
            has = [n for n in names if n in reading.frame.schema] or list(reading.frame.columns[:1])
            known = 0
            with named(item):
                for batch in reading.frame.batches(None if set(has) == set(reading.frame.columns) else has):
                    known = _report(whole.bad, reading.bad, known, item)
                    yield _fitted(batch, fields, {n: v[i] for n, (_, v) in places.items()}, item)
                _report(whole.bad, reading.bad, known, item)

    rows = sum(c for c in counts if c is not None) if None not in counts else None
    whole.frame = Frame(schema, opener, rows)
    return whole


def _readings(
    items: Sequence[Item], read: Callable[[str], Reading], said: Callable[[int], None] | None
) -> list[Reading]:
    """What each file holds; two are looked at at a time."""

    def one(item: Item) -> Reading:
        with named(item):
            return read(str(item.local))

    if len(items) == 1:
        return [one(items[0])]
    found = []
    with ThreadPoolExecutor(_WORKERS) as pool:
        try:
            for reading in pool.map(one, items):
                found.append(reading)
                if said is not None:
                    said(len(found))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return found


def _report(all_bad: list[BadLine], bad: list[BadLine], known: int, item: Item) -> int:
    all_bad.extend(replace(line, file=item.path) for line in bad[known:])
    return len(bad)


def _nullable(reading: Reading, name: str) -> bool:
    return name in reading.frame.schema and reading.frame.schema[name].nullable


def _found(items: Sequence[Item], readings: Sequence[Reading], lacking: Mapping[str, int]) -> dict[str, Any]:
    """What all files have in common, and the columns that some lack."""
    if len(items) == 1:
        return dict(readings[0].found)
    common = {k: v for k, v in readings[0].found.items() if all(r.found.get(k) == v for r in readings)}
    common.pop("bad_lines", None)
    bad = sum(r.found.get("bad_lines", 0) for r in readings)
    missing = {n: count for n, count in lacking.items() if count}
    return {
        **common,
        **({"bad_lines": bad} if bad else {}),
        **({"files_without_column": dict(list(missing.items())[:20])} if missing else {}),
    }


# --- one schema -----------------------------------------------------------------------------------------------------


def _check_alike(items: Sequence[Item], readings: Sequence[Reading], permissive: bool) -> None:
    """Raise `Invalid` for files that look like different tables."""
    kinds = {_RUNS.sub("#", item.path) for item in items}
    first, columns = items[0], set(readings[0].frame.columns)
    every = set(columns)
    for item, reading in zip(items, readings, strict=True):
        here = set(reading.frame.columns)
        differs = (here ^ columns) if not permissive and len(kinds) > 1 else set()
        if differs or not here & every:
            only = sorted(here - columns), sorted(columns - here)
            said = "; ".join(
                f"only {name} has {', '.join(names[:5])}" + (f" and {len(names) - 5} more" if names[5:] else "")
                for name, names in ((first.path, only[1]), (item.path, only[0]))
                if names
            )
            raise Invalid(
                f"{first.path} and {item.path} do not look like one table: {said}",
                expected="files with the same columns",
                fix=f"name one of {', '.join(i.path for i in items[:6])}{', ...' if len(items) > 6 else ''}, or a glob; "
                "if they are one table all the same, say --option union=true",
            )
        every |= here


def _together(items: Sequence[Item], readings: Sequence[Reading]) -> pa.Schema:
    """The Arrow schema that holds the rows of all."""
    kinds: dict[str, tuple[pa.DataType, Item]] = {}
    for item, reading in zip(items, readings, strict=True):
        for name, kind in _types(item, reading):
            known = kinds.get(name)
            if known is None or known[0] == kind:
                kinds.setdefault(name, (kind, item))
                continue
            both = [pa.schema([pa.field("x", k)]) for k in (known[0], kind)]
            try:
                wide = pa.unify_schemas(both, promote_options="permissive").field("x").type
            except (pa.ArrowTypeError, pa.ArrowInvalid):
                raise Invalid(
                    f"column {name!r} is {type_name(known[0])} in {known[1].path} and {type_name(kind)} in {item.path}",
                    expected="types that go into one another",
                    fix=f'name the type, such as --option \'types={{"{name}": "string"}}\'',
                ) from None
            kinds[name] = (wide, known[1] if known[0] == wide else item)
    return pa.schema([pa.field(name, kind) for name, (kind, _) in kinds.items()])


def _types(item: Item, reading: Reading) -> list[tuple[str, pa.DataType]]:
    columns = reading.frame.schema.columns
    if all(c.type in _EXACT for c in columns):
        return [(c.name, arrow_type(c.type)) for c in columns]
    with named(item):
        return [(f.name, f.type) for f in plain_batches(reading.frame)[0]]


def _fitted(batch: pa.RecordBatch, fields: list[pa.Field], constants: Mapping[str, Any], item: Item) -> pa.RecordBatch:
    """A batch in the common schema."""
    out = []
    for field in fields:
        if field.name in constants:
            value = pa.scalar(constants[field.name], field.type)
            out.append(pa.repeat(value, batch.num_rows) if value.is_valid else pa.nulls(batch.num_rows, field.type))
        elif field.name not in batch.schema.names:
            out.append(pa.nulls(batch.num_rows, field.type))
        else:
            column = batch.column(field.name)
            if pa.types.is_dictionary(column.type):
                column = column.dictionary_decode()
            try:
                out.append(column if column.type == field.type else column.cast(field.type))
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                raise Invalid(
                    f"column {field.name!r} of {item.path} does not go into {type_name(field.type)}: {error}",
                    expected="the type that the other files have",
                    fix=f'name the type, such as --option \'types={{"{field.name}": "string"}}\'',
                ) from None
    return pa.RecordBatch.from_arrays(out, schema=pa.schema(fields))


# --- columns of the path --------------------------------------------------------------------------------------------


def _places(items: Sequence[Item], folders: Sequence[str], taken: set[str]) -> dict[str, tuple[pa.DataType, list[Any]]]:
    """Columns that the folders say: those written name=value, as Hive does, and the plain levels that were given names."""
    rows: list[dict[str, str | None]] = []
    for item in items:
        levels = item.path.split("/")[:-1]
        row: dict[str, str | None] = {}
        plain = []
        for level in levels:
            name, equals, value = level.partition("=")
            if equals and name and not folders:
                row[urllib.parse.unquote(name)] = None if value == _EMPTY else urllib.parse.unquote(value)
            else:
                plain.append(level)
        if folders and len(plain) < len(folders):
            raise Invalid(
                f"{item.path} lies in {len(plain)} folders and folders={','.join(folders)} names {len(folders)}",
                expected="a name for each level, from the top",
            )
        row.update(zip(folders, plain, strict=False))
        rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row)
    if both := set(folders) & taken:
        raise Invalid(f"there is a column {min(both)!r} in the files already", expected="another name for the folders")
    return {n: _typed([row.get(n) for row in rows]) for n in names if n not in taken}


def _typed(values: list[str | None]) -> tuple[pa.DataType, list[Any]]:
    """Integers or dates when all are; with a leading zero it is a text, unless all have two digits (months, hours)."""
    there = [v for v in values if v is not None]
    padded = any(re.match(r"-?0\d", v) for v in there) and {len(v) for v in there} != {2}
    if there and not padded and all(_NUMBER.fullmatch(v) for v in there):
        return pa.int64(), [None if v is None else int(v) for v in values]
    if there and all(re.fullmatch(r"\d{4}-\d\d-\d\d", v) for v in there):
        try:
            return pa.date32(), [None if v is None else date.fromisoformat(v) for v in values]
        except ValueError:
            pass
    return pa.string(), list(values)
