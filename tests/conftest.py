"""What every test shares: one thread per native library, asserts of the contract suites that say what differed, and no
verdicts from the clock."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for `servers`

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

pytest.register_assert_rewrite("boucle.testing")
pytest_plugins = ["servers"]

# A busy machine makes examples slow, which says nothing about the code.
settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")

# These start programs, train models or simulate: all of them run in `make test`, none in the quick `make check`.
SLOW = (
    "core/test_bundle.py", "data/test_dvc.py", "data/test_memory.py", "data/test_stream", "docs/", "faces/", "journeys/",
    "measure/test_drift.py", "measure/test_sequential.py", "ops/rollout/test_dying.py", "ops/rollout/test_loop.py",
    "ops/test_deploy.py", "plugins/frameworks/", "plugins/targets/", "servers/", "thirdparty/",
    # against real servers
    *(f"plugins/channels/test_{name}.py" for name in ("kafka", "mqtt", "nats", "rabbitmq", "redis")),
    *(f"plugins/sources/test_{name}.py" for name in ("mongo", "mysql", "postgres", "redis", "sqlalchemy")),
    "plugins/places/test_fsspec.py", "plugins/places/test_objects.py", "plugins/sources/test_malformed.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies in these places as slow."""
    for item in items:
        if item.path.relative_to(Path(__file__).parent).as_posix().startswith(SLOW):
            item.add_marker(pytest.mark.slow)
