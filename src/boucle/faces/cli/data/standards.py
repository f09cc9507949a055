"""Versions in the forms of other tools: croissant."""

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


def croissant(args: argparse.Namespace) -> int:
    """Data and description; all or nothing."""
    from boucle.data.croissant import to_croissant

    path = to_croissant(opened(args), args.ref, Path(args.folder))
    if args.json:
        out.as_json({"description": str(path), "files": sorted(p.name for p in path.parent.iterdir())})
    else:
        out.line(f"{path} describes {', '.join(sorted(p.name for p in path.parent.iterdir() if p != path))}")
    return 0
