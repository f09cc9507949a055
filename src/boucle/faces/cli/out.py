"""What commands print: tables, facts and trees for people, JSON for machines. Knows no noun."""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from boucle.core.schema import jsonable
from boucle.faces.cli.words import many, size, took

__all__ = ["as_json", "cell", "console", "facts", "line", "many", "size", "table", "took", "tree", "when"]

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from boucle.ledger.lineage import Node


@cache
def console() -> Console:
    """The terminal; colours only where there is one and NO_COLOR is not set."""
    from rich.console import Console

    class Terminal(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # `main` knows that whoever read us has seen enough

    # Whoever reads a pipe is not 80 columns wide.
    return Terminal(highlight=False, width=None if sys.stdout.isatty() else 160)


def as_json(value: Any) -> None:
    """JSON on standard output."""
    sys.stdout.write(json.dumps(jsonable(value), indent=2, ensure_ascii=False) + "\n")


def line(text: str = "", style: str = "") -> None:
    """A line for people."""
    from rich.text import Text

    console().print(Text(text, style=style), soft_wrap=True)


def table(rows: Sequence[Mapping[str, Any]], empty: str = "nothing here yet") -> None:
    """Rows under the names of their keys."""
    if not rows:
        line(empty, "dim")
        return
    console().print(grid(rows))


def grid(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The same, to be printed later."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    names = list(dict.fromkeys(k for r in rows for k in r))
    for name in names:
        numeric = all(isinstance(r.get(name), int | float | None) for r in rows)
        made.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell(row.get(n)), style=_STYLES.get(str(row.get(n)), "")) for n in names))
    return made


_STYLES = {
    "finished": "green", "ready": "green", "production": "green", "pass": "green", "reuse": "green", "running": "yellow",
    "starting": "yellow", "staging": "yellow", "warn": "yellow", "run": "yellow", "failed": "red", "fail": "red",
    "lost": "red", "cancelled": "red",
}  # fmt: skip


def cell(value: Any) -> str:
    """A value as short text."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return ", ".join(f"{k}={cell(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(cell, value))
    return str(value)


def facts(pairs: Mapping[str, Any]) -> None:
    """Names and values below each other."""
    console().print(facts_grid(pairs))


def facts_grid(pairs: Mapping[str, Any]) -> Table:
    """The same, to be printed later."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    for name, value in pairs.items():
        if value not in ("", None, {}, [], ()):
            grid.add_row(name, Text(cell(value), style=_STYLES.get(str(value), "")))
    return grid


def when(seconds: float) -> str:
    """A moment in UTC, to the second."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%d %H:%M:%S") if seconds else ""


def tree(node: Node) -> None:
    """A lineage tree."""
    from rich.tree import Tree

    def grow(at: Node, branch: Tree | None) -> Tree:
        from rich.text import Text

        label = Text()
        if at.relation:
            label.append(f"{at.relation} ", style="dim")
        label.append(_short(at.ref), style="bold")
        said = _said(at.facts)
        if said:
            label.append(f"  {said}", style="dim")
        grown = Tree(label) if branch is None else branch.add(label)
        for child in at.children:
            grow(child, grown)
        return grown

    console().print(grow(node, None), soft_wrap=True)


def _short(ref: str) -> str:
    kind, _, key = ref.partition(":")
    return f"{kind}:{key[:12]}" if kind in ("artifact", "code") else ref


def _said(pairs: Mapping[str, Any]) -> str:
    words = []
    for name, value in pairs.items():
        if value in ("", None, {}, []):
            continue
        if name in ("started", "time"):
            words.append(when(float(value)))
        elif name == "metrics":
            words.append(", ".join(f"{k} {cell(v)}" for k, v in list(value.items())[:3]))
        elif name in ("name", "status", "type", "stage", "task", "entry", "url"):
            words.append(str(value))
        elif name in ("inputs", "output", "params"):
            text = json.dumps(jsonable(value), ensure_ascii=False)
            words.append(f"{name} {text if len(text) <= 90 else text[:87] + '...'}")
        elif isinstance(value, bool):
            words.append(name if value else f"no {name}")
        else:
            words.append(f"{name} {cell(value)}")
    return " · ".join(words)


def html_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as an HTML table that scrolls where it is too wide, everything escaped."""
    from html import escape

    names = list(dict.fromkeys(k for r in rows for k in r))
    head = "".join(f"<th>{escape(n)}</th>" for n in names)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell(r.get(n)))}</td>" for n in names) + "</tr>" for r in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'
