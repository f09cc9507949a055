"""Many files as one table: folders, globs, partitions, archives, other places; and what does not go together."""

import datetime as dt
import gzip
import http.server
import json
import os
import threading
import zipfile
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boucle.core.errors import Invalid, NotFound, Refused
from boucle.data import gather
from boucle.data.gather import _fits
from boucle.data.ingest import bad_lines, ingest, preview
from boucle.ledger import datasets
from boucle.ports.place import Entry
from boucle.workspace import init


@pytest.fixture
def ws(tmp_path):
    with init(tmp_path / "project", store="memory", actor="ann") as ws:
        yield ws
    assert list((tmp_path / "project" / ".boucle" / "tmp").glob("gather*")) == []


@pytest.fixture
def make(tmp_path):
    def make(files, root="data"):
        for name, content in files.items():
            path = tmp_path / root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(tmp_path / root)

    return make


def rows(ws, name="t"):
    return datasets.load(ws, name).table().to_pylist()


# --- folders and globs ----------------------------------------------------------------------------------------------


def test_a_folder_is_one_table_in_the_order_of_its_names(ws, make):
    folder = make(
        {"p-10.csv": "a\n3\n", "p-2.csv": "a\n2\n", "p-1.csv.gz": gzip.compress(b"a\n1\n"), "README.md": "# x"}
    )
    got = ingest(ws, folder, "t")
    assert [r["a"] for r in rows(ws)] == [1, 2, 3]
    assert got.dataset.source == f"{folder} (3 files)"
    assert (got.found["format"], got.found["files"], got.found["ignored"]) == ("csv", 3, ["README.md (a note)"])


def test_one_table_in_a_folder_is_that_table(ws, make):
    got = ingest(
        ws, make({"x.csv": "a\n1\n", "LICENSE.txt": "free", "x.names.txt": "a: a number", ".hidden": "?"}), "t"
    )
    assert rows(ws) == [{"a": 1}]
    assert "files" in got.found or got.found["ignored"] == ["LICENSE.txt (a note)", "x.names.txt (not a table)"]


def test_what_is_named_like_a_note_may_be_data(ws, make):
    got = ingest(ws, make({"authors.csv": "a\n1\n", "AUTHORS": "Ann", "CITATION.cff": "x: 1", "SHA256SUMS": "0"}), "t")
    assert (rows(ws), len(got.found["ignored"])) == ([{"a": 1}], 1)


def test_types_are_widened_and_columns_go_by_name(ws, make):
    folder = make(
        {"x1.csv": "a,b\n1,x\n", "x2.csv": "b,a\ny,0.5\n", "x3.csv": "a\n\n2\n", "x4.csv": "a,b,c\n3,,2026-01-02\n"}
    )
    got = ingest(ws, folder, "t")
    day = dt.date(2026, 1, 2)
    assert rows(ws) == [
        {"a": 1.0, "b": "x", "c": None}, {"a": 0.5, "b": "y", "c": None}, {"a": 2.0, "b": None, "c": None},
        {"a": 3.0, "b": None, "c": day},
    ]  # fmt: skip
    assert got.found["files_without_column"] == {"b": 1, "c": 3}


def test_times_of_different_precision_are_one_column(ws, tmp_path):
    (tmp_path / "d").mkdir()
    moment = dt.datetime(2026, 1, 2, 3)
    for i, unit in enumerate(("ms", "us", "ns")):
        pq.write_table(pa.table({"t": pa.array([moment], pa.timestamp(unit))}), tmp_path / "d" / f"{i}.parquet")
    ingest(ws, str(tmp_path / "d"), "t")
    assert [r["t"].replace(tzinfo=None) for r in rows(ws)] == [moment] * 3


def test_types_that_do_not_go_together_name_both_files(ws, make):
    folder = make({"x1.csv": "zip\n75001\n", "x2.csv": "zip\nn/k\n"})
    with pytest.raises(Invalid, match=r"'zip' is int64 in x1\.csv and string in x2\.csv") as caught:
        ingest(ws, folder, "t")
    assert '"zip": "string"' in caught.value.fix
    ingest(ws, folder, "t", options={"types": {"zip": "string"}})
    assert rows(ws) == [{"zip": "75001"}, {"zip": "n/k"}]


