"""Tables as blobs: Parquet blocks, a manifest that names them, and one digest over every value.

Blocks are cut by what the rows hold (`ledger.cuts`), at the same rows whatever batches the source gave, so versions share
the blocks that did not change. The digest is a Merkle tree (blocks, of columns, of validity and values) over the decoded
values: neither Parquet's bytes, nor dictionaries, nor what happens to lie under a null enters it.
"""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from blake3 import blake3

from boucle.core.errors import BoucleError, Corrupt, Invalid
from boucle.core.frames import Frame, arrow_schema, type_name
from boucle.core.schema import Column, Schema, jsonable
from boucle.ledger import trees
from boucle.ledger.cuts import cut, most_rows
from boucle.ports.blobs import Blobs

FORMAT = 2  # 1 had blocks of the same number of rows, and no ranges
_READABLE = (1, 2)
_WORKERS = 2
_PARTS = 16  # of a block that grows; more are made one
_DIGEST = re.compile("[0-9a-f]{64}")
_LONGEST = 64  # characters of a text that a range is kept of


@dataclass(frozen=True, slots=True)
class Stored:
    """A table that was written: the manifest's blob, the digest of the content, and the schema with its true nulls."""

    manifest: str
    digest: str
    rows: int
    size: int  # bytes of all blocks as stored
    schema: Schema


def write(blobs: Blobs, frame: Frame, *, tree: str = "") -> Stored:
    """Store a table block by block; the manifest comes last, and before it nothing is visible.

    `tree` is the manifest of the files that its rows stand for (see `ledger.trees`), kept as long as the table is.
    Raises `Invalid` for a table without columns or with a type that cannot be stored.
    """
    arrow, batches = plain_batches(frame)
    entries, nulls = _write_blocks(blobs, cut(batches, most_rows(len(arrow))))
    return _finish(blobs, frame.schema, arrow, entries, nulls, tree)


def append(blobs: Blobs, manifest_digest: str, frame: Frame, *, tree: str = "") -> Stored:
    """Store a table and more rows. The content, and so the digest, is what `write` of all of them would give; the cost is that
    of the new rows. Few rows become a part of the last block, which is made one again when it has many parts or is full.

    The columns are brought into the table's order. Raises `Invalid` when names or types differ.
    """
    manifest = load_manifest(blobs, manifest_digest)
    old, arrow = Schema.from_json(manifest["schema"]), arrow_of(manifest)
    plain, batches = plain_batches(frame.select(old.names) if set(old.names) == set(frame.columns) else frame)
    if plain != arrow:
        differs = [f"{f.name} ({f.type})" for f in plain if f not in arrow] or [
            n for n in arrow.names if n not in plain.names
        ]
        raise Invalid(
            f"rows with other columns cannot be appended: {', '.join(differs[:5])}",
            expected="the names and types of the table: " + ", ".join(f"{f.name} ({f.type})" for f in list(arrow)[:8]),
        )
    kept = manifest["blocks"][:-1] if manifest["format"] == FORMAT else []
    rest = manifest["blocks"][len(kept) :]
    again = itertools.chain.from_iterable(read_block(blobs, e, arrow).to_batches() for e in rest)
    blocks = cut(itertools.chain(again, batches), most_rows(len(arrow)))
    start = list(itertools.islice(blocks, 2))
    nulls = {c.name for c in old.columns if c.nullable}
    if len(start) == 1 and len(rest) == 1 and _may_grow(rest[0], start[0].num_rows):
        entries = [_grown(blobs, rest[0], start[0])]
        nulls |= _with_nulls(start[0])
    else:
        entries, more = _write_blocks(blobs, itertools.chain(start, blocks))
        nulls |= more
    return _finish(blobs, old, arrow, kept + entries, nulls, tree or manifest.get("tree", ""))


def _may_grow(entry: dict[str, Any], rows: int) -> bool:
    return len(stored_in(entry)) < _PARTS and rows < 2 * int(entry["rows"])


def _grown(blobs: Blobs, entry: dict[str, Any], block: pa.RecordBatch) -> dict[str, Any]:
    """The entry of a block of which the rows behind those of `entry` are not stored yet."""
    if block.num_rows == entry["rows"]:
        return entry
    part = _write_block(blobs, block.slice(entry["rows"]))
    ranges = {
        name: [min(low, part["ranges"][name][0]), max(high, part["ranges"][name][1])]
        for name, (low, high) in entry.get("ranges", {}).items()
        if name in part["ranges"]
    }
    size = entry["size"] + part["size"]
    parts = [*stored_in(entry), part["blob"]]
    return {"rows": block.num_rows, "digest": block_digest(block), "parts": parts, "size": size, "ranges": ranges}


