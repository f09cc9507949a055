"""Runs: params, metrics, tags and files of one execution, kept while it goes on and for good when it ends.

A metric call appends one line to a file of the run and returns: nothing waits for the store, and nothing that was logged
is lost when the process is killed. The file is moved into the store when the run ends, every few thousand points, or by
`recover` when the process died.
"""

from __future__ import annotations

import json
import operator
import os
import platform
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boucle.core.errors import Conflict, Invalid, NotFound, Unavailable
from boucle.core.records import Artifact, Edge, Points, Run
from boucle.core.refs import Ref, new_id
from boucle.core.schema import jsonable
from boucle.core.where import Where, field
from boucle.ledger import code as codes
from boucle.ledger import environment, recording

if TYPE_CHECKING:
    from boucle.workspace import Workspace

FLUSH_POINTS = 10_000  # points held in memory before they go to the store
_HOST = platform.node()
_STATE = ("record", "_stored", "_next", "_params", "_tags", "_last", "_buffer", "_held", "_reads", "_edges")


class Tracked:
    """A run that is going on. Made by `track`; safe to use from several threads."""

    __slots__ = (
        "_buffer", "_edges", "_held", "_last", "_live", "_lock", "_next", "_params", "_reads", "_stored", "_tags",
        "record", "ws",
    )  # fmt: skip

    def __init__(self, ws: Workspace, record: Run, stored: bool = False) -> None:
        self.ws = ws
        self.record = record
        self._stored = stored
        self._lock = threading.Lock()
        self._next: dict[str, int] = {}
        self._params: dict[str, Any] = dict(record.params)
        self._tags: dict[str, Any] = {}
        self._last: dict[str, float] = {}
        self._buffer: dict[str, tuple[list[int], list[float], list[float]]] = {}
        self._held = 0
        self._live = -1
        self._reads: dict[str, str] = {}
        self._edges: dict[tuple[str, str], None] = {}

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def run(self) -> str:
        return self.record.id

    @property
    def used(self) -> list[str]:
        return [target for relation, target in self._edges if relation == "used"]

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Settings of the run: JSON values by name. A name logged twice with another value raises `Conflict`."""
        for name, value in params.items():
            clean = jsonable(value)
            if self._params.setdefault(name, clean) != clean:
                raise Conflict(
                    f"param {name!r} is {self._params[name]!r} already and cannot become {clean!r}",
                    expected="one value per param and run",
                    fix="log it as a metric, or start another run",
                )

    def log_metric(self, name: str, value: float, step: int | None = None) -> None:
        """One number now. `step` defaults to one more than the last of this name, beginning at 0."""
        now = time.time()
        number = _number(name, value)
        with self._lock:
            at = self._next.get(name, 0) if step is None else _whole(step)
            series = self._buffer.get(name)
            if series is None:
                _named(name)
            self._append(f"{at} {now!r} {number!r} {name}\n")
            if series is None:
                series = self._buffer[name] = ([], [], [])
            self._next[name] = at + 1
            series[0].append(at)
            series[1].append(now)
            series[2].append(number)
            self._last[name] = number
            self._held += 1
            if self._held >= FLUSH_POINTS:
                self._flush()

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Several numbers of one step, in one write; all of them or, when one is no number, none."""
        now = time.time()
        numbers = {_named(name): _number(name, value) for name, value in metrics.items()}
        with self._lock:
            places = {n: self._next.get(n, 0) if step is None else _whole(step) for n in numbers}
            self._append("".join(f"{places[n]} {now!r} {number!r} {n}\n" for n, number in numbers.items()))
            for name, number in numbers.items():
                series = self._buffer.setdefault(name, ([], [], []))
                self._next[name] = places[name] + 1
                series[0].append(places[name])
                series[1].append(now)
                series[2].append(number)
                self._last[name] = number
            self._held += len(numbers)
            if self._held >= FLUSH_POINTS:
                self._flush()

    def tag(self, **tags: Any) -> None:
        """Words to find the run by."""
        self._tags.update({k: jsonable(v) for k, v in tags.items()})

    def log_file(self, path: str | Path, name: str = "") -> Artifact:
        """Keep a file (a plot, a report, a table) with the run."""
        source = Path(path)
        if not source.is_file():
            raise NotFound(f"no file {source}", expected="a file that exists")
        digest = self.ws.blobs.put(source)
        artifact = Artifact(
            digest=digest,
            name=name or source.name,
            type="file",
            value={"codec": "file", "blob": digest, "name": source.name},
            size=source.stat().st_size,
            run=self.id,
            created=time.time(),
        )
        if self.ws.store.get(Artifact, digest) is None:
            self.ws.store.put(artifact)
        self.made(str(artifact))
        return artifact

    @property
    def reads(self) -> dict[str, str]:
        """What the body read by itself, as it was asked for -> the digest it had."""
        return self._reads

    @property
    def links(self) -> list[tuple[str, str]]:
        """(relation, target) of the edges so far."""
        return list(self._edges)

    def read(self, ref: str, digest: str, asked: str) -> None:
        self.link("used", ref)
        self.depend(asked, digest)

    def depend(self, asked: str, digest: str) -> None:
        """The result depends on this having this digest."""
        self._reads[asked] = digest

    def made(self, ref: str) -> None:
        self.link("made", ref)

    def link(self, relation: str, target: str) -> None:
        """Tie the run to something when it ends."""
        self._edges[(relation, target)] = None

    def state(self) -> dict[str, Any]:
        """All that it holds, for the process that goes on with it."""
        return {name: getattr(self, name) for name in _STATE}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from where another process stopped with this run; edges of both count."""
        edges = {**self._edges, **state["_edges"]}
        for name in _STATE:
            setattr(self, name, state[name])
        self._edges = edges
        if self._held:
            self._open()

    def salvage(self) -> None:
        """Take in the points that another process had logged of this run before it died."""
        now = self.ws.store.get(Run, self.id)
        if now is None:
            return
        self.record, self._stored = replace(self.record, flushed=now.flushed), True
        for number, path in _live_files(self.ws, self.id):
            for series in read_live(path) if number >= now.flushed else ():
                self._buffer[series.name] = (list(series.steps), list(series.times), list(series.values))
                self._last[series.name] = series.values[-1]
                self._held += len(series)
        if self._held:
            self._open()

    @property
    def _path(self) -> str:
        return f"{self.ws.root}/live/{self.id}.{self.record.flushed}.points"

    def _open(self) -> None:
        if not self._stored:  # so that `recover` knows whose points these are
            self.ws.store.put(self.record)
            self._stored = True
        try:
            self._live = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        except FileNotFoundError:
            self.ws.folder("live")
            self._live = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def _append(self, lines: str) -> None:
        """Whole lines or nothing: half of one would spoil the next."""
        if self._live < 0:
            self._open()
        data = lines.encode()
        try:
            written = os.write(self._live, data)
            if written == len(data):
                return
            os.ftruncate(self._live, os.lseek(self._live, 0, os.SEEK_END) - written)
            why = "no room on the disk"
        except OSError as error:
            why = error.strerror or str(error)
        raise Unavailable(f"cannot write {self._path}: {why}", expected="room on a disk that can be written")

    def _close(self) -> None:
        if self._live >= 0:
            os.close(self._live)
            self._live = -1
            with suppress(FileNotFoundError):  # `recover` may have been there first
                os.unlink(self._path)  # noqa: PTH108  half the cost of a Path, on the way of every run

    def _flush(self) -> None:
        """Move the points held so far into the store. The count of flushed files goes along in the same transaction, so
        a file that was left behind is known to be in the store already."""
        before = self.record
        after = replace(before, flushed=before.flushed + 1, metrics={**before.metrics, **self._last})
        with self.ws.store.transaction():
            self.ws.store.add_points(str(before), self._points())
            self.ws.store.put(after)
        self._close()
        self.record = after
        self._buffer = {}
        self._held = 0

    def _points(self) -> list[Points]:
        return [Points(name, *series) for name, series in self._buffer.items()]

    def finish(self, status: str = "finished", error: str = "", **changes: Any) -> Run:
        """Write everything in one transaction and end the run."""
        now = time.time()
        final = replace(
            self.record,
            status=status,
            error=error,
            ended=now,
            params=self._params,
            metrics={**self.record.metrics, **self._last},
            tags={**self.record.tags, **self._tags},
            reads={**self.record.reads, **self._reads},
            **changes,
        )
        ref = str(final)
        with self.ws.store.transaction():
            if self._buffer:
                self.ws.store.add_points(ref, self._points())
                final = replace(final, flushed=final.flushed + 1)
            self.ws.store.put(final)
            if self._edges:
                self.ws.store.link(*(Edge(ref, relation, target, now) for relation, target in self._edges))
        self._close()
        self.record = final
        return final


def _named(name: str) -> str:
    if not isinstance(name, str) or not name or not name.isprintable():
        raise Invalid(f"{name!r} is not a metric name", expected="text of printable characters")
    return name


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise Invalid(f"metric {name!r} is {value!r}", expected="a number") from None


def _whole(step: Any) -> int:
    try:
        return int(operator.index(step))
    except TypeError:
        raise Invalid(f"the step of a metric is {step!r}", expected="a whole number") from None


def start(ws: Workspace, name: str, *, type: str = "run", **fields: Any) -> Tracked:
    """Begin a run that `finish` must end; prefer `track`."""
    record = Run(
        id=new_id(),
        name=name,
        type=type,
        started=time.time(),
        actor=ws.actor,
        host=_HOST,
        pid=os.getpid(),
        environment=environment.keep(ws.blobs),
        **fields,
    )
    ws.store.put(record)
    return Tracked(ws, record, stored=True)


@contextmanager
def track(
    ws: Workspace, name: str = "run", *, params: Mapping[str, Any] | None = None, seed: int = 0
) -> Iterator[Tracked]:
    """A run around a block of plain Python; what is read and written inside is tied to it.

    >>> with boucle.track(ws, "by-hand", params={"depth": 3}) as run:
    ...     run.log_metric("auc", 0.93)
    """
    code = codes.of_program(ws)
    parent = recording.current_run()
    given = {n: jsonable(v) for n, v in (params or {}).items()}
    run = start(ws, name, code=code.digest, parent=parent, params=given, seed=seed)
    run.link("ran", str(code))
    if parent:
        run.link("part_of", f"run:{parent}")
    token = recording.active.set(run)
    try:
        yield run
    except BaseException as error:
        run.finish("cancelled" if isinstance(error, KeyboardInterrupt) else "failed", _said(error))
        raise
    else:
        run.finish()
    finally:
        recording.active.reset(token)


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def get(ws: Workspace, ref: str | Ref) -> Run:
    """A run by id, by the start of its id, or `name@latest`."""
    parsed = ref if isinstance(ref, Ref) else Ref.parse(ref, "run")
    found = ws.store.get(Run, parsed.name)
    if found is None:
        named = ws.store.find(Run, field("name") == parsed.name, order=["-started"], limit=1)
        if not named and len(parsed.name) >= 6:
            named = ws.store.find(Run, field("id").starts(parsed.name.upper()), limit=2)
            if len(named) > 1:
                raise Invalid(f"{parsed.name!r} begins more than one run", expected="more of the id")
        found = named[0] if named else None
    if found is None:
        recent = ws.store.find(Run, field("type").within(["run", "pipeline"]), order=["-started"], limit=200)
        raise NotFound.named(
            "run", parsed.name, {r.name for r in recent} | {r.id for r in recent[:3]}, fix="boucle runs"
        )
    return found


def find(
    ws: Workspace,
    where: Where | None = None,
    *,
    order: Sequence[str] = ("-started",),
    limit: int | None = None,
    steps: bool = False,
) -> list[Run]:
    """Runs that match, newest first; steps of pipelines only when asked for."""
    if not steps:
        own = field("type") != "step"
        where = own if where is None else own & where
    return ws.store.find(Run, where, order=order, limit=limit)


def points(ws: Workspace, run: Run, name: str | None = None) -> list[Points]:
    """The series of a run, those not yet in the store included."""
    stored = ws.store.points(str(run), name)
    live: dict[str, list[Points]] = {}
    for number, path in _live_files(ws, run.id):
        if number >= run.flushed:
            for series in read_live(path):
                live.setdefault(series.name, []).append(series)
    names = dict.fromkeys([p.name for p in stored] + list(live))
    by_name = {p.name: p for p in stored}
    return [
        Points.joined(n, [*([by_name[n]] if n in by_name else []), *live.get(n, [])])
        for n in names
        if name is None or n == name
    ]


def _live_files(ws: Workspace, run_id: str) -> list[tuple[int, Path]]:
    found = []
    for path in (ws.root / "live").glob(f"{run_id}.*.points"):
        number = path.name.split(".")[1]
        if number.isdecimal():
            found.append((int(number), path))
    return sorted(found)


def read_live(path: Path) -> list[Points]:
    """The points in a live file; a last line that was cut off is left out."""
    series: dict[str, tuple[list[int], list[float], list[float]]] = {}
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return []
    for line in text[: text.rfind(b"\n") + 1].decode().split("\n")[:-1]:
        step, at, value, name = line.split(" ", 3)
        columns = series.setdefault(name, ([], [], []))
        columns[0].append(int(step))
        columns[1].append(float(at))
        columns[2].append(float(value))
    return [Points(name, *columns) for name, columns in series.items()]


def recover(ws: Workspace) -> list[Run]:
    """End the runs whose process is gone: their points go to the store, their status becomes `lost`. Returns them.

    Only runs of this host are touched; of others nobody here can tell whether they still run.
    """
    lost = []
    for run in ws.store.find(Run, (field("status") == "running") & (field("host") == _HOST)):
        if alive(run.pid, run.started):
            continue
        with ws.store.transaction():
            now = ws.store.get(Run, run.id)
            if now is None or now.status != "running":
                continue
            last: dict[str, float] = {}
            count = now.flushed
            for number, path in _live_files(ws, run.id):
                if number >= now.flushed:
                    series = read_live(path)
                    ws.store.add_points(str(run), series)
                    last.update({p.name: p.values[-1] for p in series})
                    count = number + 1
            ended = replace(
                now,
                status="lost",
                ended=time.time(),
                metrics={**now.metrics, **last},
                flushed=count,
                error="its process ended without finishing it",
            )
            ws.store.put(ended)
        lost.append(ended)
    for path in (ws.root / "live").glob("*.points"):
        owner = ws.store.get(Run, path.name.split(".")[0])
        if owner is None or owner.status != "running":
            path.unlink(missing_ok=True)
    return lost


def alive(pid: int, since: float) -> bool:
    """Whether the process that had this pid at that time still runs; a pid that was given out again does not count."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    began = _began(pid)
    return began is None or began <= since + 2.0


def _began(pid: int) -> float | None:
    """When a process started, in epoch seconds; None where /proc does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if fields[0] == "Z":
            return time.time() + 10  # a zombie has ended; say that it began later than anything
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        return time.time() - uptime + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return None


def compare(runs: Iterable[Run]) -> dict[str, Any]:
    """Runs side by side: which params differ, and every metric. JSON: {runs, params, metrics} with one value per run."""
    chosen = list(runs)
    params = {n: [r.params.get(n) for r in chosen] for n in dict.fromkeys(k for r in chosen for k in r.params)}
    metrics = {n: [r.metrics.get(n) for r in chosen] for n in dict.fromkeys(k for r in chosen for k in r.metrics)}
    return {
        "runs": [
            {"id": r.id, "name": r.name, "status": r.status, "seconds": max(0.0, r.ended - r.started)} for r in chosen
        ],
        "params": {
            n: v for n, v in params.items() if len({json.dumps(x, sort_keys=True) for x in v}) > 1 or len(chosen) == 1
        },
        "same": {
            n: v[0]
            for n, v in params.items()
            if len({json.dumps(x, sort_keys=True) for x in v}) == 1 and len(chosen) > 1
        },
        "metrics": metrics,
    }
