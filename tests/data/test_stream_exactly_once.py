"""Each message counts once, whoever is killed when: against real brokers, with SIGKILL at random moments."""

import asyncio
import itertools
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import boucle
from boucle.core.refs import new_id
from boucle.data.stream import stream
from boucle.ledger import datasets

NUMBER = 1500
KILLS = 6

Send = Callable[[Sequence[dict[str, Any]]], None]


def encoded(rows: Sequence[dict[str, Any]]) -> list[bytes]:
    return [json.dumps(row).encode() for row in rows]


@pytest.fixture
def on_kafka(kafka: str) -> Iterator[tuple[str, Send, dict[str, Any]]]:
    from confluent_kafka import Producer

    topic, producer = new_id(), Producer({"bootstrap.servers": kafka, "log_level": 2})
    producer.list_topics(topic, timeout=10)

    def send(rows: Sequence[dict[str, Any]]) -> None:
        for row, value in zip(rows, encoded(rows), strict=True):
            producer.produce(topic, value, partition=row["part"])
        producer.flush(10)

    yield f"kafka://{kafka}/{topic}", send, {}


@pytest.fixture
def on_redis(redis_url: str) -> Iterator[tuple[str, Send, dict[str, Any]]]:
    import redis

    key = new_id()
    with redis.Redis.from_url(redis_url) as client:
        client.xgroup_create(key, "g", mkstream=True)

        def send(rows: Sequence[dict[str, Any]]) -> None:
            with client.pipeline() as together:
                for value in encoded(rows):
                    together.xadd(key, {"value": value})
                together.execute()

        yield f"redis-stream{redis_url.removeprefix('redis')}/0/{key}", send, {}


@pytest.fixture
def on_nats(nats: str) -> Iterator[tuple[str, Send, dict[str, Any]]]:
    import nats as library

    name = new_id()
    loop = asyncio.new_event_loop()
    connection = loop.run_until_complete(library.connect(f"nats://{nats}"))
    jetstream = connection.jetstream()
    loop.run_until_complete(jetstream.add_stream(name=name, subjects=[f"{name}.>"]))

    async def publish(rows: Sequence[dict[str, Any]]) -> None:
        for value in encoded(rows):
            await jetstream.publish(f"{name}.x", value)

    yield f"nats://{nats}/{name}", lambda rows: loop.run_until_complete(publish(rows)), {}
    loop.run_until_complete(connection.close())
    loop.close()


