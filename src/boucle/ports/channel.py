"""Channels: where messages and alerts go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol


@dataclass(frozen=True, slots=True)
class Message:
    """Something to tell people: a severity (info, warning, critical), one line, the facts, and what it is about."""

    severity: str
    title: str
    subject: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""
    time: float = 0.0


class Channel(Protocol):
    """Delivers messages."""

    name: ClassVar[str]

    def send(self, message: Message) -> None:
        """Deliver, or raise `Unavailable`; returning means the other side has it."""
