"""Databases behind SQLAlchemy: SQLite, and real servers of PostgreSQL and MariaDB."""

import datetime as dt
import sqlite3
import urllib.parse
import uuid
from contextlib import closing
from decimal import Decimal

import psycopg
import pyarrow as pa
import pymysql
import pytest

from boucle.core.errors import Conflict, Invalid, MissingExtra, NotFound, Refused, Unavailable
from boucle.core.frames import Frame, type_name
from boucle.plugins.sources.sqlalchemy import SqlalchemySource
from boucle.testing.sink import SinkContract
from boucle.testing.sql import PASSWORD, SqlContract
from servers import free_port

UTC = dt.UTC
NO_SERVER = "a file has no server"
BY_VALUES = "a query has the types of its values; those of tables are tested below"
MOMENT = dt.datetime(2026, 1, 1, 10, 0, 0, 500000)
LISTS = {
    "many": (pa.string(), ["[1,null,3]", None, "[]"]),
    "record": (pa.string(), ['{"a":1,"b":"x"}', None, '{"a":null,"b":"y"}']),
}


def execute_sqlite(path, *statements):
    with closing(sqlite3.connect(path)) as connection:
        for text in statements:
            connection.execute(text)
        connection.commit()


def execute_postgres(url, *statements):
    with psycopg.connect(url) as connection:
        for text in statements:
            connection.execute(text)


def execute_mariadb(url, *statements):
    parts = urllib.parse.urlsplit(url)
    place = {"host": parts.hostname, "port": parts.port, "user": "root", "password": "right", "database": "test"}
    with pymysql.connect(**place) as connection:
        with connection.cursor() as cursor:
            for text in statements:
                cursor.execute(text)
        connection.commit()


def read(url, **options):
    return SqlalchemySource().read(url, options).frame


def write(url, data, mode="append", key=()):
    return SqlalchemySource().write(Frame.of(data), url, mode, key, {})


class TypedContract(SqlContract):
    gaps = {"test_types_are_known_without_a_value": BY_VALUES}

    def test_types_of_a_table_are_known_without_a_value(self):
        for rows in ((), (f"INSERT INTO typed VALUES ({', '.join(['NULL'] * len(self.types))})",)):
            columns = ", ".join(f"{name} {t[0]}" for name, t in self.types.items())
            self.execute(f"CREATE TABLE typed ({columns})", *rows)
            try:
                frame = self.read(table="typed")
                assert [c.type for c in frame.schema.columns] == [type_name(t[2]) for t in self.types.values()]
                assert [b.schema.types for b in frame.batches()] == [[t[2] for t in self.types.values()]] * len(rows)
            finally:
                self.execute("DROP TABLE typed")


class TestSqlite(TypedContract):
    source = SqlalchemySource
    gaps = {
        **TypedContract.gaps,
        "test_a_wrong_password": NO_SERVER,
        "test_a_server_that_is_gone_in_the_middle": NO_SERVER,
    }
    types = {
        "b": ("BOOLEAN", "1", pa.bool_(), True),
        "i": ("INTEGER", "9223372036854775807", pa.int64(), 2**63 - 1),
        "r": ("REAL", "0.1", pa.float64(), 0.1),
        "d": ("DECIMAL(10, 2)", "1.1", pa.decimal128(10, 2), Decimal("1.10")),
        "n": ("NUMERIC", "1.5", pa.float64(), 1.5),
        "t": ("VARCHAR(20)", "'ü'", pa.string(), "ü"),
        "x": ("BLOB", "x'00ff'", pa.binary(), b"\0\xff"),
        "da": ("DATE", "'2026-11-01'", pa.date32(), dt.date(2026, 11, 1)),
        "ti": ("TIME", "'10:11:12.500000'", pa.time64("us"), dt.time(10, 11, 12, 500000)),
        "ts": ("DATETIME", "'2026-01-01 10:00:00.500000'", pa.timestamp("us"), MOMENT),
    }

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.path = tmp_path / "x.db"
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = OFF")

    def url(self):
        return f"sqlalchemy+sqlite:///{self.path}"

    def deaf(self):
        return "sqlalchemy+sqlite:////nowhere/x.db"

    def execute(self, *statements):
        execute_sqlite(self.path, *statements)

    def many(self, table, rows):
        self.execute(
            f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, text TEXT)",
            f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) "
            f"INSERT INTO {table} SELECT i, printf('%0200d', i) FROM n",
        )


