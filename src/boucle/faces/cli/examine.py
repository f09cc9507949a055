"""What `doctor` looks at."""

from __future__ import annotations

import dataclasses
import platform
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

from boucle.core.errors import BoucleError, MissingExtra
from boucle.faces.cli import words
from boucle.ports import lookup
from boucle.settings import CHOICES, Settings, resolve

_LOW_SPACE = 2**30


def examine(path: str | None) -> dict[str, Any]:
    """Settings with their origins, plugins by family, extras, and the state of the workspace. JSON."""
    import boucle

    settings = resolve(path)
    problems: list[str] = []
    helps = {f.name: f.metadata.get("help", "") for f in dataclasses.fields(Settings)}
    families = {}
    missing: dict[str, list[str]] = {}  # nothing is wrong: what nobody asked for is not installed
    for family in lookup.FAMILIES:
        families[family] = lookup.names(family)
        for name in families[family]:
            try:
                lookup.lookup(family, name)
            except MissingExtra:
                missing.setdefault(family, []).append(name)
            except (BoucleError, ImportError, AttributeError) as error:
                problems.append(f"{family} {name!r} cannot be loaded: {error}")
    for name in CHOICES:
        if name in ("store", "blobs", "engine", "target", "vault"):
            plugin = str(getattr(settings, name)).partition(":")[0]
            if plugin not in families[name] or plugin in missing.get(name, ()):
                problems.append(f"setting {name} is {plugin!r}, which is not installed")
    workspace = _workspace(settings, problems)
    return {
        "version": boucle.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "project": str(settings.project),
        "settings": [
            {"name": n, "value": str(getattr(settings, n)), "origin": settings.origins[n], "help": helps[n]}
            for n in CHOICES
        ],
        "plugins": families,
        "not_installed": missing,
        "extras": _extras(),
        "workspace": workspace,
        "problems": problems,
        "healthy": not problems,
    }


def _extras() -> list[dict[str, Any]]:
    from packaging.requirements import Requirement

    found: dict[str, list[str]] = {}
    for line in metadata.requires("boucle") or ():
        requirement = Requirement(line)
        for extra in metadata.metadata("boucle").get_all("Provides-Extra") or ():
            if (
                requirement.marker
                and requirement.marker.evaluate({"extra": extra})
                and not requirement.marker.evaluate({"extra": ""})
            ):
                found.setdefault(extra, []).append(requirement.name)
    return [
        {
            "extra": e,
            "adds": ", ".join(names),
            "installed": all(map(_has, names)),
            "command": f"pip install 'boucle[{e}]'",
        }
        for e, names in sorted(found.items())
    ]


def _has(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _workspace(settings: Settings, problems: list[str]) -> dict[str, Any]:
    if not settings.root.is_dir():
        return {}
    from boucle.core.records import Dataset, Model, Run, Service
    from boucle.workspace import Workspace

    free = shutil.disk_usage(settings.root).free
    if free < _LOW_SPACE:
        problems.append(f"only {words.size(free)} are free on the disk of {settings.root}")
    try:
        with Workspace(settings) as ws:
            counts = {f"{k.KIND}s": ws.store.count(k) for k in (Dataset, Run, Model, Service)}
    except (BoucleError, OSError) as error:
        problems.append(f"the workspace cannot be opened: {error}")
        return {"folder": str(settings.root)}
    size = sum(p.stat().st_size for p in Path(settings.root).rglob("*") if p.is_file())
    return {
        "folder": str(settings.root),
        **counts,
        "size": words.size(size),
        "free": words.size(free),
    }
