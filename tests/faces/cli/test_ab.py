"""ab on the command line: what it prints, what it writes, and the plan of an experiment."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import boucle
from boucle.core.records import Rollout
from boucle.core.refs import new_id
from boucle.faces.cli.main import main
from boucle.ledger import models, services
from boucle.ops.label import label
from boucle.ops.serve.predictions import PredictionLog

CODE = "def says(rows):\n    return ['stays'] * len(rows)\n"


def rollout(ws: boucle.Workspace, model: models.Model, name: str, rows: int) -> None:
    """Two revisions, of which the second one is right more often."""
    began = ws.now() - 3600
    arms = [services.reserve(ws, name, model, "process", began) for _ in range(2)]
    fields = {"strategy": "ab", "policy": {"share": 0.5}, "status": "running", "started": began}
    ws.store.put(Rollout(id=new_id(), service=name, before=1, after=2, **fields))
    random = np.random.default_rng(0)
    for arm, right in zip(arms, (0.7, 0.85), strict=True):
        log = PredictionLog(Path(arm.folder, "predictions"))
        lines = [
            json.dumps(
                {
                    "time": began + 1 + i, "inputs": {"zone": "<b>east</b>" if i % 3 else "west"},
                    "output": {"prediction": "stays"}, "latency_us": int(random.gamma(4, 500)), "request": new_id(),
                }
            )[1:-1]
            for i in range(rows)
        ]  # fmt: skip
        ids = log.append(lines) if lines else []
        log.close()
        truth = np.where(random.random(rows) < right, "stays", "leaves").tolist()
        label(ws, arm, dict(zip(ids, truth, strict=True)))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("churn")
    (folder / "saying.py").write_text(CODE)
    sys.path.insert(0, str(folder))
    try:
        import saying

        with boucle.init(folder) as ws:
            model = models.register(ws, "churn", saying.says, data=boucle.Frame.of({"zone": ["west", "east"]}))
            rollout(ws, model, "churn", 900)
            rollout(ws, model, "young", 0)
            yield folder
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("saying", None)


def test_a_verdict_a_table_and_a_drawing(project, capsys):
    assert main(["ab", "churn", "-C", str(project)]) == 0
    said = capsys.readouterr().out
    # Both revisions run the same model, so they are named by their number.
    assert re.match(r"churn@2 is right in \d\d\.\d % of cases, churn@1 in .* points better \(95 % interval", said)
    assert re.search(r"^right +\d\d\.\d % +\d\d\.\d % +\+\d+\.\d .* better", said, re.MULTILINE)
    assert re.search(r"^latency \(p95 .* ms\) ", said, re.MULTILINE)
    drawn = re.findall(r"^ +([\d,]+) .*[│●].* (\S+) to (\S+)$", said, re.MULTILINE)
    assert len(drawn) == 8
    assert drawn[-1][0] == "1,800"
    assert float(drawn[-1][1]) > 0 > float(drawn[0][1])  # it did not show at the first look


def test_segments(project, capsys):
    assert main(["ab", "churn", "--segment", "zone", "-C", str(project)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^<b>east</b> +right .*600 and 600", said, re.MULTILINE)
    assert "97.5 % interval" in said
    assert main(["ab", "churn", "--segment", "zones", "-C", str(project)]) == 3


def test_for_machines(project, capsys):
    assert main(["ab", "churn", "--json", "--metric", "failures", "--smallest", "0.05", "-C", str(project)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["measures"][0]["name"] == "failures"
    assert said["measures"][0]["verdict"] == "no difference"
    assert {m["name"] for m in said["measures"]} >= {"right", "latency", "slow"}


def test_a_page_that_needs_nothing_else(project, tmp_path):
    path = tmp_path / "churn.html"
    assert main(["ab", "churn", "--segment", "zone", "--out", str(path), "-C", str(project)]) == 0
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"(src=|href|url\(|@import|<script)", text), "nothing is fetched, nothing is run"
    assert "points better" in text
    assert "&lt;b&gt;east" in text
    assert "<b>east" not in text
    (drawing,) = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    band = ElementTree.fromstring(drawing).find(".//{*}polygon")
    assert band is not None
    assert len(band.attrib["points"].split()) > 20
    assert "nan" not in drawing


@pytest.mark.parametrize("service", ["churn", "young"])
def test_drawings_alone(project, tmp_path, service):
    svg = tmp_path / "effect.svg"
    assert main(["ab", service, "--out", str(svg), "-C", str(project)]) == 0
    found = ElementTree.fromstring(svg.read_text(encoding="utf-8"))
    assert (found.find(".//{*}polygon") is None) is (service == "young")


def test_a_picture(project, tmp_path):
    pytest.importorskip("vl_convert")
    path = tmp_path / "effect.png"
    assert main(["ab", "churn", "--out", str(path), "-C", str(project)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")


def test_nothing_yet(project, capsys):
    assert main(["ab", "young", "-C", str(project)]) == 0
    assert "to compare yet" in capsys.readouterr().out


def test_a_plan_needs_no_service(capsys, tmp_path):
    assert (
        main(["ab", "--plan", "--baseline", "0.1", "--smallest", "0.02", "--rate", "600/min", "-C", str(tmp_path)]) == 0
    )
    said = capsys.readouterr().out
    assert re.search(r"^rows per arm +10,\d\d\d", said, re.MULTILINE)
    assert re.search(r"^at most +36 minutes", said, re.MULTILINE)
    assert "3,839 rows per arm" in said
    assert main(["ab", "--plan", "--deviation", "10", "--smallest", "0.5", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["rows"] > made["single"] > 6000
    assert made["seconds"] is None


@pytest.mark.parametrize(
    "wrong",
    [
        ["ab"], ["ab", "churn", "--out", "x.pdf"], ["ab", "--plan", "--baseline", "0.1"],
        ["ab", "--plan", "--smallest", "0.1"], ["ab", "--plan", "--baseline", "0.1", "--smallest", "0.1", "--rate", "x/s"],
        ["ab", "--plan", "--baseline", "0.1", "--smallest", "0.1", "--rate", "5/week"],
        ["ab", "--plan", "--baseline", "0.1", "--deviation", "1", "--smallest", "0.1"],
    ],
)  # fmt: skip
def test_bad_input(wrong, capsys):
    assert main(wrong) == 2
    assert "expected" in capsys.readouterr().err


def test_a_page_that_cannot_be_written(project, tmp_path):
    assert main(["ab", "churn", "--out", str(tmp_path / "none" / "x.html"), "-C", str(project)]) == 7
    assert main(["ab", "nobody", "-C", str(project)]) == 3
