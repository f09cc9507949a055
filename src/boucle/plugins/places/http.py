"""Files on web servers, for reading: what is cut off goes on where it stopped, and what is refused for now is asked again."""

from __future__ import annotations

import base64
import email.utils
import http.client
import netrc
import os
import random
import re
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from boucle.core.errors import BoucleError, Invalid, NotFound, Refused, Unavailable
from boucle.ports.place import Entry, checked, shown

_PIECE = 1 << 20
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_LONGEST = 120.0  # seconds to wait because a server says so
_PROGRESS = 1 << 16  # bytes after which a cut counts as the first one again
_OPTIONS = ("token", "user", "password", "headers", "timeout", "retries", "backoff")


class HttpPlace:
    """What lies below a URL, or the one file that it is the URL of (path '').

    Options: `token` (bearer), `user` and `password`, `headers`, `timeout` (seconds without an answer), `retries`, `backoff`
    (seconds before the first of them). Without them, credentials come from the URL, from the variable
    BOUCLE_TOKEN_<HOST> (dots and dashes as '_'), or from ~/.netrc. They go to the host they are for and no other.
    """

    name: ClassVar[str] = "http"
    schemes: ClassVar[tuple[str, ...]] = ("http", "https")
    capabilities: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme.lower() not in self.schemes or not parts.hostname:
            raise Invalid(f"{shown(url)} is not the address of a web server", expected="https://host/path")
        if unknown := sorted(set(options) - set(_OPTIONS)):
            raise Invalid(f"http takes no option {unknown[0]!r}", expected=f"one of {', '.join(_OPTIONS)}")
        self._url = urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment=""))
        self._origin = _origin(self._url)
        self._headers = {"User-Agent": "boucle", "Accept-Encoding": "identity", "Accept": "*/*"}
        self._private = {str(k): str(v) for k, v in dict(options.get("headers", {})).items()}
        if any(re.search(r"[\r\n\0]", f"{k}{v}") for k, v in self._private.items()):
            raise Invalid("a header has more than one line", expected="one")
        if given := _authorization(parts, options):
            self._private["Authorization"] = given
        self._timeout, self._retries = float(options.get("timeout", 30)), int(options.get("retries", 5))
        self._backoff = float(options.get("backoff", 0.5))
        self._opener = urllib.request.build_opener(
            _NoRedirect(), urllib.request.HTTPSHandler(context=ssl.create_default_context())
        )

    @classmethod
    def connect(cls, url: str, options: Mapping[str, Any]) -> Self:
        return cls(url, options)

    def list(self, prefix: str = "") -> Iterator[Entry]:  # noqa: ARG002  the port's signature
        raise Refused(f"{shown(self._url)}: a web server does not list its files", expected="the path of one file")

    def entry(self, path: str) -> Entry:
        url = self._full(path)
        try:
            with self._asked(url, "HEAD", {}) as answer:
                return _entry(path, answer.headers, answer.headers.get("Content-Length"))
        except (Refused, Unavailable):  # some servers, and signed URLs, only know GET
            with self._asked(url, "GET", {"Range": "bytes=0-0"}) as answer:
                total = answer.headers.get("Content-Range", "").rpartition("/")[2]
                return _entry(
                    path, answer.headers, total if answer.status == 206 else answer.headers.get("Content-Length")
                )

    def read(self, path: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        url, mark, failed, last = self._full(path), "", 0, start
        while end is None or start < end:
            headers = {"Range": f"bytes={start}-{'' if end is None else end - 1}"} if start or end is not None else {}
            if mark and not mark.startswith("W/"):
                headers["If-Range"] = mark  # RFC 9110, 13.1.5: the rest of the same, or all of what is there now
            try:
                answer = self._asked(url, "GET", headers)
            except _Beyond:
                return
            cut = ""
            with answer:
                seen = answer.headers.get("ETag", "") or answer.headers.get("Last-Modified", "")
                if mark and seen != mark:
                    raise Unavailable(
                        f"{shown(url)} changed while it was read", expected="a file that stays", fix="read it again"
                    )
                mark, at = seen, _first(answer)
                if at > start:
                    raise Unavailable(
                        f"{shown(url)} answers with other bytes than were asked for", expected=f"from {start}"
                    )
                whole = _upto(answer)
                try:
                    while piece := answer.read1(_PIECE):
                        fresh, at = piece[max(0, start - at) :], at + len(piece)
                        if end is not None:
                            fresh = fresh[: end - start]
                        start += len(fresh)
                        if fresh:
                            yield fresh
                        if end is not None and start >= end:
                            return
                    if whole is None or at >= whole:
                        return
                except (OSError, http.client.HTTPException) as error:
                    cut = f": {type(error).__name__}"
            failed = 0 if start - last >= _PROGRESS else failed + 1
            if failed > self._retries:
                raise Unavailable(f"{shown(url)} was cut off after {start:,} bytes{cut}", expected="all of it")
            last = start
            time.sleep(self._pause(failed))

    def answer(self, url: str, headers: Mapping[str, str]) -> Any:
        """The open answer to a request for a URL of this server, tried again where that may help; close it."""
        return self._asked(url, "GET", headers)

    def write(self, path: str, data: bytes | Path, *, new: bool = False) -> None:  # noqa: ARG002  the port's signature
        raise Refused(f"{shown(self._url)}: web servers are for reading", expected="a folder, bucket or other place")

    def remove(self, path: str) -> bool:  # noqa: ARG002  the port's signature
        raise Refused(f"{shown(self._url)}: web servers are for reading", expected="a folder, bucket or other place")

    def close(self) -> None:
        """Each request has a connection of its own."""

    def _full(self, path: str) -> str:
        if not path:
            return self._url
        parts = urllib.parse.urlsplit(self._url)
        below = f"{parts.path.rstrip('/')}/{urllib.parse.quote(checked(path))}"
        return urllib.parse.urlunsplit(parts._replace(path=below))

    def _asked(self, url: str, method: str, headers: Mapping[str, str]) -> Any:
        """An answer of status 200 or 206, after redirects and as many attempts as it takes."""
        attempt = 0
        while True:
            attempt += 1
            wait = self._pause(attempt)
            error: Exception
            try:
                answer = self._followed(url, method, headers)
            except (OSError, http.client.HTTPException) as reason:
                if isinstance(reason, BoucleError):
                    raise
                error = _silent(url, getattr(reason, "reason", reason))
            else:
                if answer.status in (200, 206):
                    return answer
                with answer:
                    error = _said(url, answer.status)
                    said = _retry_after(answer.headers.get("Retry-After", ""))
                if answer.status not in _PASSING:
                    raise error
                wait = wait if said is None else min(said, _LONGEST)
            if attempt > self._retries:
                raise error
            time.sleep(wait)

    def _followed(self, url: str, method: str, headers: Mapping[str, str]) -> Any:
        for _ in range(11):
            own = self._private if _origin(url) == self._origin else {}
            request = urllib.request.Request(url, headers={**self._headers, **own, **headers}, method=method)  # noqa: S310
            try:
                answer = self._opener.open(request, timeout=self._timeout)
            except urllib.error.HTTPError as error:
                answer = error
            if answer.status not in (301, 302, 303, 307, 308):
                return answer
            with answer:
                target = urllib.parse.urljoin(url, answer.headers.get("Location", ""))
            if urllib.parse.urlsplit(target).scheme not in self.schemes:
                raise Refused(f"{shown(url)} leads to something that is no web server", expected="http or https")
            url = target
        raise Unavailable(f"{shown(url)} leads in circles", expected="at most ten redirects")

    def _pause(self, failed: int) -> float:
        return self._backoff * 2.0 ** min(failed, 6) * random.uniform(0.5, 1.0)  # noqa: S311  no secret


class _Beyond(Exception):
    """There is nothing from that byte on."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Redirects are followed here, where it is known whom the credentials are for."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _origin(url: str) -> tuple[str, str, int]:
    parts = urllib.parse.urlsplit(url)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        raise Invalid(f"{shown(url)} has no valid port", expected="a number") from None
    return parts.scheme.lower(), parts.hostname or "", port


def _authorization(parts: urllib.parse.SplitResult, options: Mapping[str, Any]) -> str:
    host = parts.hostname or ""
    user, password = options.get("user"), options.get("password", "")
    if token := options.get("token"):
        return f"Bearer {_one_line(str(token))}"
    if user is None and parts.username is not None:
        user, password = urllib.parse.unquote(parts.username), urllib.parse.unquote(parts.password or "")
    if user is None and (token := os.environ.get(f"BOUCLE_TOKEN_{re.sub('[^A-Za-z0-9]', '_', host).upper()}")):
        return f"Bearer {_one_line(token)}"
    if user is None:
        place = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
        try:
            known = netrc.netrc(str(place)).authenticators(host) if place.is_file() else None
        except (netrc.NetrcParseError, OSError, UnicodeDecodeError):
            raise Invalid(f"{place} cannot be read", expected="machine HOST login USER password SECRET") from None
        user, password = (known[0], known[2]) if known else (None, "")
    if user is None:
        return ""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _one_line(token: str) -> str:
    if re.search(r"[\r\n\0]", token.strip()):
        raise Invalid("the token has more than one line", expected="one")
    return token.strip()


def _silent(url: str, reason: object) -> Unavailable:
    if isinstance(reason, ssl.SSLCertVerificationError):
        return Unavailable(f"{shown(url)}: its certificate is not valid here", expected="one that is")
    text = getattr(reason, "strerror", "") or type(reason).__name__
    return Unavailable(
        f"{shown(url)} does not answer: {text}", expected="a server that does", fix="check address and network"
    )


def _said(url: str, status: int) -> Exception:
    if status == 416:
        return _Beyond()
    if status in (404, 410):
        return NotFound(f"no file {shown(url)} (status {status})", expected="the address of one that is there")
    if status in (401, 403, 407):
        return Refused(
            f"{shown(url)}: access is refused (status {status})", expected="credentials that may",
            fix="give token, or user and password, or put them into ~/.netrc",
        )  # fmt: skip
    return Unavailable(f"{shown(url)}: status {status}", expected="200 OK", fix="try again later")


def _retry_after(text: str) -> float | None:
    """Seconds to wait, from seconds or a date (RFC 9110, 10.2.3)."""
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time()) if text else None
    except ValueError:
        return None


def _first(answer: Any) -> int:
    found = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    return int(found[1]) if found else 0


def _upto(answer: Any) -> int | None:
    """The position of the byte after the last of this answer; None where the server does not say."""
    text = answer.headers.get("Content-Length", "")
    return _first(answer) + int(text) if text.isdecimal() and not answer.headers.get("Transfer-Encoding") else None


def _entry(path: str, headers: Any, size: str | None) -> Entry:
    changed = headers.get("Last-Modified", "")
    try:
        moment = email.utils.parsedate_to_datetime(changed).timestamp() if changed else 0.0
    except ValueError:
        moment = 0.0
    return Entry(path, int(size) if size and size.isdecimal() else -1, headers.get("ETag", "") or changed, moment)
