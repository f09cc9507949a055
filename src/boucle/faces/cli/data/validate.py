"""Judging a version, and writing it to a file: validate, export."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from boucle.faces.cli import out
from boucle.faces.cli.here import opened


def add(verbs: Any) -> None:
    validating = verbs.add_parser("validate", help="run checks on a version and keep the verdicts")
    validating.add_argument("ref", help="name@version")
    validating.add_argument(
        "--check",
        action="append",
        default=[],
        metavar="NAME[:JSON]",
        help='such as between:{"column": "age", "low": 0}; without one, those its statistics suggest',
    )
    validating.set_defaults(call=validate)
    exporting = verbs.add_parser("export", help="write a version, or some of its rows, to a file")
    exporting.add_argument("ref", help="name@version")
    exporting.add_argument(
        "file",
        help="that ends in .csv, .tsv, .jsonl (these three also with .gz, .bz2, .xz or .zst behind), .parquet, .arrow, .feather, "
        ".orc or .avro",
    )
    exporting.add_argument(
        "--where", metavar="FILTER", help="only rows that match, such as: amount > 10 and city = 'Lyon'"
    )
    exporting.add_argument("--columns", metavar="A,B", help="only these columns, in this order")
    exporting.add_argument("--limit", type=int, metavar="N", help="at most so many rows")
    exporting.set_defaults(call=export)


def validate(args: argparse.Namespace) -> int:
    """Verdicts; exit code 1 when one fails."""
    from boucle.core.errors import Invalid
    from boucle.data.validate import expectations, statistics
    from boucle.data.validate import validate as judge

    ws = opened(args)
    checks: list[Any] = []
    for text in args.check:
        name, _, options = text.partition(":")
        try:
            checks.append({"check": name, **(json.loads(options) if options else {})})
        except ValueError as error:
            raise Invalid(f"--check {text!r}: {error}", expected="NAME or NAME:JSON") from None
    verdicts = judge(ws, args.ref, checks or expectations(statistics(ws, args.ref)))
    rows = [{"check": v.check, "status": v.status, "summary": v.summary} for v in verdicts]
    if args.json:
        out.as_json(rows)
    else:
        out.table(rows, "nothing to check")
    return 1 if any(v.status == "fail" for v in verdicts) else 0


def file_named(text: str) -> Path:
    """A path that is written to; a URL, which would become a folder of that name, raises `Invalid`."""
    from boucle.core.errors import Invalid

    if "://" in text:
        raise Invalid(
            f"{text.partition('://')[0]}://... is no file here",
            expected="the path of a file",
            fix="boucle data push REMOTE sends versions elsewhere, boucle data write REF URL fills tables",
        )
    return Path(text)


def export(args: argparse.Namespace) -> int:
    """To a file, by its ending; all or nothing."""
    from boucle.data.export import export as write

    columns = None if args.columns is None else [c.strip() for c in args.columns.split(",")]
    rows = write(opened(args), args.ref, file_named(args.file), where=args.where, columns=columns, limit=args.limit)
    if args.json:
        out.as_json({"file": args.file, "rows": rows})
    else:
        out.line(f"{out.many(rows, 'row')} written to {args.file}")
    return 0
