"""Services as real processes: starting, stopping, and being killed under load."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from boucle.core import predictions
from boucle.core.bundle import pack
from boucle.core.route import Arm, Route
from boucle.core.schema import Column, Schema
from boucle.testing.target import double

INPUT = Schema((Column("x", "int64", nullable=False),))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    pack(tmp_path / "bundle", double, name="double", input=INPUT, sample=pa.table({"x": [1]}))
    return tmp_path / "bundle"


class Running:
    """A started service; its first line of output says that it is ready."""

    def __init__(self, bundle: Path, folder: Path) -> None:
        self.log = folder / "log"
        self.ready_file = folder / "ready.json"
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "boucle.ops.serve", bundle, "--service", "twice", "--revision", "4"),
                *("--log", self.log, "--port", "0", "--ready-file", self.ready_file),
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        self.said = self.process.stderr.readline()
        self.host, _, port = self.said.rpartition("http://")[2].strip().partition(":")
        self.port = int(port)

    def ask_until_refused(self, answered: list[str], enough: threading.Event) -> None:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=20)
        try:
            while True:
                connection.request("POST", "/predict", json.dumps({"x": 1}), {"content-type": "application/json"})
                answer = connection.getresponse()
                body = json.load(answer)
                assert answer.status == 200, body
                answered.append(body["id"])
                if len(answered) > 300:
                    enough.set()
        except (OSError, http.client.HTTPException, json.JSONDecodeError):
            return
        finally:
            connection.close()

    def under_load(self, then: Callable[[], Any]) -> list[str]:
        """Ask on four connections, do something to it, and return the ids that were answered before it was gone."""
        answered: list[str] = []
        enough = threading.Event()
        threads = [threading.Thread(target=self.ask_until_refused, args=(answered, enough)) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert enough.wait(60)
        then()
        for thread in threads:
            thread.join()
        return answered


@pytest.fixture
def running(bundle: Path, tmp_path: Path) -> Iterator[Running]:
    service = Running(bundle, tmp_path)
    yield service
    service.process.kill()
    service.process.communicate()


def test_says_where_it_is(running):
    assert "twice@4 serves double" in running.said
    facts = json.loads(running.ready_file.read_text())
    assert facts["url"] == f"http://{running.host}:{running.port}"
    assert facts["pid"] == running.process.pid


def test_sigterm_under_load_ends_well_and_everything_answered_is_logged(running):
    answered = running.under_load(running.process.terminate)
    assert running.process.wait(20) == 0
    assert [row["id"] for row in predictions.scan(running.log)] == sorted(answered)
    assert list(predictions.check(running.log)) == []
    assert not running.ready_file.exists()


def test_kill_under_load_loses_nothing_that_was_answered(running):
    answered = running.under_load(running.process.kill)
    assert running.process.wait(20) == -signal.SIGKILL
    logged = {row["id"] for row in predictions.scan(running.log)}
    assert logged >= set(answered)
    assert len(logged) - len(answered) <= 4  # at most what was in flight
    assert predictions.find(running.log, answered[-1])["inputs"] == {"x": 1}


def test_a_request_in_flight_is_answered(running):
    with socket.create_connection((running.host, running.port), timeout=20) as half_sent:
        body = b'{"x": 5}'
        head = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        half_sent.sendall(head % len(body) + body[:3])
        # The service has begun to read this request once it answers a later one.
        other = http.client.HTTPConnection(running.host, running.port, timeout=20)
        other.request("GET", "/health/live")
        assert other.getresponse().read() == b'{"status":"alive"}'
        other.close()
        os.kill(running.process.pid, signal.SIGTERM)
        half_sent.sendall(body[3:])
        answer = b"".join(iter(lambda: half_sent.recv(65536), b""))
    assert b"200 OK" in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["prediction"] == 10
    assert running.process.wait(20) == 0


def test_a_bundle_that_does_not_load(bundle, tmp_path):
    (bundle / "sample.json").write_text("[]")
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "boucle.ops.serve",
            bundle,
            "--service",
            "twice",
            "--log",
            tmp_path / "log",
            "--port",
            "0",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 6
    assert "sample.json is not what was packed" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_needs_no_workspace():
    code = (
        "import sys, boucle.ops.serve.app, boucle.ops.serve.__main__;"
        "floors = ('ledger', 'flow', 'workspace', 'settings', 'data', 'ml', 'dev', 'faces', 'plugins');"
        "above = tuple(f'boucle.{f}' for f in floors);"
        "print([m for m in sys.modules if m.startswith(above)], 'sklearn' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[] False"


def test_one_without_a_share_ends_by_itself(bundle, tmp_path):
    route = Route((Arm(1, "double@1", str(bundle), str(tmp_path / "log")),))
    (tmp_path / "route.json").write_text(json.dumps({"route": route.to_json()}))
    command = [sys.executable, "-m", "boucle.ops.serve", "--route", str(tmp_path / "route.json"), "--service", "twice"]
    ended = subprocess.run(
        [*command, "--port", "0", "--patience", "0.2"], timeout=60, check=False, capture_output=True, text=True
    )
    assert ended.returncode == 0
    assert "nothing to serve" in ended.stderr


def test_a_bundle_or_a_route_is_asked_for(tmp_path):
    command = [sys.executable, "-m", "boucle.ops.serve", "--service", "twice", "--port", "0"]
    ended = subprocess.run(command, timeout=60, check=False, capture_output=True, text=True)
    assert ended.returncode == 2
    assert "BUNDLE and --log DIR, or --route FILE" in ended.stderr
