"""Several revisions behind one address: shares, keys, shadows, failures, and changes while requests are answered."""

import asyncio
import threading
from collections import Counter
from dataclasses import replace

import httpx
import pytest

from boucle.core import predictions
from boucle.core.route import Arm, Route
from boucle.ops.serve import app as apps
from boucle.ops.serve.app import App
from boucle.ops.serve.arms import Apart, Here

from .conftest import ROW, FakeBundle, FakePredictor, churn


def failing(batch):
    raise RuntimeError("no such feature")


class Service:
    """An application with revisions in it, each with a log of its own."""

    def __init__(self, folder, by="", shadow=(), **functions):
        self.folder, self.app, self.by = folder, App("churn"), by
        self.running = {}
        for name, (function, share) in functions.items():
            revision = int(name[1:])
            arm = Arm(
                revision,
                f"churn@{revision}",
                "",
                str(folder / name / "predictions"),
                share=share,
                shadow=revision in shadow,
            )
            self.running[revision] = Here("churn", arm, FakeBundle(), FakePredictor(function))
        self.turn()

    def turn(self):
        self.app.turn(Route(tuple(r.arm for r in self.running.values()), self.by, "salt"), self.running)

    def share(self, **shares):
        for name, share in shares.items():
            running = self.running[int(name[1:])]
            running.arm = replace(running.arm, share=share)
        self.turn()

    async def asks(self, requests, at_once=8):
        transport = httpx.ASGITransport(app=self.app)
        gate = asyncio.Semaphore(at_once)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:

            async def one(body, headers):
                async with gate:
                    return await client.post("/predict", json=body, headers=headers)

            return await asyncio.gather(*(one(*r) for r in requests))

    def ask(self, *bodies, **headers):
        given = {k.replace("_", "-"): v for k, v in headers.items()}
        return asyncio.run(self._settled([(b, given) for b in bodies]))

    async def _settled(self, requests):
        answers = await self.asks(requests)
        while any(r.asked for r in self.running.values()):
            await asyncio.sleep(0.001)
        return answers

    def logged(self, revision, kind="predictions"):
        return list(predictions.scan(self.folder / f"r{revision}" / kind))


@pytest.fixture
def make(tmp_path):
    made = []

    def service(**given):
        made.append(Service(tmp_path / str(len(made)), **given))
        return made[-1]

    yield service
    for one in made:
        one.app.close()


def test_traffic_is_split_by_share(make):
    service = make(r1=(churn, 0.8), r2=(churn, 0.2))
    answers = [a.json() for a in service.ask(*[ROW] * 500)]
    counts = Counter(a["revision"] for a in answers)
    assert 50 < counts[2] < 160
    assert {a["id"] for a in answers if a["revision"] == 2} == {p["id"] for p in service.logged(2)}


def test_a_revision_can_be_asked_for_by_name(make):
    service = make(r1=(churn, 1.0), r2=(churn, 0.0))
    assert {a.json()["revision"] for a in service.ask(*[ROW] * 5)} == {1}
    assert service.ask(ROW, x_boucle_revision="2")[0].json()["revision"] == 2
    (refused,) = service.ask(ROW, x_boucle_revision="7")
    assert refused.status_code == 404
    assert service.ask(ROW, x_boucle_revision="one")[0].status_code == 404


def test_the_same_key_gets_the_same_revision(make):
    service = make(by="plan", r1=(churn, 0.5), r2=(churn, 0.5))
    seen = {}
    for i in range(40):
        for answer in service.ask(ROW, ROW, x_boucle_key=f"customer {i}"):
            seen.setdefault(i, set()).add(answer.json()["revision"])
    assert all(len(revisions) == 1 for revisions in seen.values())
    assert {r for revisions in seen.values() for r in revisions} == {1, 2}
    assert {p["key"] for p in service.logged(1)} | {p["key"] for p in service.logged(2)} == {
        f"customer {i}" for i in range(40)
    }


def test_rows_of_one_request_go_where_their_column_says(make):
    service = make(by="plan", r1=(churn, 0.5), r2=(churn, 0.5))
    rows = [{**ROW, "tenure": i, "plan": f"plan{i % 10}"} for i in range(60)]
    (answer,) = service.ask(rows)
    found = answer.json()["predictions"]
    assert answer.status_code == 200
    by_plan = {}
    for row, prediction in zip(rows, found, strict=True):
        by_plan.setdefault(row["plan"], set()).add(prediction["revision"])
        logged = predictions.find(service.folder / f"r{prediction['revision']}" / "predictions", prediction["id"])
        assert logged["inputs"]["tenure"] == row["tenure"]
    assert all(len(revisions) == 1 for revisions in by_plan.values())
    assert len({p["revision"] for p in found}) == 2


