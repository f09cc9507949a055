"""SQL over versions: sql."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from boucle.faces.cli import out
from boucle.faces.cli.here import opened

_SHOWN = 50  # rows for people


def add_sql(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "query", help="one SELECT; its tables are tx, tx@3, tx@latest, tx@sha1f3a, tx@{2026-11-01}; - reads it"
    )
    parser.add_argument("--into", default="", metavar="NAME", help="make the answer the next version of a dataset")
    parser.add_argument(
        "--out", default="", metavar="FILE", help="write the answer to a file: .csv, .parquet, .jsonl.gz ..."
    )
    parser.add_argument("--limit", type=int, metavar="N", help=f"at most so many rows (shown without it: {_SHOWN})")
    parser.add_argument(
        "--evolve", action="store_true", help="with --into: accept a schema that does not follow from the last"
    )
    parser.add_argument(
        "--memory", default="2GB", metavar="SIZE", help="what it may take before it uses the disk (default 2GB)"
    )
    parser.set_defaults(call=ask)


def ask(args: argparse.Namespace) -> int:
    """Ask; show the answer, or keep it."""
    import sys

    from boucle.core.errors import Invalid
    from boucle.data.export import chosen, known, write
    from boucle.data.sql import into, sql
    from boucle.faces.cli.data.validate import file_named

    if args.into and (args.out or args.limit is not None):
        raise Invalid("--into with --out or --limit", expected="one of them", fix="put the limit into the query")
    query = sys.stdin.read() if args.query == "-" else args.query
    ws = opened(args)
    if args.into:
        made = into(ws, query, args.into, memory=args.memory, evolve=args.evolve)
        facts = {"dataset": made.dataset.key, "new": made.new, "rows": made.dataset.rows, "run": made.dataset.run}
        if args.json:
            out.as_json(facts)
        else:
            said = "is new" if made.new else "has the same content already: no new version"
            out.line(f"{made.dataset.key} {said}", "green")
            columns = len(made.dataset.schema["columns"])
            out.line(f"{out.many(made.dataset.rows, 'row')} x {out.many(columns, 'column')}")
        return 0
    if args.out:
        known(file_named(args.out))
    frame = chosen(sql(ws, query, memory=args.memory), None, None, args.limit)
    if not args.out:
        return _show(frame, args)
    rows = write(frame, Path(args.out))
    if args.json:
        out.as_json({"file": args.out, "rows": rows})
    else:
        out.line(f"{out.many(rows, 'row')} written to {args.out}")
    return 0


def _show(frame: Any, args: argparse.Namespace) -> int:
    import json
    import sys

    from boucle.core.frames import to_rows

    if args.json:  # row by row, for there may be many
        before = "["
        for row in (row for batch in frame.batches() for row in to_rows(batch)):
            sys.stdout.write(f"{before}\n  {json.dumps(row, ensure_ascii=False)}")
            before = ","
        sys.stdout.write("[]\n" if before == "[" else "\n]\n")
        return 0
    most = _SHOWN if args.limit is None else args.limit
    rows = to_rows(frame.head(most + 1))
    out.table(rows[:most], "no rows")
    if len(rows) > most:
        out.line(f"the first {most:,} rows; --limit, --out or --into for more", "dim")
    return 0
