"""MariaDB, against a real server."""

import datetime as dt
import urllib.parse
import uuid
from decimal import Decimal

import pyarrow as pa
import pymysql
import pytest

from boucle.core.errors import Conflict, Invalid, NotFound, Refused
from boucle.core.frames import Frame
from boucle.plugins.sources.mysql import MysqlSource
from boucle.testing.sink import SinkContract
from boucle.testing.sql import PASSWORD, SqlContract
from servers import free_port

UTC = dt.UTC


def run(url, *statements):
    parts = urllib.parse.urlsplit(url)
    with pymysql.connect(
        host=parts.hostname, port=parts.port, user="root", password="right", database="test"
    ) as connection:
        with connection.cursor() as cursor:
            for text in statements:
                cursor.execute(text)
        connection.commit()
        return cursor


class TestContract(SqlContract):
    source = MysqlSource
    quote = "`"
    place = "%s"
    types = {
        "b": ("BOOLEAN", "TRUE", pa.bool_(), True),
        "i1": ("TINYINT", "-128", pa.int8(), -128),
        "u1": ("TINYINT UNSIGNED", "255", pa.uint8(), 255),
        "i2": ("SMALLINT", "-32768", pa.int16(), -(2**15)),
        "i3": ("MEDIUMINT", "-8388608", pa.int32(), -(2**23)),
        "i4": ("INT", "2147483647", pa.int32(), 2**31 - 1),
        "i8": ("BIGINT", "9223372036854775807", pa.int64(), 2**63 - 1),
        "u8": ("BIGINT UNSIGNED", "18446744073709551615", pa.uint64(), 2**64 - 1),
        "f8": ("DOUBLE", "0.1", pa.float64(), 0.1),
        "d": ("DECIMAL(10, 2)", "1.1", pa.decimal128(10, 2), Decimal("1.10")),
        "dw": ("DECIMAL(65, 2)", "1.5", pa.float64(), 1.5),
        "y": ("YEAR", "2026", pa.int16(), 2026),
        "t": ("VARCHAR(50)", "'ü\"x,☕'", pa.string(), 'ü"x,☕'),
        "lt": ("LONGTEXT", "'a'", pa.string(), "a"),
        "e": ("ENUM('sad', 'glad')", "'glad'", pa.string(), "glad"),
        "bb": ("VARBINARY(10)", "x'00ff'", pa.binary(), b"\0\xff"),
        "bl": ("LONGBLOB", "x'00ff'", pa.binary(), b"\0\xff"),
        "da": ("DATE", "'2026-11-01'", pa.date32(), dt.date(2026, 11, 1)),
        "ti": ("TIME(6)", "'-10:11:12.5'", pa.duration("us"), -dt.timedelta(hours=10, minutes=11, seconds=12.5)),
        "ts": (
            "DATETIME(6)",
            "'2026-01-01 10:00:00.5'",
            pa.timestamp("us"),
            dt.datetime(2026, 1, 1, 10, 0, 0, 500000),
        ),
        "tz": (
            "TIMESTAMP NULL",
            "'2026-01-01 10:00'",
            pa.timestamp("us", "UTC"),
            dt.datetime(2026, 1, 1, 10, tzinfo=UTC),
        ),
        "bi": ("BIT(12)", "b'101'", pa.uint64(), 5),
        "j": ("JSON", "'{\"a\": 1}'", pa.string(), '{"a": 1}'),
        "u": ("UUID", f"'{uuid.UUID(int=7)}'", pa.string(), str(uuid.UUID(int=7))),
    }

    @pytest.fixture(autouse=True)
    def _server(self, mariadb):
        self.server = mariadb

    def url(self):
        return self.server

    def locked(self):
        return self.server.replace("right", PASSWORD)

    def deaf(self):
        return f"mysql://ann:{PASSWORD}@127.0.0.1:{free_port()}/x"

    def execute(self, *statements):
        run(self.server, "SET time_zone = '+00:00'", *statements)

    def end_readers(self):
        parts = urllib.parse.urlsplit(self.server)
        place = {"host": parts.hostname, "port": parts.port, "user": "root", "password": "right"}
        with pymysql.connect(**place) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT id FROM information_schema.processlist WHERE info LIKE 'SELECT `id`%ORDER BY `id`'")
            for (number,) in cursor.fetchall():
                cursor.execute(f"KILL {number}")

    def many(self, table, rows):
        self.execute(
            f"CREATE TABLE {table} (id INT PRIMARY KEY, text VARCHAR(200))",
            f"INSERT INTO {table} SELECT seq, lpad(seq, 200, '0') FROM seq_1_to_{rows}",
        )


