"""128-bit fingerprints of values and rows, to compare tables that do not fit into memory together.

Equal values have equal fingerprints whatever they are stored as: an integer and the float of exactly that value, a date and
its midnight, a time in any unit. NaN equals NaN, and nothing else; null is no value; -0.0 is not 0.0; a time with a zone is
an instant and one without is not. The numbers that go into it are drawn anew in each process, so that nobody can make rows
that collide, and so fingerprints mean nothing outside of the process: two of a billion different rows are taken for the same
with a chance of one in 10^20.
"""

from __future__ import annotations

import decimal
import secrets
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
from blake3 import blake3

Array = np.ndarray[Any, Any]
Lanes = np.ndarray[Any, np.dtype[np.uint64]]  # of shape (2, values)

_FAMILIES = (
    "null", "number", "bool", "text", "bytes", "moment", "instant", "time", "duration", "list", "struct", "other",
)  # fmt: skip
_SECRET = secrets.token_bytes(32)
_SEEDS: dict[str, Lanes] = {
    family: np.frombuffer(blake3(family.encode(), key=_SECRET).digest(16), np.uint64).reshape(2, 1)
    for family in _FAMILIES
}
_STEP = np.frombuffer(blake3(b"row", key=_SECRET).digest(16), np.uint64).reshape(2, 1) | np.uint64(1)
_MASKS = np.array([(1 << (8 * n)) - 1 for n in range(8)] + [2**64 - 1], np.uint64)
_LONG = 256  # bytes from which a value is hashed by itself
_EXACT = 2**53  # up to which every integer is a float
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_DIGITS = decimal.Context(prec=100)


def of_rows(columns: Iterable[Lanes], rows: int) -> Lanes:
    """The fingerprint of each row, of those of its values in the order of the columns."""
    total = np.zeros((2, rows), np.uint64)
    for lanes in columns:
        total *= _STEP
        total += lanes
    return _mixed(total)


def of_values(array: pa.Array) -> Lanes:
    """The fingerprint of each value of an Arrow array, as two lanes of 64 bits."""
    kind, t = array.type, pa.types
    if t.is_dictionary(kind):
        array, kind = array.dictionary_decode(), kind.value_type
    if not len(array) or t.is_null(kind):
        return np.repeat(_SEEDS["null"], len(array), axis=1)
    if t.is_integer(kind):
        lanes = _integers(_raw(array))
    elif t.is_floating(kind):
        lanes = _numbers(_raw(array).astype(np.float64))
    elif t.is_boolean(kind):
        lanes = _words(np.asarray(array.cast(pa.uint8()).fill_null(0)).astype(np.uint64), "bool")
    elif t.is_string(kind) or t.is_large_string(kind) or t.is_string_view(kind):
        lanes = _texts(array.cast(pa.large_string()), "text")
    elif t.is_binary(kind) or t.is_large_binary(kind) or t.is_binary_view(kind) or t.is_fixed_size_binary(kind):
        lanes = _texts(array.cast(pa.large_binary()), "bytes")
    elif t.is_date(kind):
        days = t.is_date32(kind)
        seconds = _raw(array).astype(np.int64) * 86_400 if days else _raw(array) // 1000
        lanes = _words(seconds.view(np.uint64), "moment")
    elif t.is_timestamp(kind):
        lanes = _times(_raw(array), kind.unit, "instant" if kind.tz else "moment")
    elif t.is_duration(kind):
        lanes = _times(_raw(array), kind.unit, "duration")
    elif t.is_time(kind):
        lanes = _times(_raw(array).astype(np.int64), kind.unit, "time")
    elif t.is_struct(kind):
        lanes = _structs(array)
    elif t.is_list(kind) or t.is_large_list(kind) or t.is_fixed_size_list(kind):
        lanes = _lists(array)
    else:
        lanes = _others(array)
    if array.null_count:
        lanes[:, np.asarray(array.is_null())] = _SEEDS["null"]
    return lanes


