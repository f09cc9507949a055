"""Rollouts: a new revision takes the place of an old one when it has shown that it may, and not otherwise.

`plan` decides (pure), `walk` does, `tally` counts, `replay` asks a new model what was asked before.
"""

from boucle.ops.rollout.plan import Decision, Facts, Measure, Phase, Policy, decide, plan
from boucle.ops.rollout.walk import (
    abort,
    approve,
    back,
    freeze,
    frozen,
    going,
    pause,
    policy_for,
    resume,
    start,
    thaw,
    turn,
)

__all__ = [
    "Decision", "Facts", "Measure", "Phase", "Policy", "abort", "approve", "back", "decide", "freeze", "frozen", "going",
    "pause", "plan", "policy_for", "resume", "start", "thaw", "turn",
]  # fmt: skip
