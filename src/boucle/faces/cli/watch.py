"""Commands on what a service sees and says: watch, label, report."""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from boucle.faces.cli import out
from boucle.faces.cli.here import opened


def add_watch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", help="name, or name@revision")
    parser.add_argument("--since", help="only what was asked since then: a time, yesterday, '3 hours ago'")
    parser.add_argument("--window", type=int, metavar="ROWS", help="only the last so many rows")
    parser.add_argument(
        "--follow",
        action="store_true",
        help="look again and again: a live table, or a line each where that is no terminal",
    )
    parser.add_argument("--every", type=float, default=10.0, metavar="SECONDS", help="between looks (default 10)")
    parser.set_defaults(call=watch)


def add_label(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", help="name of the service that answered")
    parser.add_argument("file", help="CSV or JSONL with the columns id and label")
    parser.set_defaults(call=label)


def add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", help="name, or name@revision")
    parser.add_argument("--out", required=True, metavar="FILE", help="the file to write, .html or .png")
    parser.add_argument("--since", help="only what was asked since then")
    parser.add_argument("--window", type=int, metavar="ROWS", help="only the last so many rows")
    parser.set_defaults(call=report)


def watch(args: argparse.Namespace) -> int:
    """One look, or one after the other."""
    from boucle.ops.watch import watch as look

    ws = opened(args)

    def seen() -> Any:
        return look(ws, args.service, since=args.since, window=args.window)

    if not args.follow:
        _show(seen(), args.json)
        return 0
    if sys.stdout.isatty() and not args.json:
        _live(seen, args.every)
    while True:
        found = seen()
        if args.json:
            sys.stdout.write(json.dumps(found.to_json(), ensure_ascii=False) + "\n")
        else:
            said = f"{out.when(ws.now())}  {found.service}  {found.rows:,} rows  {found.status}  {_said(found)}"
            out.line(said, {"pass": "green", "warn": "yellow"}.get(found.status, "red"))
        sys.stdout.flush()
        time.sleep(args.every)


def _live(seen: Callable[[], Any], every: float) -> None:
    """The table of one look, drawn over by the next, for ever."""
    from rich.console import Group
    from rich.live import Live

    from boucle.faces.cli.watch_page import scored

    def drawn() -> Group:
        found = seen()
        parts: list[Any] = [out.facts_grid(_facts(found))]
        if found.drift is not None:
            parts.append(out.grid([_row(c) for c in found.drift.columns]))
        if found.outcome is not None:
            parts.append(out.grid([scored(found.outcome)]))
        return Group(*parts)

    with Live(drawn(), console=out.console(), auto_refresh=False, screen=True) as live:
        while True:
            time.sleep(every)
            live.update(drawn(), refresh=True)


def _said(seen: Any) -> str:
    """The drift in a sentence, and what else is not as it should be."""
    others = [f.sentence for f in (seen.concept, seen.anomaly) if f is not None and f.status != "pass"]
    return "; ".join([seen.sentence, *others])


def _facts(seen: Any) -> dict[str, Any]:
    from boucle.faces.cli.watch_page import estimated

    facts = {
        "service": f"{seen.service} ({seen.model})", "reference": seen.reference, "rows": seen.rows,
        "asked": f"{out.when(seen.first)} to {out.when(seen.last)}" if seen.rows else "",
        "latency": ", ".join(f"{k} {out.took(v)}" for k, v in seen.latency.items()), "drift": seen.status,
        "which says": seen.sentence,
    }  # fmt: skip
    if seen.concept is not None:
        began = f" (since {out.when(seen.concept.since)})" if seen.concept.since else ""
        facts["errors"] = f"{seen.concept.status}: {seen.concept.sentence}{began}"
    if seen.estimate is not None and seen.rows:
        facts["estimate"] = estimated(seen.estimate)
    if seen.anomaly is not None and seen.rows:
        facts["anomalies"] = f"{seen.anomaly.status}: {seen.anomaly.sentence}"
        facts["odd inputs"] = "; ".join(f"{o.id} {', '.join(o.why[:2])}" for o in seen.anomaly.odd[:3])
    return facts


def _show(seen: Any, as_json: bool) -> None:
    if as_json:
        out.as_json(seen.to_json())
        return
    out.facts(_facts(seen))
    if seen.drift is not None:
        out.line()
        out.table([_row(c) for c in seen.drift.columns])
    if seen.outcome is not None:
        out.line()
        from boucle.faces.cli.watch_page import scored

        out.table([scored(o) for o in (*seen.outcomes, seen.outcome)])


def _row(column: Any) -> dict[str, Any]:
    s = column.scores
    return {
        "column": column.name, "kind": column.kind, "missing": f"{s.missing:.1%}",
        "new": "" if s.new is None else f"{s.new:.1%}", "PSI": s.psi, "JS": s.js, "verdict": column.status,
        "sentence": column.sentence,
    }  # fmt: skip


def label(args: argparse.Namespace) -> int:
    """Outcomes from a file."""
    from boucle.ops.label import label as keep

    done = keep(opened(args), args.service, _read(Path(args.file)))
    if args.json:
        out.as_json({"kept": done.kept, "unknown": list(done.unknown)})
        return 0
    out.line(f"{done.kept:,} labels kept")
    if done.unknown:
        shown = ", ".join(done.unknown[:3])
        out.line(f"{len(done.unknown):,} ids were not given by this service, such as {shown}", "yellow")
    return 0


def _read(path: Path) -> list[tuple[Any, Any]]:
    from boucle.core.errors import Invalid, NotFound

    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise NotFound(f"no file {path}", expected="CSV or JSONL with the columns id and label") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"cannot read {path}: {error}", expected="a text file in UTF-8") from error
    try:
        if text.lstrip().startswith("{"):
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
        return [(row["id"], row["label"]) for row in rows]
    except (KeyError, TypeError):
        raise Invalid(f"{path} lacks a column", expected="id and label in every row") from None
    except (ValueError, csv.Error) as error:
        raise Invalid(
            f"{path} cannot be read: {error}", expected="CSV or JSONL with the columns id and label"
        ) from None


def report(args: argparse.Namespace) -> int:
    """A page for people who were not there."""
    from boucle.core.errors import Invalid, Unavailable
    from boucle.faces.cli.watch_page import page
    from boucle.faces.cli.watch_picture import drawing, rasterised
    from boucle.ops.watch import watch as look

    path = Path(args.out)
    picture = path.suffix.lower() == ".png"
    if not picture and path.suffix.lower() not in (".html", ".htm"):
        raise Invalid(f"{path} ends on {path.suffix or 'nothing'}", expected="a file on .html or .png")
    seen = look(opened(args), args.service, since=args.since, window=args.window)
    data = rasterised(drawing(seen)) if picture else page(seen).encode()
    try:
        path.write_bytes(data)
    except OSError as error:
        raise Unavailable(
            f"cannot write {path}: {error.strerror}", expected="a file in a folder that exists"
        ) from error
    if args.json:
        out.as_json({"file": str(path), "status": seen.status})
    else:
        out.line(f"{path}: {seen.service} is {seen.status}, {seen.sentence}")
    return 0
