"""Files that go along with tables made from others."""

from __future__ import annotations

import pytest

from boucle.data import media, sync
from boucle.data.ingest import ingest
from boucle.data.sql import into
from boucle.ledger import datasets, runs, tables, trees
from boucle.ledger.soundness import check
from boucle.workspace import init


@pytest.fixture
def ws(tmp_path):
    for i in range(4):
        place = tmp_path / "files" / "xy"[i % 2] / f"{i}.txt"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"file {i}")
    (tmp_path / "files" / "x" / "large.txt").write_bytes(b"a line\n" * 200_000)
    with init(tmp_path / "ann") as ws:
        ingest(ws, str(tmp_path / "files"), "docs", options={"source": "files"})
        yield ws


def files_of(ws, dataset):
    tree = tables.load_manifest(ws.blobs, dataset.manifest).get("tree")
    return [] if tree is None else [e.path.rpartition("/")[2] for e in trees.files(ws.blobs, tree)]


def test_rows_of_another_dataset_keep_their_files(ws, tmp_path):
    some = into(ws, "select digest as which, size from docs where label = 'x'", "few").dataset
    assert sorted(files_of(ws, some)) == ["0.txt", "2.txt", "large.txt"]
    again = into(ws, "select which as digest, size from few", "again").dataset
    assert sorted(files_of(ws, again)) == ["0.txt", "2.txt", "large.txt"]
    sync.push(ws, str(tmp_path / "remote"), ["again"])
    with init(tmp_path / "bob") as bob:
        sync.pull(bob, str(tmp_path / "remote"))
        found = {media.opened(bob, row).read()[:6] for row in datasets.load(bob, "again").table().to_pylist()}
        assert found == {b"file 0", b"file 2", b"a line"}
        assert check(bob).problems == []


def test_rows_that_name_no_file_keep_none(ws):
    assert files_of(ws, into(ws, "select label, count(*) as n from docs group by label", "counts").dataset) == []


def test_a_run_that_commits_a_part_keeps_its_files(ws):
    with runs.track(ws, "choose"):
        dataset, _ = datasets.commit(ws, "part", datasets.load(ws, "docs").where("label = 'y'"))
    assert sorted(files_of(ws, dataset)) == ["1.txt", "3.txt"]


def test_more_files_come_to_those_there_are(ws):
    into(ws, "select digest, size from docs where path like '%0.txt'", "few")
    with runs.track(ws, "more"):
        grown = ingest(
            ws, datasets.load(ws, "docs").where("label = 'y'").select(["digest", "size"]), "few", mode="append"
        )
    assert sorted(files_of(ws, grown.dataset)) == ["0.txt", "1.txt", "3.txt"]
