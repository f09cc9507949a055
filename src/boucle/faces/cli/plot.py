"""Plots of runs, as files that open anywhere (needs the extra `plot`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from boucle.core.errors import Invalid
from boucle.ledger import runs as ledger
from boucle.ports.lookup import missing_extra

if TYPE_CHECKING:
    from collections.abc import Sequence

    from boucle.core.records import Run
    from boucle.workspace import Workspace


def compare(ws: Workspace, runs: Sequence[Run], file: str) -> None:
    """Metrics of several runs: curves over steps where they have more than one point, bars otherwise."""
    if Path(file).suffix not in (".html", ".png", ".svg"):
        raise Invalid(f"--plot {file!r}", expected="a file that ends in .html, .png or .svg")
    try:
        import altair as alt
    except ImportError:
        raise missing_extra("altair", "plot", "command") from None
    curves: list[dict[str, Any]] = []
    bars: list[dict[str, Any]] = []
    for run in runs:
        label = f"{run.name} {run.id[-6:]}"
        for series in ledger.points(ws, run):
            if len(series) > 1:
                pairs = zip(series.steps, series.values, strict=True)
                curves += [{"run": label, "metric": series.name, "step": s, "value": v} for s, v in pairs]
        bars += [{"run": label, "metric": n, "value": v} for n, v in run.metrics.items()]
    if not bars and not curves:
        raise Invalid("these runs have no metrics to plot", expected="runs with metrics", fix="boucle runs list")
    drawn: Any
    if curves:
        drawn = (
            alt.Chart(alt.InlineData(values=curves))
            .mark_line(point=len(curves) < 200)
            .encode(
                x="step:Q",
                y=alt.Y("value:Q", scale=alt.Scale(zero=False)),
                color="run:N",
                tooltip=["run:N", "step:Q", "value:Q"],
            )
            .properties(width=360, height=220)
            .facet("metric:N", columns=2)
            .resolve_scale(y="independent", x="independent")
        )
    else:
        drawn = (
            alt.Chart(alt.InlineData(values=bars))
            .mark_bar()
            .encode(
                x="value:Q",
                y=alt.Y("run:N", axis=alt.Axis(labelLimit=300)),
                color=alt.Color("run:N", legend=None),
                tooltip=["run:N", "metric:N", "value:Q"],
            )
            .properties(width=300, height=alt.Step(18))
            .facet("metric:N", columns=2)
            .resolve_scale(x="independent")
        )
    # Everything inline: the page must open without a network.
    drawn.save(file, **({"inline": True} if file.endswith(".html") else {}))
