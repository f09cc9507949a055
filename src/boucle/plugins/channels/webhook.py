"""Messages as CloudEvents, POSTed to an address and signed.

The body is one CloudEvent 1.0 in structured JSON (https://github.com/cloudevents/spec). The signature is that of Standard
Webhooks (https://github.com/standard-webhooks/standard-webhooks), whose libraries check it: HMAC-SHA256 over id, time and body.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from boucle.core.errors import Invalid
from boucle.core.refs import new_id
from boucle.core.schema import jsonable
from boucle.plugins.channels.posting import check_url, post
from boucle.ports.channel import Message, check_options, check_severity

TYPE = "boucle.message"
_PREFIX = "whsec_"


class WebhookChannel:
    """One POST per message; with a secret, receivers can tell that it is from us and was not changed."""

    name: ClassVar[str] = "webhook"

    def __init__(self, url: str, key: bytes = b"", source: str = "boucle") -> None:
        self._url, self._key, self._source = url, key, source

    @classmethod
    def connect(cls, options: Mapping[str, Any], root: Path) -> Self:  # noqa: ARG003  no paths
        check_options(cls.name, options, {"url": (str,), "secret": (str,), "source": (str,)}, ("url",))
        check_url(cls.name, options["url"])
        key = _key(options["secret"]) if "secret" in options else b""
        return cls(options["url"], key, options.get("source", "boucle"))

    def send(self, message: Message) -> None:
        check_severity(message.severity)
        id = message.id or new_id()
        body = json.dumps(self._event(message, id), ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")
        headers = {"Content-Type": "application/cloudevents+json; charset=utf-8", "User-Agent": "boucle"}
        post(self._url, body, headers | _signed(id, body, self._key))

    def _event(self, message: Message, id: str) -> dict[str, Any]:
        event: dict[str, Any] = {"specversion": "1.0", "id": id, "source": self._source, "type": TYPE}
        if message.subject:
            event["subject"] = message.subject
        if message.time:
            event["time"] = dt.datetime.fromtimestamp(message.time, dt.UTC).isoformat().replace("+00:00", "Z")
        facts = {"severity": message.severity, "title": message.title, "facts": jsonable(message.data)}
        return {**event, "datacontenttype": "application/json", "data": facts}


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not 24 <= len(key) <= 64:
        raise Invalid(
            "the secret of a webhook channel is none",
            expected=f"{_PREFIX} and 24 to 64 random bytes in base64, as Standard Webhooks has it",
            fix=f'echo "{_PREFIX}$(openssl rand -base64 32)"',
        )
    return key


def _signed(id: str, body: bytes, key: bytes) -> dict[str, str]:
    moment = str(int(time.time()))  # of this attempt, which receivers compare with their own clock
    headers = {"webhook-id": id, "webhook-timestamp": moment}
    if key:
        signature = hmac.new(key, f"{id}.{moment}.".encode() + body, hashlib.sha256).digest()
        headers["webhook-signature"] = f"v1,{base64.b64encode(signature).decode()}"
    return headers