def test_different_tables_in_a_folder_are_named(ws, make):
    folder = make({"customers.csv": "id,name\n1,Ana\n", "orders.csv": "id,amount\n1,5\n"})
    for source in (folder, f"{folder}/*.csv"):
        with pytest.raises(Invalid, match=r"only customers\.csv has name; only orders\.csv has amount") as caught:
            ingest(ws, source, "t")
    assert "name one of customers.csv, orders.csv" in caught.value.fix
    ingest(ws, folder, "t", options={"union": True})
    assert rows(ws) == [{"id": 1, "name": "Ana", "amount": None}, {"id": 1, "name": None, "amount": 5}]


def test_files_with_nothing_in_common_are_never_one_table(ws, make):
    with pytest.raises(Invalid, match="do not look like one table"):
        ingest(ws, make({"x1.csv": "a\n1\n", "x2.csv": "b\n1\n"}), "t", options={"union": True})


def test_several_formats_are_named(ws, make):
    folder = make({"a.csv": "a\n1\n", "b.jsonl": '{"a": 2}\n'})
    with pytest.raises(Invalid, match=r"several formats: 1 for csv .*; 1 for jsonl"):
        ingest(ws, folder, "t")
    ingest(ws, folder, "t", options={"source": "jsonl"})
    assert rows(ws) == [{"a": 2}]


def test_a_glob_takes_what_it_matches(ws, make):
    folder = make({"a/x.csv": "a\n1\n", "a/deep/y.csv": "a\n2\n", "b/x.csv": "a\n3\n", "a/x.txt": "no"})
    for pattern, expected in (("a/*.csv", [1]), ("a/**/*.csv", [2, 1]), ("*/x.csv", [1, 3]), ("[!a]/?.csv", [3])):
        ingest(ws, f"{folder}/{pattern}", "t")
        assert [r["a"] for r in rows(ws)] == expected, pattern
    with pytest.raises(NotFound, match="no file matches"):
        ingest(ws, f"{folder}/*.parquet", "t")


def test_a_name_with_magic_in_it_is_a_file_when_there_is_one(ws, make):
    ingest(ws, make({"a[1].csv": "a\n7\n", "a1.csv": "a\n1\n"}) + "/a[1].csv", "t")
    assert rows(ws) == [{"a": 7}]


@given(path=st.from_regex(r"([a-c]{1,2}/){0,2}[a-c]{1,2}\.csv", fullmatch=True))
def test_globs(path):
    assert _fits("**/*.csv", path)
    assert _fits("**", path)
    assert _fits("*.csv", path) == ("/" not in path)
    assert _fits(path.replace("a", "?"), path)
    assert not _fits(path + "x", path)
    assert not _fits("*.cs", path)


def test_the_file_of_a_row(ws, make):
    ingest(ws, make({"in/x1.csv": "a\n1\n", "in/x2.csv": "a\n2\n"}), "t", options={"file": "from"})
    assert rows(ws) == [{"a": 1, "from": "in/x1.csv"}, {"a": 2, "from": "in/x2.csv"}]
    with pytest.raises(Invalid, match="a column 'a' already"):
        ingest(ws, make({}), "t", options={"file": "a"})


def test_lines_of_several_logs_say_their_file(ws, make):
    ingest(ws, make({"a.log": "one\n", "b.log": "two\n"}), "t")
    assert [(r["text"], r["file"]) for r in rows(ws)] == [("one", "a.log"), ("two", "b.log")]


def test_bad_lines_say_their_file(ws, make):
    got = ingest(ws, make({"x1.csv": "a,b\n1,2\n", "x2.csv": "a,b\n3,4\n5\n6,7\n"}), "t")
    assert [(b.file, b.number) for b in got.bad] == [("x2.csv", 3)]
    assert bad_lines(ws, got.dataset)[0].file == "x2.csv"
    with pytest.raises(Invalid, match=r"x2\.csv, line 3"):
        ingest(ws, make({}), "t", on_bad="fail")


def test_a_damaged_file_is_named_and_nothing_is_kept(ws, make):
    folder = make({"x1.csv": "a\n1\n", "x2.csv.gz": gzip.compress(b"a\n" + b"1\n" * 999)[:-9]})
    with pytest.raises(Invalid, match=r"x2\.csv\.gz is cut off"):
        ingest(ws, folder, "t")
    assert datasets.names(ws) == []


@pytest.mark.parametrize("files", [{}, {".hidden": "a"}, {"_SUCCESS": ""}])
def test_a_folder_of_nothing(ws, make, tmp_path, files):
    (tmp_path / "data").mkdir()
    with pytest.raises(Invalid, match="no files"):
        ingest(ws, make(files), "t")


