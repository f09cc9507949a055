import asyncio
import json
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nats as library
import pytest

from boucle.core.errors import Conflict, Invalid, Unavailable
from boucle.core.refs import new_id
from boucle.plugins.channels import broker
from boucle.plugins.channels.nats import NatsChannel, NatsStream
from boucle.ports.channel import Message
from boucle.testing.channel import MESSAGE, ChannelContract
from boucle.testing.stream import StreamContract


def at(address: str, work: Any) -> Any:
    """Do something with a connection and its JetStream."""

    async def connected() -> Any:
        connection = await library.connect(f"nats://{address}")
        try:
            return await work(connection.jetstream())
        finally:
            await connection.close()

    return asyncio.run(connected())


def make(address: str, **more: Any) -> str:
    name = new_id()
    at(address, lambda js: js.add_stream(name=name, subjects=[f"{name}.>"], **more))
    return name


async def _read(js: Any, name: str) -> list[bytes]:
    info = await js.stream_info(name)
    return [(await js.get_msg(name, seq)).data for seq in range(1, info.state.last_seq + 1)]


class TestNatsChannel(ChannelContract):
    plugin = NatsChannel

    @pytest.fixture(autouse=True)
    def _server(self, nats: str) -> None:
        self.at, self.stream = nats, make(nats)

    def options(self, tmp_path: Path) -> dict[str, Any]:
        return {"url": f"nats://{self.at}/{self.stream}.{self.stream}.alerts"}

    def received(self) -> list[dict[str, Any]]:
        return [json.loads(value) for value in at(self.at, lambda js: _read(js, self.stream))]

    def test_a_message_that_is_sent_again_is_kept_once(self, channel: Any) -> None:
        channel.send(MESSAGE)
        channel.send(MESSAGE)
        assert len(self.received()) == 1

    def test_a_subject_that_nobody_keeps_is_said(self) -> None:
        channel = NatsChannel.connect({"url": f"nats://{self.at}/{self.stream}.other.subject"}, Path())
        with pytest.raises(Unavailable):
            channel.send(Message("info", "x"))


class TestNatsStream(StreamContract):
    plugin = NatsStream

    @pytest.fixture(autouse=True)
    def _server(self, nats: str) -> None:
        self.at = nats

    def url(self) -> str:
        return f"nats://{self.at}/{make(self.at)}"

    def send(self, url: str, values: Sequence[bytes], subject: str = "x") -> None:
        name = urllib.parse.urlsplit(url).path[1:].partition(".")[0]

        async def publish(js: Any) -> None:
            for value in values:
                await js.publish(f"{name}.{subject}", value)

        at(self.at, publish)

    def _quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(broker, "TIMEOUT", 0.3)

    def test_some_subjects_only(self, open: Any) -> None:
        url = self.url()
        for i in range(6):
            self.send(url, [b"%d" % i], f"s{i % 2}.a")
        name = url.rpartition("/")[2]
        got = self.read(open(f"{url}.{name}.s1.*"), 3)
        assert [(m.value, m.offset, m.key) for m in got] == [(b"%d" % i, i + 1, f"{name}.s1.a") for i in (1, 3, 5)]

    def test_what_was_dropped_unread_is_said(self, open: Any) -> None:
        name = make(self.at, max_msgs=3)
        url = f"nats://{self.at}/{name}"
        self.send(url, [b"%d" % i for i in range(10)])
        with pytest.raises(Conflict, match="lost=skip"):
            open(url, {name: 4})
        assert [m.value for m in self.read(open(url, {name: 4}, lost="skip"), 3)] == [b"7", b"8", b"9"]
        with pytest.raises(Conflict):
            open(url, {name: 99})

    def test_a_consumer_that_the_server_forgot_is_made_again(self, open: Any) -> None:
        url = self.url()
        name = url.rpartition("/")[2]
        stream = open(url)
        self.send(url, [b"a"])
        assert [m.value for m in self.read(stream, 1)] == [b"a"]

        async def forget(js: Any) -> None:
            for consumer in await js.consumers_info(name):
                await js.delete_consumer(name, consumer.name)

        at(self.at, forget)
        self.send(url, [b"b"])
        assert [m.value for m in self.read(stream, 1)] == [b"b"]

    def test_a_work_queue_is_refused(self, open: Any) -> None:
        with pytest.raises(Invalid, match="work queue"):
            open(f"nats://{self.at}/{make(self.at, retention='workqueue')}")
