"""How sure one can be of an effect, valid at every look: one may look after each row, and stop whenever one likes.

An interval of fixed-sample theory misses the truth in 5 % of looks; whoever looks often enough sees it miss sooner or later.
A *confidence sequence* misses at any of all looks together with a chance of at most `alpha` (Darling and Robbins 1967). Each
here is made from a test martingale: for every value the truth might have there is a fortune that does not grow on average if
that is the truth, so by Ville's inequality (1939) it reaches 1/alpha with a chance of at most alpha. What is left in the
interval are the values whose fortune has stayed below that.

The price is width: about 1.5 to 1.9 times the interval of a single look. `tuned_for` says at how many rows per arm it shall be
smallest; it must be chosen before looking, matters little within a factor of ten, and validity does not depend on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from boucle.core.errors import Invalid

Floats = NDArray[np.float64]

TUNED_FOR = 1000  # rows of an arm
FEWEST = 30  # rows of each arm before `difference` says anything: it holds for large samples
BLEND = ((0.8, 1.0), (0.2, 1 / 30))  # of a fortune: weight, and the rows it is tuned for in units of `tuned_for`
_STEPS = 60
_CHUNK = 16  # factors multiplied before a logarithm is taken
_BOLDEST = 0.75  # of the fortune, at stake in one row of `mean`
_STAKES = 2.0 ** np.arange(-9.0, 2.5, 0.5)  # in units of 1 / range
_STAKE_WEIGHTS = 1 / (1 + (np.log2(_STAKES) + 2.5) ** 2)


@dataclass(frozen=True, slots=True)
class Interval:
    """An effect and where it lies, with a chance of at least 1 - `level` at all looks together.

    Without rows `estimate` is NaN and the interval is as wide as the effect's range.
    """

    estimate: float
    low: float
    high: float
    rows: int
    level: float


@dataclass(frozen=True, slots=True)
class Moments:
    """What `difference` needs of an arm: rows, their mean, and their variance (with the divisor rows - 1)."""

    rows: int
    mean: float
    variance: float

    @classmethod
    def of(cls, values: ArrayLike) -> Moments:
        """Of an array of finite numbers; NaN where there are too few."""
        found = np.asarray(values, np.float64)
        mean = float(found.mean()) if found.size else math.nan
        return cls(int(found.size), mean, float(found.var(ddof=1)) if found.size > 1 else math.nan)


def share(hits: int, rows: int, alpha: float = 0.05, *, tuned_for: float = TUNED_FOR) -> Interval:
    """The chance of a hit, from `hits` of `rows`; exact.

    For every p the fortune is the likelihood ratio of beta mixtures around p (a wide one for few rows, a narrow one for many) to
    p itself (Robbins 1970, *Statistical methods
    related to the law of the iterated logarithm*; Howard, Ramdas, McAuliffe and Sekhon 2021, *Time-uniform, nonparametric,
    nonasymptotic confidence sequences*, proposition 7). Its logarithm is convex in p. Raises `Invalid`.
    """
    _check(alpha, tuned_for, (hits, rows))
    if rows == 0:
        return Interval(math.nan, 0.0, 1.0, 0, alpha)
    arms = [_Arm(hits, rows, r) for r in _concentrations(alpha, 1, tuned_for)]
    middle = hits / rows

    def excess(p: float) -> float:
        return _blended([arm(p) for arm in arms]) + math.log(alpha)

    return Interval(middle, _edge(excess, middle, 0.0), _edge(excess, middle, 1.0), rows, alpha)


def shares(
    before: tuple[int, int], after: tuple[int, int], alpha: float = 0.05, *, tuned_for: float = TUNED_FOR
) -> Interval:
    """The difference of two chances, after - before, from (hits, rows) of each; exact, however the rows are dealt out.

    The fortunes of both arms, as in `share`, are multiplied: a martingale for every pair (p, p + d), in whatever order
    the arms get their rows. A difference d is left out when the smallest product over all p has passed 1/alpha, so the
    interval is the shadow of a convex joint region, about a seventh tighter than two intervals that share alpha. (For
    rows in blocks of fixed size Turner and Grunwald 2023, *Exact anytime-valid confidence intervals for contingency tables
    and beyond*, do better.) Raises `Invalid`.
    """
    _check(alpha, tuned_for, before, after)
    rows = before[1] + after[1]
    if rows == 0:
        return Interval(math.nan, -1.0, 1.0, 0, alpha)
    pairs = [(_Arm(*before, r), _Arm(*after, r)) for r in _concentrations(alpha, 2, tuned_for)]

    def joint(p: float, d: float) -> float:
        return _blended([was(p) + now(p + d) for was, now in pairs])

    def excess(d: float) -> float:
        return _smallest(lambda p: joint(p, d), max(0.0, -d), min(1.0, 1.0 - d)) + math.log(alpha)

    estimate = after[0] / after[1] - before[0] / before[1] if before[1] and after[1] else math.nan
    middle = pairs[0][1].middle - pairs[0][0].middle
    return Interval(estimate, _edge(excess, middle, -1.0), _edge(excess, middle, 1.0), rows, alpha)


def mean(values: ArrayLike, alpha: float = 0.05) -> Interval:
    """The mean of values that lie in 0..1, whatever their distribution; exact.

    Betting: for every m somebody stakes a fixed part of a fortune on rows above m, somebody else on rows below, and both
    fortunes are averages over stakes from small to large (Waudby-Smith and Ramdas 2024, *Estimating means of bounded random
    variables by betting*, the hedged grid Kelly process). Adapts to the variance; the order of the rows does not
    matter. Memory and time grow linearly with rows: 100,000 take about 0.1 s. Raises `Invalid` for values outside 0..1.
    """
    found = np.asarray(values, np.float64).ravel()
    _check(alpha, 1.0)
    if not np.all((found >= 0) & (found <= 1)):
        raise Invalid(f"values from {found.min():g} to {found.max():g}", expected="values in 0..1")
    if found.size == 0:
        return Interval(math.nan, 0.0, 1.0, 0, alpha)
    middle = float(found.mean())
    over = math.log(2 / alpha)
    low = _edge(lambda m: _log_fortune(found, m) - over, middle, 0.0)
    high = 1.0 - _edge(lambda m: _log_fortune(1.0 - found, m) - over, 1.0 - middle, 0.0)
    return Interval(middle, low, max(high, middle), found.size, alpha)


def paired(differences: ArrayLike, alpha: float = 0.05) -> Interval:
    """The mean of differences after - before that lie in -1..1, one per row that both arms answered; exact, by `mean`.
    Raises `Invalid` for differences outside -1..1."""
    found = np.asarray(differences, np.float64).ravel()
    if not np.all(np.abs(found) <= 1):
        raise Invalid(f"differences from {found.min():g} to {found.max():g}", expected="differences in -1..1")
    inner = mean((found + 1) / 2, alpha)
    estimate = float(found.mean()) if found.size else math.nan
    return Interval(estimate, 2 * inner.low - 1, 2 * inner.high - 1, inner.rows, alpha)


def difference(before: Moments, after: Moments, alpha: float = 0.05, tuned_for: float = TUNED_FOR) -> Interval:
    """The difference of two means, after - before, of values without known bounds; holds for large samples.

    Asymptotic confidence sequence (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas 2024, *Time-uniform central limit theory
    and asymptotic confidence sequences*, theorem 2.2), with rows dealt out to the arms side by side in steady shares. It is
    as wide as can be below 30 rows in an arm and while an arm has no variance. Raises `Invalid`.
    """
    _check(alpha, tuned_for)
    rows = before.rows + after.rows
    estimate = after.mean - before.mean if before.rows and after.rows else math.nan
    if min(before.rows, after.rows) < FEWEST or not (before.variance > 0 and after.variance > 0):
        return Interval(estimate, -math.inf, math.inf, rows, alpha)
    error = math.sqrt(before.variance / before.rows + after.variance / after.rows)
    half = error * errors_wide(rows / 2, alpha, 1, tuned_for)
    return Interval(estimate, estimate - half, estimate + half, rows, alpha)


def errors_wide(rows: float, alpha: float, dimensions: int, tuned_for: float = TUNED_FOR) -> float:
    """How many standard errors a confidence sequence reaches to each side when an arm has so many rows: the normal mixture in
    one dimension (`share`, `difference`) or two (`shares`). A single look has 1.96 at alpha 0.05 (Robbins 1970)."""
    time = rows * _tuned_time(alpha, dimensions) / tuned_for
    return math.sqrt((time + 1) / time * (-2 * math.log(alpha) + dimensions * math.log(time + 1)))


def _concentrations(alpha: float, dimensions: int, tuned_for: float) -> list[float]:
    return [tuned_for * part / _tuned_time(alpha, dimensions) for _, part in BLEND]


def _blended(logs: list[float]) -> float:
    """The logarithm of a fortune that was split by `BLEND` at the start; convex where its parts are."""
    top = max(logs)
    if math.isinf(top):
        return top
    return top + math.log(sum(weight * math.exp(x - top) for (weight, _), x in zip(BLEND, logs, strict=True)))


def _tuned_time(alpha: float, dimensions: int) -> float:
    """Rows in units of the mixture's precision at which the sequence is tightest: the fixed point of its derivative."""
    time = 1.0
    for _ in range(_STEPS):
        time = -2 * math.log(alpha) / dimensions + math.log(time + 1)
    return time


