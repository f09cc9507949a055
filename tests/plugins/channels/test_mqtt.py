import json
import queue
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from boucle.core.errors import Conflict, Invalid, Unavailable
from boucle.core.refs import new_id
from boucle.plugins.channels import broker
from boucle.plugins.channels.mqtt import MqttChannel, MqttStream
from boucle.ports.channel import Message
from boucle.testing.channel import ChannelContract
from boucle.testing.stream import StreamContract


def client(address: str) -> mqtt.Client:
    host, _, port = address.partition(":")
    made = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=new_id(), protocol=mqtt.MQTTv5)
    made.max_inflight_messages_set(1000)
    made.connect(host, int(port))
    made.loop_start()
    return made


@pytest.fixture
def other(mosquitto: str) -> Iterator[mqtt.Client]:
    made = client(mosquitto)
    yield made
    made.disconnect()
    made.loop_stop()


class TestMqttChannel(ChannelContract):
    plugin = MqttChannel

    @pytest.fixture(autouse=True)
    def _server(self, mosquitto: str, other: mqtt.Client) -> None:
        self.at, self.topic, self.got = mosquitto, f"t/{new_id()}", queue.Queue[bytes]()
        self.other, ready = other, queue.Queue[int]()
        other.on_message = lambda _c, _u, message: self.got.put(bytes(message.payload))
        other.on_subscribe = lambda *_: ready.put(1)
        other.subscribe(f"{self.topic}/#", qos=1)
        ready.get(timeout=10)

    def options(self, tmp_path: Path) -> dict[str, Any]:
        return {"url": f"mqtt://{self.at}/{self.topic}/alerts"}

    def received(self) -> list[dict[str, Any]]:
        end = f"{self.topic}/end"
        self.other.publish(end, b"", qos=1).wait_for_publish(10)
        out: list[dict[str, Any]] = []
        while value := self.got.get(timeout=10):
            out.append(json.loads(value))
        return out

    def test_a_topic_with_signs_is_none_to_send_to(self) -> None:
        for path in ("", "/", "/a/#", "/+/a"):
            with pytest.raises(Invalid):
                MqttChannel.connect({"url": f"mqtt://127.0.0.1{path}"}, Path())


class TestMqttStream(StreamContract):
    plugin = MqttStream
    keeps = False
    misses = False  # any topic is one

    @pytest.fixture(autouse=True)
    def _server(self, mosquitto: str, other: mqtt.Client) -> None:
        self.at, self.other, self.group = mosquitto, other, new_id()

    @pytest.fixture(autouse=True)
    def _own_session(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = MqttStream.subscribe.__func__

        def subscribe(cls: Any, url: str, options: Any, positions: Any) -> MqttStream:
            return real(cls, url, {"group": self.group, **options}, positions)

        monkeypatch.setattr(MqttStream, "subscribe", classmethod(subscribe))

    def url(self) -> str:
        return f"mqtt://{self.at}/t/{new_id()}"

    def send(self, url: str, values: Sequence[bytes], qos: int = 1) -> None:
        topic = urllib.parse.urlsplit(url).path[1:]
        sent = [self.other.publish(topic, value, qos=qos) for value in values]
        for each in sent:
            each.wait_for_publish(20)

    def _quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(broker, "TIMEOUT", 0.5)

    def test_what_came_while_nobody_read_is_there(self, open: Any) -> None:
        url = self.url()
        open(url).close()
        self.send(url, [b"1", b"2"])
        self.send(url, [b"3"], qos=2)
        assert [m.value for m in self.read(open(url), 3)] == [b"1", b"2", b"3"]

    def test_many_topics_are_one_stream(self, open: Any) -> None:
        base = self.url()
        stream = open(f"{base}/#")
        for i in range(4):
            self.send(f"{base}/{i}", [b"%d" % i])
        got = self.read(stream, 4)
        topic = urllib.parse.urlsplit(base).path[1:]
        assert [(m.value, m.key) for m in got] == [(b"%d" % i, f"{topic}/{i}") for i in range(4)]
        assert len({m.part for m in got}) == 1

    def test_a_session_that_the_broker_forgot_is_said(self, open: Any) -> None:
        url = self.url()
        with pytest.raises(Conflict, match="lost=skip"):
            open(url, {urllib.parse.urlsplit(url).path[1:]: 5})
        self.group = new_id()
        open(url, {urllib.parse.urlsplit(url).path[1:]: 5}, lost="skip")

    def test_of_two_who_read_by_one_session_the_first_is_told(self, open: Any) -> None:
        url = self.url()
        first = open(url)
        open(url)
        with pytest.raises(Conflict, match="group"):
            for _ in range(100):
                first.receive(1, 0.2)

    def test_a_connection_that_broke_loses_and_doubles_nothing(self, open: Any) -> None:
        url = self.url()
        stream = open(url)
        self.send(url, [b"%d" % i for i in range(20)])
        got = self.read(stream, 20)
        stream._client.socket().close()
        self.send(url, [b"%d" % i for i in range(20, 40)])
        got += self.read(stream, 20)
        assert [int(m.value) for m in got] == list(range(40))
        assert stream.receive(10, 0.5) == []
        stream.acknowledge(self.positions(got))
        stream.close()
        assert open(url).receive(10, 0.5) == []

    @pytest.mark.parametrize("wrong", [0, 70000])
    def test_a_prefetch_that_is_none_is_refused(self, wrong: int) -> None:
        with pytest.raises(Invalid, match="prefetch"):
            MqttStream.subscribe(self.url(), {"prefetch": wrong}, {})


def test_nobody_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "TIMEOUT", 0.5)
    with pytest.raises(Unavailable):
        MqttChannel.connect({"url": "mqtt://127.0.0.1:1/t"}, Path()).send(Message("info", "x"))
