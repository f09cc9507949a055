"""Every family fits, predicts, takes what serving may bring, and is stored without pickle."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import skops.io

from boucle.core.errors import NotFound
from boucle.core.frames import Frame
from boucle.ml.tabular import FAMILIES, build, candidates, fit, study
from boucle.ml.tabular.fit import inputs

TRUSTED = {
    "boucle.core.transforms.plain_text",
    "boucle.core.transforms.time_part_names",
    "boucle.core.transforms.time_parts",
    "functools.partial",
    "numpy.dtype",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.utils.validation.check_array",
}


@pytest.fixture(scope="module")
def everything(customers, messages):
    """A table with a column of each kind."""
    when = [f"2024-01-{1 + i % 28:02}T{i % 24:02}:30:00" for i in range(300)]
    rooms = np.random.default_rng(3).integers(1, 6, 300)
    return customers(300, note=messages(300).table().column("text"), at=when, rooms=rooms)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("target", ["churn", "plan", "age"])
def test_a_stored_pipeline_predicts_the_same(everything, family, target):
    found = study(everything, target)
    kinds = {f.kind for f in found.features}
    assert {"text", "number"} <= kinds
    known = Frame.of(everything.table().filter(everything.table().column(target).is_valid()))
    estimator = fit(family, known, found, folds=2).estimator
    data = skops.io.dumps(estimator)
    unknown = skops.io.get_untrusted_types(data=data)
    assert set(unknown) <= TRUSTED
    again = skops.io.loads(data, trusted=unknown)
    rows = inputs(everything, found)
    assert np.array_equal(again.predict(rows), estimator.predict(rows))
    if found.classes:
        assert np.array_equal(again.predict_proba(rows), estimator.predict_proba(rows))


@pytest.mark.parametrize("family", ["linear", "boosting"])
@pytest.mark.parametrize("target", ["churn", "age"])
def test_predictions_survive_what_serving_brings(everything, family, target):
    table = Frame.of(everything.table().filter(everything.table().column(target).is_valid()))
    found = study(table, target)
    pipeline = build(family, found).fit(inputs(table, found), table.pandas()[target])
    rows = inputs(table, found).head(4).copy()
    rows["plan"] = np.array(["never seen", "pro", np.nan, "basic"], dtype=object)
    rows["at"] = np.array(["not a time", "2031-01-01", np.nan, "2024-01-01T00:00:00"], dtype=object)
    rows["note"] = np.array(["", "\u2603", "win cash", np.nan], dtype=object)
    for missing in [[], *([n] for n in found.names), found.names]:
        gone = rows.copy()
        for name in missing:  # nulls keep the dtype that the schema's type gives
            gone[name] = pd.Series([np.nan] * 4, dtype=object if name in {"plan", "at", "note", "churn"} else float)
        said = pipeline.predict_proba(gone) if found.classes else pipeline.predict(gone)
        assert said.shape[0] == 4
        assert np.isfinite(said).all()
    assert len(pipeline.predict(rows.head(1))) == 1


def test_the_pipeline_reads_the_columns_by_name(customers):
    table = customers()
    found = study(table, "churn")
    estimator = fit("linear", table, found, folds=2).estimator
    rows = inputs(table, found)
    assert np.array_equal(estimator.predict(rows), estimator.predict(rows[rows.columns[::-1]]))


def test_linear_names_what_it_weighs(series):
    table = series()
    found = study(table, "demand")
    pipeline = build("linear", found).fit(inputs(table, found), table.pandas()["demand"])
    names = pipeline["features"].get_feature_names_out()
    assert "time0__at_hour_sin" in names
    assert len(names) == pipeline["model"].coef_.size


def test_candidates_leave_out_what_would_only_take_time(customers, messages):
    assert candidates(study(customers(), "churn")) == FAMILIES
    assert candidates(study(messages(), "label")) == ("baseline", "linear")
    many = Frame.of({"x": np.random.default_rng(0).normal(size=400), "y": [f"c{i % 40}" for i in range(400)]})
    assert "boosting" not in candidates(study(many, "y"))


def test_an_unknown_family_brings_the_known_ones(customers):
    with pytest.raises(NotFound, match="forest") as caught:
        build("forest", study(customers(), "churn"))
    assert "linear" in caught.value.expected


def test_only_booleans_or_only_a_time_is_enough():
    random = np.random.default_rng(1)
    flags = Frame.of({"a": random.random(100) < 0.5, "b": random.random(100) < 0.5, "y": random.integers(2, size=100)})
    when = pd.date_range("2024-01-01", periods=100, freq="7h")
    times = Frame.of({"at": when, "y": random.normal(size=100)})
    for table in (flags, times):
        found = study(table, "y")
        for family in FAMILIES:
            assert len(
                build(family, found).fit(inputs(table, found), table.pandas()["y"]).predict(inputs(table, found))
            )
