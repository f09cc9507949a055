"""HTTP APIs that answer with JSON, page by page.

`api+https://host/path?query`. Pages are followed by the `Link` header (RFC 8288), by a link in the answer, or by a number or
mark in the query. They are kept in a temporary file until all are there, so that types follow from all rows.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from boucle.core.errors import Invalid, NotFound, Refused
from boucle.core.frames import Frame
from boucle.plugins.places.http import HttpPlace
from boucle.plugins.sources.jsonl import JsonlSource
from boucle.ports.place import shown
from boucle.ports.source import Reading

_LINKS = ("next", "links.next", "links.next.href", "_links.next.href", "paging.next", "meta.next", "pagination.next",
          "next_page_url", "next_url", "@odata.nextLink")  # fmt: skip
_LISTS = ("data", "results", "items", "records", "value", "rows", "entries", "content", "features")
_LARGEST = 1 << 28  # bytes of one page
_MOST = 100_000  # pages
_CONNECTION = ("token", "user", "password", "headers", "timeout", "retries", "backoff")


class ApiSource:
    """JSON over HTTP."""

    name: ClassVar[str] = "api"
    suffixes: ClassVar[tuple[str, ...]] = ()
    schemes: ClassVar[tuple[str, ...]] = ("api+https", "api+http")
    options: ClassVar[dict[str, str]] = {
        "record": "where the list of rows is in an answer, such as data.items; found by itself",
        "params": "what goes into the query: a mapping",
        "paging": "link, page, offset, mark or none; link, when an answer holds one",
        "next": "where an answer holds the link to the next page, or the mark to go on from, such as meta.cursor",
        "parameter": "the name in the query of the page's number, of the offset, or of the mark; page, offset or cursor",
        "size": "how many rows to ask for",
        "size_parameter": "its name in the query; limit",
        "first": "the number of the first page; 1",
        "per_second": "requests in a second, at most; no limit but the server's own",
        "pages": "how many pages to read, at most",
        "types": "column -> type, for columns whose type is not to be guessed",
        "cursor": "the column that tells what is new",
        "after": "only what is past this value is asked for, where since says how",
        "inclusive": "what is level with it as well; a server decides that by itself",
        "since": "the name in the query of the value past which rows are new, such as updated_since",
        "token": "sent as a bearer token",
        "user": "for basic authentication",
        "password": "for basic authentication",
        "headers": "a mapping of further headers, such as the one with an API key",
        "timeout": "seconds to wait for an answer",
        "retries": "how often to ask again after errors that may pass",
        "backoff": "seconds before the first of them",
    }

    def read(self, url: str, options: Mapping[str, Any]) -> Reading:
        """All rows of all pages. Raises `NotFound`, `Refused` for credentials that are not right, `Unavailable` after trying
        again, and `Invalid` for an answer that is not JSON or has no list of objects."""
        for option in options:
            if option not in self.options:
                raise Invalid(f"the api source has no option {option!r}", expected=f"one of {', '.join(self.options)}")
        start = url.removeprefix("api+")
        parts = urllib.parse.urlsplit(start)
        place = HttpPlace.connect(start, {k: options[k] for k in _CONNECTION if options.get(k) is not None})
        start = urllib.parse.urlunsplit(
            parts._replace(netloc=parts.netloc.rpartition("@")[2])
        )  # the place has what is before
        folder, rows, pages = _Folder(), 0, 0
        file = folder.path / "rows.jsonl"
        with file.open("w", encoding="utf-8") as out:
            for page in _pages(place, start, options):
                pages += 1
                rows += len(page)
                out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in page)
        if not rows:
            raise Invalid(f"{shown(start)} gives no rows", expected="a list with objects in it")
        reading = JsonlSource().read(str(file), {"types": options["types"]} if options.get("types") else {})
        inner = reading.frame

        def opener(columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
            assert folder.path  # it lasts as long as the frame that reads from it
            return inner.batches(columns)

        reading.frame = Frame(inner.schema, opener, inner.rows)
        reading.found = {"pages": pages, "rows": rows}
        return reading


class _Folder:
    """A temporary folder that goes when nobody refers to it any more."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="boucle-api-"))

    def __del__(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def _pages(place: HttpPlace, start: str, options: Mapping[str, Any]) -> Iterator[list[dict[str, Any]]]:
    paging = options.get("paging", "link")
    if paging not in ("link", "page", "offset", "mark", "none"):
        raise Invalid(f"paging={paging!r}", expected="link, page, offset, mark or none")
    if paging == "mark" and not options.get("next"):
        raise Invalid("paging by a mark needs to know where an answer holds it", expected="the option next")
    query = {str(k): str(v) for k, v in dict(options.get("params") or {}).items()}
    if options.get("size"):
        query[options.get("size_parameter", "limit")] = str(options["size"])
    if options.get("since") and options.get("after") is not None:
        query[options["since"]] = str(options["after"])
    parameter = options.get("parameter") or {"page": "page", "offset": "offset", "mark": "cursor"}.get(paging, "")
    number = int(options.get("first", 1)) if paging == "page" else 0
    if paging in ("page", "offset"):
        query[parameter] = str(number)
    url, seen, earliest = _with(start, query), set[str](), 0.0
    pause = 1 / float(options["per_second"]) if options.get("per_second") else 0.0
    for _ in range(int(options.get("pages", _MOST))):
        if url in seen:
            raise Invalid(f"{shown(url)} leads back to itself", expected="pages that come to an end")
        seen.add(url)
        time.sleep(max(0.0, earliest - time.monotonic()))
        earliest = time.monotonic() + pause
        body, link = _asked(place, url)
        rows = _rows(body, options.get("record"), url)
        yield rows
        if paging == "none" or (paging in ("page", "offset") and _last(rows, options.get("size"))):
            return
        if paging == "page":
            number += 1
            url = _with(start, {**query, parameter: str(number)})
        elif paging == "offset":
            number += len(rows)
            url = _with(start, {**query, parameter: str(number)})
        else:
            found = _next(body, options.get("next")) or (link if paging == "link" else "")
            if not found:
                return
            url = _with(start, {**query, parameter: found}) if paging == "mark" else _beside(url, found)


def _last(rows: Sequence[Any], size: Any) -> bool:
    return not rows or bool(size and len(rows) < int(size))


def _asked(place: HttpPlace, url: str) -> tuple[Any, str]:
    """The body, and the link of the header."""
    with place.answer(url, {"Accept": "application/json"}) as answer:
        raw, links = answer.read(_LARGEST + 1), ", ".join(answer.headers.get_all("Link") or [])
    if len(raw) > _LARGEST:
        raise Invalid(
            f"{shown(url)} answers with more than {_LARGEST >> 20} MiB", expected="pages", fix="ask for fewer rows"
        )
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        said = raw[:80].decode(errors="replace")
        raise Invalid(f"{shown(url)} does not answer with JSON, but {said!r}", expected="JSON") from None
    return body, _linked(links)


def _linked(header: str) -> str:
    """The target of the link whose relation is next."""
    for target, parameters in re.findall(r"<([^<>]*)>([^<]*)", header):
        for parameter in parameters.rstrip(", ").split(";"):
            name, _, value = parameter.strip().partition("=")
            if name.strip().lower() == "rel" and "next" in value.strip("\"' ,").lower().split():
                return str(target)
    return ""


def _rows(body: Any, record: Any, url: str) -> list[dict[str, Any]]:
    found = _at(body, str(record)) if record else body
    if record and found is None:
        raise NotFound(
            f"{shown(url)}: the answer has no {record!r}",
            expected=f"a path among {', '.join(body) if isinstance(body, dict) else 'a list'}",
        )
    if not record and isinstance(body, dict):
        lists = [v for v in body.values() if isinstance(v, list) and all(isinstance(row, dict) for row in v)]
        named = [body[n] for n in _LISTS if isinstance(body.get(n), list)]
        found = lists[0] if len(lists) == 1 else named[0] if named else body
    rows = found if isinstance(found, list) else [found]
    if not all(isinstance(row, dict) for row in rows):
        raise Invalid(
            f"{shown(url)}: what was found is no list of objects",
            expected="objects",
            fix="name it with the option record",
        )
    return rows


def _next(body: Any, where: Any) -> str:
    for path in [str(where)] if where else _LINKS:
        found = _at(body, path)
        if isinstance(found, str | int) and not isinstance(found, bool) and found != "":
            return str(found)
    return ""


def _at(body: Any, path: str) -> Any:
    """What stands at a path of keys; a key may itself have dots in it."""
    if isinstance(body, dict):
        if path in body:
            return body[path]
        head, _, rest = path.partition(".")
        return _at(body.get(head), rest) if rest else None
    return None


def _with(url: str, query: Mapping[str, str]) -> str:
    parts = urllib.parse.urlsplit(url)
    kept = [(k, v) for k, v in urllib.parse.parse_qsl(parts.query, keep_blank_values=True) if k not in query]
    return urllib.parse.urlunsplit(parts._replace(query=urllib.parse.urlencode([*kept, *query.items()])))


def _beside(url: str, link: str) -> str:
    """The next page; only on the same server, since the credentials are for it."""
    target = urllib.parse.urljoin(url, link)
    if urllib.parse.urlsplit(target)[:2] != urllib.parse.urlsplit(url)[:2]:
        raise Refused(f"{shown(url)} leads on to {shown(target)}", expected="pages of one server")
    return target
