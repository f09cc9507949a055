"""Executing a pipeline: walk its graph on an engine, use again what may be, record everything.

Each step that ran is a run of its own, a part of the pipeline's run, written in one transaction with its artifacts and
edges when it ends. So after `kill -9` the steps that ended are found again by their keys, and the next execution goes on
from there. Ctrl-C starts nothing more, ends isolated steps, and leaves the run as `cancelled`.
"""

from __future__ import annotations

import io
import json
import os
import random
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from boucle.core.errors import BoucleError, StepFailed
from boucle.core.reach import Reached
from boucle.core.records import Artifact, Dataset, Run
from boucle.core.refs import new_id
from boucle.core.schema import jsonable
from boucle.flow.plan import INTERPRETER, Argument, Lookup, file_digest, map_items
from boucle.flow.step import Graph, Node, Output, Pipeline, Step
from boucle.flow.values import Result, Stored, as_table, composite, decode, encode, select
from boucle.ledger import code as codes
from boucle.ledger import datasets, lineage, runs

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


@dataclass(frozen=True, slots=True)
class Execution:
    """A finished execution: the pipeline's run, what each step did, and the pipeline's result."""

    run: Run
    outcomes: tuple[Outcome, ...]
    result: Any

    @property
    def reused(self) -> int:
        return sum(o.status == "reused" for o in self.outcomes)


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
    return _Execution(ws, pipeline, graph, Lookup(ws, force), listen or (lambda _: None), seed).go()


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
        parent = lineage.current_run()
        if parent:
            self.run.link("part_of", f"run:{parent}")
        try:
            with self.ws.engine() as engine, _captured():
                self._walk(engine)
            if self.failures:
                node, error = self.failures[0]
                raise self._failure(node, error)
            # Decoded while the run is still open: a record that cannot be read back must not count as finished.
            result = self._result(self.graph.result)
        except BaseException as error:
            cancelled = isinstance(error, KeyboardInterrupt)
            self.run.finish("cancelled" if cancelled else "failed", f"{type(error).__name__}: {error}")
            raise
        done = self.run.finish(outputs=self._outputs())
        return Execution(done, tuple(self.outcomes), result)

    def _files(self) -> Iterator[tuple[str, str]]:
        for node in self.graph.nodes:
            self.lookup.code_of(node.step)
        for reached in self.lookup.reached.values():
            yield from reached.files.items()
        yield self.pipeline.function.__module__, self.pipeline.function.__code__.co_filename

    def _walk(self, engine: Engine) -> None:
        waiting = {n.id: {m.id for m in n.needs} for n in self.graph.nodes}
        takers: dict[int, list[Node]] = {}
        for node in self.graph.nodes:
            for needed in node.needs:
                takers.setdefault(needed.id, []).append(node)
        ready = deque(n for n in self.graph.nodes if not waiting[n.id])
        running: dict[Future[Any], tuple[Node, int]] = {}
        gathered: dict[int, list[Result | None]] = {}
        left: dict[int, int] = {}

        def ended(node: Node, result: Result) -> None:
            self.results[node.id] = result
            for taker in takers.get(node.id, ()):
                waiting[taker.id].discard(node.id)
                if not waiting[taker.id]:
                    ready.append(taker)

        while ready or running:
            while ready:
                node = ready.popleft()
                if node.mapped is None and not node.step.isolate and not ready and not running:
                    # Nothing else could run beside it, so a thread would only cost time.
                    try:
                        ended(node, self._call(node, node.arguments, None))
                    except Exception as error:  # noqa: BLE001  reported below with the others
                        self.failures.append((node, error))
                    continue
                calls = [node.arguments] if node.mapped is None else self._calls(node)
                gathered[node.id] = [None] * len(calls)
                left[node.id] = len(calls)
                if not calls:
                    ended(node, Result(composite("list", []), ()))
                for i, call in enumerate(calls):
                    item = None if node.mapped is None else (i, len(calls))
                    running[engine.submit(self._call, node, call, item, engine)] = (node, i)
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                node, i = running.pop(future)
                failure = future.exception()
                if failure is not None:
                    self.failures.append((node, failure))
                    continue
                kept = gathered[node.id]
                kept[i] = future.result()
                left[node.id] -= 1
                if not left[node.id]:
                    given = [k for k in kept if k is not None]
                    listed = composite("list", [(j, k.stored) for j, k in enumerate(given)])
                    ended(
                        node,
                        given[0] if node.mapped is None else Result(listed, tuple(r for k in given for r in k.runs)),
                    )

    def _calls(self, node: Node) -> list[dict[str, Any]]:
        assert node.mapped is not None
        items = node.arguments[node.mapped]
        if isinstance(items, Output):
            stored = self.lookup.argument(items, self.results).value
            # Each item by itself, so that one that changed does not make the others run again.
            if "items" in stored.value:
                items = [Output(items.node, (*items.path, i)) for i in range(len(stored.value["items"]))]
            else:
                items = decode(self.ws, stored)
        return list(map_items(node, items))

    def _call(
        self, node: Node, call: dict[str, Any], item: tuple[int, int] | None, engine: Engine | None = None
    ) -> Result:
        """One call: reuse or run it. Returns what was kept, and by which run."""
        began = time.time()
        step, label = node.step, node.label
        done, total = (item[0] + 1, item[1]) if item else (1, 1)
        arguments = {n: self.lookup.argument(v, self.results) for n, v in call.items()}
        key = self.lookup.key(step, arguments)
        hit, why = self.lookup.hit(step, key)
        if hit is not None:
            stored = Stored.from_json(hit.outputs)
            self.run.link("used", str(hit))
            self._note(Outcome(label, "reused", hit.id, why, time.time() - began, stored))
            self.listen(Progress("reused", label, why, time.time() - began, done, total))
            return Result(stored, (hit.id,))
        why = why or self.lookup.difference(step, arguments)
        self.listen(Progress("started", label, why, 0.0, done, total))
        record = Run(
            id=new_id(),
            name=step.name,
            type="step",
            parent=self.run.id,
            started=began,
            actor=self.ws.actor,
            host=self.run.record.host,
            pid=os.getpid(),
            code=self.run.record.code,
            environment=self.run.record.environment,
            cache_key=key,
            inputs={
                "code": self.lookup.code_of(step),
                "parts": self._parts(step),
                "arguments": {n: a.digest for n, a in arguments.items()},
                "interpreter": INTERPRETER,
                "label": label,
            },
            params={n: _shown(a.value) for n, a in arguments.items() if not a.refs},
            seed=self.seed,
        )
        return self._attempts(node, record, arguments, why, engine, (done, total))

    def _attempts(
        self,
        node: Node,
        record: Run,
        arguments: dict[str, Argument],
        why: str,
        engine: Engine | None,
        count: tuple[int, int],
    ) -> Result:
        step, label = node.step, node.label
        for attempt in range(1, step.retries + 2):
            tracked = runs.Tracked(self.ws, replace(record, attempts=attempt))
            for argument in arguments.values():
                for ref in argument.refs:
                    tracked.link("used", ref)
            tracked.link("part_of", f"run:{self.run.id}")
            log = _Log(label, self.listen)
            try:
                if step.isolate:
                    assert engine is not None
                    stored = self._isolated(step, arguments, tracked, log)
                else:
                    with recording(tracked, log) as reads:
                        stored = compute(self.ws, step, arguments, self.seed)
                    for path in reads:
                        tracked._reads[f"file:{path}"] = file_digest(path)
            except BaseException as error:
                cancelled = isinstance(error, KeyboardInterrupt)
                log.write(_traceback(error))
                status = "cancelled" if cancelled else "failed"
                tracked.finish(status, f"{type(error).__name__}: {error}", log=self._keep_log(log))
                if cancelled or attempt > step.retries or not isinstance(error, Exception):
                    self._note(Outcome(label, "failed", record.id, str(error), time.time() - record.started))
                    self.listen(Progress("failed", label, str(error), time.time() - record.started, *count))
                    raise
                pause = step.backoff * 2 ** (attempt - 1)
                self.listen(Progress("retried", label, f"{error}; attempt {attempt + 1} in {pause:g} s", 0.0, *count))
                time.sleep(pause)
                record = replace(record, id=new_id())
                continue
            return self._keep(node, tracked, stored, log, why, count)
        raise AssertionError("unreachable")

    def _keep(
        self, node: Node, tracked: runs.Tracked, stored: Stored, log: _Log, why: str, count: tuple[int, int]
    ) -> Result:
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
        with self.ws.store.transaction():
            new = {a.digest: a for a in artifacts if self.ws.store.get(Artifact, a.digest) is None}
            if new:
                self.ws.store.put(*new.values())
            done = tracked.finish(outputs=stored.to_json(), log=text)
        seconds = done.ended - done.started
        self._note(Outcome(node.label, "finished", done.id, why, seconds, stored))
        self.listen(Progress("finished", node.label, why, seconds, *count))
        return Result(stored, (done.id,))

    def _isolated(self, step: Step, arguments: dict[str, Argument], tracked: runs.Tracked, log: _Log) -> Stored:
        """In a process of its own; it opens the workspace by its settings and sends back only what was kept."""
        with self.ws.engine() as engine:
            answer = engine.submit(
                _in_child,
                type(self.ws),
                self.ws.settings,
                step,
                arguments,
                self.seed,
                tracked.record,
                isolate=True,
                timeout=step.timeout,
            ).result()
        stored, reads, links, text = answer
        log.write(text)
        tracked._reads.update(reads)
        for relation, target in links:
            tracked.link(relation, target)
        return Stored.from_json(stored)

    def _parts(self, step: Step) -> str:
        with self.lock:
            if id(step) not in self.parts:
                reached: Reached = self.lookup.reached[id(step)]
                self.parts[id(step)] = self.ws.blobs.put(json.dumps(reached.snapshot(), sort_keys=True).encode())
            return self.parts[id(step)]

    def _keep_log(self, log: _Log) -> str:
        return self.ws.blobs.put(log.text.getvalue().encode()) if log.text.tell() else ""

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
            return decode(self.ws, select(self.ws, self.results[value.node.id].stored, value.path))
        if isinstance(value, list | tuple):
            return type(value)(self._result(v) for v in value) if not hasattr(value, "_fields") else value
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
    if isinstance(value, list) and value and all(isinstance(v, Argument) for v in value):
        return [materialise(ws, v.value, None) for v in value]
    if isinstance(value, dict) and value and all(isinstance(v, Argument) for v in value.values()):
        return {k: materialise(ws, v.value, None) for k, v in value.items()}
    return value


