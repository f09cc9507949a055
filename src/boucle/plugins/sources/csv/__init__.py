"""Delimited text: CSV, TSV and their relatives, plain or compressed.

The file is read twice. The first pass finds encoding, dialect and the type of every column over all rows; the second
gives the values. Both cut the text into blocks that end where a record ends and hand each to Arrow's parser; only a
block in which something is wrong is walked line by line, so that the wrong lines can be set aside with their numbers.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pyarrow as pa
import pyarrow.csv as arrow_csv

from boucle.core import files, guess
from boucle.core.errors import Invalid, NotFound
from boucle.core.frames import Frame, arrow_type
from boucle.core.schema import FLOATS, INTEGERS, Column, Schema
from boucle.plugins.sources.columnar import known
from boucle.plugins.sources.csv.text import Text, cut, is_table, sift, text_of
from boucle.plugins.sources.encoding import LONGEST, Weight, decoded, encoded_as, is_utf8, too_long
from boucle.plugins.sources.text import TextSource
from boucle.ports.source import BadLine, Reading

_BLOCK = 1 << 23
_MOST_BAD = 100_000  # lines set aside, when there are no more good ones; ten times as many in any case
_OF_TEXT = {"encoding", "largest"}  # options that say nothing about a table
_WORKERS = min(4, os.cpu_count() or 1)


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
        "largest": "how many bytes a compressed file may unpack to; without it 1 GiB or 200 times its size",
    }

    def read(self, url: str, options: Mapping[str, Any]) -> Reading:
        """The rows of a file. Lines with the wrong number of fields, broken encoding or NUL bytes are set aside.

        Raises `NotFound`, or `Invalid` for a file that is empty, is not text, is cut off, or has columns of one name.
        """
        path = files.locate(url)
        text = text_of(path, _checked(options))
        if files.ending(path.name) == ".txt" and set(options) <= _OF_TEXT and not is_table(path, text):
            lines = TextSource().read(url, options)
            lines.found["note"] = (
                "no delimited table, so that each line is a row; give delimiter to have it read as one"
            )
            return lines
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
    known(options, CsvSource)
    for option in ("delimiter", "quote"):
        value = options.get(option)
        good = isinstance(value, str) and (len(value.encode()) == 1 or (value == "" and option == "quote"))
        if value is not None and not good:
            raise Invalid(f"option {option}={value!r}", expected="one ASCII character")
    encoded_as(options.get("encoding"))
    return options


# --- blocks ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Block:
    """Text that ends where a record ends, and the number of its first line. Where only a walk through it could tell that,
    also what of it is good, and the lines that are not."""

    data: bytes
    line: int
    good: bytes | None = None
    bad: list[BadLine] = field(default_factory=list)


def _cuts(path: Path, text: Text) -> Iterator[_Block]:
    """The text in blocks."""
    size = max(_BLOCK, min(LONGEST // 2, len(text.names) * 4096))
    line, skip, parts, have = text.line, text.skip, [], 0
    pieces = decoded(path, text.encoding, text.newline, text.largest)
    final = False
    while not final:
        piece = next(pieces, None)
        final = piece is None
        if piece is not None:
            dropped = min(skip, len(piece))
            skip -= dropped
            parts.append(piece[dropped:] if dropped else piece)
            have += len(parts[-1])
            if have < size:
                continue
        data = b"".join(parts)
        end = cut(data, text, final=final)
        block = _Block(data[:end], line) if end > 0 else None
        if end < 0 or (not end and have >= LONGEST):
            good, end, bad = sift(data, text, line, final=final)
            block = _Block(data[:end], line, good, bad)
            if not end and have >= LONGEST:
                raise too_long(path, line)
        if block is not None and block.data:
            yield block
        line += data.count(b"\n", 0, end)
        parts = [data[end:]]
        have = len(data) - end


T = TypeVar("T")


def _each(path: Path, text: Text, work: Callable[[_Block], T]) -> Iterator[T]:
    """What `work` makes of each block, in their order; Arrow does most of it, so that several can be at work."""
    blocks = _cuts(path, text)
    first, second = next(blocks, None), next(blocks, None)
    if second is None:
        if first is not None:
            yield work(first)
        return
    with ThreadPoolExecutor(_WORKERS) as pool:
        pending: deque[Future[T]] = deque()
        try:
            for block in itertools.chain([first, second], blocks):
                assert block is not None
                pending.append(pool.submit(work, block))
                if len(pending) > _WORKERS:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


class _Parser:
    """Arrow's parser for one dialect. Every column is text, but those of `types`."""

    def __init__(
        self, text: Text, columns: Sequence[str] | None = None, types: Mapping[str, pa.DataType] | None = None
    ) -> None:
        self.text, self._types = text, dict(types or {})
        self.columns = list(text.names if columns is None else columns)
        self._as_text = arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(self.columns, pa.string()),
            strings_can_be_null=False,
            check_utf8=False,
            include_columns=self.columns,
        )
        self._typed = arrow_csv.ConvertOptions(
            column_types={**dict.fromkeys(self.columns, pa.string()), **self._types},
            strings_can_be_null=False,
            null_values=[""],
            true_values=guess.TRUE,
            false_values=guess.FALSE,
            check_utf8=False,
            include_columns=self.columns,
        )

    def __call__(self, block: _Block) -> tuple[pa.Table, list[BadLine]]:
        """The rows of a block, and the lines that are none. Where a value does not have the type wanted, all of its
        block is text."""
        if block.good is not None:
            return self._strict(block.good), block.bad
        table = self._table(block.data, self._typed) if self._types else None
        table = self._table(block.data, self._as_text) if table is None else table
        if table is not None:
            return table, []
        good, _, bad = sift(block.data, self.text, block.line, final=True)
        return self._strict(good), bad

    def _strict(self, data: bytes) -> pa.Table:
        table = self._table(data, self._as_text, strict=True)
        assert table is not None
        return table

    def _table(self, data: bytes, convert: Any, *, strict: bool = False) -> pa.Table | None:
        text = self.text
        if data[:1] in (b"", b"\r", b"\n") and not data.strip(b"\r\n"):
            return pa.table({n: pa.array([], pa.string()) for n in self.columns})
        if b"\0" in data or not is_utf8(data):
            return None
        wrong = []

        def skip(row: arrow_csv.InvalidRow) -> str:
            wrong.append(row)
            return "skip" if strict else "error"

        try:
            table = arrow_csv.read_csv(
                pa.BufferReader(data),
                read_options=arrow_csv.ReadOptions(
                    column_names=text.names, block_size=len(data) + 64, use_threads=False
                ),
                parse_options=arrow_csv.ParseOptions(
                    delimiter=text.delimiter,
                    quote_char=text.quote or False,
                    newlines_in_values=bool(text.quote),
                    invalid_row_handler=skip,
                ),
                convert_options=convert,
            )
        except pa.ArrowInvalid as error:
            if strict:
                raise Invalid(f"the text cannot be parsed: {error}") from error
            return None
        return None if wrong and not strict else table


