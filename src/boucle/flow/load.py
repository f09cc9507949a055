"""Finding a project's pipelines: named in boucle.toml, written in Python."""

from __future__ import annotations

import importlib
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from boucle.core.errors import Invalid, NotFound
from boucle.flow.step import Pipeline
from boucle.settings import FILE, Settings, part


@dataclass(frozen=True, slots=True)
class Entry:
    """A [pipelines.<name>] table: where the pipeline is, and the arguments it runs with unless told otherwise."""

    name: str
    call: str  # module:function
    arguments: dict[str, Any]


def entries(settings: Settings) -> dict[str, Entry]:
    """The pipelines that boucle.toml names."""
    found = {}
    for name, table in part(settings.table, "pipelines", settings.project / FILE).items():
        if not isinstance(table, dict) or not isinstance(table.get("call"), str) or ":" not in table["call"]:
            raise Invalid(
                f"{settings.project / FILE}: [pipelines.{name}] is {table!r}",
                expected='a table with call = "module:function"',
            )
        found[name] = Entry(name, table["call"], {k: v for k, v in table.items() if k != "call"})
    return found


def load(settings: Settings, name: str = "") -> tuple[Pipeline, dict[str, Any]]:
    """A project's pipeline and its arguments; without a name the only one there is. Also takes `module:function`."""
    known = entries(settings)
    if not name:
        if len(known) != 1:
            raise (
                Invalid(
                    f"{settings.project} has {len(known)} pipelines", expected=f"the name of one: {', '.join(known)}"
                )
                if known
                else NotFound(
                    f"{settings.project / FILE} names no pipeline",
                    expected='[pipelines.NAME] with call = "module:function"',
                    fix="boucle new NAME --from FILE --target COLUMN writes a project",
                )
            )
        name = next(iter(known))
    if name in known:
        entry = known[name]
    elif ":" in name:
        entry = Entry(name, name, {})
    else:
        raise NotFound.named("pipeline", name, known, fix=f"see [pipelines] in {settings.project / FILE}")
    module_name, _, attribute = entry.call.partition(":")
    found = getattr(_module(settings.project, module_name), attribute, None)
    if not isinstance(found, Pipeline):
        raise Invalid(
            f"{entry.call} is not a pipeline", expected=f"a function {attribute} with @pipeline in {module_name}.py"
        )
    return found, dict(entry.arguments)


def _module(project: Path, name: str) -> ModuleType:
    if sys.path[:1] != [str(project)]:
        sys.path[:] = [str(project), *(p for p in sys.path if p != str(project))]
        importlib.invalidate_caches()
    own = {p.stem for p in project.iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()}
    for loaded, module in list(sys.modules.items()):
        # Two projects in one process may both have a pipeline.py.
        place = getattr(module, "__file__", None)
        if loaded.partition(".")[0] in own and place and not Path(place).resolve().is_relative_to(project):
            del sys.modules[loaded]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name.partition(".")[0]:
            raise NotFound(f"no module {name!r} in {project}", expected=f"{project / name}.py") from error
        raise _unusable(name, error) from error
    except Exception as error:
        raise _unusable(name, error) from error


def _unusable(name: str, error: Exception) -> Invalid:
    last = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{error.filename}:{error.lineno}" if isinstance(error, SyntaxError) else f"{last.filename}:{last.lineno}"
    return Invalid(
        f"{name} cannot be imported: {type(error).__name__}: {error} ({place})", expected="a module that imports"
    )
