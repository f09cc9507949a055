"""Streams into datasets, with a broker that lies in memory."""

import datetime as dt
import io
import json
import math
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import boucle
from boucle.core.errors import Conflict, Invalid, NotFound, Refused, Unavailable
from boucle.data import stream as data_stream
from boucle.data.ingest import bad_lines, ingest
from boucle.data.stream import preview, shown, stream
from boucle.data.stream.decode import Decoder, seconds
from boucle.data.stream.windows import Windows
from boucle.ledger import datasets
from boucle.measure.quality import Profile, profile
from boucle.ports.stream import Received


class Broker:
    """A log of parts, or with `queue` a queue; keeps what it was told."""

    name, schemes = "memory", ("memory",)

    def __init__(self) -> None:
        self.log: list[Received] = []
        self.acknowledged: list[dict[str, Any]] = []
        self.queue = 0
        self.held = self.most = 0
        self.fails_after = -1
        self.options: Mapping[str, Any] = {}

    def add(self, *values: Any, part: str = "0") -> None:
        for value in values:
            raw = value if isinstance(value, bytes) else json.dumps(value).encode()
            at = sum(m.part == part for m in self.log)
            self.log.append(Received(raw, part, at, id=f"{part}-{at}" if self.queue else ""))

    def subscribe(self, url: str, options: Mapping[str, Any], positions: Mapping[str, Any]) -> "Broker":
        self.options = options
        done = self.acknowledged[-1] if self.acknowledged and self.queue else {} if self.queue else positions
        self.left = [m for m in self.log if m.offset > done.get(m.part, -1)]
        for m in self.left:
            m.again = bool(self.queue)
        self.out = self.reads = 0
        return self

    @property
    def bound(self) -> int:
        return self.queue

    def receive(self, most: int, seconds: float) -> list[Received]:
        if self.fails_after == self.reads:
            raise Unavailable("gone")
        self.reads += 1
        most = min(most, self.queue - self.out) if self.queue else most
        got, self.left = self.left[:most], self.left[most:]
        self.out += len(got)
        self.most = max(self.most, self.out)
        return got

    def acknowledge(self, positions: Mapping[str, Any]) -> None:
        self.acknowledged.append(dict(positions))
        self.out = 0

    def lag(self) -> int | None:
        return len(self.left)

    def close(self) -> None:
        pass


URL = "memory://host/topic"


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    made = Broker()
    monkeypatch.setattr(data_stream, "plugin", lambda url: made)
    return made


@pytest.fixture
def ws(tmp_path: Path) -> Any:
    with boucle.init(tmp_path) as opened:
        yield opened


def rows(ws: Any, name: str = "tx") -> list[dict[str, Any]]:
    return datasets.load(ws, name).table().to_pylist()


def whys(ws: Any, name: str = "tx") -> list[str]:
    return [b.why for d in reversed(datasets.versions(ws, name)) for b in bad_lines(ws, d)]


def read(ws: Any, name: str = "tx", **options: Any) -> Any:
    return stream(ws, URL, name, once=True, **options)


def test_a_version_has_so_many_rows_and_the_position(ws: Any, broker: Broker) -> None:
    broker.add(*({"n": n, "s": f"x{n}"} for n in range(25)))
    steps: list[Any] = []
    done = read(ws, batch_rows=10, progress=steps.append)
    assert (done.versions, done.messages, done.rows, done.ended) == (3, 25, 25, "once")
    assert [(s.dataset.key, s.rows, s.lag) for s in steps] == [("tx@1", 10, 15), ("tx@2", 10, 5), ("tx@3", 5, 0)]
    assert [d.rows for d in datasets.versions(ws, "tx")] == [25, 20, 10]
    assert [d.position["offsets"] for d in datasets.versions(ws, "tx")] == [{"0": 24}, {"0": 19}, {"0": 9}]
    assert broker.acknowledged == [{"0": 9}, {"0": 19}, {"0": 24}]
    assert rows(ws) == [{"n": n, "s": f"x{n}"} for n in range(25)]
    assert broker.options == {"group": "boucle-tx"}


