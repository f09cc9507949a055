"""Blobs in any place that can be written to: a bucket, a share, a server.

`blobs/ab/cdef...` is one blob. Small ones that came together are one object, `packs/NAME.pack`, with an index beside it that
makes them visible (the format is that of `packs`); its name is the digest of the index, so that the same blobs give the same
pack. Nothing is ever replaced by other content, hence writers need not know of each other.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Self

from blake3 import blake3

from boucle.core.errors import BoucleError, Conflict, Corrupt, Invalid, NotFound
from boucle.plugins.blobs import packs
from boucle.ports import place as places
from boucle.ports.place import Entry, Place

_WHOLE = 8 << 20  # bytes up to which a blob is fetched whole, and checked, when it is opened
_CHUNK = 4 << 20
_GAP = 1 << 16  # bytes that are fetched in vain rather than asking twice
_TOGETHER = 16 << 20  # bytes of a pack that are fetched at once
_THREADS = 8
_STALE = 86_400.0
_DIGITS = frozenset("0123456789abcdef")


class RemoteBlobs:
    """Blobs in a place. What the packs hold is remembered, and looked up again when something is not found."""

    name: ClassVar[str] = "remote"
    capabilities: ClassVar[frozenset[str]] = frozenset({"durable", "shared"})

    def __init__(self, place: Place) -> None:
        if not place.capabilities >= {"list", "write"}:
            raise Invalid(f"{place.name} cannot be written to", expected="a folder, bucket or server that can")
        self.place = place
        self._turn = threading.Lock()
        self._packs: dict[str, list[bytes]] = {}
        self._ages: dict[str, float] = {}  # of packs: when their index was written
        self._packed: dict[bytes, tuple[str, int, int]] = {}  # digest -> pack, offset, length
        self._looked = False

    @classmethod
    def connect(cls, location: str, root: Path, *, synchronous: str = "normal") -> Self:  # noqa: ARG003  the port's signature
        """`location` is a URL or path; what follows a '?' are options of the place, such as region=eu-west-1."""
        url, _, query = location.partition("?")
        if not url:
            raise Invalid("remote blobs need a place", expected='blobs = "remote:s3://bucket/prefix", or a path')
        return cls(places.connect(url, dict(urllib.parse.parse_qsl(query))))

    def put(self, data: bytes | Path | Iterable[bytes]) -> str:
        if isinstance(data, Path):
            digest, size = _hashed(data)
            self._send(digest, size, data)
            return digest
        if isinstance(data, bytes | bytearray | memoryview):
            content = bytes(data)
            digest = str(blake3(content).hexdigest())
            self._send(digest, len(content), content)
            return digest
        with _Spool() as spool:  # its name is known once all of it was seen
            hasher = blake3()
            for chunk in data:
                hasher.update(chunk)
                spool.write(chunk)
            digest = str(hasher.hexdigest())
            self._send(digest, spool.size, spool.content())
        return digest

    def put_many(self, items: Iterable[bytes | bytearray | memoryview]) -> list[str]:
        self._look()
        digests: list[str] = []
        fresh: dict[bytes, tuple[int, int]] = {}
        with _Spool() as spool:
            for item in items:
                raw = blake3(item).digest()
                digests.append(raw.hex())
                if raw not in fresh and not self._young(raw):
                    fresh[raw] = spool.size, len(item)
                    spool.write(item)
            if fresh:
                self._publish(fresh, spool)
        return digests

    def open(self, digest: str) -> BinaryIO:
        size = self.size(digest)
        if size <= _WHOLE:
            return io.BytesIO(self.get(digest))
        return io.BufferedReader(_Ranges(self, digest, size), 1 << 20)

    def get(self, digest: str) -> bytes:
        data = b"".join(self.read(digest))
        if blake3(data).hexdigest() != digest:
            raise _damaged(digest)
        return data

    def get_many(self, digests: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Many blobs, with as few requests as their packs allow; raises `Corrupt` at one that is not what was written."""
        self._look()
        for together in self.groups(digests):
            yield from self._group(together)

    def groups(self, digests: Iterable[str]) -> list[list[str]]:
        """Digests that are best fetched together, 16 MiB at most at once."""
        self._look()
        loose, packed = [], dict[str, list[tuple[int, int, str]]]()
        for digest in digests:
            where = self._packed.get(_raw(digest))
            if where is None:
                loose.append([digest])
            else:
                packed.setdefault(where[0], []).append((where[1], where[2], digest))
        found = []
        for parts in packed.values():
            begun, ended = -1, -1
            for offset, length, digest in sorted(parts):
                if begun < 0 or offset - ended > _GAP or offset + length - begun > _TOGETHER:
                    begun = offset
                    found.append([digest])
                else:
                    found[-1].append(digest)
                ended = offset + length
        return found + loose

    def read(self, digest: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes as they lie there, unchecked, in pieces; raises `NotFound`."""
        raw = _raw(digest)
        for again in (False, True):
            where = self._packed.get(raw)
            path, offset, until = _loose(digest), start, end
            if where is not None:
                path, offset = f"packs/{where[0]}.pack", where[1] + start
                until = where[1] + (where[2] if end is None else min(end, where[2]))
            began = False
            try:
                for piece in self.place.read(path, offset, until):
                    began = True
                    yield piece
                return
            except NotFound:
                if began or again:
                    raise _missing(digest) from None
                self._look(again=True)

    def has(self, digest: str) -> bool:
        return self._entry(digest) is not None

    def size(self, digest: str) -> int:
        found = self._entry(digest)
        if found is None:
            raise _missing(digest)
        return found

    def path(self, digest: str) -> Path:
        _raw(digest)
        raise Invalid("remote blobs are no files here", expected="`open` or `get`")

    def remove(self, digest: str) -> bool:
        raw = _raw(digest)
        removed = self.place.remove(_loose(digest))
        self._look(again=True)
        while (where := self._packed.get(raw)) is not None:  # in each pack that has it
            self._thin(where[0], raw)
            removed = True
        return removed

    def sizes(self) -> dict[str, int]:
        """All digests with the bytes of each, as the place lists them."""
        self._look(again=True)
        found = {raw.hex(): length for raw, (_, _, length) in self._packed.items()}
        for entry in self.place.list("blobs/"):
            digest = entry.path[len("blobs/") :].replace("/", "", 1)
            if _is_digest(digest):
                found.setdefault(digest, entry.size)
        return found

    def check(self) -> Iterator[str]:
        for digest in self.sizes():
            try:
                if not self.sound(digest):
                    yield _damaged(digest).what
            except NotFound:
                continue  # removed since it was listed
            except BoucleError as error:
                yield error.what
        for entry in self._stale():
            yield f"{entry.path} was left behind by a write that was cut off"

    def sound(self, digest: str) -> bool:
        """Whether the bytes there have their digest, read with bounded memory; raises `NotFound`."""
        hasher = blake3()
        for piece in self.read(digest):
            hasher.update(piece)
        return bool(hasher.hexdigest() == digest)

    def stored(self, digest: str) -> float:
        """When it was put there: seconds since the epoch, 0 where the place does not tell; raises `NotFound`."""
        self._look()
        where = self._packed.get(_raw(digest))
        packed = self._ages.get(where[0], 0.0) if where else 0.0
        try:
            return max(packed, self.place.entry(_loose(digest)).modified)
        except NotFound:
            if where is None:
                raise _missing(digest) from None
            return packed

    def sweep(self) -> int:
        """Remove packs that have had no index for a day; returns how many there were."""
        return sum(self.place.remove(entry.path) for entry in list(self._stale()))

    def mend(self) -> Sequence[str]:
        """Remove packs whose index is damaged, so that what lay in them is missing and can be put there again; returns the
        paths of these indices."""
        found = []
        for entry in list(self.place.list("packs/")):
            if entry.path.endswith(".index"):
                try:
                    self._index(entry.path[6:-6])
                except Corrupt:
                    found.append(entry.path)
                    self.place.remove(entry.path)
                    self.place.remove(entry.path.removesuffix(".index") + ".pack")
        return found

    def list(self) -> Iterator[str]:
        yield from self.sizes()

    def _send(self, digest: str, size: int, data: bytes | Path) -> None:
        if self._young(_raw(digest)):
            return
        path = _loose(digest)
        try:
            there = self.place.entry(path)
            if there.size == size and _recent(there.modified):
                return
        except NotFound:
            pass
        self.place.write(path, data)

    def _young(self, raw: bytes) -> bool:
        """Whether a blob lies in a pack that is not about to be old enough to be removed; else it is put there again."""
        return raw in self._packed and _recent(self._ages.get(self._packed[raw][0], 0.0))

    def _entry(self, digest: str) -> int | None:
        raw = _raw(digest)
        if raw in self._packed:
            return self._packed[raw][2]
        try:
            return self.place.entry(_loose(digest)).size
        except NotFound:
            self._look(again=True)
            return self._packed[raw][2] if raw in self._packed else None

    def _look(self, *, again: bool = False) -> None:
        """Know the packs that are there: the first time, or again."""
        with self._turn:
            if self._looked and not again:
                return
            self._ages = {e.path[6:-6]: e.modified for e in self.place.list("packs/") if e.path.endswith(".index")}
            names = set(self._ages)
            for gone in set(self._packs) - names:
                self._forget(gone)
            fresh = sorted(names - set(self._packs))
            with ThreadPoolExecutor(_THREADS) as pool:
                for name, found in zip(fresh, pool.map(self._index, fresh), strict=True):
                    if found is not None:
                        self._learn(name, found)
            self._looked = True

    def _index(self, name: str) -> dict[bytes, tuple[int, int]] | None:
        try:
            return _decoded(name, b"".join(self.place.read(f"packs/{name}.index")))
        except NotFound:
            return None  # removed since it was listed

    def _learn(self, name: str, found: Mapping[bytes, tuple[int, int]]) -> None:
        self._packs[name] = list(found)
        for raw, (offset, length) in found.items():
            self._packed[raw] = name, offset, length

    def _forget(self, name: str) -> None:
        for raw in self._packs.pop(name):
            if self._packed[raw][0] == name:
                del self._packed[raw]

    def _publish(self, fresh: Mapping[bytes, tuple[int, int]], spool: _Spool) -> None:
        index = packs.index_of(fresh)
        name = blake3(index).hexdigest()[:32]
        for ending, data in (("pack", spool.content()), ("index", index)):  # what is named before what names it
            with contextlib.suppress(Conflict):
                self.place.write(f"packs/{name}.{ending}", data, new=ending == "index")
        with self._turn:
            self._learn(name, fresh)
            self._ages.setdefault(name, time.time())

    def _group(self, digests: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        places = [self._packed.get(_raw(d)) for d in digests]
        first, last = places[0], places[-1]
        if first is None or last is None or len(digests) == 1:
            for digest in digests:
                yield digest, self.get(digest)
            return
        begin = first[1]
        try:
            data = b"".join(self.place.read(f"packs/{first[0]}.pack", begin, last[1] + last[2]))
        except NotFound:  # packed anew meanwhile
            self._look(again=True)
            for digest in digests:
                yield digest, self.get(digest)
            return
        for digest, where in zip(digests, places, strict=True):
            assert where is not None
            content = data[where[1] - begin : where[1] - begin + where[2]]
            if blake3(content).hexdigest() != digest:
                raise _damaged(digest)
            yield digest, content

    def _thin(self, name: str, raw: bytes) -> None:
        """Put a pack there without one blob, then remove the pack that had it."""
        with _Spool() as spool:
            fresh: dict[bytes, tuple[int, int]] = {}
            for other, (offset, length) in (self._index(name) or {}).items():
                try:
                    data = b"".join(self.place.read(f"packs/{name}.pack", offset, offset + length))
                except NotFound:
                    break
                if other != raw and blake3(data).digest() == other:  # what is damaged is not worth keeping
                    fresh[other] = spool.size, length
                    spool.write(data)
            if fresh:
                self._publish(fresh, spool)
        for ending in ("index", "pack"):
            self.place.remove(f"packs/{name}.{ending}")
        with self._turn:
            self._forget(name)
            for pack, blobs in list(self._packs.items()):  # where the same blob lies in another one
                if raw in blobs and (found := self._index(pack)):
                    self._learn(pack, found)

    def _stale(self) -> Iterator[Entry]:
        entries = list(self.place.list("packs/"))
        whole = {e.path for e in entries}
        for entry in entries:
            named = entry.path.removesuffix(".pack") + ".index"
            if entry.path.endswith(".pack") and named not in whole and 0 < entry.modified < time.time() - _STALE:
                yield entry


class _Ranges(io.RawIOBase):
    """A blob that is fetched piece by piece, where it is read."""

    def __init__(self, blobs: RemoteBlobs, digest: str, size: int) -> None:
        self._blobs, self._digest, self._size, self._at = blobs, digest, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        end = min(self._at + len(buffer), self._size)
        if end <= self._at:
            return 0
        data = b"".join(self._blobs.read(self._digest, self._at, end))
        if len(data) != end - self._at:
            raise _damaged(self._digest)
        buffer[: len(data)] = data
        self._at = end
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if at < 0:
            raise ValueError(f"position {at} is before the beginning")
        self._at = at
        return at

    def tell(self) -> int:
        return self._at


class _Spool:
    """Bytes on their way: in memory, or in a file when they are many."""

    def __init__(self) -> None:
        self._memory, self.size = bytearray(), 0
        self._file: Any = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.size += len(data)
        if self._file is None and self.size > _CHUNK * 2:
            self._file = tempfile.NamedTemporaryFile(prefix="boucle-")  # noqa: SIM115  closed at the end of the block
            self._file.write(self._memory)
            self._memory.clear()
        if self._file is None:
            self._memory += data
        else:
            self._file.write(data)

    def content(self) -> bytes | Path:
        if self._file is None:
            return bytes(self._memory)
        self._file.flush()
        return Path(self._file.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file is not None:
            self._file.close()


def _decoded(name: str, raw: bytes) -> dict[bytes, tuple[int, int]]:
    digests, offsets, lengths = packs.read_index(raw, f"packs/{name}.index")
    return {digests[32 * i : 32 * i + 32]: (offsets[i], lengths[i]) for i in range(len(offsets))}


def _hashed(path: Path) -> tuple[str, int]:
    hasher, size = blake3(max_threads=blake3.AUTO), 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                hasher.update(chunk)
                size += len(chunk)
    except FileNotFoundError:
        raise NotFound(f"no file {path}", expected="a file to store") from None
    except IsADirectoryError:
        raise Invalid(f"{path} is a folder", expected="a file to store") from None
    return str(hasher.hexdigest()), size


def _recent(modified: float) -> bool:
    return not modified or modified > time.time() - _STALE / 2  # not told is as good as it gets


def _is_digest(text: str) -> bool:
    return isinstance(text, str) and len(text) == 64 and _DIGITS.issuperset(text)


def _raw(digest: str) -> bytes:
    if not _is_digest(digest):
        raise Invalid(f"{digest!r} is not a digest", expected="64 lower-case hexadecimal digits")
    return bytes.fromhex(digest)


def _loose(digest: str) -> str:
    return f"blobs/{digest[:2]}/{digest[2:]}"


def _missing(digest: str) -> NotFound:
    return NotFound(
        f"no blob {digest}", expected="a digest that was stored", fix="boucle data mirror --repair mends it from a copy"
    )


def _damaged(digest: str) -> Corrupt:
    return Corrupt(
        f"blob {digest} no longer has the content it was stored with",
        expected="bytes with that digest",
        fix="boucle data mirror --repair mends it from a copy",
    )
