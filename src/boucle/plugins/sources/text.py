"""Plain text, one row per line: logs, prose, anything that is no table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from boucle.core import files
from boucle.core.errors import Invalid
from boucle.core.frames import BATCH_ROWS, Frame
from boucle.core.schema import Column, Schema
from boucle.plugins.sources.columnar import known
from boucle.plugins.sources.encoding import LONGEST, Weight, decoded, encoded_as, is_utf8, marked, too_long
from boucle.ports.source import BadLine, Reading

_SHOWN = 500  # characters of a bad line that are kept
_SCHEMA = Schema((Column("line", "int64", nullable=False), Column("text", "string", nullable=False)))


class TextSource:
    """Lines of text, with their numbers."""

    name: ClassVar[str] = "text"
    suffixes: ClassVar[tuple[str, ...]] = (".log", ".md", ".text")
    schemes: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[dict[str, str]] = {
        "encoding": "of the text; UTF-8, UTF-16 (by its mark) or Windows-1252 are found by themselves",
        "largest": "how many bytes a compressed file may unpack to; without it 1 GiB or 200 times its size",
    }

    def read(self, url: str, options: Mapping[str, Any]) -> Reading:
        """The lines of a file as columns `line` (the first is 1) and `text` (without the line's end). Lines with broken
        encoding or NUL bytes are set aside. Raises `NotFound`, or `Invalid` for a file that is empty, is not text, is cut
        off, or has a line of more than 64 MiB."""
        known(options, self)
        largest = files.largest(options)
        path = files.locate(url)
        head = next(files.chunks(path, 1 << 20, largest=largest), b"")
        files.check_text(path, head)
        encoding = encoded_as(options.get("encoding")) or marked(head)
        newline = "\r" if b"\r" in head and b"\n" not in head else "\n"
        bad: list[BadLine] = []
        rows, encoding = _survey(path, encoding, newline, largest, bad, settled=bool(options.get("encoding")))
        if not rows:
            raise Invalid(f"{path}: none of its {len(bad)} lines is text ({bad[0].why})", expected="a text file")
        found = {"encoding": encoding, "compression": files.compression(path), "bad_lines": len(bad)}
        reading = Reading(Frame(_SCHEMA, lambda _: iter(())), {k: v for k, v in found.items() if v})

        def opener(columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
            reading.bad.clear()
            names = list(_SCHEMA.names if columns is None else columns)
            for numbers, lines in _blocks(path, encoding, newline, largest, reading.bad):
                for at in range(0, len(lines), BATCH_ROWS):
                    batch = pa.RecordBatch.from_arrays(
                        [pa.array(numbers[at : at + BATCH_ROWS]), pa.array(lines[at : at + BATCH_ROWS], pa.string())],
                        names=list(_SCHEMA.names),
                    )
                    yield batch.select(names)

        reading.frame = Frame(_SCHEMA, opener, rows)
        return reading


def _survey(
    path: Path, encoding: str, newline: str, largest: int, bad: list[BadLine], *, settled: bool
) -> tuple[int, str]:
    """How many lines, and which encoding it more likely is when it is not the one assumed."""
    weight = None if settled or encoding != "utf-8" else Weight()
    rows = sum(len(lines) for _, lines in _blocks(path, encoding, newline, largest, bad, weight))
    rather = weight.rather() if weight is not None else ""
    if not rather:
        return rows, encoding
    bad.clear()
    return sum(len(lines) for _, lines in _blocks(path, rather, newline, largest, bad)), rather


def _blocks(
    path: Path, encoding: str, newline: str, largest: int, bad: list[BadLine], weight: Any = None
) -> Iterator[tuple[list[int], list[str]]]:
    """Numbers and texts of the lines, some megabytes at a time."""
    held, first = b"", 1
    pieces = decoded(path, encoding, newline, largest)
    final = False
    while not final:
        piece = next(pieces, None)
        final = piece is None
        held += piece or b""
        end = len(held) if final else held.rfind(b"\n") + 1
        if not end and not final and len(held) > LONGEST:
            raise too_long(path, first)
        if not end:
            continue
        data, held = held[:end], held[end:]
        if weight is not None:
            weight.add(data)
        lines = data.removesuffix(b"\n").split(b"\n")
        if is_utf8(data) and b"\0" not in data:
            yield list(range(first, first + len(lines))), [line.removesuffix(b"\r").decode() for line in lines]
        else:
            yield _sifted(lines, first, bad)
        first += len(lines)


def _sifted(lines: list[bytes], first: int, bad: list[BadLine]) -> tuple[list[int], list[str]]:
    numbers, good = [], []
    for number, line in enumerate(lines, first):
        why = "a NUL byte" if b"\0" in line else "" if is_utf8(line) else "broken UTF-8"
        if why:
            shown = line[: 4 * _SHOWN].decode(errors="backslashreplace").replace("\0", "\\x00")
            bad.append(BadLine(number, shown[:_SHOWN], why))
        else:
            numbers.append(number)
            good.append(line.removesuffix(b"\r").decode())
    return numbers, good
