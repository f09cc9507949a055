"""What differs between two versions: the values that say so, how rows are matched, and which statistics moved."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from boucle.core.schema import INTEGERS, Change, Schema, evolve, jsonable
from boucle.measure.fingerprints import Array, Lanes
from boucle.measure.quality import ColumnProfile, Profile

SHOWN_QUANTILES = ("0.05", "0.5", "0.95")
_NEARLY = 0.9  # of the rows: the number of distinct values is an estimate, about 3 % off
_KEYS = re.compile(r"(?i:(^|_)(id|uuid|guid|key|index|row))$|[a-z](ID|Id|Key)$")


@dataclass(frozen=True, slots=True)
class Row:
    """A row that only one side has: its number from 0, and its values."""

    number: int
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ChangedRow:
    """A row that both sides have, with other values: its number in each, its key, and column -> (old, new)."""

    numbers: tuple[int, int]
    key: dict[str, Any]
    cells: dict[str, tuple[Any, Any]]


@dataclass(frozen=True, slots=True)
class Moved:
    """The statistics of a column that are not what they were; statistic -> (old, new). `distinct` and quantiles may be
    estimates; of text they are of lengths and called so (`length mean`), of times ISO 8601. `fresh` and `vanished` are values,
    where a column has few and they repeat."""

    column: str
    statistics: dict[str, tuple[Any, Any]]
    fresh: tuple[Any, ...] = ()
    vanished: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Difference:
    """From `a` to `b`. Counts are exact, examples are the first few.

    `by` says how rows were matched: `key`, `position`, `rows` (each as a whole, so that none is changed), or `digest` when
    the content is the same. `cells` counts changed cells by column, of the columns that both have.
    """

    a: str
    b: str
    rows: tuple[int, int]
    by: str
    key: tuple[str, ...] = ()
    key_found: bool = False  # found by the statistics, not given
    schema: tuple[Change, ...] = ()
    added: int = 0
    removed: int = 0
    changed: int = 0
    cells: dict[str, int] | None = None
    ambiguous: int = 0  # changed rows whose key others have too: matched in their order
    reordered: bool = False  # the same rows, in another order
    moved: tuple[Moved, ...] = ()
    added_rows: tuple[Row, ...] = ()
    removed_rows: tuple[Row, ...] = ()
    changed_rows: tuple[ChangedRow, ...] = ()
    compared: int = 0  # rows that were read; the others lie in blocks that both have

    @property
    def same(self) -> bool:
        """Whether nothing differs: neither values, nor columns, nor the order of the rows."""
        return not (self.added or self.removed or self.changed or self.schema or self.reordered)

    @property
    def appended(self) -> bool:
        """Whether all that happened to the rows is that some came behind the last."""
        return self.by == "position" and self.added > 0 and not (self.removed or self.changed)

    def to_json(self) -> dict[str, Any]:
        return {
            "type": "table", "a": self.a, "b": self.b, "same": self.same, "rows": list(self.rows), "by": self.by,
            "key": list(self.key), "key_found": self.key_found, "schema": [asdict(c) for c in self.schema],
            "added": self.added, "removed": self.removed, "changed": self.changed, "appended": self.appended,
            "reordered": self.reordered, "ambiguous": self.ambiguous, "cells": self.cells or {},
            "statistics": [said(asdict(m)) for m in self.moved],
            "added_rows": [said(asdict(r)) for r in self.added_rows],
            "removed_rows": [said(asdict(r)) for r in self.removed_rows],
            "changed_rows": [said(asdict(r)) for r in self.changed_rows],
            "compared": self.compared,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class FilesDifference:
    """From one version of a folder of files to another. Counts are exact; the paths are the first few of each kind."""

    a: str
    b: str
    files: tuple[int, int]
    size: tuple[int, int]  # bytes
    added: int = 0
    removed: int = 0
    changed: int = 0
    renamed: int = 0
    by: str = "path"
    added_files: tuple[tuple[str, int], ...] = ()  # path, bytes
    removed_files: tuple[tuple[str, int], ...] = ()
    changed_files: tuple[tuple[str, int, int], ...] = ()  # path, bytes before and after
    renamed_files: tuple[tuple[str, str], ...] = ()  # path before and after, with the same content

    @property
    def same(self) -> bool:
        """Whether both hold the same files under the same paths."""
        return not (self.added or self.removed or self.changed or self.renamed)

    def to_json(self) -> dict[str, Any]:
        return {"type": "files", "same": self.same, **asdict(self)}


def said(value: Any) -> Any:
    """A value as JSON that keeps apart what a difference is about: NaN and infinities are words, not null."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(k): said(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [said(v) for v in value]
    return jsonable(value)


