"""The command on experiments: ab."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from boucle.faces.cli import out
from boucle.faces.cli.here import opened

if TYPE_CHECKING:
    from boucle.measure.sequential import Interval
    from boucle.ops.ab import Experiment

_WIDTH = 49  # characters of the drawing
_LINES = 8
_SUFFIXES = (".html", ".png", ".svg")
_COLOURS = {"better": "green", "worse": "red", "no difference": "green"}


def add_ab(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", nargs="?", default="", help="name of the service")
    parser.add_argument("--metric", default="", help="what decides: right, error, reward, failures, latency or slow")
    parser.add_argument("--segment", default="", metavar="COLUMN", help="compare for each value of an input, too")
    parser.add_argument("--alpha", type=float, default=0.05, help="chance to be wrong, at all looks (default 0.05)")
    parser.add_argument("--smallest", type=float, metavar="EFFECT", help="the least difference that would matter")
    parser.add_argument("--out", metavar="FILE", help="write a page, or the drawing alone (.html, .svg, .png)")
    parser.add_argument("--plan", action="store_true", help="how many rows an experiment would need; no service")
    parser.add_argument("--baseline", type=float, metavar="SHARE", help="with --plan: the share of hits now")
    parser.add_argument("--deviation", type=float, metavar="SD", help="with --plan, for a mean: its standard deviation")
    parser.add_argument("--power", type=float, default=0.8, help="with --plan: chance to see it (default 0.8)")
    parser.add_argument(
        "--part", type=float, default=0.5, help="with --plan: of the traffic, for the new (default 0.5)"
    )
    parser.add_argument("--rate", help="with --plan: rows in all, such as 10/s, 600/min, 5000/day")
    parser.set_defaults(call=ab)


def ab(args: argparse.Namespace) -> int:
    """A look at an experiment, or the plan of one."""
    from boucle.core.errors import Invalid

    if args.plan:
        return _plan(args)
    if not args.service:
        raise Invalid("no service is named", expected="boucle ab SERVICE, or --plan", fix="boucle services")
    if args.out and Path(args.out).suffix not in _SUFFIXES:
        raise Invalid(f"--out {args.out}", expected=f"a file that ends in {', '.join(_SUFFIXES)}")
    from boucle.ops.ab import ab as compare

    seen = compare(
        opened(args), args.service, metric=args.metric, by_segment=args.segment, alpha=args.alpha, smallest=args.smallest
    )  # fmt: skip
    if args.out:
        from boucle.faces.cli.ab_page import write

        write(seen, Path(args.out))
    if args.json:
        out.as_json(seen.to_json())
    else:
        _show(seen)
    return 0


def _show(seen: Experiment) -> None:
    from boucle.faces.cli.ab_table import rows, segment_rows

    main = seen.main
    out.line(seen.sentence, _COLOURS.get(main.verdict, "yellow"))
    out.line()
    out.table(rows(seen))
    if seen.segments:
        out.line()
        out.table(segment_rows(seen))
    drawn = _drawn(seen.path, main.unit)
    if drawn:
        out.line()
        out.line(
            f"effect on {main.name}{' in points' if main.unit == '%' else ''}, after so many {main.counted}", "dim"
        )
        for text in drawn:
            out.line(text)
    for note in seen.notes:
        out.line(f"note: {note}", "dim")


def _drawn(path: tuple[Interval, ...], unit: str) -> list[str]:
    """The interval after more and more rows, a line each, around where there is no effect."""
    from boucle.measure.effect import effect_shown

    known = [i for i in path if math.isfinite(i.low)]
    step = max(1, len(known) // _LINES)
    shown = known[::-step][:_LINES][::-1]
    if len(shown) < 2:
        return []
    # The first intervals are wide and say little; they may run off the edge.
    reach = max(max(abs(i.low), abs(i.high)) for i in shown[len(shown) // 3 :]) or 1.0
    half = _WIDTH // 2

    def at(value: float) -> int:
        return half + round(max(-1.0, min(1.0, value / reach)) * half)

    lines = []
    for i in shown:
        cells = [" "] * _WIDTH
        cells[at(i.low) : at(i.high) + 1] = "─" * (at(i.high) - at(i.low) + 1)
        cells[half] = "│"
        cells[at(i.estimate)] = "●"
        lines.append(f"{i.rows:>9,} {''.join(cells)} {effect_shown(i.low, unit)} to {effect_shown(i.high, unit)}")
    return lines


def _plan(args: argparse.Namespace) -> int:
    from boucle.core.errors import Invalid
    from boucle.measure.effect import duration
    from boucle.measure.power import plan

    if args.smallest is None or (args.baseline is None) == (args.deviation is None):
        raise Invalid(
            "a plan needs the smallest effect that matters and what is known now",
            expected="--smallest with --baseline (a share) or --deviation (of a mean)",
            fix="boucle ab --plan --baseline 0.1 --smallest 0.02",
        )
    rate = _rate(args.rate) if args.rate else math.nan
    made = plan(
        "share" if args.deviation is None else "mean", args.baseline or 0.0, args.smallest, args.power, args.alpha,
        deviation=math.nan if args.deviation is None else args.deviation, rate=rate, part=args.part,
    )  # fmt: skip
    if args.json:
        out.as_json({n: getattr(made, n) for n in ("rows", "single", "inflation", "seconds")})
        return 0
    what = (
        f"{args.smallest * 100:+g} points from {args.baseline:.4g}" if args.deviation is None else f"{args.smallest:+g}"
    )
    out.facts(
        {
            "to see": f"{what}, with a chance of {args.power:.0%} at alpha {args.alpha:g}",
            "rows per arm": made.rows,
            "at most": "" if math.isnan(made.seconds) else duration(made.seconds),
            "one look at the end": f"{made.single:,} rows per arm; looking at any time takes {made.inflation:.2f} times as many, "
            "and ends earlier where the effect is larger",
        }
    )  # fmt: skip
    return 0


def _rate(text: str) -> float:
    from boucle.core.errors import Invalid

    number, _, unit = text.partition("/")
    units = {"": 1.0, "s": 1.0, "min": 60.0, "h": 3600.0, "day": 86400.0}
    try:
        return float(number) / units[unit]
    except (ValueError, KeyError):
        raise Invalid(f"--rate {text}", expected="a number per s, min, h or day, such as 10/s") from None
