"""The contract of checks: subclass, give `check` with options and tables that pass and fail, and run with pytest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from boucle.core.errors import Invalid
from boucle.core.frames import Frame
from boucle.ports.check import Check


class CheckContract:
    """What every check must do."""

    options: Mapping[str, Any]
    good: Mapping[str, list[Any]]
    bad: Mapping[str, list[Any]]

    def check(self) -> Check:
        """A new one."""
        raise AssertionError("give the check to test")

    def test_names_itself_and_its_options(self) -> None:
        check = self.check()
        assert check.name
        assert all(check.options.values())

    def test_passes(self) -> None:
        finding = self.check().run(Frame.of(self.good), self.options)
        assert finding.status == "pass"
        assert finding.summary

    def test_fails_with_numbers(self) -> None:
        finding = self.check().run(Frame.of(self.bad), self.options)
        assert finding.status == "fail"
        assert finding.summary
        assert finding.score is not None

    def test_evidence_is_json(self) -> None:
        finding = self.check().run(Frame.of(self.bad), self.options)
        assert json.loads(json.dumps(finding.evidence, allow_nan=False)) == finding.evidence

    def test_batches_do_not_matter(self) -> None:
        table = Frame.of(self.bad).table()
        whole = Frame.of(table)
        rows = Frame(whole.schema, lambda c: iter((table.select(c) if c else table).to_batches(max_chunksize=1)))
        one, many = self.check().run(whole, self.options), self.check().run(rows, self.options)
        assert (one.status, one.score) == (many.status, many.score)

    def test_an_unknown_option(self) -> None:
        with pytest.raises(Invalid, match="wings"):
            self.check().run(Frame.of(self.good), {**self.options, "wings": 2})
