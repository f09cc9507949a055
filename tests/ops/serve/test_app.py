"""The application without a process: routes, shapes, limits, errors."""

from __future__ import annotations

import asyncio
import json
import logging
import threading

import httpx
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boucle.core.errors import Invalid
from boucle.core.refs import id_time
from boucle.ops.serve import app as app_module

STAMP = {"service": "churn-eu", "revision": 2, "model": "churn@3", "digest": "ab" * 32}


def test_one_row_is_answered_flat_and_logged(serve):
    service = serve()
    response = service.ask("POST", "/predict", json=service.row, headers={"x-request-id": "abc-1"})
    assert response.status_code == 200
    answer = response.json()
    (logged,) = service.logged()
    assert answer == {
        "id": logged["id"],
        "prediction": "stay",
        "probabilities": {"stay": 0.75, "leave": 0.25},
        **STAMP,
    }
    assert logged == {
        "id": answer["id"],
        "time": logged["time"],
        **STAMP,
        "inputs": service.row,
        "output": {"prediction": "stay", "probabilities": {"stay": 0.75, "leave": 0.25}},
        "latency_us": logged["latency_us"],
        "request": "abc-1",
    }
    assert abs(id_time(answer["id"]) - logged["time"]) < 1
    assert logged["latency_us"] >= 0
    assert response.headers["x-request-id"] == "abc-1"


@pytest.mark.parametrize("envelope", [lambda rows: rows, lambda rows: {"rows": rows}])
def test_many_rows_are_answered_in_order(serve, envelope):
    service = serve()
    rows = [{**service.row, "tenure": n} for n in (0, 9, 0, 5)]
    answer = service.ask("POST", "/predict", json=envelope(rows)).json()
    given_ids = [p.pop("id") for p in answer["predictions"]]
    assert [p["prediction"] for p in answer.pop("predictions")] == ["leave", "stay", "leave", "stay"]
    assert answer == STAMP
    logged = service.logged()
    assert [(line["id"], line["inputs"]) for line in logged] == list(zip(given_ids, rows, strict=True))
    assert len({line["request"] for line in logged}) == 1
    assert service.predictor.sizes == [4]


@pytest.mark.parametrize("count", [0, 1])
def test_a_list_of_few_is_answered_as_a_list(serve, count):
    service = serve()
    answer = service.ask("POST", "/predict", json=[service.row] * count).json()
    assert len(answer["predictions"]) == count
    assert len(service.logged()) == count


def test_csv(serve):
    service = serve()
    body = 'tenure,plan,spend\n3,"basic, really",1.5\n0,,\n'
    answer = service.ask("POST", "/predict", content=body, headers={"content-type": "text/csv; charset=utf-8"}).json()
    assert [p["prediction"] for p in answer["predictions"]] == ["stay", "leave"]
    assert [line["inputs"] for line in service.logged()] == [
        {"tenure": 3, "plan": "basic, really", "spend": 1.5},
        {"tenure": 0, "plan": None, "spend": None},
    ]


def test_a_missing_nullable_column_is_null_and_numbers_pass_for_each_other(serve):
    service = serve()
    assert service.ask("POST", "/predict", json={"tenure": 3.0, "spend": 2}).status_code == 200


JSON_TYPE = {"content-type": "application/json"}
CSV_TYPE = {"content-type": "text/csv"}


