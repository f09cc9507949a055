"""seal on the command line."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import boucle
from boucle.core.bundle import open_bundle, replay
from boucle.core.refs import new_id
from boucle.faces.cli.main import main
from boucle.ledger import bundles, datasets, models, services
from boucle.ops.label import label
from boucle.ops.serve.predictions import PredictionLog

FARES = "def fare(rows):\n    return [2.0 * row['km'] for row in rows]\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with a model that was trained on a dataset."""
    folder = tmp_path_factory.mktemp("fares")
    (folder / "sealed_fares.py").write_text(FARES)
    with pytest.MonkeyPatch.context() as patch, boucle.init(folder) as ws:
        patch.syspath_prepend(str(folder))
        patch.setattr(bundles, "prove", lambda f: {"ok": replay(open_bundle(f)) == [], "said": "proved here"})
        import sealed_fares

        datasets.commit(ws, "rides", boucle.Frame.of({"id": ["a", "b"], "km": [1.0, 2.0], "paid": [2.0, 4.0]}))
        data = datasets.load(ws, "rides")
        models.register(
            ws, "fare", sealed_fares.fare, data=data.select(["km"]), trained=data, holdout=data, target="paid"
        )  # fmt: skip
    yield folder
    sys.modules.pop("sealed_fares", None)


@pytest.fixture
def service(folder: Path) -> tuple[str, list[str]]:
    """A service that was asked four times a while ago, and the ids it gave."""
    with boucle.open(folder) as ws:
        made = services.reserve(ws, f"s{new_id().lower()}", models.resolve(ws, "fare"), "process", 1.0)
        stamp = {"service": made.name, "revision": 1, "model": "fare@1", "digest": made.digest}
        body = {"time": time.time() - 60, **stamp, "inputs": {"km": 3.0}, "output": {"prediction": 6.0}}
        line = json.dumps({**body, "latency_us": 100, "request": "r"})[1:-1]
        log = PredictionLog(Path(made.folder, "predictions"))
        ids = log.append([line] * 4)
        log.close()
    return made.name, ids


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("boucle.ops.seal._BEHIND", -5.0)


def test_seal_says_what_came_of_it(folder, service, capsys):
    name, ids = service
    with boucle.open(folder) as ws:
        label(ws, name, {ids[0]: 5.0, ids[1]: "free"})
    assert main(["seal", name, "--dry-run", "-C", str(folder)]) == 0
    assert "would be sealed: 4 rows, 1 of them labelled" in capsys.readouterr().out
    assert main(["seal", name, "-C", str(folder)]) == 0
    said = capsys.readouterr().out
    assert f"{name}-predictions@1: 4 rows, 1 of them labelled, asked 20" in said
    assert "1 label cannot be an answer of the model" in said
    assert main(["seal", name, "-C", str(folder)]) == 0
    assert f"nothing new; {name}-predictions@1 is the newest" in capsys.readouterr().out


def test_seal_for_machines(folder, service, capsys):
    name, ids = service
    assert main(["seal", name, "--into", f"of-{name}", "--json", "-C", str(folder)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["dataset"], said["new"], said["rows"], said["first"]) == (f"of-{name}@1", True, 4, ids[0])
    assert (said["last"], said["revisions"]) == (ids[-1], [1])


def test_nothing_was_asked_yet(folder, capsys):
    with boucle.open(folder) as ws:
        services.reserve(ws, "quiet", models.resolve(ws, "fare"), "process", 1.0)
    assert main(["seal", "quiet", "-C", str(folder)]) == 0
    assert "nothing was asked yet" in capsys.readouterr().out


def test_labelled_rows_go_into_the_training_data(folder, service, capsys):
    name, ids = service
    with boucle.open(folder) as ws:
        label(ws, name, {ids[0]: 5.0, ids[1]: "free"})
        rows = datasets.resolve(ws, "rides").rows
    asked = ["seal", name, "--labelled", "-C", str(folder)]
    assert main(asked) == 2
    assert "--null id" in capsys.readouterr().err
    assert main([*asked, "--null", "id", "--dry-run"]) == 0
    assert "would get 1 labelled prediction more" in capsys.readouterr().out
    assert main([*asked, "--null", "id", "--least", "2"]) == 7
    assert "2 new labelled predictions" in capsys.readouterr().err
    assert main([*asked, "--null", "id"]) == 0
    said = capsys.readouterr().out
    assert f"{rows + 1} rows, has 1 labelled prediction more" in said
    assert "1 row set aside for its label" in said
    assert main([*asked, "--json", "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["set_aside"] == {"label": 1}


@pytest.mark.parametrize(
    "options", [["--labelled", "--into", "x"], ["--recent", "5"], ["--null", "id"], ["--least", "2"]]
)
def test_options_that_do_not_go_together(folder, service, capsys, options):
    assert main(["seal", service[0], *options, "-C", str(folder)]) == 2
    assert "--labelled" in capsys.readouterr().err
