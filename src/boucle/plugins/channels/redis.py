"""Redis streams: messages added to one, and one to read from.

As a stream its one part is its key. An offset is the id of an entry and, from Redis 7 on, how many there had ever been up to it,
which tells whether some were dropped unread. What an entry says is its one field, or the one
that the option `field` names, or else all its fields as a JSON object of texts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from boucle.core.errors import Conflict, Invalid, NotFound, Unavailable
from boucle.plugins.channels import broker
from boucle.ports.channel import Message, check_options
from boucle.ports.stream import Received

_SCHEMES = {"redis-stream": 6379, "rediss-stream": 6379}
_URL = "redis-stream://host:port/0/key"


class RedisChannel:
    """One entry per message, with its JSON as the field `value`."""

    name: ClassVar[str] = "redis"

    def __init__(self, address: broker.Address) -> None:
        self._address = address
        _key(address)

    @classmethod
    def connect(cls, options: Mapping[str, Any], root: Path) -> Self:  # noqa: ARG003  no paths
        check_options(cls.name, options, {"url": (str,), **broker.OPTIONS}, ("url",))
        return cls(broker.address(cls.name, options["url"], options, _SCHEMES))

    def send(self, message: Message) -> None:
        _, body = broker.body(message)
        client = _client(self._address)
        try:
            client.xadd(_key(self._address), {"value": body})
        except redis.RedisError as error:
            raise _away(self._address, error) from None
        finally:
            client.close()


class RedisStream:
    """One stream of a Redis server."""

    name: ClassVar[str] = "redis"
    schemes: ClassVar[tuple[str, ...]] = tuple(_SCHEMES)
    bound = 0

    def __init__(self, address: broker.Address, options: Mapping[str, Any], after: str) -> None:
        self._address, self._key = address, _key(address)
        self._after, _, count = (after or "0-0").partition("/")
        self._field = options.get("field", "").encode()
        self._trim = options.get("trim", "no") == "yes"
        self._count = int(count) if count else None  # how many entries there had ever been up to the last one received
        self._client = _client(address)

    @classmethod
    def subscribe(cls, url: str, options: Mapping[str, Any], positions: Mapping[str, Any]) -> Self:
        broker.check_stream(cls.name, options, {"field": (str,), "trim": (str,)})
        if options.get("trim", "no") not in ("yes", "no"):
            raise Invalid("the option 'trim' of a redis channel does not fit", expected="yes or no")
        address = broker.address(cls.name, url, options, _SCHEMES)
        stream = cls(address, options, positions.get(_key(address), ""))
        try:
            stream._check(skip=options.get("lost", "fail") == "skip")
        except BaseException:
            stream.close()
            raise
        return stream

    def _check(self, *, skip: bool) -> None:
        try:
            info = self._info()
        except redis.ResponseError as error:
            if "no such key" in str(error):
                raise NotFound(f"{self._address} has no stream {self._key!r}", expected="one that is there") from None
            raise _away(self._address, error) from None
        last, added = info["last-generated-id"].decode(), info.get("entries-added")
        dropped = 0 if self._count is None or added is None else added - info["length"] - self._count
        if not skip and (dropped > 0 or _order(last) < _order(self._after)):
            raise Conflict(
                f"stream {self._key!r} dropped {dropped} entries after {self._after}"
                if dropped > 0
                else f"stream {self._key!r} ends at {last}, before {self._after}",
                expected="Redis to have kept what was not read yet",
                fix="go on with what there is by the option lost=skip",
            )
        if added is not None and (self._after == "0-0" or dropped > 0):
            self._count = added - info["length"]

    def _info(self) -> dict[str, Any]:
        try:
            answer: Any = self._client.xinfo_stream(self._key)
        except redis.ResponseError:
            raise
        except redis.RedisError as error:
            raise _away(self._address, error) from None
        pairs = answer.items() if isinstance(answer, dict) else zip(answer[::2], answer[1::2], strict=True)
        return {k.decode() if isinstance(k, bytes) else k: v for k, v in pairs}

    def receive(self, most: int, seconds: float) -> list[Received]:
        try:
            entries: Any = self._client.xread({self._key: self._after}, count=most)
            if not entries and seconds > 0:
                entries = self._client.xread({self._key: self._after}, count=most, block=max(1, int(seconds * 1000)))
        except redis.RedisError as error:
            raise _away(self._address, error) from None
        if not entries:
            return []
        found = next(iter(entries.values()))[0] if isinstance(entries, dict) else entries[0][1]
        out = []
        for id, fields in found:
            self._after = offset = id.decode()
            if self._count is not None:
                self._count += 1
                offset = f"{offset}/{self._count}"
            out.append(Received(self._value(fields), self._key, offset, time=int(id.partition(b"-")[0]) / 1000))
        return out

    def _value(self, fields: Mapping[bytes, bytes]) -> bytes:
        if self._field:
            return fields.get(self._field, b"")
        if len(fields) == 1:
            return next(iter(fields.values()))
        try:
            return json.dumps({k.decode(): v.decode() for k, v in fields.items()}, ensure_ascii=False).encode()
        except UnicodeDecodeError:  # for who reads to set aside
            return b" ".join(k + b"=" + v for k, v in fields.items())

    def acknowledge(self, positions: Mapping[str, Any]) -> None:
        if self._trim and self._key in positions:
            milliseconds, _, number = str(positions[self._key]).partition("/")[0].partition("-")
            try:
                self._client.xtrim(self._key, minid=f"{milliseconds}-{int(number) + 1}", approximate=False)
            except redis.RedisError as error:
                raise _away(self._address, error) from None

    def lag(self) -> int | None:
        try:
            info = self._info()
        except redis.ResponseError as error:
            raise _away(self._address, error) from None
        if _order(info["last-generated-id"].decode()) <= _order(self._after):
            self._count = info.get("entries-added")
            return 0
        return info["entries-added"] - self._count if self._count is not None else None

    def close(self) -> None:
        self._client.close()


def _order(id: str) -> tuple[int, int]:
    milliseconds, _, number = id.partition("-")
    return int(milliseconds), int(number or 0)


def _key(address: broker.Address) -> str:
    if len(address.path) < 2 or not address.path[0].isdigit():
        raise Invalid("the url of redis names no database and stream", expected=_URL)
    return "/".join(address.path[1:])


def _client(address: broker.Address) -> redis.Redis:
    return redis.Redis(
        address.host, address.port, db=int(address.path[0]), username=address.user or None,
        password=address.password or None, ssl=address.tls, ssl_ca_certs=address.ca or None,
        socket_timeout=broker.TIMEOUT + 60, socket_connect_timeout=broker.TIMEOUT,
        retry=Retry(ExponentialBackoff(cap=1.0, base=0.05), 5),
        retry_on_error=[redis.ConnectionError, redis.TimeoutError],
    )  # fmt: skip


def _away(address: broker.Address, error: redis.RedisError) -> Unavailable:
    said = str(error).partition(" ")[0] if isinstance(error, redis.ResponseError) else type(error).__name__
    return Unavailable(f"{address} does not give the stream: {said}", expected="Redis to answer")
