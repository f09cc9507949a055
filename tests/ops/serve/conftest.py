"""A bundle without files, and services of it without a process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest

from boucle.core import predictions
from boucle.core.route import Arm, Route
from boucle.core.schema import Column, Schema
from boucle.ops.serve.app import App
from boucle.ops.serve.arms import Here

INPUT = Schema(
    (
        Column("tenure", "int64", nullable=False, kind="number", description="months as a customer"),
        Column("plan", "string", kind="category", categories=("basic", "plus", "<b>max</b>")),
        Column("spend", "float64", kind="number"),
    )
)
OUTPUT = Schema(
    (Column("prediction", "string", False), Column("probabilities", "struct<stay: float64, leave: float64>", False))
)
ROW: dict[str, Any] = {"tenure": 3, "plan": "basic", "spend": 20.5}
CARD = "# Churn\n\nPredicts who *leaves*.\n\n- one\n- two\n\n| metric | value |\n|---|---|\n| auc | 0.91 |\n"


def churn(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Leaves early, leaves often: a probability that depends on the tenure alone."""
    leave = pa.array([1 / (1 + max(t, 0)) for t in batch.column("tenure").to_pylist()])
    stay = pa.array([1 - p for p in leave.to_pylist()])
    return pa.RecordBatch.from_arrays(
        [
            pa.array(["leave" if p > 0.5 else "stay" for p in leave.to_pylist()]),
            pa.StructArray.from_arrays([stay, leave], names=["stay", "leave"]),
        ],
        names=["prediction", "probabilities"],
    )


@dataclass
class FakePredictor:
    function: Callable[[pa.RecordBatch], pa.RecordBatch] = churn
    sizes: list[int] = field(default_factory=list)

    def predict(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.sizes.append(batch.num_rows)
        return self.function(batch)


@dataclass
class FakeBundle:
    name: str = "churn"
    version: str = "3"
    digest: str = "ab" * 32
    task: str = "classification"
    framework: str = "python"
    input: Schema = INPUT
    output: Schema = OUTPUT
    sample: list[dict[str, Any]] = field(
        default_factory=lambda: [dict(ROW), {"tenure": 0, "plan": None, "spend": None}]
    )
    golden: list[dict[str, Any]] = field(
        default_factory=lambda: [{"prediction": "stay", "probabilities": {"stay": 0.75, "leave": 0.25}}]
    )
    references: dict[str, Any] = field(
        default_factory=lambda: {"run": "run:01J", "code": "code:ff", "datasets": ["dataset:churn@1"]}
    )
    card: str = CARD


@dataclass
class Serving:
    """An application with its predictor and log, asked one request at a time or several at once."""

    app: App
    predictor: FakePredictor
    bundle: FakeBundle
    folder: Path
    row: dict[str, Any] = field(default_factory=lambda: dict(ROW))

    def open(self, optional: bool = False) -> None:
        arm = Arm(2, "churn@3", "", str(self.folder), str(self.folder / "failures"), 1.0)
        here = Here("churn-eu", arm, self.bundle, self.predictor, log_optional=optional)  # type: ignore[arg-type]
        self.app.turn(Route((arm,)), {2: here})

    def ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        return self.ask_all((method, path, request))[0]

    def ask_all(self, *requests: tuple[str, str, dict[str, Any]]) -> list[httpx.Response]:
        async def all_of_them() -> list[httpx.Response]:
            transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
                return await asyncio.gather(*(client.request(m, p, **request) for m, p, request in requests))

        return asyncio.run(all_of_them())

    def logged(self) -> list[dict[str, Any]]:
        return list(predictions.scan(self.folder))


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Serving]]:
    """Makes services: `serve(function, bundle=..., ready=False, optional=True, max_body=...)`."""
    started: list[App] = []

    def make(
        function: Callable[[pa.RecordBatch], pa.RecordBatch] = churn,
        *,
        bundle: FakeBundle | None = None,
        ready: bool = True,
        optional: bool = False,
        **options: Any,
    ) -> Serving:
        folder = tmp_path / f"log{len(started)}"
        folder.parent.mkdir(exist_ok=True)
        app = App("churn-eu", log_optional=optional, **options)
        started.append(app)
        serving = Serving(app, FakePredictor(function), bundle or FakeBundle(), folder)
        if ready:
            serving.open(optional)
        return serving

    yield make
    for app in started:
        app.close()


@pytest.fixture(scope="module")
def churn_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """One service for many examples."""
    folder = tmp_path_factory.mktemp("log")
    app = App("churn-eu", max_body=100_000)
    serving = Serving(app, FakePredictor(), FakeBundle(), folder)
    serving.open()
    yield serving
    app.close()


@pytest.fixture
def make_bundle() -> Callable[..., FakeBundle]:
    return FakeBundle
