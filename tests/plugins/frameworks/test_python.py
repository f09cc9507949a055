from types import MappingProxyType

import pandas as pd
import pyarrow as pa
import pytest

from boucle.core.errors import Invalid
from boucle.core.frames import Frame
from boucle.plugins.frameworks.python import PythonFramework
from boucle.testing.framework import FrameworkContract

BASE = 2.5


def fare(rows: list) -> list:
    return [BASE + 1.2 * (row["km"] or 0.0) for row in rows]


def by_rows(rows):
    return fare(rows)


def by_pandas(frame: pd.DataFrame):
    return frame["km"].fillna(0.0) * 1.2 + BASE


def by_arrow(table: pa.Table) -> list:
    return fare(table.to_pylist())


def by_frame(frame: Frame) -> dict:
    return {"prediction": fare(frame.table().to_pylist()), "unit": ["EUR"] * len(frame)}


class TestPython(FrameworkContract):
    rows = MappingProxyType({"km": [1.0, None, 12.5], "zone": ["a", "b", None]})

    def framework(self) -> PythonFramework:
        return PythonFramework()

    def model(self):
        return fare


class TestPandas(TestPython):
    def model(self):
        return by_pandas


@pytest.mark.parametrize("function", [by_rows, by_pandas, by_arrow, by_frame])
def test_the_annotation_says_what_the_function_gets(function, tmp_path) -> None:
    meta = PythonFramework().save(function, tmp_path)
    answer = PythonFramework().load(tmp_path, meta).predict(TestPython().batch())
    assert answer.column("prediction").to_pylist() == pytest.approx([3.7, 2.5, 17.5])
    assert ("unit" in answer.schema.names) == (function is by_frame)


def test_a_function_inside_another_is_refused(tmp_path) -> None:
    with pytest.raises(Invalid, match="inside another function"):
        PythonFramework().save(lambda rows: rows, tmp_path)
