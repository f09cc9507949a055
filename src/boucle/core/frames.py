"""Frames: lazy Arrow batches, the one tabular currency between the floors.

A `Frame` is a schema and a way to get its record batches, again and again, with bounded memory. Everything tabular
turns into one (`Frame.of`) and can be had from one: whole (`table`, `pandas`, `polars`, `numpy`), or in pieces while it is read
(`batches`, `reader`, `arrays`, `polars_lazy`, `duckdb`, `torch`). `select`, `where`, `shuffled` and `shard` read nothing.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from boucle.core import filters
from boucle.core.errors import Invalid
from boucle.core.scan import Held, Opened, Opener, Part, Scan
from boucle.core.schema import Column, Schema
from boucle.core.where import Where

if TYPE_CHECKING:
    import duckdb
    import numpy as np
    import pandas as pd
    import polars as pl

    from boucle.core.torch import Batches

BATCH_ROWS = 65_536


class Frame:
    """A table that is read when it is needed.

    `opener(columns)` gives a fresh iterator of record batches with those columns (None for all), in order. `rows` is
    the number of rows where it is known. `digest` is set when the content is a stored dataset version or artifact.
    `of_parts` makes one of parts that can be read each by itself, which `where`, `shuffled` and `shard` make use of.
    """

    __slots__ = ("_scan", "digest", "ref", "rows", "schema")

    def __init__(
        self, schema: Schema, opener: Opener, rows: int | None = None, digest: str = "", ref: str = ""
    ) -> None:
        self.schema, self.rows, self.digest, self.ref = schema, rows, digest, ref
        self._scan = Scan((Opened(opener, rows),))

    @classmethod
    def of_parts(cls, schema: Schema, parts: Iterable[Part], digest: str = "", ref: str = "") -> Frame:
        """A frame of parts, one after the other."""
        return cls._scanning(schema, Scan(tuple(parts)), digest, ref)

    @classmethod
    def _scanning(cls, schema: Schema, scan: Scan, digest: str = "", ref: str = "") -> Frame:
        frame = cls.__new__(cls)
        frame.schema, frame.rows, frame.digest, frame.ref, frame._scan = schema, scan.rows, digest, ref, scan
        return frame

    @classmethod
    def of(cls, data: Any) -> Frame:
        """A frame of a Frame, Arrow table or batch, pandas or Polars frame, mapping of columns, or list of row
        mappings.

        Anything with the Arrow PyCapsule stream interface works. Duplicate or non-string column names raise `Invalid`.
        """
        if isinstance(data, Frame):
            return data
        table = _to_table(data)
        names = table.column_names
        twice = sorted({n for n in names if names.count(n) > 1}) if len(set(names)) < len(names) else []
        if twice:
            raise Invalid(
                f"column names occur twice: {', '.join(map(repr, twice[:5]))}",
                expected="distinct column names",
                fix="rename or drop the repeated columns",
            )

        nulls = {n: table.column(n).null_count > 0 for n in names}
        cuts = range(0, table.num_rows, BATCH_ROWS)
        return cls.of_parts(schema_of(table.schema, nulls), [Held(table.slice(at, BATCH_ROWS)) for at in cuts])

    @property
    def columns(self) -> tuple[str, ...]:
        return self.schema.names

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The record batches, lazily. Asking again starts again."""
        if columns is not None:
            for name in columns:
                self.schema[name]  # a wrong name fails here, with the nearest right ones
        return self._scan.batches(columns)

    def reader(self, columns: Sequence[str] | None = None) -> pa.RecordBatchReader:
        """The record batches as an Arrow reader, which any library that knows Arrow can take them from, one at a time."""
        return pa.RecordBatchReader.from_batches(*self.opened(columns))

    def opened(self, columns: Sequence[str] | None = None) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        """The Arrow schema that the batches really have, and the batches. The first is read for it."""
        batches = self.batches(columns)
        first = next(batches, None)
        if first is None:
            return arrow_schema(self.schema.select(self.schema.names if columns is None else columns)), iter(())
        kind = first.schema.remove_metadata()
        return kind, (b if b.schema == kind else b.cast(kind) for b in itertools.chain([first], batches))

    def arrays(
        self, batch_size: int, columns: Sequence[str] | None = None, *, drop_last: bool = False
    ) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
        """The rows as NumPy arrays by column, `batch_size` rows at a time (the last may be shorter, unless it is dropped).

        Numbers and booleans keep their type, and become float64 with NaN where a batch has nulls; lists of numbers of one
        length become a matrix; times are datetime64; anything else is an array of objects with None.
        """
        if batch_size < 1:
            raise Invalid(f"batches of {batch_size} rows", expected="1 or more")
        for batch in rechunk(self.batches(columns), batch_size):
            if batch.num_rows == batch_size or not drop_last:
                yield {name: to_array(batch.column(i)) for i, name in enumerate(batch.schema.names)}

    def torch(
        self,
        batch_size: int,
        columns: Sequence[str] | None = None,
        *,
        shuffle: bool = False,
        buffer: int = 100_000,
        seed: int = 0,
        drop_last: bool = False,
    ) -> Batches:
        """A PyTorch `IterableDataset` of batches: a mapping of column -> tensor (text stays a list). Give it to
        `DataLoader(dataset, batch_size=None, num_workers=n)`: each worker reads its own share of the rows.

        With `shuffle` the order changes with `set_epoch`. Needs PyTorch to be installed.
        """
        try:
            from boucle.core.torch import Batches
        except ImportError as error:
            from boucle.core.errors import MissingExtra

            raise MissingExtra(
                "frame.torch needs torch", expected="it to be installed", fix="pip install torch"
            ) from error
        return Batches(self if columns is None else self.select(columns), batch_size, shuffle, buffer, seed, drop_last)

    def polars_lazy(self) -> pl.LazyFrame:
        """A Polars lazy frame that reads when it is collected: only the columns that are used, only as many rows as are wanted
        (needs the extra `polars`)."""
        polars = _polars()
        from polars.io.plugins import register_io_source

        def source(
            columns: list[str] | None, predicate: pl.Expr | None, most: int | None, _: int | None
        ) -> Iterator[pl.DataFrame]:
            left = most
            for batch in self.batches(columns):
                rows = polars.DataFrame(polars.from_arrow(batch if left is None else batch.slice(0, left)))
                left = None if left is None else left - batch.num_rows
                yield rows if predicate is None else rows.filter(predicate)
                if left is not None and left <= 0:
                    return

        empty = polars.DataFrame(polars.from_arrow(self.reader().schema.empty_table()))
        return register_io_source(source, schema=empty.schema)

    def duckdb(self, connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyRelation:
        """A DuckDB relation on a connection, read batch by batch each time it is evaluated. (`boucle.sql` reads stored versions
        faster: it also hands DuckDB's choice of columns and filters down.)"""
        return connection.from_arrow(self)

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Everything as one Arrow table, in memory."""
        names = self.schema.names if columns is None else tuple(columns)
        batches = list(self.batches(columns))
        if batches:
            return pa.Table.from_batches(batches).select(list(names))
        return arrow_schema(self.schema.select(names)).empty_table()

    def pandas(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Everything as a pandas frame whose dtypes follow from the schema alone; see `to_pandas`."""
        return to_pandas(self.table(columns))

    def polars(self, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Everything as a Polars frame (needs the extra `polars`)."""
        frame: pl.DataFrame = _polars().from_arrow(self.table(columns))
        return frame

    def numpy(self, columns: Sequence[str] | None = None) -> np.ndarray[Any, Any]:
        """Numeric columns as a float64 matrix of shape (rows, columns); nulls become NaN."""
        import numpy as np

        table = self.table(columns)
        out = np.empty((table.num_rows, table.num_columns))
        for i, name in enumerate(table.column_names):
            out[:, i] = table.column(name).cast(pa.float64()).to_numpy()
        return out

    def select(self, names: Sequence[str]) -> Frame:
        """Only these columns, in this order."""
        schema = self.schema.select(names)
        return Frame._scanning(schema, replace(self._scan, names=schema.names))

    def where(self, condition: Where | str) -> Frame:
        """Only the rows that match: an expression such as `field("amount") > 10`, or the same as text, `"amount > 10"`.

        See `core.filters` for what can be said and what it means. Blocks of a stored version that cannot hold such a row are
        not read. Raises `Invalid` for a column that is not there or a value of another type.
        """
        asked = filters.parse(condition) if isinstance(condition, str) else condition
        return Frame._scanning(self.schema, self._scan.filtered(filters.bound(asked, self.schema)))

    def shuffled(self, buffer: int = 100_000, seed: int = 0) -> Frame:
        """The rows in a random order: blocks are read in another order, and their rows mixed in a buffer of that many rows, so
        memory is bounded. The same seed gives the same order."""
        return Frame._scanning(self.schema, self._scan.shuffled(buffer, seed))

    def shard(self, index: int, count: int) -> Frame:
        """The share of one of `count` readers (`index` from 0): together they read each row once. Shares of a stored version
        are stretches of equal length, counted before a filter; take the shard of a shuffled frame for random ones."""
        return Frame._scanning(self.schema, self._scan.shard(index, count))

    def between(self, start: int, stop: int | None = None) -> Frame:
        """The rows at these positions, counted from 0 and before any filter; of a stored version no other block is read."""
        self._counted()
        return Frame._scanning(self.schema, self._scan.between(start, sys.maxsize if stop is None else stop))

    def numbered(self, name: str) -> Frame:
        """With one more column that holds the position of each row."""
        self._counted()
        schema = Schema((*self.schema.columns, Column(name, "int64", nullable=False)))
        return Frame._scanning(schema, self._scan.numbered(name))

    def _counted(self) -> None:
        if self._scan.where is not None or self._scan.buffer or any(p.rows is None for p in self._scan.parts):
            raise Invalid(
                "rows whose positions are not known",
                expected="a table of known length, before it is filtered or shuffled",
            )

    def drop(self, *names: str) -> Frame:
        """All columns but these."""
        for name in names:
            self.schema[name]
        return self.select([n for n in self.schema.names if n not in names])

    def take(self, indices: Any) -> Frame:
        """The rows at these positions, in this order (in memory)."""
        table = self.table().take(pa.array(indices, type=pa.int64()))
        return Frame._scanning(self.schema, Frame.of(table)._scan)

    def sample(self, rows: int, seed: int = 0) -> Frame:
        """That many rows drawn at random without replacement, in their order; all of them when there are no more. The same
        seed gives the same rows. Memory holds the sample and one batch."""
        import numpy as np

        if rows < 0:
            raise Invalid(f"a sample of {rows} rows", expected="0 or more")
        random = np.random.default_rng(seed)
        # Each row gets a random number, and the smallest win: one pass, whatever the length.
        kept: pa.Table | None = None
        numbers = np.empty(0)
        for batch in self.batches():
            fresh = random.random(batch.num_rows)
            joined = pa.Table.from_batches([batch])
            kept = joined if kept is None else pa.concat_tables([kept, joined])
            numbers = np.concatenate([numbers, fresh])
            if len(numbers) > rows:
                chosen = np.sort(np.argpartition(numbers, rows)[:rows]) if rows else np.empty(0, dtype=np.int64)
                kept, numbers = kept.take(pa.array(chosen)), numbers[chosen]
        drawn = Frame.of(arrow_schema(self.schema).empty_table() if kept is None else kept)
        return Frame._scanning(self.schema, drawn._scan)

    def head(self, n: int = 10) -> pa.Table:
        """The first rows as an Arrow table; reads no more batches than it must."""
        got: list[pa.RecordBatch] = []
        have = 0
        for batch in self.batches():
            got.append(batch.slice(0, n - have))
            have += got[-1].num_rows
            if have >= n:
                break
        return pa.Table.from_batches(got) if got else arrow_schema(self.schema).empty_table()

    def __len__(self) -> int:
        if self.rows is None:
            self.rows = sum(b.num_rows for b in self.batches(self.schema.names[:1] or None))
        return self.rows

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.reader().__arrow_c_stream__(requested_schema)

    def __repr__(self) -> str:
        what = self.ref or "Frame"
        return f"<{what}: {'?' if self.rows is None else self.rows} rows x {len(self.schema)} columns>"


def _polars() -> Any:
    try:
        import polars
    except ImportError:
        from boucle.ports.lookup import missing_extra

        raise missing_extra("polars", "polars", "frame") from None
    return polars


def to_array(column: pa.Array) -> np.ndarray[Any, Any]:
    """A column as a NumPy array that may be written to; see `Frame.arrays` for the types."""
    import numpy as np

    t = pa.types
    kind = column.type
    if t.is_dictionary(kind):
        return to_array(column.dictionary_decode())
    if t.is_fixed_size_list(kind) or t.is_list(kind) or t.is_large_list(kind):
        lengths = set() if column.null_count else set(column.value_lengths().to_pylist())
        inner = kind.value_type
        if len(lengths) == 1 and (t.is_integer(inner) or t.is_floating(inner)):
            return to_array(column.flatten()).reshape(len(column), lengths.pop())
    elif t.is_decimal(kind) or ((t.is_integer(kind) or t.is_boolean(kind)) and column.null_count):
        return to_array((column.cast(pa.int8()) if t.is_boolean(kind) else column).cast(pa.float64()))
    elif t.is_timestamp(kind) and kind.tz:
        return to_array(column.cast(pa.timestamp(kind.unit)))
    elif t.is_integer(kind) or t.is_floating(kind) or t.is_boolean(kind) or t.is_date(kind) or t.is_timestamp(kind):
        return np.array(column.to_numpy(zero_copy_only=False))
    out = np.empty(len(column), dtype=object)
    out[:] = column.to_pylist()
    return out


def _to_table(data: Any) -> pa.Table:
    if isinstance(data, pa.Table):
        return data
    if isinstance(data, pa.RecordBatch):
        return pa.Table.from_batches([data])
    kind = type(data).__module__.partition(".")[0]
    if kind == "pandas":
        if hasattr(data, "to_frame") and not hasattr(data, "columns"):
            data = data.to_frame()
        named = data if all(isinstance(c, str) for c in data.columns) else data.rename(columns=str)
        if len(set(named.columns)) < len(named.columns):
            twice = sorted({c for c in named.columns if list(named.columns).count(c) > 1})
            raise Invalid(
                f"column names occur twice: {', '.join(map(repr, twice[:5]))}",
                expected="distinct column names",
            )
        try:
            return pa.Table.from_pandas(named, preserve_index=False).replace_schema_metadata(None)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise Invalid(
                f"a pandas column does not have one type: {error}",
                expected="values of one type in each column",
            ) from error
    try:
        if hasattr(data, "__arrow_c_stream__"):
            return pa.table(data)
        if isinstance(data, Mapping):
            return pa.table(dict(data))
        if isinstance(data, Sequence) and data and all(isinstance(r, Mapping) for r in data):
            names = dict.fromkeys(key for row in data for key in row)
            return pa.table({name: [row.get(name) for row in data] for name in names})
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise Invalid(
            f"a column does not have one type: {error}", expected="values of one type in each column"
        ) from error
    raise Invalid(
        f"a {type(data).__name__} is not a table",
        expected="a Frame, Arrow table, pandas or Polars frame, mapping of columns, or list of row mappings",
    )


def type_name(type_: pa.DataType) -> str:
    """The name a schema gives an Arrow type. Large and view forms have the name of the plain one."""
    t = pa.types
    if t.is_dictionary(type_):
        return type_name(type_.value_type)
    for test, name in (
        (t.is_null, "null"), (t.is_boolean, "bool"), (t.is_string, "string"), (t.is_large_string, "string"),
        (t.is_string_view, "string"), (t.is_binary, "binary"), (t.is_large_binary, "binary"),
        (t.is_binary_view, "binary"), (t.is_fixed_size_binary, "binary"), (t.is_date, "date"), (t.is_time, "time"),
        (t.is_timestamp, "timestamp"), (t.is_duration, "duration"), (t.is_decimal, "decimal"),
    ):  # fmt: skip
        if test(type_):
            return name
    if t.is_list(type_) or t.is_large_list(type_) or t.is_fixed_size_list(type_):
        return f"list<{type_name(type_.value_type)}>"
    if t.is_struct(type_):
        return "struct<" + ", ".join(f"{f.name}: {type_name(f.type)}" for f in type_) + ">"
    return {"halffloat": "float16", "float": "float32", "double": "float64"}.get(str(type_), str(type_))


_ARROW: dict[str, pa.DataType] = {
    "null": pa.null(), "bool": pa.bool_(), "string": pa.string(), "binary": pa.binary(), "date": pa.date32(),
    "time": pa.time64("us"), "timestamp": pa.timestamp("us"), "duration": pa.duration("us"),
    "decimal": pa.decimal128(38, 9), "float16": pa.float16(), "float32": pa.float32(), "float64": pa.float64(),
    **{f"{s}int{b}": getattr(pa, f"{s}int{b}")() for s in ("", "u") for b in (8, 16, 32, 64)},
}  # fmt: skip


def arrow_type(name: str) -> pa.DataType:
    """The Arrow type that a schema's type name stands for."""
    if name in _ARROW:
        return _ARROW[name]
    if name.startswith("list<") and name.endswith(">"):
        return pa.list_(arrow_type(name[5:-1]))
    if name.startswith("struct<") and name.endswith(">"):
        return pa.struct([(n, arrow_type(t)) for n, t in _fields(name[7:-1])])
    raise Invalid(f"{name!r} is not a column type", expected=f"one of {', '.join(_ARROW)}, list<T>, struct<name: T>")


def _fields(text: str) -> Iterator[tuple[str, str]]:
    depth, start = 0, 0
    for i, char in enumerate([*text, ","]):
        depth += {"<": 1, ">": -1}.get(char, 0)
        if char == "," and depth == 0 and text[start:i].strip():
            name, _, kind = text[start:i].strip().partition(": ")
            yield name, kind
            start = i + 1


def schema_of(arrow: pa.Schema, nulls: Mapping[str, bool] | None = None) -> Schema:
    """Our schema of an Arrow schema. `nulls` says which columns hold nulls; without it the fields' own flags count."""
    return Schema(
        tuple(
            Column(f.name, type_name(f.type), f.nullable if nulls is None else nulls.get(f.name, f.nullable))
            for f in arrow
        )
    )


def arrow_schema(schema: Schema) -> pa.Schema:
    """The Arrow schema of ours. Fields are nullable for Arrow whatever we say, so that batches of one frame agree."""
    return pa.schema([pa.field(c.name, arrow_type(c.type)) for c in schema.columns])


def to_batch(schema: Schema, columns: Mapping[str, list[Any]]) -> pa.RecordBatch:
    """Columns of Python values (as `Schema.decode` gives them) as one record batch."""
    return pa.RecordBatch.from_arrays(
        [pa.array(columns[c.name], type=arrow_type(c.type)) for c in schema.columns], names=list(schema.names)
    )


def to_rows(data: pa.RecordBatch | pa.Table) -> list[dict[str, Any]]:
    """Rows as mappings of JSON values."""
    from boucle.core.schema import jsonable

    try:
        rows = data.to_pylist()
    except (OverflowError, ValueError):  # times beyond those of Python, or finer without pandas
        rows = type(data).from_arrays([_told(c) for c in data.columns], names=data.schema.names).to_pylist()
    return [{k: jsonable(v) for k, v in row.items()} for row in rows]


def _told(column: Any) -> Any:
    """Dates and times as text."""
    if pa.types.is_date(column.type) or pa.types.is_timestamp(column.type):
        return column.cast(pa.string())
    return column


def to_pandas(data: pa.Table | pa.RecordBatch) -> pd.DataFrame:
    """A pandas frame whose dtypes depend on the Arrow types only, never on which values happen to be there.

    Numbers become float64 when there is a null (NaN) and keep their type otherwise; booleans with nulls become float64;
    strings are `object` with NaN for null, which scikit-learn's imputers and encoders expect; times are datetime64[us].
    """
    import numpy as np
    import pandas as pd

    t = pa.types
    out: dict[str, Any] = {}
    for field, column in zip(data.schema, data.columns, strict=True):
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        kind = field.type
        if t.is_dictionary(kind):
            array = array.dictionary_decode()
            kind = array.type
        if t.is_string(kind) or t.is_large_string(kind) or t.is_string_view(kind):
            values = array.to_numpy(zero_copy_only=False)
            if array.null_count:
                values = np.where(array.is_null().to_numpy(zero_copy_only=False), np.nan, values)
            out[field.name] = pd.Series(values, dtype=object)
        elif t.is_boolean(kind) and array.null_count:
            out[field.name] = array.cast(pa.int8()).cast(pa.float64()).to_numpy(zero_copy_only=False)
        elif t.is_date(kind) or t.is_timestamp(kind):
            plain = array.cast(pa.timestamp("us", tz=getattr(kind, "tz", None)), safe=False)
            out[field.name] = plain.cast(pa.timestamp("us")).to_numpy(zero_copy_only=False)
        elif t.is_decimal(kind) or t.is_null(kind):
            out[field.name] = array.cast(pa.float64()).to_numpy(zero_copy_only=False)
        elif t.is_nested(kind) or t.is_binary(kind) or t.is_large_binary(kind):
            out[field.name] = pd.Series(array.to_pylist(), dtype=object)
        else:
            out[field.name] = array.to_numpy(zero_copy_only=False)
    return pd.DataFrame(out, columns=data.schema.names)


def rechunk(batches: Iterable[pa.RecordBatch], rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of exactly `rows` rows (the last may be shorter), so that cuts do not depend on the
    source."""
    held: list[pa.RecordBatch] = []
    have = 0
    for batch in batches:
        while have + batch.num_rows >= rows:
            need = rows - have
            held.append(batch.slice(0, need))
            yield _one(held)
            held, have, batch = [], 0, batch.slice(need)  # noqa: PLW2901
        if batch.num_rows:
            held.append(batch)
            have += batch.num_rows
    if held:
        yield _one(held)


def _one(parts: list[pa.RecordBatch]) -> pa.RecordBatch:
    return parts[0] if len(parts) == 1 else pa.concat_batches(parts)
