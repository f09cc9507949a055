"""How many rows an experiment needs, before it begins: sample sizes for the intervals of `measure.sequential`.

An effect d is seen once the interval around it leaves out 0. After n rows per arm the estimate lies d / s standard errors
from 0, s = sqrt(v / n), and the interval reaches q(n) of them to each side; so the chance to have seen it is `power` where

    d = (q(n) + z) sqrt(v / n),    z the normal quantile of `power`.

With q = 1.96 this is the sample size of a single look (Fleiss, Levin and Paik 2003, *Statistical methods for rates and
proportions*, chapter 4). With q(n) of a confidence sequence it is the sequential one: an upper bound, as the interval may have
left out 0 earlier, and most experiments on an effect as large as planned end well before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from boucle.core.errors import Invalid
from boucle.measure.sequential import BLEND, TUNED_FOR, errors_wide

Kind = Literal["share", "mean"]
DIMENSIONS: dict[Kind, int] = {"share": 2, "mean": 1}
_STEPS = 200


@dataclass(frozen=True, slots=True)
class Plan:
    """Rows per arm that see an effect with the wanted chance at any look; `single` are those that a test with one look at the
    end would need, `inflation` is what looking at any time costs: rows / single. `seconds` is NaN without a rate."""

    rows: int
    single: int
    inflation: float
    seconds: float


def plan(
    kind: Kind, baseline: float, smallest: float, power: float = 0.8, alpha: float = 0.05, *,
    deviation: float = math.nan, rate: float = math.nan, part: float = 0.5, tuned_for: float = TUNED_FOR,
) -> Plan:  # fmt: skip
    """What an experiment takes that shall see a difference of `smallest`.

    `kind` "share": `baseline` is the chance of a hit now, and `smallest` is added to it. `kind` "mean": `deviation` is the
    standard deviation of a value, and `baseline` does not matter. `rate` is rows per second in all, and `part` the share of
    them that the new revision answers: the smaller arm sets the time. Raises `Invalid`.
    """
    if not 0 < power < 1 or not 0 < alpha < 1:
        raise Invalid(f"power {power:g} at alpha {alpha:g}", expected="both between 0 and 1")
    if not 0 < part < 1 or rate <= 0:
        raise Invalid(f"{rate:g} rows per second, {part:g} of them", expected="a rate above 0, a part between 0 and 1")
    variance = _variance(kind, baseline, smallest, deviation)
    rows = rows_to_see(smallest, math.sqrt(variance), kind, power=power, alpha=alpha, tuned_for=tuned_for)
    z = NormalDist().inv_cdf
    single = math.ceil(variance * ((z(1 - alpha / 2) + z(power)) / smallest) ** 2)
    return Plan(rows, single, rows / single, rows / (rate * min(part, 1 - part)))


def rows_for(
    kind: Kind, baseline: float, smallest: float, power: float = 0.8, alpha: float = 0.05, *, deviation: float = math.nan
) -> int:  # fmt: skip
    """Rows per arm of `plan`."""
    return plan(kind, baseline, smallest, power, alpha, deviation=deviation).rows


def rows_to_see(
    effect: float, error: float, kind: Kind, *, power: float = 0.8, alpha: float = 0.05, tuned_for: float = TUNED_FOR
) -> int:
    """Rows per arm until an effect is seen with a chance of `power`, where `error` is the standard error of the difference
    at one row per arm: sqrt of the sum of both variances. Raises `Invalid` for an effect of 0."""
    if not (abs(effect) > 0 and error >= 0):
        raise Invalid(f"an effect of {effect:g} with error {error:g}", expected="an effect other than 0")
    z, dimensions = NormalDist().inv_cdf(power), DIMENSIONS[kind]
    # Of the two mixtures that `shares` blends, the one for many rows decides here.
    level = alpha * BLEND[0][0] if kind == "share" else alpha

    def reached(log_rows: float) -> bool:
        rows = math.exp(log_rows)
        return error / math.sqrt(rows) * (errors_wide(rows, level, dimensions, tuned_for) + z) <= abs(effect)

    low, high = 0.0, 100.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return math.ceil(math.exp(high))


def _variance(kind: Kind, baseline: float, smallest: float, deviation: float) -> float:
    if kind == "mean":
        if not deviation > 0:
            raise Invalid(f"a standard deviation of {deviation:g}", expected="one above 0, as seen so far")
        return 2 * deviation**2
    if kind != "share":
        raise Invalid(f"a metric of kind {kind!r}", expected="share or mean")
    after = baseline + smallest
    if not (0 <= baseline <= 1 and 0 <= after <= 1 and smallest):
        raise Invalid(
            f"a share of {baseline:g} that changes by {smallest:g}", expected="both shares in 0..1, and a change"
        )
    return baseline * (1 - baseline) + after * (1 - after)
