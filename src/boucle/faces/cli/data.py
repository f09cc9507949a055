"""Commands on datasets: ingest, list, show, log, validate, export, sources."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from boucle.faces.cli import out
from boucle.faces.cli.here import opened


def add_data(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    ingesting = verbs.add_parser("ingest", help="make a file the next version of a dataset")
    ingesting.add_argument("source", help="a file: CSV, TSV, JSON, JSON lines or Parquet, also compressed")
    ingesting.add_argument("--name", required=True, help="of the dataset")
    ingesting.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="for the source, such as delimiter=;"
    )
    ingesting.add_argument("--description", default="", help="what it is")
    ingesting.add_argument("--tag", action="append", default=[], metavar="NAME=VALUE", help="to find it by")
    ingesting.add_argument("--owner", default="", help="who is responsible for it")
    ingesting.add_argument("--licence", default="", help="under which it may be used")
    ingesting.add_argument(
        "--evolve", action="store_true", help="accept a schema that does not follow from the last one"
    )
    ingesting.add_argument("--strict", action="store_true", help="fail on a bad line instead of setting it aside")
    ingesting.add_argument("--dry-run", action="store_true", help="read it and say what was found, store nothing")
    ingesting.set_defaults(call=ingest)
    listing = verbs.add_parser("list", help="the newest version of each dataset")
    listing.set_defaults(call=listed)
    logging = verbs.add_parser("log", help="the versions of a dataset")
    logging.add_argument("name", help="of the dataset")
    logging.set_defaults(call=log)
    showing = verbs.add_parser("show", help="columns and their statistics")
    showing.add_argument("ref", help="name@version")
    showing.add_argument("--rows", type=int, default=0, help="the first rows too")
    showing.set_defaults(call=show)
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
    exporting = verbs.add_parser("export", help="write a version to a file")
    exporting.add_argument("ref", help="name@version")
    exporting.add_argument("file", help="that ends in .csv, .parquet, .jsonl or .arrow")
    exporting.set_defaults(call=export)
    sources = verbs.add_parser("sources", help="the formats that can be read")
    sources.set_defaults(call=list_sources)


def _pairs(given: list[str], flag: str) -> dict[str, Any]:
    from boucle.core.errors import Invalid

    pairs: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise Invalid(f"{flag} {text!r}", expected="NAME=VALUE")
        try:
            pairs[name] = json.loads(value)
        except ValueError:
            pairs[name] = value
    return pairs


def _row(dataset: Any) -> dict[str, Any]:
    columns = len(dataset.schema["columns"])
    source = dataset.source or (f"run {dataset.run}" if dataset.run else "")
    return {
        "dataset": dataset.key, "rows": dataset.rows, "columns": columns, "bytes": dataset.size,
        "created": out.when(dataset.created), "by": dataset.actor, "source": source, "digest": dataset.digest[:12],
    }  # fmt: skip


def ingest(args: argparse.Namespace) -> int:
    """Read, store, say what was found."""
    from boucle.data.ingest import ingest as take_in

    ws = opened(args)
    options = _pairs(args.option, "--option")
    if args.dry_run:
        return _dry(args, options)
    with _counter(args.json) as count:
        taken = take_in(
            ws, args.source, args.name, options=options, description=args.description, tags=_pairs(args.tag, "--tag"),
            owner=args.owner, licence=args.licence, evolve=args.evolve, on_bad="fail" if args.strict else "set_aside",
            progress=count,
        )  # fmt: skip
    bad = [{"line": b.number, "why": b.why, "text": b.text[:80]} for b in taken.bad]
    if args.json:
        out.as_json(
            {**_row(taken.dataset), "new": taken.new, "found": taken.found, "bad": bad, "seconds": taken.seconds}
        )
        return 0
    dataset = taken.dataset
    said = "is new" if taken.new else "has the same content already: no new version"
    out.line(f"{dataset.key} {said}", "green")
    out.line(f"{dataset.rows:,} rows x {len(dataset.schema['columns'])} columns in {out.took(taken.seconds)}")
    if taken.found:
        out.line(f"found: {out.cell(taken.found)}", "dim")
    if bad:
        out.line(f"set aside, and kept as tag bad_lines: {out.many(len(bad), 'line')}", "yellow")
        out.table(bad[:10])
    return 0


def _dry(args: argparse.Namespace, options: dict[str, Any]) -> int:
    from boucle.data.ingest import preview

    seen = preview(args.source, options)
    if args.json:
        out.as_json(seen)
        return 0
    out.line(f"{seen['rows']:,} rows; nothing was stored")
    out.table(seen["columns"])
    if seen["found"]:
        out.line(f"found: {out.cell(seen['found'])}", "dim")
    return 0


class _counter:  # noqa: N801  a context manager read as a word
    """Shows the rows read so far, on a terminal."""

    def __init__(self, quiet: bool) -> None:
        import sys

        self._shown = not quiet and sys.stdout.isatty()

    def __enter__(self) -> Any:
        self._status = out.console().status("reading") if self._shown else None
        if self._status is not None:
            self._status.start()
        return self._count

    def _count(self, rows: int) -> None:
        if self._status is not None:
            self._status.update(f"{rows:,} rows")

    def __exit__(self, *exc: object) -> None:
        if self._status is not None:
            self._status.stop()


def listed(args: argparse.Namespace) -> int:
    """One line per dataset."""
    from boucle.ledger import datasets

    ws = opened(args)
    found = [datasets.resolve(ws, name) for name in datasets.names(ws)]
    if args.json:
        out.as_json([_row(d) for d in found])
    else:
        out.table([_row(d) for d in found], "no datasets yet: boucle data ingest FILE --name NAME")
    return 0


def log(args: argparse.Namespace) -> int:
    """One line per version."""
    from boucle.ledger import datasets

    ws = opened(args)
    datasets.resolve(ws, args.name)
    found = datasets.versions(ws, args.name)
    if args.json:
        out.as_json([_row(d) for d in found])
    else:
        out.table([_row(d) for d in found])
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
                **_row(dataset),
                "description": dataset.description,
                "tags": dataset.tags,
                "statistics": profile.to_json(),
                "first": rows,
            }
        )
        return 0
    out.facts(
        {
            **_row(dataset),
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


def export(args: argparse.Namespace) -> int:
    """To a file, by its ending; all or nothing."""
    from boucle.data.export import export as write

    rows = write(opened(args), args.ref, Path(args.file))
    if args.json:
        out.as_json({"file": args.file, "rows": rows})
    else:
        out.line(f"{rows:,} rows written to {args.file}")
    return 0


def list_sources(args: argparse.Namespace) -> int:
    """The source plugins that are installed."""
    from boucle.ports import lookup

    rows = [{"source": n, "endings": " ".join(lookup.lookup("source", n).suffixes)} for n in lookup.names("source")]
    if args.json:
        out.as_json(rows)
    else:
        out.table(rows)
    return 0
