"""Runs: what is logged is kept, whatever happens to the process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boucle.core.errors import Conflict, Invalid, NotFound, Unavailable
from boucle.core.records import Points, Run
from boucle.core.where import field
from boucle.ledger import runs
from boucle.ledger.runs import compare, find, get, points, read_live, recover, start, track


def values(ws, run, name):
    (series,) = points(ws, run, name)
    return list(series.steps), list(series.values)


def test_a_tracked_block(shop):
    with track(shop, "by-hand", params={"depth": 3, "nested": {"a": [1]}}, seed=7) as run:
        run.log_params({"width": 2})
        run.log_metric("auc", 0.5)
        run.log_metric("auc", 0.75)
        run.log_metrics({"auc": 1, "loss": 2})
        run.log_metric("loss", 3, step=10)
        run.log_metric("loss", 4)
        run.tag(colour="red")
        assert get(shop, run.id).status == "running"
        assert get(shop, run.id).params == {"depth": 3, "nested": {"a": [1]}}
        assert values(shop, get(shop, run.id), "auc") == ([0, 1, 2], [0.5, 0.75, 1.0])
    done = get(shop, run.id)
    assert (done.status, done.actor, done.seed, done.type) == ("finished", "ann", 7, "run")
    assert done.params == {"depth": 3, "nested": {"a": [1]}, "width": 2}
    assert done.metrics == {"auc": 1.0, "loss": 4.0}
    assert done.tags == {"colour": "red"}
    assert values(shop, done, "auc") == ([0, 1, 2], [0.5, 0.75, 1.0])
    assert values(shop, done, "loss") == ([0, 10, 11], [2.0, 3.0, 4.0])
    assert done.ended >= done.started > 0
    assert shop.blobs.has(done.environment)
    assert [e.target for e in shop.store.edges(source=str(done), relation="ran")] == [f"code:{done.code}"]
    assert not list((shop.root / "live").iterdir())


@pytest.mark.parametrize(("error", "status"), [(ValueError("no"), "failed"), (KeyboardInterrupt(), "cancelled")])
def test_what_ends_a_block_is_recorded(shop, error, status):
    with pytest.raises(type(error)), track(shop, "x") as run:
        run.log_metric("a", 1)
        raise error
    assert (get(shop, run.id).status, get(shop, run.id).metrics) == (status, {"a": 1.0})
    assert get(shop, run.id).error.startswith(type(error).__name__)


def test_a_run_within_a_run(shop):
    with track(shop, "outer") as outer, track(shop, "inner") as inner:
        pass
    assert get(shop, inner.id).parent == outer.id
    assert [e.target for e in shop.store.edges(source=f"run:{inner.id}", relation="part_of")] == [f"run:{outer.id}"]


def test_params_do_not_change(shop):
    with track(shop, params={"a": 1}) as run:
        run.log_params({"a": 1})
        with pytest.raises(Conflict, match="param 'a' is 1 already"):
            run.log_params({"a": 2})


@pytest.mark.parametrize(
    ("name", "value", "step"),
    [("", 1, None), ("a\nb", 1, None), ("a\rb", 1, None), ("a\u2028b", 1, None), ("\ud800", 1, None), (1, 1, None),
     ("a", "much", None), ("a", None, None), ("a", 1, 1.5), ("a", 1, "2")],
)  # fmt: skip
def test_a_bad_metric_is_refused_and_nothing_is_written(shop, name, value, step):
    with track(shop) as run:
        run.log_metric("good", 1)
        with pytest.raises(Invalid, match="metric"):
            run.log_metric(name, value, step)
        with pytest.raises(Invalid, match="metric"):
            run.log_metrics({"good": 2, name: value}, step)
    done = get(shop, run.id)
    assert done.metrics == {"good": 1.0}
    assert [(p.name, list(p.values)) for p in points(shop, done)] == [("good", [1.0])]


@given(
    st.lists(
        st.tuples(st.text("ab é/%", min_size=1, max_size=3).filter(str.isprintable), st.floats(), st.integers(-5, 5)),
        max_size=12,
    ),
    st.integers(0, 200),
)
def test_a_live_file_is_read_back_up_to_where_it_was_cut(tmp_path_factory, logged, cut):
    path = tmp_path_factory.mktemp("live") / "x.0.points"
    lines = [f"{step} {0.5 + i!r} {value!r} {name}\n" for i, (name, value, step) in enumerate(logged)]
    text = "".join(lines).encode()
    path.write_bytes(text[: max(0, len(text) - cut)])
    whole, size = 0, 0
    for line in lines:
        size += len(line.encode())
        whole += size <= len(text) - cut
    expected: dict[str, list[tuple[int, str]]] = {}
    for name, value, step in logged[:whole]:
        expected.setdefault(name, []).append((step, repr(value)))
    found = {p.name: [(s, repr(v)) for s, v in zip(p.steps, p.values, strict=True)] for p in read_live(path)}
    assert found == expected


def test_many_points_go_to_the_store_on_the_way(shop, monkeypatch):
    monkeypatch.setattr(runs, "FLUSH_POINTS", 100)
    with track(shop) as run:
        for i in range(250):
            run.log_metric("a", i)
        assert get(shop, run.id).flushed == 2
        assert len(list((shop.root / "live").iterdir())) == 1
        assert values(shop, get(shop, run.id), "a") == (list(range(250)), list(map(float, range(250))))
    assert values(shop, get(shop, run.id), "a")[0] == list(range(250))
    assert not list((shop.root / "live").iterdir())


def test_several_threads_log_into_one_run(shop, monkeypatch):
    monkeypatch.setattr(runs, "FLUSH_POINTS", 97)
    with track(shop) as run:

        def work(n):
            for i in range(300):
                run.log_metric("shared", i)
                run.log_metrics({"both": i, f"own{n}": i})

        threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    steps, logged = values(shop, get(shop, run.id), "shared")
    assert sorted(steps) == list(range(1800))
    assert sorted(logged) == sorted(float(i) for i in range(300) for _ in range(6))
    assert sorted(values(shop, get(shop, run.id), "both")[0]) == list(range(1800))
    assert all(values(shop, get(shop, run.id), f"own{n}")[0] == list(range(300)) for n in range(6))


def test_a_full_disk_is_said_and_leaves_no_half_line(shop, monkeypatch):
    write = os.write
    with track(shop) as run:
        run.log_metric("a", 1)
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", lambda fd, data: write(fd, data[:7]))
            with pytest.raises(Unavailable, match="no room on the disk"):
                run.log_metric("a", 2)
        run.log_metric("a", 3)
        assert values(shop, get(shop, run.id), "a") == ([0, 1], [1.0, 3.0])


CHILD = """
import os, sys
import boucle
from boucle.ledger import runs
runs.FLUSH_POINTS = 40
ws = boucle.open(sys.argv[1])
with boucle.track(ws, "doomed", params={"a": 1}) as run:
    for i in range(100):
        run.log_metric("loss", 1 / (i + 1))
        run.log_metrics({"x": i})
    print(run.id, flush=True)
    os._exit(9)
