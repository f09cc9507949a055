"""Vaults: secrets by name. Settings hold references (`vault:db/password`), never values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

REFERENCE = "vault:"


class Vault(Protocol):
    """Gives secrets to those who may have them. A value is never logged, shown or put into an error."""

    name: ClassVar[str]
    capabilities: ClassVar[frozenset[str]]  # of: write

    @classmethod
    def connect(cls, location: str, root: Path) -> Self:
        """Open at a location (what follows the ':' of the setting), by default inside the workspace folder."""

    def get(self, name: str) -> str:
        """The secret; raises `NotFound` with the name and never with a value."""

    def set(self, name: str, value: str) -> None:
        """Keep a secret (capability `write`); raises `Refused` otherwise."""

    def remove(self, name: str) -> bool: ...

    def names(self) -> list[str]:
        """What there is, sorted."""


def revealed(vault: Callable[[], Vault], options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with the secrets that they refer to (`vault:NAME`) in their places; the vault is opened when there is one."""
    return {
        name: vault().get(value.removeprefix(REFERENCE))
        if isinstance(value, str) and value.startswith(REFERENCE)
        else value
        for name, value in options.items()
    }
