"""Kafka: messages to a topic, and a topic as a stream.

As a stream every partition is a part and the offsets are Kafka's. Where to read on is said by who reads, never by the consumer
group, to which the kept offsets are only told so that others see the lag. Messages of transactions that were aborted are
not seen (isolation level read_committed).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition

from boucle.core.errors import Conflict, Invalid, NotFound, Unavailable
from boucle.plugins.channels import broker
from boucle.ports.channel import Message, check_options
from boucle.ports.stream import Received

_SCHEMES = {"kafka": 9092, "kafkas": 9093}
_LOG = logging.getLogger("boucle.kafka")
_NEW_PARTITIONS = 30.0  # seconds between looks for partitions that were added
_GONE = (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._RESOLVE)
_UNKNOWN = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION)


class KafkaChannel:
    """One record per message, in the order they were sent, taken by all replicas in sync."""

    name: ClassVar[str] = "kafka"

    def __init__(self, address: broker.Address, topic: str, mechanism: str) -> None:
        self._address, self._topic, self._mechanism = address, topic, mechanism

    @classmethod
    def connect(cls, options: Mapping[str, Any], root: Path) -> Self:  # noqa: ARG003  no paths
        check_options(cls.name, options, {"url": (str,), **broker.OPTIONS, "mechanism": (str,)}, ("url",))
        return cls(*_where(options["url"], options))

    def send(self, message: Message) -> None:
        id, body = broker.body(message)
        failed: list[KafkaError] = []
        settings = {**_settings(self._address, self._mechanism), "acks": "all", "enable.idempotence": True}
        producer = Producer({**settings, "message.timeout.ms": int(broker.TIMEOUT * 1000), "linger.ms": 0}, logger=_LOG)
        # One key, one partition: messages stay in order.
        producer.produce(
            self._topic, body, b"boucle", headers=[("id", id.encode())],
            on_delivery=lambda error, _: failed.append(error) if error else None,
        )  # fmt: skip
        left = producer.flush(broker.TIMEOUT + 1)
        if failed or left:
            said = failed[0].name() if failed else "did not answer"
            raise Unavailable(f"{self._address} did not take the message: {said}", expected="Kafka to take it")


class KafkaStream:
    """A topic, all partitions of it."""

    name: ClassVar[str] = "kafka"
    schemes: ClassVar[tuple[str, ...]] = tuple(_SCHEMES)
    bound = 0

    def __init__(self, address: broker.Address, topic: str, options: Mapping[str, Any], mechanism: str) -> None:
        self._address, self._topic, self._lost = address, topic, options.get("lost", "fail") == "skip"
        self._down = self._closed = False
        self._assigned: dict[int, int] = {}  # partition -> the offset to be read next, -1 before the first
        self._looked = time.monotonic()
        self._consumer = Consumer(
            {
                **_settings(address, mechanism),
                "group.id": options.get("group", "boucle"),
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "error",
                "isolation.level": "read_committed",
                "queued.max.messages.kbytes": 32 * 1024,  # held ahead of us, at most
                "queued.min.messages": 20_000,
                "fetch.queue.backoff.ms": 10,  # how soon it goes on once some of them were taken
                "fetch.wait.max.ms": 100,
                "fetch.max.bytes": 16 << 20,
                "error_cb": self._note,
            },
            logger=_LOG,
        )

    @classmethod
    def subscribe(cls, url: str, options: Mapping[str, Any], positions: Mapping[str, Any]) -> Self:
        broker.check_stream(cls.name, options, {"mechanism": (str,)})
        address, topic, mechanism = _where(url, options)
        stream = cls(address, topic, options, mechanism)
        try:
            stream._assign(positions)
        except BaseException:
            stream.close()
            raise
        return stream

    def receive(self, most: int, seconds: float) -> list[Received]:
        if time.monotonic() - self._looked > _NEW_PARTITIONS:
            self._assign({})
        messages = self._consumer.consume(most, 0.0)
        if not messages:
            messages = self._consumer.consume(1, seconds)
            if messages and most > 1:
                messages += self._consumer.consume(most - 1, 0.0)
        out = []
        for message in messages:
            error = message.error()
            if error is not None:
                self._failed(error)
                continue
            part, offset, (kind, stamp) = message.partition(), message.offset(), message.timestamp()
            assert part is not None
            assert offset is not None
            self._assigned[part] = offset + 1
            key = message.key()
            out.append(
                Received(
                    message.value() or b"", str(part), offset, key=key.decode(errors="backslashreplace") if key else "",
                    time=stamp / 1000 if kind else 0.0,
                )
            )  # fmt: skip
        if out:
            self._down = False
        elif self._down:
            self._metadata()  # nothing came, and no broker answered when last heard of: is that still so?
            self._down = False
        return out

    def acknowledge(self, positions: Mapping[str, Any]) -> None:
        if positions:
            kept = [TopicPartition(self._topic, int(part), offset + 1) for part, offset in positions.items()]
            self._consumer.commit(offsets=kept, asynchronous=True)  # for others to see; nobody reads on from it

    def lag(self) -> int | None:
        behind = 0
        try:
            for part, at in self._assigned.items():
                partition = TopicPartition(self._topic, part)
                # Each answer that brings messages says where the partition ends; asking would wait behind the next one.
                low, high = self._consumer.get_watermark_offsets(partition, broker.TIMEOUT, cached=True)
                if high < 0:
                    low, high = self._consumer.get_watermark_offsets(partition, broker.TIMEOUT)
                # Ends of transactions take an offset and are no messages: where Kafka stands says more than what came.
                (stands,) = self._consumer.position([partition])
                behind += max(0, high - max(low, at, stands.offset))
        except KafkaException as error:
            self._failed(error.args[0])
            return None
        return behind

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._consumer.close()

    def _metadata(self) -> list[int]:
        try:
            topic = self._consumer.list_topics(self._topic, timeout=broker.TIMEOUT).topics[self._topic]
        except KafkaException as error:
            raise self._away(error.args[0]) from None
        if topic.error is not None or not topic.partitions:
            if topic.error is not None and topic.error.code() not in _UNKNOWN:
                raise self._away(topic.error)
            raise NotFound(f"{self._address} has no topic {self._topic!r}", expected="a topic that is there")
        return sorted(topic.partitions)

    def _assign(self, positions: Mapping[str, Any]) -> None:
        """Read these partitions, and others that are there, from the positions on or else from their beginning."""
        self._looked = time.monotonic()
        there = self._metadata()
        gone = [part for part in positions if int(part) not in there]
        if gone and not self._lost:
            raise Conflict(f"topic {self._topic!r} has no partition {gone[0]} any more", expected="those of before")
        wanted = []
        for part in there:
            if part in self._assigned:
                continue
            at = positions.get(str(part))
            start = OFFSET_BEGINNING if at is None else at + 1
            if at is not None:
                start = self._kept(part, start)
            wanted.append(TopicPartition(self._topic, part, start))
            self._assigned[part] = -1 if at is None else start
        if wanted:
            self._consumer.incremental_assign(wanted)

    def _kept(self, part: int, start: int) -> int:
        """Where to begin when Kafka may have dropped what follows."""
        try:
            low, high = self._consumer.get_watermark_offsets(TopicPartition(self._topic, part), broker.TIMEOUT)
        except KafkaException as error:
            raise self._away(error.args[0]) from None
        if low <= start <= high:
            return start
        if not self._lost:
            raise Conflict(
                f"partition {part} of topic {self._topic!r} has the offsets {low} to {high}, and {start} was to be next",
                expected="Kafka to have kept what was not read yet",
                fix="go on with what there is by the option lost=skip",
            )
        return low

    def _note(self, error: KafkaError) -> None:
        self._down = self._down or error.code() in _GONE

    def _failed(self, error: KafkaError) -> None:
        """What an error means: nothing, a look whether anybody is there at the next turn, or an end."""
        if error.code() == KafkaError._PARTITION_EOF:
            return
        if error.code() in _GONE or error.retriable():
            self._down = True
            return
        raise self._away(error)

    def _away(self, error: KafkaError) -> Unavailable:
        return Unavailable(f"{self._address} does not give the topic: {error.name()}", expected="Kafka to answer")


def _where(url: Any, options: Mapping[str, Any]) -> tuple[broker.Address, str, str]:
    address = broker.address("kafka", url, options, _SCHEMES, several=True)
    if len(address.path) != 1:
        raise Invalid("the url of kafka names no topic", expected="kafka://host:port/topic")
    return address, address.path[0], options.get("mechanism", "PLAIN")


def _settings(address: broker.Address, mechanism: str) -> dict[str, Any]:
    settings: dict[str, Any] = {"bootstrap.servers": str(address), "client.id": "boucle", "log_level": 2}
    security = ("SASL_" if address.user else "") + ("SSL" if address.tls else "PLAINTEXT")
    settings["security.protocol"] = security
    if address.ca:
        settings["ssl.ca.location"] = address.ca
    if address.user:
        settings |= {"sasl.mechanism": mechanism, "sasl.username": address.user, "sasl.password": address.password}
    return settings
