"""Kill -9 loses nothing that was acknowledged, and leaves nothing unsound."""

import importlib.util
import os
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("chaos", Path(__file__).with_name("chaos.py"))
assert _spec is not None
assert _spec.loader is not None
chaos = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(chaos)

ROUNDS = int(os.environ.get("BOUCLE_CHAOS_ROUNDS", "8"))


@pytest.mark.slow
def test_kill_at_random_moments(tmp_path):
    report = chaos.harness(tmp_path / "shop", ROUNDS, seed=int.from_bytes(os.urandom(2), "big"))
    assert report["killed"] > 0
    assert report["acknowledged"]["done"] >= 2
