"""DuckDB files."""

import datetime as dt
import uuid
from decimal import Decimal

import duckdb
import pyarrow as pa
import pytest

from boucle.core.errors import Conflict, Invalid, NotFound, Unavailable
from boucle.core.frames import Frame
from boucle.plugins.sources.duckdb import DuckdbSource
from boucle.testing.sink import SinkContract
from boucle.testing.sql import SqlContract

NO_SERVER = "a file has no server"
ONE_PROCESS = "DuckDB lets nobody in while a file is written to, and no writer while it is read"
UTC = dt.UTC


class TestContract(SqlContract):
    source = DuckdbSource
    gaps = {
        "test_a_wrong_password": NO_SERVER,
        "test_a_server_that_is_gone_in_the_middle": NO_SERVER,
        "test_one_reading_sees_one_state": ONE_PROCESS,
    }
    types = {
        "b": ("BOOLEAN", "true", pa.bool_(), True),
        "i1": ("TINYINT", "-128", pa.int8(), -128),
        "u8": ("UBIGINT", "18446744073709551615", pa.uint64(), 2**64 - 1),
        "i4": ("INTEGER", "2147483647", pa.int32(), 2**31 - 1),
        "f4": ("FLOAT", "0.5", pa.float32(), 0.5),
        "f8": ("DOUBLE", "0.1", pa.float64(), 0.1),
        "d": ("DECIMAL(10, 2)", "1.1", pa.decimal128(10, 2), Decimal("1.10")),
        "t": ("VARCHAR", "'ü'", pa.string(), "ü"),
        "bb": ("BLOB", r"'\x00\xFF'::BLOB", pa.binary(), b"\0\xff"),
        "da": ("DATE", "'2026-11-01'", pa.date32(), dt.date(2026, 11, 1)),
        "ti": ("TIME", "'10:11:12.5'", pa.time64("us"), dt.time(10, 11, 12, 500000)),
        "ts": ("TIMESTAMP", "'2026-01-01 10:00:00.5'", pa.timestamp("us"), dt.datetime(2026, 1, 1, 10, 0, 0, 500000)),
        "tz": (
            "TIMESTAMPTZ",
            "'2026-01-01 10:00+02'",
            pa.timestamp("us", "UTC"),
            dt.datetime(2026, 1, 1, 8, tzinfo=UTC),
        ),
        "iv": ("INTERVAL", "INTERVAL '90 minutes'", pa.duration("us"), dt.timedelta(minutes=90)),
        "u": ("UUID", f"'{uuid.UUID(int=7)}'", pa.string(), str(uuid.UUID(int=7))),
        "e": ("ENUM('sad', 'glad')", "'glad'", pa.string(), "glad"),
        "j": ("JSON", "'{\"a\": 1}'", pa.string(), '{"a": 1}'),
        "ai": ("INTEGER[]", "[1, NULL]", pa.list_(pa.int32()), [1, None]),
        "st": (
            "STRUCT(x INTEGER, y VARCHAR)",
            "{x: 1, y: 'a'}",
            pa.struct([("x", pa.int32()), ("y", pa.string())]),
            {"x": 1, "y": "a"},
        ),
        "m": (
            "MAP(VARCHAR, INTEGER)",
            "MAP {'a': 1}",
            pa.list_(pa.struct([("key", pa.string()), ("value", pa.int32())])),
            [{"key": "a", "value": 1}],
        ),
        "un": ("UNION(n INTEGER, s VARCHAR)", "'x'", pa.string(), "x"),
    }

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.path = tmp_path / "x.duckdb"
        self.execute("SELECT 1")

    def url(self):
        return f"duckdb:///{self.path}"

    def deaf(self):
        return "duckdb:////nowhere/x.duckdb"

    def execute(self, *statements):
        with duckdb.connect(str(self.path)) as connection:
            for text in statements:
                connection.execute(text)

    def many(self, table, rows):
        self.execute(
            f"CREATE TABLE {table} AS SELECT i::INTEGER AS id, lpad(i::VARCHAR, 200, '0') AS text FROM range(1, {rows} + 1) r(i)"
        )


class TestSink(SinkContract):
    sink = DuckdbSource
    gaps = {"test_nobody_sees_it_half_way": ONE_PROCESS}

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.path = tmp_path / "x.duckdb"

    def target(self, name):
        return f"duckdb:///{self.path}#{name}", {}


def test_named_parameters_and_a_cursor(tmp_path):
    path = tmp_path / "x.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE t AS SELECT i FROM range(10) r(i)")
    options = {"query": "SELECT i FROM t WHERE i < $high", "params": {"high": 5}, "cursor": "i", "after": 2}
    assert DuckdbSource().read(str(path), options).frame.table()["i"].to_pylist() == [3, 4]


def test_a_file_that_is_no_database(tmp_path):
    path = tmp_path / "x.duckdb"
    path.write_bytes(b"hello world, this is text" * 1000)
    with pytest.raises(Invalid, match="not a whole DuckDB"):
        DuckdbSource().read(str(path), {"table": "t"})


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(NotFound):
        DuckdbSource().read(f"duckdb:///{tmp_path}/none.duckdb", {"table": "t"})


def test_nothing_stays_behind_of_what_failed(tmp_path):
    with pytest.raises(Invalid):
        DuckdbSource().write(Frame.of({"a": [1, 1]}), f"duckdb:///{tmp_path}/x.duckdb#t", "merge", ("a",), {})
    assert not list(tmp_path.iterdir())


def test_somebody_else_has_it_open(tmp_path):
    path = tmp_path / "x.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE t (a INTEGER)")
        with pytest.raises(Unavailable):
            DuckdbSource().read(str(path), {"table": "t"})


def test_a_constraint_that_does_not_hold(tmp_path):
    path = tmp_path / "x.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE t (a INTEGER PRIMARY KEY)")
    with pytest.raises(Conflict):
        DuckdbSource().write(Frame.of({"a": [1, 1]}), f"duckdb:///{path}#t", "append", (), {})
    assert len(DuckdbSource().read(str(path), {}).frame) == 0
