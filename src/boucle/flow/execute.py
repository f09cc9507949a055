"""Executing a pipeline: walk its graph on an engine, use again what may be, record everything.

Each step that ran is a run of its own, a part of the pipeline's run, written in one transaction with its artifacts and
edges when it ends. So after `kill -9` the steps that ended are found again by their keys, and the next execution goes on
from there. Ctrl-C starts nothing more, ends isolated steps, and leaves the run as `cancelled`.
"""

from __future__ import annotations

import json
import os
import pickle
import queue
import random
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from boucle.core.errors import BoucleError, StepFailed
from boucle.core.reach import Reached
from boucle.core.records import Artifact, Dataset, Run
from boucle.core.refs import new_id
from boucle.core.schema import jsonable
from boucle.flow.capture import Log, captured, observed
from boucle.flow.plan import INTERPRETER, Argument, Lookup, calls, file_digest
from boucle.flow.step import Graph, Node, Output, Pipeline, Step, node_of, path_of
from boucle.flow.values import Result, Stored, as_table, composite, decode, encode, select
from boucle.ledger import code as codes
from boucle.ledger import datasets, recording, runs

if TYPE_CHECKING:
    from boucle.ports.engine import Engine
    from boucle.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Progress:
    """Something that happened to a step while a pipeline is executed."""

    kind: str  # planned, started, reused, finished, retried, failed, printed
    label: str
    text: str = ""
    seconds: float = 0.0
    done: int = 0  # calls of a mapped step that ended
    total: int = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one call of a step."""

    label: str
    status: str  # finished, reused, failed
    run: str
    why: str
    seconds: float
    stored: Stored | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Execution:
    """A finished execution: the pipeline's run, what each step did, and the pipeline's result."""

    run: Run
    outcomes: tuple[Outcome, ...]
    result: Any

    @property
    def reused(self) -> int:
        return sum(o.status == "reused" for o in self.outcomes)


QUICK = 0.002  # seconds below which a call is not worth a thread

Listener = Callable[[Progress], None]


def execute(
    ws: Workspace,
    pipeline: Pipeline,
    arguments: dict[str, Any] | None = None,
    *,
    force: frozenset[str] = frozenset(),
    listen: Listener | None = None,
    seed: int = 0,
) -> Execution:
    """Run a pipeline with these arguments (datasets as references or tables).

    Raises `StepFailed` when a step failed after its retries; steps that do not depend on it have then run, and the next
    execution goes on from there. `force` names steps to run anyway, '*' for all.
    """
    runs.recover(ws)
    graph = pipeline.trace(arguments or {})
    lookup = Lookup(ws, force, seed)
    for source in graph.sources.values():
        lookup.source(source)  # data that is not there is found out before anything begins
    return _Execution(ws, pipeline, graph, lookup, listen or (lambda _: None), seed).go()


@dataclass(slots=True, eq=False)
class _Batch:
    """The results of a node's calls, and how many are still to come."""

    results: list[Result | None]
    left: int

    def whole(self, mapped: bool) -> Result:
        given = [r for r in self.results if r is not None]
        if not mapped:
            return given[0]
        return Result(
            composite("list", [(i, r.stored) for i, r in enumerate(given)]), tuple(x for r in given for x in r.runs)
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    """One call of a node: its arguments (None for a map over nothing), and its place in the batch."""

    node: Node
    arguments: dict[str, Any] | None
    index: int
    batch: _Batch

    @property
    def count(self) -> tuple[int, int]:
        return self.index + 1, len(self.batch.results)


@dataclass(frozen=True, slots=True, eq=False)
class _Prepared:
    """A call that must run: its key, its arguments, and why."""

    call: _Call
    key: str
    arguments: dict[str, Argument]
    why: str


@dataclass(slots=True)
class _Execution:
    ws: Workspace
    pipeline: Pipeline
    graph: Graph
    lookup: Lookup
    listen: Listener
    seed: int
    results: dict[int, Result] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)
    failures: list[tuple[Node, BaseException]] = field(default_factory=list)
    parts: dict[int, str] = field(default_factory=dict)
    quick: set[int] = field(default_factory=set)  # steps whose last call took less than QUICK
    apart: set[Engine] = field(default_factory=set)  # what runs isolated steps now
    lock: threading.Lock = field(default_factory=threading.Lock)
    run: Any = None

    def go(self) -> Execution:
        files = dict(self._files())
        code = codes.keep(self.ws, f"{self.pipeline.function.__module__}:{self.pipeline.function.__qualname__}", files)
        self.run = runs.start(
            self.ws,
            self.pipeline.name,
            type="pipeline",
            code=code.digest,
            params={k: _shown(v) for k, v in self.graph.arguments.items()},
            seed=self.seed,
        )
        self.run.link("ran", str(code))
        parent = recording.current_run()
        if parent:
            self.run.link("part_of", f"run:{parent}")
        try:
            with self.ws.engine() as engine, captured():
                self._walk(engine)
            if self.failures:
                node, error = self.failures[0]
                raise self._failure(node, error)
            # Decoded while the run is still open: a record that cannot be read back must not count as finished.
            result = self._result(self.graph.result)
        except BaseException as error:
            for engine in list(self.apart):
                engine.cancel()
            cancelled = isinstance(error, KeyboardInterrupt)
            self.run.finish("cancelled" if cancelled else "failed", f"{type(error).__name__}: {error}")
            raise
        self.run.record = replace(self.run.record, metrics=self._metrics())
        done = self.run.finish(outputs=self._outputs())
        return Execution(done, tuple(self.outcomes), result)

    def _metrics(self) -> dict[str, float]:
        """What its steps measured, so that executions compare; of a mapped step there is no one value."""
        single = {n.label for n in self.graph.nodes if n.mapped is None}
        return {name: value for o in self.outcomes if o.label in single for name, value in o.metrics.items()}

    def _files(self) -> Iterator[tuple[str, str]]:
        for node in self.graph.nodes:
            self.lookup.code_of(node.step)
        for reached in self.lookup.reached.values():
            yield from reached.files.items()
        yield self.pipeline.function.__module__, self.pipeline.function.__code__.co_filename

    def _walk(self, engine: Engine) -> None:
        """Start what is ready, take in what ended, until nothing is left that could run."""
        waiting = {n.id: {m.id for m in n.needs} for n in self.graph.nodes}
        takers: dict[int, list[Node]] = {}
        for node in self.graph.nodes:
            for needed in node.needs:
                takers.setdefault(needed.id, []).append(node)
        todo = deque(c for n in self.graph.nodes if not waiting[n.id] for c in self._calls(n))
        ended: queue.SimpleQueue[tuple[_Call, Future[Result]]] = queue.SimpleQueue()
        running = 0

        def done(call: _Call, result: Result) -> None:
            batch = call.batch
            if call.arguments is not None:
                batch.results[call.index] = result
            batch.left -= 1
            if batch.left:
                return
            self.results[call.node.id] = batch.whole(call.node.mapped is not None)
            for taker in takers.get(call.node.id, ()):
                waiting[taker.id].discard(call.node.id)
                if not waiting[taker.id]:
                    todo.extend(self._calls(taker))

        # No more at once than keeps the workers busy: by then it shows whether a step is worth a thread.
        most = 2 * (self.ws.settings.workers or os.cpu_count() or 1)
        while todo or running:
            if not todo or running >= most:
                call, future = ended.get()
                running -= 1
                failure = future.exception()
                if failure is None:
                    done(call, future.result())
                else:
                    self.failures.append((call.node, failure))
                continue
            call = todo.popleft()
            try:
                prepared = self._prepare(call) if call.arguments is not None else Result(composite("list", []), ())
                if isinstance(prepared, Result):
                    done(call, prepared)
                elif call.node.step.isolate or ((todo or running) and id(call.node.step) not in self.quick):
                    future = engine.submit(self._attempts, prepared)
                    running += 1
                    future.add_done_callback(lambda f, c=call: ended.put((c, f)))  # type: ignore[misc]
                else:
                    # Nothing could run beside it, or a thread would cost more than the call.
                    done(call, self._attempts(prepared))
            except (Exception, SystemExit) as error:  # noqa: BLE001  reported when all that can run has
                self.failures.append((call.node, error))

    def _calls(self, node: Node) -> list[_Call]:
        """The calls of a node whose inputs are known: one, or one per item it is mapped over."""
        every = calls(self.lookup, node, self.results)
        if not every:
            return [_Call(node, None, 0, _Batch([], 1))]
        batch = _Batch([None] * len(every), len(every))
        return [_Call(node, arguments, i, batch) for i, arguments in enumerate(every)]

    def _prepare(self, call: _Call) -> Result | _Prepared:
        """What an earlier run gave, or all that is needed to run the call."""
        began = time.time()
        step, label = call.node.step, call.node.label
        assert call.arguments is not None
        arguments = {n: self.lookup.argument(v, self.results) for n, v in call.arguments.items()}
        key = self.lookup.key(step, arguments)
        hit, why = self.lookup.hit(step, key)
        if hit is not None:
            stored = Stored.from_json(hit.outputs)
            self.run.link("used", str(hit))
            self._note(Outcome(label, "reused", hit.id, why, time.time() - began, stored, hit.metrics))
            self.listen(Progress("reused", label, why, time.time() - began, *call.count))
            return Result(stored, (hit.id,))
        why = why or self.lookup.difference(step, arguments)
        return _Prepared(call, key, arguments, why)

    def _attempts(self, prepared: _Prepared) -> Result:
        """Run a call until it succeeds or its retries are used up; each attempt is a run of its own."""
        call, arguments = prepared.call, prepared.arguments
        step, label = call.node.step, call.node.label
        self.listen(Progress("started", label, prepared.why, 0.0, *call.count))
        for attempt in range(1, step.retries + 2):
            tracked = runs.Tracked(self.ws, self._record(prepared, attempt))
            for argument in arguments.values():
                for ref in argument.refs:
                    tracked.link("used", ref)
            tracked.link("part_of", f"run:{self.run.id}")
            log = Log(lambda text: self.listen(Progress("printed", label, text)))
            try:
                stored = self._compute(step, arguments, tracked, log)
            except BaseException as error:
                log.write(_traceback(error))
                cancelled = isinstance(error, KeyboardInterrupt)
                ended = tracked.finish(
                    "cancelled" if cancelled else "failed", f"{type(error).__name__}: {error}", log=self._keep_log(log)
                )
                if attempt > step.retries or not isinstance(error, Exception):
                    seconds = ended.ended - ended.started
                    self._note(Outcome(label, "failed", ended.id, str(error), seconds))
                    self.listen(Progress("failed", label, str(error), seconds, *call.count))
                    raise
                pause = step.backoff * 2 ** (attempt - 1)
                self.listen(
                    Progress("retried", label, f"{error}; attempt {attempt + 1} in {pause:g} s", 0.0, *call.count)
                )
                time.sleep(pause)
                continue
            return self._keep(prepared, tracked, stored, log)
        raise AssertionError("unreachable")

    def _record(self, prepared: _Prepared, attempt: int) -> Run:
        step, own = prepared.call.node.step, self.run.record
        return Run(
            id=new_id(),
            name=step.name,
            type="step",
            parent=self.run.id,
            started=time.time(),
            actor=self.ws.actor,
            host=own.host,
            pid=own.pid,
            code=own.code,
            environment=own.environment,
            cache_key=prepared.key,
            inputs={
                "code": self.lookup.code_of(step),
                "parts": self._parts(step),
                "arguments": {n: a.digest for n, a in prepared.arguments.items()},
                "interpreter": INTERPRETER,
                "label": prepared.call.node.label,
            },
            params={n: _shown(a.value) for n, a in prepared.arguments.items() if not (a.refs and _kept(a.value))},
            seed=self.seed,
            attempts=attempt,
        )

    def _compute(self, step: Step, arguments: dict[str, Argument], tracked: runs.Tracked, log: Log) -> Stored:
        if step.isolate:
            return self._isolated(step, arguments, tracked, log)
        with observed(tracked, log) as reads:
            stored = compute(self.ws, step, arguments, self.seed)
        for path in reads:
            tracked.depend(f"file:{path}", file_digest(path))
        return stored

    def _keep(self, prepared: _Prepared, tracked: runs.Tracked, stored: Stored, log: Log) -> Result:
        """Write the run, its artifacts and edges in one transaction."""
        node = prepared.call.node
        now = time.time()
        artifacts = []
        for name, leaf in stored.artifacts(node.step.name):
            artifacts.append(
                Artifact(
                    digest=leaf.digest, name=name, type=leaf.type, value=leaf.value, size=leaf.size,
                    run=tracked.id, created=now,
                )
            )  # fmt: skip
            tracked.link("made", f"artifact:{leaf.digest}")
        text = self._keep_log(log)
        new = {a.digest: a for a in artifacts if self.ws.store.get(Artifact, a.digest) is None}
        with self.ws.store.transaction() if new else nullcontext():
            if new:
                self.ws.store.put(*new.values())
            done = tracked.finish(outputs=stored.to_json(), log=text)
        seconds = done.ended - done.started
        if seconds < QUICK:
            self.quick.add(id(node.step))
        else:
            self.quick.discard(id(node.step))
        self._note(Outcome(node.label, "finished", done.id, prepared.why, seconds, stored, done.metrics))
        self.listen(Progress("finished", node.label, prepared.why, seconds, *prepared.call.count))
        return Result(stored, (done.id,))

    def _isolated(self, step: Step, arguments: dict[str, Argument], tracked: runs.Tracked, log: Log) -> Stored:
        """In a process of its own; it opens the workspace by its settings and sends back only what was kept."""
        with self.ws.engine() as engine:
            self.apart.add(engine)
            try:
                call = (_in_child, self.ws, step, arguments, self.seed, tracked.record)
                answer = engine.submit(*call, isolate=True, timeout=step.timeout).result()
            except BaseException:
                tracked.salvage()
                raise
            finally:
                self.apart.discard(engine)
        state, text, stored, error = answer
        tracked.resume(state)
        log.write(text)
        if error is not None:
            raise error
        return Stored.from_json(stored)

    def _parts(self, step: Step) -> str:
        with self.lock:
            if id(step) not in self.parts:
                reached: Reached = self.lookup.reached[id(step)]
                self.parts[id(step)] = self.ws.blobs.put(json.dumps(reached.snapshot(), sort_keys=True).encode())
            return self.parts[id(step)]

    def _keep_log(self, log: Log) -> str:
        text = log.whole()
        return self.ws.blobs.put(text.encode(errors="backslashreplace")) if text else ""

    def _note(self, outcome: Outcome) -> None:
        with self.lock:
            self.outcomes.append(outcome)

    def _failure(self, node: Node, error: BaseException) -> StepFailed:
        run = next((o.run for o in reversed(self.outcomes) if o.status == "failed" and o.label == node.label), "")
        said = error.what if isinstance(error, BoucleError) else f"{type(error).__name__}: {error}"
        expected = error.expected if isinstance(error, BoucleError) else ""
        others = f" ({len(self.failures) - 1} more failed)" if len(self.failures) > 1 else ""
        fix = error.fix if isinstance(error, BoucleError) and error.fix else f"boucle runs show {run} shows its log"
        failure = StepFailed(
            f"step {node.label} failed{others}: {said}",
            expected=expected,
            fix=f"{fix}; the next `boucle run` goes on from this step",
        )
        failure.__cause__ = error
        return failure

    def _outputs(self) -> dict[str, Any]:
        return {o.label: o.run for o in self.outcomes}

    def _result(self, value: Any) -> Any:
        if isinstance(value, Output):
            return decode(self.ws, select(self.ws, self.results[node_of(value).id].stored, path_of(value)))
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*map(self._result, value))
        if isinstance(value, list | tuple):
            return type(value)(map(self._result, value))
        if isinstance(value, dict):
            return {k: self._result(v) for k, v in value.items()}
        return value


