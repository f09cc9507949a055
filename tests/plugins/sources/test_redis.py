"""Redis, against a real server."""

import datetime as dt
import json
import uuid

import pyarrow as pa
import pytest
import redis

from boucle.core.errors import Conflict, Invalid, NotFound, Refused, Unavailable
from boucle.core.frames import Frame
from boucle.plugins.sources.redis import RedisSource
from boucle.testing.sink import SAMPLE, TYPES, SinkContract
from servers import free_port, listening, needed, running

UTC = dt.UTC


def texts(*values):
    return pa.string(), list(values)


class TestSink(SinkContract):
    sink = RedisSource
    gaps = {
        "test_a_column_that_the_target_does_not_have": "hashes have the fields that they have",
        "test_merge_into_what_was_made_without_a_key": "the key of a hash is its name, by whatever column",
    }
    other = {
        "small": (pa.int64(), [-5, None, 7]),
        "whole": (pa.int64(), [2**31 - 1, None, -(2**31)]),
        "money": (pa.float64(), [1.1, None, -99999999.99]),
        "exact": (pa.float64(), [12345678901234567890.123456789, None, 0.1]),
        "text": texts(None, None, TYPES["text"][2].as_py()),
        "raw": None,
        "clock": texts("10:11:12.000005", None, "00:00:00"),
        "zoned": (pa.timestamp("us"), [dt.datetime(2026, 1, 1, 1, 2, 3, 4), None, dt.datetime(1971, 1, 1)]),
        "span": texts("5:00:00.000001", None, "-1 day, 23:00:00"),
        "many": texts("[1,null,3]", None, "[]"),
        "record": texts('{"a":1,"b":"x"}', None, '{"a":null,"b":"y"}'),
    }

    @pytest.fixture(autouse=True)
    def _server(self, redis_url):
        self.server = redis_url

    def target(self, name):
        return f"{self.server}/0#{name}:*", {"id": "id"}

    def reading(self, name):
        return f"{self.server}/0#{name}:*", {}


@pytest.fixture
def client(redis_url):
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def name():
    return uuid.uuid4().hex[:12]


def read(redis_url, keys, **options):
    return RedisSource().read(redis_url, {"keys": keys, **options}).frame


def test_hashes(client, redis_url, name):
    client.hset(f"{name}:2", mapping={"n": "2", "at": "2026-01-01", "zip": "00123"})
    client.hset(f"{name}:1", mapping={"n": "1.5", "zip": "04567"})
    frame = read(redis_url, f"{name}:*")
    assert [c.type for c in frame.schema.columns] == ["string", "float64", "string", "date"]
    assert frame.table().select(["key", "n", "zip"]).to_pylist() == [
        {"key": f"{name}:1", "n": 1.5, "zip": "04567"}, {"key": f"{name}:2", "n": 2.0, "zip": "00123"},
    ]  # fmt: skip
    assert frame.table(["at", "n"]).column_names == ["at", "n"]
    typed = read(redis_url, f"{name}:*", types={"n": "string"}, column="")
    assert typed.table(["n"])["n"].to_pylist() == ["1.5", "2"]


def test_json_and_lists(client, redis_url, name):
    client.set(f"{name}:s:1", json.dumps({"a": 1, "b": {"c": [1.5]}}))
    client.set(f"{name}:s:2", json.dumps({"a": 2.5}))
    frame = read(redis_url, f"{name}:s:*", column="")
    assert frame.schema["b"].type == "struct<c: list<float64>>"
    assert frame.table().to_pylist() == [{"a": 1.0, "b": {"c": [1.5]}}, {"a": 2.5, "b": None}]
    client.rpush(f"{name}:l", *[json.dumps({"i": i}) for i in range(2500)])
    assert read(redis_url, f"{name}:l").table()["i"].to_pylist() == list(range(2500))


def test_written_as_json(client, redis_url, name):
    target = f"{redis_url}#{name}:*"
    RedisSource().write(Frame.of(SAMPLE), target, "merge", ("id",), {"type": "json"})
    assert read(redis_url, f"{name}:*", column="").table().to_pylist() == SAMPLE.to_pylist()


def test_a_key_that_is_there_already(client, redis_url, name):
    client.set(f"{name}:2", "mine")
    with pytest.raises(Conflict, match=f"{name}:2"):
        RedisSource().write(Frame.of(SAMPLE), f"{redis_url}#{name}:*", "append", (), {"id": "id"})
    assert client.keys(f"{name}:*") == [f"{name}:2".encode()]
    assert not client.keys(f"boucle:staged:*{name}*")


def test_what_was_published_stays(client, redis_url, name):
    RedisSource().write(Frame.of(SAMPLE), f"{redis_url}#{name}:*", "append", (), {"id": "id"})
    assert client.ttl(f"{name}:1") == -1


def test_more_keys_than_are_asked_for_at_once(client, redis_url, name):
    RedisSource().write(Frame.of({"id": list(range(20_000))}), f"{redis_url}#{name}:*", "append", (), {"id": "id"})
    batches = list(read(redis_url, f"{name}:*").batches())
    assert len(batches) > 1
    assert sorted(i for b in batches for i in b.column("id").to_pylist()) == list(range(20_000))
    client.delete(f"{name}:7")


@pytest.mark.parametrize("value", [b"[1]", b"not json", b"\xff"])
def test_texts_that_are_no_objects(client, redis_url, name, value):
    client.set(f"{name}:1", value)
    with pytest.raises(Invalid, match="JSON object"):
        read(redis_url, f"{name}:*")


def test_values_that_cannot_be_read(client, redis_url, name):
    client.hset(f"{name}:h:1", mapping={"a": b"\xff"})
    with pytest.raises(Invalid, match="UTF-8"):
        read(redis_url, f"{name}:h:*")
    client.sadd(f"{name}:h:2", 1)
    with pytest.raises(Invalid, match="hash and set"):
        read(redis_url, f"{name}:h:*")
    with pytest.raises(NotFound, match="no key"):
        read(redis_url, f"{name}:none:*")
    with pytest.raises(Invalid, match="no keys"):
        RedisSource().read(redis_url, {})
    with pytest.raises(Invalid, match="one \\*"):
        RedisSource().write(Frame.of(SAMPLE), f"{redis_url}#{name}", "append", (), {"id": "id"})


def test_passwords_and_servers_that_are_not_there(tmp_path):
    port, secret = free_port(), "s3cret-0f-mine"
    with pytest.raises(Unavailable) as caught:
        RedisSource().read(f"redis://:{secret}@127.0.0.1:{port}/0#x", {})
    assert secret not in f"{caught.value!r} {caught.value}"
    command = [
        needed("redis-server"),
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--requirepass",
        "right",
        "--save",
        "",
    ]
    with running([*command, "--dir", str(tmp_path)], lambda: listening(port)):
        for url in (f"redis://:{secret}@127.0.0.1:{port}/0#x", f"redis://127.0.0.1:{port}/0#x"):
            with pytest.raises(Refused) as caught:
                RedisSource().read(url, {})
            assert secret not in f"{caught.value!r} {caught.value}"
        with pytest.raises(NotFound):
            RedisSource().read(f"redis://127.0.0.1:{port}/0#x", {"password": "right"})
