"""Settings: one frozen value, resolved once, from arguments over environment over boucle.toml over defaults."""

from __future__ import annotations

import getpass
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from boucle.core.errors import Invalid, Unavailable

FILE = "boucle.toml"
FOLDER = ".boucle"


@dataclass(frozen=True, slots=True)
class Settings:
    """How a workspace is opened. Each field can stand in boucle.toml under [boucle] or as BOUCLE_<NAME>."""

    root: Path  # the workspace folder, usually <project>/.boucle
    project: Path  # where boucle.toml and the code lie
    store: str = field(default="sqlite", metadata={"help": "store plugin, with ':' and a location where it takes one"})
    blobs: str = field(default="local", metadata={"help": "blobs plugin, with ':' and a location where it takes one"})
    engine: str = field(default="local", metadata={"help": "engine that runs the steps of a pipeline"})
    target: str = field(default="process", metadata={"help": "target that runs services"})
    vault: str = field(default="env", metadata={"help": "vault that secrets come from"})
    workers: int = field(default=0, metadata={"help": "steps at once; 0 for the number of cores"})
    actor: str = field(default="", metadata={"help": "who is acting; the user's name when empty"})
    synchronous: str = field(
        default="normal", metadata={"help": "normal survives a killed process, full also a power cut (slower)"}
    )
    table: Mapping[str, Any] = field(default_factory=dict)  # boucle.toml, whole
    origins: Mapping[str, str] = field(default_factory=dict)  # where each value came from

    @property
    def gates(self) -> Mapping[str, Any]:
        """The [gates] table: stage -> conditions."""
        return part(self.table, "gates", self.project / FILE)


CHOICES = tuple(f.name for f in fields(Settings) if "help" in f.metadata)


def resolve(path: str | Path | None = None, *, environ: Mapping[str, str] | None = None, **arguments: Any) -> Settings:
    """Settings for the project that `path` (default: here) lies in.

    The project is the nearest folder upwards with a boucle.toml or a .boucle folder; without one, `path` itself.
    Raises `Invalid` for unknown keys and values that do not fit, with the file and key.
    """
    environ = os.environ if environ is None else environ
    project = find_project(path)
    table = read_table(project / FILE)
    given = part(table, "boucle", project / FILE)
    for names, place in ((given, f"{project / FILE}: [boucle] has"), (arguments, "there is")):
        unknown = sorted(set(names) - set(CHOICES))
        if unknown:
            raise Invalid(f"{place} no setting {unknown[0]!r}", expected=f"one of {', '.join(CHOICES)}")
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name in CHOICES:
        for value, origin in (
            (arguments.get(name), "argument"),
            (environ.get(f"BOUCLE_{name.upper()}") or None, f"BOUCLE_{name.upper()}"),
            (given.get(name), FILE),
        ):
            if value is not None:
                values[name], origins[name] = _fit(name, value, origin), origin
                break
        else:
            origins[name] = "default"
    if not values.get("actor"):
        values["actor"] = _user()
    if values.get("synchronous", "normal") not in ("normal", "full"):
        raise Invalid(f"synchronous is {values['synchronous']!r}", expected="normal or full")
    return Settings(root=project / FOLDER, project=project, table=table, origins=origins, **values)


def find_project(path: str | Path | None = None) -> Path:
    """The nearest folder upwards that holds a project; `path` itself when none does."""
    start = Path(path) if path is not None else Path.cwd()
    if start.name == FOLDER:
        start = start.parent
    start = start.resolve()
    for folder in (start, *start.parents):
        if (folder / FILE).is_file() or (folder / FOLDER).is_dir():
            return folder
    return start


def part(table: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    """A table within a TOML file; empty when it is not there."""
    found = table.get(name, {})
    if not isinstance(found, dict):
        raise Invalid(f"{path}: {name} is {found!r}", expected=f"a table [{name}]", fix=f"edit {path}")
    return dict(found)


def read_table(path: Path) -> dict[str, Any]:
    """A TOML file as a mapping; empty when it is not there."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Unavailable(f"cannot read {path}: {error.strerror}", expected="a file that may be read") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"{path} is not valid TOML: {error}", expected="TOML in UTF-8", fix=f"edit {path}") from error


def _fit(name: str, value: Any, origin: str) -> Any:
    if name == "workers":
        try:
            number = int(value)
        except (TypeError, ValueError):
            number = -1
        if number < 0 or isinstance(value, bool):
            raise Invalid(f"workers is {value!r} ({origin})", expected="a whole number, 0 for the number of cores")
        return number
    if not isinstance(value, str) or not value:
        raise Invalid(f"{name} is {value!r} ({origin})", expected="a string")
    return value


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no such user in the container
        return str(os.getuid()) if hasattr(os, "getuid") else "unknown"
