"""Targets: where a service runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol


@dataclass(frozen=True, slots=True)
class Placement:
    """What a target needs to start a service: a bundle's folder and where the prediction log goes; nothing else."""

    service: str
    revision: int
    model: str  # name@version, stamped on each prediction
    bundle: Path
    folder: Path  # the service's own: logs, state
    host: str = "127.0.0.1"
    port: int = 0  # 0: any free one
    hold: bool = False  # answer at a private address only, until `expose`
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Placed:
    """A service that runs: where it answers, and whatever the target needs to find it again (JSON)."""

    url: str
    handle: Mapping[str, Any]


class Target(Protocol):
    """Starts, watches and stops services."""

    name: ClassVar[str]

    def start(self, placement: Placement, timeout: float = 60.0) -> Placed:
        """Start and wait until it is ready; raises `Unavailable` with the end of its log when it does not come up."""

    def expose(self, handle: Mapping[str, Any], timeout: float = 10.0) -> str:
        """Let a service that was started with `hold` answer at its port too, beside an older revision that still does;
        returns that address. Raises `Unavailable` when the port cannot be had; the service then goes on as it was."""

    def alive(self, handle: Mapping[str, Any]) -> bool:
        """Whether that very service still runs (not another one that got its address or pid)."""

    def stop(self, handle: Mapping[str, Any], timeout: float = 10.0) -> bool:
        """End it gracefully, by force past the timeout; returns whether it ran."""
