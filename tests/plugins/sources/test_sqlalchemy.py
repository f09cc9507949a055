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


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.db"


@pytest.fixture
def url(path):
    return f"sqlalchemy+sqlite:///{path}"


def test_a_query_has_the_types_of_its_values(path, url):
    many = ", ".join(f"({i}, NULL, {i}, 'x')" for i in range(1200))
    execute_sqlite(
        path, "CREATE TABLE t (id INTEGER, late, mixed, word)", f"INSERT INTO t VALUES {many}",
        "INSERT INTO t VALUES (1200, 'late', 2, NULL)",
    )  # fmt: skip
    frame = read(url, query="SELECT id, late, id / 2.0 AS half, NULL AS none FROM t")
    assert [c.type for c in frame.schema.columns] == ["int64", "string", "float64", "null"]
    assert frame.table()["late"].to_pylist()[-1] == "late"
    execute_sqlite(path, "UPDATE t SET mixed = 'odd' WHERE id = 1100")
    with pytest.raises(Invalid, match="column 'mixed' has a value that is not int64") as caught:
        read(url, query="SELECT id, mixed FROM t").table()
    assert "CAST" in caught.value.fix
    execute_sqlite(path, "UPDATE t SET mixed = 'odd' WHERE id = 5")
    with pytest.raises(Invalid, match="'mixed' holds int and str"):
        read(url, query="SELECT id, mixed FROM t")


def test_decimals_of_a_query_keep_their_scale(postgres, mariadb):
    for at in (
        postgres.replace("postgresql:", "sqlalchemy+postgresql+psycopg:"),
        mariadb.replace("mysql:", "sqlalchemy+mysql+pymysql:"),
    ):
        table = read(at, query="SELECT CAST(1.5 AS DECIMAL(10, 2)) AS d, CAST('2026-01-02' AS DATE) AS day").table()
        assert pa.types.is_decimal(table.schema.field("d").type)
        assert table.to_pylist() == [{"d": Decimal("1.50"), "day": dt.date(2026, 1, 2)}]


def test_placeholders_stand_outside_of_texts_and_comments(path, url):
    execute_sqlite(path, "CREATE TABLE t (a INTEGER, b TEXT)", "INSERT INTO t VALUES (1, 'is :it?'), (2, '12:30')")
    query = "SELECT a /* :no ? */ FROM t WHERE b = 'is :it?' AND a < :high -- ;:what"
    assert read(url, query=query, params={"high": 3}).table().to_pylist() == [{"a": 1}]
    assert read(url, query=query.replace(":high", "?"), params=[3]).table().to_pylist() == [{"a": 1}]
    assert read(url, query="SELECT '50%' AS p, a % 2 AS odd FROM t WHERE a = 1").table().to_pylist() == [
        {"p": "50%", "odd": 1}
    ]
    with pytest.raises(Invalid, match="1 placeholders and 2 params"):
        read(url, query="SELECT a FROM t WHERE a < ?", params=[1, 2])
    with pytest.raises(Invalid, match="high"):
        read(url, query="SELECT a FROM t WHERE a < :high")
    for text in ("SELECT 1 AS x; SELECT 2", "SELECT 1 AS x) q, (SELECT 2 AS y", "DELETE FROM t RETURNING a"):
        with pytest.raises(Invalid):
            read(url, query=text)


def test_values_of_another_type_than_the_column(path, url):
    execute_sqlite(path, "CREATE TABLE t (a INTEGER, b BOOLEAN, d DATE)", "INSERT INTO t VALUES ('x', 2, 'soon')")
    for column in "abd":
        with pytest.raises(Invalid):
            read(url, table="t").table([column])


def test_the_only_table_need_not_be_named(path, url):
    execute_sqlite(path, "CREATE TABLE t (a INTEGER)", "INSERT INTO t VALUES (1)")
    assert read(url).table().to_pylist() == [{"a": 1}]
    execute_sqlite(path, "CREATE TABLE u (a INTEGER)")
    with pytest.raises(Invalid, match="2 tables"):
        read(url)
    with pytest.raises(NotFound):
        read("sqlalchemy+sqlite:////nowhere/at/all.db", table="t")


