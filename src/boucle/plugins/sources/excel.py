"""Spreadsheets: .xlsx, .xlsm, .xlsb, .xls and .ods, one sheet as a table.

A sheet is unpacked and parsed in a process of its own with limited memory (`sheet.py`), because its parser holds all of it:
a file that was made to fill the memory ends that process, not this one.
"""

from __future__ import annotations

import datetime as dt
import marshal
import struct
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import python_calamine  # noqa: F401  the process of its own needs it; here it is missed in time

from boucle.core import files, guess
from boucle.core.errors import Invalid, NotFound
from boucle.core.frames import BATCH_ROWS, Frame, arrow_type
from boucle.core.schema import FLOATS, INTEGERS, Column, Schema
from boucle.plugins.sources.apart import Apart
from boucle.plugins.sources.columnar import damaged, known
from boucle.ports.source import Reading

_WHAT = "spreadsheet"
_MOST = 1 << 30  # bytes of all parts of a document, unpacked
_EXACT = 2**53
_MISSING = frozenset([*guess.MISSING, *guess.PERHAPS_MISSING])


class ExcelSource:
    """Excel and OpenDocument spreadsheets."""

    name: ClassVar[str] = "excel"
    suffixes: ClassVar[tuple[str, ...]] = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods")
    schemes: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[dict[str, str]] = {
        "sheet": "the name of the sheet, or its number from 1; not needed where only one has data",
        "header": "the row with the names, counted from 1 in the sheet, or false for none; the first with data",
        "names": "names of the columns, in place of the header or for want of one",
        "types": "column -> type, for columns whose type is not to be guessed",
        "largest": "how many bytes the document may unpack to; without it 1 GiB",
    }

    def read(self, url: str, options: Mapping[str, Any]) -> Reading:
        """The rows of a sheet; empty rows and columns without name and data are left out. Numbers without fractions are
        integers; a column of several kinds of values is text, and named in `found`.

        Raises `NotFound` for a sheet that is not there, and `Invalid` for what is not a whole spreadsheet, has several sheets
        with data, or columns of one name."""
        known(options, self)
        largest = files.largest(options)
        path = files.locate(url)
        _checked(path, largest)
        sheet = _chosen(path, options.get("sheet"), largest)
        header = _header(options.get("header"))
        layout = _layout(path, sheet, header, tuple(options.get("names") or ()), largest)
        kinds = [_Seen() for _ in layout.names]
        rows = 0
        for row in _rows(path, sheet, layout, largest):
            rows += 1
            for seen, value in zip(kinds, row, strict=True):
                seen.look(value)
        types = _types(layout.names, options.get("types") or {})
        columns = [
            _Column(name, types.get(name, "") or seen.type, seen.count < rows, name in types)
            for name, seen in zip(layout.names, kinds, strict=True)
        ]
        schema = Schema(tuple(Column(c.name, c.type, c.nullable) for c in columns))
        mixed = [n for n, s in zip(layout.names, kinds, strict=True) if s.mixed]
        found = {"sheet": sheet, "header": layout.header or False, "mixed": mixed, "generated_names": layout.generated}

        def opener(names: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
            wanted = list(range(len(columns))) if names is None else [layout.names.index(n) for n in names]
            held: list[list[Any]] = []
            for row in _rows(path, sheet, layout, largest):
                held.append(row)
                if len(held) * len(columns) >= 1 << 20 or len(held) == BATCH_ROWS:
                    yield _batch(held, columns, wanted)
                    held = []
            if held:
                yield _batch(held, columns, wanted)

        return Reading(Frame(schema, opener, rows), {k: v for k, v in found.items() if v or k == "header"})


def _checked(path: Path, largest: int) -> None:
    """Refuse what is plainly no spreadsheet, or says of itself that it unpacks to too much."""
    if kind := files.compression(path):
        raise Invalid(
            f"{path} is compressed with {kind}", expected="a spreadsheet as it was saved", fix="unpack it first"
        )
    with path.open("rb") as file:
        head = file.read(8)
    if head.startswith(b"\xd0\xcf\x11\xe0"):
        return
    if not head.startswith(b"PK"):
        raise damaged(path, _WHAT, "it is neither a zip archive nor an old office document")
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(part.file_size for part in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RecursionError) as error:
        raise damaged(path, _WHAT, error) from error
    if size > (largest or _MOST):
        raise Invalid(
            f"{path} unpacks to {size} bytes",
            expected=f"at most {largest or _MOST}",
            fix="if it is right, say how much it may be in bytes: largest=10000000000",
        )


# --- the process that parses ----------------------------------------------------------------------------------------


def _parsed(path: Path, largest: int, *arguments: str) -> Iterator[Any]:
    """What `sheet.py` gives: pieces of Python values."""
    with Apart(path, _WHAT, "sheet.py", largest, *arguments) as program:
        while len(size := program.output.read(8)) == 8:
            piece = program.output.read(struct.unpack("<q", size)[0])
            try:
                value = marshal.loads(piece)  # noqa: S302  written by our own program, whose values are plain
            except (EOFError, ValueError, TypeError):
                break  # it ended within a piece, and says why
            yield value
        program.finish()


def _chosen(path: Path, wanted: Any, largest: int) -> str:
    sheets: list[list[Any]] = [sheet for sheets in _parsed(path, largest, "sheets") for sheet in sheets]
    names = [name for name, _, _ in sheets]
    if wanted is not None:
        if str(wanted) in names:
            return str(wanted)
        if not isinstance(wanted, bool) and str(wanted).isdigit() and 1 <= int(wanted) <= len(names):
            return str(names[int(wanted) - 1])
        raise NotFound.named("sheet", str(wanted), names, fix=f"{path} has {', '.join(map(repr, names[:20]))}")
    filled = [name for name, visible, cells in sheets if cells and visible]
    filled = filled or [name for name, _, cells in sheets if cells]
    if len(filled) == 1:
        return str(filled[0])
    if not filled:
        raise Invalid(f"{path} has no sheet with data", expected="a sheet with a header and rows")
    raise Invalid(
        f"{path} has {len(filled)} sheets with data: {', '.join(map(repr, filled[:20]))}",
        expected="one",
        fix=f"say which: sheet={filled[0]!r}",
    )


def _header(value: Any) -> int | None:
    """The row of the header from 1; 0 for none, None where it is to be found."""
    if value in (None, True):
        return None
    if value is False:
        return 0
    if str(value).isdigit() and int(value) > 0:
        return int(value)
    raise Invalid(f"option header={value!r}", expected="the number of a row from 1, true, or false")


@dataclass(frozen=True, slots=True)
class _Layout:
    names: list[str]
    generated: list[str]
    header: int  # the row of the names from 1, or 0
    columns: list[int]  # where each column stands in the sheet


def _filled(path: Path, sheet: str, largest: int) -> Iterator[tuple[int, list[Any]]]:
    """Number (from 1) and values of each row that is not empty."""
    for first, rows in _parsed(path, largest, "rows", sheet):
        for number, row in enumerate(rows, first):
            if any(v != "" for v in row):
                yield number, row


def _layout(path: Path, sheet: str, header: int | None, given: tuple[str, ...], largest: int) -> _Layout:
    """Which columns there are and what they are called."""
    found: list[Any] | None = None
    at = 0
    used: set[int] = set()
    for number, row in _filled(path, sheet, largest):
        if found is None and header != 0 and (header is None or number == header):
            found, at = row, number
        elif header is None or number > header:
            used.update(i for i, v in enumerate(row) if v != "")
    if header and found is None:
        raise Invalid(f"{path}: row {header} of {sheet!r} is empty", expected="the row with the names")
    named = {i: _text(v).strip() for i, v in enumerate(found or []) if v != "" and _text(v).strip()}
    columns = sorted(used | set(named))
    if not columns:
        raise Invalid(f"{path}: {sheet!r} has no data", expected="a header and rows")
    if given and len(given) != len(columns):
        raise Invalid(f"{len(given)} names were given for {len(columns)} columns", expected=f"{len(columns)} names")
    names = list(given) if given else [named.get(c, f"column_{c + 1}") for c in columns]
    twice = [n for n, count in Counter(names).items() if count > 1]
    if twice:
        raise Invalid(
            f"{path}: column names occur twice: {', '.join(map(repr, twice[:5]))}",
            expected="distinct column names",
            fix="rename the columns in the file, or give the option names or header",
        )
    generated = [] if given else [f"column_{c + 1}" for c in columns if c not in named]
    return _Layout(names, generated, at, columns)


def _rows(path: Path, sheet: str, layout: _Layout, largest: int) -> Iterator[list[Any]]:
    for number, row in _filled(path, sheet, largest):
        if number > layout.header:
            width = len(row)
            yield [_value(row[c]) if c < width else None for c in layout.columns]


# --- values ---------------------------------------------------------------------------------------------------------


def _value(value: Any) -> Any:
    """A value as Python has it; None for an empty cell."""
    if value == "" or value is None:
        return None
    if isinstance(value, tuple):
        kind, said = value
        if kind == "duration":
            return dt.timedelta(seconds=said)
        reader: Any = {"date": dt.date, "datetime": dt.datetime, "time": dt.time}[kind]
        return reader.fromisoformat(said)
    return value


def _text(value: Any) -> str:
    value = _value(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT:
        return str(int(value))
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    return "" if value is None else str(value)


@dataclass(slots=True)
class _Seen:
    """The kinds of values in one column."""

    count: int = 0
    kinds: set[type] = field(default_factory=set)
    whole: bool = True
    words: bool = False  # a word such as NA, which is a missing value among numbers and times

    def look(self, value: Any) -> None:
        if value is None:
            return
        kind = type(value)
        if kind is str and value.strip() in _MISSING:
            self.words = True
            return
        self.count += 1
        self.kinds.add(kind)
        if kind is float and self.whole:
            self.whole = value.is_integer() and abs(value) <= _EXACT

    @property
    def mixed(self) -> bool:
        return self.type == "string" and bool(self.kinds - {str})

    @property
    def type(self) -> str:
        if self.kinds <= {float, int}:
            return ("int64" if self.whole else "float64") if self.kinds else "string" if self.words else "null"
        if self.kinds <= {dt.date, dt.datetime}:
            return "timestamp" if dt.datetime in self.kinds else "date"
        one = next(iter(self.kinds)) if len(self.kinds) == 1 else str
        return {bool: "bool", dt.time: "time", dt.timedelta: "duration"}.get(one, "string")


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    type: str
    nullable: bool
    given: bool


def _types(names: Sequence[str], given: Mapping[str, str]) -> dict[str, str]:
    for name, kind in given.items():
        if name not in names:
            raise NotFound.named("column", name, names, fix="see the option types")
        if kind not in ("string", "bool", "date", "timestamp", *INTEGERS, *FLOATS):
            raise Invalid(
                f"a cell cannot be read as type {kind!r}", expected="string, bool, date, timestamp or a number"
            )
    return dict(given)


def _batch(rows: list[list[Any]], columns: list[_Column], wanted: list[int]) -> pa.RecordBatch:
    arrays = [_array([row[i] for row in rows], columns[i]) for i in wanted]
    return pa.RecordBatch.from_arrays(arrays, names=[columns[i].name for i in wanted])


def _array(values: list[Any], column: _Column) -> pa.Array:
    kind = arrow_type(column.type)
    if column.type == "string":
        return pa.array([None if v is None else _text(v) for v in values], kind)
    plain = [None if isinstance(v, str) and v.strip() in _MISSING else v for v in values]
    if column.given:
        text = pa.array([_text(v) for v in plain], pa.string())
        return guess.Plan(column.name, column.type).apply(text).cast(kind)
    if column.type == "int64":
        return pa.array([None if v is None else int(v) for v in plain], kind)
    if column.type == "timestamp":
        plain = [dt.datetime.combine(v, dt.time()) if type(v) is dt.date else v for v in plain]
    return pa.array(plain, kind)