class _Arm:
    """The logarithm of the fortune against p, after some hits in some rows; convex in p."""

    def __init__(self, hits: int, rows: int, concentration: float) -> None:
        self.hits, self.misses, self.rows, self.r = hits, rows - hits, rows, concentration
        self.middle = hits / rows if rows else 0.5
        self.constant = math.lgamma(concentration) - math.lgamma(concentration + rows)

    def __call__(self, p: float) -> float:
        return self.constant + self._side(p, self.hits) + self._side(1.0 - p, self.misses)

    def _side(self, p: float, count: int) -> float:
        if count == 0:
            return 0.0
        if p <= 0.0:
            return math.inf
        a = self.r * p
        return math.lgamma(a + count) - math.lgamma(a) - count * math.log(p)


def _log_fortune(values: Floats, m: float) -> float:
    """Of whoever bets on rows above m; falls with m."""
    rows = -(-values.size // _CHUNK)
    away = np.zeros((_CHUNK, rows))
    away.ravel()[: values.size] = values - m
    stakes = np.minimum(_STAKES, _BOLDEST / m) if m > 0 else _STAKES
    logs = [float(np.log(np.multiply.reduce(1.0 + stake * away, axis=0)).sum()) for stake in stakes]
    return float(np.logaddexp.reduce(np.log(_STAKE_WEIGHTS / _STAKE_WEIGHTS.sum()) + logs))


def _edge(excess: Callable[[float], float], inside: float, outside: float) -> float:
    """Where something that grows on the way from `inside` to `outside` passes 0, by the Illinois method (Dowell and Jarratt
    1971) made safe by bisection; errs outwards."""
    a, b = inside, outside
    at_a, at_b = excess(a), excess(b)
    if at_b < 0:
        return outside
    for step in range(_STEPS):
        if abs(b - a) < 1e-7:
            break
        x = (a + b) / 2
        if step % 3 and math.isfinite(at_b):
            guess = b - at_b * (b - a) / (at_b - at_a)
            x = guess if min(a, b) < guess < max(a, b) else x
        at_x = excess(x)
        if at_x < 0:
            a, at_a, at_b = x, at_x, at_b / 2
        else:
            b, at_b, at_a = x, at_x, at_a / 2
    return b


_GOLDEN = (math.sqrt(5) - 1) / 2


def _smallest(convex: Callable[[float], float], low: float, high: float) -> float:
    """The least value of a convex function, by golden section (Kiefer 1953)."""
    x, y = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_x, at_y = convex(x), convex(y)
    while high - low > 1e-6:
        if at_x < at_y:
            high, y, at_y = y, x, at_x
            x = high - _GOLDEN * (high - low)
            at_x = convex(x)
        else:
            low, x, at_x = x, y, at_y
            y = low + _GOLDEN * (high - low)
            at_y = convex(y)
    return min(at_x, at_y)


def _check(alpha: float, tuned_for: float, *arms: tuple[int, int]) -> None:
    if not 0 < alpha < 1 or not tuned_for > 0:
        raise Invalid(f"alpha {alpha:g}, tuned for {tuned_for:g} rows", expected="alpha between 0 and 1, rows above 0")
    for hits, rows in arms:
        if not 0 <= hits <= rows:
            raise Invalid(f"{hits} hits in {rows} rows", expected="0 or more hits, and no more than rows")
