"""The revisions behind one address: loaded here, or in a process of their own that requests are passed on to."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

import httptools
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from boucle.core.bundle import open_bundle, replay
from boucle.core.errors import Corrupt, Refused, Unavailable
from boucle.core.route import Arm
from boucle.ops.serve import errors, openapi, page
from boucle.ops.serve.predictions import FailureLog, PredictionLog
from boucle.ops.serve.rows import JSON
from boucle.ops.serve.worker import Answer, Job, Worker

if TYPE_CHECKING:
    from boucle.core.bundle import Bundle
    from boucle.ports.framework import Predictor

Headers = list[tuple[bytes, bytes]]
Pages = Mapping[str, tuple[Headers, bytes]]

NO_SNIFF = (b"x-content-type-options", b"nosniff")
JSON_HEADERS: Headers = [(b"content-type", JSON.encode()), NO_SNIFF]
IDLE_CONNECTIONS = 64


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


class Running(Protocol):
    """A revision that answers."""

    arm: Arm
    stamp: Stamp
    bundle: Bundle
    failures: FailureLog
    asked: int  # requests that it has not answered yet

    def ask(
        self, body: bytes, media: str, request: str, arrived: int, key: str = "", mirrors: Sequence[str] = ()
    ) -> asyncio.Future[Answer]:
        """An answer, always; a failure has a status."""

    @property
    def log_failures(self) -> int:
        """Predictions that could not be logged."""

    def close(self) -> None:
        """Answer what waits, then let go; may take a while."""


class Here:
    """A model loaded in this process, with a thread of its own."""

    def __init__(
        self, service: str, arm: Arm, bundle: Bundle, predictor: Predictor, *, log_optional: bool = False
    ) -> None:  # fmt: skip
        self.arm, self.bundle, self.asked = arm, bundle, 0
        self.stamp = Stamp(service, arm.revision, arm.model or bundle.name, bundle.digest)
        self._log = PredictionLog(Path(arm.log), optional=log_optional)
        self.failures = FailureLog(failures_of(arm))
        self._worker = Worker(bundle.input, predictor, self.stamp.json(), self._log, self.failures)

    def ask(
        self, body: bytes, media: str, request: str, arrived: int, key: str = "", mirrors: Sequence[str] = ()
    ) -> asyncio.Future[Answer]:  # fmt: skip
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.asked += 1
        answer.add_done_callback(self._answered)
        self._worker.put(Job(body, media, request, arrived, answer, key, mirrors))
        return answer

    def _answered(self, _: object) -> None:
        self.asked -= 1

    @property
    def log_failures(self) -> int:
        return self._log.failures

    def close(self) -> None:
        self._worker.close()
        self._log.close()
        self.failures.close()


class Apart:
    """A model in a process of its own. It keeps its own log; what cannot be passed on to it is noted here."""

    log_failures = 0

    def __init__(self, service: str, arm: Arm, bundle: Bundle) -> None:
        self.arm, self.bundle, self.asked = arm, bundle, 0
        self.stamp = Stamp(service, arm.revision, arm.model or bundle.name, bundle.digest)
        self.failures = FailureLog(failures_of(arm))
        self._peer = Peer(arm.url)
        self._tasks: set[asyncio.Task[Answer]] = set()  # the loop itself holds tasks only weakly

    def ask(
        self, body: bytes, media: str, request: str, arrived: int, key: str = "", mirrors: Sequence[str] = ()
    ) -> asyncio.Future[Answer]:  # fmt: skip
        self.asked += 1
        task = asyncio.get_running_loop().create_task(self._pass_on(body, media, request, arrived, key, mirrors))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _pass_on(
        self, body: bytes, media: str, request: str, arrived: int, key: str, mirrors: Sequence[str]
    ) -> Answer:  # fmt: skip
        extra = {"x-boucle-key": key} if key.isascii() and key.isprintable() else {}
        if mirrors:
            extra["x-boucle-mirrors"] = ",".join(mirrors)
        try:
            status, said = await self._peer.post("/predict", body, media, {"x-request-id": request, **extra})
            answer = Answer(status, said)
            if status == 200:
                found = json.loads(said)
                answer.ids = [p["id"] for p in found.get("predictions", [found])]
            return answer
        except (OSError, EOFError, ValueError, httptools.HttpParserError) as error:
            took = (time.perf_counter_ns() - arrived) // 1000
            what = f"its process does not answer: {error}"
            self.failures.note(self.stamp.json(), 503, what, took, request, bool(mirrors))
            unavailable = Unavailable(f"revision {self.arm.revision} does not answer", fix="try again in a moment")
            return Answer(503, errors.encode(unavailable))
        finally:
            self.asked -= 1

    def close(self) -> None:
        self._peer.close()
        self.failures.close()


class Peer:
    """A minimal HTTP/1.1 client to one service process: keeps connections open, always reads a whole answer."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def post(self, path: str, body: bytes, media: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Status and body; raises OSError or EOFError when there is no answer."""
        lines = [f"POST {path} HTTP/1.1", f"host: {self._host}:{self._port}", f"content-length: {len(body)}"]
        if media:
            lines.append(f"content-type: {media}")
        lines += [f"{name}: {value}" for name, value in headers.items()]
        request = "\r\n".join([*lines, "", ""]).encode("latin-1") + body
        while self._idle:
            reader, writer = self._idle.pop()
            try:
                return await self._exchange(reader, writer, request)
            except (OSError, EOFError):
                continue  # it was closed while it lay idle
        reader, writer = await asyncio.open_connection(self._host, self._port)
        return await self._exchange(reader, writer, request)

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
    ) -> tuple[int, bytes]:  # fmt: skip
        whole = _Whole()
        parser = httptools.HttpResponseParser(whole)
        try:
            writer.write(request)
            while not whole.done:
                data = await reader.read(65536)
                if not data:
                    raise EOFError("the connection was closed")
                parser.feed_data(data)
        except BaseException:
            writer.close()
            raise
        if parser.should_keep_alive() and len(self._idle) < IDLE_CONNECTIONS:
            self._idle.append((reader, writer))
        else:
            writer.close()
        return parser.get_status_code(), b"".join(whole.parts)

    def close(self) -> None:
        for _, writer in self._idle:
            writer.transport.abort()
        self._idle.clear()