class TestPostgres(TypedContract):
    source = SqlalchemySource
    types = {
        "b": ("boolean", "true", pa.bool_(), True),
        "i2": ("smallint", "-32768", pa.int16(), -(2**15)),
        "i4": ("integer", "2147483647", pa.int32(), 2**31 - 1),
        "i8": ("bigint", "9223372036854775807", pa.int64(), 2**63 - 1),
        "f4": ("real", "0.5", pa.float64(), 0.5),
        "f8": ("double precision", "0.1", pa.float64(), 0.1),
        "d": ("numeric(10, 2)", "1.1", pa.decimal128(10, 2), Decimal("1.10")),
        "n": ("numeric", "1.5", pa.float64(), 1.5),
        "nn": ("numeric(50, 2)", "1.5", pa.float64(), 1.5),
        "t": ("text", "'ü\"x,'", pa.string(), 'ü"x,'),
        "by": ("bytea", r"'\x00ff'", pa.binary(), b"\0\xff"),
        "da": ("date", "'2026-11-01'", pa.date32(), dt.date(2026, 11, 1)),
        "ti": ("time", "'10:11:12.5'", pa.time64("us"), dt.time(10, 11, 12, 500000)),
        "ts": ("timestamp", "'2026-01-01 10:00:00.5'", pa.timestamp("us"), MOMENT),
        "tz": (
            "timestamptz",
            "'2026-01-01 10:00+02'",
            pa.timestamp("us", "UTC"),
            dt.datetime(2026, 1, 1, 8, tzinfo=UTC),
        ),
        "iv": ("interval", "'1 day 2 microseconds'", pa.duration("us"), dt.timedelta(days=1, microseconds=2)),
        "u": ("uuid", f"'{uuid.UUID(int=7)}'", pa.string(), str(uuid.UUID(int=7))),
        "ai": ("integer[]", "'{1,NULL}'", pa.list_(pa.int32()), [1, None]),
        "at": ("text[]", "'{a,\"b,c\"}'", pa.list_(pa.string()), ["a", "b,c"]),
    }

    @pytest.fixture(autouse=True)
    def _server(self, postgres):
        self.server = postgres

    def url(self):
        return self.server.replace("postgresql://", "sqlalchemy+postgresql+psycopg://")

    def locked(self):
        return self.url().replace("postgres@", f"nobody:{PASSWORD}@")

    def deaf(self):
        return f"sqlalchemy+postgresql+psycopg://ann:{PASSWORD}@127.0.0.1:{free_port()}/x"

    def execute(self, *statements):
        execute_postgres(self.server, *statements)

    def end_readers(self):
        self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
            "AND query LIKE 'FETCH FORWARD%'"
        )

    def many(self, table, rows):
        self.execute(
            f"CREATE UNLOGGED TABLE {table} (id integer PRIMARY KEY, text text)",
            f"INSERT INTO {table} SELECT i, lpad(i::text, 200, '0') FROM generate_series(1, {rows}) i",
        )


