import json
import socket
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pika
import pytest

from boucle.core.errors import Conflict, Invalid, Unavailable
from boucle.core.refs import new_id
from boucle.plugins.channels import rabbitmq as ours
from boucle.plugins.channels.rabbitmq import RabbitmqChannel, RabbitmqStream
from boucle.ports.channel import Message
from boucle.testing.channel import ChannelContract
from boucle.testing.stream import StreamContract


@pytest.fixture
def server(rabbitmq: str) -> Iterator[Any]:
    host, _, port = rabbitmq.partition(":")
    with pika.BlockingConnection(pika.ConnectionParameters(host, int(port))) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        yield channel


class TestRabbitmqChannel(ChannelContract):
    plugin = RabbitmqChannel

    @pytest.fixture(autouse=True)
    def _server(self, rabbitmq: str, server: Any) -> None:
        self.at, self.server, self.queue = rabbitmq, server, new_id()
        server.queue_declare(self.queue, durable=True)

    def options(self, tmp_path: Path) -> dict[str, Any]:
        return {"url": f"amqp://{self.at}/%2F/{self.queue}"}

    def received(self) -> list[dict[str, Any]]:
        out = []
        while (got := self.server.basic_get(self.queue, auto_ack=True))[0]:
            out.append(json.loads(got[2]))
        return out

    def test_a_queue_that_is_not_there_is_said(self) -> None:
        channel = RabbitmqChannel.connect({"url": f"amqp://{self.at}/{new_id()}"}, Path())
        with pytest.raises(Unavailable, match="no queue"):
            channel.send(Message("info", "x"))

    def test_a_wrong_password_is_not_shown(self) -> None:
        url = f"amqp://guest:never-shown@{self.at}/{self.queue}"
        with pytest.raises(Unavailable) as caught:
            RabbitmqChannel.connect({"url": url}, Path()).send(Message("info", "x"))
        assert "never-shown" not in repr(caught.getrepr(style="short"))


class QueueContract(StreamContract):
    plugin = RabbitmqStream
    kind = "classic"

    @pytest.fixture(autouse=True)
    def _server(self, rabbitmq: str, server: Any) -> None:
        self.at, self.server = rabbitmq, server

    def url(self) -> str:
        name = new_id()
        self.server.queue_declare(name, durable=True, arguments={"x-queue-type": self.kind})
        return f"amqp://{self.at}/%2F/{name}"

    def send(self, url: str, values: Sequence[bytes], **properties: Any) -> None:
        queue = urllib.parse.urlsplit(url).path.rpartition("/")[2]
        for i, value in enumerate(values):
            about = pika.BasicProperties(delivery_mode=2, timestamp=i, **properties)
            self.server.basic_publish("", queue, value, about, mandatory=True)

    def _quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ours, "_PATIENCE", 0.5)

    def _break(self, stream: RabbitmqStream) -> None:
        stream._connection._impl._transport._sock.shutdown(socket.SHUT_RDWR)

    def test_a_connection_that_broke_loses_and_doubles_nothing(self, open: Any) -> None:
        url = self.url()
        stream = open(url)
        self.send(url, [b"%d" % i for i in range(20)])
        got = self.read(stream, 20)
        self._break(stream)
        self.send(url, [b"%d" % i for i in range(20, 40)])
        got += self.read(stream, 20)
        assert [int(m.value) for m in got] == list(range(40))
        assert stream.receive(10, 0.3) == []
        stream.acknowledge(self.positions(got))
        stream.close()
        assert open(url, self.positions(got)).receive(10, 0.3) == []


class TestClassicQueue(QueueContract):
    keeps = False

    def test_there_is_one_reader(self, open: Any) -> None:
        url = self.url()
        open(url)
        with pytest.raises(Conflict, match="somebody else"):
            open(url)

    def test_the_id_of_the_sender_counts(self, open: Any) -> None:
        url = self.url()
        stream = open(url)
        self.send(url, [b"a", b"a"])
        self.send(url, [b"a"], message_id="mine")
        first, second, third = self.read(stream, 3)
        assert third.id == "mine"
        assert len({first.id, second.id}) == 2  # they were sent at different times
        assert (first.again, third.again) == (False, True)

    @pytest.mark.parametrize("wrong", [0, 70000])
    def test_a_prefetch_that_is_none_is_refused(self, wrong: int) -> None:
        with pytest.raises(Invalid, match="prefetch"):
            RabbitmqStream.subscribe(self.url(), {"prefetch": wrong}, {})


class TestQuorumQueue(QueueContract):
    kind = "quorum"
    keeps = False

    def test_the_lag_is_how_many_there_are_still(self, open: Any) -> None:
        """A quorum queue counts later than it delivers."""


class TestStreamQueue(QueueContract):
    kind = "stream"

    def test_what_was_dropped_unread_is_said(self, open: Any) -> None:
        url = self.url()
        stream = open(url)
        self.send(url, [b"%d" % i for i in range(3)])
        self.read(stream, 3)
        stream._after = 0  # as if the broker had dropped what followed
        stream._arrived.clear()
        self.send(url, [b"3"])
        with pytest.raises(Conflict, match="lost=skip"):
            self.read(stream, 1)

    def test_two_may_read(self, open: Any) -> None:
        url = self.url()
        both = [open(url), open(url)]
        self.send(url, [b"x"])
        assert [m.value for s in both for m in self.read(s, 1)] == [b"x", b"x"]
