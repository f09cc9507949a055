"""The command that measures the work itself: kpi."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from boucle.faces.cli import out
from boucle.faces.cli.here import opened

if TYPE_CHECKING:
    from boucle.ops.kpi import Kpi, Kpis

_SHOWN = 26  # weeks of the trend in a terminal
_LEVELS = "▁▂▃▄▅▆▇█"
_WIDTH, _HEIGHT = 480, 110

_CSS = """
:root{color-scheme:light dark;--page:#f7f7f5;--card:#fff;--ink:#1d2226;--soft:#667078;--line:#e2e4e3;--now:#2f6fdb}
@media(prefers-color-scheme:dark){:root{--page:#14171a;--card:#1d2125;--ink:#e6e9eb;--soft:#98a2aa;--line:#31373c;
--now:#6ea2ff}}
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1120px;margin:0 auto;padding:32px 20px 64px}h1{font-size:26px;margin:0 0 4px}
h2{font-size:17px;margin:36px 0 12px}p{margin:0}.soft{color:var(--soft)}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,250px),1fr));gap:12px;margin:20px 0}
.trends{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,480px),1fr));gap:12px}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 14px}
h3{font-size:15px;margin:0 0 4px}b{font-size:22px}b+span{margin-left:8px;white-space:nowrap}
svg{display:block;width:100%;height:auto}svg text{fill:var(--soft);font-size:12px}rect{fill:var(--now)}line{stroke:var(--line)}
"""


def add_kpi(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--service", default="", metavar="NAME", help="only this one (default: all together)")
    parser.add_argument("--since", metavar="TIME", help="only from then on: a time, yesterday, '90 days ago'")
    parser.add_argument("--until", metavar="TIME", help="only up to then (default: now)")
    parser.add_argument("--out", metavar="FILE", help="write a page as well: one HTML file that needs nothing else")
    parser.set_defaults(call=kpi)


def kpi(args: argparse.Namespace) -> int:
    """The numbers, what they mean, and of how many observations they are."""
    from boucle.core.errors import NotFound, Unavailable
    from boucle.core.records import Service
    from boucle.core.where import field
    from boucle.ops.kpi import kpis

    ws = opened(args)
    if args.service and not ws.store.find(Service, field("name") == args.service, limit=1):
        raise NotFound.named("service", args.service, {s.name for s in ws.store.find(Service)}, fix="boucle services")
    seen = kpis(ws, since=args.since, until=args.until, service=args.service)
    if args.out:
        path = Path(args.out)
        try:
            path.write_text(page(seen), encoding="utf-8")
        except OSError as error:
            raise Unavailable(
                f"cannot write {path}: {error.strerror}", expected="a file in a folder that exists"
            ) from error
    if args.json:
        out.as_json(seen.to_json())
        return 0
    out.line(f"{seen.service or 'all services'}, {_day(seen.since)} to {_day(seen.until)}")
    out.line()
    out.table(
        [
            {"what": _title(k), "value": ", ".join([_value(k), *_beside(k)]), "n": k.n, "it is": k.means}
            for k in seen.values
        ]
    )
    if seen.weeks:
        out.line()
        out.table([{"by weeks": name, f"from {_day(seen.weeks[-_SHOWN:][0].start)}": bars(values[-_SHOWN:]),
                    "last": _last(values, unit)} for name, values, unit in _trends(seen)])  # fmt: skip
    return 0


def _value(one: Kpi) -> str:
    return "no data" if one.value is None else _short(one.value, one.unit)


def _beside(one: Kpi) -> list[str]:
    return [f"{k} {_short(v, 'count' if k == 'failed' else one.unit)}" for k, v in one.beside.items()]


def bars(values: Sequence[float | None]) -> str:
    """A row of blocks, as high as the values are beside the largest; a dot where there is none."""
    top = max((v for v in values if v is not None), default=0.0) or 1.0
    steps = len(_LEVELS) - 1
    return "".join("·" if v is None else _LEVELS[round(v / top * steps)] for v in values)


def page(seen: Kpis) -> str:
    """The same as one HTML file, with a drawing per trend."""
    cards = "".join(
        f"<section><h3>{escape(_title(k))}</h3><b>{escape(_value(k))}</b>"
        f"<span class='soft'>{escape(', '.join(_beside(k)))}</span>"
        f"<p class='soft'>{escape(k.means)}; n = {k.n:,}</p></section>"
        for k in seen.values
    )
    trends = "".join(
        f"<section><h3>{escape(name)}</h3>{_drawn(seen, values, unit, name)}</section>"
        for name, values, unit in (_trends(seen) if seen.weeks else ())
    )
    title = escape(f"{seen.service or 'all services'}: the way into production")
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
    return (
        f'<!doctype html>\n<html lang="en"><head>{meta}<title>{title}</title><style>{_CSS}</style></head><body><main>'
        f'<h1>{title}</h1><p class="soft">{_day(seen.since)} to {_day(seen.until)}</p><div class="cards">{cards}</div>'
        f"{'<h2>By weeks</h2>' if trends else ''}<div class='trends'>{trends}</div></main></body></html>\n"
    )


def _drawn(seen: Kpis, values: Sequence[float | None], unit: str, name: str) -> str:
    """Bars over weeks; nothing stands where there is no data."""
    top = max((v for v in values if v is not None), default=0.0)
    step, floor = _WIDTH / len(values), _HEIGHT - 16
    drawn = []
    for i, (week, value) in enumerate(zip(seen.weeks, values, strict=True)):
        if value is not None:
            tall = max(1.0, value / (top or 1.0) * (floor - 14))
            said = escape(f"week of {_day(week.start)}: {_short(value, unit)}")
            drawn.append(
                f'<rect x="{i * step + 1:.1f}" y="{floor - tall:.1f}" width="{max(1.0, step - 2):.1f}" '
                f'height="{tall:.1f}" rx="1.5"><title>{said}</title></rect>'
            )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(name)} by weeks">{"".join(drawn)}'
        f'<line x1="0" x2="{_WIDTH}" y1="{floor}" y2="{floor}"/><text x="0" y="10">{escape(_short(top, unit))}</text>'
        f'<text x="0" y="{_HEIGHT - 3}">{_day(seen.weeks[0].start)}</text>'
        f'<text x="{_WIDTH}" y="{_HEIGHT - 3}" text-anchor="end">{_day(seen.weeks[-1].start)}</text></svg>'
    )


def _trends(seen: Kpis) -> list[tuple[str, list[float | None], str]]:
    weeks = seen.weeks
    return [
        ("successful updates", [float(w.updates) for w in weeks], "count"),
        ("changes that failed", [float(w.failures) for w in weeks], "count"),
        ("commit to production", [w.deployment_time for w in weeks], "seconds"),
        ("without a person", [w.unattended / w.transitions if w.transitions else None for w in weeks], "share"),
    ]


def _last(values: Sequence[float | None], unit: str) -> str:
    return "no data" if values[-1] is None else _short(values[-1], unit)


def _title(one: Kpi) -> str:
    return one.name.replace("_", " ")


def _short(value: float, unit: str) -> str:
    match unit:
        case "share":
            return f"{value:.0%}"
        case "per week":
            return f"{value:.2g} per week"
        case "count":
            return f"{value:,.0f}"
    for size, name in ((86400.0, "days"), (3600.0, "hours")):
        if value >= 2 * size:
            return f"{value / size:.1f} {name}"
    return out.took(value)


def _day(moment: float) -> str:
    return out.when(moment)[:10] or "1970-01-01"
