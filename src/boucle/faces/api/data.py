"""Reading datasets over HTTP: an ASGI application, read-only, that streams.

    GET /data                      the newest version of each dataset
    GET /data/tx                   the versions of one
    GET /data/tx@3                 one version (also @latest, @sha1f3a, @{2026-11-01})
    GET /data/tx@3/schema          its columns, as they are and as JSON Schema
    GET /data/tx@3/statistics      what is in them
    GET /data/tx@3/rows            the rows: ?columns=a,b&filter=a>1&limit=10&offset=0&format=json|jsonl|csv|tsv|parquet|arrow|...
    GET /openapi.json              this, for machines

A version never changes, so its digest is the ETag, and caches may keep what has a number for ever. Rows are read while they are
sent, never faster than the client takes them.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import hashlib
import hmac
import json
import logging
import urllib.parse
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from boucle.core.errors import BoucleError, Invalid, NotFound, Refused, Unavailable
from boucle.core.frames import Frame, to_rows
from boucle.core.records import Dataset
from boucle.core.refs import Ref, new_id
from boucle.core.schema import Schema, jsonable
from boucle.data.export import chosen, encode
from boucle.data.validate import statistics
from boucle.faces.api.openapi import MEDIA, document
from boucle.ledger import datasets
from boucle.ops.serve import errors
from boucle.ops.serve.errors import Malformed, Unacceptable, Unknown, WrongMethod
from boucle.workspace import Workspace

JSON_ROWS = 1000  # in a page, where no limit is given
MOST_JSON_ROWS = 100_000
MOST_AT_ONCE = 16  # answers that are being made; more are asked to come back
STALL_SECONDS = 60.0  # so long may a client take nothing

_PIECE = 1 << 18  # bytes sent at once
_POSITION = "\0position"  # no column of a file is named so
_PARAMETERS = ("columns", "filter", "limit", "offset", "after", "format")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Reply:
    """An answer: its head, and its body as it is made."""

    status: int
    headers: Headers
    pieces: Iterator[bytes]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request, as far as it matters here."""

    path: str
    root: str  # where the application is mounted
    query: Mapping[str, str]
    accept: str
    match: str


def app(ws: Workspace, *, token: str = "", hosts: Sequence[str] = ()) -> Data:
    """The application for a workspace.

    With a `token`, every request must carry it (`Authorization: Bearer ...`). With `hosts`, only requests to one of these names
    are answered, which keeps web pages from reaching a server on the same machine under a name of their own (DNS rebinding).
    """
    return Data(ws, token, tuple(hosts))


