"""Looking at datasets: list, log, show."""

from __future__ import annotations

import argparse
import itertools
from typing import TYPE_CHECKING, Any

from boucle.faces.cli import out
from boucle.faces.cli.here import opened

if TYPE_CHECKING:
    from boucle.core.records import Dataset
    from boucle.measure.quality import ColumnProfile, Profile
    from boucle.workspace import Workspace

_NARROW = 100  # characters below which a table of columns is hard to read
_BARS = " ▁▂▃▄▅▆▇█"
_LONG = 24  # characters of a bar
_LISTED = 10  # values


def add(verbs: Any) -> None:
    listing = verbs.add_parser("list", help="the newest version of each dataset")
    listing.set_defaults(call=listed)
    logging = verbs.add_parser("log", help="the versions of a dataset, and what changed in each")
    logging.add_argument("name", help="of the dataset")
    logging.add_argument("--diff", action="store_true", help="compare their content, too")
    logging.set_defaults(call=log)
    showing = verbs.add_parser("show", help="columns and their statistics")
    showing.add_argument("ref", help="name@version")
    showing.add_argument("--rows", type=int, default=0, help="the first rows too")
    showing.add_argument("--column", action="append", default=[], metavar="NAME", help="all about this column")
    showing.add_argument("--html", default="", metavar="FILE", help="write it as a page, too")
    showing.set_defaults(call=show)


def row(dataset: Any) -> dict[str, Any]:
    columns = None if dataset.type == "files" else len(dataset.schema["columns"])  # those of files are all alike
    source = dataset.source or (f"run {dataset.run}" if dataset.run else "")
    return {
        "dataset": dataset.key, "type": dataset.type, "rows": dataset.rows, "columns": columns, "bytes": dataset.size,
        "created": out.when(dataset.created), "by": dataset.actor, "source": source, "digest": dataset.digest[:12],
    }  # fmt: skip


def listed(args: argparse.Namespace) -> int:
    """One line per dataset."""
    from boucle.data.catalogue import search

    found = sorted((f.dataset for f in search(opened(args))), key=lambda d: d.name)
    if args.json:
        out.as_json([row(d) for d in found])
    else:
        rows = [row(d) for d in found]
        if all(d.type == "table" for d in found):
            rows = [{k: v for k, v in r.items() if k != "type"} for r in rows]
        out.table(rows, "no datasets yet: boucle data ingest FILE --name NAME")
    return 0


def log(args: argparse.Namespace) -> int:
    """One line per version."""
    from boucle.data.catalogue import history
    from boucle.data.diff import diff

    ws = opened(args)
    logged = history(ws, args.name)
    compared: dict[int, Any] = {}
    if args.diff:
        for after, before in itertools.pairwise(logged):
            compared[after.dataset.version] = diff(ws, before.dataset.ref, after.dataset.ref, rows=0)
    if args.json:
        rows = []
        for one in logged:
            change = None if one.rows is None else {"rows": one.rows, "schema": list(one.schema)}
            known = {**row(one.dataset), "run": one.dataset.run, "change": change}
            if args.diff:
                found = compared.get(one.dataset.version)
                known["diff"] = found.to_json() if found else None
            rows.append(known)
        out.as_json(rows)
    else:
        out.table([_logged(one, compared.get(one.dataset.version), args.diff) for one in logged])
    return 0


def _logged(one: Any, found: Any, compared: bool) -> dict[str, Any]:
    said = list(one.schema)
    if found is not None:
        said.insert(0, _counts(found))
    elif one.rows is not None:
        thing = "file" if one.dataset.type == "files" else "row"
        said.insert(0, f"{one.rows:+,} {thing}{'' if abs(one.rows) == 1 else 's'}" if one.rows else f"as many {thing}s")
    known = row(one.dataset)
    digest = known.pop("digest")
    if known.pop("type") == "files":
        known = {"files" if name == "rows" else name: value for name, value in known.items() if name != "columns"}
    if compared:  # so that there is room for what is asked
        known = {n: known[n] for n in ("dataset", "rows", "files", "created", "by") if n in known}
    return {**known, "change": "; ".join(said) or "the first", "digest": digest}


