"""Real servers for tests: each is started when a test first asks for it, on a free port, in a folder of its own, and ends with
the tests. One that this machine does not have is a skipped test with a reason; in CI, where it could have been installed, a
failed one."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

pytest_plugins = [
    "servers.dvc",
    "servers.postgres", "servers.redis", "servers.mariadb", "servers.mongo", "servers.kafka", "servers.rabbitmq",
    "servers.nats", "servers.mosquitto", "servers.s3", "servers.gcs", "servers.azure", "servers.sftp",
]  # fmt: skip


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listening(port: int) -> bool:
    """Whether somebody answers there."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def needed(*binaries: str) -> str:
    """The path of the first of these programs that is here; without one the test is skipped, or fails where CI could have
    installed it."""
    for name in binaries:
        places = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/lib/postgresql/15/bin"])
        if found := shutil.which(name, path=places):
            return found
    reason = f"{binaries[0]} is not installed here"
    if os.environ.get("CI") == "true" and os.geteuid() == 0 and shutil.which("apt-get"):
        pytest.fail(f"{reason}, and .ci/run could have installed it")
    pytest.skip(reason)


@contextmanager
def folder(prefix: str, owner: str = "") -> Iterator[Path]:
    """A folder for a server's files, short enough for sockets; of another user where the server refuses root."""
    path = Path(tempfile.mkdtemp(prefix=f"{prefix}-", dir="/tmp"))
    try:
        if owner and os.geteuid() == 0:
            shutil.chown(path, owner, owner)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def running(
    command: Sequence[str],
    ready: Callable[[], bool],
    *,
    env: Mapping[str, str] | None = None,
    user: str = "",
    seconds: float = 60.0,
) -> Iterator[subprocess.Popen[bytes]]:
    """A program in a process group of its own, from when it is ready until the end of the block."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
            env={**os.environ, **(env or {})}, user=user if user and os.geteuid() == 0 else None,
        )  # fmt: skip
        try:
            late = time.monotonic() + seconds
            while not ready():
                if process.poll() is not None or time.monotonic() > late:
                    output.seek(0)
                    said = output.read().decode(errors="replace")[-2000:]
                    raise RuntimeError(f"{command[0]} did not become ready ({process.poll()}): {said}")
                time.sleep(0.05)
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)
