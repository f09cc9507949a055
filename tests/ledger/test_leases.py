"""Leases: one holder at a time, and nothing is written by one that was superseded."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import boucle.workspace
from boucle.core.errors import Conflict, Invalid
from boucle.core.records import Lease
from boucle.ledger import leases
from boucle.ledger.journal import note


@pytest.fixture
def ws(tmp_path):
    with boucle.workspace.init(tmp_path / "shop", actor="worker") as opened:
        opened.time = 1000.0
        opened.now = lambda: opened.time
        yield opened


def test_one_holder_at_a_time(ws):
    first = leases.take(ws, "rule:a", "one", 10)
    assert (first.holder, first.until, first.token, first.state) == ("one", 1010.0, 1, {})
    assert leases.take(ws, "rule:a", "two", 10) is None
    assert leases.take(ws, "rule:b", "two", 10).holder == "two"
    ws.time += 9.9
    assert leases.take(ws, "rule:a", "two", 10) is None
    assert leases.take(ws, "rule:a", "one", 10) == replace(first, until=1019.9)


def test_whoever_takes_over_finds_the_state_and_has_a_higher_token(ws):
    first = leases.keep(ws, leases.take(ws, "rule:a", "one", 10), {"cursor": 7})
    ws.time += 10
    second = leases.take(ws, "rule:a", "two", 10)
    assert (second.holder, second.token, second.state) == ("two", 2, {"cursor": 7})
    for write in (
        lambda: leases.renew(ws, first, 10),
        lambda: leases.keep(ws, first, {"cursor": 8}),
        lambda: _note_under(ws, first),
    ):
        with pytest.raises(Conflict, match="lost the lease rule:a to two"):
            write()
    leases.release(ws, first)
    assert ws.store.get(Lease, "rule:a") == second
    assert ws.store.events() == []


def _note_under(ws, lease):
    with leases.holding(ws, lease):
        note(ws, "rule.done", "rule:a")


def test_a_lease_that_ran_out_and_that_nobody_took_is_still_held(ws):
    lease = leases.take(ws, "rule:a", "one", 10)
    ws.time += 100
    _note_under(ws, lease)
    assert len(ws.store.events()) == 1
    assert leases.renew(ws, lease, 10).until == 1110.0


def test_released_it_is_free_at_once_and_lost_to_who_let_it_go(ws):
    lease = leases.take(ws, "rule:a", "one", 10)
    leases.release(ws, lease)
    with pytest.raises(Conflict, match="nobody yet"):
        _note_under(ws, lease)
    assert leases.take(ws, "rule:a", "two", 10).token == 2


def test_a_heartbeat_never_brings_back_an_old_state(ws):
    lease = leases.take(ws, "rule:a", "one", 10)
    leases.keep(ws, lease, {"cursor": 7})
    assert leases.renew(ws, lease, 10).state == {"cursor": 7}


def test_what_fails_under_a_lease_leaves_nothing(ws):
    lease = leases.take(ws, "rule:a", "one", 10)
    with pytest.raises(ZeroDivisionError), leases.holding(ws, lease):
        leases.keep(ws, lease, {"cursor": 8})
        note(ws, "rule.done", "rule:a")
        raise ZeroDivisionError
    assert ws.store.get(Lease, "rule:a").state == {}
    assert ws.store.events() == []


def test_a_holder_has_a_name(ws):
    with pytest.raises(Invalid, match="needs a holder"):
        leases.take(ws, "rule:a", "")


class _Shelf:
    """A store of leases in a dict, for the law below."""

    def __init__(self):
        self.kept = {}

    def get(self, _, name):
        return self.kept.get(name)

    def put(self, lease):
        self.kept[lease.name] = lease

    @contextmanager
    def transaction(self):
        yield


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["take", "write", "release"]), st.floats(0, 8))))
def test_only_the_newest_holder_ever_writes(moves):
    class Place:
        store, time = _Shelf(), 0.0

        def now(self):
            return self.time

    ws, held, newest = Place(), {}, 0
    for who, what, pause in moves:
        ws.time += pause
        if what == "take":
            lease = leases.take(ws, "x", who, 5.0)
            if lease is not None:
                assert lease.token >= newest
                held[who], newest = lease, lease.token
        elif who in held and what == "write":
            try:
                leases.keep(ws, held[who], {"by": who})
            except Conflict:
                assert held[who].token < newest or ws.store.get(Lease, "x").holder == ""
            else:
                assert held[who].token == newest
        elif who in held:
            leases.release(ws, held[who])


COUNTER = """
import random, sys, time
import boucle.workspace
from boucle.core.errors import Conflict
from boucle.ledger import leases
from boucle.ledger.journal import note

ws, me = boucle.workspace.open(sys.argv[1], actor="worker"), sys.argv[2]
while True:
    lease = leases.take(ws, "counter", me, 0.25)
    if lease is None:
        time.sleep(0.01)
        continue
    seen = lease.state.get("n", 0)  # read before the write, so that only the fence keeps it from being stale
    # Now and then it does not get the processor for so long that others hold the lease by then.
    time.sleep(random.choice([0.0, 0.001, 0.002]) if random.random() < 0.97 else 0.4)
    try:
        with leases.holding(ws, lease):
            note(ws, "run.counted", "run:counter", n=seen + 1, token=lease.token, by=me)
            leases.keep(ws, lease, {"n": seen + 1})
    except Conflict:
        print("refused", flush=True)
        continue
    if random.random() < 0.1:
        leases.release(ws, lease)
        time.sleep(0.005)
"""


@pytest.mark.slow
def test_a_counter_is_exact_while_its_holders_are_killed_and_overtaken(tmp_path):
    ws = boucle.workspace.init(tmp_path / "shop")
    started = 0

    def start():
        nonlocal started
        started += 1
        return subprocess.Popen(
            [sys.executable, "-c", COUNTER, str(ws.project), f"holder-{started}"], stdout=subprocess.PIPE
        )

    def holder():
        """Whoever holds it, once somebody does."""
        for _ in range(2000):
            lease = ws.store.get(Lease, "counter")
            for process, name in running:
                if lease is not None and lease.holder == name:
                    return process
            time.sleep(0.005)
        raise AssertionError("nobody holds it")

    running = [(start(), f"holder-{n + 1}") for n in range(4)]
    refused = 0
    try:
        for _ in range(6):
            time.sleep(0.3 + 0.2 * random.random())
            process = holder()
            process.kill()
            refused += process.communicate()[0].count(b"refused")
            running = [(p, n) for p, n in running if p is not process]
            running.append((start(), f"holder-{started}"))
        reached = ws.store.get(Lease, "counter").state["n"]
        while ws.store.get(Lease, "counter").state["n"] < reached + 20:
            time.sleep(0.01)
    finally:
        for process, _ in running:
            process.kill()
            refused += process.communicate()[0].count(b"refused")
    assert refused
    events = ws.store.events()
    assert [e.data["n"] for e in events] == list(range(1, len(events) + 1))
    assert ws.store.get(Lease, "counter").state["n"] == len(events) > 50
    tokens = [e.data["token"] for e in events]
    assert tokens == sorted(tokens)
    assert len({(e.data["token"], e.data["by"]) for e in events}) == len(set(tokens)) > 4
    ws.close()
