"""A CSV file of two million rows and ten mixed columns becomes a dataset version (types over all rows, digest, statistics,
Parquet blocks on disk), beside Polars alone and pyarrow alone reading it and writing it as Parquet, which do none of the rest.
Wall time counts here: all use all cores. Memory is the most that a process of its own had."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv

ROUNDS = 3


def make(path: Path, rows: int) -> None:
    random = np.random.default_rng(7)
    words = np.array(["paid", "open", "late", "sent back", "in doubt"])
    cities = np.array([f"city {i}" for i in range(5000)])
    moments = np.datetime64("2026-01-01T00:00:00") + random.integers(0, 30_000_000, rows).astype("timedelta64[s]")
    columns = {
        "id": np.arange(rows),
        "customer": random.integers(0, 10**9, rows),
        "amount": np.round(random.exponential(90, rows), 2),
        "score": random.normal(size=rows),
        "weight": pa.array(random.normal(70, 12, rows).round(4), mask=random.random(rows) < 0.05),
        "state": random.choice(words, rows),
        "city": random.choice(cities, rows),
        "at": pa.array(moments),
        "valid": pa.array(random.random(rows) < 0.8),
        "note": np.char.add("order no. ", random.integers(0, 10**7, rows).astype(str)),
    }
    arrow_csv.write_csv(pa.table(columns), path, arrow_csv.WriteOptions(quoting_style="none"))


def ours(source: Path, folder: Path) -> None:
    from boucle import workspace
    from boucle.data.ingest import ingest

    with workspace.init(folder / "ws") as ws:
        assert ingest(ws, str(source), "orders").new


def polars_alone(source: Path, folder: Path) -> None:
    import polars as pl

    pl.read_csv(source, try_parse_dates=True).write_parquet(folder / "polars.parquet")


def polars_streaming(source: Path, folder: Path) -> None:
    import polars as pl

    pl.scan_csv(source, try_parse_dates=True).sink_parquet(folder / "streamed.parquet")


def arrow_alone(source: Path, folder: Path) -> None:
    import pyarrow.parquet as pq

    pq.write_table(arrow_csv.read_csv(source), folder / "arrow.parquet", compression="zstd")


WAYS: dict[str, Callable[[Path, Path], None]] = {
    "boucle": ours, "polars": polars_alone, "polars streaming": polars_streaming, "pyarrow": arrow_alone,
}  # fmt: skip


def once(way: str, source: Path) -> dict[str, float]:
    """In a process of its own, imports left out."""
    with tempfile.TemporaryDirectory() as folder:
        code = [sys.executable, __file__, "--one", way, str(source), folder]
        return json.loads(subprocess.run(code, check=True, capture_output=True, text=True).stdout)


def memory() -> float:
    """MiB at most since the program began; the system's own figure for a process begins with that of its parent."""
    status = Path("/proc/self/status")
    if status.exists():
        return float(status.read_text().partition("VmHWM:")[2].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def one(way: str, source: Path, folder: Path) -> None:
    import polars  # noqa: F401
    import pyarrow.parquet  # noqa: F401

    import boucle.data.ingest  # noqa: F401

    started, cpu = time.perf_counter(), time.process_time()
    WAYS[way](source, folder)
    print(json.dumps({
        "wall": time.perf_counter() - started,
        "cpu": time.process_time() - cpu,
        "memory": memory(),
    }))  # fmt: skip


def main(rows: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "orders.csv"
        make(source, rows)
        size = source.stat().st_size / 1e6
        print(f"{rows:,} rows, {size:.0f} MB of CSV; the best of {ROUNDS} rounds")
        print(f"{'':20}{'wall s':>8}{'CPU s':>8}{'MB/s':>8}{'MiB':>8}{'speed of polars':>18}")
        found = {way: [] for way in WAYS}
        for _ in range(ROUNDS):
            for way in WAYS:
                found[way].append(once(way, source))
        best = {way: min(rounds, key=lambda r: r["wall"]) for way, rounds in found.items()}
        for way, got in best.items():
            share = best["polars"]["wall"] / got["wall"]
            print(
                f"{way:20}{got['wall']:8.2f}{got['cpu']:8.2f}{size / got['wall']:8.0f}{got['memory']:8.0f}{share:17.0%}"
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 2_000_000)
