"""Executing: what runs, what is used again, what is recorded, and what is left after a failure."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from boucle.core.errors import NotFound, StepFailed
from boucle.core.records import Code, Run
from boucle.core.where import field
from boucle.flow.execute import execute
from boucle.ledger import lineage, runs

ONE = """
N = 1
@step
def load(data: Frame) -> Frame:
    return data

@step
def total(data: Frame) -> int:
    print("adding up")
    return sum(data.table().column("x").to_pylist()) * N

@pipeline
def main(data: Frame):
    return total(load(data))
"""


START = """
import boucle
from boucle.flow.load import load
ws = boucle.open(".")
try:
    done = boucle.execute(ws, load(ws.settings, "flowcode:main")[0], ARGUMENTS)"""


def steps_of(ws, name):
    return ws.store.find(Run, field("name") == name, order=["started"])


def test_a_run_its_record_and_its_result(project, numbers, ws):
    numbers(1, 2)
    done = project.write(ONE).run(data="numbers")
    assert (done.result, done.reused, done.run.status) == (3, 0, "finished")
    assert [o.status for o in done.outcomes] == ["finished", "finished"]
    step = ws.store.get(Run, done.outcomes[1].run)
    assert (step.name, step.type, step.parent, step.status, step.actor) == (
        "total",
        "step",
        done.run.id,
        "finished",
        "tester",
    )
    assert step.code == done.run.code
    assert step.environment == done.run.environment
    assert step.inputs["arguments"].keys() == {"data"}
    assert done.run.params == {"data": "numbers"}
    assert done.run.outputs == {o.label: o.run for o in done.outcomes}
    code = ws.store.get(Code, step.code)
    assert code.entry == "flowcode:main"


def test_edges_are_written_without_being_asked_for(project, numbers, ws):
    numbers(1, 2)
    done = project.write(ONE).run(data="numbers")
    load, total = (f"run:{o.run}" for o in done.outcomes)
    assert [e.target for e in ws.store.edges(source=load, relation="used")] == ["dataset:numbers@1"]
    made = [e.target for e in ws.store.edges(source=load, relation="made")]
    assert len(made) == 1
    assert [e.target for e in ws.store.edges(source=total, relation="used")] == made
    assert {e.source for e in ws.store.edges(target=str(done.run), relation="part_of")} == {load, total}
    assert [e.target for e in ws.store.edges(source=str(done.run), relation="ran")] == [f"code:{done.run.code}"]
    again = project.run(data="numbers")
    assert {e.target for e in ws.store.edges(source=str(again.run), relation="used")} == {load, total}


def test_everything_is_reused_also_by_another_process(project, numbers, ws, fates):
    numbers(1, 2)
    project.write(ONE).run(data="numbers")
    assert fates(project.run(data="numbers")) == {"load": "reused", "total": "reused"}
    code = START.replace("ARGUMENTS", "{'data': 'numbers'}") + "\nfinally:\n    print(done.reused)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ws.project, capture_output=True, text=True, check=True)
    assert done.stdout == "2\n"


def test_equal_output_cuts_off_what_follows(project, numbers, fates):
    numbers(1, 2)
    project.write(ONE).run(data="numbers")
    project.write(ONE.replace("    return data\n", "    return data.head(10)\n"))
    assert fates(project.run(data="numbers")) == {"load": "finished", "total": "reused"}


def test_a_changed_class_of_an_equal_value_does_not(project, fates):
    code = """
    from dataclasses import dataclass
    @dataclass
    class Rule:
        n: int
        def apply(self): return self.n + 1
    @step
    def rule():
        return Rule(1)
    @step
    def use(rule):
        return rule.apply()
    @pipeline
    def main():
        return use(rule())
    """
    assert project.write(code).run().result == 2
    assert project.write(code.replace("self.n + 1", "self.n + 5")).run().result == 6


def test_only_the_part_that_changed_runs_again(project, fates):
    code = """
    class Parts(NamedTuple):
        left: dict
        right: list
    @step
    def cut(n: int) -> Parts:
        return Parts({"n": 1}, list(range(n)))
    @step
    def left(x): return x
    @step
    def right(x): return len(x)
    @pipeline
    def main(n: int):
        a, b = cut(n)
        return left(a), right(b)
    """
    assert project.write(code).run(n=2).result == ({"n": 1}, 2)
    done = project.run(n=3)
    assert done.result == ({"n": 1}, 3)
    assert fates(done) == {"cut": "finished", "left": "reused", "right": "finished"}


def test_results_of_every_shape(project):
    code = """
    class Pair(NamedTuple):
        a: object
        b: object
    @step
    def one(x=1): return x
    @step
    def many(): return {"a": [1, 2, {"b": 3}], "c": 4}
    @pipeline
    def main():
        m = many()
        return {"list": [one(), 2], "pair": Pair(one(5), "x"), "deep": m["a"][2]["b"], "plain": None, "tuple": (m["c"],)}
    """
    done = project.write(code).run()
    assert done.result == {"list": [1, 2], "pair": (5, "x"), "deep": 3, "plain": None, "tuple": (4,)}
    assert type(done.result["pair"]).__name__ == "Pair"


def test_a_part_that_is_not_there_is_named(project):
    code = "@step\ndef one(): return {'a': 1}\n@step\ndef two(x): return x\n@pipeline\ndef main(): return two(one()['b'])\n"
    with pytest.raises(StepFailed, match="no part 'b'"):
        project.write(code).run()


def test_containers_of_outputs_reach_a_step_as_they_are(project, ws):
    code = """
    @step
    def one(x): return [x]
    @step
    def look(a, b, c): return [type(a).__name__, type(b).__name__, sorted(map(repr, c)), a, b]
    @pipeline
    def main():
        return look((one(1), 2), [one(3)], {1: one(1), "1": one(2)})
    """
    assert project.write(code).run().result == ["tuple", "list", ["'1'", "1"], ([1], 2), [[3]]]


def test_static_map_reuses_item_by_item(project, fates):
    code = "@step\ndef double(x): return 2 * x\n@pipeline\ndef main(): return double.map(ITEMS)\n"
    assert project.write(code.replace("ITEMS", "[1, 2, 3]")).run().result == [2, 4, 6]
    done = project.write(code.replace("ITEMS", "[3, 4, 1]")).run()
    assert done.result == [6, 8, 2]
    assert sorted(fates(done)["double"]) == ["finished", "reused", "reused"]


@pytest.mark.parametrize("listed", ["[n, n + 1]", "[{n}, {n + 1}]", "({n}, {n + 1})"])
def test_dynamic_map_reuses_item_by_item_and_keeps_lineage(project, numbers, ws, listed):
    code = f"""
    @step
    def items(data: Frame):
        n = data.table().column("x").to_pylist()[0]
        return {listed}
    @step
    def same(x): return x
    @step
    def last(xs): return xs
    @pipeline
    def main(data: Frame):
        return last(same.map(items(data)))
    """
    numbers(1)
    first = project.write(code).run(data="numbers").result
    numbers(2)
    done = project.run(data="numbers")
    assert done.result[0] == first[1]
    assert sorted(o.status for o in done.outcomes if o.label == "same") == ["finished", "reused"]
    above = [n.ref for n in lineage.why(ws, f"run:{done.outcomes[-1].run}").flat()]
    assert "dataset:numbers@2" in above


def test_a_map_over_nothing(project):
    code = """
    @step
    def none(): return []
    @step
    def double(x): return x
    @step
    def count(xs): return len(xs)
    @pipeline
    def main(): return count(double.map(none()))
    """
    assert project.write(code).run().result == 0


def test_the_seed_makes_random_steps_repeatable_and_belongs_to_the_key(project):
    code = """
    import random, numpy as np
    @step(cache=False)
    def draw(): return [random.random(), float(np.random.rand())]
    @step
    def kept(): return random.random()
    @pipeline
    def main(): return draw(), kept()
    """
    first, other, again = (project.write(code).run(seed=s).result for s in (1, 2, 1))
    assert first == again
    assert first[0] != other[0]
    assert first[1] != other[1]


# --- failure --------------------------------------------------------------------------------------------------------

FLAKY = """
from pathlib import Path
@step(retries=2, backoff=0.01)
def flaky(path: str):
    tries = Path(path)
    n = len(tries.read_text()) if tries.exists() else 0
    tries.write_text("x" * (n + 1))
    print("try", n)
    if n < FAILS: raise OSError(f"no {n}")
    return n
