"""One look at a service: read on, judge, keep what changed."""

from __future__ import annotations

import functools
import math
import operator
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from blake3 import blake3

from boucle.core import predictions
from boucle.core.errors import Invalid, NotFound
from boucle.core.records import Edge, Model, Service, Verdict
from boucle.core.refs import new_id, parse_time
from boucle.core.schema import jsonable
from boucle.core.where import field as where
from boucle.ledger import services
from boucle.ledger.journal import note
from boucle.measure.anomaly import Anomalies, anomalies
from boucle.measure.concept import Concept, concept
from boucle.measure.drift import Drift, drift
from boucle.measure.estimate import Estimate, estimate
from boucle.measure.sketch import Reference, Window
from boucle.ops.label import Outcome, history
from boucle.ops.watch import log
from boucle.ops.watch.reference import FIRST, Origin, find, layout
from boucle.ops.watch.tally import Tally, restored

if TYPE_CHECKING:
    from boucle.workspace import Workspace

CHECK, ANOMALY, CONCEPT = "drift", "anomaly", "concept"
_BEHIND = 1.0  # seconds; a log may still get ids so much older than its newest
_WORTH = 2000  # rows that are read again rather than kept: writing costs as much
_ESTIMATED = 1000  # rows, the last ones


@dataclass(frozen=True, slots=True)
class Watched:
    """What a look at a service found: traffic, drift, anomalies, and how good its predictions were or are likely to be.

    `status` and `sentence` are those of the drift. `since_time` says for each column that moved when the rows begin that
    show it. `latency` has seconds per quantile. `concept` judges the errors of labelled predictions, None without labels.
    `estimate` is an estimate of the scores without labels, not a measurement.
    """

    service: str
    model: str
    reference: str
    status: str
    sentence: str
    rows: int
    probes: int
    first: float
    last: float
    latency: dict[str, float]
    drift: Drift | None
    since_time: dict[str, float] = field(default_factory=dict)
    outcome: Outcome | None = None
    outcomes: tuple[Outcome, ...] = ()
    concept: Concept | None = None
    estimate: Estimate | None = None
    anomaly: Anomalies | None = None
    verdict: str = ""
    sketches: Window | None = field(default=None, repr=False, compare=False)  # the rows that the scores are of
    against: Reference | None = field(default=None, repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        plain = {f: getattr(self, f) for f in (
            "service", "model", "reference", "status", "sentence", "rows", "probes", "first", "last", "latency",
            "since_time", "verdict",
        )}  # fmt: skip
        for name in ("drift", "outcome", "concept", "estimate", "anomaly"):
            found = getattr(self, name)
            plain[name] = found.to_json() if found is not None else None
        plain["outcomes"] = [o.to_json() for o in self.outcomes]
        out: dict[str, Any] = jsonable(plain)
        return out


def watch(
    ws: Workspace, service: Service | str, *, since: float | str | None = None, window: int | None = None
) -> Watched:
    """Look at what a revision answered and judge it; look as often as you like.

    Without `since` and `window` all that was ever answered is judged, and a change is found whenever it began: a `Verdict`
    (checks `drift`, `concept` and `anomaly`) is kept when the judgement changes, and an event (`service.drift`,
    `service.concept`, `service.anomaly`) when its status does. With `since` (a time) or `window` (the last rows) only those
    are judged, nothing is kept, and the guarantee on false alarms holds for this one window. Answers to the probe at
    deployment are left out. Raises `NotFound` and `Invalid`.

    >>> watch(ws, "churn").status
    """
    found = service if isinstance(service, Service) else services.resolve(ws, service)
    if window is not None and window < 1:
        raise Invalid(f"a window of {window} rows", expected="1 or more")
    moment = parse_time(since, ws.now()) if isinstance(since, str) else since
    model = ws.store.get(Model, found.model)
    if model is None:
        raise NotFound(f"{found} has lost its model {found.model}", expected="a registered model", fix="boucle fsck")
    form = layout(ws, model)
    origin = find(ws, found, model, form)
    partial = moment is not None or window is not None
    tally = _chosen(found, form, origin, moment, window) if partial else _caught_up(ws, found, form, origin)
    judged = drift(origin.reference, tally.windows) if origin.reference is not None and tally.windows else None
    status, sentence = (judged.status, judged.sentence) if judged else ("pass", _nothing(tally, origin))
    told = history(ws, found, since=moment or 0.0, known=origin.errors)
    learned = concept(told.times, told.errors, known=told.known, what=told.what) if told is not None else None
    odd = None if partial else _anomalies(ws, found, tally)
    verdict, moved = "", _since(judged, tally)
    if not partial:
        verdict = _keep_drift(ws, found, judged, origin.said, moved) if judged is not None else ""
        _keep(ws, found, ANOMALY, odd, kind=odd.kind) if odd is not None and tally.rows else None
        _keep(ws, found, CONCEPT, learned, since=learned.since) if learned is not None else None
    return Watched(
        service=found.key, model=model.key, reference=origin.said, status=status, sentence=sentence, rows=tally.rows,
        probes=tally.probes, first=tally.first, last=tally.last, latency=tally.quantiles(), drift=judged,
        since_time=moved, outcome=told.whole if told else None, outcomes=told.spans if told else (),
        concept=learned, estimate=_estimate(model, origin, tally), anomaly=odd, verdict=verdict,
        sketches=_shown(judged, tally), against=origin.reference,
    )  # fmt: skip


# --- reading -----------------------------------------------------------------------------------------------------------


def _chosen(service: Service, form: log.Layout, origin: Origin, moment: float | None, window: int | None) -> Tally:
    held: deque[log.Block] = deque()
    have = 0
    for block in log.read(Path(service.folder), form):
        chosen = block.filter(block.asked & (block.times >= (moment or 0.0)))
        held.append(chosen)
        have += len(chosen)
        while window is not None and have - len(held[0]) >= window:
            have -= len(held.popleft())
    if window is not None and have > window:
        held[0] = held[0].slice(have - window, len(held[0]))
    return _folded(held, origin)


def _folded(blocks: Iterable[log.Block], origin: Origin) -> Tally:
    tally = Tally(origin)
    for block in blocks:
        tally.take(block)
    return tally


def _caught_up(ws: Workspace, service: Service, form: log.Layout, origin: Origin) -> Tally:
    """All that was answered: what is kept of earlier looks, and what came since, which is kept when it is worth it and old enough
    that nothing older can come."""
    folder = Path(service.folder)
    path = folder / "watch" / "state.json"
    mark = _mark(folder)
    tally = restored(path, mark, origin)
    settled, fresh = ws.now() - _BEHIND, 0
    for record in predictions.scan(folder / log.FAILURES, tally.failed_after):
        if record["time"] < settled:
            tally.fail(record)
    for block in log.read(folder, form, tally.after):
        # Times hardly differ from the order of the ids; from the first that is too new on, all waits.
        new = np.flatnonzero(block.times >= settled)
        end = int(new[0]) if len(new) else len(block)
        tally.take(block.slice(0, end))
        fresh += end
        if end < len(block):
            break
    if origin.reference is not None and fresh >= _WORTH:
        tally.keep(path, mark)
    for block in log.read(folder, form, tally.after):
        tally.take(block)
    return tally


def _mark(folder: Path) -> str:
    path = folder / "watch" / "reference.json"
    return blake3(path.read_bytes()).hexdigest() if path.is_file() else ""


# --- judging -----------------------------------------------------------------------------------------------------------


def _anomalies(ws: Workspace, service: Service, tally: Tally) -> Anomalies:
    """A service that is ready should be asked now; of another the time ends with its last answer. How much it is asked says
    something only while it has all the traffic."""
    ready = service.status == "ready"
    steady = math.inf
    if ready:
        came = ws.store.events(subject=str(service), type="service.ready")
        steady = max((e.time for e in came), default=tally.first)
    until = ws.now() - _BEHIND if ready else tally.last
    return anomalies(tally.bins, until, tally.odd.strangest, tally.odd.rows, since=tally.first, steady=steady)


def _estimate(model: Model, origin: Origin, tally: Tally) -> Estimate:
    if origin.calibration is not None and tally.sure:
        return estimate(origin.calibration, tally.recent(_ESTIMATED))
    if not tally.rows:
        return Estimate("no estimate: nothing was asked yet")
    if model.task == "regression":
        return Estimate("no estimate: a regressor does not say how sure it is")
    return Estimate("no estimate: the model gives no probabilities, or the rows it was trained on are not known")


def _nothing(tally: Tally, origin: Origin) -> str:
    if origin.reference is None:
        return f"no training rows are known, and of the first {FIRST:,} rows to compare with {tally.rows:,} have come"
    return "nothing was asked yet"


def _shown(judged: Drift | None, tally: Tally) -> Window | None:
    if judged is None:
        return None
    parts = {c.name: [w.columns[c.name] for w in tally.windows[c.since // tally.unit :]] for c in judged.columns}
    return Window(judged.rows, {n: functools.reduce(operator.add, sketches) for n, sketches in parts.items()})


def _since(judged: Drift | None, tally: Tally) -> dict[str, float]:
    if judged is None:
        return {}
    return {c.name: tally.times[c.since // tally.unit] for c in judged.columns if c.status != "pass"}


# --- keeping -----------------------------------------------------------------------------------------------------------


def _keep_drift(ws: Workspace, service: Service, judged: Drift, origin: str, since: dict[str, float]) -> str:
    moved = sorted(since)
    worst = max(judged.columns, key=lambda c: c.scores.effect)
    evidence = {
        "moved": moved, "reference": origin, "rows": judged.rows, "level": judged.level,
        "columns": [asdict(c) for c in judged.columns],
    }  # fmt: skip
    same = lambda before: before.evidence["moved"] == moved  # noqa: E731
    said = {"columns": moved, **({"since": min(since.values())} if since else {})}
    return _kept(ws, service, CHECK, judged.status, judged.sentence, evidence, same, worst.scores.effect, **said)


def _keep(ws: Workspace, service: Service, check: str, judged: Anomalies | Concept, **said: Any) -> None:
    same = lambda before: all(before.evidence.get(k) == v for k, v in said.items() if k == "kind")  # noqa: E731
    _kept(ws, service, check, judged.status, judged.sentence, judged.to_json(), same, None, **said)


def _kept(
    ws: Workspace,
    service: Service,
    check: str,
    status: str,
    sentence: str,
    evidence: dict[str, Any],
    same: Callable[[Verdict], bool],
    score: float | None,
    **said: Any,
) -> str:
    """The verdict's id, an old one where the judgement is the same."""
    subject = str(service)
    asked = (where("subject") == subject) & (where("check") == check)
    before = next(iter(ws.store.find(Verdict, asked, order=["-created"], limit=1)), None)
    if before is not None and before.status == status and same(before):
        return before.id
    verdict = Verdict(
        id=new_id(), subject=subject, check=check, status=status, summary=sentence, score=score,
        evidence=jsonable(evidence), created=ws.now(), actor=ws.actor,
    )  # fmt: skip
    with ws.store.transaction():
        ws.store.put(verdict)
        ws.store.link(Edge(str(verdict), "judges", subject, verdict.created))
        was = before.status if before else "pass"
        if was != status:
            note(
                ws, f"service.{check}", subject, reason=sentence, before=was, after=status, status=status,
                sentence=sentence, verdict=verdict.id, **said,
            )  # fmt: skip
    return verdict.id
