"""The engine of one machine: daemon threads, and a fresh process for a call that must be isolated or can time out."""

from __future__ import annotations

import contextvars
import multiprocessing
import multiprocessing.connection
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from multiprocessing.process import BaseProcess
from typing import Any, ClassVar, Self

from boucle.core.errors import StepFailed


class LocalEngine:
    """Up to `workers` calls at once. Threads are daemons: an interrupted program ends without waiting for them."""

    name: ClassVar[str] = "local"
    capabilities: ClassVar[frozenset[str]] = frozenset({"isolate", "parallel"})

    def __init__(self, workers: int = 1) -> None:
        self._workers = max(1, workers)
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._waiting = 0
        self._lock = threading.Lock()
        self._children: set[BaseProcess] = set()
        self._cancelled = False

    def submit(
        self, call: Callable[..., Any], /, *args: Any, isolate: bool = False, timeout: float | None = None
    ) -> Future[Any]:
        future: Future[Any] = Future()
        context = contextvars.copy_context()

        def work() -> None:
            if self._cancelled or not future.set_running_or_notify_cancel():
                return
            try:
                if isolate or timeout is not None:
                    future.set_result(context.run(self._isolated, call, args, timeout))
                else:
                    with _few_threads(max(1, (os.cpu_count() or 1) // self._workers)):
                        future.set_result(context.run(call, *args))
            except BaseException as error:  # noqa: BLE001  it travels to whoever waits for the future
                future.set_exception(error)

        with self._lock:
            self._waiting += 1
            if len(self._threads) < min(self._workers, self._waiting):
                thread = threading.Thread(target=self._serve, name=f"boucle-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
        self._queue.put(work)
        return future

    def _serve(self) -> None:
        while (work := self._queue.get()) is not None:
            work()
            with self._lock:
                self._waiting -= 1

    def _isolated(self, call: Callable[..., Any], args: tuple[Any, ...], timeout: float | None) -> Any:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_child, args=(theirs, call, args), daemon=True)
        with self._lock:
            if self._cancelled:
                raise StepFailed("cancelled before it started")
            child.start()
            self._children.add(child)
        theirs.close()
        try:
            if not ours.poll(timeout):
                raise TimeoutError(f"took longer than {timeout:g} s and was ended")
            try:
                kind, payload = ours.recv()
            except EOFError:
                child.join(5)
                raise StepFailed(
                    f"its process ended with exit code {child.exitcode}",
                    expected="a result",
                    fix="look for a crash in native code, or too little memory",
                ) from None
        finally:
            ours.close()
            if child.is_alive():
                child.terminate()
                child.join(1)
                if child.is_alive():
                    child.kill()
            child.join()
            with self._lock:
                self._children.discard(child)
        if kind == "error":
            raise payload
        return payload

    def cancel(self) -> None:
        self._cancelled = True
        with self._lock:
            children = list(self._children)
        for child in children:
            child.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            self.cancel()
        for _ in self._threads:
            self._queue.put(None)
        if kind is None:
            for thread in self._threads:
                thread.join()


def _few_threads(most: int) -> AbstractContextManager[object]:
    """While calls run beside each other, the native libraries below them must not each start a thread per core: they
    would spin waiting for one another, at a cost of ten times and more."""
    control = sys.modules.get("threadpoolctl")  # scikit-learn brings it; without native pools there is nothing to limit
    return nullcontext() if control is None else control.threadpool_limits(most)


def _child(pipe: multiprocessing.connection.Connection, call: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        answer = ("result", call(*args))
    except BaseException as error:  # noqa: BLE001  it travels to the parent, with its traceback as a note
        error.add_note("in its own process:\n" + "".join(traceback.format_exception(error)).rstrip())
        answer = ("error", error)
    try:
        pipe.send(answer)
    except (TypeError, AttributeError, ValueError) as error:
        pipe.send(("error", StepFailed(f"its result cannot be sent back: {error}", expected="a picklable value")))
    pipe.close()
