"""The contract of a stream, as tests; a plugin proves itself by subclassing it and giving `plugin`, `url` and `send`."""

from __future__ import annotations

import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import pytest

from boucle.core.errors import BoucleError, Invalid, NotFound, Unavailable
from boucle.ports.stream import Received, Stream
from boucle.ports.stream import plugin as plugin_of

PATIENCE = 20.0  # seconds for what was sent to arrive


class StreamContract:
    """What every stream must do. Subclasses give `plugin`, `url` (of a stream that is there and empty) and `send`.

    `keeps`: the other side keeps what was read, and positions say where to read on. Otherwise it is a queue, which gives out
    again what was not acknowledged, with the same `id`. `options` are what a small queue needs.
    """

    plugin: ClassVar[type[Stream]]
    keeps: ClassVar[bool] = True
    misses: ClassVar[bool] = True  # a stream that is not there is noticed

    def url(self) -> str:
        """The URL of a stream that nobody has used yet."""
        raise AssertionError("give the url of a stream to test")

    def send(self, url: str, values: Sequence[bytes]) -> None:
        """Put messages into it, in order; when it returns, they are there."""
        raise AssertionError(f"put {len(values)} messages into {url}")

    @pytest.fixture
    def open(self) -> Iterator[Any]:
        """Opens streams that are closed at the end."""
        opened: list[Stream] = []

        def subscribe(url: str, positions: Mapping[str, Any] | None = None, **options: Any) -> Stream:
            opened.append(self.plugin.subscribe(url, options, positions or {}))
            return opened[-1]

        yield subscribe
        for stream in opened:
            stream.close()

    @staticmethod
    def read(stream: Stream, number: int, seconds: float = PATIENCE) -> list[Received]:
        """That many messages, or as many as came in time."""
        late, out = time.monotonic() + seconds, list[Received]()
        while len(out) < number and time.monotonic() < late:
            out += stream.receive(number - len(out), 0.2)
        return out

    @staticmethod
    def positions(messages: Sequence[Received]) -> dict[str, Any]:
        return {m.part: m.offset for m in messages}

    def test_it_says_what_it_is(self) -> None:
        assert self.plugin.name
        assert self.plugin.schemes
        assert plugin_of(self.url()) is self.plugin

    def test_messages_arrive_whole_and_in_order(self, open: Any) -> None:
        url = self.url()
        stream = open(url)
        values = [b"{}", b"\x00\xff\r\n", "größe ☕".encode(), b"x" * 300_000, *(b"%d" % i for i in range(200))]
        self.send(url, values)
        got = self.read(stream, len(values))
        assert sorted(m.value for m in got) == sorted(values)
        for part in {m.part for m in got}:
            here = [m.value for m in got if m.part == part]
            assert here == [v for v in values if v in here]

    def test_no_more_comes_than_was_asked_for(self, open: Any) -> None:
        url = self.url()
        stream = open(url)
        self.send(url, [b"%d" % i for i in range(50)])
        assert len(self.read(stream, 50)) == 50
        self.send(url, [b"%d" % i for i in range(50)])
        got: list[Received] = []
        while len(got) < 50:
            some = stream.receive(7, PATIENCE)
            assert 0 < len(some) <= 7
            got += some

    def test_where_nothing_comes_one_does_not_wait_longer_than_asked(self, open: Any) -> None:
        stream = open(self.url())
        assert stream.receive(10, 0.0) == []
        began = time.monotonic()
        assert stream.receive(10, 0.2) == []
        assert time.monotonic() - began < PATIENCE

    def test_one_reads_on_where_one_stood(self, open: Any) -> None:
        url = self.url()
        first = open(url)
        self.send(url, [b"%d" % i for i in range(100)])
        kept = self.read(first, 60)
        first.acknowledge(self.positions(kept))
        first.close()
        self.send(url, [b"%d" % i for i in range(100, 120)])
        second = open(url, self.positions(kept))
        rest = self.read(second, 60)
        assert sorted(int(m.value) for m in kept + rest) == list(range(120))
        assert second.receive(10, 0.3) == []

    def test_what_was_not_kept_comes_again(self, open: Any) -> None:
        url = self.url()
        first = open(url)
        self.send(url, [b"%d" % i for i in range(30)])
        kept = self.read(first, 10)
        first.acknowledge(self.positions(kept))
        held = self.read(first, 20)
        first.close()
        again = self.read(open(url, self.positions(kept)), 20)
        assert sorted(int(m.value) for m in again) == sorted(int(m.value) for m in held)
        if not self.keeps:
            assert {m.value: m.id for m in again} == {m.value: m.id for m in held}
            assert all(m.again for m in again)
            assert all(m.id for m in again)

    def test_offsets_grow(self, open: Any) -> None:
        url = self.url()
        stream = open(url)
        self.send(url, [b"a"] * 40)
        got = self.read(stream, 40)
        for part in {m.part for m in got}:
            offsets = [m.offset for m in got if m.part == part]
            assert len(set(offsets)) == len(offsets)
            if isinstance(offsets[0], int):
                assert offsets == sorted(offsets)

    def test_who_keeps_can_be_read_from_the_beginning(self, open: Any) -> None:
        if not self.keeps:
            return
        url = self.url()
        self.send(url, [b"%d" % i for i in range(20)])
        for _ in range(2):
            stream = open(url)
            got = self.read(stream, 20)
            assert sorted(int(m.value) for m in got) == list(range(20))
            stream.acknowledge(self.positions(got))
            stream.close()

    def test_no_more_is_out_than_the_bound(self, open: Any) -> None:
        url = self.url()
        stream = open(url, **({} if self.keeps else {"prefetch": 10}))
        self.send(url, [b"%d" % i for i in range(35)])
        if self.keeps:
            assert stream.bound == 0
            return
        assert stream.bound == 10
        got = self.read(stream, 35, seconds=1.0)
        assert len(got) == 10
        while len(got) < 35:
            stream.acknowledge(self.positions(got))
            some = self.read(stream, 10, seconds=2.0)
            assert some
            got += some
        assert [int(m.value) for m in got] == list(range(35))

    def test_the_lag_is_how_many_there_are_still(self, open: Any) -> None:
        url = self.url()
        self.send_early(url, open)
        stream = open(url)
        got = self.read(stream, 10)
        stream.acknowledge(self.positions(got))
        assert stream.lag() in (10, None)
        got = self.read(stream, 10)
        stream.acknowledge(self.positions(got))
        assert stream.receive(1, 0.2) == []
        assert stream.lag() in (0, None)

    def send_early(self, url: str, open: Any) -> None:
        """Twenty messages that were there before somebody reads (of those who can be there before)."""
        open(url).close()
        self.send(url, [b"%d" % i for i in range(20)])

    def test_closing_twice_does_no_harm(self) -> None:
        stream = self.plugin.subscribe(self.url(), {}, {})
        stream.close()
        stream.close()

    def test_what_is_not_there_is_said_so(self) -> None:
        if self.misses:
            parts = urllib.parse.urlsplit(self.url())
            with pytest.raises(NotFound):
                self.plugin.subscribe(f"{parts.scheme}://{parts.netloc}{parts.path}-nowhere", {}, {})

    def test_nobody_there_is_said_without_secrets(self, monkeypatch: pytest.MonkeyPatch) -> None:
        parts = urllib.parse.urlsplit(self.url())
        url = f"{parts.scheme}://reader:never-shown@127.0.0.1:1{parts.path}"
        self._quick(monkeypatch)
        for options in ({}, {"password": "never-shown"}):
            with pytest.raises(Unavailable) as caught:
                self.plugin.subscribe(url, options, {})
            error: BaseException | None = caught.value
            while error is not None:
                assert "never-shown" not in f"{error!s}{error!r}"
                error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)

    def _quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nobody waits long in this test."""

    @pytest.mark.parametrize(
        "wrong", ["{scheme}://", "{scheme}://host:0/a/b", "{scheme}://ho st/a/b", "{scheme}://h/a/b?x=never-shown"]
    )
    def test_a_url_that_is_none_is_refused(self, wrong: str) -> None:
        with pytest.raises(Invalid) as caught:
            self.plugin.subscribe(wrong.format(scheme=self.plugin.schemes[0]), {}, {})
        assert "never-shown" not in str(caught.value)

    def test_an_option_that_is_none_is_refused_and_no_value_shown(self) -> None:
        for options in ({"paswort": "never-shown"}, {"password": ["never-shown"]}, {"lost": "never-shown"}):
            with pytest.raises(BoucleError) as caught:
                self.plugin.subscribe(self.url(), options, {})
            assert isinstance(caught.value, Invalid)
            assert "never-shown" not in str(caught.value)

    def test_nothing_of_its_settings_is_shown(self, open: Any) -> None:
        assert "never-shown" not in repr(open(self.url(), **self.secret()))

    def secret(self) -> dict[str, Any]:
        """An option with a secret that the server of the test takes."""
        return {}
