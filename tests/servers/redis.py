"""Redis."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from servers import folder, free_port, listening, needed, running


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The URL of a server of our own."""
    serve, port = needed("redis-server"), free_port()
    with folder("redis") as home:
        command = [
            serve,
            "--bind",
            "127.0.0.1",
            "--port",
            str(port),
            "--save",
            "",
            "--appendonly",
            "no",
            "--dir",
            str(home),
        ]
        with running(command, lambda: listening(port)):
            yield f"redis://127.0.0.1:{port}"
