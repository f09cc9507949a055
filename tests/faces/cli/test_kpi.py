"""kpi on the command line."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

import boucle
from boucle.core.records import Code, Model, Rollout, Run
from boucle.faces.cli import kpi as module
from boucle.faces.cli.main import main
from boucle.ledger.journal import note
from boucle.ledger.services import reserve

DAY = 86400.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Three updates in three weeks, the last of which failed."""
    folder = tmp_path_factory.mktemp("history")
    now = time.time()
    with boucle.init(folder) as ws:
        for i, (ago, status) in enumerate([(16, "finished"), (9, "finished"), (2, "failed")], 1):
            moment = now - ago * DAY
            ws.now = lambda moment=moment: moment
            model = Model(name="<b>churn</b>", version=i, digest=f"d{i}", artifact="", run=f"r{i}")
            ws.store.put(
                Code(digest=f"c{i}", entry="t", sources="", commit=f"c{i}", committed=moment - 3 * DAY),
                Run(id=f"r{i}", name="train", started=moment, code=f"c{i}"), model,
                Rollout(id=f"o{i}", service="churn", strategy="replace", status=status, model=model.key, after=i,
                        started=moment, ended=moment),
            )  # fmt: skip
            reserve(ws, "churn", model, "process", moment)
            note(ws, f"rollout.{status}", f"service:churn@{i}")
    return folder


def test_kpi_prints_value_meaning_and_count(folder, capsys):
    assert main(["kpi", "--since", "18 days ago", "-C", str(folder)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^deployment time +3\.0 days, p90 3\.0 days +2 +from the commit", said, re.MULTILINE)
    assert re.search(r"^change failure rate +33%, failed 1 +3 ", said, re.MULTILINE)
    assert re.search(r"^time to detect +no data +0 ", said, re.MULTILINE)
    assert re.search(r"^successful updates +[▁█·]{3,4} ", said, re.MULTILINE)


def test_kpi_for_machines(folder, capsys):
    assert main(["kpi", "--service", "churn", "--json", "-C", str(folder)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["values"]["change_failure_rate"] | {"means": ""} == {
        "name": "change_failure_rate", "value": 1 / 3, "unit": "share", "n": 3, "means": "", "beside": {"failed": 1},
    }  # fmt: skip
    assert said["values"]["time_to_resolve"]["value"] is None
    assert sum(w["updates"] for w in said["weeks"]) == 2


def test_an_unknown_service_and_an_empty_window(folder, capsys):
    assert main(["kpi", "--service", "chrun", "-C", str(folder)]) == 3
    assert "churn" in capsys.readouterr().err
    assert main(["kpi", "--since", "1 hours ago", "-C", str(folder)]) == 0
    assert "by weeks" not in capsys.readouterr().out
    assert main(["kpi", "--since", "some day", "-C", str(folder)]) == 2


def test_the_page_needs_nothing_else(folder, tmp_path, capsys):
    path = tmp_path / "kpi.html"
    assert main(["kpi", "--out", str(path), "-C", str(folder)]) == 0
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"(src|href|url|@import|<script)", text), "nothing is fetched, nothing is run"
    drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(drawings) == 4
    assert all(ElementTree.fromstring(d).findall("rect") for d in drawings)
    assert main(["kpi", "--out", str(tmp_path / "no" / "kpi.html"), "-C", str(folder)]) == 7
    capsys.readouterr()


def test_bars_leave_out_what_is_not_known():
    assert module.bars([0.0, 1.0, None, 7.0]) == "▁▂·█"
    assert module.bars([0.0, None]) == "▁·"
