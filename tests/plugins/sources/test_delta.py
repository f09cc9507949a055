"""Delta Lake tables, on local files."""

import uuid

import pyarrow as pa
import pytest

from boucle.core.errors import Invalid, NotFound
from boucle.core.frames import Frame
from boucle.plugins.sources.delta import DeltaSource
from boucle.testing.sink import SAMPLE, SinkContract


class TestSink(SinkContract):
    sink = DeltaSource
    other = {"clock": None, "span": None}

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.folder = tmp_path

    def target(self, name):
        return f"delta://{self.folder}/{name}", {}


@pytest.fixture
def url(tmp_path):
    url = f"delta://{tmp_path}/orders"
    for i in range(3):
        DeltaSource().write(Frame.of({"id": [i], "x": [i / 2]}), url, "append", [], {})
    return url


def test_a_version_is_read_as_it_was(url):
    reading = DeltaSource().read(url, {})
    assert reading.found == {"version": 2, "files": 3}
    assert reading.frame.rows == 3
    assert sorted(reading.frame.table()["id"].to_pylist()) == [0, 1, 2]
    DeltaSource().write(Frame.of({"id": [9], "x": [1.0]}), url, "append", [], {})
    assert len(reading.frame.table()) == 3  # what was opened stays what it is
    assert DeltaSource().read(url, {"version": 0}).frame.table()["id"].to_pylist() == [0]
    assert next(reading.frame.batches(["x"])).schema.names == ["x"]


def test_the_same_version_has_the_same_order(url):
    tables = [DeltaSource().read(url, {"version": 2}).frame.table() for _ in range(3)]
    assert all(t.equals(tables[0]) for t in tables)


def test_the_real_client_reads_what_was_written(url, tmp_path):
    from deltalake import DeltaTable

    assert DeltaTable(str(tmp_path / "orders")).to_pyarrow_table().sort_by("id")["x"].to_pylist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"version": 7}, NotFound, "no version 7"), ({"version": "x"}, Invalid, "version="), ({"at": "x"}, Invalid, "at="),
        ({"version": 1, "at": "2026-01-01"}, Invalid, "both"), ({"storage": 1}, Invalid, "mapping"),
        ({"at": "1999-01-01"}, NotFound, "no version at"),
    ],
)  # fmt: skip
def test_what_cannot_be_read(url, options, error, match):
    with pytest.raises(error, match=match):
        DeltaSource().read(url, options)


def test_what_is_no_table(tmp_path):
    with pytest.raises(NotFound, match="no Delta table"):
        DeltaSource().read(f"delta://{tmp_path}/nothing", {})
    with pytest.raises(Invalid, match="names no table"):
        DeltaSource().read("delta://", {})
    (tmp_path / "broken" / "_delta_log").mkdir(parents=True)
    (tmp_path / "broken" / "_delta_log" / ("0" * 20 + ".json")).write_text("{half")
    with pytest.raises((Invalid, NotFound)):
        DeltaSource().read(f"delta://{tmp_path}/broken", {})


def test_a_file_that_is_gone(url, tmp_path):
    frame = DeltaSource().read(url, {}).frame
    for file in (tmp_path / "orders").glob("*.parquet"):
        file.unlink()
    with pytest.raises(Exception, match="orders"):
        frame.table()


def test_on_an_object_store(s3_server):
    url = f"delta+s3://boucle-tests/{uuid.uuid4().hex}"
    storage = {
        "AWS_ENDPOINT_URL": s3_server["endpoint"], "AWS_ACCESS_KEY_ID": s3_server["access_key_id"],
        "AWS_SECRET_ACCESS_KEY": s3_server["secret_access_key"], "AWS_REGION": s3_server["region"],
        "AWS_ALLOW_HTTP": "true", "aws_conditional_put": "etag",
    }  # fmt: skip
    assert DeltaSource().write(Frame.of(SAMPLE), url, "append", [], {"storage": storage}) == 3
    assert DeltaSource().read(url, {"storage": storage}).frame.table().equals(SAMPLE)


def test_deletion_vectors_are_not_taken_for_rows(url, tmp_path, monkeypatch):
    from boucle.plugins.sources import delta

    expected = DeltaSource().read(url, {}).frame.table().sort_by("id")
    monkeypatch.setattr(delta, "_plain", lambda table: False)  # the way that is taken where there are some
    got = DeltaSource().read(url, {}).frame
    assert got.rows is None
    assert got.table().cast(expected.schema).sort_by("id").equals(expected)
    assert pa.types.is_int64(got.table()["id"].type)
