"""The data commands."""

from __future__ import annotations

import json

import pytest

from boucle.ports import lookup


def test_ingest_tells_what_it_found(cli, home):
    cli("init")
    (home / "a.csv").write_text("x;y\n1;a\n2;b\n")
    said = cli("data", "ingest", "a.csv", "--name", "a", "--tag", "n=1", "--owner", "me", "--json")
    assert said.code == 0
    assert said.json.items() >= {"dataset": "a@1", "rows": 2, "columns": 2, "new": True, "by": "ann"}.items()
    assert said.json["found"]["delimiter"] == ";"
    again = cli("data", "ingest", "a.csv", "--name", "a")
    assert "same content already" in again.out


def test_a_bad_line_is_set_aside_or_refused(cli, home):
    cli("init")
    (home / "a.csv").write_text("x,y\n" + "1,2\n" * 50 + "1,2,3,4\n" + "3,4\n")
    said = cli("data", "ingest", "a.csv", "--name", "a", "--json").json
    assert said["rows"] == 51
    assert [b["line"] for b in said["bad"]] == [52]
    assert "set aside, and kept as tag bad_lines: 1 line" in cli("data", "ingest", "a.csv", "--name", "b").out
    strict = cli("data", "ingest", "a.csv", "--name", "c", "--strict")
    assert strict.code == 2
    assert [d["dataset"] for d in cli("data", "list", "--json").json] == ["a@1", "b@1"]


def test_a_dry_run_stores_nothing(cli, shop):
    said = cli("data", "ingest", "people.csv", "--name", "other", "--dry-run", "--json")
    assert said.json["rows"] == 30
    assert "nothing was stored" in cli("data", "ingest", "people.csv", "--name", "other", "--dry-run").out
    assert len(cli("data", "list", "--json").json) == 1


def test_list_log_and_show(cli, shop):
    (shop / "people.csv").write_text((shop / "people.csv").read_text() + "99,a,yes\n")
    cli("data", "ingest", "people.csv", "--name", "people")
    assert [d["dataset"] for d in cli("data", "list", "--json").json] == ["people@2"]
    assert [d["dataset"] for d in cli("data", "log", "people", "--json").json] == ["people@2", "people@1"]
    shown = cli("data", "show", "people@1", "--rows", "2", "--json").json
    assert (shown["rows"], len(shown["first"])) == (30, 2)
    assert [c["name"] for c in shown["statistics"]["columns"]] == ["age", "plan", "churned"]
    words = cli("data", "show", "people", "--rows", "2").out
    assert "people@2" in words
    assert "churned" in words
    assert "people@2" in cli("data", "log", "people").out


def test_a_column_whose_name_looks_like_markup(cli, home):
    cli("init")
    (home / "a.csv").write_text("[red]x[/],[/oops]\n1,[bold]\n2,b\n")
    assert cli("data", "ingest", "a.csv", "--name", "a").code == 0
    said = cli("data", "show", "a", "--rows", "1")
    assert said.code == 0
    assert "[red]x[/]" in said.out
    assert "[bold]" in said.out


def test_validate_with_suggested_and_given_checks(cli, shop):
    assert cli("data", "validate", "people").code == 0
    bad = cli("data", "validate", "people", "--check", 'between:{"column": "age", "low": 0, "high": 30}', "--json")
    assert bad.code == 1
    assert [v["status"] for v in bad.json] == ["fail"]
    assert cli("data", "validate", "people", "--check", "between:{").code == 2
    assert cli("data", "validate", "people", "--check", "betwen").code == 3


@pytest.mark.parametrize("name", ["out.csv", "out.parquet", "out.jsonl", "out.arrow"])
def test_export_round_trip(cli, shop, name):
    assert cli("data", "export", "people", name, "--json").json == {"file": name, "rows": 30}
    if not name.endswith(".arrow"):
        cli("data", "ingest", name, "--name", "again")
        assert cli("data", "list", "--json").json[0]["rows"] == 30


def test_export_to_where_it_cannot(cli, shop):
    assert cli("data", "export", "people", "out.docx").code == 2
    assert cli("data", "export", "people", "nowhere/out.csv").code in (2, 3, 7)
    assert not list(shop.glob("out*"))


def test_sources(cli, home):
    known = cli("data", "sources", "--json").json
    assert {s["source"] for s in known["sources"]} >= {"csv", "jsonl", "parquet"}
    assert "csv" in cli("data", "sources").out


@pytest.fixture
def bare(monkeypatch):
    """As where no extra is installed."""
    real = lookup.lookup

    def without(family, name):
        if family in ("source", "place", "stream") and name not in ("csv", "jsonl", "parquet", "text", "file", "http"):
            raise lookup.missing_extra("a library", name, family)
        return real(family, name)

    monkeypatch.setattr(lookup, "lookup", without)


