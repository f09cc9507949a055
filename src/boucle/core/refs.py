"""References: `kind:name@version`, the one way to name anything, and the ids that name single things.

dataset:tx@3            a number
tx@latest               kind left out where the context gives it; @latest may be left out too
model:churn@production  a stage
model:churn@sha1f3a     a digest, or enough of its start
model:churn@{2026-11-01}   what it was at that moment; also @{yesterday}, @{2 hours ago}
run:01JC...             a single thing has an id for a name and no version
"""

from __future__ import annotations

import datetime as dt
import os
import re
import threading
import time
from dataclasses import dataclass, replace

from boucle.core.errors import Invalid

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ULID = re.compile(f"[0-7][{_CROCKFORD}]{{25}}\\Z", re.IGNORECASE | re.ASCII)
_AGO = re.compile(r"(\d+)\s*(second|minute|hour|day|week)s?\s+ago\Z")

KINDS = (
    "dataset",
    "code",
    "run",
    "artifact",
    "model",
    "service",
    "rollout",
    "verdict",
    "event",
    "alert",
    "prediction",
)


def check_name(name: str, what: str = "name") -> str:
    """Return `name`, or raise `Invalid` when it could not be part of a reference, a file name and a URL alike."""
    if not isinstance(name, str) or not NAME.match(name):
        raise Invalid(
            f"{name!r} is not a usable {what}",
            expected="letters, digits, '.', '_' or '-', beginning with a letter or digit, at most 128 characters",
            fix=f"use for example {_suggest(str(name))!r}",
        )
    return name


def _suggest(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:128].lower() or "my-name"


@dataclass(frozen=True, slots=True)
class Ref:
    """A reference to one thing, or to whatever a moving version (`latest`, a stage, a time) points to now."""

    kind: str
    name: str
    version: str = ""

    @classmethod
    def parse(cls, text: str, kind: str = "") -> Ref:
        """Read a reference. `kind` is assumed when the text names none, and is the only one accepted when given."""
        head, sep, rest = text.partition(":")
        if not sep or "@" in head:  # the colon of a time, as in tx@{2026-11-01T09:30}, ends no kind
            head, rest = kind, text
        if head not in KINDS or (kind and head != kind):
            raise Invalid(
                f"{text!r} does not refer to a {kind or 'thing'}",
                expected=f"{kind or 'kind'}:name@version" + ("" if kind else f" with a kind of {', '.join(KINDS)}"),
                fix="see `boucle show --help` for the forms a reference takes",
            )
        name, _, version = rest.partition("@")
        check_name(name, f"{head} name")
        if "@" in rest and not version:
            raise Invalid(f"{text!r} ends in '@'", expected="a version after it, such as @3, @latest or @production")
        return cls(head, name, version)

    def at(self, version: object) -> Ref:
        """The same name at another version."""
        return replace(self, version=str(version))

    @property
    def number(self) -> int | None:
        """The version when it is a plain number."""
        return int(self.version) if self.version.isdecimal() and self.version.isascii() else None

    @property
    def digest(self) -> str | None:
        """The start of a digest when the version is `sha...`."""
        return self.version[3:] if re.fullmatch(r"sha[0-9a-f]{4,64}", self.version) else None

    def moment(self, now: float | None = None) -> float | None:
        """Seconds since the epoch when the version is `{time}`; times without a zone are UTC."""
        if not (self.version.startswith("{") and self.version.endswith("}")):
            return None
        return parse_time(self.version[1:-1], now)

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}@{self.version}" if self.version else f"{self.kind}:{self.name}"


def parse_time(text: str, now: float | None = None) -> float:
    """Read a point in time: ISO 8601, `now`, `today`, `yesterday`, or `3 hours ago`. Returns epoch seconds (UTC)."""
    here = dt.datetime.fromtimestamp(time.time() if now is None else now, dt.UTC)
    word = text.strip().lower()
    midnight = here.replace(hour=0, minute=0, second=0, microsecond=0)
    named = {"now": here, "today": midnight, "yesterday": midnight - dt.timedelta(days=1)}
    if word in named:
        # "yesterday" means as it stood when yesterday ended, which is what people ask a registry.
        return (midnight if word == "yesterday" else named[word]).timestamp()
    try:
        if ago := _AGO.match(word):
            return (here - dt.timedelta(**{ago[2] + "s": int(ago[1])})).timestamp()
        moment = dt.datetime.fromisoformat(text.strip())
    except (ValueError, OverflowError):
        raise Invalid(
            f"{text!r} is not a time",
            expected="ISO 8601 such as 2026-11-01 or 2026-11-01T09:30, 'yesterday', or '3 hours ago'",
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp()


class _Ids:
    """ULIDs (https://github.com/ulid/spec), strictly increasing within a process so that logs stay sorted by id."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = 0
        self._last_ms = 0
        self._tail = 0

    def new(self) -> str:
        with self._lock:
            now = time.time_ns() // 1_000_000
            if now > self._last_ms or os.getpid() != self._pid:
                # A forked child must not repeat its parent's sequence.
                self._pid, self._last_ms = os.getpid(), max(now, self._last_ms)
                self._tail = int.from_bytes(os.urandom(10), "big") >> 1
            else:
                self._tail += 1
            value = (self._last_ms << 80) | self._tail
        return _base32(value, 26)


def _base32(value: int, length: int) -> str:
    out = []
    for _ in range(length):
        out.append(_CROCKFORD[value & 31])
        value >>= 5
    return "".join(reversed(out))


_ids = _Ids()


def new_id() -> str:
    """A new 26-character id that sorts by the time it was made."""
    return _ids.new()


def id_at(moment: float) -> str:
    """The smallest id that is made at a moment (seconds since the epoch)."""
    return _base32(max(0, int(moment * 1000)) << 80, 26)


def id_time(ulid: str) -> float:
    """Seconds since the epoch at which an id was made; raises `Invalid` for anything that is not such an id."""
    if not _ULID.match(ulid):
        raise Invalid(f"{ulid!r} is not an id", expected="26 characters of 0-9 and A-Z without I, L, O and U")
    value = 0
    for char in ulid.upper()[:10]:
        value = value * 32 + _CROCKFORD.index(char)
    return value / 1000
