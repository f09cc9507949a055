"""MariaDB."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from servers import folder, free_port, listening, needed, running


@pytest.fixture(scope="session")
def mariadb() -> Iterator[str]:
    """The URL of a database of a server of our own; user root, password `right`."""
    make, serve = needed("mariadb-install-db"), needed("mariadbd")
    user = "mysql" if os.geteuid() == 0 else ""
    with folder("maria", user) as home:
        data, port = home / "data", free_port()
        first = home / "first.sql"
        first.write_text(
            "CREATE DATABASE IF NOT EXISTS test CHARACTER SET utf8mb4;\nALTER USER root@localhost IDENTIFIED BY 'right';\n"
        )
        subprocess.run(
            [make, "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal", "--skip-test-db",
             "--skip-name-resolve"],
            check=True, capture_output=True, user=user or None, cwd=home,
        )  # fmt: skip
        command = [
            serve, "--no-defaults", f"--datadir={data}", f"--port={port}", "--bind-address=127.0.0.1", f"--socket={home}/s",
            f"--pid-file={home}/pid", f"--init-file={first}", "--innodb-flush-log-at-trx-commit=0", "--skip-log-bin",
            "--innodb-buffer-pool-size=64M", "--innodb-fast-shutdown=2",
        ]  # fmt: skip
        with running(command, lambda: listening(port), user=user):
            yield f"mysql://root:right@127.0.0.1:{port}/test"
