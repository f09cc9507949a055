"""Secrets in a JSON file that only its owner can read.

The file is not encrypted: whoever is that user, or root, or has a backup of the disk, can read it. It keeps secrets out
of code, settings and logs, no more.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Self

from boucle.core.errors import Corrupt, Invalid, NotFound, Refused, Unavailable


class FileVault:
    """A mapping of names to secrets in one file of mode 0600. Several processes may write to it."""

    name: ClassVar[str] = "file"
    capabilities: ClassVar[frozenset[str]] = frozenset({"write"})

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @classmethod
    def connect(cls, location: str, root: Path) -> Self:
        return cls(location or root / "secrets.json")

    def get(self, name: str) -> str:
        secrets = self._read()
        if name not in secrets:
            raise NotFound.named("secret", name, secrets, fix=f"boucle vault set {name}")
        return secrets[name]

    def set(self, name: str, value: str) -> None:
        if not name or not name.isprintable():
            raise Invalid(f"{name!r} is not a name of a secret", expected="some printable characters")
        if not isinstance(value, str):
            raise Invalid(f"the value of secret {name!r} is a {type(value).__name__}", expected="a text")
        with self._locked():
            self._write(self._read() | {name: value})

    def remove(self, name: str) -> bool:
        with self._locked():
            secrets = self._read()
            found = secrets.pop(name, None) is not None
            if found:
                self._write(secrets)
            return found

    def names(self) -> list[str]:
        return sorted(self._read())

    def _read(self) -> dict[str, str]:
        try:
            with self.path.open(encoding="utf-8") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                if mode & 0o077:
                    raise Refused(
                        f"the vault {self.path} has mode {mode:04o}, so others can read its secrets",
                        expected="mode 0600",
                        fix=f"chmod 600 {self.path}, and replace the secrets if others may have read them",
                    )
                secrets = json.load(file)
        except FileNotFoundError:
            return {}
        except ValueError:  # without its message, which would quote the file
            raise Corrupt(f"the vault {self.path} is not JSON", expected="an object of texts") from None
        except OSError as error:
            if isinstance(error, Refused):
                raise
            raise Unavailable(f"the vault {self.path}: {error.strerror}", expected="a file that can be read") from error
        if not isinstance(secrets, dict) or not all(isinstance(value, str) for value in secrets.values()):
            raise Corrupt(f"the vault {self.path} does not hold an object of texts", expected="an object of texts")
        return secrets

    def _write(self, secrets: dict[str, str]) -> None:
        handle, written = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}-")  # made with mode 0600
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(secrets, file, indent=1, sort_keys=True)
                file.flush()
                os.fsync(file.fileno())
            Path(written).replace(self.path)
        except BaseException:
            Path(written).unlink(missing_ok=True)
            raise

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Nobody else changes the file between our reading and our writing."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(self.path.with_name(f".{self.path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                yield
            finally:
                os.close(handle)
        except (Refused, Corrupt, Unavailable, Invalid):
            raise
        except OSError as error:
            raise Unavailable(
                f"the vault {self.path}: {error.strerror}",
                expected="a folder that can be written",
                fix=f"chmod u+w {self.path.parent}",
            ) from error
