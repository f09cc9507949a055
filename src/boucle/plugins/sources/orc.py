"""ORC files, batch by batch, by a process of its own (`orc_rows.py`)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from boucle.core import files
from boucle.core.errors import Invalid
from boucle.core.frames import Frame
from boucle.plugins.sources.apart import Apart
from boucle.plugins.sources.columnar import WRONG, batch_rows, damaged, described, fits, known, not_packed
from boucle.ports.source import Reading

_WHAT = "ORC file"


class OrcSource:
    """Apache ORC."""

    name: ClassVar[str] = "orc"
    suffixes: ClassVar[tuple[str, ...]] = (".orc",)
    schemes: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[dict[str, str]] = {
        "largest": "how many bytes the columns may unpack to; without it 1 GiB or 1000 times the file's size",
    }

    def read(self, url: str, options: Mapping[str, Any]) -> Reading:
        """The rows of a file. Raises `NotFound`, or `Invalid` for what is not a whole ORC file."""
        known(options, self)
        largest = files.largest(options)
        path = files.locate(url)
        not_packed(path, _WHAT)
        with path.open("rb") as file:
            if file.read(3) != b"ORC":
                raise damaged(path, _WHAT, "it does not begin with ORC")
        with Apart(path, _WHAT, "orc_rows.py", largest, "about") as program:
            arrow = _stream(path, program).schema
            program.finish()
        about = {k.decode(): int(v) for k, v in (arrow.metadata or {}).items() if k in (b"rows", b"stripes")}
        rows = about["rows"]
        if not len(arrow):
            raise Invalid(f"{path} has no columns", expected="an ORC file whose rows are structs")
        schema = described(path, _WHAT, arrow)
        fits(path, rows * len(arrow) // 8, largest)
        size = batch_rows(len(arrow))

        def opener(columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
            return _batches(path, columns, size, largest)

        return Reading(Frame(schema, opener, rows), {"stripes": about["stripes"]})


def _stream(path: Path, program: Apart) -> Any:
    try:
        return pa.ipc.open_stream(program.output)
    except WRONG as error:
        program.finish()  # says more
        raise damaged(path, _WHAT, error) from error


def _batches(path: Path, columns: Sequence[str] | None, size: int, largest: int) -> Iterator[pa.RecordBatch]:
    names = json.dumps(None if columns is None else list(columns))
    with Apart(path, _WHAT, "orc_rows.py", largest, "rows", str(size), names) as program:
        stream = _stream(path, program)
        while True:
            try:
                batch = next(stream, None)
            except WRONG as error:
                program.finish()
                raise damaged(path, _WHAT, error) from error
            if batch is None:
                break
            yield batch
        program.finish()  # a stream that breaks off between two batches looks like one that ended
