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
from dataclasses import astuple, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from boucle.core.errors import Invalid, NotFound
from boucle.core.frames import Frame, type_name
from boucle.core.schema import FLOATS, INTEGERS
from boucle.measure.domain import Domain, Learner, Told
from boucle.measure.stretches import Usual, chosen, in_time_order, usual

CELLS = 200  # cells between quantiles
_TAILS = np.array([1e-4, 3e-4, 1e-3, 2.5e-3])  # more quantiles, as the outermost cells are wide
NAMED = 1000  # categories with a cell of their own
GROUPS = 10  # what the cells are pooled into for scores and tests
SHOWN_GROUPS = 20  # categories that are a group of their own
WHOLE = 1 << 21  # rows that are read at once; a longer reference is read twice
MISSING, BELOW, ABOVE = 0, 1, -1  # cells of a number; categories have NEW where numbers have BELOW
NEW = 1
_EXAMPLES = 5
_FEW_TEXTS, _SPACES = 50, 2  # from so many distinct values with so many spaces on average, a column holds texts

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Sketch:
    """One column of a window: counts per cell of its reference; how far numbers lie outside the range, summed; and a few
    of the values that are new, with counts; of texts and vectors also how well they were told from the reference."""

    counts: Counts
    under: float = 0.0
    over: float = 0.0
    new: dict[str, int] = field(default_factory=dict)
    told: Told = field(default_factory=Told)

    @property
    def rows(self) -> int:
        return int(self.counts.sum())

    def to_json(self) -> dict[str, Any]:
        plain = {"counts": self.counts.tolist(), "under": self.under, "over": self.over, "new": self.new}
        return {**plain, "told": list(astuple(self.told))} if self.told.rows else plain

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Sketch:
        told = Told(*data.get("told", ()))
        return cls(np.array(data["counts"], np.int64), data["under"], data["over"], dict(data["new"]), told)

    def __add__(self, other: Sketch) -> Sketch:
        new = self.new or other.new
        if self.new and other.new:
            both = {v: self.new.get(v, 0) + other.new.get(v, 0) for v in {**self.new, **other.new}}
            new = dict(sorted(both.items(), key=lambda pair: (-pair[1], pair[0]))[:_EXAMPLES])
        under, over = self.under + other.under, self.over + other.over
        return Sketch(self.counts + other.counts, under, over, new, self.told + other.told)


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

    `kind` is number, category, text (of which the length in characters and the words are watched), vector (lists of
    numbers of one length) or other (of which only what is missing is watched, as of times, which always move on).
    `counts` are of missing, below, each edge's cell `(edge before, edge]`, above; of missing, new, each of `categories`;
    or of missing and present. Where there were more than `NAMED` values, `complete` is false and what is new cannot be
    told from what is rare. Of texts and vectors `domain` has rows that traffic is told from. `usual` has what stretches of
    the reference differed by, the shortest first, where its rows are in the order of time.
    """

    name: str
    kind: str
    counts: Counts
    edges: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    categories: tuple[str, ...] = ()
    complete: bool = True
    std: float = 0.0
    domain: Domain | None = None
    usual: tuple[Usual, ...] = ()

    @property
    def rows(self) -> int:
        return int(self.counts.sum())

    @property
    def groups(self) -> NDArray[np.int64]:
        """For each cell, which group it is pooled into: missing, below, above and about ten of equal weight for numbers;
        missing, new, the most frequent twenty and the rest for categories."""
        if self.kind in ("other", "vector"):
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

    def sketch(self, array: pa.Array, learner: Learner | None = None) -> Sketch:
        """What an array of this column's values is like. Raises `Invalid` where they are of another kind.

        `learner` is that of the traffic these values belong to; without one they are taken to be all of it."""
        array = _plain(array)
        told = self._told(array, learner)
        if self.kind in ("other", "vector"):
            missing = int((self.cells(array) == MISSING).sum())
            return Sketch(np.array([missing, len(array) - missing]), told=told)
        if self.kind == "category":
            return self._of_categories(_texts(self.name, array))
        return replace(self._of_numbers(_numbers(self.name, self.kind, array)), told=told)

    def cells(self, array: pa.Array) -> Counts:
        """The cell of each value; shape (rows,). Raises `Invalid` as `sketch`."""
        array = _plain(array)
        if self.kind == "vector" and self.domain is not None and not pa.types.is_null(array.type):
            return self.domain.present(_vectors(self.name, array)).astype(np.int64)
        if self.kind in ("other", "vector"):
            return np.asarray(array.is_valid()).astype(np.int64)
        if self.kind == "category":
            texts = _texts(self.name, array)
            found = np.asarray(pc.index_in(texts, value_set=pa.array(self.categories, pa.string())).fill_null(-1))
            return np.where(np.asarray(texts.is_null()), MISSING, found + 2).astype(np.int64)
        values = _numbers(self.name, self.kind, array)
        places = np.searchsorted(self.edges, values, "left") + 2
        if self.edges.size:
            places[values < self.edges[0]] = 1
        places[np.isnan(values)] = MISSING
        return places.astype(np.int64)

    def sketches(self, array: pa.Array, sizes: Sequence[int], learner: Learner | None = None) -> list[Sketch]:
        """Sketches of consecutive parts of an array, each of so many values: what `sketch` says of each part, but all
        counted in one go, which for parts of a hundred rows is many times faster."""
        array = _plain(array)
        cells = self.cells(array)
        return self.counted(array, cells, sizes, learner)

    def counted(
        self, array: pa.Array, cells: Counts, sizes: Sequence[int], learner: Learner | None = None
    ) -> list[Sketch]:
        """The same, where the cells are known already."""
        ends = np.cumsum(sizes)
        part = np.repeat(np.arange(len(sizes)), sizes)
        width = len(self.counts)
        tables = np.bincount(part * width + cells, minlength=width * len(sizes)).reshape(len(sizes), width)
        under, over = np.zeros(len(sizes)), np.zeros(len(sizes))
        if self.edges.size and (tables[:, BELOW].any() or tables[:, ABOVE].any()):
            values = _numbers(self.name, self.kind, _plain(array))
            for total, cell, edge in ((under, 1, self.edges[0]), (over, width - 1, self.edges[-1])):
                at = (cells == cell) & np.isfinite(values)
                np.add.at(total, part[at], np.abs(values[at] - edge))
        out = []
        learner = learner or (Learner(self.domain) if self.domain is not None else None)
        for i, (end, size) in enumerate(zip(ends, sizes, strict=True)):
            piece = array.slice(end - size, size)
            new = self._new(_texts(self.name, piece)) if self.kind == "category" and tables[i, NEW] else {}
            told = self._told(piece, learner) if learner is not None else Told()
            out.append(Sketch(tables[i], float(under[i]), float(over[i]), new, told))
        return out

    def _told(self, array: pa.Array, learner: Learner | None) -> Told:
        if self.domain is None or pa.types.is_null(array.type):
            return Told()
        learner, told = learner or Learner(self.domain), Told()
        array = _texts(self.name, array) if self.kind == "text" else _vectors(self.name, array)
        for start in range(0, len(array), 1000):  # features of all rows at once could be large
            told += learner.take(self.domain.features(array.slice(start, 1000)))
        return told

    def _new(self, array: pa.Array) -> dict[str, int]:
        if not self.complete:
            return {}
        known = pc.is_in(array, value_set=pa.array(self.categories, pa.string()))
        seen = pc.value_counts(array.filter(pc.and_(pc.invert(known), array.is_valid()))).to_pylist()
        ranked = sorted(seen, key=lambda s: (-s["counts"], s["values"]))[:_EXAMPLES]
        return {s["values"]: s["counts"] for s in ranked}

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
        return Sketch(counts, new=self._new(array) if counts[NEW] else {})

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name, "kind": self.kind, "counts": self.counts.tolist(), "edges": self.edges.tolist(),
            "categories": list(self.categories), "complete": self.complete, "std": self.std,
            "domain": self.domain.to_json() if self.domain is not None else None,
            "usual": [astuple(u) for u in self.usual],
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ColumnReference:
        changed = {
            "counts": np.array(data["counts"], np.int64),
            "edges": np.array(data["edges"], np.float64),
            "categories": tuple(data["categories"]),
            "domain": Domain.from_json(data["domain"]) if data.get("domain") else None,
            "usual": tuple(Usual(*u) for u in data.get("usual", ())),
        }
        return cls(**{**data, **changed})


@dataclass(frozen=True, slots=True)
class Reference:
    """What traffic is compared with: the training rows, column by column."""

    rows: int
    columns: dict[str, ColumnReference]

    @classmethod
    def of(cls, data: Any, *, ordered: bool | None = None, every: float = 1.0) -> Reference:
        """The reference that a table makes; anything `Frame.of` takes. One pass, or two beyond two million rows, when the
        quantiles come from a uniform sample and the counts from all rows. Raises `Invalid` for a table without rows.

        `ordered` says that rows are in the order of time, which a column of times in that order shows by itself: then traffic
        must differ by more than stretches of the reference did. `every` is how many rows there were for each one given."""
        frame = Frame.of(data)
        if len(frame) == 0:
            raise Invalid("the reference has no rows", expected="rows that the model was trained on")
        ordered = in_time_order(frame) if ordered is None else ordered
        if len(frame) <= WHOLE:
            table = frame.table()
            made = _together(lambda n: _column_reference(n, _one(table.column(n)), ordered, every), frame.columns)
            return cls(len(frame), {c.name: c for c in made})
        drawn = frame.sample(WHOLE // 4).table()
        every *= len(frame) / len(drawn)
        made = _together(lambda n: _column_reference(n, _one(drawn.column(n)), ordered, every), frame.columns)
        draft = cls(len(frame), {c.name: c for c in made})
        counted = draft.window(frame)
        return cls(len(frame), {n: _counted(c, counted.columns[n]) for n, c in draft.columns.items()})

    def learners(self) -> dict[str, Learner]:
        """A fresh learner for each column of texts or vectors: one set belongs to one stream of traffic."""
        return {n: Learner(c.domain) for n, c in self.columns.items() if c.domain is not None}

    def window(self, data: Any) -> Window:
        """Sketch a table: the columns of the reference that it has; reads it once, batch by batch.

        Raises `NotFound` when it has none of them and `Invalid` where a column is of another kind than in the reference.
        """
        frame = Frame.of(data)
        names = [n for n in self.columns if n in frame.schema]
        if not names:
            raise NotFound("no column of the reference is in the table", expected=f"some of {', '.join(self.columns)}")
        total: Window | None = None
        learners = self.learners()

        def sketched(name: str, columns: Mapping[str, pa.Array]) -> Sketch:
            return self.columns[name].sketch(columns[name], learners.get(name))

        for batch in frame.batches(names):
            columns = dict(zip(names, batch.columns, strict=True))
            found = _together(lambda n, at=columns: sketched(n, at), names, batch.num_rows)
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
    """number, category, vector or other, by the name of a column's type."""
    if type_ in INTEGERS or type_ in FLOATS or type_ == "decimal":
        return "number"
    if type_.startswith("list<") and type_[5:-1] in (*FLOATS, *INTEGERS):
        return "vector"
    return "category" if type_ in ("string", "bool") else "other"


