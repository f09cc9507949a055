"""Whatever else fsspec knows: SFTP, WebDAV, FTP, Google Drive, memory, and the file systems that are installed beside it.

Options go to the file system, as its own documentation names them. A file system cannot promise that two writers of a new
file exclude each other, so a new one is looked for before it is written and compared afterwards.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import fsspec
from fsspec.spec import AbstractFileSystem

from boucle.core.errors import BoucleError, Conflict, Invalid, MissingExtra, NotFound, Refused, Unavailable
from boucle.ports.place import Entry, checked, shown

_PIECE = 8 << 20
_DRAFT = re.compile(r"\.[0-9a-f]{16}\.part\Z")


class FsspecPlace:
    """A folder of a file system. It is connected to when something is first asked of it."""

    name: ClassVar[str] = "fsspec"
    schemes: ClassVar[tuple[str, ...]] = ("sftp", "ssh", "webdav", "webdavs", "ftp", "gdrive", "memory")
    capabilities: ClassVar[frozenset[str]] = frozenset({"list", "write"})

    def __init__(self, kind: type[AbstractFileSystem], root: str, options: Mapping[str, Any], shown: str) -> None:
        self._kind, self._root, self._options, self._shown = kind, root.rstrip("/"), options, shown
        # Only those made for asyncio bear several threads.
        self._turn: Any = contextlib.nullcontext() if getattr(kind, "async_impl", False) else threading.RLock()

    @classmethod
    def connect(cls, url: str, options: Mapping[str, Any]) -> Self:
        scheme = url.partition("://")[0]
        if "::" in url or not re.fullmatch(r"[a-zA-Z][a-zA-Z0-9+.-]*", scheme):
            raise Invalid(f"{shown(url)} is not the URL of a place", expected="scheme://host/path")
        scheme = scheme.lower()
        dav = {"webdav": "http", "webdavs": "https", "dav": "http", "davs": "https"}
        try:
            kind = fsspec.get_filesystem_class("webdav" if scheme in dav else scheme)
        except ImportError:
            raise MissingExtra(
                f"place {scheme!r} needs a library that is not installed",
                expected="its implementation for fsspec",
                fix=f"pip install '{_PACKAGES.get(scheme, f'boucle[{scheme}]')}'",
            ) from None
        except ValueError:
            raise Invalid(
                f"no place is reached by {scheme}://",
                expected="a path, file, http, s3, gs, az, or a protocol that fsspec knows, such as sftp",
            ) from None
        try:
            if scheme in dav:
                parts = urllib.parse.urlsplit(url)
                given = {"base_url": f"{dav[scheme]}://{parts.netloc.rpartition('@')[2]}{parts.path}", **options}
                if parts.username is not None:
                    given["auth"] = (urllib.parse.unquote(parts.username), urllib.parse.unquote(parts.password or ""))
                if "user" in given:
                    given["auth"] = (given.pop("user"), given.pop("password", ""))
                return cls(kind, "", given, shown(url))
            return cls(kind, str(kind._strip_protocol(url)), {**kind._get_kwargs_from_urls(url), **options}, shown(url))
        except ValueError:
            raise Invalid(f"{shown(url)} is not the URL of a place", expected="scheme://host/path") from None

    @cached_property
    def _system(self) -> AbstractFileSystem:
        with self._turn:
            try:
                return self._kind(skip_instance_cache=True, **self._options)
            except TypeError:
                raise Invalid(
                    f"{self._shown} cannot be used with these options", expected="those fsspec names"
                ) from None

    def list(self, prefix: str = "") -> Iterator[Entry]:
        checked(prefix + "x")
        top = self._full(prefix.rpartition("/")[0])
        with self._explained(top), self._turn:
            self._system.invalidate_cache()
            try:
                found = dict(self._system.find(top or "/", detail=True))
            except FileNotFoundError:
                found = {}
        skipped = len(self._root.strip("/")) + 1 if self._root.strip("/") else 0
        for full, info in found.items():
            path = full.strip("/")[skipped:]
            if path and path.startswith(prefix) and not _DRAFT.search(path):
                yield _entry(path, info)

    def entry(self, path: str) -> Entry:
        full = self._full(path)
        with self._explained(path), self._turn:
            self._system.invalidate_cache()
            info = self._system.info(full)
            if info.get("type") == "directory":
                raise NotFound(f"{self._shown}/{path} is a folder", expected="a file")
            return _entry(path, info)

    def read(self, path: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        full = self._full(path)
        while end is None or start < end:
            upto = start + _PIECE if end is None else min(end, start + _PIECE)
            with self._explained(path), self._turn:
                if not start and self._system.isdir(full):
                    raise NotFound(f"{self._shown}/{path} is a folder", expected="a file")
                piece = self._piece(full, start, upto)
            if piece:
                yield piece
            if len(piece) < upto - start:
                return
            start += len(piece)

    def _piece(self, full: str, start: int, end: int) -> bytes:
        with self._system.open(full, "rb", **({"cache_type": "none"} if not start else {})) as file:
            file.seek(start)
            pieces = []
            while start < end and (piece := file.read(end - start)):  # some give less than was asked for
                pieces.append(piece)
                start += len(piece)
            return b"".join(pieces)

    def write(self, path: str, data: bytes | Path, *, new: bool = False) -> None:
        full = self._full(checked(path))
        folder, _, name = full.rpartition("/")
        draft = f"{folder}/.{name[:200]}.{secrets.token_hex(8)}.part"
        with self._explained(path), self._turn:
            self._system.invalidate_cache()
            if new and self._system.exists(full):
                raise self._taken(path)
            if folder and not self._system.isdir(folder):
                self._make(folder)
            try:
                if isinstance(data, Path):
                    self._system.put_file(str(data), draft)
                else:
                    self._system.pipe_file(draft, bytes(data))
                if new and self._system.exists(full):
                    raise self._taken(path)
                self._move(draft, full)
            except BaseException:
                with contextlib.suppress(Exception):  # the first error is the one to tell
                    self._system.rm_file(draft)
                raise
            self._system.invalidate_cache()
            if new and not isinstance(data, Path) and self._system.cat_file(full) != bytes(data):
                raise self._taken(path)

    def _move(self, draft: str, full: str) -> None:
        # That of the base class takes '*' and '?' for patterns.
        move = self._copied if self._kind.mv is AbstractFileSystem.mv else self._system.mv
        try:
            move(draft, full)
        except Exception:
            if not self._system.isfile(full):
                raise
            self._system.rm_file(full)  # some do not replace
            move(draft, full)

    def _copied(self, draft: str, full: str) -> None:
        self._system.cp_file(draft, full)
        self._system.rm_file(draft)

    def _make(self, folder: str) -> None:
        try:
            self._system.makedirs(folder, exist_ok=True)
        except Exception:
            self._system.invalidate_cache()
            if not self._system.isdir(folder):  # another may have made it meanwhile
                raise

    def remove(self, path: str) -> bool:
        full = self._full(checked(path))
        with self._explained(path), self._turn:
            self._system.invalidate_cache()
            if not self._system.isfile(full):
                return False
            self._system.rm_file(full)
            return True

    def close(self) -> None:
        system = self.__dict__.pop("_system", None)
        for part in (getattr(system, "ftp", None), getattr(getattr(system, "client", None), "http", None)):
            if part is not None:
                part.close()

    def _full(self, path: str) -> str:
        if path:
            checked(path)
        return "/".join(p for p in (self._root, path) if p)

    def _taken(self, path: str) -> Conflict:
        return Conflict(f"there is a file {self._shown}/{path} already", expected="a path that is not taken")

    @contextlib.contextmanager
    def _explained(self, path: str) -> Iterator[None]:
        where = f"{self._shown}/{path}"
        try:
            yield
        except BoucleError:
            raise
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError):
            raise NotFound(f"no file {where}", expected="the path of a file, in folders that are no files") from None
        except PermissionError:
            raise Refused(f"{where}: access is refused", expected="credentials that may") from None
        except Exception as error:  # noqa: BLE001  each file system has errors of its own, and their texts may hold secrets
            raise Unavailable(
                f"{where}: {type(error).__name__}",
                expected="a server that answers",
                fix="check address and credentials",
            ) from None


_PACKAGES = {
    "sftp": "boucle[sftp]", "ssh": "boucle[sftp]", "webdav": "boucle[webdav]", "webdavs": "boucle[webdav]",
    "gdrive": "gdrive-fsspec",
}  # fmt: skip


def _entry(path: str, info: Mapping[str, Any]) -> Entry:
    size = info.get("size")
    stamp = next(
        (info[k] for k in ("mtime", "modified", "LastModified", "last_modified", "modify", "created") if info.get(k)), 0
    )
    if isinstance(stamp, datetime):
        stamp = stamp.timestamp()
    moment = float(stamp) if isinstance(stamp, int | float) else 0.0
    version = next((str(info[k]) for k in ("ETag", "etag", "md5Checksum") if info.get(k)), "")
    return Entry(path, -1 if size is None else int(size), version or (f"{moment}-{size}" if moment else ""), moment)
