"""JSON documents read as a stream: the lists of objects in them, one object at a time."""

from __future__ import annotations

import codecs
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boucle.core import files
from boucle.core.errors import Invalid

LONGEST = 1 << 26  # bytes of one object
WHOLE = "."  # the record that is the whole document
_DEEPEST = 100
_HEAD = 1 << 16
_SPACE = " \t\r\n"
OPENED = object()  # what stands for the beginning of a list, which may be empty


@dataclass(frozen=True, slots=True)
class Found:
    """One value of a list: the path of the list, the line it begins in, and about how many characters it has."""

    path: str
    line: int
    value: Any
    size: int


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        seen: set[str] = set()
        twice = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]
        raise ValueError(f"key {twice!r} occurs twice")
    return row


DECODER = json.JSONDecoder(object_pairs_hook=_object)


def word(value: Any) -> str:
    """What JSON calls a value."""
    return {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}.get(
        type(value), "number"
    )


def content(path: Path, largest: int) -> Iterator[bytes]:
    """The content as UTF-8 without a mark."""
    pieces = files.chunks(path, largest=largest)
    first = next(pieces, b"")
    if _utf16(first):
        decoder = codecs.getincrementaldecoder("utf-16")("strict")
        try:
            for piece in itertools.chain([first], pieces):
                yield decoder.decode(piece).encode()
            yield decoder.decode(b"", final=True).encode()
        except UnicodeError as error:
            raise Invalid(f"{path} is not UTF-16: {error}", expected="text in UTF-8 or UTF-16") from error
        return
    yield first.removeprefix(codecs.BOM_UTF8)
    yield from pieces


def _utf16(head: bytes) -> bool:
    return head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))


def record_of(path: Path, wanted: Any, largest: int) -> str | None:
    """Where the rows are: None for one per line, else the path of their list, '' for the document itself.

    Raises `Invalid` when there are several lists of objects and none is `wanted`."""
    head = next(files.chunks(path, _HEAD, largest=largest), b"")
    files.check_text(path, head)
    text = head.decode("utf-16", "replace") if _utf16(head) else head.decode(errors="replace")
    text = text.lstrip("\ufeff" + _SPACE)
    if not text.strip("\0"):
        raise Invalid(f"{path} holds nothing but white space", expected="JSON objects")
    if wanted is not None:
        return str(wanted)
    if text.startswith("["):
        return ""
    lines = _lines_of(text)
    told = files.ending(path.name) in (".jsonl", ".ndjson") or (len(lines) > 1 and _is_object(lines[0]))
    if told or not text.startswith("{"):
        return None
    paths: dict[str, None] = {}
    try:
        for found in walk(path, None, largest):
            if found.value is not OPENED:
                paths[found.path] = None
    except _More:
        return None
    except Invalid:
        if sum(map(_is_object, lines)) > 0.6 * len(lines):
            return None  # lines, of which the first is broken
        raise
    if len(paths) > 1:
        raise Invalid(
            f"{path} has {len(paths)} lists of objects: {', '.join(list(paths)[:10])}",
            expected="one",
            fix=f"say which holds the rows: record={next(iter(paths))}",
        )
    return next(iter(paths), WHOLE)


