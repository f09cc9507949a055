"""The stateless steps give the same numbers for the same moments, however they are written."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.preprocessing import FunctionTransformer

from boucle.core import transforms
from boucle.core.transforms import NAMES, PARTS, plain_text, time_part_names, time_parts


def test_strings_and_times_give_the_same():
    text = pd.DataFrame({"at": ["2024-03-04T06:00:00", "2024-03-04T06:00:00+02:00", "no time", None]})
    parsed = pd.DataFrame({"at": pd.to_datetime(["2024-03-04 06:00", "2024-03-04 04:00", None, None])})
    one, two = (time_parts(f, ["trend", "year", "week", "day"]) for f in (text, parsed))
    assert np.array_equal(one, two, equal_nan=True)
    assert np.isnan(one[2:]).all()
    columns = [c for part in ("trend", "year", "week", "day") for c in PARTS[part]]
    first = dict(zip(columns, one[0], strict=True))
    assert first["weekday"] == 0
    assert first["hour"] == 6
    assert np.isclose(first["hour_sin"], 1)
    assert first["days"] == 8829.25


def test_a_column_that_is_missing_throughout_is_nan():
    assert np.isnan(time_parts(pd.DataFrame({"at": [np.nan, np.nan]}), ["day"])).all()


def test_text_that_is_missing_is_empty():
    frame = pd.DataFrame({"t": pd.Series(["a b", None, np.nan], dtype=object)})
    assert plain_text(frame).tolist() == ["a b", "", ""]


def test_names_fit_the_columns():
    frame = pd.DataFrame({"at": pd.to_datetime(["2024-03-04"])})
    step = FunctionTransformer(time_parts, kw_args={"parts": ["trend", "day"]}, feature_names_out=time_part_names)
    assert step.fit(frame).get_feature_names_out().tolist() == ["at_days", "at_hour", "at_hour_sin", "at_hour_cos"]
    assert step.transform(frame).shape == (1, 4)


def test_the_names_to_trust_exist():
    for name in NAMES:
        module, _, function = name.rpartition(".")
        assert module == transforms.__name__
        assert callable(getattr(transforms, function))
