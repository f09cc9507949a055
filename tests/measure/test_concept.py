"""Concept drift: changes of the error are found and dated; steady errors are not."""

from __future__ import annotations

import json

import numpy as np
import pytest

from boucle.measure.concept import LEAST, LEVEL, Adwin, PageHinkley, concept, onset, scaled


def errors(random: np.random.Generator, *parts: tuple[int, float]) -> np.ndarray:
    return np.concatenate([(random.random(rows) < rate).astype(float) for rows, rate in parts])


@pytest.mark.parametrize("rate", [0.02, 0.3, 0.5])
def test_adwin_holds_its_level(rate):
    random = np.random.default_rng(0)
    alarms = 0
    for _ in range(60):
        adwin = Adwin()
        alarms += bool(sum(adwin.add(e) for e in errors(random, (2000, rate)).tolist()))
    assert alarms <= LEVEL * 60


def test_adwin_forgets_what_was_before_a_change():
    random = np.random.default_rng(1)
    adwin = Adwin()
    for error in errors(random, (2000, 0.1), (1000, 0.5)).tolist():
        adwin.add(error)
    assert 1500 < adwin.start <= 2100
    assert adwin.mean == pytest.approx(0.5, abs=0.06)
    assert sum(map(len, adwin.to_json()["buckets"])) < 70, "memory grows with the logarithm"


@pytest.mark.parametrize("cls", [Adwin, PageHinkley])
def test_detectors_go_on_after_json(cls):
    random = np.random.default_rng(2)
    stream = errors(random, (700, 0.1), (500, 0.6)).tolist()
    one, other = cls(), cls()
    for error in stream:
        assert one.add(error) == other.add(error)
        other = cls.from_json(json.loads(json.dumps(other.to_json())))
    assert one.to_json() == other.to_json()


def test_page_hinkley_finds_a_rise_and_its_beginning():
    random = np.random.default_rng(3)
    stream = errors(random, (1000, 0.1), (300, 0.5))
    assert onset(np.arange(1300.0), stream) == pytest.approx(1000, abs=40)
    assert onset(np.arange(1000.0), stream[:1000]) is None


def test_a_change_is_dated_by_when_it_was_asked_not_when_labels_came():
    random = np.random.default_rng(4)
    stream = errors(random, (1500, 0.1), (400, 0.4))
    times = 1e6 + 60.0 * np.arange(1900)
    shuffled = random.permutation(1900)
    found = concept(times[shuffled], stream[shuffled])
    assert found == concept(times, stream)
    assert found.status == "fail"
    assert found.since == pytest.approx(times[1500], abs=60 * 60)
    assert (found.before, found.after) == (pytest.approx(0.1, abs=0.03), pytest.approx(0.4, abs=0.06))
    assert found.rows_since == pytest.approx(400, abs=60)
    assert found.rising is not None
    fell = concept(times, stream[::-1])
    assert (fell.status, fell.after < fell.before) == ("warn", True)


def test_a_steady_error_a_tiny_change_and_few_labels_pass():
    random = np.random.default_rng(5)
    assert concept(np.arange(3000.0), errors(random, (3000, 0.2))).status == "pass"
    tiny = concept(np.arange(80_000.0), errors(random, (40_000, 0.20), (40_000, 0.23)))
    assert (tiny.status, "too little to matter" in tiny.sentence) == ("pass", True)
    worse = concept(np.arange(80_000.0), errors(random, (40_000, 0.02), (40_000, 0.04)))
    assert worse.status == "fail", "twice as many errors matter, however few they were"
    assert "too few labels" in concept([1.0], [1.0]).sentence
    assert concept(np.arange(2.0 * LEAST), np.zeros(2 * LEAST)).status == "pass"


def test_distances_are_scaled_so_that_one_wild_row_does_not_decide():
    gaps = np.array([1.0] * 50 + [1e9])
    assert scaled(gaps).max() == 1.0
    assert scaled(gaps)[0] == pytest.approx(1 / 3)
    assert scaled(np.zeros(4)).tolist() == [0.0] * 4


def test_a_model_that_was_worse_from_its_first_answer_on_is_found_by_the_errors_it_had_before():
    random = np.random.default_rng(6)
    times, stream = np.arange(600.0), errors(random, (600, 0.3))
    assert concept(times, stream).status == "pass", "steady, as far as it goes"
    found = concept(times, stream, known=errors(random, (500, 0.1)))
    assert (found.status, found.labelled) == ("fail", 600)
    assert found.since == 600 - found.rows_since < 30
    assert found.before == pytest.approx(0.1, abs=0.04)
    alike = np.sort(errors(random, (500, 0.3)))
    assert concept(times, stream, known=alike).status == "pass", "in whatever order they are"
