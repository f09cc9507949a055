"""How good a classifier is likely to be on rows without labels, by its own probabilities: an estimate, not a measurement.

A model that says 80 % and is right in 80 % of such cases has an expected accuracy of 80 % there. So probabilities are made
honest first, on labelled rows that the model has not seen (binned, and isotonic: Zadrozny and Elkan 2002), and then the
expected table of truth against answer is summed up (confidence-based estimation: Guo et al. 2017 on calibration; Garg et
al. 2022 and Kivimaki et al. 2024 on estimating by confidence). It sees inputs move to where the model is less sure. It cannot
see that the world now answers differently to the same inputs: for that there is `measure.concept`, and labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boucle.core.errors import Invalid
from boucle.measure.scores import score

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

BINS = 50  # of the probability
LEAST = 50  # rows of an estimate
NOTE = "an estimate, not a measurement"
_DRAWS = 400
_TAILS = (0.01, 0.99)  # not 2.5 %: the steps of an isotonic curve are surer of themselves than they should be


@dataclass(frozen=True, slots=True)
class Estimate:
    """What scores are likely to be over the last `rows` rows: `scores` has (value, low, high) for each, an interval of 95 %
    that covers which labels will come and how well the calibration is known. `measured` are those on the rows that were kept
    back. Where there is none, `sentence` says why."""

    sentence: str
    rows: int = 0
    calibrated: bool = False
    scores: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    measured: dict[str, float] = field(default_factory=dict)
    note: str = NOTE

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """How often a model was right, by what it said: of shape (2, BINS) `rows` and `hits`.

    For two classes the bins are of the probability of `positive`, the first row where another class was answered and the
    second where this one was, and a hit is a row that is positive. For more classes the bins are of the probability of the
    answer, all in the second row, and a hit is a right answer. Without labelled rows all is 0 and probabilities are taken as
    they are."""

    classes: tuple[str, ...]
    positive: str = ""
    rows: Counts = field(default_factory=lambda: np.zeros((2, BINS), np.int64))
    hits: Counts = field(default_factory=lambda: np.zeros((2, BINS), np.int64))
    measured: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        classes: Sequence[Any],
        said: Sequence[Any] = (),
        probabilities: Any = None,
        truth: Sequence[Any] = (),
        positive: Any = None,
    ) -> Calibration:
        """From labelled rows: answers and truth of shape (rows,), probabilities of shape (rows, classes). Raises `Invalid` for
        shapes that do not fit."""
        names = tuple(map(str, classes))
        if len(names) < 2 or len(said) != len(truth):
            raise Invalid(f"{len(names)} classes, {len(said)} answers, {len(truth)} labels", expected="as many labels")
        target = str(positive) if positive is not None and str(positive) in names else names[-1]
        empty = cls(names, target if len(names) == 2 else "")
        if not len(said):
            return empty
        answers, real = [str(v) for v in said], [str(v) for v in truth]
        shares = np.asarray(probabilities, np.float64)
        rows = empty.counted(answers, shares)
        right = np.array([t == (target if empty.positive else a) for t, a in zip(real, answers, strict=True)])
        hits = empty.counted([a for a, r in zip(answers, right, strict=True) if r], shares[right])
        task = "binary" if empty.positive else "multiclass"
        found = score(task, real, answers, shares, names, positive=target if empty.positive else None)
        return cls(names, empty.positive, rows, hits, {n: found[n] for n in _names(empty) if n in found})

    def counted(self, said: Sequence[Any], probabilities: Floats) -> Counts:
        """Rows of traffic as counts of shape (2, BINS), which add up; rows without probabilities are left out."""
        shares = np.asarray(probabilities, np.float64).reshape(len(said), len(self.classes))
        places = {name: i for i, name in enumerate(self.classes)}
        answer = np.array([places.get(str(v), -1) for v in said], np.int64)
        if self.positive:
            where = places[self.positive]
            row, share = (answer == where).astype(np.int64), shares[:, where]
        else:
            row, share = np.ones(len(said), np.int64), shares[np.arange(len(said)), answer]
        known = (answer >= 0) & np.isfinite(share)
        bins = np.minimum((np.clip(share[known], 0, 1) * BINS).astype(np.int64), BINS - 1)
        return np.bincount(row[known] * BINS + bins, minlength=2 * BINS).reshape(2, BINS)

    def to_json(self) -> dict[str, Any]:
        return {
            "classes": list(self.classes), "positive": self.positive, "rows": self.rows.tolist(),
            "hits": self.hits.tolist(), "measured": dict(self.measured),
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Calibration:
        rows, hits = (np.array(data[k], np.int64) for k in ("rows", "hits"))
        return cls(tuple(data["classes"]), data["positive"], rows, hits, data["measured"])


def estimate(calibration: Calibration, counts: Counts, *, seed: int = 0) -> Estimate:
    """Expected scores of the rows counted by `Calibration.counted`: accuracy, and for two classes also precision, recall, F1 and
    ROC AUC (to the width of a bin)."""
    rows = int(counts.sum())
    if rows < LEAST:
        return Estimate(f"too few rows with probabilities: {rows} of {LEAST}", rows)
    random = np.random.default_rng(seed)
    known = calibration.rows.sum(axis=0)
    hits = calibration.hits.sum(axis=0)
    middle = (np.arange(BINS) + 0.5) / BINS
    calibrated = bool(known.sum())
    # One row at the face value of its bin goes to each, so that an empty bin has a value.
    shares = _rising((hits + middle) / (known + 1), known + 1.0) if calibrated else middle
    expected = _scores(calibration, counts, shares * counts)
    drawn = []
    for _ in range(_DRAWS):
        lifted = middle
        if calibrated:
            lifted = _rising((random.binomial(known, shares) + middle) / (known + 1), known + 1.0)
        drawn.append(_scores(calibration, counts, random.binomial(counts, np.clip(lifted, 0, 1)).astype(np.float64)))
    scores = {}
    for name, value in expected.items():
        low, high = np.nanquantile([d[name] for d in drawn], _TAILS)
        scores[name] = (float(value), float(min(low, value)), float(max(high, value)))
    how = (
        "calibrated on rows that were kept back"
        if calibrated
        else "from raw probabilities, as no labelled rows were kept"
    )
    return Estimate(f"{NOTE}: {how}", rows, calibrated, scores, dict(calibration.measured))


def _rising(values: Floats, weights: Floats) -> Floats:
    from scipy.optimize import isotonic_regression

    return np.asarray(isotonic_regression(values, weights=weights).x)


def _names(calibration: Calibration) -> tuple[str, ...]:
    return ("accuracy", "precision", "recall", "f1", "roc_auc") if calibration.positive else ("accuracy",)


def _scores(calibration: Calibration, counts: Counts, hits: Floats) -> dict[str, float]:
    total = counts.sum()
    if not calibration.positive:
        return {"accuracy": float(hits.sum() / total)}
    negatives, positives = counts.sum(axis=0) - hits.sum(axis=0), hits.sum(axis=0)
    true, said, real = hits[1].sum(), counts[1].sum(), positives.sum()
    lower = np.cumsum(negatives) - negatives / 2
    ranked = float((positives * lower).sum())
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {
            "accuracy": (true + counts[0].sum() - hits[0].sum()) / total,
            "precision": true / said if said else np.float64(0.0),
            "recall": true / real,
            "f1": 2 * true / (said + real),
            "roc_auc": ranked / (real * negatives.sum()),
        }
    return {name: float(value) for name, value in found.items()}