def _column_reference(name: str, array: pa.Array, ordered: bool, every: float) -> ColumnReference:
    array = _plain(array)
    column = _watched(name, array)
    return replace(column, usual=_usual(column, array, every)) if ordered else column


def _usual(column: ColumnReference, array: pa.Array, every: float) -> tuple[Usual, ...]:
    known = slice(0, 0) if column.kind in ("other", "vector") else slice(2, -1 if column.edges.size else None)
    total, groups, numbers, found = round(len(array) * every), column.groups, bool(column.edges.size), []
    for length, parts, places in chosen(len(array)):
        cells = column.cells(array.take(pa.array(places.ravel()))).reshape(places.shape)
        found.append(usual(round(length * every), total, parts, cells, groups, known, numbers=numbers))
    return tuple(found)


def _watched(name: str, array: pa.Array) -> ColumnReference:
    kind = kind_of(type_name(array.type))
    if kind == "number":
        return _of_numbers(name, kind, _numbers(name, kind, array))
    if kind in ("other", "vector"):
        domain = Domain.of(_vectors(name, array)) if kind == "vector" else None
        draft = ColumnReference(name, kind, np.zeros(2, np.int64), domain=domain)
        return replace(draft, counts=np.bincount(draft.cells(array), minlength=2))
    texts = _texts(name, array)
    seen = pc.value_counts(texts.drop_null())
    values, counts = seen.field("values"), np.asarray(seen.field("counts"))
    if _prose(values, len(texts) - texts.null_count):
        return replace(_of_numbers(name, "text", _numbers(name, "text", array)), domain=Domain.of(texts))
    order = np.argsort(-counts, kind="stable")[:NAMED]
    kept = np.concatenate([[texts.null_count, 0], counts[order]]).astype(np.int64)
    kept[NEW] = len(texts) - kept.sum()
    return ColumnReference(
        name, kind, kept, categories=tuple(values.take(order).to_pylist()), complete=bool(kept[NEW] == 0)
    )


