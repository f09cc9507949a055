"""Drift of a million rows of 20 columns, from two Parquet files to all scores, beside plain NumPy sorting the same columns
for one distance each. Wall time counts here: both use all cores. Then what it costs to keep up with a service: from the lines of
its log to the sketches of all columns, per prediction, beside Python parsing the same lines."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from timing import best, table

from boucle.core import predictions
from boucle.core.frames import Frame
from boucle.core.refs import new_id
from boucle.core.schema import Column, Schema
from boucle.measure.drift import Drift, drift
from boucle.measure.sketch import Reference
from boucle.ops.watch import PREDICTION, log
from boucle.ops.watch.odd import threshold
from boucle.ops.watch.reference import Origin
from boucle.ops.watch.tally import Tally, restored
from boucle.ports.lookup import lookup

NUMBERS, CATEGORIES, CORES = 14, 6, 2


def make(path: Path, rows: int, seed: int, moved: bool) -> None:
    random = np.random.default_rng(seed)
    columns: dict[str, pa.Array] = {}
    for i in range(NUMBERS):
        values = random.exponential(size=rows) if i % 3 == 0 else random.normal(size=rows)
        columns[f"number{i}"] = pa.array(values + (0.3 if moved and i < 5 else 0.0))
    for i in range(CATEGORIES):
        chances = 1 / np.arange(1, 3 + 18 * i)
        chances /= chances.sum()
        drawn = random.choice(len(chances), rows, p=chances[::-1] if moved and i < 3 else chances)
        columns[f"category{i}"] = pa.array(np.array([f"v{j}" for j in range(len(chances))])[drawn])
    pq.write_table(pa.table(columns), path)


def ours(before: Path, now: Path) -> Drift:
    source = lookup("source", "parquet")()
    reference = Reference.of(source.read(str(before), {}).frame)
    return drift(reference, reference.window(source.read(str(now), {}).frame))


def plain(before: Path, now: Path) -> list[float]:
    one, two = pq.read_table(before), pq.read_table(now)

    def number(name: str) -> float:
        a, b = (t[name].to_numpy() for t in (one, two))
        return float(np.abs(np.sort(a) - np.sort(b)).mean() / a.std())

    def category(name: str) -> float:
        counts = [{v["values"]: v["counts"] for v in t[name].value_counts().to_pylist()} for t in (one, two)]
        p, q = (np.array([c.get(n, 0) for n in counts[0]]) / one.num_rows for c in counts)
        return float(((q - p) * np.log((q + 1e-9) / (p + 1e-9))).sum())

    with ThreadPoolExecutor(CORES) as pool:
        return [
            *pool.map(number, (f"number{i}" for i in range(NUMBERS))),
            *pool.map(category, (f"category{i}" for i in range(CATEGORIES))),
        ]


def logged(folder: Path, rows: int, columns: int) -> tuple[log.Layout, Origin]:
    """A log as a service writes it, two thirds of the columns numbers; how to read it and its reference."""
    random = np.random.default_rng(2)
    numbers = columns * 2 // 3
    table: dict[str, list[object]] = {f"number{i}": random.normal(size=rows).round(6).tolist() for i in range(numbers)}
    for i in range(columns - numbers):
        table[f"category{i}"] = [f"value{v}" for v in random.integers(0, 4 + i, rows)]
    (folder / log.FOLDER).mkdir(parents=True)
    with (folder / log.FOLDER / f"{new_id()}.jsonl").open("w") as file:
        for i, values in enumerate(zip(*table.values(), strict=True)):
            share = float(random.random())
            line = {
                "id": new_id(), "time": 1.7e9 + i / 100, "service": "bench", "revision": 1, "model": "bench@1",
                "digest": "0" * 64, "inputs": dict(zip(table, values, strict=True)),
                "output": {"prediction": share, "probabilities": {"no": 1 - share, "yes": share}}, "latency_us": 400 + i % 90,
                "request": f"r{i}",
            }  # fmt: skip
            file.write(json.dumps(line, separators=(",", ":")) + "\n")
    types = [Column(n, "float64" if n.startswith("number") else "string") for n in table]
    output = Schema((Column("prediction", "float64"), Column("probabilities", "struct<no: float64, yes: float64>")))
    training = Frame.of({**{n: v[:2000] for n, v in table.items()}})
    said = Reference.of({PREDICTION: random.random(2000)})
    reference = Reference.of(training)
    whole = Reference(reference.rows, {**reference.columns, **said.columns})
    return log.Layout(Schema(tuple(types)), output), Origin(whole, "", odd=threshold(training))


def keeping_up(columns: int, rows: int = 50_000) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        form, origin = logged(folder, rows, columns)
        state = folder / "watch" / "state.json"

        def all_at_once() -> Tally:
            tally = Tally(origin)
            for block in log.read(folder, form):
                tally.take(block)
            return tally

        def in_looks() -> Tally:
            """Twenty looks, each of which reads the state, reads on, and keeps the state."""
            tally = Tally(origin)
            for block in log.read(folder, form):
                for start in range(0, len(block), rows // 20):
                    tally.take(block.slice(start, min(len(block), start + rows // 20)))
                    tally.keep(state, "bench")
                    tally = restored(state, "bench", origin)
            return tally

        assert all_at_once().rows == in_looks().rows == rows
        limit = best(lambda: sum(1 for _ in predictions.scan(folder / log.FOLDER)), rows, 3)
        table(
            f"Keeping up with a service of {columns} columns, per prediction",
            [
                ("from the log to all sketches", best(all_at_once, rows), limit),
                ("in 20 looks", best(in_looks, rows), limit),
            ],
        )


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        before, now = Path(folder, "before.parquet"), Path(folder, "now.parquet")
        make(before, rows, 0, False)
        make(now, rows, 1, True)
        found = ours(before, now)
        assert sum(c.status != "pass" for c in found.columns) == 8
        work: list[Callable[[], object]] = [lambda: ours(before, now), lambda: plain(before, now)]
        mine, limit = (best(w, 1, 5) for w in work)
        table(
            f"Drift of {rows:,} x {NUMBERS + CATEGORIES}, from Parquet to scores",
            [("all scores and verdicts", mine, limit)],
        )
        print(f"wall: {mine.wall:.3f} s, limit {limit.wall:.3f} s, {mine.wall / limit.wall:.2f}x")
    for columns in (10, 20, 30):
        keeping_up(columns)


if __name__ == "__main__":
    main()
