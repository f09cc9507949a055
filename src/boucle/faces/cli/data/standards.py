"""Versions in the forms of other tools, and back: croissant, from-dvc, to-dvc."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from boucle.faces.cli import out
from boucle.faces.cli.here import opened


def add(verbs: Any) -> None:
    describing = verbs.add_parser("croissant", help="write a version into a folder, with a Croissant description")
    describing.add_argument("ref", help="name@version")
    describing.add_argument("folder", help="a folder that is not there yet")
    describing.set_defaults(call=croissant)
    taking = verbs.add_parser("from-dvc", help="make what a DVC repository tracks into dataset versions")
    taking.add_argument("repository", nargs="?", default=".", help="a folder in it")
    taking.add_argument("--path", action="append", default=[], help="only this tracked path")
    taking.add_argument("--rev", default="", metavar="REVISION", help="of a Git revision, not of the working tree")
    taking.add_argument("--history", action="store_true", help="a version for every commit that changed something")
    taking.add_argument("--remote", default="", help="the name of the DVC remote to fetch from; the default one")
    taking.add_argument("--prefix", default="", help="in front of the datasets' names")
    taking.add_argument("--tables", action="store_true", help="read single files such as CSV as tables")
    taking.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="for the remote's place")
    taking.add_argument("--dry-run", action="store_true", help="say what is tracked, fetch and store nothing")
    taking.set_defaults(call=from_dvc)
    giving = verbs.add_parser(
        "to-dvc", help="push a version to a DVC remote and track it, so that `dvc pull` fetches it"
    )
    giving.add_argument("ref", help="name@version")
    giving.add_argument("repository", nargs="?", default=".", help="a folder in it")
    giving.add_argument("--path", default="", help="where in the repository; the dataset's name")
    giving.add_argument("--remote", default="", help="the name of the DVC remote; the default one")
    giving.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="for the remote's place")
    giving.set_defaults(call=to_dvc)


def croissant(args: argparse.Namespace) -> int:
    """Data and description; all or nothing."""
    from boucle.data.croissant import to_croissant

    path = to_croissant(opened(args), args.ref, Path(args.folder))
    if args.json:
        out.as_json({"description": str(path), "files": sorted(p.name for p in path.parent.iterdir())})
    else:
        out.line(f"{path} describes {', '.join(sorted(p.name for p in path.parent.iterdir() if p != path))}")
    return 0


def from_dvc(args: argparse.Namespace) -> int:
    """One version for each tracked path."""
    from boucle.core.errors import Invalid
    from boucle.data import dvc
    from boucle.faces.cli.data.ingest import pairs

    if args.dry_run:
        if args.history:
            raise Invalid("--dry-run with --history", expected="one of them")
        found, skipped = dvc.tracked(dvc.root_of(Path(args.repository)), args.rev)
        rows = [
            {"path": o.path, "folder": o.folder, "md5": o.md5} for o in found if not args.path or o.path in args.path
        ]
    else:
        taken = dvc.from_dvc(
            opened(args), Path(args.repository), paths=args.path, revision=args.rev, history=args.history, remote=args.remote,
            prefix=args.prefix, tables=args.tables, options=pairs(args.option, "--option"),
            progress=None if args.json else lambda path: out.line(f"fetching {path}", "dim"),
        )  # fmt: skip
        rows = [
            {"dataset": d.key, "new": new, "files": d.rows, "bytes": d.size, "from": d.source} for d, new in taken.done
        ]
        skipped = taken.skipped
    if args.json:
        out.as_json({"datasets": rows, "skipped": [{"path": path, "why": why} for path, why in skipped]})
        return 0
    out.table(rows, "nothing is tracked")
    for path, why in skipped:
        out.line(f"left out: {path}, since {why}", "yellow")
    return 0


def to_dvc(args: argparse.Namespace) -> int:
    """Objects to the remote, then the `.dvc` file."""
    from boucle.data import dvc
    from boucle.faces.cli.data.ingest import pairs

    file, sent = dvc.to_dvc(
        opened(args),
        args.ref,
        Path(args.repository),
        path=args.path,
        remote=args.remote,
        options=pairs(args.option, "--option"),
    )
    if args.json:
        out.as_json({"file": str(file), "sent": sent})
    else:
        out.line(f"{file} tracks {args.ref}; {out.many(sent, 'object')} sent. To do: git add it, and dvc pull anywhere")
    return 0
