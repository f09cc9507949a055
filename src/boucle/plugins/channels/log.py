"""Messages into Python's logging, under the logger `boucle.alerts`."""

from __future__ import annotations

import logging
from typing import ClassVar

from boucle.core.errors import Invalid
from boucle.ports.channel import Message

_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "critical": logging.CRITICAL}
_log = logging.getLogger("boucle.alerts")


class LogChannel:
    """One log record per message, which it carries as `boucle_message` for handlers that want the facts."""

    name: ClassVar[str] = "log"

    def send(self, message: Message) -> None:
        if message.severity not in _LEVELS:
            raise Invalid(f"{message.severity!r} is not a severity", expected=f"one of {', '.join(_LEVELS)}")
        about = f"{message.subject}: " if message.subject else ""
        _log.log(_LEVELS[message.severity], "%s%s", about, message.title, extra={"boucle_message": message})
