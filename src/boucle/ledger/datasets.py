"""Datasets: immutable, numbered versions of tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from boucle.core.errors import Conflict, Invalid, NotFound
from boucle.core.records import Dataset, Edge, Event
from boucle.core.refs import Ref, check_name
from boucle.core.schema import Schema, check_evolution
from boucle.core.where import field
from boucle.ledger import recording
from boucle.ledger.recording import Ledger

if TYPE_CHECKING:  # versions of files are looked up without loading what tables need
    from boucle.core.frames import Frame
    from boucle.ledger import tables, trees


def commit(
    ws: Ledger,
    name: str,
    frame: Frame | tables.Stored,
    *,
    source: str = "",
    statistics: str = "",
    run: str = "",
    description: str = "",
    tags: Mapping[str, Any] | None = None,
    owner: str = "",
    licence: str = "",
    evolve: bool = False,
    renames: Mapping[str, str] | None = None,
    position: Mapping[str, Any] | None = None,
    after: str | None = None,
) -> tuple[Dataset, bool]:
    """Make a table the next version of a dataset; returns it, and whether it is new.

    Content that is identical to the latest version makes none. A new version is the event `dataset.committed`. A schema
    that does not follow from the latest version's (see `core.schema.evolve`) raises `Refused`, unless `evolve`. `frame`
    may have been written already.

    `position` is where the source stands after these rows; it is kept with the version, in one transaction, and with the
    latest version when the content is the same. `after` is the version that the content was made from (its key, empty for
    none): when another one came since, `Conflict` is raised.
    """
    from boucle.core.frames import Frame
    from boucle.ledger import tables

    check_name(name, "dataset name")
    frame = frame if isinstance(frame, tables.Stored) else Frame.of(frame)
    if isinstance(frame, Frame) and not evolve:
        before = latest(ws, name)
        if before is not None:  # before anything is written; true nulls are only known after it
            check_evolution(name, _loosened(before), _nullable(frame.schema), renames)
    stored = frame if isinstance(frame, tables.Stored) else tables.write(ws.blobs, frame)
    if recording.active.get() is not None:
        from boucle.ledger.carried import carried

        stored = carried(ws, stored)
    run = run or recording.current_run()
    with ws.store.transaction():
        before = latest(ws, name)
        now = before.key if before else ""
        if after is not None and now != after:
            raise Conflict(
                f"{now or 'nothing'} is the latest version of {name}, which was not so when this one was begun",
                expected=f"{after or 'no version'}, from which it was made",
                fix="do it again, from the newest version",
            )
        if before is not None and before.digest == stored.digest:
            dataset, new = before, False
            if position is not None and before.position != position:
                dataset = replace(before, position=dict(position))
                ws.store.put(dataset)
        else:
            if before is not None and not evolve:
                check_evolution(name, Schema.from_json(before.schema), stored.schema, renames)
            new = True
            dataset = Dataset(
                name=name,
                version=before.version + 1 if before else 1,
                digest=stored.digest,
                manifest=stored.manifest,
                rows=stored.rows,
                size=stored.size,
                schema=stored.schema.to_json(),
                statistics=statistics,
                source=source,
                created=ws.now(),
                actor=ws.actor,
                run=run,
                owner=owner or (before.owner if before else ""),
                licence=licence or (before.licence if before else ""),
                description=description or (before.description if before else ""),
                tags=dict(tags or {}),
                position=dict(position or {}),
            )
            ws.store.add(dataset)
            if after:
                ws.store.link(Edge(str(dataset.ref), "continues", f"dataset:{after}", dataset.created))
            ws.store.append(
                Event(
                    type="dataset.committed",
                    subject=str(dataset.ref),
                    time=dataset.created,
                    actor=ws.actor,
                    data={
                        "digest": dataset.digest,
                        "rows": dataset.rows,
                        "source": source,
                        "run": run,
                        **({"tags": dict(tags)} if tags else {}),
                    },
                )
            )
    recording.note_made(str(dataset.ref))
    return dataset, new


def commit_files(
    ws: Ledger,
    name: str,
    tree: trees.Tree,
    *,
    source: str = "",
    description: str = "",
    tags: Mapping[str, Any] | None = None,
) -> tuple[Dataset, bool]:
    """Make stored files the next version of a dataset; returns it, and whether it is new.

    The same files as in the latest version make none. Raises `Invalid` when the dataset is a table.
    """
    from boucle.ledger import trees

    check_name(name, "dataset name")
    run = recording.current_run()
    with ws.store.transaction():
        before = latest(ws, name)
        if before is not None and before.type != "files":
            raise Invalid(f"{name} is a table", expected="a dataset of files", fix="choose another name")
        if before is not None and before.digest == tree.manifest:
            dataset, new = before, False
        else:
            new, now = True, ws.now()
            dataset = Dataset(
                name=name,
                version=before.version + 1 if before else 1,
                digest=tree.manifest,
                manifest=tree.manifest,
                rows=len(tree),
                size=tree.size,
                schema=trees.SCHEMA,
                type="files",
                source=source,
                created=now,
                actor=ws.actor,
                run=run,
                owner=before.owner if before else "",
                licence=before.licence if before else "",
                description=description or (before.description if before else ""),
                tags=dict(tags or {}),
            )
            ws.store.add(dataset)
            data = {"digest": dataset.digest, "rows": dataset.rows, "source": source, "run": run}
            ws.store.append(
                Event(type="dataset.committed", subject=str(dataset.ref), time=now, actor=ws.actor, data=data)
            )
    recording.note_made(str(dataset.ref))
    return dataset, new


def _nullable(schema: Schema) -> Schema:
    data = schema.to_json()
    for column in data["columns"]:
        column["nullable"] = True
    return Schema.from_json(data)


def _loosened(dataset: Dataset) -> Schema:
    return _nullable(Schema.from_json(dataset.schema))


def latest(ws: Ledger, name: str) -> Dataset | None:
    """The newest version, or None."""
    found = ws.store.find(Dataset, field("name") == name, order=("-version",), limit=1)
    return found[0] if found else None


def versions(ws: Ledger, name: str) -> list[Dataset]:
    """All versions of a dataset, the newest first; raises `NotFound` when there is none of that name."""
    found = ws.store.find(Dataset, field("name") == name, order=("-version",))
    if not found:
        raise _no_dataset(ws, name)
    return found


def names(ws: Ledger) -> list[str]:
    """The names of all datasets, sorted."""
    return sorted({d.name for d in ws.store.find(Dataset)})


def resolve(ws: Ledger, ref: Ref | str) -> Dataset:
    """The version that a reference means now: `tx` and `tx@latest`, `tx@3`, `tx@sha1f3a`, `tx@{yesterday}`.

    Raises `NotFound` with the nearest names or versions, and `Invalid` for a digest that begins several versions.
    """
    ref = ref if isinstance(ref, Ref) else Ref.parse(ref, "dataset")
    if ref.kind != "dataset":
        raise Invalid(f"{ref} is not a dataset", expected="dataset:name@version")
    if ref.version in ("", "latest"):
        newest = latest(ws, ref.name)
        if newest is None:
            raise _no_dataset(ws, ref.name)
        return newest
    if ref.number is not None:
        found = ws.store.get(Dataset, f"{ref.name}@{ref.number}")
        if found is not None:
            return found
        raise _no_version(ref, versions(ws, ref.name))
    every = versions(ws, ref.name)
    if ref.digest is not None:
        matching = [d for d in every if d.digest.startswith(ref.digest)]
        if len({d.digest for d in matching}) > 1:
            raise Invalid(
                f"{ref} is the beginning of several digests",
                expected="enough of one: " + ", ".join(f"sha{d.digest[:12]}" for d in matching[:5]),
            )
    elif (moment := ref.moment()) is not None:
        matching = [d for d in every if d.created <= moment]
    else:
        matching = []
    if not matching:
        raise _no_version(ref, every)
    return matching[0]


def _no_dataset(ws: Ledger, name: str) -> NotFound:
    return NotFound.named("dataset", name, names(ws), fix=f"boucle data ingest FILE --name {name}")


def _no_version(ref: Ref, every: list[Dataset]) -> NotFound:
    low, high = every[-1].version, every[0].version
    return NotFound(
        f"no version {ref.version!r} of dataset {ref.name}",
        expected=f"a number from {low} to {high}, latest, sha..., or a time in braces such as {{2026-11-01}}",
        fix=f"boucle show dataset:{ref.name}",
    )


def load(ws: Ledger, ref: Ref | str) -> Frame:
    """The table of a dataset version, lazily; an active run notes that it read it."""
    dataset = resolve(ws, ref)
    recording.note_read(str(dataset.ref), dataset.digest, str(ref))
    return frame(ws, dataset)


def frame(ws: Ledger, dataset: Dataset) -> Frame:
    """The table of a version that is at hand already; nothing is noted. Of a version of files, see `trees.frame`."""
    if dataset.type == "files":
        from boucle.ledger import trees

        return trees.frame(ws.blobs, dataset.manifest, str(dataset.ref))
    from boucle.ledger import tables

    return tables.read(ws.blobs, dataset.manifest, str(dataset.ref))
