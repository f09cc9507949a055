"""The loop goes on whoever is killed, and without anybody killed it loses no request."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest


def harness():
    spec = importlib.util.spec_from_file_location("chaos_loop", Path(__file__).with_name("chaos_loop.py"))
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_rollouts_under_load_lose_no_request(tmp_path):
    # One that shares the process and one that takes the address over, and one that comes no further than a part of the traffic.
    rounds = [
        {"function": "good", "phases": "shadow, canary 30 %, all"}, {"function": "good", "apart": True},
        {"function": "broken", "phases": "canary 30 %, all"},
    ]  # fmt: skip
    report = harness().run(tmp_path / "loop", rounds, kills=0)
    assert report.problems == []
    assert report.ends == {"again finished": 1, "truth finished": 1, "broken failed": 1}
    assert report.failed == {}
    assert report.answered > 500


@pytest.mark.slow
def test_kill_whoever_is_at_work(tmp_path):
    module = harness()
    rounds = int(os.environ.get("BOUCLE_CHAOS_ROUNDS", "2"))
    chosen = [module.ROUNDS[i % len(module.ROUNDS)] for i in range(rounds)]
    report = module.run(tmp_path / "loop", chosen, seed=int(os.environ.get("BOUCLE_CHAOS_SEED", "0")), kills=4)
    assert report.problems == []
    assert report.rounds == rounds
    assert sum(report.kills.values()) >= rounds
    assert report.answered > 200 * rounds
