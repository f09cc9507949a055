"""Alerts from the journal: which events open one, and which end it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from boucle.core.records import Alert, Event, Rollout
from boucle.core.where import field as column
from boucle.ledger import services
from boucle.ops.alert.states import LIVE, raise_, resolve

if TYPE_CHECKING:
    from boucle.workspace import Workspace

# Events that carry a judgement of a revision, which opens or ends the alert of this name.
_JUDGED = {"service.drift": "drift", "service.concept": "concept", "service.anomaly": "anomaly"}
_SEVERITIES = {"warn": "warning", "fail": "critical"}
# Events that open an alert, and how bad that is; and those that end it.
_OPENING = {
    "service.failed": ("service-down", "critical"), "service.unavailable": ("service-down", "critical"),
    "service.died": ("service-down", "warning"),  # a worker brings it back in a moment
    "rollout.failed": ("rollout", "warning"),
    "rule.failed": ("rule", "warning"), "schedule.failed": ("schedule", "warning"), "data.failed": ("data", "warning"),
}  # fmt: skip
_ENDING = {
    "service.restarted": "service-down", "service.ready": "service-down", "rollout.finished": "rollout", "rule.done": "rule",
    "schedule.done": "schedule", "data.passed": "data",
}  # fmt: skip
_SAID = (
    "event",
    "of",
    "onset",
    "since",
    "status",
    "before",
    "after",
    "sentence",
    "summary",
)  # in the alert's own fields
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Reading:
    """What an event says about an alert: its name, and the severity it opens with, or none where it ends."""

    name: str
    severity: str = ""


def read(event: Event) -> Reading | None:
    """What an event means for alerts, if anything. Pure."""
    if event.type in _OPENING:
        return Reading(*_OPENING[event.type])
    if event.type in _ENDING:
        return Reading(_ENDING[event.type])
    if event.type not in _JUDGED:
        return None
    status = event.data.get("status")
    if status not in ("pass", *_SEVERITIES):
        return None
    return Reading(_JUDGED[event.type], _SEVERITIES.get(str(status), ""))


def follow(ws: Workspace, state: Mapping[str, Any]) -> dict[str, Any]:
    """Read the journal from `state["cursor"]` on, open and end alerts by what it says, and return the state to go on with.

    Without a cursor it begins at the end of the journal. Reading the same events again, after a crash, changes nothing.
    """
    if "cursor" not in state:
        last = ws.store.find(Event, order=["-sequence"], limit=1)
        return {**state, "cursor": last[0].sequence if last else 0}
    cursor = int(state["cursor"])
    while page := ws.store.events(after=cursor, limit=_PAGE):
        for event in page:
            with ws.store.transaction():
                _take(ws, event)
        cursor = page[-1].sequence
    return {**state, "cursor": cursor}


def _take(ws: Workspace, event: Event) -> None:
    subject = _subject(ws, event)
    if event.type == "service.stopped":
        live = ws.store.find(Alert, (column("subject") == subject) & column("status").within(LIVE))
        for alert in live:
            _end_of(ws, alert, event, f"{event.subject.partition(':')[2]} is stopped")
    reading = read(event)
    if reading is None or not subject:
        return
    asked = (column("name") == reading.name) & (column("subject") == subject)
    newest = next(iter(ws.store.find(Alert, asked, order=["-opened", "-id"], limit=1)), None)
    if newest is not None and newest.data.get("event", 0) >= event.sequence:
        return  # it was read before
    live_one = newest if newest is not None and newest.status in LIVE else None
    if reading.severity:
        severity, title = _told(ws, reading, event, subject)
        of = sorted({*(live_one.data.get("of", []) if live_one else []), _part(event)})
        facts = {k: v for k, v in event.data.items() if k not in _SAID}
        raise_(
            ws, reading.name, subject, severity=severity, title=title, onset=_onset(event),
            data={"event": event.sequence, "of": of, **facts},
        )  # fmt: skip
    elif live_one is not None and (event.type in _JUDGED or reading.name == "data"):
        _end_of(ws, live_one, event, event.reason)
    else:
        resolve(ws, (reading.name, subject), event.reason or event.type)


def _end_of(ws: Workspace, alert: Alert, event: Event, reason: str) -> None:
    """An alert is over when each of the revisions, or checks, that it is of is well or gone."""
    of, part = alert.data.get("of", []), _part(event)
    if part not in of or alert.data["event"] >= event.sequence:
        return
    if of == [part]:
        resolve(ws, alert.id, reason)
    else:
        ws.store.put(replace(alert, data={**alert.data, "of": [r for r in of if r != part]}))


def _part(event: Event) -> str:
    """What of the subject is in trouble or well again."""
    if not event.type.startswith("data."):
        return event.subject
    return " ".join(filter(None, (event.data.get("check", ""), event.data.get("column", ""))))


def _subject(ws: Workspace, event: Event) -> str:
    """What an alert is about: the service where the event is of one of its revisions or rollouts, so that the alert is the
    same one whichever revision is in trouble; so, too, for the versions of a dataset."""
    kind, _, key = event.subject.partition(":")
    if kind == "rollout":
        rollout = ws.store.get(Rollout, key)
        name = rollout.service if rollout else str(event.data.get("service", ""))
        return f"service:{name}" if name else ""
    return f"{kind}:{key.partition('@')[0]}" if kind in ("service", "dataset") else event.subject


def _told(ws: Workspace, reading: Reading, event: Event, subject: str) -> tuple[str, str]:
    """Severity and title. A revision that fails beside one that answers is no outage."""
    why = f": {event.reason}" if event.reason else ""
    name = subject.partition(":")[2]
    if reading.name != "service-down":
        return reading.severity, f"{reading.name} of {name}{why}"
    other = services.current(ws, name)
    if other is not None and str(other) != event.subject:
        return "warning", f"{event.subject.partition(':')[2]} failed, {other.key} answers{why}"
    return reading.severity, f"{name} is down{why}"


def _onset(event: Event) -> float:
    """When it began: as the event has it, or when it was noted, unless it is a judgement over time."""
    known = event.data.get("onset") or event.data.get("since")
    return float(known) if isinstance(known, int | float) else 0.0 if event.type in _JUDGED else event.time