def compute(ws: Workspace, step: Step, arguments: dict[str, Argument], seed: int) -> Stored:
    """Give a step its arguments in the form its annotations ask for, call it, and keep what it returns."""
    ready = {n: materialise(ws, a.value, step.hints.get(n)) for n, a in arguments.items()}
    # Steps that draw from the global generators get the same numbers each time they run alone; steps that run beside
    # others share those generators, and should take a seed as an argument.
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed % 2**32)
    return encode(ws, step.call(ready))


def materialise(ws: Workspace, value: Any, wanted: Any) -> Any:
    """An argument as the function gets it."""
    if isinstance(value, Stored):
        return decode(ws, value, wanted)
    if isinstance(value, Dataset):
        if getattr(wanted, "__name__", "") == "Dataset":
            return value
        return as_table(datasets.frame(ws, value), wanted)
    if isinstance(value, list | tuple) and value and all(isinstance(v, Argument) for v in value):
        return type(value)(materialise(ws, v.value, None) for v in value)
    if isinstance(value, dict) and value and all(isinstance(v, Argument) for v in value.values()):
        return {k: materialise(ws, v.value, None) for k, v in value.items()}
    return value


def _in_child(
    ws: Workspace, step: Step, arguments: dict[str, Argument], seed: int, record: Run
) -> tuple[dict[str, Any], str, Any, Exception | None]:
    """What became of a call, with what it logged and touched either way."""
    with ws:
        tracked = runs.Tracked(ws, record)
        log = Log(lambda _: None)
        stored, failure = None, None
        with captured(), observed(tracked, log) as reads:
            try:
                stored = compute(ws, step, arguments, seed).to_json()
            except Exception as error:  # noqa: BLE001  it is raised again where the step was started
                failure = _portable(error)
        for path in reads:
            tracked.depend(f"file:{path}", file_digest(path))
        return tracked.state(), log.whole(), stored, failure


def _portable(error: Exception) -> Exception:
    """The error, or one that says the same where it cannot go to another process; with its traceback as a note."""
    error.add_note("in its own process:\n" + _traceback(error).rstrip())
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  our own, a moment ago
    except Exception:  # noqa: BLE001  whatever its class does there
        plain = StepFailed(f"{type(error).__name__}: {error}")
        plain.__notes__ = error.__notes__
        return plain
    return error


def _traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def _kept(value: Any) -> bool:
    """Whether the lineage of an argument says all there is to show of it."""
    return isinstance(value, Stored | Dataset) or (
        isinstance(value, list | tuple | dict)
        and any(isinstance(v, Argument) for v in (value.values() if isinstance(value, dict) else value))
    )


def _shown(value: Any) -> Any:
    """An argument as it is shown among the params of a run."""
    if isinstance(value, str | int | float | bool | None):
        return jsonable(value)
    if isinstance(value, list | tuple | dict):
        text = json.dumps(jsonable(value), default=str)
        return jsonable(value) if len(text) < 1000 else f"{type(value).__name__} of {len(value)}"
    return repr(value) if len(repr(value)) < 200 else type(value).__name__
