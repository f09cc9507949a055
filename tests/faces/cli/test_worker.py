"""The commands that make the loop run by itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

import boucle
from boucle.core.records import Lease
from boucle.faces.cli.main import main
from boucle.ledger.journal import note

TOML = """[boucle]
[pipelines.count]
call = "jobs:count"
[rules.recount]
on = "dataset.arrived"
subject = "dataset:people"
if = "data.rows > 0"
do = "run count"
cooldown = "1 hour"
[schedules.nightly]
cron = "30 2 * * *"
zone = "Europe/Berlin"
do = "run count"
[schedules.broken]
every = "1 day"
do = "run nothing"
missed = "skip"
"""
JOBS = """from boucle import pipeline, step


@step
def one() -> int:
    return 1


@pipeline
def count():
    return one()
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    path = list(sys.path)
    folder = tmp_path / "shop"
    boucle.init(folder).close()
    (folder / "boucle.toml").write_text(TOML)
    (folder / "jobs.py").write_text(JOBS)
    yield folder
    sys.path[:] = path
    sys.modules.pop("jobs", None)


@pytest.fixture
def call(place, capsys):
    def run(*arguments):
        code = main([*arguments, "--project", str(place)])
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


@pytest.fixture
def arrive(place):
    def happen(rows=5):
        with boucle.open(place) as ws:
            note(ws, "dataset.arrived", "dataset:people@1", rows=rows)

    return happen


def test_a_worker_does_what_is_due_once(call, arrive):
    assert "waits for dataset.arrived from now on" in call("worker", "--once")[1]
    arrive()
    code, said = call("worker", "--once", "--json")
    lines = [json.loads(line) for line in said.splitlines()]
    assert code == 0
    assert [line["unit"] for line in lines] == ["rule:recount"] * 3
    assert lines[0]["said"] == "fired by dataset.arrived of dataset:people@1"
    assert call("worker", "--once") == (0, "nothing was due\n")


def test_a_worker_whose_rule_fails_says_so_with_its_exit_code(call, arrive, place):
    (place / "boucle.toml").write_text(TOML.replace("run count", "run nothing"))
    call("worker", "--once")
    arrive()
    code, said = call("worker", "--once")
    assert code == 1
    assert "run nothing failed: no pipeline named 'nothing'" in said


def test_rules_are_shown_with_how_they_stand(call, arrive, place):
    assert " new" in call("rules")[1]
    call("worker", "--once")
    arrive()
    call("worker", "--once")
    said = call("rules")[1]
    assert "dataset.arrived of dataset:people" in said
    assert "data.rows > 0" in said
    assert "1 hour" in said
    (row,) = json.loads(call("rules", "--json")[1])
    assert (row["state"], row["do"], row["last fired"] > 0) == ("done", ["run count"], True)
    (place / "boucle.toml").write_text("")
    assert call("rules")[1].startswith("no rules yet")


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        ({"cursor": 3}, "waits"),
        ({"doing": {"do": ["seal", "run count"], "step": 1}}, "does run count (2 of 2)"),
        ({"doing": {"do": ["seal"], "step": 0, "waits": "no labels"}}, "waits to seal (1 of 1): no labels"),
        ({"failed": "it broke"}, "failed: it broke"),
        ({"trouble": {"said": "no disk"}}, "in trouble: no disk"),
    ],
)
def test_each_state_of_a_rule_has_words(call, place, state, shown):
    with boucle.open(place) as ws:
        ws.store.put(Lease(name="rule:recount", state=state))
    assert json.loads(call("rules", "--json")[1])[0]["state"] == shown


def test_schedules_are_shown_and_run(call):
    said = call("schedules")[1]
    assert "At 02:30 every day" in said
    assert "Europe/Berlin" in said
    assert "every 1 day" in said
    code, said = call("schedules", "run", "nightly")
    assert code == 0
    assert "schedule:nightly: done" in said
    nightly = next(r for r in json.loads(call("schedules", "--json")[1]) if r["schedule"] == "nightly")
    assert nightly["state"] == "done"
    assert nightly["next (UTC)"] > nightly["last (UTC)"] > 0
    code, said = call("schedules", "run", "broken")
    assert code == 1
    assert "no pipeline named 'nothing'" in said