def test_a_shadow_is_asked_the_same_and_heard_by_nobody(make):
    service = make(r1=(churn, 1.0), r2=(churn, 0.0), shadow=(2,))
    answers = [a.json() for a in service.ask(*[ROW] * 20)]
    (many,) = service.ask([ROW, ROW])
    assert {a["revision"] for a in answers} == {1}
    ids = {a["id"] for a in answers} | {p["id"] for p in many.json()["predictions"]}
    mirrored = service.logged(2)
    assert {p["shadow"] for p in mirrored} == ids
    assert {p["id"] for p in mirrored}.isdisjoint(ids)


def test_a_shadow_that_fails_costs_nothing_and_is_on_file(make):
    service = make(r1=(churn, 1.0), r2=(failing, 0.0), shadow=(2,))
    assert {a.status_code for a in service.ask(*[ROW] * 5)} == {200}
    assert [f["shadow"] for f in service.logged(2, "failures")] == [True] * 5


def test_what_a_revision_on_trial_fails_is_answered_by_the_other(make):
    service = make(r1=(churn, 0.6), r2=(failing, 0.4))
    answers = service.ask(*[ROW] * 100)
    assert {(a.status_code, a.json()["revision"]) for a in answers} == {(200, 1)}
    failed = service.logged(2, "failures")
    assert len(failed) > 10
    assert {(f["revision"], f["status"], f["what"]) for f in failed} == {(2, 500, "RuntimeError: no such feature")}


def test_a_revision_on_trial_that_hangs_is_not_waited_for(make, monkeypatch):
    monkeypatch.setattr(apps, "TRIAL_SECONDS", 0.05)
    hang = threading.Event()

    def hanging(batch):
        hang.wait(20)
        return churn(batch)

    service = make(r1=(churn, 0.6), r2=(hanging, 0.4))
    try:
        answers = asyncio.run(service.asks([(ROW, {})] * 30, at_once=30))
    finally:
        hang.set()
    assert {(a.status_code, a.json()["revision"]) for a in answers} == {(200, 1)}
    assert {f["status"] for f in service.logged(2, "failures")} == {504}


def test_a_process_that_is_gone_costs_no_answer_while_another_revision_is_loaded(make):
    service = make(r1=(churn, 0.0), r2=(churn, 1.0))
    gone = replace(service.running[2].arm, url="http://127.0.0.1:9", failures=str(service.folder / "r2" / "failures"))
    service.running[2].close()
    service.running[2] = Apart("churn", gone, FakeBundle())
    service.turn()
    answers = service.ask(*[ROW] * 5)
    assert {(a.status_code, a.json()["revision"]) for a in answers} == {(200, 1)}
    assert [f["status"] for f in service.logged(2, "failures")] == [503] * 5


def test_input_that_is_refused_is_nobodys_failure(make):
    service = make(r1=(churn, 0.5), r2=(churn, 0.5))
    assert {a.status_code for a in service.ask(*[{"tenure": "long"}] * 10)} == {422}
    assert service.logged(1, "failures") + service.logged(2, "failures") == []


def test_changing_shares_drops_no_request(make):
    service = make(r1=(churn, 1.0), r2=(churn, 0.0))

    async def go():
        asked = asyncio.ensure_future(service.asks([(ROW, {})] * 2000, at_once=16))
        turns = 0
        while not asked.done():
            service.share(r1=(turns % 11) / 10, r2=1 - (turns % 11) / 10)
            turns += 1
            await asyncio.sleep(0.002)
        return await asked, turns

    answers, turns = asyncio.run(go())
    assert turns > 10
    assert {a.status_code for a in answers} == {200}
    assert {p["id"] for r in (1, 2) for p in service.logged(r)} == {a.json()["id"] for a in answers}
    assert len(service.logged(2)) > 100


def test_a_revision_that_is_taken_out_answers_what_it_was_asked(make, tmp_path):
    slow = threading.Event()

    def waiting(batch):
        slow.wait(20)
        return churn(batch)

    service = make(r1=(waiting, 1.0), r2=(churn, 0.0))

    async def go():
        asked = asyncio.ensure_future(service.asks([(ROW, {})]))
        while not service.running[1].asked:
            await asyncio.sleep(0.001)
        left = {2: service.running[2]}
        service.app.turn(Route((Arm(2, "churn@2", "", str(tmp_path), share=1.0),)), left)
        service.share(r2=1.0)
        slow.set()
        return await asked

    (answer,) = asyncio.run(go())
    assert answer.json()["revision"] == 1


def test_the_shares_are_metrics(make):
    service = make(r1=(churn, 0.9), r2=(failing, 0.1))
    service.ask(*[ROW] * 60)
    transport = httpx.ASGITransport(app=service.app)

    async def metrics():
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return (await client.get("/metrics")).text

    text = asyncio.run(metrics())
    assert 'boucle_revision_share{revision="2"} 0.1' in text
    assert 'boucle_revision_answers_total{revision="1",code="200"} 60' in text
    assert 'boucle_revision_answers_total{revision="2",code="500"}' in text
