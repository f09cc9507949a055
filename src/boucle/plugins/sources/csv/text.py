"""Delimited text as records: encoding, dialect, header, and where a record ends.

Nothing here knows types. Text is handled as bytes in UTF-8, whatever encoding the file has.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from boucle.core import files
from boucle.core.errors import Invalid
from boucle.plugins.sources.encoding import LONGEST, decoded, encoded_as, marked, too_long
from boucle.ports.source import BadLine

_SAMPLE = 1 << 20
_DELIMITERS = (",", ";", "\t", "|")
_SHOWN = 500  # characters of a bad line that are kept


@dataclass(frozen=True, slots=True)
class Text:
    """How the bytes of a file become records."""

    encoding: str
    settled: bool  # the encoding is known, not assumed
    delimiter: str
    quote: str
    newline: str  # "\n", or "\r" in files of old
    header: bool
    names: tuple[str, ...]
    generated: tuple[str, ...]
    skip: int  # bytes of UTF-8 before the first row
    line: int  # number of the first row's line
    largest: int = 0  # bytes that a compressed file may unpack to


# --- dialect --------------------------------------------------------------------------------------------------------


def text_of(path: Path, options: Mapping[str, Any]) -> Text:
    """Find out encoding, dialect and header from the beginning of the file."""
    largest = files.largest(options)
    head = _head(path, largest)
    if not head.removeprefix(codecs.BOM_UTF8).strip(b"\r\n\t \x00"):
        raise Invalid(f"{path} holds nothing but white space", expected="a header and rows")
    files.check_text(path, head)
    encoding = encoded_as(options.get("encoding")) or marked(head)
    whole = len(head) < _SAMPLE
    try:
        sample = codecs.getincrementaldecoder(encoding)("replace").decode(head, final=whole)
    except UnicodeError as error:
        raise Invalid(f"{path} is not {encoding}: {error}", expected=f"text in {encoding}") from error
    settled = bool(options.get("encoding")) or encoding != "utf-8"
    newline = "\r" if "\r" in sample and "\n" not in sample else "\n"
    sample = sample.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n" if newline == "\r" else "\r")
    if not whole and "\n" in sample:
        sample = sample[: sample.rindex("\n") + 1]
    quote = options.get("quote", '"')
    delimiter = options.get("delimiter") or _delimiter(sample, quote, files.ending(path.name))
    text = Text(encoding, settled, delimiter, quote, newline, True, (), (), 0, 1, largest)
    records = _sampled(sample, delimiter, quote, 200) or [[""]]
    given = tuple(options.get("names") or ())
    header = options.get("header")
    if header is None:
        header = tuple(records[0]) == given if given else _is_header(records)
    found, skip, line = _first_record(path, text)
    width = len(found)
    names, generated = _names(path, found if header else [""] * width, given, width)
    if not header:
        skip, line = 0, 1
    return replace(text, header=bool(header), names=names, generated=generated, skip=skip, line=line)


def is_table(path: Path, text: Text) -> bool:
    """Whether a text that may be anything has lines alike: most with as many fields as the first, or a number each."""
    sample = _head(path, text.largest)[:_SAMPLE]
    head = codecs.getincrementaldecoder(text.encoding)("replace").decode(sample, final=False)
    records = _sampled(head.removeprefix("\ufeff"), text.delimiter, text.quote, 200)
    width = len(records[0]) if records else 0
    if width < 2:
        return len(records) > 1 and all(_NUMBER.match(r[0]) for r in records[1:])
    return len(records) > 1 and sum(len(r) == width for r in records) >= 0.9 * len(records)


def _head(path: Path, largest: int) -> bytes:
    """The beginning of the file, with its first line at least."""
    parts, have, ended = [], 0, False
    for piece in files.chunks(path, _SAMPLE, largest=largest):
        parts.append(piece)
        have += len(piece)
        ended = ended or b"\n" in piece or b"\r" in piece
        if have >= _SAMPLE and ended:
            break
        if have > LONGEST:
            raise too_long(path, 1)
    return b"".join(parts)


def _first_record(path: Path, text: Text) -> tuple[list[str], int, int]:
    """The fields of the first record, where the second begins (byte), and in which line."""
    data = b""
    pieces = decoded(path, text.encoding, text.newline, text.largest)
    for piece in pieces:
        data += piece
        for record in _records(data, text, final=False):
            raw = data[record.start : record.end]
            if raw.strip(b"\r\n"):
                return _fields(raw, text), record.end, data.count(b"\n", 0, record.end) + 1
        if len(data) > LONGEST:
            break
    for record in _records(data, text, final=True):
        raw = data[record.start : record.end]
        if raw.strip(b"\r\n"):
            return _fields(raw, text), record.end, data.count(b"\n", 0, record.end) + 1
    raise Invalid(f"{path} has no line", expected="a header and rows")


def _fields(raw: bytes, text: Text) -> list[str]:
    try:
        line = raw.decode()
    except UnicodeDecodeError:
        line = raw.decode("cp1252", "replace")
    return (_sampled(line, text.delimiter, text.quote, 1) or [[""]])[0]


_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")  # str.splitlines also breaks at characters that are text


def _sampled(sample: str, delimiter: str, quote: str, most: int) -> list[list[str]]:
    """The first records by the standard library's parser, blank lines left out."""
    quoting = {"quotechar": quote} if quote else {"quoting": csv.QUOTE_NONE}
    old = csv.field_size_limit(LONGEST)
    try:
        rows = csv.reader(_LINE.findall(sample.replace("\0", "")), delimiter=delimiter, **quoting)
        out: list[list[str]] = []
        for row in rows:
            if row:
                out.append(row)
            if len(out) == most:
                break
        return out
    finally:
        csv.field_size_limit(old)