@pytest.mark.parametrize(
    ("content", "headers", "status", "what"),
    [
        ("{", JSON_TYPE, 400, "line 1, column 2"),
        ('{\n "tenure": 3,\n}', JSON_TYPE, 400, "line "),
        ("", JSON_TYPE, 400, "line 1, column 1"),
        (b"\xff\xfe{}", JSON_TYPE, 400, "byte 0"),
        ('{"tenure": NaN}', JSON_TYPE, 400, "NaN"),
        ("[" * 100_000, JSON_TYPE, 400, "nested"),
        ('{"tenure": 1' + "0" * 5000 + "}", JSON_TYPE, 400, "digits"),
        ("null", JSON_TYPE, 422, "null"),
        ("3", JSON_TYPE, 422, "a number"),
        ('{"rows": {}}', JSON_TYPE, 422, "an object"),
        ("[3]", JSON_TYPE, 422, "row 0"),
        ("{}", JSON_TYPE, 422, "row 0, column 'tenure' is missing"),
        ('[{"tenure": 1}, {"tenure": "x"}]', JSON_TYPE, 422, "row 1, column 'tenure' is \"x\""),
        ('{"tenure": 1, "spent": 3}', JSON_TYPE, 422, "did you mean 'spend'"),
        ('{"tenure": 1, "spend": 1e999}', JSON_TYPE, 422, "row 0, column 'spend'"),
        ('{"tenure": 99999999999999999999}', JSON_TYPE, 422, "column 'tenure'"),
        ('{"tenure": 1, "plan": "\\ud800"}', JSON_TYPE, 422, "column 'plan'"),
        ("tenure,tenure\n1,2\n", CSV_TYPE, 422, "twice"),
        ("tenure,other\n1,2\n", CSV_TYPE, 422, "other"),
        ("tenure,spend\n1,nan\n", CSV_TYPE, 422, "column 'spend'"),
        ("tenure,spend\n1,x\n", CSV_TYPE, 422, "row 0, column 'spend'"),
        ("tenure,spend\n1\n", CSV_TYPE, 400, "line 2 has 1 fields"),
        ('tenure,plan\n1,"a"b\n', CSV_TYPE, 400, "line 2"),
        ("", CSV_TYPE, 400, "empty"),
        ("{}", {"content-type": "text/plain"}, 415, "text/plain"),
        ("{}", {}, 415, "unknown"),
        ("{}", {**JSON_TYPE, "content-encoding": "gzip"}, 415, "gzip"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(serve, content, headers, status, what):
    service = serve()
    response = service.ask("POST", "/predict", content=content, headers=headers)
    assert response.status_code == status
    error = response.json()["error"]
    assert what in error["what"]
    assert set(error) == {"what", "expected", "fix"}
    assert error["expected"]
    assert service.logged() == []
    assert service.predictor.sizes == []


def test_too_large(serve):
    service = serve(max_body=100)
    row = json.dumps(service.row)
    assert service.ask("POST", "/predict", content=row.ljust(100), headers=JSON_TYPE).status_code == 200
    response = service.ask("POST", "/predict", content=row.ljust(101), headers=JSON_TYPE)
    assert response.status_code == 413
    assert "100 bytes" in response.json()["error"]["what"]

    async def in_pieces():
        for _ in range(50):
            yield b"    "

    assert service.ask("POST", "/predict", content=in_pieces(), headers=JSON_TYPE).status_code == 413


def test_a_body_in_pieces(serve):
    async def in_pieces():
        for byte in json.dumps(service.row).encode():
            yield bytes([byte])

    service = serve()
    assert service.ask("POST", "/predict", content=in_pieces(), headers=JSON_TYPE).status_code == 200


def test_a_column_named_rows_is_a_column(serve, make_bundle):
    from boucle.core.schema import Column, Schema

    service = serve(
        lambda batch: pa.record_batch({"prediction": batch.column("rows")}),
        bundle=make_bundle(input=Schema((Column("rows", "list<int64>"),)), sample=[{"rows": [1]}]),
    )
    assert service.ask("POST", "/predict", json={"rows": [1, 2]}).json()["prediction"] == [1, 2]
    assert [p["prediction"] for p in service.ask("POST", "/predict", json=[{"rows": [1]}]).json()["predictions"]] == [
        [1]
    ]
    refused = service.ask("POST", "/predict", json=[{"rows": [1]}, {"rows": ["x"]}])
    assert refused.status_code == 422
    assert "row 1, column 'rows'" in refused.json()["error"]["what"]


def test_what_is_not_a_finite_number_is_answered_as_null(serve):
    service = serve(lambda batch: pa.record_batch({"prediction": pa.array([float("nan")] * batch.num_rows)}))
    assert service.ask("POST", "/predict", json=service.row).json()["prediction"] is None
    assert service.logged()[0]["output"] == {"prediction": None}


def _fails(batch):
    if "secret" in batch.column("plan").to_pylist():
        raise ValueError("the secret is out")
    return pa.record_batch({"prediction": batch.column("tenure")})


def test_a_failing_model_leaks_nothing_and_spoils_nobody(serve, caplog):
    service = serve(_fails)
    with caplog.at_level(logging.ERROR):
        bad, *good = service.ask_all(
            ("POST", "/predict", {"json": {**service.row, "plan": "secret"}, "headers": {"x-request-id": "bad-one"}}),
            *(("POST", "/predict", {"json": {**service.row, "tenure": n}}) for n in range(20)),
        )
    assert bad.status_code == 500
    assert bad.json()["error"]["id"] == "bad-one"
    assert "secret" not in bad.text
    assert "bad-one" in caplog.text
    assert "the secret is out" in caplog.text
    assert [r.json()["prediction"] for r in good] == list(range(20))
    assert len(service.logged()) == 20


def _exits(batch):
    raise SystemExit(3)


def _gives_too_few(batch):
    return pa.record_batch({"prediction": batch.column("tenure")}).slice(1)


@pytest.mark.parametrize("function", [_exits, _gives_too_few])
def test_a_broken_model_does_not_stop_the_service(serve, function, caplog):
    service = serve(function)
    for _ in range(2):
        assert service.ask("POST", "/predict", json=service.row).status_code == 500
    assert service.ask("GET", "/health/live").status_code == 200
    assert service.logged() == []


def test_a_model_may_refuse(serve):
    def refuses(batch):
        raise Invalid("tenure 3 is before the model's time", expected="4 or more", fix="ask later")

    response = serve(refuses).ask("POST", "/predict", json={"tenure": 3})
    assert response.status_code == 422
    assert response.json()["error"]["fix"] == "ask later"


def test_requests_that_wait_are_joined_into_one_call(serve):
    entered, go_on = threading.Event(), threading.Event()

    def slow(batch):
        entered.set()
        assert go_on.wait(10)
        return pa.record_batch({"prediction": batch.column("tenure")})

    service = serve(slow)

    async def talk():
        transport = httpx.ASGITransport(app=service.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            first = asyncio.create_task(client.post("/predict", json=service.row))
            await asyncio.to_thread(entered.wait, 10)
            rest = [asyncio.create_task(client.post("/predict", json={"tenure": n})) for n in range(8)]
            rest.append(asyncio.create_task(client.post("/predict", json={"tenure": "x"})))
            while service.app._waiting < 10:
                await asyncio.sleep(0.001)
            # The loop answers while the model is busy.
            assert (await client.get("/health/ready")).status_code == 200
            assert "boucle_waiting 10" in (await client.get("/metrics")).text
            go_on.set()
            return await first, await asyncio.gather(*rest)

    first, rest = asyncio.run(talk())
    assert first.json()["prediction"] == 3
    assert [r.json()["prediction"] for r in rest[:-1]] == list(range(8))
    assert rest[-1].status_code == 422
    assert service.predictor.sizes == [1, 8]


def test_too_many_waiting_are_turned_away(serve, monkeypatch):
    monkeypatch.setattr(app_module, "MAX_WAITING", 3)
    go_on = threading.Event()

    def slow(batch):
        assert go_on.wait(10)
        return pa.record_batch({"prediction": batch.column("tenure")})

    service = serve(slow)

    async def talk():
        transport = httpx.ASGITransport(app=service.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            asked = [asyncio.create_task(client.post("/predict", json=service.row)) for _ in range(3)]
            while service.app._waiting < 3:
                await asyncio.sleep(0.001)
            refused = await client.post("/predict", json=service.row)
            go_on.set()
            return refused, await asyncio.gather(*asked)

    refused, answered = asyncio.run(talk())
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert [r.status_code for r in answered] == [200] * 3


def test_starting_and_stopping(serve):
    service = serve(ready=False)
    assert service.ask("GET", "/health/live").status_code == 200
    assert service.ask("GET", "/health/ready").json() == {"status": "starting"}
    for method, path in (("POST", "/predict"), ("GET", "/"), ("GET", "/openapi.json"), ("GET", "/metadata")):
        response = service.ask(method, path, **({"json": service.row} if method == "POST" else {}))
        assert response.status_code == 503, path
        assert "starting" in response.json()["error"]["what"]
    service.open()
    assert service.ask("GET", "/health/ready").json() == {"status": "ready"}
    service.app.stopping = True
    assert service.ask("GET", "/health/ready").status_code == 503
    assert service.ask("POST", "/predict", json=service.row).status_code == 200  # what still comes is answered
    service.app.close()
    refused = service.ask("POST", "/predict", json=service.row)
    assert refused.status_code == 503
    assert "stopping" in refused.json()["error"]["what"]
    assert service.ask("GET", "/health/ready").json() == {"status": "stopping"}


@pytest.mark.parametrize("optional", [False, True])
def test_a_log_that_cannot_be_written(serve, monkeypatch, optional, caplog):
    service = serve(optional=optional)
    with monkeypatch.context() as patched:

        def full(fd, data):
            raise OSError(28, "No space left on device")

        patched.setattr("boucle.ops.serve.predictions.os.write", full)
        response = service.ask("POST", "/predict", json=service.row)
    assert response.status_code == (200 if optional else 503)
    if not optional:
        assert "No space left" in response.json()["error"]["what"]
        assert "--log-optional" in response.json()["error"]["fix"]
    assert service.logged() == []
    assert "boucle_log_failures_total 1" in service.ask("GET", "/metrics").text
    assert service.ask("POST", "/predict", json=service.row).status_code == 200
    assert len(service.logged()) == 1


def test_other_paths_and_methods(serve):
    service = serve()
    missing = service.ask("GET", "/predictt")
    assert missing.status_code == 404
    assert "/predict" in missing.json()["error"]["expected"]
    wrong = service.ask("GET", "/predict")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST, OPTIONS")
    assert service.ask("DELETE", "/metadata").headers["allow"] == "GET, HEAD, OPTIONS"
    options = service.ask("OPTIONS", "/predict")
    assert (options.status_code, options.headers["allow"]) == (200, "POST, OPTIONS")
    for path in ("/", "/openapi.json", "/health/live", "/nowhere"):
        head, get = service.ask("HEAD", path), service.ask("GET", path)
        assert head.content == b""
        assert (head.status_code, head.headers["content-length"]) == (get.status_code, get.headers["content-length"])


def test_metadata(serve):
    facts = serve().ask("GET", "/metadata").json()
    assert {name: facts[name] for name in STAMP} == STAMP
    assert facts["references"]["datasets"] == ["dataset:churn@1"]
    assert [c["name"] for c in facts["input"]["columns"]] == ["tenure", "plan", "spend"]


def test_metrics(serve):
    service = serve()
    service.ask("POST", "/predict", json=[service.row] * 3)
    service.ask("POST", "/predict", content="{", headers=JSON_TYPE)
    for n in range(5):
        service.ask("GET", f"/nowhere/{n}")
    text = service.ask("GET", "/metrics").text
    samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert samples['boucle_requests_total{path="/predict",code="200"}'] == "1"
    assert samples['boucle_requests_total{path="/predict",code="400"}'] == "1"
    assert samples['boucle_requests_total{path="other",code="404"}'] == "5"
    assert samples["boucle_rows_total"] == "3"
    assert samples["boucle_ready"] == "1"
    assert samples["boucle_predict_seconds_count"] == "1"
    assert samples['boucle_predict_seconds_bucket{le="+Inf"}'] == "1"
    buckets = [int(v) for k, v in samples.items() if "_bucket" in k]
    assert buckets == sorted(buckets)
    assert 'model="churn@3"' in text
    families = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    for sample in samples:
        name = sample.partition("{")[0]
        assert any(name in (f, f + "_bucket", f + "_sum", f + "_count") for f in families), name


SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUE = st.recursive(
    SCALAR, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=4), v, max_size=3), max_leaves=6
)
NAME = st.sampled_from(["tenure", "plan", "spend", "rows"]) | st.text(max_size=6)
NEAR = st.dictionaries(NAME, VALUE, max_size=4)
GOOD = st.fixed_dictionaries(
    {"tenure": st.integers(-(2**63), 2**63 - 1)},
    optional={
        "plan": st.none() | st.text(max_size=6),
        "spend": st.none() | st.floats(allow_nan=False, allow_infinity=False),
    },
)
BODY = st.binary(max_size=40) | (NEAR | st.lists(NEAR | GOOD, max_size=3) | VALUE).map(lambda v: json.dumps(v).encode())


@settings(max_examples=300)
@given(BODY, st.sampled_from(["application/json", "text/csv", "", "application/JSON; charset=utf-8"]))
def test_no_body_is_ever_the_services_fault(churn_service, body, media):
    response = churn_service.ask("POST", "/predict", content=body, headers={"content-type": media})
    assert response.status_code in {200, 400, 413, 415, 422}
    answer = response.json()
    if response.status_code != 200:
        assert set(answer["error"]) == {"what", "expected", "fix"}


@given(GOOD)
def test_what_fits_the_schema_is_answered(churn_service, row):
    before = len(churn_service.logged())
    response = churn_service.ask("POST", "/predict", content=json.dumps(row), headers=JSON_TYPE)
    assert response.status_code == 200
    logged = churn_service.logged()
    assert len(logged) == before + 1
    assert logged[-1]["inputs"] == row
