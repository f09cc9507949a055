"""KPI: how fast and how safely models come into production, from nothing but what was recorded on the way.

The four measures of DORA (Forsgren, Humble and Kim: Accelerate, 2018; dora.dev) as they read for models, and what is asked of
MLOps beyond them: how long trouble goes unseen, and how much happens without a person.
"""

from __future__ import annotations

import datetime as dt
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from boucle.core.errors import Invalid
from boucle.core.records import Alert, Code, Event, Model, Rollout, Run, Service
from boucle.core.refs import Ref, parse_time
from boucle.core.where import field as where

if TYPE_CHECKING:
    from boucle.workspace import Workspace

WEEK = 7 * 86400.0
TROUBLE_SECONDS = 86400.0  # what goes wrong so soon after an update is laid to it
_MONDAY = 4 * 86400.0  # the first Monday after the epoch
_PAGE = 10_000


@dataclass(frozen=True, slots=True)
class Kpi:
    """One number: its unit (seconds, per week, share), None where nothing was recorded to compute it from; what it means, of how
    many observations it is, and numbers beside it."""

    name: str
    value: float | None
    unit: str
    n: int
    means: str
    beside: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Week:
    """Seven days from a Monday, 0:00 UTC: successful updates, changes that failed, median seconds from commit to production,
    transitions and how many of them without a person."""

    start: float
    updates: int = 0
    failures: int = 0
    deployment_time: float | None = None
    transitions: int = 0
    unattended: int = 0


@dataclass(frozen=True, slots=True)
class Kpis:
    """All of them over a window (epoch seconds), for one service or, with '', for all; the times of successful updates, and the
    trend by weeks."""

    since: float
    until: float
    service: str
    values: tuple[Kpi, ...]
    updates: tuple[float, ...]
    weeks: tuple[Week, ...]

    def __getitem__(self, name: str) -> Kpi:
        return next(k for k in self.values if k.name == name)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "values": {k.name: asdict(k) for k in self.values}}


def kpis(
    ws: Workspace, *, since: float | str | None = None, until: float | str | None = None, service: str = ""
) -> Kpis:
    """The numbers over a window, by default from the first thing that was recorded until now.

    An *update* is a rollout that ended, or a revision that became ready without one; a rollout that brings back the model before
    is its remedy and none itself, one that a person ended (`aborted`) is neither. Where nothing was recorded a value is None.

    `deployment_time`: seconds from the commit of the code that trained a model to that model answering in production,
    median, with the 90th percentile; each commit counts once per service, when it first gets there (DORA: change lead
    time). `lead_time`: the same from the registration of the model. `update_frequency`: successful updates per week of
    the window, of one week at least (DORA: deployment frequency). `change_failure_rate`: share of the updates that
    failed or were rolled back, or after which, within a day (`TROUBLE_SECONDS`), the model before was brought back or a
    critical alert about the service was opened that an update can cause (drift comes from outside; DORA: change fail
    rate). `time_to_detect`: mean seconds from the onset of trouble to its alert, where the onset is known.
    `time_to_resolve`: mean seconds from the onset, or else from the alert, until it was resolved (DORA: failed
    deployment recovery time, here for all trouble that people were told). `automation`: share of the moves of models
    between stages, phases and ends of rollouts and finished rules that a worker made by itself.

    Raises `Invalid` for a window that ends before it begins. An unknown service has no data.

    >>> kpis(ws, since="90 days ago")["change_failure_rate"].value
    """
    now = ws.now()
    record = _Record(ws, service)
    end = _moment(until, now) if until is not None else now
    begin = _moment(since, now) if since is not None else min(record.begin, end)
    if end < begin:
        raise Invalid(f"a window from {_iso(begin)} to {_iso(end)}", expected="a beginning before its end")
    changes = [c for c in record.changes if begin <= c.time <= end]
    good = [c for c in changes if c.live]
    failed = [c for c in changes if c.failed]
    commits = [c.time - c.committed for c in good if c.committed]
    registered = [c.time - c.registered for c in good if c.registered]
    moves = [e for e in record.moves if begin <= e.time <= end]
    alone = [e for e in moves if e.actor.startswith("worker")]
    opened = [a for a in record.alerts if begin <= a.opened <= end]
    detected = [max(a.opened - a.onset, 0.0) for a in opened if a.onset]
    resolved = [a.resolved - (a.onset or a.opened) for a in record.alerts if a.resolved and begin <= a.resolved <= end]
    span = max(1.0, (end - begin) / WEEK)
    known = any(c.time <= end for c in record.changes)
    values = (
        _spread("deployment_time", commits, "from the commit of the code to the model in production, median"),
        _spread("lead_time", registered, "from the registration of the model to production, median"),
        Kpi("update_frequency", len(good) / span if known else None, "per week", len(good),
            "updates of services that succeeded"),
        Kpi("change_failure_rate", len(failed) / len(changes) if changes else None, "share", len(changes),
            "updates that failed, were rolled back, or were followed by trouble within a day",
            {"failed": len(failed)} if changes else {}),
        _mean("time_to_detect", detected, "from the onset of trouble to its alert, mean"),
        _mean("time_to_resolve", resolved, "from the onset of trouble to its end, mean"),
        Kpi("automation", len(alone) / len(moves) if moves else None, "share", len(moves),
            "moves of models and rollouts, and rules, that needed no person"),
    )  # fmt: skip
    weeks = _weeks(begin, end, changes, moves) if changes or moves else ()
    return Kpis(begin, end, service, values, tuple(c.time for c in good), weeks)


