"""How much stretches of the reference differ among themselves, where its rows are in the order of time.

A hundred rows in a row are seldom like a whole year: they are one morning, or one week in winter. Rows next to each other
depend on each other, so counting them as if each were drawn afresh finds "drift" at once and for ever (Kish 1965 on designs
with clusters; Kunsch 1989 on blocks of dependent rows). How little such rows count is read off the reference itself: stretches
of a hundred rows, of two hundred, and so on up to half of it are each compared with the others. As many times as they lie
further apart than chance would have it, so many rows count for one in traffic of that length. Rows in no order of time say
nothing of the kind, and each counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.special import xlogy

from boucle.core.frames import Frame
from boucle.measure.evidence import CHUNK

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

_STRETCHES = 64  # of each length, spread evenly
_PARTS = 4  # sections of a long stretch, by one of which the next is further on
_DRAWN = 1 << 15  # rows of all stretches of one length


@dataclass(frozen=True, slots=True)
class Usual:
    """Of stretches of so many rows: how many times further from the others they are than rows drawn one by one would be (the
    design effect, 1 for independent rows), and the largest share of rows more missing than in the others, or new or out of
    range to them."""

    rows: int
    clumps: float = 1.0
    strange: float = 0.0


def divergence(before: NDArray[Any], now: NDArray[Any]) -> Floats:
    """Jensen-Shannon divergence in bits of counts along the last axis (Lin 1991), which must not be all 0."""
    p, q = (c / c.sum(axis=-1, keepdims=True) for c in (before, now))
    middle = (p + q) / 2
    kept = np.where(middle > 0, middle, 1.0)
    both = xlogy(p, p / kept) + xlogy(q, q / kept)
    return np.asarray(np.maximum(0.0, both.sum(axis=-1) / (2 * math.log(2))))


def corrected(before: NDArray[Any], now: NDArray[Any]) -> Floats:
    """The Jensen-Shannon distance less what chance alone adds: to first order the divergence of two samples of one source
    is (K-1)(1/n + 1/m) / 8 nats on average (Grosse et al. 2002), with K the groups that occur."""
    free = ((before + now) > 0).sum(axis=-1) - 1
    expected = _chance(free, before.sum(axis=-1), now.sum(axis=-1))
    return np.asarray(np.sqrt(np.maximum(0.0, divergence(before, now) - expected)))


def _chance(free: Any, n: Any, m: Any) -> Any:
    return free * (1 / n + 1 / m) / 8 / math.log(2)


def in_time_order(data: Any) -> bool:
    """Whether a table has a column of times or dates that never goes back, nor stays the same throughout."""
    frame = Frame.of(data)
    times = [c.name for c in frame.schema.columns if c.type.split("[")[0] in ("timestamp", "date")]
    last: dict[str, Any] = dict.fromkeys(times)
    moved: set[str] = set()
    for batch in frame.batches(times) if times else ():
        for name in list(last):
            column = batch.column(name)
            if not len(column):
                continue
            values = column.cast(pa.timestamp("us", tz=getattr(column.type, "tz", None)), safe=False).cast(pa.int64())
            if last[name] is not None:
                values = pa.concat_arrays([pa.array([last[name]], pa.int64()), values])
            steps = np.diff(np.asarray(values)) if not values.null_count else np.array([-1])
            if (steps < 0).any():
                del last[name]
                continue
            if steps.any():
                moved.add(name)
            last[name] = pc.max(values).as_py()
    return any(name in moved for name in last)


def chosen(rows: int) -> list[tuple[int, int, Counts]]:
    """Which rows of so many to look at: for each length of stretches, of how many sections one consists, and places of
    shape (sections, rows of each). Long stretches overlap, as there are few of them; short ones are spread evenly."""
    out = []
    length = CHUNK
    while length <= rows // 2:
        parts = _PARTS if rows // length <= _STRETCHES else 1
        section = length // parts
        count = rows // section if parts > 1 else _STRETCHES
        starts = np.linspace(0, rows - section, count).astype(np.int64)
        within = np.linspace(0, section, min(section, _DRAWN // count), endpoint=False).astype(np.int64)
        out.append((length, parts, starts[:, None] + within))
        length *= 2
    return out


def usual(
    rows: int, total: int, parts: int, cells: Counts, groups: Counts, known: slice, *, numbers: bool
) -> Usual:  # fmt: skip
    """What is usual of stretches of `rows` rows of `total`, of so many sections each; `cells` has the cells of rows, of shape
    (sections, rows of each). `groups` is the group of each cell, and `known` are the cells of values."""
    count, width = len(cells), len(groups)
    places = np.arange(count)[:, None] * width + cells
    sections = np.bincount(places.ravel(), minlength=count * width).reshape(count, width)
    tables = sliding_window_view(sections, parts, axis=0).sum(axis=-1)
    others = sections.sum(axis=0) - tables
    pool = np.zeros((width, int(groups.max()) + 1))
    pool[np.arange(width), groups] = 1
    now, before = tables @ pool, others @ pool
    free = ((before + now) > 0).sum(axis=-1) - 1
    far = divergence(before, now) - _chance(free, before.sum(axis=-1), now.sum(axis=-1))
    clumps = 1 + max(0.0, float(far.mean() / max(_chance(free, total - rows, rows).mean(), 1e-12)))
    inner, rest = tables[:, known], others[:, known]
    strange = rest == 0
    if numbers:
        strange = (np.cumsum(rest, axis=1) == 0) | (np.cumsum(rest[:, ::-1], axis=1)[:, ::-1] == 0)
    outside = np.where(strange, inner, 0).sum(axis=1) / tables.sum(axis=1)
    missing = np.abs(tables[:, 0] / tables.sum(axis=1) - others[:, 0] / others.sum(axis=1))
    return Usual(rows, clumps, float(max(outside.max(), missing.max())))


def clumps(found: Sequence[Usual], rows: int) -> float:
    """How many rows in a row count for one, in a stretch of so many or the next shorter length that is known."""
    fitting = [u for u in found if u.rows <= rows] or found[:1]
    return fitting[-1].clumps if fitting else 1.0


def beyond(share: float, found: Sequence[Usual], rows: int) -> bool:
    """Whether a share of strange rows lies clearly beyond what is usual: over halfway from the most
    that stretches of so many rows or fewer had to all of them."""
    fitting = [u.strange for u in found if u.rows <= rows] or [u.strange for u in found[:1]]
    return share > (1 + max(fitting, default=0.0)) / 2
