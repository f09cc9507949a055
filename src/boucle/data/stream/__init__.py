"""Streams: messages become versions of a dataset, each message once, whatever is killed when.

The invariant: the newest version says where the stream stood after it (`Dataset.position`), and was written in one transaction
with it. All messages up to there are in the dataset, in its late rows, among the lines that were set aside, or in the rows that
wait for their window, which lie in a blob that the position names; no message after there is in any of them. So whoever begins
anew reads on right after the position and lacks nothing and has nothing twice. The broker is told only afterwards, and what a
queue gives out again is known by its id, of which the position names as many as may not have been acknowledged.
"""

from __future__ import annotations

import io
import json
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from blake3 import blake3

from boucle.core.errors import Conflict, Invalid, Refused, Unavailable
from boucle.core.frames import Frame
from boucle.core.records import Dataset
from boucle.core.refs import check_name
from boucle.core.schema import Schema
from boucle.data import combine, profiles
from boucle.data.stream import decode
from boucle.data.stream.windows import Windows
from boucle.ledger import datasets, tables
from boucle.measure.quality import Profiler
from boucle.ports.place import bare
from boucle.ports.source import BadLine
from boucle.ports.stream import Received, Stream, plugin
from boucle.ports.vault import revealed
from boucle.workspace import Workspace

_WAIT = 0.25  # seconds between looks whether to stop
_QUIET = 1.0  # seconds of nothing after which a stream that does not tell its lag is taken to be read
_BYTES = 64 << 20  # of messages in one version
_SHOWN = 500
_BLOBS = frozenset({"held", "recent"})  # of a position: digests of what is too long for it
_HOPELESS = 1000  # messages none of which can be read


@dataclass(frozen=True, slots=True)
class Step:
    """A version that was made: its rows that are new, what else came, the rate (messages per second) and what is left."""

    dataset: Dataset
    rows: int
    bad: int
    late: int
    messages: int
    rate: float
    lag: int | None
    window: tuple[float, float] | None = None


@dataclass(slots=True)
class Streamed:
    """What came of it. `again` are messages that were given out twice and counted once, `held` rows that wait for a window."""

    dataset: Dataset | None = None
    versions: int = 0
    messages: int = 0
    rows: int = 0
    bad: int = 0
    late: int = 0
    again: int = 0
    held: int = 0
    seconds: float = 0.0
    ended: str = "stopped"  # stopped, most, or once


def stream(
    ws: Workspace,
    url: str,
    name: str,
    *,
    options: Mapping[str, Any] | None = None,
    format: str = "json",
    batch_rows: int = 50_000,
    batch_seconds: float = 5.0,
    window: float | None = None,
    late: float = 0.0,
    event_time: str = "",
    idle: float = 60.0,
    most: int | None = None,
    most_held: int = 1_000_000,
    once: bool = False,
    moved: bool = False,
    on_bad: str = "set_aside",
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[Step], None] = lambda _: None,
) -> Streamed:
    """Append the messages of a stream to the dataset `name`, from where its newest version stands, until `stop` says so.

    A version is made of every `batch_rows` messages, or of what came in `batch_seconds`; no more messages than that are held.
    With `once` it ends when all is read, with `most` after so many messages. `options` go to the stream (`user`, `password`,
    `group`, ...; `vault:NAME` is looked up in the vault) and to the format: `types` (column -> type), `columns` and
    `delimiter` (csv), `schema` and `registry` (avro).

    With `window` (seconds) rows wait until their window closes, and each is a version of its own with the tag `window`. It
    closes when `late` seconds after its end have arrived, going by the column `event_time` (a time, or seconds since the epoch;
    `column:ms` for milliseconds), in every part that brought something in the last `idle` seconds. Rows that come later go to
    `NAME_late`.

    Messages that cannot be read, or do not fit the columns (see `core.schema.evolve`; new columns are taken in), are set aside:
    the tag `bad_lines` of the version. Raises `Invalid` for options that cannot be right, for a first thousand messages none
    of which can be read, and, with `on_bad="fail"`, for any; `Conflict` when another process appends to the dataset, or it came
    from elsewhere (`moved=True` when it is the same stream at another address); `Refused` when more than `most_held` rows wait;
    `Unavailable` when the broker is gone, after what was complete was kept.

        stream(ws, "kafka://localhost:9092/tx", "tx", once=True).dataset.ref  # dataset:tx@7
    """
    check_name(name, "dataset name")
    if on_bad not in ("set_aside", "fail"):
        raise Invalid(f"on_bad={on_bad!r}", expected="set_aside or fail")
    for what, value in (
        ("batch_rows", batch_rows),
        ("batch_seconds", batch_seconds),
        ("most", 1 if most is None else most),
    ):
        if not value > 0:
            raise Invalid(f"{what}={value!r}", expected="more than 0")
    windows = _windows(window, late, event_time, idle)
    url, given, ours = _options(ws, url, options, f"boucle-{name}")
    kept = _Kept(ws, name, shown(url), moved=moved)
    work = _Work(ws, kept, decode.Decoder(format, ours, kept.arrow()), windows, event_time, on_bad, most_held, progress)
    source = plugin(url).subscribe(url, given, kept.position.get("offsets", {}))
    try:
        _run(work, source, batch_rows, batch_seconds, most, once, stop)
    finally:
        source.close()
    return work.result