def schema_changes(old: Schema, new: Schema, old_arrow: pa.Schema, new_arrow: pa.Schema) -> tuple[Change, ...]:
    """As `core.schema.evolve` has them, and what it does not tell: units and zones of times, digits of decimals, the order."""
    changes = evolve(old, new)
    said_already = {c.column for c in changes if "became" in c.what}
    for name in old.names:
        if name in new and name not in said_already:
            before, after = old_arrow.field(name).type, new_arrow.field(name).type
            if before != after:
                changes.append(Change(name, f"{before} became {after}", _widens(before, after)))
    if [n for n in old.names if n in new] != [n for n in new.names if n in old]:
        changes.append(Change("*", "the columns have another order", True))
    return tuple(changes)


def _widens(before: pa.DataType, after: pa.DataType) -> bool:
    if pa.types.is_timestamp(before) and pa.types.is_timestamp(after):
        units = ("s", "ms", "us", "ns")
        return before.tz == after.tz and units.index(before.unit) < units.index(after.unit)
    if pa.types.is_decimal(before) and pa.types.is_decimal(after):
        return bool(after.scale >= before.scale and after.precision - after.scale >= before.precision - before.scale)
    return False


def likely_key(old: Profile, new: Profile) -> str:
    """A column whose values tell the rows of both versions apart, as far as their statistics know; empty when there is none.

    Integers or text without nulls, as many distinct values as rows. It must be called like a key (`id`, `user_id`, ...), or
    stand first and be known to be unique.
    """
    if not (old.rows and new.rows):
        return ""
    there = {c.name: (place, c) for place, c in enumerate(new.columns)}
    found = []
    for place, column in enumerate(old.columns):
        if column.name not in there:
            continue
        where, other = there[column.name]
        if not (_tells_apart(column) and _tells_apart(other)):
            continue
        called = bool(_KEYS.search(column.name))
        if called or (place == where == 0 and column.distinct_exact and other.distinct_exact):
            found.append((not called, place + where, column.name))
    return min(found)[2] if found else ""


def _tells_apart(column: ColumnProfile) -> bool:
    if column.nulls or not (column.type in INTEGERS or column.type == "string"):
        return False
    return column.distinct == column.rows if column.distinct_exact else column.distinct >= _NEARLY * column.rows


def paired(a: Lanes, b: Lanes) -> tuple[Array, Array]:
    """The positions of equal fingerprints on both sides: the first of a kind with the first, the second with the second..."""
    lanes, size = np.concatenate([a, b], axis=1), a.shape[1]
    order = np.argsort(lanes[0], kind="stable")
    first, second = lanes[0][order], lanes[1][order]
    if ((first[1:] == first[:-1]) & (second[1:] != second[:-1])).any():
        order = np.lexsort((lanes[1], lanes[0]))
        first, second = lanes[0][order], lanes[1][order]
    if not len(order):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    begins = np.concatenate([[True], (first[1:] != first[:-1]) | (second[1:] != second[:-1])])
    starts = np.flatnonzero(begins)
    group = np.cumsum(begins) - 1
    mine = order < size
    of_a = np.add.reduceat(mine.astype(np.int64), starts)
    of_b = np.diff(np.append(starts, len(order))) - of_a
    rank = np.arange(len(order)) - starts[group]
    kept = np.where(mine, rank < of_b[group], rank - of_a[group] < of_a[group])
    return order[kept & mine], order[kept & ~mine] - size


def without(size: int, taken: Array) -> Array:
    """The positions below `size` that are not among those taken."""
    left = np.ones(size, bool)
    left[taken] = False
    return np.flatnonzero(left)


def crowded(keys: Lanes) -> Array:
    """Which fingerprints occur more than once, as a mask."""
    out = np.zeros(keys.shape[1], bool)
    if keys.shape[1] > 1:
        order = np.lexsort((keys[1], keys[0]))
        again = (keys[:, order[1:]] == keys[:, order[:-1]]).all(axis=0)
        out[order[1:][again]] = out[order[:-1][again]] = True
    return out


