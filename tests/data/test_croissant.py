"""Croissant descriptions, read by the real mlcroissant."""

import datetime as dt
import json
import tempfile
import warnings

import pyarrow as pa
import pytest

import boucle
from boucle.core.errors import Conflict
from boucle.data.croissant import to_croissant
from boucle.ledger import datasets, trees
from boucle.workspace import init

with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
    warnings.simplefilter("ignore")
    patch.setenv("CROISSANT_CACHE", tempfile.mkdtemp(prefix="boucle-croissant-"))  # it reads this when it is imported
    mlcroissant = pytest.importorskip("mlcroissant")

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def ws(tmp_path):
    with init(tmp_path / "project", store="memory") as ws:
        yield ws


def loaded(path, issues=True):
    dataset = mlcroissant.Dataset(jsonld=str(path))
    assert not dataset.metadata.ctx.issues.errors
    if issues:
        assert not dataset.metadata.ctx.issues.warnings
    return dataset


def test_a_table_is_described_and_loaded(ws, tmp_path):
    table = pa.table(
        {"id": [1, 2], "x": [0.5, None], "word": ["ä", "b"], "ok": [True, False],
         "day": [dt.date(2026, 1, 1), dt.date(2026, 1, 2)], "n": pa.array([1, 2], pa.uint8()), "many": [[1, 2], [3]]}
    )  # fmt: skip
    with boucle.track(ws, "clean"):
        boucle.ingest(ws, table, "raw")
        boucle.load(ws, "raw")
        boucle.ingest(
            ws, table, "tx", description="Some rows", owner="Ann", licence="https://creativecommons.org/licenses/by/4.0/",
            tags={"country": "FR"},
        )  # fmt: skip
    path = to_croissant(ws, "tx", tmp_path / "out")
    digest = boucle.load(ws, "tx").digest[:12]
    assert sorted(p.name for p in path.parent.iterdir()) == ["croissant.json", f"tx-1-{digest}.parquet"]
    described = json.loads(path.read_text())
    assert described["conformsTo"] == "http://mlcommons.org/croissant/1.1"
    assert described["isBasedOn"] == ["dataset:raw@1"]
    assert described["keywords"] == ["country=FR"]
    dataset = loaded(path)
    rows = list(dataset.records("rows"))
    assert [r["rows/id"] for r in rows] == [1, 2]
    assert rows[0]["rows/word"] in ("ä", "ä".encode())
    assert dataset.metadata.version == "1.0.0"


def test_files_are_described_and_loaded(ws, tmp_path):
    tree = trees.add(ws.blobs, [("a/x.txt", b"one"), ("b.txt", b"two" * 1000)])
    boucle_dataset, _ = datasets.commit_files(ws, "docs", tree)
    path = to_croissant(ws, boucle_dataset.ref, tmp_path / "out")
    dataset = loaded(path, issues=False)
    found = sorted(r["listing/path"].decode() for r in dataset.records("listing"))
    assert found == ["files/a/x.txt", "files/b.txt"]
    again = to_croissant(ws, boucle_dataset.ref, tmp_path / "again")
    (one,), (other,) = path.parent.glob("*.zip"), again.parent.glob("*.zip")
    assert one.read_bytes() == other.read_bytes()


def test_nothing_is_written_over(ws, tmp_path):
    boucle.ingest(ws, {"a": [1]}, "t")
    (tmp_path / "out").mkdir()
    with pytest.raises(Conflict):
        to_croissant(ws, "t", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
