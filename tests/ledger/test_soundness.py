"""Whatever is damaged in a workspace is found, and a sound one has no problems."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from boucle.core.frames import Frame
from boucle.core.records import Code, Dataset, Run
from boucle.ledger import code as codes
from boucle.ledger import datasets, models, runs
from boucle.ledger.soundness import check


@pytest.fixture
def full(shop, register, tmp_path):
    """A workspace with one of everything."""
    (tmp_path / "a.txt").write_text("a")
    dataset, _ = datasets.commit(shop, "tx", Frame.of({"x": [1.0, 2.0]}))
    with runs.track(shop, "run") as run:
        run.log_metric("m", 1)
        run.log_file(tmp_path / "a.txt")
        datasets.load(shop, "tx")
    codes.keep(shop, "a", {"a": __file__})
    register(holdout=Frame.of({"x": [1.0], "y": ["no"]}), target="y")
    models.advance(shop, "churn", "production")
    return shop, dataset


def test_a_sound_workspace_has_no_problems(full):
    shop, _ = full
    report = check(shop)
    assert report.problems == []
    assert report.counts.items() >= {"datasets": 1, "models": 1, "runs": 1}.items()
    assert report.counts["blobs"] == len(list(shop.blobs.list()))


def test_every_blob_that_is_removed_is_missed(full):
    shop, _ = full
    for digest in list(shop.blobs.list()):
        content = shop.blobs.get(digest)
        shop.blobs.remove(digest)
        assert any(digest[:12] in p for p in check(shop).problems), digest
        shop.blobs.put(content)
    assert check(shop).problems == []


def test_every_blob_that_is_changed_is_found(full):
    shop, _ = full
    for digest in list(shop.blobs.list()):
        path = shop.blobs.path(digest)
        content = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:] if content else b"x")
        assert any(digest[:12] in p for p in check(shop).problems), digest
        path.write_bytes(content)
    assert check(shop).problems == []


def edit(shop, statement):
    shop.close()
    del shop.__dict__["store"]
    (path,) = Path(shop.root).glob("*.db")
    with sqlite3.connect(path) as connection:
        connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET data = '{}' WHERE sequence = (SELECT MIN(sequence) FROM events)",
        "DELETE FROM events WHERE sequence = (SELECT MIN(sequence) FROM events)",
        "UPDATE runs SET params = '{\"a\": ' WHERE 1",
        "DELETE FROM artifacts",
    ],
)
def test_a_record_that_was_changed_or_torn_is_found(full, statement):
    shop, _ = full
    edit(shop, statement)
    assert check(shop).problems


def test_a_run_that_died_is_no_damage(full):
    shop, _ = full
    shop.store.put(Run(id="R", name="x", started=1.0, host="elsewhere"))
    assert check(shop).problems == []


def test_the_kinds_that_need_blobs_are_all_looked_at(full):
    shop, dataset = full
    shop.store.put(Code(digest="c", entry="x", sources="0" * 64))
    shop.store.put(Run(id="R", name="x", started=1.0, log="1" * 64, environment="2" * 64, inputs={"parts": "3" * 64}))
    import dataclasses

    shop.store.put(dataclasses.replace(dataset, version=2, statistics="4" * 64))
    said = " ".join(check(shop).problems)
    assert all(f"blob {n * 12}" in said for n in "01234")
    assert shop.store.count(Dataset) == 2
