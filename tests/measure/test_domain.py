"""Texts and vectors: real changes are found, resampled references are not, and portions do not matter."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from boucle.core.errors import Invalid
from boucle.measure.domain import Domain, Learner, Told
from boucle.measure.drift import drift
from boucle.measure.sketch import Reference

WORDS = np.array([f"word{i}" for i in range(600)])
USUAL = 1 / np.arange(1, 601)
USUAL /= USUAL.sum()
OTHER = USUAL.copy()
OTHER[60:120] *= 12
OTHER /= OTHER.sum()


def texts(random: np.random.Generator, rows: int, shares: np.ndarray = USUAL) -> list[str]:
    sizes = random.integers(5, 15, rows)
    drawn = WORDS[random.choice(len(WORDS), int(sizes.sum()), p=shares)].tolist()
    ends = np.cumsum(sizes)
    return [" ".join(drawn[end - size : end]) for end, size in zip(ends.tolist(), sizes.tolist(), strict=True)]


def test_other_words_of_the_same_length_are_drift():
    random = np.random.default_rng(0)
    reference = Reference.of({"t": texts(random, 1500), "n": random.normal(size=1500)})
    assert reference.columns["t"].kind == "text"
    judged = drift(reference, reference.window({"t": texts(random, 600, OTHER), "n": random.normal(size=600)}))
    assert (judged["t"].status, judged["n"].status) == ("fail", "pass")
    assert judged["t"].scores.ks < 0.1, "the length says nothing"
    assert judged["t"].scores.domain > 0.75
    assert "other texts than in training: told apart with an AUC of" in judged["t"].sentence
    assert drift(reference, reference.window({"t": texts(random, 600), "n": random.normal(size=600)})).status == "pass"


def test_a_late_change_of_texts_is_dated():
    random = np.random.default_rng(1)
    reference = Reference.of({"t": texts(random, 1500)})
    column, learner = reference.columns["t"], reference.learners()["t"]
    stream = texts(random, 2000) + texts(random, 500, OTHER)
    sketches = column.sketches(pa.array(stream), [100] * 25, learner)
    from boucle.measure.sketch import Window

    chunks = [Window(100, {"t": s}) for s in sketches]
    assert drift(reference, chunks[:20]).status == "pass"
    judged = drift(reference, chunks)
    assert judged["t"].status == "fail"
    assert 1900 <= judged["t"].since <= 2200


@pytest.mark.parametrize("dimensions", [8, 300])
def test_moved_vectors_are_drift_and_so_are_wider_ones(dimensions):
    random = np.random.default_rng(2)
    reference = Reference.of({"v": pa.array(list(random.normal(size=(1500, dimensions)).astype(np.float32)))})
    assert reference.columns["v"].kind == "vector"

    def status(values: np.ndarray) -> str:
        return drift(reference, reference.window({"v": pa.array(list(values.astype(np.float32)))})).status

    assert status(random.normal(size=(800, dimensions))) == "pass"
    assert status(random.normal(0.5, 1, size=(800, dimensions))) == "fail"
    assert status(1.8 * random.normal(size=(800, dimensions))) != "pass"


def test_vectors_of_another_length_are_missing():
    random = np.random.default_rng(3)
    reference = Reference.of({"v": pa.array(list(random.normal(size=(500, 4))))})
    values = [*random.normal(size=(200, 4)).tolist(), *([[1.0, 2.0]] * 100), *([None] * 50), [1.0, 2.0, 3.0, np.nan]]
    found = reference.window({"v": values}).columns["v"]
    assert found.counts.tolist() == [151, 200]
    assert found.told.rows == 200
    judged = drift(reference, reference.window({"v": values}))
    assert judged.status == "fail"
    assert "43% missing" in judged["v"].sentence
    with pytest.raises(Invalid, match="holds string"):
        reference.window({"v": ["text"]})
    assert reference.window({"v": pa.nulls(5)}).columns["v"].counts.tolist() == [5, 0]


@pytest.mark.parametrize("fresh", [True, False], ids=["same source", "resampled"])
def test_no_false_alarms_in_texts(fresh):
    random = np.random.default_rng(4)
    alarms = 0
    for _ in range(15):
        rows = texts(random, 400)
        reference = Reference.of({"t": rows})
        for _ in range(20):
            window = texts(random, 200) if fresh else random.choice(rows, 200).tolist()
            alarms += drift(reference, reference.window({"t": window})).status != "pass"
    assert alarms <= 0.05 * 300


def test_a_long_stream_of_few_rows_again_and_again_is_no_evidence():
    """The classifier learns the kept rows by heart; what it is judged by are rows that it never learned from."""
    random = np.random.default_rng(5)
    for fresh in (True, False):
        rows = random.normal(size=(300, 5)).astype(np.float32)
        domain = Domain.of(pa.array(list(rows)))
        stream = random.normal(size=(20_000, 5)) if fresh else rows[random.integers(300, size=20_000)]
        learner = Learner(domain)
        features = domain.features(pa.array(list(stream.astype(np.float32))))
        found = [learner.take(features[i : i + 1000]).log_e for i in range(0, 20_000, 1000)]
        assert max(np.cumsum(found[::-1])) < 3


def test_portions_do_not_matter_and_a_learner_survives_json():
    random = np.random.default_rng(6)
    domain = Domain.of(pa.array(texts(random, 500)))
    features = domain.features(pa.array(texts(random, 730, OTHER)))
    whole = Learner(domain).take(features)
    learner, total = Learner(domain), Told()
    for start, end in ((0, 1), (1, 90), (90, 333), (333, 730)):
        total += learner.take(features[start:end])
        again = Domain.from_json(json.loads(json.dumps(domain.to_json())))
        assert np.allclose(again.rows, domain.rows, atol=1e-3)
        learner = Learner.from_json(domain, json.loads(json.dumps(learner.to_json())))
    assert total.rows == whole.rows == 730
    assert total.above == pytest.approx(whole.above)
    assert total.log_e == pytest.approx(whole.log_e)


def test_short_values_are_categories_and_sentences_are_texts():
    random = np.random.default_rng(7)
    reference = Reference.of({"code": [f"c{i}" for i in range(300)], "said": texts(random, 300)})
    assert [c.kind for c in reference.columns.values()] == ["category", "text"]
    again = Reference.from_json(json.loads(json.dumps(reference.to_json())))
    window = {"code": ["c1"] * 200, "said": texts(random, 200)}
    first, second = reference.window(window).columns["said"].told, again.window(window).columns["said"].told
    assert first.auc == pytest.approx(second.auc, abs=0.01)