def _prose(values: pa.Array, rows: int) -> bool:
    """Whether these distinct values of so many rows are texts: hardly any comes twice, and they are many or have words."""
    if 2 * len(values) <= rows or len(values) < _FEW_TEXTS:
        return False
    return len(values) > NAMED or pc.mean(pc.count_substring(values, " ")).as_py() >= _SPACES


def _of_numbers(name: str, kind: str, values: NDArray[np.float64]) -> ColumnReference:
    ordered = np.sort(values)
    present = ordered[: int(np.searchsorted(ordered, np.nan))]
    finite = present[np.isfinite(present)]
    if not finite.size:
        return replace(_counted(ColumnReference(name, kind, np.zeros(3, np.int64)), None, values))
    # Edges are values that occurred, so that each value of a column with few of them has its own cell.
    at = np.concatenate([np.linspace(0, 1, CELLS + 1), _TAILS, 1 - _TAILS])
    places = (at * (len(finite) - 1)).round().astype(np.int64)
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


def _vectors(name: str, array: pa.Array) -> pa.Array:
    if kind_of(type_name(array.type)) != "vector":
        raise Invalid(
            f"column {name!r} holds {type_name(array.type)}", expected="lists of numbers, as in the reference"
        )
    return array.cast(pa.list_(pa.float32()), safe=False)


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
