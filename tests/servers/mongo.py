"""MongoDB, or SecantusDB, which speaks its protocol over WiredTiger: `uv tool install 'secantusdb>=0.7.0b3'`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from servers import folder, free_port, listening, needed, running


@pytest.fixture(scope="session")
def mongodb() -> Iterator[str]:
    """The URL of a database of a server of our own, which is a replica set of one."""
    tools = Path("~/.local/bin").expanduser()
    serve = (
        shutil.which("secantusd-py") or shutil.which("secantusd-py", path=os.fspath(tools)) or needed("secantusd-py")
    )
    port = free_port()
    with folder("mongo") as home:
        command = [serve, "--host", "127.0.0.1", "--port", str(port), "--storage-path", str(home / "data")]
        with running(command, lambda: listening(port)):
            yield f"mongodb://127.0.0.1:{port}/test"
