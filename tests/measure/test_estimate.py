"""Estimated performance: near the truth while probabilities mean what they did, and honest about what it is."""

from __future__ import annotations

import json

import numpy as np
import pytest

from boucle.core.errors import Invalid
from boucle.measure.estimate import NOTE, Calibration, estimate
from boucle.measure.scores import score


def rows(random: np.random.Generator, count: int, shift: float = 0.0):
    """A model that is too sure of itself: its answers, its probabilities of yes, and the truth."""
    x = random.normal(shift, 1, count)
    truth = np.where(random.random(count) < 1 / (1 + np.exp(-2 * x)), "yes", "no")
    share = 1 / (1 + np.exp(-5 * x))
    return np.where(share > 0.5, "yes", "no").tolist(), np.stack([1 - share, share], axis=1), truth.tolist()


def test_follows_the_truth_when_inputs_move():
    random = np.random.default_rng(0)
    inside = total = 0
    for _ in range(25):
        said, shares, truth = rows(random, 1000)
        calibration = Calibration.of(["no", "yes"], said, shares, truth, "yes")
        said, shares, truth = rows(random, 800, -0.6)
        found = estimate(calibration, calibration.counted(said, shares))
        real = score("binary", truth, said, shares, ["no", "yes"], positive="yes")
        assert found.calibrated
        for name, (value, low, high) in found.scores.items():
            assert low <= value <= high
            inside += low <= real[name] <= high
            total += 1
    assert inside / total > 0.85


def test_raw_probabilities_are_too_good_and_said_to_be_raw():
    random = np.random.default_rng(1)
    said, shares, truth = rows(random, 2000)
    raw, honest = Calibration.of(["no", "yes"]), Calibration.of(["no", "yes"], said, shares, truth)
    found = estimate(raw, raw.counted(said, shares))
    real = float(np.mean(np.array(said) == np.array(truth)))
    assert found.scores["accuracy"][0] > real + 0.05
    assert "raw probabilities" in found.sentence
    better = estimate(honest, honest.counted(said, shares))
    assert better.scores["accuracy"][0] == pytest.approx(real, abs=0.02)
    assert better.measured["accuracy"] == pytest.approx(real)
    assert found.note == better.note == NOTE


def test_many_classes_have_an_accuracy():
    random = np.random.default_rng(2)
    shares = random.dirichlet(np.full(4, 0.5), 3000)
    names = ["a", "b", "c", "d"]
    truth = [names[random.choice(4, p=p)] for p in shares]
    said = [names[i] for i in shares.argmax(axis=1)]
    calibration = Calibration.of(names, said[:2000], shares[:2000], truth[:2000])
    found = estimate(calibration, calibration.counted(said[2000:], shares[2000:]))
    real = float(np.mean([s == t for s, t in zip(said[2000:], truth[2000:], strict=True)]))
    assert list(found.scores) == ["accuracy"]
    assert found.scores["accuracy"][0] == pytest.approx(real, abs=0.04)


def test_counts_add_up_survive_json_and_leave_out_what_is_not_known():
    random = np.random.default_rng(3)
    said, shares, truth = rows(random, 300)
    calibration = Calibration.of(["no", "yes"], said, shares, truth, "yes")
    again = Calibration.from_json(json.loads(json.dumps(calibration.to_json())))
    parts = again.counted(said[:100], shares[:100]) + again.counted(said[100:], shares[100:])
    assert parts.tolist() == calibration.rows.tolist()
    assert calibration.counted(["maybe", "yes"], [[0.5, 0.5], [np.nan, np.nan]]).sum() == 0
    few = estimate(calibration, calibration.counted(said[:20], shares[:20]))
    assert (few.scores, few.sentence) == ({}, "too few rows with probabilities: 20 of 50")
    with pytest.raises(Invalid, match="labels"):
        Calibration.of(["no", "yes"], said, shares, truth[:-1])
