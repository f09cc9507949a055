"""The command line called in this process, and a project whose pipeline costs next to nothing."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from boucle.faces.cli.main import main

PIPELINE = '''"""Says yes above a threshold."""
from boucle import Frame, Model, pipeline, register, step
from boucle.core.schema import Column, Schema
from boucle.ledger import recording

LIMIT = 20.0


def predict(rows: list):
    return ["yes" if (r["age"] or 0) > LIMIT else "no" for r in rows]


@step
def clean(data: Frame) -> Frame:
    print("cleaning", len(data), "rows")
    return data


@step
def fit(data: Frame, name: str, auc: float) -> Model:
    recording.log_metrics({"auc": auc})
    schema = Schema((Column("age", "float64"),))
    return register(recording.running().ws, name, predict, data=data.select(["age"]), input=schema, task="binary",
                    metrics={"auc": auc}, card="# The card")


@pipeline
def train(data: Frame, name: str = "shop", auc: float = 0.75):
    return fit(clean(data), name, auc)


@step
def broken():
    raise ValueError("out of luck")


@pipeline
def unlucky():
    return broken()
'''
TOML = """[boucle]
[pipelines.train]
call = "work:train"
data = "people@latest"
[pipelines.unlucky]
call = "work:unlucky"
[gates.production]
minimum = { auc = 0.7 }
"""
CSV = "age,plan,churned\n" + "".join(f"{20 + i},{'ab'[i % 2]},{'yes' if i > 10 else 'no'}\n" for i in range(30))


@dataclass
class Said:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        return json.loads(self.err)["error"]


@pytest.fixture
def cli(capsys):
    """Run a command; usage errors are told by their code too."""

    def call(*arguments):
        capsys.readouterr()
        try:
            code = main([str(a) for a in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return call


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty folder to be in."""
    before, path = set(sys.modules), list(sys.path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BOUCLE_ACTOR", "ann")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if str(tmp_path) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


@pytest.fixture
def shop(home, cli):
    """A project with data, not run yet."""
    (home / "people.csv").write_text(CSV)
    assert cli("init").code == 0
    (home / "work.py").write_text(PIPELINE)
    (home / "boucle.toml").write_text(TOML)
    assert cli("data", "ingest", "people.csv", "--name", "people").code == 0
    return home


@pytest.fixture
def trained(shop, cli):
    """A project with a registered model."""
    assert cli("run", "train").code == 0
    return shop
