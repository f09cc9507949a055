"""A table of files: one row each, with what their content tells."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from boucle.core import files
from boucle.core.errors import Conflict, Invalid, Unavailable
from boucle.core.frames import Frame, arrow_schema
from boucle.core.schema import Column, Schema
from boucle.data.media import documents, kinds, pictures, sounds, videos
from boucle.data.together import Item
from boucle.ledger import trees
from boucle.ports.source import Reading
from boucle.workspace import Workspace

_BATCH, _CHARACTERS = 1024, 4 << 20
_MP4 = frozenset({"video/mp4", "video/quicktime", "video/3gpp", "audio/mp4"})
_PICTURE = (("width", "int32"), ("height", "int32"), ("channels", "int32"), ("mode", "string"), ("taken", "timestamp"))
_SOUND = (("sample_rate", "int32"), ("channels", "int32"), ("duration", "float64"))
_VIDEO = (
    ("width", "int32"), ("height", "int32"), ("fps", "float64"), ("duration", "float64"), ("frames", "int64"),
    ("codec", "string"), ("sample_rate", "int32"), ("channels", "int32"), ("audio_codec", "string"),
)  # fmt: skip
_TEXT = (("title", "string"), ("text", "string"), ("lines", "int64"), ("encoding", "string"))
_PAGES = (("pages", "int32"), ("title", "string"), ("text", "string"))
_EXTRAS = {"pdf": "pages, title and text", "video": "size, duration and codec", "images": "size and channels"}


@dataclass(slots=True)
class Table:
    """Files as rows, about to be read."""

    reading: Reading
    kinds: dict[str, int]  # media type -> files
    tree: str = ""  # the manifest of their contents, where they were stored
    more: list[str] = field(default_factory=list)  # what would tell more about some of them


def table(
    ws: Workspace,
    items: Sequence[Item],
    *,
    keep: bool = True,
    folders: Sequence[str] = (),
    largest: int = 0,
    said: Callable[[str], None] | None = None,
) -> Table:
    """One row per file: path, size, modified, media_type, digest, label, and what its kind tells; `problem` for what is damaged.

    Contents are stored as blobs, unless `keep` is false (then there is no digest). `label` is the name of the folder when all
    files lie equally deep in several; `folders` names the levels instead. Raises `Invalid` for a file of more than `largest`
    bytes, where that is given.
    """
    if too_large := next((i for i in items if largest and i.size > largest), None):
        raise Invalid(f"{too_large.path} has {too_large.size:,} bytes", expected=f"at most {largest:,}, as was said")
    types = [kinds.media_type(_head(i), files.ending(i.path)) for i in items]
    digests: dict[str, str] = {}
    tree = ""
    if keep:
        stored = trees.add(ws.blobs, _told(items, said))
        tree = stored.manifest
        digests = {trees.escaped(e.path): e.digest for e in stored}
    labels = _labels(items, folders)
    schema = _schema(types, list(labels))
    lacking = sorted({extra for kind in set(types) if (extra := _extra(kind))})
    more = [f"pip install 'boucle[{e}]' tells {_EXTRAS[e]} of more of them" for e in lacking if not _installed(e)]

    def opener(columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        names = list(schema.names if columns is None else columns)
        arrow = arrow_schema(schema.select(names))
        rows: list[dict[str, Any]] = []
        held = 0
        for i, (item, kind) in enumerate(zip(items, types, strict=True)):
            row = {
                "path": item.path,
                "size": item.size,
                "modified": _moment(item.modified),
                "media_type": kind,
                "digest": digests.get(item.path),
                **{name: values[i] for name, values in labels.items()},
                **facts(item.local, kind, documents.LONGEST),
            }
            rows.append(row)
            held += len(row.get("text") or "")
            if len(rows) == _BATCH or held > _CHARACTERS:
                yield _batch(rows, arrow)
                rows, held = [], 0
        if rows:
            yield _batch(rows, arrow)

    return Table(Reading(Frame(schema, opener, len(items))), dict(Counter(types)), tree, more)


def facts(path: Path, kind: str, longest: int) -> dict[str, Any]:
    """What the content of a file of a media type tells, and `problem` when it is damaged; texts up to so many characters."""
    found: dict[str, Any] = {}
    size = path.stat().st_size
    problem = "it is empty" if not size else ""
    if size:
        with path.open("rb") as file:
            try:
                problem = _facts(file, size, kind, longest, found)
            except ImportError:
                problem = ""  # an extra is not there: nothing is known of the file
    found = {k: v for k, v in found.items() if v is not None}
    for name in ("width", "height", "channels", "sample_rate", "pages"):
        if not 0 <= found.get(name, 0) < 1 << 31:
            del found[name]
            problem = problem or f"its {name} cannot be"
    return {**found, "problem": problem or None}


def _facts(file: Any, size: int, kind: str, longest: int, found: dict[str, Any]) -> str:
    family = kind.partition("/")[0]
    if kind in _MP4:
        return videos.facts(file, size, found)
    if kind == "text/html":
        return documents.html(file, size, found, longest)
    if kind == "application/pdf":
        return documents.pdf(file, found, longest)
    if family == "text":
        return documents.plain(file, size, found, longest, markdown=kind == "text/markdown")
    if family == "image":
        problem = pictures.facts(kind, file, size, found)
        if not problem and "width" not in found and kind in _asked_of_pillow:
            from boucle.data.media.content import asked_of_pillow

            return asked_of_pillow(file, found)
        return problem
    problem = sounds.facts(kind, file, size, found) if family == "audio" else ""
    if not problem and "sample_rate" not in found and family in ("video", "audio"):
        file.seek(0)
        return videos.asked_of_av(file, found)
    return problem


_asked_of_pillow = frozenset({"image/avif", "image/jp2", "image/vnd.microsoft.icon", "image/vnd.adobe.photoshop"})


def _extra(kind: str) -> str:
    """The extra that tells more about a media type."""
    if kind == "application/pdf":
        return "pdf"
    if kind in _asked_of_pillow:
        return "images"
    return "video" if (kind.startswith("video/") and kind not in _MP4) or kind in ("audio/aac", "audio/midi") else ""


def _installed(extra: str) -> bool:
    from importlib.util import find_spec

    return find_spec({"pdf": "pypdf", "video": "av", "images": "PIL"}[extra]) is not None


def _head(item: Item) -> bytes:
    try:
        with item.local.open("rb") as file:
            return file.read(kinds.HEAD)
    except OSError as error:
        raise Unavailable(f"{item.local} cannot be read: {error.strerror}", fix="check who may read it") from error


def _told(items: Sequence[Item], said: Callable[[str], None] | None) -> Iterator[tuple[str, Path]]:
    total = 0
    for i, item in enumerate(items):
        yield trees.unescaped(item.path), item.local
        total += item.size
        if said is not None:
            said(f"stored {i + 1:,} of {len(items):,} files, {total / 1e6:,.1f} MB")


def _moment(seconds: float) -> dt.datetime | None:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).replace(tzinfo=None) if 0 < seconds < 1 << 36 else None


def _labels(items: Sequence[Item], folders: Sequence[str]) -> dict[str, list[str]]:
    """The columns that the folders of the files give."""
    levels = [i.path.split("/")[:-1] for i in items]
    if folders:
        if short := next((i for i, parts in zip(items, levels, strict=True) if len(parts) < len(folders)), None):
            raise Invalid(
                f"{short.path} lies in fewer folders than folders={','.join(folders)} names",
                expected="a name for each level, from the top",
            )
        return {name: [parts[i] for parts in levels] for i, name in enumerate(folders)}
    same = {len(parts) for parts in levels}
    if len(same) == 1 and same != {0} and len({parts[-1] for parts in levels}) > 1:
        return {"label": [parts[-1] for parts in levels]}
    return {}


def _schema(types: Sequence[str], labels: Sequence[str]) -> Schema:
    columns = {"path": "string", "size": "int64", "modified": "timestamp", "media_type": "string", "digest": "string"}
    if taken := set(labels) & set(columns):
        raise Invalid(f"a folder cannot be named {min(taken)!r}", expected="another name in folders")
    columns |= dict.fromkeys(labels, "string")
    for kind in sorted(set(types)):
        columns |= dict(_columns(kind))
    columns["problem"] = "string"
    sure = {"path", "size", "media_type", *labels}
    return Schema(tuple(Column(name, kind, name not in sure) for name, kind in columns.items()))


def _columns(kind: str) -> Sequence[tuple[str, str]]:
    family = kind.partition("/")[0]
    if kind == "application/pdf":
        return _PAGES
    return {"image": _PICTURE, "audio": _SOUND, "video": _VIDEO, "text": _TEXT}.get(family, ())


def _batch(rows: list[dict[str, Any]], arrow: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [pa.array([row.get(f.name) for row in rows], f.type) for f in arrow], schema=arrow
    )


def joined(ws: Workspace, old: str, new: str, *, replaces: bool) -> str:
    """The manifest of the files of both; raises `Conflict` when two have one path, unless the new one `replaces` the old."""
    lines = {e.path: e for e in trees.files(ws.blobs, old)}
    for entry in trees.files(ws.blobs, new):
        before = lines.get(entry.path)
        if before is not None and before.digest != entry.digest and not replaces:
            raise Conflict(
                f"{entry.path} is there already, with another content",
                expected="new files",
                fix="let it take the place of the other: mode=merge, key=path; or take all anew: mode=replace",
            )
        lines[entry.path] = entry
    return trees.write(ws.blobs, [lines[path].line for path in sorted(lines, key=trees.escaped)])
