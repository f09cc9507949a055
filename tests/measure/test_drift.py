"""Drift: sketches add up, scores are what their definitions say, and alarms are neither frequent nor late."""

from __future__ import annotations

import json
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boucle.core.errors import Invalid, NotFound
from boucle.core.frames import Frame
from boucle.measure import drift as measure
from boucle.measure import evidence, sketch
from boucle.measure.drift import Drift, drift
from boucle.measure.sketch import ABOVE, BELOW, MISSING, NEW, Reference, Window

MIXED = pa.schema([("n", pa.float64()), ("i", pa.int64()), ("c", pa.string()), ("b", pa.bool_())])
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "n": st.none() | st.floats(-5, 5) | st.just(math.inf) | st.just(math.nan),
            "i": st.none() | st.integers(-3, 3),
            "c": st.none() | st.sampled_from(["a", "b", "", "zz"]),
            "b": st.none() | st.booleans(),
        }
    ),
    max_size=40,
)


def frame(rows):
    return Frame.of(pa.Table.from_pylist(rows, schema=MIXED))


def counts(window: Window):
    return {name: found.counts.tolist() for name, found in window.columns.items()}


@settings(max_examples=60)
@given(ROWS.filter(bool), ROWS, ROWS)
def test_a_window_of_two_tables_is_the_sum_of_their_windows(reference_rows, first, second):
    reference = Reference.of(frame(reference_rows))
    apart = reference.window(frame(first)) + reference.window(frame(second))
    whole = reference.window(frame(first + second))
    assert counts(apart) == counts(whole)
    assert apart.rows == whole.rows == len(first) + len(second)
    for name, found in whole.columns.items():
        assert found.rows == whole.rows, "every row is in exactly one cell"
        assert apart.columns[name].under == pytest.approx(found.under)
        assert apart.columns[name].over == pytest.approx(found.over)


@settings(max_examples=40)
@given(ROWS.filter(bool), ROWS)
def test_survives_json(reference_rows, rows):
    reference = Reference.of(frame(reference_rows))
    window = reference.window(frame(rows))
    again = Reference.from_json(json.loads(json.dumps(reference.to_json())))
    assert counts(Window.from_json(json.loads(json.dumps(window.to_json())))) == counts(window)
    assert counts(again.window(frame(rows))) == counts(window)
    judged = drift(again, window)
    assert Drift.from_json(json.loads(json.dumps(judged.to_json()))).to_json() == judged.to_json()


@settings(max_examples=40)
@given(ROWS.filter(bool))
def test_the_reference_is_its_own_window(rows):
    reference = Reference.of(frame(rows))
    window = reference.window(frame(rows))
    for name, column in reference.columns.items():
        assert window.columns[name].counts.tolist() == column.counts.tolist()
        found = measure.scores(column, window.columns[name])
        assert found.js == found.psi == found.effect == 0
        assert (found.ks or 0) == 0


def test_cells_say_what_is_missing_new_and_out_of_range():
    reference = Reference.of({"n": [1.0, 2.0, 3.0, None], "c": ["a", "b", "a", "b"]})
    window = reference.window({"n": [0.0, 9.0, 8.0, 2.0, None], "c": ["a", "x", "x", None, "y"]})
    n, c = window.columns["n"], window.columns["c"]
    assert [n.counts[MISSING], n.counts[BELOW], n.counts[ABOVE]] == [1, 1, 2]
    assert (n.under, n.over) == (1.0, 11.0)
    assert [c.counts[MISSING], c.counts[NEW]] == [1, 3]
    assert c.new == {"x": 2, "y": 1}


