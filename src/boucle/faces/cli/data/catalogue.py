"""The catalogue: search, tag, describe."""

from __future__ import annotations

import argparse
import json
from typing import Any

from boucle.faces.cli import out
from boucle.faces.cli.data.look import row
from boucle.faces.cli.here import opened


def add(verbs: Any) -> None:
    searching = verbs.add_parser("search", help="datasets by what is said about them and what is in them")
    searching.add_argument("text", nargs="*", help="words, each of which must be found somewhere")
    searching.add_argument("--column", default="", help="a column that must be there")
    searching.add_argument(
        "--tag", action="append", default=[], metavar="NAME[=VALUE]", help="a tag that must be there"
    )
    searching.add_argument("--owner", default="", help="who must be responsible for it")
    searching.add_argument("--licence", default="", help="under which it must be")
    searching.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="CONDITION",
        help='such as "rows > 1000" or "nulls(amount) < 1%%"',
    )
    searching.add_argument("--all", action="store_true", help="all versions, not only the newest of each")
    searching.add_argument("--limit", type=int, default=20, metavar="N", help="how many are shown (default: 20)")
    searching.set_defaults(call=search)
    tagging = verbs.add_parser("tag", help="add tags to a version, or remove them")
    tagging.add_argument("ref", help="name@version")
    tagging.add_argument("tags", nargs="*", metavar="NAME=VALUE", help="to add, or to replace")
    tagging.add_argument("--remove", action="append", default=[], metavar="NAME", help="a tag to remove")
    tagging.set_defaults(call=tag)
    describing = verbs.add_parser("describe", help="say what a version is, whose, and under which licence")
    describing.add_argument("ref", help="name@version")
    for name, what in (
        ("description", "what it is"),
        ("owner", "who is responsible"),
        ("licence", "how it may be used"),
    ):
        describing.add_argument(f"--{name}", help=f"{what}; an empty text removes it")
    describing.set_defaults(call=describe)


def search(args: argparse.Namespace) -> int:
    """One line per dataset, the best first; exit code 1 when there is none."""
    from boucle.data.catalogue import search as look

    tags = {n: _value(v) if eq else None for n, eq, v in (t.partition("=") for t in args.tag)}
    found = look(
        opened(args), " ".join(args.text), column=args.column, tags=tags, owner=args.owner, licence=args.licence,
        where=args.where, every=args.all,
    )  # fmt: skip
    shown = found[: max(0, args.limit)]
    if args.json:
        out.as_json(
            [
                {**row(f.dataset), "description": f.dataset.description, "tags": f.dataset.tags, "score": f.score,
                 "matched": [{"in": kind, "what": what} for kind, what in f.matched]}
                for f in shown
            ]
        )  # fmt: skip
    else:
        out.table([_line(f) for f in shown], "nothing fits" if not found else "")
        if len(found) > len(shown):
            out.line(f"and {len(found) - len(shown):,} more: --limit N shows more", "dim")
    return 0 if found else 1


def _line(found: Any) -> dict[str, Any]:
    dataset = found.dataset
    known = {
        "dataset": dataset.key, "rows": dataset.rows, "description": _short(dataset.description), "owner": dataset.owner,
        "created": out.when(dataset.created),
    }  # fmt: skip
    return known | ({"found in": "; ".join(_short(f"{k} {w}") for k, w in found.matched)} if found.matched else {})


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:57]}..."


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def tag(args: argparse.Namespace) -> int:
    """Change tags; the event tells what they were."""
    from boucle.core.errors import Invalid
    from boucle.data.catalogue import describe as change
    from boucle.faces.cli.data.ingest import pairs

    if not args.tags and not args.remove:
        raise Invalid("no tag was given", expected="NAME=VALUE, or --remove NAME")
    return _say(args, change(opened(args), args.ref, tags=pairs(args.tags, "tag"), remove=args.remove))


def describe(args: argparse.Namespace) -> int:
    """Change what is said about a version; the event tells what it was."""
    from boucle.core.errors import Invalid
    from boucle.data.catalogue import describe as change

    given = {n: getattr(args, n) for n in ("description", "owner", "licence") if getattr(args, n) is not None}
    if not given:
        raise Invalid("nothing was given to say", expected="--description, --owner or --licence")
    return _say(args, change(opened(args), args.ref, **given))


def _say(args: argparse.Namespace, dataset: Any) -> int:
    said = {n: getattr(dataset, n) for n in ("description", "owner", "licence", "tags")}
    if args.json:
        out.as_json({"dataset": dataset.key, **said})
    else:
        out.facts({"dataset": dataset.key, **said})
    return 0