class Data:
    """An ASGI application; see the module."""

    def __init__(self, ws: Workspace, token: str, hosts: tuple[str, ...]) -> None:
        self._ws, self._token, self._hosts = ws, token.encode(), hosts
        self._threads = ThreadPoolExecutor(MOST_AT_ONCE, "data")
        self._answering = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        if scope["type"] != "http":
            raise Invalid(f"a {scope['type']} connection is not answered here", expected="http")
        if self._answering >= MOST_AT_ONCE:
            busy = Unavailable("too many requests are being answered", expected="fewer at a time", fix="try again soon")
            await _finish(send, _failed(busy), scope["method"])
            return
        self._answering += 1
        try:
            await self._respond(scope, receive, send)
        finally:
            self._answering -= 1

    async def _respond(self, scope: Message, receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()
        first = b""
        try:
            asked = self._admitted(scope)
            reply = await loop.run_in_executor(self._threads, self._answer, asked)
            if scope["method"] == "GET":
                # The first piece shows most of what can go wrong, while the status can still say so.
                first = await loop.run_in_executor(self._threads, next, reply.pieces, b"")
        except BoucleError as error:
            await _finish(send, _failed(error), scope["method"])
            return
        except Exception:  # noqa: BLE001  the last place before the client, who gets an id and nothing else
            request = new_id()
            _log.exception("request %s failed", request)
            await _finish(send, _Reply(500, _JSON, iter([errors.internal(request)])), scope["method"])
            return
        gone = asyncio.create_task(_gone(receive))
        try:
            await send({"type": "http.response.start", "status": reply.status, "headers": reply.headers})
            piece = first
            while piece and not gone.done():
                async with asyncio.timeout(STALL_SECONDS):  # send waits until the client has taken enough
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                piece = await loop.run_in_executor(self._threads, next, reply.pieces, b"")
            if not gone.done():
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (TimeoutError, ConnectionError) as error:
            raise Unavailable("a client took nothing for too long, or went away", expected="one that reads") from error
        finally:
            gone.cancel()
            await loop.run_in_executor(self._threads, _closed, reply.pieces)

    def _admitted(self, scope: Message) -> _Asked:
        headers = {k.lower(): v for k, v in scope["headers"]}
        if self._hosts:
            host = urllib.parse.urlsplit(f"//{headers.get(b'host', b'').decode('latin-1')}").hostname or ""
            if host not in self._hosts:
                raise Refused(f"requests to {host!r} are not answered", expected=f"one of {', '.join(self._hosts)}")
        if self._token:
            kind, _, given = headers.get(b"authorization", b"").partition(b" ")
            if kind.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self._token):
                raise Unknown("a request without the token", expected="the header Authorization: Bearer TOKEN")
        if scope["method"] not in ("GET", "HEAD"):
            raise WrongMethod(f"{scope['method']} is not answered", expected="GET or HEAD: data are only read here")
        root = scope.get("root_path", "")
        path = scope["path"].removeprefix(root) or "/"
        query = _query(scope["query_string"])
        return _Asked(path, root, query, headers.get(b"accept", b"").decode("latin-1"),
                      headers.get(b"if-none-match", b"").decode("latin-1"))  # fmt: skip

    def _answer(self, asked: _Asked) -> _Reply:
        ws = self._ws
        match asked.path.strip("/").split("/"):
            case ["openapi.json"]:
                return _changing(document(asked.root), asked)
            case [""] | ["data"]:
                newest = [datasets.resolve(ws, name) for name in datasets.names(ws)]
                return _changing({"datasets": [_facts(d, asked) for d in newest]}, asked)
            case ["data", name] if "@" not in name:
                every = datasets.versions(ws, Ref.parse(name, "dataset").name)
                return _changing({"name": name, "versions": [_facts(d, asked) for d in every]}, asked)
            case ["data", name, *below]:
                ref = Ref.parse(name, "dataset")
                dataset = datasets.resolve(ws, ref)
                caching = self._caching(dataset, ref)
                match below:
                    case []:
                        return _fixed(_facts(dataset, asked), dataset, "facts", caching, asked)
                    case ["schema"]:
                        schema = Schema.from_json(dataset.schema)
                        body = {**schema.to_json(), "row": schema.json_schema()}
                        return _fixed(body, dataset, "schema", caching, asked)
                    case ["statistics"]:
                        _check_table(dataset)
                        if _matches(f"{dataset.digest}.statistics", asked):
                            return _unchanged(dataset, "statistics", caching)
                        return _fixed(statistics(ws, dataset.ref).to_json(), dataset, "statistics", caching, asked)
                    case ["rows"]:
                        return self._rows(dataset, caching, asked)
        raise NotFound(
            f"nothing is at {asked.path}",
            expected="/data, /data/NAME, /data/NAME@VERSION, and below it /schema, /statistics and /rows",
            fix="see /openapi.json",
        )

    def _caching(self, dataset: Dataset, ref: Ref) -> Headers:
        """A version that was asked for by its number is that one for ever."""
        scope = b"private" if self._token else b"public"
        keep = scope + b", max-age=31536000, immutable" if ref.number is not None else b"no-cache"
        return [(b"cache-control", keep), (b"x-boucle-dataset", str(dataset.ref).encode())]

    def _rows(self, dataset: Dataset, caching: Headers, asked: _Asked) -> _Reply:
        _check_table(dataset)
        form = _format(asked)
        if _matches(f"{dataset.digest}.{form}", asked):
            return _unchanged(dataset, form, caching)
        after, offset, limit = (_number(asked.query, n) for n in ("after", "offset", "limit"))
        where = asked.query.get("filter")
        columns = _columns(asked.query["columns"]) if "columns" in asked.query else None
        frame = datasets.frame(self._ws, dataset)
        chosen(frame, where, columns, limit)  # says what is wrong before anything is read
        if form == "json":
            limit = JSON_ROWS if limit is None else limit
            if limit > MOST_JSON_ROWS:
                raise Invalid(
                    f"limit={limit}", expected=f"at most {MOST_JSON_ROWS:,} rows of JSON at once",
                    fix="follow `next`, or ask for format=jsonl, csv, parquet or arrow, which have no limit",
                )  # fmt: skip
        start = after or 0
        if where is None:
            start, offset = start + (offset or 0), 0
        if form == "json":
            frame, columns = frame.numbered(_POSITION), [*(columns or frame.columns), _POSITION]
        found = _skipping(chosen(frame.between(start), where, columns, None), offset or 0)
        headers = [
            *caching, (b"etag", _tag(dataset, form)), (b"content-type", MEDIA[form].encode()), (b"vary", b"accept"),
            (b"x-content-type-options", b"nosniff"),
        ]  # fmt: skip
        if form == "json":
            return _Reply(200, headers, _gathered(_page(found, dataset, limit or 0, asked)))
        ending = {"arrows": "arrow"}.get(form, form)
        named = f'attachment; filename="{dataset.name}@{dataset.version}.{ending}"'.encode()
        rows = encode(chosen(found, None, None, limit), form)
        return _Reply(200, [*headers, (b"content-disposition", named)], _gathered(rows))


