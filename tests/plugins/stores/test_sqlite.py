import dataclasses
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from boucle.core.errors import BoucleError, Conflict, Corrupt, Invalid, Unavailable
from boucle.core.records import RECORDS, Artifact, Code, Dataset, Edge, Event, Model, Points, Record, Run, Verdict
from boucle.core.where import And, Compare, Not, Or, Where, arranged, field, matches
from boucle.plugins.stores.memory import MemoryStore
from boucle.plugins.stores.sqlite import SqliteStore, explain, tables
from boucle.plugins.stores.sqlite.queries import past_prefix
from boucle.ports.store import Store
from boucle.testing.store import EXAMPLES, StoreContract, sample_run

V1 = Path(__file__).with_name("v1.sql")


class TestSqliteStore(StoreContract):
    def make(self, tmp_path: Path) -> Store:
        return SqliteStore(tmp_path / "store.db")


class TestSqliteStoreThatSyncs(StoreContract):
    def make(self, tmp_path: Path) -> Store:
        return SqliteStore(tmp_path / "store.db", synchronous="full")


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def run_python(code: str, *args: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# Questions: any expression means the same here, in memory, and in core.where

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.sampled_from([0, 1, 0.5, 2**53 + 1, float(2**53)]),
    st.text(max_size=3),
    st.sampled_from(["a", "A", "ab", "é", "1", "", "a\x00"]),
)
values = st.one_of(scalars, st.lists(st.integers(0, 2), max_size=2))
keys = st.sampled_from(["a", "b.c", 'x"y', "z"])
mappings = st.dictionaries(keys, values, max_size=4)
paths = st.one_of(
    st.sampled_from(["key", "name", "status", "parent", "started", "pid"]),
    st.tuples(st.sampled_from(["params", "metrics", "outputs"]), keys).map(".".join),
)
texts = st.one_of(st.text(max_size=2), st.sampled_from(["a", "A", "é", "\U0010ffff"]))
runs = st.lists(
    st.builds(
        Run,
        id=st.text(min_size=1, max_size=3),
        name=texts,
        status=st.sampled_from(["finished", ""]),
        parent=st.sampled_from(["", "p"]),
        started=st.floats(allow_nan=False),
        pid=st.integers(-(2**63), 2**63 - 1),
        params=mappings,
        metrics=mappings,
        outputs=mappings,
    ),
    max_size=8,
    unique_by=lambda run: run.id,
)
compares = st.one_of(
    st.builds(Compare, paths, st.sampled_from(["=", "!=", "<", "<=", ">", ">="]), values),
    st.builds(Compare, paths, st.just("in"), st.lists(values, max_size=3).map(tuple)),
    st.builds(Compare, paths, st.sampled_from(["contains", "starts"]), texts),
)
wheres: st.SearchStrategy[Where] = st.recursive(
    compares,
    lambda part: st.one_of(
        st.lists(part, max_size=3).map(lambda p: And(tuple(p))),
        st.lists(part, max_size=3).map(lambda p: Or(tuple(p))),
        part.map(Not),
    ),
    max_leaves=6,
)
orders = st.lists(st.tuples(st.sampled_from(["", "-"]), paths).map("".join), max_size=2)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Any:
    store = SqliteStore(tmp_path_factory.mktemp("shared") / "store.db")
    yield store
    store.close()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(given_runs=runs, where=st.none() | wheres, order=orders, limit=st.none() | st.integers(0, 4))
def test_sqlite_memory_and_core_agree(
    shared: SqliteStore, given_runs: list[Run], where: Where | None, order: list[str], limit: int | None
) -> None:
    memory = MemoryStore()
    shared.drop(Run, *(r.key for r in shared.find(Run)))
    shared.put(*given_runs)
    memory.put(*given_runs)
    kept = memory.find(Run)
    assert shared.find(Run) == kept
    expected = arranged((r for r in kept if matches(r, where)), order)
    assert memory.find(Run, where, order=order, limit=limit) == expected[:limit]
    assert shared.find(Run, where, order=order, limit=limit) == expected[:limit]
    assert shared.count(Run, where) == memory.count(Run, where) == len(expected)
    for last in expected:
        assert shared.find(Run, where, order=order, after=last) == memory.find(Run, where, order=order, after=last)


