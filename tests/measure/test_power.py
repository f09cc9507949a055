"""Sample sizes: they keep what they promise when experiments are simulated."""

from __future__ import annotations

import numpy as np
import pytest

from boucle.core.errors import Invalid
from boucle.measure.power import plan, rows_for, rows_to_see
from boucle.measure.sequential import Moments, difference, shares


def test_an_effect_of_the_planned_size_is_seen_as_often_as_planned():
    random, trials = np.random.default_rng(1), 150
    rows = rows_for("share", 0.3, 0.1)
    last, early = 0, 0
    for _ in range(trials):
        was, now = np.cumsum(random.random(rows) < 0.3), np.cumsum(random.random(rows) < 0.4)
        seen = [shares((int(was[n - 1]), n), (int(now[n - 1]), n)).low > 0 for n in (rows // 2, rows)]
        last, early = last + seen[1], early + seen[0]
    assert 0.7 <= last / trials <= 0.92
    assert early / trials > 0.15  # one may stop then


def test_and_so_is_one_of_means():
    random, trials = np.random.default_rng(2), 400
    rows = rows_for("mean", 0.0, 0.3, deviation=1.0)
    seen = sum(
        difference(Moments.of(random.normal(size=rows)), Moments.of(random.normal(0.3, size=rows))).low > 0
        for _ in range(trials)
    )
    assert 0.74 <= seen / trials <= 0.87


def test_a_single_look_needs_the_rows_of_the_textbook():
    # 10 % against 12 % at power 0.8: 3,839 by the formula with unpooled variances.
    made = plan("share", 0.1, 0.02, rate=10.0)
    assert made.single == 3839
    assert made.inflation == made.rows / made.single
    assert 1.5 < made.inflation < 3
    assert made.seconds == pytest.approx(made.rows / 5)
    assert plan("share", 0.1, 0.02, rate=10.0, part=0.1).seconds == pytest.approx(made.rows)


def test_smaller_effects_more_power_and_a_smaller_alpha_need_more_rows():
    base = rows_for("share", 0.1, 0.02)
    assert rows_for("share", 0.1, 0.01) > 3 * base
    assert rows_for("share", 0.1, 0.02, power=0.95) > base
    assert rows_for("share", 0.1, 0.02, alpha=0.01) > base
    assert rows_for("share", 0.1, -0.02) < base  # rarer hits vary less
    assert rows_to_see(-1.0, 5.0, "mean") == rows_to_see(1.0, 5.0, "mean")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: plan("share", 0.1, 0.0), lambda: plan("share", 0.99, 0.02), lambda: plan("mean", 1.0, 0.1),
        lambda: plan("mean", 1.0, 0.0, deviation=1.0), lambda: plan("share", 0.1, 0.02, power=1.0),
        lambda: plan("share", 0.1, 0.02, rate=0.0), lambda: plan("share", 0.1, 0.02, part=1.0),
        lambda: plan("median", 0.1, 0.02, deviation=1.0),
    ],
)  # fmt: skip
def test_wrong_plans_are_refused(wrong):
    with pytest.raises(Invalid):
        wrong()
