"""Azure Blob Storage, as azurite speaks it: a program of npm's, which tests use where it is installed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from servers import free_port, listening, running

# The account and key that every emulator of Azure has; no secret.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@pytest.fixture(scope="session")
def azure_server() -> Iterator[dict[str, object]]:
    """Options for a server of our own, with the container `boucle-tests`."""
    serve = shutil.which(os.environ.get("AZURITE_BLOB", "azurite-blob"))
    if serve is None:
        reason = "azurite-blob is not installed here (npm install -g azurite@3)"
        pytest.fail(reason) if os.environ.get("CI") == "true" and shutil.which("npm") else pytest.skip(reason)
    port = free_port()
    command = [
        serve, "--blobHost", "127.0.0.1", "--blobPort", str(port), "--inMemoryPersistence", "--disableTelemetry",
        "--skipApiVersionCheck", "--silent",
    ]  # fmt: skip
    with running(command, lambda: listening(port)):
        _make_container(port, "boucle-tests")
        yield {"endpoint": f"http://127.0.0.1:{port}/{ACCOUNT}", "account_name": ACCOUNT, "account_key": KEY}


def _make_container(port: int, name: str) -> None:
    """Shared Key authorization, by hand (learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key)."""
    import base64
    import hashlib
    import hmac
    import urllib.request
    from email.utils import formatdate

    date, version = formatdate(usegmt=True), "2021-12-02"
    text = (
        "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:{version}\n/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    )
    signed = base64.b64encode(hmac.digest(base64.b64decode(KEY), text.encode(), hashlib.sha256)).decode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/{ACCOUNT}/{name}?restype=container", method="PUT",
        headers={
            "x-ms-date": date, "x-ms-version": version, "Authorization": f"SharedKey {ACCOUNT}:{signed}",
            "Content-Length": "0",
        },
    )  # fmt: skip
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 201