def test_who_begins_anew_reads_on(ws: Any, broker: Broker) -> None:
    broker.add({"n": 0}, {"n": 1})
    assert read(ws).dataset.key == "tx@1"
    assert read(ws).versions == 0
    broker.add({"n": 2})
    broker.add({"n": 3}, part="1")
    assert read(ws).dataset.position["offsets"] == {"0": 2, "1": 0}
    assert [r["n"] for r in rows(ws)] == [0, 1, 2, 3]


def test_the_content_is_that_of_a_table_in_one_piece(ws: Any, broker: Broker) -> None:
    values = [{"n": n, "s": None if n % 3 else "x"} for n in range(100)]
    broker.add(*values)
    streamed = read(ws, batch_rows=7).dataset
    assert streamed.digest == ingest(ws, pa.Table.from_pylist(values), "whole").dataset.digest


def test_each_version_has_its_statistics(ws: Any, broker: Broker) -> None:
    for start in (0, 10, 20):
        broker.add(*({"id": i, "word": f"w{i % 3}"} for i in range(start, start + 10)))
        read(ws, batch_rows=5)
    broker.add({"id": 30, "word": None, "new": 1.5})
    read(ws)
    for dataset in datasets.versions(ws, "tx"):
        kept = Profile.from_json(json.loads(ws.blobs.get(dataset.statistics)))
        assert kept == profile(datasets.frame(ws, dataset))
    assert kept.rows == 5


def test_it_ends_after_so_many_or_when_it_is_told(ws: Any, broker: Broker) -> None:
    broker.add(*({"n": n} for n in range(30)))
    done = stream(ws, URL, "tx", most=12, batch_rows=5)
    assert (done.messages, done.ended) == (12, "most")
    asked = iter([False, False, True])
    done = stream(ws, URL, "tx", batch_rows=4, stop=lambda: next(asked))
    assert (done.messages, done.ended) == (8, "stopped")
    assert len(rows(ws)) == 20


def test_what_came_is_kept_when_the_broker_goes(ws: Any, broker: Broker) -> None:
    broker.add({"n": 1})
    broker.fails_after = 1
    with pytest.raises(Unavailable):
        read(ws)
    assert rows(ws) == [{"n": 1}]


def test_what_cannot_be_read_is_set_aside(ws: Any, broker: Broker) -> None:
    broker.add(
        {"n": 1}, b"oops", [1], {"n": "x"}, b"", b"\xff", {"n": 2.5}, {"n": 2**70}, {"n": 3.0}, {}, b"[" * 100_000
    )
    done = read(ws)
    assert (done.rows, done.bad) == (3, 8)
    assert rows(ws) == [{"n": 1}, {"n": 3}, {"n": None}]
    (first, *_), said = bad_lines(ws, done.dataset), whys(ws)
    assert (first.number, first.text) == (1, "oops")
    assert "(part 0, offset 1)" in first.why
    assert "a JSON list, not an object" in said[1]
    assert "column 'n' is \"x\", expected an integer (int64), or null" in said[2]
    broker.add(b"again", {"n": 4})
    assert read(ws).bad == 1
    assert [d.rows for d in datasets.versions(ws, "tx")] == [4, 3]


def test_where_only_bad_ones_came_the_position_moves_on(ws: Any, broker: Broker) -> None:
    broker.add({"n": 1}, b"a")
    read(ws)
    broker.add(b"b", b"c")
    done = read(ws)
    assert (done.versions, done.dataset.key, done.dataset.position["offsets"]) == (0, "tx@1", {"0": 3})
    assert [b.text for b in bad_lines(ws, done.dataset)] == ["a", "b", "c"]
    assert read(ws).messages == 0


def test_a_format_that_is_none_is_noticed(ws: Any, broker: Broker) -> None:
    broker.add(*[b"x"] * 5)
    with pytest.raises(Invalid, match="none of the first 5 messages"):
        read(ws)
    broker.add(*[b"x"] * 3000)
    with pytest.raises(Invalid, match="none of the first"):
        stream(ws, URL, "tx", batch_rows=100)
    assert datasets.names(ws) == []
    assert broker.acknowledged == []


def test_strict_fails_and_keeps_what_was_before(ws: Any, broker: Broker) -> None:
    broker.add({"n": 1}, {"n": 2}, b"x")
    with pytest.raises(Invalid, match="not JSON"):
        read(ws, batch_rows=2, on_bad="fail")
    assert datasets.versions(ws, "tx")[0].position["offsets"] == {"0": 1}


