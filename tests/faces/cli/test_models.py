"""models, show, history, promote, approve, rollback, why, impact and journal."""

from __future__ import annotations

import json

import pytest


def test_models_and_show(cli, trained):
    assert [m["model"] for m in cli("models", "--json").json] == ["shop@1"]
    assert "shop@1" in cli("models", "shop").out
    shown = cli("show", "model:shop", "--json").json
    assert (shown["kind"], shown["version"], shown["card"]) == ("model", 1, "# The card")
    assert [v["check"] for v in shown["verdicts"]] == ["proof"]
    assert [c["name"] for c in shown["input"]] == ["age"]
    assert "The card" in cli("show", "model:shop").out


@pytest.mark.parametrize("ref", ["people", "dataset:people@1", "run:train", "shop@latest"])
def test_show_anything(cli, trained, ref):
    assert cli("show", ref).code == 0
    assert cli("show", ref, "--json").json["kind"] in ("dataset", "run", "model")


def test_the_gate_refuses_then_lets_through(cli, shop):
    cli("run", "train", "--set", "auc=0.5")
    dry = cli("promote", "shop", "production", "--dry-run", "--json")
    assert dry.code == 4
    assert [c["holds"] for c in dry.json["conditions"]] == [False, True]
    refused = cli("promote", "shop", "production")
    assert refused.code == 4
    assert "auc is 0.5, at least 0.7 is asked" in refused.err
    cli("run", "train", "--set", "auc=0.9")
    assert cli("promote", "shop", "production", "--dry-run").code == 0
    moved = cli("promote", "shop@2", "production", "--reason", "better", "--json")
    assert (moved.code, moved.json["stage"], moved.json["before"]) == (0, "production", "none")
    assert cli("promote", "shop@2", "production").code == 2
    events = cli("history", "shop", "--json").json
    assert [e["type"] for e in events] == ["model.registered", "model.refused", "model.registered", "model.stage"]
    assert "better" in cli("history", "shop").out


def test_rollback_and_the_past(cli, trained):
    cli("run", "train", "--set", "auc=0.9")
    cli("promote", "shop@1", "production")
    cli("promote", "shop@2", "production")
    assert cli("rollback", "shop", "--reason", "worse", "--json").json == {
        "model": "model:shop@1", "stage": "production", "replaced": "model:shop@2",
    }  # fmt: skip
    assert cli("show", "shop@{now}", "--json").json["stages"] == {"production": 1}
    assert cli("show", "shop@{1 hours ago}", "--json").json["stages"] == {}
    assert "in any stage then" in cli("show", "shop@{2001-01-01}").out
    assert cli("show", "shop@{whenever}").code == 2


def test_approve(cli, trained):
    (trained / "boucle.toml").write_text((trained / "boucle.toml").read_text() + "approvals = 1\n")
    refused = cli("promote", "shop", "production")
    assert (refused.code, "boucle approve shop@1 production" in refused.err) == (4, True)
    assert cli("approve", "shop@1", "production", "--json").json["actor"] == "ann"
    assert "approved" in cli("approve", "shop@1", "production").out
    assert cli("promote", "shop", "production").code == 0


def test_why_and_impact(cli, trained):
    tree = cli("why", "shop", "--json").json
    assert tree["ref"] == "model:shop@1"
    assert "people.csv" in json.dumps(tree)
    assert "people@1" in cli("why", "shop").out
    touched = cli("impact", "dataset:people", "--json").json["touched"]
    assert touched["model"] == ["model:shop@1"]
    assert "touched: " in cli("impact", "people").out
    assert cli("impact", "package:numpy", "--json").json["touched"]["model"] == ["model:shop@1"]


def test_journal(cli, trained):
    events = cli("journal", "--json").json
    assert [e["type"] for e in events] == ["dataset.committed", "model.registered"]
    assert [e["type"] for e in cli("journal", "--type", "model", "--json").json] == ["model.registered"]
    assert [e["sequence"] for e in cli("journal", "--after", "1", "--json").json] == [2]
    assert [e["sequence"] for e in cli("journal", "--limit", "1", "--json").json] == [2]
    assert cli("journal", "--limit", "0", "--json").json == []
    assert "model.registered" in cli("journal", "--subject", "model:shop").out


ERRORS = [
    (("models", "shpo"), 3), (("show", "shpo"), 3), (("show", "modle:shop"), 3), (("history", "shpo"), 3),
    (("promote", "shop", "prod"), 3), (("promote", "shop@9", "production"), 3), (("approve", "shop", "prod"), 3),
    (("rollback", "shop"), 3), (("why", "nothing"), 3), (("impact", "nothing"), 3), (("impact", "commit:ffff"), 3),
    (("why", "prediction:x"), 3), (("promote", "shop@", "production"), 2), (("predict", "shop", "{}"), 3),
    (("stop", "shop"), 3), (("deploy", "shpo"), 3), (("deploy", "shop"), 4),
]  # fmt: skip


def test_errors(cli, trained):
    for arguments, code in ERRORS:
        said = cli(*arguments)
        assert said.code == code, said.err
        assert cli(*arguments, "--json").error["what"]


def test_an_empty_workspace(cli, home):
    cli("init")
    assert "no models yet" in cli("models").out
    assert "no runs yet" in cli("runs", "list").out
    assert "no services yet" in cli("services").out
    assert "nothing happened yet" in cli("journal").out
    for command in (("models",), ("runs", "list"), ("services",), ("journal",)):
        assert cli(*command, "--json").json == []
