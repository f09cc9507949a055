"""Delimited text: CSV, TSV and their relatives, plain or compressed.

The file is read twice. The first pass finds encoding, dialect and the type of every column over all rows; the second
gives the values. Both cut the text into blocks that end where a record ends and hand each to Arrow's parser; only a
block in which something is wrong is walked line by line, so that the wrong lines can be set aside with their numbers.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv

from boucle.core import files, guess
from boucle.core.errors import Invalid, NotFound
from boucle.core.frames import Frame, arrow_type
from boucle.core.schema import FLOATS, INTEGERS, Column, Schema
from boucle.ports.source import BadLine, Reading

_SAMPLE = 1 << 20
_BLOCK = 1 << 23
_LONGEST = 1 << 26  # bytes of one record
_DELIMITERS = (",", ";", "\t", "|")
_SHOWN = 500  # characters of a bad line that are kept


class CsvSource:
    """Delimited text files (RFC 4180 and what people make of it)."""

    name: ClassVar[str] = "csv"
    suffixes: ClassVar[tuple[str, ...]] = (".csv", ".tsv", ".txt", ".tab")
    options: ClassVar[dict[str, str]] = {
        "delimiter": "the character between fields; found by itself",
        "quote": "the character around fields, '' for none; the double quote",
        "encoding": "of the text; UTF-8, UTF-16 (by its mark) or Windows-1252 are found by themselves",
        "header": "true or false: whether the first line holds the names; found by itself",
        "names": "names of the columns, in place of the header or for want of one",
        "nulls": "the words that mean a missing value, in place of the usual ones; an empty field always does",
        "types": "column -> type, for columns whose type is not to be guessed",
    }

    def read(self, url: str, options: Mapping[str, Any]) -> Reading:
        """The rows of a file. Lines with the wrong number of fields, broken encoding or NUL bytes are set aside.

        Raises `NotFound`, or `Invalid` for a file that is empty, is not text, is cut off, or has columns of one name.
        """
        path = files.locate(url)
        text = _text(path, _checked(options))
        survey = _survey(path, text, options)
        if survey.rather:
            text = _text(path, {**options, "encoding": survey.rather})
            survey = _survey(path, text, options)
        schema = Schema(tuple(Column(p.name, p.type, p.nullable) for p in survey.plans))
        reading = Reading(Frame(schema, lambda _: iter(())), _found(path, text, survey))

        def opener(columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
            reading.bad.clear()
            return _batches(path, text, survey.plans, columns, reading.bad)

        reading.frame = Frame(schema, opener, survey.rows)
        return reading


@dataclass(frozen=True, slots=True)
class _Text:
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


@dataclass(frozen=True, slots=True)
class _Survey:
    plans: list[guess.Plan]
    rows: int
    bad: int
    rather: str  # the encoding this more likely is than broken UTF-8
    words: dict[str, Any]


def _checked(options: Mapping[str, Any]) -> Mapping[str, Any]:
    unknown = [o for o in options if o not in CsvSource.options]
    if unknown:
        raise Invalid(f"the csv source has no option {unknown[0]!r}", expected=f"one of {', '.join(CsvSource.options)}")
    for option in ("delimiter", "quote"):
        value = options.get(option)
        good = isinstance(value, str) and (len(value.encode()) == 1 or (value == "" and option == "quote"))
        if value is not None and not good:
            raise Invalid(f"option {option}={value!r}", expected="one ASCII character")
    if options.get("encoding"):
        try:
            codecs.lookup(options["encoding"])
        except LookupError:
            raise Invalid(f"no encoding named {options['encoding']!r}", expected="such as utf-8 or cp1252") from None
    return options


# --- bytes to UTF-8 -------------------------------------------------------------------------------------------------


def _decoded(path: Path, encoding: str, newline: str) -> Iterator[bytes]:
    """The content as UTF-8. Broken UTF-8 comes through as it is; in another encoding it is an error."""
    pieces = files.chunks(path)
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


# --- dialect --------------------------------------------------------------------------------------------------------


def _text(path: Path, options: Mapping[str, Any]) -> _Text:
    """Find out encoding, dialect and header from the beginning of the file."""
    head = b""
    for piece in files.chunks(path, _SAMPLE):
        head += piece
        if len(head) >= _SAMPLE and (b"\n" in head or b"\r" in head or len(head) > _LONGEST):
            break
    if not head.removeprefix(codecs.BOM_UTF8).strip(b"\r\n\t \x00"):
        raise Invalid(f"{path} holds nothing but white space", expected="a header and rows")
    files.check_text(path, head)
    encoding = str(options.get("encoding") or _marked(head))
    whole = len(head) < _SAMPLE
    try:
        sample = codecs.getincrementaldecoder(encoding)("replace").decode(head, final=False)
    except UnicodeError as error:
        raise Invalid(f"{path} is not {encoding}: {error}", expected=f"text in {encoding}") from error
    settled = bool(options.get("encoding")) or encoding != "utf-8"
    newline = "\r" if "\r" in sample and "\n" not in sample else "\n"
    sample = sample.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n" if newline == "\r" else "\r")
    if not whole and "\n" in sample:
        sample = sample[: sample.rindex("\n") + 1]
    quote = options.get("quote", '"')
    delimiter = options.get("delimiter") or _delimiter(sample, quote, files.ending(path.name))
    text = _Text(encoding, settled, delimiter, quote, newline, True, (), (), 0, 1)
    records = _sampled(sample, delimiter, quote, 200)
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


def _marked(head: bytes) -> str:
    return "utf-16" if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8"


def _first_record(path: Path, text: _Text) -> tuple[list[str], int, int]:
    """The fields of the first record, where the second begins (byte), and in which line."""
    data = b""
    pieces = _decoded(path, text.encoding, text.newline)
    for piece in pieces:
        data += piece
        for record in _records(data, text, final=False):
            raw = data[record.start : record.end]
            if raw.strip(b"\r\n"):
                return _fields(raw, text), record.end, data.count(b"\n", 0, record.end) + 1
        if len(data) > _LONGEST:
            break
    for record in _records(data, text, final=True):
        raw = data[record.start : record.end]
        if raw.strip(b"\r\n"):
            return _fields(raw, text), record.end, data.count(b"\n", 0, record.end) + 1
    raise Invalid(f"{path} has no line", expected="a header and rows")


def _fields(raw: bytes, text: _Text) -> list[str]:
    try:
        line = raw.decode()
    except UnicodeDecodeError:
        line = raw.decode("cp1252", "replace")
    return _sampled(line, text.delimiter, text.quote, 1)[0]


def _sampled(sample: str, delimiter: str, quote: str, most: int) -> list[list[str]]:
    """The first records by the standard library's parser, blank lines left out."""
    quoting = {"quotechar": quote} if quote else {"quoting": csv.QUOTE_NONE}
    old = csv.field_size_limit(_LONGEST)
    try:
        rows = csv.reader(sample.replace("\0", "").splitlines(keepends=True), delimiter=delimiter, **quoting)
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
        width = len(records[0])
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


