"""new, init, doctor and fsck."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from tests.faces.cli.conftest import CSV


@pytest.fixture
def people(home):
    (home / "people.csv").write_text(CSV)
    return home


def test_new_writes_a_project_and_takes_in_the_data(cli, people):
    said = cli("new", "churn", "--from", "people.csv", "--target", "churned", "--json")
    assert said.code == 0
    assert said.json["dataset"] == "people@1"
    folder = Path(said.json["folder"])
    assert folder == people / "churn"
    table = tomllib.loads((folder / "boucle.toml").read_text())
    assert table["pipelines"]["churn"] == {"call": "pipeline:churn", "data": "people@latest", "target": "churned"}
    assert cli("data", "list", "-C", "churn").out.count("people@1") == 1
    assert [s["action"] for s in cli("plan", "-C", "churn", "--json").json["steps"]][:2] == ["run", "wait"]


def test_new_in_words(cli, people):
    said = cli("new", "churn", "--from", "people.csv", "--target", "churned", "--folder", "deep/er")
    assert said.code == 0
    assert "30 rows x 3 columns" in said.out
    assert "cd er && boucle run" in said.out


def test_the_tests_of_a_new_project_pass(cli, people):
    cli("new", "churn", "--from", "people.csv", "--target", "churned")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=people / "churn", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("churn", "--from", "nothing.csv", "--target", "y"), 3, "no file"),
        (("churn", "--from", "people.csv", "--target", "chruned"), 2, "churned"),
        (("bad name", "--from", "people.csv", "--target", "churned"), 2, "usable project name"),
        (("churn", "--from", "empty.csv", "--target", "y"), 2, "is empty"),
        (("churn", "--from", "people.csv", "--target", ""), 2, "target"),
        (("full", "--from", "people.csv", "--target", "churned"), 5, "holds something"),
    ],
)
def test_new_leaves_nothing_when_it_fails(cli, people, arguments, code, said):
    (people / "empty.csv").touch()
    (people / "full").mkdir()
    (people / "full" / "x").touch()
    before = sorted(people.rglob("*"))
    result = cli("new", *arguments)
    assert (result.code, said in result.err) == (code, True), result.err
    assert sorted(people.rglob("*")) == before


@pytest.mark.parametrize("name", ["class", "rows", "steps", "my.model", "7up", "a-b", "step"])
def test_a_project_of_any_name_can_be_planned(cli, people, name):
    assert cli("new", name, "--from", "people.csv", "--target", "churned").code == 0
    said = cli("plan", "-C", name, "--json")
    assert said.code == 0, said.err
    assert [s["step"] for s in said.json["steps"]][:2] == ["rows", "study"]


def test_a_target_with_any_characters(cli, home):
    (home / "odd.csv").write_text('a,"say ""x"" \\ $t é"\n' + "".join(f"{i},{'yn'[i % 2]}\n" for i in range(30)))
    target = 'say "x" \\ $t é'
    assert cli("new", "odd", "--from", "odd.csv", "--target", target).code == 0
    assert tomllib.loads((home / "odd" / "boucle.toml").read_text())["pipelines"]["odd"]["target"] == target


def test_init_can_be_repeated(cli, home):
    assert cli("init", "here").code == 0
    (home / "here" / "boucle.toml").write_text("[boucle]\nworkers = 3\n")
    assert cli("init", "here", "--json").json == {
        "project": str(home / "here"),
        "workspace": str(home / "here" / ".boucle"),
    }
    assert (home / "here" / "boucle.toml").read_text() == "[boucle]\nworkers = 3\n"
    (home / "file").touch()
    assert cli("init", "file").code == 5


def test_doctor_tells_settings_and_their_origin(cli, shop, monkeypatch):
    monkeypatch.setenv("BOUCLE_WORKERS", "3")
    found = cli("doctor", "--json")
    settings = {s["name"]: (s["value"], s["origin"]) for s in found.json["settings"]}
    assert settings["workers"] == ("3", "BOUCLE_WORKERS")
    assert settings["store"] == ("sqlite", "default")
    assert found.json["workspace"]["datasets"] == 1
    assert (found.code == 0) == found.json["healthy"]
    words = cli("doctor")
    assert "BOUCLE_WORKERS" in words.out
    assert "sqlite" in words.out


def test_doctor_without_a_workspace(cli, home):
    found = cli("doctor", "--json")
    assert found.json["workspace"] == {}
    assert "boucle init" in cli("doctor").out


def test_doctor_says_what_is_wrong(cli, shop):
    (shop / "boucle.toml").write_text('[boucle]\nstore = "oracle"\n')
    found = cli("doctor", "--json")
    assert found.code == 1
    assert any("oracle" in p for p in found.json["problems"])


def test_fsck_of_a_sound_workspace(cli, trained):
    said = cli("fsck")
    assert said.code == 0
    assert "no problems" in said.out
    assert cli("fsck", "--json").json["problems"] == []


def test_fsck_of_a_damaged_one(cli, trained):
    blob = next(p for p in (trained / ".boucle" / "blobs").rglob("*") if p.is_file() and p.stat().st_size > 100)
    blob.unlink()
    said = cli("fsck")
    assert said.code == 6
    assert blob.parent.name + blob.name[:10] in said.out
    assert cli("fsck", "--json").code == 6
