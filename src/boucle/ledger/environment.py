"""The environment a process runs in: every installed package with the hash of what is installed, interpreter, platform.

A version number does not say what is really on disk, so each package carries the SHA-256 of its RECORD, the file in which
the installer wrote the hash of every installed file (https://packaging.python.org/specifications/recording-installed-packages).
Where the project has a lock file with the hashes of the wheels themselves (uv.lock, pylock.toml, or requirements with
--hash), those are kept too, and go into the requirements that pip enforces.
"""

from __future__ import annotations

import functools
import hashlib
import json
import platform
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from boucle.ports.blobs import Blobs
from boucle.settings import read_table


@dataclass(frozen=True, slots=True)
class Package:
    """An installed distribution."""

    name: str
    version: str
    record: str = ""  # SHA-256 of its RECORD; empty when the installer wrote none
    origin: str = ""  # where it came from when not from an index


def normal(name: str) -> str:
    """A distribution's name in its one normal form (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


@functools.cache
def packages() -> dict[str, Package]:
    """Every distribution that this process could import, by normal name."""
    found: dict[str, Package] = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if not name or normal(name) in found:  # the first on the path is the one that is imported
            continue
        record = distribution.read_text("RECORD")
        direct = distribution.read_text("direct_url.json")
        found[normal(name)] = Package(
            name,
            distribution.version,
            hashlib.sha256(record.encode()).hexdigest() if record else "",
            json.loads(direct).get("url", "") if direct else "",
        )
    return dict(sorted(found.items()))


@functools.cache
def capture() -> dict[str, Any]:
    """What this process runs on, as JSON. Taken once per process."""
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "executable": sys.executable,
        "packages": [asdict(p) for p in packages().values()],
    }


_kept: WeakKeyDictionary[Blobs, str] = WeakKeyDictionary()


def keep(blobs: Blobs) -> str:
    """Store the environment; returns its blob. The same environment is stored once, and looked at once per process."""
    if blobs not in _kept:
        _kept[blobs] = blobs.put(json.dumps(capture(), sort_keys=True).encode())
    return _kept[blobs]


def needed(names: Iterable[str]) -> dict[str, Package]:
    """The named distributions and all that they need here, by normal name; extras that nobody asked for are left out."""
    from packaging.requirements import Requirement

    have = packages()
    out: dict[str, Package] = {}
    queue: list[tuple[str, frozenset[str]]] = [(normal(n), frozenset()) for n in names]
    seen: set[tuple[str, frozenset[str]]] = set()
    while queue:
        name, extras = queue.pop()
        if (name, extras) in seen or name not in have:
            continue
        seen.add((name, extras))
        out[name] = have[name]
        for line in metadata.requires(have[name].name) or ():
            requirement = Requirement(line)
            contexts = [{"extra": e} for e in extras] or [{"extra": ""}]
            if requirement.marker is None or any(requirement.marker.evaluate(c) for c in contexts):
                queue.append((normal(requirement.name), frozenset(requirement.extras)))
    return dict(sorted(out.items()))


def requirements(names: Iterable[str], project: Path | None = None) -> str:
    """requirements.txt for these distributions and all they need, pinned; with --hash where a lock file knows the wheels.

    pip takes hashes for all packages or for none. Where the lock does not know all, each line ends in a comment with the
    SHA-256 of the installed RECORD instead, which tells the very same files.
    """
    locked = lock_hashes(project) if project is not None else {}
    chosen = needed(names)
    whole = all((name, package.version) in locked for name, package in chosen.items())
    lines = []
    for name, package in chosen.items():
        line = f"{package.name}=={package.version}"
        if whole:
            line += "".join(f" \\\n    --hash={h}" for h in sorted(locked[name, package.version]))
        elif package.record:
            line += f"  # record-sha256:{package.record}"
        lines.append(line)
    return "\n".join(lines) + "\n"


def lock_hashes(project: Path) -> dict[tuple[str, str], set[str]]:
    """(name, version) -> hashes of its files, from uv.lock, pylock.toml or requirements files with --hash."""
    found: dict[tuple[str, str], set[str]] = {}

    def add(name: str, version: str, hashes: Iterable[str]) -> None:
        found.setdefault((normal(name), version), set()).update(h for h in hashes if h)

    for file in ("uv.lock", "pylock.toml"):
        path = project / file
        if path.is_file():
            table = read_table(path)
            for entry in table.get("package", table.get("packages", [])):
                files = [*entry.get("wheels", []), *filter(None, [entry.get("sdist")])]
                add(entry["name"], str(entry.get("version", "")), (_file_hash(f) for f in files))
    for path in sorted(project.glob("requirements*.txt")):
        text = path.read_text(encoding="utf-8", errors="replace").replace("\\\n", " ")
        for match in re.finditer(r"^([A-Za-z0-9._-]+)(?:\[[^]\n]*\])?==([^\s;]+)(.*)$", text, re.MULTILINE):
            add(match[1], match[2], re.findall(r"\s--hash=(\S+)", match[3]))
    return {key: hashes for key, hashes in found.items() if hashes}


def _file_hash(entry: Mapping[str, Any]) -> str:
    if "hash" in entry:
        return str(entry["hash"])
    return next((f"{k}:{v}" for k, v in entry.get("hashes", {}).items()), "")
