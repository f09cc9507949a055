"""Writing a version into a database: write."""

from __future__ import annotations

import argparse
from typing import Any

from boucle.faces.cli import out
from boucle.faces.cli.data.ingest import pairs
from boucle.faces.cli.here import opened


def add(verbs: Any) -> None:
    writing = verbs.add_parser("write", help="write a version into a database, all of it or nothing")
    writing.add_argument("ref", help="name@version")
    writing.add_argument("url", help="such as postgresql://user@host/db#table, or vault:NAME")
    writing.add_argument(
        "--mode", choices=["append", "replace", "merge"], default="append", help="what of rows that are there"
    )
    writing.add_argument("--key", default="", metavar="COLUMN[,COLUMN]", help="what names a row, to merge by")
    writing.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="for the sink, such as table=orders"
    )
    writing.set_defaults(call=write)


def write(args: argparse.Namespace) -> int:
    """To a database, by its URL."""
    from boucle.data.ingest import shown
    from boucle.data.write import write as into
    from boucle.ledger.datasets import resolve

    ws = opened(args)
    dataset = resolve(ws, args.ref)
    rows = into(
        ws, dataset.ref, args.url, args.mode, [k for k in args.key.split(",") if k], pairs(args.option, "--option")
    )
    to = args.url if args.url.startswith("vault:") else shown(args.url)
    if args.json:
        out.as_json({"dataset": dataset.key, "to": to, "mode": args.mode, "rows": rows})
    else:
        out.line(f"{out.many(rows, 'row')} written to {to}")
    return 0
