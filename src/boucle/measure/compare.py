"""Comparing two models on the same rows: the difference, and how sure one can be of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from boucle.core.errors import Invalid
from boucle.measure.scores import HIGHER_IS_BETTER, Predictions, weighted

_CELLS = 4_000_000  # weights held at once: 32 MB
_WORK = 100_000_000  # rows x repeats; past it fewer repeats are drawn, and never fewer than 200


@dataclass(frozen=True, slots=True)
class Comparison:
    """A metric before and after, the difference (after - before) with its interval, and what follows from it.

    `significant`: the interval leaves out 0. `better`: significant, and in the direction that is good for the metric.
    Where the metric is undefined on the rows its numbers are NaN (null in JSON) and both flags are False.
    """

    metric: str
    before: float
    after: float
    difference: float
    low: float
    high: float
    significant: bool
    better: bool

    def to_json(self) -> dict[str, Any]:
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Comparison:
        values: dict[str, Any] = {k: math.nan if v is None else v for k, v in data.items()}
        return cls(**values)


def paired(
    task: str,
    metric: str,
    truth: ArrayLike,
    a: Predictions,
    b: Predictions,
    *,
    confidence: float = 0.95,
    repeats: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compare what two models said about the same rows: `a` is before, `b` is after.

    The interval is the percentile interval of a paired bootstrap over rows: each resample is given to both models, so
    what the rows have in common cancels (Efron and Tibshirani, *An Introduction to the Bootstrap*, 1993, chapter 13).
    Rows are taken to be independent. Resamples on which the metric is undefined are left out; more than 50,000 rows
    get fewer resamples. Raises `NotFound` for a metric the task does not have and `Invalid` for shapes that do not fit
    or a confidence outside 0..1.
    """
    if not 0 < confidence < 1 or repeats < 1:
        raise Invalid(
            f"confidence {confidence} with {repeats} repeats", expected="a confidence between 0 and 1, repeats from 1"
        )
    before, after = weighted(task, metric, truth, a), weighted(task, metric, truth, b)
    rows = np.asarray(truth).shape[0]
    ones = np.ones((1, rows))
    was, now = float(before(ones)[0]), float(after(ones)[0])
    if math.isnan(was) or math.isnan(now):
        return Comparison(metric, was, now, math.nan, math.nan, math.nan, False, False)
    repeats = min(repeats, max(200, _WORK // rows))
    at_once = max(1, _CELLS // rows)
    random = np.random.default_rng(seed)
    differences = []
    for start in range(0, repeats, at_once):
        samples = min(at_once, repeats - start)
        drawn = random.integers(rows, size=(samples, rows)) + np.arange(samples)[:, None] * rows
        weights = np.bincount(drawn.ravel(), minlength=samples * rows).reshape(samples, rows).astype(np.float64)
        differences.append(after(weights) - before(weights))
    found = np.concatenate(differences)
    found = found[np.isfinite(found)]
    tail = (1 - confidence) / 2
    low, high = (float(q) for q in np.quantile(found, [tail, 1 - tail])) if found.size else (math.nan, math.nan)
    significant = low > 0 or high < 0
    better = significant and ((now > was) == HIGHER_IS_BETTER[metric])
    return Comparison(metric, was, now, now - was, low, high, significant, better)
