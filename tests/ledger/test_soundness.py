"""Whatever is damaged in a workspace is found, and a sound one has no problems."""

from __future__ import annotations

import dataclasses
import sqlite3
from pathlib import Path

import pytest

from boucle.core.frames import Frame
from boucle.core.records import Alert, Code, Dataset, Lease, Rollout, Run, Service
from boucle.core.refs import new_id
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
    shop.store.put(dataclasses.replace(dataset, version=2, statistics="4" * 64))
    said = " ".join(check(shop).problems)
    assert all(f"blob {n * 12}" in said for n in "01234")
    assert shop.store.count(Dataset) == 2


@pytest.fixture
def serving(full, tmp_path):
    """A service with its files, and whatever goes with one that is looked after."""
    shop, dataset = full
    folder = tmp_path / "revision"
    name, *ids = (new_id() for _ in range(3))
    for kind in ("predictions", "failures"):
        (folder / kind).mkdir(parents=True)
        (folder / kind / f"{name}.jsonl").write_text("".join(f'{{"id":"{i}"}}\n' for i in ids))
    (folder / "labels.jsonl").write_text(f'{{"id": "{ids[0]}", "label": 1, "time": 1.0}}\n')
    ids_blob = shop.blobs.put("\n".join(ids).encode())
    shop.store.put(
        Service(name="churn", revision=1, model="churn@1", folder=str(folder)),
        Rollout(id="R", service="churn", strategy="canary", model="churn@1", after=1),
        Lease(name="rule:a", holder="w", until=1.0),
        Lease(name="rule:b"),
        Alert(id="A", name="drift", subject="service:churn"),
        dataclasses.replace(dataset, version=2, tags={"grown": {"ids": ids_blob}}),
    )
    return shop, folder, ids_blob


def test_a_service_that_is_looked_after_is_sound(serving):
    report = check(serving[0])
    assert report.problems == []
    assert report.counts.items() >= {"services": 1, "rollouts": 1, "leases": 2, "alerts": 1, "verdicts": 2}.items()


@pytest.mark.parametrize("name", ["predictions", "failures", "labels.jsonl"])
def test_damaged_files_of_a_service_are_found(serving, name):
    shop, folder, _ = serving
    path = folder / name
    path = path if path.is_file() else next(path.iterdir())
    path.write_text("nonsense\n" + path.read_text())
    (said,) = check(shop).problems
    assert str(path) in said


@pytest.mark.parametrize(
    ("record", "what"),
    [
        (Rollout(id="R", service="churn", strategy="canary", model="churn@9", after=1), "churn@9"),
        (Rollout(id="R", service="churn", strategy="canary", model="churn@1", before=1, after=2), "churn@2"),
        (Lease(name="rule:a", holder="w"), "lease:rule:a"),
        (Alert(id="A", name="drift", subject="service:churn", status="resolved"), "alert:A"),
        (Alert(id="A", name="drift", subject="service:churn", status="over"), "'over'"),
    ],
)
def test_records_that_make_no_sense_are_found(serving, record, what):
    shop, *_ = serving
    shop.store.put(record)
    (said,) = check(shop).problems
    assert what in said


def test_the_ids_that_came_into_a_dataset_are_missed(serving):
    shop, _, blob = serving
    shop.blobs.remove(blob)
    assert check(shop).problems == [f"dataset:tx@2 needs blob {blob[:12]}, which is not there"]