class TestMariadb(TypedContract):
    source = SqlalchemySource
    quote = "`"
    types = {
        "b": ("BOOLEAN", "TRUE", pa.bool_(), True),
        "i2": ("SMALLINT", "-32768", pa.int16(), -(2**15)),
        "i4": ("INT", "2147483647", pa.int32(), 2**31 - 1),
        "u4": ("INT UNSIGNED", "4294967295", pa.int64(), 2**32 - 1),
        "i8": ("BIGINT", "9223372036854775807", pa.int64(), 2**63 - 1),
        "u8": ("BIGINT UNSIGNED", "18446744073709551615", pa.uint64(), 2**64 - 1),
        "f8": ("DOUBLE", "0.1", pa.float64(), 0.1),
        "d": ("DECIMAL(10, 2)", "1.1", pa.decimal128(10, 2), Decimal("1.10")),
        "dw": ("DECIMAL(65, 2)", "1.5", pa.float64(), 1.5),
        "t": ("VARCHAR(50)", "'ü\"x,☕'", pa.string(), 'ü"x,☕'),
        "lt": ("LONGTEXT", "'a'", pa.string(), "a"),
        "e": ("ENUM('sad', 'glad')", "'glad'", pa.string(), "glad"),
        "bb": ("VARBINARY(10)", "x'00ff'", pa.binary(), b"\0\xff"),
        "bl": ("LONGBLOB", "x'00ff'", pa.binary(), b"\0\xff"),
        "da": ("DATE", "'2026-11-01'", pa.date32(), dt.date(2026, 11, 1)),
        "ti": ("TIME(6)", "'-10:11:12.5'", pa.duration("us"), -dt.timedelta(hours=10, minutes=11, seconds=12.5)),
        "ts": ("DATETIME(6)", "'2026-01-01 10:00:00.5'", pa.timestamp("us"), MOMENT),
        "tz": (
            "TIMESTAMP NULL",
            "'2026-01-01 10:00'",
            pa.timestamp("us", "UTC"),
            dt.datetime(2026, 1, 1, 10, tzinfo=UTC),
        ),
    }

    @pytest.fixture(autouse=True)
    def _server(self, mariadb):
        self.server = mariadb

    def url(self):
        return self.server.replace("mysql://", "sqlalchemy+mysql+pymysql://")

    def locked(self):
        return self.url().replace("right", PASSWORD)

    def deaf(self):
        return f"sqlalchemy+mysql+pymysql://ann:{PASSWORD}@127.0.0.1:{free_port()}/x"

    def execute(self, *statements):
        execute_mariadb(self.server, "SET time_zone = '+00:00'", *statements)

    def end_readers(self):
        parts = urllib.parse.urlsplit(self.server)
        place = {"host": parts.hostname, "port": parts.port, "user": "root", "password": "right"}
        with pymysql.connect(**place) as connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT id FROM information_schema.processlist WHERE id <> connection_id() AND info LIKE 'SELECT id%FROM t%'"
            )
            for (number,) in cursor.fetchall():
                cursor.execute(f"KILL {number}")

    def many(self, table, rows):
        self.execute(
            f"CREATE TABLE {table} (id INT PRIMARY KEY, text VARCHAR(200))",
            f"INSERT INTO {table} SELECT seq, lpad(seq, 200, '0') FROM seq_1_to_{rows}",
        )


class TestSqliteSink(SinkContract):
    sink = SqlalchemySource
    other = {
        **LISTS,
        "small": (pa.int64(), [-5, None, 7]),
        "whole": (pa.int64(), [2**31 - 1, None, -(2**31)]),
        "exact": (pa.string(), ["12345678901234567890.123456789", None, "0.100000000"]),
        "zoned": (pa.timestamp("us"), [dt.datetime(2026, 1, 1, 1, 2, 3, 4), None, dt.datetime(1971, 1, 1)]),
        "span": (pa.int64(), [18_000_000_001, None, -3_600_000_000]),
    }

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.path = tmp_path / "x.db"

    def target(self, name):
        return f"sqlalchemy+sqlite:///{self.path}#{name}", {}


class TestPostgresSink(SinkContract):
    sink = SqlalchemySource
    other = LISTS

    @pytest.fixture(autouse=True)
    def _server(self, postgres):
        self.server = postgres.replace("postgresql://", "sqlalchemy+postgresql+psycopg://")

    def target(self, name):
        return f"{self.server}#{name}", {}


class TestMariadbSink(SinkContract):
    sink = SqlalchemySource
    other = {
        **LISTS,
        "clock": (
            pa.duration("us"),
            [dt.timedelta(hours=10, minutes=11, seconds=12, microseconds=5), None, dt.timedelta(0)],
        ),
    }

    @pytest.fixture(autouse=True)
    def _server(self, mariadb):
        self.server = mariadb.replace("mysql://", "sqlalchemy+mysql+pymysql://")

    def target(self, name):
        return f"{self.server}#{name}", {}
