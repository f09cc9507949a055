"""Between stores, and what nobody needs: push, pull, sync, mirror, remotes, gc."""

from __future__ import annotations

import argparse
from typing import Any

from boucle.faces.cli import out
from boucle.faces.cli.here import opened


def add(verbs: Any) -> None:
    for name, said, call in (
        ("push", "send versions that a remote does not have", push),
        ("pull", "fetch versions that are not here", pull),
        ("sync", "both: fetch, then send", sync),
    ):
        verb = verbs.add_parser(name, help=said)
        verb.add_argument("remote", help="a name from [remotes] of boucle.toml, a URL or a path")
        verb.add_argument("names", nargs="*", metavar="NAME[@VERSION]", help="which; all without one")
        verb.add_argument("--dry-run", action="store_true", help="say what would be moved, move nothing")
        verb.set_defaults(call=call)
    mirroring = verbs.add_parser("mirror", help="keep a whole second copy of what records need, and check both")
    mirroring.add_argument("remote", help="a name from [remotes] of boucle.toml, a URL or a path")
    mirroring.add_argument("--repair", action="store_true", help="mend what is damaged or missing from the other side")
    mirroring.add_argument("--quick", action="store_true", help="look for blobs without reading them")
    mirroring.set_defaults(call=mirror)
    listing = verbs.add_parser("remotes", help="the remotes of boucle.toml")
    listing.set_defaults(call=remotes)
    collecting = verbs.add_parser("gc", help="blobs that no record needs")
    collecting.add_argument("--yes", action="store_true", help="remove them")
    collecting.add_argument(
        "--grace", type=float, default=24.0, metavar="HOURS", help="younger ones stay; 24 without it"
    )
    collecting.set_defaults(call=gc)


def push(args: argparse.Namespace) -> int:
    """Send, and say what went."""
    from boucle.data.sync import push as send

    with _counted(args.json, "sending") as count:
        moved = send(opened(args), args.remote, args.names or None, dry_run=args.dry_run, progress=count)
    if args.json:
        out.as_json(_said(moved))
    else:
        _print(moved, "sent to", "to send to")
    return 0


def pull(args: argparse.Namespace) -> int:
    """Fetch, and say what came."""
    from boucle.data.sync import pull as fetch

    with _counted(args.json, "fetching") as count:
        moved = fetch(opened(args), args.remote, args.names or None, dry_run=args.dry_run, progress=count)
    if args.json:
        out.as_json(_said(moved))
    else:
        _print(moved, "fetched from", "to fetch from")
    return 0


def sync(args: argparse.Namespace) -> int:
    """Both ways."""
    from boucle.data.sync import sync as both

    with _counted(args.json, "moving") as count:
        fetched, sent = both(opened(args), args.remote, args.names or None, dry_run=args.dry_run, progress=count)
    if args.json:
        out.as_json({"fetched": _said(fetched), "sent": _said(sent)})
    else:
        _print(fetched, "fetched from", "to fetch from")
        _print(sent, "sent to", "to send to")
    return 0


def mirror(args: argparse.Namespace) -> int:
    """Exit code 1 when something is wrong and was not mended."""
    from boucle.data.sync import mirror as keep

    with _counted(args.json, "sending") as count:
        kept = keep(opened(args), args.remote, repair=args.repair, quick=args.quick, progress=count)
    if args.json:
        out.as_json({
            "remote": kept.remote, "checked": kept.checked, "datasets": kept.datasets, "sent": kept.sent,
            "bytes": kept.bytes, "problems": kept.problems, "mended": kept.mended, "seconds": kept.seconds,
        })  # fmt: skip
        return 1 if kept.problems else 0
    out.line(
        f"{out.many(kept.checked, 'blob')} compared with {kept.remote}, {kept.sent:,} sent ({out.size(kept.bytes)}) "
        f"in {out.took(kept.seconds)}"
    )
    for text in kept.mended:
        out.line(f"mended: {text}", "green")
    for text in kept.problems:
        out.line(f"problem: {text}", "red")
    if kept.problems and not args.repair:
        out.line("to do: the same with --repair", "dim")
    return 1 if kept.problems else 0


def remotes(args: argparse.Namespace) -> int:
    """One line per remote; options by name only, as values may be secrets."""
    from boucle.data.sync import remotes as known

    rows = known(opened(args))
    if args.json:
        out.as_json(rows)
    else:
        out.table(rows, "no remotes yet: add [remotes.NAME] with a url to boucle.toml")
    return 0


def gc(args: argparse.Namespace) -> int:
    """What could go, and with --yes does."""
    from boucle.data.gc import gc as collect

    swept = collect(opened(args), yes=args.yes, grace=args.grace * 3600)
    if args.json:
        out.as_json({
            "blobs": swept.blobs, "bytes": swept.bytes, "live": swept.live, "young": swept.young, "files": swept.files,
            "removed": swept.removed,
        })  # fmt: skip
        return 0
    said = "removed" if swept.removed else "that no record needs"
    out.line(f"{out.many(len(swept.blobs), 'blob')} {said}, {out.size(swept.bytes)}")
    if swept.young:
        out.line(f"{out.many(swept.young, 'blob')} too young to be judged", "dim")
    if swept.files:
        out.line(f"{out.many(swept.files, 'file')} of interrupted writes and packs that were mostly removed", "dim")
    if swept.blobs and not swept.removed:
        out.line("to do: boucle data gc --yes", "dim")
    return 0


def _said(moved: Any) -> dict[str, Any]:
    return {
        "remote": moved.remote, "datasets": moved.datasets, "there": moved.there, "blobs": moved.blobs,
        "bytes": moved.bytes, "dry_run": moved.dry_run, "seconds": moved.seconds,
    }  # fmt: skip


def _print(moved: Any, done: str, would: str) -> None:
    verb = would if moved.dry_run else done
    if not moved.datasets:
        out.line(f"nothing {would} {moved.remote}: {out.many(moved.there, 'version')} there already")
        return
    took = "" if moved.dry_run else f" in {out.took(moved.seconds)}"
    out.line(f"{out.many(len(moved.datasets), 'version')} {verb} {moved.remote}: {', '.join(moved.datasets)}", "green")
    out.line(f"{out.many(moved.blobs, 'blob')}, {out.size(moved.bytes)}{took}")


class _counted:  # noqa: N801  a context manager read as a word
    """Shows how much is done, on a terminal."""

    def __init__(self, quiet: bool, doing: str) -> None:
        import sys

        self._doing, self._shown = doing, not quiet and sys.stdout.isatty()

    def __enter__(self) -> Any:
        self._status = out.console().status(self._doing) if self._shown else None
        if self._status is not None:
            self._status.start()
        return self._count

    def _count(self, done: int, total: int) -> None:
        if self._status is not None:
            self._status.update(f"{self._doing}: {out.size(done)} of {out.size(total)}")

    def __exit__(self, *exc: object) -> None:
        if self._status is not None:
            self._status.stop()