@pipeline
def main(path: str):
    return flaky(path)
"""


def test_retries_count_wait_and_are_recorded(project, ws, tmp_path, monkeypatch):
    pauses, sleep = [], time.sleep
    monkeypatch.setattr(time, "sleep", lambda s: pauses.append(s) if s >= 3 else sleep(s))
    code = FLAKY.replace("FAILS", "2").replace("backoff=0.01", "backoff=3")
    done = project.write(code).run(path=str(tmp_path / "tries"))
    assert done.result == 2
    assert pauses == [3, 6]
    found = steps_of(ws, "flaky")
    assert [(r.status, r.attempts, r.error) for r in found] == [
        ("failed", 1, "OSError: no 0"), ("failed", 2, "OSError: no 1"), ("finished", 3, ""),
    ]  # fmt: skip
    assert b"try 1" in ws.blobs.get(found[1].log)
    assert b"OSError: no 1" in ws.blobs.get(found[1].log)


def test_retries_end(project, ws, tmp_path):
    with pytest.raises(StepFailed, match="step flaky failed: OSError: no 2") as caught:
        project.write(FLAKY.replace("FAILS", "9")).run(path=str(tmp_path / "tries"))
    assert isinstance(caught.value.__cause__, OSError)
    assert len(steps_of(ws, "flaky")) == 3
    assert [r.status for r in runs.find(ws)] == ["failed"]


BRANCHES = """
@step
def good(n: int): return n
@step
def bad(n: int):
    if not FIXED: raise ValueError("wrong")
    return n
