"""The journal: what happened, in order, by whom."""

from __future__ import annotations

import itertools
import threading
import time

from boucle.ledger.journal import follow, note


def test_a_note_has_actor_time_and_reason(shop):
    event = note(shop, "model.stage", "model:a@1", reason="since", after="staging")
    assert (event.sequence, event.actor, event.reason, event.data) == (1, "ann", "since", {"after": "staging"})
    assert abs(event.time - time.time()) < 60
    assert shop.store.events() == [event]
    assert list(shop.store.check()) == []


def test_following_gives_what_is_there_and_what_comes(shop):
    for i in range(3):
        note(shop, "a.b" if i % 2 else "c", f"model:{i}")
    late = threading.Timer(0.05, note, (shop, "c", "model:late"))
    late.start()
    found = list(itertools.islice(follow(shop, type="c", pause=0.01), 3))
    late.join()
    assert [e.subject for e in found] == ["model:0", "model:2", "model:late"]
    assert [e.subject for e in itertools.islice(follow(shop, after=1, pause=0.01), 2)] == ["model:1", "model:2"]