def stored_in(entry: Mapping[str, Any]) -> list[str]:
    """The blobs that hold the rows of a block, in their order: one, or for a block that grew several."""
    return list(entry["parts"]) if "parts" in entry else [entry["blob"]]


def _with_nulls(block: pa.RecordBatch) -> set[str]:
    return {n for n, c in zip(block.schema.names, block.columns, strict=True) if c.null_count}


def _write_blocks(blobs: Blobs, blocks: Iterable[pa.RecordBatch]) -> tuple[list[dict[str, Any]], set[str]]:
    """The entries of the blocks that were stored, and the columns in which there was a null."""
    entries: list[dict[str, Any]] = []
    nulls: set[str] = set()
    with ThreadPoolExecutor(_WORKERS) as pool:
        pending: deque[Future[dict[str, Any]]] = deque()
        try:
            for block in blocks:
                nulls |= _with_nulls(block)
                pending.append(pool.submit(_write_block, blobs, block))
                if len(pending) > _WORKERS:
                    entries.append(pending.popleft().result())
            entries += [p.result() for p in pending]
        finally:
            for p in pending:
                p.cancel()
    return entries, nulls


def _finish(
    blobs: Blobs, given: Schema, arrow: pa.Schema, entries: list[dict[str, Any]], nulls: set[str], tree: str
) -> Stored:
    """Store the manifest."""
    digest = _combined(arrow, [e["digest"] for e in entries])
    known = {c.name: c for c in given.columns}
    columns = tuple(
        replace(known.get(f.name, Column(f.name, "")), type=type_name(f.type), nullable=f.name in nulls) for f in arrow
    )
    schema, rows = Schema(columns), sum(e["rows"] for e in entries)
    manifest = {
        "format": FORMAT,
        "digest": digest,
        "rows": rows,
        "schema": schema.to_json(),
        "arrow": base64.b64encode(arrow.serialize().to_pybytes()).decode(),
        "blocks": entries,
        **({"tree": tree} if tree else {}),
    }
    return Stored(_put(blobs, manifest), digest, rows, sum(e["size"] for e in entries), schema)


def with_tree(blobs: Blobs, manifest: Mapping[str, Any], tree: str) -> str:
    """Store a manifest that names the files of its rows, and is otherwise the same; returns its digest."""
    return _put(blobs, {**manifest, "tree": tree})


def _put(blobs: Blobs, manifest: Mapping[str, Any]) -> str:
    return blobs.put(json.dumps(manifest, ensure_ascii=False, separators=(",", ":")).encode())


def digest(frame: Frame) -> str:
    """The digest that `write` would give, without storing anything."""
    arrow, batches = plain_batches(frame)
    return _combined(arrow, [block_digest(b) for b in cut(batches, most_rows(len(arrow)))])


def read(blobs: Blobs, manifest_digest: str, ref: str = "") -> Frame:
    """The stored table as a lazy frame: one block in memory at a time, and of it only the columns asked for.

    Raises `NotFound` when the manifest is not there, and `Corrupt` where a block is not what was written.
    """
    manifest = load_manifest(blobs, manifest_digest)
    arrow = arrow_of(manifest)
    blocks = [_Block(blobs, entry, arrow) for entry in manifest["blocks"]]
    return Frame.of_parts(Schema.from_json(manifest["schema"]), blocks, manifest["digest"], ref)


