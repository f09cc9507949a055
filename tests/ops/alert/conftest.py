"""A workspace with a clock that stands still until it is moved, and a channel that writes a file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import boucle.workspace
from boucle.settings import resolve
from boucle.workspace import Workspace

TOML = """[channels.file]
type = "file"
path = "alerts.jsonl"
"""


class Clock:
    """Seconds since the epoch."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Shop:
    """A workspace, its clock, its settings and what its file channel got."""

    def __init__(self, folder: Path) -> None:
        boucle.workspace.init(folder, actor="ann").close()
        self.folder, self.clock = folder, Clock(1_800_000_000.0)
        self.ws = self.configured(TOML)

    def configured(self, text: str) -> Workspace:
        """The workspace with these settings; the memory stays."""
        (self.folder / "boucle.toml").write_text(text)
        if "ws" in vars(self):
            self.ws.close()
        self.ws = Workspace(resolve(self.folder, actor="ann"), self.clock)
        return self.ws

    def pass_(self, seconds: float) -> None:
        self.clock.now += seconds

    def sent(self, file: str = "alerts.jsonl") -> list[dict[str, Any]]:
        path = self.folder / file
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def titles(self, file: str = "alerts.jsonl") -> list[str]:
        return [m["title"] for m in self.sent(file)]

    def events(self) -> list[str]:
        return [e.type for e in self.ws.store.events()]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    made = Shop(tmp_path / "shop")
    yield made
    made.ws.close()
