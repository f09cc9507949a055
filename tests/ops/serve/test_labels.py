"""Labels told to a service: kept beside the predictions they are of, or refused as a whole."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path

import httpx
import pytest
from jsonschema import Draft202012Validator

from boucle.core import labels
from boucle.core.refs import new_id
from boucle.core.route import Arm, Route
from boucle.ops.serve import app as app_module
from boucle.ops.serve import labels as telling
from boucle.ops.serve.app import App
from boucle.ops.serve.arms import Here
from boucle.ops.serve.predictions import PredictionLog

from .conftest import ROW, FakeBundle, FakePredictor


class Service:
    """A service laid out as a workspace has it, whose newest revision answers."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.app = folder, App("churn")
        arm = Arm(11, "churn@11", "", str(folder / "11" / "predictions"), share=1.0)
        self.running = Here("churn", arm, FakeBundle(), FakePredictor())
        self.app.turn(Route((arm,)), {11: self.running})

    def gone(self, revision: int, count: int) -> list[str]:
        """Predictions of a revision that has stopped."""
        log = PredictionLog(self.folder / str(revision) / "predictions")
        given = log.append(['"time":1.0,"request":"r","inputs":{},"output":{"prediction":1}'] * count)
        log.close()
        return given

    def post(self, path, **request):
        async def one():
            transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
                return await client.post(path, **request)

        return asyncio.run(one())

    def predicted(self, rows: int = 1) -> list[str]:
        return [p["id"] for p in self.post("/predict", json=[ROW] * rows).json()["predictions"]]

    def kept(self, revision: int) -> dict[str, object]:
        return labels.read(self.folder / str(revision))


@pytest.fixture
def service(tmp_path):
    made = Service(tmp_path / "services" / "churn")
    yield made
    made.app.close()


@pytest.mark.parametrize("envelope", [lambda one: one, lambda one: [one], lambda one: {"labels": [one]}])
def test_a_label_is_on_disk_when_it_is_answered(service, envelope):
    (id,) = service.predicted()
    response = service.post("/labels", json=envelope({"id": id.lower(), "label": "leave"}))
    assert (response.status_code, response.json()) == (200, {"kept": 1, "unknown": []})
    assert service.kept(11) == {id: "leave"}
    assert not (service.folder / "2").exists()


def test_labels_go_to_whichever_revision_gave_the_id(service):
    new, old, older = service.predicted(3), service.gone(9, 250), service.gone(10, 2)
    unknown = new_id()
    told = [{"id": i, "label": n} for n, i in enumerate([*old, *new, unknown, *older])]
    response = service.post("/labels", json=told)
    assert response.json() == {"kept": 255, "unknown": [unknown]}
    assert list(service.kept(9)) == old
    assert list(service.kept(10)) == older
    assert service.kept(11) == dict(zip(new, (250, 251, 252), strict=True))


