"""What was read of a log, in few numbers: chunks of equal size, each a sketch per column, and bins of time.

A tally takes blocks in order, in whatever portions; the result is the same. It is kept as a file and goes on from there.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boucle.measure.anomaly import KEPT, SECONDS, Bin
from boucle.measure.domain import Learner, Told
from boucle.measure.estimate import BINS
from boucle.measure.evidence import CHUNK
from boucle.measure.sketch import Reference, Sketch, Window
from boucle.ops.watch import odd
from boucle.ops.watch.log import Block
from boucle.ops.watch.reference import PREDICTION, Origin, matrix, named, read_json, write_json

FORMAT = 2
MOST_CHUNKS = 64
_STEPS = 8  # buckets of latency per doubling: quantiles to 4.5 % (compare DDSketch, Masson, Rim and Lee 2019)
_QUANTILES = (0.5, 0.95, 0.99)


class Tally:
    """Chunks of `unit` rows each, the last may have fewer, with the time each begins; `sure` counts per chunk how sure the
    model was (`Calibration.counted`)."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.after = ""
        self.unit = CHUNK
        self.rows = self.probes = 0
        self.first = self.last = 0.0
        self.windows: list[Window] = []
        self.times: list[float] = []
        self.sure: list[NDArray[np.int64]] = []
        self.latency: dict[int, int] = {}
        self.bins: dict[float, Bin] = {}
        self.failed_after = ""
        self.odd = odd.OddRows()
        self.learners = origin.reference.learners() if origin.reference else {}

    def take(self, block: Block) -> None:
        """Count a block of the log."""
        if not len(block):
            return
        self.after = block.ids[-1].as_py()
        asked = block.filter(block.asked)
        self.probes += len(block) - len(asked)
        start = 0
        while start < len(asked):
            room = self.unit * MOST_CHUNKS - self.rows
            part = asked.slice(start, min(len(asked), start + room))
            start += len(part)
            self._count(part)
            if self.rows == self.unit * MOST_CHUNKS:
                self._halve()

    def _count(self, part: Block) -> None:
        filled = self.rows % self.unit
        sizes: list[int] = []
        left = len(part)
        while left:
            size = min(left, self.unit - (filled if not sizes else 0))
            sizes.append(size)
            left -= size
        starts = np.cumsum([0, *sizes[:-1]])
        self.times += [float(part.times[s]) for s in starts[1 if filled else 0 :]]
        reference = self.origin.reference
        if reference is not None:
            made = self._sketched(part, sizes, reference)
            if filled:
                self.windows[-1] = self.windows[-1] + made.pop(0)
            self.windows += made
        self._surety(part, sizes, filled)
        self._speed(part)
        self.rows += len(part)
        self.first = self.first or float(part.times[0])
        self.last = float(part.times[-1])

    def _sketched(self, part: Block, sizes: list[int], reference: Reference) -> list[Window]:
        arrays = {n: part.prediction if n == PREDICTION else part.inputs[n] for n in reference.columns}
        cells = {n: reference.columns[n].cells(a) for n, a in arrays.items()}
        found = {
            n: c.counted(arrays[n], cells[n], sizes, self.learners.get(n)) for n, c in reference.columns.items()
        }  # fmt: skip
        inputs = {n: cells[n] for n in self.origin.inputs}
        if inputs and math.isfinite(self.origin.odd):
            self.odd += odd.find(reference, arrays, inputs, self.origin.odd, part.ids, part.times)
        return [Window(size, {n: s[i] for n, s in found.items()}) for i, size in enumerate(sizes)]

    def _surety(self, part: Block, sizes: list[int], filled: int) -> None:
        calibration = self.origin.calibration
        if calibration is None or part.probabilities is None:
            return
        fields = [f.name for f in part.probabilities.type]
        if tuple(fields) != calibration.classes:
            return
        shares, said = matrix(part.probabilities), [named(v) for v in part.prediction.to_pylist()]
        at = 0
        for i, size in enumerate(sizes):
            counts = calibration.counted(said[at : at + size], shares[at : at + size])
            at += size
            if i == 0 and filled:
                self.sure[-1] = self.sure[-1] + counts
            else:
                self.sure.append(counts)

    def _speed(self, part: Block) -> None:
        logs = np.log2(np.maximum(part.latency, 1.0))
        buckets, counts = np.unique((_STEPS * logs).astype(np.int64), return_counts=True)
        for bucket, count in zip(buckets.tolist(), counts.tolist(), strict=True):
            self.latency[bucket] = self.latency.get(bucket, 0) + count
        live = ~part.mirrored
        starts, places = np.unique(np.floor(part.times[live] / SECONDS) * SECONDS, return_inverse=True)
        requests, request_at = np.unique(part.requests[live], return_index=True)
        asked = np.bincount(places[request_at], minlength=len(starts)) if len(requests) else np.zeros(0)
        rows = np.bincount(places, minlength=len(starts))
        spent = np.bincount(places, logs[live] * math.log(2) - math.log(1e6), len(starts))
        for i, start in enumerate(starts.tolist()):
            self._bin(Bin(start, int(asked[i]), 0, int(rows[i]), float(spent[i])))

    def fail(self, record: Mapping[str, Any]) -> None:
        """Count a line of the log of failures."""
        self.failed_after = record["id"]
        if record.get("request") != "probe" and not record.get("shadow"):
            self._bin(Bin(math.floor(record["time"] / SECONDS) * SECONDS, 1, 1))

    def _bin(self, found: Bin) -> None:
        self.bins[found.start] = self.bins[found.start] + found if found.start in self.bins else found
        if len(self.bins) > KEPT + 288:
            for start in sorted(self.bins)[:288]:
                del self.bins[start]

    def _halve(self) -> None:
        """Chunks are merged in pairs when there are many, so that what is kept does not grow."""
        self.unit *= 2
        self.windows = [a + b for a, b in zip(self.windows[::2], self.windows[1::2], strict=True)]
        self.sure = [a + b for a, b in zip(self.sure[::2], self.sure[1::2], strict=True)]
        self.times = self.times[::2]

    def recent(self, rows: int) -> NDArray[np.int64]:
        """How sure the model was over the last rows, at least so many where there are."""
        total = np.zeros((2, BINS), np.int64)
        for counts in reversed(self.sure):
            total = total + counts
            if total.sum() >= rows:
                break
        return total

    def quantiles(self) -> dict[str, float]:
        """Latency in seconds."""
        total, out = sum(self.latency.values()), {}
        for q in _QUANTILES if total else ():
            seen = 0
            for bucket in sorted(self.latency):
                seen += self.latency[bucket]
                if seen >= q * total:
                    out[f"p{q * 100:g}"] = 2 ** ((bucket + 0.5) / _STEPS) / 1e6
                    break
        return out

    def keep(self, path: Path, mark: str) -> None:
        """Write it to a file, all or nothing. `mark` names the reference it is of."""
        names = list(self.windows[0].columns) if self.windows else []
        plain = {name: getattr(self, name) for name in _PLAIN}
        write_json(
            path,
            {
                "format": FORMAT, "mark": mark, **plain, "sizes": [w.rows for w in self.windows],
                "columns": {n: _packed([w.columns[n] for w in self.windows]) for n in names},
                "sure": [s.tolist() for s in self.sure], "bins": [astuple(b) for b in self.bins.values()],
                "odd_rows": self.odd.rows, "odd": odd.kept(self.odd),
                "learners": {n: learner.to_json() for n, learner in self.learners.items()},
            },
        )  # fmt: skip


