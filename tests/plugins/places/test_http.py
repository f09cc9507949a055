"""Files on web servers, against one that cuts connections, is busy, redirects and asks who is there."""

from __future__ import annotations

import base64
import hashlib
import threading
import urllib.parse
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from boucle.core.errors import Invalid, NotFound, Refused, Unavailable
from boucle.plugins.places import http
from boucle.plugins.places.http import HttpPlace
from boucle.ports import place as places
from boucle.ports.place import Place
from boucle.testing.place import PlaceContract

DATA = hashlib.shake_128(b"http").digest(1_000_000)
QUICK = {"backoff": 0.001, "timeout": 5}


class Server(ThreadingHTTPServer):
    """Files by path, how to misbehave, and what was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.cut = 0  # bytes after which the connection ends; 0 for never
        self.busy: list[tuple[int, dict[str, str]]] = []  # answers to give first
        self.moved: dict[str, str] = {}
        self.ranges, self.lengths, self.head = True, True, True
        self.wanted = ""  # Authorization
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.changing = False  # another ETag with each answer
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        server, path = self.server, urllib.parse.unquote(self.path.partition("?")[0])
        server.asked.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        if self.path in server.moved:
            self.answer(302, b"moved", {"Location": server.moved[self.path]})
        elif server.wanted and self.headers.get("Authorization") != server.wanted:
            self.answer(401, b"who is there?", {})
        elif server.busy:
            status, headers = server.busy.pop(0)
            self.answer(status, b"busy", headers)
        elif path not in server.files:
            self.answer(404, b"nothing", {})
        elif self.command == "HEAD" and not server.head:
            self.answer(405, b"", {})
        else:
            self.give(server.files[path])

    do_HEAD = do_GET

    def give(self, data: bytes) -> None:
        server = self.server
        tag = f'"{hashlib.sha256(data).hexdigest()[:8]}{len(server.asked) if server.changing else ""}"'
        headers = {"ETag": tag, "Last-Modified": formatdate(1_700_000_000, usegmt=True)}
        status, asked = 200, self.headers.get("Range", "")
        if asked and server.ranges and self.headers.get("If-Range", tag) == tag:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last) + 1 if last else len(data), len(data))
            if start >= len(data):
                self.answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
                return
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
            status, data = 206, data[start:end]
        self.answer(status, data, headers)

    def answer(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.server.lengths:
            self.send_header("Content-Length", str(len(data)))
        else:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = self.server.cut if status in (200, 206) else 0
        self.wfile.write(data[:cut] if cut else data)
        if cut and len(data) > cut:
            self.wfile.flush()
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Nothing of it is printed."""


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join(10)


@pytest.fixture
def place(server, monkeypatch):
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv("HOME", "/nonexistent")
    server.files["/files/data"] = DATA
    return HttpPlace.connect(f"{server.url}/files", QUICK)


def read(place: Place, *where: object) -> bytes:
    return b"".join(place.read(*where))


class TestHttp(PlaceContract):
    @pytest.fixture(autouse=True)
    def _server(self, server):
        self.server = server

    def make(self, tmp_path: Path) -> Place:
        return places.connect(f"{self.server.url}/a%20b/root", QUICK)

    def fill(self, place: Place, tmp_path: Path, path: str, data: bytes) -> None:
        self.server.files[f"/a b/root/{path}"] = data


def test_what_is_known_of_a_file(place, server):
    entry = place.entry("data")
    assert (entry.size, entry.modified) == (len(DATA), 1_700_000_000)
    assert entry.version.startswith('"')
    server.head = False
    assert place.entry("data") == entry


def test_what_is_cut_off_goes_on_where_it_stopped(place, server):
    server.cut = 300_000
    assert read(place, "data") == DATA
    ranges = [h.get("range") for _, _, h in server.asked]
    assert ranges == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]
    assert all(h.get("if-range") for _, _, h in server.asked[1:])
    server.asked.clear()
    assert read(place, "data", 100, 700_000) == DATA[100:700_000]
    assert [h.get("range") for _, _, h in server.asked] == [
        "bytes=100-699999", "bytes=300100-699999", "bytes=600100-699999"
    ]  # fmt: skip


def test_a_server_without_ranges_gives_all_again(place, server):
    server.ranges = False
    assert read(place, "data", 999_990) == DATA[-10:]
    assert read(place, "data", 10, 20) == DATA[10:20]
    server.cut = 400_000  # it always ends there: no progress after that
    with pytest.raises(Unavailable, match="cut off after 400,000 bytes"):
        read(place, "data")
    assert len(server.asked) < 15


def test_a_file_that_changes_while_it_is_read_is_told(place, server):
    server.cut, server.changing = 300_000, True
    with pytest.raises(Unavailable, match="changed while it was read"):
        read(place, "data")


def test_nobody_waits_for_ever_for_single_bytes(place, server):
    server.cut = 1
    with pytest.raises(Unavailable, match="cut off"):
        read(place, "data")
    assert len(server.asked) < 10


def test_without_a_length_the_end_is_the_end(place, server):
    server.lengths = False
    assert read(place, "data") == DATA
    assert place.entry("data").size == -1


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_passes_by_itself_is_tried_again(place, server, status):
    server.busy = [(status, {})] * 3
    assert read(place, "data") == DATA
    assert len(server.asked) == 4


