"""RabbitMQ."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from servers import folder, free_port, listening, needed, running


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[str]:
    """host:port of a broker of our own; user and password guest, virtual host /."""
    serve, control = needed("rabbitmq-server"), needed("rabbitmqctl")
    user = "rabbitmq" if os.geteuid() == 0 else ""
    port, distribution, epmd = free_port(), free_port(), free_port()
    with folder("rmq", user) as home:
        settings = home / "rabbitmq.conf"
        settings.write_text("loopback_users = none\nlog.console = false\n", encoding="utf-8")
        env = {
            "HOME": str(home), "RABBITMQ_NODENAME": f"t{port}@localhost", "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1", "RABBITMQ_MNESIA_BASE": str(home), "RABBITMQ_LOG_BASE": str(home),
            "RABBITMQ_DIST_PORT": str(distribution), "ERL_EPMD_PORT": str(epmd), "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_CONFIG_FILE": str(settings), "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +S 1",
        }  # fmt: skip

        def ready() -> bool:
            return listening(port) and not subprocess.run(
                [control, "-q", "await_startup", "--timeout", "30"], env={**os.environ, **env}, capture_output=True, check=False
            ).returncode  # fmt: skip

        with running([serve], ready, env=env):
            yield f"127.0.0.1:{port}"
            # The wrapper starts another user's processes, which a signal to its group may not reach; epmd stays behind, too.
            subprocess.run(
                [control, "-q", "shutdown", "--timeout", "30"],
                env={**os.environ, **env},
                capture_output=True,
                check=False,
            )
            subprocess.run(
                [needed("epmd"), "-port", str(epmd), "-kill"],
                env={**os.environ, **env},
                capture_output=True,
                check=False,
            )
