"""Writes the pages that are made from the code: docs/cli.md from the parser, docs/python.md from the public names.

python docs/generate.py            write
python docs/generate.py --check    write nothing; exit code 1 when a page is not as it would be written
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import boucle
from boucle.faces.cli.main import COMMANDS, build

DOCS = Path(__file__).parent
_COMMON = ("--json", "--project")


def cli() -> str:
    """The reference of the command line."""
    lines = [
        "# Command line",
        "",
        "<!-- made by docs/generate.py from the parser; do not edit -->",
        "",
        "Every command also takes `--json` (print JSON for machines) and `-C FOLDER` (the project's folder; here when left",
        'out). [Errors](errors.md) lists the exit codes. `eval "$(boucle completion bash)"` completes commands and options.',
        "",
        "| command | what it does |",
        "|---|---|",
        *(f"| [`{name}`](#boucle-{name}) | {what} |" for name, (_, what) in COMMANDS.items()),
    ]
    commands = next(_subparsers(build()))
    for name, (_, what) in COMMANDS.items():
        lines += ["", f"## boucle {name}", "", f"{what[0].upper()}{what[1:]}."]
        parser = commands.choices[name]
        below = next(_subparsers(parser), None)
        if below is None:
            lines += _reference(f"boucle {name}", parser)
            continue
        helps = {choice.dest: choice.help for choice in below._choices_actions}
        for verb, leaf in below.choices.items():
            lines += ["", f"### boucle {name} {verb}", "", f"{helps[verb][0].upper()}{helps[verb][1:]}."]
            lines += _reference(f"boucle {name} {verb}", leaf)
    return "\n".join(lines) + "\n"


def _subparsers(parser: argparse.ArgumentParser) -> Iterator[argparse._SubParsersAction[argparse.ArgumentParser]]:
    return (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))


def _reference(command: str, parser: argparse.ArgumentParser) -> list[str]:
    actions = [a for a in parser._actions if a.dest != "help" and not set(_COMMON) & set(a.option_strings)]
    # The placeholders of arguments come first, as they are typed.
    usage = [command, *(_placed(a) for a in actions if not a.option_strings)]
    usage += [_said(a) if a.required else f"[{_said(a)}]" for a in actions if a.option_strings]
    out = ["", "```text", " ".join(usage), "```"]
    if actions:
        out += ["", "| argument | meaning |", "|---|---|"]
        out += [f"| `{_named(a)}` | {_cell(a.help or '')} |" for a in actions]
    return out


def _word(action: argparse.Action) -> str:
    if action.choices:
        return "{" + ",".join(map(str, action.choices)) + "}"
    return str(action.metavar or action.dest).upper()


def _placed(action: argparse.Action) -> str:
    word = _word(action)
    return {"?": f"[{word}]", "+": f"{word} [{word} ...]", "*": f"[{word} ...]"}.get(str(action.nargs), word)


def _said(action: argparse.Action) -> str:
    return action.option_strings[-1] + ("" if action.nargs == 0 else f" {_word(action)}")


def _named(action: argparse.Action) -> str:
    return ", ".join([*action.option_strings[:-1], _said(action)]) if action.option_strings else _word(action)


def _cell(text: str) -> str:
    parts = text.replace("|", "\\|").split("`")
    return "`".join(part if i % 2 else part.replace("<", "&lt;") for i, part in enumerate(parts))


def python() -> str:
    """The public names."""
    lines = [
        "# Python",
        "",
        "<!-- made by docs/generate.py from the docstrings; do not edit -->",
        "",
        "`import boucle` costs next to nothing: each name is imported when it is first used. Functions take the workspace first.",
        "`help(boucle.train)` tells more.",
        "",
        "| name | what it is |",
        "|---|---|",
    ]
    for name in sorted(boucle.__all__, key=lambda n: (n[0].isupper(), n)):
        said = (inspect.getdoc(getattr(boucle, name)) or "").partition("\n\n")[0]
        lines.append(f"| `boucle.{name}` | {_cell(' '.join(said.split()))} |")
    return "\n".join(lines) + "\n"


PAGES = {"cli.md": cli, "python.md": python}


def main() -> int:
    """Returns the exit code."""
    stale = []
    for name, make in PAGES.items():
        path, text = DOCS / name, make()
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if "--check" not in sys.argv:
                path.write_text(text, encoding="utf-8")
    if stale and "--check" in sys.argv:
        sys.stderr.write(f"docs/{', docs/'.join(stale)}: not as the code says\n  to do:    make generate\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
