"""What was observed in a phase, as sums that are kept in the rollout's record: reading goes on where it stopped."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from boucle.core import predictions
from boucle.core.labels import FILE
from boucle.core.records import Model, Service
from boucle.core.refs import id_time
from boucle.measure.sequential import Interval, Moments, difference, errors_wide, paired, share, shares
from boucle.ops.label import read_as, task_of
from boucle.ops.rollout.plan import Measure, Policy

_STEPS = 8  # buckets of latency per doubling
_SLOW, _LONGER, _NOTICED = (
    0.95,
    1.5,
    10_000,
)  # quantile, factor beyond it, and the microseconds that anybody would notice
_FEW = 30
_NOTHING = 1e-12


@dataclass(slots=True)
class Sums:
    """Count, mean and squared deviations of a stream of numbers (Welford 1962)."""

    rows: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        self.rows += 1
        away = value - self.mean
        self.mean += away / self.rows
        self.squares += away * (value - self.mean)

    @property
    def moments(self) -> Moments:
        return Moments(self.rows, self.mean, self.squares / (self.rows - 1) if self.rows > 1 else math.nan)


@dataclass(slots=True)
class Seen:
    """One revision in a phase."""

    after: str = ""  # the last id read of its predictions, and of its failures
    failed_after: str = ""
    labels: int = -1  # bytes read of its labels; -1 before the first look
    rows: int = 0
    requests: int = 0
    failed: int = 0
    latency: dict[str, int] = field(default_factory=dict)
    loss: Sums = field(default_factory=Sums)
    last: str = ""  # the last request, since one with several rows is one


@dataclass(slots=True)
class Tally:
    """Both revisions, and the rows that both have answered."""

    before: Seen = field(default_factory=Seen)
    after: Seen = field(default_factory=Seen)
    spread: float = 0.0  # of the old revision's numbers; numbers differ when they are a quarter of it apart
    pairs: int = 0
    differ: int = 0
    worse: int = 0  # of labelled pairs: the new one alone was wrong, the old one alone, and all of them
    better: int = 0
    labelled: int = 0
    gap: Sums = field(default_factory=Sums)  # of numbers: the new one's distance less the old one's
    base: Sums = field(default_factory=Sums)  # the old one's distance
    numbers: bool = False  # losses are distances, not wrong or right

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Tally:
        plain = copy.deepcopy(dict(data))  # counting on must not change what it was read from
        for name in ("before", "after"):
            seen = dict(plain.get(name, {}))
            plain[name] = Seen(**{**seen, "loss": Sums(**seen.get("loss", {}))})
        for name in ("gap", "base"):
            plain[name] = Sums(**plain.get(name, {}))
        return cls(**plain)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


# --- reading -----------------------------------------------------------------------------------------------------------


def read_answers(seen: Seen, service: Service, start: str, until: float, *, shadow: bool) -> list[dict[str, Any]]:
    """Add what a revision answered since the last look; returns the lines. A shadow's are those of its mirrored requests."""
    found = []
    for record in predictions.scan(Path(service.folder, "predictions"), max(seen.after, start)):
        if record["time"] > until:
            break
        seen.after = record["id"]
        if record["request"] == "probe" or ("shadow" in record) != shadow:
            continue
        found.append(record)
        seen.rows += 1
        if record["request"] != seen.last:
            seen.requests, seen.last = seen.requests + 1, record["request"]
            bucket = str(int(_STEPS * math.log2(max(1, record["latency_us"]))))
            seen.latency[bucket] = seen.latency.get(bucket, 0) + 1
    for record in predictions.scan(Path(service.folder, "failures"), max(seen.failed_after, start)):
        if record["time"] > until:
            break
        seen.failed_after = record["id"]
        seen.failed += bool(record.get("shadow")) == shadow
    return found


def read_labels(
    seen: Seen, service: Service, start: float, known: Mapping[str, dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], Any]]:
    """The labelled predictions whose label came since the last look, asked since `start`; `known` are those at hand by id."""
    path = Path(service.folder, FILE)
    if not path.is_file():
        return
    with path.open("rb") as file:
        # What is told while this reads waits for the next time, or it might never end.
        told = file.seek(0, 2)
        seen.labels = file.seek(max(0, seen.labels))
        while seen.labels < told and (line := file.readline()).endswith(b"\n"):
            seen.labels += len(line)
            pair = json.loads(line)
            if id_time(pair["id"]) < start - 1.0:
                continue
            record = known.get(pair["id"]) or predictions.find(Path(service.folder, "predictions"), pair["id"])
            if record is not None and record["time"] >= start and "shadow" not in record:
                yield record, pair["label"]


def are_numbers(model: Model, said: Any) -> bool:
    """Whether a model's answers are amounts, so that being near counts."""
    return task_of(model, [(0.0, None, {"prediction": said})]) == "regression"


def loss(model: Model, said: Any, label: Any) -> float | None:
    """How wrong an answer was: 0 or 1 for a class, the distance for a number; None where it cannot be said."""
    task = task_of(model, [(0.0, label, {"prediction": said})])
    truth = read_as(type(said), label, task)
    if truth is None or said is None:
        return None
    return abs(float(truth) - float(said)) if task == "regression" else float(truth != said)


