"""The contract of sinks: subclass, give `sink` and `target`, and run with pytest."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, ClassVar

import pyarrow as pa
import pytest

from boucle.core.errors import BoucleError, Invalid, NotFound
from boucle.core.frames import Frame, schema_of
from boucle.ports.source import Mode

SAMPLE = pa.table({"id": [1, 2, 3], "x": [0.5, None, 2.5], "word": ["a", "b 'b' \"\\", "ü\n☕"]})
_UTC = dt.UTC
TYPES: dict[str, pa.Array] = {
    "flag": pa.array([True, None, False]),
    "small": pa.array([-5, None, 7], pa.int16()),
    "whole": pa.array([2**31 - 1, None, -(2**31)], pa.int32()),
    "large": pa.array([2**63 - 1, None, -(2**63)], pa.int64()),
    "real": pa.array([0.1, None, -1e300], pa.float64()),
    "money": pa.array([Decimal("1.10"), None, Decimal("-99999999.99")], pa.decimal128(10, 2)),
    "exact": pa.array([Decimal("12345678901234567890.123456789"), None, Decimal("0.1")], pa.decimal128(38, 9)),
    "text": pa.array(["", None, 'q"\\,\n;\t☕ %s NULL'], pa.string()),
    "raw": pa.array([b"", None, b"\x00\xff\\"], pa.binary()),
    "day": pa.array([dt.date(2026, 11, 1), None, dt.date(1969, 2, 28)], pa.date32()),
    "clock": pa.array([dt.time(10, 11, 12, 5), None, dt.time(0, 0)], pa.time64("us")),
    "moment": pa.array([dt.datetime(2026, 1, 1, 1, 2, 3, 4), None, dt.datetime(1971, 1, 1)], pa.timestamp("us")),
    "zoned": pa.array(
        [dt.datetime(2026, 1, 1, 1, 2, 3, 4, _UTC), None, dt.datetime(1971, 1, 1, tzinfo=_UTC)],
        pa.timestamp("us", "UTC"),
    ),
    "span": pa.array([dt.timedelta(hours=5, microseconds=1), None, -dt.timedelta(hours=1)], pa.duration("us")),
    "many": pa.array([[1, None, 3], None, []], pa.list_(pa.int64())),
    "record": pa.array([{"a": 1, "b": "x"}, None, {"a": None, "b": "y"}]),
}

_KILLED = """
import importlib, json, sys, time
import pyarrow as pa
from boucle.core.frames import Frame, schema_of
module, name, url, mode, key, options = sys.argv[1:]
batch = pa.record_batch({"id": list(range(1, 5001)), "x": [9.0] * 5000, "word": ["killed"] * 5000})
def opener(columns):
    yield batch
    print("half", flush=True)
    time.sleep(60)
