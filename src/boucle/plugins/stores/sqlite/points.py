"""Series of numbers as packed columns: one blob per call and series instead of one row per point.

The blob holds the steps (unless they are evenly spaced), the times (unless they are all the same) and the values, each
as little-endian 64-bit numbers, compressed where that saves a quarter.
"""

from __future__ import annotations

import sys
import zlib
from array import array
from collections.abc import Sequence
from typing import Any, Literal

from boucle.core.errors import Corrupt, Invalid
from boucle.core.records import Points

_SPACED, _SIMULTANEOUS, _COMPRESSED = 1, 2, 4
_SMALL = 1024  # bytes that are not worth compressing


def pack(series: Points) -> tuple[int, int, int, float, float, int, bytes]:
    """n, first step, last step, last time, last value, packing, blob. Raises `Invalid` for what is not a series."""
    try:
        steps, times, values = array("q", series.steps), array("d", series.times), array("d", series.values)
    except (TypeError, ValueError, OverflowError) as error:
        wanted = "integer steps, numbers as times and values"
        raise Invalid(f"series {series.name!r}: {error}", expected=wanted) from error
    n = len(values)
    if not len(steps) == len(times) == n:
        raise Invalid(
            f"series {series.name!r} has {len(steps)} steps, {len(times)} times and {n} values",
            expected="the same number of each",
        )
    if not n:
        return 0, 0, 0, 0.0, 0.0, 0, b""
    packing, blob = 0, _little(values)
    if times.count(times[0]) == n:
        packing |= _SIMULTANEOUS
    else:
        blob = _little(times) + blob
    if steps == array("q", _spaced(steps[0], steps[-1], n)):
        packing |= _SPACED
    else:
        blob = _little(steps) + blob
    if len(blob) > _SMALL and len(small := zlib.compress(blob, 1)) < 0.75 * len(blob):
        packing, blob = packing | _COMPRESSED, small
    return n, series.steps[0], series.steps[-1], series.times[-1], series.values[-1], packing, blob


def unpack(name: str, segments: Sequence[Sequence[Any]]) -> Points:
    """One series out of its segments (n, first step, last step, last time, packing, blob), in order."""
    steps: list[int] = []
    times: list[float] = []
    values: list[float] = []
    for n, first, last, moment, packing, stored in segments:
        try:
            blob = zlib.decompress(stored) if packing & _COMPRESSED else stored
        except zlib.error as error:
            raise Corrupt(f"series {name!r} does not decompress: {error}", fix="boucle fsck") from error
        width = 8 * n
        if len(blob) != width * (3 - bool(packing & _SPACED) - bool(packing & _SIMULTANEOUS)):
            raise Corrupt(f"series {name!r} has {len(blob)} bytes for {n} points", fix="boucle fsck")
        at = 0
        if packing & _SPACED:
            steps += _spaced(first, last, n)
        else:
            steps += _read("q", blob[:width])
            at = width
        if packing & _SIMULTANEOUS:
            times += [moment] * n
        else:
            times += _read("d", blob[at : at + width])
            at += width
        values += _read("d", blob[at:])
    return Points(name, steps, times, values)


def _spaced(first: int, last: int, n: int) -> Sequence[int]:
    if n == 1:
        return (first,)
    stride, rest = divmod(last - first, n - 1)
    return range(first, last + (1 if stride > 0 else -1), stride) if stride and not rest else ()


def _little(column: array[Any]) -> bytes:
    if sys.byteorder == "big":
        column.byteswap()
    return column.tobytes()


def _read(kind: Literal["q", "d"], blob: bytes) -> list[Any]:
    column: array[Any] = array(kind)
    column.frombytes(blob)
    if sys.byteorder == "big":
        column.byteswap()
    return column.tolist()
