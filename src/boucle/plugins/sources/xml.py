"""XML files: one row per repeated element.

The file is read as a stream, several times: to find the element that is repeated, to find the shape and the types of what is
in it over all rows, and for the values. Entities that a document declares itself are refused, and nothing outside the
file is fetched (XML Denial of Service Attacks and Defenses, Sullivan 2009).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from xml.parsers import expat

import pyarrow as pa

from boucle.core import files
from boucle.core.errors import Invalid, NotFound
from boucle.core.frames import BATCH_ROWS, Frame
from boucle.core.schema import Column, Schema
from boucle.plugins.sources.columnar import known
from boucle.plugins.sources.shapes import Shape
from boucle.ports.source import Reading

_DEEPEST = 200
_LONGEST = 1 << 26  # bytes of one record, or of one tag or text
_BLOCK = 1 << 23  # bytes of XML per batch
_PATHS = 10_000  # distinct paths of elements that are followed
_TEXT = "text"  # the name of what stands in an element that has attributes or children, too


class XmlSource:
    """XML documents."""

    name: ClassVar[str] = "xml"
    suffixes: ClassVar[tuple[str, ...]] = (".xml",)
    schemes: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[dict[str, str]] = {
        "record": "the element that is a row: its name, or its path from the root such as feed/entry; found by itself",
        "context": "names of elements outside of the records whose text is repeated in each row that follows, with commas",
        "flatten": "true to have a column a.b for each nested element that occurs once, in place of structs",
        "types": "column -> type, for columns whose type is not to be guessed",
        "largest": "how many bytes a compressed file may unpack to; without it 1 GiB or 200 times its size",
    }

    def read(self, url: str, options: Mapping[str, Any]) -> Reading:
        """The records of a document. Attributes, child elements and text become columns; an element with attributes or
        children of its own becomes a struct, one that occurs several times in a record a list.

        Raises `NotFound`, or `Invalid` for what is not well formed, declares entities, or has no repeated element."""
        known(options, self)
        largest = files.largest(options)
        path = files.locate(url)
        head = next(files.chunks(path, 65_536, largest=largest), b"")
        files.check_text(path, head)
        record = str(options.get("record") or "").strip("/") or _guessed(path, largest)
        context = _listed(options.get("context"))
        shape = Shape.of_records()
        rows = 0
        for row, _ in _records(path, record, context, largest):
            rows += 1
            shape.look(row)
        if not rows:
            paths = [p for p in _counted(path, largest) if p]
            raise NotFound.named("element", record, {p.rpartition("/")[2] for p in paths}, fix="see the option record")
        flat = _true(options.get("flatten"))
        given = options.get("types") or {}
        columns = shape.columns(flat=flat, types=given)
        schema = Schema(tuple(Column(c.name, c.type, c.nullable) for c in columns))
        found: dict[str, Any] = {"record": record}
        if kind := files.compression(path):
            found["compression"] = kind

        def opener(names: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
            chosen = columns if names is None else [next(c for c in columns if c.name == n) for n in names]
            held: list[Any] = []
            size = 0
            for row, length in _records(path, record, context, largest):
                held.append(row)
                size += length
                if len(held) == BATCH_ROWS or size > _BLOCK:
                    yield _batch(held, chosen)
                    held, size = [], 0
            if held:
                yield _batch(held, chosen)

        return Reading(Frame(schema, opener, rows), found)


def _batch(rows: list[Any], chosen: Sequence[Any]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([c.array(rows) for c in chosen], names=[c.name for c in chosen])


def _listed(value: Any) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else list(value or ())
    return tuple(str(p).strip() for p in parts if str(p).strip())


def _true(value: Any) -> bool:
    if value in (None, False, True):
        return bool(value)
    raise Invalid(f"option flatten={value!r}", expected="true or false")


# --- elements -------------------------------------------------------------------------------------------------------


def _parsed(path: Path, handler: _Counter | _Collector, largest: int) -> Iterator[int]:
    """Parse a document piece by piece, giving after each how many bytes were read."""
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = handler.start
    parser.EndElementHandler = handler.end
    parser.CharacterDataHandler = handler.text

    def declared(*_: Any) -> Any:
        raise Invalid(
            f"{path}, line {parser.CurrentLineNumber}: the document declares entities of its own",
            expected="XML without <!ENTITY ...>: a few bytes of them can stand for gigabytes, or for other files",
            fix="write the document again without them",
        )

    parser.EntityDeclHandler = declared
    parser.UnparsedEntityDeclHandler = declared
    parser.ExternalEntityRefHandler = declared

    def skipped(name: str, _: Any) -> None:
        raise Invalid(
            f"{path}, line {parser.CurrentLineNumber}: the entity {name!r} is declared outside of the file",
            expected="a document that is whole by itself",
        )

    parser.SkippedEntityHandler = skipped
    done = 0
    try:
        for piece in files.chunks(path, 1 << 20, largest=largest):
            parser.Parse(piece, False)
            done += len(piece)
            if done - max(parser.CurrentByteIndex, 0) > _LONGEST:
                raise Invalid(f"{path} has a tag of more than {_LONGEST} bytes", expected="elements of some kilobytes")
            yield done
        parser.Parse(b"", True)
    except (expat.ExpatError, UnicodeError, ValueError, LookupError) as error:
        if isinstance(error, Invalid | NotFound):
            raise
        raise Invalid(
            f"{path} is not well-formed XML: {error}", expected="an XML document", fix="mend or fetch the file again"
        ) from error
    yield done


def _local(name: str) -> str:
    """The name without its prefix."""
    return name.rpartition(":")[2]


@dataclass(slots=True)
class _Count:
    """What was seen of one path."""

    most: int = 0  # times within one parent
    cells: int = 0  # attributes and texts in and below it
    complex: bool = False


class _Counter:
    """Counts the paths of a document."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: list[str] = []
        self.counts: dict[str, _Count] = {}
        self.within: list[dict[str, int]] = [{}]
        self.said = False

    def start(self, name: str, attributes: dict[str, str]) -> None:
        name = _local(name)
        if self.names:
            self.counts[self.names[-1]].complex = True
        full = f"{self.names[-1]}/{name}" if self.names else name
        self.names.append(full)
        if len(self.names) > _DEEPEST:
            raise Invalid(f"{self.path}: elements are nested more than {_DEEPEST} deep", expected="a flatter document")
        count = self.counts.get(full)
        if count is None:
            if len(self.counts) == _PATHS:
                raise Invalid(
                    f"{self.path} has more than {_PATHS} kinds of elements", expected="records of the same elements"
                )
            count = self.counts[full] = _Count()
        times = self.within[-1][full] = self.within[-1].get(full, 0) + 1
        count.most = max(count.most, times)
        count.complex = count.complex or bool(attributes)
        count.cells += len(attributes)
        self.within.append({})
        self.said = False

    def text(self, data: str) -> None:
        self.said = self.said or not data.isspace()

    def end(self, _: str) -> None:
        self.counts[self.names.pop()].cells += self.said
        self.within.pop()
        self.said = False


