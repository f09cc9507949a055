"""Drift of a million rows of 20 columns, from two Parquet files to all scores, beside plain NumPy sorting the same columns
for one distance each. Wall time counts here: both use all cores."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from timing import best, table

from boucle.measure.drift import Drift, drift
from boucle.measure.sketch import Reference
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


if __name__ == "__main__":
    main()
