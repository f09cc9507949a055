"""Writing a dataset version into a database."""

import sqlite3
from contextlib import closing

import pytest

from boucle.core.errors import Conflict, Invalid, NotFound
from boucle.data.ingest import ingest
from boucle.data.write import write
from boucle.ledger import lineage
from boucle.settings import resolve
from boucle.workspace import Workspace


@pytest.fixture
def ws(tmp_path):
    (tmp_path / "boucle.toml").write_text("")
    (tmp_path / ".boucle").mkdir()
    with Workspace(resolve(tmp_path, actor="ann")) as ws:
        ingest(ws, {"id": [1, 2], "x": [0.5, None]}, "tx")
        yield ws


def rows(path):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT id, x FROM scores ORDER BY id").fetchall()


def test_a_version_goes_into_a_table(ws, tmp_path):
    path = tmp_path / "out.db"
    assert write(ws, "tx", f"sqlite:///{path}#scores", "merge", ["id"]) == 2
    assert write(ws, "tx@1", f"sqlite:///{path}", "merge", ["id"], {"table": "scores"}) == 2
    assert rows(path) == [(1, 0.5), (2, None)]


def test_the_journal_knows(ws, tmp_path):
    write(ws, "tx", f"sqlite:///{tmp_path}/out.db#scores")
    (event,) = ws.store.events(type="dataset.written")
    assert (event.subject, event.actor) == ("dataset:tx@1", "ann")
    assert event.data["to"] == f"sqlite:///{tmp_path}/out.db"
    assert (event.data["into"], event.data["rows"], event.data["mode"]) == ("scores", 2, "append")


def test_secrets_come_from_the_vault_and_stay_there(ws, monkeypatch, postgres):
    url = postgres.replace("postgres@", "postgres:hunter2@") + "#boucle_written"
    monkeypatch.setenv("BOUCLE_SECRET_DB", url)
    try:
        assert write(ws, "tx", "vault:db") == 2
        assert "hunter2" not in str([e.data for e in ws.store.events()])
    finally:
        import psycopg

        with psycopg.connect(postgres) as connection:
            connection.execute("DROP TABLE IF EXISTS boucle_written")


def test_what_fails_is_not_in_the_journal(ws, tmp_path):
    with closing(sqlite3.connect(tmp_path / "out.db")) as connection:
        connection.execute("CREATE TABLE scores (id INTEGER PRIMARY KEY, x REAL NOT NULL)")
    with pytest.raises(Conflict):
        write(ws, "tx", f"sqlite:///{tmp_path}/out.db#scores")
    assert rows(tmp_path / "out.db") == []
    assert not list(ws.store.events(type="dataset.written"))


def test_what_cannot_be_written(ws, tmp_path):
    with pytest.raises(NotFound, match="nothing"):
        write(ws, "nothing", f"sqlite:///{tmp_path}/out.db#scores")
    with pytest.raises(Invalid, match="csv source cannot be written to") as caught:
        write(ws, "tx", str(tmp_path / "x.csv"))
    assert "sqlite" in caught.value.expected


def test_lineage_knows_the_tables(ws, tmp_path):
    url = f"sqlite:///{tmp_path}/out.db#scores"
    write(ws, "tx", url)
    write(ws, "tx", url)
    touched = lineage.impact(ws, "dataset:tx@1").children
    assert [(n.relation, n.ref) for n in touched] == [("written into", f"sink:sqlite:///{tmp_path}/out.db#scores")]
    assert ingest(ws, url, "back").dataset.source == f"sqlite:///{tmp_path}/out.db#scores"
    assert ingest(ws, url.partition("#")[0], "again", options={"table": "scores"}).dataset.source == url
