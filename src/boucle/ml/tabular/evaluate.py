"""Evaluate: what a chosen model is worth on rows it has not seen, and the whole story in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boucle.core.frames import Frame
from boucle.measure.compare import Comparison, paired
from boucle.measure.scores import HIGHER_IS_BETTER, Predictions
from boucle.ml.tabular.fit import Fitted, answer, inputs, measure
from boucle.ml.tabular.split import Parts
from boucle.ml.tabular.study import Study


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Metrics on the test rows, those of the baseline, and what follows.

    `confusion[i][j]` counts rows of class `classes[i]` predicted as `classes[j]`; `per_class` has precision, recall, f1
    and rows for each class; `residuals` (truth - prediction) has mean, std and quantiles, for regressions only.
    """

    task: str
    primary: str
    rows: int
    metrics: dict[str, float]
    baseline: dict[str, float]
    comparison: Comparison | None
    classes: tuple[Any, ...]
    confusion: tuple[tuple[int, ...], ...]
    per_class: tuple[dict[str, Any], ...]
    residuals: dict[str, float]
    verdict: str

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "comparison": self.comparison.to_json() if self.comparison else None,
            "classes": list(self.classes),
            "confusion": [list(row) for row in self.confusion],
            "per_class": [dict(row) for row in self.per_class],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Evaluation:
        compared = data["comparison"]
        typed = {
            "comparison": Comparison.from_json(compared) if compared else None,
            "classes": tuple(data["classes"]),
            "confusion": tuple(tuple(row) for row in data["confusion"]),
            "per_class": tuple(dict(row) for row in data["per_class"]),
        }
        return cls(**{**data, **typed})


def evaluate(estimator: Any, test: Frame, study: Study, baseline: Any = None) -> Evaluation:
    """Judge a fitted estimator on rows that were kept back, against a fitted `baseline` estimator when there is one.

    `test` holds the study's features and its target. The comparison is the paired bootstrap of `measure.compare` on the
    primary metric, at 95 %.
    """
    data, truth = inputs(test, study), test.pandas([study.target])[study.target].to_numpy()
    said = answer(estimator, data, study)
    metrics = measure(truth, said, study)
    before: dict[str, float] = {}
    comparison = None
    if baseline is not None:
        guessed = answer(baseline, data, study)
        before = measure(truth, guessed, study)
        comparison = paired(study.task, study.primary, truth, guessed, said)
    confusion: tuple[tuple[int, ...], ...] = ()
    per_class: tuple[dict[str, Any], ...] = ()
    residuals: dict[str, float] = {}
    if study.classes:
        confusion = _confusion(truth, said, study.classes)
        per_class = _per_class(confusion, study.classes)
    else:
        residuals = _residuals(truth, said)
    return Evaluation(
        task=study.task,
        primary=study.primary,
        rows=len(truth),
        metrics=metrics,
        baseline=before,
        comparison=comparison,
        classes=study.classes,
        confusion=confusion,
        per_class=per_class,
        residuals=residuals,
        verdict=_verdict(study, metrics, comparison, len(truth)),
    )


def _confusion(truth: NDArray[Any], said: Predictions, classes: Sequence[Any]) -> tuple[tuple[int, ...], ...]:
    index = {c: i for i, c in enumerate(classes)}
    known = [
        (index[t], index[p])
        for t, p in zip(truth.tolist(), np.asarray(said.values).tolist(), strict=True)
        if t in index
    ]
    table = np.zeros((len(classes), len(classes)), dtype=int)
    np.add.at(table, tuple(np.array(known).T), 1)
    return tuple(tuple(row) for row in table.tolist())


def _per_class(confusion: tuple[tuple[int, ...], ...], classes: Sequence[Any]) -> tuple[dict[str, Any], ...]:
    table = np.array(confusion)
    right, true, said = np.diag(table), table.sum(axis=1), table.sum(axis=0)
    return tuple(
        {
            "class": label,
            "rows": int(true[i]),
            "precision": float(right[i] / said[i]) if said[i] else 0.0,
            "recall": float(right[i] / true[i]) if true[i] else 0.0,
            "f1": float(2 * right[i] / (true[i] + said[i])) if true[i] + said[i] else 0.0,
        }
        for i, label in enumerate(classes)
    )


def _residuals(truth: NDArray[Any], said: Predictions) -> dict[str, float]:
    left = truth.astype(np.float64) - np.asarray(said.values, dtype=np.float64)
    levels = {"p05": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95}
    return {
        "mean": float(left.mean()),
        "std": float(left.std()),
        **{name: float(np.quantile(left, q)) for name, q in levels.items()},
    }