def test_a_query_that_would_write_is_stopped_by_the_database(postgres, mariadb):
    at = postgres.replace("postgresql:", "sqlalchemy+postgresql+psycopg:")
    name = f"s{uuid.uuid4().hex[:12]}"
    execute_postgres(postgres, f"CREATE SEQUENCE {name}")
    execute_mariadb(mariadb, f"CREATE SEQUENCE {name}")
    try:
        with pytest.raises(Invalid, match="read-only"):
            read(at, query=f"SELECT nextval('{name}') AS n").table()
        with pytest.raises(Invalid, match="READ ONLY"):
            read(mariadb.replace("mysql:", "sqlalchemy+mysql+pymysql:"), query=f"SELECT nextval({name}) AS n").table()
        query = "SELECT (ARRAY[?, 'b]c?'])[1]::text AS x"
        assert read(at, query=query, params=["a;"]).table().to_pylist() == [{"x": "a;"}]
    finally:
        execute_postgres(postgres, f"DROP SEQUENCE {name}")
        execute_mariadb(mariadb, f"DROP SEQUENCE {name}")


def test_documents_and_addresses_are_text(postgres):
    at = postgres.replace("postgresql:", "sqlalchemy+postgresql+psycopg:")
    name = f"t{uuid.uuid4().hex[:12]}"
    execute_postgres(
        postgres, f"CREATE TABLE {name} (j jsonb, ip inet, m money, r int4range)",
        f"""INSERT INTO {name} VALUES ('{{"a": [1, null]}}', '10.0.0.1', 12.5, '[1,5)')""",
    )  # fmt: skip
    try:
        row = read(at, table=name).table(["j", "ip", "m"]).to_pylist()[0]
        assert row == {"j": '{"a":[1,null]}', "ip": "10.0.0.1", "m": "$12.50"}
        with pytest.raises(Invalid, match="cannot be the cursor"):
            read(at, table=name, cursor="j", after="x").table()
    finally:
        execute_postgres(postgres, f"DROP TABLE {name}")


def test_arrays_and_identifiers_are_written_as_what_they_are(postgres):
    at = postgres.replace("postgresql:", "sqlalchemy+postgresql+psycopg:")
    name = f"t{uuid.uuid4().hex[:12]}"
    execute_postgres(postgres, f"CREATE TABLE {name} (u uuid PRIMARY KEY, a text[], n int CHECK (n > 0))")
    try:
        one = str(uuid.UUID(int=7))
        for mode, key in (("append", ()), ("merge", ["u"])):
            write(f"{at}#{name}", {"u": [one], "a": [["x", None]], "n": [1]}, mode, key)
        assert read(f"{at}#{name}", cursor="u", after=one, inclusive=True).table().to_pylist() == [
            {"u": one, "a": ["x", None], "n": 1}
        ]
        with pytest.raises(Conflict):
            write(f"{at}#{name}", {"u": [str(uuid.UUID(int=8))], "n": [-1]})
        with pytest.raises(Invalid, match="is no UUID"):
            write(f"{at}#{name}", {"u": ["seven"]})
        assert len(read(f"{at}#{name}")) == 1
    finally:
        execute_postgres(postgres, f"DROP TABLE {name}")


def test_a_merge_leaves_other_columns_alone(path, url):
    execute_sqlite(path, "CREATE TABLE t (id INTEGER, x INTEGER, note TEXT)", "INSERT INTO t VALUES (1, 1, 'kept')")
    assert write(f"{url}#t", {"id": [1, 2], "x": [9, 8]}, "merge", ["id"]) == 2
    assert read(url, table="t", cursor="id").table().to_pylist() == [
        {"id": 1, "x": 9, "note": "kept"}, {"id": 2, "x": 8, "note": None},
    ]  # fmt: skip


@pytest.mark.parametrize("others", [False, True])
def test_a_merge_where_updates_join_nothing(path, url, monkeypatch, others):
    """As in Oracle and DB2: by subqueries, out of a table that is no temporary one."""
    module = "boucle.plugins.sources.sqlalchemy"
    monkeypatch.setattr(f"{module}._JOINS", frozenset())
    monkeypatch.setattr(f"{module}._TEMPORARY", frozenset())
    monkeypatch.setattr(f"{module}._MAKES_WITHIN", frozenset())
    execute_sqlite(path, "CREATE TABLE t (id INTEGER, x INTEGER)", "INSERT INTO t VALUES (1, 1), (3, 3)")
    target = f"{url}#{'u' if others else 't'}"
    for x in (9, 7):
        write(target, {"id": [1, 2], "x": [x, 8]}, "merge", ["id"])
    want = [{"id": 1, "x": 7}, {"id": 2, "x": 8}]
    assert read(target, cursor="id").table().to_pylist() == (want if others else [*want, {"id": 3, "x": 3}])
    with closing(sqlite3.connect(path)) as connection:
        assert not connection.execute("SELECT name FROM sqlite_master WHERE name LIKE 'boucle%'").fetchall()


def test_keys_twice_in_a_new_table(path, url):
    for ids in ([1, 1], [1, None]):
        with pytest.raises(Invalid, match="to merge"):
            write(f"{url}#t", {"id": pa.array(ids), "x": [1, 2]}, "merge", ["id"])
    assert not path.exists()


