"""One thing that is compared between two revisions: rows of both in, the effect, its interval and a verdict in words out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boucle.measure.power import Kind, rows_to_see
from boucle.measure.sequential import Interval, Moments, difference, shares

Floats = NDArray[np.float64]

BETTER, WORSE, HIGHER, LOWER, SAME, OPEN = "better", "worse", "higher", "lower", "no difference", "not enough yet"
_LOOKS = 40  # points of a drawing
_MOST = 100_000_000  # rows that nobody waits for


@dataclass(frozen=True, slots=True)
class Row:
    """A value, when it came, and the unit it belongs to: rows of one unit are no news about each other."""

    time: float
    unit: str
    value: float
    inputs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sample:
    """The rows of both arms, before and after, for one measure."""

    name: str
    unit: str  # "%", "ms" or nothing; of a "%" values and effects are shares, 0.01 is a point
    counted: str  # what a row is
    good: str  # "higher", "lower" or nothing
    arms: tuple[Sequence[Row], Sequence[Row]]
    detail: str = ""  # the class or the milliseconds that the name is about


@dataclass(frozen=True, slots=True)
class Measure:
    """One thing that is compared: its value before and after, the effect (after - before) with its interval, and what
    follows. `needed` rows more per arm would tell, `seconds` at the present rate; None where nobody knows."""

    name: str
    unit: str
    counted: str
    good: str
    before: float
    after: float
    rows: tuple[int, int]
    effect: Interval
    verdict: str
    needed: int | None
    seconds: float | None
    level: float
    detail: str = ""

    @property
    def decided(self) -> bool:
        """Whether looking on would be of no use."""
        return self.verdict != OPEN


def judge(sample: Sample, alpha: float = 0.05, smallest: float | None = None) -> Measure:
    """Compare the arms of a sample. With `smallest`, the least effect that would matter, it may also be found that there is
    none so large, and it is what rows are still needed for; without it that is an effect as large as it looks now."""
    times, values = zip(*(_by_unit(arm) for arm in sample.arms), strict=True)
    effect, kind, error = _effect(values[0], values[1], alpha)
    rows = values[0].size, values[1].size
    verdict = _verdict(sample.good, effect, smallest)
    needed = None if verdict != OPEN else _needed(effect, min(rows), error, kind, alpha, smallest)
    before, after = (float(v.mean()) if v.size else math.nan for v in values)
    return Measure(
        name=sample.name, unit=sample.unit, counted=sample.counted, good=sample.good, before=before, after=after, rows=rows,
        effect=effect, verdict=verdict, needed=needed, seconds=_seconds(needed, times), level=alpha, detail=sample.detail,
    )  # fmt: skip


def path(sample: Sample, alpha: float = 0.05) -> tuple[Interval, ...]:
    """The interval after more and more rows, as it was to be seen then."""
    arms = [_by_unit(arm) for arm in sample.arms]
    times = np.sort(np.concatenate([t for t, _ in arms]))
    marks = np.unique(np.linspace(0, times.size, _LOOKS + 1).astype(int)[1:])
    out = []
    for mark in marks[marks > 0]:
        seen = [v[: np.searchsorted(t, times[mark - 1], side="right")] for t, v in arms]
        if all(v.size for v in seen):
            out.append(_effect(seen[0], seen[1], alpha)[0])
    return tuple(out)


def _by_unit(rows: Sequence[Row]) -> tuple[Floats, Floats]:
    """When each unit came first, and the mean of its values; in the order in which they came."""
    first: dict[str, float] = {}
    values: dict[str, list[float]] = {}
    for row in sorted(rows, key=lambda r: r.time):
        first.setdefault(row.unit, row.time)
        values.setdefault(row.unit, []).append(row.value)
    return np.array(list(first.values())), np.array([sum(v) / len(v) for v in values.values()])


def _effect(before: Floats, after: Floats, alpha: float) -> tuple[Interval, Kind, float]:
    """The effect, and the standard error it would have at one row per arm. What is only 0 or 1 has an exact interval."""
    both = np.concatenate([before, after])
    error = math.sqrt(sum(float(a.var()) for a in (before, after) if a.size))
    if both.size and np.isin(both, (0.0, 1.0)).all():
        hits = [(int(a.sum()), a.size) for a in (before, after)]
        return shares(hits[0], hits[1], alpha), "share", error
    return difference(Moments.of(before), Moments.of(after), alpha), "mean", error


def _verdict(good: str, effect: Interval, smallest: float | None) -> str:
    if effect.low > 0 or effect.high < 0:
        up = effect.low > 0
        if not good:
            return HIGHER if up else LOWER
        return BETTER if up == (good == "higher") else WORSE
    if smallest is not None and -smallest <= effect.low and effect.high <= smallest:
        return SAME
    return OPEN


def _needed(
    effect: Interval, rows: int, error: float, kind: Kind, alpha: float, smallest: float | None
) -> int | None:  # fmt: skip
    """Rows per arm still missing to see the smallest effect that matters, or else one as large as it looks now."""
    target = smallest or abs(effect.estimate)
    if not rows or not error or math.isnan(target) or not target:
        return None
    total = rows_to_see(target, error, kind, alpha=alpha)
    return max(1, total - rows) if total <= _MOST else None


def _seconds(needed: int | None, times: Sequence[Floats]) -> float | None:
    """At the rate of the slower arm."""
    if needed is None:
        return None
    span = max(t.max() for t in times) - min(t.min() for t in times)
    return float(needed * span / min(t.size for t in times)) if span > 0 else None


_SAYS: dict[str, Callable[[str, str], str]] = {
    "right": lambda value, _: f"is right in {value} of cases",
    "error": lambda value, _: f"is off by {value} on average",
    "reward": lambda value, _: f"earns {value} per prediction",
    "failures": lambda value, _: f"fails in {value} of requests",
    "latency": lambda value, _: f"takes {value} on average",
    "slow": lambda value, detail: f"takes more than {detail} in {value} of requests",
    "prediction": lambda value, detail: (
        f"says {detail!r} in {value} of cases" if detail else f"says {value} on average"
    ),
}


def shown(value: float, unit: str) -> str:
    """A value of a measure as text."""
    if math.isnan(value):
        return "-"
    if unit == "%":
        return f"{value * 100:.1f} %"
    return f"{value:.4g} {unit}".rstrip()


def effect_shown(value: float, unit: str, sign: bool = True) -> str:
    """An effect as text; that of a share is in points."""
    if not math.isfinite(value):
        return "-" if math.isnan(value) else f"{value:+}".replace("inf", "∞")
    if unit == "%":
        return f"{value * 100:+.1f}" if sign else f"{value * 100:.1f}"
    return f"{value:+.3g}" if sign else f"{value:.3g}"


def said(measure: Measure, names: tuple[str, str], smallest: float | None = None) -> str:
    """What a measure of two named things, before and after, says, without a full stop. It claims no more than the interval
    allows; `smallest` is the one it was judged with."""
    e, unit = measure.effect, measure.unit
    says = _SAYS[measure.name]
    name_before, name_after = names
    if math.isnan(e.estimate):
        missing = [n for n, rows in zip(names, measure.rows, strict=True) if not rows]
        return f"there are no {measure.counted} of {' and '.join(missing)} to compare yet"
    head = (
        f"{name_after} {says(shown(measure.after, unit), measure.detail)}, {name_before} "
        f"{_where(measure)}{shown(measure.before, unit)}"
    )
    points = " points" if unit == "%" else f" {unit}" if unit else ""
    if not math.isfinite(e.low):
        return f"{head}, and {sum(measure.rows):,} {measure.counted} are too few to tell the difference from chance"
    low, high = e.low, e.high
    if measure.verdict in (BETTER, WORSE, HIGHER, LOWER):
        low, high = sorted((abs(low), abs(high)))
        found = f"{effect_shown(abs(e.estimate), unit, False)}{points} {measure.verdict}"
        span = f"{effect_shown(low, unit, False)} to {effect_shown(high, unit, False)}"
    elif measure.verdict == SAME and smallest is not None:
        found = f"no difference larger than {effect_shown(smallest, unit, False)}{points}"
        span = f"{effect_shown(low, unit)} to {effect_shown(high, unit)}"
    else:
        found = f"the difference of {effect_shown(e.estimate, unit)}{points} may be chance"
        span = f"{effect_shown(low, unit)} to {effect_shown(high, unit)}"
    return (
        f"{head}: {found} ({100 * (1 - measure.level):g} % interval {span}, from {sum(measure.rows):,} {measure.counted})"
    )  # fmt: skip


def _where(measure: Measure) -> str:
    return "in " if measure.name in ("right", "failures", "slow", "prediction") and measure.unit == "%" else ""


def duration(seconds: float) -> str:
    """A long span of time in words."""
    for word, size in (("day", 86400.0), ("hour", 3600.0), ("minute", 60.0)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:,.0f} {word}s"
    return "a minute" if seconds >= 45 else f"{seconds:.0f} seconds"


def about(rows: int) -> str:
    """A number of rows that nobody knows exactly, to two digits."""
    size = 10 ** max(0, len(str(rows)) - 2)
    return f"{round(rows / size) * size:,}"
