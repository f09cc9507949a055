"""Places: where files lie, here or elsewhere. Reading data from a bucket and keeping a copy of blobs there are the same to
them."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from boucle.core.errors import BoucleError, Invalid, MissingExtra
from boucle.ports import lookup

# Beginnings of URLs that go by the plugin of another name; any other is the name of its plugin, or a matter of fsspec.
_PLUGINS = {"": "file", "https": "http", "gs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure"}
# What fsspec reaches: with a library more, which has an extra of its own, and by itself or with a package it names.
_EXTRAS = {"sftp": "sftp", "ssh": "sftp", "webdav": "webdav", "webdavs": "webdav", "dav": "webdav", "davs": "webdav"}
_FSSPEC = frozenset(
    {"ftp", "ftps", "memory", "gdrive", "hdfs", "smb", "github", "dropbox", "hf", "oci", "oss", "abfs", "adl"}
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A file in a place: its path below the root ('/' between the parts), bytes, and what changes when the file does."""

    path: str
    size: int  # -1 where the place does not tell
    version: str = ""  # an ETag or a time of change; empty where the place does not tell
    modified: float = 0.0  # seconds since the epoch; 0 where the place does not tell


class Place(Protocol):
    """Files below a root URL. Paths are relative to it, never absolute and without '..' (else `Invalid`); where the root is
    itself a file, its path is ''.

    Errors show neither credentials nor the query of a URL. What may pass by itself is tried again; then it is `Unavailable`.
    """

    name: ClassVar[str]
    schemes: ClassVar[tuple[str, ...]]  # the beginnings of its URLs, e.g. s3
    capabilities: ClassVar[frozenset[str]]  # of: list, write

    @classmethod
    def connect(cls, url: str, options: Mapping[str, Any]) -> Self:
        """A place at a root. Credentials come from the options or, by the rules of the vendor, from the environment. Nothing
        is asked of the other side yet."""

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Every file whose path begins with `prefix`, in all folders below it, in no order (capability `list`)."""

    def entry(self, path: str) -> Entry:
        """What is known of one file; raises `NotFound`."""

    def read(self, path: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` up to `end`, in pieces; raises `NotFound`."""

    def write(self, path: str, data: bytes | Path, *, new: bool = False) -> None:
        """Put bytes or the content of a local file there; it is there whole or not at all (capability `write`). With `new`,
        raises `Conflict` when there is one already."""

    def remove(self, path: str) -> bool:
        """Returns whether it was there (capability `write`)."""

    def close(self) -> None:
        """Let go of connections."""


def connect(url: str, options: Mapping[str, Any] | None = None) -> Place:
    """The place at a URL or plain path, by how it begins: file, http, https, s3, gs, az, and whatever else fsspec knows.

    Raises `MissingExtra` with what to install, and `Invalid` for options that the place does not take.
    """
    scheme = urllib.parse.urlsplit(url).scheme.lower() if "://" in url else "file"
    name = _PLUGINS.get(scheme, scheme)
    if name not in lookup.names("place"):
        name = "fsspec"
    try:
        found = lookup.lookup("place", name)
    except MissingExtra as error:
        raise _missing(scheme, error) if name == "fsspec" else error from None
    place: Place = found.connect(url, dict(options or {}))
    return place


def _missing(scheme: str, error: MissingExtra) -> BoucleError:
    """What to install, or that nothing helps; without fsspec nobody can say which schemes it would know."""
    if extra := _EXTRAS.get(scheme):
        return MissingExtra(
            f"{scheme}:// needs a library", expected="it to be installed", fix=f"pip install 'boucle[{extra}]'"
        )
    if scheme in _FSSPEC:
        return error
    return Invalid(
        f"nothing reads or writes {scheme}://",
        expected="a path, https://, s3://, gs://, az://, sftp://, webdav://, ftp://, or what boucle data sources lists",
        fix="check the URL; other file systems come with pip install 'boucle[fsspec]', databases with sqlalchemy+DIALECT://",
    )


def checked(path: str) -> str:
    """A path below a root, as given, or `Invalid` for one that could lead out of it or mean two things."""
    parts = path.split("/")
    if any(p in ("", ".", "..") for p in parts) or "\\" in path or any(ord(c) < 32 or ord(c) == 127 for c in path):
        raise Invalid(
            f"{path!r} is not a path below a root",
            expected="parts joined by '/', not beginning with '/', without '..', backslashes and control characters",
        )
    return path


def shown(url: str) -> str:
    """A URL as it may be shown: without user, password, query and fragment."""
    if "://" not in url:
        return url
    text = re.split(r"[?#]", url, maxsplit=1)[0]
    if re.match(r"abfss?://[^/:]*@", text):  # container@account is no user
        return text
    return re.split(r"[?#]", bare(url), maxsplit=1)[0]


def bare(url: str) -> str:
    """A URL without user and password, also where a password has characters that it should not have as they are."""
    scheme, slashes, rest = url.partition("://")
    host = re.split("[/?#]", rest, maxsplit=1)[0]
    _, colon, port = host.rpartition(":")
    # What stands where a port belongs and is none is the beginning of a password; it ends at the last @.
    split = "@" not in host and colon and not port.isdecimal() and not host.startswith("[")
    end = rest.rfind("@") if split else host.rfind("@")
    return f"{scheme}{slashes}{rest[end + 1 :]}"
