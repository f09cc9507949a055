"""What differs between two versions of a dataset: columns, rows, cells, statistics; or files, for a folder.

Blocks that both versions have are known by their digests and never read. Of the others each row becomes a fingerprint of 128
bits; what is left when equal rows are taken away on both sides is matched, and only those rows are looked at again. Never is
more than a few blocks of a table in memory, and of many fingerprints a part at a time.
"""

from __future__ import annotations

import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa

from boucle.core.errors import Invalid
from boucle.core.records import Dataset
from boucle.core.refs import Ref
from boucle.core.schema import Schema
from boucle.data.validate import statistics
from boucle.ledger import datasets, recording, tables
from boucle.measure.difference import (
    ChangedRow,
    Difference,
    FilesDifference,
    Row,
    crowded,
    files_difference,
    likely_key,
    moved,
    paired,
    schema_changes,
    without,
)  # fmt: skip
from boucle.measure.fingerprints import Array, Lanes, of_rows, of_values
from boucle.ports.blobs import Blobs

if TYPE_CHECKING:
    from boucle.workspace import Workspace

T = TypeVar("T")
R = TypeVar("R")

SHOWN = 10
_TOGETHER = 1 << 21  # rows of a side whose fingerprints are matched at a time
_MOST_BITS = 7  # of the number of files of a side, which are open at the same time
_HELD = 1 << 26  # bytes of fingerprints of cells that are held in memory
_THREADS = 2
_NONE = np.zeros(0, np.int64)


def diff(
    ws: Workspace, a: Ref | str, b: Ref | str, key: str | Sequence[str] | None = None, *, rows: int = SHOWN
) -> Difference | FilesDifference:
    """What differs from version `a` to version `b`, of the same dataset or of two.

    Rows are matched by `key`, one or more columns that both have. Without one it is a column that the statistics know to tell
    the rows of both apart; where there is none, the position, when rows have kept theirs (at most some came or went at the
    end); else whole rows are compared, whatever their order, and none counts as changed. Where rows have the same key, those
    that are equal belong together, then the others in their order. Counts are exact, `rows` bounds the examples. Raises
    `NotFound` for a version that is not there and `Invalid` for a key that is not in both, or for a table and a folder.

        diff(ws, "tx@3", "tx@4").cells  # {"amount": 12}
    """
    old, new = datasets.resolve(ws, a), datasets.resolve(ws, b)
    if rows < 0:
        raise Invalid(f"{rows} rows to show", expected="0 or more")
    if old.type != new.type:
        raise Invalid(
            f"{old.key} is of type {old.type} and {new.key} of type {new.type}", expected="two tables or two folders"
        )
    for dataset in (old, new):
        recording.note_read(str(dataset.ref), dataset.digest)
    if old.type == "files":
        if key:
            raise Invalid(f"a key for {old.key}, which is a folder of files", expected="no key: paths tell files apart")
        return _files(ws, old, new, rows)
    return _tables(ws, old, new, _columns(old, new, key), rows)


def _files(ws: Workspace, old: Dataset, new: Dataset, shown: int) -> FilesDifference:
    from boucle.ledger import trees

    before, after = (trees.files(ws.blobs, d.manifest) for d in (old, new))
    about = FilesDifference(old.key, new.key, (len(before), len(after)), (before.size, after.size))
    both = set(before.lines) & set(after.lines)
    gone, fresh = (
        {e.path: (e.size, f"{e.mode} {e.digest}") for e in (trees.entry(line) for line in t.lines if line not in both)}
        for t in (before, after)
    )
    return files_difference(about, gone, fresh, shown)


def _columns(old: Dataset, new: Dataset, key: str | Sequence[str] | None) -> tuple[str, ...]:
    """The columns of a given key, which both must have."""
    names = tuple(dict.fromkeys((key,) if isinstance(key, str) else key or ()))
    for name in names:
        for dataset in (old, new):
            Schema.from_json(dataset.schema)[name]
    return names


