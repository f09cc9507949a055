"""The ASGI application of a service: routes, limits and errors. No framework, so that a request costs little."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from boucle.core.errors import BoucleError, Invalid, NotFound, Unavailable
from boucle.core.refs import new_id
from boucle.ops.serve import errors, openapi, page
from boucle.ops.serve.errors import Malformed, TooLarge, WrongMedia, WrongMethod
from boucle.ops.serve.metrics import MEDIA, Metrics
from boucle.ops.serve.predictions import PredictionLog
from boucle.ops.serve.rows import JSON
from boucle.ops.serve.worker import Job, Worker

if TYPE_CHECKING:
    from boucle.core.bundle import Bundle
    from boucle.ports.framework import Predictor

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

MAX_BODY = 32 * 2**20
MAX_WAITING = 1024

PREDICT = "/predict"
GET = ("GET", "HEAD")
ROUTES: dict[str, tuple[str, ...]] = {
    PREDICT: ("POST",),
    **dict.fromkeys(("/", "/openapi.json", "/metadata", "/metrics", "/health/live", "/health/ready"), GET),
}

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}\Z")
_NO_SNIFF = (b"x-content-type-options", b"nosniff")
_JSON_HEADERS: Headers = [(b"content-type", JSON.encode()), _NO_SNIFF]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stamp:
    """What each prediction says about where it came from. `model` is a name and a version: churn@3."""

    service: str
    revision: int
    model: str
    digest: str = ""

    def json(self) -> str:
        """As members of a JSON object, without the braces."""
        return json.dumps(asdict(self), separators=(",", ":"))[1:-1]


class App:
    """Serves one model. It answers from the start: until `open` it is alive but not ready, and after `close` again.

    `stopping` takes the readiness away while requests are still answered, so that nobody sends more.
    """

    def __init__(self, stamp: Stamp, log: PredictionLog, *, max_body: int = MAX_BODY) -> None:
        self.stopping = False
        self._stamp, self._log, self._max_body = stamp, log, max_body
        self._metrics = Metrics()
        self._worker: Worker | None = None
        self._waiting = 0
        self._pages: dict[str, tuple[Headers, bytes]] = {}

    def open(self, bundle: Bundle, predictor: Predictor) -> None:
        """Become ready."""
        self._stamp = replace(self._stamp, model=self._stamp.model or bundle.name, digest=bundle.digest)
        document = openapi.document(bundle, self._stamp.model, self._stamp.service)
        facts = {
            **asdict(self._stamp),
            "task": bundle.task,
            "framework": bundle.framework,
            "input": bundle.input.to_json(),
            "output": bundle.output.to_json(),
            "references": dict(bundle.references),
        }
        html, policy = page.render(bundle, self._stamp.service, self._stamp.revision, self._stamp.model)
        self._pages = {
            "/": (
                [
                    (b"content-type", b"text/html; charset=utf-8"),
                    (b"content-security-policy", policy.encode()),
                    (b"referrer-policy", b"no-referrer"),
                    (b"cache-control", b"no-cache"),
                    _NO_SNIFF,
                ],
                html.encode(),
            ),
            "/openapi.json": (_JSON_HEADERS, json.dumps(document).encode()),
            "/metadata": (_JSON_HEADERS, json.dumps(facts).encode()),
        }
        self._worker = Worker(bundle.input, predictor, self._stamp.json(), self._log)

    def close(self) -> None:
        """Answer what waits, then put the log on the disk."""
        self.stopping = True
        if self._worker:
            self._worker.close()
            self._worker = None
        self._log.close()

    @property
    def model(self) -> str:
        """What is served, as it is stamped on predictions."""
        return self._stamp.model

    @property
    def ready(self) -> bool:
        return self._worker is not None and not self.stopping

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise Invalid(f"a {scope['type']} connection is not answered here", expected="http")
        path, method = scope["path"], scope["method"]
        request = ""
        try:
            if path == PREDICT and method == "POST":
                media, length, request = _read_headers(scope["headers"])
                body = await self._body(receive, length)
                if body is None:
                    return  # the client went away
                status, headers, body = await self._predict(body, media, request)
            else:
                status, headers, body = self._get(path, method)
        except BoucleError as error:
            status, headers, body = errors.status_of(error), _JSON_HEADERS, errors.encode(error)
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
            status, headers, body = 500, _JSON_HEADERS, errors.internal(request)
        self._metrics.requests[path if path in ROUTES else "other", status] += 1
        length_header = (b"content-length", b"%d" % len(body))
        await send({"type": "http.response.start", "status": status, "headers": [*headers, length_header]})
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})

    async def _predict(self, body: bytes, media: str, request: str) -> tuple[int, Headers, bytes]:
        worker = self._worker
        if worker is None:
            raise Unavailable(
                "the service is stopping" if self.stopping else "the service is starting",
                expected="/health/ready to answer 200",
                fix="try again in a moment",
            )
        if self._waiting >= MAX_WAITING:
            raise Unavailable(f"{self._waiting} predictions are waiting already", fix="try again in a moment")
        arrived = time.perf_counter_ns()
        self._waiting += 1
        try:
            job = Job(body, media, request, arrived, asyncio.get_running_loop().create_future())
            worker.put(job)
            answer = await job.answer
        finally:
            self._waiting -= 1
        if answer.status == 200:
            self._metrics.rows += answer.rows
            self._metrics.observe((time.perf_counter_ns() - arrived) / 1e9)
        return answer.status, [*_JSON_HEADERS, (b"x-request-id", request.encode())], answer.body

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
            return 200, _JSON_HEADERS, b'{"status":"alive"}'
        if path == "/health/ready":
            status = "ready" if self.ready else "stopping" if self.stopping else "starting"
            return 200 if self.ready else 503, _JSON_HEADERS, json.dumps({"status": status}).encode()
        if path == "/metrics":
            labels = {name: str(value) for name, value in asdict(self._stamp).items()}
            text = self._metrics.text(labels, ready=self.ready, waiting=self._waiting, log_failures=self._log.failures)
            return 200, [(b"content-type", MEDIA.encode()), _NO_SNIFF], text.encode()
        if path not in self._pages:
            raise Unavailable(
                "the service is starting", expected="/health/ready to answer 200", fix="try again in a moment"
            )
        return 200, *self._pages[path]


def _read_headers(headers: Headers) -> tuple[str, int, str]:
    """Media type, announced length, and request id (the client's, when it sent a usable one)."""
    media, length, request = "", 0, ""
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
    return media, length, request or new_id()


def _allow(path: str) -> tuple[bytes, bytes]:
    return b"allow", ", ".join((*ROUTES[path], "OPTIONS")).encode()
