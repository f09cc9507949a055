"""The second half of the demo: the loop closes by itself. Handwriting that leans one way, then the other.

scikit-learn's 1,797 handwritten digits (UCI, Alpaydin and Kaynak 1998), in two groups by the slant of the strokes. A model
learns from digits that lean one way and serves; then people come whose digits lean the other way. Nothing is made up: no
noise, no changed pixels, another part of the same real table.
"""

from __future__ import annotations

import csv
import http.client
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from boucle.workspace import Workspace

NAME = "digits"
TARGET = "digit"
SETTINGS = """
# The loop: when the traffic drifts, what is known of it by then comes into the training data, the pipeline runs again, and
# the model it makes is tried in the place of the old one.
[rules.relearn]
on = "service.drift"
subject = "service:digits"
if = "data.status = fail"
do = ["seal digits 250", "run digits", "rollout"]
cooldown = "1 hour"

[rollouts.digits]
phases = ["replay", "shadow", "canary 25 %", "all"]
rows = 100
errors = 0.05
timeout = "10 minutes"

[worker]
watch = "1 second"
"""
PACE = 0.008  # seconds between requests of a client
SECONDS = 240.0  # after which the demo gives up

Row = dict[str, Any]
Say = Callable[[str], None]


@dataclass(slots=True)
class Groups:
    """The digits as rows of a table: to learn from, and as traffic. `early` and `late` lean the other way; what is asked of
    `late` has been seen by no model."""

    train: list[Row] = field(default_factory=list)
    usual: list[Row] = field(default_factory=list)
    early: list[Row] = field(default_factory=list)
    late: list[Row] = field(default_factory=list)


def groups() -> Groups:
    """Split the table by slant: the covariance of height and side of a digit's ink."""
    import numpy as np
    from sklearn.datasets import load_digits

    found = load_digits()
    ink = found.data / found.data.sum(axis=1, keepdims=True)
    down, across = (axis.ravel().astype(float) for axis in np.indices((8, 8)))
    from_top = down - (ink @ down)[:, None]
    from_left = across - (ink @ across)[:, None]
    slant = (ink * from_top * from_left).sum(axis=1) / (ink * from_top**2).sum(axis=1)
    # Pixels at the rim that are hardly ever inked tell nothing, and a study would leave them out.
    inked = [i for i in range(64) if (found.data[:, i] > 0).mean() > 0.2]
    rows = [
        {**{f"p{i // 8}{i % 8}": int(pixels[i]) for i in inked}, TARGET: str(digit)}
        for pixels, digit in zip(found.data, found.target, strict=True)
    ]
    order = np.random.default_rng(0).permutation(len(rows))
    other = slant < np.median(slant)
    one_way, other_way = ([rows[i] for i in order if other[i] == lean] for lean in (False, True))
    half = int(len(one_way) * 0.65)
    return Groups(one_way[:half], one_way[half:], other_way[:450], other_way[450:])


