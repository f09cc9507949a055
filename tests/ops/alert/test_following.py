"""Alerts off the journal."""

from __future__ import annotations

from typing import Any

import pytest

from boucle.core.records import Event, Rollout, Service
from boucle.ledger.journal import note
from boucle.ops import alert
from boucle.ops.alert.following import read

CHURN = "service:churn"


class Follower:
    """Follows one workspace from its end on."""

    def __init__(self, shop: Any) -> None:
        self.shop = shop
        self.state = alert.follow(shop.ws, {})

    def after(self, type: str, subject: str, **data: Any) -> list[tuple[str, str, str]]:
        """What is open after an event: name, subject, severity."""
        note(self.shop.ws, type, subject, reason=data.pop("reason", ""), **data)
        self.state = alert.follow(self.shop.ws, self.state)
        return sorted((a.name, a.subject, a.severity) for a in alert.find(self.shop.ws))


@pytest.fixture
def follower(shop: Any) -> Follower:
    note(shop.ws, "service.failed", "service:old@1")  # before anybody followed
    return Follower(shop)


def test_a_new_follower_begins_at_the_end(follower: Follower) -> None:
    assert follower.state == {"cursor": 1}
    assert alert.find(follower.shop.ws) == []
    assert alert.follow(follower.shop.ws, follower.state) == {"cursor": 1}


def test_an_empty_journal_has_an_end_too(shop: Any) -> None:
    assert alert.follow(shop.ws, {"other": 1}) == {"cursor": 0, "other": 1}


@pytest.mark.parametrize("check", ["drift", "concept", "anomaly"])
def test_what_is_judged_opens_worsens_and_ends(follower: Follower, check: str) -> None:
    type, subject = f"service.{check}", f"{CHURN}@3"
    assert follower.after(type, subject, status="warn") == [(check, CHURN, "warning")]
    worse = follower.after(
        type, subject, status="fail", after="fail", reason="2 columns moved", since=50.0, columns=["a"]
    )
    assert worse == [(check, CHURN, "critical")]
    (open_,) = alert.find(follower.shop.ws)
    assert (open_.title, open_.onset, open_.count) == (f"{check} of churn: 2 columns moved", 50.0, 2)
    sequence = next(e.sequence for e in follower.shop.ws.store.events(type=type) if e.data["status"] == "fail")
    assert open_.data == {"event": sequence, "of": [subject], "columns": ["a"]}
    assert follower.after(type, subject, status="odd") == worse
    assert follower.after(type, subject, status="pass") == []


def test_drift_of_two_revisions_is_over_when_both_are_well(follower: Follower) -> None:
    for revision in (2, 3, 4):
        follower.after("service.drift", f"{CHURN}@{revision}", status="fail")
    (open_,) = alert.find(follower.shop.ws)
    assert (open_.count, open_.data["of"]) == (3, [f"{CHURN}@2", f"{CHURN}@3", f"{CHURN}@4"])
    assert follower.after("service.drift", f"{CHURN}@3", status="pass") != []
    assert follower.after("service.drift", f"{CHURN}@9", status="pass") != []
    assert follower.after("service.stopped", f"{CHURN}@2") != []
    assert follower.after("service.drift", f"{CHURN}@4", status="pass") == []


@pytest.mark.parametrize("over", ["service.ready", "service.restarted"])
def test_a_service_that_fails_is_down_until_it_answers(follower: Follower, over: str) -> None:
    assert follower.after("service.failed", f"{CHURN}@3", reason="exit 1") == [("service-down", CHURN, "critical")]
    (open_,) = alert.find(follower.shop.ws)
    assert (open_.title, open_.onset) == ("churn is down: exit 1", follower.shop.clock.now)
    assert follower.after(over, "service:other@1") != []
    assert follower.after(over, f"{CHURN}@4") == []


def test_a_process_that_died_is_a_warning_until_it_cannot_be_brought_back(follower: Follower) -> None:
    assert follower.after("service.died", f"{CHURN}@3") == [("service-down", CHURN, "warning")]
    assert follower.after("service.unavailable", f"{CHURN}@3", reason="no port") == [
        ("service-down", CHURN, "critical")
    ]
    assert follower.after("service.restarted", f"{CHURN}@3") == []