def compare(tally: Tally, old: Any, new: Any, model: Model, label: Any = None) -> None:
    """Add one row that both revisions answered."""
    tally.pairs += 1
    if isinstance(old, float | int) and isinstance(new, float | int) and not isinstance(old, bool):
        numbers = model.task in ("", "regression")
        tally.differ += abs(float(old) - float(new)) > (tally.spread / 4 if numbers else 0.0)
    else:
        tally.differ += old != new
    if label is None:
        return
    was, now = loss(model, old, label), loss(model, new, label)
    if was is None or now is None:
        return
    tally.numbers = are_numbers(model, old)
    tally.labelled += 1
    tally.worse += now > was
    tally.better += now < was
    tally.gap.add(now - was)
    tally.base.add(was)


def spread_of(answers: Sequence[Any]) -> float:
    """The standard deviation of numbers; 0 for anything else."""
    numbers = [float(a) for a in answers if isinstance(a, int | float) and not isinstance(a, bool)]
    return float(np.std(numbers)) if len(numbers) > 1 and len(numbers) == len(answers) else 0.0


# --- measures ----------------------------------------------------------------------------------------------------------


def measures(tally: Tally, policy: Policy, alpha: float) -> dict[str, Measure]:
    """What the sums say, each with an interval that holds at all looks together."""
    found = [
        _paired_score(tally, policy, alpha) or _score(tally, policy, alpha),
        _differ(tally, policy, alpha),
        _errors(tally, policy, alpha),
        _slow(tally, policy, alpha),
    ]
    return {m.name: m for m in found if m is not None}


def _paired_score(tally: Tally, policy: Policy, alpha: float) -> Measure | None:
    if not tally.labelled:
        return None
    if not tally.numbers:
        same = tally.labelled - tally.worse - tally.better
        gaps = np.repeat([1.0, 0.0, -1.0], [tally.worse, same, tally.better])
        harm = paired(gaps, alpha)
        right = 1 - tally.base.mean
        said = (
            f"right in {right - harm.estimate:.1%} of {tally.labelled:,} labelled rows, {right:.1%} before "
            f"(change {-harm.high:+.1%} to {-harm.low:+.1%})"
        )
        return Measure("score", harm, policy.worse, said)
    gap, base = tally.gap.moments, tally.base.mean
    if gap.rows < _FEW:
        return Measure(
            "score", Interval(math.nan, -math.inf, math.inf, gap.rows, alpha), policy.worse, f"{gap.rows} labelled rows"
        )  # fmt: skip
    half = math.sqrt(max(gap.variance, 0.0) / gap.rows) * errors_wide(gap.rows, alpha, 1)
    return _relative(Interval(gap.mean, gap.mean - half, gap.mean + half, gap.rows, alpha), base, policy)


def _score(tally: Tally, policy: Policy, alpha: float) -> Measure | None:
    before, after = tally.before.loss, tally.after.loss
    if not before.rows or not after.rows:
        return None
    if tally.numbers:
        return _relative(difference(before.moments, after.moments, alpha), before.mean, policy)
    counts = [(round(s.mean * s.rows), s.rows) for s in (before, after)]
    harm = shares(counts[0], counts[1], alpha)
    said = (
        f"right in {1 - after.mean:.1%} of {after.rows:,} labelled answers, {1 - before.mean:.1%} of {before.rows:,} before "
        f"(change {-harm.high:+.1%} to {-harm.low:+.1%})"
    )
    return Measure("score", harm, policy.worse, said)


def _relative(gap: Interval, base: float, policy: Policy) -> Measure:
    unit = base or _NOTHING  # against an old revision that is never off, anything else is worse
    harm = Interval(gap.estimate / unit, gap.low / unit, gap.high / unit, gap.rows, gap.level)
    said = (
        f"off by {base + gap.estimate:.4g} on average, {base:.4g} before "
        f"({gap.rows:,} labelled rows, change {harm.low:+.1%} to {harm.high:+.1%})"
    )
    return Measure("score", harm, policy.worse, said)


def _differ(tally: Tally, policy: Policy, alpha: float) -> Measure | None:
    if not tally.pairs:
        return None
    harm = share(tally.differ, tally.pairs, alpha)
    said = f"other answers to {harm.estimate:.1%} of {tally.pairs:,} rows (up to {harm.high:.1%})"
    return Measure("differ", harm, policy.differ, said)


def _errors(tally: Tally, policy: Policy, alpha: float) -> Measure | None:
    counts = [(s.failed, s.requests + s.failed) for s in (tally.before, tally.after)]
    if not counts[1][1]:
        return None
    harm = shares(counts[0], counts[1], alpha)
    failed = f"{counts[1][0]:,} of {counts[1][1]:,} requests failed"
    return Measure("errors", harm, policy.errors, f"{failed} (up to {max(0.0, harm.high):.1%} more than before)")


def _slow(tally: Tally, policy: Policy, alpha: float) -> Measure | None:
    before, after = tally.before.latency, tally.after.latency
    if sum(before.values()) < _FEW or not after:
        return None
    usual = 2 ** (_quantile(before, _SLOW) / _STEPS)
    limit = _STEPS * math.log2(max(_LONGER * usual, usual + _NOTICED))
    counts = [(sum(n for b, n in a.items() if int(b) > limit), sum(a.values())) for a in (before, after)]
    harm = shares(counts[0], counts[1], alpha)
    ms = 2 ** (limit / _STEPS) / 1000
    said = f"{counts[1][0] / counts[1][1]:.1%} of requests over {ms:.3g} ms, {counts[0][0] / counts[0][1]:.1%} before"
    return Measure("slow", harm, policy.slow, said)


def _quantile(counts: Mapping[str, int], level: float) -> int:
    total, below = sum(counts.values()), 0
    for bucket, n in sorted(((int(b), n) for b, n in counts.items())):
        below += n
        if below >= level * total:
            return bucket
    return max(map(int, counts))
