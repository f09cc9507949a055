"""The report on an experiment: one HTML file that needs nothing else, or its drawing alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from boucle.core.errors import Unavailable
from boucle.faces.cli import out
from boucle.faces.cli.ab_table import rows, segment_rows
from boucle.measure.effect import effect_shown

if TYPE_CHECKING:
    from boucle.measure.sequential import Interval
    from boucle.ops.ab import Experiment

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _FLOOR = 760, 300, 56, 28, 14, 264

_CSS = """
:root{color-scheme:light dark;--page:#f7f7f5;--card:#fff;--ink:#1d2226;--soft:#667078;--line:#e2e4e3}
@media(prefers-color-scheme:dark){:root{--page:#14171a;--card:#1d2125;--ink:#e6e9eb;--soft:#98a2aa;--line:#31373c}}
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1120px;margin:0 auto;padding:32px 20px 64px}h1{font-size:26px;margin:0 0 4px}
h2{font-size:17px;margin:36px 0 12px}p{margin:0 0 8px}.said{font-size:18px;max-width:72ch}.soft,li{color:var(--soft)}
.card,.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:10px}.card{padding:12px}
.card svg{width:100%}
table{border-collapse:collapse;width:100%;font-size:14px;font-variant-numeric:tabular-nums}
th,td{padding:7px 9px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th{font-weight:600;color:var(--soft)}tr:last-child td{border:0}th:first-child,td:first-child{text-align:left}
"""
# The drawing may also stand alone, and not all that open one read styles: colours are attributes, and only the dark ones are not.
_DARK = """
@media(prefers-color-scheme:dark){.ground{fill:#1d2125}.band{fill:#6ea2ff}.effect{stroke:#6ea2ff}.grid{stroke:#31373c}.none{stroke:#98a2aa}
text{fill:#98a2aa}}
"""
_STROKES = {
    "band": 'fill="#2f6fdb" fill-opacity="0.18"', "effect": 'fill="none" stroke="#2f6fdb" stroke-width="2"',
    "grid": 'stroke="#d8dbdb"', "none": 'stroke="#667078" stroke-dasharray="4 3"',
}  # fmt: skip
_TEXT = 'fill="#667078" font-size="11" font-family="system-ui,-apple-system,Segoe UI,sans-serif"'


def write(seen: Experiment, path: Path) -> None:
    """The page (.html) or the drawing (.svg; .png needs the extra `plot`). Raises `Unavailable` where it cannot be written."""
    if path.suffix == ".html":
        data = page(seen).encode()
    else:
        data = drawing(seen).encode()
        data = _png(data.decode()) if path.suffix == ".png" else data
    try:
        path.write_bytes(data)
    except OSError as error:
        raise Unavailable(
            f"cannot write {path}: {error.strerror}", expected="a file in a folder that exists"
        ) from error


def _png(svg: str) -> bytes:
    try:
        import vl_convert
    except ImportError:
        from boucle.ports.lookup import missing_extra

        raise missing_extra("vl-convert-python", "plot", "command") from None
    return bytes(vl_convert.svg_to_png(svg, scale=2.0))


def page(seen: Experiment) -> str:
    """The experiment as HTML."""
    facts = (
        f"{seen.before.service} ({seen.before.model}) and {seen.after.service} ({seen.after.model}), {seen.strategy} rollout, "
        f"{seen.status}, from {out.when(seen.since)} to {out.when(seen.until)}"
    )
    title = f"{seen.service}: {seen.main.verdict}"
    parts = [
        f"<h1>{escape(seen.service)}: {escape(seen.after.model)} against {escape(seen.before.model)}</h1>",
        f'<p class="said">{escape(seen.sentence)}</p><p class="soft">{escape(facts)}</p>',
        f"<h2>Effect on {escape(seen.main.name)}</h2>",
        f'<div class="card">{drawing(seen)}</div>',
        "<h2>Measures</h2>" + out.html_table(rows(seen)),
    ]
    if seen.segments:
        parts.append(f"<h2>By {escape(seen.column)}</h2>" + out.html_table(segment_rows(seen)))
    if seen.notes:
        parts.append("<h2>Notes</h2><ul>" + "".join(f"<li>{escape(n)}</li>" for n in seen.notes) + "</ul>")
    head = f"<title>{escape(title)}</title><style>{_CSS}</style>"
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
    return (
        f'<!doctype html>\n<html lang="en"><head>{meta}{head}</head><body><main>{"".join(parts)}</main></body></html>\n'
    )


def drawing(seen: Experiment) -> str:
    """The effect and its interval after more and more rows, as SVG."""
    known = [i for i in seen.path if math.isfinite(i.low)]
    inside = _band(known, seen.main.unit, seen.main.counted) if len(known) > 1 else _nothing()
    label = f"effect on {seen.main.name} after more and more {seen.main.counted}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" '
        f'style="max-width:100%;height:auto" role="img" aria-label="{escape(label)}"><style>{_DARK}</style>'
        f'<rect class="ground" width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/><g {_TEXT}>{inside}</g></svg>'
    )


def _nothing() -> str:
    return f'<text x="{_WIDTH / 2}" y="{_HEIGHT / 2}" text-anchor="middle">too few rows to draw</text>'


def _band(known: Sequence[Interval], unit: str, counted: str) -> str:
    # The first intervals are wide and would flatten all that follows.
    later = known[len(known) // 8 :]
    low, high = min(0.0, *(i.low for i in later)), max(0.0, *(i.high for i in later))
    last = known[-1].rows

    def x(at: float) -> float:
        return _LEFT + at / last * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        held = min(high, max(low, value))
        return _TOP + (high - held) / (high - low) * (_FLOOR - _TOP)

    def line(values: Sequence[tuple[int, float]]) -> str:
        return " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in values)

    around = [(i.rows, i.high) for i in known] + [(i.rows, i.low) for i in reversed(known)]
    grid = []
    for tick in _ticks(low, high):
        kind = "none" if tick == 0 else "grid"
        grid.append(
            f'<line class="{kind}" {_STROKES[kind]} x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
            f'<text x="{_LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{effect_shown(tick, unit)}</text>'
        )
    grid += [
        f'<text x="{x(mark):.1f}" y="{_FLOOR + 16}" text-anchor="middle">{mark:,.0f}</text>'
        for mark in _ticks(0, last) if mark
    ]  # fmt: skip
    what = f"{'points' if unit == '%' else unit or 'effect'} after so many {counted}"
    return (
        f'{"".join(grid)}<polygon class="band" {_STROKES["band"]} points="{line(around)}"/>'
        f'<polyline class="effect" {_STROKES["effect"]} points="{line([(i.rows, i.estimate) for i in known])}"/>'
        f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 4}" text-anchor="end">{escape(what)}</text>'
    )


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers."""
    rough = (high - low) / 5
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(m * size for m in (1, 2, 5, 10) if m * size >= rough)
    return [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