def _tables(ws: Workspace, old: Dataset, new: Dataset, key: tuple[str, ...], shown: int) -> Difference:
    if old.digest == new.digest:
        return Difference(old.key, new.key, (old.rows, new.rows), "digest", key)
    sides = _side(ws.blobs, old), _side(ws.blobs, new)
    before, after = statistics(ws, old.ref), statistics(ws, new.ref)
    found = "" if key else likely_key(before, after)
    shared = tuple(n for n in sides[0].arrow.names if n in sides[1].arrow.names)
    schema = schema_changes(
        Schema.from_json(old.schema), Schema.from_json(new.schema), sides[0].arrow, sides[1].arrow
    )  # fmt: skip
    with (
        tempfile.TemporaryDirectory(prefix="diff", dir=ws.folder("tmp")) as folder,
        ThreadPoolExecutor(_THREADS) as pool,
    ):
        comparing = _Comparing(sides, shared, key or ((found,) if found else ()), not key, Path(folder), pool)
        return replace(
            comparing.result(Difference(old.key, new.key, (old.rows, new.rows), "", schema=schema), shown),
            moved=moved(before, after, shared),
        )


@dataclass(frozen=True, slots=True)
class _Side:
    """A stored table: its blocks, and the number of the first row of each, with that of all rows at the end."""

    blobs: Blobs
    blocks: list[dict[str, Any]]
    arrow: pa.Schema
    starts: Array
    rows: int

    def read(self, block: int, columns: Sequence[str]) -> pa.Table:
        wanted = pa.schema([self.arrow.field(n) for n in columns])
        return tables.read_block(self.blobs, self.blocks[block], wanted)

    def pick(self, numbers: Array, columns: Sequence[str]) -> Iterator[tuple[Array, pa.Table]]:
        """The rows of these ascending numbers, block by block, with their places among the numbers."""
        at = np.searchsorted(self.starts, numbers, side="right") - 1
        for block in np.unique(at).tolist():
            low, high = np.searchsorted(at, [block, block + 1])
            places = np.arange(low, high)
            yield places, self.read(block, columns).take(pa.array(numbers[places] - self.starts[block]))


def _side(blobs: Blobs, dataset: Dataset) -> _Side:
    manifest = tables.load_manifest(blobs, dataset.manifest)
    blocks = manifest["blocks"]
    starts = np.cumsum([0, *(int(b["rows"]) for b in blocks)])
    return _Side(blobs, blocks, tables.arrow_of(manifest), starts, int(starts[-1]))


@dataclass(slots=True)
class _Stretch:
    """Fingerprints of rows that follow each other: the number of the first, the rows, and their keys."""

    start: int
    rows: Lanes
    keys: Lanes

    @property
    def end(self) -> int:
        return self.start + int(self.rows.shape[1])

    def cut(self, size: int) -> tuple[_Stretch, _Stretch]:
        first = _Stretch(self.start, self.rows[:, :size], self.keys[:, :size])
        return first, _Stretch(self.start + size, self.rows[:, size:], self.keys[:, size:])