def test_batches_and_large_tables_give_the_same_counts(monkeypatch):
    random = np.random.default_rng(0)
    table = {"n": random.normal(size=30_000), "c": random.choice(["a", "b"], 30_000)}
    reference = Reference.of(table)
    whole = reference.window(table)
    assert counts(whole) == {n: c.counts.tolist() for n, c in reference.columns.items()}
    monkeypatch.setattr(sketch, "WHOLE", 20_000)
    twice = Reference.of(table)
    assert twice.rows == 30_000
    assert all(c.rows == 30_000 for c in twice.columns.values())
    assert twice.columns["n"].counts[[BELOW, ABOVE]].sum() < 30, "only what the sample missed"


def test_long_texts_are_watched_by_their_length_and_times_by_what_is_missing():
    texts = [f"text {i} {'x' * (i % 40)}" for i in range(3000)]
    reference = Reference.of(pa.table({"t": texts, "w": pa.array(range(3000), pa.timestamp("s"))}))
    assert [c.kind for c in reference.columns.values()] == ["text", "other"]
    longer = reference.window(
        pa.table({"t": [t + "y" * 60 for t in texts], "w": pa.array(range(9000, 12000), pa.timestamp("s"))})
    )
    judged = drift(reference, longer)
    assert (judged["t"].status, judged["w"].status) == ("fail", "pass")
    many = Reference.of({"c": [f"v{i % 2000}" for i in range(20_000)]})
    assert not many.columns["c"].complete
    assert measure.scores(many.columns["c"], many.window({"c": ["new"] * 10}).columns["c"]).new is None


def test_refuses_what_does_not_fit():
    reference = Reference.of({"n": [1.0, 2.0]})
    with pytest.raises(Invalid, match="holds string"):
        reference.window({"n": ["a"]})
    with pytest.raises(NotFound, match="no column"):
        reference.window({"other": [1.0]})
    with pytest.raises(Invalid, match="no rows"):
        Reference.of(frame([]))
    with pytest.raises(Invalid, match="two references"):
        reference.window({"n": [1.0]}) + Reference.of({"n": [1.0, 2.0, 3.0]}).window({"n": [1.0]})
    with pytest.raises(Invalid, match="thresholds"):
        drift(reference, reference.window({"n": [1.0]}), warn=0.3, fail=0.2)


def test_scores_are_those_of_their_definitions():
    from scipy import stats
    from scipy.spatial import distance

    random = np.random.default_rng(1)
    before, now = random.normal(size=4000), random.normal(0.4, 1.3, size=3000)
    reference = Reference.of({"n": before})
    found = measure.scores(reference.columns["n"], reference.window({"n": now}).columns["n"])
    exact = stats.ks_2samp(before, now)
    assert found.ks == pytest.approx(exact.statistic, abs=0.005)
    assert found.wasserstein == pytest.approx(stats.wasserstein_distance(before, now) / before.std(), rel=0.02)
    p, q = np.array([30, 50, 20]), np.array([20, 30, 50])
    assert measure.js(p, q) == pytest.approx(distance.jensenshannon(p, q, base=2))
    assert measure.js(p, np.array([0, 0, 7])) < 1 == measure.js(np.array([5, 0]), np.array([0, 5]))
    shares = [(p + 0.5) / 101.5, (q + 0.5) / 101.5]
    assert measure.psi(p, q) == pytest.approx(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())
    statistic, chance = measure.chi_square(p, q)
    expected = stats.chi2_contingency(np.stack([p, q]), correction=False)
    assert (statistic, chance) == (pytest.approx(expected.statistic), pytest.approx(expected.pvalue))


def test_whole_numbers_have_their_exact_distances():
    from scipy import stats

    random = np.random.default_rng(2)
    before, now = random.integers(0, 9, 2000), random.integers(2, 9, 2000)
    reference = Reference.of({"i": before})
    found = measure.scores(reference.columns["i"], reference.window({"i": now}).columns["i"])
    assert found.ks == pytest.approx(stats.ks_2samp(before, now).statistic)
    assert found.wasserstein == pytest.approx(stats.wasserstein_distance(before, now) / before.std())


