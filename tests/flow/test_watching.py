"""Decorators that watch: what they say inside of a run and outside, and that they change nothing else."""

from __future__ import annotations

import logging

import pytest

import boucle
from boucle.core.reach import reach
from boucle.core.records import Run


@boucle.timed
def slow(n: int) -> int:
    """Double it."""
    return 2 * n


@boucle.logged
def told(a, b=1):
    return "x" * 200 if b else 1 / b


@boucle.profiled
def costly(n):
    return [*range(n)][-1]


def test_they_keep_name_result_and_signature():
    assert (slow(2), slow.__name__, slow.__doc__) == (4, "slow", "Double it.")
    assert costly(10) == 9


def test_outside_of_a_run_they_log(caplog):
    caplog.set_level(logging.INFO, "boucle")
    slow(1)
    told(1, b=2)
    with pytest.raises(ZeroDivisionError):
        told(1, 0)
    costly(5)
    said = [r.getMessage() for r in caplog.records]
    assert said[0].startswith("slow took 0.")
    assert said[1:3] == ["told(1, b=2)", f"told gave '{'x' * 76}..."]
    assert said[3:5] == ["told(1, 0)", "told raised ZeroDivisionError: division by zero"]
    assert said[5].startswith("costly: peak 0.")
    assert "function calls" in said[5]


def test_inside_of_a_run_they_are_metrics(tmp_path):
    with boucle.init(tmp_path) as ws, boucle.track(ws, "watched") as run:
        slow(1)
        costly(100_000)
    assert run.record.metrics.keys() == {"slow.seconds", "slow.cpu_seconds", "costly.peak_mb"}
    assert run.record.metrics["costly.peak_mb"] > 0.5


def test_in_a_step_they_go_to_its_log_and_the_code_behind_them_counts(project, ws):
    code = """
    from boucle import logged, timed
    @step
    @timed
    @logged
    def one(n: int) -> int:
        return n + 1
    @pipeline
    def main(): return one(1)
    """
    done = project.write(code).run()
    run = ws.store.get(Run, done.outcomes[0].run)
    assert ws.blobs.get(run.log).decode() == "one(1)\none gave 2\n"
    assert run.metrics.keys() == {"one.seconds", "one.cpu_seconds"}
    assert project.run().reused == 1
    assert project.write(code.replace("n + 1", "n + 2")).run().result == 3


def test_a_watched_function_reaches_what_it_wraps():
    assert any(part.endswith(":slow") for part in reach(slow).parts)
