"""Sources: where tables come from, and sinks: where they go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

from boucle.core.frames import Frame

Mode = Literal["append", "replace", "merge"]


@dataclass(slots=True)
class BadLine:
    """A line that was set aside: where it stands (1 is the first line of the file), what it says, what is wrong, and of several
    files in which."""

    number: int
    text: str
    why: str
    file: str = ""


@dataclass(slots=True)
class Reading:
    """A frame about to be read, and what the source found out or set aside. `bad` fills while the frame is read."""

    frame: Frame
    found: dict[str, Any] = field(default_factory=dict)  # e.g. delimiter, encoding
    bad: list[BadLine] = field(default_factory=list)


class Source(Protocol):
    """Reads one format or system as lazy batches with bounded memory."""

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]  # of a format of files: the endings it is chosen by, e.g. .csv
    schemes: ClassVar[
        tuple[str, ...]
    ]  # of a system: the beginnings of its URLs, e.g. postgresql, or sqlalchemy+* for many
    options: ClassVar[Mapping[str, str]]  # name -> what it is for

    def read(self, url: str, options: Mapping[str, Any]) -> Reading:
        """Open `url` (for a format of files: the path of one local file). Raises `NotFound` or `Invalid` before any batch for
        what can be known early. Options and URL may hold secrets: neither errors nor what was found show them."""


class Sink(Protocol):
    """A source that can be written to as well."""

    def write(self, frame: Frame, url: str, mode: Mode, key: Sequence[str], options: Mapping[str, Any]) -> int:
        """Write all rows or none; returns how many. `replace` leaves nothing but them, `merge` replaces those with the same
        values of the columns `key`, and the target is made when it is not there."""
