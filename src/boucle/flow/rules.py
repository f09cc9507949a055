"""Rules: [rules.NAME] of boucle.toml, and what an event makes them do. Pure: events and the time are arguments.

[rules.retrain]
on = "service.drift"                  # type of event, or the part of it before a dot
subject = "service:churn"             # of the event; any when left out
if = "data.status = fail"             # one condition on the event, or a list that must all hold
do = ["seal", "run churn", "rollout"]
cooldown = "6 hours"                  # how long it rests after it fired
wait = "7 days"                       # how long a firing may wait for what is missing, such as labels
with = {target = "churned"}           # arguments for the pipelines that it runs
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from boucle.core.errors import Invalid
from boucle.core.records import Event
from boucle.core.refs import KINDS, check_name
from boucle.core.where import Compare, check_question, matches
from boucle.core.where import read as condition
from boucle.flow.action import Action, actions, check_keys
from boucle.flow.schedule import in_words, span
from boucle.settings import FILE, Settings, part

WAIT = 86400.0  # seconds, unless a rule says otherwise

_KEYS = {
    "on": str, "subject": str, "if": (str, list), "do": (str, list), "cooldown": str, "wait": str, "with": dict,
}  # fmt: skip
_TYPE = re.compile(r"[a-z][\w-]*(\.[a-z][\w-]*)*\Z")
# First words of our own types of events; whoever writes events may have others.
_AREAS = ("service", "rollout", "model", "dataset", "run", "rule", "schedule", "alert")


@dataclass(frozen=True, slots=True)
class Rule:
    """What is to be done when something happens."""

    name: str
    on: str
    do: tuple[Action, ...]
    subject: str = ""
    conditions: tuple[Compare, ...] = ()
    said: tuple[str, ...] = ()  # the conditions as they were written
    cooldown: float = 0.0
    wait: float = WAIT
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """What a rule makes of some events: the one that fires it, if any; those it leaves out, with the reason in words; and the
    state to go on with."""

    fires: Event | None
    skipped: tuple[tuple[Event, str], ...]
    state: dict[str, Any]


def read(settings: Settings) -> dict[str, Rule]:
    """The rules of boucle.toml; raises `Invalid` for whatever could not run."""
    file = settings.project / FILE
    tables = part(settings.table, "rules", file)
    return {name: _one(name, table, f"{file}: [rules.{name}]") for name, table in tables.items()}


def _one(name: str, table: Any, place: str) -> Rule:
    check_name(name, "rule name")
    given = check_keys(table, _KEYS, place)
    on = given.get("on", "")
    area = on.partition(".")[0]
    close = difflib.get_close_matches(area, _AREAS, n=1, cutoff=0.75) if area not in _AREAS else []
    if close or not _TYPE.match(on):
        raise Invalid(
            f"{place}: on is {on!r}" + (f"; did you mean {close[0]!r}?" if close else ""),
            expected=f"a type of event such as service.drift; those of boucle begin with {', '.join(_AREAS)}",
            fix="boucle journal shows the events there were",
        )
    subject = given.get("subject", "")
    if subject and subject.partition(":")[0] not in (*KINDS, "rule", "schedule"):
        raise Invalid(f"{place}: subject is {subject!r}", expected="a reference such as service:churn or model:churn")
    listed = [given["if"]] if isinstance(given.get("if"), str) else given.get("if", [])
    return Rule(
        name, on, actions(given.get("do"), place), subject, tuple(_condition(c, place) for c in listed),
        tuple(listed), span(given["cooldown"], f"{place}: cooldown") if "cooldown" in given else 0.0,
        span(given["wait"], f"{place}: wait") if "wait" in given else WAIT, given.get("with", {}),
    )  # fmt: skip


def _condition(text: Any, place: str) -> Compare:
    if not isinstance(text, str):
        raise Invalid(f"{place}: if holds {text!r}", expected='a condition such as "data.status = fail"')
    try:
        made = condition(text)
        check_question(Event, made)
    except Invalid as error:
        raise Invalid(f"{place}: if: {error.what}", expected=error.expected, fix=error.fix) from None
    return made


def applies(rule: Rule, event: Event) -> bool:
    """Whether an event is one that the rule waits for. Its own firings are not."""
    if event.type != rule.on and not event.type.startswith(rule.on + "."):
        return False
    if event.subject == f"rule:{rule.name}":
        return False
    if rule.subject and event.subject != rule.subject and not event.subject.startswith(rule.subject + "@"):
        return False
    return all(matches(event, c) for c in rule.conditions)


def decide(rule: Rule, events: Sequence[Event], state: Mapping[str, Any], now: float) -> Decision:
    """Walk the events in order, up to the first that fires the rule.

    `state` holds `cursor`, the sequence number of the last event that was looked at, and `fired`, when it fired last. What
    comes while it rests is left out for good: what still is the case afterwards must say so again.
    """
    after = dict(state)
    skipped: list[tuple[Event, str]] = []
    for event in events:
        if event.sequence <= after.get("cursor", 0):
            continue
        after["cursor"] = event.sequence
        if not applies(rule, event):
            continue
        rested = now - after["fired"] if "fired" in after else rule.cooldown
        if rested < rule.cooldown:
            reason = f"fired {in_words(max(rested, 0.0))} ago and rests for {in_words(rule.cooldown)}"
            skipped.append((event, reason))
            continue
        after["fired"] = now
        return Decision(event, tuple(skipped), after)
    return Decision(None, tuple(skipped), after)