def _in_child(
    opener: Callable[[Any], Any], settings: Any, step: Step, arguments: dict[str, Argument], seed: int, record: Run
) -> tuple[Any, ...]:
    with opener(settings) as ws:
        tracked = runs.Tracked(ws, record)
        log = _Log(step.name, lambda _: None)
        with _captured(), recording(tracked, log) as reads:
            stored = compute(ws, step, arguments, seed)
        tracked._reads.update({f"file:{path}": file_digest(path) for path in reads})
        return stored.to_json(), tracked._reads, list(tracked._edges), log.text.getvalue()


# What a step prints, and which files it opens, is told apart by context variables, so that steps in threads do not mix.


class _Log:
    __slots__ = ("_label", "_listen", "text")

    def __init__(self, label: str, listen: Listener) -> None:
        self.text = io.StringIO()
        self._label, self._listen = label, listen

    def write(self, text: str) -> None:
        self.text.write(text)
        if text.strip():
            # The listener may print, and that is not the step's.
            token = _log.set(None)
            try:
                self._listen(Progress("printed", self._label, text))
            finally:
                _log.reset(token)


_log: ContextVar[_Log | None] = ContextVar("boucle_step_log", default=None)
_opened: ContextVar[dict[str, bool] | None] = ContextVar("boucle_step_files", default=None)


