"""Iceberg tables, in an SQL catalog on local files."""

import warnings

import pyarrow as pa
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from boucle.plugins.sources.iceberg import IcebergSource

from boucle.core.errors import Invalid, NotFound, Unavailable
from boucle.core.frames import Frame
from boucle.testing.sink import SinkContract

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


def place(folder):
    (folder / "warehouse").mkdir(exist_ok=True)
    return f"iceberg+sqlite:///{folder}/catalog.db", {"catalog": {"warehouse": f"file://{folder}/warehouse"}}


class TestSink(SinkContract):
    sink = IcebergSource
    other = {
        "small": (pa.int32(), [-5, None, 7]),
        "span": None,
    }

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.folder = tmp_path

    def target(self, name):
        url, options = place(self.folder)
        return url, {**options, "table": f"shop.{name}"}


@pytest.fixture
def orders(tmp_path):
    url, options = place(tmp_path)
    options["table"] = "shop.orders"
    for i in range(3):
        IcebergSource().write(Frame.of({"id": [i], "x": [i / 2]}), url, "append", [], options)
    return url, options


def test_a_snapshot_is_read_as_it_was(orders):
    url, options = orders
    reading = IcebergSource().read(url, options)
    assert sorted(reading.frame.table()["id"].to_pylist()) == [0, 1, 2]
    IcebergSource().write(Frame.of({"id": [9], "x": [1.0]}), url, "append", [], options)
    assert len(reading.frame.table()) == 3
    again = IcebergSource().read(url, {**options, "snapshot": reading.found["snapshot"]})
    assert again.frame.table(["id"]).equals(reading.frame.table(["id"]))
    assert len(IcebergSource().read(url, {**options, "snapshot": "main"}).frame.table()) == 4
    assert len(IcebergSource().read(url, {**options, "at": "2100-01-01"}).frame.table()) == 4


def test_a_metadata_file_is_enough_to_read(orders, tmp_path):
    metadata = max((tmp_path / "warehouse").rglob("*.metadata.json"))
    assert len(IcebergSource().read(f"iceberg://{metadata}", {}).frame.table()) == 3
    with pytest.raises(Invalid, match="only be read"):
        IcebergSource().write(Frame.of({"id": [1]}), f"iceberg://{metadata}", "append", [], {"table": "a.b"})


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"snapshot": 7}, NotFound, "no snapshot 7"), ({"at": "x"}, Invalid, "at="), ({"at": "1999-01-01"}, NotFound, "1999"),
        ({"snapshot": 1, "at": "2026-01-01"}, Invalid, "both"), ({"table": "orders"}, Invalid, "namespace.name"),
        ({"table": "shop.nothing"}, NotFound, "nothing"), ({"catalog": 1}, Invalid, "mapping"),
    ],
)  # fmt: skip
def test_what_cannot_be_read(orders, options, error, match):
    url, known = orders
    with pytest.raises(error, match=match):
        IcebergSource().read(url, {**known, **options})


def test_a_catalog_that_is_away(tmp_path):
    with pytest.raises(Unavailable) as caught:
        IcebergSource().read("iceberg+http://ann:secret@127.0.0.1:9/", {"table": "a.b", "token": "hidden"})
    assert "secret" not in str(caught.value)
    assert "hidden" not in str(caught.value)
