"""The loader that a bundle's MLmodel file names, so that `mlflow.pyfunc.load_model` opens bundles. Needs no MLflow itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from boucle.core.bundle import open_bundle
from boucle.core.errors import Invalid
from boucle.core.frames import Frame, arrow_type, to_pandas

if TYPE_CHECKING:
    import pandas as pd


class _Model:
    def __init__(self, folder: Path) -> None:
        self._bundle = open_bundle(folder)
        self._schema = self._bundle.input
        self._predictor = self._bundle.load()

    def predict(self, model_input: Any, params: object = None) -> pd.DataFrame:  # noqa: ARG002  MLflow's signature
        """A pandas frame (or anything tabular) in, a pandas frame with `prediction` and one column per probability out."""
        given = Frame.of(model_input)
        missing = [c.name for c in self._schema.columns if c.name not in given.schema and not c.nullable]
        if missing:
            raise Invalid(f"columns are missing: {', '.join(missing)}", expected=", ".join(self._schema.names))
        table = given.table()
        arrays = [
            table.column(c.name).combine_chunks().cast(arrow_type(c.type))
            if c.name in given.schema
            else pa.nulls(table.num_rows, arrow_type(c.type))
            for c in self._schema.columns
        ]
        answer = self._predictor.predict(pa.RecordBatch.from_arrays(arrays, names=list(self._schema.names)))
        return to_pandas(pa.Table.from_batches([answer]).flatten())


def _load_pyfunc(path: str) -> _Model:
    folder = Path(path)
    return _Model(folder)
