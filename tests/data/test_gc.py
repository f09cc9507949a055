"""What nothing needs any more."""

from __future__ import annotations

import os
import time

import pytest

import boucle.workspace
from boucle.core.errors import Corrupt, Invalid, NotFound
from boucle.core.frames import Frame
from boucle.core.records import Dataset, Run, Verdict
from boucle.data.gc import DAY, gc
from boucle.ledger import contents, datasets, runs, trees
from boucle.ledger.soundness import check


@pytest.fixture
def shop(tmp_path):
    with boucle.workspace.init(tmp_path / "shop", actor="ann") as ws:
        datasets.commit(ws, "tx", Frame.of({"x": [1.0, 2.0]}), statistics=ws.blobs.put(b"statistics"))
        datasets.commit_files(ws, "pics", trees.add(ws.blobs, [("a", b"a"), ("large", os.urandom(3 << 20))]))
        (tmp_path / "a.txt").write_text("a")
        with runs.track(ws, "run") as run:
            run.log_file(tmp_path / "a.txt")
            datasets.load(ws, "tx")
        yield ws


def age(ws, days=2.0):
    moment = time.time() - days * DAY
    for path in (ws.root / "blobs").rglob("*"):
        if path.is_file():
            os.utime(path, (moment, moment))


def test_what_is_needed_stays(shop):
    age(shop)
    before = set(shop.blobs.list())
    swept = gc(shop, yes=True)
    assert (swept.blobs, swept.removed) == ((), True)
    assert set(shop.blobs.list()) == before
    assert check(shop).problems == []


def test_what_nothing_needs_is_shown_then_removed(shop):
    apart, packed = shop.blobs.put(b"x" * 100), shop.blobs.put_many([b"y" * 50, b"z" * 50])
    age(shop)
    seen = gc(shop)
    assert set(seen.blobs) == {apart, *packed}
    assert (seen.bytes, seen.removed) == (200, False)
    assert shop.blobs.has(apart)
    assert gc(shop, yes=True).blobs == seen.blobs
    assert not shop.blobs.has(apart)
    assert not any(map(shop.blobs.has, packed))
    assert check(shop).problems == []
    assert gc(shop, yes=True).blobs == ()


def test_what_is_young_is_left_alone(shop):
    shop.blobs.put(b"x")
    assert gc(shop).blobs == ()
    assert gc(shop).young > 0
    assert len(gc(shop, grace=0).blobs) == 1
    with pytest.raises(Invalid):
        gc(shop, grace=-1)


def test_what_came_since_the_oldest_run_began_is_left_alone(shop):
    old, new = shop.blobs.put(b"old"), shop.blobs.put(b"new")
    age(shop, 5)
    moment = time.time() - 3 * DAY
    os.utime(shop.blobs.path(new), (moment, moment))
    shop.store.put(Run(id="R", name="long", started=time.time() - 4 * DAY, status="running"))
    assert gc(shop, yes=True).blobs == (old,)
    assert shop.blobs.has(new)


def test_what_is_stored_again_meanwhile_stays(shop, monkeypatch):
    digest = shop.blobs.put(b"wanted again")
    age(shop)
    live, asked = contents.live, []

    def slow(ws):
        found = live(ws)
        asked.append(1)
        if len(asked) == 2:  # between the last look at the records and the removal
            ws.blobs.put(b"wanted again")
        return found

    monkeypatch.setattr(contents, "live", slow)
    assert gc(shop, yes=True).blobs == ()
    assert shop.blobs.has(digest)


def test_what_came_to_be_needed_meanwhile_stays(shop, monkeypatch):
    digest = shop.blobs.put(b"evidence")
    age(shop)
    live, asked = contents.live, []

    def slow(ws):
        asked.append(1)
        if len(asked) == 2:
            ws.store.put(Verdict(id="V", subject="dataset:tx@1", check="x", status="pass", evidence={"rows": digest}))
        return live(ws)

    monkeypatch.setattr(contents, "live", slow)
    assert gc(shop, yes=True).blobs == ()
    assert shop.blobs.has(digest)


def test_nothing_is_removed_when_a_record_cannot_be_read(shop):
    orphan = shop.blobs.put(b"orphan")
    manifest = shop.store.get(Dataset, "tx@1").manifest
    content = shop.blobs.get(manifest)
    age(shop)
    shop.blobs.remove(manifest)
    with pytest.raises(NotFound):
        gc(shop, yes=True)
    path = shop.blobs.path(shop.blobs.put(content))
    path.chmod(0o644)
    path.write_bytes(b"x" * len(content))
    with pytest.raises(Corrupt):
        gc(shop, yes=True)
    assert shop.blobs.has(orphan)


def test_leftovers_of_writes_go_too(shop):
    left = shop.root / "blobs" / "tmp" / "left"
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(b"half")
    assert gc(shop, yes=True).files == 0
    age(shop)
    assert gc(shop, yes=True).files >= 1
    assert not left.exists()


def test_every_field_that_names_a_blob_is_known(shop):
    """Whatever `check` misses, `live` names: no blob of a record goes."""
    live = contents.live(shop)
    assert set(shop.blobs.list()) <= live
    for kind in contents.KINDS:
        for record in shop.store.find(kind):
            assert set(contents.required(shop.blobs, record)) <= live
