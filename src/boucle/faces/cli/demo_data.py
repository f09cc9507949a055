"""The end of the demo: what the loop did to the data, and the same data in another place."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from boucle.faces.cli import out

if TYPE_CHECKING:
    from boucle.workspace import Workspace


def changed(ws: Workspace, name: str) -> str:
    """From the first version of a dataset to its newest, in a sentence."""
    from boucle.data.diff import diff
    from boucle.ledger import datasets
    from boucle.measure.difference import Difference

    versions = datasets.versions(ws, name)
    found = diff(ws, versions[-1].ref, versions[0].ref)
    assert isinstance(found, Difference)
    return (
        f"{versions[-1].key} -> {versions[0].key}: {out.many(found.added, 'row')} came, {found.removed:,} went, "
        f"{found.changed:,} changed"
    )


def copied(ws: Workspace, remote: Path, elsewhere: Path) -> str:
    """Push to a folder, pull from it into an empty workspace, and compare."""
    from boucle.data.sync import pull, push
    from boucle.ledger import datasets
    from boucle.workspace import init

    for folder in (remote, elsewhere):
        shutil.rmtree(folder, ignore_errors=True)
    sent = push(ws, str(remote))
    with init(elsewhere) as other:
        pull(other, str(remote))
        for name in datasets.names(ws):
            mine, theirs = datasets.latest(ws, name), datasets.latest(other, name)
            assert mine is not None and theirs is not None and mine.digest == theirs.digest
            frame = datasets.frame(other, theirs)
            assert sum(b.num_rows for b in frame.batches()) == mine.rows
    return f"pushed to {remote} ({out.size(sent.bytes)}), pulled into {elsewhere}: the same digests"
