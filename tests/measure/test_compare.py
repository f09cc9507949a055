"""The paired bootstrap finds differences that are there, and no others."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from boucle.core.errors import Invalid
from boucle.measure.compare import Comparison, paired
from boucle.measure.scores import Predictions


def test_a_model_does_not_differ_from_itself():
    random = np.random.default_rng(0)
    truth, chance = random.integers(2, size=200), random.random(200)
    said = Predictions(chance > 0.5, chance, (0, 1))
    for metric in ("roc_auc", "accuracy", "f1"):
        found = paired("binary", metric, truth, said, said, repeats=100)
        assert (found.difference, found.low, found.high) == (0, 0, 0)
        assert not found.significant
        assert not found.better


def test_better_follows_the_direction_of_the_metric():
    random = np.random.default_rng(1)
    truth = random.normal(size=300)
    near, far = truth + 0.1 * random.normal(size=300), truth + random.normal(size=300)
    lower = paired("regression", "rmse", truth, Predictions(far), Predictions(near), repeats=200)
    assert lower.difference < 0
    assert lower.significant
    assert lower.better
    back = paired("regression", "rmse", truth, Predictions(near), Predictions(far), repeats=200)
    assert back.significant
    assert not back.better
    assert paired("regression", "r2", truth, Predictions(far), Predictions(near), repeats=200).better


def test_the_interval_of_a_mean_is_the_one_theory_gives():
    random = np.random.default_rng(2)
    truth = np.zeros(400)
    a, b = np.abs(random.normal(2, 1, 400)), np.abs(random.normal(2, 1, 400))
    found = paired("regression", "mae", truth, Predictions(a), Predictions(b), repeats=4000)
    error = (b - a).std() / math.sqrt(400)
    assert found.difference == pytest.approx((b - a).mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.08)


def test_equal_models_are_rarely_called_different():
    random = np.random.default_rng(3)
    called = 0
    for _ in range(200):
        truth = random.integers(2, size=100)
        a, b = random.integers(2, size=(2, 100))
        called += paired("binary", "accuracy", truth, Predictions(a), Predictions(b), repeats=200).significant
    assert called < 25  # 5 % of 200 is 10


def test_the_same_seed_gives_the_same_interval():
    random = np.random.default_rng(4)
    truth, a, b = random.integers(3, size=(3, 150))
    first, again, other = (
        paired("multiclass", "macro_f1", truth, Predictions(a), Predictions(b), repeats=100, seed=s) for s in (0, 0, 1)
    )
    assert first == again
    assert (first.low, first.high) != (other.low, other.high)


def test_undefined_is_neither_and_survives_json():
    said = Predictions([0, 0], [0.1, 0.2], (0, 1))
    found = paired("binary", "roc_auc", [0, 0], said, said)
    assert math.isnan(found.difference)
    assert not found.significant
    assert not found.better
    written = json.loads(json.dumps(found.to_json()))
    assert written["low"] is None
    assert math.isnan(Comparison.from_json(written).low)


def test_a_confidence_outside_its_range_is_refused():
    with pytest.raises(Invalid, match="confidence"):
        paired("regression", "mae", [0.0], Predictions([0.0]), Predictions([0.0]), confidence=95)
