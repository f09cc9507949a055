"""Checks: judgements on tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from boucle.core.frames import Frame


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found: `pass`, `warn` or `fail`, one sentence, and the numbers behind it."""

    status: str
    summary: str
    score: float | None = None
    threshold: float | None = None
    evidence: dict[str, Any] = field(default_factory=dict)


class Check(Protocol):
    """Looks at a frame and says whether it is as it should be. Reads it in batches, in one pass."""

    name: ClassVar[str]
    options: ClassVar[dict[str, str]]  # option -> what it means

    def run(self, frame: Frame, options: Mapping[str, Any]) -> Finding:
        """Raises `Invalid` for a bad option or a column that is not there; never for bad data."""
