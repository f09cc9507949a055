"""Anomalies of traffic in time: large ones are found at once, ordinary weeks are not."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from boucle.measure.anomaly import HISTORY, SECONDS, Bin, anomalies, reason, surprises
from boucle.measure.sketch import BELOW, MISSING, NEW, Reference


def bins(
    random: np.random.Generator,
    count: int,
    rate: Callable[[int], float] = lambda i: 50.0,
    failed: Callable[[int], float] = lambda i: 0.002,
    slow: Callable[[int], float] = lambda i: 1.0,
    bursts: float = 0.0,
) -> dict[float, Bin]:
    found = {}
    for i in range(count):
        load = rate(i) * (random.gamma(1 / bursts, bursts) if bursts else 1.0)
        asked = int(random.poisson(load))
        if asked:
            spent = random.normal(math.log(0.01 * slow(i)), 0.8, asked).sum() + asked * random.normal(0, 0.1)
            found[i * SECONDS] = Bin(i * SECONDS, asked, int(random.binomial(asked, failed(i))), asked, float(spent))
    return found


@pytest.mark.parametrize("bursts", [0.0, 0.1, 0.3])
def test_ordinary_traffic_has_hardly_any(bursts):
    random = np.random.default_rng(0)
    alarms = 0
    for i in range(20):
        load = (5.0, 50.0, 500.0)[i % 3]
        found = anomalies(bins(random, 288, rate=lambda _, load=load: load, bursts=bursts), 288 * SECONDS)
        alarms += bool(found.found)
    assert alarms <= 0.05 * 20


def test_days_and_nights_are_no_anomalies():
    random = np.random.default_rng(1)
    wave = bins(random, 4 * 288, rate=lambda i: 50 * (1 + 0.8 * math.sin(i / 288 * 2 * math.pi)))
    assert [anomalies(wave, end * 288 * SECONDS).found for end in (1, 2, 3, 4)] == [()] * 4


def test_sharp_hours_are_known_after_two_weeks():
    random = np.random.default_rng(2)
    busy = bins(random, 16 * 288, rate=lambda i: 400.0 if i % 288 < 24 else 20.0)
    assert anomalies(busy, 16 * 288 * SECONDS).found == ()


@pytest.mark.parametrize(
    ("kind", "status", "change"),
    [
        ("volume", "warn", {"rate": lambda i: 300.0 if i >= 298 else 50.0}),
        ("volume", "warn", {"rate": lambda i: 0.0 if i >= 298 else 50.0}),
        ("errors", "fail", {"failed": lambda i: 0.3 if i >= 298 else 0.002}),
        ("latency", "fail", {"slow": lambda i: 4.0 if i >= 298 else 1.0}),
    ],
    ids=["flood", "silence", "failures", "slow"],
)
def test_large_changes_are_found_and_end(kind, status, change):
    random = np.random.default_rng(3)
    made = bins(random, 300, **change)
    found = anomalies(made, 300 * SECONDS)
    assert (found.status, found.kind, found.found[0].kind) == (status, kind, kind)
    assert found.found[0].start == 298 * SECONDS
    assert anomalies(made, 298 * SECONDS).status == "pass"
    after = {**made, **{b.start + 300 * SECONDS: Bin(b.start + 300 * SECONDS, *_rest(b)) for b in _quiet(random)}}
    later = anomalies(after, 320 * SECONDS)
    assert later.status == "pass"
    assert later.found, "what was is still told"


def _quiet(random: np.random.Generator) -> list[Bin]:
    return list(bins(random, 20).values())


def _rest(b: Bin) -> tuple[int, int, int, float]:
    return b.requests, b.failed, b.answered, b.log_latency


def test_what_a_rollout_does_to_the_volume_does_not_count():
    random = np.random.default_rng(4)
    made = bins(random, 310, rate=lambda i: 500.0 if i >= 298 else 25.0)
    assert anomalies(made, 300 * SECONDS, steady=298 * SECONDS).status == "pass"
    assert anomalies(made, 300 * SECONDS).status == "warn"


def test_too_little_history_is_said():
    found = anomalies(bins(np.random.default_rng(5), 5), 5 * SECONDS)
    assert (found.status, found.sentence) == (
        "pass",
        f"too little history to judge: 5 of {HISTORY + 1} spans of 5 minutes",
    )
    assert anomalies({}, 0.0).status == "pass"


def test_what_surprises_and_why():
    reference = Reference.of({"n": np.arange(500.0), "c": ["a"] * 499 + ["b"]})
    n, c = (surprises(reference.columns[k]) for k in "nc")
    assert n[2:-1].max() == 0
    assert min(n[BELOW], n[MISSING], c[NEW], c[3]) > 4
    assert c[2] == 0
    assert reason(reference.columns["n"], BELOW, -3.0) == "n -3 lies below 0"
    assert reason(reference.columns["c"], NEW, "zz") == "c 'zz' is new"
