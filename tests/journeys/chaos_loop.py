"""Kills workers, services and commands at random moments of rollouts and looks whether the loop still closes as it should.

    python tests/journeys/chaos_loop.py [ROUNDS] [SEED]

A service is asked all the time and two workers look after it. In each round a candidate takes its place, or fails to, while
SIGKILL comes to whoever is at work: a worker, the process at the service's address, the one of a revision that cannot share
it, the command that began it. In the end a good candidate must have won and a bad one lost, every answer must be on file
with the revision that it named, and nothing may be left over.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boucle.workspace
from boucle.core import predictions
from boucle.core.records import Model, Rollout, Service
from boucle.core.where import field as column
from boucle.ledger.soundness import check
from boucle.ops import host
from boucle.ops.label import label

NAME = "fare"
SETTINGS = """
[rollouts.default]
phases = ["replay", "shadow", "canary 30 %", "all"]
rows = 50
worse = 0.2
errors = 0.6  # a process that was killed fails what it is asked until it is back
slow = 1.0  # the machine has other things to do
soak = "SOAK seconds"
timeout = "3 minutes"

[worker]
watch = "1 minute"
"""
# Two files of one name: what comes from the one cannot share a process with what comes from the other.
CODE = """
FILE = {file!r}

def truth(rows):
    return ["long" if row["km"] > 5 else "short" for row in rows]

def again(rows):
    return truth(rows)

def wrong(rows):
    return ["short" if row["km"] > 5 else "long" for row in rows]

def broken(rows):
    if any(row["km"] > 1 for row in rows):
        raise ValueError("too far")
    return truth(rows)

def deadly(rows):
    if any(row["km"] > 9 for row in rows):
        import os
        os._exit(1)
    return truth(rows)
"""
GOOD, BAD = ("truth", "again"), ("wrong", "broken", "deadly")
REGISTER = """
import sys
import boucle, fares
ws = boucle.open(sys.argv[1], actor="chaos")
for name in ("truth", "again", "wrong", "broken", "deadly"):
    made = boucle.register(ws, "fare", getattr(fares, name), data=boucle.Frame.of({"km": [0.1, 0.5, 0.9]}), task="binary")
    print(made.key)
