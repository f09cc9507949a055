"""The contract of targets: subclass, give `make`, and run with pytest."""

from __future__ import annotations

import dataclasses
import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from boucle.core import predictions
from boucle.core.bundle import pack
from boucle.core.errors import Unavailable
from boucle.core.schema import Column, Schema
from boucle.ports.target import Placed, Placement, Target


def double(rows: list[dict[str, Any]]) -> list[int]:
    """The model of the contract: twice `x`."""
    return [2 * row["x"] for row in rows]


def post(url: str, body: object) -> tuple[int, dict[str, Any]]:
    """Send JSON to `/predict`; returns the status and the answer, errors included."""
    request = urllib.request.Request(  # noqa: S310  an address that a target gave
        f"{url}/predict", json.dumps(body).encode(), {"content-type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as response:  # noqa: S310
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


class TargetContract:
    """What every target must do. `logged` finds the prediction log that belongs to a placement."""

    make: Callable[[], Target]

    def logged(self, placement: Placement) -> list[dict[str, Any]]:
        return list(predictions.scan(placement.folder / "predictions"))

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
        return Placement("twice", 2, "double@7", bundle, tmp_path / "service")

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

    def test_revisions_run_side_by_side(
        self, target: Target, placement: Placement, start: Callable[[Placement], Placed]
    ) -> None:
        old, new = start(placement), start(dataclasses.replace(placement, revision=3))
        assert old.url != new.url
        assert [post(p.url, {"x": 1})[1]["revision"] for p in (old, new)] == [2, 3]
        assert target.stop(old.handle)
        assert not target.alive(old.handle)
        assert target.alive(new.handle)
        assert post(new.url, {"x": 1})[0] == 200

    def test_one_revision_takes_over_from_another_at_one_address(
        self, target: Target, placement: Placement, start: Callable[[Placement], Placed]
    ) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        old = start(dataclasses.replace(placement, port=port, hold=True))
        url = target.expose(old.handle)
        assert str(port) in url
        assert old.url != url  # until then it answered elsewhere
        new = start(dataclasses.replace(placement, port=port, hold=True, revision=3, folder=placement.folder / "3"))
        assert {post(url, {"x": 1})[1]["revision"] for _ in range(5)} == {2}
        assert target.expose(new.handle) == url
        assert target.stop(old.handle)
        assert {post(url, {"x": 1})[1]["revision"] for _ in range(5)} == {3}

    def test_says_when_the_address_is_taken(
        self, target: Target, placement: Placement, start: Callable[[Placement], Placed]
    ) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            placed = start(dataclasses.replace(placement, port=taken.getsockname()[1], hold=True))
            with pytest.raises(Unavailable):
                target.expose(placed.handle)
        assert post(placed.url, {"x": 1})[0] == 200

    def test_says_why_it_did_not_start(self, target: Target, placement: Placement) -> None:
        (placement.bundle / "bundle.json").write_text("{}")
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