def test_a_revision_that_fails_beside_one_that_answers_is_no_outage(follower: Follower) -> None:
    follower.shop.ws.store.put(Service(name="churn", revision=2, model="churn@1", status="ready"))
    assert follower.after("service.failed", f"{CHURN}@3", reason="exit 1") == [("service-down", CHURN, "warning")]
    assert alert.find(follower.shop.ws)[0].title == "churn@3 failed, churn@2 answers: exit 1"
    assert follower.after("service.failed", f"{CHURN}@2") == [("service-down", CHURN, "critical")]


def test_a_rollout_that_fails_is_over_with_the_next_that_wins(follower: Follower) -> None:
    for id in ("R1", "R2"):
        follower.shop.ws.store.put(Rollout(id=id, service="churn", strategy="canary"))
    assert follower.after("rollout.failed", "rollout:R1", reason="worse") == [("rollout", CHURN, "warning")]
    assert follower.after("rollout.aborted", "rollout:R2") != []
    assert follower.after("rollout.finished", "rollout:R2") == []
    assert follower.after("rollout.failed", f"{CHURN}@4") == [("rollout", CHURN, "warning")]


@pytest.mark.parametrize("kind", ["rule", "schedule"])
def test_a_rule_or_schedule_that_fails_is_over_when_it_works(follower: Follower, kind: str) -> None:
    assert follower.after(f"{kind}.failed", f"{kind}:nightly", reason="x") == [(kind, f"{kind}:nightly", "warning")]
    assert alert.find(follower.shop.ws)[0].title == f"{kind} of nightly: x"
    assert follower.after(f"{kind}.done", f"{kind}:other") != []
    assert follower.after(f"{kind}.done", f"{kind}:nightly") == []


def test_data_that_fails_checks_is_over_when_each_of_them_passes(follower: Follower) -> None:
    trips = [("data", "dataset:trips", "warning")]
    assert (
        follower.after("data.failed", "dataset:trips@1", check="between", column="km", since=7.0, reason="x") == trips
    )
    assert follower.after("data.failed", "dataset:trips@2", check="required", column="", since=9.0) == trips
    (open_,) = alert.find(follower.shop.ws)
    assert (open_.title, open_.onset, open_.count) == ("data of trips", 7.0, 2)
    assert open_.data["of"] == ["between km", "required"]
    assert follower.after("data.passed", "dataset:trips@3", check="required", column="") == trips
    assert follower.after("data.passed", "dataset:trips@3", check="between", column="age") == trips
    assert follower.after("data.passed", "dataset:other@3", check="between", column="km") == trips
    assert follower.after("data.passed", "dataset:trips@3", check="between", column="km", reason="all fit") == []
    assert alert.find(follower.shop.ws, all=True)[0].reason == "all fit"


def test_stopping_a_revision_ends_what_was_wrong_with_it_alone(follower: Follower) -> None:
    follower.after("service.drift", f"{CHURN}@3", status="fail")
    follower.after("service.failed", f"{CHURN}@2")
    follower.after("service.drift", "service:fares@3", status="fail")
    assert follower.after("service.stopped", f"{CHURN}@3") == [
        ("drift", "service:fares", "critical"), ("service-down", CHURN, "critical"),
    ]  # fmt: skip


def test_reading_the_same_events_again_changes_nothing(follower: Follower) -> None:
    before = dict(follower.state)
    follower.after("service.drift", f"{CHURN}@3", status="warn")
    follower.after("service.drift", f"{CHURN}@3", status="pass")
    follower.after("service.drift", f"{CHURN}@3", status="fail")
    follower.after("service.failed", f"{CHURN}@3")
    follower.after("service.stopped", f"{CHURN}@3")
    follower.after("service.drift", f"{CHURN}@4", status="fail")
    seen = alert.find(follower.shop.ws, all=True)
    assert len(seen) == 4
    alert.follow(follower.shop.ws, before)
    assert alert.find(follower.shop.ws, all=True) == seen


def test_its_own_events_and_odd_ones_mean_nothing(follower: Follower) -> None:
    for type, subject in (("alert.opened", CHURN), ("model.stage", "model:churn@3"), ("rollout.failed", "rollout:gone"),
                          ("service.failed", "")):  # fmt: skip
        assert follower.after(type, subject) == []


def test_what_an_event_means_is_pure() -> None:
    assert read(Event(type="service.drift", data={"status": "pass"})) is not None
    assert read(Event(type="service.starting")) is None
