"""What the sources for lake tables share: rows that are checked before a commit is begun."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from boucle.core.errors import Invalid
from boucle.plugins.sources.sql import Rows


class Counted:
    """Rows on their way to a writer in another language. They are made in a thread of their own, since a writer's threads do not
    bear every reader; what goes wrong on our side is kept, since the writer would hide it."""

    def __init__(self, rows: Rows) -> None:
        self.count = 0
        self._problem: BaseException | None = None
        self.rows = Rows(rows.schema, self._counting(rows.batches))

    def _counting(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        with ThreadPoolExecutor(1) as aside:
            while True:
                try:
                    batch = aside.submit(next, batches, None).result()
                except Exception as problem:
                    self._problem = problem
                    raise
                if batch is None:
                    return
                self.count += batch.num_rows
                yield batch

    def again(self) -> None:
        """Raise what was raised while the rows were made."""
        if self._problem is not None:
            raise self._problem


def settings_of(source: str, options: Mapping[str, Any], known: Mapping[str, str], name: str) -> dict[str, str]:
    """The mapping of vendor settings among the options; raises `Invalid` for an option that is not known."""
    for option in options:
        if option not in known:
            raise Invalid(f"the {source} source has no option {option!r}", expected=f"one of {', '.join(known)}")
    found = options.get(name) or {}
    if not isinstance(found, Mapping):
        raise Invalid(f"option {name} is {type(found).__name__}", expected="a mapping of names to texts")
    return {str(key): str(value) for key, value in found.items()}


def check_types(rows: Rows, unfit: Callable[[pa.DataType], bool], vendor: str) -> None:
    """Raise `Invalid` for a column of a type that the table format does not have."""
    for field in rows.schema:
        if unfit(field.type):
            raise Invalid(
                f"column {field.name!r} is {field.type}, which {vendor} does not have",
                expected="numbers, texts, times, lists or structs",
                fix="leave the column out, or make a number of it",
            )


def check_there(rows: Rows, there: Sequence[str], what: str) -> None:
    """Raise `Invalid` where a column is to be written that the table does not have."""
    missing = [n for n in rows.schema.names if n not in there]
    if missing:
        raise Invalid(
            f"{what} has no column {', '.join(map(repr, missing[:5]))}",
            expected=f"columns among {', '.join(there[:12])}",
            fix="add the column to the table, or leave it out",
        )


def keyed(rows: Rows, key: Sequence[str]) -> pa.Table:
    """The rows to merge, in memory; raises `Invalid` where one has no key, or two have the same."""
    table = pa.Table.from_batches(rows.batches, rows.schema)
    for name in key:
        if table[name].null_count:
            raise Invalid(f"the key {name} is null in a row", expected="a key in every row to merge")
    counted = table.select(list(key)).append_column("__one__", pa.repeat(1, table.num_rows))
    counted = counted.group_by(list(key)).aggregate([("__one__", "count")])
    twice = counted.filter(pc.greater(counted["__one___count"], 1)).slice(0, 1).to_pylist()
    if twice:
        said = ", ".join(f"{name}={twice[0][name]}" for name in key)
        raise Invalid(f"two rows to merge have the key {said}", expected="each key once")
    return table


def filled(rows: Rows, target: pa.Schema) -> pa.RecordBatchReader:
    """The rows with all the columns of the table, null where they lack one."""

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in rows.batches:
            arrays = [
                batch.column(f.name).cast(f.type) if f.name in batch.schema.names else pa.nulls(batch.num_rows, f.type)
                for f in target
            ]
            yield pa.RecordBatch.from_arrays(arrays, schema=target)

    return pa.RecordBatchReader.from_batches(target, batches())