@given(st.text(max_size=3), st.text(max_size=3))
def test_past_prefix_is_past_all_that_begin_so_and_nothing_else(prefix: str, text: str) -> None:
    end = past_prefix(prefix)
    assert text.startswith(prefix) == (text >= prefix and (end is None or text < end))


# Indexes


@pytest.fixture
def filled(tmp_path: Path) -> Any:
    store = SqliteStore(tmp_path / "store.db")
    store.put(*(sample_run(i, params={"p": str(i % 10), "own": i}) for i in range(1500)))
    yield store
    store.close()


def plans(store: SqliteStore, ask: Any) -> list[str]:
    """How SQLite goes about the statements of a question."""
    connection = store._link().connection
    asked: list[str] = []
    connection.set_trace_callback(asked.append)
    ask()
    connection.set_trace_callback(None)
    return [
        row[3]
        for text in asked
        if text.startswith("SELECT r.")
        for row in connection.execute(f"EXPLAIN QUERY PLAN {text}")
    ]


def test_the_order_drives_when_conditions_select_many(filled: SqliteStore) -> None:
    where = (field("params.p") == "3") & (field("metrics.m") > 0.5)
    steps = plans(filled, lambda: filled.find(Run, where, order=["-metrics.m"], limit=10))
    assert steps[0].startswith("SEARCH a USING COVERING INDEX attributes_value (name=? AND value>?")
    assert not any(step.startswith("SCAN") for step in steps)
    assert len(filled.find(Run, where, order=["-metrics.m"], limit=10)) == 10


def test_a_condition_drives_when_it_selects_few(filled: SqliteStore) -> None:
    where = (field("params.own") == 77) & (field("metrics.m") > 0)
    steps = plans(filled, lambda: filled.find(Run, where, order=["-metrics.m"], limit=10))
    assert steps[0] == "SEARCH a USING COVERING INDEX attributes_value (name=? AND value=?)"
    assert [r.id for r in filled.find(Run, where, order=["-metrics.m"], limit=10)] == ["run0077"]


def test_a_common_status_does_not_keep_the_order_from_driving(filled: SqliteStore) -> None:
    steps = plans(filled, lambda: filled.find(Run, field("status") == "failed", order=["-started"], limit=5))
    assert steps[0] == "SCAN r USING INDEX runs_started"
    filled.put(sample_run(7, status="lost"))
    steps = plans(filled, lambda: filled.find(Run, field("status") == "lost", order=["-started"], limit=5))
    assert steps[0] == "SEARCH r USING INDEX runs_status (status=?)"


def test_an_index_that_leaves_out_the_empty_is_used(filled: SqliteStore) -> None:
    filled.put(sample_run(7, cache_key="k" * 64))
    steps = plans(filled, lambda: filled.find(Run, field("cache_key") == "k" * 64, limit=1))
    assert steps[0] == "SEARCH r USING INDEX runs_cache_key (cache_key=?)"
    assert len(filled.find(Run, field("cache_key") == "", limit=3)) == 3


# Schema


def test_each_kind_is_a_table_of_its_fields(tmp_path: Path) -> None:
    SqliteStore(tmp_path / "store.db").close()
    for name, kind in RECORDS.items():
        columns = {row[1] for row in rows(tmp_path / "store.db", f"PRAGMA table_info({name}s)")}
        assert columns == {f.name for f in dataclasses.fields(kind)} | {"key"} | (
            set() if kind is Event else {"number"}
        )