def test_a_new_column_is_taken_in_and_null_before(ws: Any, broker: Broker) -> None:
    broker.add({"n": 1, "u": None})
    read(ws)
    broker.add({"n": 2}, {"n": 3, "more": [1], "u": "now"}, {"n": 4, "more": "x"})
    done = read(ws)
    assert done.bad == 1
    assert rows(ws) == [
        {"n": 1, "u": None, "more": None}, {"n": 2, "u": None, "more": None}, {"n": 3, "u": "now", "more": [1]},
    ]  # fmt: skip
    assert [d.rows for d in datasets.versions(ws, "tx")] == [3, 1]
    broker.add({"more": [2], "n": 5, "u": "x"})
    read(ws)
    assert rows(ws)[-1] == {"n": 5, "u": "x", "more": [2]}


def test_types_are_those_of_the_dataset(ws: Any, broker: Broker) -> None:
    before = pa.table(
        {"d": pa.array([dt.date(2026, 1, 1)]), "x": pa.array([1.5], pa.float32()), "n": pa.array([1], pa.int8())}
    )
    ingest(ws, before, "tx")
    broker.add({"d": "2026-01-02", "x": 1, "n": 2}, {"d": "x"}, {"n": 300}, {"s": {}})
    done = read(ws)
    assert (done.rows, done.bad) == (1, 3)
    assert datasets.load(ws, "tx").table().schema.types == [pa.date32(), pa.float32(), pa.int8()]


def test_a_queue_gives_out_no_more_than_its_bound_and_nothing_counts_twice(ws: Any, broker: Broker) -> None:
    broker.queue = 10
    broker.add(*({"n": n} for n in range(45)))
    read(ws, batch_rows=1000)
    assert broker.most == 10
    kept = broker.acknowledged.copy()
    broker.acknowledged = kept[:-1]  # the last acknowledgement was lost: its messages are given out again
    broker.add({"n": 45})
    done = read(ws)
    assert (done.again, done.rows) == (5, 1)
    assert [r["n"] for r in rows(ws)] == list(range(46))
    broker.acknowledged = kept[:-1]  # and again, with those that were not new
    assert (done := read(ws)).again == 6
    assert [r["n"] for r in rows(ws)] == list(range(46))


def test_two_processes_do_not_both_append(ws: Any, broker: Broker) -> None:
    broker.add({"n": 1}, {"n": 2})

    def other(_: Any) -> None:
        second = Broker()
        second.log = broker.log
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(data_stream, "plugin", lambda url: second)
            read(ws)

    with pytest.raises(Conflict, match=r"another process|latest version"):
        stream(ws, URL, "tx", batch_rows=1, once=True, progress=other)
    assert [r["n"] for r in rows(ws)] == [1, 2]


def test_another_stream_is_refused(ws: Any, broker: Broker) -> None:
    broker.add({"n": 1})
    read(ws)
    with pytest.raises(Conflict, match="moved"):
        stream(ws, "memory://other/topic", "tx", once=True)
    assert stream(ws, "memory://u:never-shown@other/topic", "tx", once=True, moved=True).messages == 0
    ingest(ws, pa.table({"n": [5]}), "tx")
    with pytest.raises(Conflict, match="tx@2 did not come from this stream, as tx@1 did"):
        read(ws)