def _verdict(study: Study, metrics: Mapping[str, float], comparison: Comparison | None, rows: int) -> str:
    name = study.primary
    if name not in metrics:
        return f"{_WORDS[name]} has no meaning on these {rows:,} rows: they do not show every class."
    said = f"{_WORDS[name]} is {metrics[name]:.4g} on {rows:,} rows the model had not seen"
    if comparison is None:
        return f"{said}."
    spread = f"{comparison.before:.4g} for the baseline (difference {comparison.difference:+.4g}"
    spread += f", 95 % between {comparison.low:+.4g} and {comparison.high:+.4g})"
    if comparison.better:
        return f"{said}, against {spread}: the model is better than guessing, and not by chance."
    if comparison.significant:
        return f"{said}, against {spread}: the model is worse than guessing and must not be used."
    return f"{said}, against {spread}: it cannot be told from guessing."


_WORDS = {
    "roc_auc": "ROC AUC",
    "average_precision": "Average precision",
    "log_loss": "Log loss",
    "brier": "Brier score",
    "f1": "F1",
    "precision": "Precision",
    "recall": "Recall",
    "macro_f1": "Macro F1",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "top_5_accuracy": "Top-5 accuracy",
    "rmse": "RMSE",
    "mae": "MAE",
    "r2": "R2",
    "median_ae": "Median absolute error",
    "mape": "MAPE",
}


def explain(study: Study, parts: Parts, candidates: Sequence[Fitted], chosen: Fitted, evaluation: Evaluation) -> str:
    """What was done and what came out, in plain words (Markdown)."""
    lines = [f"# A model of `{study.target}`", "", evaluation.verdict, "", "## What was found in the data", ""]
    lines += [f"- {finding}" for finding in study.findings]
    lines += ["", f"{len(study.features)} columns are used: {_columns(study)}.", "", "## How it was tested", ""]
    lines.append(
        f"{len(parts.train):,} rows trained the model and {len(parts.test):,} were kept back to test it, "
        f"split by {parts.kind}: {parts.reason}."
    )
    lines += ["", "## What was tried", "", f"| family | {study.primary}, cross-validated | seconds |", "|---|---|---|"]
    for fitted in candidates:
        name, found = study.primary, fitted.scores
        shown = f"{found.mean(name):.4g} ± {found.std(name):.2g}" if name in found else "-"
        lines.append(f"| {fitted.family} | {shown} | {fitted.seconds:.1f} |")
    lines += ["", chosen.why, *(f"\n{note}" for note in chosen.notes)]
    lines += ["", "## What it is worth", "", "| metric | baseline | model | good is |", "|---|---|---|---|"]
    for name, value in evaluation.metrics.items():
        before = f"{evaluation.baseline[name]:.4g}" if name in evaluation.baseline else "-"
        good = {True: "high", False: "low", None: "-"}[HIGHER_IS_BETTER.get(name)]  # of others' metrics nobody knows
        lines.append(f"| {_WORDS.get(name, name)} | {before} | {value:.4g} | {good} |")
    lines += ["", *(_class_table(evaluation) if evaluation.per_class else _residual_table(evaluation))]
    return "\n".join(lines) + "\n"


def _columns(study: Study) -> str:
    kinds = {kind: study.of_kind(kind) for kind in ("number", "category", "text", "time")}
    return "; ".join(
        f"{kind}: {', '.join(f'`{n}`' for n in names[:20])}{f' and {len(names) - 20} more' if len(names) > 20 else ''}"
        for kind, names in kinds.items()
        if names
    )


def _class_table(evaluation: Evaluation) -> list[str]:
    worst = sorted((r for r in evaluation.per_class if r["rows"]), key=lambda r: float(r["f1"]))[:20]
    more = len(evaluation.per_class) - len(worst)
    lines = ["| class | rows | precision | recall | F1 |", "|---|---|---|---|---|"]
    lines += [
        f"| {r['class']} | {r['rows']:,} | {r['precision']:.3f} | {r['recall']:.3f} | {r['f1']:.3f} |" for r in worst
    ]
    return lines + ([f"\nThe {more} other classes have a better F1, or no test rows."] if more > 0 else [])


def _residual_table(evaluation: Evaluation) -> list[str]:
    names = list(evaluation.residuals)
    shown = " | ".join(f"{evaluation.residuals[n]:.4g}" for n in names)
    return [
        "What is left (truth - prediction):",
        "",
        f"| {' | '.join(names)} |",
        "|---" * len(names) + "|",
        f"| {shown} |",
    ]
