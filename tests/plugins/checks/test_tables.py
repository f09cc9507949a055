"""Rows and Duplicates."""

from types import MappingProxyType

import pytest

from boucle.core.errors import Invalid
from boucle.core.frames import Frame
from boucle.plugins.checks.tables import Duplicates, Rows
from boucle.testing.check import CheckContract


class TestRows(CheckContract):
    check = Rows
    options = MappingProxyType({"least": 2, "most": 3})
    good = MappingProxyType({"a": [1, 2]})
    bad = MappingProxyType({"a": [1, 2, 3, 4]})

    def test_too_few(self):
        assert Rows().run(Frame.of({"a": [1]}), self.options).status == "fail"

    @pytest.mark.parametrize("value", [-1, "2", 1.5, True])
    def test_bad_bounds(self, value):
        with pytest.raises(Invalid, match="least"):
            Rows().run(Frame.of(self.good), {"least": value})


class TestDuplicates(CheckContract):
    check = Duplicates
    options = MappingProxyType({})
    good = MappingProxyType({"a": [1, 1, 2], "b": ["x", None, "x"]})
    bad = MappingProxyType({"a": [1, 2, 1, 1], "b": [None, "x", None, "y"]})

    def test_nulls_are_equal(self):
        finding = Duplicates().run(Frame.of(self.bad), {})
        assert finding.score == 0.25
        assert finding.evidence["examples"] == [[0, 2]]

    def test_columns_and_share(self):
        assert Duplicates().run(Frame.of(self.bad), {"columns": ["a"]}).evidence["duplicates"] == 2
        assert Duplicates().run(Frame.of(self.bad), {"share": 0.25}).status == "pass"
