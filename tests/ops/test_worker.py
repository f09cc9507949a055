"""The worker: what is due is done once, whoever does it, and goes on where it was left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest

import boucle.workspace
from boucle.core.errors import Conflict, Invalid, Refused, Unavailable
from boucle.core.frames import Frame
from boucle.core.records import Lease, Model, Rollout, Run, Service
from boucle.core.where import field
from boucle.flow import schedule
from boucle.ledger import bundles, datasets, leases
from boucle.ledger.journal import note
from boucle.ops.worker import check, run_now, turn, work
from boucle.ops.worker.verbs import Verbs


class World:
    """Verbs that only note what they were asked, and fail as they are told."""

    def __init__(self, ws):
        self.ws, self.done, self.fails = ws, [], {}
        self.verbs = Verbs(
            grow=lambda ws, service, least: self._do("grow", service, least) or SimpleNamespace(key="rides@2"),
            start=lambda ws, model, service, reason: self._start(model, service, reason),
            proceed=lambda ws, rollout: self._proceed(rollout),
            revive=lambda ws: self._do("revive") or [],
            look=lambda ws, service: self._do("look", service) or self.seen,
            seal=lambda ws, service: self._do("seal", service) or self.sealed,
            promote=lambda ws, model, stage, reason: self._do("promote", model.key, stage),
            alert=lambda ws, name, subject, **facts: self._do(
                "alert", name, subject, facts["severity"], facts["title"]
            ),
            follow=lambda ws, state: self._do("follow") or {"at": state.get("at", 0) + 1},
            deliver=lambda ws: self._do("deliver") or 0,
        )
        self.sealed = SimpleNamespace(new=True, rows=7, dataset=SimpleNamespace(key="churn-predictions@1"))
        self.seen = SimpleNamespace(status="pass", sentence="as in training")

    def _do(self, verb, *about):
        if error := self.fails.get(verb):
            raise error
        self.done.append((verb, *about))

    def _start(self, model, service, reason):
        self._do("start", model, service)
        made = Rollout(
            id=f"R{len(self.done)}", service=service or "churn", strategy="canary", model=model.removeprefix("model:"),
            started=self.ws.now(), reason=reason, status="finished",
        )  # fmt: skip
        self.ws.store.put(made)
        return made

    def _proceed(self, rollout):
        self._do("proceed", rollout.id)
        after = replace(rollout, phase="canary 5%") if not rollout.phase else replace(rollout, status="finished")
        self.ws.store.put(after)
        return after

    def asked(self, *verbs):
        return [d for d in self.done if d[0] in verbs]


ACTING = ("grow", "start", "promote", "alert")


@pytest.fixture
def ws(tmp_path):
    with boucle.workspace.init(tmp_path / "shop", actor="worker") as opened:
        opened.time = time.time()
        opened.now = lambda: opened.time
        yield opened


@pytest.fixture
def world(ws):
    return World(ws)


@pytest.fixture
def configure(ws):
    def make(**tables):
        ws.settings = replace(ws.settings, table=tables)

    return make


@pytest.fixture
def go(ws, world):
    """A turn of what fires, in words."""
    return lambda holder="one", **options: turn(ws, holder, verbs=world.verbs, only="fires", **options)


def drift(ws, subject="service:churn@2", **data):
    return note(ws, "service.drift", subject, **{"status": "fail", **data})


def state(ws, name):
    return ws.store.get(Lease, name).state


def types(ws, *kinds):
    return [e.type for e in ws.store.events() if e.type.partition(".")[0] in kinds]


def model(ws, version=3, stage="none"):
    made = Model(name="churn", version=version, digest=f"d{version}", artifact="a", stage=stage, created=float(version))
    ws.store.put(made)
    return made


RETRAIN = {
    "on": "service.drift",
    "if": "data.status = fail",
    "do": ["seal 10", "rollout churn@3", "alert info done it"],
}


def test_a_new_rule_begins_at_the_end_of_the_journal(ws, world, configure, go):
    configure(rules={"retrain": RETRAIN})
    drift(ws)
    assert go() == ["rule:retrain: waits for service.drift from now on"]
    assert go() == []
    assert world.done == []


def test_a_rule_does_its_actions_in_order_and_once(ws, world, configure, go):
    configure(rules={"retrain": RETRAIN})
    model(ws)
    go()
    drift(ws, status="pass")
    cause = drift(ws)
    said = go()
    assert world.done == [
        ("grow", "churn", 10),
        ("start", "model:churn@3", "churn"),
        ("alert", "rule.retrain", "service:churn@2", "info", "done it"),
    ]
    assert said[0] == "rule:retrain: fired by service.drift of service:churn@2"
    assert said[-1] == "rule:retrain: done"
    fired, done = ws.store.events(type="rule")
    assert (fired.type, fired.subject, fired.data["event"]) == ("rule.fired", "rule:retrain", cause.sequence)
    assert fired.data["do"] == RETRAIN["do"]
    assert (done.type, done.data["dataset"], done.actor) == ("rule.done", "rides@2", "worker")
    assert go() == []
    assert len(world.done) == 3


def test_while_it_rests_it_says_so(ws, world, configure, go):
    configure(rules={"tell": {"on": "service.drift", "do": "alert info moved", "cooldown": "6 hours"}})
    go()
    drift(ws)
    go()
    ws.time += 3600
    drift(ws)
    assert go() == ["rule:tell: service.drift of service:churn@2 left out: fired 1 hour ago and rests for 6 hours"]
    ws.time += 6 * 3600
    assert go() == []
    drift(ws)
    assert go()[-1] == "rule:tell: done"
    assert len(world.done) == 2


def test_a_firing_waits_for_labels_and_goes_on_when_they_come(ws, world, configure, go):
    configure(rules={"retrain": {**RETRAIN, "wait": "7 days"}})
    model(ws)
    go()
    drift(ws)
    world.fails["grow"] = Unavailable("10 new labels are needed, 0 are there")
    assert go()[-1] == "rule:retrain: seal 10 waits for at most 1 week: 10 new labels are needed, 0 are there"
    assert go() == []  # not before the pause is over
    ws.time += 10
    assert go() == []  # tried again, and the same is missing
    assert state(ws, "rule:retrain")["doing"]["again"] > ws.time
    ws.time += 86400
    world.fails.clear()
    assert go("two")[-1] == "rule:retrain: done"
    assert [d[0] for d in world.done] == ["grow", "start", "alert"]


def test_a_firing_that_waited_too_long_has_failed(ws, world, configure, go):
    configure(rules={"retrain": {**RETRAIN, "wait": "1 hour"}})
    go()
    drift(ws)
    world.fails["grow"] = Unavailable("no labels")
    go()
    ws.time += 3601
    assert go() == ["rule:retrain: seal 10 failed: no labels"]
    assert types(ws, "rule") == ["rule.fired", "rule.failed"]
    assert "doing" not in state(ws, "rule:retrain")
    drift(ws)
    world.fails.clear()
    model(ws)
    assert go()[-1] == "rule:retrain: done"
    assert "failed" not in state(ws, "rule:retrain")


def test_a_rule_that_fails_blocks_no_other(ws, world, configure, go):
    configure(
        rules={
            "first": {"on": "service.drift", "do": ["promote staging", "alert info never"]},
            "second": {"on": "service.drift", "do": "alert info moved"},
            "third": {"on": "service.drift", "do": "run nothing"},
        }
    )
    model(ws)
    go()
    drift(ws, "model:churn@3")
    world.fails["promote"] = Refused("the gate says no")
    said = go()
    assert "rule:first: promote staging failed: the gate says no" in said
    assert "rule:second: done" in said
    assert any(s.startswith("rule:third: run nothing failed: no pipeline named 'nothing'") for s in said)
    assert [d[3:] for d in world.done] == [("info", "moved")]
    assert go() == []
    failed = [e for e in ws.store.events(type="rule.failed") if e.subject == "rule:first"]
    assert [(e.reason, e.data["action"]) for e in failed] == [("the gate says no", "promote staging")]


def test_even_a_bug_in_a_verb_ends_the_firing_and_not_the_worker(ws, world, configure, go):
    configure(rules={"retrain": RETRAIN})
    go()
    drift(ws)
    world.fails["grow"] = ZeroDivisionError("by zero")
    assert go()[-1] == "rule:retrain: seal 10 failed: ZeroDivisionError: by zero"


class Killed(BaseException):
    """What SIGKILL leaves: nothing after it runs."""


@pytest.mark.parametrize("at", ["grow", "start", "alert"])
def test_whoever_takes_over_goes_on_with_the_action_that_did_not_end(ws, world, configure, go, at, monkeypatch):
    configure(rules={"retrain": RETRAIN})
    model(ws)
    go()
    drift(ws)
    world.fails[at] = Killed()
    monkeypatch.setattr(leases, "release", lambda *_: None)
    with pytest.raises(Killed):
        go("one")
    world.fails.clear()
    assert go("two") == []  # its lease has not run out
    ws.time += 10.1
    assert go("two")[-1] == "rule:retrain: done"
    assert [d[0] for d in world.done] == ["grow", "start", "alert"]
    assert types(ws, "rule") == ["rule.fired", "rule.done"]


def test_a_rollout_that_was_started_is_not_started_again(ws, world, configure, go, monkeypatch):
    configure(rules={"out": {"on": "service.drift", "do": "rollout churn@3"}})
    model(ws)
    go()
    drift(ws)
    start = world.verbs.start

    def killed(*args, **facts):
        start(*args, **facts)
        raise Killed

    with pytest.raises(Killed):
        turn(ws, "one", verbs=replace(world.verbs, start=killed), only="fires")
    assert "was started before" in go("two")[0]
    assert len(world.asked("start")) == 1
    drift(ws)
    go("two")
    assert len(world.asked("start")) == 2  # another firing


def test_a_model_that_is_served_already_needs_no_rollout(ws, world, configure, go):
    configure(rules={"out": {"on": "model.stage", "do": "rollout"}})
    model(ws)
    ws.store.put(Service(name="churn", revision=1, model="churn@3", status="ready"))
    go()
    note(ws, "model.stage", "model:churn@3")
    assert go()[1] == "rule:out: churn@3 is served already"
    assert world.done == []


def test_a_dataset_that_has_grown_since_is_not_grown_again(ws, world, configure, go):
    configure(rules={"grow": {"on": "service.drift", "do": "seal"}})
    go()
    ws.time = time.time() - 1
    drift(ws)

    def killed(ws, service, least):
        datasets.commit(ws, "rides", Frame.of({"x": [1]}), tags={"grown": {"service": service}})
        raise Killed

    with pytest.raises(Killed):
        turn(ws, "one", verbs=replace(world.verbs, grow=killed), only="fires")
    assert go("two")[0] == "rule:grow: rides@1 has grown already"
    assert world.done == []


def test_a_superseded_worker_writes_nothing(ws, world, configure, go):
    """While it does something, its lease runs out and another finishes the firing."""
    configure(rules={"tell": {"on": "service.drift", "do": ["alert info one", "alert info two"]}})
    go()
    drift(ws)
    plain = world.verbs.alert
    inner = []

    def slow(*args, **facts):
        if not inner:
            ws.time += 11
            inner.append("began")
            inner.extend(turn(ws, "two", verbs=world.verbs, only="fires"))
        return plain(*args, **facts)

    said = turn(ws, "one", verbs=replace(world.verbs, alert=slow), only="fires", seconds=10)
    assert inner[-1] == "rule:tell: done"
    assert "taken it over" in said[-1]
    assert types(ws, "rule") == ["rule.fired", "rule.done"]
    assert ws.store.get(Lease, "rule:tell").token == 3
    assert go() == []


def test_the_actions_of_a_firing_are_those_it_fired_with(ws, world, configure, go):
    configure(rules={"tell": {"on": "service.drift", "do": ["seal", "alert info old"]}})
    go()
    drift(ws)
    world.fails["grow"] = Unavailable("no labels")
    go()
    configure(rules={"tell": {"on": "service.drift", "do": ["promote staging"]}})
    world.fails.clear()
    ws.time += 10
    go()
    assert [d[0] for d in world.done] == ["grow", "alert"]


def test_a_long_journal_is_read_once(ws, world, configure, go):
    configure(rules={"tell": {"on": "service.drift", "do": "alert info moved"}})
    go()
    with ws.store.transaction():
        for n in range(600):
            note(ws, "run.finished", f"run:{n}")
    assert go() == []
    assert state(ws, "rule:tell")["cursor"] == 600
    with ws.store.transaction():
        for n in range(1200):
            note(ws, "run.finished", f"run:{n}")
        drift(ws)
    assert go()[-1] == "rule:tell: done"
    assert state(ws, "rule:tell")["cursor"] == 1801
    before = ws.store.get(Lease, "rule:tell")
    go()
    assert ws.store.get(Lease, "rule:tell") == before  # nothing due, nothing written


# --- schedules ---------------------------------------------------------------------------------------------------------


def test_a_schedule_runs_at_its_times(ws, world, configure, go):
    configure(schedules={"often": {"every": "15 minutes", "do": "alert info tick"}})
    ws.time = 900.0 * 1000 + 1
    assert go() == ["schedule:often: next at 1970-01-11 10:15:00 UTC"]
    assert go() == []
    ws.time += 899
    assert go()[0] == "schedule:often: fired for 1970-01-11 10:15:00 UTC"
    assert go() == []
    ws.time += 10 * 900  # nobody was there
    assert len(go()) == 3
    assert go() == []
    assert len(world.done) == 2
    assert types(ws, "schedule") == ["schedule.fired", "schedule.done"] * 2
    assert ws.store.events(type="schedule.fired")[-1].data["at"] == 900.0 * 1011


@pytest.mark.parametrize(("missed", "runs"), [("once", 1), ("skip", 0), ("all", 4)])
def test_what_was_missed(ws, world, configure, go, missed, runs):
    configure(schedules={"hourly": {"cron": "0 * * * *", "do": "alert info tick", "missed": missed}})
    ws.time = 3600.0 * 1000
    go()
    ws.time += 4 * 3600 + 1800
    for _ in range(6):
        go()
    assert len(world.done) == runs


def test_a_schedule_whose_times_were_changed_begins_anew(ws, world, configure, go):
    configure(schedules={"daily": {"cron": "0 3 * * *", "do": "alert info tick"}})
    ws.time = 86400.0 * 100 + 10 * 3600
    go()
    configure(schedules={"daily": {"cron": "0 9 * * *", "do": "alert info tick"}})
    assert go() == ["schedule:daily: next at 1970-04-12 09:00:00 UTC"]
    assert world.done == []


def test_a_schedule_can_be_run_now(ws, world, configure):
    configure(schedules={"daily": {"cron": "0 3 * * *", "do": "alert info tick"}})
    planned = schedule.read(ws.settings)["daily"]
    said, failure = run_now(ws, planned, verbs=world.verbs)
    assert (said[-1], failure) == ("schedule:daily: done", "")
    leases.take(ws, "schedule:daily", "a worker")
    with pytest.raises(Conflict, match="just now"):
        run_now(ws, planned, verbs=world.verbs)
    ws.time += 11
    world.fails["alert"] = Refused("no")
    assert run_now(ws, planned, verbs=world.verbs)[1] == "no"


# --- what is tended ----------------------------------------------------------------------------------------------------


@pytest.fixture
def tend(ws, world):
    return lambda holder="one": turn(ws, holder, verbs=world.verbs, only="tends")


def test_each_service_that_answers_is_watched(ws, world, configure, tend):
    configure(worker={"watch": "10 seconds"})
    for revision, status in enumerate(["stopped", "ready", "trial", "failed"], 1):
        ws.store.put(Service(name="churn", revision=revision, model="churn@1", status=status))
    tend(), tend("two")
    assert world.asked("look") == [("look", "churn@2"), ("look", "churn@3")]
    ws.time += 10
    world.seen = SimpleNamespace(status="fail", sentence="it moved")
    assert tend("two") == ["watch:churn@2: fail, it moved", "watch:churn@3: fail, it moved"]
    ws.time += 10
    assert tend() == []
    assert len(world.asked("look")) == 6


def test_traffic_is_sealed_now_and_then(ws, world, configure, tend):
    configure(worker={"seal": "1 hour"})
    for revision in (2, 3):
        ws.store.put(Service(name="churn", revision=revision, model="churn@1", status="ready"))
    tend(), tend()
    assert world.asked("seal") == []
    ws.time += 3600
    assert "seal:churn: 7 predictions became churn-predictions@1" in tend("two")
    tend()
    assert world.asked("seal") == [("seal", "churn")]
    configure(worker={"seal": "never"})
    ws.time += 7200
    tend()
    assert world.asked("seal") == [("seal", "churn")]


def test_rollouts_go_on_until_they_end(ws, world, tend):
    ws.store.put(Rollout(id="R", service="churn", strategy="canary", model="churn@2", started=1.0))
    assert "rollout:R: churn to churn@2 is running in phase canary 5%" in tend()
    assert "rollout:R: churn to churn@2 is finished in phase canary 5%" in tend()
    tend()
    assert world.asked("proceed") == [("proceed", "R")] * 2


def test_services_and_alerts_are_looked_after(ws, world, tend):
    tend(), tend()
    assert world.done == [("revive",), ("follow",), ("deliver",)]
    drift(ws)  # something new has happened: alerts at once
    tend()
    assert world.done[3:] == [("follow",), ("deliver",)]
    ws.time += 5
    world.verbs = replace(world.verbs, revive=lambda ws: [Service(name="churn", revision=2, model="m", status="ready")])
    assert tend() == ["services: churn@2 had died and is ready again"]
    assert state(ws, "alerts")["follow"] == {"at": 3}


def test_what_fails_is_told_and_tried_again_later_each_time(ws, world, tend):
    ws.store.put(Rollout(id="R", service="churn", strategy="canary", model="churn@2", started=1.0))
    world.fails["proceed"] = Unavailable("the target does not answer")
    assert tend()[0] == "rollout:R: the target does not answer; the next try is in 2 seconds"
    assert ("revive",) in world.done
    assert not [s for s in tend() if s.startswith("rollout")]
    ws.time += 2
    assert tend()[0] == "rollout:R: the target does not answer; the next try is in 4 seconds"
    ws.time += 4
    world.fails.clear()
    assert tend() == ["rollout:R: churn to churn@2 is running in phase canary 5%"]
    assert "trouble" not in state(ws, "rollout:R")


@pytest.mark.parametrize("table", [{"watch": "often"}, {"wtch": "1 s"}])
def test_settings_that_cannot_be(ws, configure, table):
    configure(worker=table)
    with pytest.raises(Invalid, match=r"\[worker\]"):
        check(ws.settings)


# --- for ever ----------------------------------------------------------------------------------------------------------


def test_work_goes_on_until_it_is_stopped_and_reads_the_settings_again(ws, world):
    said, stop = [], threading.Event()
    told = threading.Condition()

    def say(line):
        with told:
            said.append(line)
            told.notify_all()

    def wait_for(text):
        with told:
            assert told.wait_for(lambda: any(text in s for s in said), 20), said

    config = ws.project / "boucle.toml"
    thread = threading.Thread(
        target=work, args=(ws,), kwargs={"every": 0.01, "stop": stop, "say": say, "verbs": world.verbs}
    )
    thread.start()
    try:
        config.write_text("[rules.tell]\non = 'service.drift'\ndo = 'alert info moved'\n")
        wait_for("waits for service.drift")
        drift(ws)
        wait_for("rule:tell: done")
        config.write_text("[rules.tell\n")
        wait_for("not valid TOML")
        drift(ws)
        with told:
            assert told.wait_for(lambda: said.count("rule:tell: done") == 2, 20)
    finally:
        stop.set()
        thread.join()
    assert not ws.store.find(Lease, field("holder") != "")


# --- with real pipelines -----------------------------------------------------------------------------------------------

JOBS = """
import os, time
from pathlib import Path
from boucle import pipeline, step

