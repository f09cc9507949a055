"""What the channels share that speak to a broker: its address, the body of a message, and words for what went wrong."""

from __future__ import annotations

import json
import os
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from boucle.core.errors import Invalid
from boucle.core.refs import new_id
from boucle.core.schema import jsonable
from boucle.ports.channel import Message, check_options, check_severity

TIMEOUT = 10.0  # seconds without an answer
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_.-]+)(:(\d{1,5}))?")
# Where to connect, and as whom; both streams and channels have these.
OPTIONS: dict[str, tuple[type, ...]] = {"user": (str,), "password": (str,), "ca": (str,)}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a broker is, as whom to speak to it, and what of it is meant."""

    hosts: tuple[tuple[str, int], ...]
    path: tuple[str, ...]
    tls: bool
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    ca: str = field(default="", repr=False)  # a file with certificates to trust

    @property
    def host(self) -> str:
        return self.hosts[0][0]

    @property
    def port(self) -> int:
        return self.hosts[0][1]

    def __str__(self) -> str:
        return ",".join(f"{host}:{port}" for host, port in self.hosts)


def address(
    kind: str, url: Any, options: Mapping[str, Any], schemes: Mapping[str, int], *, several: bool = False
) -> Address:
    """The address that a URL gives. `schemes` are the plain one and the one with TLS, with their usual ports; user and password
    come from the options, the URL or the environment (KIND_USER, KIND_PASSWORD). Raises `Invalid` without showing the URL, which
    may hold a secret."""
    expected = f"{next(iter(schemes))}://host:port/..."
    if not isinstance(url, str) or re.search(r"[\s\x00-\x20\x7f]", url):
        raise Invalid(f"the url of {kind} is none", expected=expected)
    scheme, _, rest = url.partition("://")
    if scheme not in schemes or "?" in rest:
        raise Invalid(f"the url of {kind} does not fit", expected=expected, fix="settings beside the URL are options")
    where, _, path = rest.partition("/")
    who, _, hosts = where.rpartition("@")
    found: list[tuple[str, int]] = []
    for host in hosts.split(","):
        match = _HOST.fullmatch(host)
        if match is None or (match[3] and not 0 < int(match[3]) < 65536) or (found and not several):
            raise Invalid(f"the url of {kind} has no host", expected=expected)
        found.append((match[1].strip("[]"), int(match[3] or schemes[scheme])))
    user, _, password = (urllib.parse.unquote(part) for part in (who.partition(":")))
    name = kind.upper().replace("-", "_")
    return Address(
        tuple(found),
        tuple(urllib.parse.unquote(part) for part in path.split("/") if part),
        scheme != next(iter(schemes)),
        options.get("user") or user or os.environ.get(f"{name}_USER", ""),
        options.get("password") or password or os.environ.get(f"{name}_PASSWORD", ""),
        options.get("ca", ""),
    )


def check_stream(kind: str, options: Mapping[str, Any], more: Mapping[str, tuple[type, ...]]) -> None:
    """Raise `Invalid` for an option of a stream that is unknown or does not fit."""
    check_options(kind, options, {"group": (str,), "lost": (str,), **OPTIONS, **more})
    if options.get("lost", "fail") not in ("fail", "skip"):
        raise Invalid(f"the option 'lost' of a {kind} channel does not fit", expected="fail or skip")


def body(message: Message) -> tuple[str, bytes]:
    """The id of a message, and its fields as JSON; raises `Invalid` for a severity that is none."""
    check_severity(message.severity)
    id = message.id or new_id()
    fields = {
        "id": id, "time": message.time, "severity": message.severity, "title": message.title,
        "subject": message.subject, "data": jsonable(message.data),
    }  # fmt: skip
    return id, json.dumps(fields, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")
