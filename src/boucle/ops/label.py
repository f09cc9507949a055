"""Label: what really happened, told later, by the id of the prediction. And how good the predictions were, given that."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from boucle.core import predictions
from boucle.core.labels import LOG, Labelled, keep, read
from boucle.core.records import Model, Service
from boucle.core.where import field
from boucle.ledger import services
from boucle.measure import scores
from boucle.measure.concept import scaled

if TYPE_CHECKING:
    from boucle.workspace import Workspace

_SPANS = (3600.0, 6 * 3600.0, 86400.0, 7 * 86400.0, 30 * 86400.0)
_MOST_SPANS = 24
_MOST_ERRORS = 20_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """One span of event time: how many predictions were answered in it, how many have a label, and the scores of those."""

    start: float
    end: float
    answered: int
    labelled: int
    scores: dict[str, float]

    @property
    def completeness(self) -> float:
        """Share of the answered predictions whose outcome is known."""
        return self.labelled / self.answered if self.answered else 0.0

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "completeness": self.completeness}


def label(ws: Workspace, service: Service | str, outcomes: Any) -> Labelled:
    """Keep true outcomes of a service's predictions, of any of its revisions.

    `outcomes` is a mapping of id -> label, pairs of them, or a table with columns `id` and `label`. They are on the disk when
    this returns. Ids that the service has not given are left out and returned. Raises `Invalid` for what is no id or no
    label, and then nothing is kept.

    >>> label(ws, "churn", {"01JC...": "stays"})
    """
    found = service if isinstance(service, Service) else services.resolve(ws, service)
    revisions = ws.store.find(Service, field("name") == found.name, order=["-revision"])
    return keep([Path(r.folder, LOG) for r in revisions], _pairs(outcomes), ws.now())


@dataclass(frozen=True, slots=True)
class History:
    """The labelled predictions of a revision: how good all were together and by when they were asked, and the error of each of
    the last ones with its time: wrong or right, or for numbers the distance as a share of three times the usual one."""

    whole: Outcome
    spans: tuple[Outcome, ...]
    times: tuple[float, ...]
    errors: tuple[float, ...]
    what: str
    known: tuple[float, ...] = ()  # the same on rows that were kept back when the model was made


def outcomes(ws: Workspace, service: Service, *, since: float = 0.0) -> tuple[Outcome, tuple[Outcome, ...]] | None:
    """How good the labelled predictions of a revision were: all together, and by when they were asked (spans of an hour to a
    month, at most 24). None where nothing is labelled."""
    found = history(ws, service, since=since)
    return (found.whole, found.spans) if found is not None else None


def history(
    ws: Workspace, service: Service, *, since: float = 0.0, known: Sequence[float] = ()
) -> History | None:  # fmt: skip
    """The labelled predictions of a revision that were asked since then, however late the labels came; None where nothing is
    labelled. Errors are of the last 20,000; `known` are those on rows that were kept back, which say what is usual."""
    labels = read(Path(service.folder))
    if not labels:
        return None
    model = ws.store.get(Model, service.model)
    times: list[float] = []
    pairs: list[tuple[float, Any, dict[str, Any]]] = []
    for record in predictions.scan(Path(service.folder, "predictions")):
        if record["request"] == "probe" or record["time"] < since:
            continue
        times.append(record["time"])
        if record["id"] in labels:
            pairs.append((record["time"], labels[record["id"]], record["output"]))
    if not times:
        return None
    task = task_of(model, pairs)
    positive = model.tags.get("positive") if model else None
    span = next((s for s in _SPANS if (max(times) - min(times)) / s < _MOST_SPANS), _SPANS[-1])

    def over(start: float, end: float) -> Outcome:
        mine = [p for p in pairs if start <= p[0] < end]
        answered = sum(start <= t < end for t in times)
        return Outcome(start, end, answered, len(mine), _scores(task, mine, positive))

    whole = over(min(times), math.nextafter(max(times), math.inf))
    starts = sorted({t // span * span for t in times})
    moments, errors = _errors(task, sorted(pairs[-_MOST_ERRORS:], key=lambda p: p[0]), known)
    kept = np.array(known, np.float64)
    kept = scaled(kept, kept) if len(kept) and task == "regression" else kept
    what = "distance (as a share of three times the usual)" if task == "regression" else "error rate"
    return History(whole, tuple(over(s, s + span) for s in starts), moments, errors, what, tuple(kept.tolist()))


def _errors(
    task: str, pairs: list[tuple[float, Any, dict[str, Any]]], kept: Sequence[float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:  # fmt: skip
    kind = type(next((o["prediction"] for _, _, o in pairs if o["prediction"] is not None), ""))
    known = [(t, read_as(kind, v, task), o["prediction"]) for t, v, o in pairs]
    usable = [(t, v, said) for t, v, said in known if v is not None and said is not None]
    moments = tuple(t for t, _, _ in usable)
    if task != "regression":
        return moments, tuple(float(v != said) for _, v, said in usable)
    gaps = np.array([abs(float(v) - float(said)) for _, v, said in usable])
    return moments, tuple(scaled(gaps, np.array(kept) if kept else None).tolist()) if len(gaps) else ()


def task_of(model: Model | None, pairs: list[tuple[float, Any, dict[str, Any]]]) -> str:
    """The task of a model, or what its answers look like."""
    if model and model.task in scores.TASKS:
        return model.task
    said = [output["prediction"] for _, _, output in pairs]
    if said and all(isinstance(v, int | float) and not isinstance(v, bool) for v in said):
        return "regression"
    return "multiclass"


def _scores(task: str, pairs: list[tuple[float, Any, dict[str, Any]]], positive: Any) -> dict[str, float]:
    """Labels may come from a file where all is text, so each is read as what the model says."""
    said = [output["prediction"] for _, _, output in pairs]
    if not said:
        return {}
    kind = type(next((v for v in said if v is not None), ""))
    truth = [read_as(kind, value, task) for _, value, _ in pairs]
    usable = [i for i, (t, s) in enumerate(zip(truth, said, strict=True)) if t is not None and s is not None]
    if not usable:
        return {}
    shares = [pairs[i][2].get("probabilities") for i in usable]
    matrix, classes = None, None
    if all(isinstance(s, Mapping) for s in shares):
        names = list(shares[0])  # type: ignore[arg-type]
        matrix = [[s.get(n) or 0.0 for n in names] for s in shares]  # type: ignore[union-attr]
        classes = [read_as(kind, n, task) for n in names]
    if positive is not None:
        positive = read_as(kind, positive, task)
    return scores.score(
        task, [truth[i] for i in usable], [said[i] for i in usable], matrix, classes, positive=positive
    )  # fmt: skip


def read_as(kind: type, value: Any, task: str) -> Any:
    """A label as a value of the type that the model says, since one from a file is text; None for what is none."""
    try:
        if kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}.get(str(value).lower())
        if kind in (int, float):
            number = float(value)
            return number if task == "regression" or not number.is_integer() else int(number)
        return str(value)
    except (TypeError, ValueError):
        return None


def _pairs(given: Any) -> Iterable[tuple[Any, Any]]:
    from boucle.core.frames import Frame

    if isinstance(given, Mapping) and not (set(given) == {"id", "label"} and isinstance(given["id"], list | tuple)):
        return list(given.items())
    if isinstance(given, list | tuple) and all(isinstance(p, tuple | list) and len(p) == 2 for p in given):
        return [tuple(p) for p in given]
    frame = Frame.of(given)
    table = frame.table(["id", "label"])  # a missing column fails here, with the near ones
    return zip(table.column("id").to_pylist(), table.column("label").to_pylist(), strict=True)