def test_empty_files_beside_others_are_left_out(ws, make):
    got = ingest(ws, make({"x1.csv": "a\n1\n", "x2.csv": ""}), "t")
    assert (rows(ws), got.found["ignored"]) == ([{"a": 1}], ["x2.csv (empty)"])


# --- partitions -----------------------------------------------------------------------------------------------------


def test_partitions_are_typed_columns(ws, tmp_path):
    for year, month, city in ((2025, "03", "Lyon"), (2025, "11", "A%20b"), (2026, "01", "__HIVE_DEFAULT_PARTITION__")):
        folder = tmp_path / "d" / f"year={year}" / f"month={month}" / f"city={city}"
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"x": [year]}), folder / "part.parquet")
    (tmp_path / "d" / "_SUCCESS").touch()
    got = ingest(ws, str(tmp_path / "d"), "t")
    assert rows(ws) == [
        {"x": 2025, "year": 2025, "month": 3, "city": "Lyon"}, {"x": 2025, "year": 2025, "month": 11, "city": "A b"},
        {"x": 2026, "year": 2026, "month": 1, "city": None},
    ]  # fmt: skip
    assert {c["name"]: c["type"] for c in got.dataset.schema["columns"]}["year"] == "int64"


@pytest.mark.parametrize(
    ("values", "kind"),
    [(["1", "-2"], "int64"), (["01", "12"], "int64"), (["01", "123"], "string"), (["0123", "1234"], "string"),
     (["2026-01-02", "2026-01-03"], "date"), (["2026-13-02"], "string"), (["1", "x"], "string"), (["9" * 19], "string")],
)  # fmt: skip
def test_types_of_partitions(ws, make, values, kind):
    got = ingest(ws, make({f"k={v}/x.csv": "a\n1\n" for v in values}), "t")
    assert {c["name"]: c["type"] for c in got.dataset.schema["columns"]}["k"] == kind


def test_a_column_of_the_file_comes_before_its_partition(ws, make):
    ingest(ws, make({"a=1/x.csv": "a\n5\n"}), "t")
    assert rows(ws) == [{"a": 5}]


def test_plain_folders_are_columns_when_they_are_named(ws, make):
    folder = make({"fr/2025/x.csv": "a\n1\n", "de/2026/x.csv": "a\n2\n"})
    ingest(ws, folder, "t")
    assert rows(ws) == [{"a": 2}, {"a": 1}]
    ingest(ws, folder, "t2", options={"folders": "country,year"})
    assert rows(ws, "t2") == [{"a": 2, "country": "de", "year": 2026}, {"a": 1, "country": "fr", "year": 2025}]
    with pytest.raises(Invalid, match="lies in 2 folders"):
        ingest(ws, folder, "t", options={"folders": "a,b,c"})


# --- growing folders ------------------------------------------------------------------------------------------------


def grow(ws, folder, **more):
    return ingest(ws, folder, "t", mode="append", options={"new_files": True}, **more)


def test_only_new_files_are_taken(ws, make):
    folder = make({"x1.csv": "a\n1\n", "README.md": "#"})
    assert grow(ws, folder).rows == 1
    assert (again := grow(ws, folder)).new is False
    assert (again.rows, again.found["files"]) == (0, 0)
    make({"x2.csv": "a\n2\n", "NOTICE.md": "#"})
    assert (grow(ws, folder).rows, [r["a"] for r in rows(ws)]) == (1, [1, 2])
    make({"x1.csv": "a\n1\n9\n"})
    assert grow(ws, folder).found["files_changed_since"] == ["x1.csv"]
    assert grow(ws, folder, full=True).dataset.rows == 3
    assert len(datasets.latest(ws, "t").position["files"]) == 2


def test_a_file_of_the_same_name_elsewhere_is_new(ws, make):
    grow(ws, make({"x1.csv": "a\n1\n"}))
    assert grow(ws, make({"x1.csv": "a\n2\n"}, "other")).rows == 1
    assert grow(ws, make({}) + "/*.csv").rows == 0
    assert [r["a"] for r in rows(ws)] == [1, 2]


def test_names_that_are_not_text(ws, make):
    folder = make({"x1.csv": "a\n1\n"})
    Path(os.fsdecode(os.fsencode(folder) + b"/x\xe92.csv")).write_text("a\n2\n")
    ingest(ws, folder, "t", options={"file": "from"})
    assert [r["from"] for r in rows(ws)] == ["x1.csv", "x\\xe92.csv"]
    ingest(ws, folder, "files", options={"source": "files"})
    assert [r["path"] for r in rows(ws, "files")] == ["x1.csv", "x\\xe92.csv"]


