"""Object stores: S3 and what speaks like it, Google Cloud Storage, Azure Blob Storage and Data Lake.

Credentials come from options or, by each vendor's rules, from the environment: AWS_* with ~/.aws/credentials and roles,
GOOGLE_APPLICATION_CREDENTIALS and gcloud's defaults, AZURE_STORAGE_* with connection strings and managed identities.
"""

from __future__ import annotations

import configparser
import contextlib
import os
import re
import secrets
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, Self

import obstore
from obstore import exceptions
from obstore.store import AzureStore, GCSStore, S3Store

from boucle.core.errors import BoucleError, Conflict, Invalid, NotFound, Refused, Unavailable
from boucle.ports.place import Entry, checked

_PIECE = 4 << 20
_SINGLE = 32 << 20  # bytes that are sent as one request; more go in parts
_PART = 16 << 20
_DRAFTS = ".boucle-drafts/"  # whole files on their way to a name that must be new
_STATUS = re.compile(r"status code: (\d{3})(?: [A-Za-z ]*)?")
_CODE = re.compile(r"<Code>(\w{1,60})</Code>")


class ObjectsPlace:
    """A bucket or container, or what lies below a prefix of one."""

    name: ClassVar[str] = "objects"
    schemes: ClassVar[tuple[str, ...]] = ("s3", "gs", "gcs", "az", "azure", "abfs", "abfss")
    capabilities: ClassVar[frozenset[str]] = frozenset({"list", "write"})

    def __init__(self, store: Any, prefix: str, shown: str) -> None:
        self._store, self._prefix, self._shown = store, prefix, shown

    @classmethod
    def connect(cls, url: str, options: Mapping[str, Any]) -> Self:
        """Options: `endpoint`, `region`, `anonymous`, `profile` (of ~/.aws), `timeout` (seconds for a request), `retries`, and
        whatever the store's configuration knows, such as `access_key_id`, `account_name` or `service_account`."""
        parts = urllib.parse.urlsplit(url)
        scheme, bucket, given = parts.scheme.lower(), parts.netloc, dict(options)
        prefix = "/".join(p for p in urllib.parse.unquote(parts.path).split("/") if p)
        if scheme in ("abfs", "abfss") and "@" in bucket:
            bucket, _, host = bucket.partition("@")
            given.setdefault("account_name", host.partition(".")[0])
        if not bucket or "@" in bucket or parts.query or parts.fragment:
            raise Invalid(
                f"{scheme}://{re.sub('.*@', '', bucket)} does not name a bucket",
                expected=f"{scheme}://BUCKET/PREFIX, and credentials in options or the environment",
            )
        if prefix:
            checked(prefix)
        shown = f"{scheme}://{bucket}"
        retries, seconds = int(given.pop("retries", 6)), float(given.pop("timeout", 60))
        given["client_options"] = {
            "timeout": timedelta(seconds=max(seconds, 600)), "connect_timeout": timedelta(seconds=min(seconds, 15)),
            "read_timeout": timedelta(seconds=seconds), **given.pop("client_options", {}),
        }  # fmt: skip
        given["retry_config"] = {"max_retries": retries, "retry_timeout": timedelta(seconds=180)}
        if given.pop("anonymous", False):
            given["skip_signature"] = True
        try:
            store = _STORES[scheme](bucket, given)
        except exceptions.UnknownConfigurationKeyError as error:
            key = re.search(r"'(\w+)'", str(error))
            raise Invalid(
                f"{shown} takes no option {key[1] if key else '?'!r}",
                expected="endpoint, region, anonymous, profile, ...",
            ) from None
        except (exceptions.BaseError, ValueError, TypeError):
            raise Invalid(f"{shown} cannot be used with these options", expected="complete credentials") from None
        return cls(store, prefix, shown)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        checked(prefix + "x")
        # The store lists by whole parts of a path; the last part may be the beginning of one.
        top = "/".join(p for p in (self._prefix, prefix.rpartition("/")[0]) if p)
        with self._explained(""):
            for chunk in obstore.list(self._store, prefix=top or None, chunk_size=1000):
                for meta in chunk:
                    path = meta["path"][len(self._prefix) + 1 if self._prefix else 0 :]
                    if path.startswith(prefix) and not path.startswith(_DRAFTS):
                        yield _entry(path, meta)

    def entry(self, path: str) -> Entry:
        with self._explained(path):
            return _entry(path, obstore.head(self._store, self._key(path)))

    def read(self, path: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        if end is not None and end <= start:
            return
        key, validator, given = self._key(path), "", 0
        while True:
            try:
                options: Any = {"range": (start, end) if end is not None else {"offset": start}} if start or end else {}
                if validator:
                    options["if_match"] = validator
                found = obstore.get(self._store, key, options=options)
                validator = validator or found.meta["e_tag"] or ""
                for piece in found.stream(_PIECE):
                    start += len(piece)
                    given = 0
                    yield bytes(piece)
                return
            except exceptions.BaseError as error:
                if _status(error) == 416 or (start and self._ends_before(key, start)):
                    return  # nothing there, from that byte on
                given += 1
                if given > 4 or _status(error) or isinstance(error, exceptions.PreconditionError):
                    raise self._said(error, path) from None
            except FileNotFoundError as error:
                raise self._said(error, path) from None

    def _ends_before(self, key: str, start: int) -> bool:
        try:
            return bool(obstore.head(self._store, key)["size"] <= start)
        except (exceptions.BaseError, FileNotFoundError):
            return False  # the first error is the one to tell

    def write(self, path: str, data: bytes | Path, *, new: bool = False) -> None:
        key = self._key(checked(path))
        with self._explained(path):
            size = _size(data)
            if size <= _SINGLE:
                content = data.read_bytes() if isinstance(data, Path) else bytes(data)
                obstore.put(self._store, key, content, mode="create" if new else "overwrite", use_multipart=False)
            elif not new:
                obstore.put(self._store, key, data, use_multipart=True, chunk_size=_part(size), max_concurrency=4)
            else:  # an upload in parts cannot be conditional, a copy can
                draft = self._key(_DRAFTS + secrets.token_hex(16))
                try:
                    obstore.put(self._store, draft, data, use_multipart=True, chunk_size=_part(size), max_concurrency=4)
                    obstore.copy(self._store, draft, key, overwrite=False)
                finally:
                    with contextlib.suppress(FileNotFoundError):
                        obstore.delete(self._store, draft)

    def remove(self, path: str) -> bool:
        key = self._key(checked(path))
        with self._explained(path):
            try:
                obstore.head(self._store, key)
                obstore.delete(self._store, key)
            except FileNotFoundError:
                return False
            return True

    def close(self) -> None:
        """Connections end with the process."""

    def _key(self, path: str) -> str:
        if path:
            checked(path)
        return "/".join(p for p in (self._prefix, path) if p)

    @contextlib.contextmanager
    def _explained(self, path: str) -> Iterator[None]:
        try:
            yield
        except BoucleError:
            raise
        except (exceptions.BaseError, OSError, ValueError) as error:
            if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
                raise
            raise self._said(error, path) from None  # the vendor's text may hold credentials

    def _said(self, error: Exception, path: str) -> BoucleError:
        """Our error for one of the vendor's, with nothing of its text but a status and a code."""
        where = f"{self._shown}/{self._key(path)}"
        status, code = _status(error), _CODE.search(str(error))
        reason = code[1] if code else ""
        if reason in ("NoSuchBucket", "ContainerNotFound"):
            return NotFound(
                f"there is no {self._shown}", expected="a bucket that exists", fix="make it, or check its name"
            )
        if isinstance(error, FileNotFoundError) or status == 404:
            return NotFound(f"no file {where}", expected="the path of one that is there")
        if isinstance(error, exceptions.AlreadyExistsError):
            return Conflict(f"there is a file {where} already", expected="a path that is not taken")
        if isinstance(error, exceptions.PreconditionError) or status == 412:
            return Unavailable(f"{where} changed while it was read", expected="a file that stays", fix="read it again")
        if isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError) or status in (
            401,
            403,
        ):
            return Refused(
                f"{where}: access is refused ({reason or status or 'no valid credentials'})",
                expected="credentials that may",
                fix="set the vendor's environment variables, or the options of the remote in boucle.toml",
            )
        if isinstance(error, exceptions.InvalidPathError | ValueError):
            return Invalid(f"{where} is not a path that {self._shown} takes", expected="parts joined by '/'")
        said = f"status {status}{f' ({reason})' if reason else ''}" if status else "no answer"
        return Unavailable(
            f"{where}: {said}", expected="a store that answers", fix="check endpoint, region and network"
        )