class _Pile:
    """Fingerprints of one side that wait to be matched: keys, rows and numbers; in files when they are many."""

    def __init__(self, folder: Path, name: str, rows: int) -> None:
        self.bits = min(_MOST_BITS, max(0, (rows - 1) // _TOGETHER).bit_length())
        self._held: list[Array] = []
        self._files = [(folder / f"{name}{i}").open("w+b") for i in range(1 << self.bits)] if self.bits else []

    def add(self, stretch: _Stretch, kept: Array | None = None) -> None:
        numbers = np.arange(stretch.start, stretch.end, dtype=np.uint64)[None, :]
        records = np.concatenate([stretch.keys, stretch.rows, numbers])
        records = records if kept is None else records[:, kept]
        if not self.bits:
            self._held.append(records)
            return
        part = records[0] >> np.uint64(64 - self.bits)
        order = np.argsort(part, kind="stable")
        ends = np.searchsorted(part[order], np.arange(1, len(self._files) + 1))
        for file, places in zip(self._files, np.split(order, ends[:-1]), strict=True):
            file.write(np.ascontiguousarray(records[:, places].T).data)

    def parts(self) -> Iterator[Array]:
        """Five rows of numbers each: two of keys, two of rows, and the number of the row."""
        if not self.bits:
            yield np.concatenate([np.zeros((5, 0), np.uint64), *self._held], axis=1)
        for file in self._files:
            file.seek(0)
            yield np.fromfile(file, np.uint64).reshape(-1, 5).T
            file.close()


@dataclass(slots=True)
class _Left:
    """What is left when equal rows are taken away: the numbers on both sides, and how those with the same key go together."""

    numbers: tuple[Array, Array]
    pairs: tuple[Array, Array]
    equal: int  # rows taken away
    ambiguous: int


class _Comparing:
    """One comparison of two stored tables."""

    def __init__(
        self, sides: tuple[_Side, _Side], shared: tuple[str, ...], key: tuple[str, ...], found: bool, folder: Path,
        pool: ThreadPoolExecutor,
    ) -> None:  # fmt: skip
        self.sides, self.shared, self.key, self.found = sides, shared, key, found
        self.folder, self.pool, self.compared = folder, pool, 0
        self.in_place, self.elsewhere = _common(*sides)
        # Where no block has moved both are read beside each other, and rows that are equal in place are left out at once.
        self._beside_all = self.elsewhere == (set(), set())

    def result(self, about: Difference, shown: int) -> Difference:
        """The difference, with as many examples."""
        left = self._left()
        by, pairs = self._matched(left)
        if by == "position":
            ends = [side.rows for side in self.sides]
            gone, fresh = np.arange(ends[1], ends[0]), np.arange(ends[0], ends[1])
        else:
            gone, fresh = (np.setdiff1d(n, p, assume_unique=True) for n, p in zip(left.numbers, pairs, strict=True))
            gone.sort()
            fresh.sort()
        order = np.argsort(pairs[0], kind="stable")
        pairs = pairs[0][order], pairs[1][order]
        nothing = not (len(left.numbers[0]) or len(left.numbers[1]))
        cells, changed = self._changes(pairs, shown, self.key if by == "key" else ())
        return replace(
            about,
            by=by,
            key=self.key if by == "key" else (),
            key_found=by == "key" and self.found,
            added=len(fresh),
            removed=len(gone),
            changed=len(pairs[0]),
            cells=cells,
            ambiguous=left.ambiguous if by == "key" else 0,
            reordered=nothing and self._reordered(left),
            added_rows=_examples(self.sides[1], fresh[:shown]),
            removed_rows=_examples(self.sides[0], gone[:shown]),
            changed_rows=changed,
            compared=self.compared,
        )

    def _matched(self, left: _Left) -> tuple[str, tuple[Array, Array]]:
        if self.key and not (self.found and left.ambiguous):
            return "key", left.pairs
        same = self._in_place(left) if self.shared else None
        return ("rows", (_NONE, _NONE)) if same is None else ("position", (same, same))

    # --- which rows differ ------------------------------------------------------------------------------------------

    def _left(self) -> _Left:
        if not self.shared:
            return _Left((np.arange(self.sides[0].rows), np.arange(self.sides[1].rows)), (_NONE, _NONE), 0, 0)
        skipped = [i | e for i, e in zip(self.in_place, self.elsewhere, strict=True)]
        most = max(self._rows_outside(i, skipped[i]) for i in (0, 1))
        piles = [_Pile(self.folder, name, most) for name in ("old", "new")]
        if self._beside_all:
            for a, b in self._beside():
                _add_unequal(piles, a, b)
        else:
            for i, pile in enumerate(piles):
                for stretch in self._stretches(i, skipped[i]):
                    pile.add(stretch)
        self.compared = sum(self._rows_outside(i, skipped[i]) for i in (0, 1))
        parts = [_taken_away(a, b) for a, b in zip(piles[0].parts(), piles[1].parts(), strict=True)]

        def joined(take: Callable[[_Left], Array]) -> Array:
            return np.concatenate([_NONE, *map(take, parts)])

        return _Left(
            (joined(lambda p: p.numbers[0]), joined(lambda p: p.numbers[1])),
            (joined(lambda p: p.pairs[0]), joined(lambda p: p.pairs[1])),
            sum(p.equal for p in parts),
            sum(p.ambiguous for p in parts),
        )

    def _in_place(self, left: _Left) -> Array | None:
        """The numbers of the rows that changed where they stand, or None when that would make more of them differ than
        comparing whole rows does: then rows have moved."""
        rows = tuple(side.rows for side in self.sides)
        if self._beside_all:
            # That nothing was taken away means that nothing has moved.
            return np.sort(left.numbers[0][left.numbers[0] < rows[1]]) if left.equal == 0 else None
        return self._unequal(len(left.numbers[0]) - max(0, rows[0] - rows[1]))

    def _unequal(self, allowed: int) -> Array | None:
        """The numbers of the rows that are not what the other side has in that place; None when there are more than allowed."""
        found, count = [_NONE], 0
        for a, b in self._beside():
            if a is not None and b is not None:
                found.append(a.start + np.flatnonzero((a.rows != b.rows).any(axis=0)))
                count += len(found[-1])
            if count > allowed:
                return None
        return np.concatenate(found)

    def _reordered(self, left: _Left) -> bool:
        return left.equal > 0 if self._beside_all else self._unequal(0) is None

    def _beside(self) -> Iterator[tuple[_Stretch | None, _Stretch | None]]:
        """What both have of the same numbers, without the blocks that are equal in place; None where one has nothing."""
        streams = [self._stretches(i, self.in_place[i]) for i in (0, 1)]
        a, b = (next(s, None) for s in streams)
        while a is not None or b is not None:
            if a is None or b is None or a.start != b.start:
                if b is None or (a is not None and a.start < b.start):
                    yield a, None
                    a = next(streams[0], None)
                else:
                    yield None, b
                    b = next(streams[1], None)
                continue
            size = min(a.end, b.end) - a.start
            (a, more_a), (b, more_b) = a.cut(size), b.cut(size)
            yield a, b
            a = more_a if more_a.end > more_a.start else next(streams[0], None)
            b = more_b if more_b.end > more_b.start else next(streams[1], None)

    def _stretches(self, i: int, skipped: set[int]) -> Iterator[_Stretch]:
        blocks = [n for n in range(len(self.sides[i].blocks)) if n not in skipped]
        return _ahead(self.pool, partial(self._fingerprints, self.sides[i]), blocks)

    def _fingerprints(self, side: _Side, block: int) -> _Stretch:
        table = side.read(block, self.shared)
        keys: dict[str, Lanes] = {}

        def columns() -> Iterator[Lanes]:
            for name in self.shared:
                lanes = of_values(_whole(table[name]))
                if name in self.key:
                    keys[name] = lanes
                yield lanes

        rows = of_rows(columns(), table.num_rows)
        return _Stretch(
            int(side.starts[block]), rows, of_rows((keys[k] for k in self.key), table.num_rows) if self.key else rows
        )

    def _rows_outside(self, i: int, skipped: set[int]) -> int:
        return self.sides[i].rows - sum(int(self.sides[i].blocks[n]["rows"]) for n in skipped)

    # --- which cells differ -----------------------------------------------------------------------------------------

    def _changes(
        self, pairs: tuple[Array, Array], shown: int, key: tuple[str, ...]
    ) -> tuple[dict[str, int], tuple[ChangedRow, ...]]:
        """How many cells of each column differ in these pairs of rows, and the first of them; of each column at least one."""
        size = len(pairs[0])
        if not size:
            return {}, ()
        cells = self._cells_of_old(pairs[0])
        counts = np.zeros(len(self.shared), np.int64)
        first = np.full(len(self.shared), size)
        order = np.argsort(pairs[1], kind="stable")
        for places, table in self.sides[1].pick(pairs[1][order], self.shared):
            mine = order[places]
            for c, name in enumerate(self.shared):
                differing = mine[cells[mine, c] != of_values(_whole(table[name]))[0]]
                counts[c] += len(differing)
                first[c] = min(first[c], differing.min(initial=size))
        chosen = np.arange(min(shown, size))
        if shown:
            chosen = np.unique(np.concatenate([chosen, first[first < size]]))
        counted = {n: int(counts[c]) for c, n in enumerate(self.shared) if counts[c]}
        return counted, self._changed_rows((pairs[0][chosen], pairs[1][chosen]), key)

    def _cells_of_old(self, numbers: Array) -> Array:
        """A fingerprint for each cell of the old rows; in a file when they are many."""
        shape = (len(numbers), len(self.shared))
        cells: Array = (
            np.empty(shape, np.uint64)
            if shape[0] * shape[1] * 8 <= _HELD
            else np.memmap(self.folder / "cells", np.uint64, "w+", shape=shape)
        )
        for places, table in self.sides[0].pick(numbers, self.shared):
            for c, name in enumerate(self.shared):
                cells[places, c] = of_values(_whole(table[name]))[0]
        return cells

    def _changed_rows(self, pairs: tuple[Array, Array], key: tuple[str, ...]) -> tuple[ChangedRow, ...]:
        old, new = (_fetched(side, n, self.shared) for side, n in zip(self.sides, pairs, strict=True))
        unequal = {
            n: (of_values(_whole(old[n])) != of_values(_whole(new[n]))).any(axis=0)
            for n in (self.shared if len(pairs[0]) else ())
        }
        was, now = _values(old), _values(new)
        return tuple(
            ChangedRow(
                (int(pairs[0][i]), int(pairs[1][i])),
                {k: now[k][i] for k in key},
                {n: (was[n][i], now[n][i]) for n in self.shared if unequal[n][i]},
            )
            for i in range(len(pairs[0]))
        )


def _common(a: _Side, b: _Side) -> tuple[tuple[set[int], set[int]], tuple[set[int], set[int]]]:
    """The blocks that both have: those that begin at the same row, and those that do not; as places in each."""
    if a.arrow != b.arrow:  # a digest is of values, whatever the columns are called
        return (set(), set()), (set(), set())
    there = {(int(s), e["digest"]): i for i, (s, e) in enumerate(zip(b.starts, b.blocks, strict=False))}
    same = {i: there.get((int(s), e["digest"])) for i, (s, e) in enumerate(zip(a.starts, a.blocks, strict=False))}
    in_place = {i for i, j in same.items() if j is not None}, {j for j in same.values() if j is not None}
    others = [[i for i in range(len(s.blocks)) if i not in p] for s, p in zip((a, b), in_place, strict=True)]
    digests = [Counter(s.blocks[i]["digest"] for i in o) for s, o in zip((a, b), others, strict=True)]
    both = digests[0] & digests[1]
    elsewhere: tuple[set[int], set[int]] = (set(), set())
    for side, places, chosen in zip((a, b), others, elsewhere, strict=True):
        free = Counter(both)
        for i in places:
            digest = side.blocks[i]["digest"]
            if free[digest]:
                free[digest] -= 1
                chosen.add(i)
    return in_place, elsewhere


def _add_unequal(piles: Sequence[_Pile], a: _Stretch | None, b: _Stretch | None) -> None:
    if a is None or b is None:
        for pile, stretch in zip(piles, (a, b), strict=True):
            if stretch is not None:
                pile.add(stretch)
        return
    unequal = (a.rows != b.rows).any(axis=0)
    if unequal.any():
        piles[0].add(a, unequal)
        piles[1].add(b, unequal)


def _taken_away(a: Array, b: Array) -> _Left:
    """What two parts of piles have not in common, and which of it has the same key."""
    equal = paired(a[2:4], b[2:4])
    a, b = (records[:, without(records.shape[1], taken)] for records, taken in zip((a, b), equal, strict=True))
    here, there = paired(a[:2], b[:2])
    many = [crowded(r[:2])[p] for r, p in ((a, here), (b, there))]
    numbers = a[4].astype(np.int64), b[4].astype(np.int64)
    return _Left(numbers, (numbers[0][here], numbers[1][there]), len(equal[0]), int((many[0] | many[1]).sum()))


def _ahead(pool: ThreadPoolExecutor, call: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """The results in order, the next being made while one is looked at."""
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(call, item))
            if len(pending) > 1:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def _examples(side: _Side, numbers: Array) -> tuple[Row, ...]:
    values = _values(_fetched(side, numbers, side.arrow.names))
    return tuple(Row(int(n), {name: v[i] for name, v in values.items()}) for i, n in enumerate(numbers))


def _fetched(side: _Side, numbers: Array, columns: Sequence[str]) -> pa.Table:
    """These rows, in this order."""
    order = np.argsort(numbers, kind="stable")
    parts = list(side.pick(numbers[order], columns))
    if not parts:
        return pa.schema([side.arrow.field(n) for n in columns]).empty_table()
    places = np.concatenate([order[p] for p, _ in parts])
    return pa.concat_tables([t for _, t in parts]).take(pa.array(np.argsort(places, kind="stable")))


def _values(table: pa.Table) -> dict[str, list[Any]]:
    return {f.name: _plain(_whole(table[f.name])).to_pylist() for f in table.schema}


def _plain(array: pa.Array) -> pa.Array:
    """Python has no time of a day to the nanosecond."""
    return array.cast(pa.string()) if array.type == pa.time64("ns") else array


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
