"""Tables as blobs: Parquet blocks, a manifest that names them, and one digest over every value.

A block is as many rows as the schema's width allows, cut at the same rows whatever batches the source gave. The digest
is a Merkle tree (blocks, of columns, of validity and values) over the decoded values: neither Parquet's bytes, nor
dictionaries, nor what happens to lie under a null enters it.
"""

from __future__ import annotations

import base64
import itertools
import json
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from blake3 import blake3

from boucle.core.errors import Corrupt, Invalid
from boucle.core.frames import BATCH_ROWS, Frame, arrow_schema, rechunk, type_name
from boucle.core.schema import Column, Schema
from boucle.ports.blobs import Blobs

FORMAT = 1
_CELLS = 1 << 23  # values in a block, at most, so that wide tables fit into memory as well
_WORKERS = 2


@dataclass(frozen=True, slots=True)
class Stored:
    """A table that was written: the manifest's blob, the digest of the content, and the schema with its true nulls."""

    manifest: str
    digest: str
    rows: int
    size: int  # bytes of all blocks as stored
    schema: Schema


def block_rows(columns: int) -> int:
    """Rows of a block: 65,536, halved for wide tables until a block has at most 8 million values (but 256 rows)."""
    rows = BATCH_ROWS
    while rows > 256 and rows * columns > _CELLS:
        rows //= 2
    return rows


def write(blobs: Blobs, frame: Frame) -> Stored:
    """Store a table block by block; the manifest comes last, and before it nothing is visible.

    Raises `Invalid` for a table without columns or with a type that cannot be stored.
    """
    arrow, blocks = _plain_blocks(frame)
    entries: list[dict[str, Any]] = []
    nullable = dict.fromkeys(arrow.names, False)
    with ThreadPoolExecutor(_WORKERS) as pool:
        pending: deque[Future[dict[str, Any]]] = deque()
        try:
            for block in blocks:
                for name, column in zip(arrow.names, block.columns, strict=True):
                    nullable[name] = nullable[name] or column.null_count > 0
                pending.append(pool.submit(_write_block, blobs, block))
                if len(pending) > _WORKERS:
                    entries.append(pending.popleft().result())
            entries += [p.result() for p in pending]
        finally:
            for p in pending:
                p.cancel()
    digest = _combined(arrow, [e["digest"] for e in entries])
    known = {c.name: c for c in frame.schema.columns}
    columns = tuple(
        replace(known.get(f.name, Column(f.name, "")), type=type_name(f.type), nullable=nullable[f.name]) for f in arrow
    )
    schema, rows = Schema(columns), sum(e["rows"] for e in entries)
    manifest = {
        "format": FORMAT,
        "digest": digest,
        "rows": rows,
        "schema": schema.to_json(),
        "arrow": base64.b64encode(arrow.serialize().to_pybytes()).decode(),
        "blocks": entries,
    }
    key = blobs.put(json.dumps(manifest, ensure_ascii=False, separators=(",", ":")).encode())
    return Stored(key, digest, rows, sum(e["size"] for e in entries), schema)


def digest(frame: Frame) -> str:
    """The digest that `write` would give, without storing anything."""
    arrow, blocks = _plain_blocks(frame)
    return _combined(arrow, [block_digest(b) for b in blocks])


def read(blobs: Blobs, manifest_digest: str, ref: str = "") -> Frame:
    """The stored table as a lazy frame: one block in memory at a time, and of it only the columns asked for.

    Raises `NotFound` when the manifest is not there, and `Corrupt` where a block is not what was written.
    """
    manifest = load_manifest(blobs, manifest_digest)
    schema = Schema.from_json(manifest["schema"])
    arrow = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(manifest["arrow"])))

    def opener(columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        names = arrow.names if columns is None else list(columns)
        wanted = pa.schema([arrow.field(n) for n in names])
        for entry in manifest["blocks"]:
            yield from _read_block(blobs, entry, wanted).to_batches()

    return Frame(schema, opener, manifest["rows"], manifest["digest"], ref)


def present(blobs: Blobs, manifest_digest: str) -> bool:
    """Whether the manifest and every block it names are there."""
    if not blobs.has(manifest_digest):
        return False
    return all(blobs.has(entry["blob"]) for entry in load_manifest(blobs, manifest_digest)["blocks"])


def load_manifest(blobs: Blobs, manifest_digest: str) -> dict[str, Any]:
    """What a manifest says: format, digest, rows, schema, arrow, and blocks with their blobs."""
    try:
        manifest: dict[str, Any] = json.loads(blobs.get(manifest_digest))
        known = manifest["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"blob {manifest_digest[:12]} is not the manifest of a table", expected="JSON") from error
    if known != FORMAT:
        raise Invalid(
            f"the table has format {known}", expected=f"format {FORMAT}", fix="use a newer version of boucle to read it"
        )
    return manifest


def _plain_blocks(frame: Frame) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """The plain Arrow schema of a frame, and its rows in blocks of that schema."""
    batches = frame.batches()
    first = next(batches, None)
    arrow = first.schema if first is not None else arrow_schema(frame.schema)
    if not len(arrow):
        raise Invalid("the table has no columns", expected="at least one")
    plain = pa.schema([pa.field(f.name, _plain(f.type)) for f in arrow])
    if first is None:
        return plain, iter(())
    cast = (_cast(b, plain) for b in itertools.chain([first], batches))
    return plain, rechunk(cast, block_rows(len(plain)))


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
    if t.is_struct(kind):
        return pa.struct([pa.field(f.name, _plain(f.type)) for f in kind])
    if t.is_union(kind) or t.is_interval(kind):
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
        if pa.types.is_map(column.type):
            entries = pa.StructArray.from_arrays([column.keys, column.items], names=["key", "value"])
            lists = pa.ListArray.from_arrays(column.offsets, entries, mask=column.is_null())
            return lists.cast(field.type)
        return column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise Invalid(
            f"column {field.name!r} changes from {field.type} to {column.type} between batches: {error}",
            expected="one type over all batches",
        ) from error


def _write_block(blobs: Blobs, block: pa.RecordBatch) -> dict[str, Any]:
    sink = pa.BufferOutputStream()
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
    )
    buffer = sink.getvalue()
    return {
        "rows": block.num_rows,
        "digest": block_digest(block),
        "blob": blobs.put(buffer.to_pybytes()),
        "size": buffer.size,
    }


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


def _read_block(blobs: Blobs, entry: dict[str, Any], wanted: pa.Schema) -> pa.Table:
    with blobs.open(entry["blob"]) as file:
        try:
            table = pq.read_table(
                pa.PythonFile(file, mode="r"), columns=wanted.names, page_checksum_verification=True, use_threads=True
            )
            if table.num_rows != entry["rows"]:
                raise Corrupt(f"block {entry['blob'][:12]} has {table.num_rows} rows", expected=f"{entry['rows']}")
            return table.cast(wanted)
        except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
            if isinstance(error, Corrupt):
                raise
            raise Corrupt(
                f"block {entry['blob'][:12]} of the table cannot be read: {error}",
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