HERE = Path(__file__).parent


@step
def first(n: int) -> int:
    with open(HERE / "calls", "a") as file:
        file.write(f"first {os.getpid()}\\n")
    return n + 1


@step
def second(n: int, pause: float) -> int:
    with open(HERE / "calls", "a") as file:
        file.write(f"second {os.getpid()}\\n")
    if not (HERE / "go").exists():
        time.sleep(pause)
    return 10 * n


@pipeline
def count(n: int = 1, pause: float = 0.0) -> int:
    return second(first(n), pause)
"""


@dataclass
class Project:
    ws: object

    def write(self, more=""):
        (self.ws.project / "jobs.py").write_text(textwrap.dedent(JOBS))
        (self.ws.project / "boucle.toml").write_text(
            "[boucle]\n[pipelines.count]\ncall = 'jobs:count'\n"
            "[rules.recount]\non = 'service.drift'\ndo = ['run count', 'alert info counted']\n" + more
        )
        self.ws.settings = boucle.workspace.resolve(self.ws.project, actor="worker")

    def calls(self):
        try:
            return [line.split() for line in (self.ws.project / "calls").read_text().splitlines()]
        except FileNotFoundError:
            return []


@pytest.fixture
def project(ws, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    path = list(sys.path)
    made = Project(ws)
    made.write()
    yield made
    sys.path[:] = path
    sys.modules.pop("jobs", None)


def test_a_rule_runs_a_pipeline_with_the_code_as_it_is_now(ws, world, project, go):
    go()
    drift(ws)
    assert [s.split(": ", 1)[1] for s in go()][2:] == ["raised a info alert", "done"]
    code = (ws.project / "jobs.py").read_text().replace("10 * n", "100 * n")
    (ws.project / "jobs.py").write_text(code)
    drift(ws)
    assert "1 of 2 steps anew" in go()[1]
    runs = ws.store.find(Run, field("type") == "pipeline", order=["started"])
    assert [(r.status, r.actor) for r in runs] == [("finished", "worker")] * 2
    assert [e.data["run"] for e in ws.store.events(type="rule.done")] == [r.id for r in runs]
    assert [c[0] for c in project.calls()] == ["first", "second", "second"]


def test_a_step_that_fails_fails_the_firing(ws, world, project, go):
    project.write("with = {n = 'x'}\n")
    go()
    drift(ws)
    assert "run count failed: step first failed" in go()[1]
    assert types(ws, "rule") == ["rule.fired", "rule.failed"]


TRAIN = """
from boucle import Frame, Model, pipeline, register, step
from boucle.ledger import recording


