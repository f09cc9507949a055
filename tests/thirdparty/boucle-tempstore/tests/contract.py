"""Run with the plugin installed: `pytest tests/contract.py`."""

import datetime as dt
from pathlib import Path
from types import MappingProxyType

import pytest

from boucle.core.errors import Invalid
from boucle.core.frames import Frame
from boucle.ports.check import Check
from boucle.ports.lookup import lookup, names
from boucle.ports.store import Store
from boucle.testing.check import CheckContract
from boucle.testing.store import StoreContract


class TestTempStore(StoreContract):
    def make(self, tmp_path: Path) -> Store:
        store: Store = lookup("store", "temp")()
        return store

    def test_closing_twice_is_closing(self, store: Store) -> None:
        folder = Path(store._folder.name)  # type: ignore[attr-defined]
        assert folder.exists()
        store.close()
        store.close()
        assert not folder.exists()


def test_it_stands_beside_the_ones_that_came_with_boucle() -> None:
    assert {"temp", "sqlite", "memory"} <= set(names("store"))
    assert "weekdays" in names("check")


FRIDAY, SATURDAY = dt.date(2026, 11, 20), dt.date(2026, 11, 21)


class TestWeekdays(CheckContract):
    options = MappingProxyType({"column": "day"})
    good = MappingProxyType({"day": [FRIDAY, None]})
    bad = MappingProxyType({"day": [FRIDAY, SATURDAY]})

    def check(self) -> Check:
        check: Check = lookup("check", "weekdays")()
        return check


def test_weekends_are_counted() -> None:
    check = lookup("check", "weekdays")()
    frame = Frame.of({"day": [FRIDAY, SATURDAY, None, SATURDAY], "n": [1, 2, 3, 4]})
    finding = check.run(frame, {"column": "day"})
    assert (finding.status, finding.evidence) == ("fail", {"weekends": 2, "rows": 3})
    assert check.run(Frame.of({"day": [FRIDAY]}), {"column": "day"}).status == "pass"
    for options in ({}, {"column": "nothing"}, {"column": "n"}, {"column": "day", "else": 1}):
        with pytest.raises(Invalid):
            check.run(frame, options)
