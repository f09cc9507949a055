"""Replay: ask a new model what a service was asked before, and compare the answers. No live request is touched.

Rows that the new model learned from say nothing about it, so predictions that came into its training data are left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boucle.core import predictions
from boucle.core.errors import Refused
from boucle.core.records import Model, Service
from boucle.core.refs import id_at
from boucle.ledger import bundles
from boucle.ops import seal
from boucle.ops.rollout import tally as tallies
from boucle.ops.rollout.plan import Policy
from boucle.ops.rollout.tally import Tally

if TYPE_CHECKING:
    from boucle.workspace import Workspace

MOST = 5_000  # rows at a time
SECONDS = 600.0  # that asking them may take
FRESH = 20  # more rows before it is worth loading the model again


def replay(
    ws: Workspace, tally: Tally, before: Service, model: Model, folder: Path, policy: Policy, until: float
) -> tuple[Tally, str]:
    """Add what came since the last look; returns the sums, and in words why the model cannot be asked, if so."""
    learned = seal.learned(ws, model)
    read = (tally.before.labels, tally.before.after)
    asked = (pair for pair in tallies.read_labels(tally.before, before, 0.0, {}) if _counts(pair[0], learned))
    pairs: list[tuple[dict[str, Any], Any]] = list(itertools.islice(asked, MOST))
    enough = tally.pairs + len(pairs) >= policy.rows
    if not enough or not policy.labels or not (tally.labelled or pairs):
        known = {record["id"] for record, _ in pairs}
        unlabelled = _newest(before, tally.before.after, until, MOST)
        pairs += [(r, None) for r in unlabelled if r["id"] not in known and _counts(r, learned)]
        tally.before.after = unlabelled[-1]["id"] if unlabelled else tally.before.after
    if pairs and len(pairs) < FRESH and tally.pairs:
        # Too few to load the model again for: next time, with those that come.
        tally.before.labels, tally.before.after = read
        return tally, ""
    if not pairs:
        return tally, ""
    bundle = bundles.materialise(ws, model, folder / "bundle")
    try:
        said = bundles.answer(bundle.folder, [r["inputs"] for r, _ in pairs], seconds=SECONDS)
    except Refused as error:
        return tally, f"the new model cannot answer what the service was asked: {error.what}"
    old = [record["output"]["prediction"] for record, _ in pairs]
    tally.spread = tally.spread or tallies.spread_of(old)
    for (_, label), was, now in zip(pairs, old, said, strict=True):
        tallies.compare(tally, was, now["prediction"], model, label)
    return tally, ""


def _counts(record: Mapping[str, Any], learned: frozenset[str]) -> bool:
    return record["request"] != "probe" and record["id"] not in learned


def _newest(before: Service, after: str, until: float, most: int) -> list[dict[str, Any]]:
    """Unlabelled traffic past an id, the newest rows first looked for within an hour, then a day, then ever."""
    found: list[dict[str, Any]] = []
    for span in (3600.0, 86400.0, until):
        lines = predictions.scan(Path(before.folder, "predictions"), max(after, id_at(until - span)))
        found = [r for r in lines if "shadow" not in r and r["time"] <= until][-most:]
        if len(found) >= most // 10:
            break
    return found
