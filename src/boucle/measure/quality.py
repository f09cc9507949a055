"""What a table is like, column by column, in one pass with bounded memory.

Counts, means and extremes are exact. Distinct values are exact up to 1,024 and then estimated from the smallest hashes
(KMV: Bar-Yossef et al. 2002, Beyer et al. 2007; standard error about 3 %). Quantiles and histograms come from a uniform
sample of the rows (the rows with the smallest hashed numbers; up to 8,192, exact below that). Frequent values are
counted with the Misra-Gries summary (1982), exact while a column has few of them; where most of the values in a batch are
distinct, only what a sample of 4,096 shows to be frequent (one row in a thousand) is counted. All of it can be merged.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from boucle.core.errors import Invalid, NotFound
from boucle.core.frames import Frame, type_name
from boucle.core.hashes import Hashes, hash_values, mixed
from boucle.core.schema import FLOATS, INTEGERS, jsonable

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_DISTINCT = 1024
_SAMPLE = 8192  # rows; fewer for wide tables
_CELLS = 1 << 22
_COUNTED = 1024  # frequent values followed per column
_DRAWN = 4096  # values of a batch that show whether most are distinct, and if so which are frequent:
_TWICE = 4  # those that were drawn so often
_FOLLOWED = 256  # of these, how many are counted in later batches, whether drawn again or not
_FEW = 8192  # the smallest hashes of a batch among which those to keep are looked for first
_TOP = 20
_BINS = 20
_TIMES = ("date", "timestamp")


@dataclass(frozen=True, slots=True)
class ColumnProfile:
    """One column. Times have their extremes as ISO 8601 and their quantiles in epoch seconds; for text, `mean`, `std`,
    quantiles and histogram are of lengths in characters, `min` and `max` the shortest and longest length."""

    name: str
    type: str
    rows: int
    nulls: int
    nan: int = 0
    distinct: int = 0
    distinct_exact: bool = True
    min: Any = None
    max: Any = None
    mean: float | None = None
    std: float | None = None  # of the sample (n - 1)
    quantiles: dict[str, float] = field(default_factory=dict)
    histogram: dict[str, list[float]] = field(default_factory=dict)  # edges, and the estimated share in each bin
    top: list[list[Any]] = field(default_factory=list)  # [value, count], most frequent first
    top_exact: bool = True

    @property
    def present(self) -> int:
        """Rows with a value."""
        return self.rows - self.nulls

    @property
    def numeric(self) -> bool:
        return self.type in INTEGERS or self.type in FLOATS or self.type == "decimal"


@dataclass(frozen=True, slots=True)
class Profile:
    """A whole table."""

    rows: int
    columns: tuple[ColumnProfile, ...]

    def __getitem__(self, name: str) -> ColumnProfile:
        for column in self.columns:
            if column.name == name:
                return column
        raise NotFound.named("column", name, [c.name for c in self.columns])

    def to_json(self) -> dict[str, Any]:
        return {"rows": self.rows, "columns": [asdict(c) for c in self.columns]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Profile:
        return cls(data["rows"], tuple(ColumnProfile(**c) for c in data["columns"]))


def profile(frame: Frame) -> Profile:
    """The statistics of every column, in one pass."""
    profiler = Profiler()
    for batch in frame.batches():
        profiler.update(batch)
    return profiler.result()


def observed(frame: Frame, profiler: Profiler) -> Frame:
    """The same frame, whose profile comes about while somebody else reads it (all columns; again each time)."""

    def opener(columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        if columns is None:
            profiler.clear()
        for batch in frame.batches(columns):
            if columns is None:
                profiler.update(batch)
            yield batch

    return Frame(frame.schema, opener, frame.rows, frame.digest, frame.ref)


class Profiler:
    """Takes in batches and gives a `Profile` at any time. Profilers of parts of a table can be merged; each part
    needs a `seed` of its own, so that their samples are independent."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.rows = 0
        self._columns: list[_Column] = []
        self._priorities: Hashes = np.zeros(0, np.uint64)
        self._sample: list[np.ndarray[Any, Any]] = []

    def update(self, batch: pa.RecordBatch) -> None:
        """Take in more rows; their columns must be the ones of the first."""
        if not self._columns:
            self._columns = [_Column(f.name, type_name(f.type)) for f in batch.schema]
            self._sample = [np.zeros(0) for _ in self._columns]
        if [c.name for c in self._columns] != batch.schema.names:
            raise Invalid(
                "the batch has other columns than the one before", expected=str([c.name for c in self._columns][:8])
            )
        chosen, priorities = self._chosen(batch.num_rows)
        self.rows += batch.num_rows
        for i, (column, array) in enumerate(zip(self._columns, batch.columns, strict=True)):
            numbers = column.update(array)
            if numbers is not None:
                self._sample[i] = np.concatenate([self._sample[i], numbers[chosen]])
        self._keep(priorities)

    def _chosen(self, rows: int) -> tuple[np.ndarray[Any, Any], Hashes]:
        numbers = np.arange(self.rows, self.rows + rows, dtype=np.uint64)
        priorities = mixed(numbers + mixed(np.array([self._seed], np.uint64)))
        size = self._size
        full = len(self._priorities) >= size
        chosen = np.flatnonzero(priorities < self._priorities.max()) if full else np.arange(rows)
        if len(chosen) > size:
            chosen = np.sort(chosen[np.argpartition(priorities[chosen], size)[:size]])
        return chosen, priorities[chosen]

    @property
    def _size(self) -> int:
        return max(256, min(_SAMPLE, _CELLS // max(1, len(self._columns))))

    def _keep(self, more: Hashes) -> None:
        self._priorities = np.concatenate([self._priorities, more])
        if len(self._priorities) > self._size:
            kept = np.sort(np.argpartition(self._priorities, self._size)[: self._size])
            self._priorities = self._priorities[kept]
            self._sample = [s[kept] if len(s) else s for s in self._sample]

    def merge(self, other: Profiler) -> None:
        """Take in what another has seen of the same columns."""
        if not other._columns:
            return
        if not self._columns:
            self._columns = [_Column(c.name, c.type) for c in other._columns]
            self._sample = [np.zeros(0) for _ in self._columns]
        if [(c.name, c.type) for c in self._columns] != [(c.name, c.type) for c in other._columns]:
            raise Invalid("profiles of different columns cannot be merged", expected="the same names and types")
        self.rows += other.rows
        for mine, theirs in zip(self._columns, other._columns, strict=True):
            mine.merge(theirs)
        self._sample = [np.concatenate(pair) for pair in zip(self._sample, other._sample, strict=True)]
        self._keep(other._priorities)

    def result(self) -> Profile:
        """What has been seen so far."""
        return Profile(
            self.rows, tuple(c.result(self.rows, s) for c, s in zip(self._columns, self._sample, strict=True))
        )


class _Column:
    """The state of one column."""

    def __init__(self, name: str, kind: str) -> None:
        self.name, self.type = name, kind
        self.nulls = self.nan = self.count = 0
        self.mean = self.squares = 0.0
        self.low: Any = None
        self.high: Any = None
        self.hashes: Hashes = np.zeros(0, np.uint64)
        self.counts: dict[Any, int] = {}
        self.missed = 0  # how much a count may be too low

    def update(self, array: pa.Array) -> np.ndarray[Any, Any] | None:
        """Take in more values; returns the numbers of which quantiles are wanted, NaN where there is none."""
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        if self.type in ("string", "binary"):  # not all functions know the large and view forms
            array = array.cast(pa.string() if self.type == "string" else pa.binary())
        self.nulls += array.null_count
        if array.null_count == len(array):
            return np.full(len(array), np.nan) if self.type not in ("null", "bool") else None
        numbers = self._numbers(array)
        if numbers is not None:
            self._moments(numbers)
            if self.type in FLOATS:
                self.nan += int(np.isnan(numbers).sum()) - array.null_count
        self._extremes(array, numbers)
        self._values(array)
        return numbers

    def _numbers(self, array: pa.Array) -> np.ndarray[Any, Any] | None:
        if self.type in INTEGERS or self.type in FLOATS or self.type == "decimal":
            return np.asarray(array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))
        if self.type in _TIMES:
            plain = array.cast(pa.timestamp("us", getattr(array.type, "tz", None)), safe=False).view(pa.int64())
            return np.asarray(plain.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)) / 1e6
        if self.type == "string":
            return np.asarray(pc.utf8_length(array).cast(pa.float64()).to_numpy(zero_copy_only=False))
        return None

    def _moments(self, numbers: np.ndarray[Any, Any]) -> None:
        here = numbers[np.isfinite(numbers)]
        if len(here):
            with np.errstate(over="ignore", invalid="ignore"):
                mean = float(here.mean())
                self._add_moments(len(here), mean, float(((here - mean) ** 2).sum()))

    def _add_moments(self, count: int, mean: float, squares: float) -> None:
        """Chan, Golub and LeVeque 1979."""
        total = self.count + count
        if total:
            apart = mean - self.mean
            self.squares += squares + apart * apart * self.count * count / total
            self.mean += apart * count / total
            self.count = total

    def _extremes(self, array: pa.Array, numbers: np.ndarray[Any, Any] | None) -> None:
        if self.type == "string" and numbers is not None:
            self._widen(int(np.nanmin(numbers)), int(np.nanmax(numbers)))
        elif self.type in FLOATS:
            if numbers is not None and not np.isnan(numbers).all():
                self._widen(float(np.nanmin(numbers)), float(np.nanmax(numbers)))
        elif self.type in INTEGERS or self.type in _TIMES or self.type in ("bool", "decimal"):
            ends = pc.min_max(array.cast(pa.timestamp("us"), safe=False) if self.type == "timestamp" else array)
            with contextlib.suppress(OverflowError, ValueError):  # times beyond those of Python
                self._widen(ends["min"].as_py(), ends["max"].as_py())

    def _widen(self, low: Any, high: Any) -> None:
        self.low = low if self.low is None else min(low, self.low)
        self.high = high if self.high is None else max(high, self.high)

    def _values(self, array: pa.Array) -> None:
        """Which values there are, and which are frequent."""
        if array.null_count:
            array = array.drop_null()
        if pa.types.is_nested(array.type):
            self._add_hashes(hash_values(array))
        elif _varied(array):
            hashes = hash_values(array)
            self._add_hashes(hashes)
            if not (self.type in FLOATS and len(self.hashes) >= _DISTINCT):
                self._heavy(array, hashes)
        else:
            counted = array.value_counts()
            values, counts = counted.field(0), counted.field(1)
            self._add_hashes(hash_values(values))
            if not (self.type in FLOATS and len(self.hashes) >= _DISTINCT):
                self._frequent(values, counts)

    def _heavy(self, array: pa.Array, hashes: Hashes) -> None:
        """Count what is frequent among many values: what occurs several times in a sample of them, or did before."""
        drawn, times = np.unique(hashes[_drawn(len(hashes))], return_counts=True)
        frequent = drawn[times >= _TWICE]
        if self.counts:
            before = sorted(self.counts, key=self.counts.__getitem__, reverse=True)[:_FOLLOWED]
            frequent = np.union1d(frequent, hash_values(pa.array(before, array.type)))
        self.missed += len(hashes) // _COUNTED
        if len(frequent):
            maybe = np.zeros(1 << 12, bool)
            maybe[frequent >> np.uint64(52)] = True
            at = np.flatnonzero(maybe[hashes >> np.uint64(52)])
            at = at[np.isin(hashes[at], frequent)]
            counted = array.take(pa.array(at)).value_counts()
            self._add_counts(zip(counted.field(0).to_pylist(), counted.field(1).to_pylist(), strict=True))

    def _add_hashes(self, hashes: Hashes) -> None:
        if len(self.hashes) >= _DISTINCT:
            hashes = hashes[hashes < self.hashes[-1]]
        elif len(hashes) > _FEW:
            # Only the smallest count: those above the smallest so many of them cannot be among them, unless values repeat.
            few = np.unique(np.partition(hashes, _FEW)[:_FEW])
            hashes = few if len(few) >= _DISTINCT else hashes
        if len(hashes):
            self.hashes = np.unique(np.concatenate([self.hashes, hashes]))[:_DISTINCT]

    def _frequent(self, values: pa.Array, counts: pa.Array) -> None:
        if len(values) > _COUNTED:
            best = pc.select_k_unstable(counts, k=_COUNTED, sort_keys=[("", "descending")])
            values, counts = values.take(best), counts.take(best)
            self.missed += counts[-1].as_py()
        try:
            said = values.to_pylist()
        except (OverflowError, ValueError):  # times beyond those of Python, or finer without pandas
            said = values.cast(pa.string()).to_pylist()
        self._add_counts(zip(said, counts.to_pylist(), strict=True))

    def _add_counts(self, counts: Any) -> None:
        for value, count in counts:
            if value is not None and not (isinstance(value, float) and math.isnan(value)):
                self.counts[value] = self.counts.get(value, 0) + count
        if len(self.counts) > 4 * _COUNTED:
            floor = sorted(self.counts.values(), reverse=True)[_COUNTED]
            self.counts = {v: c - floor for v, c in self.counts.items() if c > floor}
            self.missed += floor

    def merge(self, other: _Column) -> None:
        self.nulls += other.nulls
        self.nan += other.nan
        self._add_moments(other.count, other.mean, other.squares)
        if other.low is not None:
            self._widen(other.low, other.high)
        self._add_hashes(other.hashes)
        self.missed += other.missed
        self._add_counts(other.counts.items())

    def result(self, rows: int, sample: np.ndarray[Any, Any]) -> ColumnProfile:
        few = len(self.hashes) < _DISTINCT
        distinct = len(self.hashes) if few else round((_DISTINCT - 1) * 2.0**64 / float(self.hashes[-1]))
        numbers = sample[np.isfinite(sample)]
        top = sorted(self.counts.items(), key=lambda item: (-item[1], str(item[0])))[:_TOP]
        continuous = self.type in FLOATS and not few
        return ColumnProfile(
            name=self.name,
            type=self.type,
            rows=rows,
            nulls=self.nulls,
            nan=self.nan,
            distinct=min(distinct, rows - self.nulls),
            distinct_exact=few,
            min=_plain(self.low),
            max=_plain(self.high),
            mean=_finite(self.mean) if self.count else None,
            std=_deviation(self.squares, self.count),
            quantiles={str(q): float(v) for q, v in zip(QUANTILES, np.quantile(numbers, QUANTILES), strict=True)}
            if len(numbers)
            else {},
            histogram=_histogram(numbers),
            top=[] if continuous else [[_plain(v), c] for v, c in top],
            top_exact=not continuous and self.missed == 0,
        )