def _records(data: bytes, text: _Text, *, final: bool, width: int = 0) -> Iterator[_Record]:
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
                if not final and size - at < _LONGEST:
                    return
                stray = "a quote that is never closed"
                break
            fields, here = fields + 1, matched.end()
            if matched.group(1) is not None and matched.end(1) > end and matched.group(2).strip(b"\r"):
                stray = "a quote that is closed in another line, within its text"
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


def _sift(data: bytes, text: _Text, line: int, *, final: bool) -> tuple[bytes, int, list[BadLine]]:
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


def _cut(data: bytes, text: _Text, *, final: bool) -> int:
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


def _blocks(path: Path, text: _Text) -> Iterator[tuple[pa.Table, list[BadLine], bytes]]:
    """Blocks of rows with every column as text, the lines set aside in each, and the raw bytes."""
    parse = _Parser(text)
    size = max(_BLOCK, min(_LONGEST // 2, len(text.names) * 4096))
    line, skip, held = text.line, text.skip, bytearray()
    pieces = _decoded(path, text.encoding, text.newline)
    final = False
    while not final:
        piece = next(pieces, None)
        final = piece is None
        if piece is not None:
            held += piece
            if skip:
                dropped = min(skip, len(held))
                del held[:dropped]
                skip -= dropped
            if len(held) < size:
                continue
        data = bytes(held)
        end = _cut(data, text, final=final)
        table: pa.Table | None = None
        bad: list[BadLine] = []
        if end > 0:
            table = parse(data[:end])
        if table is None and end:
            clean, end, bad = _sift(data if end < 0 else data[:end], text, line, final=final or end > 0)
            table = parse(clean, strict=True)
        if not end and len(data) < _LONGEST:
            continue
        used = data[:end]
        del held[:end]
        if table is not None and (table.num_rows or bad):
            yield table, bad, used
        line += used.count(b"\n")


class _Parser:
    """Arrow's parser for one dialect, giving text; None for a block with something wrong in it."""

    def __init__(self, text: _Text) -> None:
        self._text = text
        self._convert = arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(text.names, pa.string()), strings_can_be_null=False, check_utf8=False
        )

    def __call__(self, data: bytes, *, strict: bool = False) -> pa.Table | None:
        text = self._text
        if not data.strip(b"\r\n"):
            return pa.table({n: pa.array([], pa.string()) for n in text.names})
        if b"\0" in data or not _is_utf8(data):
            return None
        wrong = []

        def skip(row: arrow_csv.InvalidRow) -> str:
            wrong.append(row)
            return "skip"

        try:
            table = arrow_csv.read_csv(
                pa.BufferReader(data),
                read_options=arrow_csv.ReadOptions(column_names=text.names, block_size=len(data) + 64),
                parse_options=arrow_csv.ParseOptions(
                    delimiter=text.delimiter,
                    quote_char=text.quote or False,
                    newlines_in_values=bool(text.quote),
                    invalid_row_handler=skip,
                ),
                convert_options=self._convert,
            )
        except pa.ArrowInvalid as error:
            if strict:
                raise Invalid(f"the text cannot be parsed: {error}") from error
            return None
        return None if wrong and not strict else table


def _is_utf8(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


# --- the two passes -------------------------------------------------------------------------------------------------


def _survey(path: Path, text: _Text, options: Mapping[str, Any]) -> _Survey:
    """The first pass: types, rows, and what kind of text it is."""
    nulls = options.get("nulls")
    words = guess.USUAL if nulls is None else pa.array([str(n) for n in nulls], pa.string())
    fixed = _fixed(text.names, options.get("types") or {})
    guesses = [guess.Guess(_GUESSED.get(fixed[n], ()), n in fixed) if n in fixed else guess.Guess() for n in text.names]
    rows = wrong = 0
    weight = _Weight()
    for table, bad, data in _blocks(path, text):
        rows += table.num_rows
        wrong += len(bad)
        if not text.settled:
            weight.add(data)
        for name, column, seen in zip(text.names, table.columns, guesses, strict=True):
            for chunk in column.chunks:
                seen.look(chunk, words, own=nulls is not None)
                if name in fixed and fixed[name] != "string" and not seen.alive:
                    plan = guess.Plan(name, fixed[name], False, tuple(words.to_pylist()))
                    plan.apply(chunk)  # says which value it is
    rather = weight.rather()
    if rows == 0 and wrong and not rather:
        raise Invalid(
            f"{path}: none of its {wrong} lines could be read as {len(text.names)} fields between {text.delimiter!r}",
            expected="lines like the first",
            fix="give the option delimiter, quote or encoding",
        )
    decided = guess.plans(text.names, guesses, None if nulls is None else [str(n) for n in nulls])
    decided = [replace(p, type=fixed[p.name]) if p.name in fixed else p for p in decided]
    return _Survey(decided, rows, wrong, rather, guess.report(text.names, guesses, decided))


# The types that are looked for where the user gave one; the values are then cast to exactly it.
_GUESSED = {
    **dict.fromkeys(INTEGERS, ("int64",)),
    **dict.fromkeys(FLOATS, ("float64",)),
    "bool": ("bool",), "date": ("date",), "timestamp": ("timestamp", "zoned"),
}  # fmt: skip


def _fixed(names: Sequence[str], types: Mapping[str, str]) -> dict[str, str]:
    for name, kind in types.items():
        if name not in names:
            raise NotFound.named("column", name, names, fix="see the option types")
        if kind != "string" and kind not in _GUESSED:
            raise Invalid(f"text cannot be read as type {kind!r}", expected=f"string, {', '.join(_GUESSED)}")
    return dict(types)


# Windows-1252 characters that western texts are made of. The others are far more often a sign of broken bytes.
_WESTERN = frozenset(
    "àâäáãåæçèéêëìíîïñòóôöõøùúûüœšžÀÂÄÁÅÆÇÈÉÊËÍÎÑÓÔÖØÙÚÛÜŒŠŽß€£§©®°²³µ·«»¡¿½¼¾ºª“”—…•\xa0\u2018\u2019\u2013"
)
_UNDEFINED = re.compile("[\udc81\udc8d\udc8f\udc90\udc9d]")


class _Weight:
    """Weighs whether bytes that are not UTF-8 are damage in a UTF-8 file or letters of a Windows-1252 file."""

    def __init__(self) -> None:
        self.sound = self.broken = self.western = 0
        self.latin = False

    def add(self, data: bytes) -> None:
        if data.isascii():
            return
        raw = np.frombuffer(data, np.uint8)
        self.sound += int(np.count_nonzero((raw >= 0xC2) & (raw <= 0xF4)))
        if _is_utf8(data):
            return
        strays = re.findall("[\udc80-\udcff]", data.decode(errors="surrogateescape"))
        self.sound -= sum(0xC2 <= ord(s) - 0xDC00 <= 0xF4 for s in strays)
        self.broken += len(strays)
        self.latin = self.latin or any(_UNDEFINED.match(s) for s in strays)
        as_western = "".join(strays).encode(errors="surrogateescape").decode("cp1252", "replace")
        self.western += sum(c in _WESTERN for c in as_western)

    def rather(self) -> str:
        """The encoding it more likely is, or ''. A Windows-1252 text hardly ever looks like UTF-8 by accident."""
        if self.broken and self.sound * 10 < self.broken and self.western * 2 > self.broken:
            return "latin-1" if self.latin else "cp1252"
        return ""


def _batches(
    path: Path, text: _Text, plans: list[guess.Plan], columns: Sequence[str] | None, bad: list[BadLine]
) -> Iterator[pa.RecordBatch]:
    """The second pass: the values."""
    chosen = plans if columns is None else [next(p for p in plans if p.name == c) for c in columns]
    types = [arrow_type(p.type) for p in chosen]
    for table, wrong, _ in _blocks(path, text):
        bad += wrong
        for batch in table.select([p.name for p in chosen]).to_batches():
            arrays = [p.apply(c).cast(t) for p, c, t in zip(chosen, batch.columns, types, strict=True)]
            yield pa.RecordBatch.from_arrays(arrays, names=[p.name for p in chosen])


def _found(path: Path, text: _Text, survey: _Survey) -> dict[str, Any]:
    found = {
        "delimiter": text.delimiter,
        "encoding": text.encoding,
        "header": text.header,
        "compression": files.compression(path),
        "generated_names": list(text.generated),
        "bad_lines": survey.bad,
        **survey.words,
    }
    return {k: v for k, v in found.items() if v not in ("", [], 0) or k == "header"}
