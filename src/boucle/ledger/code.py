"""Code as a noun: the commit, what was changed on top of it, and the source that was really reached."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from blake3 import blake3

from boucle.core.records import Code
from boucle.ports.store import Store

if TYPE_CHECKING:
    from boucle.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Checkout:
    """The state of a git working tree."""

    repository: str
    commit: str
    committed: float  # when that commit was made, epoch seconds
    branch: str
    diff: bytes  # everything that differs from the commit, files that git does not track yet included

    @property
    def dirty(self) -> bool:
        return bool(self.diff)


@functools.cache
def checkout(folder: Path) -> Checkout | None:
    """The git state of a folder, or None outside of a repository (or without git). Looked at once per process."""
    top = _git(folder, "rev-parse", "--show-toplevel")
    commit = _git(folder, "rev-parse", "HEAD") if top else None
    if top is None or commit is None:
        return None
    root = Path(top.decode().strip())
    diff = _git(root, "diff", "HEAD", "--binary") or b""
    for name in (_git(root, "ls-files", "--others", "--exclude-standard", "-z", "*.py") or b"").split(b"\0"):
        path = root / name.decode()
        if name and path.is_file():
            diff += b"\n+++ untracked " + name + b"\n" + path.read_bytes()
    remote = _git(root, "remote", "get-url", "origin")
    return Checkout(
        repository=_without_credentials(remote.decode().strip()) if remote else root.name,
        commit=commit.decode().strip(),
        committed=float(_git(root, "show", "-s", "--format=%ct", "HEAD") or 0),
        branch=(_git(root, "rev-parse", "--abbrev-ref", "HEAD") or b"").decode().strip(),
        diff=diff,
    )


def _git(folder: Path, *arguments: str) -> bytes | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, check=False, timeout=60)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return done.stdout if done.returncode == 0 else None


def _without_credentials(url: str) -> str:
    scheme, sep, rest = url.partition("://")
    return f"{scheme}{sep}{rest.rpartition('@')[2]}" if sep else url


_running: WeakKeyDictionary[Store, Code] = WeakKeyDictionary()


def of_program(ws: Workspace) -> Code:
    """The code of the program that is running, as it was when this was first asked: the least that is known of a plain
    run, looked at once."""
    if ws.store not in _running:
        path = getattr(sys.modules.get("__main__"), "__file__", None)
        files = {"__main__": str(Path(path).resolve())} if path and Path(path).is_file() else {}
        _running[ws.store] = keep(ws, Path(files["__main__"]).name if files else "interactive", files)
    return _running[ws.store]


def keep(ws: Workspace, entry: str, files: Mapping[str, str]) -> Code:
    """Store code: `files` maps module names to source paths. Returns the record; the same code is one record."""
    state = checkout(ws.project)
    sources = {}
    for module, path in sorted(files.items()):
        source = Path(path)
        if source.is_file():
            sources[module] = {"path": _relative(source, ws.project), "blob": ws.blobs.put(source.read_bytes())}
    listing = ws.blobs.put(json.dumps(sources, sort_keys=True).encode())
    diff = ws.blobs.put(state.diff) if state and state.diff else ""
    digest = blake3(json.dumps([entry, listing, state.commit if state else "", diff]).encode()).hexdigest()
    code = Code(
        digest=digest,
        entry=entry,
        sources=listing,
        repository=state.repository if state else "",
        commit=state.commit if state else "",
        committed=state.committed if state else 0.0,
        branch=state.branch if state else "",
        dirty=bool(diff),
        diff=diff,
        created=time.time(),
    )
    known = ws.store.get(Code, digest)
    if known is None:
        ws.store.put(code)
    return known or code


def _relative(path: Path, project: Path) -> str:
    path = path.resolve()
    return path.relative_to(project).as_posix() if path.is_relative_to(project) else path.name
