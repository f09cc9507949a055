"""Processes die while a rollout goes on: what is brought back, what is given up, and who pays for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from boucle.core.errors import Unavailable
from boucle.core.records import Rollout, Service
from boucle.ops import deploy, host
from boucle.ops import rollout as rollouts

PHASES = ["canary 25 %", "all"]


def die(shop, service=None):
    """The process at the address, or a revision's own, ends by SIGKILL."""
    handle = (service or host.front(shop.ws, shop.name)).handle
    del shop.target.routes[handle["pid"]]


def get(shop, revision):
    return shop.ws.store.get(Service, f"{shop.name}@{revision}")


def until_trial(shop, rollout):
    for _ in range(20):
        rollout = rollouts.turn(shop.ws, rollout)
        if get(shop, rollout.after).status == "trial":
            return rollout
        shop.ask(20)
    raise AssertionError(rollout)


def test_a_rollout_waits_for_a_service_that_is_brought_back(shop):
    shop.serve()
    shop.ask(200)
    rollout = shop.begin("truth", phases=PHASES)
    die(shop)
    assert rollouts.turn(shop.ws, rollout).status == "running"
    assert get(shop, 2).status == "starting"
    host.keep(shop.ws)
    assert shop.walk(rollout).status == "finished"


def test_a_service_that_dies_while_a_candidate_is_loaded_costs_a_try(shop):
    shop.serve()
    shop.ask(200)
    rollout = shop.begin("truth", phases=PHASES)

    def dies(what):
        if what == "route":
            shop.target.before = lambda _: None
            die(shop)

    shop.target.before = dies
    rollout = rollouts.turn(shop.ws, rollout)
    assert rollout.status == "running"
    assert rollout.phases["canary 25 %"]["tried"] == 1
    host.keep(shop.ws)
    rollout = until_trial(shop, rollout)
    assert get(shop, 2).handle["apart"]  # it may have been the candidate that ended the process
    assert shop.walk(rollout).status == "finished"
    assert "apart" not in get(shop, 2).handle
    assert get(shop, 2).url == "http://127.0.0.1:7777"


def test_a_candidate_that_never_starts_is_rolled_back_after_some_tries(shop):
    shop.serve()
    shop.ask(200)
    shop.target.apart = {2}
    rollout = shop.begin("truth", phases=PHASES)

    def fails(what):
        if what == "start":
            raise Unavailable("it ended before it was ready")

    shop.target.before = fails
    for _ in range(3):
        assert rollout.status == "running"
        rollout = rollouts.turn(shop.ws, rollout)
    assert rollout.status == "failed"
    assert "could not begin: it ended" in rollout.phases["canary 25 %"]["said"]
    assert shop.live() == {"fare@1": ("ready", 1.0)}


def test_a_trial_that_dies_with_its_service_comes_back_apart_and_can_end_nothing_else(shop):
    shop.serve()
    shop.ask(200)
    rollout = until_trial(shop, shop.begin("truth", phases=PHASES))
    old = get(shop, 1)
    die(shop)
    host.keep(shop.ws)
    assert get(shop, 1).url == old.url
    assert get(shop, 2).handle["apart"]
    for _ in range(8):
        if get(shop, 2).status == "failed":
            break
        shop.ws.now.moment += 1.0
        die(shop, get(shop, 2))
        host.keep(shop.ws)
    assert get(shop, 2).status == "failed"
    assert shop.live() == {"fare@1": ("ready", 0.75)}
    assert rollouts.turn(shop.ws, rollout).status == "failed"
    assert shop.live() == {"fare@1": ("ready", 1.0)}
    assert [a.model for a in shop.front().arms] == ["fare@1"]


def test_killing_a_healthy_service_often_is_no_crash_loop(shop):
    shop.serve()
    for _ in range(12):
        shop.ws.now.moment += 6.0
        die(shop)
        assert [s.status for s in host.keep(shop.ws)] == ["ready"]
    for _ in range(20):
        if get(shop, 1).status == "failed":
            break
        shop.ws.now.moment += 1.0
        die(shop)
        host.keep(shop.ws)
    assert get(shop, 1).status == "failed"


def test_an_address_in_use_for_a_moment_does_not_end_a_service(shop):
    shop.serve()
    die(shop)
    left = 3

    def taken(what):
        nonlocal left
        left -= what == "start"
        if what == "start" and left >= 0:
            raise Unavailable("cannot listen on port 7777: it is in use")

    shop.target.before = taken
    for _ in range(3):
        assert host.keep(shop.ws) == []
        assert get(shop, 1).status == "died"
    assert [s.status for s in host.keep(shop.ws)] == ["ready"]
    die(shop)
    left = 100
    for _ in range(6):
        host.keep(shop.ws)
    assert get(shop, 1).status == "failed"
    (event,) = shop.ws.store.events(type="service.failed", subject=f"service:{shop.name}")
    assert "in use" in event.reason


