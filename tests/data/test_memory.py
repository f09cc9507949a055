"""Tables larger than the memory that reading them takes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import boucle
from boucle.core.frames import Frame, schema_of

pytestmark = pytest.mark.slow

ROWS, COLUMNS = 12_000_000, 16  # 1.5 GB as they are in memory
MOST = 400  # MB, of which about 130 are Python and its libraries
MOST_SQL = 550  # Arrow reads ahead for DuckDB, on top of what DuckDB may take itself

_PROGRAM = """
import sys
import boucle
from boucle.data.export import encode
from boucle.ledger import datasets

def peak():
    line = next(l for l in open("/proc/self/status") if l.startswith("VmHWM"))
    return int(line.split()[1]) // 1024

ws = boucle.open(sys.argv[1])
frame = datasets.load(ws, "big")
rows = frame.rows
count = {
    "batches": lambda: sum(b.num_rows for b in frame.batches()),
    "shuffled": lambda: sum(len(a["c0"]) for a in frame.shuffled(100_000).arrays(4096)),
    "stream": lambda: sum(b.num_rows for b in frame.reader()),
    "parquet": lambda: rows if sum(map(len, encode(frame, "parquet"))) else 0,
    "sql": lambda: sum(b.num_rows for b in boucle.sql(ws, "select * from big where c0 >= 0", memory="200MB").batches()),
}[sys.argv[2]]()
assert count == rows == int(sys.argv[3]), count
print(peak())
"""


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("big")
    values = np.random.default_rng(0).integers(0, 1000, 65_536).astype(float)
    names = [f"c{k}" for k in range(COLUMNS)]

    def opener(columns: Sequence[str] | None):
        for at in range(0, ROWS, 65_536):
            some = values[: min(65_536, ROWS - at)]
            yield pa.RecordBatch.from_pydict(
                {n: some + k for k, n in enumerate(names) if columns is None or n in columns}
            )

    schema = schema_of(pa.schema([(n, pa.float64()) for n in names]))
    boucle.commit(boucle.init(folder), "big", Frame(schema, opener, ROWS))
    return folder


@pytest.mark.parametrize("way", ["batches", "shuffled", "stream", "parquet", "sql"])
def test_memory_is_bounded(big: Path, way: str) -> None:
    command = [sys.executable, "-c", _PROGRAM, str(big), way, str(ROWS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < (MOST_SQL if way == "sql" else MOST)