def test_a_database_of_the_first_version_opens_and_reads(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    connection = sqlite3.connect(path)
    connection.executescript(V1.read_text())
    connection.close()
    store = SqliteStore(path)
    try:
        for kind, key, expected in (
            (Dataset, "tx@3", {"rows": 10, "schema": {"columns": [{"name": "a"}]}, "tags": {"pii": True, "größe": "naïve ☕"}}),
            (Code, "c" * 64, {"entry": "train.py", "dirty": True, "commit": "abc"}),
            (Run, "01RUN", {"status": "running", "metrics": {"auc": 0.93, "n": 12}, "attempts": 2}),
            (Artifact, "a" * 64, {"type": "frame", "value": {"codec": "parquet", "blobs": ["b" * 64]}}),
            (Model, "churn@1", {"stage": "staging", "artifact": "a" * 64}),
            (RECORDS["service"], "churn@2", {"status": "ready", "handle": {"pid": 12, "started": 4.25}}),
            (RECORDS["rollout"], "01ROLL", {"phases": {"start": {"status": "finished"}}, "after": 2}),
            (Verdict, "01VERD", {"status": "fail", "score": None, "threshold": 0.5}),
            (Event, "2", {"type": "model.stage", "reason": "gate", "time": 6.0}),
        ):  # fmt: skip
            record = store.get(kind, key)
            assert record is not None
            assert {name: getattr(record, name) for name in expected} == expected
        assert [r.id for r in store.find(Run, (field("params.depth") == 3) & (field("params.on") == True))] == ["01RUN"]  # noqa: E712
        assert store.edges(relation="used") == [Edge("run:01RUN", "used", "dataset:tx@3", 1.0, {"asked": "tx@latest"})]
        (loss, odd) = store.points("run:01RUN")
        assert (loss.name, loss.steps, loss.times, loss.values) == (
            "loss",
            [0, 1, 2],
            [1.0, 2.0, 3.0],
            [0.5, 0.25, 0.125],
        )
        assert (odd.steps, odd.times) == ([0, 5, 6], [1.0, 1.0, 1.0])
        assert [e.actor for e in store.events()] == ["ada", ""]
        assert list(store.check()) == []
        store.put(*EXAMPLES)
        assert all(store.get(type(r), r.key) == r for r in EXAMPLES)
    finally:
        store.close()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Before(Record):
    KIND: ClassVar[str] = "run"

    id: str
    name: str = ""
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def key(self) -> str:
        return self.id


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class After(Record):
    KIND: ClassVar[str] = "run"

    id: str
    name: str = dataclasses.field(default="", metadata={"searchable": True})
    facts: dict[str, Any] = dataclasses.field(default_factory=dict, metadata={"searchable": True})
    place: str = dataclasses.field(default="it's here", metadata={"searchable": True})
    share: float = 0.25
    score: float | None = None
    sure: bool = True
    more: dict[str, Any] = dataclasses.field(default_factory=lambda: {"a": 1})

    @property
    def key(self) -> str:
        return self.id


def test_a_field_that_was_added_reads_its_default_from_old_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_VIEWS", {})  # those of the real kinds
    path = tmp_path / "store.db"
    old = SqliteStore(path, kinds=[Before])
    old.put(Before(id="1", name="n", facts={"x": 5, "y": "z"}))
    new = SqliteStore(path, kinds=[After])
    expected = After(id="1", name="n", facts={"x": 5, "y": "z"})
    assert (expected.place, expected.more) == ("it's here", {"a": 1})
    assert new.find(After) == [expected]
    assert new.find(After, (field("facts.x") == 5) & (field("place") == "it's here") & (field("name") == "n")) == [
        expected
    ]
    new.put(dataclasses.replace(expected, place="there", sure=False))
    # The older program goes on, and leaves alone what it does not know.
    old.put(Before(id="1", name="m"), Before(id="2"))
    again = SqliteStore(path, kinds=[Before])
    assert [r.name for r in again.find(Before)] == ["m", ""]
    assert [(r.place, r.sure) for r in new.find(After)] == [("there", False), ("it's here", True)]
    for store in (old, new, again):
        store.close()


def test_a_migration_runs_once_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "store.db"
    SqliteStore(path).close()
    ran: list[str] = []

    def rename(connection: sqlite3.Connection) -> None:
        ran.append("rename")
        connection.execute("UPDATE runs SET name = 'new' WHERE name = 'old'")

    store = SqliteStore(path)
    store.put(sample_run(1, name="old"))
    store.close()
    monkeypatch.setattr(tables, "MIGRATIONS", (rename, lambda _: ran.append("second")))
    for _ in range(2):
        store = SqliteStore(path)
        assert [r.name for r in store.find(Run)] == ["new"]
        store.close()
    assert ran == ["rename", "second"]
    assert rows(path, "PRAGMA user_version") == [(3,)]
    SqliteStore(tmp_path / "fresh.db").close()
    assert ran == ["rename", "second"]
    assert rows(tmp_path / "fresh.db", "PRAGMA user_version") == [(3,)]


def test_a_migration_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "store.db"
    store = SqliteStore(path)
    store.put(sample_run(1, name="old"))
    store.close()

    def fails(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE runs SET name = 'half'")
        raise ZeroDivisionError

    monkeypatch.setattr(tables, "MIGRATIONS", (fails,))
    with pytest.raises(ZeroDivisionError):
        SqliteStore(path)
    assert rows(path, "SELECT name FROM runs") == [("old",)]
    assert rows(path, "PRAGMA user_version") == [(1,)]


def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    SqliteStore(path).close()
    rows(path, "PRAGMA user_version = 99")
    with pytest.raises(Invalid, match="newer") as caught:
        SqliteStore(path)
    assert "upgrade boucle" in caught.value.fix


def test_an_up_to_date_database_is_opened_without_a_write(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    first = SqliteStore(path)
    before = rows(path, "PRAGMA schema_version")
    size = (tmp_path / "store.db-wal").stat().st_size
    SqliteStore(path).close()
    assert rows(path, "PRAGMA schema_version") == before
    assert (tmp_path / "store.db-wal").stat().st_size == size
    first.close()


# Views


def test_views_answer_those_who_come_with_sql(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = SqliteStore(path)
    made = dataclasses.replace(EXAMPLES[0], version=4, run="01RUN")  # type: ignore[call-arg]
    store.put(*EXAMPLES, made, sample_run(2, metrics={"loss": 0.5}, ended=9.0, error="oops"))
    store.add_points("run:01RUN", [Points("auc", [1], [1.0], [0.1]), Points("auc2", [4], [2.0], [0.2])])
    store.add_points("run:01RUN", [Points("auc", [2, 7], [3.0, 4.0], [0.5, 0.93])])
    store.append(Event(type="model.stage", subject="model:churn@1", time=5.0, reason="gate"))
    store.close()
    assert rows(path, "SELECT key, rows FROM raw_data") == [("tx@3", 10)]
    assert rows(path, "SELECT kind, name, run FROM processed_data ORDER BY 1") == [
        ("artifact", "scores", ""),
        ("dataset", "tx", "01RUN"),
    ]
    assert rows(path, "SELECT run, name, step, time, value FROM metrics ORDER BY 1, 2") == [
        ("01RUN", "auc", 7, 4.0, 0.93),
        ("01RUN", "auc2", 4, 2.0, 0.2),
        ("01RUN", "n", None, 3.0, 12),
        ("run0002", "loss", None, 9.0, 0.5),
    ]
    assert rows(path, "SELECT kind, subject, status, message FROM logs") == [
        ("run", "run:01RUN", "running", ""),
        ("event", "model:churn@1", "", "gate"),
        ("run", "run:run0002", "running", "oops"),
    ]
    assert rows(path, "SELECT name, stage FROM models") == [("churn", "staging")]


# Processes and threads


WRITER = """
import sys
from boucle.core.records import Edge, Event, Run
from boucle.plugins.stores.sqlite import SqliteStore
path, worker = sys.argv[1:]
store = SqliteStore(path)
for i in range(4):
    with store.transaction():
        store.put(Run(id=f"{worker}-{i}", name=worker, started=float(i), params={"w": worker, f"only{worker}": i}))
        store.append(Event(type="made", subject=f"run:{worker}-{i}"))
        store.link(Edge(f"run:{worker}-{i}", "part_of", "run:all"))
store.close()
"""


@pytest.mark.slow
def test_fifty_processes_write_at_once_and_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "store.db"  # made by whoever comes first
    workers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), f"{w:02}"], stderr=subprocess.PIPE, text=True)
        for w in range(50)
    ]
    assert [worker.communicate(timeout=120)[1] for worker in workers] == [""] * 50
    store = SqliteStore(path)
    assert store.count(Run) == 200
    assert [store.count(Run, field("params.w") == f"{w:02}") for w in range(50)] == [4] * 50
    assert [store.count(Run, field(f"params.only{w:02}") >= 2) for w in range(50)] == [2] * 50
    assert [e.sequence for e in store.events()] == list(range(1, 201))
    assert len(store.edges(target="run:all")) == 200
    assert list(store.check()) == []
    store.close()