def _counts(found: Any) -> str:
    signs = (("+", found.added), ("-", found.removed), ("~", found.changed), ("renamed ", getattr(found, "renamed", 0)))
    counted = " ".join(f"{sign}{n:,}" for sign, n in signs if n)
    cells = ", ".join(f"{name} {n:,}" for name, n in (getattr(found, "cells", None) or {}).items())
    order = "another order" if getattr(found, "reordered", False) else ""
    return (counted or order or "no row differs") + (f" (cells: {cells})" if cells else "")


def show(args: argparse.Namespace) -> int:
    """Columns, what is in them, and the first rows; of a folder, its files."""
    from boucle.ledger import datasets

    ws = opened(args)
    dataset = datasets.resolve(ws, args.ref)
    if dataset.type == "files":
        return _show_files(args, ws, dataset)
    from boucle.data.catalogue import remarks
    from boucle.data.validate import statistics

    profile = statistics(ws, dataset.ref)
    chosen = [profile[name] for name in args.column]
    rows = []
    if args.rows:
        from boucle.core.frames import to_rows

        rows = to_rows(datasets.frame(ws, dataset).head(args.rows))
    odd = remarks(profile)
    if args.html:
        _page(args.html, dataset, profile, odd, rows)
    if args.json:
        out.as_json(
            {
                **row(dataset), "description": dataset.description, "tags": dataset.tags, "owner": dataset.owner,
                "licence": dataset.licence, "statistics": profile.to_json(),
                "remarks": [{"column": column, "what": what} for column, what in odd], "first": rows,
            }
        )  # fmt: skip
        return 0
    if chosen:
        for column in chosen:
            _say_column(column, [what for name, what in odd if name == column.name])
        return 0
    out.facts(_facts(dataset))
    out.line()
    if out.console().width < _NARROW:
        for column in profile.columns:
            _say_short(column)
    else:
        out.table([_column(c) for c in profile.columns])
    if odd:
        out.line()
        for name, what in odd:
            out.line(f"! {name}: {what}", "yellow")
    if rows:
        out.line()
        out.table(rows)
    return 0


def _facts(dataset: Dataset) -> dict[str, Any]:
    known = row(dataset)
    known.pop("type")
    return {
        **known, "description": dataset.description, "licence": dataset.licence, "owner": dataset.owner,
        "tags": dataset.tags,
    }  # fmt: skip


def _drawn(column: ColumnProfile) -> str:
    """The histogram in a few characters, or the most frequent values."""
    if column.numeric and column.distinct > 2:
        return _spark(column.histogram.get("shares", []))
    return ", ".join(f"{str(value)[:18]} ({int(count):,})" for value, count in column.top[:3])


def _spark(shares: list[float]) -> str:
    most = max(shares, default=0) or 1
    return "".join(_BARS[max(1, round(8 * s / most)) if s else 0] for s in shares)


def _column(column: ColumnProfile) -> dict[str, Any]:
    # Of text the profile knows the lengths, which would be taken for values here.
    ordered = column.type != "string"
    return {
        "column": column.name, "type": column.type, "nulls": column.nulls, "distinct": round(column.distinct),
        "min": str(column.min)[:19] if ordered and column.min is not None else "",
        "mean": column.mean if ordered and column.type not in ("date", "timestamp") else None,
        "max": str(column.max)[:19] if ordered and column.max is not None else "", "shape": _drawn(column),
    }  # fmt: skip


def _say_short(column: ColumnProfile) -> None:
    """A column in two lines, for terminals in which a table would be folded."""
    nulls = f", {out.many(column.nulls, 'null')}" if column.nulls else ""
    out.line(
        f"{column.name}  {column.type}, {'' if column.distinct_exact else 'about '}{column.distinct:,} distinct{nulls}"
    )
    ends = (
        f"{str(column.min)[:19]} to {str(column.max)[:19]}  "
        if column.type != "string" and column.min is not None
        else ""
    )
    said = f"{ends}{_drawn(column)}".strip()
    width = max(20, out.console().width - 3)
    if said:
        out.line(f"  {said if len(said) <= width else said[: width - 3] + '...'}", "dim")