def _drawn(rows: int) -> np.ndarray[Any, Any]:
    """Some of the places among so many, the same every time, without a pattern that values could share."""
    return (mixed(np.arange(_DRAWN, dtype=np.uint64)) % np.uint64(rows)).astype(np.int64)


def _varied(array: pa.Array) -> bool:
    """Whether there are more distinct values than can be counted one by one."""
    if len(array) <= 4 * _DRAWN:
        return False
    return len(array.take(pa.array(_drawn(len(array)))).unique()) > 2 * _COUNTED


def _histogram(numbers: np.ndarray[Any, Any]) -> dict[str, list[float]]:
    if not len(numbers):
        return {}
    low, high = float(numbers.min()), float(numbers.max())
    # Scaled, because the width itself may be too large for a float; unique, because it may be too small for 20 bins.
    steps = np.linspace(0.0, 1.0, _BINS + 1)
    edges = np.unique(np.append(low * (1 - steps[:-1]) + high * steps[:-1], high).clip(low, high))
    if len(edges) < 2:
        return {"edges": [low, high], "shares": [1.0]}
    counts, _ = np.histogram(numbers, bins=edges)
    return {"edges": edges.tolist(), "shares": (counts / len(numbers)).tolist()}


def _deviation(squares: float, count: int) -> float | None:
    return math.sqrt(squares / (count - 1)) if count > 1 and math.isfinite(squares) else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _plain(value: Any) -> Any:
    if type(value).__name__ == "Decimal":
        return float(value)
    return jsonable(value)
