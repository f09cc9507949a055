"""Content-defined chunks: where a file is cut depends on the bytes around the cut, so that an insertion moves no other.

The cuts are those of FastCDC 2020 (Xia et al., "The Design of Fast Content-Defined Chunking for Data Deduplication
Based Storage Systems", IEEE TPDS 31(9)), with chunks of 1 to 4 MiB, 1.4 MiB on average. They are a function of the content
alone: the same bytes give the same chunks, list and digest, whatever was stored before.

A list of chunks is a blob of its own: the line `boucle chunks 1`, then a line `digest size` for each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from boucle.core.errors import Corrupt

SMALLEST = 1 << 20  # what is not longer is one chunk
LARGEST = 1 << 22

Chunk = tuple[str, int]  # digest, bytes

_HEAD = b"boucle chunks 1\n"
_LIST = re.compile(_HEAD + rb"(?:[0-9a-f]{64} [1-9][0-9]{0,17}\n)*+")


def cuts(data: memoryview, *, ends: bool) -> Iterator[int]:
    """The lengths of the chunks that data begins with.

    Unless the content `ends` with the data, the last chunk is only given when more bytes could not make it longer.
    """
    left = len(data)
    for chunk in _cutter().cut_buf(data):
        length = int(chunk.length)
        left -= length
        if left or ends or length == LARGEST:
            yield length


def _cutter() -> Any:
    return _library()(SMALLEST, min_size=SMALLEST, max_size=LARGEST)


@cache
def _library() -> Any:
    # Loading it costs as much as a whole command on small files, which needs no cuts.
    from pyfastcdc import FastCDC

    return FastCDC


def unmoved(chunks: Sequence[Chunk], same: Sequence[bool], size: int) -> dict[int, Chunk]:
    """By offset, the chunks of an earlier content that cutting a new one would give again if it cut there.

    `same` says which have the same bytes at the same place of the new content, which is `size` bytes long. A cut depends
    on the bytes of its chunk only; but the end of a content is a cut that no bytes made.
    """
    found, offset = {}, 0
    for i, (chunk, stayed) in enumerate(zip(chunks, same, strict=True)):
        end = offset + chunk[1]
        made = i + 1 < len(chunks) and end + 1 < size  # the cutter looks at two bytes at once
        if stayed and (made or end == size or chunk[1] == LARGEST):
            found[offset] = chunk
        offset = end
    return found


def to_list(chunks: Sequence[Chunk]) -> bytes:
    """The blob that stands for a content."""
    return _HEAD + b"".join(b"%s %d\n" % (digest.encode(), size) for digest, size in chunks)


def from_list(blob: bytes, digest: str = "") -> list[Chunk]:
    """The chunks of a list; raises `Corrupt` for what is none."""
    if _LIST.fullmatch(blob) is None:
        raise _no_list(digest)
    lines = blob.decode().split("\n")[1:-1]
    return [(line[:64], int(line[65:])) for line in lines]


def _no_list(digest: str) -> Corrupt:
    return Corrupt(f"blob {digest} is not a list of chunks", expected="lines of digest and size")
