import json
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import redis

from boucle.core.errors import Conflict, Invalid
from boucle.core.refs import new_id
from boucle.plugins.channels import redis as ours
from boucle.plugins.channels.redis import RedisChannel, RedisStream
from boucle.testing.channel import ChannelContract
from boucle.testing.stream import StreamContract


@pytest.fixture
def server(redis_url: str) -> redis.Redis:
    with redis.Redis.from_url(redis_url) as client:
        yield client


class TestRedisChannel(ChannelContract):
    plugin = RedisChannel

    @pytest.fixture(autouse=True)
    def _server(self, server: redis.Redis, redis_url: str) -> None:
        self.server, self.key = server, new_id()
        self.to = f"redis-stream{redis_url.removeprefix('redis')}/0/{self.key}"

    def options(self, tmp_path: Path) -> dict[str, Any]:
        return {"url": self.to}

    def received(self) -> list[dict[str, Any]]:
        return [json.loads(dict(fields)[b"value"]) for _, fields in self.server.xrange(self.key)]


class TestRedisStream(StreamContract):
    plugin = RedisStream

    @pytest.fixture(autouse=True)
    def _server(self, server: redis.Redis, redis_url: str) -> None:
        self.server, self.at = server, redis_url

    def url(self) -> str:
        key = new_id()
        self.server.xadd(key, {"x": "x"})
        self.server.xtrim(key, maxlen=0, approximate=False)
        return f"redis-stream{self.at.removeprefix('redis')}/0/{key}"

    def send(self, url: str, values: Sequence[bytes]) -> None:
        key = urllib.parse.urlsplit(url).path.split("/", 2)[2]
        with self.server.pipeline() as together:
            for value in values:
                together.xadd(key, {"value": value})
            together.execute()

    def _quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ours, "Retry", lambda backoff, times: redis.retry.Retry(backoff, 0))

    def stream(
        self, entries: Sequence[dict[str, Any]], positions: Any = None, **options: Any
    ) -> tuple[RedisStream, str]:
        url = self.url()
        key = url.rpartition("/")[2]
        for entry in entries:
            self.server.xadd(key, entry)
        return RedisStream.subscribe(url, options, positions or {}), key

    def test_an_entry_of_several_fields_is_an_object(self) -> None:
        stream, _ = self.stream([{"a": "1", "b": "x"}, {b"\xff": b"\xfe", b"c": b""}])
        first, second = stream.receive(5, 1)
        assert json.loads(first.value) == {"a": "1", "b": "x"}
        assert second.value == b"\xff=\xfe c="
        stream.close()

    def test_one_field_can_be_named(self) -> None:
        stream, _ = self.stream([{"a": "1", "b": "x"}, {"b": "y"}], field="a")
        assert [m.value for m in stream.receive(5, 1)] == [b"1", b""]
        stream.close()

    def test_what_was_dropped_unread_is_said(self) -> None:
        stream, key = self.stream([{"a": str(i)} for i in range(5)])
        kept = {key: stream.receive(2, 1)[-1].offset}
        stream.close()
        self.server.xtrim(key, maxlen=1, approximate=False)
        url = f"redis-stream{self.at.removeprefix('redis')}/0/{key}"
        with pytest.raises(Conflict, match="lost=skip"):
            RedisStream.subscribe(url, {}, kept)
        stream = RedisStream.subscribe(url, {"lost": "skip"}, kept)
        assert [m.value for m in stream.receive(5, 1)] == [b"4"]
        stream.close()

    def test_what_is_kept_can_be_dropped(self) -> None:
        stream, key = self.stream([{"a": str(i)} for i in range(5)], trim="yes")
        got = stream.receive(3, 1)
        assert self.server.xlen(key) == 5
        stream.acknowledge({key: got[-1].offset})
        assert self.server.xlen(key) == 2
        assert len(stream.receive(5, 1)) == 2
        stream.close()

    def test_a_key_of_another_kind_is_said(self) -> None:
        self.server.set("text", "x")
        with pytest.raises(OSError, match="WRONGTYPE"):
            RedisStream.subscribe(f"redis-stream{self.at.removeprefix('redis')}/0/text", {}, {})

    @pytest.mark.parametrize("path", ["", "/0", "/key", "/x/key"])
    def test_a_url_names_database_and_key(self, path: str) -> None:
        with pytest.raises(Invalid):
            RedisStream.subscribe(f"redis-stream://127.0.0.1{path}", {}, {})
