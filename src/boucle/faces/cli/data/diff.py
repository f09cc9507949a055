"""What differs between two versions: diff."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from boucle.faces.cli import out
from boucle.faces.cli.here import opened

if TYPE_CHECKING:
    from boucle.measure.difference import Difference, FilesDifference

_SHOWN = 40  # characters of a value
_ACROSS = 10  # columns of a row


def add(verbs: Any) -> None:
    comparing = verbs.add_parser("diff", help="what differs between two versions; exit code 1 when anything does")
    comparing.add_argument("a", help="name@version, the older one")
    comparing.add_argument("b", help="name@version, the newer one")
    comparing.add_argument(
        "--key",
        default="",
        metavar="COLUMN[,COLUMN]",
        help="what names a row; without it, it is found where there is one",
    )
    comparing.add_argument("--rows", type=int, default=10, metavar="N", help="examples of each kind (default: 10)")
    comparing.add_argument("--html", default="", metavar="FILE", help="write it as a page, too")
    comparing.set_defaults(call=diff)


def diff(args: argparse.Namespace) -> int:
    """Say what differs; 0 when nothing does, 1 when something does."""
    from boucle.data.diff import diff as compare
    from boucle.measure.difference import Difference

    key = [k for k in args.key.split(",") if k]
    found = compare(opened(args), args.a, args.b, key, rows=args.rows)
    if args.html:
        _write(found, args.html)
    if args.json:
        out.as_json(found.to_json())
    elif isinstance(found, Difference):
        _say(found)
    else:
        _say_files(found)
    return 0 if found.same else 1


def sentence(found: Difference) -> str:
    """What happened to the rows, in a line."""
    if found.same:
        return "no difference"
    parts = [
        f"+{found.added:,}" if found.added else "",
        f"-{found.removed:,}" if found.removed else "",
        f"~{found.changed:,}" if found.changed else "",
    ]
    rows = " ".join(p for p in parts if p)
    rows = f"{rows} rows" if rows else "rows in another order" if found.reordered else "no row differs"
    return f"{rows}, appended at the end" if found.appended else rows


def _how(found: Difference) -> str:
    match found.by:
        case "digest":
            return "their digests, which are the same"
        case "key":
            said = f"key {', '.join(found.key)}{' (found)' if found.key_found else ''}"
            return (
                f"{said}; {found.ambiguous:,} changed rows whose key is not unique are matched in their order"
                if (found.ambiguous)
                else said
            )
        case "position":
            return "position"
    return "whole rows, wherever they stand"


def _facts(found: Difference) -> dict[str, Any]:
    return {
        "from": f"{found.a}, {found.rows[0]:,} rows", "to": f"{found.b}, {found.rows[1]:,} rows",
        "rows": sentence(found), "compared by": _how(found),
    }  # fmt: skip


def _parts(found: Difference) -> list[tuple[str, list[dict[str, Any]]]]:
    """Headings, and the tables below them."""
    return [
        ("columns", [{"column": c.column, "what": c.what, "safe": c.safe} for c in found.schema]),
        (
            "changed cells",
            [{"column": n, "cells": c, "of rows": found.changed} for n, c in (found.cells or {}).items()],
        ),
        ("changed", [r for row in found.changed_rows for r in _cells(row)]),
        ("added", [{"row": r.number, **_values(r.values)} for r in found.added_rows]),
        ("removed", [{"row": r.number, **_values(r.values)} for r in found.removed_rows]),
        ("statistics", [_moved(m) for m in found.moved]),
    ]


def _cells(row: Any) -> list[dict[str, Any]]:
    where = _values(row.key) if row.key else {"row": row.numbers[0]}
    return [{**where, "column": n, "old": _value(old), "new": _value(new)} for n, (old, new) in row.cells.items()]


def _values(row: dict[str, Any]) -> dict[str, Any]:
    return {n: _value(v) for n, v in row.items()}


def _value(value: Any) -> Any:
    """A value as it is told apart from others: null is not an empty text, and digits are not left out."""
    from boucle.measure.difference import said

    if value is None:
        return "null"
    if isinstance(value, str):
        text = value if value and value == value.strip() else repr(value)
    elif isinstance(value, float | bool):
        text = repr(value).lower()
    else:
        text = str(said(value))
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _moved(moved: Any) -> dict[str, Any]:
    def pair(*names: str) -> str:
        for name in names:
            if name in moved.statistics:
                return " → ".join(out.cell(v) for v in moved.statistics[name])
        return ""

    fresh = [f"+{_value(v)}" for v in moved.fresh[:5]] + [f"-{_value(v)}" for v in moved.vanished[:5]]
    nulls = moved.statistics.get("nulls")
    return {
        "column": moved.column, "nulls": " → ".join(f"{v:.2%}" for v in nulls) if nulls else "", "mean": pair("mean"),
        "median": pair("q0.5"), "min": pair("min"), "max": pair("max"), "distinct": pair("distinct"),
        "values": " ".join(fresh),
    }  # fmt: skip


def _say(found: Difference) -> None:
    out.facts(_facts(found))
    for heading, rows in _parts(found):
        if rows:
            out.line()
            out.line(heading, "bold")
            out.table(
                [_first(r, found.key) for r in _filled(rows)] if heading in ("added", "removed") else _filled(rows)
            )
    hidden = found.added + found.removed + found.changed
    if hidden > len(found.added_rows) + len(found.removed_rows) + len(found.changed_rows):
        out.line()
        out.line("not all rows are shown: --rows N shows more", "dim")


def _first(row: dict[str, Any], key: tuple[str, ...]) -> dict[str, Any]:
    """As many columns as can be read beside each other, the key among them."""
    if len(row) <= _ACROSS:
        return row
    names = list(dict.fromkeys(["row", *key, *row]))[:_ACROSS]
    return {**{n: row.get(n) for n in names}, "...": f"{len(row) - len(names)} more"}


def _filled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the columns in which nothing stands."""
    used = [n for n in dict.fromkeys(k for r in rows for k in r) if any(r.get(n) not in ("", None) for r in rows)]
    return [{n: r.get(n) for n in used} for r in rows]


