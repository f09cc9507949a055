"""Finding plugins by entry point: `boucle.<family>`. Ours come the same way as anybody's.

Nothing of a plugin is imported until it is asked for by name.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from boucle.core.errors import Invalid, MissingExtra, NotFound

FAMILIES = ("store", "blobs", "source", "framework", "engine", "target", "check", "vault", "channel", "place", "stream")


@functools.cache
def _points(family: str) -> dict[str, str]:
    """Name -> module:class of every plugin of a family that is installed."""
    if family not in FAMILIES:
        raise NotFound.named("plugin family", family, FAMILIES)
    found: dict[str, str] = {}
    for group, name, value, distribution in _declared():
        if group == f"boucle.{family}" and found.setdefault(name, value) != value:
            raise Invalid(
                f"two plugins are named {family} {name!r}: {found[name]} and {value}",
                expected="one",
                fix=f"uninstall {distribution}",
            )
    return found


@functools.cache
def _declared() -> tuple[tuple[str, str, str, str], ...]:
    """Group, name, value and distribution of the entry points that are ours.

    Read from the installed metadata directly (https://packaging.python.org/specifications/entry-points/): loading
    importlib.metadata and letting it read takes longer than a whole command.
    """
    seen: set[str] = set()  # of the same distribution twice, the first is the one that is imported
    return tuple(point for folder in dict.fromkeys(sys.path) for point in _declared_in(folder or ".", seen))


def _declared_in(folder: str, seen: set[str]) -> Iterator[tuple[str, str, str, str]]:
    try:
        names = sorted(n for n in os.listdir(folder) if n.endswith((".dist-info", ".egg-info")))  # noqa: PTH208
    except OSError:  # not there, or a zip file, from which plugins are not loaded
        return
    for name in names:
        distribution = name.partition("-")[0].lower()
        if distribution in seen:
            continue
        seen.add(distribution)
        try:
            with open(f"{folder}/{name}/entry_points.txt", encoding="utf-8") as file:  # noqa: PTH123
                text = file.read()
        except OSError:
            continue
        group = ""
        for line in text.splitlines() if "[boucle." in text else ():
            said = line.strip()
            if said.startswith("["):
                group = said.strip("[]").strip()
            elif group.startswith("boucle.") and "=" in said and not said.startswith(("#", ";")):
                point, _, value = said.partition("=")
                yield group, point.strip(), value.partition("[")[0].strip(), distribution


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
        module, _, attribute = points[name].partition(":")
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
        return found
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