def test_the_last_label_counts(service):
    (id,) = service.predicted()
    service.post("/labels", json=[{"id": id, "label": True}, {"id": id, "label": 0.5}])
    service.post("/labels", json={"id": id, "label": False})
    assert service.kept(11) == {id: False}
    assert len((service.folder / "11" / labels.FILE).read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("content", "media", "status", "what"),
    [
        ("{", "application/json", 400, "line 1, column 2"),
        (b"\xff", "application/json", 400, "byte 0"),
        ("[" * 100_000, "application/json", 400, "nested"),
        ("id,label\n", "text/csv", 415, "text/csv"),
        ("3", "application/json", 422, "a number"),
        ('{"labels": {}}', "application/json", 422, "an object"),
        ("[[]]", "application/json", 422, "label 0 is an array"),
        ('[{"id": "THE-ID", "label": 1}, {"id": "THE-ID"}]', "application/json", 422, "label 1"),
        ('{"id": "THE-ID", "label": 1, "time": 2}', "application/json", 422, "'time'"),
        ('{"id": 7, "label": 1}', "application/json", 422, "label 0"),
        ('{"id": "seven", "label": 1}', "application/json", 422, "'seven' is not an id"),
        ('{"id": "THE-ID", "label": null}', "application/json", 422, "None"),
        ('{"id": "THE-ID", "label": 1e999}', "application/json", 422, "inf"),
        ('{"id": "THE-ID", "label": "\\ud800"}', "application/json", 422, "the label of"),
        ('{"id": "THE-ID", "label": [1]}', "application/json", 422, "[1]"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_kept(service, content, media, status, what):
    (id,) = service.predicted()
    if isinstance(content, str):
        content = content.replace("THE-ID", id)
    response = service.post("/labels", content=content, headers={"content-type": media})
    assert response.status_code == status
    error = response.json()["error"]
    assert what in error["what"]
    assert error["expected"]
    assert service.kept(11) == {}


def test_one_bad_label_among_good_ones_keeps_none(service):
    ids = service.predicted(2)
    told = [{"id": ids[0], "label": 1}, {"id": ids[1], "label": {}}]
    assert service.post("/labels", json=told).status_code == 422
    assert service.kept(11) == {}


def test_too_many_at_once_are_refused(service, monkeypatch):
    monkeypatch.setattr(telling, "MOST", 2)
    ids = service.predicted(3)
    assert service.post("/labels", json=[{"id": i, "label": 1} for i in ids]).status_code == 413
    assert service.post("/labels", json=[{"id": i, "label": 1} for i in ids[:2]]).json()["kept"] == 2


def test_a_file_that_cannot_be_written_is_said(service):
    (id,) = service.predicted()
    (service.folder / "11" / labels.FILE).mkdir()
    response = service.post("/labels", json={"id": id, "label": 1})
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert labels.FILE in response.json()["error"]["what"]


def test_before_there_is_a_revision_nothing_is_kept():
    app = App("churn")
    transport = httpx.ASGITransport(app=app)

    async def one():
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return await client.post("/labels", json={"id": new_id(), "label": 1})

    assert asyncio.run(one()).status_code == 503
    app.close()


def test_only_posts_are_answered(serve):
    response = serve().ask("GET", "/labels")
    assert (response.status_code, response.headers["allow"]) == (405, "POST, OPTIONS")


def test_a_log_of_its_own_keeps_its_labels_in_it(serve):
    service = serve()
    id = service.ask("POST", "/predict", json=service.row).json()["id"]
    assert service.ask("POST", "/labels", json={"id": id, "label": "stay"}).json()["kept"] == 1
    assert labels.read(service.folder) == {id: "stay"}
    assert len(service.logged()) == 1
    assert "boucle_labels_total 1" in service.ask("GET", "/metrics").text


def test_predictions_are_answered_while_labels_are_written(service, monkeypatch):
    monkeypatch.setattr(app_module, "MOST_LABELLING", 2)
    (id,) = service.predicted()
    slow, keep = threading.Event(), labels.keep

    def waiting(*given):
        assert slow.wait(20)
        return keep(*given)

    monkeypatch.setattr(labels, "keep", waiting)

    async def go():
        transport = httpx.ASGITransport(app=service.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            told = [asyncio.ensure_future(client.post("/labels", json={"id": id, "label": n})) for n in range(3)]
            predicted = [(await client.post("/predict", json=ROW)).status_code for _ in range(5)]
            assert [t.done() for t in told] == [False, False, True]
            slow.set()
            return predicted, [r.status_code for r in await asyncio.gather(*told)]

    assert asyncio.run(go()) == ([200] * 5, [200, 200, 503])


def test_the_document_says_what_fits(service):
    document = asyncio.run(_document(service.app))
    operation = document["paths"]["/labels"]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    validator = Draft202012Validator({**schema, "components": document["components"]})
    answer = operation["responses"]["200"]["content"]["application/json"]["schema"]
    (id,) = service.predicted()
    one = {"id": id, "label": "leave"}
    for body in (one, [one], [], {"labels": [one]}, {"labels": one}, {"id": id}, 3, {"id": "x", "label": 1}):
        response = service.post("/labels", json=body)
        assert (response.status_code == 200) == validator.is_valid(body), body
        if response.status_code == 200:
            Draft202012Validator({**answer, "components": document["components"]}).validate(response.json())
    assert validator.is_valid(
        json.loads(json.dumps(operation["requestBody"]["content"]["application/json"]["example"]))
    )


async def _document(app):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://service") as client:
        return (await client.get("/openapi.json")).json()