def _lines_of(text: str) -> list[str]:
    """The first lines of a text that are whole, and not empty."""
    lines = text.splitlines()[:50]
    return [line for line in (lines[:-1] if len(text) >= _HEAD // 2 else lines) if line.strip()]


def _is_object(line: str) -> bool:
    try:
        return len(line) > 2 and isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


class _More(Exception):
    """After a whole object there is another: it is no document."""


def walk(path: Path, record: str | None, largest: int) -> Iterator[Found]:
    """The values of the list at `record`, or of every list of objects that is not within another.

    Raises `Invalid` for what is not JSON, with the line, and for a value of more than 64 MiB."""
    text = _Text(path, largest)
    if record == WHOLE:
        line = text.line
        value, size = text.value()
        yield Found(WHOLE, line, value, size)
    else:
        yield from _descend(text, (), record, 0)
    if text.peek():
        if record is None:
            raise _More
        raise text.wrong("there is something after the end of the document")


def _descend(text: _Text, at: tuple[str, ...], record: str | None, depth: int) -> Iterator[Found]:
    """What is in the value that follows."""
    if depth > _DEEPEST:
        raise text.wrong("nested too deeply")
    here, first = ".".join(at), text.peek()
    if first == "[" and (record is None or here == record):
        yield from _listed(text, here, record)
    elif first == "{" and (record is None or not here or record.startswith(f"{here}.")) and record != "":
        text.take()
        seen: set[str] = set()
        while text.peek() != "}":
            if text.peek() != '"':
                raise text.wrong("a key is not in double quotes")
            key, _ = text.value()
            if key in seen:
                raise text.wrong(f"key {key!r} occurs twice")
            seen.add(key)
            if text.peek() != ":":
                raise text.wrong("a key is not followed by ':'")
            text.take()
            yield from _descend(text, (*at, key), record, depth + 1)
            text.comma("}")
        text.take()
    else:
        text.value()


def _listed(text: _Text, here: str, record: str | None) -> Iterator[Found]:
    text.take()
    if record is not None:
        yield Found(here, text.line, OPENED, 0)
    while text.peek() != "]":
        line = text.line
        value, size = text.value()
        if record is not None or isinstance(value, dict):
            yield Found(here, line, value, size)
        text.comma("]")
    text.take()


class _Text:
    """The text of a document, of which only what is being looked at is held."""

    def __init__(self, path: Path, largest: int) -> None:
        self.path, self.line = path, 1
        self._text, self._at, self._more = "", 0, True
        self._pieces = content(path, largest)
        self._decoder = codecs.getincrementaldecoder("utf-8")("strict")

    def wrong(self, what: str) -> Invalid:
        """The error for what is not as it should be."""
        return Invalid(
            f"{self.path}, line {self.line}: {what}",
            expected="JSON: an array of objects, or a document with one in it",
            fix="or write one object per line",
        )

    def _fill(self) -> bool:
        piece = next(self._pieces, None) if self._more else None
        if piece is None and not self._more:
            return False
        self._more = piece is not None
        try:
            more = self._decoder.decode(piece or b"", final=not self._more)
        except UnicodeDecodeError as error:
            raise self.wrong(f"broken UTF-8: {error.reason}") from error
        self._text, self._at = self._text[self._at :] + more, 0
        return True

    def peek(self) -> str:
        """The next character that is no white space, '' at the end."""
        while True:
            text, at = self._text, self._at
            while at < len(text) and text[at] in _SPACE:
                at += 1
            if at > self._at:
                self.line += text.count("\n", self._at, at)
                self._at = at
            if at < len(text):
                return text[at]
            if not self._fill():
                return ""

    def take(self) -> None:
        """Go on behind the character that was peeked at."""
        self._at += 1

    def comma(self, end: str) -> None:
        """What must follow a value: a comma, or the end."""
        found = self.peek()
        if found == ",":
            self.take()
            if self.peek() == end:
                raise self.wrong(f"a comma stands before {end!r}")
        elif found != end:
            raise self.wrong(f"a value is not followed by ',' or {end!r}" if found else "it is cut off")

    def value(self) -> tuple[Any, int]:
        """The value that follows, and how many characters it has."""
        if not self.peek():
            raise self.wrong("it is cut off")
        while True:
            try:
                value, end = DECODER.raw_decode(self._text, self._at)
                # A number or word at the end of what was read may go on.
                if end < len(self._text) or not self._more:
                    size = end - self._at
                    self.line += self._text.count("\n", self._at, end)
                    self._at = end
                    return value, size
            except RecursionError as error:
                raise self.wrong("nested too deeply") from error
            except ValueError as error:
                if not self._more:
                    raise self.wrong(f"not JSON: {error}") from error
            if len(self._text) - self._at > LONGEST:
                raise self.wrong(f"a value has more than {LONGEST} bytes")
            self._fill()