def test_a_few_processes_make_the_database_at_once(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    workers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), f"{w:02}"], stderr=subprocess.PIPE, text=True)
        for w in range(4)
    ]
    assert [worker.communicate(timeout=60)[1] for worker in workers] == [""] * 4
    store = SqliteStore(path)
    assert store.count(Run) == 16
    assert list(store.check()) == []
    store.close()


def test_a_forked_child_has_its_own_connection(tmp_path: Path) -> None:
    code = """
import os, sys
from boucle.core.records import Event, Run
from boucle.plugins.stores.sqlite import SqliteStore
store = SqliteStore(sys.argv[1])
store.append(Event(type="parent"))
with store.transaction():
    store.put(Run(id="parent", name="x", started=0.0))
    child = os.fork()
    if child == 0:
        assert store.count(Run) == 0  # the parent's transaction is not the child's
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
child = os.fork()
if child == 0:
    store.append(Event(type="child"))
    store.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
store.append(Event(type="parent"))
print([e.type for e in store.events()], store.count(Run), list(store.check()))
"""
    assert run_python(code, tmp_path / "store.db") == "['parent', 'child', 'parent'] 1 []\n"


def test_a_process_that_is_killed_leaves_nothing_half(tmp_path: Path) -> None:
    code = """
import os, sys
from boucle.core.records import Event, Run
from boucle.plugins.stores.sqlite import SqliteStore
store = SqliteStore(sys.argv[1])
store.put(Run(id="whole", name="x", started=0.0))
with store.transaction():
    store.put(*(Run(id=f"{i}", name="x" * 2000, started=0.0, params={"i": i}) for i in range(3000)))
    os._exit(0)
"""
    run_python(code, tmp_path / "store.db")
    store = SqliteStore(tmp_path / "store.db")
    assert [r.id for r in store.find(Run)] == ["whole"]
    assert list(store.check()) == []
    store.close()