def _delimiter(sample: str, quote: str, ending: str) -> str:
    """The candidate under which most of the first records have as many fields as the header, and the most of them."""
    best, score = "", (0.0, 0)
    order = ("\t", *(d for d in _DELIMITERS if d != "\t")) if ending in (".tsv", ".tab") else _DELIMITERS
    for delimiter in order:
        records = _sampled(sample, delimiter, quote, 200)
        width = len(records[0]) if records else 0
        if width < 2:
            continue
        share = sum(len(r) == width for r in records) / len(records)
        if (round(share, 1), width) > score:
            best, score = delimiter, (round(share, 1), width)
    # One column: whatever does not occur in it.
    return best or next((d for d in order if d not in sample), order[0])


_NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*\Z")


def _is_header(records: list[list[str]]) -> bool:
    """Whether the first record holds names: unless one of its fields is a number that stands over numbers. Counted
    names (0, 1, 2, ... or years) are names."""
    first, rest = records[0], records[1:]
    numbers = [f for f in first if _NUMBER.match(f)]
    if not numbers:
        return True
    if len(numbers) > 1 and all(f.strip().isdigit() for f in numbers):
        counted = [int(f) for f in numbers]
        if counted == list(range(counted[0], counted[0] + len(counted))):
            return True
    for i, field in enumerate(first):
        if _NUMBER.match(field) and all(_NUMBER.match(r[i]) or not r[i].strip() for r in rest if i < len(r)):
            return False
    return True


