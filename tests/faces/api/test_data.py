"""Data over HTTP, from a real server, read by real clients."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import httpx
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import boucle
from boucle.faces.api import data
from boucle.ledger import datasets, tables
from boucle.workspace import Workspace

ROWS = 200_000


@dataclass
class Served:
    url: str
    process: subprocess.Popen[str]
    ws: Workspace


def serve(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "boucle.faces.cli.main",
        "data",
        "serve",
        "--port",
        "0",
        "-C",
        str(folder),
        *arguments,
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"http://\S+/data", line)
    assert found, line + (process.stderr.read() if process.stderr else "")
    return found[0]


def end(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGINT)
    try:
        return process.communicate(timeout=20)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()[1]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    ws = boucle.init(folder)
    boucle.ingest(ws, {"id": [1, 2, 3], "amount": [1.5, None, 30.0], "city": ["Lyon", "Paris", "Ni,ce"]}, "tx")
    boucle.ingest(
        ws, {"id": [1, 2, 3, 4], "amount": [1.5, None, 30.0, 4.0], "city": ["Lyon", "Paris", "Ni,ce", None]}, "tx"
    )
    boucle.ingest(ws, {"i": range(ROWS), "s": [f"text {i % 1000}" for i in range(ROWS)]}, "many")
    process = serve(folder)
    yield Served(address(process), process, ws)
    assert "Traceback" not in end(process)


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=30) as client:
        yield client


def test_what_there_is(served: Served, client: httpx.Client) -> None:
    listed = client.get("").json()["datasets"]
    assert [(d["name"], d["version"], d["rows"]) for d in listed] == [("many", 1, ROWS), ("tx", 2, 4)]
    assert [d["version"] for d in client.get("/tx").json()["versions"]] == [2, 1]
    one = client.get("/tx@1").json()
    assert (one["columns"], one["digest"]) == (["id", "amount", "city"], datasets.resolve(served.ws, "tx@1").digest)
    assert [c["name"] for c in client.get("/tx@1/schema").json()["columns"]] == ["id", "amount", "city"]
    assert client.get("/tx/schema").json()["row"]["properties"]["id"]["type"] == "integer"
    assert {c["name"]: c["nulls"] for c in client.get("/tx@2/statistics").json()["columns"]} == {
        "id": 0,
        "amount": 1,
        "city": 1,
    }
    assert client.get("/tx@{now}").json()["version"] == 2
    assert client.get(f"/tx@sha{one['digest'][:10]}/rows").json()["dataset"] == "tx@1"


def test_rows_as_json(client: httpx.Client) -> None:
    assert client.get("/tx@1/rows").json()["rows"] == [
        {"id": 1, "amount": 1.5, "city": "Lyon"}, {"id": 2, "amount": None, "city": "Paris"},
        {"id": 3, "amount": 30.0, "city": "Ni,ce"},
    ]  # fmt: skip
    some = client.get("/tx@2/rows", params={"filter": "amount > 1 and city in ('Lyon', 'Ni,ce')", "columns": "city,id"})
    assert some.json()["rows"] == [{"city": "Lyon", "id": 1}, {"city": "Ni,ce", "id": 3}]
    assert list(some.json()["rows"][0]) == ["city", "id"]
    assert client.get("/tx@1/rows", params={"limit": 0}).json()["rows"] == []
    assert client.get("/tx@1/rows", params={"offset": 2}).json()["rows"][0]["id"] == 3
    assert client.get("/tx@1/rows", params={"offset": 1, "filter": "id != 2"}).json()["rows"][0]["id"] == 3
    assert client.get("/tx@1/rows", params={"offset": 99}).json() == {
        **client.get("/tx@1/rows?limit=0").json(),
        "next": None,
    }


@pytest.mark.parametrize("filtered", ["", "i >= 1000 and s != 'text 7'"])
def test_pages_hold_every_row_once(served: Served, client: httpx.Client, filtered: str) -> None:
    query = {"limit": "30000", "columns": "i", **({"filter": filtered} if filtered else {})}
    url: str | None = "/many@1/rows?" + str(httpx.QueryParams(query))
    seen: list[int] = []
    pages = 0
    while url:
        answer = client.get(url).json()
        seen += [row["i"] for row in answer["rows"]]
        url = answer["next"] and answer["next"].removeprefix("/data")
        pages += 1
    assert seen == ([i for i in range(1000, ROWS) if i % 1000 != 7] if filtered else list(range(ROWS)))
    assert pages == 7
    assert len(client.get("/many@1/rows").json()["rows"]) == 1000


def test_versions_are_kept_by_caches(client: httpx.Client) -> None:
    for path in ("/tx@1/rows", "/tx@1/rows?format=csv", "/tx@1", "/tx@1/schema", "/tx@1/statistics"):
        first = client.get(path)
        assert "immutable" in first.headers["cache-control"]
        again = client.get(path, headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert client.get("/tx@latest/rows").headers["cache-control"] == "no-cache"
    assert client.get("/tx@2/rows").headers["etag"] != client.get("/tx@1/rows").headers["etag"]
    assert (
        client.get("/tx@1/rows", headers={"If-None-Match": client.get("/tx@2/rows").headers["etag"]}).status_code == 200
    )
    listed = client.get("")
    assert client.get("", headers={"If-None-Match": listed.headers["etag"]}).status_code == 304
    assert client.head("/many@1/rows?format=csv").content == b""


@pytest.mark.parametrize(("path", "status", "words"), [
    ("/nope", 404, "no dataset"), ("/tx@9/rows", 404, "a number from 1 to 2"), ("/tx@1/nope", 404, "openapi"),
    ("/tx@1/rows?filter=amount>", 422, "it ends"), ("/tx@1/rows?filter=amont>1", 422, "amount"),
    ("/tx@1/rows?filter=city>1", 422, "string"), ("/tx@1/rows?columns=nope", 422, "no column"),
    ("/tx@1/rows?limit=-1", 400, "whole number"), ("/tx@1/rows?limit=1e9", 400, "whole number"),
    ("/tx@1/rows?limit=99999999", 422, "next"),
    ("/tx@1/rows?format=xlsx", 406, "parquet"), ("/tx@1/rows?wher=1", 400, "filter"),
    ("/tx@1/rows?limit=1&limit=2", 400, "twice"),
    ("/tx@1/rows?filter=" + "(" * 999, 422, "nested"), ("/../../etc/passwd", 404, ""),
    ("/tx@1/rows?filter=%ff", 400, "cannot be read"), ("/tx@1/rows?filter=id>" + "9" * 5000, 422, "5,000 characters"),
    ("/tx@1/rows?columns=%22a", 400, "cannot be read"), ("/tx@1/rows?columns=", 422, "no column"),
    ("/tx@{nonsense}", 422, "not a time"), ("/b%00d", 422, ""),
])  # fmt: skip
def test_what_is_wrong_is_said(client: httpx.Client, path: str, status: int, words: str) -> None:
    answer = client.get(path)
    assert answer.status_code == status, answer.text
    assert words in answer.text
    assert {"what", "expected", "fix"} <= set(answer.json()["error"])
    assert answer.headers["cache-control"] == "no-store"


def test_columns_with_any_name(tmp_path: Path) -> None:
    ws = boucle.init(tmp_path)
    names = ["a,b", 'q"x', "é ü", "two\nlines"]
    boucle.ingest(ws, {name: [i] for i, name in enumerate(names)}, "odd")

    async def asked(columns: str) -> list[dict[str, int]]:
        transport = httpx.ASGITransport(data.app(ws))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            answer = await client.get("/data/odd@1/rows", params={"columns": columns})
        rows: list[dict[str, int]] = answer.json()["rows"]
        return rows

    for place, name in enumerate(names):
        quoted = '"' + name.replace('"', '""') + '"'
        assert asyncio.run(asked(quoted)) == [{name: place}]
    assert asyncio.run(asked('é ü,"a,b"')) == [{"é ü": 2, "a,b": 0}]


def test_only_reading(served: Served, client: httpx.Client) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        answer = client.request(method, "/tx@1/rows")
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
    other = client.get("/tx", headers={"Host": "evil.example"})
    assert other.status_code == 403


@pytest.mark.parametrize(("accept", "media"), [
    ("text/csv", "text/csv; charset=utf-8"), ("*/*", "application/json"), ("text/html, */*;q=0.1", "application/json"),
    ("application/json;q=0.1, application/vnd.apache.parquet", "application/vnd.apache.parquet"),
    ("text/*", "text/csv; charset=utf-8"),
    ("application/vnd.apache.arrow.stream", "application/vnd.apache.arrow.stream"),
])  # fmt: skip
def test_the_client_says_what_it_likes(client: httpx.Client, accept: str, media: str) -> None:
    answer = client.get("/tx@1/rows", headers={"Accept": accept})
    assert (answer.status_code, answer.headers["content-type"]) == (200, media)
    assert client.get("/tx@1/rows", headers={"Accept": "image/png"}).status_code == 406


def test_pandas_polars_arrow_and_duckdb_read_the_address(served: Served) -> None:
    base = f"{served.url}/many@1/rows"
    want = ROWS * (ROWS - 1) // 2
    assert int(pd.read_csv(f"{base}?format=csv")["i"].sum()) == want
    assert int(pd.read_parquet(f"{base}?format=parquet")["i"].sum()) == want
    assert pd.read_json(f"{base}?format=jsonl&limit=3", lines=True)["i"].tolist() == [0, 1, 2]
    with urllib.request.urlopen(f"{base}?format=csv&columns=i") as opened:
        assert int(pl.read_csv(io.BytesIO(opened.read())).sum().item()) == want
    with urllib.request.urlopen(f"{base}?format=parquet&filter=i<10") as opened:
        assert pl.read_parquet(io.BytesIO(opened.read()))["i"].to_list() == list(range(10))
    with urllib.request.urlopen(f"{base}?format=arrow") as opened, pa.ipc.open_stream(opened) as reader:
        assert duckdb.from_arrow(reader).aggregate("sum(i)").fetchall() == [(want,)]
    for form in ("feather", "avro", "orc", "tsv"):
        assert httpx.get(f"{base}?format={form}&limit=5").status_code == 200


def test_a_slow_client_costs_no_memory_and_one_that_leaves_ends_it(served: Served) -> None:
    def resident() -> int:
        return int(Path(f"/proc/{served.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    httpx.get(f"{served.url}/many@1/rows?format=csv")  # so that everything is loaded
    before = resident()
    connections = []
    host, port = re.match(r"http://([^:]+):(\d+)", served.url).groups()
    for _ in range(12):
        connection = socket.create_connection((host, int(port)))
        connection.sendall(b"GET /data/many@1/rows?format=jsonl HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(1000)
        connections.append(connection)
    time.sleep(0.5)
    assert resident() - before < 150 << 20
    for connection in connections:
        connection.close()
    until = time.monotonic() + 30
    while time.monotonic() < until:  # their places are free again
        answers = {httpx.get(f"{served.url}/tx@1/rows").status_code for _ in range(3)}
        if answers == {200}:
            break
    assert answers == {200}


def test_damage_ends_the_answer_early_and_not_well(tmp_path: Path) -> None:
    ws = boucle.init(tmp_path)
    boucle.ingest(ws, {"i": range(300_000), "t": [str(i * 7919) for i in range(300_000)]}, "many")
    entries = tables.load_manifest(ws.blobs, datasets.resolve(ws, "many").manifest)["blocks"]
    path = ws.blobs.path(tables.stored_in(entries[-1])[0])
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-9])
    process = serve(tmp_path)
    url = address(process)
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{url}/many@1/rows?format=csv")
    answer = httpx.get(f"{url}/many@1/rows", params={"filter": "i >= 299999"})
    assert answer.status_code == 500
    end(process)


def test_beyond_this_machine_only_with_a_token(tmp_path: Path) -> None:
    ws = boucle.init(tmp_path, vault="file")
    boucle.ingest(ws, {"i": [1]}, "a")
    refused = serve(tmp_path, "--host", "0.0.0.0")
    assert "could read all data" in refused.communicate(timeout=30)[1]
    assert refused.returncode == 4
    environment = {**os.environ, "BOUCLE_VAULT": "env", "BOUCLE_SECRET_READERS": "open sesame"}
    command = [
        sys.executable,
        "-m",
        "boucle.faces.cli.main",
        "data",
        "serve",
        "--port",
        "0",
        "--host",
        "0.0.0.0",
        "--token",
        "readers",
        "--json",
    ]
    process = subprocess.Popen(
        [*command, "-C", str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    lines = [process.stdout.readline() for _ in range(3)]
    url = json.loads("".join(lines))["url"].replace("0.0.0.0", "127.0.0.1")
    missing = httpx.get(url)
    assert (missing.status_code, missing.headers["www-authenticate"]) == (401, "Bearer")
    assert httpx.get(url, headers={"Authorization": "Bearer open"}).status_code == 401
    good = httpx.get(f"{url}/a@1", headers={"Authorization": "Bearer open sesame"})
    assert good.status_code == 200
    assert "private" in good.headers["cache-control"]
    assert "sesame" not in end(process)


def test_it_describes_itself(client: httpx.Client, served: Served) -> None:
    described = client.get(served.url.removesuffix("/data") + "/openapi.json").json()
    assert described["openapi"] == "3.1.0"
    assert {"/data", "/data/{ref}", "/data/{ref}/rows"} <= set(described["paths"])
    asked = {p["name"] for p in described["paths"]["/data/{ref}/rows"]["get"]["parameters"]}
    from boucle.faces.api.data import _PARAMETERS

    assert asked == {"ref", *_PARAMETERS}


def test_it_can_be_mounted(served: Served) -> None:
    from boucle.faces.api.data import app

    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(app(served.ws), root_path="/api")
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.get("/api/data/many@1/rows?limit=1")

    assert asyncio.run(asked()).json()["next"] == "/api/data/many@1/rows?limit=1&after=1"
