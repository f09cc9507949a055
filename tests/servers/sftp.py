"""SFTP, as OpenSSH speaks it."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from servers import folder, free_port, listening, needed, running


@pytest.fixture(scope="session")
def sftp_server() -> Iterator[dict[str, object]]:
    """Options for a server of our own, and under `home` a folder that it serves."""
    serve, keygen = needed("sshd"), shutil.which("ssh-keygen")
    if keygen is None:
        pytest.skip("ssh-keygen is not installed here")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where sshd goes to have no rights
    port = free_port()
    with folder("sshd") as home:
        for name in ("host", "user"):
            subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", home / name], check=True)
        shutil.copy(home / "user.pub", home / "authorized")
        (home / "known").write_text(f"[127.0.0.1]:{port} {(home / 'host.pub').read_text()}")
        (home / "config").write_text(
            f"Port {port}\nListenAddress 127.0.0.1\nHostKey {home}/host\nAuthorizedKeysFile {home}/authorized\n"
            f"PidFile {home}/pid\nStrictModes no\nPasswordAuthentication no\nSubsystem sftp internal-sftp\n"
        )
        (home / "files").mkdir()
        with running([serve, "-D", "-e", "-f", str(home / "config")], lambda: listening(port)):
            yield {
                "home": str(home / "files"), "port": port, "username": getpass.getuser(),
                "client_keys": [str(home / "user")], "known_hosts": str(home / "known"),
            }  # fmt: skip
