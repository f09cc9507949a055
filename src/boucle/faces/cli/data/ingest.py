"""Taking data in: ingest, sources."""

from __future__ import annotations

import argparse
import json
from typing import Any

from boucle.faces.cli import out
from boucle.faces.cli.data.look import row
from boucle.faces.cli.here import opened


def add(verbs: Any) -> None:
    ingesting = verbs.add_parser("ingest", help="make files the next version of a dataset")
    ingesting.add_argument(
        "source", help="a file, folder, glob, archive or URL, or the name of an entry [sources.NAME] of boucle.toml"
    )
    ingesting.add_argument("--name", required=True, help="of the dataset")
    ingesting.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="for the source, such as delimiter=;"
    )
    ingesting.add_argument(
        "--mode",
        choices=("replace", "append", "merge"),
        default="replace",
        help="the version holds the new rows; those and all before; or all before, with those in the place of the same key",
    )
    ingesting.add_argument("--key", default="", metavar="COLUMN[,COLUMN]", help="what names a row, to merge by")
    ingesting.add_argument(
        "--cursor", default="", metavar="COLUMN", help="take only rows past the last value of this column"
    )
    ingesting.add_argument("--full", action="store_true", help="take all rows anew, whatever the cursor has come to")
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
    sources = verbs.add_parser("sources", help="the formats and systems that can be read")
    sources.set_defaults(call=list_sources)


def pairs(given: list[str], flag: str) -> dict[str, Any]:
    from boucle.core.errors import Invalid

    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise Invalid(f"{flag} {text!r}", expected="NAME=VALUE")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def ingest(args: argparse.Namespace) -> int:
    """Read, store, say what was found."""
    from boucle.data.ingest import ingest as take_in

    ws = opened(args)
    options = pairs(args.option, "--option")
    if args.dry_run:
        return _dry(args, options)
    with _counter(args.json) as count:
        taken = take_in(
            ws, args.source, args.name, mode=args.mode, key=[c for c in args.key.split(",") if c], cursor=args.cursor,
            full=args.full, options=options, description=args.description, tags=pairs(args.tag, "--tag"),
            owner=args.owner, licence=args.licence, evolve=args.evolve, on_bad="fail" if args.strict else "set_aside",
            progress=count.rows, said=count.say,
        )  # fmt: skip
    bad = [
        {**({"file": b.file} if b.file else {}), "line": b.number, "why": b.why, "text": b.text[:80]} for b in taken.bad
    ]
    if args.json:
        out.as_json(
            {
                **row(taken.dataset),
                "new": taken.new,
                "taken": taken.rows,
                "found": taken.found,
                "bad": bad,
                "seconds": taken.seconds,
            }
        )
        return 0
    dataset = taken.dataset
    said = "is new" if taken.new else "has the same content already: no new version"
    out.line(f"{dataset.key} {said}", "green")
    taking = f", {taken.rows:,} of them taken now," if args.mode != "replace" else ""
    shape = f"{out.many(dataset.rows, 'row')} x {out.many(len(dataset.schema['columns']), 'column')}"
    out.line(f"{shape}{taking} in {out.took(taken.seconds)}")
    if taken.found:
        out.line(f"found: {out.cell(taken.found)}", "dim")
    if bad:
        out.line(f"set aside, and kept as tag bad_lines: {out.many(len(bad), 'line')}", "yellow")
        out.table(bad[:10])
    return 0


def _dry(args: argparse.Namespace, options: dict[str, Any]) -> int:
    from boucle.data.ingest import preview

    with _counter(args.json) as count:
        seen = preview(opened(args), args.source, options, said=count.say)
    if args.json:
        out.as_json(seen)
        return 0
    out.line(f"{out.many(seen['rows'], 'row')}; nothing was stored")
    out.table(seen["columns"])
    if seen["found"]:
        out.line(f"found: {out.cell(seen['found'])}", "dim")
    if seen["bad"]:
        out.line(f"would be set aside: {out.many(len(seen['bad']), 'line')}", "yellow")
        out.table([{"line": b["number"], "why": b["why"], "text": b["text"][:80]} for b in seen["bad"][:10]])
    return 0


class _counter:  # noqa: N801  a context manager read as a word
    """Shows what is done, and the rows read so far, on a terminal."""

    def __init__(self, quiet: bool) -> None:
        import sys

        self._shown = not quiet and sys.stdout.isatty()

    def __enter__(self) -> Any:
        self._status = out.console().status("reading") if self._shown else None
        if self._status is not None:
            self._status.start()
        return self

    def rows(self, rows: int) -> None:
        self.say(f"{rows:,} rows")

    def say(self, text: str) -> None:
        if self._status is not None:
            self._status.update(text)

    def __exit__(self, *exc: object) -> None:
        if self._status is not None:
            self._status.stop()


def list_sources(args: argparse.Namespace) -> int:
    """What can be read: files by their ending, systems by the scheme of their URL; and what is configured."""
    from boucle.core.errors import MissingExtra, NotFound
    from boucle.data.choice import usually_reads
    from boucle.ports import lookup
    from boucle.settings import FILE, part

    rows = []
    for name in lookup.names("source"):
        try:
            plugin = lookup.lookup("source", name)
        except MissingExtra as error:
            rows.append({"source": name, "reads": usually_reads(name), "writes": "", "needs": error.fix})
            continue
        reads = " ".join([*plugin.suffixes, *(f"{scheme}://" for scheme in plugin.schemes)])
        rows.append({"source": name, "reads": reads, "writes": "yes" if hasattr(plugin, "write") else "", "needs": ""})
    try:
        ws = opened(args)
        named = part(ws.settings.table, "sources", ws.project / FILE)
    except NotFound:
        named = {}
    if args.json:
        out.as_json({"sources": rows, "named": sorted(named)})
        return 0
    out.table(rows if any(r["needs"] for r in rows) else [{k: v for k, v in r.items() if k != "needs"} for r in rows])
    if named:
        out.line(f"named in boucle.toml: {', '.join(sorted(named))}")
    return 0