@dataclass(frozen=True, slots=True)
class _Block:
    """A block as a part of a frame."""

    blobs: Blobs
    entry: Mapping[str, Any]
    arrow: pa.Schema

    @property
    def rows(self) -> int:
        return int(self.entry["rows"])

    @property
    def ranges(self) -> Mapping[str, Sequence[Any]]:
        found: Mapping[str, Sequence[Any]] = self.entry.get("ranges", {})
        return found

    def batches(self, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        wanted = self.arrow if columns is None else pa.schema([self.arrow.field(n) for n in columns])
        yield from read_block(self.blobs, self.entry, wanted).to_batches()


def present(blobs: Blobs, manifest_digest: str) -> bool:
    """Whether the manifest is there, and every block and file it names."""
    if not blobs.has(manifest_digest):
        return False
    manifest = load_manifest(blobs, manifest_digest)
    if not all(blobs.has(b) for entry in manifest["blocks"] for b in stored_in(entry)):
        return False
    return not manifest.get("tree") or trees.present(blobs, manifest["tree"])


def load_manifest(blobs: Blobs, manifest_digest: str) -> dict[str, Any]:
    """What a manifest says: format, digest, rows, schema, arrow (its IPC form in base64), and blocks.

    A block has rows, digest, blob (or parts, see `stored_in`), size, and ranges: column -> [smallest, largest] as JSON, for
    numbers, times and short texts, where nulls and NaN do not count; of a column that is not there nothing is known. `tree`,
    where it is there, is the manifest of the files that rows stand for.
    """
    try:
        manifest: dict[str, Any] = json.loads(blobs.get(manifest_digest))
        known = manifest["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Corrupt(f"blob {manifest_digest[:12]} is not the manifest of a table", expected="JSON") from error
    if known not in _READABLE:
        raise Invalid(
            f"the table has format {known}", expected=f"format {FORMAT}", fix="use a newer version of boucle to read it"
        )
    if not _whole(manifest):
        raise Corrupt(f"blob {manifest_digest[:12]} is not the manifest of a table", expected="all that was written")
    return manifest


def _whole(manifest: Mapping[str, Any]) -> bool:
    """Whether all that is read of a manifest is there, in its type: it may come from elsewhere."""
    kinds = {"digest": str, "rows": int, "schema": dict, "arrow": str, "blocks": list}
    if not all(isinstance(manifest.get(name), kind) for name, kind in kinds.items()):
        return False
    return isinstance(manifest.get("tree", ""), str) and all(map(_whole_block, manifest["blocks"]))


def _whole_block(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("ranges", {}), dict):
        return False
    blobs = entry.get("parts", [entry.get("blob")])
    named = [entry.get("digest"), *(blobs if isinstance(blobs, list) and blobs else [None])]
    counts = (entry.get("rows"), entry.get("size"))
    return (
        all(isinstance(d, str) and _DIGEST.fullmatch(d) for d in named)
        and all(type(n) is int and 0 <= n < 1 << 63 for n in counts)
        and all(isinstance(r, list) and len(r) == 2 for r in entry.get("ranges", {}).values())
    )


def agrees(manifest: Mapping[str, Any]) -> bool:
    """Whether the digest and the rows that a manifest tells are those of its blocks."""
    digests = [e["digest"] for e in manifest["blocks"]]
    return bool(manifest["digest"] == _combined(arrow_of(manifest), digests)) and manifest["rows"] == sum(
        e["rows"] for e in manifest["blocks"]
    )


def arrow_of(manifest: Mapping[str, Any]) -> pa.Schema:
    """The Arrow schema of a stored table."""
    try:
        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(manifest["arrow"])))
    except (pa.ArrowException, ValueError, OSError) as error:
        raise Corrupt("a manifest holds no Arrow schema", expected="what was written") from error


def plain_batches(frame: Frame) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """The Arrow schema in which a frame would be stored, and its rows in that schema."""
    batches = frame.batches()
    first = next(batches, None)
    arrow = first.schema if first is not None else arrow_schema(frame.schema)
    if not len(arrow):
        raise Invalid("the table has no columns", expected="at least one")
    plain = pa.schema([pa.field(f.name, _plain(f.type)) for f in arrow])
    if first is None:
        return plain, iter(())
    return plain, (_cast(b, plain) for b in itertools.chain([first], batches))


