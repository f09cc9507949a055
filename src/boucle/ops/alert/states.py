"""The life of an alert: opened, seen again, acknowledged, resolved; and silences, which keep it from being sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from boucle.core.errors import Conflict, Invalid, NotFound
from boucle.core.records import Alert
from boucle.core.refs import check_name, new_id
from boucle.core.schema import jsonable
from boucle.core.where import And, Where
from boucle.core.where import field as column
from boucle.ledger.journal import note
from boucle.ledger.lineage import by_id
from boucle.ports.channel import SEVERITIES, check_severity

if TYPE_CHECKING:
    from boucle.workspace import Workspace

LIVE = ("open", "acknowledged")


def raise_(
    ws: Workspace, name: str, subject: str, *, severity: str = "warning", title: str = "", onset: float = 0.0,
    data: Mapping[str, Any] | None = None,
) -> Alert:  # fmt: skip
    """Say that something is wrong: opens an alert, or counts the one that is open for the same name and subject.

    `name` says what kind of trouble, `subject` what is in trouble, `onset` when it began (seconds since the epoch, 0 when
    unknown). The severity of an open alert rises and never falls. Safe with several workers. Raises `Invalid`.

    >>> raise_(ws, "drift", "service:churn", severity="critical", title="2 of 3 columns moved")
    """
    check_name(name, "name of an alert")
    check_severity(severity)
    if not isinstance(subject, str) or not subject.strip():
        raise Invalid(f"an alert about {subject!r}", expected="what it is about, such as service:churn")
    facts, now = jsonable(dict(data or {})), ws.now()
    with ws.store.transaction():
        before = _live(ws, name, subject)
        if before is None:
            alert = Alert(
                id=new_id(), name=name, subject=subject, severity=severity, title=title or f"{name}: {subject}",
                onset=onset, opened=now, last=now, data=facts,
            )  # fmt: skip
        else:
            alert = replace(
                before, severity=max(before.severity, severity, key=SEVERITIES.index), title=title or before.title,
                count=before.count + 1, last=now, onset=min((t for t in (before.onset, onset) if t), default=0.0),
                data=facts or before.data,
            )  # fmt: skip
        ws.store.put(alert)
        _note(ws, "opened" if before is None else "repeated", alert, count=alert.count)
    return alert


def resolve(ws: Workspace, which: str | tuple[str, str], reason: str = "") -> Alert | None:
    """Say that it is over: of an id (or enough of it), or of a (name, subject). Safe to repeat.

    Returns None when nothing of that name and subject is open. Raises `NotFound` for an id that no alert has.
    """
    with ws.store.transaction():
        before = get(ws, which) if isinstance(which, str) else _live(ws, *which)
        if before is None or before.status == "resolved":
            return before
        alert = replace(before, status="resolved", resolved=ws.now(), actor=ws.actor, reason=reason)
        ws.store.put(alert)
        _note(ws, "resolved", alert, reason)
    return alert


def acknowledge(ws: Workspace, id: str, reason: str = "") -> Alert:
    """Say that somebody looks after it: no more reminders. Raises `NotFound`, and `Conflict` when it is over."""
    with ws.store.transaction():
        before = get(ws, id)
        if before.status == "resolved":
            raise Conflict(f"{before} is resolved already", expected="one that is open", fix="boucle alerts")
        if before.status == "acknowledged":
            return before
        alert = replace(before, status="acknowledged", acknowledged=ws.now(), actor=ws.actor, reason=reason)
        ws.store.put(alert)
        _note(ws, "acknowledged", alert, reason)
    return alert


def _note(ws: Workspace, what: str, alert: Alert, reason: str = "", **more: Any) -> None:
    """The event is about what the alert is about, so that it stands in the history of that."""
    note(
        ws, f"alert.{what}", alert.subject, reason=reason or alert.title, alert=alert.id, name=alert.name,
        severity=alert.severity, **more,
    )  # fmt: skip


def _live(ws: Workspace, name: str, subject: str) -> Alert | None:
    asked = (column("name") == name) & (column("subject") == subject) & column("status").within(LIVE)
    return next(iter(ws.store.find(Alert, asked, limit=1)), None)


# --- looking them up ---------------------------------------------------------------------------------------------------


def find(
    ws: Workspace, *, all: bool = False, name: str = "", subject: str = "", severity: str = "", limit: int | None = None
) -> list[Alert]:
    """Those that are not over (with `all`, those that are, too), newest first. `subject` is as for `silence`, `severity`
    the least. Raises `Invalid`."""
    parts: list[Where] = [] if all else [column("status").within(LIVE)]
    if name:
        parts.append(column("name") == name)
    if severity:
        parts.append(column("severity").within(SEVERITIES[SEVERITIES.index(check_severity(severity)) :]))
    found = ws.store.find(Alert, And(tuple(parts)) if parts else None, order=["-opened"])
    return [a for a in found if not subject or is_about(subject, a.subject)][:limit]


def get(ws: Workspace, id: str) -> Alert:
    """An alert by its id, or by enough of its start or end. Raises `NotFound`, and `Invalid` when it fits several."""
    return by_id(ws, Alert, id.removeprefix("alert:"), fix="boucle alerts list --all")


# --- silences ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Silence:
    """Nothing about `subject` (and, where given, of that name) is sent before `until`."""

    subject: str
    name: str
    until: float
    since: float
    actor: str
    reason: str


def silence(ws: Workspace, subject: str, until: float, reason: str = "", *, name: str = "") -> Silence:
    """Keep alerts about something from being sent until a time; they are recorded all the same, and what is still open then
    is sent then.

    `subject` also stands for its versions (`service:churn` for `service:churn@3`) and may end in `*`. A silence of the same
    subject and name is replaced. Raises `Invalid`.
    """
    if not subject.strip():
        raise Invalid("a silence about nothing", expected="a subject such as service:churn, or '*' for all")
    if name:
        check_name(name, "name of an alert")
    if until <= ws.now():
        raise Invalid("a silence that would be over already", expected="a time to come")
    event = note(ws, "alert.silenced", subject, reason=reason, name=name, until=until)
    return Silence(subject, name, until, event.time, event.actor, reason)


def unsilence(ws: Workspace, subject: str, reason: str = "", *, name: str = "") -> None:
    """End a silence now. Raises `NotFound` when there is none of that subject and name."""
    with ws.store.transaction():
        held = {(s.subject, s.name) for s in silences(ws)}
        if (subject, name) not in held:
            raise NotFound.named("silence about", subject, {s for s, _ in held}, fix="boucle alerts lists them")
        note(ws, "alert.unsilenced", subject, reason=reason, name=name)


def silences(ws: Workspace) -> list[Silence]:
    """Those that hold now, in the order they were made: what the journal says of them, and nothing else."""
    said = [*ws.store.events(type="alert.silenced"), *ws.store.events(type="alert.unsilenced")]
    held: dict[tuple[str, str], Silence] = {}
    for event in sorted(said, key=lambda e: e.sequence):
        key = (event.subject, event.data["name"])
        held.pop(key, None)
        if event.type == "alert.silenced":
            held[key] = Silence(*key, event.data["until"], event.time, event.actor, event.reason)
    return [s for s in held.values() if s.until > ws.now()]


def silenced(alert: Alert, held: Iterable[Silence]) -> bool:
    """Whether one of these silences is about an alert."""
    return any(is_about(s.subject, alert.subject) and s.name in ("", alert.name) for s in held)


def is_about(pattern: str, subject: str) -> bool:
    """Whether a subject is the one named, a version of it, or begins with what stands before a final `*`."""
    if pattern.endswith("*"):
        return subject.startswith(pattern[:-1])
    return subject == pattern or subject.startswith(f"{pattern}@")
