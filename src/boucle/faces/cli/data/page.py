"""Pages on data: what is in a version, and what differs between two. Each is one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boucle.core.errors import Invalid, Unavailable
from boucle.faces.cli import out

if TYPE_CHECKING:
    from boucle.measure.quality import ColumnProfile, Profile

_WIDTH, _HEIGHT, _LISTED = 320, 110, 8

_CSS = """
:root{color-scheme:light dark;--page:#f7f7f5;--card:#fff;--ink:#1d2226;--soft:#667078;--line:#e2e4e3;--bar:#2f6fdb;
--less:#c4352b;--more:#1f8a4c}
@media(prefers-color-scheme:dark){:root{--page:#14171a;--card:#1d2125;--ink:#e6e9eb;--soft:#98a2aa;--line:#31373c;
--bar:#6ea2ff;--less:#f0685d;--more:#4cc07c}}
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1120px;margin:0 auto;padding:32px 20px 64px}h1{font-size:26px;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:17px;margin:36px 0 12px}p{margin:0 0 8px}.soft,li{color:var(--soft)}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:20px 0}
.facts div,.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 14px}
.facts b{display:block;font-size:19px;overflow-wrap:anywhere}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(330px,1fr));gap:14px}
.card h3{font-size:15px;margin:0;display:flex;justify-content:space-between;gap:8px;overflow-wrap:anywhere}
svg{display:block;width:100%;height:auto}svg text{fill:var(--soft);font-size:10px}rect{fill:var(--bar)}line{stroke:var(--line)}
.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:10px}
table{border-collapse:collapse;width:100%;font-size:14px;font-variant-numeric:tabular-nums}
th,td{padding:7px 9px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th{font-weight:600;color:var(--soft)}tr:last-child td{border:0}th:first-child,td:first-child{text-align:left}
"""


def write(file: str, html: str) -> None:
    """Write a page; raises `Invalid` for a file that does not end in .html, `Unavailable` where it cannot be written."""
    path = Path(file)
    if path.suffix.lower() not in (".html", ".htm"):
        raise Invalid(f"--html {file!r}", expected="a file that ends in .html")
    try:
        path.write_text(html, encoding="utf-8", errors="replace")
    except OSError as error:
        raise Unavailable(
            f"cannot write {path}: {error.strerror}", expected="a file in a folder that exists"
        ) from error


def document(title: str, facts: Mapping[str, Any], parts: Sequence[tuple[str, str]]) -> str:
    """A page of a title, facts, and headings with the HTML below them; empty parts are left out."""
    boxes = "".join(
        f"<div>{escape(n)}<b>{escape(out.cell(v))}</b></div>" for n, v in facts.items() if v not in ("", None, {})
    )
    body = "".join(f"<h2>{escape(heading)}</h2>{html}" for heading, html in parts if html)
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
    return (
        f'<!doctype html>\n<html lang="en"><head>{meta}<title>{escape(title)}</title><style>{_CSS}</style></head>'
        f'<body><main><h1>{escape(title)}</h1><div class="facts">{boxes}</div>{body}</main></body></html>\n'
    )


def cards(profile: Profile, remarks: Sequence[tuple[str, str]]) -> str:
    """A card for each column: what it is, a drawing, and what is odd."""
    odd: dict[str, list[str]] = {}
    for name, what in remarks:
        odd.setdefault(name, []).append(what)
    drawn = []
    for column in profile.columns:
        said = f"{column.nulls:,} nulls, {'' if column.distinct_exact else 'about '}{column.distinct:,} distinct"
        warned = "".join(f"<p>⚠ {escape(what)}</p>" for what in odd.get(column.name, ()))
        drawn.append(
            f'<section class="card"><h3><span>{escape(column.name)}</span><span class="soft">{escape(column.type)}</span></h3>'
            f'<p class="soft">{escape(said)}</p>{warned}{drawing(column)}</section>'
        )
    return f'<div class="cards">{"".join(drawn)}</div>'


def drawing(column: ColumnProfile) -> str:
    """Bars of the most frequent values, or the histogram, as SVG; empty where there is neither."""
    shares, edges = column.histogram.get("shares", []), column.histogram.get("edges", [])
    few = column.top_exact and len(column.top) <= _LISTED
    if column.top and (few or not shares or (column.type == "string" and column.top[0][1] > 1)):
        return bars([(str(value), count) for value, count in column.top[:_LISTED]], column.rows)
    if not shares:
        return ""
    ends = [str(e)[:19] for e in (column.min, column.max)]
    lengths = " characters" if column.type == "string" else ""
    return _histogram(shares, edges, ends, lengths)


def _histogram(shares: Sequence[float], edges: Sequence[float], ends: Sequence[str], unit: str) -> str:
    top, step, floor = max(shares) or 1.0, _WIDTH / len(shares), _HEIGHT - 16
    drawn = "".join(
        f'<rect x="{i * step + 0.5:.1f}" y="{floor - share / top * (floor - 4):.1f}" width="{step - 1:.1f}" '
        f'height="{share / top * (floor - 4):.1f}"><title>{low:.6g} to {high:.6g}: {share:.1%}</title></rect>'
        for i, (share, low, high) in enumerate(zip(shares, edges, edges[1:], strict=False))
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="histogram">{drawn}'
        f'<line x1="0" x2="{_WIDTH}" y1="{floor}" y2="{floor}"/><text x="0" y="{_HEIGHT - 3}">{escape(ends[0] + unit)}</text>'
        f'<text x="{_WIDTH}" y="{_HEIGHT - 3}" text-anchor="end">{escape(ends[1] + unit)}</text></svg>'
    )


def bars(counted: Sequence[tuple[str, float]], total: float) -> str:
    """Horizontal bars with their names and shares, as SVG."""
    top, room = max((n for _, n in counted), default=1) or 1, _WIDTH - 150
    drawn = []
    for i, (name, count) in enumerate(counted):
        shown = name if len(name) <= 16 else f"{name[:15]}…"
        drawn.append(
            f'<text x="0" y="{i * 20 + 13}">{escape(shown)}<title>{escape(name)}</title></text>'
            f'<rect x="100" y="{i * 20 + 4}" width="{max(1.0, count / top * room):.1f}" height="11" rx="1.5"/>'
            f'<text x="{_WIDTH}" y="{i * 20 + 13}" text-anchor="end">{count / (total or 1):.1%}</text>'
        )
    return f'<svg viewBox="0 0 {_WIDTH} {20 * len(counted)}" role="img" aria-label="shares">{"".join(drawn)}</svg>'