def _options(
    ws: Workspace, url: str, options: Mapping[str, Any] | None, group: str
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The URL, the options of the stream and those of the format, with the secrets that they refer to."""
    given = revealed(lambda: ws.vault, {"group": group, **(options or {}), "url": url})
    ours = {key: given.pop(key) for key in decode.OPTIONS if key in given}
    return given.pop("url"), given, ours


def preview(
    ws: Workspace, url: str, *, options: Mapping[str, Any] | None = None, format: str = "json", most: int = 1000,
    seconds: float = 5.0,
) -> dict[str, Any]:  # fmt: skip
    """What the first messages of a stream say, storing nothing and acknowledging nothing: rows, columns, bad messages. JSON."""
    url, given, ours = _options(ws, url, options, "boucle-preview")
    decoder = decode.Decoder(format, ours, None)
    source = plugin(url).subscribe(url, given, {})
    try:
        end, messages = time.monotonic() + seconds, list[Received]()
        while len(messages) < most and time.monotonic() < end:
            got = source.receive(most - len(messages), _WAIT)
            messages += got
            if not got and (messages or source.lag() == 0):
                break
        lag = source.lag()
    finally:
        source.close()
    found = decoder.decode(messages)
    schema = Frame.of(found.batch).schema if found.batch is not None else Schema()
    return {
        "messages": len(messages), "rows": len(found.of), "columns": [c.to_json() for c in schema.columns], "lag": lag,
        "bad": [asdict(_bad(messages[i], why)) for i, why in sorted(found.bad.items())],
    }  # fmt: skip


def shown(url: str) -> str:
    """The URL of a stream as it may be written down: without user, password and options. A topic may have any characters."""
    return re.sub(r"\?[^?]*=.*", "", bare(url), flags=re.DOTALL)


def _windows(size: float | None, lateness: float, event_time: str, idle: float) -> Windows | None:
    if size is None:
        if lateness:
            raise Invalid("lateness without a window", expected="both or neither")
        return None
    if not (size > 0 and lateness >= 0 and math.isfinite(size + lateness)):
        raise Invalid(f"a window of {size} and lateness of {lateness} seconds", expected="more than 0, and 0 or more")
    if not event_time:
        raise Invalid("a window goes by the time of events", expected="event_time, the column that says it")
    return Windows(size, lateness, idle)


def _run(
    work: _Work, source: Stream, rows: int, seconds: float, most: int | None, once: bool, stop: Callable[[], bool]
) -> None:
    """Read in batches until it is to end; what is complete is kept however it ends, unless a batch cannot be."""
    batch = min(rows, source.bound or rows)
    if work.windows is not None and source.bound:
        batch = max(1, min(rows, source.bound // 2))  # half may wait for their window while the other half is read
    began, held, size = time.monotonic(), list[Received](), 0
    since = quiet = began
    try:
        while not stop():
            want = min(batch - len(held), most - work.result.messages - len(held)) if most else batch - len(held)
            got = source.receive(min(want, 10_000), _WAIT)
            now = time.monotonic()
            if got:
                since, quiet = (since if held else now), now
                held += got
                size += sum([len(m.value) for m in got])
            over = most is not None and work.result.messages + len(held) >= most
            done = once and not got and _read(source, now - quiet)
            if held and (over or done or len(held) >= batch or size >= _BYTES or now - since >= seconds):
                work.take(held, source)
                held, size = [], 0
            if over or done:
                work.result.ended = "most" if over else "once"
                break
    except Unavailable:
        work.finish(held, source)
        raise
    work.finish(held, source)
    work.result.seconds = time.monotonic() - began


def _read(source: Stream, quiet: float) -> bool:
    lag = source.lag()
    return lag == 0 or (lag is None and quiet >= _QUIET)


class _Kept:
    """The newest version, and where the stream stood after it."""

    def __init__(self, ws: Workspace, name: str, source: str, *, moved: bool) -> None:
        self._ws, self.name, self.source = ws, name, source
        self.newest = datasets.latest(ws, name)
        self.position: dict[str, Any] = dict(self.newest.position) if self.newest else {}
        self._profiler: Profiler | None = None  # of the newest version
        before = self.position.get("stream")
        if self.newest is not None and before is None:
            streamed = next((d for d in datasets.versions(ws, name) if "stream" in d.position), None)
            if streamed is not None or self.position:
                raise Conflict(
                    f"{self.newest.key} did not come from this stream"
                    + (f", as {streamed.key} did" if streamed else ""),
                    expected="nothing but the stream to make versions of it",
                    fix="stream to another name",
                )
        if before not in (None, source) and not moved:
            raise Conflict(
                f"{name} came from {before}, not from {source}",
                expected="the same stream",
                fix="stream to another name, or say that it is the same stream at another address (moved)",
            )

    def arrow(self) -> pa.Schema | None:
        """The types of the rows there are."""
        if self.newest is None:
            return None
        return tables.arrow_of(tables.load_manifest(self._ws.blobs, self.newest.manifest))

    def blob(self, key: str) -> bytes:
        """What the position names besides."""
        return self._ws.blobs.get(self.position[key]) if self.position.get(key) else b""

    def write(
        self, groups: Sequence[tuple[pa.Table, dict[str, Any]]], late: pa.Table | None, bad: Sequence[BadLine],
        position: Mapping[str, Any], arrow: pa.Schema | None,
    ) -> list[Dataset]:  # fmt: skip
        """All of it and the position in one transaction: a version for each group, or else the position alone."""
        ws, name, newest = self._ws, self.name, self.newest
        lines = {"bad_lines": ws.blobs.put(b"".join(_json(asdict(line)) + b"\n" for line in bad))} if bad else {}
        versions: list[tuple[tables.Stored, dict[str, Any], str]] = []
        stored = _stored(newest) if newest is not None else None
        if not groups and stored is None:
            assert arrow is not None
            groups = [(arrow.empty_table(), {})]
        for table, tags in groups:
            earlier, stored = stored, _appended(ws, stored, table)
            versions.append((stored, tags, self._statistics(earlier, stored, table)))
        profiler, self._profiler = self._profiler, None  # what is not committed is not known
        late_name = f"{name}_late"
        late_newest = datasets.latest(ws, late_name) if late is not None else None
        late_stored = _appended(ws, _stored(late_newest) if late_newest else None, late) if late is not None else None
        made: list[Dataset] = []
        with ws.store.transaction():
            now = datasets.latest(ws, name)
            if (now and (now.key, now.position)) != (newest and (newest.key, newest.position)):
                raise Conflict(
                    f"another process made {now.key if now else 'nothing'} while this one read on from "
                    f"{newest.key if newest else 'the beginning'}",
                    expected="one process for one dataset",
                    fix="stop the other, or let it do the work",
                )
            if newest is not None and versions and not _BLOBS.isdisjoint(newest.position):  # of use in the newest only
                ws.store.put(replace(newest, position={k: v for k, v in newest.position.items() if k not in _BLOBS}))
            for i, (each, tags, statistics) in enumerate(versions):
                noted = {**tags, **(lines if i == len(versions) - 1 else {})}
                newest, _ = datasets.commit(
                    ws,
                    name,
                    each,
                    source=self.source,
                    statistics=statistics,
                    tags=noted,
                    position=position,
                    after=newest.key if newest else "",
                )
                made.append(newest)
            if not versions:
                assert newest is not None
                newest, _ = datasets.commit(ws, name, _stored(newest), position=position, after=newest.key)
                if lines:
                    before = ws.blobs.get(newest.tags["bad_lines"]) if "bad_lines" in newest.tags else b""
                    all_lines = ws.blobs.put(before + ws.blobs.get(lines["bad_lines"]))
                    newest = replace(newest, tags={**newest.tags, "bad_lines": all_lines})
                    ws.store.put(newest)
            if late_stored is not None:
                after = late_newest.key if late_newest else ""
                datasets.commit(ws, late_name, late_stored, source=self.source, tags={"late_for": name}, after=after)
        self.newest, self.position, self._profiler = newest, dict(position), profiler
        if made and profiler is not None:
            profiles.keep(ws, made[-1], profiler)
        return made

    def _statistics(self, before: tables.Stored | None, stored: tables.Stored, rows: pa.Table) -> str:
        """The blob with the profile of a version, at the cost of its new rows unless a column is new."""
        if self._profiler is None:
            self._profiler = profiles.continued(self._ws, self.newest) if self.newest else Profiler()
        if before is None or before.schema.names == stored.schema.names:
            batches: Iterable[pa.RecordBatch] = rows.to_batches()
        else:
            self._profiler, batches = Profiler(), tables.read(self._ws.blobs, stored.manifest).batches()
        for batch in batches:
            self._profiler.update(batch)
        return self._ws.blobs.put(_json(self._profiler.result().to_json()))


class _Work:
    """What is made of the messages, batch by batch."""

    def __init__(
        self, ws: Workspace, kept: _Kept, decoder: decode.Decoder, windows: Windows | None, event_time: str,
        on_bad: str, most_held: int, progress: Callable[[Step], None],
    ) -> None:  # fmt: skip
        self._ws, self._kept, self._decoder, self.windows = ws, kept, decoder, windows
        self._column, _, self._unit = event_time.partition(":")
        self._on_bad, self._most_held, self._progress = on_bad, most_held, progress
        self.result = Streamed(kept.newest)
        self._offsets: dict[str, Any] = dict(kept.position.get("offsets", {}))
        recent = kept.blob("recent")
        self._given = Counter(recent[i : i + 8] for i in range(0, len(recent), 8))  # may be given out again
        self._unsure: list[bytes] = []  # ids of messages of which the broker may not know that they are kept
        self._bad: list[BadLine] = []
        self._late: list[pa.RecordBatch] = []
        self._unkept = 0  # messages since the last write
        self._wrote = time.monotonic()
        self._waiting = self._restore()

    def take(self, messages: Sequence[Received], source: Stream) -> None:
        """Decode a batch and keep what is complete."""
        fresh = self._fresh(messages)
        found = self._decoder.decode(fresh)
        batch, of = found.batch, found.of
        if self._kept.newest is not None and "stream" not in self._kept.position and batch is not None:
            said = [n for n in batch.schema.names if batch.column(n).null_count < batch.num_rows]
            combine.check_related(self._kept.newest.key, Schema.from_json(self._kept.newest.schema).names, said)
        self._set_aside([_bad(fresh[i], why) for i, why in sorted(found.bad.items())])
        groups: list[tuple[pa.Table, dict[str, Any]]] = []
        if self._waiting is not None:  # rows that waited for windows that nobody asks for any more
            groups, self._waiting = [(self._waiting, {})], None
        if self.windows is None:
            if batch is not None and batch.num_rows:
                groups.append((pa.Table.from_batches([batch]), {}))
        else:
            if batch is not None and batch.num_rows:
                self._into_windows(self.windows, batch, [fresh[i] for i in of])
            for begin, batches in self.windows.due(self._now()):
                span = {"start": begin, "end": begin + self.windows.size}
                groups.append((_table(batches, self._decoder.arrow), {"window": span}))
        limit = source.bound // 2 if source.bound else 500_000
        if groups or self.windows is None or self._unkept >= limit:
            self._write(groups, source)
        if self.windows is not None and self.windows.rows > self._most_held:
            raise Refused(
                f"{self.windows.rows:,} rows wait for their window",
                expected=f"at most {self._most_held:,} (most_held)",
                fix="a shorter window, less lateness, or a higher limit",
            )

    def finish(self, messages: Sequence[Received], source: Stream) -> None:
        """Keep all that came, also what waits for its window."""
        if messages or self._waiting is not None:
            self.take(messages, source)
        if self._unkept:
            if not self._possible():
                raise self._hopeless()
            self._write([], source)
        self.result.held = self.windows.rows if self.windows is not None else 0

    def _now(self) -> float:
        return self._ws.now()

    def _fresh(self, messages: Sequence[Received]) -> list[Received]:
        """Those that were not kept already."""
        out = []
        for message in messages:
            self._offsets[message.part] = message.offset
            if message.id:
                id = blake3(message.id.encode(errors="surrogateescape")).digest(8)
                self._unsure.append(id)
                if message.again and self._given[id] > 0:
                    self._given[id] -= 1
                    self.result.again += 1
                    continue
            out.append(message)
        self._unkept += len(messages)
        self.result.messages += len(messages)
        return out

    def _set_aside(self, bad: Sequence[BadLine]) -> None:
        if bad and self._on_bad == "fail":
            raise Invalid(
                f"a message cannot be taken in: {bad[0].why}",
                expected="messages that can be read and fit the columns",
                fix="mend who sends them, or let them be set aside",
            )
        self._bad += bad
        self.result.bad += len(bad)

    def _into_windows(self, windows: Windows, batch: pa.RecordBatch, messages: Sequence[Received]) -> None:
        if self._column not in batch.schema.names:
            if not windows.times:  # not one event had it yet: a name that is wrong, and everything would be set aside
                raise Invalid(
                    f"no message has the event time {self._column!r}",
                    expected=f"one of the columns {', '.join(batch.schema.names[:8])}",
                    fix="--event-time COLUMN",
                )
            times = pa.nulls(batch.num_rows, pa.float64())
        else:
            times = decode.seconds(batch.column(self._column), self._unit)
        known = times.is_valid()
        if times.null_count:
            why = f"no event time in column {self._column!r}"
            self._set_aside([_bad(m, why) for m, ok in zip(messages, known.to_pylist(), strict=True) if not ok])
            messages = [m for m, ok in zip(messages, known.to_pylist(), strict=True) if ok]
            batch, times = batch.filter(known), times.filter(known)
        late = windows.add(batch, np.asarray(times), [m.part for m in messages], self._now())
        if late.num_rows:
            self._late.append(late)
            self.result.late += late.num_rows

    def _possible(self) -> bool:
        """Whether there is anything yet that a position could be kept with."""
        return self._kept.newest is not None or self._decoder.arrow is not None

    def _hopeless(self) -> Invalid:
        return Invalid(
            f"none of the first {len(self._bad):,} messages can be read: {self._bad[0].why}",
            expected="messages of the format",
            fix="name the format of the messages: json, avro, text, bytes or csv",
        )

    def _write(self, groups: Sequence[tuple[pa.Table, dict[str, Any]]], source: Stream) -> None:
        if not self._possible():
            if len(self._bad) >= min(_HOPELESS, source.bound or _HOPELESS):
                raise self._hopeless()
            return
        late = _table(self._late, self._decoder.arrow) if self._late else None
        made = self._kept.write(groups, late, self._bad, self._position(source), self._decoder.arrow)
        source.acknowledge(self._offsets)
        now = time.monotonic()
        rate = self._unkept / max(now - self._wrote, 1e-9)
        lag = source.lag() if made else None
        for i, dataset in enumerate(made):
            rows = groups[i][0].num_rows if groups else 0
            span = groups[i][1].get("window") if groups else None
            last = i == len(made) - 1
            self._progress(
                Step(
                    dataset, rows, len(self._bad) if last else 0, (late.num_rows if late is not None else 0) if last else 0,
                    self._unkept if last else 0, rate, lag, (span["start"], span["end"]) if span else None,
                )
            )  # fmt: skip
            self.result.rows += rows
        self.result.versions += len(made)
        self.result.dataset = self._kept.newest
        self._bad, self._late, self._unsure = [], [], []
        self._unkept, self._wrote = 0, now

    def _position(self, source: Stream) -> dict[str, Any]:
        position: dict[str, Any] = {"stream": self._kept.source, "offsets": dict(self._offsets)}
        if self._unsure and source.bound:
            position["recent"] = self._ws.blobs.put(b"".join(self._unsure))
        if self.windows is not None:
            position |= {"times": dict(self.windows.times)}
            if math.isfinite(self.windows.closed):
                position["closed"] = self.windows.closed
            if self.windows.held:
                batches = [b for begin in sorted(self.windows.held) for b in self.windows.held[begin]]
                position["held"] = self._ws.blobs.put(_packed(_table(batches, self._decoder.arrow)))
        return position

    def _restore(self) -> pa.Table | None:
        """Rows that waited for their window, put back into windows of the size there is now; returned where there are none."""
        position, data = self._kept.position, self._kept.blob("held")
        rows = pa.ipc.open_stream(pa.py_buffer(data)).read_all() if data else None
        if rows is not None and self._decoder.arrow is not None:
            names = [f for f in rows.schema if self._decoder.arrow.get_field_index(f.name) < 0]
            for new in names:
                self._decoder.arrow = self._decoder.arrow.append(new)
        if self.windows is None:
            return rows
        self.windows.times = dict(position.get("times", {}))
        self.windows.closed = position.get("closed", -math.inf)
        if rows is not None:
            if self._column not in rows.schema.names:
                raise Invalid(f"rows wait that have no column {self._column!r}", expected="the event_time of before")
            for batch in rows.to_batches():
                times = decode.seconds(batch.column(self._column), self._unit).fill_null(0.0)
                self.windows.hold(batch, np.floor(np.asarray(times) / self.windows.size) * self.windows.size)
        return None


def _stored(dataset: Dataset) -> tables.Stored:
    return tables.Stored(dataset.manifest, dataset.digest, dataset.rows, dataset.size, Schema.from_json(dataset.schema))


def _appended(ws: Workspace, before: tables.Stored | None, rows: pa.Table) -> tables.Stored:
    """The rows there were and these; only a new column costs reading what there was."""
    if before is None:
        return tables.write(ws.blobs, Frame.of(rows))
    if tables.arrow_of(tables.load_manifest(ws.blobs, before.manifest)).equals(rows.schema):
        return tables.append(ws.blobs, before.manifest, Frame.of(rows))
    there, wanted = tables.read(ws.blobs, before.manifest), rows.schema

    def opener(columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        chosen = wanted if columns is None else pa.schema([wanted.field(n) for n in columns])
        for batch in there.batches():
            yield _widened(pa.Table.from_batches([batch]), chosen).to_batches()[0]
        yield from _widened(rows, chosen).to_batches()

    return tables.write(ws.blobs, Frame(Frame.of(rows).schema, opener))


def _widened(table: pa.Table, arrow: pa.Schema) -> pa.Table:
    """The same rows with these columns, null where a column was not there yet."""
    if table.schema.equals(arrow):
        return table
    columns = [
        table.column(f.name).cast(f.type) if f.name in table.column_names else pa.nulls(table.num_rows, f.type)
        for f in arrow
    ]
    return pa.Table.from_arrays(columns, schema=arrow)


def _table(batches: Sequence[pa.RecordBatch], arrow: pa.Schema | None) -> pa.Table:
    """Batches, some from before a column was new, as one table."""
    assert arrow is not None
    return pa.concat_tables([_widened(pa.Table.from_batches([b]), arrow) for b in batches]).combine_chunks()


def _packed(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _bad(message: Received, why: str) -> BadLine:
    where = f"part {message.part}, offset {message.offset}" if message.part else f"offset {message.offset}"
    number = message.offset if isinstance(message.offset, int) else 0
    return BadLine(number, message.value[:_SHOWN].decode(errors="backslashreplace"), f"{why} ({where})")


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode(
        errors="backslashreplace"
    )
