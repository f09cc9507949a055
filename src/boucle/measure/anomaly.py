"""What is unusual in the traffic of a service: times when it was slow, failing, flooded or silent, and single odd inputs.

Time is cut into bins, and each bin that is over is compared with those before it: the number of requests with a negative
binomial of the usual mean and spread (robust: median and median absolute deviation, so that an anomaly does not become the
norm), failures with a binomial of the usual rate, the latency with the spread of earlier bins. With two weeks of history
a bin is compared with the same hour of earlier days. Looking for ever finds chance sooner or later, so the k-th bin may spend
6 level / (pi k)^2 of the false alarms (a union over all bins and kinds), and a difference must also be large.

An odd input is surprising: the sum over its columns of how rare its value was in the reference (-log of its share), counted
where it is rarer than one in a hundred. What counts as odd is learned from the reference's own rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boucle.measure.sketch import BELOW, MISSING, NEW, ColumnReference

Floats = NDArray[np.float64]

SECONDS = 300.0  # of a bin
LEVEL = 0.05  # chance of a false alarm, for ever
HISTORY = 24  # bins that are needed before: two hours
HOUR = 12  # bins
RECENT = 144  # bins that are compared with: twelve hours
JUDGED = 288  # bins that a look judges: a day
KEPT = 28 * 288  # bins: four weeks
SEASON = 14 * 86400.0  # seconds of history from which hours of the day are compared
LATE = 3  # bins without an alarm after which it is over
_TIMES = 2.0  # as many, as few, as slow or as often failing, to matter
_RATE = 0.01  # failures, to matter
_SUDDEN = 1e-4
_RARE = 0.01
_DAY = 86400.0


@dataclass(frozen=True, slots=True)
class Bin:
    """What came in one bin of time, which starts at `start`: requests, those that failed, and the sum of the logarithms of
    the latencies of `answered` rows."""

    start: float
    requests: int = 0
    failed: int = 0
    answered: int = 0
    log_latency: float = 0.0

    def __add__(self, other: Bin) -> Bin:
        return Bin(
            self.start, self.requests + other.requests, self.failed + other.failed, self.answered + other.answered,
            self.log_latency + other.log_latency,
        )  # fmt: skip

    @property
    def latency(self) -> float:
        """Geometric mean, in seconds; NaN where nothing was answered."""
        return math.exp(self.log_latency / self.answered) if self.answered else math.nan


@dataclass(frozen=True, slots=True)
class Anomaly:
    """One stretch of unusual bins: its kind (volume, errors or latency), its times, what was seen and what is usual."""

    kind: str
    start: float
    end: float
    seen: float
    usual: float
    sentence: str


@dataclass(frozen=True, slots=True)
class Odd:
    """A surprising row: the id of its prediction, when, how surprising (in nats) and the columns that are to blame."""

    id: str
    time: float
    surprise: float
    why: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Anomalies:
    """`status` is fail while failures or latency are unusual, warn while only the volume is or for odd rows, else pass. `found`
    are all stretches of the history, the last first; `kind` names what is going on now."""

    status: str
    kind: str
    sentence: str
    bins: int
    found: tuple[Anomaly, ...] = ()
    odd: tuple[Odd, ...] = ()
    odd_rows: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def anomalies(
    bins: Mapping[float, Bin],
    until: float,
    odd: Sequence[Odd] = (),
    odd_rows: int = 0,
    *,
    since: float = 0.0,
    steady: float = 0.0,
) -> Anomalies:
    """Judge the bins of the last day before the time `until`.

    `bins` are by their start, a multiple of `SECONDS`; those that are not there had no traffic. `odd` are rows that were too
    surprising, and `odd_rows` how many there were. `since` is when the service was first asked, where older bins are not
    kept: the more bins there were, the less each may spend. `steady` is from when on its volume is its own, and not what a
    rollout gave it."""
    whole = _filled(bins, until)
    gone = max(0, round((whole[0].start - since) / SECONDS)) if whole and since else 0
    alarms: list[Anomaly] = []
    calm: list[Bin] = []  # bins so far whose volume was not unusual
    for i, this in enumerate(whole):
        judged = _of_bin(whole, i, gone, steady, calm) if i >= max(HISTORY, len(whole) - JUDGED) else []
        alarms += judged
        if not any(a.kind == "volume" for a in judged):
            calm.append(this)
    found = _joined(alarms)
    now = [a for a in found if until - a.end < LATE * SECONDS]
    if len(whole) <= HISTORY and not odd_rows:
        said = f"too little history to judge: {len(whole)} of {HISTORY + 1} spans of {SECONDS / 60:g} minutes"
        return Anomalies("pass", "", said, len(whole))
    if not now:
        said = f"{odd_rows:,} odd inputs, the strangest {odd[0].why[0]}" if odd_rows and odd else "nothing unusual"
        return Anomalies("pass", "", said, len(whole), found, tuple(odd), odd_rows)
    now.sort(key=lambda a: _ORDER.index(a.kind))
    status = "warn" if now[0].kind == "volume" else "fail"
    said = "; ".join(a.sentence for a in now)
    return Anomalies(status, now[0].kind, said, len(whole), found, tuple(odd), odd_rows)


_ORDER = ("errors", "latency", "volume")


def _filled(bins: Mapping[float, Bin], until: float) -> list[Bin]:
    last = math.floor(until / SECONDS) * SECONDS
    if not bins:
        return []
    first = max(min(bins), last - KEPT * SECONDS)
    count = max(0, round((last - first) / SECONDS))
    return [bins.get(first + i * SECONDS, Bin(first + i * SECONDS)) for i in range(count)]


def _of_bin(whole: Sequence[Bin], at: int, gone: int, steady: float, calm: Sequence[Bin]) -> list[Anomaly]:
    this, before = whole[at], _before(whole, at)
    looks = gone + at - HISTORY + 1
    spend = LEVEL * 6 / (math.pi * looks) ** 2 / 3
    made = []
    for kind, judge in (("volume", _volume), ("errors", _errors), ("latency", _latency)):
        compared = [b for b in before if b.start >= steady] if kind == "volume" else before
        if len(compared) < HISTORY:
            continue
        seen, usual, p, sentence = judge(this, compared)
        if kind == "volume" and not _sudden(seen, calm[-HOUR:]):
            continue
        if p < spend:
            made.append(Anomaly(kind, this.start, this.start + SECONDS, seen, usual, sentence))
    return made


def _before(whole: Sequence[Bin], at: int) -> Sequence[Bin]:
    if whole[at].start - whole[0].start >= SEASON:
        day = round(_DAY / SECONDS)
        return [
            whole[j] for back in range(day, at + 1, day) for j in range(at - back - 6, at - back + 7) if 0 <= j < at
        ]
    return whole[max(0, at - RECENT) : at]


def _sudden(seen: float, lately: Sequence[Bin]) -> bool:
    """Whether the volume also differs from that of the last calm hour: tides of a day come slowly."""
    usual, spread = _middle(np.array([b.requests for b in lately], np.float64))
    upper = seen >= _TIMES * usual + 5
    mean = max(usual, 0.5)
    return (upper or _TIMES * seen <= usual) and _tail(seen, mean, max(mean, spread**2), upper=upper) < _SUDDEN


_Judged = tuple[float, float, float, str]


def _volume(this: Bin, before: Sequence[Bin]) -> _Judged:
    counts = np.array([b.requests for b in before], np.float64)
    usual, spread = _middle(counts)
    seen, p = float(this.requests), 1.0
    upper = seen >= _TIMES * usual + 5
    if upper or (_TIMES * seen <= usual and usual >= 5):
        off = max(spread, math.sqrt(max(usual, 1.0))) / math.sqrt(len(before))
        mean = usual + off if upper else max(0.5, usual - off)
        p = max(_tail(seen, mean, max(mean, spread**2), upper=upper), _apart(seen, counts))
    minutes = f"{SECONDS / 60:g} minutes"
    return seen, usual, p, f"{seen:,.0f} requests in {minutes}, where {usual:,.0f} are usual"


def _tail(seen: float, mean: float, variance: float, *, upper: bool) -> float:
    from scipy.stats import nbinom

    variance = max(variance, mean * 1.001)
    size, chance = mean**2 / (variance - mean), mean / variance
    return float(nbinom.sf(seen - 1, size, chance) if upper else nbinom.cdf(seen, size, chance))


def _apart(seen: float, counts: Floats) -> float:
    """The same on a logarithmic scale, where the spread of loads that multiply is even."""
    logs = np.log(counts + 0.5)
    usual, spread = _middle(logs)
    floor = 1 / math.sqrt(math.exp(usual) + 0.5)  # of Poisson counts
    return _beyond(abs(math.log(seen + 0.5) - usual), max(spread, floor), len(counts))


def _beyond(distance: float, spread: float, count: int) -> float:
    """Chance to lie so far above a median of so many values. A median absolute deviation is as sure as a standard deviation
    of 37 % of the values (Huber 1981); as neighbours are alike, they count for half of that."""
    from scipy.stats import t

    return float(t.sf(distance / (spread * math.sqrt(1 + 2 / count)), max(4.0, 0.2 * count)))


def _errors(this: Bin, before: Sequence[Bin]) -> _Judged:
    from scipy.stats import binom

    asked, failed = sum(b.requests for b in before), sum(b.failed for b in before)
    usual = failed / asked if asked else 0.0
    if not this.failed or not asked:
        return 0.0, usual, 1.0, ""
    seen = this.failed / max(1, this.requests)
    rates = np.array([b.failed / b.requests for b in before if b.requests])
    # Failures come in heaps: a rate that earlier bins had as often is no news, and one is added for what was not seen.
    assumed = max((failed + 1) / (asked + 1), float(np.quantile(rates, 0.9)))
    p = float(binom.sf(this.failed - 1, max(this.requests, this.failed), min(1.0, assumed)))
    large = seen >= max(_RATE, _TIMES * assumed) and this.failed > 1
    said = f"{seen:.1%} of the requests failed, where {usual:.1%} is usual"
    return seen, usual, p if large else 1.0, said


def _latency(this: Bin, before: Sequence[Bin]) -> _Judged:
    earlier = [b for b in before if b.answered]
    if not this.answered or len(earlier) < HISTORY // 2:
        return 0.0, 0.0, 1.0, ""
    rows = np.array([b.answered for b in earlier], np.float64)
    logs = np.array([b.log_latency for b in earlier]) / rows
    usual, spread = _middle(logs)
    # Bins with few rows vary more: the spread of single rows sets how much.
    single = _middle((logs - usual) * np.sqrt(rows))[1]
    spread = max(spread, single / math.sqrt(this.answered), 0.05)
    distance = this.log_latency / this.answered - usual
    seen, norm = math.exp(usual + distance), math.exp(usual)
    said = f"answers take {_took(seen)}, where {_took(norm)} is usual"
    return seen, norm, _beyond(distance, spread, len(logs)) if distance >= math.log(_TIMES) else 1.0, said


def _took(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _middle(values: Floats) -> tuple[float, float]:
    """Median, and the standard deviation that the median absolute deviation stands for."""
    median = float(np.median(values))
    return median, 1.4826 * float(np.median(np.abs(values - median)))


def _joined(alarms: Sequence[Anomaly]) -> tuple[Anomaly, ...]:
    """Alarms of one kind with hardly a gap between them as one, with the sentence of the last."""
    open_: dict[str, Anomaly] = {}
    done: list[Anomaly] = []
    for alarm in alarms:
        held = open_.get(alarm.kind)
        if held is not None and alarm.start - held.end < LATE * SECONDS:
            open_[alarm.kind] = Anomaly(alarm.kind, held.start, alarm.end, alarm.seen, alarm.usual, alarm.sentence)
        else:
            done += [held] if held is not None else []
            open_[alarm.kind] = alarm
    return tuple(sorted([*done, *open_.values()], key=lambda a: -a.start))


def surprises(column: ColumnReference) -> Floats:
    """How surprising each cell of a column is, in nats: shape (cells,). Cells that hold a hundredth of the reference or more
    do not surprise, nor do values that are rare because the reference has more of them than fit."""
    shares = (column.counts + 0.5) / (column.rows + 1.0)
    if column.edges.size:
        # Cells between quantiles are narrow on purpose; only what lies outside them, or is missing, is rare.
        shares[2:-1] = 1.0
    if column.kind == "category" and not column.complete:
        shares[NEW] = 1.0
    # Below one in a thousand nothing is told apart: a reference of thousands of rows does not know such shares.
    return np.asarray(np.where(shares < _RARE, -np.log(np.maximum(shares, _RARE / 10)), 0.0))


def distances(column: ColumnReference, values: Floats, cells: NDArray[np.int64]) -> Floats:
    """What a number adds by how far it lies outside the range: log(1 + its distance in standard deviations)."""
    out = np.zeros(len(cells))
    if not column.edges.size or not column.std > 0:
        return out
    for cell, edge in ((1, column.edges[0]), (len(column.counts) - 1, column.edges[-1])):
        at = np.flatnonzero((cells == cell) & np.isfinite(values))
        out[at] = np.log1p(np.abs(values[at] - edge) / column.std)
    return out


def reason(column: ColumnReference, cell: int, value: Any) -> str:
    """Why a value surprises, in words."""
    shown = f"{value:.4g}" if isinstance(value, float) else repr(value)[:40]
    if cell == MISSING:
        return f"{column.name} is missing"
    if column.edges.size:
        word, edge = ("below", column.edges[0]) if cell == BELOW else ("above", column.edges[-1])
        what = "length " if column.kind == "text" else ""
        return f"{column.name} {what}{shown} lies {word} {edge:.4g}"
    return f"{column.name} {shown} is {'new' if cell == NEW else 'rare'}"
