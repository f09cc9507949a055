"""Walking rollouts from the first phase to the end, with a clock that is turned by hand."""

from __future__ import annotations

import random

import pytest

from boucle.core.errors import Conflict, Invalid, NotFound, Refused
from boucle.core.records import Model, Rollout, Service, Verdict
from boucle.core.where import field
from boucle.ledger import models
from boucle.ops import deploy, host
from boucle.ops import rollout as rollouts

PHASES = ["replay", "shadow", "canary 25 %", "all"]


def events(shop, kind):
    return shop.ws.store.events(type=kind, subject=f"service:{shop.name}")


def test_a_better_model_wins(shop):
    old = shop.serve()
    shop.ask(200)
    rollout = shop.walk(shop.begin("truth", phases=PHASES))
    assert rollout.status == "finished"
    assert list(rollout.phases) == PHASES
    assert all(p["status"] == "finished" and p["said"] for p in rollout.phases.values())
    assert shop.live() == {"fare@2": ("ready", 1.0)}
    assert shop.ws.store.get(Service, old.key).status == "stopped"
    assert models.resolve(shop.ws, "fare@production").key == "fare@2"
    assert {a.model: a.share for a in shop.front().arms} == {"fare@2": 1.0}


def test_every_decision_is_kept_with_its_evidence(shop):
    shop.serve()
    shop.ask(200)
    rollout = shop.walk(shop.begin("truth", phases=PHASES))
    subject = f"service:{shop.name}@2"
    verdicts = shop.ws.store.find(Verdict, field("subject") == subject, order=["created"])
    assert [v.check for v in verdicts] == [f"rollout:{p}" for p in PHASES]
    assert "right in 100.0%" in verdicts[0].summary
    assert verdicts[0].evidence["measures"]["score"]["state"] == "ok"
    assert [e.type for e in events(shop, "rollout") if e.data.get("rollout") == rollout.id] == [
        "rollout.started", "rollout.phase", "rollout.phase", "rollout.phase", "rollout.finished",
    ]  # fmt: skip
    assert {e.source for e in shop.ws.store.edges(target=subject, relation="judges")} >= {str(v) for v in verdicts}


def test_a_worse_model_never_sees_a_live_request(shop):
    shop.serve()
    shop.ask(200)
    rollout = shop.walk(shop.begin("wrong", phases=PHASES))
    assert rollout.status == "failed"
    assert list(rollout.phases) == ["replay"]
    assert "fare@3" not in shop.asked
    assert shop.live() == {"fare@1": ("ready", 1.0)}
    assert models.resolve(shop.ws, "fare@3").stage == "none"


def test_a_worse_model_is_found_in_the_canary_too(shop):
    shop.serve()
    shop.ask(200)
    rollout = shop.walk(shop.begin("wrong", phases=["canary 25 %", "all"]))
    assert rollout.status == "failed"
    assert "right in 0.0%" in rollout.phases["canary 25 %"]["said"]
    assert shop.asked["fare@3"] > 0
    assert shop.live() == {"fare@1": ("ready", 1.0)}
    asked = shop.asked["fare@3"]
    shop.ask(50)
    assert shop.asked["fare@3"] == asked


def test_a_model_that_fails_is_found(shop):
    shop.serve("truth")
    shop.ask(200)
    rollout = shop.walk(shop.begin("broken", phases=["shadow", "all"], errors=0.02))
    assert rollout.status == "failed"
    assert "requests failed" in rollout.phases["shadow"]["said"]


def test_a_model_that_cannot_be_asked_at_all(shop, monkeypatch):
    def fails(folder, rows, *, seconds):
        raise Refused("KeyError: 'fare'")

    monkeypatch.setattr("boucle.ledger.bundles.answer", fails)
    shop.serve()
    shop.ask(200)
    rollout = shop.walk(shop.begin("truth", phases=PHASES))
    assert rollout.status == "failed"
    assert "KeyError: 'fare'" in rollout.phases["replay"]["said"]


@pytest.mark.parametrize("phases", [PHASES, ["canary 25 %", "all"], ["shadow", "all"]])
def test_without_traffic_nothing_is_promoted(shop, phases):
    shop.serve()
    rollout = shop.walk(shop.begin("truth", phases=phases), requests=1, seconds=60.0, labels=0.0, turns=3)
    assert rollout.status == "running"
    rollout = shop.walk(rollout, requests=0)
    while rollout.status == "running":
        shop.ws.now.moment += 120
        rollout = rollouts.turn(shop.ws, rollout)
    assert rollout.status == "failed"
    assert rollout.phase == phases[0]
    assert "not decided after 10 minutes" in rollout.phases[phases[0]]["said"]
    assert shop.live() == {"fare@1": ("ready", 1.0)}


def test_without_labels_it_is_how_often_the_answers_differ(shop):
    shop.serve()
    shop.ask(300, labels=0.0)
    rollout = shop.walk(shop.begin("truth", phases=PHASES, differ=0.25), labels=0.0)
    assert rollout.status == "finished"
    assert "other answers to" in rollout.phases["replay"]["said"]
    shop.ask(300, labels=0.0)
    rollout = shop.walk(shop.begin("wrong", phases=PHASES, differ=0.25), labels=0.0)
    assert rollout.status == "failed"


