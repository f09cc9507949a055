"""Scores: how good predictions are, as plain numbers.

Every metric is written once, over weights of the rows: all ones give the score itself, resampled counts give the
bootstrap of `boucle.measure.compare`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from boucle.core.errors import Invalid, NotFound

Floats = NDArray[np.float64]
Weighted = Callable[[Floats], Floats]  # weights (samples, rows) -> the metric of each sample, NaN where undefined

TASKS = ("binary", "multiclass", "regression")

HIGHER_IS_BETTER: dict[str, bool] = {
    "roc_auc": True,
    "average_precision": True,
    "log_loss": False,
    "brier": False,
    "f1": True,
    "precision": True,
    "recall": True,
    "macro_f1": True,
    "accuracy": True,
    "balanced_accuracy": True,
    "top_5_accuracy": True,
    "rmse": False,
    "mae": False,
    "r2": True,
    "median_ae": False,
    "mape": False,
}

METRICS: dict[str, tuple[str, ...]] = {
    "binary": (
        "roc_auc", "average_precision", "log_loss", "brier", "f1", "precision", "recall", "accuracy",
        "balanced_accuracy",
    ),
    "multiclass": ("macro_f1", "accuracy", "balanced_accuracy", "log_loss", "top_5_accuracy"),
    "regression": ("rmse", "mae", "r2", "median_ae", "mape"),
}  # fmt: skip

RARE = 5.0  # from this many majority rows per minority row on, ROC AUC flatters and average precision is read


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """What a model said: a value per row and, for classifiers that give them, probabilities of shape (rows, classes).

    `classes` names the columns of `probabilities`; `positive` is the class that binary metrics look for (the last of
    `classes` when not given). Probabilities of shape (rows,) are those of the positive class.
    """

    values: ArrayLike
    probabilities: ArrayLike | None = None
    classes: Sequence[Any] = ()
    positive: Any = None


def primary(task: str, imbalance: float = 1.0) -> str:
    """The one metric to choose models by; `imbalance` is rows of the largest class per row of the smallest.

    Binary: ROC AUC, or average precision when the positive class is rare (Saito and Rehmsmeier, 2015). Multiclass:
    accuracy, or macro F1 when the classes differ in size. Regression: RMSE. Raises `NotFound` for another task.
    """
    if task == "binary":
        return "average_precision" if imbalance >= RARE else "roc_auc"
    if task == "multiclass":
        return "macro_f1" if imbalance >= 2 else "accuracy"
    if task == "regression":
        return "rmse"
    raise NotFound.named("task", task, TASKS)


def score(
    task: str,
    truth: ArrayLike,
    prediction: ArrayLike,
    probabilities: ArrayLike | None = None,
    classes: Sequence[Any] | None = None,
    *,
    positive: Any = None,
) -> dict[str, float]:
    """All metrics of a task that are defined on these rows.

    `truth` and `prediction` have shape (rows,); `probabilities`, `classes` and `positive` are as in `Predictions`.
    A metric without a meaning here is left out: those of probabilities without probabilities, ROC AUC and balanced
    accuracy when `truth` has one class, average precision and recall without a positive row, F1 without a positive in
    `truth` and `prediction`, R2 of constant truth, MAPE when a true value is 0, top 5 of ten classes or fewer.
    Precision is 0 when nothing was predicted positive. Raises `Invalid` for shapes that do not fit or no rows.
    """
    said = Predictions(prediction, probabilities, tuple(classes or ()), positive)
    ones = np.ones((1, np.asarray(truth).shape[0]))
    found = {name: float(weighted(task, name, truth, said)(ones)[0]) for name in _metrics(task)}
    return {name: value for name, value in found.items() if np.isfinite(value)}


def weighted(task: str, metric: str, truth: ArrayLike, said: Predictions) -> Weighted:
    """The metric as a function of row weights of shape (samples, rows), giving (samples,) with NaN where undefined.

    Raises `NotFound` for a metric the task does not have, `Invalid` for shapes that do not fit or no rows.
    """
    if metric not in _metrics(task):
        raise NotFound.named(f"{task} metric", metric, METRICS[task])
    actual, values = np.asarray(truth), np.asarray(said.values)
    if actual.ndim != 1 or actual.shape != values.shape or not actual.size:
        raise Invalid(
            f"truth has shape {actual.shape} and the prediction {values.shape}",
            expected="two columns of the same length with at least one row",
        )
    if task == "regression":
        return _regression(metric, actual.astype(np.float64), values.astype(np.float64))
    return _classification(task, metric, actual.tolist(), values.tolist(), said)


def _metrics(task: str) -> tuple[str, ...]:
    if task not in METRICS:
        raise NotFound.named("task", task, TASKS)
    return METRICS[task]


def _classification(task: str, metric: str, truth: list[Any], values: list[Any], said: Predictions) -> Weighted:
    labels = _labels(truth, values, said.classes)
    index = {label: i for i, label in enumerate(labels)}
    actual = np.array([index[v] for v in truth])
    guess = np.array([index[v] for v in values])
    if metric in {"accuracy", "balanced_accuracy", "macro_f1"}:
        return _confusion(metric, actual, guess, len(labels))
    positive = said.positive if said.positive is not None else (said.classes[-1] if said.classes else labels[-1])
    if metric in {"f1", "precision", "recall"}:
        wanted = index.get(positive, len(labels))
        return _positives(metric, actual == wanted, guess == wanted)
    if said.probabilities is None:
        return _undefined
    chance = np.asarray(said.probabilities, dtype=np.float64)
    if chance.ndim == 2 and chance.shape != (len(truth), len(said.classes)):
        raise Invalid(
            f"probabilities have shape {chance.shape}",
            expected=f"({len(truth)}, {len(said.classes)}): a row per prediction and a column per class",
        )
    columns = {label: i for i, label in enumerate(said.classes)}
    if task == "multiclass":
        at = np.array([columns.get(v, -1) for v in truth])
        own = np.where(at >= 0, chance[np.arange(len(at)), at], 0.0)
        if metric == "log_loss":
            return _mean(-np.log(np.maximum(own, np.finfo(np.float64).eps)))
        if len(said.classes) <= 10:
            return _undefined
        return _mean(((chance > own[:, None]).sum(axis=1) < 5).astype(np.float64) * (at >= 0))
    hit = np.array([v == positive for v in truth])
    if chance.ndim == 2:
        chance = chance[:, columns[positive]] if positive in columns else np.zeros(len(truth))
    if metric == "brier":
        return _mean((chance - hit) ** 2)
    if metric == "log_loss":
        return _mean(-np.log(np.maximum(np.where(hit, chance, 1 - chance), np.finfo(np.float64).eps)))
    return _ranking(metric, hit, chance)


def _labels(truth: list[Any], values: list[Any], classes: Sequence[Any]) -> list[Any]:
    seen = dict.fromkeys([*classes, *truth, *values])
    if classes:
        return list(seen)
    try:
        return sorted(seen)
    except TypeError as error:
        raise Invalid(
            f"truth and prediction hold different types of values: {error}", expected="labels of one type"
        ) from error


def _undefined(weights: Floats) -> Floats:
    return np.full(len(weights), np.nan)


def _mean(values: Floats) -> Weighted:
    return lambda weights: np.asarray(weights @ values / weights.sum(axis=1))


def _ratio(above: Floats, below: Floats, otherwise: float = np.nan) -> Floats:
    out: Floats = np.divide(above, below, out=np.full(np.shape(above), otherwise), where=below != 0)
    return out


def _positives(metric: str, actual: NDArray[np.bool_], guess: NDArray[np.bool_]) -> Weighted:
    def of(weights: Floats) -> Floats:
        both, true, said = weights @ (actual & guess), weights @ actual, weights @ guess
        if metric == "precision":
            return _ratio(both, said, 0.0)
        return _ratio(both, true) if metric == "recall" else _ratio(2 * both, true + said)

    return of


def _confusion(metric: str, actual: NDArray[np.int64], guess: NDArray[np.int64], classes: int) -> Weighted:
    if metric == "accuracy":
        return _mean((actual == guess).astype(np.float64))
    # Rows with the same truth and prediction are one cell, so a sample costs cells x classes and not rows x classes.
    cells, row_cell = np.unique(actual * classes + guess, return_inverse=True)
    order = np.argsort(row_cell, kind="stable")
    starts = np.searchsorted(row_cell[order], np.arange(len(cells)))
    truth_of = np.eye(classes)[cells // classes]
    guess_of = np.eye(classes)[cells % classes]

    def of(weights: Floats) -> Floats:
        counts = np.add.reduceat(weights[:, order], starts, axis=1)
        right, true, said = counts @ (truth_of * guess_of), counts @ truth_of, counts @ guess_of
        if metric == "balanced_accuracy":
            present = true > 0
            mean = _ratio(_ratio(right, true, 0.0).sum(axis=1), present.sum(axis=1).astype(np.float64))
            return np.where(present.sum(axis=1) > 1, mean, np.nan)
        present = true + said > 0
        return _ratio(_ratio(2 * right, true + said, 0.0).sum(axis=1), present.sum(axis=1).astype(np.float64))

    return of


def _ranking(metric: str, hit: NDArray[np.bool_], chance: Floats) -> Weighted:
    order = np.argsort(-chance, kind="stable")
    ranked = chance[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])  # rows with the same chance share one threshold
    true, false = hit[order].astype(np.float64), (~hit[order]).astype(np.float64)

    def of(weights: Floats) -> Floats:
        sorted_weights = weights[:, order]
        right = np.add.reduceat(sorted_weights * true, starts, axis=1)
        wrong = np.add.reduceat(sorted_weights * false, starts, axis=1)
        above_right, above_wrong = right.cumsum(axis=1), wrong.cumsum(axis=1)
        if metric == "average_precision":
            precision = _ratio(above_right, above_right + above_wrong, 0.0)
            return _ratio((right * precision).sum(axis=1), above_right[:, -1])
        pairs = (wrong * (above_right - right / 2)).sum(axis=1)
        return _ratio(pairs, above_right[:, -1] * above_wrong[:, -1])

    return of


def _regression(metric: str, truth: Floats, values: Floats) -> Weighted:
    miss = np.abs(truth - values)
    if metric == "mae":
        return _mean(miss)
    if metric == "rmse":
        squares = _mean(miss**2)
        return lambda weights: np.sqrt(squares(weights))
    if metric == "mape":
        return _mean(miss / np.abs(truth)) if np.all(truth != 0) else _undefined
    if metric == "median_ae":
        order = np.argsort(miss)

        def median(weights: Floats) -> Floats:
            below, ranked = weights[:, order].cumsum(axis=1), miss[order]
            half = below[:, -1:] / 2
            middle = ranked[np.argmax(below >= half, axis=1)] + ranked[np.argmax(below > half, axis=1)]
            return np.asarray(middle / 2)

        return median
    centred = truth - truth.mean()

    def r2(weights: Floats) -> Floats:
        spread = weights @ centred**2 - (weights @ centred) ** 2 / weights.sum(axis=1)
        spread = np.where(spread > 1e-12 * weights.sum(axis=1) * max(float(np.square(truth).mean()), 1e-300), spread, 0)
        return 1 - _ratio(weights @ miss**2, spread)

    return r2