# --- the first pass -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Seen:
    """What was found in one block."""

    rows: int
    bad: int
    guesses: list[guess.Guess]
    weight: Weight | None


def _survey(path: Path, text: Text, options: Mapping[str, Any]) -> _Survey:
    """The first pass: types, rows, and what kind of text it is."""
    nulls = options.get("nulls")
    words = guess.USUAL if nulls is None else pa.array([str(n) for n in nulls], pa.string())
    fixed = _fixed(text.names, options.get("types") or {})
    guesses = [guess.Guess(_GUESSED.get(fixed[n], ()), n in fixed) if n in fixed else guess.Guess() for n in text.names]
    parse = _Parser(text)

    def look(block: _Block) -> _Seen:
        table, bad = parse(block)
        weight = None
        if not text.settled:
            weight = Weight()
            weight.add(block.data)
        found = [guess.Guess(g.alive, g.seen) for g in guesses]
        for name, column, seen in zip(text.names, table.columns, found, strict=True):
            for chunk in column.chunks:
                seen.look(chunk, words, own=nulls is not None)
                if name in fixed and fixed[name] != "string" and not seen.alive:
                    plan = guess.Plan(name, fixed[name], False, tuple(words.to_pylist()))
                    plan.apply(chunk)  # says which value it is
        return _Seen(table.num_rows, len(bad), found, weight)

    rows = wrong = 0
    weight = Weight()
    for part in _each(path, text, look):
        rows += part.rows
        wrong += part.bad
        if part.weight is not None:
            weight.merge(part.weight)
        for seen, more in zip(guesses, part.guesses, strict=True):
            seen.merge(more)
        if wrong > _MOST_BAD and (wrong > rows or wrong > 10 * _MOST_BAD) and not weight.rather():
            raise _not_alike(path, text, f"{wrong} of its first {wrong + rows} lines cannot")
    rather = weight.rather()
    if rows == 0 and wrong and not rather:
        raise _not_alike(path, text, f"none of its {wrong} lines could")
    decided = guess.plans(text.names, guesses, None if nulls is None else [str(n) for n in nulls])
    decided = [replace(p, type=fixed[p.name]) if p.name in fixed else p for p in decided]
    return _Survey(decided, rows, wrong, rather, guess.report(text.names, guesses, decided))


def _not_alike(path: Path, text: Text, which: str) -> Invalid:
    return Invalid(
        f"{path}: {which} be read as {len(text.names)} fields between {text.delimiter!r}",
        expected="lines like the first",
        fix="give the option delimiter, quote or encoding",
    )


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


# --- the second pass ------------------------------------------------------------------------------------------------

# Types that Arrow's parser reads as we do.
_DIRECT = {"bool", "date", "timestamp", "float32", "float64", *INTEGERS}


def _batches(
    path: Path, text: Text, plans: list[guess.Plan], columns: Sequence[str] | None, bad: list[BadLine]
) -> Iterator[pa.RecordBatch]:
    """The values."""
    chosen = plans if columns is None else [next(p for p in plans if p.name == c) for c in columns]
    types = [arrow_type(p.type) for p in chosen]
    direct = {
        p.name: pa.timestamp("us", "UTC") if p.zoned else t
        for p, t in zip(chosen, types, strict=True)
        if p.type in _DIRECT and not p.missing
    }
    parse = _Parser(text, [p.name for p in chosen], direct)

    def values(block: _Block) -> tuple[list[pa.RecordBatch], list[BadLine]]:
        table, wrong = parse(block)
        out = []
        for batch in table.to_batches():
            arrays = [_values(p, c, t) for p, c, t in zip(chosen, batch.columns, types, strict=True)]
            out.append(pa.RecordBatch.from_arrays(arrays, names=[p.name for p in chosen]))
        return out, wrong

    for batches, wrong in _each(path, text, values):
        bad += wrong
        yield from batches


def _values(plan: guess.Plan, column: pa.Array, kind: pa.DataType) -> pa.Array:
    if pa.types.is_string(column.type):
        return plan.apply(column).cast(kind)
    return guess.without_nan(column) if pa.types.is_floating(kind) else column.cast(kind)


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
