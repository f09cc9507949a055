"""Fitting is repeatable, learns what is there, and the choice follows the scores."""

from __future__ import annotations

import json

import numpy as np
import pytest

from boucle.core.errors import Invalid, NotFound
from boucle.core.frames import Frame
from boucle.measure.scores import score
from boucle.ml.tabular import Fitted, Scores, choose, fit, split, study
from boucle.ml.tabular.fit import best_threshold, inputs


def fitted(family: str, *values: float, metric: str = "roc_auc") -> Fitted:
    return Fitted(family, None, Scores({metric: values}), 0.0)


@pytest.fixture(scope="module")
def binary(customers):
    return study(customers(), "churn")


def test_a_model_learns_and_a_baseline_does_not(customers, binary):
    train = split(customers(), binary).train
    assert fit("baseline", train, binary).scores.mean("roc_auc") == 0.5
    linear = fit("linear", train, binary)
    assert linear.scores.mean("roc_auc") > 0.75
    assert len(linear.scores.folds["roc_auc"]) == 5
    assert linear.seconds > 0
    written = json.loads(json.dumps(linear.scores.to_json()))
    assert written["roc_auc"]["mean"] == linear.scores.mean("roc_auc")
    assert Scores.from_json(written) == linear.scores


@pytest.mark.parametrize("family", ["linear", "boosting"])
def test_the_same_seed_gives_the_same_model(customers, binary, family):
    one, two = (fit(family, customers(), binary, folds=2, seed=4) for _ in range(2))
    rows = inputs(customers(), binary)
    assert one.scores == two.scores
    assert np.array_equal(one.estimator.predict_proba(rows), two.estimator.predict_proba(rows))


def test_text_is_learned(messages):
    found = study(messages(), "label")
    assert fit("linear", split(messages(), found).train, found, folds=3).scores.mean("roc_auc") > 0.95


def test_a_series_is_learned_looking_back_only(series):
    found = study(series(), "demand")
    train = split(series(), found).train
    baseline, boosted = (fit(f, train, found, folds=3).scores.mean("rmse") for f in ("baseline", "boosting"))
    assert boosted < 0.6 * baseline


def test_counts_are_never_predicted_below_zero():
    random = np.random.default_rng(0)
    x = random.normal(size=400)
    table = Frame.of({"x": x, "y": random.poisson(np.exp(1.5 * x))})
    found = study(table, "y")
    assert found.counts
    for family in ("linear", "boosting"):
        assert fit(family, table, found, folds=2).estimator.predict(inputs(table, found)).min() >= 0


def test_a_rare_class_gets_a_threshold_of_its_own():
    random = np.random.default_rng(1)
    x = random.normal(size=1500)
    table = Frame.of({"x": x, "y": random.random(1500) < 1 / (1 + np.exp(4 - 1.5 * x))})
    found = study(table, "y")
    assert found.primary == "average_precision"
    result = fit("linear", table, found, folds=3)
    rows, truth = inputs(table, found), table.pandas()["y"].to_numpy()
    chance = result.estimator.predict_proba(rows)[:, 1]
    tuned, plain = (score("binary", truth, said)["f1"] for said in (result.estimator.predict(rows), chance > 0.5))
    assert tuned > plain
    assert any("predicted from a probability" in n for n in result.notes)


def test_the_best_threshold_is_the_best_of_all():
    random = np.random.default_rng(2)
    chance = random.random(200).round(2)
    truth = random.random(200) < chance
    at = best_threshold(truth, chance)
    every = [score("binary", truth, chance >= t, positive=True)["f1"] for t in np.unique(chance)]
    assert score("binary", truth, chance >= at, positive=True)["f1"] == pytest.approx(max(every))


def test_infinite_numbers_count_as_missing():
    random = np.random.default_rng(3)
    x = random.normal(size=120)
    table = Frame.of({"x": np.r_[np.inf, -np.inf, x[2:]], "y": (x > 0).astype(int), "z": random.normal(size=120)})
    found = study(table, "y", keep=["x"])
    assert fit("linear", table, found, folds=2).scores.mean("roc_auc") > 0.9


def test_many_rows_are_cross_validated_on_some_of_them():
    random = np.random.default_rng(4)
    x = random.normal(size=25_000)
    table = Frame.of({"x": x, "y": x + random.normal(size=25_000)})
    result = fit("linear", table, study(table, "y"), folds=2)
    assert any("Cross-validation used" in n for n in result.notes)


def test_one_fold_is_refused_and_so_is_an_unknown_family(customers, binary):
    with pytest.raises(Invalid, match="folds"):
        fit("linear", customers(), binary, folds=1)
    with pytest.raises(NotFound):
        fit("forest", customers(), binary)


def test_the_best_is_chosen_when_it_is_clearly_better(binary):
    found = choose(
        [fitted("baseline", 0.5, 0.5, 0.5), fitted("linear", 0.7, 0.8, 0.75), fitted("boosting", 0.8, 0.9, 0.86)],
        binary,
    )
    assert found.family == "boosting"
    assert "best" in found.why


def test_the_simpler_is_chosen_within_one_standard_error(binary):
    found = choose([fitted("boosting", 0.80, 0.84, 0.79), fitted("linear", 0.80, 0.80, 0.82)], binary)
    assert found.family == "linear"
    assert "simpler" in found.why


def test_differences_are_judged_fold_by_fold(binary):
    # The folds differ far more than the models do, but one model is better in each.
    found = choose([fitted("linear", 0.60, 0.80, 0.95), fitted("boosting", 0.62, 0.82, 0.97)], binary)
    assert found.family == "boosting"


def test_low_is_good_for_an_error(series):
    found = study(series(), "demand")
    errors = [fitted("linear", 2.0, 2.1, metric="rmse"), fitted("boosting", 1.0, 1.1, metric="rmse")]
    assert choose(errors, found).family == "boosting"


def test_nothing_to_choose_from_is_refused(binary):
    with pytest.raises(Invalid, match="no candidate"):
        choose([], binary)


def test_without_a_score_the_simplest_that_learns_is_taken(binary):
    untested = [Fitted(family, None, Scores({}), 0.0) for family in ("boosting", "linear", "baseline")]
    found = choose(untested, binary)
    assert found.family == "linear"
    assert "untested" in found.why
