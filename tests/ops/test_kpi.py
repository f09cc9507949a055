"""The numbers on the work itself, over histories that are made with a clock of their own."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import boucle.workspace
from boucle.core.errors import Invalid
from boucle.core.records import Alert, Code, Model, Rollout, Run
from boucle.core.refs import new_id
from boucle.ledger import models, services
from boucle.ledger.journal import note
from boucle.ops.kpi import TROUBLE_SECONDS, kpis

DAY = 86400.0
START = 1_767_571_200.0  # Monday 2026-01-05, 0:00 UTC


class History:
    """A workspace in which things happen at days that the test says."""

    def __init__(self, ws: boucle.workspace.Workspace) -> None:
        self.ws, self.day = ws, 0.0
        ws.now = lambda: START + self.day * DAY

    def at(self, day: float) -> History:
        self.day = day
        return self

    def model(self, committed: float | None = None, name: str = "churn", commit: str = "") -> Model:
        """A model that was trained by code committed on a day, registered now."""
        now, ws = self.ws.now(), self.ws
        run = Run(id=new_id(), name="train", started=now)
        if committed is not None:
            code = Code(
                digest=new_id(), entry="t", sources="", commit=commit or new_id(), committed=START + committed * DAY
            )  # fmt: skip
            ws.store.put(code)
            run = replace(run, code=code.digest)
        step = Run(id=new_id(), name="register", type="step", parent=run.id, started=now)
        versions = models.versions(ws, name)
        made = Model(
            name=name, version=versions[0].version + 1 if versions else 1, digest=new_id(), artifact="", run=step.id,
            created=now,
        )  # fmt: skip
        ws.store.put(run, step, made)
        note(ws, "model.registered", str(made))
        return made

    def rollout(
        self,
        model: Model,
        status: str = "finished",
        service: str = "churn",
        actor: str = "ann",
        strategy: str = "replace",
    ) -> Rollout:
        """What `boucle deploy` and a finished rollout leave behind."""
        ws = self.ws
        old = services.current(ws, service)
        new = services.reserve(ws, service, model, "process", ws.now())
        if status == "finished":
            services.change(ws, new, "ready")
            if old:
                services.change(ws, old, "stopped")
        else:
            services.change(ws, new, "failed")
        done = Rollout(
            id=new_id(), service=service, strategy=strategy, status=status, model=model.key, before=old.revision if old else 0,
            after=new.revision, started=ws.now() - 60, ended=ws.now(), actor=actor,
        )  # fmt: skip
        ws.store.put(done)
        note(ws, f"rollout.{status}", str(new))
        return done

    def alert(
        self, severity: str = "critical", subject: str = "service:churn", onset: float = 0.0, resolved: float = 0.0
    ):
        now = self.ws.now()
        self.ws.store.put(Alert(
            id=new_id(), name="errors", subject=subject, severity=severity, onset=onset and now - onset, opened=now,
            resolved=resolved and now + resolved,
        ))  # fmt: skip


@pytest.fixture
def history(tmp_path):
    with boucle.workspace.init(tmp_path / "shop", actor="ann") as ws:
        yield History(ws)


def test_without_records_there_is_no_data(history):
    seen = kpis(history.ws)
    assert {k.value for k in seen.values} == {None}
    assert {k.n for k in seen.values} == {0}
    assert (seen.updates, seen.weeks) == ((), ())
    assert json.loads(json.dumps(seen.to_json()))["values"]["automation"]["value"] is None


def test_times_from_commit_and_registration_to_production(history):
    for day, committed in ((4, 3.0), (8, 6.0), (16, 12.0)):
        made = history.at(day - 0.5).model(committed)
        history.at(day).rollout(made)
    seen = kpis(history.at(21).ws)
    took = seen["deployment_time"]
    assert (took.value, took.n) == (2 * DAY, 3)
    assert took.beside["p90"] == pytest.approx(3.6 * DAY)
    assert (seen["lead_time"].value, seen["lead_time"].n) == (0.5 * DAY, 3)


def test_a_commit_and_a_model_count_when_they_first_get_there(history):
    first = history.at(1).model(0.0, commit="c0ffee")
    history.at(2).rollout(first)
    again = history.at(50).model(0.0, commit="c0ffee")  # trained again on new data by the same code
    history.at(51).rollout(again)
    history.at(60).rollout(again)
    history.at(61).rollout(again, service="other")
    seen = kpis(history.at(70).ws, service="churn")
    assert (seen["deployment_time"].value, seen["deployment_time"].n) == (2 * DAY, 1)
    assert (seen["lead_time"].value, seen["lead_time"].n) == (DAY, 2)
    assert seen["update_frequency"].n == 3
    assert kpis(history.ws)["deployment_time"].n == 2  # each service has a production of its own


def test_a_model_whose_commit_is_not_known_has_no_deployment_time(history):
    history.rollout(history.model())
    seen = kpis(history.at(1).ws)
    assert (seen["deployment_time"].value, seen["deployment_time"].n) == (None, 0)
    assert seen["update_frequency"].n == 1


def test_updates_per_week_and_by_week(history):
    for day in (0, 1, 2, 15):
        history.at(day).rollout(history.model())
    history.at(16).rollout(history.model(), "failed")
    history.at(17).rollout(history.model(), "aborted")
    seen = kpis(history.at(28).ws)
    assert (seen["update_frequency"].value, seen["update_frequency"].n) == (1.0, 4)
    assert [(w.updates, w.failures) for w in seen.weeks] == [(3, 0), (0, 0), (1, 1), (0, 0), (0, 0)]
    assert [w.start for w in seen.weeks] == [START + 7 * DAY * i for i in range(5)]
    assert seen.updates == tuple(START + d * DAY for d in (0, 1, 2, 15))
    quiet = kpis(history.ws, since=START + 20 * DAY)
    assert (quiet["update_frequency"].value, quiet["change_failure_rate"].value) == (0.0, None)
    assert kpis(history.ws, until=START - DAY)["update_frequency"].value is None
    assert kpis(history.ws, since="2026-01-19")["update_frequency"].n == 1


def test_in_less_than_a_week_the_count_is_what_it_is(history):
    for _ in range(3):
        history.rollout(history.model())
    assert kpis(history.at(1).ws)["update_frequency"].value == 3.0


def test_a_revision_that_became_ready_without_a_rollout_is_an_update(history):
    made = history.model(0.0)
    service = services.reserve(history.ws, "churn", made, "kubernetes", history.ws.now())
    history.at(2)
    services.change(history.ws, service, "ready")
    history.at(5)
    services.change(history.ws, service, "ready")  # it came back after a restart
    seen = kpis(history.ws)
    assert (seen["deployment_time"].value, seen["update_frequency"].n) == (2 * DAY, 1)


def test_failed_rollouts_count_and_aborted_ones_do_not(history):
    for status in ("finished", "failed", "aborted", "finished", "finished"):
        history.at(history.day + 3).rollout(history.model(), status)
    seen = kpis(history.at(30).ws)
    assert (seen["change_failure_rate"].value, seen["change_failure_rate"].n) == (0.25, 4)
    assert seen["change_failure_rate"].beside == {"failed": 1}


@pytest.mark.parametrize(("after", "value"), [(0.5, 0.5), (1.5, 0.0)])
def test_an_update_that_is_taken_back_soon_has_failed(history, after, value):
    old, new = history.model(), history.model()
    history.at(1).rollout(old)
    history.at(5).rollout(new)
    history.at(5 + after).rollout(old)
    seen = kpis(history.at(30).ws)
    assert (seen["change_failure_rate"].value, seen["change_failure_rate"].n) == (value, 2)  # the remedy is no update
    assert seen["update_frequency"].n == 2


def test_a_model_that_has_to_leave_production_has_failed(history):
    old, new = history.model(), history.model()
    for at, model in ((1, old), (5, new)):
        history.at(at)
        models.move(history.ws, model, "staging")
        models.move(history.ws, model, "production")
        history.rollout(model)
    assert kpis(history.ws)["change_failure_rate"].value == 0.0
    history.at(5.5)
    assert models.rollback(history.ws, "churn").model.version == 1
    assert kpis(history.ws)["change_failure_rate"].value == 0.5


@pytest.mark.parametrize(
    ("severity", "subject", "after", "value"),
    [
        ("critical", "service:churn@1", 0.5, 1.0), ("critical", "service:churn", 0.5, 1.0),
        ("critical", "service:churn@2", 0.5, 0.0), ("critical", "service:other", 0.5, 0.0),
        ("warning", "service:churn", 0.5, 0.0), ("critical", "service:churn", 1.5, 0.0),
        ("critical", "service:churn", -0.5, 0.0),
    ],
)  # fmt: skip
def test_a_critical_alert_soon_after_an_update_makes_it_a_failure(history, severity, subject, after, value):
    assert TROUBLE_SECONDS == DAY
    history.at(3).rollout(history.model())
    history.at(3 + after).alert(severity, subject)
    assert kpis(history.at(10).ws)["change_failure_rate"].value == value


def test_how_long_trouble_lasts(history):
    history.at(1).alert(onset=60.0, resolved=240.0)
    history.at(2).alert("warning", onset=120.0, resolved=480.0)
    history.at(3).alert(resolved=600.0)  # nobody knows when it began
    history.at(4).alert(onset=90.0)  # goes on
    history.at(5).alert("info", onset=9999.0, resolved=9999.0)
    history.at(5).alert(subject="service:other", onset=9999.0, resolved=9999.0)
    seen = kpis(history.at(6).ws, service="churn")
    history.rollout(history.model())  # now the service is known, which changes nothing
    assert kpis(history.ws, service="churn")["time_to_detect"] == seen["time_to_detect"]
    assert (seen["time_to_detect"].value, seen["time_to_detect"].n) == (90.0, 3)
    assert (seen["time_to_resolve"].value, seen["time_to_resolve"].n) == (500.0, 3)
    assert seen["time_to_resolve"].beside == {"median": 600.0}


def test_what_happens_without_a_person(history, tmp_path):
    ws = history.ws
    first, second = history.model(), history.model()
    history.rollout(first)
    models.move(ws, first, "staging")
    models.move(ws, first, "production")
    with boucle.workspace.init(ws.project, actor="worker-1") as worker:
        worker.now = ws.now
        models.move(worker, second, "staging")
        models.move(worker, second, "production")  # that the first one leaves it is part of this
        note(worker, "rollout.phase", "service:churn@2", phase="canary")
        note(worker, "rule.done", "rule:retrain")
        note(worker, "service.ready", "service:churn@2")
    seen = kpis(ws)
    assert (seen["automation"].value, seen["automation"].n) == (4 / 7, 7)
    assert (seen.weeks[0].transitions, seen.weeks[0].unattended) == (7, 4)
    assert kpis(ws, service="churn")["automation"].n == 6  # rules belong to no service
    assert kpis(ws, service="other")["automation"].value is None


def test_a_window_must_not_end_before_it_begins(history):
    with pytest.raises(Invalid, match="a window from 2026-01-06"):
        kpis(history.ws, since="2026-01-06", until="2026-01-05")
