"""The second journey with a clock that is turned by hand: traffic drifts, labels come, the worker retrains, tries the new model
and puts it in the place of the old one. Nobody is asked."""

from __future__ import annotations

import textwrap

import pytest

import boucle
from boucle.core.bundle import answer, open_bundle
from boucle.core.records import Alert, Rollout
from boucle.core.where import field
from boucle.flow.execute import execute
from boucle.flow.load import load
from boucle.ledger import lineage, models
from boucle.ops import alert, deploy, host
from boucle.ops.kpi import kpis
from boucle.ops.worker import turn

from .conftest import Clock, FakeTarget, Shop

PIPELINE = """
    from sklearn.tree import DecisionTreeClassifier

    from boucle import Frame, Model, pipeline, register, step
    from boucle.ledger import recording

    @step
    def fit(data: Frame) -> Model:
        table = data.pandas()
        model = DecisionTreeClassifier(max_depth=3, random_state=0).fit(table[["km"]], table["length"])
        ws = recording.running().ws
        return register(
            ws, "rides", model, data=data.select(["km"]), trained=data, task="binary", tags={"target": "length"}
        )

    @pipeline
    def rides(data: Frame) -> Model:
        return fit(data)
"""
SETTINGS = """
    [boucle]
    [pipelines.rides]
    call = "learning:rides"
    data = "rides@latest"

    [rules.relearn]
    on = "service.drift"
    if = "data.status = fail"
    do = ["seal rides 100", "run rides", "rollout"]
    cooldown = "12 hours"

    [rollouts.rides]
    phases = ["replay", "shadow", "canary 25 %", "all"]
    rows = 60
    errors = 0.1

    [worker]
    watch = "10 seconds"

    [channels.inbox]
    type = "file"
    path = "alerts.jsonl"
"""


class Town(Shop):
    """What long means differs by part of town: beyond 5 km near, beyond 15 km far out."""

    far = False

    def says(self, arm, row):
        if arm.model not in self.functions:
            bundle = open_bundle(arm.bundle, verify=False)
            self.functions[arm.model] = (bundle.load(), bundle.input)
        key = (arm.model, int(row["km"] * 2))  # a tree of so few leaves says the same to near rows
        if key not in self.functions:
            self.functions[key] = answer(*self.functions[arm.model], [{"km": key[1] / 2 + 0.25}])[0]["prediction"]
        return self.functions[key]

    def row(self):
        halves = self.chance.randrange(20) + (20 if self.far else 0)
        return {"km": halves / 2 + 0.25}

    def truth(self, row):
        return "long" if row["km"] > (15 if self.far else 5) else "short"

    def share_right(self, since):
        right = [r for t, r in self.results if t >= since]
        return sum(right) / len(right)


@pytest.fixture
def town(tmp_path, monkeypatch):
    project = tmp_path / "town"
    boucle.init(project).close()
    (project / "boucle.toml").write_text(textwrap.dedent(SETTINGS))
    (project / "learning.py").write_text(textwrap.dedent(PIPELINE))
    with boucle.open(project, actor="ann") as ws:
        target, clock = FakeTarget(), Clock()
        monkeypatch.setattr(type(ws), "target", lambda self, name="": target)
        ws.now = clock
        monkeypatch.setattr(deploy, "probe", lambda bundle, service: None)
        monkeypatch.setattr(deploy, "_check_port", lambda host, port: None)
        kms = [i / 100 for i in range(1000)]
        boucle.ingest(
            ws, boucle.Frame.of({"km": kms, "length": ["long" if km > 5 else "short" for km in kms]}), "rides"
        )
        yield Town(ws, {}, "rides", target)


def test_the_loop_closes_by_itself(town):
    ws = town.ws
    pipeline, arguments = load(ws.settings, "rides")
    first = execute(ws, pipeline, arguments).result
    models.advance(ws, first.key, "production", reason="first")
    deploy.deploy(ws, first.key, "rides", port=7777)
    worker = boucle.workspace.Workspace(
        boucle.settings.resolve(ws.project, actor="worker"), clock=ws.now
    )  # fmt: skip

    def hours(number, requests=40):
        for _ in range(int(number * 6)):
            town.ask(requests, seconds=600.0)
            turn(worker, "w1")

    hours(3)
    began = ws.now()
    assert ws.store.events(type="service.drift") == []
    assert town.share_right(0.0) > 0.97

    town.far = True
    hours(6)
    (fired,) = ws.store.events(type="rule.fired")
    (drift,) = [e for e in ws.store.events(type="service.drift") if e.subject.endswith("@1")]
    assert began < drift.time < began + 1800
    assert drift.data["since"] >= began - 3600  # the chunk of rows that the change began in
    (won,) = ws.store.events(type="rollout.finished", subject="service:rides@2")
    assert fired.actor == won.actor == "worker"
    assert town.live() == {"rides@2": ("ready", 1.0)}
    assert models.resolve(ws, "rides@production").key == "rides@2"
    assert town.share_right(won.time) > 0.95
    drifted = [r for t, r in town.results if began <= t < drift.time]
    assert sum(drifted) / len(drifted) < 0.8

    # What it did can be asked, down to the single predictions it learned from.
    refs = {node.ref for node in lineage.why(ws, "model:rides@2").flat()}
    assert {"dataset:rides@2", "dataset:rides@1", "service:rides@1"} <= refs
    (found,) = ws.store.find(Alert, (field("name") == "drift") & (field("subject") == "service:rides"), limit=1)
    assert found.opened >= drift.time
    assert (ws.project / "alerts.jsonl").read_text().count("drift") >= 1
    values = kpis(ws)
    assert values["change_failure_rate"].value == 0.0
    assert values["automation"].value > 0.5
    assert alert.find(ws, all=True)
    worker.close()


def test_a_worker_that_is_gone_is_replaced(town):
    ws = town.ws
    pipeline, arguments = load(ws.settings, "rides")
    first = execute(ws, pipeline, arguments).result
    deploy.deploy(ws, first.key, "rides", port=7777)
    town.far = True
    for i in range(40):
        town.ask(60, seconds=600.0)
        turn(ws, f"worker {i}")  # each ends after one turn and leaves its leases behind
    (rollout,) = [r for r in ws.store.find(Rollout) if r.strategy != "replace" and r.after == 2]
    assert rollout.status == "finished"
    assert len(ws.store.events(type="rollout.started", subject="service:rides@2")) == 1
    assert host.rollout_of(ws, "rides") is None or ws.store.events(type="rule.fired")[1:]
