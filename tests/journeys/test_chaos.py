"""A process may be killed at any moment: nothing it acknowledged is lost, and the next one goes on."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest


def harness():
    spec = importlib.util.spec_from_file_location("chaos", Path(__file__).with_name("chaos.py"))
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_kill_at_random_moments(tmp_path):
    rounds = int(os.environ.get("BOUCLE_CHAOS_ROUNDS", "6"))
    report = harness().run(tmp_path / "chaos", rounds, seed=int(os.environ.get("BOUCLE_CHAOS_SEED", "0")))
    assert report.problems == []
    assert report.rounds == rounds
    assert report.acknowledged > 150 * rounds
