"""Leaks: columns that hold the answer, so that a model of them would be right here and useless later."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from boucle.measure.scores import score
from boucle.ml.tabular.columns import Column
from boucle.ml.tabular.target import Target

_NEARLY_ALL = 0.99  # of the mistakes the best constant guess makes
_SURE = 500  # rows from which a number that alone parts two classes is taken for a leak


def leaks(columns: Mapping[str, Column], target: Target) -> dict[str, str]:
    """The columns that give the target away, each with the reason.

    A value that stands for one class each (or for one number) in at least ten rows on average; a number that alone
    parts two classes; flags that are never set without the positive class and together cover it; numbers the target is
    an exact linear combination of.
    """
    found: dict[str, str] = {}
    for name, column in columns.items():
        if column.kind in {"number", "category"}:
            reason = _alone(column, target)
            if reason:
                found[name] = reason
    rest = {n: c for n, c in columns.items() if n not in found and c.kind == "number"}
    if target.task == "regression":
        found |= _components(rest, target)
    elif target.task == "binary":
        found |= _flags(rest, target)
    return found


def _alone(column: Column, target: Target) -> str:
    known = column.codes >= 0
    repeated = column.distinct <= known.sum() / 10
    if target.task == "regression":
        y = target.answer[known]
        if repeated and _between(column.codes[known], y) > 1 - 1e-12:
            return f"has one {target.name!r} for each of its values, so it gives the target away"
        if column.kind == "number" and abs(_correlation(column.numbers[known], y)) > 1 - 1e-9:
            return f"is {target.name!r} itself, up to scale"
        return ""
    if repeated:
        classes = len(target.classes)
        cells = np.bincount(column.codes[known] * classes + target.answer[known], minlength=column.distinct * classes)
        table = cells.reshape(column.distinct, classes)
        guessed = known.sum() - table.sum(axis=0).max()
        missed = known.sum() - table.max(axis=1).sum()
        covers = known.sum() >= 0.5 * len(known)
        if covers and guessed and missed <= (1 - _NEARLY_ALL) * guessed:  # Goodman and Kruskal's lambda (1954)
            same = missed == 0 and column.distinct == classes
            return (
                f"{'is one-to-one with' if same else 'all but determines'} {target.name!r}, so it gives the target away"
            )
    if target.task == "binary" and column.kind == "number" and known.sum() >= _SURE:
        area = _auc(column.numbers, target)
        if area > 0.9999:
            return f"alone tells the classes of {target.name!r} apart (ROC AUC {area:.4f})"
    return ""


def _between(codes: NDArray[np.int64], y: NDArray[np.float64]) -> float:
    centred = y - y.mean()
    total = float(centred @ centred)
    sums, sizes = np.bincount(codes, weights=centred), np.bincount(codes)
    return float((sums**2 / np.maximum(sizes, 1)).sum()) / total if total else 0.0


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    both = np.isfinite(x)
    if both.sum() < 10 or np.ptp(x[both]) == 0 or np.ptp(y[both]) == 0:
        return 0.0
    return float(np.corrcoef(x[both], y[both])[0, 1])


def _auc(x: NDArray[np.float64], target: Target) -> float:
    both = np.isfinite(x)
    found = score("binary", target.signal[both], x[both] > 0, x[both], (0.0, 1.0))
    area = found.get("roc_auc", 0.5)
    return max(area, 1 - area)


def _flags(columns: Mapping[str, Column], target: Target) -> dict[str, str]:
    positive = target.signal == 1
    flags = {}
    for name, column in columns.items():
        if column.distinct == 2 and not column.nulls:
            on = column.numbers == np.max(column.numbers)
            if on.sum() >= 10 and bool(np.all(positive[on])):
                flags[name] = on
    if not flags or np.any(list(flags.values()), axis=0).sum() < 0.9 * positive.sum():
        return {}
    return dict.fromkeys(
        flags, f"is never set unless {target.name!r} is {target.positive!r}: a part of the target, not a cause of it"
    )


def _components(columns: Mapping[str, Column], target: Target) -> dict[str, str]:
    names = [n for n, c in columns.items() if c.nulls <= 0.1 * len(c.codes)]
    if not names:
        return {}
    rows = np.random.default_rng(0).permutation(len(target.answer))[:5_000]
    x = np.column_stack([columns[n].numbers[rows] for n in names])
    whole = np.isfinite(x).all(axis=1)
    x, y = x[whole], target.answer[rows][whole]
    varies = np.ptp(x, axis=0) > 0 if len(x) else np.zeros(len(names), dtype=bool)
    x, names = x[:, varies], [n for n, v in zip(names, varies, strict=True) if v]
    if not names or len(y) < 3 * len(names) + 20 or np.ptp(y) == 0:
        return {}
    x, y = (x - x.mean(axis=0)) / x.std(axis=0), (y - y.mean()) / y.std()
    left = list(range(len(names)))
    if not _exact(x, y):
        return {}
    for i in range(len(names)):  # the fewest columns that still give the target exactly
        without = [j for j in left if j != i]
        if without and _exact(x[:, without], y):
            left = without
    parts = [names[i] for i in left]
    said = " and ".join(map(repr, parts))
    return dict.fromkeys(parts, f"makes up {target.name!r} exactly ({said} add up to it, with fixed weights)")


def _exact(x: NDArray[np.float64], y: NDArray[np.float64]) -> bool:
    weights = np.linalg.lstsq(x, y, rcond=None)[0]
    return bool(np.max(np.abs(x @ weights - y)) < 1e-6)


def strongest(columns: Mapping[str, Column], target: Target) -> tuple[str, float] | None:
    """The number column that alone orders the two classes best, and its ROC AUC; None for other tasks or columns."""
    if target.task != "binary":
        return None
    found = {n: _auc(c.numbers, target) for n, c in columns.items() if c.kind == "number" and c.distinct > 2}
    return max(found.items(), key=lambda item: item[1]) if found else None