@step
def after(n): return n
@step
def join(a, b, c): return [a, b, c]
@pipeline
def main():
    return join(after(good(1)), bad(2), good(3))
"""


def test_the_other_branches_are_done_and_the_next_run_goes_on(project, fates, ws):
    with pytest.raises(StepFailed, match="step bad failed: ValueError: wrong") as caught:
        project.write(BRANCHES.replace("FIXED", "False")).run()
    assert "boucle runs show" in caught.value.fix
    failed = runs.find(ws)[0]
    assert failed.status == "failed"
    assert {r.name: r.status for r in runs.find(ws, field("parent") == failed.id, steps=True)} == {
        "good": "finished", "bad": "failed", "after": "finished",
    }  # fmt: skip
    done = project.write(BRANCHES.replace("FIXED", "True")).run()
    assert done.result == [1, 2, 3]
    assert fates(done) == {
        "good": "reused",
        "good-2": "reused",
        "after": "reused",
        "bad": "finished",
        "join": "finished",
    }


def test_a_failing_item_of_a_map_leaves_the_others(project, fates):
    code = "@step\ndef f(x): return 1 / (x - FIXED)\n@pipeline\ndef main(): return f.map([1, 2, 3])\n"
    with pytest.raises(StepFailed, match="division by zero"):
        project.write(code.replace("FIXED", "2")).run()
    code = "@step\ndef f(x): return 1 / x\n@pipeline\ndef main(n): return f.map([1, 2, n])\n"
    with pytest.raises(StepFailed):
        project.write(code).run(n=0)
    assert sorted(fates(project.run(n=4))["f"]) == ["finished", "reused", "reused"]


@pytest.mark.parametrize("leave", ["import sys; sys.exit(3)", "raise SystemExit"])
def test_a_step_that_exits_has_failed(project, ws, leave):
    code = f"@step\ndef quit():\n    {leave}\n@pipeline\ndef main(): return quit()\n"
    with pytest.raises(StepFailed, match="step quit failed: SystemExit"):
        project.write(code).run()
    assert runs.find(ws)[0].status == "failed"


def test_an_interrupt_leaves_cancelled_and_nothing_running(project, ws):
    code = """
    @step
    def stop(): raise KeyboardInterrupt
    @step
    def never(x): return x
    @pipeline
    def main(): return never(stop())
    """
    with pytest.raises(KeyboardInterrupt):
        project.write(code).run()
    assert {(r.name, r.status) for r in runs.find(ws, steps=True)} == {("main", "cancelled"), ("stop", "cancelled")}
    assert sys.stdout.__class__.__name__ != "_Splitter"


def test_a_result_that_cannot_be_kept_fails_the_step(project, ws):
    code = "@step\ndef made(): return (x for x in 'ab')\n@pipeline\ndef main(): return made()\n"
    with pytest.raises(StepFailed, match="a generator cannot be kept"):
        project.write(code).run()
    assert steps_of(ws, "made")[0].status == "failed"


# --- processes, threads, logs ---------------------------------------------------------------------------------------

APART = """
import os
from boucle.ledger import datasets, recording
@step(isolate=True)
def apart(data: Frame) -> int:
    print("in", os.getpid())
    recording.log_metrics({"rows": len(data)})
    recording.running().tag(colour="red")
    datasets.load(recording.running().ws, "other@latest")
    with open(__file__) as f, open(FILE) as g:
        g.read()
    if FAIL: raise Odd(1, 2)
    return os.getpid()