def _s3(bucket: str, options: dict[str, Any]) -> Any:
    environment = {**_aws_profile(options.pop("profile", "") or os.environ.get("AWS_PROFILE", "default")), **options}
    endpoint = (
        environment.get("endpoint") or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    )
    if str(endpoint or "").startswith("http://"):
        environment["client_options"]["allow_http"] = True
    return S3Store(bucket, **{"copy_if_not_exists": "multipart", **environment})


def _aws_profile(profile: str) -> dict[str, str]:
    """What ~/.aws says of a profile, where the environment does not say it."""
    read = configparser.RawConfigParser()
    places = {"AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials", "AWS_CONFIG_FILE": "~/.aws/config"}
    try:
        read.read([Path(os.environ.get(v, default)).expanduser() for v, default in places.items()], encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError):
        raise Invalid("the files of ~/.aws cannot be read", expected="[profile] and name = value") from None
    names = {
        "aws_access_key_id": "access_key_id", "aws_secret_access_key": "secret_access_key",
        "aws_session_token": "session_token", "region": "region", "endpoint_url": "endpoint",
    }  # fmt: skip
    found = {
        names[key]: value for section in (f"profile {profile}", profile) if read.has_section(section)
        for key, value in read.items(section) if key in names
    }  # fmt: skip
    if "AWS_ACCESS_KEY_ID" in os.environ:
        found = {k: v for k, v in found.items() if k in ("region", "endpoint")}
    variables = {
        "region": ("AWS_REGION", "AWS_DEFAULT_REGION"),
        "endpoint": ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"),
    }
    return {k: v for k, v in found.items() if not any(os.environ.get(n) for n in variables.get(k, ()))}