def test_labels_that_came_once_are_asked_for_again(shop):
    shop.serve()
    shop.ask(20, labels=1.0)
    shop.ask(300, labels=0.0)
    rollout = shop.walk(shop.begin("truth", phases=PHASES), labels=0.0, seconds=100.0)
    assert rollout.status == "failed"
    assert "how good the answers are is not certain yet" in rollout.phases["replay"]["said"]


def test_the_old_revision_stays_until_the_new_one_has_won(shop):
    shop.serve()
    shop.ask(200)
    rollout = shop.begin("truth", phases=PHASES)
    while rollout.status == "running":
        rollout = rollouts.turn(shop.ws, rollout)
        if rollout.status == "running":
            assert 1 in {a.revision for a in shop.front().arms}
            assert sum(a.share for a in shop.front().arms) == pytest.approx(1.0)
        shop.ask(30)
    assert rollout.status == "finished"


def test_a_revision_apart_takes_over_the_address_when_it_wins(shop):
    shop.serve()
    shop.ask(200)
    shop.target.apart = {2}
    rollout = shop.begin("truth", phases=PHASES)
    seen = set()
    while rollout.status == "running":
        rollout = rollouts.turn(shop.ws, rollout)
        route = shop.front()
        seen |= {a.url for a in route.arms if a.revision == 2}
        shop.ask(50)
    assert rollout.status == "finished"
    assert len(shop.target.routes) == 1
    assert "" in seen and len(seen) == 2  # first passed on, then by itself
    service = shop.ws.store.get(Service, f"{shop.name}@2")
    assert service.url == "http://127.0.0.1:7777"
    assert "apart" not in service.handle


def test_a_revision_apart_that_loses_leaves_nothing(shop):
    shop.serve()
    shop.ask(200)
    shop.target.apart = {2}
    rollout = shop.walk(shop.begin("wrong", phases=["canary 25 %", "all"]))
    assert rollout.status == "failed"
    assert len(shop.target.routes) == 1
    assert {a.revision for a in shop.front().arms} == {1}


# --- what people say ---------------------------------------------------------------------------------------------------


def test_pause_and_resume(shop):
    shop.serve()
    shop.ask(200)
    rollout = rollouts.turn(shop.ws, shop.begin("truth", phases=PHASES))
    assert rollout.phase == "shadow"
    rollouts.pause(shop.ws, shop.name, reason="lunch")
    assert shop.walk(rollout, turns=5).phase == "shadow"
    with pytest.raises(Invalid, match="paused"):
        rollouts.pause(shop.ws, shop.name)
    rollouts.resume(shop.ws, shop.name)
    assert shop.walk(rollout).status == "finished"


@pytest.mark.parametrize("turns", [0, 1, 3, 6])
def test_abort_at_any_moment(shop, turns):
    shop.serve()
    shop.ask(200)
    rollout = shop.walk(shop.begin("truth", phases=PHASES, rows=150), turns=turns)
    assert rollout.status == "running"
    ended = rollouts.abort(shop.ws, shop.name, reason="no")
    assert ended.status == "aborted"
    assert shop.live() == {"fare@1": ("ready", 1.0)}
    assert {a.revision: a.share for a in shop.front().arms} == {1: 1.0}
    assert rollouts.turn(shop.ws, rollout).status == "aborted"
    assert events(shop, "rollout.aborted")[-1].reason == "no"


def test_a_phase_that_asks_for_a_person_waits(shop):
    shop.serve()
    shop.ask(200)
    rollout = shop.walk(shop.begin("truth", phases=PHASES, approve=["canary 25 %"]))
    assert (rollout.status, rollout.phase) == ("waiting", "canary 25 %")
    assert shop.walk(rollout, turns=3).status == "waiting"
    rollouts.approve(shop.ws, shop.name)
    assert shop.walk(rollout).status == "finished"
    with pytest.raises(NotFound):
        rollouts.approve(shop.ws, shop.name)


def test_the_gate_of_production_is_asked_before_everything_goes_there(shop, monkeypatch):
    settings = shop.ws.settings
    monkeypatch.setattr(type(settings), "gates", {"production": {"verdicts": ["proof"], "approvals": 1}})
    shop.serve()
    shop.ask(200)
    rollout = shop.walk(shop.begin("truth", phases=PHASES))
    assert (rollout.status, rollout.phase) == ("waiting", "all")
    assert "0 of 1 approvals" in rollout.phases["all"]["said"]
    rollouts.approve(shop.ws, shop.name)
    assert shop.walk(rollout).status == "finished"
    assert models.resolve(shop.ws, "fare@production").key == "fare@2"


