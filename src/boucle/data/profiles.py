"""The state of a profile between two appends, so that a version costs its new rows and not all of them.

It is a memory, not a record: when it is gone, the old rows are profiled again. It is pickled, and opened only when this
workspace signed it.
"""

from __future__ import annotations

import functools
import hmac
import os
import pickle
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
from blake3 import blake3

from boucle.core import hashes
from boucle.core.frames import Frame
from boucle.core.records import Dataset
from boucle.ledger import datasets
from boucle.measure import quality
from boucle.measure.quality import Profiler
from boucle.workspace import Workspace


def keep(ws: Workspace, dataset: Dataset, profiler: Profiler) -> None:
    """Remember the profile of a version; the one before of that dataset is forgotten."""
    body = _mark(dataset) + pickle.dumps(profiler, protocol=5)
    place = _place(ws, dataset.name)
    draft = place.with_name(f"{place.name}.{os.getpid()}.{threading.get_ident()}")
    draft.write_bytes(hmac.digest(ws.key, body, "sha256") + body)
    draft.replace(place)


def continued(ws: Workspace, dataset: Dataset) -> Profiler:
    """The profile of a version, ready for more rows."""
    try:
        sealed = _place(ws, dataset.name).read_bytes()
    except FileNotFoundError:
        sealed = b""
    signature, body, mark = sealed[:32], sealed[32:], _mark(dataset)
    if body.startswith(mark) and hmac.compare_digest(signature, hmac.digest(ws.key, body, "sha256")):
        known: Profiler = pickle.loads(body[len(mark) :])  # noqa: S301  signed with this workspace's own key
        return known
    profiler = Profiler()
    for batch in datasets.frame(ws, dataset).batches():
        profiler.update(batch)
    return profiler


def followed(frame: Frame, profiler: Profiler) -> Frame:
    """The same frame, whose rows a profile takes in behind those it has seen while somebody else reads them."""

    def opener(columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        for batch in frame.batches(columns):
            profiler.update(batch)
            yield batch

    return Frame(frame.schema, opener, frame.rows)


def _place(ws: Workspace, name: str) -> Path:
    return ws.folder("profiles") / blake3(name.encode()).hexdigest()[:32]


def _mark(dataset: Dataset) -> bytes:
    """Of which content, and by which code: a profiler of another make is not opened."""
    return blake3(f"{dataset.digest} {_made_by()}".encode()).digest()


@functools.cache
def _made_by() -> str:
    return str(blake3(b"".join(Path(str(m.__file__)).read_bytes() for m in (quality, hashes))).hexdigest())
