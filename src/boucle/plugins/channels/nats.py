"""NATS JetStream: messages to a subject that a stream keeps, and a stream, or some of its subjects, as a stream.

As a stream there is one part, and the offsets are the sequence numbers of JetStream. The server keeps no state for who reads:
each time a consumer is made that begins after the kept position and goes away by itself.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import nats
from nats.errors import Error, NoServersError
from nats.js import api
from nats.js.errors import APIError, NotFoundError

from boucle.core.errors import BoucleError, Conflict, Invalid, NotFound, Unavailable
from boucle.plugins.channels import broker
from boucle.ports.channel import Message, check_options
from boucle.ports.stream import Received

T = TypeVar("T")
_SCHEMES = {"nats": 4222, "natss": 4222}
_PATIENCE = 30.0  # seconds in which a server that went away may come back
_URL = "nats://host:port/STREAM.subject"


class NatsChannel:
    """One message each, which JetStream confirms to have stored, and stores once however often it is sent."""

    name: ClassVar[str] = "nats"

    def __init__(self, address: broker.Address) -> None:
        self._address = address
        if not _stream(address)[1]:
            raise Invalid("the url of nats names no subject", expected=_URL)

    @classmethod
    def connect(cls, options: Mapping[str, Any], root: Path) -> Self:  # noqa: ARG003  no paths
        check_options(cls.name, options, {"url": (str,), **broker.OPTIONS}, ("url",))
        return cls(broker.address(cls.name, options["url"], options, _SCHEMES))

    def send(self, message: Message) -> None:
        id, body = broker.body(message)
        asyncio.run(self._send(id, body))

    async def _send(self, id: str, body: bytes) -> None:
        stream, subject = _stream(self._address)
        connection = await _connected(self._address)
        try:
            await connection.jetstream(timeout=broker.TIMEOUT).publish(
                subject, body, stream=stream, headers={"Nats-Msg-Id": id}
            )
        except Error as error:
            raise _away(self._address, error) from None
        finally:
            await connection.close()


class NatsStream:
    """A JetStream stream."""

    name: ClassVar[str] = "nats"
    schemes: ClassVar[tuple[str, ...]] = tuple(_SCHEMES)
    bound = 0

    def __init__(self, address: broker.Address, after: int) -> None:
        self._address, self._after = address, after
        self._part, self._subject = _stream(address)
        self._pending: int | None = None
        self._delivered = 0  # by the consumer there is now
        self._consumer: Any = None
        self._connection: Any = None
        # The library lives in an event loop, which has to go on answering the server while nobody receives.
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="boucle-nats")
        self._thread.start()

    @classmethod
    def subscribe(cls, url: str, options: Mapping[str, Any], positions: Mapping[str, Any]) -> Self:
        broker.check_stream(cls.name, options, {})
        address = broker.address(cls.name, url, options, _SCHEMES, several=True)
        stream = cls(address, positions.get(_stream(address)[0], 0))
        try:
            stream._do(stream._open(skip=options.get("lost", "fail") == "skip"))
        except BaseException:
            stream.close()
            raise
        return stream

    def _do(self, work: Coroutine[Any, Any, T], seconds: float = 0.0) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(seconds or 3 * broker.TIMEOUT)
        except BoucleError:
            raise
        except (Error, TimeoutError, OSError) as error:
            future.cancel()
            raise _away(self._address, error) from None

    async def _open(self, *, skip: bool) -> None:
        self._connection = await _connected(self._address)
        jetstream = self._connection.jetstream(timeout=broker.TIMEOUT)
        try:
            info = await jetstream.stream_info(self._part)
        except NotFoundError:
            raise NotFound(f"{self._address} has no stream {self._part!r}", expected="one that is there") from None
        state, config = info.state, info.config
        if config.retention == api.RetentionPolicy.WORK_QUEUE:
            raise Invalid(
                f"stream {self._part!r} is a work queue: what one has read is gone",
                expected="a stream with the retention limits or interest",
                fix="give the data a stream of their own that sources this one",
            )
        dropped = not self._subject and state.first_seq > self._after + 1
        if self._after and not skip and (dropped or state.last_seq < self._after):
            raise Conflict(
                f"stream {self._part!r} has the messages {state.first_seq} to {state.last_seq}, and {self._after + 1} "
                "was to be next",
                expected="JetStream to have kept what was not read yet",
                fix="go on with what there is by the option lost=skip",
            )
        await self._consume(jetstream)

    async def _consume(self, jetstream: Any) -> None:
        """A consumer after what was received. It goes by itself when nobody asked it for a while, then comes another."""
        config = api.ConsumerConfig(
            deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=self._after + 1,
            ack_policy=api.AckPolicy.NONE, filter_subject=self._subject or None, inactive_threshold=300.0,
        )  # fmt: skip
        if self._consumer is not None:
            await self._consumer.unsubscribe()
        made = await jetstream.add_consumer(self._part, config)
        self._delivered = 0
        self._pending = made.num_pending
        self._consumer = await jetstream.pull_subscribe_bind(made.name, self._part, pending_msgs_limit=-1)

    async def _fetch(self, most: int, seconds: float) -> list[Received]:
        late = time.monotonic() + _PATIENCE
        while True:
            try:
                messages = await self._consumer.fetch(min(most, 5000), timeout=max(seconds, 0.05))
                break
            except TimeoutError:  # the library's own is one, too
                if self._connection.is_connected and await self._alive():
                    return []
                problem: Exception = TimeoutError()
            except Error as error:
                problem = error
            if time.monotonic() > late:
                raise _away(self._address, problem)
            await asyncio.sleep(0.25)
            try:
                if not self._connection.is_connected:
                    await self._connection.close()
                    self._connection = await _connected(self._address)
                    self._consumer = None
                await self._consume(self._connection.jetstream(timeout=broker.TIMEOUT))
            except (Unavailable, Error, TimeoutError):
                continue
        out = []
        for message in messages:
            about = message.metadata
            self._delivered += 1
            if about.sequence.consumer != self._delivered:  # one was sent and did not arrive: a connection broke
                await self._consume(self._connection.jetstream(timeout=broker.TIMEOUT))
                break
            self._after, self._pending = about.sequence.stream, about.num_pending
            sent = about.timestamp.timestamp()
            out.append(Received(message.data, self._part, self._after, key=message.subject, time=sent))
        return out

    async def _alive(self) -> bool:
        """Whether the consumer is still there; a server that has forgotten it answers a fetch as if there was nothing."""
        try:
            self._pending = (await self._consumer.consumer_info()).num_pending
        except (APIError, Error, TimeoutError):
            return False
        return True

    def receive(self, most: int, seconds: float) -> list[Received]:
        return self._do(self._fetch(most, seconds), seconds + _PATIENCE + 3 * broker.TIMEOUT)

    def acknowledge(self, positions: Mapping[str, Any]) -> None:
        """JetStream keeps what it keeps by its own limits."""

    def lag(self) -> int | None:
        return self._pending

    def close(self) -> None:
        if self._loop.is_closed():
            return
        if self._connection is not None and not self._connection.is_closed:
            self._do(self._connection.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _stream(address: broker.Address) -> tuple[str, str]:
    """The stream and the subject of it that is meant; '' for all."""
    stream, _, subject = "/".join(address.path).partition(".")
    if not stream or "/" in stream:
        raise Invalid("the url of nats names no stream", expected=_URL)
    return stream, subject


async def _connected(address: broker.Address) -> Any:
    scheme = "tls" if address.tls else "nats"
    tls = ssl.create_default_context(cafile=address.ca or None) if address.tls or address.ca else None
    more: dict[str, Any] = {"user": address.user, "password": address.password} if address.user else {}
    if address.password and not address.user:
        more = {"token": address.password}

    async def quiet(_: Exception) -> None:
        """What goes wrong is raised where it is waited for."""

    try:
        connecting = nats.connect(
            [f"{scheme}://{host}:{port}" for host, port in address.hosts], name="boucle", tls=tls, error_cb=quiet,
            connect_timeout=broker.TIMEOUT, allow_reconnect=False, max_reconnect_attempts=1, **more,
        )  # fmt: skip
        return await asyncio.wait_for(connecting, broker.TIMEOUT)
    except (Error, NoServersError, OSError, TimeoutError) as error:
        raise _away(address, error) from None


def _away(address: broker.Address, error: BaseException) -> Unavailable:
    return Unavailable(f"{address} does not answer: {type(error).__name__}", expected="NATS to answer")
