"""The user's own source beside a model: copied in when it is packed, importable when it is loaded."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path


def copy_modules(files: Mapping[str, str], folder: Path) -> None:
    """Copy modules (name -> path of the source) below a folder so that they import under the same names."""
    for name, path in files.items():
        source = Path(path)
        target = folder.joinpath(*name.split("."))
        target = target / "__init__.py" if source.name == "__init__.py" else target.with_suffix(".py")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
        for parent in target.relative_to(folder).parents:
            package = folder / parent / "__init__.py"
            if parent.parts and not package.exists():
                package.touch()


def importable(folder: Path) -> None:
    """Put a folder of copied modules first on the import path."""
    if folder.is_dir() and str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()
