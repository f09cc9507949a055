"""Streams: where messages come from, each with the place where it stood."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

from boucle.core.errors import Invalid
from boucle.ports import lookup

# Beginnings of URLs that go by the plugin of another name; any other is the name of its plugin.
_PLUGINS = {
    "kafkas": "kafka", "amqp": "rabbitmq", "amqps": "rabbitmq", "natss": "nats", "mqtts": "mqtt", "redis-stream": "redis",
    "rediss-stream": "redis",
}  # fmt: skip


@dataclass(slots=True)
class Received:
    """A message that was read from a stream, and where it stood: in which part of the stream, and there after which others.

    `offset` grows within a part. Where the other side numbers nothing, it grows for as long as the stream is open, and `id` is
    the same for a message that is delivered again, which `again` then says.
    """

    value: bytes
    part: str = ""
    offset: int | str = 0
    id: str = ""
    again: bool = False
    key: str = ""
    time: float = 0.0  # when it was sent, seconds since the epoch; 0 where nobody tells


class Stream(Protocol):
    """Messages to be read on from where somebody stood.

    Who reads keeps the positions beside what it made of the messages, in one transaction, and gives them again when it starts
    anew: so each message counts once, whoever was killed when. Other than that the other side is asked to remember nothing,
    unless it is a queue, which remembers what was not acknowledged.

    Never more than a bounded number of messages is held, however many come. Errors show no credentials.
    """

    name: ClassVar[str]
    schemes: ClassVar[tuple[str, ...]]  # the beginnings of its URLs, e.g. kafka

    @classmethod
    def subscribe(cls, url: str, options: Mapping[str, Any], positions: Mapping[str, Any]) -> Self:
        """Read on after these positions (part -> the last offset that is kept; empty for all there is).

        Raises `Invalid` for a URL or options that cannot be right, `NotFound` for a stream that is not there, `Conflict` when
        it no longer has what follows the positions, and `Unavailable`.
        """

    @property
    def bound(self) -> int:
        """How many messages may be out without an `acknowledge` before no more come; 0 where that does not matter."""

    def receive(self, most: int, seconds: float) -> list[Received]:
        """What has come, at most so many, waiting at most so long for the first. Raises `Unavailable` when the other side is
        away, after trying again."""

    def acknowledge(self, positions: Mapping[str, Any]) -> None:
        """Tell the other side that all up to these positions is kept, so that it may forget it. When this returns, the other
        side of a queue has taken note: what is delivered again later was not acknowledged."""

    def lag(self) -> int | None:
        """How many messages there are beyond what was received; None where nobody tells."""

    def close(self) -> None:
        """Let go of the connection; what was not acknowledged is given out again."""


def is_stream(url: str) -> bool:
    """Whether a URL begins like that of a stream."""
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    return scheme in _PLUGINS or scheme in lookup.names("stream")


def plugin(url: str) -> type[Stream]:
    """The class that reads a URL, by how it begins; raises `MissingExtra` with what to install, or `Invalid`."""
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    name = _PLUGINS.get(scheme, scheme)
    if name not in lookup.names("stream"):
        raise Invalid(
            f"no stream is read from {scheme}://" if scheme else "a stream has a URL, and this is none",
            expected="kafka://, amqp://, nats://, mqtt://, redis-stream:// or that of a plugin",
            fix="boucle data ingest reads files and databases",
        )
    found: type[Stream] = lookup.lookup("stream", name)
    if scheme not in found.schemes:
        raise Invalid(f"no stream is read from {scheme}://", expected=f"one of {', '.join(found.schemes)}")
    return found
