"""The contract of engines: subclass, give `make`, and run with pytest."""

from __future__ import annotations

import contextvars
import os
import threading
import time
from collections.abc import Callable

import pytest

from boucle.ports.engine import Engine

_word: contextvars.ContextVar[str] = contextvars.ContextVar("word", default="none")


def double(x: int) -> int:
    """A call that can be isolated."""
    return 2 * x


def fail(text: str) -> None:
    """A call that raises."""
    raise ValueError(text)


def stall(seconds: float) -> None:
    """A call that takes its time."""
    time.sleep(seconds)


class EngineContract:
    """What every engine must do."""

    make: Callable[[int], Engine]

    def test_gives_results(self) -> None:
        with self.make(2) as engine:
            assert [f.result() for f in [engine.submit(double, i) for i in range(20)]] == [2 * i for i in range(20)]

    def test_gives_errors(self) -> None:
        with self.make(1) as engine, pytest.raises(ValueError, match="broken"):
            engine.submit(fail, "broken").result()

    def test_carries_context(self) -> None:
        _word.set("said")
        with self.make(1) as engine:
            assert engine.submit(_word.get).result() == "said"

    def test_leaving_waits(self) -> None:
        with self.make(2) as engine:
            futures = [engine.submit(stall, 0.05) for _ in range(3)]
        assert all(f.done() for f in futures)

    def test_parallel(self) -> None:
        with self.make(2) as engine:
            if "parallel" not in engine.capabilities:
                pytest.skip(f"{engine.name} does not run calls in parallel")
            meeting = threading.Barrier(2, timeout=10)
            for future in [engine.submit(meeting.wait) for _ in range(2)]:
                future.result()

    def test_isolates(self) -> None:
        with self.make(1) as engine:
            if "isolate" not in engine.capabilities:
                pytest.skip(f"{engine.name} does not isolate")
            assert engine.submit(os.getpid, isolate=True).result() != os.getpid()
            with pytest.raises(ValueError, match="broken"):
                engine.submit(fail, "broken", isolate=True).result()

    def test_times_out(self) -> None:
        with self.make(1) as engine:
            if "isolate" not in engine.capabilities:
                pytest.skip(f"{engine.name} does not isolate")
            with pytest.raises(TimeoutError):
                engine.submit(stall, 60.0, timeout=0.2).result()
