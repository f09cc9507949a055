"""Traffic and training rows in a few numbers per column: counts of cells that the reference fixes once and for all.

A number falls into one of about 200 cells between quantiles of the reference (beside them: missing, below, above), a
category into the cell of its value (beside them: missing, new). Because the cells never move, two windows are merged by
adding their counts, exactly and in any order, which no quantile sketch with cells of its own does (t-digest, Dunning and
Ertl 2019; KLL, Karnin, Lang and Liberty 2016: both only within an error). What the cells cost is resolution: a distance
between distribution functions is known to half a percent, far below what anybody would act on.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from boucle.core.errors import Invalid, NotFound
from boucle.core.frames import Frame, type_name
from boucle.core.schema import FLOATS, INTEGERS

CELLS = 200  # cells between quantiles
NAMED = 1000  # categories with a cell of their own
GROUPS = 10  # what the cells are pooled into for scores and tests
SHOWN_GROUPS = 20  # categories that are a group of their own
WHOLE = 1 << 21  # rows that are read at once; a longer reference is read twice
MISSING, BELOW, ABOVE = 0, 1, -1  # cells of a number; categories have NEW where numbers have BELOW
NEW = 1
_EXAMPLES = 5

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Sketch:
    """One column of a window: counts per cell of its reference; how far numbers lie outside the range, summed; and a few
    of the values that are new, with counts."""

    counts: Counts
    under: float = 0.0
    over: float = 0.0
    new: dict[str, int] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return int(self.counts.sum())

    def to_json(self) -> dict[str, Any]:
        return {"counts": self.counts.tolist(), "under": self.under, "over": self.over, "new": self.new}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Sketch:
        return cls(np.array(data["counts"], np.int64), data["under"], data["over"], dict(data["new"]))

    def __add__(self, other: Sketch) -> Sketch:
        new = dict(self.new)
        for value, count in other.new.items():
            new[value] = new.get(value, 0) + count
        kept = sorted(new.items(), key=lambda pair: (-pair[1], pair[0]))[:_EXAMPLES]
        return Sketch(self.counts + other.counts, self.under + other.under, self.over + other.over, dict(kept))


@dataclass(frozen=True, slots=True)
class Window:
    """Some rows of traffic: how many, and a sketch per column of the reference."""

    rows: int
    columns: dict[str, Sketch]

    def __add__(self, other: Window) -> Window:
        """Both windows as one; they must be of the same reference."""
        if self.columns.keys() != other.columns.keys() or any(
            s.counts.shape != other.columns[n].counts.shape for n, s in self.columns.items()
        ):
            raise Invalid("windows of two references cannot be merged", expected="sketches with the same cells")
        return Window(self.rows + other.rows, {n: s + other.columns[n] for n, s in self.columns.items()})

    def to_json(self) -> dict[str, Any]:
        return {"rows": self.rows, "columns": {n: s.to_json() for n, s in self.columns.items()}}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Window:
        return cls(data["rows"], {n: Sketch.from_json(s) for n, s in data["columns"].items()})


@dataclass(frozen=True, slots=True, eq=False)
class ColumnReference:
    """One column of the reference.

    `kind` is number, category, text (of which the length in characters is watched) or other (of which only what is
    missing is watched, as of times, which always move on). `counts` are of missing, below, each edge's cell
    `(edge before, edge]`, above; of missing, new, each of `categories`; or of missing and present. Where there were
    more than `NAMED` values, `complete` is false and what is new cannot be told from what is rare.
    """

    name: str
    kind: str
    counts: Counts
    edges: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    categories: tuple[str, ...] = ()
    complete: bool = True
    std: float = 0.0

    @property
    def rows(self) -> int:
        return int(self.counts.sum())

    @property
    def groups(self) -> NDArray[np.int64]:
        """For each cell, which group it is pooled into: missing, below, above and about ten of equal weight for numbers;
        missing, new, the most frequent twenty and the rest for categories."""
        if self.kind == "other":
            return np.arange(2)
        inner = self.counts[2:-1] if self.edges.size else self.counts[2:]
        if not self.edges.size:
            return np.concatenate([[0, 1], 2 + np.minimum(np.arange(len(inner)), SHOWN_GROUPS)]).astype(np.int64)
        middle = np.cumsum(inner) - inner / 2
        bins = np.minimum((middle / max(1, inner.sum()) * GROUPS).astype(np.int64), GROUPS - 1)
        dense = np.unique(bins, return_inverse=True)[1]
        return np.concatenate([[0, 1], 3 + dense, [2]]).astype(np.int64)

    def pooled(self, counts: Counts) -> Counts:
        """Counts per group, of counts per cell of shape (cells,)."""
        groups = self.groups
        return np.bincount(groups, counts, int(groups.max()) + 1).astype(np.int64)

    def sketch(self, array: pa.Array) -> Sketch:
        """What an array of this column's values is like. Raises `Invalid` where they are of another kind."""
        array = _plain(array)
        if self.kind == "other":
            return Sketch(np.array([array.null_count, len(array) - array.null_count]))
        if self.kind == "category":
            return self._of_categories(_texts(self.name, array))
        return self._of_numbers(_numbers(self.name, self.kind, array))

    def _of_numbers(self, values: NDArray[np.float64]) -> Sketch:
        # The edges are looked up in the sorted values: sorting is vectorised and much faster than a search per value.
        ordered = np.sort(values)
        present = int(np.searchsorted(ordered, np.nan))
        counts = np.zeros(len(self.edges) + 3, np.int64)
        counts[MISSING] = len(ordered) - present
        if not self.edges.size:
            counts[ABOVE] = present
            return Sketch(counts)
        ordered = ordered[:present]
        low = int(np.searchsorted(ordered, self.edges[0], "left"))
        ends = np.searchsorted(ordered, self.edges, "right")
        counts[1:-1] = np.diff(np.concatenate([[0, low], ends]))
        counts[ABOVE] = present - ends[-1]
        below, above = ordered[:low], ordered[ends[-1] :]
        under = float((self.edges[0] - below[np.isfinite(below)]).sum())
        over = float((above[np.isfinite(above)] - self.edges[-1]).sum())
        return Sketch(counts, under, over)

    def _of_categories(self, array: pa.Array) -> Sketch:
        found = pc.index_in(array, value_set=pa.array(self.categories, pa.string()))
        places = np.asarray(found.fill_null(-1))
        counts = np.zeros(len(self.categories) + 2, np.int64)
        known = np.bincount(places + 1, minlength=len(self.categories) + 1)
        counts[2:] = known[1:]
        counts[MISSING] = array.null_count
        counts[NEW] = known[0] - array.null_count
        new: dict[str, int] = {}
        if counts[NEW] and self.complete:
            seen = pc.value_counts(array.filter(pc.and_(found.is_null(), array.is_valid()))).to_pylist()
            ranked = sorted(seen, key=lambda s: (-s["counts"], s["values"]))[:_EXAMPLES]
            new = {s["values"]: s["counts"] for s in ranked}
        return Sketch(counts, new=new)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name, "kind": self.kind, "counts": self.counts.tolist(), "edges": self.edges.tolist(),
            "categories": list(self.categories), "complete": self.complete, "std": self.std,
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ColumnReference:
        changed = {
            "counts": np.array(data["counts"], np.int64),
            "edges": np.array(data["edges"], np.float64),
            "categories": tuple(data["categories"]),
        }
        return cls(**{**data, **changed})