def _mixed(z: Lanes) -> Lanes:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014), in place."""
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def _words(words: Array, family: str) -> Lanes:
    return _mixed(words[None, :] ^ _SEEDS[family])


def _further(lanes: Lanes, words: Array) -> Lanes:
    """The fingerprints of values that have a second word, where it is not 0."""
    some = np.flatnonzero(words)
    if len(some):
        lanes[:, some] = _mixed(lanes[:, some] + words[some].astype(np.uint64))
    return lanes


def _raw(array: pa.Array) -> Array:
    """The stored numbers, with anything where a null is."""
    kind = array.type
    width = kind.bit_width // 8
    code = "f" if pa.types.is_floating(kind) else "u" if pa.types.is_unsigned_integer(kind) else "i"
    stored = array.buffers()[1]
    if stored is None:
        return np.zeros(len(array), f"<{code}{width}")
    return np.frombuffer(stored, f"<{code}{width}")[array.offset : array.offset + len(array)]


def _numbers(values: Array) -> Lanes:
    nan = np.isnan(values)
    if nan.any():
        values = np.where(nan, np.nan, values)
    return _words(np.ascontiguousarray(values).view(np.uint64), "number")


def _integers(values: Array) -> Lanes:
    """As the nearest float, and what is left of it."""
    near = values.astype(np.float64)
    lanes = _numbers(near)
    if values.dtype.itemsize < 8 or not len(values) or (values.max() <= _EXACT and values.min() >= -_EXACT):
        return lanes
    large = np.flatnonzero(np.abs(near) >= _EXACT)
    some = near[large]
    halves = np.maximum(0, some // 2.0**63)  # of 2^64, which no integer type holds
    back = (some - halves * 2.0**63).astype(np.int64).view(np.uint64) + (halves.astype(np.uint64) << np.uint64(63))
    left = np.zeros(len(values), np.uint64)
    left[large] = values[large].astype(np.uint64) - back
    return _further(lanes, left)


def _times(values: Array, unit: str, family: str) -> Lanes:
    per = _PER_SECOND[unit]
    seconds, rest = (values, np.zeros(1, np.int64)) if per == 1 else np.divmod(values, per)
    return _further(_words(np.ascontiguousarray(seconds).view(np.uint64), family), rest * (10**9 // per))


def _texts(array: pa.Array, family: str) -> Lanes:
    _, offsets, data = array.buffers()
    ends = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    low, high = int(ends[0]), int(ends[-1])
    return _stretches(np.frombuffer(data or b"", np.uint8)[low:high], ends - low, family)


def _stretches(data: Array, ends: Array, family: str) -> Lanes:
    """Of the bytes between each two ends, eight at a time."""
    starts, lengths = ends[:-1], np.diff(ends)
    padded = np.zeros(len(data) + 8, np.uint8)
    padded[: len(data)] = data
    words = np.lib.stride_tricks.as_strided(padded[:8].view(np.uint64), (len(data) + 1,), (1,))
    lanes = _words(lengths.astype(np.uint64), family)
    short = np.where(lengths <= _LONG, lengths, 0)
    most = int(short.max(initial=0))
    for at in range(0, most, 8):
        rows = np.flatnonzero(short > at)
        here = words[starts[rows] + at] & _MASKS[np.minimum(short[rows] - at, 8)]
        if len(rows) == len(lengths):
            lanes = _mixed(lanes ^ here)
        else:
            lanes[:, rows] = _mixed(lanes[:, rows] ^ here)
    for row in np.flatnonzero(lengths > _LONG):
        digest = blake3(data[starts[row] : ends[row + 1]].data, key=_SECRET).digest(16)
        lanes[:, row] ^= np.frombuffer(digest, np.uint64)
    return lanes


def _lists(array: pa.Array) -> Lanes:
    if pa.types.is_fixed_size_list(array.type):
        width = array.type.list_size
        ends = np.arange(len(array) + 1, dtype=np.int64) * width
        inner = array.values.slice(array.offset * width, len(array) * width)
    else:
        ends = np.asarray(array.offsets).astype(np.int64)
        inner = array.values.slice(ends[0], ends[-1] - ends[0])
        ends = ends - ends[0]
    each = np.ascontiguousarray(of_values(inner).T).reshape(-1).view(np.uint8)
    return _stretches(each, ends * 16, "list")


def _structs(array: pa.Array) -> Lanes:
    total = np.repeat(_SEEDS["struct"], len(array), axis=1)
    for part, child in zip(array.type, array.flatten(), strict=True):
        total *= _STEP
        total += of_values(child)
        total ^= np.frombuffer(blake3(part.name.encode(), key=_SECRET).digest(16), np.uint64).reshape(2, 1)
        _mixed(total)
    return total


def _others(array: pa.Array) -> Lanes:
    """Decimals, each distinct one by itself, so that 1.50 is 1.5 is the float 1.5."""
    coded = array.dictionary_encode()
    distinct = np.concatenate([_other(v) for v in coded.dictionary.to_pylist()] or [_SEEDS["null"]], axis=1)
    found: Lanes = distinct[:, np.asarray(coded.indices.fill_null(0))]
    return found.copy()


def _other(value: Any) -> Lanes:
    if isinstance(value, decimal.Decimal):
        if decimal.Decimal(float(value)) == value:
            return _numbers(np.array([float(value)]))
        if value == value.to_integral_value(context=_DIGITS) and -(2**63) <= value < 2**64:
            return _integers(np.array([int(value)], np.int64 if value < 0 else np.uint64))
        value = value.normalize(_DIGITS)
    text = np.frombuffer(f"{value!r}".encode(), np.uint8)
    return _stretches(text, np.array([0, len(text)]), "other")
