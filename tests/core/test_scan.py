"""Reading in pieces: shuffling, sharing out, positions, and frames for other libraries."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boucle.core.errors import Invalid, MissingExtra
from boucle.core.frames import Frame, schema_of
from boucle.core.scan import Held, Opened


def frame(*sizes: int, known: bool = True) -> Frame:
    """Parts of so many rows, which count on."""
    parts, at = [], 0
    for size in sizes:
        table = pa.table({"i": pa.array(range(at, at + size), pa.int64()), "s": [str(k) for k in range(at, at + size)]})
        ranges = {"i": [at, at + size - 1]} if size else {}
        parts.append(Held(table, ranges) if known else Opened(_opener(table)))
        at += size
    return Frame.of_parts(schema_of(pa.schema([("i", pa.int64()), ("s", pa.string())])), parts)


def _opener(table: pa.Table):
    return lambda columns: iter((table if columns is None else table.select(list(columns))).to_batches())


def numbers(frame: Frame) -> list[int]:
    return frame.table(["i"])["i"].to_pylist()


SIZES = st.lists(st.integers(0, 30), min_size=1, max_size=6)


@given(SIZES, st.integers(1, 40), st.integers(0, 3))
def test_shuffled_rows_are_the_same_rows(sizes: list[int], buffer: int, seed: int) -> None:
    whole = frame(*sizes)
    mixed = whole.shuffled(buffer, seed)
    assert sorted(numbers(mixed)) == numbers(whole)
    assert numbers(mixed) == numbers(mixed) == numbers(whole.shuffled(buffer, seed))
    assert all(int(r["s"]) == r["i"] for r in mixed.table().to_pylist())


def test_another_seed_is_another_order_and_the_order_is_mixed() -> None:
    whole = frame(*[1000] * 20)
    first, second = numbers(whole.shuffled(5000, 1)), numbers(whole.shuffled(5000, 2))
    assert first != second
    assert np.abs(np.corrcoef(first, range(20_000))[0, 1]) < 0.7
    gaps = np.abs(np.diff(first))
    assert np.median(gaps) > 500  # neighbours come from all over the buffer


def test_a_shuffle_holds_a_bounded_number_of_rows() -> None:
    taken = 0

    def endless(columns: object) -> Iterator[pa.RecordBatch]:
        nonlocal taken
        while True:
            taken += 100
            yield pa.RecordBatch.from_pydict({"i": list(range(100))})

    batches = Frame(schema_of(pa.schema([("i", pa.int64())])), endless).shuffled(1000).batches()
    given_out = 0
    for _ in range(20):
        given_out += next(batches).num_rows
        assert taken - given_out <= 1000 + 500 + 100


@given(SIZES, st.integers(1, 7), st.booleans(), st.booleans())
def test_shards_hold_every_row_once(sizes: list[int], count: int, mixed: bool, filtered: bool) -> None:
    whole = frame(*sizes)
    whole = whole.shuffled(10, 3) if mixed else whole
    whole = whole.where("i >= 7") if filtered else whole
    shards = [numbers(whole.shard(k, count)) for k in range(count)]
    assert sorted(i for s in shards for i in s) == sorted(numbers(whole))
    if not filtered:
        lengths = [len(s) for s in shards]
        assert max(lengths) - min(lengths) <= 1
        assert [whole.shard(k, count).rows for k in range(count)] == lengths


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=4), st.integers(1, 4))
def test_shards_of_what_has_no_known_length(sizes: list[int], count: int) -> None:
    whole = frame(*sizes, known=False)
    shards = [numbers(whole.shard(k, count)) for k in range(count)]
    assert sorted(i for s in shards for i in s) == numbers(whole)


@given(SIZES, st.integers(0, 100), st.integers(0, 100))
def test_positions(sizes: list[int], start: int, stop: int) -> None:
    whole = frame(*sizes)
    assert numbers(whole.between(start, stop)) == numbers(whole)[start:stop]
    numbered = whole.numbered("at").between(start).where("i >= 5").table()
    assert numbered["at"].to_pylist() == numbered["i"].to_pylist() == [i for i in numbers(whole)[start:] if i >= 5]
    assert whole.select(["s"]).numbered("at").columns == ("s", "at")


def test_only_parts_that_can_match_are_read() -> None:
    opened: list[int] = []

    def part(low: int) -> Opened:
        def opener(columns: object) -> Iterator[pa.RecordBatch]:
            opened.append(low)
            return iter([pa.RecordBatch.from_pydict({"i": list(range(low, low + 10))})])

        return Opened(opener, 10, {"i": [low, low + 9]})

    whole = Frame.of_parts(schema_of(pa.schema([("i", pa.int64())])), [part(k) for k in range(0, 100, 10)])
    assert numbers(whole.where("i > 14 and i < 22")) == [15, 16, 17, 18, 19, 20, 21]
    assert opened == [10, 20]
    opened.clear()
    assert numbers(whole.between(33, 42)) == list(range(33, 42))
    assert opened == [30, 40]
    opened.clear()
    whole.shard(1, 5).table()
    assert opened == [20, 30]


def test_chosen_columns_and_filters_on_others() -> None:
    whole = frame(5, 5)
    assert whole.where("i > 7").select(["s"]).table().to_pydict() == {"s": ["8", "9"]}
    assert whole.where("i > 3").where("i < 5").table(["s"]).to_pydict() == {"s": ["4"]}
    assert len(whole.where("i > 7")) == 2
    assert whole.where("i > 99").table().schema.names == ["i", "s"]
    with pytest.raises(Invalid, match="no column named 'i'"):
        whole.select(["s"]).where("i > 7")


@pytest.mark.parametrize("wrong", [
    lambda f: f.shard(2, 2), lambda f: f.shard(-1, 2), lambda f: f.shuffled(0), lambda f: f.where("i > 1").between(1),
    lambda f: f.shuffled().numbered("n"), lambda f: f.numbered("i"), lambda f: next(f.arrays(0)),
])  # fmt: skip
def test_what_makes_no_sense(wrong) -> None:
    with pytest.raises(Invalid):
        wrong(frame(5))


def test_a_frame_of_parts_goes_to_another_process() -> None:
    whole = pickle.loads(pickle.dumps(frame(5, 5).where("i > 2").shuffled(3).select(["i"])))
    assert sorted(numbers(whole)) == [3, 4, 5, 6, 7, 8, 9]


def test_readers_are_lazy() -> None:
    made = 0

    def opener(columns: object) -> Iterator[pa.RecordBatch]:
        nonlocal made
        for k in range(100):
            made += 1
            yield pa.RecordBatch.from_pydict({"i": [k]})

    lazy = Frame(schema_of(pa.schema([("i", pa.int64())])), opener)
    reader = lazy.reader()
    assert made == 1
    reader.read_next_batch()
    assert made <= 3
    assert pa.table(lazy).num_rows == 100  # through the Arrow C stream
    assert pa.RecordBatchReader.from_stream(lazy).read_all()["i"].to_pylist() == list(range(100))
    assert frame().reader().read_all().schema.names == ["i", "s"]


def test_batches_of_other_types_are_made_alike() -> None:
    parts = [Held(pa.table({"s": pa.array(["a"]).dictionary_encode()})), Held(pa.table({"s": ["b"]}))]
    mixed = Frame.of_parts(schema_of(pa.schema([("s", pa.string())])), parts)
    assert mixed.reader().read_all()["s"].to_pylist() == ["a", "b"]


def test_polars_reads_what_it_uses() -> None:
    asked: list[object] = []
    table = pa.table({"i": range(100), "s": [str(k) for k in range(100)]})

    def opener(columns: object) -> Iterator[pa.RecordBatch]:
        asked.append(columns and list(columns))
        for k in range(10):
            asked.append(k)
            yield (table if columns is None else table.select(list(columns))).slice(k * 10, 10).to_batches()[0]

    lazy = Frame(schema_of(table.schema), opener).polars_lazy()
    asked.clear()
    found = lazy.filter(pl.col("i") >= 95).select(pl.col("i").sum()).collect()
    assert found.item() == sum(range(95, 100))
    assert asked[0] == ["i"]
    asked.clear()
    assert lazy.head(12).collect()["s"].to_list() == [str(k) for k in range(12)]
    assert 9 not in asked


def test_duckdb_reads_it_again_and_again() -> None:
    connection = duckdb.connect()
    relation = frame(5, 5).duckdb(connection)
    assert relation.aggregate("sum(i)").fetchall() == [(45,)]
    assert relation.filter("i > 7").project("s").fetchall() == [("8",), ("9",)]
    connection.close()


def test_arrays() -> None:
    table = pa.table({
        "i": [1, 2, 3], "n": [1, None, 3], "b": [True, False, True], "c": [True, None, False], "s": ["a", None, "b"],
        "v": pa.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], pa.list_(pa.float32(), 2)),
        "w": [[1], [2], [3]], "r": [[1], [2, 3], []],
        "t": pa.array([0, 1, None], pa.timestamp("us", "UTC")), "d": pa.array(["x", "y", "x"]).dictionary_encode(),
    })  # fmt: skip
    first, second = Frame.of(table).arrays(2)
    assert {k: v.dtype.str[1:] for k, v in first.items()} == {
        "i": "i8", "n": "f8", "b": "b1", "c": "f8", "s": "O", "v": "f4", "w": "i8", "r": "O", "t": "M8[us]", "d": "O",
    }  # fmt: skip
    assert (first["v"].shape, first["w"].shape, second["i"].tolist()) == ((2, 2), (2, 1), [3])
    assert np.isnan(first["n"][1])
    assert np.isnat(second["t"][0])
    assert first["s"].tolist() == ["a", None]
    assert all(v.flags.writeable for v in first.values())
    assert len(list(Frame.of(table).arrays(2, drop_last=True))) == 1


def test_without_torch_it_says_what_to_do() -> None:
    with contextlib.suppress(ImportError):
        import torch  # noqa: F401

        pytest.skip("torch is installed")
    with pytest.raises(MissingExtra, match="torch"):
        frame(5).torch(2)


@pytest.mark.parametrize("workers", [0, 2])
def test_torch_workers_share_the_rows(workers: int) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is large; install it to run this")
    from torch.utils.data import DataLoader

    whole = frame(100, 57, 300)
    dataset = whole.torch(32, ["i"], shuffle=True, buffer=64)

    def rows() -> list[int]:
        loader = DataLoader(dataset, batch_size=None, num_workers=workers)
        return [int(v) for batch in loader for v in batch["i"]]

    first = rows()
    assert sorted(first) == list(range(457))
    assert first == rows()
    dataset.set_epoch(1)
    assert sorted(rows()) == sorted(first) != rows()
    batch = next(iter(whole.torch(4)))
    assert batch["i"].dtype == torch.int64
    assert batch["s"] == ["0", "1", "2", "3"]
