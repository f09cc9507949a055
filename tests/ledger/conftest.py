"""A workspace, user modules on disk, and models that cost little to register."""

from __future__ import annotations

import sys
import textwrap

import pytest

import boucle.workspace
from boucle.core.frames import Frame
from boucle.ledger import code as codes
from boucle.ledger import models


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


ROWS = Frame.of({"x": [float(i) for i in range(30)]})


@pytest.fixture
def register(shop, module):
    """Register `predict`, a function that says whether x is above a threshold, as the next version of a model."""

    def make(threshold=10.0, name="churn", **options):
        code = f"def predict(rows):\n    return ['yes' if r['x'] > {threshold} else 'no' for r in rows]\n"
        predict = module(f"rule{str(threshold).replace('.', '_')}", code).predict
        return models.register(shop, name, predict, data=ROWS, **{"task": "binary", **options})

    return make
