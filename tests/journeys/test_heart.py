"""The first journey end to end: from a CSV file to answers over HTTP, and every answer traced back to the file."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

import pytest

pytestmark = pytest.mark.slow


def ask(url, rows, path="/predict"):
    request = urllib.request.Request(
        url + path, json.dumps({"rows": rows}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def refs(tree):
    yield tree["ref"]
    for child in tree["children"]:
        yield from refs(child)


def test_from_a_file_to_production_and_back(boucle, customers, tmp_path):
    source = customers()
    made = boucle.ok("new", "churn", "--from", source, "--target", "churned")
    assert made["dataset"] == "customers@1"
    shop = boucle.at("churn")

    planned = shop.ok("plan")["steps"]
    assert planned[0]["action"] == "run"
    assert {s["action"] for s in planned[1:]} == {"wait"}

    first = shop.ok("run")
    assert first["result"] == "model:churn@1"
    assert {s["status"] for s in first["steps"]} == {"finished"}
    assert {s["action"] for s in shop.ok("plan")["steps"]} == {"reuse"}
    second = shop.ok("run")
    assert {s["status"] for s in second["steps"]} == {"reused"}
    assert (second["result"], len(shop.ok("models"))) == ("model:churn@1", 1)

    toml = shop.folder / "boucle.toml"
    metric = next(iter(shop.ok("models")[0]["metrics"]))
    plain = toml.read_text()
    toml.write_text(plain.replace("[gates.production]", f"[gates.production]\nminimum = {{ {metric} = 1e9 }}"))
    refused = shop("promote", "churn", "production")
    assert (refused.code, f"{metric} is" in refused.err) == (4, True)
    assert shop("deploy", "churn").code == 4
    toml.write_text(plain)
    assert shop.ok("promote", "churn", "staging")["stage"] == "staging"
    assert shop.ok("promote", "churn", "production", "--reason", "good enough")["stage"] == "production"

    service = shop.ok("deploy", "churn", "--reason", "first")
    try:
        assert (service["service"], service["model"], service["status"]) == ("churn@1", "churn@1", "ready")
        row = {"age": 61.0, "plan": "pro", "visits": 0, "since": "2024-03-03"}
        (answer,) = ask(service["url"], [row])["predictions"]
        assert answer["prediction"] in ("yes", "no")
        assert sum(answer["probabilities"].values()) == pytest.approx(1)
        assert shop.ok("predict", "churn", json.dumps(row))[0]["prediction"] == answer["prediction"]
        assert shop("predict", "churn", "[]").code == 2
        assert shop("predict", "churn", '{"age": "old"}').code == 2

        tree = shop.ok("why", f"prediction:{answer['id']}")
        assert tree["facts"]["inputs"]["plan"] == "pro"
        found = list(refs(tree))
        assert found[:3] == [f"prediction:{answer['id']}", "service:churn@1", "model:churn@1"]
        assert "dataset:customers@1" in found
        assert any(r.startswith("source:") and r.endswith("customers.csv") for r in found)
        assert any(r.startswith("code:") for r in found)
        assert any(r.startswith("environment:") for r in found)

        touched = shop.ok("impact", "dataset:customers@1")["touched"]
        assert touched["model"] == ["model:churn@1"]
        assert touched["service"] == ["service:churn@1"]
        assert re.search(r"touched: .*2 predictions", shop("impact", "dataset:customers@1").out)

        shop.ok("data", "ingest", customers(500, seed=1), "--name", "customers")
        again = shop.ok("run")
        assert again["result"] == "model:churn@2"
        moved = shop.ok("promote", "churn@2", "production")
        assert moved["replaced"] == "model:churn@1"
        next_one = shop.ok("deploy", "churn", "--reason", "more data")
        assert (next_one["service"], next_one["model"], next_one["url"]) == ("churn@2", "churn@2", service["url"])
        assert ask(service["url"], [row])["model"] == "churn@2"
        listed = {s["service"]: s["status"] for s in shop.ok("services", "--all")}
        assert listed == {"churn@2": "ready", "churn@1": "stopped"}
        assert next(refs(shop.ok("why", f"prediction:{answer['id']}"))) == f"prediction:{answer['id']}"

        assert shop.ok("rollback", "churn", "--reason", "worse")["model"] == "model:churn@1"
        assert shop.ok("deploy", "churn")["model"] == "churn@1"
        assert ask(service["url"], [row])["predictions"][0]["prediction"] == answer["prediction"]
        moves = [
            (e["data"]["before"], e["data"]["after"]) for e in shop.ok("history", "churn") if e["type"] == "model.stage"
        ]
        assert moves == [
            ("none", "staging"), ("staging", "production"), ("production", "archived"), ("none", "production"),
            ("production", "archived"), ("archived", "production"),
        ]  # fmt: skip
        sound = shop.ok("fsck")
        assert sound["problems"] == []
        bundle = shutil.copytree(shop.folder / ".boucle" / "services" / "churn" / "3" / "bundle", tmp_path / "bundle")
    finally:
        shop("stop", "churn")
    assert shop.ok("services")[0]["status"] == "stopped"

    shutil.rmtree(shop.folder)
    assert serve_alone(bundle, tmp_path, row)["predictions"][0]["prediction"] == answer["prediction"]


def serve_alone(bundle, tmp_path, row):
    """A service needs a bundle and nothing else: no workspace, no project."""
    ready = tmp_path / "ready.json"
    command = [sys.executable, "-P", "-m", "boucle.ops.serve", str(bundle), "--service", "alone", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--log", str(tmp_path / "log"), "--ready-file", str(ready)], cwd="/", stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while not ready.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return ask(json.loads(ready.read_text())["url"], [row])
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
