"""The real DVC, in an environment of its own, since it wants older libraries than others do."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def dvc() -> Path:
    """The program; installed once, beside our own environment."""
    home = Path(sys.prefix) / "neighbours" / "dvc"
    program = home / "bin" / "dvc"
    home.parent.mkdir(exist_ok=True)
    with (home.parent / "dvc.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "ready").exists():
            uv = shutil.which("uv")
            make = (
                [uv, "venv", "-q", "--allow-existing", "-p", sys.executable] if uv else [sys.executable, "-m", "venv"]
            )
            python = str(home / "bin" / "python")
            install = [uv, "pip", "install", "-q", "-p", python] if uv else [python, "-m", "pip", "install", "-q"]
            try:
                subprocess.run([*make, str(home)], check=True, capture_output=True)
                subprocess.run([*install, "dvc>=3.60,<4"], check=True, capture_output=True)
            except subprocess.CalledProcessError as error:
                reason = f"dvc could not be installed: {error.stderr.decode(errors='replace')[-300:]}"
                pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
            (home / "ready").touch()
    return program