@dataclass(frozen=True, slots=True)
class _Change:
    """One update: when it ended, whether it came into production, whether it is held to have failed, and, where it was the first
    to bring them there, when its commit and its model were made."""

    time: float
    live: bool
    failed: bool
    committed: float
    registered: float


class _Record:
    """What was recorded that the numbers are of."""

    def __init__(self, ws: Workspace, service: str) -> None:
        self._ws, self._name = ws, service
        self._services = ws.store.find(Service, where("name") == service if service else None)
        self._models = {s.key: s.model for s in self._services}

    @cached_property
    def changes(self) -> list[_Change]:
        """The updates, in the order they ended."""
        ended = sorted([*self._rollouts(), *self._without_rollout()], key=lambda r: r.ended)
        after: dict[str, list[Rollout]] = defaultdict(list)
        for rollout in ended:
            after[rollout.service].append(rollout)
        seen: set[tuple[str, str]] = set()

        def first(service: str, what: str) -> bool:
            new = (service, what) not in seen
            seen.add((service, what))
            return new

        out = []
        for rollout in ended:
            live = rollout.status == "finished"
            if live and self._remedies(rollout, after[rollout.service]):
                continue
            failed = not live or self._troubled(rollout, after[rollout.service])
            code = self._code(rollout.model) if live else None
            fresh_code = code is not None and first(rollout.service, f"commit:{code.commit}")
            fresh_model = live and first(rollout.service, rollout.model)
            out.append(_Change(
                rollout.ended, live, failed, code.committed if code and fresh_code else 0.0,
                self._registered.get(f"model:{rollout.model}", 0.0) if fresh_model else 0.0,
            ))  # fmt: skip
        return out

    def _rollouts(self) -> list[Rollout]:
        found = self._ws.store.find(Rollout, where("service") == self._name if self._name else None)
        return [r for r in found if r.status in ("finished", "failed") and r.ended]

    def _without_rollout(self) -> Iterator[Rollout]:
        """Revisions that became ready by other means than a rollout, as if they had had one."""
        known = {f"{r.service}@{r.after}" for r in self._ws.store.find(Rollout)}
        ready: dict[str, float] = {}
        for event in self._events("service.ready"):
            ready.setdefault(event.subject.removeprefix("service:"), event.time)
        for service in self._services:
            if service.key in ready and service.key not in known:
                yield Rollout(
                    id=service.key, service=service.name, strategy="", status="finished", model=service.model,
                    after=service.revision, started=service.created, ended=ready[service.key],
                )  # fmt: skip

    def _before(self, rollout: Rollout) -> str:
        """The model that answered before a rollout."""
        return self._models.get(f"{rollout.service}@{rollout.before}", "")

    def _remedies(self, rollout: Rollout, others: Sequence[Rollout]) -> bool:
        """Whether a rollout takes another one back."""
        return any(self._takes_back(rollout, other) for other in others if other.ended < rollout.ended)

    def _takes_back(self, later: Rollout, one: Rollout) -> bool:
        went_back = self._before(one) == later.model != one.model and later.before == one.after
        return went_back and later.status == one.status == "finished"

    def _troubled(self, rollout: Rollout, others: Sequence[Rollout]) -> bool:
        def soon(moment: float) -> bool:
            return rollout.ended < moment <= rollout.ended + TROUBLE_SECONDS

        subjects = (f"service:{rollout.service}", f"service:{rollout.service}@{rollout.after}")
        model = f"model:{rollout.model}"
        return (
            any(self._takes_back(o, rollout) and soon(o.ended) for o in others)
            or any(left == model and soon(moment) for left, moment in self._rolled_back)
            or any(a.subject in subjects and _caused(a) and soon(a.opened) for a in self.alerts)
        )

    @cached_property
    def _rolled_back(self) -> list[tuple[str, float]]:
        """Models that had to leave production for one that had been there before, and when."""
        out, left = [], {}
        for event in self._events("model.stage"):
            name = Ref.parse(event.subject).name
            move = (event.data.get("before"), event.data.get("after"))
            if move[0] == "production":
                left[name] = event
            elif move == ("archived", "production") and name in left and left[name].sequence == event.sequence - 1:
                out.append((left[name].subject, event.time))
        return out

    @cached_property
    def _registered(self) -> dict[str, float]:
        return {e.subject: e.time for e in self._events("model.registered")}

    def _code(self, model: str) -> Code | None:
        """The code that trained a model; None when its commit is not known."""
        record = self._ws.store.get(Model, model)
        run = self._ws.store.get(Run, record.run) if record and record.run else None
        while run and not run.code and run.parent:
            run = self._ws.store.get(Run, run.parent)
        code = self._ws.store.get(Code, run.code) if run and run.code else None
        return code if code and code.committed else None

    @cached_property
    def alerts(self) -> list[Alert]:
        """What people were told that was more than news."""
        found = self._ws.store.find(Alert, where("severity") != "info", order=["opened"])
        return [a for a in found if self._about(a.subject)]

    @cached_property
    def moves(self) -> list[Event]:
        """The transitions that a person or a worker makes."""
        kinds = ("model.stage", "rollout.phase", "rollout.finished", "rollout.failed", "rule.done")
        found = [e for kind in kinds for e in self._events(kind) if not e.reason.endswith(" took its place")]
        return sorted((e for e in found if self._about(e.subject)), key=lambda e: e.sequence)

    @property
    def begin(self) -> float:
        """When the first thing was recorded."""
        first = self._ws.store.events(limit=1)
        known = [*(e.time for e in first), *(c.time for c in self.changes), *(a.opened for a in self.alerts)]
        return min(known, default=self._ws.now())

    def _about(self, subject: str) -> bool:
        if not self._name:
            return True
        kind, _, key = subject.partition(":")
        name = key.partition("@")[0]
        if kind == "model":
            return name in {m.partition("@")[0] for m in self._models.values()}
        return kind == "service" and name == self._name

    def _events(self, type: str) -> Iterator[Event]:
        after = 0
        while found := self._ws.store.events(after=after, type=type, limit=_PAGE):
            yield from found
            after = found[-1].sequence


