"""RabbitMQ: messages to a queue, and a queue as a stream.

A stream queue keeps its messages and numbers them: its offsets are the positions, and reading it takes nothing away. A classic
or quorum queue forgets what is acknowledged and gives the rest out again, so messages are told apart by their id (the property
`message_id`, else a digest of all there is of them), and no more than `prefetch` are out at a time.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import pika
from blake3 import blake3
from pika import exceptions

from boucle.core.errors import Conflict, Invalid, NotFound, Unavailable
from boucle.plugins.channels import broker
from boucle.ports.channel import Message, check_options
from boucle.ports.stream import Received

_SCHEMES = {"amqp": 5672, "amqps": 5671}
_PATIENCE = 30.0  # seconds in which a broker that went away may come back
_PAUSE = 0.25
logging.getLogger("pika").setLevel(logging.CRITICAL)  # what goes wrong is raised, once and without secrets
_TAKEN = 50  # messages of a stream queue between two acknowledgements, which there only ask for more


class RabbitmqChannel:
    """One persistent message each, which the broker confirms to have put into the queue."""

    name: ClassVar[str] = "rabbitmq"

    def __init__(self, address: broker.Address) -> None:
        self._address = address
        _queue(address)

    @classmethod
    def connect(cls, options: Mapping[str, Any], root: Path) -> Self:  # noqa: ARG003  no paths
        check_options(cls.name, options, {"url": (str,), **broker.OPTIONS}, ("url",))
        return cls(broker.address(cls.name, options["url"], options, _SCHEMES))

    def send(self, message: Message) -> None:
        id, body = broker.body(message)
        properties = pika.BasicProperties(
            message_id=id, content_type="application/json", delivery_mode=2, timestamp=int(message.time) or None
        )
        _, queue = _queue(self._address)
        connection = _connection(self._address)
        try:
            channel = connection.channel()
            channel.confirm_delivery()
            channel.basic_publish("", queue, body, properties, mandatory=True)
        except exceptions.UnroutableError:
            raise Unavailable(f"{self._address} has no queue {queue!r}", expected="a queue that is there") from None
        except exceptions.AMQPError as error:
            raise _away(self._address, error) from None
        finally:
            if connection.is_open:
                connection.close()


@dataclass(slots=True)
class _Out:
    """A message of a queue that was received and not acknowledged; `tag` is 0 while the broker has it back."""

    offset: int
    tag: int
    id: str


class RabbitmqStream:
    """One queue."""

    name: ClassVar[str] = "rabbitmq"
    schemes: ClassVar[tuple[str, ...]] = tuple(_SCHEMES)

    def __init__(self, address: broker.Address, prefetch: int, lost: bool, after: int | None) -> None:
        self._address, self._prefetch, self._lost = address, prefetch, lost
        self._vhost, self._queue = _queue(address)
        self._after = after  # offset of the last message received
        self._stream = True
        self._arrived: deque[tuple[Any, Any, bytes]] = deque()
        self._out: deque[_Out] = deque()
        self._back: dict[str, deque[_Out]] = {}  # by id, what the broker has back and will give out again
        self._untold = 0
        self._connection: Any = None

    @classmethod
    def subscribe(cls, url: str, options: Mapping[str, Any], positions: Mapping[str, Any]) -> Self:
        broker.check_stream(cls.name, options, {"prefetch": (int,)})
        prefetch = options.get("prefetch", 5000)
        if not 1 <= prefetch <= 65535:
            raise Invalid("the option 'prefetch' of a rabbitmq channel does not fit", expected="1 to 65535")
        address = broker.address(cls.name, url, options, _SCHEMES)
        after = positions.get(_queue(address)[1])
        stream = cls(address, prefetch, options.get("lost", "fail") == "skip", after)
        stream._open()
        return stream

    @property
    def bound(self) -> int:
        return 0 if self._stream else self._prefetch

    def receive(self, most: int, seconds: float) -> list[Received]:
        try:
            self._connection.process_data_events(0 if self._arrived else seconds)
            taken = [self._arrived.popleft() for _ in range(min(most, len(self._arrived)))]
            out = [message for item in taken if (message := self._received(*item)) is not None]
            if self._stream and taken:
                self._untold += len(taken)
                if self._untold >= min(_TAKEN, self._prefetch):
                    self._channel.basic_ack(taken[-1][0].delivery_tag, multiple=True)
                    self._untold = 0
        except exceptions.AMQPError as error:
            self._again(error)
            return []
        return out

    def _received(self, method: Any, properties: Any, body: bytes) -> Received | None:
        headers = properties.headers or {}
        sent, key = float(properties.timestamp or 0), method.routing_key or ""
        if self._stream:
            offset = int(headers["x-stream-offset"])
            after = -1 if self._after is None else self._after
            if offset <= after:
                return None
            if self._after is not None and offset > after + 1 and not self._lost:
                raise Conflict(
                    f"queue {self._queue!r} goes on at {offset}, and {after + 1} was to be next",
                    expected="RabbitMQ to have kept what was not read yet",
                    fix="go on with what there is by the option lost=skip",
                )
            self._after = offset
            return Received(body, self._queue, offset, key=key, time=sent)
        id = properties.message_id or _digest(method, properties, body)
        if back := self._back.get(id):  # was out when the connection broke, and is still being worked on
            back.popleft().tag = method.delivery_tag
            return None
        offset = self._after = (self._after or 0) + 1
        self._out.append(_Out(offset, method.delivery_tag, id))
        again = bool(method.redelivered or properties.message_id)
        return Received(body, self._queue, offset, id, again, key, sent)

    def acknowledge(self, positions: Mapping[str, Any]) -> None:
        if self._stream or self._queue not in positions:
            return
        try:
            last = 0
            while self._out and self._out[0].offset <= positions[self._queue]:
                last = max(last, self._out.popleft().tag)
            if last:
                self._channel.basic_ack(last, multiple=True)
                self._channel.queue_declare(
                    self._queue, passive=True
                )  # its answer comes after the acknowledgement was seen
        except exceptions.AMQPError as error:
            self._again(error)

    def lag(self) -> int | None:
        if self._stream:
            return None
        try:
            waiting = self._channel.queue_declare(self._queue, passive=True).method.message_count
        except exceptions.AMQPError as error:
            self._again(error)
            return None
        return int(waiting) + len(self._arrived)

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and connection.is_open:
            # The farewell hands single messages back, which a stream queue refuses by closing the connection: just as well.
            with suppress(exceptions.AMQPError):
                connection.close()

    def _open(self) -> None:
        """Connect and consume: as a stream if it is one, as a queue of our own otherwise."""
        for stream in (True, False) if self._stream else (False,):
            self._stream = stream
            self._arrived.clear()
            self._untold = 0
            self._connection = _connection(self._address)
            try:
                self._channel = self._connection.channel()
                self._channel.basic_qos(prefetch_count=self._prefetch)
                start = "first" if self._after is None else self._after + 1
                self._channel.basic_consume(
                    self._queue, lambda _, *message: self._arrived.append(message), exclusive=not self._stream,
                    arguments={"x-stream-offset": start} if self._stream else None,
                )  # fmt: skip
                return
            except exceptions.ChannelClosedByBroker as error:
                self.close()
                self._refused(error)
            except exceptions.AMQPError as error:
                self.close()
                raise _away(self._address, error) from None

    def _refused(self, error: exceptions.ChannelClosedByBroker) -> None:
        if error.reply_code == 404:
            raise NotFound(f"{self._address} has no queue {self._queue!r}", expected="a queue that is there") from None
        if error.reply_code == 406 and self._stream and "x-stream-offset" in error.reply_text:
            return  # not a stream queue
        if error.reply_code == 403 and "exclusive" in error.reply_text:
            raise Conflict(
                f"somebody else reads from queue {self._queue!r}",
                expected="one reader, or else nobody knows who has which message",
            ) from None
        raise _away(self._address, error) from None

    def _again(self, error: exceptions.AMQPError) -> None:
        """Connect again; what was out is given out again, and known by its id."""
        late = time.monotonic() + _PATIENCE
        self.close()
        self._back = {}
        for out in self._out:
            out.tag = 0
            self._back.setdefault(out.id, deque()).append(out)
        while True:
            try:
                self._open()
                return
            except (Unavailable, Conflict):  # the broker may not have noticed yet that we were away
                if time.monotonic() > late:
                    raise _away(self._address, error) from None
                time.sleep(_PAUSE)


def _queue(address: broker.Address) -> tuple[str, str]:
    """The virtual host and the queue."""
    if len(address.path) not in (1, 2):
        raise Invalid("the url of rabbitmq names no queue", expected="amqp://host:port/vhost/queue")
    return (address.path[0] if len(address.path) == 2 else "/"), address.path[-1]


def _connection(address: broker.Address) -> Any:
    tls = pika.SSLOptions(ssl.create_default_context(cafile=address.ca or None), address.host) if address.tls else None
    parameters = pika.ConnectionParameters(
        address.host, address.port, _queue(address)[0],
        pika.PlainCredentials(address.user or "guest", address.password or "guest"), ssl_options=tls,
        socket_timeout=broker.TIMEOUT, blocked_connection_timeout=60, stack_timeout=2 * broker.TIMEOUT,
    )  # fmt: skip
    try:
        return pika.BlockingConnection(parameters)
    except (exceptions.AMQPError, OSError) as error:
        raise _away(address, error) from None


def _digest(method: Any, properties: Any, body: bytes) -> str:
    """What stands in for an id: everything that does not change when a message is given out again."""
    headers = {k: v for k, v in (properties.headers or {}).items() if k != "x-delivery-count"}
    said = [method.exchange, method.routing_key, properties.timestamp, properties.correlation_id, headers]
    return blake3(repr(said).encode() + b"\0" + body).hexdigest(16)


def _away(address: broker.Address, error: BaseException) -> Unavailable:
    code = f" ({error.reply_code})" if isinstance(error, exceptions.ConnectionClosed | exceptions.ChannelClosed) else ""
    return Unavailable(f"{address} does not answer: {type(error).__name__}{code}", expected="RabbitMQ to answer")
