"""Finding the pipelines of a project."""

from __future__ import annotations

import sys

import pytest

import boucle.workspace
from boucle.core.errors import Invalid, NotFound
from boucle.flow.load import entries, load

CODE = """from boucle import pipeline, step
from parts import N
@step
def one(): return N
@pipeline
def main(n: int = 1): return one()
"""


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """Make a project with this boucle.toml and these modules."""
    path, before = list(sys.path), set(sys.modules)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def make(name, toml="", **modules):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "boucle.toml").write_text(toml)
        for module, text in {"work": CODE, "parts": f"N = {name!r}", **modules}.items():
            (folder / f"{module}.py").write_text(text)
        return boucle.workspace.init(folder).settings

    yield make
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if str(tmp_path) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


def test_the_only_pipeline_needs_no_name(shop):
    settings = shop("a", '[pipelines.train]\ncall = "work:main"\nn = 3\n')
    pipeline, arguments = load(settings)
    assert (pipeline.name, arguments) == ("main", {"n": 3})
    assert load(settings, "train")[0] is pipeline
    assert load(settings, "work:main") == (pipeline, {})
    assert entries(settings)["train"].call == "work:main"


def test_two_projects_in_one_process_keep_apart(shop):
    first, second = (shop(name, '[pipelines.train]\ncall = "work:main"\n') for name in "ab")
    for settings, n in ((first, "a"), (second, "b"), (first, "a")):
        pipeline, _ = load(settings)
        assert pipeline.trace({}).nodes[0].step() == n


@pytest.mark.parametrize(
    ("toml", "name", "error", "said"),
    [
        ("", "", NotFound, "names no pipeline"),
        ('[pipelines.a]\ncall = "work:main"\n[pipelines.b]\ncall = "work:main"\n', "", Invalid, "has 2 pipelines"),
        ('[pipelines.train]\ncall = "work:main"\n', "trian", NotFound, "no pipeline named 'trian'"),
        ('[pipelines.train]\ncall = "work:nothing"\n', "", Invalid, "work:nothing is not a pipeline"),
        ('[pipelines.train]\ncall = "work:one"\n', "", Invalid, "work:one is not a pipeline"),
        ('[pipelines.train]\ncall = "absent:main"\n', "", NotFound, "no module 'absent'"),
        ('[pipelines.train]\ncall = "work"\n', "", Invalid, "pipelines.train"),
        ("[pipelines]\ntrain = 3\n", "", Invalid, "pipelines.train"),
        ("pipelines = 3\n", "", Invalid, "pipelines is 3"),
        ('[pipelines.train]\ncall = "broken:main"\n', "", Invalid, r"SyntaxError.*broken.py:2"),
        ('[pipelines.train]\ncall = "missing:main"\n', "", Invalid, r"No module named 'nowhere'.*missing.py:1"),
        ('[pipelines.train]\ncall = "raises:main"\n', "", Invalid, r"ValueError: too early.*raises.py:1"),
    ],
)
def test_what_is_wrong_is_said(shop, toml, name, error, said):
    settings = shop("a", toml, broken="x = 1\ndef (", missing="import nowhere", raises="raise ValueError('too early')")
    with pytest.raises(error, match=said):
        load(settings, name)
