"""Croissant 1.1 (MLCommons): a version as files with a description that other tools load.

The description follows https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import mimetypes
import os
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from boucle.core.errors import Conflict, Unavailable
from boucle.core.records import Dataset
from boucle.core.refs import Ref
from boucle.core.schema import Schema
from boucle.data.export import export
from boucle.ledger import datasets, trees
from boucle.workspace import Workspace

CONFORMS = "http://mlcommons.org/croissant/1.1"
_CONTEXT: dict[str, Any] = {
    "@language": "en", "@vocab": "https://schema.org/", "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/", "dct": "http://purl.org/dc/terms/", "sc": "https://schema.org/",
    "data": {"@id": "cr:data", "@type": "@json"}, "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"}, "description": {"@container": "@language"},
    "name": {"@container": "@language"}, "conformsTo": "dct:conformsTo",
    **{
        term: f"cr:{term}"
        for term in (
            "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field", "fileProperty",
            "fileObject", "fileSet", "format", "includes", "isArray", "isLiveDataset", "jsonPath", "key", "md5",
            "parentField", "path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate", "separator",
            "source", "subField", "transform",
        )
    },
}  # fmt: skip
_TYPES = {
    "bool": "sc:Boolean", "string": "sc:Text", "date": "sc:Date", "timestamp": "sc:DateTime", "time": "sc:Time",
    "float16": "cr:Float16", "float32": "cr:Float32", "float64": "cr:Float64", "decimal": "sc:Float", "duration": "sc:Text",
    "binary": "sc:Text", "null": "sc:Text",
    **{f"{sign}int{bits}": f"cr:{'U' if sign else ''}Int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}  # fmt: skip
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip archive can hold; the same files make the same archive


def to_croissant(ws: Workspace, ref: Ref | str, folder: Path) -> Path:
    """Write a version into a new folder: its data (a Parquet file, or a zip archive of files), and `croissant.json`.

    The folder appears when it is complete. Returns the path of the description. Raises `Conflict` when there is such a
    folder already.
    """
    dataset = datasets.resolve(ws, ref)
    if folder.exists():
        raise Conflict(f"{folder} is there already", expected="a folder that is not there yet")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    except OSError as error:
        raise Unavailable(
            f"cannot write {folder}: {error.strerror}", expected="a place that may be written to"
        ) from error
    try:
        # Readers keep what they fetched by its name, so the name says which content it is.
        stem = f"{dataset.name.replace('/', '-')}-{dataset.version}-{dataset.digest[:12]}"
        file = draft / f"{stem}{'.zip' if dataset.type == 'files' else '.parquet'}"
        if dataset.type == "files":
            _zip(ws, dataset, file)
        else:
            export(ws, dataset.ref, file)
        description = describe(ws, dataset, file.name, file.stat().st_size, _sha256(file))
        (draft / "croissant.json").write_text(
            json.dumps(description, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        draft.chmod(0o755)
        draft.rename(folder)
    except OSError as error:
        raise Unavailable(f"cannot write {folder}: {error.strerror}", expected="a place with room") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder / "croissant.json"


def describe(ws: Workspace, dataset: Dataset, name: str, size: int, sha256: str) -> dict[str, Any]:
    """The description of a version whose data lies in a file beside it, as JSON-LD."""
    when = dt.datetime.fromtimestamp(dataset.created, dt.UTC).date().isoformat()
    files = dataset.type == "files"
    made_of = _made_of(ws, dataset)
    known = {
        "description": dataset.description or f"Version {dataset.version} of {dataset.name}",
        "license": dataset.licence,
        "creator": {"@type": "Person", "name": dataset.owner} if dataset.owner else None,
        "keywords": [f"{k}={v}" if v not in ("", True) else k for k, v in dataset.tags.items() if k != "bad_lines"],
        "isBasedOn": made_of,
        "rai:dataCollection": dataset.source,
    }
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS,
        "name": dataset.name,
        "url": f"urn:blake3:{dataset.digest}",
        "version": f"{dataset.version}.0.0",
        "datePublished": when,
        "citeAs": f"{dataset.name}, version {dataset.version}, {when}, blake3:{dataset.digest}",
        "isLiveDataset": False,
        **{key: value for key, value in known.items() if value},
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": "data",
                "name": name,
                "contentUrl": name,
                "contentSize": f"{size} B",
                "encodingFormat": "application/zip" if files else "application/x-parquet",
                "sha256": sha256,
            },
            *([_file_set(ws, dataset)] if files else []),
        ],
        "recordSet": [_files(dataset) if files else _rows(dataset)],
    }


def _made_of(ws: Workspace, dataset: Dataset) -> list[str]:
    """What the run that made it read."""
    if not dataset.run:
        return []
    return sorted({e.target for e in ws.store.edges(source=f"run:{dataset.run}", relation="used")})


def _rows(dataset: Dataset) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": "rows",
        "name": "rows",
        "field": [_field(c.name, c.type, c.description) for c in Schema.from_json(dataset.schema).columns],
    }


def _field(name: str, kind: str, description: str) -> dict[str, Any]:
    inner = kind.removeprefix("list<").removesuffix(">") if kind.startswith("list<") else kind
    shape = {"isArray": True, "arrayShape": "-1"} if inner != kind else {}
    return {
        "@type": "cr:Field",
        "@id": f"rows/{name}",
        "name": name,
        **({"description": description} if description else {}),
        "dataType": _TYPES.get(inner, "sc:Text"),
        **shape,
        "source": {"fileObject": {"@id": "data"}, "extract": {"column": name}},
    }


def _file_set(ws: Workspace, dataset: Dataset) -> dict[str, Any]:
    endings = {mimetypes.guess_type(f.path)[0] or "application/octet-stream" for f in _tree(ws, dataset)}
    return {
        "@type": "cr:FileSet",
        "@id": "files",
        "name": "files",
        "containedIn": {"@id": "data"},
        "encodingFormat": endings.pop() if len(endings) == 1 else "application/octet-stream",
        "includes": "files/**",
    }


def _files(dataset: Dataset) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": "listing",
        "name": "listing",
        "description": f"The {dataset.rows} files",
        "field": [
            {
                "@type": "cr:Field",
                "@id": "listing/path",
                "name": "path",
                "dataType": "sc:Text",
                "source": {"fileSet": {"@id": "files"}, "extract": {"fileProperty": "fullpath"}},
            }
        ],
    }


def _tree(ws: Workspace, dataset: Dataset) -> list[trees.Entry]:
    return [f for f in trees.files(ws.blobs, dataset.manifest) if f.mode != "l"]


def _zip(ws: Workspace, dataset: Dataset, file: Path) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for entry in _tree(ws, dataset):
            info = zipfile.ZipInfo("files/" + os.fsencode(entry.path).decode("utf-8", "backslashreplace"), _EPOCH)
            info.external_attr = (0o755 if entry.mode in "xX" else 0o644) << 16
            with trees.open_file(ws.blobs, entry) as source, archive.open(info, "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target, 1 << 20)


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
