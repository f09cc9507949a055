"""Channels: where messages and alerts go."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from boucle.core.errors import Invalid, Unavailable
from boucle.core.schema import jsonable

SEVERITIES = ("info", "warning", "critical")  # from the least to the worst
_WORDS: dict[type, str] = {str: "a text", int: "a whole number", list: "a list"}


@dataclass(frozen=True, slots=True)
class Message:
    """Something to tell people: a severity (info, warning, critical), one line, the facts, and what it is about.

    A message that is sent again has the same `id`, so that a receiver can leave out what it has. Messages whose ids are the
    same up to the first '.' belong together.
    """

    severity: str
    title: str
    subject: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""
    time: float = 0.0


class Busy(Unavailable):
    """The other side wants no message for the next `seconds`."""

    def __init__(self, what: str, *, seconds: float = 0.0, expected: str = "", fix: str = "") -> None:
        super().__init__(what, expected=expected, fix=fix)
        self.seconds = seconds


class Channel(Protocol):
    """Delivers messages."""

    name: ClassVar[str]

    @classmethod
    def connect(cls, options: Mapping[str, Any], root: Path) -> Self:
        """Make one from its settings, of which none is missing or unknown (else `Invalid`). Nothing is sent yet. Relative
        paths start at `root`. A value may be a secret, so errors and `repr` show none."""

    def send(self, message: Message) -> None:
        """Deliver, or raise `Unavailable`; returning means the other side has it. Errors show neither secrets nor the paths
        of addresses, which may hold one."""


def told(value: Any) -> str:
    """A fact as text for people: texts as they are, anything else as JSON."""
    plain = jsonable(value)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def check_severity(severity: str) -> str:
    """The severity, or `Invalid`."""
    if severity not in SEVERITIES:
        raise Invalid(f"{severity!r} is not a severity", expected=f"one of {', '.join(SEVERITIES)}")
    return severity


def check_options(
    channel: str, options: Mapping[str, Any], kinds: Mapping[str, tuple[type, ...]], required: tuple[str, ...] = ()
) -> None:
    """Raise `Invalid`, without any value, for an option that is unknown, missing, empty, or of the wrong kind."""
    known = ", ".join(kinds) or "none"
    for name, value in options.items():
        if name not in kinds:
            near = difflib.get_close_matches(name, kinds, n=1)
            raise Invalid(
                f"a {channel} channel has no option {name!r}", expected=f"{near[0]!r}" if near else f"one of: {known}"
            )
        if type(value) not in kinds[name] or value in ("", []):
            words = " or ".join(_WORDS[kind] for kind in kinds[name])
            raise Invalid(f"the option {name!r} of a {channel} channel does not fit", expected=f"{words}, not empty")
    for name in required:
        if name not in options:
            raise Invalid(f"a {channel} channel needs the option {name!r}", expected=f"of its options {known}")
