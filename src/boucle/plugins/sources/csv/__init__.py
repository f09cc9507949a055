"""Delimited text: CSV, TSV and their relatives, plain or compressed.

The file is read twice. The first pass finds encoding, dialect and the type of every column over all rows; the second
gives the values. Both cut the text into blocks that end where a record ends and hand each to Arrow's parser; only a
block in which something is wrong is walked line by line, so that the wrong lines can be set aside with their numbers.
"""

from __future__ import annotations

import codecs
import re
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
from boucle.plugins.sources.csv.text import LONGEST, Text, cut, decoded, is_utf8, sift, text_of
from boucle.ports.source import BadLine, Reading

_BLOCK = 1 << 23


class CsvSource:
    """Delimited text files (RFC 4180 and what people make of it)."""

    name: ClassVar[str] = "csv"
    suffixes: ClassVar[tuple[str, ...]] = (".csv", ".tsv", ".txt", ".tab")
    schemes: ClassVar[tuple[str, ...]] = ()
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
        text = text_of(path, _checked(options))
        survey = _survey(path, text, options)
        if survey.rather:
            text = text_of(path, {**options, "encoding": survey.rather})
            survey = _survey(path, text, options)
        schema = Schema(tuple(Column(p.name, p.type, p.nullable) for p in survey.plans))
        reading = Reading(Frame(schema, lambda _: iter(())), _found(path, text, survey))

        def opener(columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
            reading.bad.clear()
            return _batches(path, text, survey.plans, columns, reading.bad)

        reading.frame = Frame(schema, opener, survey.rows)
        return reading


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


def _blocks(path: Path, text: Text) -> Iterator[tuple[pa.Table, list[BadLine], bytes]]:
    """Blocks of rows with every column as text, the lines set aside in each, and the raw bytes."""
    parse = _Parser(text)
    size = max(_BLOCK, min(LONGEST // 2, len(text.names) * 4096))
    line, skip, held = text.line, text.skip, bytearray()
    pieces = decoded(path, text.encoding, text.newline)
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
        end = cut(data, text, final=final)
        table: pa.Table | None = None
        bad: list[BadLine] = []
        if end > 0:
            table = parse(data[:end])
        if table is None and end:
            clean, end, bad = sift(data if end < 0 else data[:end], text, line, final=final or end > 0)
            table = parse(clean, strict=True)
        if not end and len(data) < LONGEST:
            continue
        used = data[:end]
        del held[:end]
        if table is not None and (table.num_rows or bad):
            yield table, bad, used
        line += used.count(b"\n")


class _Parser:
    """Arrow's parser for one dialect, giving text; None for a block with something wrong in it."""

    def __init__(self, text: Text) -> None:
        self.text_of = text
        self._convert = arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(text.names, pa.string()), strings_can_be_null=False, check_utf8=False
        )

    def __call__(self, data: bytes, *, strict: bool = False) -> pa.Table | None:
        text = self.text_of
        if not data.strip(b"\r\n"):
            return pa.table({n: pa.array([], pa.string()) for n in text.names})
        if b"\0" in data or not is_utf8(data):
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


def _survey(path: Path, text: Text, options: Mapping[str, Any]) -> _Survey:
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
        if is_utf8(data):
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
    path: Path, text: Text, plans: list[guess.Plan], columns: Sequence[str] | None, bad: list[BadLine]
) -> Iterator[pa.RecordBatch]:
    """The second pass: the values."""
    chosen = plans if columns is None else [next(p for p in plans if p.name == c) for c in columns]
    types = [arrow_type(p.type) for p in chosen]
    for table, wrong, _ in _blocks(path, text):
        bad += wrong
        for batch in table.select([p.name for p in chosen]).to_batches():
            arrays = [p.apply(c).cast(t) for p, c, t in zip(chosen, batch.columns, types, strict=True)]
            yield pa.RecordBatch.from_arrays(arrays, names=[p.name for p in chosen])


def _found(path: Path, text: Text, survey: _Survey) -> dict[str, Any]:
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