def test_a_gate_that_refuses_rolls_back(shop, monkeypatch):
    monkeypatch.setattr(type(shop.ws.settings), "gates", {"production": {"minimum": {"f1": 0.5}}})
    shop.serve()
    shop.ask(200)
    rollout = shop.walk(shop.begin("truth", phases=PHASES))
    assert rollout.status == "failed"
    assert "f1 was not measured" in rollout.phases["all"]["said"]
    assert shop.live() == {"fare@1": ("ready", 1.0)}


def test_what_is_frozen_does_not_move(shop):
    shop.serve()
    shop.ask(200)
    rollout = rollouts.turn(shop.ws, shop.begin("truth", phases=PHASES))
    rollouts.freeze(shop.ws, shop.name, reason="quarter end")
    assert shop.walk(rollout, turns=4).phase == rollout.phase
    assert "quarter end" in rollouts.frozen(shop.ws, shop.name)
    rollouts.thaw(shop.ws, shop.name)
    assert shop.walk(rollout).status == "finished"
    rollouts.freeze(shop.ws, shop.name)
    with pytest.raises(Refused, match="frozen"):
        shop.begin("fair")
    rollouts.thaw(shop.ws, shop.name)


def test_back_to_the_one_before(shop):
    shop.serve()
    shop.ask(200)
    rollout = shop.walk(shop.begin("truth", phases=PHASES))
    assert rollout.status == "finished"
    shop.ws.now.moment += 1
    service = rollouts.back(shop.ws, shop.name, reason="complaints")
    assert service.model == "fare@1"
    assert shop.live() == {"fare@1": ("ready", 1.0)}


def test_one_rollout_at_a_time(shop):
    shop.serve()
    shop.begin("truth")
    with pytest.raises(Conflict, match="one at a time"):
        shop.begin("wrong")
    with pytest.raises(Conflict, match="rollout abort"):
        deploy.deploy(shop.ws, shop.versions["wrong"].key, shop.name)


def test_what_cannot_begin(shop):
    with pytest.raises(NotFound, match="boucle deploy"):
        shop.begin("truth")
    shop.serve()
    with pytest.raises(Invalid, match="already"):
        shop.begin("fair")
    with pytest.raises(Invalid, match="lead from little to all"):
        shop.begin("truth", phases=["all", "replay"])


def test_rows_that_the_model_learned_from_are_left_out(shop, monkeypatch):
    shop.serve()
    shop.ask(200)
    ids = frozenset(line.split('"')[3] for line in _lines(shop, 1))
    monkeypatch.setattr("boucle.ops.seal.learned", lambda ws, model: ids)
    rollout = rollouts.turn(shop.ws, shop.begin("truth", phases=PHASES))
    assert rollout.phase == "replay"
    assert rollout.phases["replay"]["evidence"]["pairs"] == 0
    shop.ask(200)
    rollout = rollouts.turn(shop.ws, rollout)
    assert 0 < rollout.phases["replay"]["evidence"]["pairs"] <= 200


def _lines(shop, revision):
    folder = host.arm_of(shop.ws.store.get(Service, f"{shop.name}@{revision}")).log
    from pathlib import Path

    return [line for file in Path(folder).glob("*.jsonl") for line in file.read_text().splitlines()]


# --- being killed ------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("version", "end"), [("truth", "finished"), ("wrong", "failed")])
def test_killed_anywhere_the_next_one_goes_on(shop, monkeypatch, version, end, seed):
    chance = random.Random(seed)
    shop.serve()
    shop.ask(200)
    shop.target.apart = {2} if seed % 3 == 0 else set()
    kills = 0

    def maybe(what):
        nonlocal kills
        if chance.random() < 0.2:
            kills += 1
            raise Killed(what)

    original = type(shop.ws.store).put

    def put(self, *records):
        maybe("before a write")
        original(self, *records)

    rollout = shop.begin(version, phases=PHASES if seed % 2 else ["canary 25 %", "all"])
    monkeypatch.setattr(type(shop.ws.store), "put", put)
    shop.target.before = maybe
    for _ in range(400):
        try:
            host.keep(shop.ws)
            rollout = rollouts.turn(shop.ws, rollout)
        except Killed:
            pass
        route = shop.front()
        if route is not None:
            assert any(a.share for a in route.arms)
            if version == "wrong":
                assert any(a.revision == 1 for a in route.arms)
        shop.ask(20, seconds=2.0)
        rollout = shop.ws.store.get(Rollout, rollout.id)
        if rollout.status != "running":
            break
    monkeypatch.setattr(type(shop.ws.store), "put", original)
    shop.target.before = lambda _: None
    host.keep(shop.ws)
    assert rollout.status == end
    assert kills or not seed % 2
    winner = "fare@2" if end == "finished" else "fare@1"
    assert shop.live() == {winner: ("ready", 1.0)}
    assert {a.model: a.share for a in shop.front().arms} == {winner: 1.0}
    assert len([e for e in events(shop, f"rollout.{end}") if e.data.get("rollout") == rollout.id]) == 1
    stages = {m.key: m.stage for m in shop.ws.store.find(Model, field("name") == "fare")}
    assert stages["fare@3"] == "none"
