"""Export: a dataset version as a file."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from boucle.core.errors import Invalid, Unavailable
from boucle.core.frames import Frame, arrow_schema, to_rows
from boucle.core.refs import Ref
from boucle.ledger import datasets

ENDINGS = (".csv", ".parquet", ".jsonl", ".arrow")


def export(ws: datasets.Ledger, ref: Ref | str, file: Path) -> int:
    """Write a version to a file, in the format of its ending, batch by batch; returns the number of rows.

    The file appears when it is complete. Raises `Invalid` for an ending that is not one of `ENDINGS`.
    """
    if file.suffix not in ENDINGS:
        raise Invalid(f"{file} ends in {file.suffix!r}", expected=f"one of {', '.join(ENDINGS)}")
    frame = datasets.load(ws, ref)
    try:
        descriptor, draft = tempfile.mkstemp(dir=file.resolve().parent, prefix=f".{file.name}.")
        os.close(descriptor)
        try:
            rows = _write(frame, Path(draft), file.suffix)
            Path(draft).replace(file)
        finally:
            Path(draft).unlink(missing_ok=True)
    except OSError as error:
        raise Unavailable(
            f"cannot write {file}: {error.strerror or error}", expected="a folder that may be written to"
        ) from error
    return rows


def _write(frame: Frame, path: Path, ending: str) -> int:
    schema = arrow_schema(frame.schema)
    rows = 0
    with path.open("wb") as file:
        writer: Any
        match ending:
            case ".csv":
                writer = pa.csv.CSVWriter(file, schema)
            case ".parquet":
                writer = pa.parquet.ParquetWriter(file, schema, compression="zstd")
            case ".arrow":
                writer = pa.ipc.new_file(file, schema)
            case _:
                writer = None
        import json

        for batch in frame.batches():
            rows += batch.num_rows
            if writer is None:
                file.write("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in to_rows(batch)).encode())
            else:
                table = pa.Table.from_batches([batch]).cast(schema)
                writer.write_table(table)
        if writer is not None:
            writer.close()
        file.flush()
        os.fsync(file.fileno())
    return rows
