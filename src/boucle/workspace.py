"""The workspace: handles on store, blobs, vault and engine, opened from settings when they are first needed. No verbs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from boucle.core.errors import Conflict, NotFound, Unavailable
from boucle.ports.lookup import lookup
from boucle.settings import FILE, Settings, resolve

if TYPE_CHECKING:  # what a plugin needs is loaded with it
    from boucle.ports.blobs import Blobs
    from boucle.ports.engine import Engine
    from boucle.ports.store import Store
    from boucle.ports.target import Target
    from boucle.ports.vault import Vault


class Workspace:
    """One project's memory. Use `open` or `init`; close it, or use it as a context manager."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self.settings, self.now = settings, clock  # `now()`: seconds since the epoch

    @property
    def root(self) -> Path:
        """The folder that holds everything, usually <project>/.boucle."""
        return self.settings.root

    @property
    def project(self) -> Path:
        """The folder with boucle.toml and the code."""
        return self.settings.project

    @property
    def actor(self) -> str:
        """Who is acting."""
        return self.settings.actor

    @cached_property
    def store(self) -> Store:
        name, _, location = self.settings.store.partition(":")
        store: Store = lookup("store", name).connect(location, self.root, synchronous=self.settings.synchronous)
        return store

    @cached_property
    def blobs(self) -> Blobs:
        name, _, location = self.settings.blobs.partition(":")
        blobs: Blobs = lookup("blobs", name).connect(location, self.root, synchronous=self.settings.synchronous)
        return blobs

    @cached_property
    def vault(self) -> Vault:
        name, _, location = self.settings.vault.partition(":")
        vault: Vault = lookup("vault", name).connect(location, self.root)
        return vault

    def engine(self) -> Engine:
        """A new engine for one execution; close it by leaving its context."""
        engine: Engine = lookup("engine", self.settings.engine)(self.settings.workers or os.cpu_count() or 1)
        return engine

    def target(self, name: str = "") -> Target:
        """The target of that name, or the one the settings name."""
        target: Target = lookup("target", name or self.settings.target)()
        return target

    @cached_property
    def key(self) -> bytes:
        """The secret that this workspace signs what it may later unpickle with; made at first use, readable by its
        owner only."""
        import secrets

        path = self.root / "key"
        try:
            return path.read_bytes()
        except FileNotFoundError:
            pass
        draft = self.root / f"key.{os.getpid()}.{secrets.token_hex(4)}"
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise Unavailable(
                f"cannot make {path}: {error.strerror}", expected="a folder that may be written to"
            ) from error
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(32))
            file.flush()
            os.fsync(file.fileno())
        try:
            # A link fails when somebody else was first, so that two processes never sign with different keys.
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
        return path.read_bytes()

    def folder(self, *parts: str) -> Path:
        """A folder below the root, made when it is not there."""
        path = self.root.joinpath(*parts)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Unavailable(
                f"cannot make {path}: {error.strerror}",
                expected="a folder that may be written to",
                fix=f"check the rights and free space of {self.root}",
            ) from error
        return path

    def close(self) -> None:
        """Let go of what was opened."""
        if "store" in self.__dict__:
            self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[Self], tuple[Settings]]:
        return type(self), (self.settings,)  # another process opens its own handles

    def __repr__(self) -> str:
        return f"<Workspace {self.project}>"


def open(path: str | Path | None = None, **settings: Any) -> Workspace:
    """The workspace of the project that `path` (default: here) lies in; raises `NotFound` when there is none.

    >>> ws = boucle.open("shop")
    """
    resolved = resolve(path, **settings)
    if not resolved.root.is_dir():
        raise NotFound(
            f"no workspace in {resolved.project} or above it",
            expected=f"a folder with {FILE} and {resolved.root.name}/",
            fix="boucle init",
        )
    return Workspace(resolved)


def init(path: str | Path = ".", **settings: Any) -> Workspace:
    """Make a workspace in a folder (created when needed), or open the one that is there. Safe to repeat."""
    folder = Path(path).resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".boucle").mkdir(exist_ok=True)
        config = folder / FILE
        if not config.exists():
            config.write_text(
                "# Settings of this project; `boucle doctor` shows them all and where each value comes from.\n[boucle]\n",
                encoding="utf-8",
            )
        ignore = folder / ".boucle" / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n", encoding="utf-8")
    except FileExistsError as error:
        raise Conflict(f"{error.filename} is a file", expected="a folder", fix="choose another folder") from error
    except OSError as error:
        raise Unavailable(
            f"cannot make a workspace in {folder}: {error.strerror}", expected="a folder that may be written to"
        ) from error
    ws = Workspace(resolve(folder, **settings))
    ws.store  # noqa: B018  opening it makes the tables, so that later commands find them
    return ws
