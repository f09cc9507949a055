"""A/B: the revision that was there before against the one on trial, by what they answered and what came of it.

Nothing has to be set up: while a rollout lets two revisions of a service answer, their logs are the experiment. Every interval
holds at all looks together (`measure.sequential`), so one may look at any time and stop when one has seen enough. What is
counted are predictions, or, once requests come with keys that return, keys: what one of them gets is no news about the others.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from boucle.core import predictions
from boucle.core.errors import Invalid, NotFound
from boucle.core.labels import read
from boucle.core.records import Model, Rollout, Service
from boucle.core.schema import jsonable
from boucle.core.where import field
from boucle.measure.effect import WORSE, Measure, Row, Sample, about, duration, effect_shown, judge, path, said
from boucle.measure.sequential import Interval, share
from boucle.ops.label import read_as, task_of

if TYPE_CHECKING:
    from boucle.workspace import Workspace

MISMATCH = 0.001  # of the split: one false alarm in a thousand experiments
_CANARY = re.compile(r"canary (\d+(?:\.\d+)?) ?%")
_SEGMENTS = 8
_CLASSES = 8
_FIRST = 200  # requests of the one before that set what slow means, and are then left out


@dataclass(frozen=True, slots=True)
class Arm:
    """One of the two revisions, and what it answered in the experiment."""

    service: str
    model: str
    predictions: int
    labelled: int
    failures: int


@dataclass(frozen=True, slots=True)
class Segment:
    """The main measure among the rows that have one value of a column."""

    value: str
    measure: Measure


@dataclass(frozen=True, slots=True)
class Split:
    """How the traffic was dealt out: the part that the new revision got, of what was planned; and keys that got both."""

    planned: float | None
    observed: float
    low: float
    high: float
    mismatch: bool
    keys: int
    both: int


@dataclass(frozen=True, slots=True)
class Experiment:
    """Two revisions compared. `measures[0]` is what decides; `path` is its interval after so many rows."""

    service: str
    rollout: str
    strategy: str
    status: str
    alpha: float
    smallest: float | None
    since: float
    until: float
    before: Arm
    after: Arm
    measures: tuple[Measure, ...]
    split: Split
    column: str
    segments: tuple[Segment, ...]
    path: tuple[Interval, ...]
    notes: tuple[str, ...]
    sentence: str

    @property
    def main(self) -> Measure:
        return self.measures[0]

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = jsonable(asdict(self))
        return out


def ab(
    ws: Workspace, service: str, *, metric: str = "", by_segment: str = "", alpha: float = 0.05, smallest: float | None = None
) -> Experiment:  # fmt: skip
    """Compare the two revisions of the running rollout of a service, or else of the newest; look as often as you like.

    `metric` decides: "right" (classification) or "error" (regression: mean absolute), of labelled predictions; "reward": the
    labels themselves, numbers such as 0 and 1 for conversion or money; "failures", "latency" or "slow". Left empty it is the
    first of them that there is. The others are shown beside it, each at its own `alpha`. With `smallest`, the effect that
    would matter (a share, or in the metric's unit), it can also be found that there is none so large. `by_segment` compares
    among the rows of each of the 8 most frequent values of an input column, at alpha / number of values (Bonferroni). Raises
    `NotFound` and `Invalid`.

    >>> ab(ws, "churn").sentence
    """
    if not 0 < alpha < 1 or (smallest is not None and not smallest > 0):
        raise Invalid(f"alpha {alpha:g}, smallest effect {smallest}", expected="alpha in 0..1, an effect above 0")
    rollout = _rollout(ws, service)
    parts = _parts(rollout)
    began, until = _span(rollout, parts, ws.now())
    before, after = (_read(ws, rollout, revision, began, until) for revision in (rollout.before, rollout.after))
    # Before the new revision got its first request there is nothing to compare with.
    since = min((r["time"] for r in (*after.records, *after.failures)), default=began)
    before = before.since(since)
    keyed = _keys_return(before) or _keys_return(after)
    look = _Look(before, after, keyed)
    main, *beside = _samples(look, metric)
    # The smallest effect that matters is one of the main measure, in its unit.
    measures = judge(main, alpha, smallest), *(judge(s, alpha) for s in beside)
    segments = _segments(main, by_segment, alpha, smallest) if by_segment else ()
    split = _split(_planned(rollout, parts, after.service), before, after)
    arms = before.shown(), after.shown()
    return Experiment(
        service=rollout.service, rollout=rollout.id, strategy=rollout.strategy, status=rollout.status, alpha=alpha,
        smallest=smallest, since=since, until=until, before=arms[0], after=arms[1], measures=measures, split=split,
        column=by_segment, segments=segments, path=path(main, alpha), notes=_notes(rollout, keyed, split, segments),
        sentence=f"{said(measures[0], _names(arms), smallest)}. {_advice(measures, split, smallest)}.",
    )  # fmt: skip


# --- what was answered -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Answers:
    """A revision's lines in the experiment."""

    service: Service
    model: Model | None
    records: Sequence[dict[str, Any]]
    failures: Sequence[dict[str, Any]]
    labels: dict[str, Any]

    def since(self, moment: float) -> _Answers:
        kept, failed = ([r for r in rs if r["time"] >= moment] for rs in (self.records, self.failures))
        return replace(self, records=kept, failures=failed)

    def labelled(self) -> Iterator[tuple[dict[str, Any], Any]]:
        return ((r, self.labels[r["id"]]) for r in self.records if r["id"] in self.labels)

    def shown(self) -> Arm:
        labelled = sum(1 for _ in self.labelled())
        return Arm(self.service.key, self.service.model, len(self.records), labelled, len(self.failures))


def _rollout(ws: Workspace, service: str) -> Rollout:
    name = service.removeprefix("service:").partition("@")[0]
    found = ws.store.find(Rollout, field("service") == name, order=["-started"])
    if not found:
        known = {r.service for r in ws.store.find(Rollout)}
        raise NotFound.named("service with a rollout", name, known, fix="boucle deploy MODEL")
    compared = [r for r in found if r.before and r.after]
    if not compared:
        raise Invalid(
            f"{name} has had one revision only", expected="two revisions to compare", fix="boucle deploy the next model"
        )
    return next((r for r in compared if r.status in ("running", "waiting", "paused")), compared[0])


@dataclass(frozen=True, slots=True)
class _Part:
    """A phase in which both revisions answer: what part of the traffic the new one gets, and when."""

    share: float
    started: float
    ended: float


def _parts(rollout: Rollout) -> list[_Part]:
    found = ((_CANARY.fullmatch(name), facts) for name, facts in rollout.phases.items())
    return [
        _Part(float(name[1]) / 100, facts["started"], facts.get("ended") or math.inf)
        for name, facts in found if name and facts.get("started")
    ]  # fmt: skip


def _span(rollout: Rollout, parts: Sequence[_Part], now: float) -> tuple[float, float]:
    """When both answered live requests; of a rollout without such phases all its time."""
    end = rollout.ended or now
    if not parts:
        return rollout.started, end
    return min(p.started for p in parts), min(end, max(p.ended for p in parts))


def _read(ws: Workspace, rollout: Rollout, revision: int, began: float, until: float) -> _Answers:
    service = ws.store.get(Service, f"{rollout.service}@{revision}")
    if service is None:
        raise NotFound(f"revision {revision} of {rollout.service} is gone", expected="its record", fix="boucle fsck")
    folder = Path(service.folder)

    def lines(name: str) -> list[dict[str, Any]]:
        # A rollout's id was made when it began, so nothing that is older than it has to be read.
        found = predictions.scan(folder / name, rollout.id, report=lambda _: None)
        return [
            r for r in found
            if began <= r["time"] <= until and r["request"] != "probe" and not r.get("shadow")
        ]  # fmt: skip

    model = ws.store.get(Model, service.model)
    return _Answers(service, model, lines("predictions"), lines("failures"), read(folder))


def _keys_return(answers: _Answers) -> bool:
    asked = {(r["key"], r["request"]) for r in answers.records if r.get("key")}
    return len({key for key, _ in asked}) < len(asked)


# --- what is compared --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Look:
    before: _Answers
    after: _Answers
    keyed: bool

    @property
    def both(self) -> tuple[_Answers, _Answers]:
        return self.before, self.after

    def row(self, record: dict[str, Any], value: float) -> Row:
        unit = (record.get("key") if self.keyed else "") or record["id"]
        return Row(record["time"], unit, value, record.get("inputs", {}))

    def counted(self, rows: str) -> str:
        return f"keys with {rows}" if self.keyed else rows


def _samples(look: _Look, metric: str) -> list[Sample]:
    """All there is to compare, the one that decides first."""
    money = metric == "reward"
    found = [*(_rewards(look) if money else _scores(look)), *_requests(look), *_answers(look)]
    by_name = {s.name: s for s in reversed(found)}
    if metric and metric not in by_name:
        if metric in ("right", "error", "reward"):
            raise Invalid(
                f"there is nothing to tell {metric!r} by", expected="labels that fit it",
                fix=f"boucle label {look.after.service.name} FILE",
            )  # fmt: skip
        raise NotFound.named("metric", metric, {*by_name, "reward"})
    main = by_name[metric] if metric else found[0]
    return [main, *(s for s in found if s is not main)]


def _scores(look: _Look) -> Iterable[Sample]:
    """How good labelled predictions were. A label from a file is text, so it is read as what the model says."""
    pairs = [list(a.labelled()) for a in look.both]
    if not any(pairs):
        return
    task = task_of(look.after.model, [(r["time"], truth, r["output"]) for p in pairs for r, truth in p])

    def rows(found: list[tuple[dict[str, Any], Any]]) -> list[Row]:
        out = []
        for record, label in found:
            answer = record["output"]["prediction"]
            truth = read_as(type(answer), label, task)
            if truth is not None and answer is not None:
                value = abs(float(answer) - truth) if task == "regression" else float(answer == truth)
                out.append(look.row(record, value))
        return out

    arms = rows(pairs[0]), rows(pairs[1])
    counted = look.counted("labelled predictions")
    if task == "regression":
        yield Sample("error", "", counted, "lower", arms)
    else:
        yield Sample("right", "%", counted, "higher", arms)


def _rewards(look: _Look) -> Iterable[Sample]:
    arms = _rewarded(look, look.before), _rewarded(look, look.after)
    if any(arms):
        unit = "%" if all(r.value in (0.0, 1.0) for arm in arms for r in arm) else ""
        yield Sample("reward", unit, look.counted("labelled predictions"), "higher", arms)


def _rewarded(look: _Look, answers: _Answers) -> list[Row]:
    out = []
    for record, label in answers.labelled():
        try:
            out.append(look.row(record, float(label)))
        except ValueError:
            raise Invalid(f"the label of {record['id']} is {label!r}", expected="a number, as a reward is") from None
    return out


def _requests(look: _Look) -> Iterable[Sample]:
    """Failures and response times, of whole requests."""
    answered = [list({r["request"]: r for r in a.records}.values()) for a in look.both]

    def failed(side: int) -> list[Row]:
        # A failed request is logged without its key, so here each request counts.
        lines = sorted((*answered[side], *look.both[side].failures), key=lambda r: r["time"])
        return [Row(r["time"], r["id"], float("status" in r)) for r in lines]

    yield Sample("failures", "%", "requests", "lower", (failed(0), failed(1)))

    def times(records: Sequence[dict[str, Any]]) -> list[Row]:
        return [look.row(r, r["latency_us"] / 1000) for r in records]

    arms = times(answered[0]), times(answered[1])
    tails = " and ".join(f"{np.quantile([r.value for r in arm], 0.95):.4g}" if arm else "-" for arm in arms)
    yield Sample("latency", "ms", look.counted("requests"), "lower", arms, detail=f"p95 {tails} ms")
    first, rest = arms[0][:_FIRST], arms[0][_FIRST:]
    if len(first) == _FIRST:
        # What slow means must not depend on what is judged by it.
        limit = float(np.quantile([r.value for r in first], 0.95))
        late = tuple([replace(r, value=float(r.value > limit)) for r in arm] for arm in (rest, arms[1]))
        yield Sample("slow", "%", look.counted("requests"), "lower", (late[0], late[1]), detail=f"{limit:.4g} ms")


def _answers(look: _Look) -> Iterable[Sample]:
    """What was predicted: numbers by their mean, classes by their shares."""
    given = [[(r, v) for r in a.records if (v := r["output"].get("prediction")) is not None] for a in look.both]
    task = task_of(look.after.model, [(0.0, None, {"prediction": v}) for arm in given for _, v in arm])
    counted = look.counted("predictions")
    if task == "regression":
        arms = tuple([look.row(r, float(v)) for r, v in arm] for arm in given)
        yield Sample("prediction", "", counted, "", (arms[0], arms[1]))
        return
    counts = Counter(str(v) for arm in given for _, v in arm)
    if len(counts) == 2:
        del counts[min(counts)]  # the share of one is that of the other
    for name, _ in counts.most_common(_CLASSES):
        arms = tuple([look.row(r, float(str(v) == name)) for r, v in arm] for arm in given)
        yield Sample("prediction", "%", counted, "", (arms[0], arms[1]), detail=name)


def _segments(sample: Sample, column: str, alpha: float, smallest: float | None) -> tuple[Segment, ...]:
    if sample.name == "failures":
        raise Invalid("a failed request is kept without its inputs", expected="another metric, or no segments")
    rows = [r for arm in sample.arms for r in arm]
    known = {n for r in rows for n in r.inputs}
    if rows and column not in known:
        raise NotFound.named("input column", column, known)
    chosen = [v for v, _ in Counter(str(r.inputs.get(column)) for r in rows).most_common(_SEGMENTS)]

    def among(value: str) -> Sample:
        arms = tuple([r for r in arm if str(r.inputs.get(column)) == value] for arm in sample.arms)
        return replace(sample, arms=(arms[0], arms[1]))

    return tuple(Segment(v, judge(among(v), alpha / len(chosen), smallest)) for v in chosen)


def _split(planned: float | None, before: _Answers, after: _Answers) -> Split:
    """Whether the arms got the parts they were to get: a mismatch means that something else than chance dealt them out
    (Fabijan et al. 2019, *Diagnosing sample ratio mismatch*; looked at any time as in Lindon and Malek 2022)."""
    keys = [{r["key"] for r in a.records if r.get("key")} for a in (before, after)]
    units = [
        len(k) + len({r["request"] for r in (*a.records, *a.failures) if not r.get("key")})
        for k, a in zip(keys, (before, after), strict=True)
    ]
    found = share(units[1], sum(units), MISMATCH)
    wrong = planned is not None and not found.low <= planned <= found.high
    both = len(keys[0] & keys[1])
    return Split(planned, found.estimate, found.low, found.high, wrong, len(keys[0] | keys[1]), both)


def _planned(rollout: Rollout, parts: Sequence[_Part], after: Service) -> float | None:
    """The part that the new revision was to get, where it has been one and the same all the time."""
    if parts:
        return parts[0].share if len({p.share for p in parts}) == 1 else None
    if rollout.strategy != "ab":
        return None
    planned = rollout.policy.get("share", after.share)
    return float(planned) if isinstance(planned, int | float) and 0 < planned < 1 else None


# --- what is said ------------------------------------------------------------------------------------------------------


def _notes(rollout: Rollout, keyed: bool, split: Split, segments: Sequence[Segment]) -> tuple[str, ...]:
    out = []
    if split.mismatch and split.planned is not None:
        out.append(
            f"the new revision was to answer {split.planned:.1%} and answered {split.observed:.1%}: something else than "
            "chance dealt out the traffic, and until it is found the comparison means nothing"
        )
    if split.planned is None:
        out.append(
            f"in this {rollout.strategy} rollout the parts of the traffic were not the same all the time, so what changed with "
            "time can look like an effect of the revision"
        )
    if split.both:
        out.append(f"{split.both:,} of {split.keys:,} keys got answers of both revisions")
    if keyed:
        out.append("keys return, so that each key counts once, with the mean of what it got")
    if segments:
        out.append(
            f"each segment is judged at alpha {segments[0].measure.level:.4g}, so that all hold together (Bonferroni)"
        )
    return tuple(out)


def _names(arms: tuple[Arm, Arm]) -> tuple[str, str]:
    """Models are what people know; revisions where both run the same one."""
    before, after = arms
    return (before.model, after.model) if before.model != after.model else (before.service, after.service)


def _advice(measures: Sequence[Measure], split: Split, smallest: float | None) -> str:
    main, worse = measures[0], [m.name for m in measures[1:] if m.verdict == WORSE]
    if split.mismatch and split.planned is not None:
        return (
            f"It must not be trusted: the new revision was to answer {split.planned:.1%} of the traffic and answered "
            f"{split.observed:.1%}"
        )
    beside = f", but it is worse in {' and '.join(worse)}" if worse else ""
    if main.decided:
        return f"The experiment may be stopped{beside}"
    if main.needed is None:
        return f"More {main.counted} are needed{beside}"
    size = f"a difference of {effect_shown(smallest, main.unit, False)}" if smallest else "a difference of this size"
    points = " points" if smallest and main.unit == "%" else ""
    time = f", {duration(main.seconds)} at the present rate," if main.seconds else ""
    return f"About {about(main.needed)} more {main.counted} per revision{time} would show {size}{points}{beside}"
