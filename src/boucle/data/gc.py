"""What nothing needs any more: blobs that no record refers to, and files that interrupted writes left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from boucle.core.errors import Invalid, NotFound
from boucle.core.records import Run
from boucle.core.where import field
from boucle.ledger import contents

if TYPE_CHECKING:
    from boucle.workspace import Workspace

DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Swept:
    """Blobs that nothing needs with their bytes, files that went with them, and what is too young to be judged."""

    blobs: tuple[str, ...]
    bytes: int
    live: int
    young: int
    files: int = 0  # temporary files and packs that were mostly removed
    removed: bool = False


def gc(ws: Workspace, *, yes: bool = False, grace: float = DAY) -> Swept:
    """Find blobs that no record refers to, and remove them with `yes`.

    A blob that was stored, or stored again, less than `grace` seconds ago (a day) is left alone, as is whatever was stored
    since the oldest run that is still going began: its record may be about to be written. Before anything is removed, all
    records are looked at once more. Raises `NotFound` or `Corrupt`, and removes nothing, where a record cannot be read.
    """
    if grace < 0:
        raise Invalid(f"grace is {grace}", expected="seconds, 0 or more")
    live = contents.live(ws)
    until = _until(ws, grace)
    found: dict[str, int] = {}
    young = 0
    for digest in ws.blobs.list():
        if digest in live:
            continue
        if _stored(ws, digest) >= until:
            young += 1
            continue
        try:
            found[digest] = ws.blobs.size(digest)
        except NotFound:
            continue  # removed since it was listed
    if not yes:
        return Swept(tuple(found), sum(found.values()), len(live), young)
    return _removed(ws, found, len(live), young, until)


def _removed(ws: Workspace, found: dict[str, int], live: int, young: int, until: float) -> Swept:
    needed = contents.live(ws)
    # Storing what is there already makes it young, so whoever came to need it since is seen here.
    gone = [d for d in found if d not in needed and _stored(ws, d) < until and ws.blobs.remove(d)]
    return Swept(tuple(gone), sum(found[d] for d in gone), live, young, ws.blobs.sweep(), True)


def _stored(ws: Workspace, digest: str) -> float:
    try:
        return ws.blobs.stored(digest)
    except NotFound:
        return float("inf")  # removed since it was listed


def _until(ws: Workspace, grace: float) -> float:
    begun = [run.started for run in ws.store.find(Run, field("status") == "running")]
    return min([ws.now() - grace, *begun])
