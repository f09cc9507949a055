"""Target: what kind of answer a column asks for, and its classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from boucle.core.errors import Invalid
from boucle.core.schema import FLOATS, INTEGERS

if TYPE_CHECKING:
    import pandas as pd

LEAST_ROWS = 20
_MOST_CLASSES = 300
_AFFIRMATIVE = {
    "yes", "y", "true", "t", "1", "1.0", "positive", "pos", "spam", "fraud", "churn", "churned", "failure", "failed",
    "default", "bad", "attack", "anomaly", "abnormal", "malignant", "malicious",
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """A target read: its task, and `answer`, the position of each row's class in `classes` or the number to predict."""

    name: str
    task: str
    answer: NDArray[Any]
    findings: tuple[str, ...]
    classes: tuple[Any, ...] = ()
    positive: Any = None
    imbalance: float = 1.0
    counts: bool = False

    @property
    def signal(self) -> NDArray[np.float64]:
        """One number per row that rises with the answer: 1 for the positive class, or the number itself."""
        if self.task == "binary":
            return np.asarray(self.answer == self.classes.index(self.positive), dtype=np.float64)
        return np.asarray(self.answer, dtype=np.float64)


def read(values: pd.Series, type_: str, name: str, task: str | None) -> Target:
    """What a target without nulls asks for. Raises `Invalid` when nothing can be learned from it."""
    if len(values) < LEAST_ROWS:
        raise Invalid(
            f"only {len(values)} rows have a value of {name!r}",
            expected=f"at least {LEAST_ROWS}",
            fix="collect more rows with known outcomes",
        )
    if type_ not in {"bool", "string", "decimal", *INTEGERS, *FLOATS}:
        raise Invalid(
            f"the target {name!r} is of type {type_}",
            expected="classes (strings, booleans, whole numbers) or numbers",
            fix="derive a class or a number from it first",
        )
    distinct = int(values.nunique())
    if distinct < 2:
        raise Invalid(
            f"the target {name!r} is {values.iloc[0]!s} in every row",
            expected="two different values or more",
            fix="check the filter the table was made with, or choose another target",
        )
    found, why = _infer(values, type_, distinct) if task is None else (task, "as asked for")
    return _numbers(values, name, why) if found == "regression" else _labels(values, name, found, why)


def _infer(values: pd.Series, type_: str, distinct: int) -> tuple[str, str]:
    if distinct == 2:
        return "binary", "it has two values"
    if type_ in {"bool", "string"}:
        return "multiclass", f"it has {distinct} different values that are not numbers"
    numbers = values.to_numpy(dtype=np.float64)
    if np.any(numbers != np.round(numbers)):
        return "regression", "it has values with fractions"
    if distinct > 20 or len(values) < 10 * distinct:
        return "regression", f"it has {distinct} different whole numbers"
    levels, sizes = np.unique(numbers, return_counts=True)
    tail = sizes[int(np.argmax(sizes)) :]
    falling = bool(np.all(np.diff(tail) <= 0)) and np.argmax(sizes) <= 2 and sizes[-1] <= 0.1 * sizes.max()
    if levels[0] == 0 and distinct >= 5 and falling:
        return (
            "regression",
            f"it has {distinct} whole numbers from 0 that get rarer as they grow, so it counts something",
        )
    return "multiclass", f"it has {distinct} different whole numbers, few enough to be classes"


def _numbers(values: pd.Series, name: str, why: str) -> Target:
    try:
        answer = values.to_numpy(dtype=np.float64)
    except ValueError:
        raise Invalid(
            f"the target {name!r} has values that are not numbers, such as {values.iloc[0]!r}",
            expected="numbers for a regression",
            fix="leave the task out to predict classes",
        ) from None
    findings = [f"The task is regression: predict the number {name!r} ({why})."]
    counts = _counts(answer)
    if counts:
        findings.append(f"{name!r} is a count (whole, never negative, skewed): models minimise the Poisson deviance.")
    return Target(name, "regression", answer, tuple(findings), counts=counts)


def _counts(answer: NDArray[np.float64]) -> bool:
    whole = bool(np.all(answer == np.round(answer))) and answer.min() >= 0
    return bool(
        whole and answer.max() <= 100_000 and answer.mean() > np.median(answer) and answer.var() > answer.mean()
    )


def _labels(values: pd.Series, name: str, task: str, why: str) -> Target:
    levels, answer, sizes = np.unique(values.to_numpy(), return_inverse=True, return_counts=True)
    classes: tuple[Any, ...] = tuple(levels.tolist())
    if len(classes) > min(_MOST_CLASSES, len(values) / 2):
        raise Invalid(
            f"the target {name!r} has {len(classes)} different values in {len(values)} rows",
            expected=f"at most {_MOST_CLASSES} classes that come back",
            fix="group rare classes into one, or choose another target",
        )
    if task == "binary" and len(classes) != 2:
        raise Invalid(f"the target {name!r} has {len(classes)} classes", expected="two for a binary task")
    rare = [c for c, size in zip(classes, sizes, strict=True) if size < 2]
    if rare:
        raise Invalid(
            f"{len(rare)} classes of {name!r} have one row, such as {rare[0]!r}",
            expected="two rows or more of each class",
            fix="remove these rows, or group rare classes into one",
        )
    kind = "binary" if len(classes) == 2 else "multiclass"
    imbalance = float(sizes.max() / sizes.min())
    findings = [f"The task is {kind} classification: predict {name!r}, one of {len(classes)} classes ({why})."]
    positive = _positive(classes, sizes) if kind == "binary" else None
    if kind == "binary":
        share = sizes[classes.index(positive)] / len(values)
        findings.append(f"The positive class is {positive!r}, {share:.1%} of the rows.")
    elif imbalance >= 2:
        findings.append(f"The largest class has {imbalance:.0f} times as many rows as the smallest.")
    return Target(name, kind, answer, tuple(findings), classes, positive, imbalance)


def _positive(classes: tuple[Any, ...], sizes: NDArray[np.int64]) -> Any:
    said = [c for c in classes if str(c).strip().lower() in _AFFIRMATIVE]
    numeric = all(isinstance(c, bool | int | float) for c in classes)
    if len(said) == 1 and not (numeric and float(classes[0]) not in (0.0, -1.0)):
        return said[0]
    return classes[0] if sizes[0] < sizes[1] else classes[1]
