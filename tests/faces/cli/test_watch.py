"""watch, label and report on the command line."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import boucle
from boucle.faces.cli import watch as module
from boucle.faces.cli.main import main
from boucle.ledger import datasets, models, services
from boucle.ops.serve.predictions import PredictionLog

GRADES = "def grade(rows):\n    return ['far' if (row['km'] or 0) > 8 else 'near' for row in rows]\n"


def table(rows: int, seed: int, far: float = 0.0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    zones = random.choice(["north", "south", "<b>east</b>"], rows)
    return {"km": random.gamma(2.0, 3.0, rows) + far, "zone": zones, "always": np.ones(rows, np.int64)}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[str]]]:
    folder = tmp_path_factory.mktemp("grades")
    (folder / "grading.py").write_text(GRADES)
    sys.path.insert(0, str(folder))
    try:
        import grading

        with boucle.init(folder) as ws:
            datasets.commit(ws, "rides", boucle.Frame.of(table(1200, 0)))
            trained = datasets.load(ws, "rides")
            model = models.register(ws, "grade", grading.grade, data=trained, trained=trained)
            service = services.reserve(ws, "grade", model, "process", time.time())
            log = PredictionLog(Path(service.folder, "predictions"))
            ids: list[str] = []
            for part in (table(200, 1), table(300, 2, far=7.0)):
                lines = []
                for km, zone in zip(part["km"].tolist(), part["zone"].tolist(), strict=True):
                    body = {
                        "time": time.time(), "inputs": {"km": km, "zone": zone, "always": 1},
                        "output": {"prediction": "far" if km > 8 else "near"}, "latency_us": 900, "request": "r",
                    }  # fmt: skip
                    lines.append(json.dumps(body)[1:-1])
                ids += log.append(lines)
            log.close()
            yield folder, ids
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("grading", None)


def test_watch_prints_a_line_per_column(project, capsys):
    assert main(["watch", "grade", "-C", str(project[0])]) == 0
    said = capsys.readouterr().out
    assert "dataset:rides@1" in said
    assert re.search(r"^km +number +0\.0% .* fail +.*the median went from", said, re.MULTILINE)
    assert re.search(r"^zone +category .* pass +as in training", said, re.MULTILINE)
    assert "(prediction)" in said


def test_watch_for_machines(project, capsys):
    assert main(["watch", "grade", "--window", "200", "--json", "-C", str(project[0])]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["status"], said["rows"], said["model"]) == ("fail", 200, "grade@1")
    assert {c["name"] for c in said["drift"]["columns"]} == {"km", "zone", "always", "(prediction)"}


def test_follow_gives_a_line_a_look(project, capsys, monkeypatch):
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(module.time, "sleep", pause)
    assert main(["watch", "grade", "--follow", "--every", "2", "--json", "-C", str(project[0])]) == 130
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["status"] for line in lines] == ["fail"] * 3
    assert pauses == [2.0] * 3


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_label_reads_both_forms(project, tmp_path, capsys, form):
    folder, ids = project
    file = tmp_path / f"truth.{form}"
    if form == "csv":
        file.write_text("id,label\n" + "".join(f"{i},near\n" for i in ids[:50]) + "01ARZ3NDEKTSV4RRFFQ69G5FAV,far\n")
    else:
        file.write_text("".join(json.dumps({"id": i, "label": "near"}) + "\n" for i in ids[:50]))
    assert main(["label", "grade", str(file), "-C", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "50 labels kept" in said
    assert ("1 ids were not given by this service" in said) is (form == "csv")
    assert main(["watch", "grade", "--json", "-C", str(folder)]) == 0
    outcome = json.loads(capsys.readouterr().out)["outcome"]
    assert (outcome["answered"], outcome["labelled"], outcome["completeness"]) == (500, 50, 0.1)
    assert 0 < outcome["scores"]["accuracy"] <= 1


def test_label_says_what_is_wrong_with_a_file(project, tmp_path, capsys):
    file = tmp_path / "truth.csv"
    assert main(["label", "grade", str(file), "-C", str(project[0])]) == 3
    file.write_text("id,truth\nx,1\n")
    assert main(["label", "grade", str(file), "-C", str(project[0])]) == 2
    assert "id and label in every row" in capsys.readouterr().err


def test_report_is_one_file_that_needs_nothing_else(project, tmp_path, capsys):
    folder, _ = project
    path = tmp_path / "grade.html"
    assert main(["report", "grade", "--out", str(path), "-C", str(folder)]) == 0
    assert "grade@1 is fail" in capsys.readouterr().out
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"(src|href|url|@import|<script)", text), "nothing is fetched, nothing is run"
    assert "prefers-color-scheme:dark" in text
    assert "<b>east</b>" not in text
    assert "&lt;b&gt;east" in text
    drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(drawings) == 4
    for drawing in drawings:
        ElementTree.fromstring(drawing)
    assert "nan" not in "".join(drawings)
    assert main(["report", "grade", "--out", str(tmp_path / "none" / "x.html"), "-C", str(folder)]) == 7


def test_report_can_be_a_picture(project, tmp_path, capsys):
    pytest.importorskip("vl_convert")
    path = tmp_path / "grade.png"
    assert main(["report", "grade", "--out", str(path), "-C", str(project[0])]) == 0
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG")
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    assert width == 1680
    assert height > 600
    assert main(["report", "grade", "--out", str(tmp_path / "grade.doc"), "-C", str(project[0])]) == 2
    assert ".html or .png" in capsys.readouterr().err


def test_a_picture_without_its_library_says_what_to_install(project, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    path = tmp_path / "grade.png"
    assert main(["report", "grade", "--out", str(path), "-C", str(project[0])]) == 8
    assert "boucle[plot]" in capsys.readouterr().err
    assert not path.exists()


def test_follow_on_a_terminal_is_a_live_table(project, monkeypatch):
    import io

    from rich.console import Console

    from boucle.faces.cli import out
    from boucle.ops.watch import watch

    screen = io.StringIO()
    monkeypatch.setattr(out, "console", lambda: Console(file=screen, force_terminal=True, width=160, height=60))
    looks: list[int] = []

    def pause(seconds: float) -> None:
        if len(looks) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(module.time, "sleep", pause)
    with boucle.open(project[0]) as ws, pytest.raises(KeyboardInterrupt):
        module._live(lambda: looks.append(1) or watch(ws, "grade"), 2.0)
    said = screen.getvalue()
    assert said.count("anomalies") == 2
    assert "(prediction)" in said


def test_the_page_marks_an_estimate_as_one():
    from boucle.faces.cli.watch_page import _estimate, estimated
    from boucle.measure.estimate import NOTE, Estimate

    found = Estimate(f"{NOTE}: calibrated", 500, True, {"accuracy": (0.8, 0.75, 0.85)}, {"accuracy": 0.82})
    assert "An estimate, not a measurement" in _estimate(found)
    assert estimated(found) == f"accuracy 0.800 (0.750 to 0.850); {NOTE}: calibrated, over the last 500 rows"