def _say_column(column: ColumnProfile, odd: list[str]) -> None:
    """All that is known of a column."""
    text, moment = column.type == "string", column.type in ("date", "timestamp")
    ends = {"shortest": column.min, "longest": column.max} if text else {"min": column.min, "max": column.max}
    middle = {"mean length" if text else "mean": column.mean, "std": column.std} if not moment else {}
    quantiles = {f"{float(q):.0%}": out.when(v) if moment else v for q, v in column.quantiles.items()}
    out.facts(
        {
            "column": column.name, "type": column.type, "rows": column.rows, "nulls": column.nulls, "NaN": column.nan or None,
            "distinct": f"{'' if column.distinct_exact else 'about '}{column.distinct:,}", **ends, **middle,
            "quantiles" if not text else "lengths": quantiles,
        }
    )  # fmt: skip
    for what in odd:
        out.line(f"! {what}", "yellow")
    edges, shares = column.histogram.get("edges", []), column.histogram.get("shares", [])
    listed = column.top_exact and len(column.top) <= _LISTED
    if len(shares) > 1 and not listed:
        out.line()
        bins = zip(edges, edges[1:], shares, strict=False)
        out.table([{"from": _edge(a, moment), "to": _edge(b, moment), **_bar(s, max(shares))} for a, b, s in bins])
    if column.top:
        out.line()
        most = column.top[0][1]
        out.table(
            [
                {"value": str(v)[:40], "rows": n, **_bar(n / column.rows, most / column.rows)}
                for v, n in column.top[:_LISTED]
            ]
        )
    out.line()


def _edge(value: float, moment: bool) -> Any:
    return out.when(value) or "1970-01-01 00:00:00" if moment else value


def _bar(share: float, most: float) -> dict[str, str]:
    return {"share": f"{share:.1%}", "": "█" * max(1 if share else 0, round(_LONG * share / (most or 1)))}


def _page(
    file: str, dataset: Dataset, profile: Profile, odd: list[tuple[str, str]], rows: list[dict[str, Any]]
) -> None:
    from boucle.faces.cli.data import page

    parts = [
        ("Columns", page.cards(profile, odd)),
        ("Statistics", out.html_table([_column(c) for c in profile.columns])),
        ("First rows", out.html_table(rows) if rows else ""),
    ]
    page.write(file, page.document(dataset.key, _facts(dataset), parts))


def _show_files(args: argparse.Namespace, ws: Workspace, dataset: Dataset) -> int:
    """Endings, sizes and the largest files."""
    from dataclasses import asdict

    from boucle.core.errors import Invalid
    from boucle.data.catalogue import files_profile

    if args.column:
        raise Invalid(f"--column for {dataset.key}, which is a folder of files", expected="a table")
    seen = files_profile(ws, dataset, args.rows or 10)
    known = {n: v for n, v in _facts(dataset).items() if n not in ("columns", "rows", "bytes")}
    known = {"dataset": known.pop("dataset"), "files": seen.files, "size": out.size(seen.size), **known}
    most = max((s for _, _, s in seen.endings), default=0), max((n for _, n in seen.sizes), default=0)
    tables: dict[str, list[dict[str, Any]]] = {
        "endings": [
            {
                "ending": e or "none",
                "files": n,
                "size": out.size(s),
                **_bar(s / max(1, seen.size), most[0] / max(1, seen.size)),
            }
            for e, n, s in seen.endings
        ],
        "sizes": [
            {"up to": out.size(bound), "files": n, **_bar(n / seen.files, most[1] / seen.files)}
            for bound, n in seen.sizes
        ],
        "largest": [{"file": path, "size": out.size(s)} for path, s in seen.largest],
    }
    if args.html:
        from boucle.faces.cli.data import page

        drawn = [
            ("Endings, by bytes", page.bars([(e or "none", s) for e, _, s in seen.endings[:12]], seen.size)),
            ("Sizes, by files", page.bars([(f"up to {out.size(b)}", n) for b, n in seen.sizes], seen.files)),
        ]
        parts = [(h, f'<div class="cards"><div class="card">{svg}</div></div>') for h, svg in drawn]
        page.write(
            args.html, page.document(dataset.key, known, [*parts, ("Largest", out.html_table(tables["largest"]))])
        )
    if args.json:
        out.as_json({**row(dataset), "description": dataset.description, "tags": dataset.tags, "files": asdict(seen)})
        return 0
    out.facts(known)
    for rows in tables.values():
        out.line()
        out.table(rows, "no files")
    return 0
