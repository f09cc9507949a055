"""SQL over versions: what is found as a reference, what may be asked, and what comes of it."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import boucle
from boucle.core.errors import Corrupt, Invalid, NotFound, Unavailable
from boucle.core.records import Run
from boucle.data import sql as asking
from boucle.data.sql import into, sql
from boucle.ledger import datasets, lineage, tables
from boucle.workspace import Workspace


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    ws = boucle.init(tmp_path)
    boucle.ingest(ws, {"id": [1, 2, 3], "amount": [10.0, 20.0, 30.0], "city": ["Lyon", "Paris", None]}, "tx")
    boucle.ingest(ws, {"id": [1, 2], "amount": [1.0, 2.0], "city": ["Lyon", "tx@9"]}, "tx")
    boucle.ingest(ws, {"id": [1, 3], "name": ["Ana", "Cleo"]}, "customers")
    boucle.ingest(ws, {"n": [7]}, "my-data.v2")
    return ws


def rows(ws: Workspace, query: str) -> list[dict[str, object]]:
    return sql(ws, query).table().to_pylist()


@pytest.mark.parametrize(("query", "expected"), [
    ("select sum(id) as s from tx@1", 6),
    ("select sum(id) as s from tx", 3),
    ("select sum(id) as s from tx@latest;", 3),
    ("select sum(id) as s from tx@{now}", 3),
    ("select sum(tx.id) as s from tx@1 where tx.amount < 25", 3),
    ("select sum(tx@1.id) as s from tx@1", 6),
    ("select sum(t.id) as s from tx@1 t", 6),
    ("select sum(date.id) as s from tx@1 date", 6),
    ("select sum(a.id * 10 + b.id) as s from tx@1 a, tx@2 b", 6 * 2 * 10 + 3 * 3),
    ("select count(*) as s from tx@1 join customers@latest using (id)", 2),
    ("select count(*) as s from tx@2 /* tx@9 */ where city = 'tx@9' -- customers@77", 1),
    ("select count(*) as s from tx@2 where city = $$tx@9$$", 1),
    ("select count(*) as s from tx@2 where city = e'tx@9\\''", 0),
    ("select count(\"tx@9\") as s from (select id as \"tx@9\" from tx@2)", 2),
    ("select n as s from \"my-data.v2\"@1", 7),
    ("select n as s from my-data.v2@1", 7),
    ("select n as s from \"my-data.v2\"", 7),
    ("select sum(id) as s from \"tx@1\"", 6),
    ("with tx as (select 5 as s) select s from tx", 5),
    ("from tx@1 select count(*) as s", 3),
    ("select count(*) as s from tx@1 where 'é' = 'é' and city in (select city from tx@2)", 1),
    ("select length('é') + count(*) as s from tx@1", 4),
    ("select max(s) as s from (select id as s from tx@1 union all select id from tx@2)", 3),
    ("select 2 + (select @ -3) as s", 5),
])  # fmt: skip
def test_references_are_found_where_tables_stand(ws: Workspace, query: str, expected: int) -> None:
    assert rows(ws, query) == [{"s": expected}]


def test_a_digest_is_a_version(ws: Workspace) -> None:
    digest = datasets.resolve(ws, "tx@1").digest
    assert rows(ws, f"select count(*) as n from tx@sha{digest[:8]}") == [{"n": 3}]


def test_order_is_kept_and_columns_are_chosen(ws: Workspace) -> None:
    frame = sql(ws, "select id, amount from tx@1 order by amount desc")
    assert frame.table(["id"]).to_pydict() == {"id": [3, 2, 1]}
    assert frame.columns == ("id", "amount")
    assert len(frame) == 3
    assert frame.table().equals(frame.table())  # each reading asks again


@pytest.mark.parametrize(("query", "error", "words"), [
    ("select * from nope", NotFound, "no dataset named 'nope'"),
    ("select * from txx@1", NotFound, "one of tx"),
    ("select * from tx@7", NotFound, "a number from 1 to 2"),
    ("select * from \"tx@7\"", NotFound, "a number from 1 to 2"),
    ("selec 1", Invalid, "selec"),
    ("select nope from tx@1", Invalid, "Candidate bindings"),
    ("select tx.nope from tx@1", Invalid, "nope"),
    ("select * from my-data", Invalid, "double quotes"),
    ("select 1 as a; select 2", Invalid, "one SELECT"),
    ("", Invalid, "one SELECT"),
    ("drop table tx", Invalid, "one SELECT"),
    ("insert into tx values (1)", Invalid, "one SELECT"),
    ("copy (select 1) to 'x.csv'", Invalid, "one SELECT"),
    ("attach 'x.db'", Invalid, "one SELECT"),
    ("set enable_external_access = true", Invalid, "one SELECT"),
    ("install httpfs", Invalid, "one SELECT"),
    ("pragma database_list", Invalid, "one SELECT"),
    ("select * from read_csv('/etc/passwd')", Invalid, "no files and no network"),
    ("select * from read_text('/etc/passwd')", Invalid, "no files and no network"),
    ("select * from sniff_csv('/etc/passwd')", Invalid, "no files and no network"),
    ("select * from read_parquet('http://localhost:1/x.parquet')", Invalid, ""),
    ("select * from glob('/*')", Invalid, "no files and no network"),
    ("select * from '/etc/passwd'", Invalid, "/etc/passwd"),
    ("select getenv('HOME')", Invalid, "getenv"),
    ("select a.id, b.id from tx@1 a, tx@2 b", Invalid, "more than one column is named 'id'"),
    ("select cast(city as int) as c from tx@1", Invalid, "Lyon"),
])  # fmt: skip
def test_what_may_not_be_asked(ws: Workspace, query: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        sql(ws, query).table()
    assert words in str(caught.value)
    assert '"."' not in str(caught.value)  # the names we gave are not shown


def test_variables_of_the_caller_are_not_tables(ws: Workspace) -> None:
    secret = pa.table({"a": [1]})  # noqa: F841
    with pytest.raises(NotFound):
        sql(ws, "select * from secret")


def test_a_sum_too_large_is_an_error_and_not_a_wrong_number(ws: Workspace) -> None:
    assert sql(ws, "select sum(id) as s from tx@1").schema["s"].type == "int64"
    with pytest.raises(Invalid, match="INT64"):
        sql(ws, "select sum(9223372036854775807::bigint) as s from tx@1").table()


def test_little_memory_goes_to_the_disk_or_says_so(ws: Workspace) -> None:
    boucle.ingest(ws, {"i": range(1_000_000)}, "many")
    frame = sql(ws, "select i, random() as r, repeat('x', 50) || i as t from many order by r", memory="60MB")
    assert sum(b.num_rows for b in frame.batches()) == 1_000_000
    with pytest.raises(Unavailable, match="--memory"):
        sql(ws, "select list(repeat('x', 100) || i) as l from many", memory="30MB").table()
    assert list((ws.root / "tmp").glob("sql-*")) == []
    with pytest.raises(Invalid, match="size"):
        sql(ws, "select 1 as a", memory="lots'; drop")


def test_damage_is_corrupt(ws: Workspace) -> None:
    manifest = tables.load_manifest(ws.blobs, datasets.resolve(ws, "tx@1").manifest)
    path = ws.blobs.path(manifest["blocks"][0]["blob"])
    data = bytearray(path.read_bytes())
    chunk = pq.read_metadata(path).row_group(0).column(1)
    data[chunk.data_page_offset + chunk.total_compressed_size - 4] ^= 255
    path.chmod(0o644)
    path.write_bytes(data)
    with pytest.raises(Corrupt, match="fsck"):
        sql(ws, "select id, amount, city from tx@1").table()


def test_into_makes_a_version_tied_to_its_inputs(ws: Workspace) -> None:
    query = "select name, amount from tx@1 join customers using (id)"
    made = into(ws, query, "named")
    assert (made.dataset.key, made.dataset.rows, made.new) == ("named@1", 2, True)
    assert {c["name"] for c in json.loads(ws.blobs.get(made.dataset.statistics))["columns"]} == {"name", "amount"}
    tree = lineage.why(ws, "named@1")
    assert {"dataset:tx@1", "dataset:customers@1"} <= {node.ref for node in tree.flat()}
    run = ws.store.get(Run, made.dataset.run)
    assert run is not None
    assert (run.params, run.status) == ({"sql": query}, "finished")
    assert "dataset:named@1" in {n.ref for n in lineage.impact(ws, "tx@1").flat()}


def test_into_half_way_leaves_nothing(ws: Workspace) -> None:
    with pytest.raises(Invalid):
        into(ws, "select cast(city as int) as c from tx@1", "broken")
    assert "broken" not in datasets.names(ws)
    with pytest.raises(Invalid, match="no rows"):
        into(ws, "select * from tx@1 where id > 5", "empty")
    with pytest.raises(Invalid, match="dataset name"):
        into(ws, "select 1 as a", "no name")


def test_all_types_come_back(ws: Workspace) -> None:
    import datetime as dt
    import decimal

    table = pa.table({
        "t": pa.array([dt.datetime(2026, 1, 1, tzinfo=dt.UTC)], pa.timestamp("us", "Europe/Paris")),
        "u": pa.array([2**64 - 1], pa.uint64()), "h": pa.array([1.5], pa.float16()), "d": pa.array([dt.date(2026, 1, 1)]),
        "x": pa.array([decimal.Decimal("1.25")], pa.decimal128(10, 2)), "l": pa.array([[1, 2]], pa.list_(pa.int32())),
        "s": pa.array([{"a": 1}]), "b": pa.array([b"\0"]), "n": pa.array([None], pa.null()),
        "v": pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2)), "i": pa.array([dt.timedelta(1)]),
    })  # fmt: skip
    boucle.ingest(ws, table, "kinds")
    got = sql(ws, "select * exclude (i), epoch(i) / 86400 as days from kinds").table()
    assert got.drop_columns(["days"]).to_pylist() == table.drop_columns(["i"]).to_pylist()
    assert got["days"].to_pylist() == [1]
    assert (
        sql(ws, "select count(*) as n from kinds where t >= '2026-01-01' and u > 5 and x > 1").table()["n"][0].as_py()
        == 1
    )


def test_blobs_without_paths_are_read_as_well(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(ws.blobs), "capabilities", frozenset())
    assert rows(ws, "select city, count(*) as n from tx@1 where id < 3 group by city order by city") == [
        {"city": "Lyon", "n": 1}, {"city": "Paris", "n": 1},
    ]  # fmt: skip


def test_the_memory_is_a_sensible_default() -> None:
    assert asking.MEMORY == "2GB"
