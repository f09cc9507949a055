"""The command that makes data of traffic: seal."""

from __future__ import annotations

import argparse
from typing import Any

from boucle.faces.cli import out
from boucle.faces.cli.here import opened


def add_seal(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", help="name of the service that answered")
    parser.add_argument("--into", default="", metavar="NAME", help="the dataset (default: SERVICE-predictions)")
    parser.add_argument("--dry-run", action="store_true", help="say what would be sealed, and keep nothing")
    parser.add_argument(
        "--labelled",
        action="store_true",
        help="add what is labelled to the dataset that the model learned from instead",
    )
    parser.add_argument("--least", type=int, default=1, metavar="ROWS", help="with --labelled: or else nothing is done")
    parser.add_argument("--recent", type=int, metavar="ROWS", help="with --labelled: keep only the last so many rows")
    parser.add_argument("--since", metavar="TIME", help="with --labelled: only what was asked since then")
    parser.add_argument(
        "--null", action="append", default=[], metavar="COLUMN",
        help="with --labelled: a column that is no input and may be null from now on; may be repeated",
    )  # fmt: skip
    parser.set_defaults(call=seal)


def seal(args: argparse.Namespace) -> int:
    """A window of traffic, or labelled rows."""
    from boucle.core.errors import Invalid

    if args.labelled and args.into:
        raise Invalid(
            f"--into {args.into} with --labelled",
            expected="one of the two",
            fix="leave --into out: the dataset that the model learned from is known",
        )
    if not args.labelled and (args.least != 1 or args.recent or args.since or args.null):
        raise Invalid("--least, --recent, --since or --null without --labelled", expected="them together")
    return _grown(args) if args.labelled else _sealed(args)


def _sealed(args: argparse.Namespace) -> int:
    from boucle.ops.seal import seal as keep

    done = keep(opened(args), args.service, args.into, dry_run=args.dry_run)
    if args.json:
        facts = {f: getattr(done, f) for f in (
            "new", "rows", "labelled", "unreadable", "first", "last", "start", "end", "revisions",
        )}  # fmt: skip
        out.as_json({"dataset": done.dataset.key if done.dataset else None, **facts})
        return 0
    if not done.rows:
        out.line(f"nothing new; {done.dataset.key} is the newest" if done.dataset else "nothing was asked yet")
        return 0
    span = f"{out.when(done.start)} to {out.when(done.end)}"
    out.line(
        f"{done.dataset.key if done.new and done.dataset else 'would be sealed'}: {out.many(done.rows, 'row')}, "
        f"{done.labelled:,} of them labelled, asked {span}"
    )
    if done.unreadable:
        out.line(f"{out.many(done.unreadable, 'label')} cannot be an answer of the model and are null here", "yellow")
    return 0


def _grown(args: argparse.Namespace) -> int:
    from boucle.ops.seal import grow, growth

    ws = opened(args)
    if args.dry_run:
        plan = growth(ws, args.service, since=args.since, nulls=args.null)
        _say(args.json, plan.dataset.key, plan.dataset.rows, plan.rows, plan.set_aside, plan.examples, "would get")
        return 0
    grown = grow(ws, args.service, least=args.least, recent=args.recent, since=args.since, nulls=args.null)
    tag = grown.tags["grown"]
    _say(args.json, grown.key, grown.rows, tag["rows"], tag["set_aside"], tag["examples"], "has")
    return 0


def _say(as_json: bool, dataset: str, rows: int, added: int, set_aside: Any, examples: Any, how: str) -> None:
    if as_json:
        facts = {"added": added, "set_aside": dict(set_aside), "examples": list(examples)}
        out.as_json({"dataset": dataset, "rows": rows, **facts})
        return
    out.line(f"{dataset}, {out.many(rows, 'row')}, {how} {out.many(added, 'labelled prediction')} more")
    for what, count in set_aside.items():
        out.line(f"{out.many(count, 'row')} set aside for its {what}" if count == 1 else
                 f"{count:,} rows set aside for their {what}", "yellow")  # fmt: skip
    for example in examples:
        out.line(f"  {example}", "dim")
