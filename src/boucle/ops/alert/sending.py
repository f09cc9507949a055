"""Sending alerts: which message is due through which channel, and what became of it.

What was sent is kept in the alert, per channel. An attempt is written down before it is made, so that nobody else makes it at the
same time, and as done after it; when the process is killed in between, it is made again once the attempt has run out. So each
message is sent once in normal operation and at least once in any; its id is the same each time, so that receivers can tell.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from boucle.core.errors import BoucleError, Invalid, NotFound
from boucle.core.records import Alert
from boucle.core.refs import check_name, new_id
from boucle.core.where import field as column
from boucle.flow.schedule import span
from boucle.ops.alert.states import LIVE, is_about, silenced, silences
from boucle.ports.channel import SEVERITIES, Channel, Message, check_severity
from boucle.ports.lookup import lookup
from boucle.settings import FILE, part

if TYPE_CHECKING:
    from boucle.workspace import Workspace

REMIND = "1 day"
ATTEMPT = 120.0  # seconds that an attempt may take; longer than any channel of ours waits
_FIRST, _MOST = 30.0, 3600.0  # seconds before the second attempt, and at most between two
_WEEK = 7 * 86400.0  # after which nobody needs to hear that something is over


@dataclass(frozen=True, slots=True)
class Route:
    """A channel as boucle.toml has it: what it wants to hear, and how it is made. `problem` when it cannot be used."""

    name: str
    type: str = ""
    severity: str = "warning"
    only: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)  # `vault:` references, not yet looked up
    problem: BoucleError | None = None

    def wants(self, alert: Alert) -> bool:
        """Whether the alert is bad enough and about something that this channel is for."""
        bad = SEVERITIES.index(alert.severity) >= SEVERITIES.index(self.severity)
        return bad and (not self.only or any(is_about(pattern, alert.subject) for pattern in self.only))


def routes(ws: Workspace) -> list[Route]:
    """The channels of boucle.toml. One that makes no sense has its `problem` and keeps the others from nothing."""
    file = ws.settings.project / FILE
    tables = part(ws.settings.table, "channels", file)
    return [_route(name, table, f"{file}: [channels.{name}]") for name, table in tables.items()]


def _route(name: str, table: Any, place: str) -> Route:
    try:
        check_name(name, "name of a channel")
        if not isinstance(table, dict) or not isinstance(table.get("type"), str):
            raise Invalid("it has no type", expected='type = "webhook", "email", "slack", "teams", "log" or "file"')
        only = [table["only"]] if isinstance(table.get("only"), str) else table.get("only", [])
        if not isinstance(only, list) or not all(isinstance(p, str) and p for p in only):
            raise Invalid("only does not fit", expected='subjects, such as ["service:churn"]')
        severity = check_severity(table.get("severity", "warning"))
    except BoucleError as error:
        return Route(name, problem=type(error)(f"{place}: {error.what}", expected=error.expected, fix=error.fix))
    options = {k: v for k, v in table.items() if k not in ("type", "severity", "only")}
    return Route(name, table["type"], severity, tuple(only), options)


# --- what is due -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Due:
    """A message that a channel has to get now, and what is to be remembered of it once the channel has it."""

    message: Message
    after: Mapping[str, Any]


def due(alert: Alert, route: Route, now: float, remind: float) -> Due | None:
    """What a channel has to get now, if anything. Pure."""
    state = alert.delivered.get(route.name, {})
    if state.get("next", 0.0) > now:
        return None
    reminders = state.get("reminders", 0)
    after = {"severity": alert.severity, "reminders": reminders}
    if alert.status == "resolved":
        heard = "time" in state or "sending" in state  # an attempt that nobody wrote the end of may have arrived
        if not heard or state.get("resolved"):
            return None
        return Due(_message(alert, f"resolved: {alert.title}", "resolved", alert.resolved), after | {"resolved": True})
    if not route.wants(alert):
        return None
    if "time" not in state:
        return Due(_message(alert, alert.title, alert.severity, alert.opened), after)
    if SEVERITIES.index(alert.severity) > SEVERITIES.index(state["severity"]):
        return Due(_message(alert, alert.title, alert.severity, alert.last), after)
    if alert.status == "open" and now - state["time"] >= remind:
        again = _message(alert, f"still: {alert.title}", f"{alert.severity}.{reminders + 1}", now)
        return Due(again, after | {"reminders": reminders + 1})
    return None


def _message(alert: Alert, title: str, kind: str, time: float) -> Message:
    """`kind` says which of an alert's messages it is, and so makes the id, which begins with the alert's."""
    moments = {name: _iso(moment) for name in ("onset", "opened", "resolved") if (moment := getattr(alert, name))}
    facts = {"alert": alert.id, "name": alert.name, "status": alert.status, "count": alert.count, **moments}
    if alert.reason:
        facts["reason"] = alert.reason
    data = facts | {k: v for k, v in alert.data.items() if k not in facts}
    return Message(alert.severity, title, alert.subject, data, f"{alert.id}.{kind}", time)


def _iso(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


# --- sending -----------------------------------------------------------------------------------------------------------


def deliver(ws: Workspace) -> int:
    """Send what is due through every channel that wants it; returns how many messages were taken.

    A channel that fails is left alone for this turn and tried again later (after 30 seconds, a minute, two, ... an hour);
    why is kept in the alert, without secrets. Call it as often as you like, from as many threads and processes. Raises
    `Invalid` where [channels] or [alerts] of boucle.toml cannot be read at all.
    """
    ways, remind = routes(ws), _remind(ws)
    if not ways:
        return 0
    held, failed, sent = silences(ws), set[str](), 0
    opened: dict[str, tuple[Channel, list[str]]] = {}
    recent = column("status").within(LIVE) | (column("resolved") > ws.now() - _WEEK)
    for alert in ws.store.find(Alert, recent, order=["opened"]):
        if silenced(alert, held):
            continue
        for route in ways:
            if route.name in failed or (todo := _claimed(ws, alert, route, remind)) is None:
                continue
            secrets: list[str] = []
            try:
                if route.name not in opened:
                    opened[route.name] = _opened(ws, route)
                channel, secrets = opened[route.name]
                channel.send(todo.message)
            except BoucleError as error:
                failed.add(route.name)
                _failed(ws, alert, route, _without(error.what, secrets), getattr(error, "seconds", 0.0))
            else:
                sent += 1
                _keep(ws, alert, route, {**todo.after, "time": ws.now()})
    return sent


def test(ws: Workspace, name: str) -> Message:
    """Send a message through one channel, whatever it wants to hear; raises what the channel raises, and `NotFound`."""
    known = {r.name: r for r in routes(ws)}
    if name not in known:
        raise NotFound.named("channel", name, known, fix=f"add [channels.{name}] to {FILE}")
    channel, secrets = _opened(ws, known[name])
    facts = {"project": ws.project.name, "actor": ws.actor}
    message = Message("info", "a test of this channel", "", facts, new_id(), ws.now())
    try:
        channel.send(message)
    except BoucleError as error:
        raise _bare(error, secrets) from None
    return message


def _claimed(ws: Workspace, seen: Alert, route: Route, remind: float) -> Due | None:
    """What is due, when nobody else is sending it: the attempt is ours from here on."""
    if due(seen, route, ws.now(), remind) is None:
        return None  # without a transaction for each alert in each turn
    with ws.store.transaction():
        alert = ws.store.get(Alert, seen.id)
        todo = due(alert, route, ws.now(), remind) if alert else None
        if alert is not None and todo is not None:
            state = alert.delivered.get(route.name, {})
            attempt = {"attempts": state.get("attempts", 0) + 1, "next": ws.now() + ATTEMPT, "sending": todo.message.id}
            _keep(ws, alert, route, state | attempt)
    return todo


def _failed(ws: Workspace, seen: Alert, route: Route, error: str, wanted: float) -> None:
    with ws.store.transaction():
        alert = ws.store.get(Alert, seen.id) or seen
        state = {k: v for k, v in alert.delivered[route.name].items() if k != "sending"}
        pause = max(min(_FIRST * 2.0 ** min(state["attempts"] - 1, 10), _MOST), wanted)
        _keep(ws, alert, route, state | {"next": ws.now() + pause, "error": error})


def _keep(ws: Workspace, seen: Alert, route: Route, state: Mapping[str, Any]) -> None:
    with ws.store.transaction():
        alert = ws.store.get(Alert, seen.id) or seen  # it may have been seen again or resolved in the meantime
        ws.store.put(replace(alert, delivered={**alert.delivered, route.name: dict(state)}))


def _remind(ws: Workspace) -> float:
    """Seconds between two reminders."""
    place = ws.settings.project / FILE
    table = part(ws.settings.table, "alerts", place)
    unknown = sorted(set(table) - {"remind"})
    if unknown:
        raise Invalid(f"{place}: [alerts] has no key {unknown[0]!r}", expected="remind")
    remind = table.get("remind", REMIND)
    return float("inf") if remind == "never" else span(str(remind), f"{place}: [alerts] remind")


# --- channels and their secrets ----------------------------------------------------------------------------------------


def _opened(ws: Workspace, route: Route) -> tuple[Channel, list[str]]:
    """The channel, and the secrets that must not show in an error of it."""
    if route.problem is not None:
        raise route.problem
    secrets: list[str] = []

    def looked_up(value: Any) -> Any:
        if isinstance(value, list):
            return [looked_up(v) for v in value]
        if not isinstance(value, str) or not value.startswith("vault:"):
            return value
        secrets.append(ws.vault.get(value.removeprefix("vault:")))
        return secrets[-1]

    options = {name: looked_up(value) for name, value in route.options.items()}
    try:
        channel: Channel = lookup("channel", route.type).connect(options, ws.project)
    except BoucleError as error:
        raise _bare(error, secrets) from None
    return channel, secrets


def _bare(error: BoucleError, secrets: Sequence[str]) -> BoucleError:
    what, expected, fix = (_without(text, secrets) for text in (error.what, error.expected, error.fix))
    return type(error)(what, expected=expected, fix=fix)


def _without(text: str, secrets: Sequence[str]) -> str:
    """A plugin must not show a secret; if one does, it stays here."""
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    return text
