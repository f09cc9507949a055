"""PostgreSQL."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from servers import folder, free_port, listening, needed, running


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a database server of our own; user postgres, no password."""
    make, serve = needed("initdb"), needed("postgres")
    user = "postgres" if os.geteuid() == 0 else ""
    with folder("pg", user) as home:
        data = home / "data"
        subprocess.run(
            [make, "-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8", "-D", str(data)], check=True,
            capture_output=True, user=user or None, cwd=home,
        )  # fmt: skip
        port = free_port()
        command = [
            serve, "-D", str(data), "-p", str(port), "-k", str(home), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"
        ]  # fmt: skip
        ready = Path(home / f".s.PGSQL.{port}")
        with running(command, lambda: ready.exists() and listening(port), user=user):
            yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
