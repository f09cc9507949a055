"""Settings: arguments over environment over boucle.toml over defaults, and an origin for each."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from boucle.core.errors import Invalid, Unavailable
from boucle.settings import CHOICES, Settings, find_project, part, read_table, resolve


def project(tmp_path, toml=""):
    (tmp_path / "boucle.toml").write_text(toml)
    return tmp_path


def test_the_nearest_wins_and_its_origin_is_known(tmp_path):
    folder = project(tmp_path, '[boucle]\nworkers = 2\nengine = "a"\nvault = "file"\n')
    found = resolve(folder, environ={"BOUCLE_WORKERS": "3", "BOUCLE_ENGINE": "b", "BOUCLE_ACTOR": "ann"}, workers=4)
    assert (found.workers, found.engine, found.vault, found.store, found.actor) == (4, "b", "file", "sqlite", "ann")
    assert {n: found.origins[n] for n in ("workers", "engine", "vault", "store")} == {
        "workers": "argument", "engine": "BOUCLE_ENGINE", "vault": "boucle.toml", "store": "default",
    }  # fmt: skip
    assert found.origins.keys() == set(CHOICES)


def test_defaults(tmp_path):
    found = resolve(tmp_path, environ={})
    assert (found.store, found.blobs, found.engine, found.target, found.workers) == (
        "sqlite",
        "local",
        "local",
        "process",
        0,
    )
    assert (found.root, found.project) == (tmp_path / ".boucle", tmp_path)
    assert found.actor
    assert found.gates == {}


def test_an_empty_variable_is_none(tmp_path):
    assert resolve(tmp_path, environ={"BOUCLE_STORE": ""}).store == "sqlite"


def test_the_project_is_found_upwards(tmp_path, monkeypatch):
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    assert find_project(deep) == deep
    (tmp_path / ".boucle").mkdir()
    assert find_project(deep) == tmp_path
    project(tmp_path / "a")
    assert find_project(deep) == tmp_path / "a"
    assert find_project(tmp_path / ".boucle") == tmp_path
    monkeypatch.chdir(deep)
    assert find_project() == tmp_path / "a"
    assert find_project("..") == tmp_path / "a"


def test_settings_are_one_frozen_value(tmp_path):
    found = resolve(tmp_path, environ={})
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.workers = 3  # type: ignore[misc]
    assert found == resolve(tmp_path, environ={})


def test_every_setting_is_described():
    assert all(f.metadata["help"] for f in dataclasses.fields(Settings) if f.name in CHOICES)


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("[boucle]\nworkerz = 3\n", "no setting 'workerz'"),
        ("[boucle]\nworkers = -1\n", r"workers is -1 \(boucle.toml\)"),
        ("[boucle]\nworkers = true\n", "workers is True"),
        ('[boucle]\nworkers = "many"\n', "workers is 'many'"),
        ("[boucle]\nstore = 3\n", "store is 3"),
        ('[boucle]\nstore = ""\n', "store is ''"),
        ('[boucle]\nsynchronous = "never"\n', "synchronous is 'never'"),
        ("boucle = 3\n", "boucle is 3"),
        ("[boucle\n", "not valid TOML"),
    ],
)
def test_what_does_not_fit_is_said_with_its_place(tmp_path, toml, said):
    with pytest.raises(Invalid, match=said):
        resolve(project(tmp_path, toml), environ={})


def test_a_variable_or_argument_that_does_not_fit(tmp_path):
    with pytest.raises(Invalid, match=r"workers is 'x' \(BOUCLE_WORKERS\)"):
        resolve(tmp_path, environ={"BOUCLE_WORKERS": "x"})
    with pytest.raises(Invalid, match="there is no setting 'enginee'"):
        resolve(tmp_path, environ={}, enginee="local")


def test_files_that_cannot_be_read(tmp_path):
    assert read_table(tmp_path / "nothing.toml") == {}
    (tmp_path / "latin.toml").write_bytes('a = "é"'.encode("latin-1"))
    with pytest.raises(Invalid, match="not valid TOML"):
        read_table(tmp_path / "latin.toml")
    with pytest.raises(Unavailable, match="cannot read"):
        read_table(tmp_path)


def test_a_part_is_a_table_or_nothing():
    assert part({}, "gates", Path("x")) == {}
    assert part({"gates": {"a": 1}}, "gates", Path("x")) == {"a": 1}
    with pytest.raises(Invalid, match=r"x: gates is \[1\]"):
        part({"gates": [1]}, "gates", Path("x"))
