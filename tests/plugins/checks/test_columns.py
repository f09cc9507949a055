"""Required, Unique, Between and Allowed."""

import datetime as dt
from types import MappingProxyType

import pyarrow as pa
import pytest

from boucle.core.errors import Invalid
from boucle.core.frames import Frame
from boucle.plugins.checks.columns import Allowed, Between, Required, Unique
from boucle.testing.check import CheckContract


class TestRequired(CheckContract):
    check = Required
    options = MappingProxyType({"columns": ["a"]})
    good = MappingProxyType({"a": [1, 2], "b": [None, 1]})
    bad = MappingProxyType({"a": [1.0, None, float("nan")]})

    def test_counts_nulls_and_nan(self):
        finding = Required().run(Frame.of(self.bad), self.options)
        assert finding.score == pytest.approx(2 / 3)
        assert finding.evidence["missing"] == {"a": 2}

    def test_allows_a_share(self):
        assert Required().run(Frame.of(self.bad), {"column": "a", "share": 0.7}).status == "pass"


class TestUnique(CheckContract):
    check = Unique
    options = MappingProxyType({"columns": ["a", "b"]})
    good = MappingProxyType({"a": [1, 1, 2], "b": ["x", "y", "x"]})
    bad = MappingProxyType({"a": [1, 2, 1, 1], "b": ["x", "x", "x", "x"]})

    def test_says_which_rows(self):
        finding = Unique().run(Frame.of(self.bad), self.options)
        assert finding.score == 2
        assert finding.evidence["examples"] == [[0, 2], [2, 3]]

    def test_nulls_are_not_equal(self):
        assert Unique().run(Frame.of({"a": [None, None, 1]}), {"column": "a"}).status == "pass"


class TestBetween(CheckContract):
    check = Between
    options = MappingProxyType({"column": "a", "low": 0, "high": 10})
    good = MappingProxyType({"a": [0, 10, None]})
    bad = MappingProxyType({"a": [0, 10, 11, -1]})

    def test_share(self):
        assert Between().run(Frame.of(self.bad), self.options).score == 0.5
        assert Between().run(Frame.of(self.bad), {**self.options, "share": 0.5}).status == "pass"

    def test_bounds_of_integers_may_have_fractions(self):
        assert Between().run(Frame.of({"a": [1, 2]}), {"column": "a", "low": 1.5}).score == 0.5

    def test_times(self):
        days = Frame.of({"d": [dt.date(2026, 1, 1), dt.date(2027, 1, 1)]})
        assert Between().run(days, {"column": "d", "high": "2026-12-31"}).evidence["outside"] == 1

    def test_only_nulls_pass(self):
        assert Between().run(Frame.of({"a": pa.nulls(3, pa.int64())}), self.options).status == "pass"

    def test_bad_options(self):
        with pytest.raises(Invalid, match="neither low nor high"):
            Between().run(Frame.of(self.good), {"column": "a"})
        with pytest.raises(Invalid, match="cannot be compared"):
            Between().run(Frame.of(self.good), {"column": "a", "low": "one"})
        with pytest.raises(Invalid, match="no column named 'z'"):
            Between().run(Frame.of(self.good), {"column": "z", "low": 1})
        with pytest.raises(Invalid, match="given no column"):
            Between().run(Frame.of(self.good), {"low": 1})


class TestAllowed(CheckContract):
    check = Allowed
    options = MappingProxyType({"column": "a", "values": ["x", "y"]})
    good = MappingProxyType({"a": ["x", "y", None]})
    bad = MappingProxyType({"a": ["x", "z", "z", "q"]})

    def test_names_the_others(self):
        finding = Allowed().run(Frame.of(self.bad), self.options)
        assert finding.evidence["others"] == [["z", 2], ["q", 1]]
        assert finding.score == 0.75

    def test_numbers_and_dictionaries(self):
        assert Allowed().run(Frame.of({"a": [1, 2]}), {"column": "a", "values": [1.0, 2, 2.5]}).status == "pass"
        coded = pa.table({"a": pa.array(["x", "w"]).dictionary_encode()})
        assert Allowed().run(Frame.of(coded), self.options).score == 0.5

    def test_values_must_be_a_list(self):
        for values in ("xy", [], None):
            with pytest.raises(Invalid, match="values="):
                Allowed().run(Frame.of(self.good), {"column": "a", "values": values})
