"""The ASGI application of a service: routes, limits and errors. No framework, so that a request costs little."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from boucle.core.bundle import open_bundle
from boucle.core.errors import BoucleError, Invalid, NotFound, Unavailable
from boucle.core.refs import new_id
from boucle.core.route import Arm, Route, choose, main, point
from boucle.ops.serve import errors, labels
from boucle.ops.serve.arms import (
    JSON_HEADERS,
    NO_SNIFF,
    Apart,
    Headers,
    Here,
    Loaded,
    Misfit,
    Pages,
    Running,
    pages,
)
from boucle.ops.serve.errors import Malformed, TooLarge, WrongMedia, WrongMethod
from boucle.ops.serve.metrics import MEDIA, Metrics
from boucle.ops.serve.split import merged, parts
from boucle.ops.serve.worker import Answer

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MAX_BODY = 32 * 2**20
MAX_WAITING = 1024
MOST_LABELLING = 16  # requests with labels that may wait
MOST_MIRRORED = 64  # requests that may wait for a shadow; more are not mirrored
MOST_KEY = 256  # characters of a key
TRIAL_SECONDS = 5.0  # so long may a revision with the smaller share take before the other one is asked
RETIRE_SECONDS = 30.0

PREDICT = "/predict"
LABELS = "/labels"
GET = ("GET", "HEAD")
ROUTES: dict[str, tuple[str, ...]] = {
    PREDICT: ("POST",),
    LABELS: ("POST",),
    **dict.fromkeys(("/", "/openapi.json", "/metadata", "/metrics", "/health/live", "/health/ready"), GET),
}

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}\Z")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Table:
    """The route in force: who answers, and with what. Replaced as a whole, so that each request sees one."""

    route: Route
    running: Mapping[int, Running]
    arms: tuple[Arm, ...] = ()  # those with a share that really run
    main: Running | None = None
    shadows: tuple[Running, ...] = ()
    pages: Pages = field(default_factory=dict)

    @property
    def split(self) -> bool:
        return len(self.arms) > 1


class App:
    """Serves the revisions of a route. It answers from the start: until one of them has a share it is alive but not ready.

    `stopping` takes the readiness away while requests are still answered, so that nobody sends more; `leaving` asks
    clients to connect anew, since somebody else listens at the address already.
    """

    def __init__(self, service: str, *, max_body: int = MAX_BODY, log_optional: bool = False) -> None:
        self.stopping = self.leaving = False
        self._service, self._max_body, self._log_optional = service, max_body, log_optional
        self._metrics = Metrics()
        self._loaded = Loaded()
        self._table = _Table(Route(()), {})
        self._waiting = self._labelling = 0
        self._labels = ThreadPoolExecutor(1, "labels")
        self._tasks: set[asyncio.Task[None]] = set()

    async def follow(self, route: Route) -> dict[str, str]:
        """Take on a route: load what is new, switch, let go of what is left out when it has answered. Returns how each
        revision is: `ready`, or why not, beginning with `apart` where it needs a process of its own. Those that are
        not ready get nothing, and the others share."""
        running: dict[int, Running] = {}
        states: dict[str, str] = {}
        for arm in route.arms:
            old = self._table.running.get(arm.revision)
            if old is not None and old.arm.url == arm.url:
                old.arm = arm
                running[arm.revision], states[str(arm.revision)] = old, "ready"
                continue
            try:
                running[arm.revision] = await self._start(arm)
                states[str(arm.revision)] = "ready"
            except Misfit as error:
                states[str(arm.revision)] = f"apart: {error.what}"
            except Exception as error:  # noqa: BLE001  a model may fail in any way, and the others go on
                if not isinstance(error, BoucleError):
                    _log.exception("revision %s cannot be loaded", arm.revision)
                states[str(arm.revision)] = f"failed: {type(error).__name__}: {error}"
        self.turn(route, running)
        return states

    def turn(self, route: Route, running: Mapping[int, Running]) -> None:
        """Put a route in force, with the revisions of it that run."""
        before = self._table
        arms = tuple(running[a.revision].arm for a in route.arms if a.revision in running and a.share > 0)
        best = main(arms)
        chosen = running[best.revision] if best else next(iter(running.values()), None)
        self._table = _Table(
            route, running, arms, running[best.revision] if best else None,
            tuple(running[a.revision] for a in route.arms if a.shadow and a.revision in running),
            pages(chosen) if chosen else {},
        )  # fmt: skip
        self._metrics.shares = {a.revision: a.share for a in route.arms}
        for revision, old in before.running.items():
            if running.get(revision) is not old:
                self._later(self._retire(old))

    async def _start(self, arm: Arm) -> Running:
        if arm.url:
            return Apart(self._service, arm, await asyncio.to_thread(open_bundle, Path(arm.bundle)))
        bundle, predictor = await asyncio.to_thread(self._loaded.load, arm)
        return await asyncio.to_thread(
            Here, self._service, arm, bundle, predictor, log_optional=self._log_optional
        )  # fmt: skip

    async def _retire(self, old: Running) -> None:
        until = time.monotonic() + RETIRE_SECONDS
        while old.asked and time.monotonic() < until:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(old.close)

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)  # the loop itself holds tasks only weakly
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Answer what waits, then put the logs on the disk."""
        self.stopping = True
        for running in self._table.running.values():
            running.close()
        self._table = _Table(Route(()), {})
        self._labels.shutdown()

    @property
    def model(self) -> str:
        """What is served, as it is stamped on predictions."""
        return self._table.main.stamp.model if self._table.main else ""

    @property
    def ready(self) -> bool:
        return self._table.main is not None and not self.stopping

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise Invalid(f"a {scope['type']} connection is not answered here", expected="http")
        path, method = scope["path"], scope["method"]
        request = ""
        try:
            if path in (PREDICT, LABELS) and method == "POST":
                asked = _read_headers(scope["headers"])
                request = asked.request
                body = await self._body(receive, asked.length)
                if body is None:
                    return  # the client went away
                status, headers, body = await (self._predict if path == PREDICT else self._label)(body, asked)
            else:
                status, headers, body = self._get(path, method)
        except BoucleError as error:
            status, headers, body = errors.status_of(error), JSON_HEADERS, errors.encode(error)
            if isinstance(error, WrongMethod):
                headers = [*headers, _allow(path)]
            elif isinstance(error, Unavailable):
                headers = [*headers, (b"retry-after", b"1")]
            elif isinstance(error, TooLarge):
                # What was not read would be taken for the next request.
                headers = [*headers, (b"connection", b"close")]
        except Exception:  # noqa: BLE001  the last place before the client, who gets an id and nothing else
            request = request or new_id()
            _log.exception("request %s failed", request)
            status, headers, body = 500, JSON_HEADERS, errors.internal(request)
        self._metrics.requests[path if path in ROUTES else "other", status] += 1
        length_header = (b"content-length", b"%d" % len(body))
        if self.leaving:
            headers = [*headers, (b"connection", b"close")]
        await send({"type": "http.response.start", "status": status, "headers": [*headers, length_header]})
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})

    async def _predict(self, body: bytes, asked: _Asked) -> tuple[int, Headers, bytes]:
        table = self._table
        if not table.running or (table.main is None and not asked.revision):
            raise self._absent()
        if self._waiting >= MAX_WAITING:
            raise Unavailable(f"{self._waiting} predictions are waiting already", fix="try again in a moment")
        arrived = time.perf_counter_ns()
        self._waiting += 1
        try:
            if asked.revision or not table.split:
                chosen = self._named(table, asked.revision) if asked.revision else table.main
                assert chosen is not None  # checked above
                mirrors = asked.mirrors if table.route.inner else ()
                answer = await self._ask(table, chosen, body, asked, arrived, asked.key, mirrors)
            else:
                answer = await self._shared_out(table, body, asked, arrived)
        finally:
            self._waiting -= 1
        if answer.status == 200:
            self._metrics.rows += len(answer.ids)
            self._metrics.observe((time.perf_counter_ns() - arrived) / 1e9)
            if table.shadows and not asked.revision:
                self._mirror(table, body, asked, answer.ids)
        return answer.status, [*JSON_HEADERS, (b"x-request-id", asked.request.encode())], answer.body

    async def _label(self, body: bytes, asked: _Asked) -> tuple[int, Headers, bytes]:
        running = self._table.running.values()
        if not running:
            raise self._absent()
        if self._labelling >= MOST_LABELLING:
            raise Unavailable(
                f"{self._labelling} requests with labels are waiting already", fix="try again in a moment"
            )
        self._labelling += 1
        try:
            # One at a time, so that however many labels come, predictions keep their share of the machine.
            logs, loop = [Path(r.arm.log) for r in running], asyncio.get_running_loop()
            done = await loop.run_in_executor(self._labels, labels.keep, body, asked.media, logs)
        finally:
            self._labelling -= 1
        self._metrics.labels += done.kept
        return 200, [*JSON_HEADERS, (b"x-request-id", asked.request.encode())], json.dumps(asdict(done)).encode()

    def _absent(self) -> Unavailable:
        return Unavailable(
            "the service is stopping" if self.stopping else "the service is starting",
            expected="/health/ready to answer 200",
            fix="try again in a moment",
        )

    async def _shared_out(self, table: _Table, body: bytes, asked: _Asked, arrived: int) -> Answer:
        """Ask whoever is chosen by share, by the key of the request, or row by row by a column."""
        by = table.route.by
        if not by or asked.key:
            place = point(asked.key, table.route.salt) if asked.key else random.random()  # noqa: S311  no secret
            chosen = table.running[choose(table.arms, place).revision]
            return await self._ask(table, chosen, body, asked, arrived, asked.key)
        assert table.main is not None
        pieces = parts(body, asked.media, table.main.bundle.input, table.arms, by, table.route.salt)
        answers = await asyncio.gather(
            *(
                self._ask(table, table.running[p.revision], p.body, replace(asked, media=p.media), arrived, p.key)
                for p in pieces
            )
        )
        return answers[0] if len(answers) == 1 else merged(pieces, answers, self._service)

    async def _ask(
        self, table: _Table, chosen: Running, body: bytes, asked: _Asked, arrived: int, key: str = "",
        mirrors: Sequence[str] = (),
    ) -> Answer:  # fmt: skip
        answering = chosen.ask(body, asked.media, asked.request, arrived, key, mirrors)
        if chosen is table.main or asked.revision:
            answer = await answering
        else:
            answer = await self._in_time(chosen, answering, asked.request, arrived)
        other = None if asked.revision or answer.status < 500 else _instead(table, chosen, answer)
        if other is not None:
            self._metrics.answers[chosen.arm.revision, answer.status] += 1
            chosen = other
            answer = await chosen.ask(body, asked.media, asked.request, arrived, key)
        self._metrics.answers[chosen.arm.revision, answer.status] += 1
        return answer

    async def _in_time(
        self, chosen: Running, answering: asyncio.Future[Answer], request: str, arrived: int
    ) -> Answer:  # fmt: skip
        try:
            return await asyncio.wait_for(asyncio.shield(answering), TRIAL_SECONDS)
        except TimeoutError:
            took = (time.perf_counter_ns() - arrived) // 1000
            chosen.failures.note(chosen.stamp.json(), 504, f"no answer within {TRIAL_SECONDS:g} s", took, request)
            return Answer(504, b"")

    def _mirror(self, table: _Table, body: bytes, asked: _Asked, ids: Sequence[str]) -> None:
        for shadow in table.shadows:
            if shadow.asked < MOST_MIRRORED:
                shadow.ask(body, asked.media, asked.request, time.perf_counter_ns(), asked.key, ids)
            else:
                self._metrics.not_mirrored += 1

    def _named(self, table: _Table, revision: str) -> Running:
        found = table.running.get(int(revision)) if revision.isdigit() and len(revision) < 10 else None
        if found is None:
            raise NotFound(
                f"revision {revision} is not here", expected=f"one of {', '.join(map(str, sorted(table.running)))}"
            )
        return found

    async def _body(self, receive: Receive, length: int) -> bytes | None:
        size = 0
        parts: list[bytes] = []
        while size <= self._max_body >= length:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if not message.get("more_body") and size <= self._max_body:
                return b"".join(parts)
        raise TooLarge(
            f"the body is larger than {self._max_body} bytes",
            expected="less in one request",
            fix="send the rows in several requests, or start the service with a larger --max-body",
        )

    def _get(self, path: str, method: str) -> tuple[int, Headers, bytes]:
        if path not in ROUTES:
            raise NotFound.named("path", path, ROUTES)
        if method == "OPTIONS":
            return 200, [_allow(path)], b""
        if method not in ROUTES[path]:
            raise WrongMethod(f"{path} does not answer {method}", expected=" or ".join(ROUTES[path]))
        if path == "/health/live":
            return 200, JSON_HEADERS, b'{"status":"alive"}'
        if path == "/health/ready":
            status = "ready" if self.ready else "stopping" if self.stopping else "starting"
            return 200 if self.ready else 503, JSON_HEADERS, json.dumps({"status": status}).encode()
        if path == "/metrics":
            table = self._table
            stamp = asdict(table.main.stamp) if table.main else {"service": self._service}
            failed = sum(r.log_failures for r in table.running.values())
            text = self._metrics.text(
                {name: str(value) for name, value in stamp.items()}, ready=self.ready, waiting=self._waiting,
                log_failures=failed,
            )  # fmt: skip
            return 200, [(b"content-type", MEDIA.encode()), NO_SNIFF], text.encode()
        if path not in self._table.pages:
            raise self._absent()
        return 200, *self._table.pages[path]