def predict(rows: list):
    return [r["x"] > 1 for r in rows]


@step
def fit() -> Model:
    return register(recording.running().ws, "churn", predict, data=Frame.of({"x": [1.0, 2.0]}))


@pipeline
def train():
    return fit()
"""


def test_what_a_run_made_is_brought_out_even_if_the_run_is_cut_off(ws, world, project, go, monkeypatch):
    monkeypatch.setattr(bundles, "prove", lambda folder: {"ok": True, "said": "proved here"})
    (ws.project / "training.py").write_text(TRAIN)
    (ws.project / "boucle.toml").write_text(
        "[rules.retrain]\non = 'service.drift'\ndo = ['run training:train', 'rollout', 'promote staging']\n"
    )
    ws.settings = boucle.workspace.resolve(ws.project, actor="worker")
    go()
    drift(ws)

    def killed(*_):
        raise Killed

    with monkeypatch.context() as cut:
        cut.setattr("boucle.ops.worker.firing.made_by", killed)  # the run has ended, and nobody knows yet
        with pytest.raises(Killed):
            go()
    said = go("two")
    assert "0 of 1 steps anew, made churn@1" in said[0]
    assert world.done == [("start", "model:churn@1", "churn"), ("promote", "churn@1", "staging")]
    assert [m.key for m in ws.store.find(Model)] == ["churn@1"]
    assert ws.store.events(type="rule.done")[0].data["model"] == "churn@1"


PROGRAM = """
import signal, sys, threading
import boucle.workspace
from boucle.ops.worker import work
from boucle.ops.worker.verbs import Verbs

