"""Targets: where a service runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from boucle.core.route import Route


@dataclass(frozen=True, slots=True)
class Placement:
    """What a target needs to start a service: which revisions it has, how traffic is split, and a folder; nothing else."""

    service: str
    route: Route
    folder: Path  # for what the process needs and prints; prediction logs go where the route says
    host: str = "127.0.0.1"
    port: int = 0  # 0: any free one
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
        """Start and wait until it runs as its route says; raises `Unavailable` with the end of its log when it does not,
        or when none of its revisions can be loaded."""

    def route(self, handle: Mapping[str, Any], route: Route, timeout: float = 60.0) -> Mapping[int, str]:
        """Change the route of a service that runs, without losing a request, and wait until it is in force. Returns how
        each revision is: `ready`, or why not; `apart: ...` where it needs a process of its own. Raises `Unavailable`."""

    def routed(self, handle: Mapping[str, Any]) -> str:
        """The digest of the route in force; '' when it does not run."""

    def address(self, handle: Mapping[str, Any]) -> str:
        """Where it answers now; '' when it does not run."""

    def take(self, handle: Mapping[str, Any], other: Mapping[str, Any], timeout: float = 30.0) -> str:
        """Let the service of `handle` answer at the address of `other`, which then ends by itself; no request is lost.
        Returns the address. Raises `Unavailable`, and then both go on as they were."""

    def alive(self, handle: Mapping[str, Any]) -> bool:
        """Whether that very service still runs (not another one that got its address or pid)."""

    def stop(self, handle: Mapping[str, Any], timeout: float = 10.0) -> bool:
        """End it gracefully, by force past the timeout; returns whether it ran."""
