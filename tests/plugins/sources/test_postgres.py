"""PostgreSQL, against a real server."""

import datetime as dt
import uuid
from decimal import Decimal

import psycopg
import pyarrow as pa
import pytest

from boucle.core.errors import Conflict, Invalid, NotFound, Refused
from boucle.core.frames import Frame
from boucle.plugins.sources.postgres import PostgresSource
from boucle.testing.sink import SinkContract
from boucle.testing.sql import PASSWORD, SqlContract
from servers import free_port

UTC = dt.UTC


class TestContract(SqlContract):
    source = PostgresSource
    place = "%s"
    types = {
        "b": ("boolean", "true", pa.bool_(), True),
        "i2": ("smallint", "-32768", pa.int16(), -(2**15)),
        "i4": ("integer", "2147483647", pa.int32(), 2**31 - 1),
        "i8": ("bigint", "9223372036854775807", pa.int64(), 2**63 - 1),
        "f4": ("real", "0.5", pa.float32(), 0.5),
        "f8": ("double precision", "0.1", pa.float64(), 0.1),
        "d": ("numeric(10, 2)", "1.1", pa.decimal128(10, 2), Decimal("1.10")),
        "n": ("numeric", "1.5", pa.float64(), 1.5),
        "nn": ("numeric(50, 2)", "1.5", pa.float64(), 1.5),
        "t": ("text", "'ü\"x,'", pa.string(), 'ü"x,'),
        "c": ("char(4)", "'ab'", pa.string(), "ab"),
        "by": ("bytea", r"'\x00ff'", pa.binary(), b"\0\xff"),
        "da": ("date", "'2026-11-01'", pa.date32(), dt.date(2026, 11, 1)),
        "ti": ("time", "'10:11:12.5'", pa.time64("us"), dt.time(10, 11, 12, 500000)),
        "ts": ("timestamp", "'2026-01-01 10:00:00.5'", pa.timestamp("us"), dt.datetime(2026, 1, 1, 10, 0, 0, 500000)),
        "tz": (
            "timestamptz",
            "'2026-01-01 10:00+02'",
            pa.timestamp("us", "UTC"),
            dt.datetime(2026, 1, 1, 8, tzinfo=UTC),
        ),
        "iv": ("interval", "'1 day 2 microseconds'", pa.duration("us"), dt.timedelta(days=1, microseconds=2)),
        "u": ("uuid", f"'{uuid.UUID(int=7)}'", pa.string(), str(uuid.UUID(int=7))),
        "jb": ("jsonb", "'{\"a\": [1, null]}'", pa.string(), '{"a": [1, null]}'),
        "ip": ("inet", "'10.0.0.1'", pa.string(), "10.0.0.1"),
        "ai": ("integer[]", "'{1,NULL}'", pa.list_(pa.int32()), [1, None]),
        "at": ("text[]", "'{a,\"b,c\"}'", pa.list_(pa.string()), ["a", "b,c"]),
        "az": (
            "timestamptz[]",
            "'{2026-01-01 10:00+02}'",
            pa.list_(pa.timestamp("us", "UTC")),
            [dt.datetime(2026, 1, 1, 8, tzinfo=UTC)],
        ),
    }

    @pytest.fixture(autouse=True)
    def _server(self, postgres):
        self.server = postgres

    def url(self):
        return self.server

    def locked(self):
        """The server trusts everybody it knows: see below for one that asks."""
        return self.server.replace("postgres@", f"nobody:{PASSWORD}@")

    def deaf(self):
        return f"postgresql://ann:{PASSWORD}@127.0.0.1:{free_port()}/x"

    def execute(self, *statements):
        with psycopg.connect(self.server) as connection:
            for text in statements:
                connection.execute(text)

    def end_readers(self):
        self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
            "AND application_name = 'boucle' AND query LIKE '%COPY%'"
        )

    def many(self, table, rows):
        self.execute(
            f"CREATE UNLOGGED TABLE {table} (id integer PRIMARY KEY, text text)",
            f"INSERT INTO {table} SELECT i, lpad(i::text, 200, '0') FROM generate_series(1, {rows}) i",
        )


