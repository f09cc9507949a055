"""What rules and schedules do: the grammar of their actions.

seal                          grow the training dataset by labelled traffic of the service that the event is about
seal SERVICE                  ... of that service
seal 500, seal SERVICE 500    ... once so many new labels are there
run PIPELINE                  execute a pipeline of boucle.toml
rollout                       bring out the model that was made before, or that the event is about
rollout MODEL                 ... that one
promote STAGE                 bring that model to a stage, through its gate
alert SEVERITY TEXT           tell people
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from boucle.core.errors import Invalid
from boucle.core.stages import STAGES

SEVERITIES = ("info", "warning", "critical")

# verb -> how it is written, and how many words must follow, at least and at most
_FORMS = {
    "seal": ("seal, seal SERVICE or seal SERVICE LABELS", 0, 2),
    "run": ("run PIPELINE", 1, 1),
    "rollout": ("rollout or rollout MODEL", 0, 1),
    "promote": ("promote STAGE", 1, 1),
    "alert": ("alert SEVERITY TEXT", 2, 1000),
}


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to do: a verb and what it is about."""

    verb: str
    argument: str = ""

    def __str__(self) -> str:
        return f"{self.verb} {self.argument}".strip()


def action(text: str) -> Action:
    """Read an action; raises `Invalid` with near names."""
    verb, _, rest = text.strip().partition(" ")
    made = Action(verb, rest.strip())
    if verb not in _FORMS:
        raise Invalid(
            f"{text!r} is not an action{_near(verb, _FORMS)}",
            expected=f"one of {', '.join(form for form, *_ in _FORMS.values())}",
        )
    form, least, most = _FORMS[verb]
    words = made.argument.split()
    if not least <= len(words) <= most or (len(words) == 2 and verb == "seal" and not words[1].isdecimal()):
        raise Invalid(f"{text!r} is not an action", expected=form)
    if verb == "promote" and made.argument not in STAGES:
        raise Invalid(f"{text!r}: there is no stage {made.argument!r}{_near(made.argument, STAGES)}", expected=form)
    if verb == "alert" and words[0] not in SEVERITIES:
        raise Invalid(
            f"{text!r}: there is no severity {words[0]!r}{_near(words[0], SEVERITIES)}",
            expected=f"{form} with a severity of {', '.join(SEVERITIES)}",
        )
    return made


def actions(given: Any, place: str) -> tuple[Action, ...]:
    """The `do` of a table: one action or a list of them. `place` says where it stands, for the error."""
    listed = [given] if isinstance(given, str) else given
    if not isinstance(listed, list) or not listed or not all(isinstance(a, str) for a in listed):
        raise Invalid(
            f"{place}: do is {given!r}", expected='an action or a list of them, such as ["run churn", "rollout"]'
        )
    try:
        return tuple(map(action, listed))
    except Invalid as error:
        raise Invalid(f"{place}: {error.what}", expected=error.expected, fix=error.fix) from None


def check_keys(table: Any, known: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The table, when it is one whose keys are known and whose values have their types; raises `Invalid`."""
    if not isinstance(table, dict):
        raise Invalid(f"{place} is {table!r}", expected="a table")
    for key, value in table.items():
        if key not in known:
            raise Invalid(f"{place} has no key {key!r}{_near(key, known)}", expected=f"one of {', '.join(known)}")
        if not isinstance(value, known[key]) or isinstance(value, bool):
            raise Invalid(f"{place}: {key} is {value!r}", expected=_TYPES.get(known[key], "a text or a list of texts"))
    return table


_TYPES: dict[Any, str] = {str: "a text", dict: "a table"}


def _near(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
