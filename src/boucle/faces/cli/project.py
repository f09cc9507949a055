"""Commands on the project itself: new, init, doctor, fsck, completion."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from boucle.faces.cli import out


def add_new(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="of the project, its folder and its model")
    parser.add_argument("--from", dest="source", required=True, metavar="FILE", help="the data")
    parser.add_argument("--target", required=True, metavar="COLUMN", help="the column to predict")
    parser.add_argument("--folder", help="where (default: the name)")
    parser.set_defaults(call=new)


def add_init(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", default="", help="which (default: here)")
    parser.set_defaults(call=init)


def add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(call=doctor)


def add_fsck(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(call=fsck)


def add_completion(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=["bash", "zsh", "tcsh"], help="for which")
    parser.set_defaults(call=completion)


def new(args: argparse.Namespace) -> int:
    """A project around a file: written, initialised, and its data ingested; all or nothing."""
    from boucle.faces.cli.begin import begin

    made = begin(args.name, Path(args.source), args.target, Path(args.folder or args.name))
    if args.json:
        out.as_json(
            {
                "project": made.project.name,
                "folder": str(made.project.folder),
                "files": made.project.files,
                "dataset": made.dataset.key,
            }
        )
        return 0
    out.line(f"{made.project.folder} is ready: {', '.join(made.project.files)}", "green")
    out.line(f"{made.dataset.key}: {made.dataset.rows:,} rows x {len(made.dataset.schema['columns'])} columns")
    if made.bad:
        out.line(f"set aside: {out.many(made.bad, 'line')}; boucle data show {made.dataset.key}", "yellow")
    out.line(f"next: cd {made.project.folder.name} && boucle run", "dim")
    return 0


def init(args: argparse.Namespace) -> int:
    """A workspace here."""
    import boucle.workspace

    ws = boucle.workspace.init(args.folder or args.project or ".")
    if args.json:
        out.as_json({"project": str(ws.project), "workspace": str(ws.root)})
    else:
        out.line(f"workspace in {ws.root}", "green")
    return 0


def doctor(args: argparse.Namespace) -> int:
    """Settings, plugins, extras, health."""
    from boucle.faces.cli.examine import examine

    found = examine(args.project)
    if args.json:
        out.as_json(found)
        return 0 if found["healthy"] else 1
    out.line(f"boucle {found['version']} on Python {found['python']}, {found['platform']}", "bold")
    out.line(f"project {found['project']}" + ("" if found["workspace"] else " (no workspace: boucle init)"))
    out.line()
    out.table(
        [{"setting": s["name"], "value": s["value"], "from": s["origin"], "what": s["help"]} for s in found["settings"]]
    )
    out.line()
    without = found["not_installed"]
    rows = [
        {
            "family": family,
            "plugins": ", ".join(n for n in names if n not in without.get(family, ())),
            "for an extra": ", ".join(without.get(family, ())),
        }
        for family, names in found["plugins"].items()
    ]
    out.table(rows if without else [{k: v for k, v in r.items() if k != "for an extra"} for r in rows])
    out.line()
    out.table(
        [
            {
                "extra": e["extra"],
                "installed": e["installed"],
                "adds": e["adds"],
                "to get it": "" if e["installed"] else e["command"],
            }
            for e in found["extras"]
        ]
    )
    if found["workspace"]:
        out.line()
        out.facts(found["workspace"])
    for problem in found["problems"]:
        out.line(f"problem: {problem}", "red")
    return 0 if found["healthy"] else 1


def fsck(args: argparse.Namespace) -> int:
    """Everything stored is checked; runs that died are ended. Exit code 6 when something is wrong."""
    import boucle.workspace
    from boucle.core.errors import Corrupt
    from boucle.ledger import runs
    from boucle.ledger.soundness import check
    from boucle.ops.host import settle

    ws = boucle.workspace.open(args.project)
    lost, died = runs.recover(ws), settle(ws)
    report = check(ws)
    if args.json:
        out.as_json({"problems": report.problems, "counts": report.counts, "ended": [str(r) for r in (*lost, *died)]})
    else:
        for record in (*lost, *died):
            out.line(f"{record} had died and is marked so", "yellow")
        for problem in report.problems:
            out.line(f"problem: {problem}", "red")
        counted = ", ".join(f"{n:,} {k}" for k, n in report.counts.items() if n)
        out.line(
            f"checked {counted or 'an empty workspace'}: {len(report.problems) or 'no'} problems",
            "" if report.problems else "green",
        )
    return Corrupt.exit_code if report.problems else 0


def completion(args: argparse.Namespace) -> int:
    """A completion script, made from the parser itself."""
    import shtab

    from boucle.faces.cli.main import build

    script: Any = shtab.complete(build(), shell=args.shell)
    sys.stdout.write(script + "\n")
    return 0
