"""An experiment as rows of a table, for the terminal and the page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from boucle.measure.effect import about, duration, effect_shown, shown

if TYPE_CHECKING:
    from boucle.measure.effect import Measure
    from boucle.ops.ab import Experiment


def rows(seen: Experiment) -> list[dict[str, Any]]:
    """The measures as rows of a table. How many more it takes is said of the one that decides."""
    return [{**_row(m), **(_wait(m) if i == 0 and m.needed else {})} for i, m in enumerate(seen.measures)]


def segment_rows(seen: Experiment) -> list[dict[str, Any]]:
    """The segments as rows of a table."""
    return [{seen.column: s.value, **_row(s.measure), **_wait(s.measure)} for s in seen.segments]


def _row(measure: Measure) -> dict[str, Any]:
    e, unit = measure.effect, measure.unit
    return {
        "measure": f"{measure.name} ({measure.detail})" if measure.detail else measure.name,
        "before": shown(measure.before, unit), "after": shown(measure.after, unit),
        "effect": effect_shown(e.estimate, unit),
        f"{100 * (1 - measure.level):.4g} % interval": f"{effect_shown(e.low, unit)} to {effect_shown(e.high, unit)}",
        "rows": f"{measure.rows[0]:,} and {measure.rows[1]:,}", "verdict": measure.verdict,
    }  # fmt: skip


def _wait(measure: Measure) -> dict[str, Any]:
    return {
        "more per arm": "" if measure.needed is None else about(measure.needed),
        "which takes": duration(measure.seconds) if measure.seconds else "",
    }
