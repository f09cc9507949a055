"""Secrets from the environment: `db/password` is `BOUCLE_SECRET_DB_PASSWORD`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import ClassVar, Self

from boucle.core.errors import Invalid, NotFound, Refused

_PREFIX = "BOUCLE_SECRET_"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_/-]*\Z")


class EnvVault:
    """Reads environment variables, afresh each time. What set them keeps them, so this vault writes nothing."""

    name: ClassVar[str] = "env"
    capabilities: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def connect(cls, location: str, root: Path) -> Self:  # noqa: ARG003  nothing to open
        return cls()

    def get(self, name: str) -> str:
        variable = _variable(name)
        if variable not in os.environ:
            raise NotFound(
                f"no secret {name!r}",
                expected=f"it in the environment variable {variable}",
                fix=f"export {variable}=...",
            )
        return os.environ[variable]

    def set(self, name: str, value: str) -> None:  # noqa: ARG002  the port's signature
        variable = _variable(name)
        raise Refused(f"secret {name!r} cannot be kept in the environment", fix=f"export {variable}=...")

    def remove(self, name: str) -> bool:
        variable = _variable(name)
        raise Refused(f"secret {name!r} cannot be removed from the environment", fix=f"unset {variable}")

    def names(self) -> list[str]:
        """Names in lower case, as far as the environment still knows them: `/` and `-` have become `_`."""
        return sorted(v.removeprefix(_PREFIX).lower() for v in os.environ if v.startswith(_PREFIX) and v != _PREFIX)


def _variable(name: str) -> str:
    if not _NAME.match(name):
        raise Invalid(f"{name!r} is not a name of a secret", expected="letters, digits, '_', '-' and '/'")
    return _PREFIX + name.replace("/", "_").replace("-", "_").upper()
