"""Timing shared by the benchmarks: CPU and wall seconds of a piece of work, the best of several rounds, and a table."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Seconds per operation."""

    cpu: float
    wall: float


def best(work: Callable[[], object], operations: int, rounds: int = 3) -> Timing:
    """The round with the least CPU: what the work costs when nothing disturbs it."""
    found = []
    for _ in range(rounds):
        cpu, wall = time.process_time(), time.perf_counter()
        work()
        found.append(Timing((time.process_time() - cpu) / operations, (time.perf_counter() - wall) / operations))
    return min(found, key=lambda t: t.cpu)


def table(title: str, rows: list[tuple[str, Timing, Timing | None]]) -> None:
    """Print each row with the ratio of its CPU to that of its limit."""
    print(f"\n{title}")
    print(f"{'':44}{'CPU us':>10}{'wall us':>10}{'limit us':>10}{'ratio':>8}")
    for name, ours, limit in rows:
        shown = f"{limit.cpu * 1e6:10.1f}{ours.cpu / limit.cpu:7.1f}x" if limit else ""
        print(f"{name:44}{ours.cpu * 1e6:10.1f}{ours.wall * 1e6:10.1f}{shown}")
