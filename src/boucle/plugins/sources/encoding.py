"""Text as UTF-8, whatever its encoding, and which that is."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from boucle.core import files
from boucle.core.errors import Invalid

LONGEST = 1 << 26  # bytes of one record or line


def decoded(path: Path, encoding: str, newline: str, largest: int = 0) -> Iterator[bytes]:
    """The content as UTF-8. Broken UTF-8 comes through as it is; in another encoding it is an error."""
    pieces = files.chunks(path, largest=largest)
    if codecs.lookup(encoding).name in ("utf-8", "utf-8-sig"):
        first = next(pieces, b"").removeprefix(codecs.BOM_UTF8)
        pieces = _before(first, pieces)
    else:
        pieces = _transcoded(path, encoding, pieces)
    return (p.replace(b"\r", b"\n") for p in pieces) if newline == "\r" else pieces


def _before(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _transcoded(path: Path, encoding: str, pieces: Iterator[bytes]) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)()
    done = 0
    try:
        for piece in pieces:
            yield decoder.decode(piece).encode()
            done += len(piece)
        yield decoder.decode(b"", final=True).encode()
    except UnicodeError as error:
        raise Invalid(
            f"{path} is not {encoding} after byte {done}: {error}",
            expected=f"text in {encoding}",
            fix="give its encoding",
        ) from error


def too_long(path: Path, line: int) -> Invalid:
    """The error for a line that has no end."""
    return Invalid(
        f"{path}: line {line} has more than {LONGEST} bytes",
        expected="lines of some kilobytes",
        fix="see whether it is a text file with a record per line",
    )


def encoded_as(encoding: Any) -> str:
    """The encoding a user gives, '' for none; raises `Invalid` for one that is not known, or is none of text."""
    if not encoding:
        return ""
    try:
        found = codecs.lookup(str(encoding))
        if "".encode(found.name) is not None and found._is_text_encoding:
            return str(encoding)
    except (LookupError, ValueError):
        pass
    raise Invalid(f"no encoding named {encoding!r}", expected="such as utf-8 or cp1252")


def marked(head: bytes) -> str:
    """The encoding by the mark at the beginning of a text."""
    return "utf-16" if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8"


def is_utf8(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


# Windows-1252 characters that western texts are made of. The others are far more often a sign of broken bytes.
_WESTERN = frozenset(
    "àâäáãåæçèéêëìíîïñòóôöõøùúûüœšžÀÂÄÁÅÆÇÈÉÊËÍÎÑÓÔÖØÙÚÛÜŒŠŽß€£§©®°²³µ·«»¡¿½¼¾ºª“”—…•\xa0\u2018\u2019\u2013"
)
_UNDEFINED = re.compile("[\udc81\udc8d\udc8f\udc90\udc9d]")


class Weight:
    """What was seen of both."""

    def __init__(self) -> None:
        self.sound = self.broken = self.western = 0
        self.latin = False

    def add(self, data: bytes) -> None:
        """Take in more of the text."""
        if data.isascii():
            return
        raw = np.frombuffer(data, np.uint8)
        self.sound += int(np.count_nonzero((raw >= 0xC2) & (raw <= 0xF4)))
        if is_utf8(data):
            return
        strays = re.findall("[\udc80-\udcff]", data.decode(errors="surrogateescape"))
        self.sound -= sum(0xC2 <= ord(s) - 0xDC00 <= 0xF4 for s in strays)
        self.broken += len(strays)
        self.latin = self.latin or any(_UNDEFINED.match(s) for s in strays)
        as_western = "".join(strays).encode(errors="surrogateescape").decode("cp1252", "replace")
        self.western += sum(c in _WESTERN for c in as_western)

    def merge(self, other: Weight) -> None:
        """Take in what was seen of another part."""
        self.sound += other.sound
        self.broken += other.broken
        self.western += other.western
        self.latin = self.latin or other.latin

    def rather(self) -> str:
        """The encoding it more likely is, or ''. A Windows-1252 text hardly ever looks like UTF-8 by accident."""
        if self.broken and self.sound * 10 < self.broken and self.western * 2 > self.broken:
            return "latin-1" if self.latin else "cp1252"
        return ""
