"""A workspace, user modules on disk, and models that cost little to register."""

from __future__ import annotations

import sys
import textwrap

import pytest

import boucle.workspace
from boucle.core.bundle import open_bundle, replay
from boucle.core.frames import Frame
from boucle.ledger import bundles, models
from boucle.ledger import code as codes


@pytest.fixture
def shop(tmp_path):
    """A real workspace with an SQLite store."""
    codes.checkout.cache_clear()
    with boucle.workspace.init(tmp_path / "shop", actor="ann") as opened:
        yield opened


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write user modules and import one of them."""
    folder = tmp_path / "user"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)

    def make(name, text, **others):
        import importlib

        for path, content in {name: text, **others}.items():
            file = folder / (path if "." in path else f"{path}.py")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(textwrap.dedent(content))
        for known in [m for m in sys.modules if m.split(".")[0] == name.split("/")[0]]:
            del sys.modules[known]
        importlib.invalidate_caches()
        return importlib.import_module(name.replace("/", "."))

    yield make
    for name in set(sys.modules) - before:
        if str(folder) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


@pytest.fixture
def rows():
    """Input of the models here."""
    return Frame.of({"x": [float(i) for i in range(30)]})


@pytest.fixture
def register(shop, module, rows, monkeypatch):
    """Register `predict`, a function that says whether x is above a threshold, as the next version of a model. The proof
    is made in this process, which saves most of the time."""

    def prove(folder):
        return {"ok": replay(open_bundle(folder)) == [], "said": "proved here"}

    monkeypatch.setattr(bundles, "prove", prove)

    def make(threshold=10.0, name="churn", **options):
        code = f"def predict(rows):\n    return ['yes' if r['x'] > {threshold} else 'no' for r in rows]\n"
        predict = module(f"rule{str(threshold).replace('.', '_')}", code).predict
        return models.register(shop, name, predict, data=rows, **{"task": "binary", **options})

    return make
