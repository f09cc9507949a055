"""New projects: a small readable folder around a person's own data."""

from __future__ import annotations

import json
import keyword
import re
import shutil
import tempfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template

from boucle.core.errors import Conflict, Invalid, NotFound, Unavailable
from boucle.core.refs import check_name

FILES = {
    "boucle.toml": "boucle.toml.txt",
    "pipeline.py": "pipeline.py.txt",
    "tests/test_pipeline.py": "test_pipeline.py.txt",
    "README.md": "README.md.txt",
    ".gitignore": "gitignore.txt",
}


@dataclass(frozen=True, slots=True)
class Project:
    """A project that was written: its folder and files."""

    name: str
    folder: Path
    files: tuple[str, ...]


def new(name: str, folder: Path, *, dataset: str, target: str, source: str = "") -> Project:
    """Write a project into a folder that does not exist yet or is empty; all or nothing.

    `dataset` is the name its data will have, `target` the column to predict, `source` where the data came from, for the
    README. Raises `Conflict` when the folder holds something.
    """
    check_name(name, "project name")
    check_name(dataset, "dataset name")
    if not target:
        raise Invalid(f"the target is {target!r}", expected="the name of a column")
    folder = folder.resolve()
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise Conflict(
            f"{folder} holds something already", expected="a new or empty folder", fix="choose another name or folder"
        )
    function = re.sub(r"\W", "_", name)
    taken = (
        function[0].isdigit()
        or keyword.iskeyword(function)
        or function in ("boucle", "pipeline", "rows", "step", "steps")
    )
    words = {
        "name": name,
        "function": f"model_{function}" if taken else function,
        "dataset": dataset,
        "target": _quoted(target),
        "source": source or dataset,
    }
    templates = resources.files("boucle.dev") / "template"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
            draft = Path(scratch, folder.name)
            for path, template in FILES.items():
                target_path = draft / path
                target_path.parent.mkdir(parents=True, exist_ok=True)
                text = Template((templates / template).read_text(encoding="utf-8")).substitute(words)
                target_path.write_text(text, encoding="utf-8")
            if folder.is_dir():
                folder.rmdir()
            shutil.move(draft, folder)
    except FileNotFoundError as error:
        raise NotFound(f"cannot write {error.filename}", expected="a folder that exists") from error
    except OSError as error:
        raise Unavailable(
            f"cannot write {folder}: {error.strerror}", expected="a folder that may be written to"
        ) from error
    return Project(name, folder, tuple(FILES))


def _quoted(text: str) -> str:
    """As a string of TOML, which JSON's are."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