def test_an_engine_without_transactions(mariadb):
    name = f"t{uuid.uuid4().hex[:12]}"
    execute_mariadb(mariadb, f"CREATE TABLE {name} (a INT) ENGINE=MyISAM")
    try:
        with pytest.raises(Refused, match="without transactions"):
            write(f"{mariadb.replace('mysql:', 'sqlalchemy+mysql+pymysql:')}#{name}", {"a": [1]})
    finally:
        execute_mariadb(mariadb, f"DROP TABLE {name}")


def test_a_database_without_transactions(monkeypatch, path, url):
    monkeypatch.setattr("boucle.plugins.sources.sqlalchemy._WHOLE", frozenset())
    with pytest.raises(Refused, match="no transactions"):
        write(f"{url}#t", {"a": [1]})
    assert not path.exists()


def test_somebody_else_is_writing(path, url):
    execute_sqlite(path, "CREATE TABLE t (a INTEGER)")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="locked"):
            write(f"{url}?timeout=0.05#t", {"a": [1]})


def test_a_dialect_that_is_not_installed():
    for at in ("sqlalchemy+nosuch://ann:hunter2@host/x", "sqlalchemy+oracle+cx_oracle://ann:hunter2@host/x"):
        with pytest.raises(MissingExtra, match=r"nosuch|cx_Oracle") as caught:
            read(at, table="t")
        assert "hunter2" not in f"{caught.value}{caught.value.__cause__}"
        assert caught.value.__suppress_context__


def test_what_of_a_url_is_never_shown(postgres):
    for at in (
        "sqlalchemy+",
        "sqlalchemy+sqlite://ann:hunter2@host/x",
        "sqlalchemy+postgresql://ann:hunter2@host:port/x",
    ):
        with pytest.raises((Invalid, NotFound)) as caught:
            read(at, table="t")
        assert "hunter2" not in f"{caught.value!r}{caught.value}"
        assert caught.value.__suppress_context__ or not caught.value.__context__
    at = postgres.replace("postgresql:", "sqlalchemy+postgresql+psycopg:")
    for asked in ("sslmode=hunter2", "password=hunter2&sslmode=hunter2"):
        with pytest.raises((Invalid, Unavailable)) as caught:
            read(f"{at}?{asked}", table="t")
        assert "hunter2" not in f"{caught.value!r}{caught.value}"


def test_a_url_chooses_it_by_how_it_begins():
    from boucle.data.choice import source_for

    assert source_for("sqlalchemy+sqlite:///x.db#t") == "sqlalchemy"
    assert source_for("sqlalchemy+mssql+pyodbc://ann@host/shop#orders") == "sqlalchemy"
    assert source_for("mongodb+srv://host/shop") == "mongo"
    with pytest.raises(Invalid):
        source_for("sqlalchemyx://host/shop")


def test_times_into_texts(path, url):
    execute_sqlite(path, "CREATE TABLE t (a TEXT, b VARCHAR(20), c TEXT)")
    rows = {
        "a": [dt.time(10, 11, 12, 5)],
        "b": [dt.date(2026, 1, 2)],
        "c": pa.array([MOMENT], pa.timestamp("us", "UTC")),
    }
    assert write(f"{url}#t", pa.table(rows)) == 1
    assert read(url).table().to_pylist() == [
        {"a": "10:11:12.000005", "b": "2026-01-02", "c": "2026-01-01T10:00:00.500000+00:00"}
    ]


@pytest.mark.parametrize("dialect", ["oracle", "mssql"])
def test_statements_for_other_dialects(dialect):
    """These have no server here: their own compilers say at least that the statements and types are theirs."""
    import sqlalchemy
    from sqlalchemy.schema import CreateTable

    from boucle.plugins.sources import sqlalchemy_types as types
    from boucle.testing.sink import TYPES

    compiler = __import__(f"sqlalchemy.dialects.{dialect}", fromlist=["dialect"]).dialect()
    columns = [sqlalchemy.Column(n, types.made(a.type, dialect, key=n == "text")) for n, a in TYPES.items()]
    said = str(CreateTable(sqlalchemy.Table("Odd name", sqlalchemy.MetaData(), *columns)).compile(dialect=compiler))
    assert ('"Odd name"' if dialect == "oracle" else "[Odd name]") in said
    assert ("zoned TIMESTAMP WITH TIME ZONE" if dialect == "oracle" else "zoned DATETIMEOFFSET(6)") in said
    assert ("clock VARCHAR2(15 CHAR)" if dialect == "oracle" else "moment DATETIME2(6)") in said
    assert types.arrow_type(columns[5].type, dialect) == pa.decimal128(10, 2)
