"""Traffic as data: a real workspace and logs as services write them, without a server."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import boucle
from boucle.core.bundle import open_bundle, replay
from boucle.core.errors import Conflict, Invalid, Unavailable
from boucle.core.frames import Frame
from boucle.core.records import Dataset, Service
from boucle.core.refs import new_id
from boucle.core.schema import Schema
from boucle.ledger import bundles, datasets, models, services
from boucle.ledger.lineage import impact, touched, why
from boucle.ops import seal as module
from boucle.ops.label import label
from boucle.ops.seal import grow, growth, seal
from boucle.ops.serve.predictions import PredictionLog

MODELS = """
def price(rows):
    return [3.0 + 2.0 * (row['km'] or 0.0) for row in rows]


def grade(rows):
    return ['far' if row['distance'] > 8 else 'near' for row in rows]
"""
ROWS = 30


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[boucle.Workspace]:
    """A workspace with the models price@1, which takes km and zone, and grade@1, which takes distance and time."""
    folder = tmp_path_factory.mktemp("rides")
    (folder / "sealed_models.py").write_text(MODELS)
    with pytest.MonkeyPatch.context() as patch, boucle.init(folder, actor="ann") as ws:
        patch.syspath_prepend(str(folder))
        patch.setattr(bundles, "prove", lambda f: {"ok": replay(open_bundle(f)) == [], "said": "proved here"})
        import sealed_models as code

        rides = {
            "ride": [f"r{i}" for i in range(ROWS)], "km": [float(i) for i in range(ROWS)], "zone": ["n", "s", None] * 10,
            "paid": [3.0 + 2 * i for i in range(ROWS)], "note": [None, "late", None] * 10,
        }  # fmt: skip
        datasets.commit(ws, "rides", Frame.of(rides))
        with boucle.track(ws, "training"):
            data = datasets.load(ws, "rides")
            inputs = data.select(["km", "zone"])
            models.register(
                ws, "price", code.price, data=inputs, trained=data, holdout=data.take([0, 1]), target="paid",
                task="regression",
            )  # fmt: skip
        graded = Frame.of({"distance": [1, 20], "time": ["am", "pm"]})
        models.register(ws, "grade", code.grade, data=graded)
        yield ws
    sys.modules.pop("sealed_models", None)


class Traffic:
    """A service whose logs are written here."""

    def __init__(self, ws: boucle.Workspace) -> None:
        self.ws, self.name, self.logs = ws, f"s{new_id().lower()}", []

    def revision(self, model: str = "price@1") -> Service:
        record = models.resolve(self.ws, model)
        made = services.reserve(self.ws, self.name, record, "process", 1.0)
        self.logs.append(PredictionLog(Path(made.folder, "predictions")))
        return services.change(self.ws, made, "ready")

    def answer(self, revision: Service, inputs: list[dict[str, Any]], ago: float = 60.0, **more: Any) -> list[str]:
        lines = []
        for row in inputs:
            km = row.get("km") or 0.0
            said = {"prediction": "near"} if "time" in row else {"prediction": 3.0 + 2.0 * km if km != "far" else 0.0}
            body = {
                "time": time.time() - ago, "service": self.name, "revision": revision.revision, "model": revision.model,
                "digest": revision.digest, "inputs": row, "output": said, "latency_us": 2000, "request": "r", **more,
            }  # fmt: skip
            lines.append(json.dumps(body)[1:-1])
        return self.logs[revision.revision - 1].append(lines)


@pytest.fixture
def later(place: boucle.Workspace, monkeypatch: pytest.MonkeyPatch) -> boucle.Workspace:
    """The workspace a little later, when all that was written has settled."""
    monkeypatch.setattr(place, "now", lambda: time.time() + 5)
    return place


@pytest.fixture
def traffic(later: boucle.Workspace) -> Iterator[Callable[[], Traffic]]:
    made: list[Traffic] = []

    def make() -> Traffic:
        made.append(Traffic(later))
        return made[-1]

    yield make
    for one in made:
        for log in one.logs:
            log.close()


def rows(ws: boucle.Workspace, dataset: Dataset | None) -> list[dict[str, Any]]:
    assert dataset is not None
    return datasets.frame(ws, dataset).table().to_pylist()


def asked(n: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"km": float(start + i), "zone": "n"} for i in range(n)]


# --- sealing -----------------------------------------------------------------------------------------------------------


def test_a_window_holds_what_was_asked_answered_and_known(traffic, later):
    one = traffic()
    first = one.revision()
    one.answer(first, asked(2), request="probe")
    ids = one.answer(first, [*asked(2), {"km": None, "zone": "s"}])
    one.answer(first, asked(1), shadow=ids[0])
    label(later, one.name, {ids[1]: "5.5", ids[2]: "who knows"})
    done = seal(later, one.name)
    assert (done.new, done.rows, done.labelled, done.unreadable, done.revisions) == (True, 3, 1, 1, (1,))
    assert (done.first, done.last) == (ids[0], ids[-1])
    assert done.dataset.key == f"{one.name}-predictions@1"
    found = rows(later, done.dataset)
    assert [r["prediction_id"] for r in found] == ids
    assert found[1] | {"time": 0} == {
        "prediction_id": ids[1], "time": 0, "revision": 1, "model": "price@1", "km": 1.0, "zone": "n", "prediction": 5.0,
        "confidence": None, "latency_us": 2000, "request": "r", "label": 5.5,
    }  # fmt: skip
    assert abs(found[0]["time"].timestamp() - time.time()) < 86400
    types = {c.name: c.type for c in Schema.from_json(done.dataset.schema).columns}
    assert (types["km"], types["time"], types["label"]) == ("float64", "timestamp", "float64")


def test_a_second_window_begins_where_the_first_ended(traffic, later):
    one = traffic()
    first = one.revision()
    before = one.answer(first, asked(2))
    assert seal(later, one.name).dataset.version == 1
    again = seal(later, one.name)
    assert (again.new, again.rows, again.dataset.version) == (False, 0, 1)
    after = one.answer(first, asked(3, 10))
    planned = seal(later, one.name, dry_run=True)
    assert (planned.new, planned.rows, planned.dataset.version) == (False, 3, 1)
    done = seal(later, one.name)
    assert (done.dataset.version, [r["prediction_id"] for r in rows(later, done.dataset)]) == (2, after)
    assert done.first > before[-1]


def test_what_was_answered_just_now_waits(traffic, later, monkeypatch):
    one = traffic()
    first = one.revision()
    one.answer(first, asked(2))
    monkeypatch.setattr(later, "now", lambda: time.time() - 5)
    assert seal(later, one.name).dataset is None
    monkeypatch.setattr(later, "now", lambda: time.time() + 5)
    assert seal(later, one.name).rows == 2


def test_revisions_with_other_inputs_give_the_columns_of_all(traffic, later):
    one = traffic()
    first, second = one.revision(), one.revision("grade@1")
    one.answer(first, asked(1))
    one.answer(second, [{"distance": 3, "time": "am"}])
    done = seal(later, one.name)
    old, new = rows(later, done.dataset)
    assert (old["km"], old["distance"], old["input_time"]) == (0.0, None, None)
    assert (new["km"], new["distance"], new["input_time"], new["revision"]) == (None, 3, "am", 2)
    assert (old["prediction"], new["prediction"]) == ("3.0", "near")  # a number and a class have only text in common
    assert done.dataset.tags["sealed"]["renamed"] == {"time": "input_time"}


def test_a_new_type_of_answer_does_not_stop_it(traffic, later):
    one = traffic()
    one.answer(one.revision(), asked(1))
    assert seal(later, one.name).dataset.schema["columns"][-5]["type"] == "float64"
    one.answer(one.revision("grade@1"), [{"distance": 3, "time": "am"}])
    assert rows(later, seal(later, one.name).dataset)[0]["prediction"] == "near"


def test_the_confidence_is_the_probability_of_what_was_said(traffic, later):
    one = traffic()
    first = one.revision("grade@1")
    said = {"prediction": "near", "probabilities": {"far": 0.25, "near": 0.75}}
    one.answer(first, [{"distance": 3, "time": "am"}], output=said)
    assert rows(later, seal(later, one.name).dataset)[0]["confidence"] == 0.75


def test_it_has_a_place_in_the_graph(traffic, later):
    one = traffic()
    one.answer(one.revision(), asked(2))
    dataset = str(seal(later, one.name).dataset)
    up = [n.ref for n in why(later, dataset).flat()]
    assert up[:3] == [dataset, f"service:{one.name}@1", "model:price@1"]
    assert "dataset:rides@1" in up
    assert not [r for r in up if r.startswith("source:service")]
    assert dataset in touched(impact(later, "model:price@1"))["dataset"]
    assert dataset in touched(impact(later, "dataset:rides@1"))["dataset"]


def test_a_dataset_of_something_else_is_left_alone(traffic, later):
    one, other = traffic(), traffic()
    for each in (one, other):
        each.answer(each.revision(), asked(1))
    with pytest.raises(Invalid, match="does not hold what"):
        seal(later, one.name, into="rides")
    seal(later, one.name, into=f"of-{one.name}")
    with pytest.raises(Invalid, match="does not hold what"):
        seal(later, other.name, into=f"of-{one.name}")
    with pytest.raises(Invalid, match="usable dataset name"):
        seal(later, one.name, into="no/name")


def test_two_at_once_do_not_seal_the_same(traffic, later, monkeypatch):
    one = traffic()
    one.answer(one.revision(), asked(2))
    write = module.tables.write

    def slow(*arguments):
        stored = write(*arguments)
        monkeypatch.setattr(module.tables, "write", write)
        seal(later, one.name)  # somebody else is faster
        return stored

    monkeypatch.setattr(module.tables, "write", slow)
    with pytest.raises(Conflict, match="came in between"):
        seal(later, one.name)
    assert [d.rows for d in datasets.versions(later, f"{one.name}-predictions")] == [2]


@settings(max_examples=15)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 4), st.booleans(), st.booleans()), max_size=8),
    st.integers(1, 3),
)
def test_many_steps_give_what_one_gives(place, steps, batch):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, "now", lambda: time.time() + 5)
        patch.setattr(module, "_BATCH", batch)
        one = Traffic(place)
        both = [one.revision(), one.revision("grade@1")]
        given_ids = []
        for which, count, probe, sealed in steps:
            inputs = asked(count) if which == 0 else [{"distance": i, "time": "am"} for i in range(count)]
            ids = one.answer(both[which], inputs, **({"request": "probe"} if probe else {}))
            given_ids += [] if probe else ids
            if sealed:
                seal(place, one.name)
        seal(place, one.name)
        for log in one.logs:
            log.close()
        if not given_ids:
            assert datasets.latest(place, f"{one.name}-predictions") is None
            return
        windows = datasets.versions(place, f"{one.name}-predictions")[::-1]
        assert all(w.rows for w in windows)
        parts = [r for w in windows for r in rows(place, w)]
        whole = rows(place, seal(place, one.name, into=f"{one.name}-whole").dataset)
        assert parts == whole
        assert [r["prediction_id"] for r in whole] == given_ids


# --- growing -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def rides(later: boucle.Workspace) -> Iterator[boucle.Workspace]:
    """The dataset the model learned from as it was, for each test."""
    yield later
    later.store.drop(Dataset, *(d.key for d in datasets.versions(later, "rides") if d.version > 1))


def test_labelled_traffic_becomes_training_rows(traffic, rides):
    one = traffic()
    first = one.revision()
    ids = one.answer(first, asked(3, 100))
    label(rides, one.name, {ids[0]: "7.5", ids[2]: 9})
    grown = grow(rides, one.name, nulls=["ride"])
    assert (grown.key, grown.rows) == ("rides@2", ROWS + 2)
    assert rows(rides, grown)[:ROWS] == rows(rides, datasets.resolve(rides, "rides@1"))
    assert rows(rides, grown)[ROWS:] == [
        {"ride": None, "km": 100.0, "zone": "n", "paid": 7.5, "note": None},
        {"ride": None, "km": 102.0, "zone": "n", "paid": 9.0, "note": None},
    ]
    up = [n.ref for n in why(rides, "dataset:rides@2").flat()]
    assert {"dataset:rides@1", f"service:{one.name}@1", "model:price@1"} <= set(up)


def test_each_label_comes_in_once_however_late(traffic, rides):
    one = traffic()
    first, second = one.revision(), one.revision()
    old, new = one.answer(first, asked(3)), one.answer(second, asked(3, 50))
    label(rides, one.name, {new[0]: 1.0})
    assert grow(rides, one.name, nulls=["ride"]).rows == ROWS + 1
    with pytest.raises(Unavailable, match=r"1 new labelled predictions of .* are needed, 0 are there"):
        grow(rides, one.name)
    label(rides, one.name, {old[1]: 2.0, new[0]: 3.0})
    grown = grow(rides, one.name)  # ride is nullable by now
    assert grown.rows == ROWS + 2
    assert [r["paid"] for r in rows(rides, grown)[ROWS:]] == [1.0, 2.0]
    datasets.commit(rides, "rides", datasets.frame(rides, datasets.resolve(rides, "rides@1")), evolve=True)
    again = grow(rides, one.name, nulls=["ride"])  # a fresh version has none of them
    assert sorted(r["paid"] for r in rows(rides, again)[ROWS:]) == [2.0, 3.0]


def test_fewer_than_needed_change_nothing(traffic, rides):
    one = traffic()
    ids = one.answer(one.revision(), asked(3))
    label(rides, one.name, {ids[0]: 1.0, ids[1]: "free"})
    with pytest.raises(Unavailable) as caught:
        grow(rides, one.name, least=2, nulls=["ride"])
    assert "2 new labelled predictions" in caught.value.what
    assert "1 are there, and 1 set aside" in caught.value.what
    assert caught.value.fix == f"boucle label {one.name} FILE"
    assert datasets.latest(rides, "rides").version == 1


def test_bad_labels_and_rows_are_counted_and_come_in_when_mended(traffic, rides):
    one = traffic()
    first = one.revision()
    ids = one.answer(first, [*asked(2), {"km": "far", "zone": "n"}, {"km": 1.0, "zone": "n", "extra": 1}])
    label(rides, one.name, dict(zip(ids, [1.0, "free", 2.0, 3.0], strict=True)))
    plan = growth(rides, one.name, nulls=["ride"])
    assert (plan.rows, plan.set_aside) == (1, {"label": 1, "inputs": 2})
    grown = grow(rides, one.name, nulls=["ride"])
    assert grown.tags["grown"]["set_aside"] == {"label": 1, "inputs": 2}
    assert any("'free' is no float64" in e for e in grown.tags["grown"]["examples"])
    label(rides, one.name, {ids[1]: "4.0"})
    assert grow(rides, one.name).rows == ROWS + 2


def test_only_the_recent_rows_and_recent_traffic(traffic, rides):
    one = traffic()
    first = one.revision()
    old, new = one.answer(first, asked(1), ago=5000), one.answer(first, asked(2, 70), ago=10)
    label(rides, one.name, dict.fromkeys([*old, *new], 1.5))
    grown = grow(rides, one.name, recent=5, since=time.time() - 1000, nulls=["ride"])
    assert [r["km"] for r in rows(rides, grown)] == [27.0, 28.0, 29.0, 70.0, 71.0]
    assert growth(rides, one.name).rows == 1
    with pytest.raises(Invalid, match="0 most recent"):
        grow(rides, one.name, recent=0)


def test_probes_and_shadows_teach_nothing(traffic, rides):
    one = traffic()
    first = one.revision()
    ids = [*one.answer(first, asked(1), request="probe"), *one.answer(first, asked(1), shadow=new_id())]
    label(rides, one.name, dict.fromkeys(ids, 1.0))
    assert growth(rides, one.name, nulls=["ride"]).rows == 0


def test_many_labels_are_read_from_the_log(traffic, rides, monkeypatch):
    monkeypatch.setattr(module, "_FEW", 2)
    monkeypatch.setattr(module, "_BATCH", 3)
    one = traffic()
    ids = one.answer(one.revision(), asked(20))
    label(rides, one.name, dict.fromkeys(ids[3::2], 1.0))
    grown = grow(rides, one.name, nulls=["ride"])
    assert [r["km"] for r in rows(rides, grown)[ROWS:]] == [float(i) for i in range(3, 20, 2)]


def test_what_cannot_be_filled_is_named(traffic, rides):
    one = traffic()
    ids = one.answer(one.revision(), asked(1))
    label(rides, one.name, {ids[0]: 1.0})
    with pytest.raises(Invalid, match="is not asked ride") as caught:
        grow(rides, one.name)
    assert "--null ride" in caught.value.fix
    with pytest.raises(Invalid, match="no column named 'rid'"):
        grow(rides, one.name, nulls=["rid"])
    other = traffic()
    other.revision("grade@1")
    with pytest.raises(Invalid, match="nothing says which column grade@1 predicts"):
        grow(rides, other.name)


@pytest.mark.parametrize(
    ("said", "kind", "read"),
    [
        ("1", "int64", 1), ("1.0", "int64", 1), (1.0, "int64", 1), (True, "int64", 1), ("1.5", "int64", None),
        (300, "int8", None), ("x", "int64", None), ("nan", "float64", None), ("2.5", "float64", 2.5), (2, "float64", 2.0),
        ("TRUE", "bool", True), (0, "bool", False), ("maybe", "bool", None), (7, "string", "7"), ("a", "string", "a"),
        ("2026-11-01", "date", "2026-11-01"), ("first", "date", None), (9007199254740993, "int64", 9007199254740993),
    ],
)  # fmt: skip
def test_labels_are_read_as_what_the_target_is(said, kind, read):
    value = module._as_value(said, boucle.Column("y", kind))
    assert value == read
    assert type(value) is type(read)


# --- dying -------------------------------------------------------------------------------------------------------------

DYING = """
import os, signal, sys, time
import boucle
from boucle.ops.seal import grow, seal

