"""The program that reads ORC files, for Arrow's reader can crash on damaged ones: writes an Arrow stream to its output.

It imports nothing of the package. What is wrong stands behind `error:` in the last line that it says.

    python orc_rows.py PATH MEMORY about             # the schema, with rows and stripes as its metadata
    python orc_rows.py PATH MEMORY rows SIZE NAMES   # batches of SIZE rows; NAMES are JSON, null for all
"""

from __future__ import annotations

import json
import sys

import pyarrow as pa
from pyarrow import dataset, orc


def limit(memory: int) -> None:
    """Let this process have no more memory than that, where the system can see to it."""
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(path: str, what: str, size: str = "", names: str = "null") -> None:
    """Do what was asked."""
    if what == "about":
        file = orc.ORCFile(path)
        about = {"rows": str(file.nrows), "stripes": str(file.nstripes)}
        with pa.ipc.new_stream(sys.stdout.buffer, file.schema.with_metadata(about)):
            return
    table = dataset.dataset(path, format="orc")
    columns = json.loads(names)
    # Nothing is read ahead, so that one batch and one stripe's streams are all that is in memory.
    scanner = table.scanner(
        columns=columns, batch_size=int(size), batch_readahead=1, fragment_readahead=1, use_threads=False
    )
    with pa.ipc.new_stream(sys.stdout.buffer, scanner.projected_schema.remove_metadata()) as stream:
        for batch in scanner.to_batches():
            batch.validate(full=True)
            stream.write_batch(batch.replace_schema_metadata(None))


if __name__ == "__main__":
    limit(int(sys.argv[2]))
    try:
        main(sys.argv[1], *sys.argv[3:])
        sys.stdout.buffer.flush()
    except (pa.ArrowException, OSError, UnicodeError, MemoryError, OverflowError) as error:
        sys.exit(f"error: {' '.join(str(error).split()) or type(error).__name__}")