class Odd(Exception):
    def __init__(self, a, b): super().__init__("odd one")
@pipeline
def main(data: Frame):
    return apart(data)
"""


@pytest.fixture
def other(ws):
    from boucle.core.frames import Frame
    from boucle.ledger import datasets

    return datasets.commit(ws, "other", Frame.of({"y": [1]}))[0]


def test_an_isolated_step_has_its_own_process_and_brings_everything_back(project, numbers, other, ws, tmp_path):
    (tmp_path / "f.txt").write_text("x")
    numbers(1, 2)
    code = APART.replace("FILE", repr(str(tmp_path / "f.txt"))).replace("FAIL", "False")
    done = project.write(code).run(data="numbers")
    assert done.result != os.getpid()
    run = ws.store.get(Run, done.outcomes[0].run)
    assert ws.blobs.get(run.log).decode() == f"in {done.result}\n"
    assert run.metrics == {"rows": 2.0}
    assert run.tags == {"colour": "red"}
    assert run.reads.keys() == {"other@latest", f"file:{tmp_path / 'f.txt'}"}
    assert [list(p.values) for p in runs.points(ws, run)] == [[2.0]]
    assert {e.target for e in ws.store.edges(source=str(run), relation="used")} == {
        "dataset:numbers@1",
        "dataset:other@1",
    }
    assert not list((ws.root / "live").glob("*"))
    assert project.run(data="numbers").reused == 1


def test_an_isolated_step_that_fails_still_tells(project, numbers, other, ws, tmp_path):
    (tmp_path / "f.txt").write_text("x")
    numbers(1, 2)
    code = APART.replace("FILE", repr(str(tmp_path / "f.txt"))).replace("FAIL", "True")
    with pytest.raises(StepFailed, match="Odd: odd one"):
        project.write(code).run(data="numbers")
    run = steps_of(ws, "apart")[0]
    log = ws.blobs.get(run.log).decode()
    assert log.startswith("in ")
    assert "in its own process" in log
    assert run.metrics == {"rows": 2.0}


@pytest.mark.slow
def test_a_timeout_ends_the_step_and_keeps_what_it_logged(project, ws):
    code = """
    import time
    from boucle.ledger import recording
    @step(timeout=TIME)
    def slow() -> int:
        recording.log_metrics({"at": 1})
        time.sleep(60)
    @pipeline
    def main(): return slow()
    """
    with pytest.raises(StepFailed, match="took longer than 3 s"):
        project.write(code.replace("TIME", "3")).run()
    run = steps_of(ws, "slow")[0]
    assert (run.status, run.metrics) == ("failed", {"at": 1.0})
    assert [list(p.values) for p in runs.points(ws, run)] == [[1.0]]
    assert not list((ws.root / "live").glob("*"))


def test_a_crash_in_a_step_of_its_own_is_a_failure(project):
    code = "import os\n@step(isolate=True)\ndef crash(): os._exit(7)\n@pipeline\ndef main(): return crash()\n"
    with pytest.raises(StepFailed, match="exit code 7"):
        project.write(code).run()


def test_branches_overlap_and_their_logs_do_not_mix(project, ws):
    code = """
    import threading
    meet = threading.Barrier(3, timeout=20)
    @step
    def work(n: int):
        print("begin", n)
        meet.wait()
        print("end", n)
        return n
    @step
    def total(ns): return sum(ns)
    @pipeline
    def main(): return total([work(1), work(2), work(3)])
    """
    heard = []
    done = project.write(code).run(listen=heard.append)
    assert done.result == 6
    for run in steps_of(ws, "work"):
        n = run.params["n"]
        assert ws.blobs.get(run.log).decode() == f"begin {n}\nend {n}\n"
    said = {}
    for progress in heard:
        if progress.kind == "printed":
            said.setdefault(progress.label, []).append(progress.text.strip())
    assert said == {f"work{end}": [f"begin {n}", f"end {n}"] for end, n in (("", 1), ("-2", 2), ("-3", 3))}


def test_what_is_printed_outside_goes_where_it_went(project, capsys):
    code = """
    import sys
    @step
    def talk():
        print("inside")
        print("error", file=sys.stderr)
    @pipeline
    def main(): return talk()
    """
    project.write(code).run(listen=lambda p: print(p.kind))
    assert capsys.readouterr().out.splitlines() == ["started", "printed", "printed", "finished"]


def test_a_step_may_execute_a_pipeline(project, ws):
    code = """
    from boucle.flow.execute import execute
    from boucle.ledger import recording
    @step
    def small(n: int): return n + 1
    @pipeline
    def inner(n: int): return small(n)
    @step
    def outer():
        return execute(recording.running().ws, inner, {"n": 1}).result
    @pipeline
    def main(): return outer()
    """
    done = project.write(code).run()
    assert done.result == 2
    inner = steps_of(ws, "inner")[0]
    assert [e.target for e in ws.store.edges(source=str(inner), relation="part_of")] == [f"run:{done.outcomes[0].run}"]


def test_two_executions_at_once_in_one_process(project, numbers, ws):
    numbers(1, 2)
    project.write(ONE)
    results, errors = [], []

    def work():
        try:
            results.append(execute(ws, project.pipeline, {"data": "numbers"}).result)
        except Exception as error:  # noqa: BLE001  told below
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert (results, errors) == ([3, 3, 3], [])


def test_unknown_arguments_start_no_run(project, numbers, ws):
    numbers(1)
    with pytest.raises(NotFound):
        project.write(ONE).run(data="numbers", depht=1)
    assert ws.store.count(Run) == 0


def test_a_killed_run_is_continued(project, numbers, ws, fates):
    """The process dies in the second step; the first is found again, and the run that died is marked lost."""
    numbers(1, 2)
    code = """
    import os
    @step
    def first(data: Frame): return len(data)
    @step
    def second(n):
        if os.environ.get("DIE"): os._exit(9)
        return n
    @pipeline
    def main(data: Frame): return second(first(data))
    """
    project.write(code)
    run = START.replace("ARGUMENTS", "{'data': 'numbers'}") + "\nfinally:\n    pass"
    died = subprocess.run([sys.executable, "-c", run], cwd=ws.project, env={"DIE": "1", "PATH": ""}, check=False)
    assert died.returncode == 9
    assert [r.status for r in runs.find(ws)] == ["running"]
    assert fates(project.run(data="numbers")) == {"first": "reused", "second": "finished"}
    assert [r.status for r in runs.find(ws)] == ["finished", "lost"]


def test_files_that_a_step_wrote_are_no_inputs(project, ws, tmp_path):
    code = f"""
    @step
    def both() -> str:
        with open({str(tmp_path / "out.txt")!r}, "w") as f: f.write("x")
        with open({str(tmp_path / "out.txt")!r}) as f: return f.read()
    @pipeline
    def main(): return both()
    """
    done = project.write(textwrap.dedent(code)).run()
    assert ws.store.get(Run, done.outcomes[0].run).reads == {}


def test_an_interrupt_ends_isolated_steps(project, ws, tmp_path):
    began = tmp_path / "began"
    code = f"""
    import os, time
    from pathlib import Path
    @step(isolate=True)
    def long():
        Path({str(began)!r} + "-").write_text(str(os.getpid()))
        os.rename({str(began)!r} + "-", {str(began)!r})
        time.sleep(60)
    @pipeline
    def main(): return long()
    """
    project.write(code)
    run = START.replace("ARGUMENTS", "{}") + "\nexcept KeyboardInterrupt:\n    import time; time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", run], cwd=ws.project)
    try:
        while not began.exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)  # to this process alone, not to the one of the step
        deadline = time.monotonic() + 30
        while alive(int(began.read_text())) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not alive(int(began.read_text()))
        assert process.poll() is None
        while runs.find(ws)[0].status == "running" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert runs.find(ws)[0].status == "cancelled"
    finally:
        process.kill()
        process.wait()


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


MEASURED = """
from boucle import log_metrics

@step
def measured(x: int) -> int:
    log_metrics({"size": float(x)})
    return x

@pipeline
def main(x: int):
    return measured(x), measured.map([7, 8])
"""


def test_a_pipelines_run_has_the_metrics_of_its_steps(project):
    project.write(MEASURED)
    first, again = project.run(x=3).run, project.run(x=3).run
    assert first.metrics == again.metrics == {"size": 3.0}