class _Splitter(io.TextIOBase):
    """Stands in for stdout or stderr: what a step prints goes to its log, all else where it went before."""

    def __init__(self, original: TextIO) -> None:
        self._original = original

    def write(self, text: str) -> int:
        log = _log.get()
        if log is None:
            return self._original.write(text)
        log.write(text)
        return len(text)

    def flush(self) -> None:
        self._original.flush()

    def isatty(self) -> bool:
        return False

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._original.encoding

    def fileno(self) -> int:
        return self._original.fileno()


_captures = 0
_captures_lock = threading.Lock()


@contextmanager
def _captured() -> Iterator[None]:
    global _captures  # noqa: PLW0603  the streams are the process's own, so their guard is too
    with _captures_lock:
        _captures += 1
        if _captures == 1:
            sys.stdout, sys.stderr = _Splitter(sys.stdout), _Splitter(sys.stderr)
    try:
        yield
    finally:
        with _captures_lock:
            _captures -= 1
            if _captures == 0 and isinstance(sys.stdout, _Splitter) and isinstance(sys.stderr, _Splitter):
                sys.stdout, sys.stderr = sys.stdout._original, sys.stderr._original


@contextmanager
def recording(tracked: runs.Tracked, log: _Log) -> Iterator[list[Path]]:
    """While it is open, reads, prints and opened files in this context belong to the run. The list of files that were
    read is filled when it closes."""
    _install_audit()
    opened: dict[str, bool] = {}
    found: list[Path] = []
    tokens = (lineage.active.set(tracked), _log.set(log), _opened.set(opened))
    try:
        yield found
    finally:
        lineage.active.reset(tokens[0])
        _log.reset(tokens[1])
        _opened.reset(tokens[2])
        root = str(tracked.ws.root)
        found += [
            Path(p) for p, written in opened.items() if not written and not p.startswith(root) and Path(p).is_file()
        ]


_audited = False
_SYSTEM = tuple(
    {
        os.path.realpath(p) + os.sep
        for p in (sys.prefix, sys.base_prefix, "/proc", "/dev", "/sys", "/etc", "/usr", "/run")
    }
)


def _install_audit() -> None:
    """Python tells audit hooks of every file it opens (PEP 578); a hook cannot be taken away again, so there is one."""
    global _audited  # noqa: PLW0603
    if not _audited:
        _audited = True
        sys.addaudithook(_on_audit)


def _on_audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open":
        return
    opened = _opened.get()
    if opened is None:
        return
    path, mode, flags = arguments
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    if not isinstance(path, str) or path.endswith((".py", ".pyc")):
        return
    real = os.path.realpath(path)
    if real.startswith(_SYSTEM):
        return
    writes = bool(flags & (os.O_WRONLY | os.O_RDWR)) if isinstance(flags, int) else bool(set(mode or "r") & set("wax+"))
    opened[real] = opened.get(real, False) or writes


def _traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def _shown(value: Any) -> Any:
    """An argument as it is shown among the params of a run."""
    if isinstance(value, str | int | float | bool | None):
        return jsonable(value)
    if isinstance(value, list | tuple | dict):
        text = json.dumps(jsonable(value), default=str)
        return jsonable(value) if len(text) < 1000 else f"{type(value).__name__} of {len(value)}"
    return repr(value) if len(repr(value)) < 200 else type(value).__name__