def as_stored(frame: Frame) -> Frame:
    """The same rows, each batch in the types in which it would be stored."""

    def opener(columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        for batch in frame.batches(columns):
            yield _cast(batch, pa.schema([pa.field(f.name, _plain(f.type)) for f in batch.schema]))

    return Frame(frame.schema, opener, frame.rows, frame.digest, frame.ref)


def _plain(kind: pa.DataType) -> pa.DataType:
    """The one form of a type that may be encoded in several."""
    t = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(kind.storage_type)
    if t.is_dictionary(kind) or t.is_run_end_encoded(kind):
        return _plain(kind.value_type)
    if t.is_large_string(kind) or t.is_string_view(kind):
        return pa.string()
    if t.is_large_binary(kind) or t.is_binary_view(kind):
        return pa.binary()
    if t.is_map(kind):
        return pa.list_(pa.struct([pa.field("key", _plain(kind.key_type)), pa.field("value", _plain(kind.item_type))]))
    if t.is_list(kind) or t.is_large_list(kind) or t.is_list_view(kind) or t.is_large_list_view(kind):
        return pa.list_(_plain(kind.value_type))
    if t.is_fixed_size_list(kind):
        return pa.list_(_plain(kind.value_type), kind.list_size)
    if t.is_struct(kind) and kind.num_fields:
        return pa.struct([pa.field(f.name, _plain(f.type)) for f in kind])
    if t.is_decimal32(kind) or t.is_decimal64(kind):
        return pa.decimal128(kind.precision, kind.scale)
    if t.is_fixed_size_binary(kind) and not kind.byte_width:
        return pa.binary()
    if t.is_union(kind) or t.is_interval(kind) or (t.is_struct(kind) and not kind.num_fields):
        raise Invalid(f"a column of type {kind} cannot be stored", expected="numbers, text, times, lists or structs")
    return kind


def _cast(batch: pa.RecordBatch, plain: pa.Schema) -> pa.RecordBatch:
    if batch.schema.names != plain.names:
        raise Invalid(
            f"a batch has the columns {', '.join(batch.schema.names[:8])}",
            expected=f"the same as the first: {', '.join(plain.names[:8])}",
        )
    return pa.RecordBatch.from_arrays(
        [_cast_column(c, f) for c, f in zip(batch.columns, plain, strict=True)], schema=plain
    )


def _cast_column(column: pa.Array, field: pa.Field) -> pa.Array:
    if column.type == field.type:
        return column
    if isinstance(column, pa.ExtensionArray):
        return _cast_column(column.storage, field)
    if pa.types.is_run_end_encoded(column.type):
        return _cast_column(pc.run_end_decode(column), field)
    try:
        if "list_view<" in str(column.type):  # Arrow makes lists of them whose offsets are one too few
            return pa.array(column.to_pylist(), field.type)
        return column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise Invalid(
            f"column {field.name!r} changes from {field.type} to {column.type} between batches: {error}",
            expected="one type over all batches",
        ) from error


def _write_block(blobs: Blobs, block: pa.RecordBatch) -> dict[str, Any]:
    sink = pa.BufferOutputStream()
    written: list[Any] = []
    pq.write_table(
        pa.Table.from_batches([block]),
        sink,
        compression="zstd",
        compression_level=1,
        use_dictionary=_repetitive(block),
        write_page_checksum=True,
        store_schema=False,
        version="2.6",
        coerce_timestamps=None,
        row_group_size=block.num_rows,
        metadata_collector=written,
    )
    buffer = sink.getvalue()
    return {
        "rows": block.num_rows,
        "digest": block_digest(block),
        "blob": blobs.put(buffer.to_pybytes()),
        "size": buffer.size,
        "ranges": _ranges(block.schema, written[0].row_group(0)) if block.num_rows else {},
    }


def _ranges(schema: pa.Schema, group: Any) -> dict[str, list[Any]]:
    """The smallest and largest value of each column, from what the writer counted anyway."""
    found = {}
    columns = [group.column(i) for i in range(group.num_columns)]
    types = {f.name: f.type for f in schema}
    times = Counter(c.path_in_schema for c in columns)  # the part b of a struct a is written as a column "a.b" is
    for column in columns:
        name, known = column.path_in_schema, column.statistics
        if name not in types or times[name] > 1 or known is None or not known.has_min_max:
            continue  # parts of nested columns have no name of their own
        try:
            low, high = known.min, known.max
        except (OverflowError, ValueError):  # times beyond those of Python
            continue
        if isinstance(low, str) and max(len(low), len(high)) > _LONGEST:
            continue
        if not pa.types.is_binary(types[name]) and not pa.types.is_decimal(types[name]):
            found[name] = [jsonable(low), jsonable(high)]
    return {n: r for n, r in found.items() if None not in r}


def _repetitive(block: pa.RecordBatch) -> list[str] | bool:
    """The columns a dictionary makes smaller; trying it on the others costs more than writing them."""
    if any(pa.types.is_nested(f.type) for f in block.schema):
        return True
    head = block.slice(0, 1024)
    half = head.num_rows // 2
    return [
        f.name
        for f, c in zip(block.schema, head.columns, strict=True)
        if c.type != pa.null() and len(c.unique()) <= half
    ]


def read_block(blobs: Blobs, entry: Mapping[str, Any], wanted: pa.Schema) -> pa.Table:
    """The rows of one block of a manifest, of the columns asked for; raises `Corrupt`."""
    parts = [_read_part(blobs, blob, wanted, entry["rows"]) for blob in stored_in(entry)]
    table = parts[0] if len(parts) == 1 else pa.concat_tables(parts)
    if table.num_rows != entry["rows"]:
        raise Corrupt(f"block {stored_in(entry)[0][:12]} has {table.num_rows} rows", expected=f"{entry['rows']}")
    return table


def _read_part(blobs: Blobs, blob: str, wanted: pa.Schema, most: int) -> pa.Table:
    with blobs.open(blob) as file:
        try:
            part = pq.ParquetFile(pa.PythonFile(file, mode="r"), page_checksum_verification=True)
            if part.metadata.num_rows > most:  # a few bytes can stand for more rows than there is memory
                raise Corrupt(f"block {blob[:12]} has {part.metadata.num_rows:,} rows", expected=f"at most {most:,}")
            table = part.read(columns=wanted.names, use_threads=True)
            return (table if table.column_names == wanted.names else table.select(wanted.names)).cast(wanted)
        except BoucleError:
            raise
        except (pa.ArrowException, KeyError, ValueError, OSError) as error:
            raise Corrupt(
                f"block {blob[:12]} of the table cannot be read: {error}",
                expected="the bytes that were written",
                fix="restore it from a copy; `boucle doctor` lists all damage",
            ) from error


# --- the digest -----------------------------------------------------------------------------------------------------


def _combined(arrow: pa.Schema, blocks: Sequence[str]) -> str:
    columns = json.dumps([[f.name, str(f.type)] for f in arrow], ensure_ascii=False)
    whole = blake3(b"boucle table 1\0")
    for part in (columns.encode(errors="surrogatepass"), *map(bytes.fromhex, blocks)):
        whole.update(len(part).to_bytes(8, "little") + part)
    return whole.hexdigest()


def block_digest(block: pa.RecordBatch) -> str:
    """The digest of one block: of the digests of its columns."""
    whole = blake3(block.num_rows.to_bytes(8, "little"))
    for column in block.columns:
        hasher = blake3()
        _feed(hasher, column)
        whole.update(hasher.digest())
    return whole.hexdigest()


def _feed(hasher: Any, column: pa.Array) -> None:
    """Put the meaning of an array into the hasher: length, which are null, and the values that are not."""
    hasher.update(len(column).to_bytes(8, "little"))
    kind = column.type
    if pa.types.is_null(kind):
        return
    if column.null_count:
        hasher.update(b"\1")
        hasher.update(np.packbits(np.asarray(column.is_valid()), bitorder="little").data)
        column = column.drop_null()
    else:
        hasher.update(b"\0")
    if not len(column):
        return
    if pa.types.is_struct(kind):
        for child in column.flatten():
            _feed(hasher, child)
    elif pa.types.is_list(kind):
        hasher.update(_bytes(np.asarray(pc.list_value_length(column))))
        _feed(hasher, column.flatten())
    elif pa.types.is_fixed_size_list(kind):
        _feed(hasher, column.flatten())
    elif pa.types.is_boolean(kind):
        hasher.update(np.packbits(np.asarray(column.cast(pa.uint8())), bitorder="little").data)
    elif pa.types.is_string(kind) or pa.types.is_binary(kind):
        _, offsets, data = column.buffers()
        ends = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
        hasher.update(_bytes(np.diff(ends)))
        if data is not None:
            hasher.update(memoryview(data)[ends[0] : ends[-1]])
    else:
        width = kind.bit_width // 8
        raw = memoryview(column.buffers()[1])[column.offset * width : (column.offset + len(column)) * width]
        hasher.update(_one_nan(raw, width) if pa.types.is_floating(kind) else raw)


def _one_nan(raw: memoryview, width: int) -> Any:
    """Floats with every NaN replaced by one, for there are many and they mean the same."""
    values = np.frombuffer(raw, f"<f{width}")
    nan = np.isnan(values)
    return _bytes(np.where(nan, values.dtype.type(np.nan), values)) if nan.any() else raw


def _bytes(values: np.ndarray[Any, Any]) -> memoryview:
    return np.ascontiguousarray(values).view(np.uint8).data
