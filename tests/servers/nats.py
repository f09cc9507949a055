"""NATS with JetStream."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from servers import folder, free_port, listening, needed, running


@pytest.fixture(scope="session")
def nats() -> Iterator[str]:
    """host:port of a server of our own; no password."""
    serve, port = needed("nats-server"), free_port()
    with folder("nats") as home:
        command = [serve, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(home)]
        with running(command, lambda: listening(port)):
            yield f"127.0.0.1:{port}"