def moved(old: Profile, new: Profile, shared: Iterable[str]) -> tuple[Moved, ...]:
    """The columns whose statistics differ."""
    before, after = {c.name: c for c in old.columns}, {c.name: c for c in new.columns}
    found = []
    for name in shared:
        if name in before and name in after:
            column = _moved(before[name], after[name])
            if column.statistics or column.fresh or column.vanished:
                found.append(column)
    return tuple(found)


def _moved(old: ColumnProfile, new: ColumnProfile) -> Moved:
    pairs: dict[str, tuple[Any, Any]] = {
        "nulls": (_share(old.nulls, old.rows), _share(new.nulls, new.rows)),
        "nan": (_share(old.nan, old.rows), _share(new.nan, new.rows)),
        "min": (old.min, new.min),
        "mean": (old.mean, new.mean),
        "max": (old.max, new.max),
        "std": (old.std, new.std),
        **{f"q{q}": (old.quantiles.get(q), new.quantiles.get(q)) for q in SHOWN_QUANTILES},
        "distinct": (old.distinct, new.distinct),
    }
    differing = {n: p for n, p in pairs.items() if not _alike(*p)}
    statistics = {_called(n, old, new): (_shown(p[0], n, old), _shown(p[1], n, new)) for n, p in differing.items()}
    fresh: Sequence[Any] = ()
    vanished: Sequence[Any] = ()
    known, now = _values(old), _values(new)
    if known is not None and now is not None and old.type == new.type:
        fresh = [v for v in now if v not in known]
        vanished = [v for v in known if v not in now]
    return Moved(old.name, statistics, tuple(fresh), tuple(vanished))


def _called(name: str, old: ColumnProfile, new: ColumnProfile) -> str:
    of_values = name in ("nulls", "nan", "distinct") or "string" not in (old.type, new.type)
    return name if of_values else f"length {name}"


def _shown(value: Any, name: str, column: ColumnProfile) -> Any:
    moment = column.type in ("date", "timestamp") and (name == "mean" or name.startswith("q"))
    if not moment or value is None:
        return value
    return (dt.datetime(1970, 1, 1) + dt.timedelta(seconds=value)).isoformat(" ", "seconds")


def _alike(old: Any, new: Any) -> bool:
    if isinstance(old, float) and isinstance(new, float):
        return math.isclose(old, new, rel_tol=1e-12)  # the same sum, added up in another order
    return bool(old == new)


def _share(count: int, rows: int) -> float:
    return count / rows if rows else 0.0


def _values(column: ColumnProfile) -> list[Any] | None:
    """All values of a column with few that repeat, or None."""
    complete = column.top_exact and column.distinct_exact and len(column.top) == column.distinct
    if (
        column.distinct * (1 if column.type == "string" else 2) > column.present
        or 1 < column.present == column.distinct
    ):
        return None
    return [v for v, _ in column.top] if complete else None


def files_difference(
    about: FilesDifference, old: Mapping[str, tuple[int, str]], new: Mapping[str, tuple[int, str]], shown: int
) -> FilesDifference:
    """Of two folders, given what is not in both as path -> (bytes, what is in it).

    A file that is gone from one path and there at another with the same content is renamed; of several with the same content
    the first with the first. Empty files are never renamed.
    """
    gone, fresh = sorted(old.keys() - new.keys()), sorted(new.keys() - old.keys())
    changed = sorted(p for p in old.keys() & new.keys() if old[p][1] != new[p][1])
    waiting: dict[tuple[int, str], list[str]] = {}
    for path in reversed(gone):
        if old[path][0]:
            waiting.setdefault(old[path], []).append(path)
    renamed = [(same.pop(), path) for path in fresh if (same := waiting.get(new[path]))]
    left, came = {p for p, _ in renamed}, {p for _, p in renamed}
    gone, fresh = [p for p in gone if p not in left], [p for p in fresh if p not in came]
    return replace(
        about,
        added=len(fresh),
        removed=len(gone),
        changed=len(changed),
        renamed=len(renamed),
        added_files=tuple((p, new[p][0]) for p in fresh[:shown]),
        removed_files=tuple((p, old[p][0]) for p in gone[:shown]),
        changed_files=tuple((p, old[p][0], new[p][0]) for p in changed[:shown]),
        renamed_files=tuple(sorted(renamed)[:shown]),
    )
