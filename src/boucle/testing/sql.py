# ruff: noqa: S608  the statements are those of the tests
"""The contract of sources for SQL databases: subclass, give `source`, `url` and `execute`, and run with pytest."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pyarrow as pa
import pytest

from boucle.core.errors import BoucleError, Invalid, NotFound, Refused, Unavailable
from boucle.core.frames import Frame, type_name
from boucle.ports.source import Source

PASSWORD = "s3cret-0f-mine"  # noqa: S105  of nobody

_MEMORY = """
import importlib, json, resource, sys
module, name, url, options = sys.argv[1:]
source = getattr(importlib.import_module(module), name)()
frame = source.read(url, json.loads(options)).frame
rows, early = 0, 0
for batch in frame.batches():
    rows += batch.num_rows
    if rows >= 200_000 and not early:
        early = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([rows, early, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""


class SqlContract:
    """What every source for a SQL database must do."""

    quote: ClassVar[str] = '"'
    place: ClassVar[str] = "?"  # a placeholder
    key_type: ClassVar[str] = "INTEGER"
    text_type: ClassVar[str] = "VARCHAR(200)"
    # column -> its declaration, a literal, the Arrow type and the value that are read
    types: ClassVar[Mapping[str, tuple[str, str, pa.DataType, Any]]] = {}
    gaps: ClassVar[Mapping[str, str]] = {}  # test -> why this database cannot pass it

    def source(self) -> Source:
        """A new one."""
        raise AssertionError("give the source to test")

    def url(self) -> str:
        """A database that `execute` changes."""
        raise AssertionError("give the URL of a database")

    def execute(self, *statements: str) -> None:
        """Run these, and commit."""
        raise AssertionError(f"run {statements}")

    def options(self) -> dict[str, Any]:
        """What the source is given besides."""
        return {}

    def locked(self) -> str:
        """The URL of a server, with the wrong password `PASSWORD`."""
        raise AssertionError("give the URL of a server that refuses")

    def deaf(self) -> str:
        """The URL of a server that is not there."""
        raise AssertionError("give the URL of no server")

    def end_readers(self) -> None:
        """End all other connections to the server."""
        raise AssertionError("end the connections")

    def many(self, table: str, rows: int) -> None:
        """A table of `id` from 1 to `rows` and `text`, 200 characters each."""
        raise AssertionError(f"make {table} with {rows} rows")

    @pytest.fixture(autouse=True)
    def _knows_its_gaps(self, request: pytest.FixtureRequest) -> None:
        reason = self.gaps.get(request.node.originalname)
        if reason:
            pytest.skip(reason)

    @pytest.fixture
    def table(self) -> Iterator[str]:
        """Rows 3, 1, 2 of id and word, whose key is id."""
        name = f"t{uuid.uuid4().hex[:12]}"
        self.execute(
            f"CREATE TABLE {name} (id {self.key_type} PRIMARY KEY, word {self.text_type})",
            f"INSERT INTO {name} VALUES (3, 'c'), (1, 'a'), (2, NULL)",
        )
        yield name
        self.execute(f"DROP TABLE {name}")

    def read(self, url: str = "", **options: Any) -> Frame:
        return self.source().read(url or self.url(), {**self.options(), **options}).frame

    def test_names_itself(self) -> None:
        source = self.source()
        assert source.name
        assert source.schemes
        assert {"table", "query", "params", "cursor", "after", "inclusive"} <= set(source.options)

    def test_rows_of_a_table_come_in_the_order_of_its_key(self, table: str) -> None:
        want = [{"id": 1, "word": "a"}, {"id": 2, "word": None}, {"id": 3, "word": "c"}]
        assert self.read(table=table).table().to_pylist() == want
        assert self.read(f"{self.url()}#{table}").table().to_pylist() == want

    def test_can_be_read_again(self, table: str) -> None:
        frame = self.read(table=table)
        assert frame.table().equals(frame.table())

    def test_gives_only_the_columns_asked_for(self, table: str) -> None:
        frame = self.read(table=table)
        assert frame.table(["word"]).to_pylist() == [{"word": "a"}, {"word": None}, {"word": "c"}]
        assert frame.table(["word", "id"]).column_names == ["word", "id"]

    def test_what_was_not_read_to_the_end_does_no_harm(self, table: str) -> None:
        batches = self.read(table=table).batches()
        next(batches)
        del batches
        assert len(self.read(table=table)) == 3

    def test_a_query(self, table: str) -> None:
        for end in (" ;\n", " -- the last"):
            frame = self.read(query=f"SELECT word AS w, id FROM {table} WHERE word LIKE 'c%'{end}")
            assert frame.table().to_pylist() == [{"w": "c", "id": 3}]

    def test_a_query_with_parameters(self, table: str) -> None:
        query = f"SELECT id FROM {table} WHERE id > {self.place} AND word = {self.place}"
        assert self.read(query=query, params=[1, "c"]).table().to_pylist() == [{"id": 3}]
        hostile = "c' OR '1'='1"
        assert self.read(query=query, params=[1, hostile]).table().num_rows == 0

    def test_only_what_is_new(self, table: str) -> None:
        assert self.read(table=table, cursor="id").table()["id"].to_pylist() == [1, 2, 3]
        assert self.read(table=table, cursor="id", after=1).table()["id"].to_pylist() == [2, 3]
        assert self.read(table=table, cursor="id", after=3).table().num_rows == 0
        assert self.read(table=table, cursor="id", after=3, inclusive=True).table()["id"].to_pylist() == [3]
        assert self.read(table=table, cursor="word", after="a").table()["id"].to_pylist() == [3]
        query = f"SELECT id, word FROM {table} WHERE id < {self.place}"
        assert self.read(query=query, params=[3], cursor="id", after=1).table()["id"].to_pylist() == [2]
        assert self.read(query=f"SELECT id FROM {table}", cursor="id", after=1).table(["id"]).num_rows == 2

    def test_any_column_can_be_the_cursor(self) -> None:
        ordered = {n: v for n, v in self.types.items() if not pa.types.is_nested(v[2])}
        with _made(self, self.types, 1) as name:
            for column, (_, _, kind, value) in ordered.items():
                if pa.types.is_boolean(kind) or pa.types.is_binary(kind) or pa.types.is_duration(kind):
                    continue
                for told in (value, value if isinstance(value, int | float) else str(value)):
                    frame = self.read(table=name, cursor=column, after=told)
                    assert frame.table().num_rows == 0, f"{column} > {told!r}"
                    frame = self.read(table=name, cursor=column, after=told, inclusive=True)
                    assert frame.table().num_rows == 1, f"{column} >= {told!r}"
                assert self.read(table=name, cursor=column).table().num_rows == 1

    def test_types_are_those_of_the_database(self) -> None:
        with _made(self, self.types, 1) as name:
            frame = self.read(table=name)
            got = frame.table()
            for column, (_, _, kind, value) in self.types.items():
                assert got.schema.field(column).type == kind, column
                assert got[column].to_pylist() == [value], column
                assert frame.schema[column].type == type_name(kind)

    def test_types_are_known_without_a_value(self) -> None:
        for rows in (0, -1):  # none, and one of nulls
            with _made(self, self.types, rows) as name:
                for frame in (self.read(table=name), self.read(query=f"SELECT * FROM {name}")):
                    for column, (_, _, kind, _) in self.types.items():
                        assert frame.schema[column].type == type_name(kind), column
                    for batch in frame.batches():
                        assert batch.schema.types == [t[2] for t in self.types.values()]
                    assert len(frame) == abs(rows)

    @pytest.mark.parametrize("odd", ["a b", "a;b", "a'b", "50%s", "select", "dé ☕", "{q}", "a.b"])
    def test_odd_names(self, odd: str) -> None:
        odd = odd.format(q=self.quote)
        name = f"{odd}{uuid.uuid4().hex[:8]}"
        quoted = self.quote + name.replace(self.quote, self.quote * 2) + self.quote
        column = self.quote + odd.replace(self.quote, self.quote * 2) + self.quote
        self.execute(f"CREATE TABLE {quoted} ({column} {self.key_type})", f"INSERT INTO {quoted} VALUES (1), (2)")
        try:
            frame = self.read(table=[name], cursor=odd, after=1)
            assert frame.table().to_pylist() == [{odd: 2}]
            assert self.read(table=[name]).table([odd])[odd].to_pylist() == [1, 2]
        finally:
            self.execute(f"DROP TABLE {quoted}")

    def test_a_name_is_never_a_statement(self, table: str) -> None:
        for hostile in (f"{table}; DROP TABLE {table}; --", f'{table}" ; DROP TABLE {table}; --', f"{table}` --"):
            with pytest.raises((NotFound, Invalid)):
                self.read(table=hostile)
        with pytest.raises(NotFound, match="column"):
            self.read(table=table, cursor=f"id); DROP TABLE {table}; --")
        assert len(self.read(table=table)) == 3

    def test_a_value_is_never_a_statement(self, table: str) -> None:
        hostile = f"zz' OR 1=1; DROP TABLE {table}; --"
        assert self.read(table=table, cursor="word", after=hostile).table().num_rows == 0
        with pytest.raises(Invalid, match="cannot be compared"):
            self.read(table=table, cursor="id", after=hostile)
        assert len(self.read(table=table)) == 3

    @pytest.mark.parametrize(
        "text", ["DELETE FROM {t}", "SELECT 1 AS x; DELETE FROM {t}", "SELECT 1 AS x) q; DELETE FROM {t}; --"]
    )
    def test_a_query_changes_nothing(self, table: str, text: str) -> None:
        with pytest.raises(BoucleError):
            self.read(query=text.format(t=table)).table()
        assert len(self.read(table=table)) == 3

    def test_a_table_that_is_not_there(self, table: str) -> None:
        with pytest.raises(NotFound, match=f"{table}x") as caught:
            self.read(table=f"{table}x")
        assert table in caught.value.expected

    def test_broken_sql(self, table: str) -> None:
        with pytest.raises(Invalid, match="the query of"):
            self.read(query="SELCT 1")
        with pytest.raises(Invalid, match="nosuch"):
            self.read(query=f"SELECT nosuch FROM {table}")

    def test_names_that_occur_twice(self, table: str) -> None:
        with pytest.raises(Invalid, match=r"(?i)twice|duplicate"):
            self.read(query=f"SELECT id, id FROM {table}")

    @pytest.mark.parametrize(
        ("given", "why"),
        [
            ({"table": "a", "query": "SELECT 1"}, "both"),
            ({"table": "a", "params": [1]}, "params without"),
            ({"table": "a", "after": 1}, "after without"),
            ({"wings": 2}, "wings"),
            ({"query": "SELECT 1", "params": "x"}, "neither a list"),
        ],
    )
    def test_options_that_do_not_go_together(self, given: dict[str, Any], why: str) -> None:
        with pytest.raises(Invalid, match=why):
            self.read(**given)

    def test_a_wrong_password(self) -> None:
        with pytest.raises((Refused, Unavailable)) as caught:
            self.read(self.locked(), table="t")
        assert PASSWORD not in _everything(caught.value)

    def test_a_server_that_is_not_there(self) -> None:
        with pytest.raises((Unavailable, NotFound)) as caught:
            self.read(self.deaf(), table="t")
        assert PASSWORD not in _everything(caught.value)

    def test_a_server_that_is_gone_in_the_middle(self) -> None:
        with self._big(200_000) as name:
            batches = self.read(table=name).batches()
            next(batches)
            self.end_readers()
            with pytest.raises(Unavailable):
                for _ in batches:
                    pass

    def test_one_reading_sees_one_state(self) -> None:
        with self._big(200_000) as name:
            batches = self.read(table=name).batches()
            rows = next(batches).num_rows
            self.execute(f"DELETE FROM {name} WHERE id > 10")
            assert rows + sum(b.num_rows for b in batches) == 200_000

    def test_a_million_rows_in_bounded_memory(self) -> None:
        with self._big(1_000_000) as name:
            source = type(self.source())
            options = json.dumps({**self.options(), "table": name})
            command = [sys.executable, "-c", _MEMORY, source.__module__, source.__name__, self.url(), options]
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
            rows, early, late = json.loads(done.stdout)
            assert rows == 1_000_000
            assert late - early < 80_000  # KiB, of 200 MB that were read

    def _big(self, rows: int) -> Any:
        return _many(self, rows)


class _made:  # noqa: N801  a context manager read as a word
    """A table with the columns of every type: one row of values, one of nulls (-1), or none."""

    def __init__(self, suite: SqlContract, types: Mapping[str, tuple[str, str, pa.DataType, Any]], rows: int) -> None:
        self._suite, self._types, self._rows = suite, types, rows
        self._name = f"t{uuid.uuid4().hex[:12]}"

    def __enter__(self) -> str:
        columns = ", ".join(f"{name} {t[0]}" for name, t in self._types.items())
        self._suite.execute(f"CREATE TABLE {self._name} ({columns})")
        if self._rows:
            values = ", ".join(t[1] if self._rows > 0 else "NULL" for t in self._types.values())
            self._suite.execute(f"INSERT INTO {self._name} VALUES ({values})")
        return self._name

    def __exit__(self, *_: object) -> None:
        self._suite.execute(f"DROP TABLE {self._name}")


class _many:  # noqa: N801
    """A table of many rows."""

    def __init__(self, suite: SqlContract, rows: int) -> None:
        self._suite, self._rows = suite, rows
        self._name = f"t{uuid.uuid4().hex[:12]}"

    def __enter__(self) -> str:
        self._suite.many(self._name, self._rows)
        return self._name

    def __exit__(self, *_: object) -> None:
        self._suite.execute(f"DROP TABLE {self._name}")


def _everything(error: BaseException) -> str:
    """All that a report of an error would show."""
    said: list[str] = []
    at: BaseException | None = error
    while at is not None:
        said.append(f"{at!r} {at} {at.args} {getattr(at, '__dict__', '')}")
        at = at.__cause__ or (None if at.__suppress_context__ else at.__context__)
    return " ".join(said)
