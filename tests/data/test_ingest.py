"""Ingestion from beginning to end, with good input and bad."""

import gzip
import json
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from boucle.core.errors import Invalid, NotFound, Refused
from boucle.core.records import Dataset
from boucle.data.ingest import bad_lines, ingest, shown, source_for
from boucle.ledger import datasets
from boucle.measure.quality import Profile
from boucle.plugins.blobs.local import LocalBlobs
from boucle.plugins.stores.memory import MemoryStore


@pytest.fixture
def ws(tmp_path):
    return SimpleNamespace(
        store=MemoryStore(), blobs=LocalBlobs(tmp_path / "blobs", durable=False), actor="ann", root=tmp_path
    )


@pytest.fixture
def file(tmp_path):
    def file(content, name="x.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return file


def test_a_file_becomes_a_version(ws, file):
    path = file("id,x\n1,0.5\n2,\n")
    got = ingest(ws, path, "t", description="two rows", tags={"team": "a"}, owner="ann", licence="CC0")
    assert (got.new, got.bad, str(got.dataset.ref)) == (True, [], "dataset:t@1")
    assert (got.dataset.source, got.dataset.rows, got.dataset.description) == (path, 2, "two rows")
    assert (got.dataset.tags, got.dataset.owner, got.dataset.licence) == ({"team": "a"}, "ann", "CC0")
    assert got.found["delimiter"] == ","
    assert got.seconds > 0
    assert datasets.load(ws, "t").table().to_pylist() == [{"id": 1, "x": 0.5}, {"id": 2, "x": None}]


def test_statistics_come_with_it(ws, file):
    dataset = ingest(ws, file("id,x\n1,0.5\n2,\n"), "t").dataset
    profile = Profile.from_json(json.loads(ws.blobs.get(dataset.statistics)))
    assert (profile.rows, profile["x"].nulls, profile["id"].max) == (2, 1, 2)


def test_the_same_file_again_makes_nothing(ws, file):
    path = file("a,b\n1,2\n")
    first = ingest(ws, path, "t")
    again = ingest(ws, path, "t")
    assert (again.new, again.dataset) == (False, first.dataset)


def test_the_format_does_not_matter(ws, file, tmp_path):
    table = pa.table({"a": [1, 2], "b": ["x", None]})
    pq.write_table(table, tmp_path / "x.parquet")
    sources = [
        file("a,b\n1,x\n2,\n"), file(gzip.compress(b"a;b\n1;x\n2;\n"), "y.csv.gz"), file("a\tb\n1\tx\n2\t\n", "z.tsv"),
        file('{"a": 1, "b": "x"}\n{"a": 2}\n', "x.jsonl"), file('[{"a": 1, "b": "x"}, {"a": 2}]', "x.json"),
        str(tmp_path / "x.parquet"), table, pd.DataFrame({"a": [1, 2], "b": ["x", None]}),
        pl.DataFrame({"a": [1, 2], "b": ["x", None]}), {"a": [1, 2], "b": ["x", None]}, [{"a": 1, "b": "x"}, {"a": 2}],
    ]  # fmt: skip
    assert len({ingest(ws, s, "t").dataset.digest for s in sources}) == 1


def test_bad_lines_are_kept(ws, file):
    got = ingest(ws, file("a,b\n1,2\n3\n4,5\n"), "t")
    assert [(b.number, b.text) for b in got.bad] == [(3, "3")]
    assert bad_lines(ws, got.dataset) == got.bad
    assert ws.store.events()[0].data["tags"]["bad_lines"] == got.dataset.tags["bad_lines"]
    assert bad_lines(ws, ingest(ws, {"a": [1]}, "u").dataset) == []


def test_bad_lines_can_fail(ws, file):
    with pytest.raises(Invalid, match="line 3: 1 field"):
        ingest(ws, file("a,b\n1,2\n3\n4,5\n"), "t", on_bad="fail")
    assert ws.store.count(Dataset) == 0
    with pytest.raises(Invalid, match="on_bad"):
        ingest(ws, {"a": [1]}, "t", on_bad="shrug")


CASES = {
    "missing": (None, "x.csv", NotFound, "no file"),
    "empty": (b"", "x.csv", Invalid, "is empty"),
    "header only": (b"a,b\n", "x.csv", Invalid, "no rows"),
    "blank": (b"\n\n", "x.csv", Invalid, "white space"),
    "twice the same name": (b"a,a\n1,2\n", "x.csv", Invalid, "occur twice"),
    "all lines wrong": (b"a,b\n1\n2\n", "x.csv", Invalid, "none of its 2 lines"),
    "binary": (bytes(range(256)) * 9, "x.csv", Invalid, "not text"),
    "cut off gzip": (gzip.compress(os.urandom(5000).hex().encode())[:-9], "x.csv.gz", Invalid, "cut off"),
    "cut off parquet": (b"PAR1" + bytes(60), "x.parquet", Invalid, "not a whole Parquet"),
    "mixed json": (b'{"a": 1}\n{"a": "x"}\n', "x.jsonl", Invalid, "line 2: 'a'"),
    "empty json array": (b"[]", "x.json", Invalid, "no rows"),
    "unknown ending": (b"a,b\n1,2\n", "x.docx", Invalid, "no source reads"),
    "no ending": (b"a,b\n1,2\n", "data", Invalid, "no ending"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_leaves_nothing(ws, file, tmp_path, case):
    content, name, error, message = CASES[case]
    path = str(tmp_path / name) if content is None else file(content, name)
    with pytest.raises(error, match=message) as caught:
        ingest(ws, path, "t")
    assert caught.value.expected
    assert ws.store.count(Dataset) == 0
    assert ws.store.events() == []


@pytest.mark.parametrize(("content", "rows", "bad"), [
    (b"a,b\n,1\n,2\n", [{"a": None, "b": 1}, {"a": None, "b": 2}], []),
    (b"a,b\n1,2\nx,3\n", [{"a": "1", "b": 2}, {"a": "x", "b": 3}], []),
    ("a,b\né,1\n".encode() + b"\xff,2\nz,3\n", [{"a": "é", "b": 1}, {"a": "z", "b": 3}], [3]),
    (b"a,b\n1,\x00\n2,x\n", [{"a": 2, "b": "x"}], [2]),
])  # fmt: skip
def test_odd_input_that_works(ws, file, content, rows, bad):
    got = ingest(ws, file(content), "t")
    assert datasets.load(ws, "t").table().to_pylist() == rows
    assert [b.number for b in got.bad] == bad


def test_ten_thousand_columns(ws, file):
    names = [f"c{i}" for i in range(10_000)]
    got = ingest(ws, file(",".join(names) + "\n" + (",".join(["1"] * 10_000) + "\n") * 2), "wide")
    assert len(got.dataset.schema["columns"]) == 10_000
    assert datasets.load(ws, "wide").table(["c9999"]).to_pylist() == [{"c9999": 1}] * 2


def test_schema_evolution(ws, file):
    ingest(ws, file("a,b\n1,x\n"), "t")
    with pytest.raises(Refused, match="b: string became int64"):
        ingest(ws, file("a,b\n1,2\n"), "t")
    assert ingest(ws, file("a,b\n1,2\n"), "t", evolve=True).dataset.version == 2


def test_options_and_the_name_of_the_source(ws, file):
    assert (
        ingest(ws, file("a;b\n1;2\n", "data.raw"), "t", options={"source": "csv", "delimiter": ";"}).dataset.rows == 1
    )
    with pytest.raises(NotFound, match="tarot"):
        ingest(ws, file("a,b\n1,2\n"), "t", options={"source": "tarot"})
    with pytest.raises(Invalid, match="is for files"):
        ingest(ws, {"a": [1]}, "t", options={"delimiter": ";"})
    with pytest.raises(Invalid, match="not a table"):
        ingest(ws, 42, "t")


def test_progress(ws, file):
    seen = []
    ingest(ws, file("a,b\n" + "1,2\n" * 10), "t", progress=seen.append)
    assert seen == [10]


def test_sources_are_chosen_by_ending():
    assert [source_for(p) for p in ("x.CSV", "x.tsv.gz", "x.ndjson", "x.json.zst", "d.x/x.parquet")] == [
        "csv", "csv", "jsonl", "jsonl", "parquet",
    ]  # fmt: skip


def test_credentials_are_not_written_down():
    assert shown("https://ann:secret@host:8080/x.csv?token=abc#f") == "https://host:8080/x.csv"
    assert shown("s3://key:pw@bucket/a/b.parquet") == "s3://bucket/a/b.parquet"


KILLED = """
import os, signal, sys
from types import SimpleNamespace
from boucle.core.frames import Frame
from boucle.data.ingest import ingest
from boucle.plugins.blobs.local import LocalBlobs
from boucle.plugins.stores.memory import MemoryStore
import pyarrow as pa

table = pa.table({"a": list(range(70_000))})

class Store(MemoryStore):
    def add(self, *records):
        print("reached the ledger", flush=True)
        super().add(*records)

def batches(_):
    for _ in range(4):
        yield from table.to_batches()
    os.kill(os.getpid(), signal.SIGKILL)

frame = Frame(Frame.of(table).schema, batches)
ingest(SimpleNamespace(store=Store(), blobs=LocalBlobs(sys.argv[1]), actor="ann"), frame, "t")
"""


def test_killed_half_way_nothing_is_visible(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert "ledger" not in done.stdout
    kept = list(LocalBlobs(tmp_path).list())
    assert not any(LocalBlobs(tmp_path).get(d).startswith(b'{"format"') for d in kept)
    assert list(LocalBlobs(tmp_path).check()) == []
