"""Finding plugins by entry point: `boucle.<family>`. Ours come the same way as anybody's.

Nothing of a plugin is imported until it is asked for by name.
"""

from __future__ import annotations

import functools
from importlib import metadata
from typing import Any

from boucle.core.errors import Invalid, MissingExtra, NotFound

FAMILIES = ("store", "blobs", "source", "framework", "engine", "target", "check", "vault", "channel", "place")


@functools.cache
def _points(family: str) -> dict[str, metadata.EntryPoint]:
    if family not in FAMILIES:
        raise NotFound.named("plugin family", family, FAMILIES)
    found: dict[str, metadata.EntryPoint] = {}
    for point in metadata.entry_points(group=f"boucle.{family}"):
        other = found.setdefault(point.name, point)
        if other.value != point.value:
            raise Invalid(
                f"two plugins are named {family} {point.name!r}: {other.value} and {point.value}",
                expected="one",
                fix=f"uninstall {point.dist.name if point.dist else 'one of them'}",
            )
    return found


def names(family: str) -> list[str]:
    """What is installed of a family."""
    return sorted(_points(family))


def lookup(family: str, name: str) -> Any:
    """The plugin class of that name; raises `NotFound` with near names, or `MissingExtra` with the command to run."""
    points = _points(family)
    if name not in points:
        raise NotFound.named(
            family, name, points, fix=f"boucle doctor lists what is installed; see also {family}s in the docs"
        )
    try:
        return points[name].load()
    except ImportError as error:
        if error.name and not error.name.startswith("boucle"):
            raise missing_extra(error.name, name, family) from error
        raise


def missing_extra(library: str, extra: str, family: str) -> MissingExtra:
    """The one sentence about something that is not installed."""
    return MissingExtra(
        f"{family} {extra!r} needs {library}",
        expected="it to be installed",
        fix=f"pip install 'boucle[{extra}]'",
    )