"""


@pytest.fixture
def doomed(shop):
    """A run whose process was killed after 200 points, 160 of them in the store."""
    done = subprocess.run([sys.executable, "-c", CHILD, str(shop.project)], capture_output=True, text=True, check=False)
    assert done.returncode == 9, done.stderr
    return get(shop, done.stdout.strip())


def test_a_killed_process_loses_no_point(shop, doomed):
    assert doomed.status == "running"
    assert doomed.params == {"a": 1}
    assert values(shop, doomed, "x")[1] == list(map(float, range(100)))
    assert [r.id for r in recover(shop)] == [doomed.id]
    lost = get(shop, doomed.id)
    assert (lost.status, lost.error) == ("lost", "its process ended without finishing it")
    assert lost.metrics == {"loss": 0.01, "x": 99.0}
    assert values(shop, lost, "x") == (list(range(100)), list(map(float, range(100))))
    assert values(shop, lost, "loss")[1] == [1 / (i + 1) for i in range(100)]
    assert not list((shop.root / "live").iterdir())
    assert recover(shop) == []


def test_a_file_that_was_left_behind_does_not_count_twice(shop, doomed):
    """As if the process had died between the commit of its points and the removal of their file."""
    left = shop.root / "live" / f"{doomed.id}.0.points"
    left.write_text("0 1.0 5.0 x\n")
    assert values(shop, doomed, "x")[0] == list(range(100))
    recover(shop)
    assert values(shop, get(shop, doomed.id), "x")[0] == list(range(100))
    assert not left.exists()


def test_only_what_is_known_to_be_dead_is_lost(shop):
    here = start(shop, "alive")
    elsewhere = replace(here.record, id="ELSEWHERE", host="another", pid=1)
    reused = replace(here.record, id="REUSED", started=here.record.started - 1e7)
    gone = replace(here.record, id="GONE", pid=2**22 + 1)
    shop.store.put(elsewhere, reused, gone)
    assert {r.id for r in recover(shop)} == {"REUSED", "GONE"}
    here.finish()


def test_somebody_else_cleaned_up_before(shop):
    with track(shop) as run:
        run.log_metric("a", 1)
        for path in (shop.root / "live").iterdir():
            path.unlink()
    assert get(shop, run.id).metrics == {"a": 1.0}


def test_files_of_a_run(shop, tmp_path):
    (tmp_path / "plot.txt").write_text("x")
    with track(shop) as run:
        artifact = run.log_file(tmp_path / "plot.txt", "the plot")
        with pytest.raises(NotFound, match="no file"):
            run.log_file(tmp_path / "nothing")
    assert shop.blobs.get(artifact.value["blob"]) == b"x"
    assert [e.target for e in shop.store.edges(source=f"run:{run.id}", relation="made")] == [str(artifact)]


def test_a_run_by_id_start_of_id_or_name(shop):
    with track(shop, "first"):
        time.sleep(0.002)  # ids that are made within a millisecond begin alike
    with track(shop, "second") as b:
        pass
    assert (
        get(shop, b.id).id == get(shop, f"run:{b.id}").id == get(shop, "second").id == get(shop, b.id[:20].lower()).id
    )
    with pytest.raises(NotFound, match="no run named 'secnd'") as caught:
        get(shop, "secnd")
    assert "second" in caught.value.expected
    shop.store.put(replace(b.record, id=b.id[:-1] + ("0" if b.id[-1] != "0" else "1"), name="z"))
    with pytest.raises(Invalid, match="begins more than one run"):
        get(shop, b.id[:-1])


def test_search(shop):
    for depth in (1, 2, 3):
        with track(shop, "tree", params={"depth": depth}) as run:
            run.log_metric("auc", depth / 10)
    shop.store.put(replace(run.record, id="S", type="step"))
    best = find(shop, field("metrics.auc") > 0.15, order=["-metrics.auc"])
    assert [r.params["depth"] for r in best] == [3, 2]
    assert len(find(shop, steps=True)) == 4


def test_compare(shop):
    a = Run(id="A", name="a", started=1.0, ended=3.0, params={"x": 1, "y": [1]}, metrics={"m": 0.5})
    b = Run(id="B", name="b", started=1.0, params={"x": 2, "y": [1], "z": 0}, metrics={"n": 1.0})
    found = compare([a, b])
    assert found["params"] == {"x": [1, 2], "z": [None, 0]}
    assert found["same"] == {"y": [1]}
    assert found["metrics"] == {"m": [0.5, None], "n": [None, 1.0]}
    assert [r["seconds"] for r in found["runs"]] == [2.0, 0.0]
    assert compare([a])["params"] == {"x": [1], "y": [[1]]}


def test_points_are_joined_in_order():
    joined = Points.joined("a", [Points("a", [0], [1.0], [2.0]), Points("a", [1], [2.0], [3.0])])
    assert (joined.steps, joined.values) == ([0, 1], [2.0, 3.0])
