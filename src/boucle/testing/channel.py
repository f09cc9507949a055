"""The contract of a channel, as tests; a plugin proves itself by subclassing it and giving `make` and `received`."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from boucle.core.errors import Invalid
from boucle.ports.channel import Channel, Message

MESSAGE = Message("warning", "drift in größe ☕", "model:churn@3", {"score": 0.7, "columns": ["a"]}, "01ID", 5.5)


class ChannelContract:
    """What every channel must do. Subclasses give `make` and `received`."""

    def make(self, tmp_path: Path) -> Channel:
        """A channel on which nothing was sent yet."""
        raise AssertionError(f"give the channel to test, for {tmp_path}")

    def received(self) -> list[dict[str, Any]]:
        """What has arrived at the other side, oldest first, as the fields of `Message`."""
        raise AssertionError("say what has arrived")

    @pytest.fixture
    def channel(self, tmp_path: Path) -> Channel:
        return self.make(tmp_path)

    def test_it_says_what_it_is(self, channel: Channel) -> None:
        assert channel.name

    def test_a_message_arrives_whole(self, channel: Channel) -> None:
        channel.send(MESSAGE)
        (got,) = self.received()
        expected = {
            "severity": "warning", "title": "drift in größe ☕", "subject": "model:churn@3",
            "data": {"score": 0.7, "columns": ["a"]}, "id": "01ID", "time": 5.5,
        }  # fmt: skip
        assert got == expected

    def test_messages_arrive_in_order(self, channel: Channel) -> None:
        for severity in ("info", "warning", "critical"):
            channel.send(Message(severity, severity))
        assert [m["title"] for m in self.received()] == ["info", "warning", "critical"]

    def test_a_message_of_several_lines_is_one_message(self, channel: Channel) -> None:
        channel.send(Message("info", "first\nsecond\r\n%s {}"))
        channel.send(Message("info", "after"))
        assert [m["title"] for m in self.received()] == ["first\nsecond\r\n%s {}", "after"]

    def test_facts_that_json_cannot_carry_do_not_stop_a_message(self, channel: Channel) -> None:
        channel.send(Message("critical", "odd", data={"nan": float("nan"), "path": Path("x"), "text": "\ud800"}))
        (got,) = self.received()
        assert got["title"] == "odd"

    def test_a_severity_that_is_none_is_refused(self, channel: Channel) -> None:
        with pytest.raises(Invalid):
            channel.send(Message("loud", "x"))
        assert self.received() == []

    def test_threads_send_at_once(self, channel: Channel) -> None:
        def work(worker: int) -> None:
            for i in range(10):
                channel.send(Message("info", f"{worker}-{i}", data={"filler": "x" * 3000}))

        threads = [threading.Thread(target=work, args=(w,)) for w in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        titles = [m["title"] for m in self.received()]
        assert sorted(titles) == sorted(f"{w}-{i}" for w in range(5) for i in range(10))
        assert [t for t in titles if t.startswith("3-")] == [f"3-{i}" for i in range(10)]
