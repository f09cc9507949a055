"""An evaluation counts right, is JSON, and says in words what it means."""

from __future__ import annotations

import json

import numpy as np
import pytest

from boucle.core.frames import Frame
from boucle.ml.tabular import Evaluation, candidates, choose, evaluate, explain, fit, split, study


@pytest.fixture(scope="module")
def judged(customers):
    table = customers(400)
    found = study(table, "churn")
    parts = split(table, found)
    tried = [fit(family, parts.train, found, folds=2) for family in candidates(found)]
    chosen = choose(tried, found)
    return found, parts, tried, chosen, evaluate(chosen.estimator, parts.test, found, tried[0].estimator)


def test_the_numbers_agree_with_each_other(judged):
    found, parts, _, chosen, result = judged
    table = np.array(result.confusion)
    assert table.sum() == result.rows == len(parts.test)
    assert np.trace(table) / result.rows == pytest.approx(result.metrics["accuracy"])
    yes = next(r for r in result.per_class if r["class"] == "yes")
    assert yes["f1"] == pytest.approx(result.metrics["f1"])
    assert yes["recall"] == pytest.approx(result.metrics["recall"])
    assert result.comparison.after == pytest.approx(result.metrics[found.primary])
    assert result.comparison.before == pytest.approx(result.baseline[found.primary])
    assert result.metrics["roc_auc"] > 0.7
    assert chosen.family != "baseline"


def test_it_survives_json(judged):
    result = judged[-1]
    assert Evaluation.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_the_verdict_says_whether_it_beats_guessing(judged):
    found, parts, tried, chosen, result = judged
    assert "better than guessing" in result.verdict
    assert "cannot be told" in evaluate(tried[0].estimator, parts.test, found, tried[0].estimator).verdict
    assert "worse than guessing" in evaluate(tried[0].estimator, parts.test, found, chosen.estimator).verdict
    alone = evaluate(chosen.estimator, parts.test, found)
    assert alone.comparison is None
    assert alone.baseline == {}
    assert "baseline" not in alone.verdict


def test_one_class_in_the_test_part_is_said_and_does_not_fail(judged):
    found, parts, tried, chosen, _ = judged
    table = parts.test.table()
    one = Frame.of(table.filter([v == "no" for v in table.column("churn").to_pylist()]))
    result = evaluate(chosen.estimator, one, found, tried[0].estimator)
    assert "roc_auc" not in result.metrics
    assert "no meaning" in result.verdict
    assert Evaluation.from_json(json.loads(json.dumps(result.to_json()))).metrics == result.metrics


def test_a_regression_has_residuals(series):
    found = study(series(), "demand")
    parts = split(series(), found)
    tried = [fit(family, parts.train, found, folds=2) for family in ("baseline", "linear")]
    result = evaluate(tried[1].estimator, parts.test, found, tried[0].estimator)
    truth, said = parts.test.pandas()["demand"], tried[1].estimator.predict(parts.test.pandas(found.names))
    assert result.residuals["mean"] == pytest.approx(float((truth - said).mean()))
    assert result.confusion == ()
    assert "What is left" in explain(found, parts, tried, tried[1], result)


def test_the_report_tells_the_whole_story(judged):
    found, parts, tried, chosen, result = judged
    text = explain(found, parts, tried, chosen, result)
    for part in (found.target, result.verdict, chosen.why, parts.reason, *found.findings, *(t.family for t in tried)):
        assert part in text
    assert "0.5 |" in text  # the baseline's ROC AUC stands beside the model's
