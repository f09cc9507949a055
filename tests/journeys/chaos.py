"""Kills a working process at random moments and looks whether anything it acknowledged is lost.

    python tests/journeys/chaos.py [ROUNDS] [SEED]

Each round starts a process that ingests, tracks, runs a pipeline, registers and deploys in one workspace, and ends it with
SIGKILL at a moment drawn over its usual duration. Then nothing stored may be damaged, everything it acknowledged must be
there, and the same work started again must go on from there and finish.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boucle.workspace
from boucle.core.records import Dataset, Model, Run, Service
from boucle.core.where import field as column
from boucle.ledger import datasets, models, runs
from boucle.ledger.soundness import check
from boucle.ops import host
from boucle.ops.ask import predict

WORK = """
import time
from boucle import Frame, Model, pipeline, register, step
from boucle.ledger import recording

def answer(rows: list):
    return [r["x"] + SHIFT for r in rows]

@step
def take(data: Frame) -> Frame:
    return data

@step
def part(i: int, data: Frame) -> int:
    recording.log_metrics({"rows": len(data)})
    time.sleep(0.02)
    return i * len(data)

@step(isolate=ISOLATED)
def total(parts: list) -> int:
    return sum(parts)

@step
def pack(data: Frame, total: int) -> Model:
    return register(recording.running().ws, "adder", answer, data=data.select(["x"]), metrics={"total": total})

@pipeline
def work(data: Frame):
    rows = take(data)
    return pack(rows, total(part.map([1, 2, 3], rows)))
"""

CHILD = """
import os, sys
import boucle
from boucle.data.ingest import ingest
from boucle.flow.load import load
from boucle.ops.deploy import deploy
import boucle.ledger.models, sklearn.base, pandas

