"""Object stores, against servers that speak as they do."""

from __future__ import annotations

import threading
import uuid
from pathlib import Path

import pytest

from boucle.core.errors import BoucleError, Conflict, Invalid, NotFound, Refused, Unavailable
from boucle.plugins.places import objects
from boucle.plugins.places.objects import ObjectsPlace
from boucle.ports import place as places
from boucle.ports.place import Place
from boucle.testing.place import PlaceContract


class ObjectsContract(PlaceContract):
    """With a prefix of its own for each test."""

    SCHEME = ""

    @pytest.fixture(autouse=True)
    def _of_its_own(self):
        self.prefix = uuid.uuid4().hex
        self.options: dict[str, object] = {}

    def make(self, tmp_path: Path) -> Place:
        return places.connect(f"{self.SCHEME}://boucle-tests/{self.prefix}/deep", self.options)


class TestS3(ObjectsContract):
    SCHEME = "s3"

    @pytest.fixture(autouse=True)
    def _server(self, _of_its_own, s3_server):
        self.options = s3_server


class TestGcs(ObjectsContract):
    SCHEME = "gs"

    @pytest.fixture(autouse=True)
    def _server(self, _of_its_own, gcs_server):
        self.options = gcs_server


class TestAzure(ObjectsContract):
    SCHEME = "az"

    @pytest.fixture(autouse=True)
    def _server(self, _of_its_own, azure_server):
        self.options = azure_server


@pytest.fixture
def bucket(s3_server):
    return ObjectsPlace.connect(f"s3://boucle-tests/{uuid.uuid4().hex}", s3_server)


def test_of_many_who_write_something_new_one_succeeds(bucket):
    won, lost = [], []

    def work(number: int) -> None:
        try:
            bucket.write("file", b"%d" % number, new=True)
            won.append(number)
        except Conflict:
            lost.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)
    assert b"".join(bucket.read("file")) == b"%d" % won[0]


def test_a_large_file_goes_in_parts(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(objects, "_SINGLE", 6 << 20)
    monkeypatch.setattr(objects, "_PART", 5 << 20)
    data = bytes(range(256)) * (13 << 12)
    (tmp_path / "large").write_bytes(data)
    bucket.write("large", tmp_path / "large")
    assert bucket.entry("large").version.endswith("-3")  # S3's mark of an upload in three parts
    assert b"".join(bucket.read("large")) == data
    with pytest.raises(Conflict):
        bucket.write("large", data, new=True)
    bucket.write("other", data, new=True)
    assert b"".join(bucket.read("other")) == data
    assert {e.path for e in bucket.list()} == {"large", "other"}


def test_a_bucket_that_is_not_there_is_named(s3_server):
    place = ObjectsPlace.connect("s3://no-such-bucket/x", s3_server)
    with pytest.raises(NotFound, match="there is no s3://no-such-bucket"):
        place.write("file", b"x")
    with pytest.raises(NotFound):
        list(place.list())


def test_no_error_shows_a_secret():
    options = {"endpoint": "http://127.0.0.1:1", "access_key_id": "KEYID", "secret_access_key": "hunter2", "retries": 0}
    place = ObjectsPlace.connect("s3://bucket/x", options)
    for ask in (
        lambda: place.write("f", b"x"),
        lambda: list(place.list()),
        lambda: place.entry("f"),
        lambda: list(place.read("f")),
    ):
        with pytest.raises(Unavailable) as told:
            ask()
        seen: BaseException | None = told.value
        while seen is not None:
            assert not {"hunter2", "KEYID"} & set(str(seen).replace("=", " ").split())
            assert seen.__suppress_context__ or seen.__context__ is None
            seen = seen.__cause__
    assert "hunter2" not in repr(place)


@pytest.mark.parametrize(
    "url", ["s3://", "s3:///x", "s3://user:hunter2@bucket/x", "s3://bucket/x?key=hunter2", "s3://bucket/a/../b"]
)
def test_what_names_no_bucket_is_refused(url):
    with pytest.raises(Invalid) as told:
        places.connect(url, {})
    assert "hunter2" not in str(told.value)


def test_an_unknown_option_is_named_and_its_value_is_not():
    for scheme in ("s3", "gs", "az"):
        with pytest.raises(BoucleError) as told:
            places.connect(
                f"{scheme}://bucket",
                {"no_such": "hunter2", "account_name": "a"} if scheme == "az" else {"no_such": "hunter2"},
            )
        assert "no_such" in str(told.value)
        assert "hunter2" not in str(told.value)


def test_credentials_come_from_the_files_of_aws(tmp_path, monkeypatch, s3_server):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "credentials").write_text(
        "[default]\naws_access_key_id = wrong\n[team]\naws_access_key_id = test\naws_secret_access_key = s\n"
    )
    (tmp_path / "config").write_text(f"[profile team]\nregion = eu-west-1\nendpoint_url = {s3_server['endpoint']}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    place = ObjectsPlace.connect(f"s3://boucle-tests/{uuid.uuid4().hex}", {"profile": "team"})
    place.write("file", b"x")
    assert b"".join(place.read("file")) == b"x"
    monkeypatch.setenv("AWS_PROFILE", "team")
    assert objects._aws_profile("team")["access_key_id"] == "test"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "from-the-environment")
    assert "access_key_id" not in objects._aws_profile("team")


def test_variables_of_the_vendor_are_enough(monkeypatch, s3_server):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server["endpoint"])
    place = places.connect(f"s3://boucle-tests/{uuid.uuid4().hex}")
    place.write("file", b"x")
    assert [e.path for e in place.list()] == ["file"]


def test_a_connection_string_is_enough_for_azure(azure_server, monkeypatch):
    monkeypatch.setenv(
        "AZURE_STORAGE_CONNECTION_STRING",
        f"DefaultEndpointsProtocol=http;AccountName={azure_server['account_name']};"
        f"AccountKey={azure_server['account_key']};BlobEndpoint={azure_server['endpoint']};",
    )
    place = places.connect(f"az://boucle-tests/{uuid.uuid4().hex}")
    place.write("file", b"x")
    assert [e.path for e in place.list()] == ["file"]


def test_wrong_credentials_are_refused(azure_server):
    place = places.connect("az://boucle-tests/x", {**azure_server, "account_key": "d3Jvbmc="})
    with pytest.raises(Refused) as told:
        place.write("file", b"x")
    assert "d3Jvbmc" not in str(told.value)