async def _live(receive: Receive, send: Send) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _closed(pieces: Iterator[bytes]) -> None:
    close = getattr(pieces, "close", None)
    if close is not None:
        close()


async def _finish(send: Send, reply: _Reply, method: str) -> None:
    """Send an answer that is there as a whole."""
    body = b"".join(reply.pieces)
    headers = [*reply.headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})


_JSON: Headers = [(b"content-type", b"application/json"), (b"x-content-type-options", b"nosniff")]


def _failed(error: BoucleError) -> _Reply:
    headers = [*_JSON, (b"cache-control", b"no-store")]
    if isinstance(error, Unknown):
        headers.append((b"www-authenticate", b"Bearer"))
    elif isinstance(error, Unavailable):
        headers.append((b"retry-after", b"1"))
    elif isinstance(error, WrongMethod):
        headers.append((b"allow", b"GET, HEAD"))
    return _Reply(errors.status_of(error), headers, iter([errors.encode(error)]))


def _query(text: bytes) -> dict[str, str]:
    try:
        pairs = urllib.parse.parse_qsl(text.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=20)
    except ValueError as error:
        raise Malformed(f"a query that cannot be read: {error}", expected="name=value, percent-encoded") from None
    out: dict[str, str] = {}
    for name, value in pairs:
        if name not in _PARAMETERS:
            raise Malformed(f"no parameter {name!r}", expected=f"one of {', '.join(_PARAMETERS)}")
        if name in out:
            raise Malformed(f"parameter {name!r} is there twice", expected="once")
        out[name] = value
    return out


def _number(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 16):
        raise Malformed(f"{name}={text[:40]}", expected="a whole number from 0")
    return int(text)


def _columns(text: str) -> list[str]:
    """Names between commas; one that has a comma in it stands in quotes, as in CSV."""
    try:
        return next(csv.reader([text], strict=True)) or [""]
    except csv.Error as error:
        raise Malformed(f"columns that cannot be read: {error}", expected='names such as a,"b,c"') from None


def _facts(dataset: Dataset, asked: _Asked) -> dict[str, Any]:
    base = f"{asked.root}/data/{urllib.parse.quote(dataset.key, safe='@')}"
    columns = [c["name"] for c in dataset.schema.get("columns", [])]
    return {
        "name": dataset.name, "version": dataset.version, "type": dataset.type, "digest": dataset.digest,
        "rows": dataset.rows, "bytes": dataset.size, "columns": columns, "created": dataset.created,
        "owner": dataset.owner, "licence": dataset.licence, "description": dataset.description,
        "tags": dataset.tags, "url": base,
    }  # fmt: skip


def _check_table(dataset: Dataset) -> None:
    if dataset.type != "table":
        raise Invalid(f"{dataset.key} holds {dataset.type}, not rows", expected="a dataset that is a table")


def _format(asked: _Asked) -> str:
    given = asked.query.get("format")
    if given is not None:
        form = {"arrow": "arrows", "feather": "feather"}.get(given, given)
        if form not in MEDIA:
            raise Unacceptable(
                f"format={given[:40]}", expected=f"one of {', '.join(m for m in MEDIA if m != 'arrows')}, arrow"
            )
        return form
    return _preferred(asked.accept)


