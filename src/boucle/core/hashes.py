"""64-bit hashes of values and rows, for counting what is distinct and finding what is double. Not a digest: two
different rows among a million have the same hash with a chance of about one in 37 million."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from boucle.core.frames import Frame

Hashes = np.ndarray[Any, np.dtype[np.uint64]]

_EXAMPLES = 5
_NULL = np.uint64(0x9E3779B97F4A7C15)
_LONG = 256  # bytes of text that are hashed along with those of other values
_TAILS = np.array([(1 << 8 * n) - 1 for n in range(9)], np.uint64)  # the first n bytes of a word


def hash_values(column: pa.Array) -> Hashes:
    """One hash per value; equal values have equal hashes in every process, nulls and NaN each one of their own."""
    kind, t = column.type, pa.types
    if t.is_null(kind):
        return np.full(len(column), _NULL)
    nulls = np.asarray(column.is_null()) if column.null_count else None
    if t.is_floating(kind):
        values = np.asarray(column.cast(pa.float64()).fill_null(0.0)) + 0.0  # -0.0 is 0.0
        hashes = mixed(np.where(np.isnan(values), np.nan, values).view(np.uint64))
    elif t.is_integer(kind) or t.is_boolean(kind):
        whole = pa.uint64() if t.is_uint64(kind) else pa.int64()
        hashes = mixed(np.asarray(column.cast(whole).fill_null(0)).view(np.uint64))
    elif t.is_date(kind) or t.is_timestamp(kind) or t.is_time(kind) or t.is_duration(kind):
        plain = column.cast(pa.timestamp("us"), safe=False) if t.is_date(kind) else column
        width = pa.int32() if plain.type.bit_width == 32 else pa.int64()
        hashes = mixed(np.asarray(plain.view(width).cast(pa.int64()).fill_null(0)).view(np.uint64))
    else:
        hashes = _of_objects(column)
    if nulls is not None:
        hashes[nulls] = _NULL
    return hashes


def _of_objects(column: pa.Array) -> Hashes:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_nested(column.type) or pa.types.is_decimal(column.type):
        column = pa.array([repr(v) for v in column.to_pylist()], pa.string())
    elif _is_text(column.type):
        column = column.cast(pa.string())
    elif not pa.types.is_string(column.type):
        column = _hex(column)
    return _of_text(column)


def _of_text(text: pa.Array) -> Hashes:
    """Eight bytes at a time of all values at once; what is longer than 256 bytes ends with a digest of the rest."""
    offsets = np.frombuffer(text.buffers()[1], np.int32)[text.offset : text.offset + len(text) + 1].astype(np.int64)
    starts, lengths = offsets[:-1], np.diff(offsets)
    hashes = mixed(lengths.astype(np.uint64))
    low, high = int(offsets[0]), int(offsets[-1])
    if low == high:
        return hashes
    data = np.zeros(high - low + 8, np.uint8)
    data[:-8] = np.frombuffer(text.buffers()[2], np.uint8)[low:high]
    words = np.ndarray((len(data) - 7,), "<u8", data, strides=(1,))  # those that begin at each byte
    at = starts - low
    some: Any = slice(None)
    left = lengths
    for step in range(0, min(int(lengths.max()), _LONG), 8):
        if step:
            some = np.flatnonzero(lengths > step)
            left = lengths[some] - step
        found = words[at[some] + step] & _TAILS[np.minimum(left, 8)]
        hashes[some] = mixed(hashes[some] ^ found)
    for i in np.flatnonzero(lengths > _LONG):
        rest = data[at[i] + _LONG : at[i] + lengths[i]]
        hashes[i] ^= np.uint64(int.from_bytes(blake2b(rest.data, digest_size=8).digest(), "little"))
    return hashes


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _hex(column: pa.Array) -> pa.Array:
    return pa.array([None if v is None else v.hex() for v in column.to_pylist()], pa.string())


def hash_rows(columns: Iterable[pa.Array]) -> Hashes:
    """One hash per row over all the columns, in their order."""
    total: Hashes | None = None
    for column in columns:
        hashes = hash_values(column)
        total = hashes if total is None else mixed(total * np.uint64(31) + hashes)
    return np.zeros(0, np.uint64) if total is None else total


def mixed(values: Hashes) -> Hashes:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): every bit of the input moves half the bits of the
    output."""
    z = values + _NULL
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    out: Hashes = z ^ (z >> np.uint64(31))
    return out


def repeated(frame: Frame, columns: Sequence[str], *, skip_nulls: bool) -> tuple[int, int, list[list[int]]]:
    """How many rows repeat an earlier one, of how many, and examples as pairs of row numbers (from 0).

    Keeps 16 bytes per row. Rows are compared by their hashes.
    """
    hashes, numbers, rows = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)], 0
    for batch in frame.batches(columns):
        here = np.arange(rows, rows + batch.num_rows)
        rows += batch.num_rows
        found = hash_rows(batch.columns)
        if skip_nulls:
            whole = np.ones(batch.num_rows, bool)
            for column in batch.columns:
                if column.null_count:
                    whole &= np.asarray(pc.is_valid(column))
            found, here = found[whole], here[whole]
        hashes.append(found)
        numbers.append(here)
    every, where = np.concatenate(hashes), np.concatenate(numbers)
    order = np.argsort(every, kind="stable")
    again = np.flatnonzero(every[order[1:]] == every[order[:-1]])
    examples = sorted([int(where[order[i]]), int(where[order[i + 1]])] for i in again[:1000])[:_EXAMPLES]
    return len(again), rows, examples
