"""A service without processes and without waiting: a target that only remembers its route, a clock that is turned by hand, and
traffic whose answers are written to the logs as the route says."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import boucle
from boucle.core.errors import Unavailable
from boucle.core.labels import FILE
from boucle.core.records import Model, Rollout, Service
from boucle.core.refs import id_at
from boucle.core.route import Route, choose
from boucle.ledger import models
from boucle.ops import deploy, host
from boucle.ops import rollout as rollouts
from boucle.ports.target import Placed

START = 1_800_000_000.0
CODE = """
def truth(rows):
    return ["long" if row["km"] > 5 else "short" for row in rows]

def fair(rows):
    return ["long" if row["km"] > 6 else "short" for row in rows]

def wrong(rows):
    return ["short" if row["km"] > 5 else "long" for row in rows]

def broken(rows):
    if any(row["km"] > 9.5 for row in rows):
        raise ValueError("too far")
    return truth(rows)
"""


@dataclass
class FakeTarget:
    """Processes that are nothing but a route."""

    name: str = "process"
    routes: dict[int, Route] = field(default_factory=dict)
    urls: dict[int, str] = field(default_factory=dict)
    apart: set[int] = field(default_factory=set)  # revisions that need a process of their own
    before: Callable[[str], None] = lambda _: None  # called with what is about to be done
    started: int = 0

    def start(self, placement: Any, timeout: float = 60.0) -> Placed:
        self.before("start")
        self.started += 1
        self.routes[self.started] = placement.route
        self.urls[self.started] = f"http://127.0.0.1:{placement.port or 9000 + self.started}"
        return Placed(self.urls[self.started], {"pid": self.started})

    def route(self, handle: Any, route: Route, timeout: float = 60.0) -> dict[int, str]:
        self.before("route")
        if handle["pid"] not in self.routes:
            raise Unavailable("it does not run")
        fits = {
            a.revision: a.url or a.revision not in self.apart or route.inner or len(route.arms) == 1 for a in route.arms
        }
        self.routes[handle["pid"]] = route
        return {r: "ready" if fit else "apart: another module" for r, fit in fits.items()}

    def routed(self, handle: Any) -> str:
        return self.routes[handle["pid"]].digest if handle["pid"] in self.routes else ""

    def take(self, handle: Any, other: Any, timeout: float = 30.0) -> str:
        self.before("take")
        del self.routes[other["pid"]]
        self.urls[handle["pid"]] = self.urls[other["pid"]]
        self.before("taken")
        return self.urls[handle["pid"]]

    def address(self, handle: Any) -> str:
        return self.urls[handle["pid"]] if self.alive(handle) else ""

    def alive(self, handle: Any) -> bool:
        return handle.get("pid") in self.routes

    def stop(self, handle: Any, timeout: float = 10.0) -> bool:
        self.before("stop")
        return self.routes.pop(handle["pid"], None) is not None


class Shop:
    """A service `NAME` with a live revision, a clock, and people who ask."""

    def __init__(self, ws: boucle.Workspace, versions: dict[str, Model], name: str, target: FakeTarget) -> None:
        self.ws, self.versions, self.name, self.target = ws, versions, name, target
        self.chance = random.Random(3)
        self.functions: dict[str, Any] = {m.key: getattr(sys.modules["walking"], n) for n, m in versions.items()}
        self.results: list[tuple[float, bool]] = []  # when, and whether the answer was right
        self.count = 0
        self.asked: dict[str, int] = {}  # by model

    def serve(self, version: str = "fair") -> Service:
        return deploy.deploy(self.ws, self.versions[version].key, self.name, port=7777)

    def begin(self, version: str, **policy: Any) -> Rollout:
        given = {"rows": 50, "timeout": 600.0, "errors": 0.1, "worse": 0.05, **policy}
        followed = rollouts.policy_for(self.ws, self.name, **given)
        return rollouts.start(self.ws, self.versions[version].key, self.name, reason="a test", policy=followed)

    def front(self) -> Route | None:
        found = host.front(self.ws, self.name)
        return self.target.routes[found.handle["pid"]] if found else None

    def ask(self, requests: int = 100, seconds: float = 10.0, labels: float = 1.0) -> None:
        """Requests spread over some seconds, answered as the route says."""
        route = self.front()
        for _ in range(requests):
            self.ws.now.moment += seconds / requests  # type: ignore[attr-defined]
            if route is None or not any(a.share for a in route.arms):
                continue
            row = self.row()
            live = [a for a in route.arms if a.share > 0]
            arm = choose(live, self.chance.random())
            id = self._answer(arm, row)
            if id is None:
                arm = max(live, key=lambda a: a.share)
                id = self._answer(arm, row)
            if id is None:
                continue
            self.asked[arm.model] = self.asked.get(arm.model, 0) + 1
            self.results.append((self.ws.now(), self.says(arm, row) == self.truth(row)))
            for shadow in (a for a in route.arms if a.shadow):
                self._answer(shadow, row, mirrors=id)
            if self.chance.random() < labels:
                told = {"id": id, "label": self.truth(row), "time": self.ws.now()}
                with Path(arm.log).with_name(FILE).open("a") as file:
                    file.write(json.dumps(told) + "\n")

    def says(self, arm: Any, row: dict[str, Any]) -> str:
        answer: str = self.functions[arm.model]([row])[0]
        return answer

    def row(self) -> dict[str, Any]:
        return {"km": self.chance.uniform(0, 10)}

    def truth(self, row: dict[str, Any]) -> str:
        return "long" if row["km"] > 5 else "short"

    def _answer(self, arm: Any, row: dict[str, Any], mirrors: str = "") -> str | None:
        self.count += 1
        id = id_at(self.ws.now())[:-6] + f"{self.count:06}"
        line = {
            "id": id, "time": self.ws.now(), "service": self.name, "revision": arm.revision, "model": arm.model, "digest": "",
            "latency_us": 900, "request": f"r{self.count}", **({"shadow": mirrors} if mirrors else {}),
        }  # fmt: skip
        try:
            said = self.says(arm, row)
            line |= {"inputs": row, "output": {"prediction": said}}
            folder = Path(arm.log)
        except ValueError as error:
            line |= {"status": 500, "what": str(error), **({"shadow": True} if mirrors else {})}
            folder, id = Path(arm.failures), ""
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{id_at(START)}.jsonl").open("a") as file:
            file.write(json.dumps(line, separators=(",", ":")) + "\n")
        return id or None

    def walk(self, rollout: Rollout, turns: int = 200, **traffic: Any) -> Rollout:
        """Turn after turn with traffic in between, until it is over or waits for somebody."""
        for _ in range(turns):
            rollout = rollouts.turn(self.ws, rollout)
            if rollout.status != "running":
                return rollout
            self.ask(**traffic)
        return rollout

    def live(self) -> dict[str, tuple[str, float]]:
        return {s.model: (s.status, s.share) for s in host.revisions(self.ws, self.name)}


class Clock:
    """Seconds since the epoch, turned by hand."""

    def __init__(self) -> None:
        self.moment = START

    def __call__(self) -> float:
        return self.moment


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[boucle.Workspace, dict[str, Model]]]:
    folder = tmp_path_factory.mktemp("rollouts")
    (folder / "walking.py").write_text(CODE)
    sys.path.insert(0, str(folder))
    try:
        import walking

        with boucle.init(folder / "shop", actor="worker") as ws:
            data = boucle.Frame.of({"km": [1.0, 4.0, 5.5, 8.0]})
            made = {
                n: models.register(ws, "fare", getattr(walking, n), data=data, task="binary")
                for n in ("fair", "truth", "wrong", "broken")
            }
            yield ws, made
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("walking", None)


@pytest.fixture
def shop(
    place: tuple[boucle.Workspace, dict[str, Model]], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Shop]:
    ws, versions = place
    target = FakeTarget()
    monkeypatch.setattr(ws, "target", lambda name="": target)
    monkeypatch.setattr(ws, "now", Clock())
    monkeypatch.setattr(deploy, "probe", lambda bundle, service: None)
    monkeypatch.setattr(deploy, "_check_port", lambda host, port: None)
    # What a clean process would say, without starting one.
    monkeypatch.setattr(
        "boucle.ledger.bundles.answer",
        lambda folder, rows, *, seconds: [{"prediction": p} for p in _asked(versions, folder)([dict(r) for r in rows])],
    )
    name = "".join(c for c in request.node.name if c.isalnum())[-40:]
    yield Shop(ws, versions, name, target)
    for model in versions.values():
        ws.store.put(model)  # as it was: in no stage
    for kind in (Service, Rollout):  # nothing of one test is to be brought back in the next
        ws.store.drop(kind, *(r.key for r in ws.store.find(kind)))


def _asked(versions: dict[str, Model], folder: Path) -> Callable[..., Any]:
    digest = boucle.core.bundle.open_bundle(folder, verify=False).digest  # type: ignore[attr-defined]
    name = next(n for n, m in versions.items() if m.digest == digest)
    found: Callable[..., Any] = getattr(sys.modules["walking"], name)
    return found