def write(rows: Sequence[Row], path: Path) -> None:
    """As a CSV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@dataclass(frozen=True, slots=True)
class Answered:
    """One request of the traffic."""

    time: float
    era: str
    revision: int
    right: bool


class Traffic:
    """People who ask one digit after the other and say a moment later what it was. `pool` may change at any time."""

    def __init__(self, ws: Workspace, url: str, pool: Sequence[Row], clients: int = 2) -> None:
        self.ws, self.pool, self.era = ws, pool, "before"
        self.answers: list[Answered] = []
        self.lost: list[str] = []
        self._url, self._ended = urlsplit(url), threading.Event()
        self._told: list[tuple[str, str]] = []
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=(i,), daemon=True) for i in range(clients)]
        self._threads.append(threading.Thread(target=self._tell, daemon=True))
        for thread in self._threads:
            thread.start()

    def turn(self, era: str, pool: Sequence[Row]) -> None:
        """From now on others ask."""
        self.pool, self.era = pool, era

    def end(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def score(self, era: str, revision: int = 0) -> float:
        """Share of right answers."""
        mine = [a.right for a in self.answers if a.era == era and revision in (0, a.revision)]
        return sum(mine) / len(mine) if mine else float("nan")

    def count(self, era: str, revision: int = 0) -> int:
        return sum(a.era == era and revision in (0, a.revision) for a in self.answers)

    def _ask(self, seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311  no secret
        connection = http.client.HTTPConnection(str(self._url.hostname), self._url.port, timeout=30)
        while not self._ended.is_set():
            pool, era = self.pool, self.era
            row = chance.choice(pool)
            body = json.dumps({k: v for k, v in row.items() if k != TARGET})
            try:
                connection.request("POST", "/predict", body, {"content-type": "application/json"})
                response = connection.getresponse()
                said = json.load(response)
                if response.status != 200:
                    self.lost.append(f"{response.status}: {said}")
                    continue
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.lost.append(repr(error))
                connection.close()
                continue
            right = str(said["prediction"]) == row[TARGET]
            with self._lock:
                self.answers.append(Answered(time.time(), era, int(said["revision"]), right))
                self._told.append((said["id"], row[TARGET]))
            time.sleep(PACE)
        connection.close()

    def _tell(self) -> None:
        from boucle.ops.label import label

        while not self._ended.wait(0.5):
            with self._lock:
                told, self._told = self._told, []
            if told:
                label(self.ws, NAME, told)


def loop(ws: Workspace, url: str, found: Groups, say: Say) -> dict[str, Any]:
    """Drive the traffic and watch what the worker does about it, until a good candidate has won and a bad one has lost."""
    traffic = Traffic(ws, url, found.usual)
    command = [sys.executable, "-m", "boucle.faces.cli.main", "worker", "--every", "0.3s", "-C", str(ws.project)]
    worker = subprocess.Popen([*command, "--json"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        return _story(ws, found, traffic, say)
    finally:
        traffic.end()
        worker.terminate()
        worker.wait(60)


def _story(ws: Workspace, found: Groups, traffic: Traffic, say: Say) -> dict[str, Any]:
    journal = _Journal(ws, traffic, say)
    journal.until(lambda: traffic.count("before") >= 700, "traffic")
    say(
        f"{traffic.count('before'):,} digits asked, {traffic.score('before'):.1%} right; the watch sees nothing unusual"
    )
    shifted = time.time()
    traffic.turn("drifted", found.early)
    say("now people come whose digits lean the other way")
    drift = journal.event("service.drift", lambda e: e.data.get("status") == "fail")
    say(f"drift found {drift.time - shifted:.1f} s after the shift")
    journal.event("dataset.committed", lambda e: e.subject.startswith(f"dataset:{NAME}@"))
    # From here on others again, whom no model has seen.
    traffic.turn("recovering", found.late)
    won = journal.event("rollout.finished", lambda e: e.time > shifted)
    revision = int(won.subject.rpartition("@")[2])
    traffic.turn("after", found.late)
    journal.until(lambda: traffic.count("after", revision) >= 400, "answers of the new revision")
    say(f"{traffic.score('after'):.1%} right again, {won.time - shifted:.1f} s after the shift")
    sabotage = _sabotage(ws, say)
    lost = journal.event("rollout.failed", lambda e: e.data.get("model") == sabotage)
    return {
        "asked": len(traffic.answers), "lost": len(traffic.lost), "first_lost": traffic.lost[:3],
        "detected_seconds": round(drift.time - shifted, 2), "recovered_seconds": round(won.time - shifted, 2),
        "score_before": traffic.score("before"), "score_drifted": traffic.score("drifted"),
        "score_recovering": traffic.score("recovering"), "score_after": traffic.score("after", revision),
        "winner": won.data.get("model"), "winner_said": won.data.get("sentence"),
        "sabotaged": sabotage, "sabotaged_said": lost.data.get("sentence"),
        "sabotaged_phase": list(lost.data.get("phases", {}))[-1:],
    }  # fmt: skip


def _sabotage(ws: Workspace, say: Say) -> str:
    """A candidate that learned from shuffled labels, tried in the same way."""
    import numpy as np
    import pyarrow as pa

    from boucle.core.frames import Frame
    from boucle.flow.execute import execute
    from boucle.flow.load import load
    from boucle.ledger import datasets
    from boucle.ops.rollout import start

    table = datasets.load(ws, NAME).table()
    shuffled = np.random.default_rng(1).permutation(table.num_rows)
    place = table.schema.get_field_index(TARGET)
    table = table.set_column(place, TARGET, table.column(TARGET).take(pa.array(shuffled)))
    dataset, _ = datasets.commit(ws, f"{NAME}-shuffled", Frame.of(table), description="labels at random, for the demo")
    pipeline, arguments = load(ws.settings, NAME)
    made = execute(ws, pipeline, {**arguments, "data": dataset.key}).result
    say(f"{made.key} learned from shuffled labels ({dataset.key}), and is tried in the same way")
    start(ws, made.key, NAME, reason="a sabotaged candidate")
    return str(made.key)


class _Journal:
    """Reads events as they come, says those that tell the story, and waits for some of them."""

    SHOWN = (
        "service.drift",
        "rule.",
        "rollout.",
        "model.registered",
        "model.stage",
        "dataset.committed",
        "alert.opened",
    )

    def __init__(self, ws: Workspace, traffic: Traffic, say: Say) -> None:
        self.ws, self.traffic, self.say = ws, traffic, say
        last = ws.store.events()
        self.after = last[-1].sequence if last else 0
        self.seen: list[Any] = []
        self.until_time = time.monotonic() + SECONDS

    def read(self) -> None:
        for event in self.ws.store.events(after=self.after):
            self.after = event.sequence
            self.seen.append(event)
            if event.type.startswith(self.SHOWN):
                said = str(event.data.get("sentence") or event.data.get("error") or event.reason)
                self.say(f"  {event.type:<18} {event.subject:<20} {said}")

    def until(self, holds: Callable[[], bool], what: str) -> None:
        from boucle.core.errors import Unavailable

        while not holds():
            self.read()
            if self.traffic.lost and not self.traffic.answers:
                raise Unavailable(f"the service does not answer: {self.traffic.lost[0]}", fix="boucle services")
            if time.monotonic() > self.until_time:
                raise Unavailable(f"{what} did not come within {SECONDS:g} s", fix="boucle journal; boucle rollout")
            time.sleep(0.1)
        self.read()

    def event(self, kind: str, holds: Callable[[Any], bool]) -> Any:
        """The next event of a kind; each is given once."""
        found: list[Any] = []

        def came() -> bool:
            found.extend(e for e in self.seen if e.type == kind and holds(e))
            return bool(found)

        self.until(came, kind)
        self.seen = [e for e in self.seen if e.sequence > found[0].sequence]
        return found[0]
