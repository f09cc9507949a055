"""The contract of targets: subclass, give `make`, and run with pytest."""

from __future__ import annotations

import dataclasses
import http.client
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pytest

from boucle.core import predictions
from boucle.core.bundle import pack
from boucle.core.errors import Unavailable
from boucle.core.route import Arm, Route
from boucle.core.schema import Column, Schema
from boucle.ports.target import Placed, Placement, Target


def double(rows: list[dict[str, Any]]) -> list[int]:
    """The model of the contract: twice `x`."""
    return [2 * row["x"] for row in rows]


def post(url: str, body: object, headers: Mapping[str, str] | None = None) -> tuple[int, dict[str, Any]]:
    """Send JSON to `/predict`; returns the status and the answer, errors included."""
    given = {"content-type": "application/json", **(headers or {})}
    request = urllib.request.Request(  # noqa: S310  an address that a target gave
        f"{url}/predict", json.dumps(body).encode(), given, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as response:  # noqa: S310
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@contextmanager
def loaded(url: str, clients: int = 4) -> Iterator[list[tuple[int, dict[str, Any]]]]:
    """While it is open, clients that keep their connections ask as fast as they can; gives the growing list of answers. A
    connection that is refused or cut counts as an answer with status 0; one that was closed between two requests is
    opened anew, as every client does."""
    answers: list[tuple[int, dict[str, Any]]] = []
    enough = threading.Event()
    parts = urlsplit(url)

    def ask() -> None:
        connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=20)
        while not enough.is_set():
            try:
                connection.request("POST", "/predict", b'{"x": 1}', {"content-type": "application/json"})
                answer = connection.getresponse()
                answers.append((answer.status, json.load(answer)))
            except (OSError, http.client.HTTPException) as error:
                answers.append((0, {"error": repr(error)}))
                connection.close()
        connection.close()

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: len(answers) > 100)
        yield answers
    finally:
        enough.set()
        for thread in threads:
            thread.join()


