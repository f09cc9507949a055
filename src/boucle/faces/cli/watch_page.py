"""The report on a watched service: one HTML file that needs nothing else, with a drawing per column."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from boucle.faces.cli import out

if TYPE_CHECKING:
    from boucle.measure.anomaly import Anomalies
    from boucle.measure.concept import Concept
    from boucle.measure.drift import ColumnDrift
    from boucle.measure.estimate import Estimate
    from boucle.measure.sketch import ColumnReference, Sketch
    from boucle.ops.watch import Watched

Floats = NDArray[np.float64]

_WIDTH, _HEIGHT, _BARS, _LISTED, _FEW = 320, 120, 32, 7, 8

_CSS = """
:root{color-scheme:light dark;--page:#f7f7f5;--card:#fff;--ink:#1d2226;--soft:#667078;--line:#e2e4e3;
--was:#9aa5ad;--now:#2f6fdb;--pass:#1f8a4c;--warn:#b07400;--fail:#c4352b}
@media(prefers-color-scheme:dark){:root{--page:#14171a;--card:#1d2125;--ink:#e6e9eb;--soft:#98a2aa;--line:#31373c;
--was:#6d7880;--now:#6ea2ff;--pass:#4cc07c;--warn:#e0a63a;--fail:#f0685d}}
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1120px;margin:0 auto;padding:32px 20px 64px}h1{font-size:26px;margin:0 0 4px}
h2{font-size:17px;margin:36px 0 12px}p{margin:0 0 8px}.soft{color:var(--soft)}
.pill{display:inline-block;padding:1px 10px;border-radius:999px;color:var(--card);font-size:13px;font-weight:600}
.pass{background:var(--pass)}.warn{background:var(--warn)}.fail{background:var(--fail)}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:20px 0}
.facts div,.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 14px}
.facts b{display:block;font-size:19px;overflow-wrap:anywhere}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(330px,1fr));gap:14px}
.card h3{font-size:15px;margin:0;display:flex;justify-content:space-between;gap:8px;overflow-wrap:anywhere}
.card p{min-height:3em;margin:4px 0}svg{display:block;width:100%;height:auto}svg text{fill:var(--soft);font-size:10px}
.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:10px}
table{border-collapse:collapse;width:100%;font-size:14px;font-variant-numeric:tabular-nums}
th,td{padding:7px 9px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th{font-weight:600;color:var(--soft)}tr:last-child td{border:0}th:first-child,td:first-child{text-align:left}
.key i{display:inline-block;width:11px;height:11px;border-radius:2px;margin:0 5px 0 14px;vertical-align:-1px}
.was{fill:var(--was);background:var(--was)}.now{fill:var(--now);background:var(--now)}
path.was{fill-opacity:.35;stroke:var(--was)}path.now{fill-opacity:.22;stroke:var(--now);stroke-width:1.6}
line{stroke:var(--line)}
"""


def page(seen: Watched) -> str:
    """The report as HTML."""
    columns = seen.drift.columns if seen.drift else ()
    order = sorted(columns, key=lambda c: (("fail", "warn", "pass").index(c.status), -c.scores.effect))
    facts = {
        "rows": f"{seen.rows:,}", "from": out.when(seen.first) or "-", "to": out.when(seen.last) or "-",
        **{f"latency {k}": out.took(v) for k, v in seen.latency.items()},
    }  # fmt: skip
    parts = [
        f"<h1>{escape(seen.service)} {_pill(seen.status)}</h1>",
        f"<p>{escape(seen.sentence[:1].upper() + seen.sentence[1:])}.</p>",
        f'<p class="soft">model {escape(seen.model)}, compared with {escape(seen.reference)}</p>',
        '<div class="facts">'
        + "".join(f"<div>{escape(k)}<b>{escape(v)}</b></div>" for k, v in facts.items())
        + "</div>",
    ]
    if columns:
        parts += [
            '<h2>Columns</h2><p class="key soft">Share of rows<i class="was"></i>reference<i class="now"></i>now</p>',
            '<div class="cards">' + "".join(_card(seen, c) for c in order) + "</div>",
            "<h2>Scores</h2>" + out.html_table([_scores(c) for c in order]),
        ]
    if seen.estimate is not None and seen.rows:
        parts.append("<h2>Likely quality</h2>" + _estimate(seen.estimate))
    if seen.concept is not None:
        parts.append("<h2>Errors of labelled predictions</h2>" + _concept(seen.concept))
    if seen.anomaly is not None and seen.rows:
        parts.append("<h2>Anomalies</h2>" + _anomalies(seen.anomaly))
    if seen.outcome is not None:
        rows = [scored(o) for o in (*seen.outcomes, seen.outcome)]
        parts.append("<h2>Outcomes</h2><p class='soft'>The last line is over all of it.</p>" + out.html_table(rows))
    head = f"<title>{escape(seen.service)}: {seen.status}</title><style>{_CSS}</style>"
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
    return (
        f'<!doctype html>\n<html lang="en"><head>{meta}{head}</head><body><main>{"".join(parts)}</main></body></html>\n'
    )


def _pill(status: str) -> str:
    return f'<span class="pill {status}">{status}</span>'


def card_drawing(seen: Watched, column: ColumnDrift) -> str:
    """The drawing of a column as SVG; empty where there is none."""
    if seen.against is None or seen.sketches is None or column.kind in ("other", "vector"):
        return ""
    reference, sketch = seen.against.columns[column.name], seen.sketches.columns[column.name]
    return _curves(reference, sketch) if reference.edges.size else _bars(reference, sketch)


def _card(seen: Watched, column: ColumnDrift) -> str:
    drawn = card_drawing(seen, column)
    name = f"<h3><span>{escape(column.name)}</span>{_pill(column.status)}</h3>"
    return f'<section class="card">{name}<p class="soft">{escape(column.sentence)}</p>{drawn}</section>'


def _curves(reference: ColumnReference, sketch: Sketch) -> str:
    """Both densities over bins of equal width, taken as even within a cell."""
    edges = reference.edges
    if len(edges) <= _FEW:
        rows = [(f"{edge:.4g}", *_shares(reference, sketch, i + 2)) for i, edge in enumerate(edges)]
        beside = [("(missing)", *_shares(reference, sketch, 0)), ("(others)", *_outside(reference, sketch))]
        return _bars_of(rows + [r for r in beside if r[1] or r[2]])
    bins = np.linspace(edges[0], edges[-1], _BARS + 1)

    def share(counts: NDArray[Any]) -> Floats:
        known = np.cumsum(counts[1:])[1:-1] / max(1, counts[1:].sum())
        at = np.interp(bins, edges, known)
        at[0] = counts[1] / max(1, counts[1:].sum())
        return np.diff(at)

    was, now = share(reference.counts), share(sketch.counts)
    top = max(float(was.max()), float(now.max()), 1e-9)

    def outline(shares: Floats) -> str:
        step, floor = _WIDTH / _BARS, _HEIGHT - 16
        tops = " ".join(f"V{floor - s / top * (floor - 6):.1f}H{(i + 1) * step:.1f}" for i, s in enumerate(shares))
        return f"M0 {floor}{tops}V{floor}Z"

    low, high = f"{edges[0]:.4g}", f"{edges[-1]:.4g}"
    away = _outside(reference, sketch)[1]
    beyond = f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 3}" text-anchor="middle">{away:.1%} outside</text>' if away else ""
    inside = (
        f'<path class="was" d="{outline(was)}"/><path class="now" d="{outline(now)}"/>'
        f'<text x="0" y="{_HEIGHT - 3}">{low}</text><text x="{_WIDTH}" y="{_HEIGHT - 3}" text-anchor="end">{high}</text>{beyond}'
    )
    return _svg(inside, _HEIGHT, f"densities from {low} to {high}")


def _shares(reference: ColumnReference, sketch: Sketch, cell: int) -> tuple[float, float]:
    return tuple(float(c[cell] / max(1, c.sum())) for c in (reference.counts, sketch.counts))  # type: ignore[return-value]


def _outside(reference: ColumnReference, sketch: Sketch) -> tuple[float, float]:
    below, above = (_shares(reference, sketch, cell) for cell in (1, -1))
    return below[0] + above[0], below[1] + above[1]


def _bars(reference: ColumnReference, sketch: Sketch) -> str:
    names = {0: "(missing)", 1: "(new)" if reference.complete else "(others)"}
    names |= {i + 2: c for i, c in enumerate(reference.categories)}
    rows = [(n, *_shares(reference, sketch, cell)) for cell, n in names.items()]
    return _bars_of(sorted((r for r in rows if r[1] or r[2]), key=lambda r: -max(r[1], r[2]))[:_LISTED])


def _bars_of(rows: Sequence[tuple[str, float, float]]) -> str:
    top = max((max(r[1], r[2]) for r in rows), default=1.0) or 1.0
    room = _WIDTH - 140
    inside = []
    for i, (name, was, now) in enumerate(rows):
        y = i * 24
        shown = name if len(name) <= 16 else f"{name[:15]}…"
        inside.append(
            f'<text x="0" y="{y + 14}">{escape(shown)}</text>'
            f'<rect class="was" x="96" y="{y + 3}" width="{was / top * room:.1f}" height="7" rx="1.5"/>'
            f'<rect class="now" x="96" y="{y + 11}" width="{now / top * room:.1f}" height="7" rx="1.5"/>'
            f'<text x="{_WIDTH}" y="{y + 14}" text-anchor="end">{now:.1%}</text>'
        )
    return _svg("".join(inside), max(24, 24 * len(rows)), "shares of the values")


def _svg(inside: str, height: int, title: str) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}">{inside}</svg>'


def _scores(column: ColumnDrift) -> dict[str, Any]:
    s = column.scores
    return {
        "column": column.name, "verdict": column.status, "rows": column.rows, "missing": f"{s.missing:.1%}",
        "new": s.new, "outside": s.outside, "PSI": s.psi, "JS": s.js, "KS": s.ks, "Wasserstein": s.wasserstein,
        "AUC": s.domain, "chi-square p": s.chi_square_p, "log10 e": column.log10_e,
    }  # fmt: skip


def _estimate(found: Estimate) -> str:
    said = f'<p class="soft">{escape(found.sentence[:1].upper() + found.sentence[1:])}.</p>'
    rows = [
        {"score": n, "estimate": v, "from": low, "to": high, "measured on kept rows": found.measured.get(n)}
        for n, (v, low, high) in found.scores.items()
    ]
    over = f"<p>An estimate, not a measurement, over the last {found.rows:,} rows.</p>" if rows else ""
    return said + (over + out.html_table(rows) if rows else "")


def _concept(found: Concept) -> str:
    began = f", since {out.when(found.since)}" if found.since else ""
    return f"<p>{_pill(found.status)} {escape(found.sentence)}{began} ({found.labelled:,} labels).</p>"


def _anomalies(found: Anomalies) -> str:
    said = f"<p>{_pill(found.status)} {escape(found.sentence)}.</p>"
    spans = [
        {"kind": a.kind, "from": out.when(a.start), "to": out.when(a.end), "what": a.sentence} for a in found.found[:20]
    ]
    rows = [
        {"odd input": o.id, "asked": out.when(o.time), "surprise": o.surprise, "why": "; ".join(o.why)}
        for o in found.odd
    ]
    return said + "".join(out.html_table(r) for r in (spans, rows) if r)


def estimated(found: Estimate) -> str:
    """The estimated scores in a line, with what they are."""
    if not found.scores:
        return found.sentence
    scores = ", ".join(f"{n} {v:.3f} ({low:.3f} to {high:.3f})" for n, (v, low, high) in found.scores.items())
    return f"{scores}; {found.sentence}, over the last {found.rows:,} rows"


def scored(outcome: Any) -> dict[str, Any]:
    """How good the answers of a span were, as a row."""
    return {
        "from": out.when(outcome.start), "to": out.when(outcome.end), "answered": outcome.answered,
        "labelled": f"{outcome.completeness:.0%}", **outcome.scores,
    }  # fmt: skip
