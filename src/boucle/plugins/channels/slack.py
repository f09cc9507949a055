"""Messages into Slack, through an incoming webhook (https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks).

The address is a secret: whoever has it can post.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from boucle.plugins.channels.posting import check_url, post
from boucle.ports.channel import Message, check_options, check_severity, told

_SIGNS = {"info": ":information_source:", "warning": ":warning:", "critical": ":rotating_light:"}
_MOST = 2900  # characters of a section; Slack refuses 3,000 and more
_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}  # so that nothing becomes a link or calls @channel


class SlackChannel:
    """One post per message: the title, what it is about, and the facts, a line each."""

    name: ClassVar[str] = "slack"

    def __init__(self, url: str) -> None:
        self._url = url

    @classmethod
    def connect(cls, options: Mapping[str, Any], root: Path) -> Self:  # noqa: ARG003  no paths
        check_options(cls.name, options, {"url": (str,)}, ("url",))
        check_url(cls.name, options["url"])
        return cls(options["url"])

    def send(self, message: Message) -> None:
        check_severity(message.severity)
        body = json.dumps(_payload(message), ensure_ascii=False).encode("utf-8", "replace")
        post(self._url, body, {"Content-Type": "application/json; charset=utf-8", "User-Agent": "boucle"})


def _payload(message: Message) -> dict[str, Any]:
    title = _escaped(" ".join(message.title.split()))
    about = f"*{message.severity}*" + (f" · {_escaped(message.subject)}" if message.subject else "")
    lines = "\n".join(f"{name}: {told(value)}" for name, value in message.data.items())
    sections = [f"{_SIGNS[message.severity]} *{title}*", about, *([_escaped(lines)] if lines else [])]
    return {
        "text": f"[{message.severity}] {title}",  # what a notification shows
        "blocks": [{"type": "section", "text": {"type": "mrkdwn", "text": s, "verbatim": True}} for s in sections],
    }


def _escaped(text: str) -> str:
    """The text as Slack takes it literally, cut where it is too long but never within an escape."""
    out: list[str] = []
    length = 0
    for char in text:
        piece = _ESCAPES.get(char, char)
        length += len(piece)
        if length > _MOST:
            return "".join(out) + "…"
        out.append(piece)
    return "".join(out)