class TestSink(SinkContract):
    sink = PostgresSource
    other = {"record": (pa.string(), ['{"a": 1, "b": "x"}', None, '{"a": null, "b": "y"}'])}

    @pytest.fixture(autouse=True)
    def _server(self, postgres):
        self.server = postgres

    def target(self, name):
        return f"{self.server}#{name}", {}


@pytest.fixture
def run(postgres):
    def run(*statements):
        with psycopg.connect(postgres) as connection:
            for text in statements:
                connection.execute(text)

    return run


@pytest.fixture
def schema(run):
    name = f"s{uuid.uuid4().hex[:12]}"
    run(f"CREATE SCHEMA {name}")
    yield name
    run(f"DROP SCHEMA {name} CASCADE")


def test_a_password_that_is_wrong(tmp_path):
    """The server of the other tests trusts everybody: this one asks."""
    import os
    import subprocess

    from servers import folder, listening, needed, running

    make, serve = needed("initdb"), needed("postgres")
    user = "postgres" if os.geteuid() == 0 else ""
    with folder("pg", user) as home:
        secret = home / "secret"
        secret.write_text("right")
        command = [
            make,
            "-A",
            "scram-sha-256",
            "-U",
            "ann",
            "--pwfile",
            str(secret),
            "--no-sync",
            "-D",
            str(home / "data"),
        ]
        subprocess.run(command, check=True, capture_output=True, user=user or None, cwd=home)
        port = free_port()
        command = [
            serve,
            "-D",
            str(home / "data"),
            "-p",
            str(port),
            "-k",
            str(home),
            "-c",
            "listen_addresses=127.0.0.1",
        ]
        ready = home / f".s.PGSQL.{port}"
        with running([*command, "-c", "fsync=off"], lambda: ready.exists() and listening(port), user=user):
            query = {"query": "SELECT 1 AS x"}
            with pytest.raises(Refused, match="password") as caught:
                PostgresSource().read(f"postgresql://ann:{PASSWORD}@127.0.0.1:{port}/postgres", query)
            assert PASSWORD not in f"{caught.value!r}{caught.value}{caught.value.__context__}"
            given = {**query, "password": "right"}
            assert len(PostgresSource().read(f"postgresql://ann@127.0.0.1:{port}/postgres", given).frame) == 1


def test_enumerations_domains_composites_and_ranges(run, schema, postgres):
    run(
        f"CREATE TYPE {schema}.mood AS ENUM ('sad', 'glad')",
        f"CREATE DOMAIN {schema}.age AS smallint CHECK (VALUE > 0)",
        f"CREATE TYPE {schema}.point AS (x int, y int)",
        f"CREATE TABLE {schema}.t (m {schema}.mood, a {schema}.age, p {schema}.point, r int4range, ms {schema}.mood[], c money)",
        f"INSERT INTO {schema}.t VALUES ('glad', 3, (1, 2), '[1,5)', '{{sad,NULL}}', 12.5)",
    )
    frame = PostgresSource().read(f"{postgres}#{schema}.t", {}).frame
    types = ["string", "int16", "string", "string", "list<string>", "decimal"]
    assert [c.type for c in frame.schema.columns] == types
    point = '{"x":1,"y":2}'
    assert frame.table().to_pylist() == [
        {"m": "glad", "a": 3, "p": point, "r": "[1,5)", "ms": ["sad", None], "c": Decimal("12.50")}
    ]


def test_numbers_that_are_none(postgres):
    query = "SELECT 'NaN'::float8 AS a, '-Infinity'::float8 AS b, '{NaN,Infinity}'::float8[] AS c"
    row = PostgresSource().read(postgres, {"query": query}).frame.table().to_pylist()[0]
    assert (str(row["a"]), row["b"], str(row["c"])) == ("nan", float("-inf"), "[nan, inf]")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("'infinity'::timestamp", "infinity"),
        ("'infinity'::date", "infinity"),
        ("'NaN'::numeric(5, 2)", "NaN"),
        ("'{{1,2},{3,4}}'::int[]", "several dimensions"),
    ],
)
def test_values_that_arrow_cannot_hold(postgres, value, said):
    with pytest.raises(Invalid, match=said) as caught:
        PostgresSource().read(postgres, {"query": f"SELECT 1 AS id, {value} AS odd"}).frame.table()
    assert "'odd'" in caught.value.what