def _gcs(bucket: str, options: dict[str, Any]) -> Any:
    endpoint = options.pop("endpoint", "") or os.environ.get("STORAGE_EMULATOR_HOST", "")
    if endpoint:
        options["base_url"] = endpoint if "://" in endpoint else f"http://{endpoint}"
        options["client_options"]["allow_http"] = True
        if os.environ.get("STORAGE_EMULATOR_HOST"):
            options.setdefault("skip_signature", True)
    options.pop("region", None)  # a bucket of Google's has its place
    return GCSStore(bucket, **options)


def _azure(container: str, options: dict[str, Any]) -> Any:
    text = options.pop("connection_string", "") or os.environ.get("AZURE_STORAGE_CONNECTION_STRING", "")
    names = {
        "AccountName": "account_name", "AccountKey": "account_key", "BlobEndpoint": "endpoint",
        "SharedAccessSignature": "sas_key",
    }  # fmt: skip
    for part in filter(None, text.split(";")):
        key, _, value = part.partition("=")
        if key in names and value:
            options.setdefault(names[key], value.rstrip("/") if key == "BlobEndpoint" else value)
    if str(options.get("endpoint", "")).startswith("http://"):
        options["client_options"]["allow_http"] = True
    options.pop("region", None)
    return AzureStore(container, **options)


_STORES: dict[str, Callable[[str, dict[str, Any]], Any]] = {
    "s3": _s3, "gs": _gcs, "gcs": _gcs, "az": _azure, "azure": _azure, "abfs": _azure, "abfss": _azure,
}  # fmt: skip


def _entry(path: str, meta: Any) -> Entry:
    version = (meta["e_tag"] or meta["version"] or "").strip('"')  # Azure quotes it in answers, and not in lists
    return Entry(path, int(meta["size"]), version, meta["last_modified"].timestamp())


def _status(error: Exception) -> int:
    found = _STATUS.search(str(error))
    return int(found[1]) if found else 0


def _size(data: bytes | Path) -> int:
    if not isinstance(data, Path):
        return len(data)
    try:
        return data.stat().st_size
    except FileNotFoundError:
        raise NotFound(f"no file {data}", expected="a file to send") from None


def _part(size: int) -> int:
    return max(_PART, -(-size // 9000))  # S3 takes at most 10,000 parts
