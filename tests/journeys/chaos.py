"""Kill -9 at random moments: a child works in a workspace and says what was acknowledged; whatever it was doing when it
died, nothing that it said may be lost, everything stored must be sound, and the next one must finish the work.

    python tests/journeys/chaos.py --rounds 200 [--seed 1]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

PIPELINE = """
from boucle import Frame, Model, pipeline, register, running, step
from scorer import predict


@step
def rows(data: Frame) -> Frame:
    return data


@step
def count(data: Frame) -> int:
    return len(data)


@step
def pack(data: Frame, number: int) -> Model:
    return register(running().ws, "tiny", predict, data=data.select(["x"]), metrics={"rows": number})


@pipeline
def work(data: Frame):
    kept = rows(data)
    return pack(kept, count(kept))
"""
SCORER = """
def predict(rows):
    return [row["x"] * 2 for row in rows]
"""
POINTS = 40


def prepare(folder: Path) -> None:
    """A project with a pipeline of three steps whose model is a function."""
    folder.mkdir(parents=True)
    (folder / "pipeline.py").write_text(PIPELINE)
    (folder / "scorer.py").write_text(SCORER)
    (folder / "boucle.toml").write_text('[boucle]\n[pipelines.work]\ncall = "pipeline:work"\ndata = "numbers@latest"\n')


def child(folder: Path, number: int) -> None:
    """The work of one round, each acknowledgement written out before the next thing is begun."""
    import boucle
    from boucle.flow.load import load
    from boucle.ops import deploy
    from boucle.ops.ask import predict

    said = os.open(folder / "acknowledged.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def acknowledge(kind: str, value: Any) -> None:
        os.write(said, json.dumps([kind, value]).encode() + b"\n")

    ws = boucle.init(folder)
    table = {"x": list(range(number, number + 50)), "round": [number] * 50}
    acknowledge("dataset", boucle.ingest(ws, table, "numbers").dataset.key)
    with boucle.track(ws, "by-hand", params={"round": number}) as run:
        acknowledge("started", run.id)
        for step in range(POINTS):
            run.log_metric("loss", 1 / (step + 1), step)
            acknowledge("point", [run.id, step])
    acknowledge("finished", run.id)
    pipeline, arguments = load(ws.settings, "work")
    model = boucle.execute(ws, pipeline, arguments).result
    acknowledge("model", model.key)
    if boucle.open(folder).store.get(type(model), model.key).stage != "production":
        boucle.promote(ws, model.key, "production")
    acknowledge("production", model.key)
    service = deploy.deploy(ws, model.key)
    acknowledge("service", service.key)
    for answer in predict(ws, service, [{"x": 1}, {"x": 2}]):
        acknowledge("prediction", answer["id"])
    deploy.stop(ws, service.key)
    acknowledge("done", number)


def run(folder: Path, number: int, after: float | None) -> bool:
    """One child, killed after so many seconds; returns whether it finished before."""
    command = [sys.executable, __file__, "--child", str(folder), "--number", str(number)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    try:
        _, errors = process.communicate(timeout=after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return False
    if process.returncode:
        raise AssertionError(f"round {number} failed by itself: {errors.decode()[-2000:]}")
    return True


def orphans(folder: Path) -> list[int]:
    """Service processes of this workspace that still run."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"boucle.ops.serve" in words and any(str(folder).encode() in w for w in words):
                found.append(int(entry.name))
    return found


def check(folder: Path) -> Counter[str]:
    """Every acknowledged thing is there, and everything stored is sound; returns how many there were of each kind."""
    import boucle
    from boucle.core.records import Dataset, Model, Run, Service
    from boucle.ledger import lineage, runs, soundness
    from boucle.ops.deploy import settle

    lines = (
        (folder / "acknowledged.jsonl").read_bytes().splitlines() if (folder / "acknowledged.jsonl").exists() else []
    )
    said = [json.loads(line) for line in lines]
    if not (folder / ".boucle").is_dir():
        assert not said, "something was acknowledged before there was a workspace"
        return Counter()
    with boucle.open(folder) as ws:
        for process in orphans(folder):  # what a deploy that died had started
            os.kill(process, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while orphans(folder) and time.monotonic() < deadline:
            time.sleep(0.02)
        runs.recover(ws)
        settle(ws)
        points: dict[str, int] = {}
        for kind, value in said:
            match kind:
                case "dataset":
                    dataset = ws.store.get(Dataset, value)
                    assert dataset is not None, f"dataset {value} was acknowledged and is not there"
                    assert boucle.load(ws, value).table().num_rows == dataset.rows
                case "started":
                    assert ws.store.get(Run, value) is not None, f"run {value}"
                case "finished":
                    assert ws.store.get(Run, value).status == "finished"
                case "point":
                    points[value[0]] = value[1]
                case "model" | "production":
                    model = ws.store.get(Model, value)
                    assert model is not None, f"model {value}"
                    assert kind == "model" or model.stage in ("production", "archived")
                case "service":
                    assert ws.store.get(Service, value) is not None, f"service {value}"
                case "prediction":
                    assert lineage.why(ws, f"prediction:{value}").children, f"prediction {value}"
        for id, last in points.items():
            (series,) = runs.points(ws, ws.store.get(Run, id), "loss")
            assert series.steps[: last + 1] == list(range(last + 1)), f"run {id} lost points"
            assert ws.store.get(Run, id).status in ("finished", "lost")
        report = soundness.check(ws)
        assert not report.problems, report.problems[:5]
    return Counter(kind for kind, _ in said)


def harness(folder: Path, rounds: int, seed: int) -> dict[str, Any]:
    """So many rounds, each killed at a random moment of its usual duration; then one that must finish."""
    prepare(folder)
    choose = random.Random(seed)
    began = time.perf_counter()
    assert run(folder, 0, None)
    usual = time.perf_counter() - began
    check(folder)
    killed = 0
    for number in range(1, rounds + 1):
        killed += not run(folder, number, choose.uniform(0.02, usual * 1.05))
        counts = check(folder)
    assert run(folder, rounds + 1, None), "after all that the work must still finish"
    counts = check(folder)
    return {
        "rounds": rounds,
        "killed": killed,
        "seconds": round(time.perf_counter() - began, 1),
        "acknowledged": dict(counts),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--child", type=Path)
    parser.add_argument("--number", type=int, default=0)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.number)
        return
    scratch = Path(tempfile.mkdtemp(prefix="chaos."))
    print(json.dumps(harness(scratch / "shop", args.rounds, args.seed)))
    shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
