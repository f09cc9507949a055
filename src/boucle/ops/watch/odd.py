"""Single odd rows: how surprising each is against the reference, and the strangest of all that came."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from boucle.core.frames import Frame
from boucle.measure.anomaly import Odd, distances, reason, surprises
from boucle.measure.sketch import MISSING, NEW, Reference

SHOWN = 10  # of the odd rows
_DRAWN = 5000  # rows of the reference that say what is odd

Floats = NDArray[np.float64]
Cells = Mapping[str, NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class OddRows:
    """The strangest rows and how many were odd. Adds up."""

    rows: int = 0
    strangest: tuple[Odd, ...] = ()

    def __add__(self, other: OddRows) -> OddRows:
        both = heapq.nlargest(SHOWN, (*self.strangest, *other.strangest), key=lambda o: (o.surprise, o.id))
        return OddRows(self.rows + other.rows, tuple(both))


def threshold(rows: Frame) -> float:
    """The largest surprise of one half of the reference's rows to who knows the other half: what is above it is odd."""
    drawn = rows.sample(_DRAWN).table()
    order = np.random.default_rng(0).permutation(len(drawn))
    half = len(drawn) // 2
    if half < 10:
        return float("inf")
    known, fresh = (drawn.take(pa.array(np.sort(part))) for part in (order[:half], order[half:]))
    reference = Reference.of(known)
    arrays = {n: fresh.column(n).combine_chunks() for n in reference.columns}
    return float(surprise(reference, arrays, {n: reference.columns[n].cells(a) for n, a in arrays.items()}).max())


def surprise(reference: Reference, arrays: Mapping[str, pa.Array], cells: Cells) -> Floats:
    """How surprising each row is, in nats; shape (rows,)."""
    total = np.zeros(len(next(iter(cells.values()))) if cells else 0)
    for name, places in cells.items():
        column = reference.columns[name]
        total += surprises(column)[places]
        outside = column.edges.size and ((places == 1) | (places == len(column.counts) - 1)).any()
        if outside and column.kind == "number":
            total += distances(column, _numbers(arrays[name]), places)
    return total


def find(
    reference: Reference, arrays: Mapping[str, pa.Array], cells: Cells, bound: float, ids: pa.Array, times: Floats
) -> OddRows:
    """The odd rows of a block, with what is odd about the strangest."""
    found = surprise(reference, arrays, cells)
    odd = np.flatnonzero(found > bound)
    if not len(odd):
        return OddRows()
    worst = odd[np.argsort(-found[odd], kind="stable")[:SHOWN]]
    named = tuple(
        Odd(ids[int(i)].as_py(), float(times[i]), float(found[i]), _why(reference, arrays, cells, int(i)))
        for i in worst
    )
    return OddRows(len(odd), named)


def _why(reference: Reference, arrays: Mapping[str, pa.Array], cells: Cells, row: int) -> tuple[str, ...]:
    parts: list[tuple[float, str]] = []
    for name, places in cells.items():
        column, cell = reference.columns[name], int(places[row])
        worth = float(surprises(column)[cell])
        value = arrays[name][row].as_py()
        if worth and column.edges.size and cell != MISSING:
            side = 1 if cell == 1 else -1
            if column.kind == "number":
                worth += float(distances(column, np.array([float(value)]), np.array([cell]))[0])
            else:
                value = float(len(value))
            parts.append((worth, reason(column, side, value)))
        elif worth:
            parts.append((worth, reason(column, NEW if cell == NEW and column.kind == "category" else cell, value)))
    return tuple(text for _, text in sorted(parts, key=lambda p: -p[0])[:5])


def _numbers(array: pa.Array) -> Floats:
    return np.asarray(array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)


def kept(rows: OddRows) -> list[list[object]]:
    """For JSON; `restored` is the way back."""
    return [[o.id, o.time, o.surprise, list(o.why)] for o in rows.strangest]


def restored(rows: int, data: Sequence[Sequence[object]]) -> OddRows:
    return OddRows(rows, tuple(Odd(str(i), float(t), float(s), tuple(w)) for i, t, s, w in data))  # type: ignore[arg-type]