class _Whole:
    """Collects one answer, as the parser calls it."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.done = False

    def on_body(self, body: bytes) -> None:
        self.parts.append(body)

    def on_message_complete(self) -> None:
        self.done = True


def failures_of(arm: Arm) -> Path:
    """Where the requests that a revision failed are kept."""
    return Path(arm.failures) if arm.failures else Path(arm.log).with_name("failures")


class Misfit(Refused):
    """A bundle that cannot share a process with what is loaded in it."""


class Loaded:
    """What this process has loaded so far: packages at a version, and code of users by its digest."""

    def __init__(self) -> None:
        self._packages: dict[str, str] = {}
        self._code: dict[str, str] = {}

    def open(self, arm: Arm) -> Bundle:
        """The bundle of an arm, checked; raises `Misfit` when it needs a process of its own."""
        bundle = open_bundle(Path(arm.bundle))
        installed = _installed(bundle.requirements)
        code = {n: d for n, d in bundle.manifest["files"].items() if n.startswith("model/") and n.endswith(".py")}
        for name, version in installed.items():
            before = self._packages.get(name, version)
            if before != version:
                raise Misfit(f"{name} {before} is loaded here, and {version} is what there is now")
        for name, digest in code.items():
            if self._code.get(name, digest) != digest:
                raise Misfit(f"another {name.removeprefix('model/')} is loaded here")
        self._packages.update(installed)
        self._code.update(code)
        return bundle

    def load(self, arm: Arm) -> tuple[Bundle, Predictor]:
        """The bundle and its model, which has answered its sample as it did when it was packed."""
        bundle = self.open(arm)
        predictor = bundle.load()
        changed = replay(bundle, predictor)  # also warms up: the first call is slow, and nobody should wait for it
        if changed:
            raise Corrupt(
                f"the model does not answer as it did when it was packed: {changed[0]}",
                expected="its golden outputs",
                fix="install the versions that requirements.txt of the bundle names",
            )
        return bundle, predictor


def _installed(requirements: str) -> dict[str, str]:
    """The versions that there are now of the packages a bundle names."""
    found = {}
    for line in requirements.splitlines():
        text = line.partition("#")[0].partition("--hash")[0].strip().rstrip("\\").strip()
        try:
            name = canonicalize_name(Requirement(text).name) if text and not text.startswith("-") else ""
            if name:
                found[name] = metadata.version(name)
        except (InvalidRequirement, metadata.PackageNotFoundError):
            continue  # the proof when it is loaded says whether it can do without
    return found


def pages(running: Running) -> Pages:
    """What a browser or a program can read about a revision."""
    bundle, stamp = running.bundle, running.stamp
    document = openapi.document(bundle, stamp.model, stamp.service)
    facts = {
        **asdict(stamp),
        "task": bundle.task,
        "framework": bundle.framework,
        "input": bundle.input.to_json(),
        "output": bundle.output.to_json(),
        "references": dict(bundle.references),
    }
    html, policy = page.render(bundle, stamp.service, stamp.revision, stamp.model)
    return {
        "/": (
            [
                (b"content-type", b"text/html; charset=utf-8"),
                (b"content-security-policy", policy.encode()),
                (b"referrer-policy", b"no-referrer"),
                (b"cache-control", b"no-cache"),
                NO_SNIFF,
            ],
            html.encode(),
        ),
        "/openapi.json": (JSON_HEADERS, json.dumps(document).encode()),
        "/metadata": (JSON_HEADERS, json.dumps(facts).encode()),
    }
