"""Ingestion from beginning to end, with good input and bad."""

import gzip
import json
import os
import signal
import subprocess
import sys

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import boucle
from boucle.core.errors import Conflict, Invalid, NotFound, Refused
from boucle.core.frames import Frame
from boucle.core.records import Dataset
from boucle.data import combine
from boucle.data.ingest import bad_lines, ingest, shown, source_for
from boucle.ledger import datasets, lineage, tables, trees
from boucle.measure.quality import Profile
from boucle.workspace import init


@pytest.fixture
def ws(tmp_path):
    with init(tmp_path / "project", store="memory", actor="ann") as ws:
        yield ws


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
    "unknown ending": (b"a,b\n1,2\n", "x.odd", Invalid, "no source reads"),
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


@pytest.mark.slow
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
from boucle.core.frames import Frame
from boucle.data.ingest import ingest
from boucle.workspace import init
import pyarrow as pa

table = pa.table({"a": list(range(200_000))})

def batches(_):
    for _ in range(4):
        yield from table.to_batches()
    os.kill(os.getpid(), signal.SIGKILL)

frame = Frame(Frame.of(table).schema, batches)
ingest(init(sys.argv[1]), frame, "t")
"""


def test_killed_half_way_nothing_is_visible(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL
    with init(tmp_path) as ws:
        assert datasets.names(ws) == []
        kept = list(ws.blobs.list())
        assert kept  # it had begun
        assert not any(ws.blobs.get(d).startswith(b'{"format"') for d in kept)
        assert list(ws.blobs.check()) == []


def rows(ws, name="t"):
    return boucle.load(ws, name).table().to_pylist()


def test_rows_are_appended(ws, file):
    first = file("id,x\n1,0.5\n2,\n")
    assert ingest(ws, first, "t", mode="append").rows == 2
    got = ingest(ws, file("x,id\n1.5,3\n", "more.csv"), "t", mode="append")
    assert (got.dataset.version, got.dataset.rows, got.rows) == (2, 3, 1)
    assert rows(ws) == [{"id": 1, "x": 0.5}, {"id": 2, "x": None}, {"id": 3, "x": 1.5}]
    profile = Profile.from_json(json.loads(ws.blobs.get(got.dataset.statistics)))
    assert (profile.rows, profile["id"].max, profile["x"].nulls) == (3, 3, 1)
    assert got.dataset.digest == ingest(ws, boucle.load(ws, "t").table(), "other").dataset.digest


def test_appended_columns_are_added_and_widened(ws, file):
    ingest(ws, pa.table({"id": pa.array([1], pa.int32()), "gone": ["a"]}), "t", mode="append")
    got = ingest(ws, pa.table({"new": [True], "id": pa.array([2**40])}), "t", mode="append")
    assert rows(ws) == [{"id": 1, "gone": "a", "new": None}, {"id": 2**40, "gone": None, "new": True}]
    assert Profile.from_json(json.loads(ws.blobs.get(got.dataset.statistics)))["id"].rows == 2
    narrow = ingest(ws, pa.table({"id": pa.array([3], pa.int8())}), "t", mode="append")
    assert (narrow.dataset.rows, narrow.dataset.schema) == (3, got.dataset.schema)
    with pytest.raises(Refused, match="id: int64 there, string here"):
        ingest(ws, pa.table({"id": ["x"]}), "t", mode="append")
    assert datasets.latest(ws, "t").version == 3


def test_the_profile_of_appended_rows_goes_on_or_is_made_again(ws):
    import shutil

    parts = [pa.table({"n": list(range(i * 100, i * 100 + 100)), "s": [f"w{i}"] * 100}) for i in range(4)]
    for i, table in enumerate(parts):
        if i == 2:
            shutil.rmtree(ws.root / "profiles")
        if i == 3:
            (state,) = (ws.root / "profiles").iterdir()
            state.write_bytes(b"x" * 32 + state.read_bytes()[32:])  # not signed by us
        got = ingest(ws, table, "t", mode="append")
    profile = Profile.from_json(json.loads(ws.blobs.get(got.dataset.statistics)))
    whole = ingest(ws, pa.concat_tables(parts), "whole")
    assert profile == Profile.from_json(json.loads(ws.blobs.get(whole.dataset.statistics)))


def test_rows_are_merged_by_key(ws):
    ingest(ws, pa.table({"id": [1, 2, 3], "x": ["a", "b", "c"]}), "t", mode="merge", key=["id"])
    got = ingest(ws, pa.table({"id": [2, 4, 2], "x": ["old", "d", "B"]}), "t", mode="merge", key=["id"])
    assert rows(ws) == [{"id": 1, "x": "a"}, {"id": 2, "x": "B"}, {"id": 3, "x": "c"}, {"id": 4, "x": "d"}]
    assert got.dataset.rows == 4
    again = ingest(ws, pa.table({"id": [4], "x": ["d"]}), "t", mode="merge", key=["id"])
    assert not again.new
    with pytest.raises(Invalid, match="no value in the key"):
        ingest(ws, pa.table({"id": [None, 4], "x": ["d", "e"]}), "t", mode="merge", key=["id"])
    with pytest.raises(NotFound, match="key column"):
        ingest(ws, pa.table({"id": [4]}), "t", mode="merge", key=["nr"])


KEYS = st.lists(st.tuples(st.integers(0, 6), st.sampled_from("ab"), st.integers(0, 99)), max_size=14)


@settings(max_examples=60)
@given(old=KEYS.filter(bool), new=KEYS.filter(bool), size=st.integers(1, 5))
def test_merging_is_what_a_dict_does(old, new, size):
    def table(rows):
        return pa.table({"k": [r[0] for r in rows], "l": [r[1] for r in rows], "v": [r[2] for r in rows]})

    def batches(rows):
        return Frame(Frame.of(table(rows)).schema, lambda _: iter(table(rows).to_batches(max_chunksize=size)))

    expected = {(k, m): v for k, m, v in [*old, *new]}
    arrow = table(old).schema
    got = combine.merged(batches(old), arrow, batches(new), ["k", "l"]).table().to_pylist()
    found = {(r["k"], r["l"]): r["v"] for r in got}
    news = {(k, m) for k, m, _ in new}
    assert len(got) == len(news) + sum((k, m) not in news for k, m, _ in old)
    assert found == expected


def test_only_rows_past_the_cursor_are_taken(ws, file):
    path = file("id,at\n1,2026-01-01T10:00:00\n2,2026-01-02T10:00:00\n")
    first = ingest(ws, path, "t", mode="append", cursor="at")
    assert first.dataset.position["cursor"]["value"] == "2026-01-02T10:00:00"
    assert not ingest(ws, path, "t", mode="append", cursor="at").new
    file("id,at\n1,2026-01-01T10:00:00\n2,2026-01-02T10:00:00\n3,2026-01-03T10:00:00\n")
    got = ingest(ws, path, "t", mode="append", cursor="at")
    assert (got.rows, got.dataset.rows) == (1, 3)
    file("id,at\n3,2026-01-03T10:00:00\n4,2026-01-03T10:00:00\n")
    merged = ingest(ws, path, "t", mode="merge", key=["id"], cursor="at")  # what is level counts too
    assert [r["id"] for r in rows(ws)] == [1, 2, 3, 4]
    with pytest.raises(Invalid, match="was read by the cursor 'at'"):
        ingest(ws, path, "t", mode="append", cursor="id")
    again = ingest(ws, path, "t", mode="append", cursor="at", full=True)
    assert (again.dataset.rows, again.dataset.version) == (2, merged.dataset.version + 1)
    with pytest.raises(NotFound, match="cursor column"):
        ingest(ws, path, "u", mode="append", cursor="when")


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"mode": "upsert"}, "mode="), ({"mode": "merge"}, "needs a key"), ({"key": ["id"]}, "means nothing"),
        ({"cursor": "id"}, "lose the rows"), ({"mode": "merge", "key": "id"}, "list of columns"),
    ],
)  # fmt: skip
def test_modes_that_make_no_sense(ws, given, match):
    with pytest.raises(Invalid, match=match):
        ingest(ws, pa.table({"id": [1]}), "t", **given)


def test_two_who_append_at_once_lose_nothing(ws, monkeypatch):
    ingest(ws, pa.table({"id": [1]}), "t", mode="append")
    write = tables.append

    def overtaken(*given, **named):
        monkeypatch.setattr(tables, "append", write)
        ingest(ws, pa.table({"id": [2]}), "t", mode="append")
        return write(*given, **named)

    monkeypatch.setattr(tables, "append", overtaken)
    with pytest.raises(Conflict, match="t@2 is the latest"):
        ingest(ws, pa.table({"id": [3]}), "t", mode="append")
    assert [r["id"] for r in rows(ws)] == [1, 2]


def test_sources_of_the_settings_and_secrets_of_the_vault(tmp_path, file, monkeypatch):
    path = file("a;b\n1;2\n", "data.txt")
    project = tmp_path / "named"
    init(project).close()
    (project / "boucle.toml").write_text(
        f'[sources.shop]\nurl = "{path}"\nsource = "csv"\ndelimiter = "vault:SEPARATOR"\n[sources.bad]\nx = 1\n'
    )
    monkeypatch.setenv("BOUCLE_SECRET_SEPARATOR", ";")
    with boucle.open(project) as ws:
        got = ingest(ws, "shop", "t")
        assert got.found["delimiter"] == ";"
        assert got.dataset.source == path
        with pytest.raises(Invalid, match="has no url"):
            ingest(ws, "bad", "t")
        monkeypatch.delenv("BOUCLE_SECRET_SEPARATOR")
        with pytest.raises(NotFound, match="SEPARATOR"):
            ingest(ws, "shop", "t")


@pytest.mark.parametrize("mode", ["append", "merge"])
def test_rows_of_another_table_do_not_join(ws, mode):
    ingest(ws, {"id": [1], "city": ["Lyon"]}, "tx")
    with pytest.raises(Refused, match="share no column with tx@1"):
        ingest(ws, {"other": [1]}, "tx", mode=mode, key=["other"] if mode == "merge" else ())
    assert datasets.latest(ws, "tx").version == 1


def test_rows_do_not_become_a_version_of_files(ws):
    datasets.commit_files(ws, "pets", trees.add(ws.blobs, {"rex.txt": b"woof"}.items()))
    for evolve in (False, True):
        with pytest.raises(Invalid, match="pets@1 holds files"):
            ingest(ws, {"a": [1]}, "pets", evolve=evolve)


def test_where_rows_come_from_that_were_there_before(ws, tmp_path):
    for name, text in (("a.csv", "id\n1\n"), ("b.csv", "id\n2\n")):
        (tmp_path / name).write_text(text)
        ingest(ws, tmp_path / name, "tx", mode="append")
    ingest(ws, {"id": [2]}, "tx", mode="merge", key=["id"], origin="by hand")  # changes nothing
    ingest(ws, {"id": [3]}, "tx", mode="merge", key=["id"], origin="by hand")
    origins = [n.ref for n in lineage.why(ws, "dataset:tx@3").flat()][1:]
    assert origins == ["source:by hand", f"source:{tmp_path / 'b.csv'}", f"source:{tmp_path / 'a.csv'}"]
    touched = lineage.impact(ws, "dataset:tx@1")
    assert [(n.relation, n.ref) for n in touched.children] == [
        ("continued by", "dataset:tx@2"),
        ("continued by", "dataset:tx@3"),
    ]
    ingest(ws, {"id": [9]}, "tx")  # in the place of what there was
    assert [n.relation for n in lineage.why(ws, "dataset:tx@4").flat()][1:] == ["read from"]
    assert len(lineage.impact(ws, "dataset:tx@1").children) == 2


def test_many_versions_are_no_deep_tree(ws):
    first, _ = datasets.commit(ws, "tx", {"id": [0]}, source="stream")
    last = first
    for i in range(40):
        last, _ = datasets.commit(ws, "tx", {"id": [i + 1]}, source="stream", after=last.key)
    assert [n.ref for n in lineage.why(ws, str(last.ref)).flat()] == [str(last.ref), "source:stream"]
    assert len(lineage.impact(ws, str(first.ref)).children) == 40


def test_a_path_in_the_settings_is_one_from_there(tmp_path, monkeypatch):
    init(tmp_path / "project").close()
    (tmp_path / "project" / "a.csv").write_text("id\n1\n")
    with (tmp_path / "project" / "boucle.toml").open("a") as file:
        file.write('[sources.daily]\nurl = "a.csv"\n')
    monkeypatch.chdir(tmp_path)
    with boucle.open("project") as ws:
        assert ingest(ws, "daily", "tx").dataset.source == str(tmp_path / "project" / "a.csv")