def _names(
    path: Path, found: Sequence[str], given: tuple[str, ...], width: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if given and len(given) != width:
        raise Invalid(f"{len(given)} names were given for {width} columns", expected=f"{width} names")
    names = [n.strip() for n in given or found]
    generated = []
    for i, name in enumerate(names):
        if not name:
            names[i] = f"column_{i + 1}"
            generated.append(names[i])
    counts = Counter(names)
    twice = [n for n, c in counts.items() if c > 1]
    if twice:
        raise Invalid(
            f"{path}: column names occur twice: {', '.join(map(repr, twice[:5]))}",
            expected="distinct column names",
            fix="rename the columns in the file, or give the option names",
        )
    return tuple(names), tuple(generated)


# --- records --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Record:
    start: int
    end: int
    fields: int
    why: str = ""


def _records(data: bytes, text: Text, *, final: bool, width: int = 0) -> Iterator[_Record]:
    """Walk the records one by one. Without `final` a record that the data does not end is not given. A record of
    several lines with the wrong number of fields is most likely one stray quote: only its first line is given, as
    wrong."""
    delimiter, quote = text.delimiter.encode(), text.quote.encode()
    field = _field_pattern(text.delimiter, text.quote)
    at, size = 0, len(data)
    while at < size:
        newline = data.find(b"\n", at)
        if newline < 0 and not final:
            return
        end = size if newline < 0 else newline + 1
        if not quote or data.find(quote, at, end) < 0:
            why = "a carriage return within the line" if b"\r" in data[at:end].rstrip(b"\r\n") else ""
            yield _Record(at, end, data.count(delimiter, at, end) + 1, why)
            at = end
            continue
        fields, here, why, stray = 0, at, "", ""
        while True:
            matched = field.match(data, here)
            assert matched is not None  # the pattern matches nothing at all, too
            if matched.group(1) is None and data.startswith(quote, here):
                if not final and size - at < LONGEST:
                    return
                stray = "a quote that is never closed"
                break
            fields, here = fields + 1, matched.end()
            if matched.group(1) is not None and matched.end(1) > end and matched.group(2).strip(b"\r"):
                stray = "a quote that is closed in another line, within its text"
            elif here > end and width and fields > width:
                stray = "a quote that is closed in another line"
            if stray:  # walking on would cost all that follows, for each line anew
                break
            if b"\r" in matched.group(2).removesuffix(b"\r"):
                why = "a carriage return within the line"
            if here >= size:
                if not final:
                    return
                break
            here += 1
            if data[here - 1 : here] == b"\n":
                break
        if here > end and width and fields != width:
            stray = stray or "a quote that is closed in another line"
        if stray:
            yield _Record(at, end, fields, stray)
            at = end
        else:
            yield _Record(at, here, fields, why)
            at = here


def _field_pattern(delimiter: str, quote: str) -> re.Pattern[bytes]:
    d, q = re.escape(delimiter).encode(), re.escape(quote).encode()
    quoted = b"(%s[^%s]*(?:%s%s[^%s]*)*%s)?" % (q, q, q, q, q, q) if quote else b"()"
    return re.compile(quoted + b"([^%s\n]*)" % d)


def sift(data: bytes, text: Text, line: int, *, final: bool) -> tuple[bytes, int, list[BadLine]]:
    """The good records of a block, how many bytes of it were used, and the bad records."""
    good, bad, used, width = [], [], 0, len(text.names)
    for record in _records(data, text, final=final, width=width):
        raw = data[record.start : record.end]
        used = record.end
        if raw.strip(b"\r\n"):
            why = record.why or _wrong(raw, record.fields, width)
            if why:
                shown = raw.decode(errors="backslashreplace").rstrip("\r\n").replace("\0", "\\x00")
                bad.append(BadLine(line, shown[:_SHOWN], why))
            else:
                good.append(raw)
        line += raw.count(b"\n")
    return b"".join(good), used, bad


def _wrong(raw: bytes, fields: int, width: int) -> str:
    if b"\0" in raw:
        return "a NUL byte"
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return f"broken UTF-8: byte 0x{raw[error.start]:02x}"
    return "" if fields == width else f"{fields} field{'s' * (fields != 1)} where the header has {width}"


def cut(data: bytes, text: Text, *, final: bool) -> int:
    """Where the last complete record of the data ends, or -1 when its quotes are too wild to tell without walking
    them."""
    quote = text.quote.encode()
    if not quote or quote not in data:
        return len(data) if final else data.rfind(b"\n") + 1
    raw = np.frombuffer(data, np.uint8)
    quotes = np.flatnonzero(raw == quote[0])
    opening, closing = quotes[0::2], quotes[1::2]
    around = np.zeros(256, bool)
    around[[quote[0], text.delimiter.encode()[0], 10]] = True
    if not around[raw[opening[opening > 0] - 1]].all():
        return -1
    around[13] = True
    if not around[raw[closing[closing < len(raw) - 1] + 1]].all():
        return -1
    if final:
        return len(data) if len(quotes) % 2 == 0 else -1
    newlines = np.flatnonzero(raw == 10)
    outside = newlines[np.searchsorted(quotes, newlines) % 2 == 0]
    return int(outside[-1]) + 1 if len(outside) else 0
