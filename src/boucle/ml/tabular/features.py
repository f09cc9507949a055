"""Features: the families of models, each as one scikit-learn pipeline from raw columns to predictions.

The parts are scikit-learn's own, and the stateless functions of `core.transforms`, so that a fitted pipeline can be
stored without pickle.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import TruncatedSVD
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer, TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, PoissonRegressor, RidgeCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, StandardScaler

from boucle.core.errors import NotFound
from boucle.core.schema import INTEGERS
from boucle.core.transforms import plain_text, time_part_names, time_parts
from boucle.ml.tabular.study import Feature, Study

FAMILIES = ("baseline", "linear", "boosting")  # from simple to complex

_WORD = r"(?u)\b\w+\b"  # also words of one letter, which the default leaves out
_LEVELS = 31  # whole numbers with at most so many values (a month, an hour, a rating) are levels to a linear model
_UNEVEN = 10.0  # rows of the largest class per row of the smallest
_MANY_CLASSES = 30  # boosting grows a tree per class and round


def candidates(study: Study) -> tuple[str, ...]:
    """The families worth fitting, simplest first: boosting is left out for text alone, where it is slower and no
    better than a linear model on n-grams, and for more than 30 classes."""
    text_alone = all(f.kind == "text" for f in study.features)
    return FAMILIES[:2] if text_alone or len(study.classes) > _MANY_CLASSES else FAMILIES


def build(family: str, study: Study, *, seed: int = 0) -> Pipeline:
    """An unfitted pipeline that takes a pandas frame with the study's features, as `core.frames.to_pandas` gives it.

    *baseline* says the most frequent class with the class frequencies, or the mean. *linear* is logistic regression,
    ridge regression, or Poisson regression for counts, on scaled numbers, one column per category, and TF-IDF of words
    and of characters (a bag of n-grams; Manning, Raghavan and Schuetze, 2008, chapter 6). *boosting* is gradient
    boosting over histograms (Ke et al., LightGBM, 2017) on numbers, categories and 50 latent dimensions per text; more
    than two classes of very different size weigh the same, which makes its probabilities lean to the rare ones.
    Missing values, unseen categories and columns that are null throughout are taken by all of them. Raises `NotFound`
    for another family.
    """
    makers = {"baseline": _baseline, "linear": _linear, "boosting": _boosting}
    if family not in makers:
        raise NotFound.named("model family", family, FAMILIES)
    return makers[family](study, seed)


def _baseline(study: Study, _: int) -> Pipeline:
    return Pipeline([("model", DummyClassifier(strategy="prior") if study.classes else DummyRegressor())])


def _linear(study: Study, seed: int) -> Pipeline:
    levels = [f.name for f in study.features if _is_levels(f)]
    numbers = [n for n in study.of_kind("number") if n not in levels]
    rare = 5 if study.rows >= 500 else 2
    parts: list[tuple[str, Any, list[str]]] = []
    if numbers:
        # Scaling comes first: unlike the imputer it also takes booleans, and it leaves missing values alone.
        parts.append(("numbers", Pipeline([("scale", StandardScaler()), ("fill", _mean_and_flag())]), numbers))
    if study.of_kind("category") or levels:
        one_hot = OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=rare, max_categories=200)
        parts.append(("categories", one_hot, [*study.of_kind("category"), *levels]))
    for i, feature in enumerate(f for f in study.features if f.kind == "time"):
        steps = [("parts", _times(feature)), ("scale", StandardScaler()), ("fill", _mean_and_flag())]
        parts.append((f"time{i}", Pipeline(steps), [feature.name]))
    least = 2 if study.rows >= 2_000 else 1
    for i, name in enumerate(study.of_kind("text")):
        words = TfidfVectorizer(
            token_pattern=_WORD, ngram_range=(1, 2), min_df=least, max_features=10_000, sublinear_tf=True
        )
        chars = TfidfVectorizer(
            analyzer="char_wb", ngram_range=(2, 4), min_df=least, max_features=10_000, sublinear_tf=True
        )
        parts += [(f"words{i}", _text(words), [name]), (f"characters{i}", _text(chars), [name])]
    return Pipeline([("features", ColumnTransformer(parts)), ("model", _linear_model(study, seed))])


def _linear_model(study: Study, seed: int) -> Any:
    if study.counts:
        return PoissonRegressor(alpha=1e-4, solver="newton-cholesky" if not study.of_kind("text") else "lbfgs")
    if not study.classes:
        return RidgeCV(alphas=np.logspace(-2, 4, 13)) if not study.of_kind("text") else RidgeCV()
    text = bool(study.of_kind("text"))
    return LogisticRegression(C=10.0 if text else 1.0, tol=1e-3 if text else 1e-4, max_iter=2_000, random_state=seed)


def _boosting(study: Study, seed: int) -> Pipeline:
    parts: list[tuple[str, Any, list[str]]] = []
    categories = study.of_kind("category")
    if categories:
        ordinal = OrdinalEncoder(
            handle_unknown="use_encoded_value", unknown_value=np.nan, max_categories=200, min_frequency=2
        )
        parts.append(("categories", ordinal, categories))
    if study.of_kind("number"):
        # Trees need no scaling, but the step makes floats of booleans, which are floats anyway once one is missing.
        parts.append(("numbers", StandardScaler(), study.of_kind("number")))
    for i, feature in enumerate(f for f in study.features if f.kind == "time"):
        parts.append((f"time{i}", _times(feature), [feature.name]))
    for i, name in enumerate(study.of_kind("text")):
        hashing = HashingVectorizer(n_features=2**14, ngram_range=(1, 2), alternate_sign=False)
        latent = [("weigh", TfidfTransformer(sublinear_tf=True)), ("latent", TruncatedSVD(50, random_state=seed))]
        parts.append((f"text{i}", Pipeline([*_text(hashing).steps, *latent]), [name]))
    settings: dict[str, Any] = {
        "categorical_features": list(range(len(categories))) or None,
        "random_state": seed,
        "learning_rate": 0.08 if study.rows >= 2_000 else 0.05,
        "max_iter": 100 if study.rows < 2_000 else max(80, min(400, 1_200 // max(1, len(study.classes)))),
        "early_stopping": study.rows >= 2_000,
        "n_iter_no_change": 15,
        "l2_regularization": 1.0,
    }
    # Macro F1 counts each class alike, so rare ones have to weigh as much as common ones while growing.
    weights = "balanced" if study.task == "multiclass" and study.imbalance >= _UNEVEN else None
    model = (
        HistGradientBoostingClassifier(class_weight=weights, **settings)
        if study.classes
        else HistGradientBoostingRegressor(loss="poisson" if study.counts else "squared_error", **settings)
    )
    return Pipeline([("features", ColumnTransformer(parts, sparse_threshold=0.0)), ("model", model)])


def _is_levels(feature: Feature) -> bool:
    return feature.kind == "number" and feature.type in INTEGERS and 2 < feature.distinct <= _LEVELS


def _mean_and_flag() -> SimpleImputer:
    return SimpleImputer(strategy="mean", add_indicator=True, keep_empty_features=True)


def _times(feature: Feature) -> FunctionTransformer:
    return FunctionTransformer(time_parts, kw_args={"parts": list(feature.parts)}, feature_names_out=time_part_names)


def _text(vectorizer: Any) -> Pipeline:
    return Pipeline([("text", FunctionTransformer(plain_text)), ("count", vectorizer)])