folder, number, acknowledged, source = sys.argv[1:]
file = os.open(acknowledged, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def say(*words):
    os.write(file, (" ".join(map(str, words)) + "\\n").encode())

ws = boucle.open(folder, actor="chaos")
say("began")
say("dataset", ingest(ws, source, "numbers").dataset.key)
with boucle.track(ws, "tracked", params={"round": number}) as run:
    say("run", run.id, "running")
    for i in range(150):
        run.log_metric("loss", i)
        say("point", run.id, i)
say("run", run.id, "finished")
done = boucle.execute(ws, load(ws.settings, "work")[0], {"data": "numbers@latest"})
say("run", done.run.id, "finished")
say("model", done.result.key)
say("reused", done.reused)
boucle.promote(ws, done.result.key, "production") if done.result.stage != "production" else None
say("stage", done.result.key)
say("service", deploy(ws, done.result.key, "adder").key)
say("done")
"""


@dataclass
class Report:
    """What the rounds brought."""

    rounds: int = 0
    killed: Counter[str] = field(default_factory=Counter)  # what had been acknowledged last when the process was killed
    acknowledged: int = 0
    reused: int = 0
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Chaos:
    """One workspace, round after round."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder = folder
        self.dice = random.Random(seed)
        self.report = Report()
        with boucle.workspace.init(folder):
            (folder / "boucle.toml").write_text('[pipelines.work]\ncall = "work:work"\n')
        for number in (-2, -1):  # the second time everything is warm
            self._prepare(number)
            self.usual = self._run(number, None)[1]

    def round(self) -> None:
        """Kill, look, and let it finish."""
        self.report.rounds += 1
        number = self.report.rounds
        self._prepare(number)
        if number % 2:
            lines, seconds = self._run(number, self.dice.uniform(0, self.usual))
            if lines[-1:] == ["done"]:
                self.usual = min(self.usual, seconds)
        else:  # soon after something was acknowledged, for most of the time goes by in a few long parts
            after = self.dice.choice(["began", "dataset", "run", "point", "model", "stage"])
            lines, _ = self._run(number, self.dice.uniform(0, 0.3), after)
        self.report.killed[lines[-1].split()[0] if lines else "nothing"] += 1
        self._look(number, lines)
        before = self._finished_steps(number, lines)
        lines, _ = self._run(number, None)
        if not lines or lines[-1] != "done":
            self._problem(number, f"the next run did not finish: it came to {lines[-1:]}")
            return
        reused = int(next(line.split()[1] for line in lines if line.startswith("reused ")))
        self.report.reused += reused
        if reused < before:
            self._problem(number, f"{before} steps had finished and only {reused} were used again")
        self._look(number, lines)
        self._ask(number, lines)

    def close(self) -> None:
        """End the services; also those that nobody knows of."""
        with boucle.workspace.open(self.folder) as ws:
            for service in ws.store.find(Service):
                if service.handle:
                    ws.target(service.target).stop(service.handle)
        for process in Path("/proc").glob("[0-9]*"):
            try:
                command = (process / "cmdline").read_bytes()
                if b"boucle.ops.serve" in command and str(self.folder).encode() in command:
                    os.kill(int(process.name), signal.SIGKILL)
            except (FileNotFoundError, ProcessLookupError):
                continue

    def _prepare(self, number: int) -> None:
        code = WORK.replace("SHIFT", str(float(number))).replace("ISOLATED", str(number % 4 == 0))
        (self.folder / "work.py").write_text(code)
        rows = "".join(f"{number + i / 8}\n" for i in range(50))
        (self.folder / "numbers.csv").write_text("x\n" + rows)

    def _run(self, number: int, delay: float | None, after: str = "began") -> tuple[list[str], float]:
        """The lines that the process acknowledged, and how long it worked. It is killed so long after a certain line."""
        acknowledged = self.folder / "acknowledged"
        acknowledged.unlink(missing_ok=True)
        arguments = [self.folder, number, acknowledged, self.folder / "numbers.csv"]
        command = [sys.executable, "-c", CHILD, *map(str, arguments)]
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(command, stdout=said, stderr=said, cwd=self.folder, start_new_session=True)
            while process.poll() is None:
                if acknowledged.exists() and f"\n{after}" in "\n" + acknowledged.read_text():
                    break
                time.sleep(0.002)
            began = time.monotonic()
            try:
                process.wait(delay if delay is not None else 240)
            except subprocess.TimeoutExpired:
                process.kill()  # this process alone, as the kernel would when memory runs out
                process.wait()
            seconds = time.monotonic() - began
            said.seek(0)
            if delay is None and process.returncode != 0:
                self._problem(number, "it failed: " + said.read().decode()[-2000:])
            elif process.returncode not in (0, -signal.SIGKILL):
                self._problem(number, "before it was killed it failed: " + said.read().decode()[-2000:])
        text = acknowledged.read_text() if acknowledged.exists() else ""
        lines = text.splitlines()
        self.report.acknowledged += len(lines)
        return lines, seconds

    def _look(self, number: int, lines: list[str]) -> None:
        with boucle.workspace.open(self.folder) as ws:
            runs.recover(ws)
            for problem in check(ws).problems:
                self._problem(number, f"fsck: {problem}")
            points: dict[str, int] = {}
            for kind, *words in (line.split() for line in lines):
                if kind == "point":
                    points[words[0]] = int(words[1])
                elif kind == "dataset" and (
                    ws.store.get(Dataset, words[0]) is None or not len(datasets.load(ws, words[0]))
                ):
                    self._problem(number, f"dataset {words[0]} is lost")
                elif kind == "run" and (found := ws.store.get(Run, words[0])) is None:
                    self._problem(number, f"run {words[0]} is lost")
                elif kind == "run" and words[1] == "finished" and found is not None and found.status != "finished":
                    self._problem(number, f"run {words[0]} had finished and is {found.status}")
                elif kind == "model" and ws.store.get(Model, words[0]) is None:
                    self._problem(number, f"model {words[0]} is lost")
                elif kind == "stage" and models.resolve(ws, words[0]).stage != "production":
                    self._problem(number, f"{words[0]} had been in production")
                elif kind == "service" and ws.store.get(Service, words[0]) is None:
                    self._problem(number, f"service {words[0]} is lost")
            for run, last in points.items():
                (series,) = runs.points(ws, runs.get(ws, run), "loss")
                if list(series.values[: last + 1]) != [float(i) for i in range(last + 1)]:
                    self._problem(number, f"run {run} lost points: {len(series)} of at least {last + 1}")

    def _finished_steps(self, number: int, lines: list[str]) -> int:
        """Calls of steps that had finished in this round, which the next run must not do again."""
        with boucle.workspace.open(self.folder) as ws:
            if not any(line.startswith("dataset ") for line in lines):
                return 0
            parents = ws.store.find(Run, column("name") == "work", order=["-started"], limit=1)
            steps = (
                ws.store.find(Run, (column("parent") == parents[0].id) & (column("status") == "finished"))
                if parents
                else []
            )
            newest = datasets.resolve(ws, "numbers").created
            return len({s.cache_key for s in steps if s.started > newest})

    def _ask(self, number: int, lines: list[str]) -> None:
        """Every answer comes from the model that was deployed last."""
        model = next(line.split()[1] for line in lines if line.startswith("model "))
        with boucle.workspace.open(self.folder) as ws:
            host.settle(ws)
            found: set[tuple[Any, Any]] = set()
            for _ in range(8):
                (answer,) = predict(ws, "adder", [{"x": 1.0}])
                found.add((answer["prediction"], answer["digest"]))
            if found != {(1.0 + number, models.resolve(ws, model).digest)}:
                self._problem(number, f"the service answers {found}, not as {model} does")

    def _problem(self, number: int, text: str) -> None:
        self.report.problems.append(f"round {number}: {text}")


def run(folder: Path, rounds: int, seed: int = 0, *, loud: bool = False) -> Report:
    """Rounds of chaos in an empty folder."""
    began = time.monotonic()
    chaos = Chaos(folder, seed)
    try:
        for _ in range(rounds):
            chaos.round()
            if loud:
                print(
                    f"{chaos.report.rounds}/{rounds}  {dict(chaos.report.killed)}  {chaos.report.problems[-1:]}",
                    flush=True,
                )
    finally:
        chaos.close()
    chaos.report.seconds = round(time.monotonic() - began, 1)
    return chaos.report


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        count, seed = (int(a) for a in [*sys.argv[1:], *["200", "0"][len(sys.argv) - 1 :]])
        told = run(Path(scratch, "chaos"), count, seed, loud=True)
        print(json.dumps({**told.__dict__, "killed": dict(told.killed)}, indent=1))
        raise SystemExit(1 if told.problems else 0)