def _spread(name: str, values: Sequence[float], means: str) -> Kpi:
    if not values:
        return Kpi(name, None, "seconds", 0, means)
    return Kpi(name, statistics.median(values), "seconds", len(values), means, {"p90": _quantile(values, 0.9)})


def _mean(name: str, values: Sequence[float], means: str) -> Kpi:
    if not values:
        return Kpi(name, None, "seconds", 0, means)
    return Kpi(name, statistics.fmean(values), "seconds", len(values), means, {"median": statistics.median(values)})


def _quantile(values: Sequence[float], q: float) -> float:
    """Type 7 of Hyndman and Fan (1996), which NumPy and R use, too."""
    ordered = sorted(values)
    at = q * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def _weeks(begin: float, end: float, changes: Sequence[_Change], moves: Sequence[Event]) -> tuple[Week, ...]:
    by_change, by_move = _grouped((c.time, c) for c in changes), _grouped((e.time, e) for e in moves)
    out = []
    start = _monday(begin)
    while start <= end:
        mine, moved = by_change.get(start, []), by_move.get(start, [])
        took = [c.time - c.committed for c in mine if c.live and c.committed]
        out.append(Week(
            start, sum(c.live for c in mine), sum(c.failed for c in mine), statistics.median(took) if took else None,
            len(moved), sum(e.actor.startswith("worker") for e in moved),
        ))  # fmt: skip
        start += WEEK
    return tuple(out)


def _grouped(pairs: Iterable[tuple[float, Any]]) -> dict[float, list[Any]]:
    out: dict[float, list[Any]] = defaultdict(list)
    for time, thing in pairs:
        out[_monday(time)].append(thing)
    return out


def _monday(time: float) -> float:
    return time - (time - _MONDAY) % WEEK


def _moment(given: float | str, now: float) -> float:
    return parse_time(given, now) if isinstance(given, str) else given


def _iso(moment: float) -> str:
    return dt.datetime.fromtimestamp(moment, dt.UTC).isoformat(timespec="seconds")


def _caused(alert: Alert) -> bool:
    # That the world has changed is no fault of the model that was there when it did.
    return alert.severity == "critical" and alert.name not in ("drift", "concept", "data")
