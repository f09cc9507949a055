"""deploy, services, predict and stop."""

from __future__ import annotations

import io
import json
import urllib.request

import pytest


@pytest.fixture
def served(trained, cli):
    """The model of the project, deployed; stopped at the end."""
    assert cli("promote", "shop", "production").code == 0
    service = cli("deploy", "shop", "--json")
    assert service.code == 0, service.err
    yield service.json
    cli("stop", "shop")


def test_a_service_from_deploy_to_stop(served, cli, home, monkeypatch):
    assert (served["service"], served["model"], served["status"]) == ("shop@1", "shop@1", "ready")
    with urllib.request.urlopen(served["url"] + "/openapi.json") as response:
        assert json.load(response)["openapi"].startswith("3.")

    one = cli("predict", "shop", '{"age": 33}', "--json").json
    assert [a["prediction"] for a in one] == ["yes"]
    (home / "rows.json").write_text('[{"age": 1}, {"age": 40}]')
    assert [a["prediction"] for a in cli("predict", "shop", "rows.json", "--json").json] == ["no", "yes"]
    monkeypatch.setattr("sys.stdin", io.StringIO('{"age": 2}\n{"age": null}\n'))
    assert [a["prediction"] for a in cli("predict", "shop", "--json").json] == ["no", "no"]
    said = cli("predict", "shop", '{"age": 33}')
    assert "yes" in said.out
    assert "boucle why prediction:" in said.out

    for rows, code in (
        ("[]", 2), ("nothing.json", 2), ("{", 2), ("5", 2), ('{"age": "x"}', 2), ('{"years": 3}', 2), ('["a"]', 2),
    ):  # fmt: skip
        failed = cli("predict", "shop", rows)
        assert (failed.code, "error: " in failed.err) == (code, True), (rows, failed.err)

    tree = cli("why", f"prediction:{one[0]['id']}", "--json").json
    assert tree["facts"]["inputs"] == {"age": 33.0}
    assert cli("show", f"prediction:{one[0]['id']}", "--json").json["output"]["prediction"] == "yes"
    assert "predictions" in cli("impact", "people").out

    assert cli("run", "train", "--set", "auc=0.9").code == 0
    words = cli("deploy", "shop@2")
    assert words.code == 0
    assert "shop@2 serves shop@2" in words.out
    assert "curl -s " in words.out
    assert [s["service"] for s in cli("services", "--json").json] == ["shop@2"]
    assert {s["service"]: s["status"] for s in cli("services", "--all", "--json").json} == {
        "shop@2": "ready", "shop@1": "stopped",
    }  # fmt: skip
    assert cli("predict", "shop@1", '{"age": 1}').code == 7

    stopped = cli("stop", "shop", "--reason", "enough", "--json")
    assert (stopped.code, stopped.json["status"]) == (0, "stopped")
    assert cli("stop", "shop").code == 2
    assert cli("predict", "shop", '{"age": 1}').code == 7
    assert [e["type"] for e in cli("journal", "--type", "service", "--json").json][-1] == "service.stopped"
    assert cli("fsck").code == 0


def test_a_port_that_is_taken(trained, cli):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        said = cli("deploy", "shop@1", "--port", taken.getsockname()[1])
    assert (said.code, "cannot" in said.err) == (7, True), said.err
    assert [s["status"] for s in cli("services", "--json").json] in ([], ["failed"])


def test_a_target_that_is_not_there(trained, cli):
    assert cli("deploy", "shop@1", "--target", "moon").code == 3
    assert cli("deploy", "shop@1", "--name", "no name").code == 2
