"""Where a table is cut into blocks: by what its rows hold, so that rows put in or taken out change the blocks around them and
no others.

A row whose hash begins with enough zeros ends a block, unless the block would be too short; a block that finds no such row
ends when it is full. The cuts after a block depend on nothing before it, so they come together again behind a change
(content-defined chunking: Muthitacharoen, Chen and Mazieres 2001, "A low-bandwidth network file system", on rows for bytes).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Array = np.ndarray[Any, Any]

ROWS = 131_072  # in a block, at most
_CELLS = 1 << 23  # values in a block, at most, so that wide tables fit into memory as well
_COLUMNS = 8  # that a hash looks at: enough to tell rows apart, whatever the width
_ODD = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xD6E8FEB86659FD93)
_MASKS = np.array([(1 << (8 * n)) - 1 for n in range(8)] + [2**64 - 1], np.uint64)


def most_rows(columns: int) -> int:
    """Rows of a block, at most: 131,072, halved for wide tables until a block has no more than 8 million values (but 256
    rows). A block has at least a quarter of it, the last one excepted."""
    rows = ROWS
    while rows > 256 and rows * columns > _CELLS:
        rows //= 2
    return rows


def cut(batches: Iterable[pa.RecordBatch], most: int) -> Iterator[pa.RecordBatch]:
    """The same rows in blocks. The cuts do not depend on the batches that the rows came in."""
    least, zeros = most // 4, (most // 4).bit_length() - 1
    held: list[pa.RecordBatch] = []
    have = 0
    for batch in batches:
        ends = np.flatnonzero(_hashes(batch) >> np.uint64(64 - zeros) == 0) + 1
        start = 0
        while True:
            place = int(np.searchsorted(ends, start + max(1, least - have)))
            end = min(int(ends[place]) if place < len(ends) else batch.num_rows + 1, start + most - have)
            if end > batch.num_rows:
                break
            held.append(batch.slice(start, end - start))
            yield _one(held)
            held, have, start = [], 0, end
        if start < batch.num_rows:
            held.append(batch.slice(start))
            have += batch.num_rows - start
    if held:
        yield _one(held)


def _one(parts: list[pa.RecordBatch]) -> pa.RecordBatch:
    return parts[0] if len(parts) == 1 else pa.concat_batches(parts)


def _hashes(batch: pa.RecordBatch) -> Array:
    total = np.zeros(batch.num_rows, np.uint64)
    taken = 0
    for column in batch.columns:
        words = _words(column)
        if words is not None:
            total *= _ODD
            total += words
            taken += 1
            if taken == _COLUMNS:
                break
    total ^= total >> np.uint64(29)
    total *= _MIX
    total ^= total >> np.uint64(32)
    total *= _ODD
    return total


def _words(column: pa.Array) -> Array | None:
    """64 bits of each value, the same for the same value: all of a number, length and end of a text."""
    kind, t = column.type, pa.types
    if t.is_list(kind):
        words = np.asarray(pc.list_value_length(column).fill_null(0)).astype(np.uint64)
    elif t.is_string(kind) or t.is_binary(kind):
        words = _ends(column)
    elif t.is_primitive(kind) and not t.is_boolean(kind):
        words = _numbers(column)
    else:
        return None
    if column.null_count:
        words = np.where(np.asarray(column.is_valid()), words, _MIX)
    return words


def _numbers(column: pa.Array) -> Array:
    width = column.type.bit_width // 8
    raw = column.buffers()[1]
    if pa.types.is_floating(column.type):
        values = np.frombuffer(raw, f"<f{width}")[column.offset : column.offset + len(column)]
        if np.isnan(values).any():
            values = np.where(np.isnan(values), values.dtype.type(np.nan), values)  # there are many; all mean the same
        return values.view(f"<u{width}").astype(np.uint64)
    if width > 8:
        parts = np.frombuffer(raw, "<u8").reshape(-1, width // 8)[column.offset : column.offset + len(column)]
        return np.ascontiguousarray(parts[:, 0])
    return np.frombuffer(raw, f"<u{width}")[column.offset : column.offset + len(column)].astype(np.uint64)


def _ends(column: pa.Array) -> Array:
    """The last eight bytes of each text, and its length in front of them."""
    _, offsets, data = column.buffers()
    ends = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1].astype(np.int64)
    lengths = np.diff(ends)
    low, high = int(ends[0]), int(ends[-1])
    padded = np.zeros(high - low + 8, np.uint8)
    if data is not None:
        padded[8:] = np.frombuffer(data, np.uint8)[low:high]
    # Eight bytes from any byte on; the place of a text's end is eight behind where it was.
    windows = np.lib.stride_tricks.as_strided(padded[:8].view(np.uint64), (high - low + 1,), (1,))
    words = windows[ends[1:] - low]
    # Of a short text the bytes before it belong to another: they are shifted out.
    short = np.minimum(lengths, 8)
    words = (words >> (8 * (8 - np.maximum(short, 1))).astype(np.uint64)) & _MASKS[short]
    found: Array = words + lengths.astype(np.uint64) * _MIX
    return found
