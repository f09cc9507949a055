"""Verdicts on datasets, and the checks a profile suggests."""

import time
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boucle.core.errors import Invalid, NotFound
from boucle.core.frames import Frame
from boucle.core.records import Verdict
from boucle.data.ingest import ingest
from boucle.data.validate import expectations, statistics, validate
from boucle.ledger import datasets
from boucle.measure.quality import profile
from boucle.plugins.blobs.local import LocalBlobs
from boucle.plugins.stores.memory import MemoryStore


@pytest.fixture
def ws(tmp_path):
    return SimpleNamespace(
        now=time.time,
        store=MemoryStore(),
        blobs=LocalBlobs(tmp_path / "blobs", durable=False),
        actor="ann",
        root=tmp_path,
    )


TABLE = {"id": [1, 2, 3, 4], "x": [0.5, None, 2.5, 90.0], "kind": ["a", "b", "a", "a"]}


def test_verdicts_are_kept(ws):
    ingest(ws, TABLE, "t")
    verdicts = validate(ws, "t@latest", {"required": {"columns": ["x"]}, "unique": {"column": "id"}})
    assert [(v.check, v.status, v.subject) for v in verdicts] == [
        ("required", "fail", "dataset:t@1"), ("unique", "pass", "dataset:t@1"),
    ]  # fmt: skip
    assert verdicts[0].score == 0.25
    assert verdicts[0].evidence["options"] == {"columns": ["x"]}
    assert sorted(v.id for v in ws.store.find(Verdict)) == sorted(v.id for v in verdicts)
    assert {(e.source, e.relation) for e in ws.store.edges(target="dataset:t@1")} == {
        (f"verdict:{v.id}", "judges") for v in verdicts
    }
    assert [e.type for e in ws.store.events()] == ["dataset.committed", "dataset.validated", "data.failed"]


def noted(ws):
    found = [e for e in ws.store.events() if e.type.startswith("data.")]
    return [(e.type, e.subject, e.data["check"], e.data["column"]) for e in found]


def test_what_fails_is_an_event_and_so_is_that_it_passes_again(ws):
    ingest(ws, TABLE, "t")
    checks = {"between": [{"column": "x", "high": 10}, {"column": "id", "high": 10}], "required": {"columns": ["x"]}}
    first = validate(ws, "t", checks)
    assert noted(ws) == [("data.failed", "dataset:t@1", "between", "x"), ("data.failed", "dataset:t@1", "required", "")]
    event = next(e for e in ws.store.events() if e.type == "data.failed")
    assert (event.reason, event.data["summary"]) == (first[0].summary, first[0].summary)
    assert event.data["verdict"] == first[0].id
    assert event.data["since"] == datasets.resolve(ws, "t@1").created
    ingest(ws, {**TABLE, "x": [0.5, 1.0, 2.5, 90.0]}, "t")
    validate(ws, "t", {"between": {"column": "id", "high": 9}})
    assert len(noted(ws)) == 2, "another column says nothing of this one"
    validate(ws, "t@2", {**checks, "between": {"column": "x", "high": 100}})
    assert noted(ws)[2:] == [
        ("data.passed", "dataset:t@2", "between", "x"), ("data.passed", "dataset:t@2", "required", ""),
    ]  # fmt: skip
    validate(ws, "t@2", {"required": {"columns": ["x"]}})
    assert len(noted(ws)) == 4, "once is enough"


def test_that_an_earlier_version_passes_ends_nothing(ws):
    for high in (1.0, 90.0, 2.0):
        ingest(ws, {"id": [1], "x": [high]}, "t")
    ingest(ws, TABLE, "tt")
    check = {"between": {"column": "x", "high": 10}}
    validate(ws, "t@2", check)
    validate(ws, "t@1", check)
    validate(ws, "tt", {"between": {"column": "x", "high": 100}})
    assert [e[0] for e in noted(ws)] == ["data.failed"]
    validate(ws, "t@3", check)
    assert noted(ws)[1:] == [("data.passed", "dataset:t@3", "between", "x")]


def test_one_of_two_bounds_that_fails_is_enough(ws):
    ingest(ws, TABLE, "t")
    validate(ws, "t", {"between": [{"column": "x", "high": 10}, {"column": "x", "high": 100}]})
    validate(ws, "t", {"between": [{"column": "x", "high": 10}, {"column": "x", "high": 100}]})
    assert [e[0] for e in noted(ws)] == ["data.failed"] * 2


def test_forms_of_checks(ws):
    ingest(ws, TABLE, "t")
    twice = [{"column": "x", "high": 10}, {"column": "id", "high": 10}]
    assert [v.status for v in validate(ws, "t", {"between": twice})] == ["fail", "pass"]
    assert [v.check for v in validate(ws, "t", [{"check": "rows", "least": 1}, {"check": "duplicates"}])] == [
        "rows",
        "duplicates",
    ]
    assert validate(ws, "t", {"rows": None})[0].status == "pass"


def test_bad_checks_keep_no_verdict(ws):
    ingest(ws, TABLE, "t")
    for checks, error, message in [
        ({"rows": {}, "tarot": {}}, NotFound, "tarot"), ({"rows": {}, "unique": {"column": "z"}}, Invalid, "'z'"),
        ({}, Invalid, "no checks"), ([{"least": 1}], Invalid, "does not name"), ({"rows": 5}, Invalid,
        "options of check"),
    ]:  # fmt: skip
        with pytest.raises(error, match=message):
            validate(ws, "t", checks)
    with pytest.raises(NotFound, match="dataset"):
        validate(ws, "nothing", {"rows": {}})
    assert ws.store.count(Verdict) == 0


def test_statistics_stored_or_made(ws):
    ingest(ws, TABLE, "t")
    stored = statistics(ws, "t")
    datasets.commit(ws, "u", Frame.of(TABLE))
    assert statistics(ws, "u") == stored


def test_expectations():
    rows = 40
    table = {"user_id": list(range(rows)), "x": [float(i) for i in range(rows)], "kind": ["a", "b"] * 20,
             "note": [f"text {i}" for i in range(rows)], "gap": [None, 1] * 20}  # fmt: skip
    suggested = {(e["check"], e.get("column", "")): e for e in expectations(profile(Frame.of(table)))}
    assert suggested["rows", ""]["least"] == 20
    assert suggested["required", ""]["columns"] == ["user_id", "x", "kind", "note"]
    assert suggested["unique", "user_id"]
    assert suggested["allowed", "kind"]["values"] == ["a", "b"]
    assert suggested["between", "x"] == {"check": "between", "column": "x", "low": 0, "high": 58.5}
    assert ("allowed", "note") not in suggested


CELL = st.none() | st.integers(-5, 5)


@settings(deadline=None, max_examples=50)
@given(ids=st.lists(CELL, min_size=1, max_size=30), data=st.data())
def test_a_table_meets_its_own_expectations(tmp_path_factory, ids, data):
    words = data.draw(st.lists(st.sampled_from(["a", "b", None]), min_size=len(ids), max_size=len(ids)))
    floats = data.draw(st.lists(st.floats(-1e300, 1e300), min_size=len(ids), max_size=len(ids)))
    blobs = LocalBlobs(tmp_path_factory.mktemp("blobs"), durable=False)
    ws = SimpleNamespace(now=time.time, store=MemoryStore(), blobs=blobs, actor="ann")
    dataset = ingest(ws, {"id": ids, "w": words, "f": floats}, "t").dataset
    verdicts = validate(ws, dataset.ref, expectations(statistics(ws, dataset.ref)))
    assert {v.status for v in verdicts} == {"pass"}
