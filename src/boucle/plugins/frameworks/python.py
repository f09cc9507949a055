"""Plain Python: any function of a table, stored as the source it reaches.

The function's annotation says what it gets: a pandas or Polars frame, an Arrow table, a `Frame`, or, without one, a list
of rows as mappings. It returns one value per row: a list, array or column; or a table or mapping of columns, one of them
called `prediction`. Files it needs (word lists, tables) lie in the package of its module and are found through `__file__`.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from boucle.core.errors import Invalid
from boucle.core.frames import Frame, to_pandas, to_rows
from boucle.core.reach import distributions, reach
from boucle.core.sources import copy_modules, imports, lent, packed


class PythonFramework:
    """A module-level function, with the user's modules that it reaches."""

    name: ClassVar[str] = "python"
    extra: ClassVar[str] = ""

    def accepts(self, model: Any) -> bool:
        return isinstance(model, types.FunctionType)

    def save(self, model: Any, folder: Path) -> Mapping[str, Any]:
        if "<" in model.__qualname__:
            raise Invalid(
                f"{model.__qualname__} is made inside another function",
                expected="a function at the top of a module",
                fix="move it to the top of its file",
            )
        files, _ = imports(reach(model).files)
        module = model.__module__
        if module == "__main__":
            main = getattr(sys.modules["__main__"], "__file__", None)
            if main is None:
                raise Invalid(
                    f"{model.__name__} was typed in, so there is no source to pack",
                    expected="a function in a file",
                    fix="put it into a module and import it from there",
                )
            module = Path(main).stem
            files = {k: v for k, v in files.items() if k != "__main__"} | {module: main}
        copy_modules(files, folder)
        return {"module": module, "function": model.__qualname__}

    def predictor(self, model: Any) -> PythonPredictor:
        return PythonPredictor(model)

    def restore(self, folder: Path, meta: Mapping[str, Any]) -> Callable[..., Any]:
        with lent(folder):
            return _function(meta)

    def load(self, folder: Path, meta: Mapping[str, Any]) -> PythonPredictor:
        with packed(folder):
            return PythonPredictor(_function(meta))

    def requirements(self, model: Any) -> tuple[str, ...]:
        reached = reach(model)
        tops = {*reached.packages, *imports(reached.files)[1]} - {"boucle"}
        return ("boucle", *sorted({name for top in tops for name in distributions().get(top, ())}))


def _function(meta: Mapping[str, Any]) -> Callable[..., Any]:
    thing: Any = importlib.import_module(str(meta["module"]))
    for part in str(meta["function"]).split("."):
        thing = getattr(thing, part)
    while not isinstance(thing, types.FunctionType):  # a step, for example, is a function with more around it
        thing = thing.__wrapped__
    return thing


class PythonPredictor:
    """A function behind Arrow batches."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        first = next(iter(inspect.signature(function).parameters), "")
        try:
            wanted = typing.get_type_hints(function).get(first)
        except NameError:
            wanted = None
        self._wanted = (getattr(wanted, "__module__", "").partition(".")[0], getattr(wanted, "__name__", ""))

    def predict(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        given: Any
        match self._wanted:
            case ("pandas", _):
                given = to_pandas(batch)
            case ("polars", _):
                given = Frame.of(batch).polars()
            case ("pyarrow", "Table"):
                given = pa.Table.from_batches([batch])
            case ("pyarrow", _):
                given = batch
            case ("boucle", _):
                given = Frame.of(batch)
            case _:
                given = to_rows(batch)
        return _answer(self._function(given))


def _answer(result: Any) -> pa.RecordBatch:
    if isinstance(result, pa.RecordBatch):
        return result
    tabular = hasattr(result, "columns") or isinstance(result, Mapping | pa.Table)
    rows = isinstance(result, list) and bool(result) and isinstance(result[0], Mapping)
    if tabular or rows:
        table = Frame.of(result).table().combine_chunks()
        batches = table.to_batches()
        return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)
    values = result.tolist() if hasattr(result, "tolist") else list(result)
    return pa.RecordBatch.from_pydict({"prediction": pa.array(values)})