ws = boucle.workspace.open(sys.argv[1], actor="worker")
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
nothing = Verbs(
    grow=None, start=None, proceed=None, look=None, promote=None, revive=lambda ws: [], follow=lambda ws, state: state,
    alert=lambda *a, **k: None, deliver=lambda ws: 0,
)
work(ws, every=0.05, stop=stop, say=lambda line: print(line, flush=True), verbs=nothing, seconds=1.0)
print("ended", flush=True)
"""


@pytest.fixture
def start(ws):
    running = []

    def make():
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(ws.project)], stdout=subprocess.PIPE, text=True)
        running.append(process)
        return process

    yield make
    for process in running:
        process.kill()
        process.communicate()


def until(true, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_another_worker_goes_on_where_one_was_ended(ws, project, start, end):
    ws.now = time.time
    project.write("with = {pause = 100.0}\n")
    workers = [start(), start()]
    until(lambda: (lease := ws.store.get(Lease, "rule:recount")) and "cursor" in lease.state)
    drift(ws)
    until(lambda: len(project.calls()) == 2)
    pid = int(project.calls()[1][1])
    (ws.project / "go").touch()  # whoever comes next does not pause
    os.kill(pid, end)
    until(lambda: types(ws, "rule") == ["rule.fired", "rule.done"])
    (other,) = (w for w in workers if w.pid != pid)
    assert project.calls() == [["first", str(pid)], ["second", str(pid)], ["second", str(other.pid)]]
    done = ws.store.events(type="rule.done")[0]
    run = ws.store.get(Run, done.data["run"])
    assert (run.status, run.pid) == ("finished", other.pid)
    if end == signal.SIGTERM:
        (ended,) = (w for w in workers if w.pid == pid)
        assert ended.communicate(timeout=20)[0].endswith("ended\n")
        assert ended.returncode == 0
        assert "cancelled" in {r.status for r in ws.store.find(Run, field("type") == "pipeline")}


@pytest.mark.slow
def test_a_long_pipeline_keeps_its_lease(ws, project, start):
    """The lease holds for a second, the pipeline runs for two and a half, and another worker stands by."""
    ws.now = time.time
    project.write("with = {pause = 2.5}\n")
    start(), start()
    until(lambda: (lease := ws.store.get(Lease, "rule:recount")) and "cursor" in lease.state)
    drift(ws)
    until(lambda: "rule.done" in types(ws, "rule"))
    assert [c[0] for c in project.calls()] == ["first", "second"]
    assert len(ws.store.find(Run, field("type") == "pipeline")) == 1