def _counted(path: Path, largest: int) -> dict[str, _Count]:
    counter = _Counter(path)
    for _ in _parsed(path, counter, largest):
        pass
    return counter.counts


def _guessed(path: Path, largest: int) -> str:
    """The path of the repeated element that holds most: the outermost, and one with parts before one of plain text."""
    counts = _counted(path, largest)
    repeated = [p for p, c in counts.items() if c.most > 1]
    outer = [p for p in repeated if not any(p.startswith(f"{q}/") for q in repeated)]
    if not outer:
        leaves = [p.rpartition("/")[2] for p, c in counts.items() if c.complex and "/" in p]
        raise Invalid(
            f"{path}: no element is repeated",
            expected="a document with one element per row",
            fix=f"say which element is a row: record={leaves[0] if leaves else 'NAME'}",
        )
    cells = {p: sum(c.cells for q, c in counts.items() if q == p or q.startswith(f"{p}/")) for p in outer}
    return max(outer, key=lambda p: (counts[p].complex, cells[p]))


@dataclass(slots=True)
class _Element:
    name: str
    values: dict[str, Any]
    texts: list[str] = field(default_factory=list)

    def put(self, name: str, value: Any) -> None:
        """Add one value; a second of the same name makes a list of them."""
        if name not in self.values:
            self.values[name] = value
        elif isinstance(self.values[name], list):
            self.values[name].append(value)
        else:
            self.values[name] = [self.values[name], value]

    def value(self) -> Any:
        """What it comes to: text, or a mapping."""
        text = "".join(self.texts).strip()
        if not self.values:
            return text
        if text:
            self.put(_TEXT, text)
        return self.values


class _Collector:
    """Collects records while the document is parsed."""

    def __init__(self, path: Path, record: str, context: tuple[str, ...]) -> None:
        self.path, self.record, self.context = path, record, context
        self.whole = "/" in record
        self.names: list[str] = []
        self.open: list[_Element] = []  # the record and what is open in it
        self.above: dict[str, str] = {}
        self.said: list[str] = []
        self.ready: list[dict[str, Any]] = []
        self.size = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        name = _local(name)
        self.names.append(name)
        if len(self.names) > _DEEPEST:
            raise Invalid(f"{self.path}: elements are nested more than {_DEEPEST} deep", expected="a flatter document")
        self.said = []
        if self.open or self._is_record(name):
            element = _Element(name, {})
            for key, value in attributes.items():
                if key != "xmlns" and not key.startswith("xmlns:"):
                    element.put(_local(key), value.strip())
                    self._grow(len(key) + len(value))
            self._grow(len(name))
            self.open.append(element)

    def _is_record(self, name: str) -> bool:
        return "/".join(self.names) == self.record if self.whole else name == self.record

    def _grow(self, size: int) -> None:
        self.size += size
        if self.size > _LONGEST:
            raise Invalid(
                f"{self.path}: one {self.record!r} has more than {_LONGEST} bytes",
                expected="records of some kilobytes",
                fix="name a smaller element: see the option record",
            )

    def text(self, data: str) -> None:
        if self.open:
            self._grow(len(data))
            self.open[-1].texts.append(data)
        elif self.context:
            self.said.append(data)
            if len(self.said) > 10_000:
                self.said = []

    def end(self, name: str) -> None:
        name = _local(name)
        self.names.pop()
        if not self.open:
            if name in self.context:
                self.above[name] = "".join(self.said).strip()
            return
        element = self.open.pop()
        value = element.value()
        if self.open:
            self.open[-1].put(name, value)
            return
        row = value if isinstance(value, dict) else {_TEXT: value}
        self.ready.append({**self.above, **row} if self.above else row)
        self.size = 0


def _records(path: Path, record: str, context: tuple[str, ...], largest: int) -> Iterator[tuple[dict[str, Any], int]]:
    """The records as mappings of text, lists and mappings, and about how many bytes each has."""
    collector = _Collector(path, record, context)
    before = 0
    for done in _parsed(path, collector, largest):
        ready, collector.ready = collector.ready, []
        size = (done - before) // max(1, len(ready))
        before = done if ready else before
        for row in ready:
            yield row, size
