"""Commands between stores."""

from __future__ import annotations

import json

import pytest

from boucle.faces.cli.main import main


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    """Run a command in a project; returns exit code and what was printed."""
    monkeypatch.chdir(tmp_path)
    for name in ("ann", "ben"):
        assert main(["init", name]) == 0
    (tmp_path / "a.csv").write_text("a,b\n1,x\n2,y\n")
    assert main(["data", "ingest", "a.csv", "--name", "tx", "-C", "ann"]) == 0
    capsys.readouterr()

    def call(project, *words):
        code = main([*words, "-C", project])
        return code, capsys.readouterr().out

    return call


def test_there_and_back(run, tmp_path):
    there = str(tmp_path / "there")
    assert run("ann", "data", "push", there)[1].startswith("1 version sent to")
    code, said = run("ben", "data", "pull", there, "--json")
    assert (code, json.loads(said)["datasets"]) == (0, ["tx@1"])
    code, said = run("ben", "data", "sync", there, "--json")
    assert json.loads(said)["sent"]["there"] == 1
    assert "nothing to fetch from" in run("ben", "data", "sync", there)[1]


def test_a_mirror_tells_by_its_exit_code(run, tmp_path):
    there = str(tmp_path / "there")
    assert run("ann", "data", "mirror", there)[0] == 0
    for path in (tmp_path / "ann/.boucle/blobs").rglob("*"):
        if path.is_file():
            path.unlink()
    code, said = run("ann", "data", "mirror", there, "--quick")
    assert code == 1
    assert "--repair" in said
    assert "mended" in run("ann", "data", "mirror", there, "--repair")[1]
    code, said = run("ann", "data", "mirror", there, "--json")
    assert (code, json.loads(said)["problems"]) == (0, [])


def test_what_nobody_needs(run, tmp_path):
    assert "no remotes yet" in run("ann", "data", "remotes")[1]
    assert json.loads(run("ann", "data", "remotes", "--json")[1]) == []
    from boucle.workspace import open as opened

    with opened(tmp_path / "ann") as ws:
        ws.blobs.put(b"x" * 2000)
    assert "1 blob too young" in run("ann", "data", "gc")[1]
    assert "1 blob that no record needs, 2 kB" in run("ann", "data", "gc", "--grace", "0")[1]
    said = json.loads(run("ann", "data", "gc", "--grace", "0", "--yes", "--json")[1])
    assert (said["removed"], said["bytes"]) == (True, 2000)


def test_a_remote_that_is_wrong_says_what(run, tmp_path, capsys):
    with (tmp_path / "ann" / "boucle.toml").open("a") as file:
        file.write('[remotes.lake]\nurl = "s3://lake"\nendpoint = "http://here"\n')
    assert main(["data", "remotes", "-C", str(tmp_path / "ann")]) == 2
    said = capsys.readouterr().err
    assert "[remotes.lake] has endpoint" in said
    assert "options = { endpoint = ... }" in said


def test_impact_knows_where_a_version_was_pushed_to(run, tmp_path):
    there = str(tmp_path / "there")
    run("ann", "data", "push", there)
    assert f"pushed to remote:{there}" in run("ann", "impact", "dataset:tx@1")[1]
