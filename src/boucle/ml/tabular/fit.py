"""Fit: cross-validate a family, fit it on all training rows, and choose between families."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import FixedThresholdClassifier
from sklearn.pipeline import Pipeline

from boucle.core.errors import Invalid
from boucle.core.frames import Frame
from boucle.measure.scores import HIGHER_IS_BETTER, Predictions, score
from boucle.ml.tabular.columns import row_keys, value_keys
from boucle.ml.tabular.features import FAMILIES, build
from boucle.ml.tabular.split import folds as fold_rows
from boucle.ml.tabular.split import hashed
from boucle.ml.tabular.study import Study

if TYPE_CHECKING:
    import pandas as pd

_MOST_ROWS = 20_000  # that cross-validation looks at; the final fit has all of them


@dataclass(frozen=True, slots=True)
class Scores:
    """Cross-validated metrics: `folds` maps a metric to its value in each fold."""

    folds: dict[str, tuple[float, ...]]

    def __contains__(self, metric: object) -> bool:
        return metric in self.folds

    def mean(self, metric: str) -> float:
        return float(np.mean(self.folds[metric]))

    def std(self, metric: str) -> float:
        """The sample standard deviation; 0 for one fold."""
        return float(np.std(self.folds[metric], ddof=1)) if len(self.folds[metric]) > 1 else 0.0

    def to_json(self) -> dict[str, Any]:
        return {m: {"mean": self.mean(m), "std": self.std(m), "folds": list(v)} for m, v in self.folds.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Scores:
        return cls({metric: tuple(found["folds"]) for metric, found in data.items()})


class Fitted(NamedTuple):
    """A family fitted on all training rows: the estimator, its cross-validated scores, the wall time of both in
    seconds, remarks in words and, once chosen, why."""

    family: str
    estimator: Any
    scores: Scores
    seconds: float
    notes: tuple[str, ...] = ()
    why: str = ""


def inputs(frame: Frame, study: Study) -> pd.DataFrame:
    """The columns a model takes, infinite numbers as missing."""
    data = frame.pandas(study.names)
    for name in study.of_kind("number"):
        if data[name].dtype.kind == "f" and np.isinf(data[name].to_numpy()).any():
            data[name] = data[name].where(np.isfinite(data[name]))
    return data


def answer(estimator: Any, data: pd.DataFrame, study: Study) -> Predictions:
    """What a fitted estimator says about rows, with probabilities for classifiers."""
    if not study.classes:
        return Predictions(estimator.predict(data))
    chances = estimator.predict_proba(data)
    return Predictions(estimator.predict(data), chances, tuple(estimator.classes_.tolist()), study.positive)


def measure(truth: NDArray[Any], said: Predictions, study: Study) -> dict[str, float]:
    """All metrics of the task."""
    return score(study.task, truth, said.values, said.probabilities, said.classes, positive=said.positive)


def fit(family: str, train: Frame, study: Study, *, folds: int = 5, seed: int = 0) -> Fitted:
    """Cross-validate a family on the training rows, then fit it on all of them.

    Folds respect time, groups or classes as the study says, and are taken from about 20,000 of the
    rows where there are more, which the notes say. Where the positive class is rare, the decision
    threshold is set to where the F1 of the rows held out was best (Lipton, Elkan and Narayanaswamy, 2014); the
    probabilities stay as they are. Raises `NotFound` for another family and `Invalid` for fewer than two folds.
    """
    if folds < 2:
        raise Invalid(f"{folds} folds", expected="two or more")
    started = time.perf_counter()
    notes: list[str] = []
    everything = train.pandas([n for n in train.columns if n in {*study.names, study.target, study.folds_column}])
    features, target = inputs(train, study), everything[study.target].to_numpy()
    rows = _sample(everything, study, seed)
    if len(rows) < len(everything):
        notes.append(f"Cross-validation used {len(rows):,} of the {len(everything):,} training rows.")
    pairs = fold_rows(everything.iloc[rows].reset_index(drop=True), study, folds, seed)
    if not pairs:
        notes.append("No cross-validation: no fold would hold every class.")
    found: dict[str, list[float]] = {}
    held_truth, held_chance = [], []
    for to_fit, held in pairs:
        with _unconverged_noted(notes):
            model = build(family, study, seed=seed).fit(features.iloc[rows[to_fit]], target[rows[to_fit]])
            said = answer(model, features.iloc[rows[held]], study)
        for name, value in measure(target[rows[held]], said, study).items():
            found.setdefault(name, []).append(value)
        if study.task == "binary":
            held_truth.append(target[rows[held]] == study.positive)
            held_chance.append(np.asarray(said.probabilities)[:, list(said.classes).index(study.positive)])
    with _unconverged_noted(notes):
        model = _plain_vocabularies(build(family, study, seed=seed).fit(features, target))
    if study.primary == "average_precision" and family != "baseline" and held_truth:
        at = best_threshold(np.concatenate(held_truth), np.concatenate(held_chance))
        notes.append(f"{study.positive!r} is predicted from a probability of {at:.2f} on, where its F1 was best.")
        model = FixedThresholdClassifier(
            FrozenEstimator(model), threshold=at, pos_label=study.positive, response_method="predict_proba"
        ).fit(features.iloc[:1], target[:1])
    scores = Scores({name: tuple(values) for name, values in found.items() if len(values) == len(pairs)})
    return Fitted(family, model, scores, time.perf_counter() - started, tuple(dict.fromkeys(notes)))


def _sample(data: pd.DataFrame, study: Study, seed: int) -> NDArray[np.int64]:
    if len(data) <= _MOST_ROWS:
        return np.arange(len(data))
    keys = value_keys(data[study.folds_column]) if study.folds == "group" else row_keys(data, study.names)
    return np.flatnonzero(hashed(keys, seed + 2) < _MOST_ROWS / len(data))


def _plain_vocabularies(model: Pipeline) -> Pipeline:
    # scikit-learn leaves NumPy integers in there, each of which skops would store as an array of its own.
    features = model.named_steps.get("features")
    for _, part, _ in features.transformers_ if features is not None else ():
        last = part[-1] if isinstance(part, Pipeline) else part
        if isinstance(last, TfidfVectorizer):
            last.vocabulary_ = {term: int(i) for term, i in last.vocabulary_.items()}
    return model


@contextmanager
def _unconverged_noted(notes: list[str]) -> Iterator[None]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        if issubclass(warning.category, ConvergenceWarning):
            notes.append("The optimiser stopped before it converged; the model may be a little worse than it could be.")
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def best_threshold(positive: NDArray[np.bool_], chance: NDArray[np.float64]) -> float:
    """The probability from which on saying `positive` gives the best F1; halfway to the next lower probability."""
    order = np.argsort(-chance, kind="stable")
    ranked, right = chance[order], positive[order].cumsum()
    f1 = 2 * right / (np.arange(1, len(ranked) + 1) + max(1, int(positive.sum())))
    last = np.r_[ranked[1:] != ranked[:-1], True]  # rows of one probability are said together
    best = int(np.argmax(np.where(last, f1, -1.0)))
    below = ranked[best + 1] if best + 1 < len(ranked) else 0.0
    return float((ranked[best] + below) / 2)


def choose(candidates: Sequence[Fitted], study: Study) -> Fitted:
    """The candidate with the best primary metric, or a simpler family that is within one standard error of it.

    The standard error is that of the fold-by-fold difference (the one-standard-error rule of Breiman, Friedman, Olshen
    and Stone, 1984, section 3.4.3, paired). The result's `why` says what decided. Raises `Invalid` for no candidates.
    """
    if not candidates:
        raise Invalid("there is no candidate to choose from", expected="one fitted model or more")
    name = study.primary
    known = [c for c in candidates if name in c.scores]
    ordered = sorted(known or candidates, key=lambda c: _rank(c.family))
    if not known:
        simple = ordered[:2][-1]  # the simplest that learns anything
        return simple._replace(why=f"{simple.family} was taken untested: {name} could not be cross-validated.")
    sign = 1 if HIGHER_IS_BETTER[name] else -1
    best = max(ordered, key=lambda c: sign * c.scores.mean(name))
    said = ", ".join(f"{c.family} {c.scores.mean(name):.4g}" for c in ordered)
    for simple in ordered[: ordered.index(best)]:
        gain = sign * (np.array(best.scores.folds[name]) - np.array(simple.scores.folds[name]))
        error = float(gain.std(ddof=1) / np.sqrt(len(gain))) if len(gain) > 1 else 0.0
        if gain.mean() <= error:
            why = f"{simple.family} is simpler than {best.family} and within one standard error of its {name} ({said})."
            return simple._replace(why=why)
    return best._replace(why=f"{best.family} has the best cross-validated {name} ({said}).")


def _rank(family: str) -> int:
    return FAMILIES.index(family) if family in FAMILIES else len(FAMILIES)