class TestSink(SinkContract):
    sink = MysqlSource
    other = {
        "clock": (
            pa.duration("us"),
            [dt.timedelta(hours=10, minutes=11, seconds=12, microseconds=5), None, dt.timedelta(0)],
        ),
        "many": (pa.string(), ["[1,null,3]", None, "[]"]),
        "record": (pa.string(), ['{"a":1,"b":"x"}', None, '{"a":null,"b":"y"}']),
    }

    @pytest.fixture(autouse=True)
    def _server(self, mariadb):
        self.server = mariadb

    def target(self, name):
        return f"{self.server}#{name}", {}


@pytest.fixture
def name(mariadb):
    name = f"t{uuid.uuid4().hex[:12]}"
    yield name
    run(mariadb, f"DROP TABLE IF EXISTS {name}")


def test_single_precision_keeps_its_digits(mariadb, name):
    run(mariadb, f"CREATE TABLE {name} (f FLOAT)", f"INSERT INTO {name} VALUES (0.12345679)")
    table = MysqlSource().read(f"{mariadb}#{name}", {}).frame.table()
    assert table["f"] == pa.chunked_array([pa.array([0.12345679], pa.float32())])


def test_dates_that_are_none(mariadb, name):
    run(
        mariadb,
        "SET sql_mode = ''",
        f"CREATE TABLE {name} (d DATE, b TINYINT(1))",
        f"INSERT INTO {name} VALUES ('0000-00-00', 7)",
    )
    for column, said in (("d", "0000-00-00"), ("b", "7")):
        with pytest.raises(Invalid, match=rf"column '{column}'.*{said}"):
            MysqlSource().read(f"{mariadb}#{name}", {}).frame.table([column])


def test_named_parameters_and_a_cursor(mariadb):
    query = "SELECT seq, seq %% 2 AS odd FROM seq_1_to_9 WHERE seq < %(high)s"
    frame = MysqlSource().read(mariadb, {"query": query, "params": {"high": 5}, "cursor": "seq", "after": 2}).frame
    assert frame.table().to_pylist() == [{"seq": 3, "odd": 1}, {"seq": 4, "odd": 0}]


def test_an_engine_without_transactions(mariadb, name):
    run(mariadb, f"CREATE TABLE {name} (a INT) ENGINE=MyISAM")
    with pytest.raises(Refused, match="without transactions"):
        MysqlSource().write(Frame.of({"a": [1]}), f"{mariadb}#{name}", "append", (), {})


def test_a_constraint_that_does_not_hold(mariadb, name):
    run(mariadb, f"CREATE TABLE {name} (id INT PRIMARY KEY, x INT NOT NULL)", f"INSERT INTO {name} VALUES (1, 1)")
    target = f"{mariadb}#{name}"
    with pytest.raises(Conflict):
        MysqlSource().write(Frame.of({"id": [2, 1], "x": [1, 1]}), target, "append", (), {})
    with pytest.raises(Invalid, match="range"):
        MysqlSource().write(Frame.of({"id": [3, 2**40], "x": [1, 1]}), target, "append", (), {})
    assert len(MysqlSource().read(target, {}).frame) == 1


def test_capitals_are_told_apart_in_tables_made_here(mariadb, name):
    target = f"{mariadb}#{name}"
    for x in (1, 2):
        MysqlSource().write(Frame.of({"k": ["a", "A"], "x": [x, x]}), target, "merge", ("k",), {})
    assert sorted(MysqlSource().read(target, {}).frame.table()["k"].to_pylist()) == ["A", "a"]


def test_numbers_that_are_none(mariadb, name):
    with pytest.raises(Invalid, match="NaN or infinity"):
        MysqlSource().write(Frame.of({"x": [float("inf")]}), f"{mariadb}#{name}", "append", (), {})
    with pytest.raises(NotFound):
        MysqlSource().read(f"{mariadb}#{name}", {})


def test_what_the_url_may_ask_for(mariadb):
    with pytest.raises(Invalid, match="wings"):
        MysqlSource().read(f"{mariadb}?wings=2", {"table": "t"})
    with pytest.raises(NotFound, match=r"(?i)unknown database"):
        MysqlSource().read(mariadb.replace("/test", "/nowhere"), {"table": "t"})
