"""File systems of fsspec: in memory, and SFTP, WebDAV and FTP against real servers."""

from __future__ import annotations

import gc
import threading
import uuid
import warnings
from pathlib import Path

import pytest

from boucle.core.errors import Invalid, MissingExtra, NotFound, Unavailable
from boucle.plugins.places.fsspec import FsspecPlace
from boucle.ports import lookup
from boucle.ports import place as places
from boucle.ports.place import Place
from boucle.testing.place import ODD, PlaceContract
from servers import free_port, listening


class TestMemory(PlaceContract):
    @pytest.fixture(autouse=True)
    def _of_its_own(self):
        self.root = f"memory://{uuid.uuid4().hex}/folder"

    def make(self, tmp_path: Path) -> Place:
        return places.connect(self.root)


class TestSftp(PlaceContract):
    @pytest.fixture(autouse=True)
    def _server(self, sftp_server):
        self.options = {k: v for k, v in sftp_server.items() if k not in ("home", "port")}
        self.root = f"sftp://127.0.0.1:{sftp_server['port']}{sftp_server['home']}/{uuid.uuid4().hex}/deep"

    def make(self, tmp_path: Path) -> Place:
        return places.connect(self.root, self.options)


def test_a_host_that_is_not_known_is_not_trusted(sftp_server, tmp_path):
    (tmp_path / "known").write_text("")
    options = {k: v for k, v in sftp_server.items() if k not in ("home", "port")}
    place = places.connect(
        f"sftp://127.0.0.1:{sftp_server['port']}{sftp_server['home']}",
        {**options, "known_hosts": str(tmp_path / "known")},
    )
    with pytest.raises(Unavailable):
        place.write("file", b"x")


@pytest.fixture(scope="module")
def dav_server(tmp_path_factory):
    """The URL of a WebDAV server with a user and a password."""
    from cheroot.wsgi import Server
    from wsgidav.wsgidav_app import WsgiDAVApp

    port = free_port()
    app = WsgiDAVApp(
        {
            "provider_mapping": {"/": str(tmp_path_factory.mktemp("dav"))}, "verbose": 0, "logging": {"enable": False},
            "simple_dc": {"user_mapping": {"*": {"ann": {"password": "hunter2"}}}},
        }
    )  # fmt: skip
    server = Server(("127.0.0.1", port), app)
    server.prepare()
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    yield f"webdav://ann:hunter2@127.0.0.1:{port}"
    server.stop()
    thread.join(10)


class TestWebdav(PlaceContract):
    @pytest.fixture(autouse=True)
    def _server(self, dav_server):
        self.server = dav_server
        yield
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # its client leaves a socket to the collector
            gc.collect()

    def make(self, tmp_path: Path) -> Place:
        place = places.connect(self.server)
        name = uuid.uuid5(uuid.NAMESPACE_URL, str(tmp_path)).hex
        if not place._system.exists(name):
            place._system.makedirs(name)
        place.close()
        return places.connect(f"{self.server}/{name}", {"timeout": 20})

    @pytest.mark.parametrize("name", [n for n in ODD if not {"#", "?", "%", ";"} & set(n)])
    def test_odd_names_are_names(self, place: Place, tmp_path: Path, name: str) -> None:
        """Its client takes '#', '?', '%' and ';' in a name for parts of a URL."""
        super().test_odd_names_are_names(place, tmp_path, name)


def test_a_wrong_password_is_not_shown(dav_server):
    place = places.connect(dav_server.replace("hunter2", "hunter3"))
    with pytest.raises(Unavailable) as told:
        place.write("file", b"x")
    place.close()
    assert "hunter" not in str(told.value)
    assert told.value.__suppress_context__


@pytest.fixture(scope="module")
def ftp_server(tmp_path_factory):
    """The URL of an FTP server."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it imports asyncore where Python still has it
        from pyftpdlib.authorizers import DummyAuthorizer
        from pyftpdlib.handlers import FTPHandler
        from pyftpdlib.servers import ThreadedFTPServer

    authorizer = DummyAuthorizer()
    authorizer.add_user("ann", "hunter2", str(tmp_path_factory.mktemp("ftp")), perm="elradfmwMT")
    handler = type("Handler", (FTPHandler,), {"authorizer": authorizer, "log": lambda *_, **__: None})
    server = ThreadedFTPServer(("127.0.0.1", port := free_port()), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    assert listening(port)
    yield f"ftp://ann:hunter2@127.0.0.1:{port}"
    server.close_all()


class TestFtp(PlaceContract):
    @pytest.fixture(autouse=True)
    def _server(self, ftp_server):
        self.server = ftp_server

    def make(self, tmp_path: Path) -> Place:
        return places.connect(f"{self.server}/{uuid.uuid5(uuid.NAMESPACE_URL, str(tmp_path)).hex}/deep")


@pytest.mark.parametrize(
    "url", ["nonsense://host/x", "zip::memory://x", "simplecache::http://user:hunter2@host/x", "memory:/x", "1a://x"]
)
def test_what_no_file_system_knows_is_refused(url):
    with pytest.raises(Invalid) as told:
        FsspecPlace.connect(url, {})
    assert "hunter2" not in str(told.value)


def test_what_is_not_installed_is_named():
    with pytest.raises(MissingExtra, match="pip install 'gdrive-fsspec'"):
        FsspecPlace.connect("gdrive://folder", {})


def test_it_is_chosen_for_what_has_no_plugin_of_its_own():
    assert {type(places.connect(u)).__name__ for u in ("memory://x", "s3://bucket", "gs://bucket", "/tmp", "http://host")} == {
        "FsspecPlace", "ObjectsPlace", "FilePlace", "HttpPlace"
    }  # fmt: skip
    assert set(lookup.names("place")) == {"azure", "file", "fsspec", "gcs", "http", "s3"}


def test_nothing_is_asked_before_it_must(dav_server):
    place = places.connect("ftp://127.0.0.1:1/folder", {"username": "ann", "password": "hunter2"})
    with pytest.raises(Unavailable) as told:
        list(place.list())
    assert "hunter2" not in str(told.value)
    place = places.connect(dav_server)
    with pytest.raises(NotFound):
        place.entry("nothing")
    place.close()
