from types import MappingProxyType

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from boucle.core.errors import Corrupt
from boucle.core.frames import to_pandas
from boucle.plugins.frameworks.sklearn import SklearnFramework
from boucle.testing.framework import FrameworkContract

LIMIT = 3.0


class Threshold(ClassifierMixin, BaseEstimator):
    """A classifier of the user's own."""

    def fit(self, x, y):
        self.classes_ = np.unique(y)
        return self

    def predict(self, x):
        return np.where(x["km"].fillna(0.0) > LIMIT, "far", "near")


class TestClassifier(FrameworkContract):
    rows = MappingProxyType({"km": [1.0, 5.5, 12.5, 2.0], "zone": ["a", "b", "a", "b"]})

    def framework(self) -> SklearnFramework:
        return SklearnFramework()

    def model(self):
        columns = ColumnTransformer([("n", StandardScaler(), ["km"]), ("c", OneHotEncoder(), ["zone"])])
        return make_pipeline(columns, LogisticRegression()).fit(to_pandas(self.batch()), ["near", "far", "far", "near"])


class TestRegressor(TestClassifier):
    def model(self):
        columns = ColumnTransformer([("n", StandardScaler(), ["km"])])
        return make_pipeline(columns, LinearRegression()).fit(to_pandas(self.batch()), [3.0, 9.0, 17.0, 4.0])


class TestOwnClass(TestClassifier):
    def model(self):
        return Threshold().fit(to_pandas(self.batch()), ["near", "far", "far", "near"])


def test_a_type_that_was_not_named_is_refused(tmp_path) -> None:
    meta = dict(SklearnFramework().save(TestOwnClass().model(), tmp_path))
    assert meta["foreign"]
    with pytest.raises(Corrupt, match="Threshold"):
        SklearnFramework().load(tmp_path, {**meta, "foreign": []})