def test_what_was_stopped_while_it_is_brought_back_stays_stopped(shop):
    shop.serve()
    shop.ask(200)
    rollout = until_trial(shop, shop.begin("truth", phases=PHASES))
    die(shop)
    aborted = False

    def person(what):
        nonlocal aborted
        if what == "start" and shop.target.started and host.front(shop.ws, shop.name) and not aborted:
            aborted = True  # the trial is about to be started, and somebody ends the rollout
            shop.ws.store.put(replace(get(shop, 2), status="stopped"))

    shop.target.before = person
    host.keep(shop.ws)
    assert aborted
    assert get(shop, 2).status == "stopped"
    assert len(shop.target.routes) == 1
    assert rollouts.turn(shop.ws, rollout).status == "failed"


def test_the_address_of_a_winner_that_had_its_own_process_is_not_lost(shop, monkeypatch):
    old = shop.serve()
    shop.ask(200)
    shop.target.apart = {2}
    with monkeypatch.context() as patched:
        patched.setattr("boucle.ops.rollout.walk._apply", lambda ws, name: None)  # killed right before
        assert shop.walk(shop.begin("truth", phases=PHASES)).status == "finished"
    del shop.target.routes[old.handle["pid"]]
    host.keep(shop.ws)
    host.keep(shop.ws)
    assert (get(shop, 2).status, get(shop, 2).url) == ("ready", old.url)
    assert shop.live() == {"fare@2": ("ready", 1.0)}
    assert len(shop.target.routes) == 1


def test_a_service_is_found_however_many_candidates_failed(shop):
    shop.serve()
    shop.ask(200)
    for _ in range(22):
        rollouts.abort(shop.ws, shop.begin("truth", phases=PHASES).service)
    assert host.front(shop.ws, shop.name).revision == 1


@pytest.mark.parametrize(("switched", "status"), [(True, "finished"), (False, "failed")])
def test_a_deploy_that_was_killed_ends_once_and_does_not_stop_a_rollout(shop, switched, status):
    shop.serve()
    shop.ask(200)

    class Killed(BaseException):
        pass

    original = host.apply

    def kill(*given):
        if not switched or "fare@2" in shop.live():
            raise Killed
        return original(*given)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(host, "retire", lambda *_, **__: None)
        patched.setattr(deploy._Walk, "end", lambda *_: None)
        patched.setattr(*((host, "apply") if switched else (deploy, "probe")), kill)
        with pytest.raises(Killed):
            deploy.deploy(shop.ws, shop.versions["truth"].key, shop.name)
    host.settle(shop.ws)
    live = "fare@2" if switched else "fare@1"
    assert [a.model for a in shop.front().arms if a.share] == [live]
    going = shop.begin("fair" if switched else "truth", phases=PHASES)
    assert host.rollout_of(shop.ws, shop.name) == going
    shop.ws.now.moment += host.ABANDONED_SECONDS + 1
    host.settle(shop.ws)
    host.settle(shop.ws)
    (killed,) = [r for r in shop.ws.store.find(Rollout) if r.after == 2]
    assert killed.status == status
    ends = shop.ws.store.events(type=f"rollout.{status}", subject=f"service:{shop.name}@2")
    assert [e.reason for e in ends] == ["whoever began it did not finish"]


def test_a_deploy_after_two_that_were_killed_is_at_the_address_that_people_know(shop, monkeypatch):
    shop.serve()
    shop.target.apart = {2}

    class Killed(BaseException):
        pass

    def dies(*_, **__):
        raise Killed

    original = host.apply

    def dies_late(ws, name):
        found = get(shop, 2)
        return dies() if found is not None and found.status == "ready" else original(ws, name)

    with monkeypatch.context() as patch:
        patch.setattr(host, "retire", dies)  # nothing is tidied up by whoever is dead
        patch.setattr(host, "apply", dies_late)
        with pytest.raises(Killed):
            deploy.deploy(shop.ws, shop.versions["truth"].key, shop.name)
        assert get(shop, 2).handle["apart"]
        patch.setattr(host, "settle", lambda ws: [])
        patch.setattr(deploy, "probe", dies)
        with pytest.raises(Killed):
            deploy.deploy(shop.ws, shop.versions["fair"].key, shop.name)
    assert get(shop, 3).status == "starting"
    service = deploy.deploy(shop.ws, shop.versions["wrong"].key, shop.name)
    assert service.url == "http://127.0.0.1:7777"
    assert shop.live() == {"fare@3": ("ready", 1.0)}
