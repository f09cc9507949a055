"""Write: a dataset version into a database or another system, all of it or nothing, and the journal knows."""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

from boucle.core.errors import Invalid, MissingExtra
from boucle.core.refs import Ref
from boucle.data.choice import usually_reads
from boucle.data.ingest import shown, source_for
from boucle.ledger import datasets, journal
from boucle.ports import lookup
from boucle.ports.source import Mode
from boucle.ports.vault import revealed
from boucle.workspace import Workspace


def write(
    ws: Workspace,
    ref: Ref | str,
    url: str,
    mode: Mode = "append",
    key: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> int:
    """Write a version to where `url` says, in one transaction; returns the number of rows.

    `append` adds the rows, `replace` leaves nothing but them, `merge` replaces those with the same values of the columns
    `key`. `options` go to the sink; `source` among them names its plugin, which is otherwise chosen by the URL, and a value
    `vault:NAME` is the secret of that name. It becomes the event `dataset.written`, with the URL but neither user nor
    password. Raises `NotFound` for a version that is not there, and `Invalid` where nothing can be written to.

        write(ws, "scores@3", "postgresql://ann@db/shop#scores", "merge", ["id"])
    """
    dataset = datasets.resolve(ws, ref)
    given = revealed(lambda: ws.vault, {"url": url, **(options or {})})
    place = given.pop("url")
    name = given.pop("source", "") or source_for(place)
    plugin = lookup.lookup("source", name)
    if not hasattr(plugin, "write"):
        raise Invalid(
            f"the {name} source cannot be written to",
            expected=f"one of {', '.join(_sinks())}",
            fix=f"boucle data export {dataset.key} FILE",
        )
    rows: int = plugin().write(datasets.load(ws, dataset.ref), place, mode, tuple(key), given)
    into = urllib.parse.unquote(place.partition("#")[2]) or given.get("table") or given.get("key") or ""
    journal.note(
        ws, "dataset.written", str(dataset.ref), to=shown(place), into=into, sink=name, mode=mode, key=list(key), rows=rows,
        digest=dataset.digest,
    )  # fmt: skip
    return rows


def _sinks() -> list[str]:
    found = []
    for name in lookup.names("source"):
        try:
            if hasattr(lookup.lookup("source", name), "write"):
                found.append(name)
        except MissingExtra:
            if "://" in usually_reads(name):
                found.append(f"{name} (not installed)")
    return found
