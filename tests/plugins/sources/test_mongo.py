"""MongoDB's protocol with its own client, against SecantusDB."""

import datetime as dt
import decimal
import uuid

import bson
import pyarrow as pa
import pymongo
import pytest

from boucle.core.errors import Conflict, Invalid, NotFound, Refused, Unavailable
from boucle.core.frames import Frame
from boucle.plugins.sources import mongo
from boucle.plugins.sources.mongo import MongoSource
from boucle.testing.sink import SAMPLE, SinkContract
from servers import free_port

UTC = dt.UTC
MOMENTS = [dt.datetime(2026, 1, 1, 1, 2, 3, tzinfo=UTC), None, dt.datetime(1971, 1, 1, tzinfo=UTC)]


class TestSink(SinkContract):
    sink = MongoSource
    gaps = {"test_a_column_that_the_target_does_not_have": "documents have the fields that they have"}
    other = {
        "small": (pa.int64(), [-5, None, 7]),
        "whole": (pa.int64(), [2**31 - 1, None, -(2**31)]),
        "exact": (
            pa.decimal128(29, 9),
            [decimal.Decimal("12345678901234567890.123456789"), None, decimal.Decimal("0.100000000")],
        ),
        "day": (
            pa.timestamp("us", "UTC"),
            [dt.datetime(2026, 11, 1, tzinfo=UTC), None, dt.datetime(1969, 2, 28, tzinfo=UTC)],
        ),
        "clock": (pa.string(), ["10:11:12.000005", None, "00:00:00"]),
        "moment": (pa.timestamp("us", "UTC"), MOMENTS),
        "zoned": (pa.timestamp("us", "UTC"), MOMENTS),
        "span": (pa.int64(), [18_000_000_001, None, -3_600_000_000]),
    }

    @pytest.fixture(autouse=True)
    def _server(self, mongodb):
        self.server = mongodb

    def target(self, name):
        return f"{self.server}#{name}", {}


@pytest.fixture
def there(mongodb):
    with pymongo.MongoClient(mongodb) as client:
        name = f"c{uuid.uuid4().hex[:12]}"
        yield client.get_default_database()[name]


def read(mongodb, collection, **options):
    return MongoSource().read(f"{mongodb}#{collection.name}", options).frame


def test_documents(mongodb, there):
    one = bson.ObjectId()
    there.insert_one(
        {
            "_id": one, "n": 1, "x": 1, "at": dt.datetime(2026, 1, 1, 0, 0, 0, 5000), "d": bson.Decimal128("1.10"),
            "address": {"city": "Rouen", "lines": ["a", None]}, "raw": b"\0\xff", "ok": True, "big": bson.Int64(2**40),
        }
    )  # fmt: skip
    there.insert_one({"n": None, "x": 1.5, "address": {"zip": "76000"}, "none": None})
    frame = read(mongodb, there)
    assert {c.name: c.type for c in frame.schema.columns} == {
        "_id": "string", "n": "int64", "x": "float64", "at": "timestamp", "d": "decimal", "raw": "binary", "ok": "bool",
        "address": "struct<city: string, lines: list<string>, zip: string>", "big": "int64", "none": "null",
    }  # fmt: skip
    first, second = frame.table().to_pylist()
    assert first["_id"] == str(one)
    assert first["at"] == dt.datetime(2026, 1, 1, 0, 0, 0, 5000, UTC)
    assert (first["d"], first["raw"], first["big"]) == (decimal.Decimal("1.10"), b"\0\xff", 2**40)
    assert first["address"] == {"city": "Rouen", "lines": ["a", None], "zip": None}
    assert second["address"] == {"city": None, "lines": None, "zip": "76000"}
    assert frame.table(["x", "n"]).to_pylist() == [{"x": 1.0, "n": 1}, {"x": 1.5, "n": None}]


def test_only_what_is_new(mongodb, there):
    ids = [bson.ObjectId() for _ in range(3)]
    there.insert_many([{"_id": i, "at": dt.datetime(2026, 1, 1 + k), "k": k} for k, i in enumerate(ids)])
    for after in ("2026-01-01T00:00:00+00:00", "2026-01-01", dt.datetime(2026, 1, 1, tzinfo=UTC)):
        assert read(mongodb, there, cursor="at", after=after).table()["k"].to_pylist() == [1, 2]
    assert read(mongodb, there, cursor="at", after="2026-01-02", inclusive=True).table()["k"].to_pylist() == [1, 2]
    assert read(mongodb, there, cursor="_id", after=str(ids[1])).table()["k"].to_pylist() == [2]
    assert read(mongodb, there, cursor="k", after=0, query={"k": {"$lt": 2}}).table()["k"].to_pylist() == [1]
    assert read(mongodb, there, query='{"k": 1}').table()["k"].to_pylist() == [1]
    with pytest.raises(Invalid, match="cannot be compared"):
        read(mongodb, there, cursor="at", after="soon")


def test_many_documents(mongodb, there):
    there.insert_many([{"_id": i} for i in range(20_000)])
    batches = list(read(mongodb, there).batches())
    assert len(batches) > 1
    assert [i for b in batches for i in b.column("_id").to_pylist()] == list(range(20_000))


def test_one_reading_sees_one_state(mongodb, there):
    there.insert_many([{"_id": i} for i in range(20_000)])
    batches = read(mongodb, there).batches()
    rows = next(batches).num_rows
    there.delete_many({"_id": {"$gt": 10}})
    assert rows + sum(b.num_rows for b in batches) == 20_000


def test_values_that_do_not_go_together(mongodb, there):
    there.insert_many([{"_id": 1, "a": {"b": 1}}, {"_id": 2, "a": {"b": "x"}}])
    with pytest.raises(Invalid, match=r"_id 2: 'a.b' is of type string, and in _id 1 of type int"):
        read(mongodb, there)


def test_a_collection_that_is_not_there(mongodb, there):
    there.insert_one({})
    with pytest.raises(NotFound, match=f"{there.name}x") as caught:
        MongoSource().read(f"{mongodb}#{there.name}x", {})
    assert there.name in caught.value.expected


def test_an_index_that_does_not_allow_it(mongodb, there):
    there.create_index("id", unique=True)
    there.insert_one({"id": 3})
    with pytest.raises(Conflict):
        MongoSource().write(Frame.of(SAMPLE), f"{mongodb}#{there.name}", "append", (), {})
    assert there.count_documents({}) == 1


def test_a_server_without_transactions(mongodb, there, monkeypatch):
    monkeypatch.setattr(mongo, "_replicated", lambda _: False)
    target = f"{mongodb}#{there.name}"
    assert MongoSource().write(Frame.of(SAMPLE), target, "append", (), {}) == 3  # nothing is there yet
    with pytest.raises(Refused, match="no transactions"):
        MongoSource().write(Frame.of(SAMPLE), target, "append", (), {})
    assert MongoSource().write(Frame.of(SAMPLE), target, "replace", (), {}) == 3
    assert len(read(mongodb, there)) == 3


def test_no_server_and_no_url(monkeypatch):
    monkeypatch.setattr(mongo, "_PATIENCE", 200)
    secret = "s3cret-0f-mine"
    with pytest.raises(Unavailable) as caught:
        MongoSource().read(f"mongodb://ann:{secret}@127.0.0.1:{free_port()}/x#t", {})
    assert secret not in f"{caught.value!r} {caught.value}"
    for url in (f"mongodb://ann:{secret}:@@h/x#t", f"mongodb://ann:{secret}@h:port/x#t"):
        with pytest.raises(Invalid) as caught:
            MongoSource().read(url, {})
        assert secret not in f"{caught.value!r} {caught.value}"
