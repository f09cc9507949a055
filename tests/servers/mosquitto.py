"""Mosquitto, a broker for MQTT."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from servers import folder, free_port, listening, needed, running


@pytest.fixture(scope="session")
def mosquitto() -> Iterator[str]:
    """host:port of a broker of our own that keeps any number of messages for who is away; no password."""
    serve, port = needed("mosquitto"), free_port()
    user = "mosquitto" if os.geteuid() == 0 else ""
    with folder("mqtt", user) as home:
        settings = home / "mosquitto.conf"
        settings.write_text(
            f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nset_tcp_nodelay true\n",
            encoding="utf-8",
        )
        with running([serve, "-c", str(settings)], lambda: listening(port)):
            yield f"127.0.0.1:{port}"
