"""JSON over HTTP, from a server that behaves as real ones do: pages, limits, wrong answers."""

import base64
import json
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from boucle.core.errors import Invalid, NotFound, Refused, Unavailable
from boucle.data.ingest import ingest, source_for
from boucle.plugins.sources.api import ApiSource
from boucle.workspace import init

ROWS = [{"id": i, "name": f"n{i}", "at": f"2026-01-{i + 1:02d}T00:00:00", "tags": {"a": i % 2}} for i in range(7)]
FAST = {"backoff": 0.01, "retries": 2}


class Handler(BaseHTTPRequestHandler):
    asked: list[str]
    refused: int

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        self.server.asked.append(self.path)
        here = f"http://127.0.0.1:{self.server.server_address[1]}{url.path}"
        rows = [r for r in ROWS if r["at"] > query.get("since", "")]
        start = int(query.get("offset", 0))
        match url.path:
            case "/link":
                more = start + 3 < len(rows)
                links = f'<{here}?offset=0>; rel="first", <{here}?offset={start + 3}>; rel="next"' if more else ""
                self.say(rows[start : start + 3], {"Link": links} if links else {})
            case "/body":
                self.say({"count": 7, "results": rows[start : start + 3],
                          "next": f"{here}?offset={start + 3}" if start + 3 < len(rows) else None})  # fmt: skip
            case "/pages":
                page, size = int(query["page"]), int(query.get("limit", 3))
                self.say({"data": rows[(page - 1) * size : page * size]})
            case "/offset":
                self.say(rows[start : start + int(query.get("limit", 2))])
            case "/mark":
                start = int(query.get("cursor", 0))
                after = str(start + 3) if start + 3 < len(rows) else ""
                self.say({"items": rows[start : start + 3], "meta": {"cursor": after}})
            case "/busy":
                self.server.refused += 1
                if self.server.refused < 3:
                    self.say({"error": "slow down"}, {"Retry-After": "0"}, 429)
                else:
                    self.say(rows)
            case "/private":
                given = self.headers.get("Authorization", "")
                good = given in ("Bearer t0ken", "Basic " + base64.b64encode(b"ann:pw").decode())
                self.say(
                    rows if good or self.headers.get("X-Key") == "k" else {},
                    status=200 if good or self.headers.get("X-Key") else 401,
                )
            case "/circle":
                self.say({"results": rows, "next": here})
            case "/elsewhere":
                self.say({"results": rows, "next": "http://example.com/steal"})
            case "/html":
                self.say(None, raw=b"<html>sorry</html>")
            case "/deep":
                self.say(None, raw=b"[" * 200_000)
            case "/numbers":
                self.say([1, 2])
            case "/empty":
                self.say([])
            case "/one":
                self.say({"id": 1, "x": [1, 2]})
            case _:
                self.say({"error": "?"}, status=404 if url.path == "/none" else 500)

    def say(self, body, headers=None, status=200, raw=None):
        data = json.dumps(body).encode() if raw is None else raw
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.refused = [], 0
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    server.url = f"api+http://127.0.0.1:{server.server_address[1]}"
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    ("path", "options", "pages"),
    [
        ("/link", {}, 3), ("/body", {}, 3), ("/body", {"record": "results", "next": "next"}, 3),
        ("/pages", {"paging": "page"}, 4), ("/pages", {"paging": "page", "size": 4}, 2),
        ("/offset", {"paging": "offset", "size": 3, "per_second": 200}, 3),
        ("/mark", {"paging": "mark", "next": "meta.cursor"}, 3),
    ],
)  # fmt: skip
def test_pages_are_followed(server, path, options, pages):
    reading = ApiSource().read(server.url + path, {**options, **FAST})
    assert reading.frame.table().to_pylist()[0]["name"] == "n0"
    assert reading.frame.table()["id"].to_pylist() == list(range(7))
    assert [c.type for c in reading.frame.schema.columns] == ["int64", "string", "string", "struct<a: int64>"]
    assert reading.found["pages"] == pages
    assert len(reading.frame.table(["id"])) == 7  # and again, without asking again
    assert len(server.asked) == pages


def test_only_so_many_pages(server):
    assert len(ApiSource().read(server.url + "/link", {"pages": 2}).frame.table()) == 6
    assert len(ApiSource().read(server.url + "/link", {"paging": "none"}).frame.table()) == 3


def test_what_passes_is_asked_again(server):
    assert len(ApiSource().read(server.url + "/busy", FAST).frame.table()) == 7
    assert server.refused == 3
    with pytest.raises(Unavailable, match="500"):
        ApiSource().read(server.url + "/broken", FAST)


@pytest.mark.parametrize(
    "options", [{"token": "t0ken"}, {"user": "ann", "password": "pw"}, {"headers": {"X-Key": "k"}}]
)
def test_who_asks(server, options):
    assert len(ApiSource().read(server.url + "/private", options).frame.table()) == 7


def test_who_may_not(server):
    url = server.url.replace("://", "://ann:secret@") + "/private?key=hidden"
    with pytest.raises(Refused) as caught:
        ApiSource().read(url, {"headers": {"Other": "hushed"}})
    assert not {"secret", "hidden", "hushed"} & set(str(caught.value).replace("=", " ").replace(":", " ").split())


@pytest.mark.parametrize(
    ("path", "options", "error", "match"),
    [
        ("/circle", {}, Invalid, "itself"), ("/elsewhere", {}, Refused, "one server"),
        ("/html", {}, Invalid, "does not answer with JSON"),
        ("/deep", {}, Invalid, "does not answer with JSON"), ("/numbers", {}, Invalid, "no list of objects"),
        ("/empty", {}, Invalid, "gives no rows"), ("/none", {}, NotFound, "none"), ("/link", {"wings": 1}, Invalid, "wings"),
        ("/body", {"record": "rows"}, NotFound, "no 'rows'"), ("/link", {"paging": "x"}, Invalid, "paging"),
        ("/link", {"paging": "mark"}, Invalid, "next"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(server, path, options, error, match):
    with pytest.raises(error, match=match):
        ApiSource().read(server.url + path, {**options, **FAST})


def test_one_object_is_a_row(server):
    assert ApiSource().read(server.url + "/one", {}).frame.table().to_pylist() == [{"id": 1, "x": [1, 2]}]


def test_only_what_is_new_is_asked_for(server, tmp_path):
    assert source_for(server.url + "/link") == "api"
    options = {"since": "since"}
    with init(tmp_path) as ws:
        first = ingest(ws, server.url + "/link", "t", mode="append", cursor="at", options=options)
        assert (first.rows, first.dataset.source) == (7, server.url + "/link")
        ROWS.append({"id": 7, "name": "n7", "at": "2026-02-01T00:00:00", "tags": {"a": 1}})
        try:
            got = ingest(ws, server.url + "/link", "t", mode="append", cursor="at", options=options)
        finally:
            ROWS.pop()
        assert (got.rows, got.dataset.rows) == (1, 8)
        assert "since=2026-01-07" in server.asked[-1]
