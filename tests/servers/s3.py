"""S3, as moto speaks it."""

from __future__ import annotations

import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from servers import free_port, listening, needed, running


@pytest.fixture(scope="session")
def s3_server() -> Iterator[dict[str, str]]:
    """Options for a server of our own, with the bucket `boucle-tests`."""
    beside = Path(sys.executable).with_name("moto_server")
    serve, port = str(beside) if beside.exists() else needed("moto_server"), free_port()
    with running([serve, "-H", "127.0.0.1", "-p", str(port)], lambda: listening(port)):
        endpoint = f"http://127.0.0.1:{port}"
        request = urllib.request.Request(f"{endpoint}/boucle-tests", method="PUT")
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.status == 200
        yield {
            "endpoint": endpoint, "region": "us-east-1", "access_key_id": "test", "secret_access_key": "not-a-secret",
        }  # fmt: skip
