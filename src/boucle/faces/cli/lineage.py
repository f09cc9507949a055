"""Commands on how things hang together: why, impact, journal."""

from __future__ import annotations

import argparse

from boucle.faces.cli import out
from boucle.faces.cli.here import opened


def add_why(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ref", help="prediction:ID, model, dataset, run, service or artifact")
    parser.set_defaults(call=why)


def add_impact(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ref", help="dataset, run, model, artifact, commit:SHA or package:NAME==VERSION")
    parser.add_argument("--all", action="store_true", help="every step and artifact on the way too")
    parser.set_defaults(call=impact)


def add_journal(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--type", help="such as model or model.stage")
    parser.add_argument("--subject", help="a reference, such as model:churn")
    parser.add_argument("--after", type=int, default=0, help="only past this sequence number")
    parser.add_argument("--limit", type=int, default=50, help="how many, the newest (default 50)")
    parser.add_argument("--follow", action="store_true", help="wait for more")
    parser.set_defaults(call=journal)


def why(args: argparse.Namespace) -> int:
    """Towards the origins."""
    from boucle.ledger import lineage

    node = lineage.why(opened(args), args.ref)
    if args.json:
        out.as_json(node.to_json())
    else:
        out.tree(node)
    return 0


def impact(args: argparse.Namespace) -> int:
    """Towards the effects."""
    from boucle.ledger import lineage

    node = lineage.impact(opened(args), args.ref)
    touched = lineage.touched(node)
    if args.json:
        out.as_json({"tree": node.to_json(), "touched": touched})
        return 0
    out.tree(node if args.all else lineage.condensed(node))
    served = sum(n.facts.get("predictions", 0) for n in node.flat())
    counts = ", ".join(f"{len(v)} {k}{'s' if len(v) != 1 else ''}" for k, v in touched.items())
    out.line(f"touched: {counts or 'nothing'}" + (f", {served:,} predictions" if served else ""), "bold")
    return 0


def journal(args: argparse.Namespace) -> int:
    """Events, oldest first."""
    from boucle.faces.cli.models import show_record
    from boucle.ledger.journal import follow

    ws = opened(args)
    events = ws.store.events(after=args.after, type=args.type, subject=args.subject)
    events = events[max(0, len(events) - args.limit) :]
    if args.json and not args.follow:
        out.as_json([show_record(e) for e in events])
        return 0
    rows = [
        {"#": e.sequence, "at": out.when(e.time), "what": e.type, "about": e.subject, "by": e.actor, "reason": e.reason}
        for e in events
    ]
    out.table(rows, "nothing happened yet")
    if args.follow:
        for event in follow(ws, after=events[-1].sequence if events else args.after, type=args.type):
            if args.json:
                out.as_json(show_record(event))
            else:
                out.line(
                    f"{event.sequence:>5}  {out.when(event.time)}  {event.type:<18} {event.subject}  "
                    f"{event.actor}  {event.reason}"
                )
    return 0
