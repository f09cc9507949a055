"""One POST of JSON, tried a few times: what the channels share that speak HTTP."""

from __future__ import annotations

import http.client
import math
import re
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from boucle.core.errors import Invalid, Unavailable
from boucle.ports.channel import Busy

TIMEOUT = 5.0  # seconds without an answer
_PAUSES = (0.5, 1.5)  # seconds before the second and the third try; what takes longer is for another day
_PASSING = frozenset({408, 429, 500, 502, 503, 504})


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A message goes where the settings say, and nowhere else."""

    def redirect_request(self, *args: Any) -> None:  # noqa: ARG002  the handler's signature
        return None


def check_url(channel: str, url: str) -> str:
    """The host of an address, with its port where it has one; raises `Invalid` without showing the address, which may hold
    a secret."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.scheme not in ("http", "https") or re.search(r"[\s\x00-\x20\x7f]", url) or not url.isascii():
        raise Invalid(f"the url of a {channel} channel is none", expected="http:// or https://, a host, and a path")
    if parts.username is not None or parts.password is not None:
        raise Invalid(f"the url of a {channel} channel holds a user or a password", expected="an address without them")
    return f"{host}:{port}" if port else host


def post(url: str, body: bytes, headers: Mapping[str, str]) -> None:
    """Send a body until it is taken (2xx), three times at most and two seconds apart at most. Redirects are not followed.

    Raises `Busy` when the other side names a time to come back (Retry-After, RFC 9110), else `Unavailable`.
    """
    opener = urllib.request.build_opener(_NoRedirect)
    for pause in (*_PAUSES, None):
        request = urllib.request.Request(url, body, dict(headers), method="POST")  # noqa: S310  the scheme was checked
        error, wanted, again = _tried(opener, request)
        if error is None:
            return
        host = urlsplit(url).netloc
        if pause is None or not again or wanted > _PAUSES[-1]:
            what, expected = f"{host} {error}", "an answer of 200 to 299"
            raise Busy(what, seconds=wanted, expected=expected) if wanted else Unavailable(what, expected=expected)
        time.sleep(max(pause, wanted))


def _tried(
    opener: urllib.request.OpenerDirector, request: urllib.request.Request
) -> tuple[str | None, float, bool]:  # fmt: skip
    """What went wrong, the seconds to wait that were asked for, and whether trying again at once makes sense. A timeout is no
    reason to: the message may have arrived."""
    try:
        with opener.open(request, timeout=TIMEOUT):
            return None, 0.0, False
    except urllib.error.HTTPError as error:
        with error:
            return (
                _answer(error, request.full_url),
                _retry_after(error.headers.get("Retry-After", "0")),
                error.code in _PASSING,
            )
    except TimeoutError:
        return f"did not answer within {TIMEOUT:g} seconds", 0.0, False
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            return f"did not answer within {TIMEOUT:g} seconds", 0.0, False
        return f"does not answer: {getattr(error.reason, 'strerror', None) or type(error.reason).__name__}", 0.0, True
    except (http.client.HTTPException, OSError) as error:
        return f"broke the connection: {type(error).__name__}", 0.0, True


def _answer(error: urllib.error.HTTPError, url: str) -> str:
    """The code, and the word that Slack and others say why with."""
    try:
        word = error.read(200).decode("utf-8", "replace").strip()
    except (http.client.HTTPException, OSError):
        word = ""
    told = f" ({word})" if re.fullmatch(r"[a-z]+(_[a-z]+)+", word) and word not in url else ""
    return f"answered {error.code}{told}"


def _retry_after(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:  # a date: clocks differ, and nobody sends it
        return 0.0
    return min(seconds, 86400.0) if math.isfinite(seconds) and seconds > 0 else 0.0
