"""From a raw file to a served model and back to the row, on the command line, as a person would."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest


@pytest.fixture
def customers(tmp_path: Path) -> Path:
    """A table with numbers, a category, a text, missing values and an outcome that depends on them."""
    dice = random.Random(3)
    lines = ["customer_id,age,plan,spent,note,churned"]
    for i in range(400):
        age, plan, spent = dice.randint(18, 80), dice.choice(["basic", "plus", "gold"]), dice.gauss(50, 20)
        leaves = (age < 35) + (plan == "basic") + (spent < 40) + dice.random() > 2.2
        note = "asked about the price" if leaves and dice.random() < 0.6 else "all is well"
        lines.append(
            f"c{i:05},{age},{plan},{'' if dice.random() < 0.1 else round(spent, 2)},{note},{'yes' if leaves else 'no'}"
        )
    path = tmp_path / "customers.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


class Shell:
    """The program in a folder; answers are parsed from --json."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *arguments: str, code: int = 0):
        done = subprocess.run(
            [sys.executable, "-m", "boucle.faces.cli.main", *arguments, "--json"],
            cwd=self.folder, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout if code == 0 or done.stdout.strip() else done.stderr)


def ask(url: str, body: object) -> dict:
    request = urllib.request.Request(f"{url}/predict", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


@pytest.mark.slow
def test_the_journey(tmp_path, customers):
    made = Shell(tmp_path)("new", "churn", "--from", str(customers), "--target", "churned")
    assert made["dataset"] == "customers@1"
    shell = Shell(tmp_path / "churn")

    planned = shell("plan")
    assert {s["action"] for s in planned["steps"]} <= {"run", "wait"}
    first = shell("run")
    assert first["result"] == "model:churn@1"
    again = shell("run")
    assert {s["status"] for s in again["steps"]} == {"reused"}
    assert again["result"] == "model:churn@1"
    assert all(s["action"] == "reuse" for s in shell("plan")["steps"])

    # A gate that asks too much refuses, says why, and the refusal is on record.
    config = tmp_path / "churn" / "boucle.toml"
    plain = config.read_text(encoding="utf-8")
    config.write_text(
        plain.replace("[gates.production]", "[gates.production]\nminimum = { roc_auc = 1.1 }"), encoding="utf-8"
    )
    refused = shell("promote", "churn@1", "production", code=4)
    assert "roc_auc" in refused["error"]["what"]
    config.write_text(plain, encoding="utf-8")
    assert shell("promote", "churn@1", "production")["stage"] == "production"
    assert "model.refused" in {e["type"] for e in shell("history", "churn")}

    service = shell("deploy", "churn")
    try:
        row = {"age": 22, "plan": "basic", "spent": None, "note": "asked about the price"}
        answer = ask(service["url"], row)
        assert answer["prediction"] in ("yes", "no")
        assert answer["model"] == "churn@1"

        tree = json.dumps(shell("why", f"prediction:{answer['id']}"))
        for part in (
            "service:churn@1",
            "model:churn@1",
            "dataset:customers@1",
            "code:",
            "environment:",
            "customers.csv",
        ):
            assert part in tree
        touched = shell("impact", "dataset:customers@1")["touched"]
        assert touched["model"] == ["model:churn@1"]
        assert touched["service"] == ["service:churn@1"]

        # More rows make another version of data and model; the service moves on at its old address.
        with customers.open("a", encoding="utf-8") as file:
            file.writelines(f"d{i:05},{20 + i % 50},gold,70.0,all is well,no\n" for i in range(60))
        assert shell("data", "ingest", str(customers), "--name", "customers")["dataset"] == "customers@2"
        second = shell("run")
        assert second["result"] == "model:churn@2"
        assert "reused" not in {s["status"] for s in second["steps"] if s["step"] == "study"}
        moved = shell("promote", "churn@2", "production")
        assert moved["replaced"] == "model:churn@1"
        later = shell("deploy", "churn")
        assert later["url"] == service["url"]
        assert ask(later["url"], row)["model"] == "churn@2"

        assert shell("rollback", "churn")["model"] == "model:churn@1"
        shell("deploy", "churn")
        assert ask(later["url"], row)["model"] == "churn@1"
        assert shell("fsck")["problems"] == []
    finally:
        shell("stop", "churn")


@pytest.mark.slow
def test_a_service_needs_its_bundle_and_nothing_else(tmp_path, customers):
    Shell(tmp_path)("new", "churn", "--from", str(customers), "--target", "churned")
    shell = Shell(tmp_path / "churn")
    shell("run")
    shell("promote", "churn@1", "production")
    shell("deploy", "churn")
    shell("stop", "churn")
    alone = tmp_path / "alone"
    shutil.copytree(tmp_path / "churn" / ".boucle" / "services" / "churn" / "1" / "bundle", alone / "bundle")
    shutil.rmtree(tmp_path / "churn")
    customers.unlink()

    ready = alone / "ready.json"
    process = subprocess.Popen(
        [
            *(sys.executable, "-P", "-m", "boucle.ops.serve", str(alone / "bundle")),
            *("--service", "alone", "--log", str(alone / "log"), "--port", "0", "--ready-file", str(ready)),
        ],
        cwd=alone, env={"PATH": os.environ["PATH"]}, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while not ready.exists():
            assert process.poll() is None, process.stderr.read().decode()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        url = json.loads(ready.read_text(encoding="utf-8"))["url"]
        sample = json.loads((alone / "bundle" / "sample.json").read_text(encoding="utf-8"))
        golden = json.loads((alone / "bundle" / "golden.json").read_text(encoding="utf-8"))
        answers = ask(url, sample)["predictions"]
        assert [a["prediction"] for a in answers] == [g["prediction"] for g in golden]
    finally:
        process.terminate()
        assert process.wait(30) == 0
        process.stderr.close()
    logged = [json.loads(line) for file in (alone / "log").glob("*.jsonl") for line in file.read_text().splitlines()]
    assert {a["id"] for a in answers} == {entry["id"] for entry in logged}