def _preferred(accept: str) -> str:
    """What an Accept header (RFC 9110, 12.5.1) likes best of what there is; JSON where it does not care."""
    wanted: list[tuple[float, int, str]] = []
    for place, part in enumerate(accept.split(",")):
        media, *parameters = (p.strip().lower() for p in part.split(";"))
        quality = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        with contextlib.suppress(ValueError):
            if media and float(quality) > 0:
                wanted.append((-float(quality), place, media))
    for _, _, media in sorted(wanted):
        for form, known in MEDIA.items():
            family = known.partition("/")[0]
            if media in (known.partition(";")[0], "*/*", f"{family}/*"):
                return form
    if wanted:
        raise Unacceptable(f"Accept: {accept[:80]}", expected=f"one of {', '.join(MEDIA.values())}")
    return "json"


def _tag(dataset: Dataset, form: str) -> bytes:
    return f'"{dataset.digest}.{form}"'.encode()


def _matches(tag: str, asked: _Asked) -> bool:
    given = [t.strip().removeprefix("W/").strip('"') for t in asked.match.split(",")]
    return tag in given or "*" in given


def _unchanged(dataset: Dataset, form: str, caching: Headers) -> _Reply:
    return _Reply(304, [*caching, (b"etag", _tag(dataset, form))], iter(()))


def _fixed(body: Any, dataset: Dataset, form: str, caching: Headers, asked: _Asked) -> _Reply:
    """JSON about a version."""
    if _matches(f"{dataset.digest}.{form}", asked):
        return _unchanged(dataset, form, caching)
    return _Reply(200, [*_JSON, *caching, (b"etag", _tag(dataset, form))], iter([_encoded(body)]))


def _changing(body: Any, asked: _Asked) -> _Reply:
    """JSON that may be different the next time."""
    data = _encoded(body)
    tag = hashlib.sha256(data).hexdigest()[:32]
    headers = [(b"cache-control", b"no-cache"), (b"etag", f'"{tag}"'.encode())]
    if _matches(tag, asked):
        return _Reply(304, headers, iter(()))
    return _Reply(200, [*_JSON, *headers], iter([data]))


def _encoded(body: Any) -> bytes:
    return json.dumps(jsonable(body), ensure_ascii=False, separators=(",", ":")).encode()


def _skipping(frame: Frame, offset: int) -> Frame:
    """Without the first rows."""
    if not offset:
        return frame

    def rest(names: Sequence[str] | None) -> Iterator[Any]:
        left = offset
        for batch in frame.batches(names):
            skipped = min(left, batch.num_rows)
            left -= skipped
            if skipped < batch.num_rows:
                yield batch.slice(skipped)

    return Frame(frame.schema, rest)


def _page(found: Frame, dataset: Dataset, limit: int, asked: _Asked) -> Iterator[bytes]:
    """A page of rows as JSON. The link to the next one goes on behind the last row, however long the way to it was."""
    head = _encoded({"dataset": dataset.key, "digest": dataset.digest})
    yield head[:-1] + b',"rows":['
    sent, position, more = 0, 0, False
    for batch in found.batches() if limit else ():
        taken = batch.slice(0, limit - sent)
        if taken.num_rows:
            position = taken.column(_POSITION)[taken.num_rows - 1].as_py()
        for start in range(0, taken.num_rows, 1024):
            rows = to_rows(taken.slice(start, 1024).drop_columns([_POSITION]))
            yield b"," * (sent > 0) + b",".join(map(_encoded, rows))
            sent += len(rows)
        if sent >= limit:
            more = position + 1 < dataset.rows
            break
    link = None
    if more:
        kept = {k: v for k, v in asked.query.items() if k not in ("offset", "after")}
        query = urllib.parse.urlencode({**kept, "after": position + 1})
        link = f"{asked.root}/data/{urllib.parse.quote(dataset.key, safe='@')}/rows?{query}"
    yield b'],"next":' + _encoded(link) + b"}"


def _gathered(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces that are worth sending and not too large to hold."""
    held, size = [], 0
    for piece in pieces:
        for start in range(0, len(piece), _PIECE):
            held.append(piece[start : start + _PIECE])
            size += len(held[-1])
            if size >= _PIECE:
                yield b"".join(held)
                held, size = [], 0
    if held:
        yield b"".join(held)