def test_sources_that_are_not_installed_still_say_what_they_read(cli, home, bare):
    known = {s["source"]: s for s in cli("data", "sources", "--json").json["sources"]}
    assert known["excel"]["reads"].startswith(".xlsx")
    assert "postgresql://" in known["postgres"]["reads"]
    assert known["postgres"]["needs"] == "pip install 'boucle[postgres]'"


def test_nothing_is_wrong_where_no_extra_is_installed(cli, home, bare):
    found = cli("doctor", "--json")
    assert (found.code, found.json["problems"]) == (0, [])
    assert "postgres" in found.json["not_installed"]["source"]
    assert "for an extra" in cli("doctor").out


URLS = [
    ("postgresql://u:hidden@h/db#t", 8, "pip install 'boucle[postgres]'"), ("s3://b/x.csv", 8, "pip install 'boucle[s3]'"),
    ("sftp://h/x.csv", 8, "pip install 'boucle[sftp]'"), ("webdavs://h/x.csv", 8, "pip install 'boucle[webdav]'"),
    ("ftp://h/x.csv", 8, "pip install 'boucle[fsspec]'"), ("mssql://u:hidden@h/db", 2, "sqlalchemy+"),
    ("nonsense://h/x", 2, "check the URL"), ("kafka://h/t", 2, "boucle data stream"),
]  # fmt: skip


@pytest.mark.parametrize(("url", "code", "fix"), URLS)
def test_a_url_that_nothing_here_reads(cli, shop, bare, url, code, fix):
    said = cli("data", "ingest", url, "--name", "x", "--json")
    assert said.code == code, said.err
    assert fix in said.error["fix"]
    assert "hidden" not in said.err


def test_a_file_is_written_to_and_no_url(cli, shop):
    said = cli("data", "export", "people", "s3://bucket/people.csv", "--json")
    assert (said.code, said.error["fix"][:16]) == (2, "boucle data push")
    assert not (shop / "s3:").exists()


def test_what_was_written_is_told_with_its_version(cli, shop):
    said = cli("data", "write", "people", f"sqlite:///{shop}/out.db#people", "--json").json
    assert (said["dataset"], said["rows"]) == ("people@1", 30)


def test_a_port_that_is_none(cli, shop):
    assert cli("data", "serve", "--port", "99999").code == 2


def test_an_option_that_is_not_known(cli, shop):
    said = cli("data", "list", "--fast")
    assert said.code == 2
    assert said.err == "boucle data list: unknown: --fast\n  to do:    boucle data list --help\n"


def test_a_dry_run_tells_what_would_be_set_aside(cli, home):
    cli("init")
    (home / "a.csv").write_text("x,y\n1,2\n3,4,5\n")
    assert "would be set aside: 1 line\n" in cli("data", "ingest", "a.csv", "--name", "a", "--dry-run").out


def test_one_row_is_no_rows(cli, home):
    cli("init")
    (home / "a.csv").write_text("x\n1\n")
    assert "1 row x 1 column in" in cli("data", "ingest", "a.csv", "--name", "a").out
    assert "1 row written" in cli("data", "export", "a", "b.csv").out


def test_files_are_told_from_tables(cli, shop):
    assert "type" not in cli("data", "list").out
    (shop / "pets").mkdir()
    (shop / "pets" / "rex.txt").write_text("woof")
    cli("data", "snapshot", "pets", "--name", "pets")
    assert [(d["dataset"], d["type"], d["columns"]) for d in cli("data", "list", "--json").json] == [
        ("people@1", "table", 3),
        ("pets@1", "files", None),
    ]
    assert "files" in cli("data", "list").out
    assert "columns" not in cli("data", "log", "pets").out
    refused = cli("data", "ingest", "people.csv", "--name", "pets", "--json")
    assert (refused.code, refused.error["what"]) == (2, "pets@1 holds files")
    assert "files 1" in cli("why", "dataset:pets").out


ERRORS = [
    (("log", "nothing"), 3), (("show", "nothing"), 3), (("show", "people@9"), 3), (("show", "people@"), 2),
    (("export", "nothing", "a.csv"), 3), (("validate", "nothing"), 3), (("ingest", "nothing.csv", "--name", "x"), 3),
    (("ingest", "people.csv", "--name", "no name"), 2), (("ingest", "people.csv", "--name", "x", "--tag", "a"), 2),
    (("ingest", "people.csv", "--name", "x", "--option", "nonsense=1"), 2),
]  # fmt: skip


def test_errors(cli, shop):
    for arguments, code in ERRORS:
        said = cli("data", *arguments, "--json")
        assert said.code == code, said.err
        assert json.loads(said.err)["error"]["what"]


def test_an_empty_workspace(cli, home):
    cli("init")
    assert "no datasets yet" in cli("data", "list").out
    assert cli("data", "list", "--json").json == []
