"""The user's own source beside a model: copied in when it is packed, imported from there when it is loaded."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import FileFinder, ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType

from boucle.core.errors import Invalid
from boucle.core.reach import is_library

MOST_DATA = 64 << 20  # bytes of files beside the modules of one package


def imports(files: Mapping[str, str]) -> tuple[dict[str, str], set[str]]:
    """All that modules (name -> path) need to be imported: the user's modules, the given ones and those they import with
    the packages they lie in, and the top-level names of libraries."""
    found: dict[str, str] = {}
    libraries: set[str] = set()
    queue = list(files.items())
    while queue:
        name, path = queue.pop()
        if name in found or not Path(path).is_file():
            continue
        found[name] = path
        package = name if Path(path).name == "__init__.py" else name.rpartition(".")[0]
        for wanted in [*_named(Path(path), package), *([package] if package else [])]:
            if is_library(wanted):
                libraries.add(wanted.partition(".")[0])
            elif wanted not in found and (place := _place(wanted)) is not None:
                queue.append((wanted, place))
    return found, libraries - set(sys.stdlib_module_names) - {""}


def _named(path: Path, package: str) -> Iterator[str]:
    """The modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _prefixes(alias.name)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                parents = package.split(".")
                module = ".".join([*parents[: len(parents) - node.level + 1], *([module] if module else [])])
            yield from _prefixes(module)
            yield from (f"{module}.{alias.name}" for alias in node.names if not is_library(module))


def _prefixes(module: str) -> Iterator[str]:
    parts = module.split(".")
    return (".".join(parts[: i + 1]) for i in range(len(parts)))


def _place(module: str) -> str | None:
    loaded = sys.modules.get(module)
    if loaded is not None:
        return getattr(loaded, "__file__", None)
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    return spec.origin if spec is not None and spec.has_location else None


def copy_modules(files: Mapping[str, str], folder: Path) -> None:
    """Copy modules (name -> path of the source) below a folder so that they import under the same names.

    What lies beside the modules of a package and is no Python goes along: word lists, tables, weights. Raises `Invalid`
    when that is more than `MOST_DATA`.
    """
    for name, path in files.items():
        source = Path(path)
        target = folder.joinpath(*name.split("."))
        target = target / "__init__.py" if source.name == "__init__.py" else target.with_suffix(".py")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
        if source.name == "__init__.py":
            _copy_data(source.parent, target.parent)


def _copy_data(package: Path, target: Path) -> None:
    files = []
    for path in sorted(package.rglob("*")):
        hidden = any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(package).parts)
        if path.is_file() and path.suffix not in (".py", ".pyc") and not hidden:
            files.append(path)
    size = sum(path.stat().st_size for path in files)
    if size > MOST_DATA:
        raise Invalid(
            f"the package {package} holds {size >> 20} MiB of files that are no Python",
            expected=f"at most {MOST_DATA >> 20} MiB, since they are packed with the model",
            fix="move what the model does not need out of the package folder",
        )
    for path in files:
        copy = target / path.relative_to(package)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)


class _Source(SourceFileLoader):
    """Reads and writes no bytecode: what runs is the source whose digest was checked."""

    def path_stats(self, path: str) -> Mapping[str, object]:
        raise OSError(path)


class _Finder:
    """Finds modules below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._places: dict[str, FileFinder] = {}

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,  # noqa: ARG002  the import system's signature
    ) -> ModuleSpec | None:
        inside = [str(self.folder)] if path is None else [p for p in path if Path(p).is_relative_to(self.folder)]
        for place in inside:
            finder = self._places.setdefault(place, FileFinder(place, (_Source, [".py"])))
            if (spec := finder.find_spec(name)) is not None:
                return spec
        return None


@contextmanager
def packed(folder: Path) -> Iterator[None]:
    """While it is open, modules are imported from this folder before any other place, also when modules of the same name
    are loaded already; those have their names back afterwards. The folder stays a place to import from."""
    folder = folder.resolve()
    tops = {p.stem for p in folder.glob("*") if p.suffix == ".py" or p.is_dir()}
    names = [n for n, m in sys.modules.items() if n.partition(".")[0] in tops and not _lies_in(m, folder)]
    others = {n: sys.modules.pop(n) for n in names}
    finder = next((f for f in sys.meta_path if isinstance(f, _Finder) and f.folder == folder), None)
    if finder is not None:
        sys.meta_path.remove(finder)
    sys.meta_path.insert(0, finder or _Finder(folder))
    try:
        yield
    finally:
        if others:
            for name in [n for n in sys.modules if n.partition(".")[0] in {o.partition(".")[0] for o in others}]:
                del sys.modules[name]
            sys.modules.update(others)


@contextmanager
def lent(folder: Path) -> Iterator[None]:
    """While it is open, modules that are found nowhere else are imported from this folder."""
    finder = _Finder(folder.resolve())
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def _lies_in(module: ModuleType, folder: Path) -> bool:
    path = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", [])), None)
    return path is not None and Path(path).resolve().is_relative_to(folder)
