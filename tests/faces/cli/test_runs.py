"""plan, run and runs."""

from __future__ import annotations

import pytest
from tests.faces.cli.conftest import PIPELINE


def test_plan_then_run_then_reuse(cli, shop):
    planned = cli("plan", "train", "--json").json
    assert planned["inputs"]["data"] == "dataset:people@1"
    assert [(s["step"], s["action"]) for s in planned["steps"]] == [("clean", "run"), ("fit", "wait")]
    done = cli("run", "train", "--json").json
    assert (done["status"], done["result"]) == ("finished", "model:shop@1")
    assert [s["status"] for s in done["steps"]] == ["finished", "finished"]
    assert [s["action"] for s in cli("plan", "train", "--json").json["steps"]] == ["reuse", "reuse"]
    again = cli("run", "train")
    assert "0 steps run, 2 reused" in again.out
    assert "made model:shop@1" in again.out


def test_run_says_what_happens(cli, shop):
    said = cli("run", "train").out
    assert "clean        | cleaning 30 rows" in said
    assert "+ fit" in said
    assert "2 steps run, 0 reused" in said


@pytest.mark.parametrize("flag", ["--explain", "--dry-run"])
def test_explain_runs_nothing(cli, shop, flag):
    said = cli("run", "train", flag)
    assert "it has not run yet" in said.out
    assert cli("runs", "list", "--json").json == []


def test_set_force_and_seed(cli, trained):
    assert cli("plan", "train", "--set", "auc=0.9", "--json").json["steps"][1]["why"] == "input auc changed"
    assert cli("plan", "train", "--force", "clean", "--json").json["steps"][0]["why"] == "it was asked for with --force"
    done = cli("run", "train", "--force", "*", "--set", "name=other", "--json").json
    assert done["result"] == "model:other@1"
    seeded = cli("run", "train", "--seed", "3", "--explain", "--json").json
    assert seeded["steps"][0]["why"] == "seed 0 became 3"
    assert cli("run", "train", "--seed", "3", "--json").json["steps"][0]["status"] == "finished"


def test_a_change_of_code_is_named(cli, trained):
    import sys

    (trained / "work.py").write_text(PIPELINE.replace("LIMIT = 20.0", "LIMIT = 30.0"))
    del sys.modules["work"]
    steps = cli("plan", "train", "--json").json["steps"]
    assert [(s["action"], s["why"]) for s in steps][1] == ("run", "constant work:LIMIT changed")


def test_a_failing_step(cli, shop):
    said = cli("run", "unlucky")
    assert said.code == 1
    assert "step broken failed: ValueError: out of luck" in said.err
    assert "Traceback" in said.out
    run = next(r for r in cli("runs", "list", "--json", "--steps").json if r["name"] == "broken")
    assert run["status"] == "failed"
    assert "out of luck" in cli("runs", "show", run["id"]).out
    as_json = cli("run", "unlucky", "--json")
    assert (as_json.code, as_json.out, as_json.error["type"]) == (1, "", "StepFailed")


def test_module_and_function_instead_of_a_name(cli, shop):
    assert cli("run", "work:train", "--set", "data=people", "--json").code == 0


ERRORS = [
    (("run",), 2, "has 2 pipelines"),
    (("run", "trian"), 3, "no pipeline named 'trian'"),
    (("run", "train", "--set", "auc"), 2, "NAME=VALUE"),
    (("run", "train", "--set", "acu=1"), 3, "no parameter of pipeline train named 'acu'"),
    (("plan", "train", "--set", "data=nothing"), 3, "no dataset named 'nothing'"),
    (("run", "train", "--set", "data=nothing"), 3, "no dataset named 'nothing'"),
    (("runs", "show", "nothing"), 3, "no run named"),
    (("runs", "compare", "nothing"), 3, "no run named"),
    (("runs", "list", "--where", "what is this"), 2, ""),
    (("runs", "list", "--order", "no such field"), 2, ""),
]


def test_errors(cli, shop):
    for arguments, code, said in ERRORS:
        found = cli(*arguments)
        assert (found.code, said in found.err) == (code, True), found.err
        assert cli(*arguments, "--json").error["what"]


def test_runs_list_show_and_compare(cli, trained):
    cli("run", "train", "--set", "auc=0.9")
    listed = cli("runs", "list", "--json").json
    assert [r["name"] for r in listed] == ["train", "train"]
    steps = cli("runs", "list", "--steps", "--where", "metrics.auc>0.8", "--json").json
    assert {(r["name"], r["metrics"]["auc"]) for r in steps} == {("fit", 0.9), ("train", 0.9)}
    assert len(cli("runs", "list", "--name", "train", "--limit", "1", "--json").json) == 1
    assert cli("runs", "list", "--status", "failed", "--json").json == []
    shown = cli("runs", "show", listed[0]["id"][:20], "--json").json
    assert [s["name"] for s in shown["steps"]] == ["fit"]
    assert "train" in cli("runs", "show", "train").out
    compared = cli("runs", "compare", listed[0]["id"], listed[1]["id"], "--json").json
    assert compared["params"] == {"auc": [0.9, 0.75]}
    assert compared["same"]["data"] == "people@latest"
    assert "the same in all" in cli("runs", "compare", listed[0]["id"], listed[1]["id"]).out


def test_a_plot(cli, trained):
    run = cli("runs", "list", "--steps", "--where", "metrics.auc>0", "--json").json[0]["id"]
    assert cli("runs", "compare", run, "--plot", "plot.html").code == 0
    assert "vega" in (trained / "plot.html").read_text()[:100_000]
    assert cli("runs", "compare", run, "--plot", "plot.doc").code == 2
    assert cli("runs", "compare", "clean", "--plot", "plot.svg").code == 2


def test_a_pipeline_that_does_not_import(cli, shop):
    (shop / "boucle.toml").write_text('[pipelines.x]\ncall = "oops:x"\n')
    (shop / "oops.py").write_text("def (\n")
    said = cli("run")
    assert said.code == 2
    assert "oops.py:1" in said.err