def test_a_thread_that_ends_lets_its_connection_go(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.db")
    for _ in range(5):
        thread = threading.Thread(target=lambda: store.put(sample_run(1)))
        thread.start()
        thread.join()
    assert len(store._links) == 1
    store.close()
    assert store.find(Run) == [sample_run(1)]  # and a closed store opens again when it is asked
    store.close()


def test_a_name_of_an_attribute_taken_back_is_not_remembered(tmp_path: Path) -> None:
    store, other = SqliteStore(tmp_path / "store.db"), SqliteStore(tmp_path / "store.db")
    with pytest.raises(ZeroDivisionError), store.transaction():
        store.put(sample_run(1, params={"first": 1}))
        assert store.count(Run, field("params.first") == 1) == 1
        1 / 0  # noqa: B018
    other.put(sample_run(2, params={"second": 2}, metrics={}))
    store.put(sample_run(3, params={"first": 3}, metrics={}))
    assert [r.id for r in other.find(Run, field("params.first") == 3)] == ["run0003"]
    assert [r.id for r in store.find(Run, field("params.second") == 2)] == ["run0002"]
    assert list(store.check()) == []
    store.close()
    other.close()


# When things go wrong


def test_a_full_disk_is_said_and_nothing_is_half_written(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.db")
    store.put(sample_run(1))
    connection = store._link().connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    big = [sample_run(i, name="x" * 3000) for i in range(10, 60)]
    with pytest.raises(Unavailable, match="full") as caught:
        store.put(*big)
    assert "free some space" in caught.value.fix
    with pytest.raises(Unavailable), store.transaction():
        store.put(sample_run(2, metrics={"m": 0.5}))
        try:
            store.put(*big)
        except Unavailable:
            store.put(sample_run(3))  # whoever goes on regardless is not half committed
            raise
    connection.execute("PRAGMA max_page_count = 1000000")
    assert [r.id for r in store.find(Run)] == ["run0001"]
    store.put(*big)
    assert store.count(Run) == 51
    assert list(store.check()) == []
    store.close()


def test_what_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("These are my notes, and there are a good many of them.\n" * 50)
    before = path.read_bytes()
    with pytest.raises(Invalid, match="not a database"):
        SqliteStore(path)
    assert path.read_bytes() == before


def test_a_folder_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as caught:
        SqliteStore(tmp_path / "nothing" / "store.db")
    assert f"mkdir -p {tmp_path / 'nothing'}" in caught.value.fix


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(Unavailable, match="unable to open"):
            SqliteStore(tmp_path / "store.db")
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        (sqlite3.SQLITE_FULL, Unavailable, "free some space"),
        (sqlite3.SQLITE_READONLY, Unavailable, "writable"),
        (sqlite3.SQLITE_CANTOPEN | (1 << 8), Unavailable, "writable"),
        (sqlite3.SQLITE_BUSY, Unavailable, "try again"),
        (sqlite3.SQLITE_IOERR | (3 << 8), Unavailable, "boucle fsck"),
        (sqlite3.SQLITE_CORRUPT, Corrupt, "backup"),
        (sqlite3.SQLITE_NOTADB, Invalid, "another path"),
    ],
)
def test_each_failure_says_what_to_do(tmp_path: Path, code: int, kind: type[BoucleError], said: str) -> None:
    error = sqlite3.OperationalError("it happened")
    error.sqlite_errorcode = code
    explained = explain(error, tmp_path / "store.db")
    assert type(explained) is kind
    assert said in explained.fix
    assert str(tmp_path / "store.db") in explained.what


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("UPDATE events SET reason = 'another' WHERE sequence = 2", "event 2 was changed"),
        ("DELETE FROM events WHERE sequence = 2", "event 2 is missing"),
        ("UPDATE events SET data = '{' WHERE sequence = 2", "does not parse"),
        ("UPDATE runs SET params = '{\"p\":1} x'", "does not parse"),
        ("UPDATE runs SET params = '{\"p\":2}'", "attributes"),
        ("UPDATE runs SET id = 'other'", "not its own"),
        ("UPDATE edges SET detail = ''", "does not parse"),
        ("UPDATE points SET data = x'00'", "bytes"),
        ("UPDATE points SET packing = packing | 4", "decompress"),
    ],
)
def test_check_finds_what_was_changed_behind_its_back(tmp_path: Path, change: str, problem: str) -> None:
    store = SqliteStore(tmp_path / "store.db")
    store.put(sample_run(1))
    store.link(Edge("run:run0001", "used", "dataset:a"))
    store.add_points("run:run0001", [Points("x", [1, 2, 5], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0])])
    for i in range(3):
        store.append(Event(type="a", data={"i": i}))
    assert list(store.check()) == []
    connection = sqlite3.connect(tmp_path / "store.db")
    connection.execute(change)
    connection.commit()
    connection.close()
    found = list(store.check())
    assert found
    assert problem in " ".join(found)
    store.close()


