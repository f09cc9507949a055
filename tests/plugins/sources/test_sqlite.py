"""SQLite files."""

import datetime as dt
import sqlite3
from contextlib import closing
from decimal import Decimal

import pyarrow as pa
import pytest

from boucle.core.errors import Invalid, NotFound, Unavailable
from boucle.plugins.sources.sqlite import SqliteSource
from boucle.testing.sink import SinkContract
from boucle.testing.sql import SqlContract

NO_SERVER = "a file has no server"


class TestContract(SqlContract):
    source = SqliteSource
    gaps = {"test_a_wrong_password": NO_SERVER, "test_a_server_that_is_gone_in_the_middle": NO_SERVER}
    types = {
        "b": ("BOOLEAN", "1", pa.bool_(), True),
        "i": ("INTEGER", "9223372036854775807", pa.int64(), 2**63 - 1),
        "r": ("REAL", "0.1", pa.float64(), 0.1),
        "d": ("DECIMAL(10, 2)", "1.1", pa.decimal128(10, 2), Decimal("1.10")),
        "n": ("NUMERIC", "1.5", pa.float64(), 1.5),
        "t": ("VARCHAR(20)", "'ü'", pa.string(), "ü"),
        "x": ("BLOB", "x'00ff'", pa.binary(), b"\0\xff"),
        "da": ("DATE", "'2026-11-01'", pa.date32(), dt.date(2026, 11, 1)),
        "ti": ("TIME", "'10:11:12.5'", pa.time64("us"), dt.time(10, 11, 12, 500000)),
        "ts": ("DATETIME", "'2026-01-01 10:00:00.5'", pa.timestamp("us"), dt.datetime(2026, 1, 1, 10, 0, 0, 500000)),
        "tz": (
            "TIMESTAMPTZ",
            "'2026-01-01T10:00:00+02:00'",
            pa.timestamp("us", "UTC"),
            dt.datetime(2026, 1, 1, 8, tzinfo=dt.UTC),
        ),
        "j": ("JSON", "'{\"a\": 1}'", pa.string(), '{"a": 1}'),
    }

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.path = tmp_path / "x.db"
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")  # readers and a writer at once
            connection.execute("PRAGMA synchronous = OFF")

    def url(self):
        return f"sqlite:///{self.path}"

    def deaf(self):
        return "sqlite:////nowhere/x.db"

    def execute(self, *statements):
        with closing(sqlite3.connect(self.path)) as connection:
            for text in statements:
                connection.execute(text)
            connection.commit()

    def many(self, table, rows):
        self.execute(
            f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, text TEXT)",
            f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) "
            f"INSERT INTO {table} SELECT i, printf('%0200d', i) FROM n",
        )


class TestSink(SinkContract):
    sink = SqliteSource
    other = {
        "small": (pa.int64(), [-5, None, 7]),
        "whole": (pa.int64(), [2**31 - 1, None, -(2**31)]),
        "many": (pa.string(), ["[1,null,3]", None, "[]"]),
        "record": (pa.string(), ['{"a":1,"b":"x"}', None, '{"a":null,"b":"y"}']),
    }

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.path = tmp_path / "x.db"

    def target(self, name):
        return f"sqlite:///{self.path}#{name}", {}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.db"


def made(path, *statements):
    with closing(sqlite3.connect(path)) as connection:
        for text in statements:
            connection.execute(text)
        connection.commit()


def read(path, **options):
    return SqliteSource().read(str(path), options).frame


def test_the_only_table_need_not_be_named(path):
    made(path, "CREATE TABLE t (a INTEGER)", "INSERT INTO t VALUES (1)")
    assert read(path).table().to_pylist() == [{"a": 1}]
    made(path, "CREATE TABLE u (a INTEGER)")
    with pytest.raises(Invalid, match="2 tables"):
        read(path)


def test_a_value_of_another_type(path):
    made(path, "CREATE TABLE t (a INTEGER, b BOOLEAN, d DATE)", "INSERT INTO t VALUES ('x', 2, 'soon')")
    for column in "abd":
        with pytest.raises(Invalid, match=f"column '{column}' has a value"):
            read(path, table="t").table([column])
    assert read(path, query="SELECT CAST(a AS TEXT) AS a FROM t").table().to_pylist() == [{"a": "x"}]


def test_columns_without_a_type_go_by_their_values(path):
    made(path, "CREATE TABLE t (a, b, c)", "INSERT INTO t VALUES (1, 'x', NULL), (2.5, 'y', NULL)")
    assert [c.type for c in read(path, table="t").schema.columns] == ["float64", "string", "null"]
    query = "SELECT count(*) AS n, max(a) AS a, max(b) AS b FROM t WHERE a > :low"
    assert read(path, query=query, params={"low": 0}).table().to_pylist() == [{"n": 2, "a": 2.5, "b": "y"}]
    made(path, "INSERT INTO t VALUES ('mixed', 'x', NULL)")
    with pytest.raises(Invalid, match="real and text"):
        read(path, table="t")


def test_named_parameters_and_a_cursor(path):
    made(path, "CREATE TABLE t (a INTEGER)", "INSERT INTO t VALUES (1), (2), (3)")
    frame = read(path, query="SELECT a FROM t WHERE a < :high", params={"high": 3}, cursor="a", after=1)
    assert frame.table()["a"].to_pylist() == [2]


def test_times_are_compared_as_times(path):
    rows = "('2026-01-01T00:00:00Z'), ('2026-01-01 00:00:00.5'), ('2026-01-01 02:00:00+01:00'), (1767225601)"
    made(path, "CREATE TABLE t (at TIMESTAMPTZ)", f"INSERT INTO t VALUES {rows}")
    frame = read(path, table="t", cursor="at", after="2026-01-01T00:00:00.500000+00:00")
    assert [t.isoformat() for t in frame.table()["at"].to_pylist()] == [
        "2026-01-01T00:00:01+00:00", "2026-01-01T01:00:00+00:00",
    ]  # fmt: skip


def test_a_file_that_is_no_database(path):
    path.write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    with pytest.raises(Invalid, match="not a whole SQLite"):
        read(path, table="t")
    path.write_bytes(b"hello world, this is text" * 100)
    with pytest.raises(Invalid, match="not a whole SQLite"):
        read(path, table="t")


def test_a_file_that_is_cut_off(path):
    made(path, "CREATE TABLE t (a TEXT)", *["INSERT INTO t VALUES ('" + "x" * 4000 + "')"] * 20)
    path.write_bytes(path.read_bytes()[:-20_000])
    with pytest.raises(Invalid, match="not a whole SQLite"):
        read(path, table="t").table()


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(NotFound):
        SqliteSource().read(f"sqlite:///{tmp_path}/none.db#t", {})
    with pytest.raises(Invalid, match="names no file"):
        SqliteSource().read("sqlite://", {})


def test_somebody_else_is_writing(path, monkeypatch):
    monkeypatch.setattr("boucle.plugins.sources.sqlite._PATIENCE", 0.05)
    made(path, "CREATE TABLE t (a INTEGER)")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        from boucle.core.frames import Frame

        with pytest.raises(Unavailable, match="being written"):
            SqliteSource().write(Frame.of({"a": [1]}), f"sqlite:///{path}#t", "append", (), {})


def test_what_sqlite_would_turn_into_null(path):
    from boucle.core.frames import Frame

    with pytest.raises(Invalid, match="'x' holds NaN"):
        SqliteSource().write(Frame.of({"x": [1.0, float("nan")]}), f"sqlite:///{path}#t", "append", (), {})
    with pytest.raises(NotFound):
        read(path, table="t")
