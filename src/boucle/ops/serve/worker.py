"""The thread that predicts: takes what is waiting, asks the model once for all of it, logs, answers.

One thread, because no predictor has to bear two at a time. Requests that came while it was busy are joined into one
call of the model (a row's answer must not depend on the rows beside it); nothing ever waits for others to come.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import queue
import threading
import time
from asyncio import Future
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from boucle.core.errors import BoucleError, Invalid
from boucle.core.frames import arrow_type, to_batch
from boucle.core.schema import Schema, jsonable
from boucle.ops.serve import errors, rows
from boucle.ops.serve.predictions import FailureLog, PredictionLog
from boucle.ports.framework import Predictor

MERGED_REQUESTS = 64
MERGED_BYTES = 256 * 1024
CLOSE_SECONDS = 5.0

_log = logging.getLogger(__name__)
_dumps = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False).encode


@dataclass(slots=True, eq=False)
class Job:
    """One request: what came, when (`time.perf_counter_ns`), and who waits for the answer.

    `mirrors` has the ids of the predictions that another revision answered to the same rows, `key` what it was assigned by.
    """

    body: bytes
    media: str
    request: str
    arrived: int
    answer: Future[Answer]
    key: str = ""
    mirrors: Sequence[str] = ()


@dataclass(slots=True)
class Answer:
    status: int
    body: bytes
    ids: Sequence[str] = ()  # of its predictions, one per row


@dataclass(slots=True, eq=False)
class _Asked:
    job: Job
    columns: dict[str, list[Any]]
    inputs: list[str]  # rows as JSON, as they are logged
    single: bool
    outputs: list[str] = field(default_factory=list)


class Worker:
    """Answers jobs on a thread of its own, in the order they came."""

    def __init__(
        self, schema: Schema, predictor: Predictor, stamp: str, log: PredictionLog, failures: FailureLog
    ) -> None:
        self._schema, self._predictor, self._stamp = schema, predictor, stamp
        self._log, self._failures = log, failures
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="predict", daemon=True)
        self._thread.start()

    def put(self, job: Job) -> None:
        """Answer it soon: its future gets an `Answer`, always."""
        self._jobs.put(job)

    def close(self) -> None:
        """Answer what is waiting, then end; a model that hangs is left behind."""
        self._jobs.put(None)
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        closing = False
        while not closing and (job := self._jobs.get()) is not None:
            jobs, size = [job], len(job.body)
            while size < MERGED_BYTES and len(jobs) < MERGED_REQUESTS and not self._jobs.empty():
                more = self._jobs.get()
                if more is None:
                    closing = True
                    break
                jobs.append(more)
                size += len(more.body)
            answers = self._answers(jobs)
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile, and whoever waited is gone with it
                job.answer.get_loop().call_soon_threadsafe(_deliver, jobs, answers)

    def _answers(self, jobs: list[Job]) -> list[Answer]:
        failed: dict[Job, BaseException] = {}
        asked: list[_Asked] = []
        for job in jobs:
            try:
                asked.append(self._read(job))
            except Exception as error:  # noqa: BLE001  each request is answered for itself, whatever becomes of the others
                failed[job] = error
        failed |= self._predict(asked)
        done = [one for one in asked if one.job not in failed]
        try:
            answered = self._write(done)
        except Exception as error:  # noqa: BLE001
            failed |= {one.job: error for one in done}
            answered = {}
        return [answered[job] if job in answered else self._failure(job, failed[job]) for job in jobs]

    def _read(self, job: Job) -> _Asked:
        try:
            given, single = rows.read(job.body, job.media, self._schema)
            columns = self._schema.decode(given)
        except RecursionError:
            raise rows.too_deep() from None
        inputs = []
        for i, row in enumerate(given):
            try:
                inputs.append(_dumps(row))
            except ValueError:
                raise _not_finite(i, row) from None
        return _Asked(job, columns, inputs, single)

    def _predict(self, asked: list[_Asked]) -> dict[Job, BaseException]:
        """Fill in the outputs; returns what failed, and for whom."""
        try:
            outputs = iter(self._outputs(asked))
            for one in asked:
                one.outputs = list(itertools.islice(outputs, len(one.inputs)))
            return {}
        except BaseException as error:  # noqa: BLE001  a model may also exit, or panic in Rust; this thread must go on
            if len(asked) == 1:
                return {asked[0].job: error}
        # Somebody's rows spoil it for all: whose, shows when each is asked about alone.
        return {job: error for one in asked for job, error in self._predict([one]).items()}

    def _outputs(self, asked: list[_Asked]) -> list[str]:
        count = sum(len(one.inputs) for one in asked)
        if not count:
            return []
        columns = asked[0].columns
        if len(asked) > 1:
            columns = {name: [v for one in asked for v in one.columns[name]] for name in self._schema.names}
        try:
            batch = to_batch(self._schema, columns)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise _unfit(self._schema, columns, error) from error
        result = self._predictor.predict(batch)
        if result.num_rows != count:
            raise RuntimeError(f"the model gave {result.num_rows} rows for {count}")
        names = result.schema.names
        return [
            _encode(dict(zip(names, values, strict=True))) for values in zip(*map(_values, result.columns), strict=True)
        ]

    def _write(self, asked: list[_Asked]) -> dict[Job, Answer]:
        now, clock = time.time(), time.perf_counter_ns()
        rests = []
        for one in asked:
            head = f'"time":{now:.6f},{self._stamp},"inputs":'
            tail = f',"latency_us":{(clock - one.job.arrived) // 1000},"request":"{one.job.request}"'
            if one.job.key:
                tail += f',"key":{_dumps(one.job.key)}'
            lines = [f'{head}{i},"output":{o}{tail}' for i, o in zip(one.inputs, one.outputs, strict=True)]
            if one.job.mirrors:
                lines = [f'{line},"shadow":"{id}"' for line, id in zip(lines, one.job.mirrors, strict=True)]
            rests += lines
        given = iter(self._log.append(rests) if rests else ())
        answers = {}
        for one in asked:
            ids = list(itertools.islice(given, len(one.outputs)))
            each = [f'{{"id":"{id}",{output[1:-1]}' for id, output in zip(ids, one.outputs, strict=True)]
            text = (
                f"{each[0]},{self._stamp}}}"
                if one.single
                else f'{{{self._stamp},"predictions":[{"},".join([*each, ""])[:-1]}]}}'
            )
            answers[one.job] = Answer(200, text.encode(), ids)
        return answers

    def _failure(self, job: Job, error: BaseException) -> Answer:
        status = errors.status_of(error) if isinstance(error, BoucleError) else 500
        if isinstance(error, BoucleError) and status != 500:
            return Answer(status, errors.encode(error))
        _log.error("request %s failed", job.request, exc_info=error)
        took = (time.perf_counter_ns() - job.arrived) // 1000
        self._failures.note(self._stamp, 500, f"{type(error).__name__}: {error}", took, job.request, bool(job.mirrors))
        return Answer(500, errors.internal(job.request))


def _deliver(jobs: list[Job], answers: list[Answer]) -> None:
    for job, answer in zip(jobs, answers, strict=True):
        if not job.answer.done():  # it was cancelled when the client went away
            job.answer.set_result(answer)


def _encode(output: dict[str, Any]) -> str:
    try:
        return _dumps(output)
    except (TypeError, ValueError):
        return _dumps(jsonable(output))


def _values(column: pa.Array) -> list[Any]:
    if not pa.types.is_struct(column.type) or column.null_count:
        return list(column.to_pylist())
    # Field by field: several times as fast as struct by struct.
    names = [field.name for field in column.type]
    return [
        dict(zip(names, values, strict=True)) for values in zip(*(f.to_pylist() for f in column.flatten()), strict=True)
    ]


def _not_finite(i: int, row: dict[str, Any]) -> Invalid:
    name = next(name for name, value in row.items() if jsonable(value) != value)
    return Invalid(
        f"row {i}, column {name!r} is not a finite number",
        expected="a number that float64 can hold",
        fix="send null for a value that is not known",
    )


def _unfit(schema: Schema, columns: dict[str, list[Any]], error: Exception) -> Invalid:
    for column in schema.columns:
        for i, value in enumerate(columns[column.name]):
            try:
                pa.array([value], type=arrow_type(column.type))
            except (pa.ArrowException, TypeError, ValueError, OverflowError):
                return Invalid(f"row {i}, column {column.name!r} cannot be read: {error}", expected=column.type)
    return Invalid(f"the rows do not fit together: {error}", expected="values of one type in each column")