def test_what_killed_processes_left_is_removed(ws, make, tmp_path, elsewhere):
    left = ws.folder("tmp", "gather-old")
    (left / "x.csv").write_text("a")
    os.utime(left, (0, 0))
    elsewhere({"x.csv": "a\n1\n"})
    ingest(ws, "sftp://host/d", "t")
    assert not left.exists()


def test_what_was_taken_is_small_and_says_no_names(ws, make):
    grow(ws, make({f"secret{i}.csv": "a\n1\n" for i in range(50)}))
    kept = json.dumps(datasets.latest(ws, "t").position)
    assert "secret" not in kept
    assert len(kept) < 50 * 45


def test_new_files_do_not_replace(ws, make):
    with pytest.raises(Invalid, match="would lose the rows"):
        ingest(ws, make({"x.csv": "a\n1\n"}), "t", options={"new_files": True})


# --- archives -------------------------------------------------------------------------------------------------------


def test_members_of_an_archive_are_files_of_a_folder(ws, make, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("d/x1.csv", "a\n1\n")
        archive.writestr("d/x2.csv", "a,b\n2\n3,4\n")
        archive.writestr("d/README.txt", "read me")
        archive.writestr("../x3.csv", "a\n666\n")
        archive.writestr("__MACOSX/x1.csv", "a\n667\n")
        archive.writestr("inner.zip", "PK")
    got = ingest(ws, str(tmp_path / "x.zip"), "t", options={"file": "from"})
    assert [(r["a"], r["from"]) for r in rows(ws)] == [(1, "d/x1.csv"), (3, "d/x2.csv")]
    assert [b.file for b in got.bad] == ["d/x2.csv"]
    assert "a name that could lead elsewhere: '../x3.csv'" in got.found["left_out"][0]
    assert got.found["ignored"] == ["d/README.txt (a note)", "inner.zip (an archive)"]


def test_errors_about_members_name_them(ws, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("d/x.parquet", "PAR1 and nothing more")
    with pytest.raises(Invalid) as caught:
        ingest(ws, str(tmp_path / "x.zip"), "t")
    assert str(caught.value).startswith("d/x.parquet is not a whole Parquet file")
    assert "gather" not in str(caught.value)


def test_archives_in_archives_are_not_opened(ws, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("y.zip", "PK")
    with pytest.raises(Invalid, match="archives only"):
        ingest(ws, str(tmp_path / "x.zip"), "t")


def test_a_dry_run_reads_everything_and_stores_nothing(ws, make):
    folder = make({"x1.csv": "a\n1\n", "x2.csv": "a\n2\n"})
    told = []
    seen = preview(ws, folder, said=told.append)
    assert (seen["rows"], seen["found"]["files"]) == (2, 2)
    assert told[-1] == "looked at 2 of 2 files"
    assert list(ws.blobs.list()) == []


# --- elsewhere ------------------------------------------------------------------------------------------------------


class Elsewhere:
    """A place in memory."""

    name, schemes = "elsewhere", ("mem",)
    closed = 0

    def __init__(self, files, capabilities=("list",)):
        self.files, self.capabilities = files, frozenset(capabilities)
        self.read_paths = []

    def list(self, prefix=""):
        return (Entry(p, len(c), version="1") for p, c in self.files.items() if p.startswith(prefix))

    def entry(self, path):
        raise NotFound(f"no file {path}")

    def read(self, path, start=0, end=None):
        self.read_paths.append(path)
        yield self.files[path][:3]
        yield self.files[path][3:]

    def close(self):
        self.closed += 1


@pytest.fixture
def elsewhere(monkeypatch):
    def elsewhere(files):
        place = Elsewhere({name: content.encode() for name, content in files.items()})
        monkeypatch.setattr(gather, "connect", lambda url, options: place)
        return place

    return elsewhere


def test_a_folder_elsewhere_is_fetched(ws, elsewhere):
    place = elsewhere({"k=1/x.csv": "a\n1\n", "k=2/x.csv": "a\n2\n", "../up.csv": "a\n3\n", "README.md": "#"})
    got = ingest(ws, "sftp://ann:secret@host/d", "t")
    assert rows(ws) == [{"a": 1, "k": 1}, {"a": 2, "k": 2}]
    assert got.dataset.source == "sftp://host/d (2 files)"
    assert place.closed == 1
    assert "README.md" not in place.read_paths


def test_a_glob_elsewhere(ws, elsewhere):
    place = elsewhere({"x1.csv": "a\n1\n", "x2.csv": "a\n2\n", "x2.json": "{}"})
    ingest(ws, "sftp://host/d/x*.csv", "t", options={"new_files": True}, mode="append")
    assert place.read_paths == ["x1.csv", "x2.csv"]
    place.files["x3.csv"] = b"a\n3\n"
    ingest(ws, "sftp://host/d/x*.csv", "t", options={"new_files": True}, mode="append")
    assert place.read_paths[2:] == ["x3.csv"]
    assert [r["a"] for r in rows(ws)] == [1, 2, 3]


def test_errors_about_what_was_fetched_name_it(ws, elsewhere):
    elsewhere({"d/x.parquet": "PAR1 and nothing more"})
    with pytest.raises(Invalid, match=r"^d/x\.parquet is not"):
        ingest(ws, "sftp://host/", "t")


@pytest.fixture
def web(tmp_path):
    handler = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(tmp_path / "data")))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://ann:secret@127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_file_of_a_web_server(ws, make, web):
    make({"in/x.csv.gz": gzip.compress(b"a,b\n1,2\n3\n"), "y.csv": b"\x89PNG" * 9})
    got = ingest(ws, f"{web}/in/x.csv.gz?token=hidden", "t")
    assert rows(ws) == [{"a": 1, "b": 2}]
    assert got.dataset.source.startswith("http://127.0.0.1:")
    assert got.dataset.source.endswith("/in/x.csv.gz")
    with pytest.raises(Invalid, match=r"^y\.csv is a PNG image"):
        ingest(ws, f"{web}/y.csv", "t")
    with pytest.raises(NotFound) as caught:
        ingest(ws, f"{web}/none.csv", "t")
    assert "secret" not in str(caught.value)


def test_an_archive_of_a_web_server(ws, make, web, tmp_path):
    make({})
    (tmp_path / "data").mkdir()
    with zipfile.ZipFile(tmp_path / "data" / "x.zip", "w") as archive:
        archive.writestr("x.csv", "a\n1\n")
    ingest(ws, f"{web}/x.zip", "t")
    assert rows(ws) == [{"a": 1}]


def test_options_of_the_place_and_of_the_source(ws, make, web):
    make({"x.csv": "a;b\n1;2\n"})
    ingest(ws, f"{web}/x.csv", "t", options={"delimiter": ";", "place": {"timeout": 5}})
    assert rows(ws) == [{"a": 1, "b": 2}]
    for options, match in (({"place": {"odd": 1}}, "no option 'odd'"), ({"odd": 1}, "no option 'odd'")):
        with pytest.raises(Invalid, match=match):
            ingest(ws, f"{web}/x.csv", "t", options=options)


def test_a_schema_that_does_not_follow_is_refused_as_ever(ws, make):
    ingest(ws, make({"x1.csv": "a,b\n1,2\n"}), "t")
    with pytest.raises(Refused, match="b: removed"):
        ingest(ws, make({"x1.csv": "a\n1\n"}, "other"), "t")


def test_folders_globs_and_files_of_a_bucket(ws, s3_server):
    import secrets

    from boucle.ports.place import connect

    below = f"s3://boucle-tests/{secrets.token_hex(8)}"
    place = connect(below, s3_server)
    place.write("k=1/x1.csv", b"a\n1\n")
    place.write("k=2/x2.csv", b"a\n2\n")
    place.write("README.md", b"#")
    options = {"place": s3_server}
    for source, expected in (
        (below, [{"a": 1, "k": 1}, {"a": 2, "k": 2}]), (f"{below}/", [{"a": 1, "k": 1}, {"a": 2, "k": 2}]),
        (f"{below}/**/x2.*", [{"a": 2, "k": 2}]), (f"{below}/k=1/x1.csv", [{"a": 1}]),
    ):  # fmt: skip
        got = ingest(ws, source, "t", options=options, evolve=True)
        assert rows(ws) == expected, source
        assert "not-a-secret" not in repr(got)
    with pytest.raises(NotFound):
        ingest(ws, f"{below}/none.csv", "t", options=options)
    grown = {"place": s3_server, "new_files": True}
    assert ingest(ws, below, "g", mode="append", options=grown).rows == 2
    place.write("k=3/x3.csv", b"a\n3\n")
    assert ingest(ws, below, "g", mode="append", options=grown).rows == 1
