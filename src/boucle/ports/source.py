"""Sources: where tables come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from boucle.core.frames import Frame


@dataclass(slots=True)
class BadLine:
    """A line that was set aside: where it stands (1 is the first line of the file), what it says, what is wrong."""

    number: int
    text: str
    why: str


@dataclass(slots=True)
class Reading:
    """A frame about to be read, and what the source found out or set aside. `bad` fills while the frame is read."""

    frame: Frame
    found: dict[str, Any] = field(default_factory=dict)  # e.g. delimiter, encoding
    bad: list[BadLine] = field(default_factory=list)


class Source(Protocol):
    """Reads one format or system as lazy batches with bounded memory."""

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]  # file endings it is chosen by, e.g. .csv

    def read(self, url: str, options: Mapping[str, Any]) -> Reading:
        """Open `url` (a path for files). Raises `NotFound` or `Invalid` before any batch for what can be known early."""