def rabbit(address: str, kind: str) -> Iterator[tuple[str, Send, dict[str, Any]]]:
    import pika

    queue = new_id()
    host, _, port = address.partition(":")
    with pika.BlockingConnection(pika.ConnectionParameters(host, int(port), heartbeat=0)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare(queue, durable=True, arguments={"x-queue-type": kind})

        def send(rows: Sequence[dict[str, Any]]) -> None:
            for row, value in zip(rows, encoded(rows), strict=True):
                about = pika.BasicProperties(message_id=str(row["n"]), delivery_mode=2)
                channel.basic_publish("", queue, value, about, mandatory=True)

        yield f"amqp://{address}/%2F/{queue}", send, {} if kind == "stream" else {"prefetch": 100}


@pytest.fixture
def on_rabbitmq_stream(rabbitmq: str) -> Iterator[tuple[str, Send, dict[str, Any]]]:
    yield from rabbit(rabbitmq, "stream")


@pytest.fixture
def on_rabbitmq_classic(rabbitmq: str) -> Iterator[tuple[str, Send, dict[str, Any]]]:
    yield from rabbit(rabbitmq, "classic")


@pytest.fixture
def on_rabbitmq_quorum(rabbitmq: str) -> Iterator[tuple[str, Send, dict[str, Any]]]:
    yield from rabbit(rabbitmq, "quorum")


@pytest.fixture
def on_mqtt(mosquitto: str) -> Iterator[tuple[str, Send, dict[str, Any]]]:
    import paho.mqtt.client as mqtt
    from paho.mqtt.enums import CallbackAPIVersion

    from boucle.plugins.channels.mqtt import MqttStream

    topic, group = f"t/{new_id()}", new_id()
    host, _, port = mosquitto.partition(":")
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.connect(host, int(port))
    client.loop_start()

    def send(rows: Sequence[dict[str, Any]]) -> None:
        for each in [client.publish(topic, value, qos=1) for value in encoded(rows)]:
            each.wait_for_publish(20)

    options = {"group": group, "prefetch": 100}
    MqttStream.subscribe(
        f"mqtt://{mosquitto}/{topic}", options, {}
    ).close()  # a session begins when it is first asked for
    yield f"mqtt://{mosquitto}/{topic}", send, options
    client.disconnect()
    client.loop_stop()


BROKERS = ("kafka", "redis", "nats", "rabbitmq_stream", "rabbitmq_classic", "rabbitmq_quorum", "mqtt")


def killed_again_and_again(
    project: Path, url: str, send: Send, options: dict[str, Any], more: dict[str, Any], seed: int
) -> int:
    """Send numbered messages to a consumer that is killed at random; returns how often it was, while it was at work."""
    chance = random.Random(seed)
    counters = [itertools.count() for _ in range(4)]
    rows = [{"n": n, "part": (part := n % 4), "at": next(counters[part]), "time": n / 10} for n in range(NUMBER)]
    sending = threading.Thread(target=lambda: [send(rows[i : i + 25]) for i in range(0, NUMBER, 25)])
    sending.start()
    killed = 0
    for _ in range(KILLS):
        command = [sys.executable, str(Path(__file__).with_name("stream_consumer.py")), str(project), url]
        with subprocess.Popen(
            [*command, json.dumps(options), json.dumps(more)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as consumer:
            assert consumer.stdout is not None
            assert consumer.stdout.readline() == b"ready\n", consumer.communicate()[1].decode()
            time.sleep(0.3 + chance.random() * 0.7)
            killed += consumer.poll() is None
            consumer.kill()
            said = consumer.communicate()[1].decode()
        assert "Traceback" not in said, said
    sending.join()
    return killed


@pytest.mark.slow
@pytest.mark.parametrize("broker", BROKERS)
def test_each_message_is_there_once(broker: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    url, send, options = request.getfixturevalue(f"on_{broker}")
    boucle.init(tmp_path).close()
    assert killed_again_and_again(tmp_path, url, send, options, {}, seed=len(broker)) == KILLS
    with boucle.open(tmp_path) as ws:
        before = datasets.latest(ws, "tx")
        assert before is not None, "nothing was kept before the last kill: the test shows nothing"
        stream(ws, url, "tx", options=options, once=True, batch_rows=100)
        table = datasets.load(ws, "tx").table()
        assert sorted(table.column("n").to_pylist()) == list(range(NUMBER))
        if broker in ("kafka", "redis", "nats", "rabbitmq_stream"):  # a queue may give out again behind what is new
            for part in range(4):
                rows = [row for row in table.to_pylist() if row["part"] == part]
                assert [row["at"] for row in rows] == list(range(len(rows)))
        assert not any("bad_lines" in d.tags for d in datasets.versions(ws, "tx"))


@pytest.mark.slow
@pytest.mark.parametrize("broker", ["kafka", "rabbitmq_classic", "redis"])
def test_each_message_is_in_one_window(broker: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    url, send, options = request.getfixturevalue(f"on_{broker}")
    boucle.init(tmp_path).close()
    window = {"window": 7.0, "late": 3.0, "event_time": "time", "idle": 3600.0}
    assert killed_again_and_again(tmp_path, url, send, options, window, seed=len(broker)) == KILLS
    with boucle.open(tmp_path) as ws:
        stream(ws, url, "tx", options=options, once=True, batch_rows=100, **window)
        found = stream(ws, url, "tx", options=options, once=True)  # without windows, what waits is taken in
        assert found.held == 0
        numbers = datasets.load(ws, "tx").table().column("n").to_pylist()
        late = datasets.latest(ws, "tx_late")
        if late is not None:
            numbers += datasets.frame(ws, late).table().column("n").to_pylist()
        assert sorted(numbers) == list(range(NUMBER))
        spans = [d.tags["window"] for d in reversed(datasets.versions(ws, "tx")) if "window" in d.tags]
        assert len(spans) > 5
        assert [s["start"] for s in spans] == sorted({s["start"] for s in spans})