frame = Frame(schema_of(batch.schema), opener)
getattr(importlib.import_module(module), name)().write(frame, url, mode, json.loads(key), json.loads(options))
"""


class SinkContract:
    """What every sink must do. What was written is read by the same plugin."""

    # type of the column above -> the Arrow type and values that come back instead; None: it cannot be written
    other: ClassVar[Mapping[str, tuple[pa.DataType, Sequence[Any]] | None]] = {}
    gaps: ClassVar[Mapping[str, str]] = {}  # test -> why this one cannot pass it

    def sink(self) -> Any:
        """A new one."""
        raise AssertionError("give the sink to test")

    def target(self, name: str) -> tuple[str, dict[str, Any]]:
        """URL and options of a target of that name, which is not there yet."""
        raise AssertionError(f"give a target named {name}")

    def reading(self, name: str) -> tuple[str, dict[str, Any]]:
        """URL and options to read it with."""
        return self.target(name)

    @pytest.fixture(autouse=True)
    def _knows_its_gaps(self, request: pytest.FixtureRequest) -> None:
        reason = self.gaps.get(request.node.originalname)
        if reason:
            pytest.skip(reason)

    @pytest.fixture
    def name(self) -> str:
        return f"t{uuid.uuid4().hex[:12]}"

    def write(self, name: str, data: Any, mode: Mode = "append", key: Sequence[str] = ()) -> int:
        url, options = self.target(name)
        written: int = self.sink().write(Frame.of(data), url, mode, key, options)
        return written

    def table(self, name: str) -> pa.Table:
        url, options = self.reading(name)
        table: pa.Table = self.sink().read(url, options).frame.table()
        return table.sort_by("id") if "id" in table.column_names else table

    def rows(self, name: str) -> list[dict[str, Any]]:
        """What is there, by id."""
        return [{k: row.get(k) for k in ("id", "x", "word")} for row in self.table(name).to_pylist()]

    def test_a_target_that_is_not_there_is_made(self, name: str) -> None:
        assert self.write(name, SAMPLE) == 3
        assert self.rows(name) == SAMPLE.to_pylist()

    def test_append(self, name: str) -> None:
        self.write(name, SAMPLE)
        assert self.write(name, {"id": [4], "x": [1.5], "word": ["d"]}) == 1
        assert [r["id"] for r in self.rows(name)] == [1, 2, 3, 4]

    def test_columns_go_by_name(self, name: str) -> None:
        self.write(name, SAMPLE)
        self.write(name, {"word": ["d"], "id": [4]})
        assert self.rows(name)[3] == {"id": 4, "x": None, "word": "d"}

    def test_replace(self, name: str) -> None:
        self.write(name, SAMPLE, "replace")
        assert self.write(name, SAMPLE.slice(1, 1), "replace") == 1
        assert self.rows(name) == SAMPLE.slice(1, 1).to_pylist()

    def test_merge(self, name: str) -> None:
        self.write(name, SAMPLE, "merge", ["id"])
        new = {"id": [5, 2], "x": [5.5, 2.25], "word": ["e", None]}
        assert self.write(name, new, "merge", ["id"]) == 2
        assert self.rows(name) == [
            SAMPLE.to_pylist()[0],
            {"id": 2, "x": 2.25, "word": None},
            SAMPLE.to_pylist()[2],
            {"id": 5, "x": 5.5, "word": "e"},
        ]

    def test_merge_by_several_columns(self, name: str) -> None:
        key = ["id", "word"]
        self.write(name, {"id": [1, 1], "word": ["a", "b"], "x": [1.0, 2.0]}, "merge", key)
        self.write(name, {"id": [1, 2], "word": ["b", "b"], "x": [3.0, 4.0]}, "merge", key)
        got = sorted((r["id"], r["word"], r["x"]) for r in self.rows(name))
        assert got == [(1, "a", 1.0), (1, "b", 3.0), (2, "b", 4.0)]

    def test_merge_into_what_was_made_without_a_key(self, name: str) -> None:
        self.write(name, SAMPLE)
        self.write(name, {"id": [3, 4], "x": [9.0, 9.5], "word": ["c", "d"]}, "merge", ["id"])
        assert [r["x"] for r in self.rows(name)] == [0.5, None, 9.0, 9.5]

    def test_the_same_merge_twice_is_the_same(self, name: str) -> None:
        self.write(name, SAMPLE, "merge", ["id"])
        self.write(name, SAMPLE, "merge", ["id"])
        assert self.rows(name) == SAMPLE.to_pylist()

    def test_merge_without_a_key(self, name: str) -> None:
        with pytest.raises(Invalid, match="without a key"):
            self.write(name, SAMPLE, "merge")

    def test_a_key_that_is_no_column(self, name: str) -> None:
        with pytest.raises(NotFound, match="ids"):
            self.write(name, SAMPLE, "merge", ["ids"])

    @pytest.mark.parametrize(("ids", "why"), [([1, 1], "key id=1"), ([1, None], "null")])
    def test_keys_that_name_no_row(self, name: str, ids: list[int | None], why: str) -> None:
        self.write(name, SAMPLE, "merge", ["id"])
        with pytest.raises(Invalid, match=why):
            self.write(name, {"id": ids, "x": [7.0, 8.0], "word": ["y", "z"]}, "merge", ["id"])
        assert self.rows(name) == SAMPLE.to_pylist()

    def test_an_unknown_mode(self, name: str) -> None:
        with pytest.raises(Invalid, match="upsert"):
            self.write(name, SAMPLE, "upsert")  # type: ignore[arg-type]

    def test_an_unknown_option(self, name: str) -> None:
        url, options = self.target(name)
        with pytest.raises(Invalid, match="wings"):
            self.sink().write(Frame.of(SAMPLE), url, "append", (), {**options, "wings": 2})

    def test_a_column_that_the_target_does_not_have(self, name: str) -> None:
        self.write(name, SAMPLE)
        for mode in ("append", "replace"):
            with pytest.raises(Invalid, match="colour"):
                self.write(name, SAMPLE.append_column("colour", [["r", "g", "b"]]), mode)
        assert self.rows(name) == SAMPLE.to_pylist()

    def test_names_are_never_statements(self, name: str) -> None:
        hostile = "x\"`'; DROP TABLE " + name + "; -- %s"
        table = SAMPLE.rename_columns(["id", hostile, "word"])
        self.write(name, table)
        self.write(name, table, "merge", ["id"])
        assert self.table(name)[hostile].to_pylist() == [0.5, None, 2.5]

    def test_no_rows(self, name: str) -> None:
        self.write(name, SAMPLE)
        assert self.write(name, SAMPLE.slice(0, 0)) == 0
        assert self.rows(name) == SAMPLE.to_pylist()

    @pytest.mark.parametrize("mode", ["append", "replace", "merge"])
    def test_all_rows_or_none(self, name: str, mode: Mode) -> None:
        key = ["id"] if mode == "merge" else []
        url, options = self.target(name)
        with pytest.raises(RuntimeError, match="half way"):
            self.sink().write(_interrupted(lambda: None), url, mode, key, options)
        with pytest.raises(BoucleError):
            self.table(name)
        self.write(name, SAMPLE)
        with pytest.raises(RuntimeError, match="half way"):
            self.sink().write(_interrupted(lambda: None), url, mode, key, options)
        assert self.rows(name) == SAMPLE.to_pylist()

    @pytest.mark.parametrize("mode", ["append", "replace", "merge"])
    def test_nobody_sees_it_half_way(self, name: str, mode: Mode) -> None:
        self.write(name, SAMPLE)
        seen: list[Any] = []
        url, options = self.target(name)
        with pytest.raises(RuntimeError, match="half way"):
            self.sink().write(
                _interrupted(lambda: seen.append(self.rows(name))),
                url,
                mode,
                ["id"] if mode == "merge" else [],
                options,
            )
        assert seen == [SAMPLE.to_pylist()]

    @pytest.mark.parametrize("mode", ["append", "replace", "merge"])
    def test_killed_in_the_middle(self, name: str, mode: Mode) -> None:
        self.write(name, SAMPLE)
        sink, (url, options) = type(self.sink()), self.target(name)
        key = json.dumps(["id"] if mode == "merge" else [])
        command = [sys.executable, "-c", _KILLED, sink.__module__, sink.__name__, url, mode, key, json.dumps(options)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as writer:
            assert writer.stdout
            said = writer.stdout.readline()
            writer.kill()
            assert said == "half\n", writer.stderr and writer.stderr.read()
        assert self.rows(name) == SAMPLE.to_pylist()
        assert self.write(name, {"id": [9], "x": [1.0], "word": ["z"]}) == 1  # and nothing is in the way

    @pytest.mark.parametrize("kind", TYPES)
    def test_types_come_back(self, name: str, kind: str) -> None:
        array = TYPES[kind]
        table = pa.table({"id": pa.array([1, 2, 3], pa.int64()), kind: array})
        want: tuple[pa.DataType, Sequence[Any]] | None = (array.type, array.to_pylist())
        want = self.other.get(kind, want)
        if want is None:
            with pytest.raises(Invalid, match=kind):
                self.write(name, table)
            return
        self.write(name, table)
        got = self.table(name)
        assert got[kind].to_pylist() == list(want[1])
        assert got.schema.field(kind).type == want[0]


def _interrupted(look: Callable[[], object]) -> Frame:
    """A frame that raises after a batch."""
    batch = pa.record_batch({"id": list(range(2, 2002)), "x": [7.0] * 2000, "word": ["half"] * 2000})

    def opener(_: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        yield batch
        yield batch.slice(0, 0)
        look()
        raise RuntimeError("half way")

    return Frame(schema_of(batch.schema), opener)