def _files_facts(found: FilesDifference) -> dict[str, Any]:
    counted = (
        (found.added, "added"),
        (found.removed, "removed"),
        (found.changed, "changed"),
        (found.renamed, "renamed"),
    )
    return {
        "from": f"{found.a}, {out.many(found.files[0], 'file')}, {found.size[0]:,} bytes",
        "to": f"{found.b}, {out.many(found.files[1], 'file')}, {found.size[1]:,} bytes",
        "files": ", ".join(f"{n:,} {what}" for n, what in counted if n) or "no difference",
    }


def _files_rows(found: FilesDifference) -> list[dict[str, Any]]:
    return [
        *({"what": "added", "file": p, "bytes": f"{s:,}"} for p, s in found.added_files),
        *({"what": "removed", "file": p, "bytes": f"{s:,}"} for p, s in found.removed_files),
        *({"what": "changed", "file": p, "bytes": f"{old:,} → {new:,}"} for p, old, new in found.changed_files),
        *({"what": "renamed", "file": f"{old} → {new}", "bytes": ""} for old, new in found.renamed_files),
    ]


def _say_files(found: FilesDifference) -> None:
    out.facts(_files_facts(found))
    if not found.same:
        out.line()
        out.table(_files_rows(found), "nothing to show")


def _write(found: Difference | FilesDifference, file: str) -> None:
    from boucle.faces.cli.data import page
    from boucle.measure.difference import Difference

    title = f"{found.a} → {found.b}"
    if isinstance(found, Difference):
        parts = [(heading.capitalize(), out.html_table(_filled(rows))) for heading, rows in _parts(found) if rows]
        page.write(file, page.document(title, _facts(found), parts))
    else:
        rows = _files_rows(found)
        page.write(file, page.document(title, _files_facts(found), [("Files", out.html_table(rows) if rows else "")]))
