"""Scans: how a table is read in pieces. Parts in an order, a filter, and perhaps a shuffle, all of it decided before
anything is read; frames are built on them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from boucle.core import filters
from boucle.core.errors import Invalid
from boucle.core.where import And, Where

Opener = Callable[[Sequence[str] | None], Iterator[pa.RecordBatch]]

_STRIDE = 1024  # rows that stay together where a part whose length is not known is divided


class Part(Protocol):
    """A piece of a table that can be read by itself."""

    @property
    def rows(self) -> int | None:
        """How many rows it has, None where that is not known."""

    @property
    def ranges(self) -> Mapping[str, Sequence[Any]]:
        """Column -> [smallest, largest], as JSON, where nulls and NaN do not count; nothing is known of other columns."""

    def batches(self, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        """Its rows, with these columns (None for all)."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A part that somebody's function reads."""

    opener: Opener
    rows: int | None = None
    ranges: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def batches(self, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        return self.opener(columns)


@dataclass(frozen=True, slots=True)
class Held:
    """A part that is in memory."""

    table: pa.Table
    ranges: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return int(self.table.num_rows)

    def batches(self, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        return iter((self.table if columns is None else self.table.select(list(columns))).to_batches())


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Rows `start` to `stop` of a part."""

    part: Part
    start: int
    stop: int

    @property
    def rows(self) -> int:
        return self.stop - self.start

    @property
    def ranges(self) -> Mapping[str, Sequence[Any]]:
        return self.part.ranges

    def batches(self, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        at = 0
        for batch in self.part.batches(columns):
            low, high = max(self.start - at, 0), min(self.stop - at, batch.num_rows)
            at += batch.num_rows
            if low < high:
                yield batch.slice(low, high - low)
            if at >= self.stop:
                return


@dataclass(frozen=True, slots=True)
class _Strides:
    """Every `count`-th stride of rows of a part whose length is not known; all of it has to be read."""

    part: Part
    index: int
    count: int

    @property
    def rows(self) -> None:
        return None

    @property
    def ranges(self) -> Mapping[str, Sequence[Any]]:
        return self.part.ranges

    def batches(self, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        at = 0
        for batch in self.part.batches(columns):
            end = at + batch.num_rows
            first = at // _STRIDE
            for stride in range(first + (self.index - first) % self.count, -(-end // _STRIDE), self.count):
                low, high = max(stride * _STRIDE, at), min((stride + 1) * _STRIDE, end)
                yield batch.slice(low - at, high - low)
            at = end


@dataclass(frozen=True, slots=True)
class _Numbered:
    """A part with one more column: the number of the row in the whole table."""

    part: Part
    start: int
    name: str

    @property
    def rows(self) -> int | None:
        return self.part.rows

    @property
    def ranges(self) -> Mapping[str, Sequence[Any]]:
        return self.part.ranges

    def batches(self, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        at = self.start
        others = None if columns is None else [c for c in columns if c != self.name]
        for batch in self.part.batches(others or None):
            numbers = pa.array(np.arange(at, at + batch.num_rows))
            at += batch.num_rows
            numbered = batch.append_column(self.name, numbers)
            yield numbered if columns is None else numbered.select(list(columns))


@dataclass(frozen=True, slots=True)
class Scan:
    """Parts in their order, what is kept of their rows, and how they are mixed."""

    parts: tuple[Part, ...]
    where: Where | None = None
    names: tuple[str, ...] | None = None  # the columns, where these are not all that the parts have
    buffer: int = 0  # rows that are mixed with each other; 0 leaves them in their order
    seed: int = 0

    @property
    def rows(self) -> int | None:
        """How many rows come, None where only reading tells."""
        counts = [p.rows for p in self.parts]
        if self.where is not None or None in counts:
            return None
        return sum(c for c in counts if c is not None)

    def filtered(self, where: Where) -> Scan:
        """Only rows that also match this. Parts of which the ranges say that none can are dropped."""
        both = where if self.where is None else And((self.where, where))
        kept = tuple(p for p in self.parts if filters.may_match(where, p.ranges))
        return replace(self, parts=kept, where=both)

    def shuffled(self, buffer: int, seed: int) -> Scan:
        """The parts in another order, and their rows mixed in a buffer of that many rows. Raises `Invalid`."""
        if buffer < 1:
            raise Invalid(f"a shuffle buffer of {buffer} rows", expected="1 or more")
        order = np.random.default_rng(seed).permutation(len(self.parts))
        return replace(self, parts=tuple(self.parts[i] for i in order), buffer=buffer, seed=seed)

    def shard(self, index: int, count: int) -> Scan:
        """The rows of one of `count` readers who together read each once. Where lengths are known these are stretches of equal
        length (up to one row), before any filter. Raises `Invalid`."""
        if not 0 <= index < count:
            raise Invalid(f"shard {index} of {count}", expected="an index from 0 to one less than the count")
        counts = [p.rows for p in self.parts]
        total = sum(c for c in counts if c is not None)
        if None in counts:
            return replace(self, parts=tuple(_Strides(p, index, count) for p in self.parts))
        return self.between(total * index // count, total * (index + 1) // count)

    def between(self, start: int, stop: int) -> Scan:
        """The rows at these positions, counted before the filter. The parts must have known lengths."""
        kept: list[Part] = []
        at = 0
        for part in self.parts:
            rows = part.rows
            assert rows is not None
            low, high = max(start - at, 0), min(stop - at, rows)
            at += rows
            if low < high:
                kept.append(part if high - low == rows else _Stretch(part, low, high))
        return replace(self, parts=tuple(kept))

    def numbered(self, name: str) -> Scan:
        """With one more column, the number of each row. The parts must have known lengths."""
        starts = itertools.accumulate((p.rows or 0 for p in self.parts), initial=0)
        parts = tuple(_Numbered(p, at, name) for p, at in zip(self.parts, starts, strict=False))
        return replace(self, parts=parts, names=None if self.names is None else (*self.names, name))

    def batches(self, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        """The rows, with these columns (None for all)."""
        columns = self.names if columns is None else columns
        plain = itertools.chain.from_iterable(self._read(part, columns) for part in self.parts)
        return mixed(plain, self.buffer, self.seed) if self.buffer else plain

    def _read(self, part: Part, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        if self.where is None:
            yield from part.batches(columns)
            return
        needed = None if columns is None else list(dict.fromkeys([*columns, *filters.columns(self.where)]))
        for batch in part.batches(needed):
            chosen = batch if columns is None else batch.select(list(columns))
            kept = chosen.filter(filters.mask(self.where, batch))
            if kept.num_rows:
                yield kept


def mixed(batches: Iterator[pa.RecordBatch], buffer: int, seed: int) -> Iterator[pa.RecordBatch]:
    """The same rows in a random order: a row can come later by any number of rows, and earlier by about `buffer`. Memory holds
    one and a half buffers and a batch."""
    random = np.random.default_rng([seed, 1])
    held: pa.Table | None = None
    fresh: list[pa.RecordBatch] = []
    have = 0
    for batch in batches:
        fresh.append(batch)
        have += batch.num_rows
        if have < max(1, buffer // 2):
            continue  # mixing copies the whole buffer, so it must be worth it
        held = _joined(held, fresh)
        fresh, have = [], 0
        if held.num_rows > buffer:
            order = random.permutation(held.num_rows)
            yield from held.take(pa.array(order[buffer:])).to_batches()
            held = held.take(pa.array(np.sort(order[:buffer])))
    if fresh or held is not None:
        rest = _joined(held, fresh)
        yield from rest.take(pa.array(random.permutation(rest.num_rows))).to_batches()


def _joined(held: pa.Table | None, fresh: list[pa.RecordBatch]) -> pa.Table:
    table = pa.Table.from_batches(fresh) if fresh else None
    parts = [t for t in (held, table) if t is not None]
    return pa.concat_tables(parts).combine_chunks()