def test_what_does_not_pass_is_told(place, server):
    server.busy = [(503, {})] * 100
    with pytest.raises(Unavailable, match="status 503"):
        read(place, "data")
    assert len(server.asked) == 6
    server.busy = [(418, {})]
    with pytest.raises(Unavailable, match="status 418"):
        read(place, "data")
    assert len(server.asked) == 7


def test_it_waits_as_long_as_the_server_says(place, server, monkeypatch):
    waited = []
    monkeypatch.setattr(http.time, "sleep", waited.append)
    server.busy = [(429, {"Retry-After": "7"}), (503, {"Retry-After": formatdate(4_000_000_000, usegmt=True)})]
    server.busy += [(503, {"Retry-After": "nonsense"}), (503, {"Retry-After": "-3"})]
    assert read(place, "data") == DATA
    assert waited[0] == 7
    assert waited[1] == http._LONGEST
    assert all(0 < w < 1 for w in waited[2:])


def test_redirects_are_followed(place, server):
    server.moved["/files/old"] = "/files/data"
    assert read(place, "old") == DATA
    assert place.entry("old").size == len(DATA)
    server.moved["/files/circle"] = "/files/circle"
    with pytest.raises(Unavailable, match="circles"):
        read(place, "circle")
    for target in ("file:///etc/passwd", "ftp://127.0.0.1/x"):
        server.moved["/files/out"] = target
        with pytest.raises(Refused, match="no web server"):
            read(place, "out")


def test_credentials_stay_with_their_host(server):
    other = Server()
    threading.Thread(target=other.serve_forever, args=(0.01,), daemon=True).start()
    other.files["/data"] = DATA
    server.moved["/files/data"] = f"{other.url}/data"
    place = HttpPlace.connect(f"{server.url}/files", {**QUICK, "token": "hunter2", "headers": {"X-Key": "hunter3"}})
    assert read(place, "data") == DATA
    assert server.asked[0][2]["authorization"] == "Bearer hunter2"
    assert server.asked[0][2]["x-key"] == "hunter3"
    assert not {"authorization", "x-key"} & set(other.asked[0][2])
    other.shutdown()
    other.server_close()


def test_credentials_come_from_where_they_are_kept(server, monkeypatch, tmp_path):
    server.files["/data"] = DATA
    basic = "Basic " + base64.b64encode(b"ann:hunter2").decode()
    bare = server.url.removeprefix("http://")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for url, options, wanted in (
        (server.url, {"token": "hunter2"}, "Bearer hunter2"),
        (server.url, {"user": "ann", "password": "hunter2"}, basic),
        (f"http://ann:hunter2@{bare}", {}, basic),
    ):
        server.wanted = wanted
        assert read(HttpPlace.connect(url, {**QUICK, **options}), "data") == DATA
    server.wanted = basic
    with pytest.raises(Refused, match="status 401"):
        read(HttpPlace.connect(server.url, QUICK), "data")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login ann password hunter2\n")
    assert read(HttpPlace.connect(server.url, QUICK), "data") == DATA
    server.wanted = "Bearer hunter4"
    monkeypatch.setenv("BOUCLE_TOKEN_127_0_0_1", "hunter4")
    assert read(HttpPlace.connect(server.url, QUICK), "data") == DATA
    (tmp_path / "netrc").write_text("machine")
    monkeypatch.delenv("BOUCLE_TOKEN_127_0_0_1")
    with pytest.raises(Invalid, match="cannot be read"):
        HttpPlace.connect(server.url, QUICK)


def test_the_url_may_be_that_of_the_file_itself(server):
    server.files["/data.csv"] = b"a,b\n1,2\n"
    place = places.connect(f"{server.url}/data.csv?signature=hunter2", QUICK)
    assert read(place, "") == b"a,b\n1,2\n"
    assert place.entry("").size == 8
    assert server.asked[0][1] == "/data.csv?signature=hunter2"


def test_no_error_shows_a_secret(server):
    bare = server.url.removeprefix("http://")
    for url in (f"http://ann:hunter2@{bare}/x?key=hunter2", "http://ann:hunter2@127.0.0.1:1/x?key=hunter2"):
        place = places.connect(url, {**QUICK, "retries": 0})
        for ask in (
            lambda p: read(p, ""), lambda p: p.entry(""), lambda p: p.write("x", b""), lambda p: list(p.list()),
        ):  # fmt: skip
            with pytest.raises((NotFound, Unavailable, Refused)) as told:
                ask(place)
            seen: BaseException | None = told.value
            while seen is not None:
                assert "hunter2" not in str(seen)
                seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)


@pytest.mark.parametrize("options", [{"wings": 2}, {"token": "a\nb"}, {"headers": {"X": "a\r\nY: b"}}])
def test_options_that_are_none_are_refused(options):
    with pytest.raises(Invalid):
        HttpPlace.connect("http://host/x", options)


@pytest.mark.parametrize("url", ["http://", "http:///x", "http://host:nonsense/x"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(Invalid):
        HttpPlace.connect(url, {})