def test_reading_a_damaged_row_says_so(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.db")
    store.put(sample_run(1))
    store._link().execute("UPDATE runs SET params = '{'")
    with pytest.raises(Corrupt):
        store.get(Run, "run0001")
    store.close()


def test_a_kind_the_store_does_not_keep_is_refused(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.db")
    with pytest.raises(Invalid, match="Before"):
        store.put(Before(id="1"))
    with pytest.raises(Invalid):
        SqliteStore(tmp_path / "store.db", synchronous="off")  # type: ignore[arg-type]
    store.close()


def test_what_sqlite_cannot_bind_is_refused(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.db")
    for edge in (Edge("\ud800", "used", "b"), Edge(None, "used", "b"), Edge(object(), "used", "b")):  # type: ignore[arg-type]
        with pytest.raises(Invalid):
            store.link(Edge("run:a", "used", "dataset:b"), edge)
    with pytest.raises(Invalid):
        store.events(after=2**70)
    with pytest.raises(Invalid):
        store.get(Run, "\ud800")
    assert store.edges() == []
    store.put(sample_run(1, outputs={"o": 1}))
    store._link().execute("UPDATE runs SET outputs = '{'")
    with pytest.raises(Corrupt):
        store.find(Run, field("outputs.o") == 1)
    store.close()


def test_reading_in_two_parts_sees_one_state(tmp_path: Path) -> None:
    store, other = SqliteStore(tmp_path / "store.db"), SqliteStore(tmp_path / "store.db")
    store.put(*(sample_run(i, metrics={"m": 1.0} if i else {}) for i in range(4)))
    asked: list[str] = []

    def meddle(text: str) -> None:
        asked.append(text)
        if text.startswith("SELECT r.") and "IS NULL" in text:
            other.put(sample_run(3, metrics={}))  # it was listed as one that has the metric

    store._link().connection.set_trace_callback(meddle)
    assert [r.id for r in store.find(Run, order=["metrics.m"], limit=9)] == ["run0001", "run0002", "run0003", "run0000"]
    assert any("IS NULL" in text for text in asked)
    assert other.get(Run, "run0003") == sample_run(3, metrics={})
    store.close()
    other.close()


def test_adding_twice_from_two_stores_is_a_conflict(tmp_path: Path) -> None:
    first, second = SqliteStore(tmp_path / "store.db"), SqliteStore(tmp_path / "store.db")
    first.add(sample_run(1))
    with pytest.raises(Conflict):
        second.add(sample_run(1, name="other"))
    assert second.find(Run) == [sample_run(1)]
    first.close()
    second.close()
