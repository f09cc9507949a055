"""Folders of files as versions: snapshot, status, checkout. They print plain text, so that nothing has to be loaded for it."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, Any

from boucle.faces.cli.here import opened

if TYPE_CHECKING:
    from boucle.data.snapshot import Changes

VERBS = ("snapshot", "status", "checkout")
_SHOWN = 20


def add(verbs: Any) -> None:
    taking = verbs.add_parser("snapshot", help="make the files of a folder the next version of a dataset")
    taking.add_argument("folder", help="with the files")
    taking.add_argument("--name", required=True, help="of the dataset")
    taking.add_argument("--description", default="", help="what it is")
    taking.add_argument("--dry-run", action="store_true", help="say what changed, store nothing")
    taking.set_defaults(call=snapshot)
    asking = verbs.add_parser("status", help="how a folder differs from the version it holds")
    asking.add_argument("folder", nargs="?", default=".", help="with the files; here when left out")
    asking.set_defaults(call=status)
    bringing = verbs.add_parser("checkout", help="make a folder hold exactly the files of a version")
    bringing.add_argument("ref", help="name@version")
    bringing.add_argument("folder", nargs="?", help="made when it is not there; the dataset's name when left out")
    bringing.add_argument(
        "--link",
        choices=("auto", "reflink", "hardlink", "copy"),
        default="auto",
        help="how whole files come there: hardlink gives read-only files that share the bytes of the store",
    )
    bringing.add_argument("--force", action="store_true", help="overwrite and remove what is in no version")
    bringing.add_argument("--dry-run", action="store_true", help="say what would be done")
    bringing.set_defaults(call=checkout)


def snapshot(args: argparse.Namespace) -> int:
    """A version, or the news that nothing changed."""
    from boucle.data import snapshot as folders

    ws = opened(args)
    if args.dry_run:
        changes = folders.status(ws, args.folder)
        if args.json:
            _as_json(_said(changes))
        else:
            _line("nothing was stored")
            _show(changes)
        return 0
    with _Counter("read", args.json) as count:
        taken = folders.snapshot(ws, args.folder, args.name, description=args.description, progress=count)
    dataset, changes = taken.dataset, taken.changes
    if args.json:
        said = {"dataset": dataset.key, "new": taken.new, "files": dataset.rows, "bytes": dataset.size}
        _as_json({**said, "digest": dataset.digest, **_said(changes), "seconds": taken.seconds})
        return 0
    _line(f"{dataset.key} {'is new' if taken.new else 'has the same files already: no new version'}")
    _line(f"{_files(dataset.rows)}, {_bytes(dataset.size)} in {_took(taken.seconds)}")
    _show(changes, most=0)
    return 0


def status(args: argparse.Namespace) -> int:
    """What changed since the last snapshot."""
    from boucle.data import snapshot as folders

    changes = folders.status(opened(args), args.folder)
    if args.json:
        _as_json(_said(changes))
    else:
        _line(f"holds {changes.ref}" if changes.ref else "holds no version yet")
        if changes.unfinished:
            _line(f"a checkout of {changes.unfinished} was cut off: run it again")
        _show(changes)
    return 0


def checkout(args: argparse.Namespace) -> int:
    """The files of a version."""
    from boucle.data.checkout import checkout as bring

    folder = args.folder or args.ref.removeprefix("dataset:").partition("@")[0]
    with _Counter("written", args.json) as count:
        done = bring(
            opened(args), args.ref, folder, link=args.link, force=args.force, dry_run=args.dry_run, progress=count
        )
    if args.json:
        _as_json(
            {
                "dataset": done.dataset.key, "folder": folder, "written": done.written, "removed": done.removed,
                "how": done.how, "overwritten": done.overwritten, "kept": done.kept,
                "skipped": dict(done.skipped), "seconds": done.seconds,
            }
        )  # fmt: skip
        return 0
    _line(f"{folder} {'would hold' if args.dry_run else 'holds'} {done.dataset.key} ({_files(done.dataset.rows)})")
    how = f" ({', '.join(f'{number:,} {name}' for name, number in sorted(done.how.items()))})" if done.how else ""
    _line(f"{len(done.written):,} written{how}, {len(done.removed):,} removed, in {_took(done.seconds)}")
    for title, names in (
        ("changes lost", done.overwritten),
        ("changes kept", done.kept),
        ("left alone", [f"{p}: {why}" for p, why in done.skipped]),
    ):
        _list(title, names, _SHOWN)
    return 0


def _said(changes: Changes) -> dict[str, Any]:
    return {
        "before": changes.ref, "added": changes.added, "modified": changes.modified, "removed": changes.removed,
        "unchanged": changes.unchanged, "skipped": dict(changes.skipped), "unfinished": changes.unfinished,
    }  # fmt: skip


def _show(changes: Changes, most: int = _SHOWN) -> None:
    parts = (("added", changes.added), ("modified", changes.modified), ("removed", changes.removed))
    _line(", ".join(f"{len(paths):,} {title}" for title, paths in parts) + f", {changes.unchanged:,} unchanged")
    for title, paths in parts if most else ():
        _list(title, paths, most)
    _list("skipped", [f"{path}: {why}" for path, why in changes.skipped], _SHOWN)


def _list(title: str, names: list[str], most: int) -> None:
    for name in names[:most]:
        _line(f"  {title}  {name}")
    if len(names) > most:
        _line(f"  {title}  and {len(names) - most:,} more")


def _line(text: str) -> None:
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text) if not text.isprintable() else text
    sys.stdout.write(shown + "\n")


def _as_json(value: Any) -> None:
    import json

    # A name that is not UTF-8 is escaped as Python does it.
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def _files(number: int) -> str:
    return "1 file" if number == 1 else f"{number:,} files"


def _bytes(number: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:,.0f} {unit}" if unit == "bytes" else f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.3g} TB"


def _took(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


class _Counter:
    """Shows how many bytes were read or written, on a terminal."""

    def __init__(self, what: str, quiet: bool) -> None:
        self._what, self._shown = what, not quiet and sys.stderr.isatty()
        self._bytes, self._next = 0, time.monotonic() + 0.3

    def __enter__(self) -> _Counter:
        return self

    def __call__(self, done: int) -> None:
        self._bytes += done
        if self._shown and time.monotonic() > self._next:
            self._next = time.monotonic() + 0.1
            sys.stderr.write(f"\r{_bytes(self._bytes)} {self._what} ")

    def __exit__(self, *_: object) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