def test_the_corrected_distance_does_not_grow_in_small_windows():
    random = np.random.default_rng(3)
    before = random.multinomial(5000, np.full(12, 1 / 12))
    small = [random.multinomial(100, np.full(12, 1 / 12)) for _ in range(300)]
    assert np.mean([measure.js(before, s) for s in small]) > 0.1
    assert np.mean([measure.corrected(before, s) for s in small]) < 0.05


@pytest.mark.parametrize("groups", [2, 3, 13, 23])
def test_the_radius_is_where_the_bound_meets_the_chance(groups):
    x, free = evidence.radius(groups, 1e-3), groups - 1
    assert -x + free * (1 + math.log(x / free)) == pytest.approx(math.log(1e-3), abs=1e-6)
    assert x > free


def test_the_reference_holds_its_source_as_often_as_promised():
    random = np.random.default_rng(4)
    shares = np.array([0.5, 0.3, 0.1, 0.06, 0.03, 0.01])
    drawn = random.multinomial(200, shares, size=4000) / 200
    away = 200 * np.where(drawn > 0, drawn * np.log(np.maximum(drawn, 1e-300) / shares), 0).sum(axis=1)
    assert (away > evidence.radius(6, 0.05)).mean() <= 0.05


def test_e_values_are_at_most_one_on_average_when_nothing_changed():
    random = np.random.default_rng(5)
    shares = np.array([0.4, 0.3, 0.2, 0.1])
    found = [
        evidence.log_e(random.multinomial(300, shares), random.multinomial(200, shares, size=50), 1e-3)
        for _ in range(60)
    ]
    assert np.exp(np.concatenate(found)).mean() <= 1


def test_weights_of_starts_never_add_up_to_more_than_one():
    weights = np.exp(evidence.log_weights(np.arange(5000) * evidence.CHUNK))
    assert 0.99 < weights.sum() <= 1
    some = evidence.log_weights(np.array([0, 400, 800]))
    assert np.allclose(np.exp(some), weights[[0, 4, 8]]), "whatever other starts there are"
    assert np.exp(evidence.log_weights(np.array([0, 10, 20, 30]))).sum() <= 1


def test_e_bh():
    assert evidence.e_bh(np.log([100.0, 30.0, 1.0]), 0.1).tolist() == [True, True, False]
    assert evidence.e_bh(np.log([100.0, 14.0, 1.0]), 0.1).tolist() == [True, False, False]
    assert evidence.e_bh(np.log([29.0, 1.0, 1.0]), 0.1).tolist() == [False, False, False]
    assert evidence.e_bh(np.array([-np.inf, -np.inf]), 0.1).tolist() == [False, False]


def source(random, rows, shift=0.0):
    return {
        "a": random.normal(shift, 1, size=rows),
        "b": random.exponential(size=rows).round(1),
        "c": random.choice(list("abcdef"), rows, p=[0.5, 0.2, 0.1, 0.1, 0.05, 0.05]),
        "d": random.integers(0, 5, rows),
    }


@pytest.mark.parametrize(("rows", "repeats"), [(100, 120), (1000, 60), (100_000, 8)])
@pytest.mark.parametrize("fresh", [True, False], ids=["same source", "resampled"])
def test_false_alarms_are_rarer_than_the_level_at_every_size(rows, repeats, fresh):
    random = np.random.default_rng(rows)
    alarms = 0
    for _ in range(repeats):
        table = source(random, 1500)
        reference = Reference.of(table)
        places = random.integers(0, 1500, rows)
        window = source(random, rows) if fresh else {n: v[places] for n, v in table.items()}
        alarms += drift(reference, reference.window(window)).status != "pass"
    assert alarms <= 0.05 * repeats


def test_looking_after_every_batch_does_not_raise_false_alarms():
    random = np.random.default_rng(6)
    streams, alarms = 12, 0
    for _ in range(streams):
        reference = Reference.of(source(random, 1500))
        chunks = []
        for _ in range(25):
            chunks.append(reference.window(source(random, 100)))
            if drift(reference, chunks).status != "pass":
                alarms += 1
                break
    assert alarms == 0