_PLAIN = ("after", "unit", "rows", "probes", "first", "last", "times", "latency", "failed_after")


def restored(path: Path, mark: str, origin: Origin) -> Tally:
    """The tally in a file; an empty one where there is none, or it is of another reference."""
    tally, kept = Tally(origin), read_json(path)
    if not kept or kept["format"] != FORMAT or kept["mark"] != mark:
        return tally
    for name in _PLAIN:
        setattr(tally, name, kept[name])
    tally.latency = {int(k): v for k, v in kept["latency"].items()}
    columns = {n: _unpacked(data) for n, data in kept["columns"].items()}
    tally.windows = [Window(rows, {n: s[i] for n, s in columns.items()}) for i, rows in enumerate(kept["sizes"])]
    tally.sure = [np.array(s, np.int64) for s in kept["sure"]]
    tally.bins = {b[0]: Bin(*b) for b in kept["bins"]}
    tally.odd = odd.restored(kept["odd_rows"], kept["odd"])
    tally.learners = {n: Learner.from_json(made.domain, kept["learners"][n]) for n, made in tally.learners.items()}
    return tally


def _packed(sketches: list[Sketch]) -> dict[str, Any]:
    counts = np.stack([s.counts for s in sketches])
    small = counts.astype(np.min_scalar_type(int(counts.max(initial=0))))
    return {
        "cells": counts.shape[1], "type": small.dtype.str, "counts": base64.b64encode(small.tobytes()).decode(),
        "outside": [(s.under, s.over) for s in sketches], "new": [s.new for s in sketches],
        "told": [astuple(s.told) for s in sketches] if any(s.told.rows for s in sketches) else [],
    }  # fmt: skip


def _unpacked(data: Mapping[str, Any]) -> list[Sketch]:
    flat = np.frombuffer(base64.b64decode(data["counts"]), np.dtype(data["type"])).reshape(-1, data["cells"])
    told = [Told(*t) for t in data["told"]] or [Told()] * len(flat)
    rest = zip(flat.astype(np.int64), data["outside"], data["new"], told, strict=True)
    return [Sketch(counts, under, over, new, judged) for counts, (under, over), new, judged in rest]
