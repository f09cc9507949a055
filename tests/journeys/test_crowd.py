"""Fifty processes track runs in one SQLite workspace at once: nobody is turned away, nothing is lost."""

import subprocess
import sys

import pytest

import boucle
from boucle.core.where import field
from boucle.ledger import runs

PROCESSES, POINTS = 50, 100
PROGRAM = f"""
import sys
import boucle
number = int(sys.argv[2])
ws = boucle.open(sys.argv[1])
with boucle.track(ws, "crowd", params={{"number": number}}) as run:
    for step in range({POINTS}):
        run.log_metric("loss", number + step / 1000, step)
print(run.id)
"""


@pytest.mark.slow
def test_fifty_at_once(tmp_path):
    ws = boucle.init(tmp_path)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tmp_path), str(n)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(PROCESSES)
    ]
    ids = []
    for process in started:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        ids.append(out.strip())
    found = runs.find(ws, field("name") == "crowd")
    assert {r.id for r in found} == set(ids)
    assert sorted(r.params["number"] for r in found) == list(range(PROCESSES))
    for run in found:
        assert run.status == "finished"
        (series,) = runs.points(ws, run)
        assert series.steps == list(range(POINTS))
        assert series.values == [run.params["number"] + s / 1000 for s in range(POINTS)]
    ws.close()
