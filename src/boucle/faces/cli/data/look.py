"""Looking at datasets: list, log, show."""

from __future__ import annotations

import argparse
from typing import Any

from boucle.faces.cli import out
from boucle.faces.cli.here import opened


def add(verbs: Any) -> None:
    listing = verbs.add_parser("list", help="the newest version of each dataset")
    listing.set_defaults(call=listed)
    logging = verbs.add_parser("log", help="the versions of a dataset")
    logging.add_argument("name", help="of the dataset")
    logging.set_defaults(call=log)
    showing = verbs.add_parser("show", help="columns and their statistics")
    showing.add_argument("ref", help="name@version")
    showing.add_argument("--rows", type=int, default=0, help="the first rows too")
    showing.set_defaults(call=show)


def row(dataset: Any) -> dict[str, Any]:
    columns = len(dataset.schema["columns"])
    source = dataset.source or (f"run {dataset.run}" if dataset.run else "")
    return {
        "dataset": dataset.key, "rows": dataset.rows, "columns": columns, "bytes": dataset.size,
        "created": out.when(dataset.created), "by": dataset.actor, "source": source, "digest": dataset.digest[:12],
    }  # fmt: skip


def listed(args: argparse.Namespace) -> int:
    """One line per dataset."""
    from boucle.ledger import datasets

    ws = opened(args)
    found = [datasets.resolve(ws, name) for name in datasets.names(ws)]
    if args.json:
        out.as_json([row(d) for d in found])
    else:
        out.table([row(d) for d in found], "no datasets yet: boucle data ingest FILE --name NAME")
    return 0


def log(args: argparse.Namespace) -> int:
    """One line per version."""
    from boucle.ledger import datasets

    ws = opened(args)
    datasets.resolve(ws, args.name)
    found = datasets.versions(ws, args.name)
    if args.json:
        out.as_json([row(d) for d in found])
    else:
        out.table([row(d) for d in found])
    return 0


def show(args: argparse.Namespace) -> int:
    """Columns, what is in them, and the first rows."""
    from boucle.data.validate import statistics
    from boucle.ledger import datasets

    ws = opened(args)
    dataset = datasets.resolve(ws, args.ref)
    profile = statistics(ws, args.ref)
    rows = []
    if args.rows:
        from boucle.core.frames import to_rows

        rows = to_rows(datasets.frame(ws, dataset).head(args.rows))
    if args.json:
        out.as_json(
            {
                **row(dataset),
                "description": dataset.description,
                "tags": dataset.tags,
                "statistics": profile.to_json(),
                "first": rows,
            }
        )
        return 0
    out.facts(
        {
            **row(dataset),
            "description": dataset.description,
            "licence": dataset.licence,
            "owner": dataset.owner,
            "tags": dataset.tags,
        }
    )
    out.line()
    out.table([_column(c) for c in profile.columns])
    if rows:
        out.line()
        out.table(rows)
    return 0


_BARS = " ▁▂▃▄▅▆▇█"


def _column(column: Any) -> dict[str, Any]:
    shares = column.histogram.get("shares", [])
    if column.numeric and column.distinct > 2:
        most = max(shares, default=0) or 1
        shape = "".join(_BARS[max(1, round(8 * s / most)) if s else 0] for s in shares)
    else:
        shape = ", ".join(f"{str(value)[:18]} ({int(count):,})" for value, count in column.top[:3])
    # Of text the profile knows the lengths, which would be taken for values here.
    ordered = column.type != "string"
    return {
        "column": column.name, "type": column.type, "nulls": column.nulls, "distinct": round(column.distinct),
        "min": str(column.min)[:19] if ordered and column.min is not None else "",
        "mean": column.mean if ordered else None,
        "max": str(column.max)[:19] if ordered and column.max is not None else "", "shape": shape,
    }  # fmt: skip
