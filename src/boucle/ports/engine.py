"""Engines: where the steps of a pipeline run."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Protocol


class Engine(AbstractContextManager["Engine"], Protocol):
    """Runs calls, several at once. Leaving it waits for what runs; `cancel` does not.

    Capabilities: `isolate` (a call can have a process of its own, so that `timeout` can end it), `parallel`.
    """

    name: ClassVar[str]
    capabilities: ClassVar[frozenset[str]]

    def submit(
        self,
        call: Callable[..., Any],
        /,
        *args: Any,
        isolate: bool = False,
        timeout: float | None = None,
    ) -> Future[Any]:
        """Run `call(*args)`. With a `timeout` (seconds; implies `isolate`) a call that takes longer is killed and its
        future raises `TimeoutError`. An isolated call and its arguments must be importable and picklable."""

    def cancel(self) -> None:
        """Start nothing more and end isolated calls."""