def test_evidence_alone_is_no_alarm():
    random = np.random.default_rng(7)
    reference = Reference.of({"a": random.normal(size=100_000)})
    judged = drift(reference, reference.window({"a": random.normal(0.15, 1, size=200_000)}))
    assert judged["a"].log10_e > 100
    assert judged["a"].scores.effect < measure.WARN
    assert judged.status == "pass"


def test_effect_alone_is_no_alarm():
    random = np.random.default_rng(8)
    reference = Reference.of({"a": random.normal(size=30)})
    judged = drift(reference, reference.window({"a": random.normal(0.9, 1, size=100)}))
    assert judged["a"].scores.effect > measure.WARN
    assert (judged.status, judged["a"].sentence) == ("pass", "differs, but no more than chance can make it")
    few = drift(reference, reference.window({"a": random.normal(9, 1, size=99)}))
    assert (few.status, few.sentence) == ("pass", "too few rows to judge: 99 of 100")


def test_real_shifts_are_found():
    random = np.random.default_rng(9)
    for _ in range(20):
        reference = Reference.of(source(random, 2000))
        judged = drift(reference, reference.window(source(random, 500, shift=0.7)))
        assert judged["a"].status == "fail"
        assert [c.status for c in judged.columns[1:]] == ["pass"] * 3
        assert judged.sentence == "1 of 4 columns moved: a"


def test_a_late_change_is_found_soon_and_dated():
    random = np.random.default_rng(10)
    reference = Reference.of(source(random, 3000))
    chunks = [reference.window(source(random, 100)) for _ in range(60)]
    assert drift(reference, chunks).status == "pass"
    chunks += [reference.window(source(random, 100, shift=0.8)) for _ in range(3)]
    judged = drift(reference, chunks)
    assert judged["a"].status == "fail"
    assert judged["a"].since == 6000
    assert judged["a"].rows == 300
    # Diluted by what came before, nothing would be seen.
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    assert drift(reference, whole).status == "pass"
    chunks += [reference.window(source(random, 100)) for _ in range(60)]
    assert drift(reference, chunks).status == "pass", "and it ends when the traffic is as before"


def test_missing_and_new_values_are_said_in_words():
    random = np.random.default_rng(11)
    reference = Reference.of(source(random, 2000))
    table = source(random, 1000)
    holes = [None if i % 3 == 0 else v for i, v in enumerate(table["a"])]
    strange = ["fax" if i % 20 == 0 else v for i, v in enumerate(table["c"])]
    far = [v + (9 if i % 4 == 0 else 0) for i, v in enumerate(table["d"])]
    judged = drift(reference, reference.window({**table, "a": holes, "c": strange, "d": far}))
    assert judged["a"].sentence.startswith("33% missing, 0% in training")
    assert judged["c"].sentence == "5% are values not seen in training, such as 'fax' (over 1,000 rows)"
    assert judged["c"].new_values == {"fax": 50}
    assert "lie above the range of training (4)" in judged["d"].sentence
    assert judged["b"].status == "pass"


@settings(max_examples=60)
@given(ROWS.filter(bool), st.lists(ROWS.filter(bool), min_size=1, max_size=4))
def test_sketching_parts_in_one_go_is_sketching_each(reference_rows, parts):
    reference = Reference.of(frame(reference_rows))
    table = frame([row for part in parts for row in part]).table()
    for name, column in reference.columns.items():
        together = column.sketches(table.column(name).combine_chunks(), [len(p) for p in parts])
        for part, found in zip(parts, together, strict=True):
            alone = column.sketch(frame(part).table().column(name).combine_chunks())
            assert found.counts.tolist() == alone.counts.tolist()
            assert found.new == alone.new
            assert (found.under, found.over) == (pytest.approx(alone.under), pytest.approx(alone.over))