@dataclass(frozen=True, slots=True)
class Reference:
    """What traffic is compared with: the training rows, column by column."""

    rows: int
    columns: dict[str, ColumnReference]

    @classmethod
    def of(cls, data: Any) -> Reference:
        """The reference that a table makes; anything `Frame.of` takes. One pass, or two beyond two million rows, when the
        quantiles come from a uniform sample and the counts from all rows. Raises `Invalid` for a table without rows."""
        frame = Frame.of(data)
        if len(frame) == 0:
            raise Invalid("the reference has no rows", expected="rows that the model was trained on")
        if len(frame) <= WHOLE:
            table = frame.table()
            made = _together(lambda n: _column_reference(n, _one(table.column(n))), frame.columns)
            return cls(len(frame), {c.name: c for c in made})
        drawn = frame.sample(WHOLE // 4).table()
        made = _together(lambda n: _column_reference(n, _one(drawn.column(n))), frame.columns)
        draft = cls(len(frame), {c.name: c for c in made})
        counted = draft.window(frame)
        return cls(len(frame), {n: _counted(c, counted.columns[n]) for n, c in draft.columns.items()})

    def window(self, data: Any) -> Window:
        """Sketch a table: the columns of the reference that it has; reads it once, batch by batch.

        Raises `NotFound` when it has none of them and `Invalid` where a column is of another kind than in the reference.
        """
        frame = Frame.of(data)
        names = [n for n in self.columns if n in frame.schema]
        if not names:
            raise NotFound("no column of the reference is in the table", expected=f"some of {', '.join(self.columns)}")
        total: Window | None = None
        for batch in frame.batches(names):
            columns = dict(zip(names, batch.columns, strict=True))
            found = _together(lambda n, at=columns: self.columns[n].sketch(at[n]), names, batch.num_rows)
            part = Window(batch.num_rows, dict(zip(names, found, strict=True)))
            total = part if total is None else total + part
        return total or Window(0, {n: Sketch(np.zeros_like(self.columns[n].counts)) for n in names})

    def select(self, names: Iterable[str]) -> Reference:
        """Only these columns."""
        return Reference(self.rows, {n: self.columns[n] for n in names})

    def to_json(self) -> dict[str, Any]:
        return {"rows": self.rows, "columns": [c.to_json() for c in self.columns.values()]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Reference:
        columns = [ColumnReference.from_json(c) for c in data["columns"]]
        return cls(data["rows"], {c.name: c for c in columns})


def kind_of(type_: str) -> str:
    """number, category or other, by the name of a column's type."""
    if type_ in INTEGERS or type_ in FLOATS or type_ == "decimal":
        return "number"
    return "category" if type_ in ("string", "bool") else "other"


def _column_reference(name: str, array: pa.Array) -> ColumnReference:
    array = _plain(array)
    kind = kind_of(type_name(array.type))
    if kind == "number":
        return _of_numbers(name, kind, _numbers(name, kind, array))
    if kind == "other":
        return ColumnReference(name, kind, np.array([array.null_count, len(array) - array.null_count]))
    texts = _texts(name, array)
    seen = pc.value_counts(texts.drop_null())
    values, counts = seen.field("values"), np.asarray(seen.field("counts"))
    if len(counts) > NAMED and 2 * len(counts) > len(texts) - texts.null_count:
        return _of_numbers(name, "text", _numbers(name, "text", array))
    order = np.argsort(-counts, kind="stable")[:NAMED]
    kept = np.concatenate([[texts.null_count, 0], counts[order]]).astype(np.int64)
    kept[NEW] = len(texts) - kept.sum()
    return ColumnReference(
        name, kind, kept, categories=tuple(values.take(order).to_pylist()), complete=bool(kept[NEW] == 0)
    )


def _of_numbers(name: str, kind: str, values: NDArray[np.float64]) -> ColumnReference:
    ordered = np.sort(values)
    present = ordered[: int(np.searchsorted(ordered, np.nan))]
    finite = present[np.isfinite(present)]
    if not finite.size:
        return replace(_counted(ColumnReference(name, kind, np.zeros(3, np.int64)), None, values))
    # Edges are values that occurred, so that each value of a column with few of them has its own cell.
    places = np.linspace(0, len(finite) - 1, CELLS + 1).round().astype(np.int64)
    edges = np.unique(finite[places])
    with np.errstate(over="ignore", invalid="ignore"):
        std = float(finite.std())
    draft = ColumnReference(name, kind, np.zeros(len(edges) + 3, np.int64), edges, std=std)
    return _counted(draft, None, values)


def _counted(
    column: ColumnReference, sketch: Sketch | None, values: NDArray[np.float64] | None = None
) -> ColumnReference:
    found = column._of_numbers(values) if sketch is None and values is not None else sketch
    assert found is not None
    return replace(column, counts=found.counts)


def _plain(array: pa.Array) -> pa.Array:
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _one(column: pa.ChunkedArray) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _texts(name: str, array: pa.Array) -> pa.Array:
    if kind_of(type_name(array.type)) != "category" and not pa.types.is_null(array.type):
        raise Invalid(
            f"column {name!r} holds {type_name(array.type)}", expected="texts or booleans, as in the reference"
        )
    return array.cast(pa.string())


def _numbers(name: str, kind: str, array: pa.Array) -> NDArray[np.float64]:
    if kind == "text":
        array = pc.utf8_length(_texts(name, array))
    elif kind_of(type_name(array.type)) != "number" and not pa.types.is_null(array.type):
        raise Invalid(f"column {name!r} holds {type_name(array.type)}", expected="numbers, as in the reference")
    return np.asarray(array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))


def _together(work: Any, names: Sequence[str], rows: int = WHOLE) -> list[Any]:
    """One result per column; side by side where that pays, for the sorting below leaves the interpreter alone."""
    if rows < 10_000 or len(names) < 2:
        return [work(n) for n in names]
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return list(pool.map(work, names))


def chunked(windows: Iterable[Window], rows: int) -> Iterator[Window]:
    """Windows merged until each has at least so many rows; the last may have fewer."""
    held: Window | None = None
    for window in windows:
        held = window if held is None else held + window
        if held.rows >= rows:
            yield held
            held = None
    if held is not None:
        yield held
