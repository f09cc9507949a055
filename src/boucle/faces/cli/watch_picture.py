"""The report on a watched service as one picture: what the page says first, and its drawings."""

from __future__ import annotations

import re
import textwrap
from html import escape
from typing import TYPE_CHECKING

from boucle.faces.cli import out
from boucle.faces.cli.watch_page import card_drawing, estimated
from boucle.ports.lookup import missing_extra

if TYPE_CHECKING:
    from boucle.ops.watch import Watched

_WIDTH, _COLUMNS, _CARD, _GAP = 1120, 3, 220, 16
_SCALE = 1.5  # pixels per unit
_COLOURS = {"pass": "#1f8a4c", "warn": "#b07400", "fail": "#c4352b"}
_FONT = 'font-family="sans-serif"'


def drawing(seen: Watched) -> str:
    """The report as SVG, in fixed colours on white, with nothing to fetch."""
    lines = [seen.sentence, f"{seen.rows:,} rows, model {seen.model}, compared with {seen.reference}"]
    if seen.concept is not None:
        began = f" since {out.when(seen.concept.since)}" if seen.concept.since else ""
        lines.append(f"errors: {seen.concept.sentence}{began}")
    if seen.estimate is not None and seen.rows:
        lines.append(f"estimate: {estimated(seen.estimate)}")
    if seen.anomaly is not None and seen.rows:
        lines.append(f"anomalies: {seen.anomaly.sentence}")
    lines = [part for line in lines for part in textwrap.wrap(line, 150)]
    parts = [
        f'<text x="24" y="44" {_FONT} font-size="24" fill="#1d2226">{escape(seen.service)}</text>',
        f'<text x="{_WIDTH - 24}" y="44" {_FONT} font-size="20" text-anchor="end" fill="{_COLOURS[seen.status]}">'
        f"{seen.status}</text>",
        *(
            f'<text x="24" y="{72 + 20 * i}" {_FONT} font-size="13" fill="#667078">{escape(line)}</text>'
            for i, line in enumerate(lines)
        ),
    ]
    top = 72 + 20 * len(lines) + 8
    columns = seen.drift.columns if seen.drift is not None else ()
    order = sorted(columns, key=lambda c: (("fail", "warn", "pass").index(c.status), -c.scores.effect))
    width = (_WIDTH - 48 - _GAP * (_COLUMNS - 1)) / _COLUMNS
    for i, column in enumerate(order):
        x, y = 24 + i % _COLUMNS * (width + _GAP), top + i // _COLUMNS * (_CARD + _GAP)
        said = textwrap.wrap(column.sentence, 58)[:2]
        parts.append(
            f'<g transform="translate({x:.1f} {y})"><rect width="{width:.1f}" height="{_CARD}" rx="8" fill="#fff" '
            f'stroke="#e2e4e3"/><text x="12" y="22" {_FONT} font-size="14" fill="#1d2226">{escape(column.name[:36])}</text>'
            f'<text x="{width - 12:.1f}" y="22" {_FONT} font-size="13" text-anchor="end" '
            f'fill="{_COLOURS[column.status]}">{column.status}</text>'
            + "".join(
                f'<text x="12" y="{42 + 15 * j}" {_FONT} font-size="11" fill="#667078">{escape(line)}</text>'
                for j, line in enumerate(said)
            )
            + _placed(card_drawing(seen, column), width - 24)
            + "</g>"
        )
    height = top + -(-len(order) // _COLUMNS) * (_CARD + _GAP) + 16
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}">'
        f"<style>{_STYLE}</style>"
        f'<rect width="100%" height="100%" fill="#f7f7f5"/>{"".join(parts)}</svg>'
    )


_STYLE = (
    ".was{fill:#9aa5ad}.now{fill:#2f6fdb}path.was{fill-opacity:.35;stroke:#9aa5ad}"
    "path.now{fill-opacity:.22;stroke:#2f6fdb;stroke-width:1.6}line{stroke:#e2e4e3}"
    ".drawn text{fill:#667078;font-size:10px;font-family:sans-serif}"
)


def _placed(svg: str, width: float) -> str:
    """A drawing of the page inside a card, as high as there is room for."""
    found = re.match(r'<svg viewBox="0 0 (\d+) (\d+)"[^>]*>(.*)</svg>$', svg, re.DOTALL)
    if not found:
        return ""
    scale = min(width / int(found[1]), (_CARD - 80) / int(found[2]))
    return f'<g class="drawn" transform="translate(12 68) scale({scale:.3f})">{found[3]}</g>'


def rasterised(svg: str) -> bytes:
    """SVG as PNG. Raises `MissingExtra`."""
    try:
        import vl_convert
    except ImportError:
        raise missing_extra("vl-convert-python", "plot", "report") from None
    return bytes(vl_convert.svg_to_png(svg, scale=_SCALE))
