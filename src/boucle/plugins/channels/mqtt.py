"""MQTT 5: messages to a topic, and a topic filter as a stream.

A broker keeps a session for who reads: what came while nobody was there, and what was given out and not acknowledged. It is read
with quality of service 1, also where it was published with 2: the handshake of 2 ends in the memory of a client, so a client
that is killed would lose messages. What is given out again is known by its packet, topic and content. Messages published with
quality of service 0 are not kept by anybody.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import paho.mqtt.client as mqtt
from blake3 import blake3
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from boucle.core.errors import Conflict, Invalid, Unavailable
from boucle.core.refs import new_id
from boucle.plugins.channels import broker
from boucle.ports.channel import Message, check_options
from boucle.ports.stream import Received

_SCHEMES = {"mqtt": 1883, "mqtts": 8883}
_PATIENCE = 30.0  # seconds in which a broker that went away may come back
_FOREVER = 0xFFFFFFFF  # of a session that does not end
_BRIEF = 10.0  # seconds of a connection that is no good
_TAKEN_OVER = 142  # the reason code of a session that another connection took


class MqttChannel:
    """One message each, which the broker confirms to have (quality of service 1)."""

    name: ClassVar[str] = "mqtt"

    def __init__(self, address: broker.Address) -> None:
        self._address = address
        if not address.path or {"#", "+"} & set("".join(address.path)):
            raise Invalid("the url of mqtt names no topic", expected="mqtt://host:port/topic")

    @classmethod
    def connect(cls, options: Mapping[str, Any], root: Path) -> Self:  # noqa: ARG003  no paths
        check_options(cls.name, options, {"url": (str,), **broker.OPTIONS}, ("url",))
        return cls(broker.address(cls.name, options["url"], options, _SCHEMES))

    def send(self, message: Message) -> None:
        _, body = broker.body(message)
        client = _client(self._address, f"boucle-{new_id()}")
        connected = threading.Event()
        refused: list[str] = []

        def answered(_c: Any, _u: Any, _f: Any, reason: Any, _p: Any) -> None:
            if reason.is_failure:
                refused.append(str(reason))
            connected.set()

        client.on_connect = answered
        try:
            client.connect(self._address.host, self._address.port, clean_start=True)
            client.loop_start()
            if not connected.wait(broker.TIMEOUT) or refused:
                raise _away(self._address, refused[0] if refused else "no answer")
            sent = client.publish("/".join(self._address.path), body, qos=1)
            sent.wait_for_publish(broker.TIMEOUT)
            if not sent.is_published():
                raise _away(self._address, "no answer")
        except (OSError, ValueError, RuntimeError) as error:
            if isinstance(error, Unavailable):
                raise
            raise _away(self._address, type(error).__name__) from None
        finally:
            client.disconnect()
            client.loop_stop()


@dataclass(slots=True)
class _Out:
    """A message that was received and not acknowledged; `here` is false while the broker may give it out again."""

    offset: int
    packet: int
    id: str
    here: bool = True


class MqttStream:
    """A topic filter, by a session of the broker that is named by the option `group`."""

    name: ClassVar[str] = "mqtt"
    schemes: ClassVar[tuple[str, ...]] = tuple(_SCHEMES)

    def __init__(self, address: broker.Address, group: str, prefetch: int, fresh: bool) -> None:
        self._address, self._prefetch, self._fresh = address, prefetch, fresh
        self._topic = "/".join(address.path)
        self._after = 0
        self._news = threading.Condition()
        self._arrived: deque[Received] = deque()
        self._out: deque[_Out] = deque()
        self._connected = self._lost = False
        self._away_since = self._here_since = time.monotonic()
        self._brief = 0  # connections in a row that broke at once
        self._problem: Exception | None = None
        self._answered: set[int] = set()
        client = self._client = _client(address, group)
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_message, client.on_subscribe, client.on_unsubscribe = (
            self._on_message,
            self._on_answer,
            self._on_answer,
        )

    @classmethod
    def subscribe(cls, url: str, options: Mapping[str, Any], positions: Mapping[str, Any]) -> Self:
        broker.check_stream(cls.name, options, {"prefetch": (int,)})
        prefetch = options.get("prefetch", 5000)
        if not 1 <= prefetch <= 65535:
            raise Invalid("the option 'prefetch' of a mqtt channel does not fit", expected="1 to 65535")
        address = broker.address(cls.name, url, options, _SCHEMES)
        if not address.path:
            raise Invalid(
                "the url of mqtt names no topic", expected="mqtt://host:port/topic or mqtt://host:port/topic/#"
            )
        fresh = not positions or options.get("lost", "fail") == "skip"
        stream = cls(address, options.get("group", "boucle"), prefetch, fresh)
        try:
            stream._open()
        except BaseException:
            stream.close()
            raise
        return stream

    @property
    def bound(self) -> int:
        return self._prefetch

    def receive(self, most: int, seconds: float) -> list[Received]:
        with self._news:
            self._news.wait_for(lambda: self._arrived or self._problem, seconds)
            if self._problem is not None:
                raise self._problem
            if not self._arrived and not self._connected and time.monotonic() - self._away_since > _PATIENCE:
                raise _away(self._address, "the connection broke")
            return [self._arrived.popleft() for _ in range(min(most, len(self._arrived)))]

    def acknowledge(self, positions: Mapping[str, Any]) -> None:
        last, packets = positions.get(self._topic, 0), []
        with self._news:
            while self._out and self._out[0].offset <= last:
                out = self._out.popleft()
                if out.here:
                    packets.append(out.packet)
        for packet in packets:
            self._client.ack(packet, 1)
        if packets:
            # The broker works in order, so its answer to this, which changes nothing, says that it has seen those.
            _, asked = self._client.unsubscribe(f"boucle/{new_id()}")
            with self._news:
                self._news.wait_for(lambda: asked in self._answered or not self._connected, broker.TIMEOUT)
                self._answered.discard(asked or 0)

    def lag(self) -> int | None:
        return None

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _open(self) -> None:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval, properties.ReceiveMaximum = _FOREVER, self._prefetch
        try:
            self._client.connect(self._address.host, self._address.port, clean_start=False, properties=properties)
        except (OSError, ValueError) as error:
            raise _away(self._address, type(error).__name__) from None
        self._client.loop_start()
        with self._news:
            self._news.wait_for(lambda: self._connected or self._problem, broker.TIMEOUT)
            if self._problem is not None:
                raise self._problem
            if not self._connected:
                raise _away(self._address, "no answer")

    # The rest is called by the library's own thread.

    def _on_connect(self, client: Any, _data: Any, flags: Any, reason: Any, _properties: Any) -> None:
        with self._news:
            if reason.is_failure:
                self._problem = _away(self._address, str(reason))
            elif not flags.session_present and not self._fresh:
                self._problem = Conflict(
                    f"{self._address} has forgotten who read {self._topic!r}, and what came since",
                    expected="the session to be there",
                    fix="go on with what comes from now on by the option lost=skip",
                )
            else:
                self._here_since = time.monotonic()
                # A session that is gone gives nothing out again, and one that is there gives out all that was not acknowledged.
                for out in self._out:
                    out.here = False
                if not flags.session_present:
                    client.subscribe(self._topic, qos=1)
                    self._fresh = False
                else:
                    self._connected = True
            if self._problem is not None:
                client.disconnect()
            self._news.notify_all()

    def _on_disconnect(self, client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        with self._news:
            self._connected, self._away_since = False, time.monotonic()
            self._brief = self._brief + 1 if time.monotonic() - self._here_since < _BRIEF else 0
            if reason.value == _TAKEN_OVER or self._brief >= 3:  # not every broker says so
                self._problem = Conflict(
                    f"the broker breaks the connection for {self._topic!r}: somebody else reads by the same session",
                    expected="one reader, or another name for each by the option group",
                )
                client.disconnect()
            self._news.notify_all()

    def _on_answer(self, _client: Any, _data: Any, packet: int, reasons: Any, _properties: Any) -> None:
        with self._news:
            self._answered = {*list(self._answered)[-8:], packet}
            failed = [r for r in (reasons if isinstance(reasons, list) else [reasons]) if r.is_failure]
            if failed and not self._connected:
                self._problem = _away(self._address, str(failed[0]))
            self._connected = True
            self._news.notify_all()

    def _on_message(self, _client: Any, _data: Any, message: mqtt.MQTTMessage) -> None:
        topic, payload = message.topic, bytes(message.payload)
        with self._news:
            id = ""
            if message.qos:
                id = blake3(message.mid.to_bytes(2, "big") + topic.encode() + b"\0" + payload).hexdigest(16)
                for out in self._out if message.dup else ():
                    if out.id == id and not out.here:  # was out when the connection broke, and is still being worked on
                        out.here = True
                        return
            self._after += 1
            if message.qos:
                self._out.append(_Out(self._after, message.mid, id))
            self._arrived.append(
                Received(payload, self._topic, self._after, id, bool(message.dup), key=topic, time=time.time())
            )
            self._news.notify_all()


def _client(address: broker.Address, id: str) -> mqtt.Client:
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=id, protocol=mqtt.MQTTv5, manual_ack=True)
    if address.user:
        client.username_pw_set(address.user, address.password)
    if address.tls:
        client.tls_set_context(ssl.create_default_context(cafile=address.ca or None))
    client.reconnect_delay_set(1, 5)
    client.connect_timeout = broker.TIMEOUT
    return client


def _away(address: broker.Address, why: str) -> Unavailable:
    return Unavailable(f"{address} does not answer: {why}", expected="the MQTT broker to answer")
