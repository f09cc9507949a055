"""The command line: parse, call one verb, print.

A command's module is imported only when that command is asked for, so `boucle --help` starts as fast as Python allows.
Exit codes: 0 done, 1 it failed, 2 bad input or usage, 3 not found, 4 refused by a gate or policy, 5 conflict, 6 corrupt,
7 unavailable, 8 an extra is missing, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

# command -> (module, what it does); the order is the order of a project's life.
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("demo", "the whole journey on real data, or on a file of yours"),
    "new": ("project", "write a project around a file"),
    "init": ("project", "make a workspace in a folder"),
    "doctor": ("project", "settings, what is installed, health of the workspace"),
    "fsck": ("project", "check everything that is stored"),
    "data": ("data", "ingest, list, show, validate and export datasets"),
    "sql": ("sql", "ask in SQL over versions of datasets; make a version or a file of the answer"),
    "plan": ("runs", "which steps would run or be reused, and why"),
    "run": ("runs", "execute a pipeline"),
    "runs": ("runs", "list, show, compare and plot runs"),
    "models": ("models", "list models"),
    "show": ("models", "show one thing, whatever it is"),
    "export": ("models", "write a model's bundle into a folder"),
    "history": ("models", "all that happened to a model"),
    "promote": ("models", "bring a model to a stage, through its gate"),
    "approve": ("models", "say yes to a model entering a stage"),
    "rollback": ("models", "bring back the version that was in production before"),
    "deploy": ("services", "run a model as a service"),
    "rollout": (
        "rollout",
        "try a model in the place of another, phase by phase; it stays only when it has shown that it may",
    ),
    "services": ("services", "list services"),
    "stop": ("services", "stop a service"),
    "predict": ("services", "ask a service"),
    "watch": ("watch", "compare what a service sees and says with the rows its model was trained on"),
    "label": ("watch", "tell what really happened, by the ids of predictions"),
    "report": ("watch", "write what `watch` sees as a page"),
    "ab": ("ab", "compare the revision on trial with the one before, at any time"),
    "seal": ("seal", "make data of what a service was asked, answered, and really happened"),
    "kpi": ("kpi", "how fast and how safely models come into production"),
    "up": ("worker", "start services and workers, and keep them alive"),
    "worker": ("worker", "do what rules, schedules, services and rollouts ask for, for ever or once"),
    "rules": ("worker", "what is done when something happens, and how it stands"),
    "schedules": ("worker", "what is done when, and how it stands; or do it now"),
    "alerts": ("alerts", "what went wrong and who was told; acknowledge, resolve, silence"),
    "why": ("lineage", "where something came from, down to data, code and environment"),
    "impact": ("lineage", "what something touched, up to the predictions served"),
    "journal": ("lineage", "what happened, who did it, why"),
    "completion": ("project", "print a completion script for a shell"),
}


def build(only: str = "", verb: str = "") -> argparse.ArgumentParser:
    """The parser; with `only`, the arguments of that command alone are filled in, and it may leave out other verbs."""
    parser = argparse.ArgumentParser(
        prog="boucle",
        description="From raw data to a model in production and back, with one lineage graph.",
        epilog="Exit codes: 0 done, 1 failed, 2 bad input, 3 not found, 4 refused, 5 conflict, 6 corrupt, 7 unavailable, "
        "8 extra missing, 130 interrupted. `boucle COMMAND --help` shows the arguments of a command.",
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", prog="boucle")
    for name, (module, what) in COMMANDS.items():
        if only in ("", name):
            sub = commands.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".")
            loaded = importlib.import_module(f"boucle.faces.cli.{module}")
            getattr(loaded, f"add_{name}")(sub, *([verb] if verb and name == "data" else []))
            for leaf in _leaves(sub):
                leaf.add_argument("--json", action="store_true", help="print JSON for machines")
                leaf.add_argument("-C", "--project", metavar="FOLDER", help="the project's folder (default: here)")
    return parser


def _leaves(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return [leaf for a in below for sub in a.choices.values() for leaf in _leaves(sub)] if below else [parser]


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [
        "usage: boucle COMMAND ...",
        "",
        "From raw data to a model in production and back, with one lineage graph.",
        "",
        "commands:",
        *(f"  {name:<{width}}  {what}" for name, (_, what) in COMMANDS.items()),
        "",
        "options:",
        "  -h, --help  this page; `boucle COMMAND --help` shows the arguments of a command",
        "  --version   print the version",
        "  --json      after a command: print JSON for machines",
        "",
        "Exit codes: 0 done, 1 failed, 2 bad input, 3 not found, 4 refused, 5 conflict, 6 corrupt, 7 unavailable,",
        "8 extra missing, 130 interrupted.",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        sys.stdout.write(_overview() + "\n")
        return 0
    if given[0] == "--version":
        import boucle

        sys.stdout.write(f"boucle {boucle.__version__}\n")
        return 0
    if given[0] not in COMMANDS:
        import difflib

        near = difflib.get_close_matches(given[0], COMMANDS, n=1)
        hint = f"; did you mean `boucle {near[0]}`?" if near else ""
        sys.stderr.write(f"boucle: no command {given[0]!r}{hint}\n  to do:    boucle --help\n")
        return 2
    from boucle.core.errors import BoucleError, Unavailable

    _share_cores()
    parsed, unknown = build(given[0], given[1] if len(given) > 1 else "").parse_known_args(given)
    if unknown:
        name = " ".join(["boucle", given[0], *([parsed.verb] if getattr(parsed, "verb", None) else [])])
        sys.stderr.write(f"{name}: unknown: {' '.join(unknown)}\n  to do:    {name} --help\n")
        return 2
    try:
        return int(parsed.call(parsed))
    except BoucleError as error:
        _say_error(error, parsed.json)
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    except BrokenPipeError:
        # Whoever read us has seen enough; without this Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a disk that is full or gone shows wherever something is written
        what = ": ".join(str(part) for part in (error.filename, error.strerror or error) if part)
        _say_error(Unavailable(what, expected="a disk that answers and has room"), parsed.json)
        return Unavailable.exit_code


def _share_cores() -> None:
    """Steps run beside each other, so the native libraries below them must not each take every core, and must sleep rather
    than spin when they wait. They read this when they are loaded, which is later; what is set already stays."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _say_error(error: Exception, as_json: bool) -> None:
    if as_json:
        import json

        parts = {k: getattr(error, k) for k in ("what", "expected", "fix") if getattr(error, k, "")}
        sys.stderr.write(json.dumps({"error": {"type": type(error).__name__, **parts}}) + "\n")
    else:
        sys.stderr.write(f"error: {error}\n")


if __name__ == "__main__":
    raise SystemExit(main())