def wait_for(holds: Callable[[], Any], seconds: float = 30.0) -> None:
    """Wait until something holds; fails when it does not in time."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it did not come about in time"
        time.sleep(0.01)


class TargetContract:
    """What every target must do. `logged` finds the prediction log that belongs to a placement."""

    make: Callable[[], Target]

    def logged(self, placement: Placement) -> list[dict[str, Any]]:
        return [line for arm in placement.route.arms for line in predictions.scan(Path(arm.log))]

    @pytest.fixture
    def target(self) -> Target:
        return self.make()

    @pytest.fixture
    def placement(self, tmp_path: Path) -> Placement:
        bundle = tmp_path / "bundle"
        pack(
            bundle,
            double,
            name="double",
            input=Schema((Column("x", "int64", nullable=False),)),
            sample=pa.table({"x": [1, 2]}),
        )
        arm = Arm(2, "double@7", str(bundle), str(tmp_path / "2" / "predictions"), share=1.0)
        return Placement("twice", Route((arm,)), tmp_path / "service")

    @pytest.fixture
    def other(self, placement: Placement, tmp_path: Path) -> Arm:
        """Another revision of the same model, without a share."""
        return dataclasses.replace(
            placement.route.arms[0], revision=3, log=str(tmp_path / "3" / "predictions"), share=0.0
        )  # fmt: skip

    @pytest.fixture
    def start(self, target: Target) -> Iterator[Callable[[Placement], Placed]]:
        """Starts services that are stopped when the test is over."""
        placed: list[Placed] = []

        def start(placement: Placement) -> Placed:
            placed.append(target.start(placement))
            return placed[-1]

        yield start
        for one in placed:
            target.stop(one.handle)

    def test_starts_answers_and_stops(
        self, target: Target, placement: Placement, start: Callable[[Placement], Placed]
    ) -> None:
        placed = start(placement)
        assert target.alive(placed.handle)
        status, answer = post(placed.url, {"x": 21})
        assert status == 200
        assert (answer["prediction"], answer["service"], answer["revision"], answer["model"]) == (
            42,
            "twice",
            2,
            "double@7",
        )
        assert post(placed.url, {"x": "many"})[0] == 422
        assert target.stop(placed.handle)
        assert not target.alive(placed.handle)
        assert not target.stop(placed.handle)
        assert [line["id"] for line in self.logged(placement)] == [answer["id"]]

    def test_another_target_takes_over_by_the_handle(
        self, placement: Placement, start: Callable[[Placement], Placed]
    ) -> None:
        handle = json.loads(json.dumps(dict(start(placement).handle)))
        other = self.make()
        assert other.alive(handle)
        assert other.stop(handle)
        assert not other.alive(handle)

    def test_the_route_is_changed_while_it_runs(
        self, target: Target, placement: Placement, other: Arm, start: Callable[[Placement], Placed]
    ) -> None:
        placed = start(placement)
        (old,) = placement.route.arms
        assert target.routed(placed.handle) == placement.route.digest
        beside = Route((old, other))
        assert target.route(placed.handle, beside) == {2: "ready", 3: "ready"}
        assert target.routed(placed.handle) == beside.digest
        assert {post(placed.url, {"x": 1})[1]["revision"] for _ in range(5)} == {2}
        assert post(placed.url, {"x": 1}, {"x-boucle-revision": "3"})[1]["revision"] == 3
        new = Route((dataclasses.replace(other, share=1.0),))
        assert target.route(placed.handle, new) == {3: "ready"}
        assert {post(placed.url, {"x": 1})[1]["revision"] for _ in range(5)} == {3}

    def test_a_revision_that_cannot_be_loaded_leaves_the_others_alone(
        self, target: Target, placement: Placement, other: Arm, start: Callable[[Placement], Placed], tmp_path: Path
    ) -> None:
        placed = start(placement)
        broken = dataclasses.replace(other, bundle=str(tmp_path / "nowhere"), share=1.0)
        states = target.route(placed.handle, Route((*placement.route.arms, broken)))
        assert states[2] == "ready"
        assert states[3].startswith("failed")
        assert {post(placed.url, {"x": 1})[1]["revision"] for _ in range(5)} == {2}

    def test_one_process_takes_over_the_address_of_another_under_load(
        self, target: Target, placement: Placement, other: Arm, start: Callable[[Placement], Placed], tmp_path: Path
    ) -> None:
        old = start(placement)
        arm = dataclasses.replace(other, share=1.0)
        new = start(dataclasses.replace(placement, route=Route((arm,)), folder=tmp_path / "other"))
        assert old.url != new.url
        with loaded(old.url) as answers:
            assert target.address(old.handle) == old.url
            assert target.take(new.handle, old.handle) == old.url
            assert target.address(new.handle) == old.url
            wait_for(lambda: not target.alive(old.handle))
            wait_for(lambda: answers and answers[-1][1].get("revision") == 3)
        assert [answer for answer in answers if answer[0] != 200] == []
        assert target.alive(new.handle)
        assert target.routed(new.handle) == Route((arm,)).digest

    def test_says_why_it_did_not_start(self, target: Target, placement: Placement) -> None:
        Path(placement.route.arms[0].bundle, "bundle.json").write_text("{}")
        with pytest.raises(Unavailable) as failure:
            target.start(placement)
        assert "bundle format" in str(failure.value)

    def test_stopping_under_load_loses_no_answer(
        self, target: Target, placement: Placement, start: Callable[[Placement], Placed]
    ) -> None:
        placed = start(placement)
        answered: list[str] = []
        enough = threading.Event()

        def ask() -> None:
            while True:
                try:
                    status, answer = post(placed.url, {"x": len(answered)})
                except OSError:
                    return  # it takes no more connections
                if status == 200:
                    answered.append(answer["id"])
                if len(answered) > 50:
                    enough.set()

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert enough.wait(30)
        assert target.stop(placed.handle)
        for thread in threads:
            thread.join()
        assert {line["id"] for line in self.logged(placement)} == set(answered)
