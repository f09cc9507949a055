"""Messages into Microsoft Teams, through a workflow that begins with "When a Teams webhook request is received".

The payload is an Adaptive Card (https://adaptivecards.io) in a message, which is all that workflows take; the connectors with
their MessageCards are retired. The address is a secret: whoever has it can post.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from boucle.plugins.channels.posting import check_url, post
from boucle.ports.channel import Message, check_options, check_severity, told

_COLOURS = {"info": "accent", "warning": "warning", "critical": "attention"}
_MOST_FACTS, _MOST_CHARACTERS = 20, 300  # Teams refuses messages above 28 KB


class TeamsChannel:
    """One card per message: the title, what it is about, and the facts, a line each."""

    name: ClassVar[str] = "teams"

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
    about = " · ".join(part for part in (message.severity, message.subject) if part)
    lines = [
        _line((f"{name}: ", {"weight": "bolder"}), (told(value), {}))
        for name, value in list(message.data.items())[:_MOST_FACTS]
    ]
    title = {"size": "large", "weight": "bolder", "color": _COLOURS[message.severity]}
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": [_line((" ".join(message.title.split()), title)), _line((about, {"isSubtle": True})), *lines],
    }
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
    return {"type": "message", "attachments": [attachment]}


def _line(*runs: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """A paragraph. A RichTextBlock shows its text literally, where a TextBlock would read it as Markdown, with links."""
    inlines = [{"type": "TextRun", "text": _cut(text) or "-", **style} for text, style in runs]
    return {"type": "RichTextBlock", "inlines": inlines}


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 1] + "…"
