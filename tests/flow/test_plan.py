"""Plans: what would run and why, in words; and that planning changes nothing."""

from __future__ import annotations

import pytest

from boucle.core.errors import NotFound
from boucle.core.records import Run

ONE = """
N = 1
@step
def load(data: Frame) -> Frame:
    return data

@step
def total(data: Frame, times: int = 1) -> int:
    return sum(data.table().column("x").to_pylist()) * N * times

@pipeline
def main(data: Frame, times: int = 1):
    return total(load(data), times)
"""


def said(steps):
    return {s.label: (s.action, s.why) for s in steps}


def test_the_first_run_and_what_waits_for_it(project, numbers):
    numbers(1, 2)
    assert said(project.write(ONE).plan(data="numbers")) == {
        "load": ("run", "it has not run yet"),
        "total": ("wait", "its input comes from load, which runs first"),
    }


def test_all_is_reused_when_nothing_changed(project, numbers):
    numbers(1, 2)
    done = project.write(ONE).run(data="numbers")
    steps = project.plan(data="numbers")
    assert [s.action for s in steps] == ["reuse", "reuse"]
    assert steps[0].why == f"nothing it depends on has changed since {done.outcomes[0].run}"
    assert steps[0].seconds is not None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda p: p.write(ONE.replace("N = 1", "N = 2")), "constant flowcode:N changed"),
        (lambda p: p.write(ONE.replace("* times", "* times + 0")), "function flowcode:total changed"),
        (lambda p: p.write("# new\n" + ONE.replace("-> int:", "-> int:\n    'Doc.'")), None),
        (
            lambda p: p.write(ONE.replace("times: int = 1)", "times: int = 2)")),
            "function flowcode:total changed, input times changed",
        ),
    ],
)
def test_a_change_of_code_says_what_it_was(project, numbers, change, why):
    numbers(1, 2)
    project.write(ONE).run(data="numbers")
    change(project)
    found = said(project.plan(data="numbers"))
    assert found["load"][0] == "reuse"
    assert found["total"] == ("run", why) if why else found["total"][0] == "reuse"


def test_a_changed_argument_and_a_changed_seed(project, numbers):
    numbers(1, 2)
    project.write(ONE).run(data="numbers")
    assert said(project.plan(data="numbers", times=3))["total"] == ("run", "input times changed")
    assert said(project.plan(data="numbers", seed=7))["load"] == ("run", "seed 0 became 7")


def test_new_data_behind_the_same_reference(project, numbers):
    numbers(1, 2)
    project.write(ONE).run(data="numbers@latest")
    numbers(1, 2, 3)
    assert said(project.plan(data="numbers@latest"))["load"] == ("run", "input data changed")
    assert said(project.plan(data="numbers@1"))["load"][0] == "reuse"


def test_force_says_so(project, numbers):
    numbers(1, 2)
    project.write(ONE).run(data="numbers")
    steps = said(project.plan(data="numbers", force=frozenset({"load"})))
    assert steps["load"] == ("run", "it was asked for with --force")
    assert steps["total"][0] == "wait"


def test_a_step_without_cache_always_runs(project):
    project.write(
        "@step(cache=False)\ndef now() -> int:\n    return 1\n@pipeline\ndef main():\n    return now()\n"
    ).run()
    assert said(project.plan())["now"] == ("run", "it is marked cache=False")


def test_a_result_that_is_gone_is_no_result(project, numbers, ws):
    numbers(1, 2)
    done = project.write(ONE).run(data="numbers")
    manifest = ws.store.get(Run, done.outcomes[0].run).outputs["value"]["manifest"]
    ws.blobs.remove(manifest)
    assert said(project.plan(data="numbers"))["load"] == ("run", "its earlier result is no longer there")


def test_a_file_that_the_step_read_counts(project, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("a b")
    code = f"""
    @step
    def count() -> int:
        with open({str(words)!r}) as file:
            return len(file.read().split())
    @pipeline
    def main():
        return count()
    """
    assert project.write(code).run().result == 2
    assert said(project.plan())["count"][0] == "reuse"
    words.write_text("a b c")
    assert said(project.plan())["count"] == ("run", f"{words}, which it reads, has changed")
    assert project.run().result == 3
    words.unlink()
    assert said(project.plan())["count"][0] == "run"


def test_a_dataset_read_inside_a_step_counts(project, numbers):
    numbers(1, 2)
    code = """
    from boucle.ledger import datasets, recording
    @step
    def rows() -> int:
        return len(datasets.load(recording.running().ws, "numbers@latest"))
    @pipeline
    def main():
        return rows()
    """
    assert project.write(code).run().result == 2
    assert said(project.plan())["rows"][0] == "reuse"
    numbers(1, 2, 3)
    assert said(project.plan())["rows"] == ("run", "numbers@latest, which it reads, has changed")
    assert project.run().result == 3


MAPPED = """
@step
def items(n: int) -> list:
    return {list}

@step
def double(x, by: int = 2):
    return x

@pipeline
def main(n: int = 3, by: int = 2):
    return double.map(items(n), by)
"""


@pytest.mark.parametrize("listed", ["list(range(n))", "[{i} for i in range(n)]", "tuple({i} for i in range(n))"])
def test_a_map_over_an_output_is_planned_as_it_will_be_executed(project, listed, fates):
    project.write(MAPPED.replace("{list}", listed)).run()
    assert [(s.action, s.items, s.reused) for s in project.plan()] == [("reuse", 1, 0 + 1), ("reuse", 3, 3)]
    project.run(n=4)
    project.write(MAPPED.replace("{list}", listed).replace("return x", "return (x, x)"))
    step = project.plan(n=4)[1]
    assert (step.action, step.items, step.reused, step.why) == ("run", 4, 0, "function flowcode:double changed")


def test_a_plan_of_a_partly_reused_map(project):
    static = MAPPED.replace("items(n)", "list(range(n))").replace("{list}", "[]")
    project.write(static).run(n=2)
    step = project.plan(n=4)[0]
    assert (step.action, step.items, step.reused, step.why) == ("run", 4, 2, "input x changed")


def test_planning_writes_nothing(project, numbers, ws):
    numbers(1, 2)
    project.write(ONE).run(data="numbers")
    before = (ws.store.count(Run), len(ws.store.edges()), sorted(ws.blobs.list()))
    project.plan(data="numbers")
    project.plan(data="numbers", times=9)
    assert (ws.store.count(Run), len(ws.store.edges()), sorted(ws.blobs.list())) == before


def test_inputs_are_shown_as_what_they_mean_now(project, numbers, ws):
    from boucle.flow.plan import plan

    numbers(1)
    numbers(2)
    code = ONE.replace(
        "times: int = 1):\n    return total(load", "target: str, times: int = 1):\n    return total(load"
    )
    made = plan(ws, project.write(code).pipeline.trace({"data": "numbers@latest", "target": "numbers"}))
    assert made.inputs == {"data": "dataset:numbers@2", "target": "numbers", "times": "1"}


def test_a_dataset_that_is_not_there(project):
    with pytest.raises(NotFound, match="no dataset named 'nothing'"):
        project.write(ONE).plan(data="nothing")