def test_empty_text_and_null_are_two_things(postgres):
    frame = (
        PostgresSource()
        .read(postgres, {"query": "SELECT * FROM (VALUES ('', 1), (NULL, 2)) v (t, i) ORDER BY i"})
        .frame
    )
    assert frame.table()["t"].to_pylist() == ["", None]
    assert frame.table(["t"])["t"].to_pylist() == ["", None]


def test_named_parameters_and_a_cursor(postgres):
    query = "SELECT i, i %% 2 AS odd FROM generate_series(1, 9) i WHERE i < %(high)s"
    frame = PostgresSource().read(postgres, {"query": query, "params": {"high": 5}, "cursor": "i", "after": 2}).frame
    assert frame.table().to_pylist() == [{"i": 3, "odd": 1}, {"i": 4, "odd": 0}]
    plain = PostgresSource().read(postgres, {"query": "SELECT 7 % 4 AS x", "cursor": "x", "after": 2}).frame
    assert plain.table()["x"].to_pylist() == [3]


def test_names_of_other_schemas(run, schema, postgres):
    run(f"CREATE TABLE {schema}.orders (a int)")
    with pytest.raises(NotFound) as caught:
        PostgresSource().read(postgres, {"table": f"{schema}.order"})
    assert f"{schema}.orders" in caught.value.expected
    with pytest.raises(NotFound, match="database"):
        PostgresSource().read(postgres.rpartition("/")[0] + "/nowhere", {"query": "SELECT 1 AS x"})


def test_what_the_user_may_not_read(run, schema, postgres):
    run(f"CREATE TABLE {schema}.secret (a int)", f"CREATE ROLE {schema} LOGIN")
    try:
        with pytest.raises(Refused, match="permission denied"):
            PostgresSource().read(f"{postgres.replace('postgres@', f'{schema}@')}#{schema}.secret", {})
    finally:
        run(f"DROP ROLE {schema}")


def test_a_url_that_is_none():
    for url in ("postgresql://ann:hunter2@host:port/x", "postgresql://h/x?hunter2", "postgresql://[hunter2"):
        with pytest.raises(Invalid) as caught:
            PostgresSource().read(url, {"table": "t"})
        assert (
            "hunter2"
            not in f"{caught.value}{caught.value.__context__ if not caught.value.__suppress_context__ else ''}"
        )


def test_a_constraint_that_does_not_hold(run, schema, postgres):
    run(f"CREATE TABLE {schema}.t (id int PRIMARY KEY, x int CHECK (x > 0))")
    target = f"{postgres}#{schema}.t"
    PostgresSource().write(Frame.of({"id": [1], "x": [1]}), target, "append", (), {})
    for rows in ({"id": [2, 1], "x": [1, 1]}, {"id": [3, 4], "x": [1, -1]}):
        with pytest.raises(Conflict):
            PostgresSource().write(Frame.of(rows), target, "append", (), {})
    with pytest.raises(Invalid, match="integer"):
        PostgresSource().write(Frame.of({"id": [2**40], "x": [1]}), target, "append", (), {})
    assert PostgresSource().read(target, {}).frame.table().to_pylist() == [{"id": 1, "x": 1}]


def test_a_merge_leaves_other_columns_alone(run, schema, postgres):
    run(f"CREATE TABLE {schema}.t (id int, x int, note text)", f"INSERT INTO {schema}.t VALUES (1, 1, 'kept')")
    target = f"{postgres}#{schema}.t"
    assert PostgresSource().write(Frame.of({"id": [1, 2], "x": [9, 8]}), target, "merge", ("id",), {}) == 2
    assert PostgresSource().read(target, {"cursor": "id"}).frame.table().to_pylist() == [
        {"id": 1, "x": 9, "note": "kept"}, {"id": 2, "x": 8, "note": None},
    ]  # fmt: skip


def test_lists_into_json_and_arrays(run, schema, postgres):
    run(f"CREATE TABLE {schema}.t (a jsonb, b text[])")
    target = f"{postgres}#{schema}.t"
    PostgresSource().write(Frame.of({"a": [[1, None]], "b": [['x"\\', None]]}), target, "append", (), {})
    assert PostgresSource().read(target, {}).frame.table().to_pylist() == [{"a": "[1, null]", "b": ['x"\\', None]}]
