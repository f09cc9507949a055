"""The command line as people call it: a process per command, in a folder of its own."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass
class Said:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Boucle:
    """Runs commands in a folder; `ok` insists that they succeed and gives their JSON."""

    folder: Path

    def __call__(self, *arguments: object, **environment: str) -> Said:
        command = [sys.executable, "-m", "boucle.faces.cli.main", *map(str, arguments)]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={**os.environ, "BOUCLE_ACTOR": "ann", **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    def ok(self, *arguments: object) -> Any:
        said = self(*arguments, "--json")
        assert said.code == 0, f"{arguments}: {said.err or said.out}"
        return said.json

    def at(self, folder: str) -> Boucle:
        return Boucle(self.folder / folder)


@pytest.fixture
def boucle(tmp_path):
    return Boucle(tmp_path)


@pytest.fixture
def customers(tmp_path):
    """A CSV file of customers, some of whom leave for reasons that can be learned."""

    def write(rows: int = 400, seed: int = 0, name: str = "customers.csv") -> Path:
        dice = random.Random(seed)
        lines = ["age,plan,visits,since,churned"]
        for i in range(rows):
            age, plan, visits = dice.gauss(40, 12), dice.choice(["basic", "plus", "pro"]), dice.randint(0, 9)
            leaves = 0.1 * (age - 40) - 0.5 * visits + (plan == "pro") * 2 + dice.gauss(0, 1) > -1
            shown = "" if dice.random() < 0.05 else f"{age:.1f}"
            lines.append(f"{shown},{plan},{visits},2024-{1 + i % 12:02}-{1 + i % 28:02},{'yes' if leaves else 'no'}")
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n")
        return path

    return write
