"""A workspace, and pipelines written as the files of a project, so that their code can change between runs."""

from __future__ import annotations

import sys
import textwrap

import pytest

import boucle.workspace
from boucle.core.frames import Frame
from boucle.flow.execute import execute
from boucle.flow.load import load
from boucle.flow.plan import plan
from boucle.ledger import datasets

HEAD = "from __future__ import annotations\nfrom typing import NamedTuple\nfrom boucle import Frame, pipeline, step\n"


@pytest.fixture
def ws(tmp_path):
    with boucle.workspace.init(tmp_path / "shop", actor="tester", workers=4) as opened:
        yield opened


@pytest.fixture
def project(ws, monkeypatch):
    """Code in, pipeline out; always the function `main` of a fresh `flowcode.py`."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    path = list(sys.path)

    class Project:
        def __init__(self):
            self.pipeline = None

        def write(self, code, **others):
            for name, text in {"flowcode": HEAD + textwrap.dedent(code), **others}.items():
                (ws.project / f"{name}.py").write_text(textwrap.dedent(text))
                sys.modules.pop(name, None)
            self.pipeline, _ = load(ws.settings, "flowcode:main")
            return self

        def run(self, **arguments):
            options = {k: arguments.pop(k) for k in ("force", "listen", "seed") if k in arguments}
            return execute(ws, self.pipeline, arguments, **options)

        def plan(self, **arguments):
            options = {k: arguments.pop(k) for k in ("force", "seed") if k in arguments}
            return plan(ws, self.pipeline.trace(arguments), **options).steps

    yield Project()
    sys.path[:] = path
    for name in [n for n, m in sys.modules.items() if str(ws.project) in (getattr(m, "__file__", None) or "")]:
        del sys.modules[name]


@pytest.fixture
def numbers(ws):
    """Commit a table of these numbers as the next version of `numbers`."""
    return lambda *values: datasets.commit(ws, "numbers", Frame.of({"x": list(values)}))[0]


@pytest.fixture
def fates():
    """Step -> what became of its calls, of an execution."""

    def tell(execution):
        out = {}
        for outcome in execution.outcomes:
            out.setdefault(outcome.label, []).append(outcome.status)
        return {label: said[0] if len(said) == 1 else said for label, said in out.items()}

    return tell
