"""Files that go along with a table made from another one: what its rows name by digest is kept as long as the table is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from boucle.core.records import Dataset
from boucle.ledger import recording, tables, trees

if TYPE_CHECKING:
    from boucle.ports.blobs import Blobs

_DIGEST = re.compile("[0-9a-f]{64}")


def carried(ws: recording.Ledger, stored: tables.Stored) -> tables.Stored:
    """The same table with the files that its rows name, of those that belong to what the active run read.

    A column of texts holds digests when the range of one of its blocks is one of digests, whatever the column is called.
    """
    lines = [line for tree in _trees_read(ws) for line in trees.files(ws.blobs, tree).lines]
    if not lines:
        return stored
    manifest = tables.load_manifest(ws.blobs, stored.manifest)
    named = _named(ws.blobs, manifest)
    own = manifest.get("tree", "")
    kept = dict(_by_path(trees.files(ws.blobs, own).lines)) if own else {}
    have = {line[:64] for line in kept.values()}
    before = len(kept)
    for path, line in _by_path(lines):
        digest = line[:64]
        if digest in named and digest not in have:
            apart = f"{digest}/{path.rpartition('/')[2]}"  # files of several datasets may have one path
            kept[apart] = f"{line[: -len(path)]}{apart}"
            have.add(digest)
    if len(kept) == before:
        return stored
    tree = trees.write(ws.blobs, [kept[path] for path in sorted(kept)])
    return replace(stored, manifest=tables.with_tree(ws.blobs, manifest, tree))


def _trees_read(ws: recording.Ledger) -> list[str]:
    found: dict[str, None] = {}
    for ref in recording.datasets_above(ws, recording.used_now()):
        dataset = ws.store.get(Dataset, ref.partition(":")[2])
        if dataset is not None:
            files = dataset.type == "files"
            found[dataset.manifest if files else tables.load_manifest(ws.blobs, dataset.manifest).get("tree", "")] = (
                None
            )
    return [tree for tree in found if tree]


def _by_path(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    return ((line.split(" ", 3)[3], line) for line in lines)


def _named(blobs: Blobs, manifest: Mapping[str, Any]) -> set[str]:
    """Every text in the columns that hold digests."""
    arrow, blocks = tables.arrow_of(manifest), manifest["blocks"]
    texts = [f.name for f in arrow if pa.types.is_string(f.type)]
    columns = [name for name in texts if any(map(_DIGEST.fullmatch, _ends(name, blocks)))]
    wanted = pa.schema([arrow.field(name) for name in columns])
    found: set[str] = set()
    for block in blocks if columns else ():
        for column in tables.read_block(blobs, block, wanted).columns:
            found.update(column.unique().to_pylist())
    return found


def _ends(name: str, blocks: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for block in blocks:
        yield from block.get("ranges", {}).get(name, ())