def test_no_secret_is_kept(ws: Any, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOUCLE_SECRET_STREAM_PASSWORD", "never-shown")
    broker.add({"n": 1})
    dataset = stream(
        ws, "memory://u:never-shown@host/topic/#", "tx", once=True, options={"password": "vault:STREAM_PASSWORD"}
    ).dataset
    assert broker.options["password"] == "never-shown"
    assert dataset.source == "memory://host/topic/#"
    assert "never-shown" not in f"{dataset}{ws.store.events()}"
    assert shown("kafka://a:1,b:2/t") == "kafka://a:1,b:2/t"


@pytest.mark.parametrize(
    "wrong",
    [{"batch_rows": 0}, {"batch_seconds": 0}, {"most": 0}, {"late": 1.0}, {"window": 0.0, "event_time": "t"}, {"window": 5.0},
     {"format": "xml"}, {"on_bad": "x"}, {"format": "csv"}, {"window": math.inf, "event_time": "t"}],
)  # fmt: skip
def test_what_cannot_be_right_is_refused(ws: Any, broker: Broker, wrong: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        stream(ws, URL, "tx", **wrong)


# --- windows --------------------------------------------------------------------------------------------------------


def at(*times: float, **more: Any) -> Iterable[dict[str, Any]]:
    return ({"t": t, **more} for t in times)


WINDOW = {"window": 10.0, "event_time": "t"}


def test_a_window_is_a_version_and_what_is_late_is_not_lost(ws: Any, broker: Broker) -> None:
    broker.add(*at(1, 5, 12, 3, 21, 22, 4, 33))
    done = read(ws, batch_rows=3, **WINDOW)
    versions = list(reversed(datasets.versions(ws, "tx")))
    assert [d.tags["window"] for d in versions] == [{"start": s, "end": s + 10.0} for s in (0.0, 10.0, 20.0)]
    assert [r["t"] for r in rows(ws)] == [1, 5, 12, 21, 22]
    assert [r["t"] for r in rows(ws, "tx_late")] == [3, 4]
    assert (done.late, done.held) == (2, 1)
    again = read(ws, batch_rows=3, **WINDOW)
    assert (again.messages, again.held) == (0, 1)
    broker.add(*at(34, 40))
    assert read(ws, **WINDOW).held == 1
    assert [r["t"] for r in rows(ws)] == [1, 5, 12, 21, 22, 33, 34]


def test_rows_may_be_late_as_long_as_is_allowed(ws: Any, broker: Broker) -> None:
    broker.add(*at(1, 14, 2, 15, 3, 25))
    done = read(ws, batch_rows=1, late=5.0, **WINDOW)
    assert [r["t"] for r in rows(ws)] == [1, 2, 14, 15]
    assert [r["t"] for r in rows(ws, "tx_late")] == [3]
    assert done.held == 1


def test_a_part_that_is_ahead_closes_nothing_for_another(ws: Any, broker: Broker) -> None:
    broker.add(*at(1), part="a")
    broker.add(*at(1), part="b")
    broker.add(*at(100), part="a")
    broker.add(*at(2), part="b")
    done = read(ws, batch_rows=1, **WINDOW)
    assert (done.late, done.rows, done.held) == (0, 0, 4)
    broker.add(*at(50), part="b")
    assert read(ws, batch_rows=1, **WINDOW).rows == 3


def test_a_clock_that_is_far_ahead_closes_nothing(ws: Any, broker: Broker) -> None:
    broker.add(*at(1, 4e9, 2, 12))
    done = read(ws, batch_rows=1, **WINDOW)
    assert (done.late, done.rows, done.held) == (0, 2, 2)


def test_without_windows_what_waits_is_taken_in(ws: Any, broker: Broker) -> None:
    broker.add(*at(1, 12, 13), {"t": 14, "more": 1})
    assert read(ws, **WINDOW).held == 3
    done = read(ws)
    assert (done.rows, done.held, done.messages) == (3, 0, 0)
    assert sorted(r["t"] for r in rows(ws)) == [1, 12, 13, 14]
    assert read(ws).rows == 0


def test_windows_of_another_size_take_over_what_waits(ws: Any, broker: Broker) -> None:
    broker.add(*at(1, 12, 13))
    read(ws, **WINDOW)
    broker.add(*at(16))
    done = read(ws, window=5.0, event_time="t")
    assert (done.rows, done.held) == (2, 1)
    with pytest.raises(Invalid, match="no column 'other'"):
        read(ws, window=5.0, event_time="other")


def test_a_row_without_event_time_is_set_aside(ws: Any, broker: Broker) -> None:
    broker.add({"t": "2026-11-01T10:00:00Z"}, {"t": "noon"}, {"t": None}, {"t": "2026-11-01T10:05:00+00:00"})
    done = read(ws, window=60.0, event_time="t")
    assert (done.rows, done.bad, done.held) == (1, 2, 1)
    assert "no event time" in whys(ws)[0]


def test_an_event_time_that_no_message_has_sets_nothing_aside(ws: Any, broker: Broker) -> None:
    broker.add(*at(1, 2))
    with pytest.raises(Invalid, match="no message has the event time 'when'"):
        read(ws, window=5.0, event_time="when")
    assert not datasets.names(ws)
    assert not broker.acknowledged


def test_a_stream_goes_on_from_a_table_of_its_kind_alone(ws: Any, broker: Broker) -> None:
    ingest(ws, [{"n": -1}], "tx")
    ingest(ws, [{"other": "x"}], "another")
    broker.add({"n": 0})
    assert [r["n"] for r in (read(ws), rows(ws))[1]] == [-1, 0]
    with pytest.raises(Refused, match="share no column with another@1"):
        read(ws, "another")
    assert len(datasets.versions(ws, "another")) == 1


def test_too_many_that_wait_are_said(ws: Any, broker: Broker) -> None:
    broker.add(*at(*range(100, 150)))
    with pytest.raises(Refused, match="most_held"):
        read(ws, window=1000.0, event_time="t", most_held=20, batch_rows=10)


def test_a_queue_goes_on_while_rows_wait(ws: Any, broker: Broker) -> None:
    broker.queue = 10
    broker.add(*at(*range(100, 160)))
    done = read(ws, window=1000.0, event_time="t")
    assert (done.messages, done.held, done.dataset.rows) == (60, 60, 0)
    assert broker.most <= 10
    broker.add(*at(1100))
    assert read(ws, window=1000.0, event_time="t").rows == 60


@given(
    st.lists(st.tuples(st.integers(0, 200), st.sampled_from("ab")), max_size=60), st.integers(1, 30), st.integers(0, 20)
)
def test_each_row_is_in_one_place(seen: list[tuple[int, str]], size: int, lateness: int) -> None:
    windows = Windows(float(size), float(lateness), idle=1e9)
    closed: list[tuple[float, int]] = []
    late: list[int] = []
    for moment, part in seen:
        batch = pa.RecordBatch.from_pydict({"t": [moment]})
        late += windows.add(batch, seconds(batch.column("t"), "s").to_numpy(), [part], now=1e9).column("t").to_pylist()
        closed += [(begin, t) for begin, found in windows.due(1e9) for b in found for t in b.column("t").to_pylist()]
    waiting = [t for found in windows.held.values() for b in found for t in b.column("t").to_pylist()]
    assert sorted([t for _, t in closed] + late + waiting) == sorted(t for t, _ in seen)
    assert all(begin <= t < begin + size for begin, t in closed)
    assert all(t // size * size + size > windows.closed for t in waiting)
    assert [begin for begin, _ in closed] == sorted(begin for begin, _ in closed)


# --- formats --------------------------------------------------------------------------------------------------------


def decoded(format: str, values: list[bytes], **options: Any) -> Any:
    return Decoder(format, options, None).decode([Received(v, "0", i) for i, v in enumerate(values)])


def test_text_and_bytes() -> None:
    found = decoded("text", ["größe".encode(), b"\xff"])
    assert found.batch.to_pylist() == [{"text": "größe"}]
    assert list(found.bad) == [1]
    assert decoded("bytes", [b"\xff", b""]).batch.to_pylist() == [{"bytes": b"\xff"}, {"bytes": b""}]


def test_csv() -> None:
    values = [b"1,2.5,x", b'2,,"a,b"\r\n', b"x,1,y", b"1,2", b"1,2,3\n4,5,6", b'1,2,"open']
    decoder = Decoder("csv", {"columns": "n,x,s", "types": {"n": "int64"}}, None)
    found = decoder.decode([Received(v, "0", i) for i, v in enumerate(values)])
    assert found.batch.to_pylist() == [{"n": 1, "x": 2.5, "s": "x"}, {"n": 2, "x": None, "s": "a,b"}]
    assert sorted(found.bad) == [2, 3, 4, 5]
    more = decoder.decode([Received(b"7,8,9", "0", 9), Received(b"7.5,8,9", "0", 9)])
    assert (more.batch.to_pylist(), list(more.bad)) == ([{"n": 7, "x": 8.0, "s": "9"}], [1])


SCHEMA = {
    "type": "record", "name": "tx", "fields": [
        {"name": "n", "type": "long"}, {"name": "s", "type": ["null", "string"]},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
    ],
}  # fmt: skip
ROW = {"n": 1, "s": "x", "at": dt.datetime(2026, 11, 1, tzinfo=dt.UTC)}


def avro(row: dict[str, Any], container: bool = False) -> bytes:
    sink = io.BytesIO()
    if container:
        fastavro.writer(sink, SCHEMA, [row])
    else:
        fastavro.schemaless_writer(sink, SCHEMA, row)
    return sink.getvalue()


def test_avro(tmp_path: Path) -> None:
    file = tmp_path / "tx.avsc"
    file.write_text(json.dumps(SCHEMA))
    for given_schema in (SCHEMA, json.dumps(SCHEMA), str(file)):
        found = decoded(
            "avro", [avro(ROW), avro(ROW)[:-3], avro(ROW, container=True), avro(ROW) + b"x"], schema=given_schema
        )
        assert found.batch.to_pylist() == [ROW, ROW]
        assert sorted(found.bad) == [1, 3]
    assert "no schema" in decoded("avro", [b"\x02" + avro(ROW)]).bad[0]
    for wrong in ("{", '{"type": "nothing"}'):
        with pytest.raises(Invalid):
            decoded("avro", [], schema=wrong)
    with pytest.raises(NotFound):
        decoded("avro", [], schema="nowhere.avsc")


def test_avro_with_a_registry() -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Registry(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/schemas/ids/7"
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(json.dumps({"schema": json.dumps(SCHEMA)}).encode() if found else b"{}")

        def log_message(self, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Registry) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        values = [b"\0" + n.to_bytes(4, "big") + avro(ROW) for n in (7, 8, 7)]
        found = decoded("avro", values, registry=f"http://127.0.0.1:{server.server_port}/")
        server.shutdown()
        thread.join()
    assert found.batch.to_pylist() == [ROW, ROW]
    assert "no schema 8" in found.bad[1]
    assert "option registry" in decoded("avro", values).bad[0]


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from("abc"),
            st.none() | st.integers(-(2**70), 2**70) | st.floats() | st.booleans() | st.text(max_size=4),
        )
    )
)
def test_the_quick_way_reads_the_same(values: list[dict[str, Any]]) -> None:
    arrow = pa.schema([("a", pa.int64()), ("b", pa.float64()), ("c", pa.string())])
    messages = [Received(json.dumps(v).encode(), "0", i) for i, v in enumerate(values)]
    quick, slow = Decoder("json", {}, arrow), Decoder("json", {}, arrow)
    slow._quick = lambda _: None  # type: ignore[method-assign]
    first, second = quick.decode(messages), slow.decode(messages)
    assert first.of == second.of
    assert first.bad == second.bad
    assert repr(first.batch and first.batch.to_pylist()) == repr(second.batch and second.batch.to_pylist())


@pytest.mark.parametrize(
    ("values", "unit", "expected"),
    [
        (pa.array([0, 90]), "s", [0.0, 90.0]),
        (pa.array([1500, None]), "ms", [1.5, None]),
        (pa.array([1.5, math.nan, math.inf]), "s", [1.5, None, None]),
        (pa.array([dt.datetime(1970, 1, 1, 0, 1)]), "s", [60.0]),
        (pa.array([dt.date(1970, 1, 2)]), "s", [86400.0]),
        (pa.array(["1970-01-01T01:00:00+01:00"]), "s", [0.0]),
        (pa.array(["1970-01-01T00:00:10", "x"]), "s", [10.0, None]),
        (pa.array([True]), "s", [None]),
    ],
)
def test_event_times(values: pa.Array, unit: str, expected: list[float | None]) -> None:
    assert seconds(values, unit).to_pylist() == expected


def test_a_look_keeps_nothing(ws: Any, broker: Broker) -> None:
    broker.add({"n": 1}, b"x", {"n": 2, "s": "y"})
    seen = preview(ws, URL)
    assert (seen["messages"], seen["rows"], seen["lag"]) == (3, 2, 0)
    assert [(c["name"], c["type"]) for c in seen["columns"]] == [("n", "int64"), ("s", "string")]
    assert len(seen["bad"]) == 1
    assert (datasets.names(ws), broker.acknowledged) == ([], [])