def test_what_cannot_be_ends_with_its_exit_code(call, place):
    assert call("schedules", "run", "nigtly")[0] == 3
    assert call("schedules", "list", "nightly")[0] == 2
    assert call("worker", "--every", "often")[0] == 2
    assert call("up", "--workers", "0")[0] == 2
    (place / "boucle.toml").write_text("[rules.a]\non = 'dataset'\n")
    for command in (["worker"], ["up"], ["rules"], ["worker", "--once"]):
        code, said = call(*command)
        assert code == 2
        assert "[rules.a]: do is None" in said


class Lines:
    """What a program prints, line by line."""

    def __init__(self, place, *command):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "boucle.faces.cli.main", *command, "--project", str(place)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def until(self, text):
        for line in self.process.stdout:
            if text in line:
                return line
        raise AssertionError(f"it ended before it said {text!r}")

    def end(self, number):
        self.process.send_signal(number)
        said = self.process.communicate(timeout=40)[0]
        return self.process.returncode, said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_ends_cleanly_by_a_signal(place, number):
    running = Lines(place, "worker", "--every", "0.1s")
    running.until("rule:recount: waits")
    code, said = running.end(number)
    assert code == 0
    assert "Traceback" not in said
    with boucle.open(place) as ws:
        assert not [lease for lease in ws.store.find(Lease) if lease.holder]


def gone(pid):
    for _ in range(600):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


def test_up_starts_workers_again_that_died_and_ends_them_with_itself(place, arrive):
    running = Lines(place, "up", "--workers", "2")
    first, second = (int(running.until(f"worker {n} is process").split()[-1]) for n in (1, 2))
    running.until("rule:recount: waits")
    os.kill(first, signal.SIGKILL)
    running.until("worker 1 ended with signal 9")
    third = int(running.until("worker 1 is process").split()[-1])
    arrive()
    running.until("rule:recount: done")
    code, said = running.end(signal.SIGINT)
    assert code == 0
    assert "worker 1 is stopped" in said
    assert "worker 2 is stopped" in said
    assert gone(second)
    assert gone(third)


def test_workers_end_when_up_was_killed(place):
    running = Lines(place, "up")
    pid = int(running.until("worker 1 is process").split()[-1])
    running.until("rule:recount: waits")
    running.process.kill()
    running.process.wait()
    assert gone(pid)
    running.process.communicate()


def test_up_brings_services_back_that_it_stopped(place, tmp_path):
    (place / "boucle.toml").write_text("")
    with boucle.open(place) as ws:
        boucle.register(ws, "fare", _fare, data=boucle.Frame.of({"km": [1.0, 2.0]}))
        boucle.deploy(ws, "fare@1")
    running = Lines(place, "up")
    assert "fare@1 (fare@1) is ready at http://" in running.until("up: fare@1")
    running.until("worker 1 is process")
    code, said = running.end(signal.SIGTERM)
    assert code == 0
    assert "fare@1 is stopped until the next `boucle up`" in said
    running = Lines(place, "up", "--keep-services")
    url = running.until("up: fare@1").split()[-1]
    with boucle.open(place) as ws:
        assert boucle.predict(ws, "fare", [{"km": 3.0}])[0]["prediction"] == 6.0, url
    code, said = running.end(signal.SIGTERM)
    assert "fare@1 is stopped" not in said
    with boucle.open(place) as ws:
        assert boucle.predict(ws, "fare", [{"km": 4.0}])[0]["prediction"] == 8.0
        from boucle.ops.deploy import stop

        stop(ws, "fare")


def _fare(rows: list):
    return [2.0 * r["km"] for r in rows]
