import json
import time
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from boucle.core.errors import Conflict, Invalid, Unavailable
from boucle.core.refs import new_id
from boucle.plugins.channels import broker
from boucle.plugins.channels.kafka import KafkaChannel, KafkaStream
from boucle.ports.channel import Message
from boucle.testing.channel import ChannelContract
from boucle.testing.stream import StreamContract


class TestKafkaChannel(ChannelContract):
    plugin = KafkaChannel

    @pytest.fixture(autouse=True)
    def _server(self, kafka: str) -> None:
        self.at, self.topic = kafka, new_id()
        Producer({"bootstrap.servers": kafka, "log_level": 2}).list_topics(self.topic, timeout=10)

    def options(self, tmp_path: Path) -> dict[str, Any]:
        return {"url": f"kafka://{self.at}/{self.topic}"}

    def received(self) -> list[dict[str, Any]]:
        out: list[bytes] = []
        consumer = Consumer(
            {"bootstrap.servers": self.at, "group.id": "t", "enable.partition.eof": True, "log_level": 2}
        )
        there = consumer.list_topics(self.topic, timeout=10).topics[self.topic].partitions
        consumer.assign([TopicPartition(self.topic, part, 0) for part in there])
        ends = 0
        while ends < len(there):
            for message in consumer.consume(100, 0.1):
                ends += message.error() is not None
                out += [] if message.error() else [message.value()]
        consumer.close()
        return [json.loads(value) for value in out]


class TestKafkaStream(StreamContract):
    plugin = KafkaStream

    @pytest.fixture(autouse=True)
    def _server(self, kafka: str) -> None:
        self.at = kafka
        self.producer = Producer({"bootstrap.servers": kafka, "log_level": 2, "message.max.bytes": 2_000_000})

    def url(self) -> str:
        topic = new_id()
        self.producer.list_topics(topic, timeout=10)  # which makes it, in the mock
        return f"kafka://{self.at}/{topic}"

    def send(self, url: str, values: Sequence[bytes]) -> None:
        topic = urllib.parse.urlsplit(url).path[1:]
        for i, value in enumerate(values):
            self.producer.produce(topic, value, key=b"%d" % (i % 7), on_delivery=lambda error, _: _raise(error))
        assert not self.producer.flush(20)

    def _quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(broker, "TIMEOUT", 0.3)

    def test_offsets_that_kafka_does_not_have_are_said(self) -> None:
        url = self.url()
        with pytest.raises(Conflict, match="lost=skip"):
            KafkaStream.subscribe(url, {}, {"0": 17})
        with pytest.raises(Conflict, match="partition 99"):
            KafkaStream.subscribe(url, {}, {"99": 17})
        KafkaStream.subscribe(url, {"lost": "skip"}, {"0": 17}).close()

    def test_others_see_how_far_it_is(self, open: Any) -> None:
        url = self.url()
        self.send(url, [b"%d" % i for i in range(40)])
        stream = open(url, group="seen")
        positions = self.positions(self.read(stream, 40))
        stream.acknowledge(positions)
        stream.close()
        consumer = Consumer({"bootstrap.servers": self.at, "group.id": "seen", "log_level": 2})
        topic = urllib.parse.urlsplit(url).path[1:]
        kept = consumer.committed([TopicPartition(topic, int(part)) for part in positions], timeout=10)
        consumer.close()
        assert {str(at.partition): at.offset - 1 for at in kept} == positions

    def test_messages_of_an_aborted_transaction_are_not_seen(self, open: Any) -> None:
        url = self.url()
        topic = urllib.parse.urlsplit(url).path[1:]
        producer = Producer({"bootstrap.servers": self.at, "transactional.id": new_id(), "log_level": 2})
        producer.init_transactions(20)
        for value in (b"kept", b"dropped"):
            producer.begin_transaction()
            producer.produce(topic, value)
            producer.commit_transaction(20) if value == b"kept" else producer.abort_transaction(20)
        stream = open(url)
        assert b"kept" in [m.value for m in self.read(stream, 2, seconds=2.0)]

    def test_a_url_names_one_topic(self) -> None:
        for path in ("", "/", "/a/b"):
            with pytest.raises(Invalid):
                KafkaStream.subscribe(f"kafka://127.0.0.1{path}", {}, {})

    def test_a_broker_that_goes_away_is_noticed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        own = Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": 1, "log_level": 2})
        (at,) = own.list_topics(timeout=10).brokers.values()
        own.list_topics("t", timeout=10)
        stream = KafkaStream.subscribe(f"kafka://{at.host}:{at.port}/t", {}, {})
        assert stream.receive(5, 0.2) == []
        monkeypatch.setattr(broker, "TIMEOUT", 0.5)
        del own
        late = time.monotonic() + 20
        with pytest.raises(Unavailable):
            while time.monotonic() < late:
                stream.receive(5, 0.2)
        stream.close()


def test_nobody_there_is_said() -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Unavailable):
        patch.setattr(broker, "TIMEOUT", 0.5)
        KafkaChannel.connect({"url": "kafka://127.0.0.1:1/t"}, Path()).send(Message("info", "x"))


def _raise(error: Any) -> None:
    assert error is None, error
