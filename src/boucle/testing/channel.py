"""The contract of a channel, as tests; a plugin proves itself by subclassing it and giving `plugin`, `options` and `received`."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, ClassVar

import pytest

from boucle.core.errors import Invalid
from boucle.ports.channel import Channel, Message

MESSAGE = Message("warning", "drift in größe ☕", "model:churn@3", {"score": 0.7, "columns": ["a"]}, "01ID", 5.5)


class ChannelContract:
    """What every channel must do. Subclasses give `plugin`, `options` and `received`.

    A channel that is read by programs is `whole`: what arrives are the fields of `Message`. One that is read by people gives
    `severity`, `title` (in one line) and `subject`, and as `text` all that is shown, which must have the facts.
    """

    plugin: ClassVar[type[Channel]]
    whole: ClassVar[bool] = True

    def options(self, tmp_path: Path) -> dict[str, Any]:
        """The settings of a channel on which nothing was sent yet."""
        raise AssertionError(f"give the options of a channel to test, for {tmp_path}")

    def received(self) -> list[dict[str, Any]]:
        """What has arrived at the other side, oldest first."""
        raise AssertionError("say what has arrived")

    @pytest.fixture
    def channel(self, tmp_path: Path) -> Channel:
        return self.plugin.connect(self.options(tmp_path), tmp_path)

    def titles(self) -> list[str]:
        """Titles in the order they arrived, in one line each where people read them."""
        return [m["title"] for m in self.received()]

    def test_it_says_what_it_is(self, channel: Channel) -> None:
        assert channel.name

    def test_a_message_arrives_whole(self, channel: Channel) -> None:
        channel.send(MESSAGE)
        (got,) = self.received()
        expected: dict[str, Any] = {"severity": "warning", "title": "drift in größe ☕", "subject": "model:churn@3"}
        if self.whole:
            expected |= {"data": {"score": 0.7, "columns": ["a"]}, "id": "01ID", "time": 5.5}
            assert got == expected
        else:
            assert {name: got[name] for name in expected} == expected
            assert all(fact in got["text"] for fact in ("score", "0.7", "columns", '["a"]'))

    def test_messages_arrive_in_order(self, channel: Channel) -> None:
        for severity in ("info", "warning", "critical"):
            channel.send(Message(severity, severity))
        assert self.titles() == ["info", "warning", "critical"]

    def test_a_message_of_several_lines_is_one_message(self, channel: Channel) -> None:
        channel.send(Message("info", "first\nsecond\r\n%s {}"))
        channel.send(Message("info", "after"))
        assert self.titles() == ["first\nsecond\r\n%s {}" if self.whole else "first second %s {}", "after"]

    def test_facts_that_json_cannot_carry_do_not_stop_a_message(self, channel: Channel) -> None:
        channel.send(Message("critical", "odd", data={"nan": float("nan"), "path": Path("x"), "text": "\ud800"}))
        assert self.titles() == ["odd"]

    def test_a_long_message_arrives(self, channel: Channel) -> None:
        channel.send(Message("info", "long", data={f"fact {i}": "<&é>" * 500 for i in range(40)}))
        assert self.titles() == ["long"]

    def test_a_severity_that_is_none_is_refused(self, channel: Channel) -> None:
        with pytest.raises(Invalid):
            channel.send(Message("loud", "x"))
        assert self.received() == []

    def test_an_option_that_is_none_is_refused_and_no_value_shown(self, tmp_path: Path) -> None:
        with pytest.raises(Invalid, match="paswort") as caught:
            self.plugin.connect({**self.options(tmp_path), "paswort": "never-shown"}, tmp_path)
        assert "never-shown" not in str(caught.value)

    def test_an_option_that_does_not_fit_is_refused(self, tmp_path: Path) -> None:
        for name in (options := self.options(tmp_path)):
            for wrong in ("", None, {"a": 1}):
                with pytest.raises(Invalid, match=name):
                    self.plugin.connect({**options, name: wrong}, tmp_path)

    def test_nothing_of_its_settings_is_shown(self, tmp_path: Path) -> None:
        options = {k: v for k, v in self.options(tmp_path).items() if isinstance(v, str)}
        channel = self.plugin.connect(self.options(tmp_path), tmp_path)
        assert not [v for v in options.values() if v in repr(channel)]

    def test_threads_send_at_once(self, channel: Channel) -> None:
        def work(worker: int) -> None:
            for i in range(10):
                channel.send(Message("info", f"{worker}-{i}", data={"filler": "x" * 3000}))

        threads = [threading.Thread(target=work, args=(w,)) for w in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        titles = self.titles()
        assert sorted(titles) == sorted(f"{w}-{i}" for w in range(5) for i in range(10))
        assert [t for t in titles if t.startswith("3-")] == [f"3-{i}" for i in range(10)]