def _instead(table: _Table, chosen: Running, answer: Answer) -> Running | None:
    """Who is asked when a revision has failed; that it did is on file. What is on trial must cost nobody an answer, and a
    process that is gone none as long as another revision is loaded."""
    if chosen is not table.main:
        return table.main
    if answer.status != 503:
        return None  # the revision that serves failed by itself, and its failure is the answer
    return next((r for r in table.running.values() if r is not chosen and not r.arm.shadow), None)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the headers of a request say: its id is the client's, when it sent a usable one."""

    media: str = ""
    length: int = 0
    request: str = ""
    key: str = ""
    revision: str = ""
    mirrors: tuple[str, ...] = ()


def _read_headers(headers: Headers) -> _Asked:
    media, length, request, key, revision, mirrors = "", 0, "", "", "", ""
    for name, value in headers:
        if name == b"content-type":
            media = value.decode("latin-1")
        elif name == b"content-length":
            if not value.isdigit():
                raise Malformed(f"Content-Length is {value!r}", expected="a number of bytes")
            length = int(value)
        elif name == b"content-encoding" and value.lower() != b"identity":
            raise WrongMedia(f"Content-Encoding {value.decode('latin-1')} is not read here", expected="a plain body")
        elif name == b"x-request-id" and _REQUEST_ID.match(value):
            request = value.decode()
        elif name == b"x-boucle-key":
            key = value.decode("latin-1")[:MOST_KEY]
        elif name == b"x-boucle-revision":
            revision = value.decode("latin-1")
        elif name == b"x-boucle-mirrors":
            mirrors = value.decode("latin-1")
    return _Asked(media, length, request or new_id(), key, revision, tuple(mirrors.split(",")) if mirrors else ())


def _allow(path: str) -> tuple[bytes, bytes]:
    return b"allow", ", ".join((*ROUTES[path], "OPTIONS")).encode()
