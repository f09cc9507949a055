"""Many processes at once in one SQLite workspace: no errors, and nothing lost."""

from __future__ import annotations

import subprocess
import sys

import pytest

import boucle.workspace
from boucle.ledger import runs
from boucle.ledger.soundness import check

CROWD = 50
POINTS = 100

ONE = """
import os, sys
import boucle
number, points = int(sys.argv[2]), int(sys.argv[3])
ws = boucle.open(sys.argv[1], actor=f"user{number}")
sys.stdin.read()  # all begin at once
with boucle.track(ws, f"run{number}", params={"number": number, "half": number / 2, "name": f"n{number}"}) as run:
    for i in range(points // 2):
        run.log_metric("loss", number + i)
    for i in range(points // 2):
        run.log_metrics({"both": i, "loss": number - i})
    run.tag(crowd=True)
"""


@pytest.mark.slow
def test_fifty_processes_track_at_once(tmp_path):
    boucle.workspace.init(tmp_path).close()
    command = [sys.executable, "-c", ONE, str(tmp_path)]
    crowd = [
        subprocess.Popen([*command, str(n), str(POINTS)], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for n in range(CROWD)
    ]
    for process in crowd:
        process.stdin.close()
    errors = [process.stderr.read() for process in crowd]
    assert [process.wait() for process in crowd] == [0] * CROWD, errors
    assert errors == [""] * CROWD
    for process in crowd:
        process.stderr.close()
    with boucle.workspace.open(tmp_path) as ws:
        found = {r.name: r for r in runs.find(ws)}
        assert found.keys() == {f"run{n}" for n in range(CROWD)}
        for n in range(CROWD):
            run = found[f"run{n}"]
            assert (run.status, run.actor, run.tags) == ("finished", f"user{n}", {"crowd": True})
            assert run.params == {"number": n, "half": n / 2, "name": f"n{n}"}
            series = {p.name: list(p.values) for p in runs.points(ws, run)}
            half = range(POINTS // 2)
            assert series == {
                "loss": [*(float(n + i) for i in half), *(float(n - i) for i in half)],
                "both": [float(i) for i in half],
            }
        assert len(runs.find(ws, order=["name"])) == CROWD
        assert check(ws).problems == []
        assert not list((ws.root / "live").iterdir())