"""
# As the command `worker`, with leases that a worker which is gone does not hold for long.
WORKER = """
import sys, threading
import boucle
from boucle.ops.worker import work
ws = boucle.open(sys.argv[1], actor="worker")
work(ws, every=0.2, stop=threading.Event(), seconds=2.0, say=lambda line: print(line, flush=True))
"""
ROUND_SECONDS = 150.0
QUIET_SECONDS = 30.0
SPARED_SECONDS = 6.0  # what dies right after it was started, again and again, is given up by right


@dataclass
class Report:
    """What the rounds brought."""

    rounds: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    answered: int = 0
    failed: Counter[str] = field(default_factory=Counter)  # requests, by what came instead of an answer
    labels: int = 0
    longest_silence: float = 0.0  # seconds without an answer
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Answered:
    """What a client was told, and when it had asked."""

    asked: float
    id: str
    revision: int
    model: str
    km: float
    said: str


class Traffic:
    """Clients that ask, and ask again when there is no answer; and somebody who tells later what was true."""

    def __init__(self, folder: Path, port: int, report: Report, clients: int = 2) -> None:
        self.answers: list[Answered] = []
        self._folder, self._port, self._report = folder, port, report
        self._told: list[tuple[str, str]] = []
        self._lock, self._ended, self._last = threading.Lock(), threading.Event(), time.monotonic()
        self._threads = [threading.Thread(target=self._ask, args=(i,), daemon=True) for i in range(clients)]
        self._threads.append(threading.Thread(target=self._tell, daemon=True))
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def take(self) -> list[Answered]:
        """What was answered since the last time."""
        with self._lock:
            taken, self.answers = self.answers, []
        return taken

    def _ask(self, seed: int) -> None:
        chance, connection = random.Random(seed), None
        while not self._ended.is_set():
            km, asked = round(chance.uniform(0, 10), 4), time.monotonic()
            try:
                if connection is None:
                    connection = self._connect()
                connection.request("POST", "/predict", json.dumps({"km": km}), {"content-type": "application/json"})
                response = connection.getresponse()
                body = response.read()
                if response.status != 200:
                    raise OSError(f"{response.status} {body[:200]!r}")
                said = json.loads(body)
            except (OSError, http.client.HTTPException, ValueError) as error:
                with self._lock:
                    self._report.failed[str(error) or type(error).__name__] += 1
                if connection is not None:
                    connection.close()
                connection = None
                self._ended.wait(0.05)
                continue
            with self._lock:
                now = time.monotonic()
                self._report.longest_silence = max(self._report.longest_silence, now - self._last)
                self._last = now
                self._report.answered += 1
                self.answers.append(
                    Answered(asked, said["id"], said["revision"], said["model"], km, said["prediction"])
                )
                self._told.append((said["id"], "long" if km > 5 else "short"))
            self._ended.wait(0.005)
        if connection is not None:
            connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        connection.connect()
        if connection.sock.getsockname() == connection.sock.getpeername():
            # Where nobody listens, a client of the same machine may by chance be connected to itself.
            connection.close()
            raise OSError("connected to itself")
        return connection

    def _tell(self) -> None:
        with boucle.workspace.open(self._folder, actor="chaos") as ws:
            while not self._ended.wait(0.3):
                with self._lock:
                    told, self._told = self._told, []
                if told:
                    lost = label(ws, NAME, told).unknown
                    self._report.labels += len(told) - len(lost)
                    if lost:
                        self._report.problems.append(f"no revision knows {len(lost)} of its answers, such as {lost[0]}")


class Loop:
    """One service, candidate after candidate."""

    def __init__(self, folder: Path, seed: int = 0, *, kills: int = 5, loud: bool = False) -> None:
        self.folder, self.kills, self.loud = folder, kills, loud
        self.dice = random.Random(seed)
        self.report = Report()
        self.known: dict[str, tuple[str, str]] = {}  # by model: the file and the function it comes from
        self.round_name = "start"
        self.spared: dict[str, float] = {}  # when one of a kind was killed last
        with boucle.workspace.init(folder):
            (folder / "boucle.toml").write_text(SETTINGS.replace("SOAK", "2" if kills else "0"))
        for file in ("a", "b"):
            code = folder / file
            code.mkdir()
            (code / "fares.py").write_text(CODE.format(file=file))
            made = self._run(code, "-c", REGISTER, folder).split()
            self.known |= dict(zip(made, [(file, name) for name in (*GOOD, *BAD)], strict=True))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._run(folder, *self._command("deploy", self._model("a", "truth"), "--name", NAME, "--port", self.port))
        self.workers: list[subprocess.Popen[bytes]] = []
        self.traffic = Traffic(folder, self.port, self.report)
        for _ in range(2):
            self._start_worker()

    # --- a round -------------------------------------------------------------------------------------------------------

    def round(self, function: str, *, apart: bool = False, deploy: bool = False, phases: str = "") -> None:
        """Try a candidate while processes are killed, then look."""
        self.report.rounds += 1
        self.round_name = (
            f"round {self.report.rounds} ({function}{', apart' if apart else ''}{', deploy' if deploy else ''})"
        )
        self._say("begins")
        with boucle.workspace.open(self.folder, actor="chaos") as ws:
            before = self._ready(ws)
            if before is None:
                self._problem("no revision is ready")
                return
            now_file, now_function = self.known[before.model]
            file = now_file if not apart else "ab".replace(now_file, "")
            if function == "good":
                function = next(f for f in GOOD if apart or f != now_function)
            model = self._model(file, function)
            left, before_apart = self.kills, self.report.kills["apart"]
            if deploy:
                left = self._deploy(ws, model, left)
                self._look(ws, model)
                return
            left = self._begin(ws, model, phases, left)
            rollout = self._rollouts(ws)[-1]
            self._kill_until(ws, lambda: self._over(ws, rollout), left)
            rollout = ws.store.get(Rollout, rollout.id) or rollout
            expected = "finished" if function in GOOD else "failed"
            self.report.ends[f"{function} {rollout.status}"] += 1
            said = "; ".join(f"{n}: {p.get('status')}: {p.get('said')}" for n, p in rollout.phases.items())
            shot = self.report.kills["apart"] > before_apart and said.endswith("more than before)")
            if rollout.status == "failed" and expected == "finished" and shot and "requests failed" in said:
                # Nobody can know that it was not its own doing: what its process failed while it was down counts against it.
                self.report.ends[f"{function} failed for it was killed"] += 1
                expected = "failed"
            if rollout.status != expected:
                self._problem(f"rollout {rollout.id} is {rollout.status} in {rollout.phase}: {said}")
            self._say(f"{rollout.status} in {rollout.phase}; {dict(self.report.kills)}")
            self._look(ws, model if expected == "finished" else before.model)

    def _begin(self, ws: Any, model: str, phases: str, left: int) -> int:
        """Start a rollout, mostly by commands that are killed; returns how many kills are left."""
        began = len(self._rollouts(ws))
        command = self._command(
            "rollout", "start", model, "--service", NAME, "--json", *(["--phases", phases] if phases else [])
        )
        while len(self._rollouts(ws)) == began:
            follow = ["--follow"] if self.dice.random() < 0.3 else []
            if left and self.dice.random() < 0.6:
                left -= self._killed_command([*command, *follow], 6.0 if follow else 1.2)
            else:
                self._run(self.folder, *command)
        return left

    def _deploy(self, ws: Any, model: str, left: int) -> int:
        """Deploy by commands that are killed, and at last by one that is not."""
        command = self._command("deploy", model, "--name", NAME)
        while left:
            left -= self._killed_command(command, 2.5)
            if left and self.dice.random() < 0.5:
                left -= self._kill(ws)
        time.sleep(SPARED_SECONDS)
        self._run(self.folder, *command)
        # What was left by those that were killed is found after a while; for us the while is over.
        usual, ws.now = ws.now, lambda: time.time() + 2 * host.ABANDONED_SECONDS
        host.settle(ws)
        ws.now = usual
        return left

    def _killed_command(self, command: Sequence[object], longest: float) -> int:
        process = subprocess.Popen(
            [sys.executable, *map(str, command)], cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(self.dice.uniform(0.2, longest))
            return 0
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            self._killed(f"command {command[2]}")
            return 1

    def _kill_until(self, ws: Any, over: Callable[[], bool], left: int) -> None:
        deadline = time.monotonic() + ROUND_SECONDS
        again = time.monotonic() + self.dice.uniform(0, 1.5)
        done = False
        # Some come when it is over already, for then the address may change hands.
        while not (done := done or over()) or (left and self.dice.random() < 0.98):
            self._restart_workers()
            if left and time.monotonic() > again:
                left -= self._kill(ws)
                again = time.monotonic() + self.dice.uniform(0.1, 2.5)
            if time.monotonic() > deadline:
                self._problem(f"it is not over after {ROUND_SECONDS:g} s")
                return
            time.sleep(0.02)

    def _kill(self, ws: Any) -> int:
        """Kill somebody; 0 where there is nobody."""
        front, apart = self._processes(ws)
        kind = self.dice.choices(["worker", "service", "apart"], [3, 2, 3 if apart else 0])[0]
        pids = {"worker": [w.pid for w in self.workers if w.poll() is None], "service": front, "apart": apart}[kind]
        now = time.monotonic()
        if not pids or (kind != "worker" and now - self.spared.get(kind, -SPARED_SECONDS) < SPARED_SECONDS):
            return 0
        self.spared[kind] = now
        try:
            os.kill(self.dice.choice(pids), signal.SIGKILL)
        except ProcessLookupError:
            return 0
        self._killed(kind)
        return 1

    def _killed(self, what: str) -> None:
        self.report.kills[what] += 1
        self._say(f"killed: {what}")

    # --- looking -------------------------------------------------------------------------------------------------------

    def _look(self, ws: Any, model: str) -> None:
        """What must hold after a round in which this model won, or stayed."""
        self._quiet(ws)
        ready = self._ready(ws)
        if ready is None or ready.model != model:
            self._problem(f"{ready and ready.model} is ready, not {model}")
            return
        since = time.monotonic()
        time.sleep(0.5)
        taken = self.traffic.take()
        self._check_answers(ws, taken)
        after = Counter(a.model for a in taken if a.asked > since)
        if set(after) != {model}:
            self._problem(f"answers come from {dict(after)}, not from {model} alone")
        self._check_events(ws)
        for found in ws.store.find(Model, column("name") == "fare"):
            bad = self.known[found.key][1] in BAD
            if bad and found.stage != "none":
                self._problem(f"{found.key} is bad and in stage {found.stage}")
        for problem in check(ws).problems:
            self._problem(f"fsck: {problem}")

    def _quiet(self, ws: Any) -> None:
        """Wait until one process is left, and it is the one on record."""
        deadline = time.monotonic() + QUIET_SECONDS
        said = ""
        while time.monotonic() < deadline:
            self._restart_workers()
            front, pids = host.front(ws, NAME), [p for group in self._processes(ws) for p in group]
            ready = self._ready(ws)
            held = [s.key for s in host.revisions(ws, NAME)]
            alone = front is not None and ready is not None and pids == [front.handle["pid"]] and held == [ready.key]
            if alone and ws.target().routed(front.handle) == host.route_of(ws, NAME).digest:
                return
            said = f"processes {pids}, at the address {front and front.handle['pid']}; revisions {held}"
            time.sleep(0.1)
        self._problem(f"it did not come to rest: {said}")

    def _check_answers(self, ws: Any, taken: list[Answered]) -> None:
        by_revision: dict[int, list[Answered]] = {}
        for answer in taken:
            by_revision.setdefault(answer.revision, []).append(answer)
        for revision, answers in by_revision.items():
            service = ws.store.get(Service, f"{NAME}@{revision}")
            ids = {a.id for a in answers}
            lost = ids - predictions.held(Path(service.folder, "predictions"), ids)
            if lost:
                self._problem(f"{len(lost)} of {len(ids)} answers are not in the log of {service}: {sorted(lost)[:3]}")
            if any(a.model != service.model for a in answers):
                self._problem(f"answers of {service} name another model")
            function = self.known[service.model][1]
            if any((a.said == "long") != (a.km > 5) for a in answers) != (function == "wrong"):
                self._problem(f"answers of {service} are not those of {function}")
        if len({a.id for a in taken}) < len(taken):
            self._problem("an id was given twice")

    def _check_events(self, ws: Any) -> None:
        ends: dict[str, list[str]] = {}
        for event in ws.store.events(type="rollout"):
            if event.type in ("rollout.finished", "rollout.failed", "rollout.aborted"):
                ends.setdefault(event.subject, []).append(event.type.partition(".")[2])
        for rollout in ws.store.find(Rollout, column("service") == NAME):
            said = ends.get(f"service:{NAME}@{rollout.after}")
            if said != [rollout.status]:
                self._problem(f"{rollout.strategy} {rollout.id} is {rollout.status}, and its final events are {said}")

    def _rollouts(self, ws: Any) -> list[Rollout]:
        return ws.store.find(Rollout, (column("service") == NAME) & (column("strategy") == "canary"), order=["started"])

    def _over(self, ws: Any, rollout: Rollout) -> bool:
        now = ws.store.get(Rollout, rollout.id)
        return now is None or now.status not in host.RUNNING

    def _ready(self, ws: Any) -> Service | None:
        found = ws.store.find(Service, (column("name") == NAME) & (column("status") == "ready"), order=["-revision"])
        return found[0] if found else None

    # --- processes -----------------------------------------------------------------------------------------------------

    def _processes(self, ws: Any) -> tuple[list[int], list[int]]:
        """Those of the service: at its address, and others."""
        front = host.front(ws, NAME)
        pids = self._all_processes()
        mine = [p for p in pids if front is not None and p == front.handle["pid"]]
        return mine, [p for p in pids if p not in mine]

    def _all_processes(self) -> list[int]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                command = (process / "cmdline").read_bytes().decode().split("\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if "boucle.ops.serve" in command and "--route" in command:
                route = Path(command[command.index("--route") + 1])
                if self.folder in route.parents:
                    found.append(int(process.name))
        return found

    def _start_worker(self) -> None:
        with (self.folder / "worker.log").open("ab") as said:
            command = [sys.executable, "-c", WORKER, str(self.folder)]
            self.workers.append(subprocess.Popen(command, stdout=said, stderr=said, cwd=self.folder))

    def _restart_workers(self) -> None:
        for worker in [w for w in self.workers if w.poll() is not None]:
            if worker.returncode != -signal.SIGKILL:
                self._problem(f"a worker ended by itself with {worker.returncode}")
            self.workers.remove(worker)
            self._start_worker()

    def _command(self, *words: object) -> list[object]:
        return ["-m", "boucle.faces.cli.main", *words, "-C", self.folder]

    def _run(self, where: Path, *command: object) -> str:
        done = subprocess.run(
            [sys.executable, *map(str, command)], cwd=where, capture_output=True, text=True, check=False, timeout=120
        )
        if done.returncode:
            self._problem(f"{command[2:5]} failed: {done.stderr[-1500:]}")
        return done.stdout

    def _model(self, file: str, function: str) -> str:
        return next(key for key, made in self.known.items() if made == (file, function))

    def _problem(self, text: str) -> None:
        self.report.problems.append(f"{self.round_name}: {text}")
        self._say(f"PROBLEM {text}")

    def _say(self, text: str) -> None:
        if self.loud:
            print(f"{time.strftime('%H:%M:%S')} {self.round_name}: {text}", flush=True)

    def close(self) -> None:
        """End everything; also what nobody knows of."""
        self.traffic.end()
        for worker in self.workers:
            worker.kill()
            worker.wait()
        for pid in self._all_processes():
            os.kill(pid, signal.SIGKILL)


ROUNDS: tuple[dict[str, Any], ...] = (
    {"function": "good"}, {"function": "wrong"}, {"function": "good", "apart": True}, {"function": "broken", "apart": True},
    {"function": "good", "deploy": True}, {"function": "deadly", "phases": "shadow, canary 30 %, all"},
    {"function": "wrong", "apart": True, "phases": "canary 30 %, all"}, {"function": "good", "apart": True, "deploy": True},
    {"function": "broken", "phases": "canary 30 %, all"}, {"function": "good", "apart": True},
)  # fmt: skip


def run(
    folder: Path, rounds: Sequence[dict[str, Any]], seed: int = 0, *, kills: int = 5, loud: bool = False
) -> Report:  # fmt: skip
    """Rounds of chaos in an empty folder."""
    began = time.monotonic()
    loop = Loop(folder, seed, kills=kills, loud=loud)
    try:
        for given in rounds:
            loop.round(**given)
    finally:
        loop.close()
    loop.report.seconds = round(time.monotonic() - began, 1)
    return loop.report


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        count, seed = (int(a) for a in [*sys.argv[1:], *["20", "0"][len(sys.argv) - 1 :]])
        told = run(Path(scratch, "loop"), [ROUNDS[i % len(ROUNDS)] for i in range(count)], seed, loud=True)
        print(json.dumps(told.__dict__, indent=1))
        raise SystemExit(1 if told.problems else 0)