folder, service, left = sys.argv[1], sys.argv[2], int(sys.argv[3])
ws = boucle.open(folder)
ws.now = lambda: time.time() + 5


def dying(call):
    def counted(*arguments, **options):
        global left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **options)
    return counted


kinds = type(ws.store), type(ws.blobs)
for kind, names in zip(kinds, (("add", "append", "link"), ("put",))):
    for name in names:
        setattr(kind, name, dying(getattr(kind, name)))
seal(ws, service)
grow(ws, service, nulls=["ride"])
"""


@pytest.mark.slow
def test_whoever_is_killed_loses_nothing_and_repeats_nothing(traffic, rides):
    one = traffic()
    first = one.revision()
    ids: list[str] = []
    killed = 0
    for point in random.Random(7).sample(range(1, 13), 6):
        new = one.answer(first, asked(5))
        label(rides, one.name, dict.fromkeys(new[::2], 1.0))
        ids += new
        arguments = [sys.executable, "-c", DYING, str(rides.project), one.name, str(point)]
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        killed += done.returncode != 0
    assert killed >= 3
    new = one.answer(first, asked(1))
    label(rides, one.name, {new[0]: 1.0})
    seal(rides, one.name)
    grown = grow(rides, one.name, nulls=["ride"])
    windows = datasets.versions(rides, f"{one.name}-predictions")[::-1]
    assert [r["prediction_id"] for w in windows for r in rows(rides, w)] == [*ids, *new]
    assert grown.rows == ROWS + 6 * 3 + 1
    assert list(rides.store.check()) == []
