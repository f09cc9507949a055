"""Labels on disk: beside the log that gave the id, in the order they were told."""

from __future__ import annotations

from pathlib import Path

import pytest

from boucle.core import labels
from boucle.core.errors import Corrupt, Invalid
from boucle.core.refs import new_id


def given(log: Path, count: int = 1) -> list[str]:
    log.mkdir(parents=True)
    name, *ids = (new_id() for _ in range(count + 1))
    (log / f"{name}.jsonl").write_text("".join(f'{{"id":"{i}"}}\n' for i in ids))
    return ids


def test_the_logs_of_a_service_are_found_from_one_of_them(tmp_path):
    logs = [tmp_path / "churn" / str(n) / "predictions" for n in (10, 9, 2)]
    for log in logs:
        log.mkdir(parents=True)
    (tmp_path / "churn" / "route.json").touch()
    assert all(labels.logs(log) == logs for log in logs)


@pytest.mark.parametrize("place", ["log", "churn/predictions", "predictions"])
def test_a_log_that_is_laid_out_otherwise_stands_alone(tmp_path, place):
    (tmp_path / "7" / "predictions").mkdir(parents=True)
    assert labels.logs(tmp_path / place) == [tmp_path / place]


def test_each_is_kept_where_its_id_was_given(tmp_path):
    logs = [tmp_path / n / "predictions" for n in "ab"]
    (one,), (two,) = (given(log) for log in logs)
    unknown = new_id()
    done = labels.keep(logs, [(one, 1), (two.lower(), "yes"), (unknown, 2), (one, 3)], 5.0)
    assert (done.kept, done.unknown) == (3, (unknown,))
    assert labels.read(tmp_path / "a") == {one: 3}
    assert (tmp_path / "b" / labels.FILE).read_text() == f'{{"id": "{two}", "label": "yes", "time": 5.0}}\n'


@pytest.mark.parametrize("bad", [None, float("nan"), [1], {"a": 1}, "\ud800"])
def test_what_is_no_label_keeps_nothing(tmp_path, bad):
    log = tmp_path / "a" / "predictions"
    first, second = given(log, 2)
    with pytest.raises(Invalid, match=second):
        labels.keep([log], [(first, 1), (second, bad)], 5.0)
    assert labels.read(tmp_path / "a") == {}


def test_a_line_that_was_cut_off_is_forgotten_and_a_damaged_one_is_not(tmp_path):
    log = tmp_path / "a" / "predictions"
    first, second = given(log, 2)
    file = tmp_path / "a" / labels.FILE
    labels.keep([log], [(first, 1)], 5.0)
    with file.open("a") as out:
        out.write('{"id": "' + "x" * 9000)
    assert labels.read(tmp_path / "a") == {first: 1}
    labels.keep([log], [(second, 2)], 6.0)
    assert labels.read(tmp_path / "a") == {first: 1, second: 2}
    file.write_text("nonsense\n" + file.read_text())
    with pytest.raises(Corrupt, match="line 1"):
        labels.read(tmp_path / "a")
