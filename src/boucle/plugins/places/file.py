"""Files in a folder of this machine, or of one that is mounted here."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from boucle.core.errors import BoucleError, Conflict, Invalid, NotFound, Unavailable
from boucle.ports.place import Entry, checked

_CHUNK = 4 << 20
_DRAFT = re.compile(r"\.[0-9a-f]{16}\.part\Z")  # what a write that was cut off leaves; nobody sees it


class FilePlace:
    """A folder. What is written is on the disk when `write` returns."""

    name: ClassVar[str] = "file"
    schemes: ClassVar[tuple[str, ...]] = ("file",)
    capabilities: ClassVar[frozenset[str]] = frozenset({"list", "write"})

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def connect(cls, url: str, options: Mapping[str, Any]) -> Self:
        if options:
            raise Invalid(f"files take no option {next(iter(options))!r}", expected="none")
        parts = urllib.parse.urlsplit(url)
        if "://" in url and parts.netloc not in ("", "localhost"):
            raise Invalid(f"{url} names another machine", expected="file:///path, with three slashes")
        path = urllib.parse.unquote(parts.path) if "://" in url else url
        if not path or "\0" in path:
            raise Invalid(f"{path!r} is not a path", expected="the path of a folder")
        return cls(Path(path).expanduser().absolute())

    def list(self, prefix: str = "") -> Iterator[Entry]:
        checked(prefix + "x")
        with self._explained(""):
            top = self.root / prefix.rpartition("/")[0]
            for folder, _, names in os.walk(top, onerror=_raise_unless_absent):
                for name in names:
                    path = Path(folder, name)
                    below = path.relative_to(self.root).as_posix()
                    if below.startswith(prefix) and not _DRAFT.search(name):
                        with contextlib.suppress(FileNotFoundError):  # removed since it was listed
                            yield _entry(below, path.stat())

    def entry(self, path: str) -> Entry:
        with self._explained(path):
            return _entry(path, self._file(path).stat())

    def read(self, path: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        with self._explained(path), self._file(path).open("rb", buffering=0) as file:
            file.seek(start)
            while (end is None or start < end) and (piece := file.read(min(_CHUNK, (end or start + _CHUNK) - start))):
                start += len(piece)
                yield piece

    def write(self, path: str, data: bytes | Path, *, new: bool = False) -> None:
        target = self.root / checked(path)
        with self._explained(path):
            source = data.open("rb") if isinstance(data, Path) else None
            with source or contextlib.nullcontext():
                target.parent.mkdir(parents=True, exist_ok=True)
                if target.is_dir():
                    raise Invalid(f"{target} is a folder", expected="the path of a file")
                draft = target.parent / f".{target.name[:200]}.{secrets.token_hex(8)}.part"
                try:
                    with draft.open("xb") as file:
                        shutil.copyfileobj(source, file, _CHUNK) if source else file.write(bytes(data))
                        file.flush()
                        os.fsync(file.fileno())
                    if new:
                        os.link(draft, target)  # unlike a rename, it fails when there is one
                    else:
                        draft.replace(target)
                except FileExistsError:
                    raise Conflict(f"there is a file {target} already", expected="a path that is not taken") from None
                finally:
                    draft.unlink(missing_ok=True)
                _synced(target.parent)

    def remove(self, path: str) -> bool:
        target = self.root / checked(path)
        with self._explained(path):
            try:
                target.unlink()
            except (FileNotFoundError, NotADirectoryError):
                return False
            return True

    def close(self) -> None:
        """Nothing is kept open."""

    def _file(self, path: str) -> Path:
        found = self.root / checked(path) if path else self.root
        if found.is_dir():
            raise NotFound(f"{found} is a folder", expected="a file")
        return found

    @contextlib.contextmanager
    def _explained(self, path: str) -> Iterator[None]:
        try:
            yield
        except BoucleError:
            raise
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFound(
                f"no file {error.filename or self.root / path}", expected="a file", fix=f"look into {self.root}"
            ) from None
        except OSError as error:
            raise Unavailable(
                f"{self.root / path}: {error.strerror or error}", expected="a folder that can be read and written"
            ) from error


def _entry(path: str, status: os.stat_result) -> Entry:
    return Entry(path, status.st_size, f"{status.st_mtime_ns:x}-{status.st_size:x}", status.st_mtime)


def _raise_unless_absent(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _synced(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
