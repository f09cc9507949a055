"""Decorators that watch a function or the body of a step: how long it took, what it was called with, where time went.

    @step
    @timed
    def clean(data: Frame) -> Frame: ...

What they find goes to the active run as metrics and to its log, and to the `logging` module outside of one.
"""

from __future__ import annotations

import functools
import logging
import time
import tracemalloc
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from boucle.ledger import recording

P = ParamSpec("P")
R = TypeVar("R")

_log = logging.getLogger("boucle")


def timed(function: Callable[P, R]) -> Callable[P, R]:
    """Log wall and CPU seconds of each call as the metrics `<name>.seconds` and `<name>.cpu_seconds`."""

    @functools.wraps(function)
    def watched(*args: P.args, **kwargs: P.kwargs) -> R:
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            return function(*args, **kwargs)
        finally:
            spent = {
                f"{function.__name__}.seconds": time.perf_counter() - wall,
                f"{function.__name__}.cpu_seconds": time.process_time() - cpu,
            }
            recording.log_metrics(spent)
            _log.info("%s took %.4f s", function.__qualname__, spent[f"{function.__name__}.seconds"])

    return watched


def logged(function: Callable[P, R]) -> Callable[P, R]:
    """Say when the function is called, with what, and what came of it."""

    @functools.wraps(function)
    def watched(*args: P.args, **kwargs: P.kwargs) -> R:
        given = [_short(a) for a in args] + [f"{k}={_short(v)}" for k, v in kwargs.items()]
        _say(f"{function.__qualname__}({', '.join(given)})")
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            _say(f"{function.__qualname__} raised {type(error).__name__}: {error}")
            raise
        _say(f"{function.__qualname__} gave {_short(result)}")
        return result

    return watched


def profiled(function: Callable[P, R]) -> Callable[P, R]:
    """Profile each call: the ten functions that took the most time go to the log, peak memory (MiB, as Python sees it)
    becomes the metric `<name>.peak_mb`. Costs a multiple of the run time."""

    @functools.wraps(function)
    def watched(*args: P.args, **kwargs: P.kwargs) -> R:
        import cProfile
        import io
        import pstats

        profile = cProfile.Profile()
        ours = not tracemalloc.is_tracing()
        if ours:
            tracemalloc.start()
        tracemalloc.reset_peak()
        try:
            return profile.runcall(function, *args, **kwargs)
        finally:
            peak = tracemalloc.get_traced_memory()[1] / 2**20
            if ours:
                tracemalloc.stop()
            recording.log_metrics({f"{function.__name__}.peak_mb": peak})
            text = io.StringIO()
            pstats.Stats(profile, stream=text).sort_stats("cumulative").print_stats(10)
            _say(f"{function.__qualname__}: peak {peak:.1f} MiB\n{text.getvalue().strip()}")

    return watched


def _say(text: str) -> None:
    if recording.active.get() is not None:
        print(text)  # noqa: T201  a step's own log
    else:
        _log.info(text)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
