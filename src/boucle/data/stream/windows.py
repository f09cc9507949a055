"""Tumbling windows over event times: which rows wait, which are complete, which come too late.

Time goes on by what arrives: the watermark is the largest event time less the lateness that is allowed, the smallest of those
over the parts of the stream, so that a part that is read ahead closes nothing for the others. A window is closed when the
watermark reaches its end, and a row is late when its window was closed. (Akidau et al., The Dataflow Model, VLDB 2015.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

_AHEAD = 86_400.0  # seconds; an event time further in the future is a clock that is wrong, and closes nothing


@dataclass(slots=True)
class Windows:
    """The rows that wait for their window to close."""

    size: float  # seconds
    lateness: float  # seconds
    idle: float  # seconds after which a part that brings nothing is not waited for
    times: dict[str, float] = field(default_factory=dict)  # part -> largest event time
    closed: float = -math.inf  # all windows that end up to here are
    held: dict[float, list[pa.RecordBatch]] = field(default_factory=dict)  # by the beginning of their window
    _heard: dict[str, float] = field(default_factory=dict)  # part -> when it last brought something

    @property
    def rows(self) -> int:
        """How many wait."""
        return sum(batch.num_rows for batches in self.held.values() for batch in batches)

    def add(
        self, batch: pa.RecordBatch, times: np.ndarray[Any, Any], parts: Sequence[str], now: float
    ) -> pa.RecordBatch:
        """Take in rows with their event times (seconds since the epoch) and parts; returns those that are late."""
        for part in set(parts):
            self._heard[part] = now
        for part, moment in zip(parts, times.tolist(), strict=True):
            if moment <= now + _AHEAD and moment > self.times.get(part, -math.inf):
                self.times[part] = moment
        begins = np.floor(times / self.size) * self.size
        late = begins + self.size <= self.closed
        self.hold(batch.filter(pa.array(~late)), begins[~late])
        return batch.filter(pa.array(late))

    def hold(self, batch: pa.RecordBatch, begins: np.ndarray[Any, Any]) -> None:
        """Keep rows by the beginning of their window, in the order they came."""
        for begin in np.unique(begins).tolist():
            self.held.setdefault(begin, []).append(batch.filter(pa.array(begins == begin)))

    def due(self, now: float) -> list[tuple[float, list[pa.RecordBatch]]]:
        """The windows that are complete, oldest first; from now on they are closed."""
        active = [t for part, t in self.times.items() if now - self._heard.get(part, now) <= self.idle]
        if not active:
            return []
        watermark = min(active) - self.lateness
        self.closed = max(self.closed, math.floor(watermark / self.size) * self.size)
        return [(begin, self.held.pop(begin)) for begin in sorted(self.held) if begin + self.size <= self.closed]
