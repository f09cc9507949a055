"""Scores agree with scikit-learn's, weights mean repetition, and undefined metrics are left out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from boucle.core.errors import Invalid, NotFound
from boucle.measure.scores import HIGHER_IS_BETTER, METRICS, Predictions, primary, score, weighted


@given(st.integers(0, 10_000), st.integers(2, 40))
@settings(max_examples=60, deadline=None)
def test_binary_scores_agree_with_scikit_learn(seed, rows):
    random = np.random.default_rng(seed)
    truth = np.r_[0, 1, random.integers(2, size=rows)]
    chance = random.integers(1, 9, size=rows + 2) / 10  # few different values, so that there are ties
    said = (chance > 0.5).astype(int)
    found = score("binary", truth, said, np.c_[1 - chance, chance], (0, 1))
    assert found == pytest.approx(
        {
            "roc_auc": reference.roc_auc_score(truth, chance),
            "average_precision": reference.average_precision_score(truth, chance),
            "log_loss": reference.log_loss(truth, chance),
            "brier": reference.brier_score_loss(truth, chance),
            "f1": reference.f1_score(truth, said),
            "precision": reference.precision_score(truth, said, zero_division=0),
            "recall": reference.recall_score(truth, said),
            "accuracy": reference.accuracy_score(truth, said),
            "balanced_accuracy": reference.balanced_accuracy_score(truth, said),
        }
    )


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_multiclass_scores_agree_with_scikit_learn(seed):
    random = np.random.default_rng(seed)
    labels = [f"c{i:02}" for i in range(12)]
    truth = np.array(labels + list(random.choice(labels, 60)))
    chance = random.dirichlet(np.ones(12), size=len(truth))
    said = np.array(labels)[chance.argmax(axis=1)]
    found = score("multiclass", truth, said, chance, labels)
    assert found == pytest.approx(
        {
            "macro_f1": reference.f1_score(truth, said, average="macro", zero_division=0),
            "accuracy": reference.accuracy_score(truth, said),
            "balanced_accuracy": reference.balanced_accuracy_score(truth, said),
            "log_loss": reference.log_loss(truth, chance, labels=labels),
            "top_5_accuracy": reference.top_k_accuracy_score(truth, chance, k=5, labels=labels),
        }
    )


@given(st.integers(0, 10_000), st.integers(2, 30))
@settings(max_examples=60, deadline=None)
def test_regression_scores_agree_with_scikit_learn(seed, rows):
    random = np.random.default_rng(seed)
    truth, said = random.normal(5, 2, rows), random.normal(5, 2, rows)
    assert score("regression", truth, said) == pytest.approx(
        {
            "rmse": reference.root_mean_squared_error(truth, said),
            "mae": reference.mean_absolute_error(truth, said),
            "r2": reference.r2_score(truth, said),
            "median_ae": reference.median_absolute_error(truth, said),
            "mape": reference.mean_absolute_percentage_error(truth, said),
        }
    )


@pytest.mark.parametrize(("task", "metric"), [(t, m) for t, names in METRICS.items() for m in names])
def test_a_weight_of_two_is_the_row_twice(task, metric):
    random = np.random.default_rng(3)
    rows, classes = 40, {"binary": 2, "multiclass": 12, "regression": 0}[task]
    if classes:
        truth, said = random.integers(classes, size=rows), random.integers(classes, size=rows)
        chance = random.dirichlet(np.ones(classes), size=rows).round(2)
    else:
        truth, said, chance = random.normal(size=rows), random.normal(size=rows), None
    counts = random.integers(0, 4, size=rows)
    again = np.repeat(np.arange(rows), counts)
    names = tuple(range(classes))
    by_weight = weighted(task, metric, truth, Predictions(said, chance, names))(counts[None, :].astype(float))[0]
    by_row = score(task, truth[again], said[again], None if chance is None else chance[again], names)[metric]
    assert by_weight == pytest.approx(by_row)


def test_a_test_part_with_one_class_has_no_metric_that_needs_two():
    found = score("binary", ["no", "no"], ["no", "no"], [[0.9, 0.1], [0.8, 0.2]], ("no", "yes"))
    assert set(found) == {"log_loss", "brier", "precision", "accuracy"}
    assert found["precision"] == 0


def test_constant_predictions_are_defined():
    found = score("binary", [0, 1, 1], [1, 1, 1], [0.5, 0.5, 0.5], (0, 1))
    assert found["roc_auc"] == 0.5
    assert found["average_precision"] == pytest.approx(2 / 3)
    assert found["recall"] == 1


def test_constant_truth_has_no_r2_and_a_zero_no_mape():
    assert set(score("regression", [0.1, 0.1, 0.1], [1.0, 2.0, 3.0])) == {"rmse", "mae", "median_ae", "mape"}
    assert "mape" not in score("regression", [0.0, 1.0], [1.0, 1.0])


def test_the_positive_class_can_be_any():
    truth, said = ["bad", "good", "good"], ["bad", "bad", "good"]
    assert score("binary", truth, said, positive="bad")["recall"] == 1
    assert score("binary", truth, said)["recall"] == 0.5


def test_a_class_the_model_never_saw_costs_log_loss_and_does_not_fail():
    found = score("multiclass", ["a", "c"], ["a", "b"], [[0.9, 0.1], [0.5, 0.5]], ("a", "b"))
    assert found["log_loss"] > 10
    assert found["accuracy"] == 0.5


def test_what_does_not_fit_is_said():
    with pytest.raises(Invalid, match="shape"):
        score("binary", [0, 1], [0])
    with pytest.raises(Invalid, match="probabilities"):
        score("binary", [0, 1], [0, 1], [[0.1, 0.9]], (0, 1))
    with pytest.raises(Invalid, match="shape"):
        score("regression", [], [])
    with pytest.raises(NotFound, match="ranking"):
        score("ranking", [0], [0])
    with pytest.raises(NotFound, match="metric"):
        weighted("regression", "f1", [0.0], Predictions([0.0]))


def test_the_primary_metric_is_one_the_task_has():
    assert primary("binary", 1.0) == "roc_auc"
    assert primary("binary", 20.0) == "average_precision"
    assert primary("multiclass", 1.2) == "accuracy"
    assert primary("multiclass", 9.0) == "macro_f1"
    assert primary("regression") == "rmse"
    with pytest.raises(NotFound):
        primary("ranking")
    assert set(HIGHER_IS_BETTER) == {m for names in METRICS.values() for m in names}
