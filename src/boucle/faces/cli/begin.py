"""Beginning a project around a file: what `new` and `demo` share."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import boucle.workspace
from boucle.core.errors import Conflict, Invalid, NotFound
from boucle.core.records import Dataset
from boucle.data.ingest import ingest
from boucle.dev.project import Project, new
from boucle.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Begun:
    """A project with its workspace and first dataset."""

    project: Project
    ws: Workspace
    dataset: Dataset
    bad: int


def begin(name: str, source: Path, target: str, folder: Path) -> Begun:
    """Write the project, make its workspace, ingest the file. When the data or the target will not do, nothing stays."""
    source = source.resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Conflict(
            f"{folder} holds something already", expected="a new or empty folder", fix="choose another with --folder"
        )
    if not source.exists():
        raise NotFound(f"no file {source}", expected="a file with data")
    dataset_name = re.sub(r"[^A-Za-z0-9._-]+", "-", source.name.split(".")[0]).strip("-._") or "data"
    project = new(name, folder, dataset=dataset_name, target=target, source=source.name)
    try:
        ws = boucle.workspace.init(project.folder)
        taken = ingest(ws, source, dataset_name)
        columns = [c["name"] for c in taken.dataset.schema["columns"]]
        if target not in columns:
            missing = NotFound.named("column", target, columns)
            raise Invalid(
                f"{source.name} has {missing.what}",
                expected=missing.expected,
                fix="name the column to predict with --target",
            )
    except BaseException:
        shutil.rmtree(project.folder)
        raise
    return Begun(project, ws, taken.dataset, len(taken.bad))
