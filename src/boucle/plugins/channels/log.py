"""Messages into Python's logging, under the logger `boucle.alerts`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from boucle.ports.channel import Message, check_options, check_severity

_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "critical": logging.CRITICAL}
_log = logging.getLogger("boucle.alerts")


class LogChannel:
    """One log record per message, which it carries as `boucle_message` for handlers that want the facts."""

    name: ClassVar[str] = "log"

    @classmethod
    def connect(cls, options: Mapping[str, Any], root: Path) -> Self:  # noqa: ARG003  nothing to open
        check_options(cls.name, options, {})
        return cls()

    def send(self, message: Message) -> None:
        level = _LEVELS[check_severity(message.severity)]
        about = f"{message.subject}: " if message.subject else ""
        _log.log(level, "%s%s", about, message.title, extra={"boucle_message": message})
