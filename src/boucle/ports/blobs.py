"""Blobs: bytes, named by the BLAKE3 digest of their content."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, ClassVar, Protocol, Self


class Blobs(Protocol):
    """Content-addressed bytes. The same content is stored once; what is stored never changes; a write that is cut off
    leaves nothing that `has` would find."""

    name: ClassVar[str]
    capabilities: ClassVar[frozenset[str]]  # of: durable, shared, paths (`path` works)

    @classmethod
    def connect(cls, location: str, root: Path, *, synchronous: str = "normal") -> Self:
        """Open at a location (what follows the ':' of the setting), by default inside the workspace folder. With `normal` what
        is stored survives a killed process, with `full` also the end of the machine."""

    def put(self, data: bytes | Path | Iterable[bytes]) -> str:
        """Store bytes, a file, or a stream of chunks; returns the digest (64 lower-case hex digits)."""

    def put_many(self, items: Iterable[bytes | bytearray | memoryview]) -> list[str]:
        """Store many blobs at once; returns their digests in order. All become visible together, or none when `items`
        raises. An item is used up before the next is asked for, so that one buffer may serve them all."""

    def open(self, digest: str) -> BinaryIO:
        """A seekable reader; raises `NotFound`."""

    def get(self, digest: str) -> bytes:
        """All of it; raises `NotFound`, and `Corrupt` when the bytes no longer have their digest."""

    def has(self, digest: str) -> bool: ...

    def size(self, digest: str) -> int:
        """Bytes; raises `NotFound`."""

    def stored(self, digest: str) -> float:
        """When it was put last, also when it was there already: seconds since the epoch; raises `NotFound`."""

    def path(self, digest: str) -> Path:
        """Where the bytes lie as a read-only file (capability `paths`); raises `NotFound`."""

    def remove(self, digest: str) -> bool:
        """Returns whether it was there."""

    def list(self) -> Iterator[str]:
        """All digests, in no order."""

    def check(self) -> Iterator[str]:
        """Reads everything; problems in words."""

    def sweep(self) -> int:
        """Remove what writes that were cut off left a day ago or earlier; returns how many files went."""
