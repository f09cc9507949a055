"""What is compared between two revisions: units, verdicts, and words that claim no more than the interval allows."""

from __future__ import annotations

import math

import numpy as np
import pytest

from boucle.measure.effect import Row, Sample, about, duration, effect_shown, judge, path, said, shown
from boucle.measure.sequential import Moments, difference, shares

NAMES = ("churn@3", "churn@4")


def arm(values, units=None) -> list[Row]:
    return [Row(float(i), units[i] if units else f"u{i}", float(v)) for i, v in enumerate(values)]


def sample(before, after, name="right", unit="%", good="higher", detail="") -> Sample:
    return Sample(name, unit, "predictions", good, (arm(before), arm(after)), detail)


def hits(number: int, rows: int) -> list[float]:
    """Spread evenly over the rows."""
    return [float((i + 1) * number // rows > i * number // rows) for i in range(rows)]


def test_what_is_hit_or_miss_has_the_exact_interval_and_all_else_the_asymptotic_one():
    assert judge(sample(hits(60, 100), hits(80, 100))).effect == shares((60, 100), (80, 100))
    random = np.random.default_rng(0)
    before, after = random.normal(size=50), random.normal(1.0, size=70)
    found = judge(sample(before, after, "latency", "ms", "lower")).effect
    wanted = difference(Moments.of(before), Moments.of(after))
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))


def test_a_unit_counts_once_with_its_mean():
    units = [f"p{i // 4}" for i in range(200)]
    both = Sample("right", "%", "keys", "higher", (arm(hits(100, 200), units), arm(hits(150, 200), units)))
    found = judge(both)
    assert found.rows == (50, 50)
    assert (found.before, found.after) == (0.5, 0.75)


@pytest.mark.parametrize(
    ("before", "after", "good", "smallest", "verdict"),
    [
        (500, 600, "higher", None, "better"), (500, 600, "lower", None, "worse"), (600, 500, "lower", None, "better"),
        (500, 600, "", None, "higher"), (600, 500, "", None, "lower"), (500, 505, "higher", None, "not enough yet"),
        (500, 505, "higher", 0.1, "no difference"), (500, 505, "higher", 0.01, "not enough yet"),
        (500, 600, "higher", 0.5, "better"),
    ],
)  # fmt: skip
def test_verdicts(before, after, good, smallest, verdict):
    found = judge(sample(hits(before, 1000), hits(after, 1000), good=good), smallest=smallest)
    assert found.verdict == verdict
    assert found.decided is (verdict != "not enough yet")
    assert (found.needed is None) is found.decided


def test_what_is_still_needed_is_enough():
    """With as many rows more, an effect as it looks now is seen: the estimate lies a power's worth outside."""
    first = judge(sample(hits(80, 200), hits(92, 200)))
    assert first.verdict == "not enough yet"
    rows = 200 + first.needed
    later = judge(sample(hits(round(0.4 * rows), rows), hits(round(0.46 * rows), rows)))
    assert later.verdict == "better"
    assert first.seconds == pytest.approx(first.needed, rel=0.01)


def test_the_path_ends_where_one_stands():
    made = sample(hits(30, 100), hits(50, 100))
    found = path(made)
    assert found[-1] == judge(made).effect
    assert [i.rows for i in found] == sorted(i.rows for i in found)
    assert path(sample([], [])) == ()


def test_words_are_as_strong_as_the_interval():
    better = judge(sample(hits(840, 1500), hits(990, 1500)))
    assert said(better, NAMES).startswith(
        "churn@4 is right in 66.0 % of cases, churn@3 in 56.0 %: 10.0 points better (95 % "
    )
    worse = said(judge(sample(hits(990, 1500), hits(840, 1500))), NAMES)
    assert ": 10.0 points worse (95 % interval " in worse
    assert "-" not in worse.partition("interval")[2]  # it is worse by so much, and not by minus so much
    open_ = said(judge(sample(hits(50, 100), hits(55, 100))), NAMES)
    assert ": the difference of +5.0 points may be chance (95 % interval -" in open_
    alike = said(judge(sample(hits(500, 1000), hits(500, 1000)), smallest=0.1), NAMES, 0.1)
    assert ": no difference larger than 10.0 points (95 % interval -" in alike
    assert said(judge(sample([], hits(5, 10))), NAMES) == "there are no predictions of churn@3 to compare yet"
    few = judge(sample([1.5, 2.5], [2.0, 3.5], "latency", "ms", "lower"))
    assert said(few, NAMES).endswith("4 predictions are too few to tell the difference from chance")
    assert "99 % interval" in said(judge(sample(hits(840, 1500), hits(990, 1500)), alpha=0.01), NAMES)


@pytest.mark.parametrize(
    ("name", "unit", "detail", "words"),
    [
        ("error", "", "", "churn@4 is off by 0.6 on average, churn@3 0.5"),
        ("reward", "", "", "churn@4 earns 0.6 per prediction, churn@3 0.5"),
        ("failures", "%", "", "churn@4 fails in 60.0 % of requests, churn@3 in 50.0 %"),
        ("latency", "ms", "p95 1 and 2 ms", "churn@4 takes 0.6 ms on average, churn@3 0.5 ms"),
        ("slow", "%", "7 ms", "churn@4 takes more than 7 ms in 60.0 % of requests, churn@3 in 50.0 %"),
        ("prediction", "%", "stays", "churn@4 says 'stays' in 60.0 % of cases, churn@3 in 50.0 %"),
        ("prediction", "", "", "churn@4 says 0.6 on average, churn@3 0.5"),
    ],
)
def test_each_measure_has_its_words(name, unit, detail, words):
    assert said(judge(sample(hits(50, 100), hits(60, 100), name, unit, "lower", detail)), NAMES).startswith(words)


def test_numbers_as_text():
    assert (shown(0.871, "%"), shown(2.5, "ms"), shown(math.nan, "%")) == ("87.1 %", "2.5 ms", "-")
    assert (effect_shown(0.031, "%"), effect_shown(0.031, "%", sign=False)) == ("+3.1", "3.1")
    assert (effect_shown(-math.inf, "ms"), effect_shown(math.nan, "ms")) == ("-∞", "-")
    assert [duration(s) for s in (5, 50, 600, 7200, 400_000)] == [
        "5 seconds",
        "a minute",
        "10 minutes",
        "2 hours",
        "5 days",
    ]
    assert [about(n) for n in (7, 123, 15_926)] == ["7", "120", "16,000"]
