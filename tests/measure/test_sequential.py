"""Confidence sequences: the truth is inside at all looks together, and what validity at every look costs in width."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boucle.core.errors import Invalid
from boucle.measure.sequential import FEWEST, Interval, Moments, difference, errors_wide, mean, paired, share, shares

LOOKS = [5, 10, 20, 40, 80, 160, 320, 640]
COUNTS = st.integers(0, 60).flatmap(lambda rows: st.tuples(st.integers(0, rows), st.just(rows)))


def wald(deviation: float, rows: int) -> float:
    return 2 * 1.96 * deviation / math.sqrt(rows)


def width(found: Interval) -> float:
    return found.high - found.low


def most_missed(alpha: float, trials: int) -> float:
    """The share of trials that may miss: alpha and three standard errors of the simulation."""
    return alpha + 3 * math.sqrt(alpha * (1 - alpha) / trials)


@pytest.mark.parametrize("p", [0.02, 0.3, 0.5])
def test_a_share_is_inside_at_all_looks(p):
    random, trials, alpha = np.random.default_rng(1), 200, 0.2
    hits = np.cumsum(random.random((trials, LOOKS[-1])) < p, axis=1)
    missed = sum(any(not _holds(share(int(row[n - 1]), n, alpha), p) for n in LOOKS) for row in hits)
    assert 0 < missed / trials <= most_missed(alpha, trials)


@pytest.mark.parametrize(("p", "q", "part"), [(0.1, 0.1, 0.5), (0.5, 0.6, 0.1), (0.02, 0.01, 0.5)])
def test_a_difference_of_shares_is_inside_at_all_looks(p, q, part):
    random, trials, alpha = np.random.default_rng(2), 60, 0.2
    missed = 0
    for _ in range(trials):
        arm = random.random(LOOKS[-1]) < part
        hit = random.random(LOOKS[-1]) < np.where(arm, q, p)
        for n in LOOKS:
            a, h = arm[:n], hit[:n]
            found = shares((int(h[~a].sum()), int((~a).sum())), (int(h[a].sum()), int(a.sum())), alpha)
            if not _holds(found, q - p):
                missed += 1
                break
    assert missed / trials <= most_missed(alpha, trials)


@pytest.mark.parametrize("kind", ["beta", "rare", "two points"])
def test_a_bounded_mean_is_inside_at_all_looks(kind):
    random, trials, alpha = np.random.default_rng(3), 80, 0.2
    draw, truth = {
        "beta": (lambda n: random.beta(2.0, 5.0, n), 2 / 7),
        "rare": (lambda n: (random.random(n) < 0.03) * random.random(n), 0.015),
        "two points": (lambda n: random.choice([0.2, 0.9], n), 0.55),
    }[kind]
    missed = 0
    for _ in range(trials):
        values = draw(LOOKS[-1])
        missed += any(not _holds(mean(values[:n], alpha), truth) for n in LOOKS)
    assert missed / trials <= most_missed(alpha, trials)


def test_a_difference_of_means_is_inside_at_all_looks():
    random, trials, alpha = np.random.default_rng(4), 300, 0.2
    missed = 0
    for _ in range(trials):
        was, now = random.exponential(1.0, LOOKS[-1]), random.exponential(1.5, LOOKS[-1])
        looks = (difference(Moments.of(was[:n]), Moments.of(now[:n]), alpha) for n in LOOKS)
        missed += any(not _holds(found, 0.5) for found in looks)
    assert 0 < missed / trials <= most_missed(alpha, trials)


def test_a_fixed_sample_interval_looked_at_often_misses_more_than_it_says():
    """What all of this is for: the same looks with the interval of a single look."""
    random, trials = np.random.default_rng(5), 400
    means = np.cumsum(random.normal(size=(trials, 2000)), axis=1)[:, 9:] / np.arange(10, 2001)
    missed = (np.abs(means) > 1.96 / np.sqrt(np.arange(10, 2001))).any(axis=1)
    always = np.abs(means) > np.array([errors_wide(n, 0.05, 1) for n in range(10, 2001)]) / np.sqrt(np.arange(10, 2001))
    assert missed.mean() > 0.3
    assert always.any(axis=1).mean() <= 0.05


@pytest.mark.parametrize("rows", [5000, 1000])
def test_the_price_of_looking_at_any_time(rows):
    random = np.random.default_rng(6)
    hits = rows // 10
    spread = math.sqrt(0.09)
    values = random.random(rows)
    changes = np.where(random.random(rows) < 0.2, random.choice([-1.0, 1.0], rows), 0.0)
    normal = random.normal(size=(2, rows))
    prices = {
        "share": width(share(hits, rows)) / wald(spread, rows),
        "shares": width(shares((hits, rows), (hits, rows))) / wald(spread * math.sqrt(2), rows),
        "mean": width(mean(values)) / wald(float(values.std()), rows),
        "paired": width(paired(changes)) / wald(float(changes.std()), rows),
        "difference": width(difference(*map(Moments.of, normal))) / wald(math.sqrt(2), rows),
    }
    assert all(1.3 < price < 2.2 for price in prices.values()), prices
    assert prices["shares"] < 0.9 * union_bound(hits, rows) / wald(spread * math.sqrt(2), rows)


def union_bound(hits: int, rows: int) -> float:
    return 2 * width(share(hits, rows, 0.025))


@given(COUNTS, COUNTS)
@settings(max_examples=40, deadline=None)
def test_swapping_the_arms_turns_the_interval_around(before, after):
    there, back = shares(before, after), shares(after, before)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=1e-6)
    assert -1 <= there.low <= there.high <= 1
    if before[1] and after[1]:
        assert there.low <= there.estimate <= there.high


@given(st.lists(st.floats(0, 1), max_size=60))
@settings(max_examples=40, deadline=None)
def test_a_mean_lies_inside_and_mirrors_and_needs_no_order(values):
    found, mirrored = mean(values), mean([1 - v for v in values])
    assert (found.low, found.high) == pytest.approx((1 - mirrored.high, 1 - mirrored.low), abs=1e-6)
    assert (found.low, found.high) == pytest.approx((mean(values[::-1]).low, mean(values[::-1]).high), abs=1e-6)
    assert 0 <= found.low <= found.high <= 1
    if values:
        assert found.low <= found.estimate <= found.high
    both = paired([2 * v - 1 for v in values])
    assert (both.low, both.high) == pytest.approx((2 * found.low - 1, 2 * found.high - 1), abs=1e-6)


@given(st.integers(1, 400), st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_a_share_mirrors_and_more_rows_make_it_narrower(rows, part):
    hits = round(part * rows)
    found, mirrored, more = share(hits, rows), share(rows - hits, rows), share(8 * hits, 8 * rows)
    assert (found.low, found.high) == pytest.approx((1 - mirrored.high, 1 - mirrored.low), abs=1e-6)
    assert found.low <= found.estimate <= found.high
    assert width(more) < width(found)


def test_more_rows_and_a_larger_alpha_make_intervals_narrower():
    random = np.random.default_rng(7)
    values = random.random(8000)
    makers = [
        lambda n, alpha: shares((n // 5, n), (n // 4, n), alpha),
        lambda n, alpha: mean(values[:n], alpha),
        lambda n, alpha: paired(values[:n] - 0.5, alpha),
        lambda n, alpha: difference(Moments(n, 1.0, 4.0), Moments(n, 2.0, 4.0), alpha),
    ]
    for make in makers:
        widths = [width(make(n, 0.05)) for n in (40, 200, 1000, 8000)]
        assert widths == sorted(widths, reverse=True)
        assert width(make(1000, 0.2)) < width(make(1000, 0.05)) < width(make(1000, 0.001))


def test_no_rows_say_nothing():
    for found, low, high in (
        (share(0, 0), 0, 1), (mean([]), 0, 1), (shares((0, 0), (0, 0)), -1, 1), (paired([]), -1, 1),
        (difference(Moments.of([]), Moments.of([])), -math.inf, math.inf),
    ):  # fmt: skip
        assert (found.low, found.high, found.rows) == (low, high, 0)
        assert math.isnan(found.estimate)
    one_sided = shares((0, 0), (90, 100))
    assert math.isnan(one_sided.estimate)
    assert one_sided.low < 0 < one_sided.high < 1


def test_a_difference_of_means_waits_for_rows_and_for_variance():
    few = difference(Moments(FEWEST - 1, 1.0, 1.0), Moments(500, 9.0, 1.0))
    flat = difference(Moments.of(np.zeros(500)), Moments.of(np.ones(500)))
    assert width(few) == width(flat) == math.inf
    assert flat.estimate == 1.0


def test_what_is_certain_is_seen():
    assert share(0, 2000).high < 0.01
    assert share(2000, 2000).low > 0.99
    assert mean(np.zeros(2000)).high < 0.01
    found = shares((0, 300), (300, 300))
    assert found.low > 0.9
    assert found.high == 1.0


def test_tuning_moves_where_it_is_tightest():
    assert width(share(10, 100, tuned_for=100)) < width(share(10, 100, tuned_for=100_000))
    assert width(share(10_000, 100_000, tuned_for=100_000)) < width(share(10_000, 100_000, tuned_for=100))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: share(3, 2), lambda: share(-1, 2), lambda: shares((3, 2), (0, 0)), lambda: mean([0.5, 1.5]),
        lambda: mean([math.nan]), lambda: paired([2.0]), lambda: share(1, 2, 0.0), lambda: share(1, 2, tuned_for=0),
    ],
)  # fmt: skip
def test_wrong_input_is_refused(wrong):
    with pytest.raises(Invalid):
        wrong()


def _holds(found: Interval, truth: float) -> bool:
    return found.low <= truth <= found.high
