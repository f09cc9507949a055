"""Redis: hashes, JSON texts and lists of either, by the pattern of their keys."""

from __future__ import annotations

import json
import urllib.parse
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import pyarrow as pa
import redis

from boucle.core.errors import Conflict, Invalid, NotFound, Refused, Unavailable
from boucle.core.frames import BATCH_ROWS, Frame
from boucle.core.schema import Column, Schema, jsonable
from boucle.plugins.sources import documents, sql
from boucle.plugins.sources.shapes import Shape
from boucle.ports.source import Mode, Reading

_READ = {
    "keys": "the pattern of the keys, such as user:*; in the URL it may stand behind #",
    "column": "what the column with the key is called: key; empty for none",
    "types": "column -> type, for hashes, whose values are text",
    "password": "where it is not in the URL",
}
_WRITE = {
    "keys": "the keys to write, with * for the value of the column id, such as user:*",
    "id": "the column whose value stands for *; that of the merge where there is one",
    "type": "hash (the default) or json",
    "password": "where it is not in the URL",
}
_MANY = 1000  # keys asked for at once
_PATIENCE = 10.0  # seconds
_STAGED_FOR = 86_400  # seconds that what a killed writer staged stays

# All at once, between two other commands. KEYS: the set of the names staged. ARGV: the prefix of what was staged, the mode,
# the pattern to replace.
_PUBLISH = """
local names = redis.call('SMEMBERS', KEYS[1])
if ARGV[2] == 'append' then
  for _, name in ipairs(names) do
    if redis.call('EXISTS', name) == 1 then return {0, name} end
  end
elseif ARGV[2] == 'replace' then
  for _, name in ipairs(redis.call('KEYS', ARGV[3])) do redis.call('DEL', name) end
end
for _, name in ipairs(names) do
  redis.call('PERSIST', ARGV[1] .. name)
  redis.call('RENAME', ARGV[1] .. name, name)
end
redis.call('DEL', KEYS[1])
return {1, #names}
"""


class RedisSource:
    """Redis, and what speaks its protocol, as one server (not a cluster)."""

    name: ClassVar[str] = "redis"
    suffixes: ClassVar[tuple[str, ...]] = ()
    schemes: ClassVar[tuple[str, ...]] = ("redis", "rediss")
    options: ClassVar[Mapping[str, str]] = _READ

    def read(self, url: str, options: Mapping[str, Any]) -> Reading:
        """A row per hash, JSON object, or element of a list, in the order of the keys, which are held in memory; values are
        not. All are read twice: for the types, then for the values. Redis has no snapshots: a key that goes away in
        between is left out. Raises `NotFound` when no key fits."""
        ask, given = _asked(url, options, _READ)
        with _connected(ask) as client:
            keys = _keys(client, given["keys"])
            if not keys:
                raise NotFound(f"no key of {sql.shown(url)} is like {given['keys']!r}", expected="at least one")
            kind = _kind(client, keys)
            found: _Hashes | _Objects = (_Hashes if kind == "hash" else _Objects)(given.get("types") or {})
            for key, value in _values(client, keys, kind):
                found.look(key, value)
        name = given.get("column", "key")
        columns = found.columns()
        if name in [c.name for c in columns]:
            raise Invalid(f"a value has the field {name!r} too", expected="another name", fix="give the option column")
        schema = Schema((*([Column(name, "string", False)] if name else []), *columns))

        def opener(names: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
            wanted = list(schema.names if names is None else names)
            with _connected(ask) as client:
                for rows in _cut(_values(client, keys, kind)):
                    inner = found.batch([value for _, value in rows], [n for n in wanted if n != name])
                    arrays = {
                        name: pa.array([key.decode() for key, _ in rows], pa.string()),
                        **dict(zip(inner.schema.names, inner.columns, strict=True)),
                    }
                    yield pa.RecordBatch.from_arrays([arrays[n] for n in wanted], names=wanted)

        return Reading(Frame(schema, opener), {"type": kind, "keys": len(keys)})

    def write(self, frame: Frame, url: str, mode: Mode, key: Sequence[str], options: Mapping[str, Any]) -> int:
        """Write a hash (or JSON text) per row, its key the pattern with the value of the column `id` for *. Rows are staged
        under other names and published by one script, which stops the server for about a second per million of them.
        `append` raises `Conflict` where a key is there, `replace` removes all other keys of the pattern. Fields that are
        null are left out of hashes, and bytes raise `Invalid`."""
        ask, given = _asked(url, options, _WRITE)
        pattern, kind = given["keys"], given.get("type") or "hash"
        if pattern.count("*") != 1 or any(c in pattern for c in "?[]\\"):
            raise Invalid(f"keys={pattern!r}", expected="a name with one *, such as user:*")
        if kind not in ("hash", "json"):
            raise Invalid(f"type={kind!r}", expected="hash or json")
        rows = sql.rows_of(frame)
        sql.check_write(self.name, mode, key, rows.schema)
        named = [given["id"]] if given.get("id") and not key else list(key)
        if not named:
            raise Invalid("no column that names the keys", expected="it", fix="give the option id")
        sql.check_write(self.name, "merge", named, rows.schema)
        for column in rows.schema:
            if pa.types.is_binary(column.type):
                raise Invalid(f"column {column.name!r} is bytes", expected="text and numbers", fix="leave it out")
        staged = f"boucle:staged:{uuid.uuid4().hex}:"
        with _connected(ask) as client:
            try:
                written = _stage(client, rows, staged, pattern, named, kind)
                done, said = client.register_script(_PUBLISH)(keys=[staged], args=[staged, mode, pattern])
            except BaseException:
                _drop(client, staged)
                raise
            if not done:
                _drop(client, staged)
                name = said.decode(errors="replace")
                raise Conflict(f"the key {name!r} is there already", expected="none of them", fix="merge")
        return written


def _asked(url: str, options: Mapping[str, Any], known: Mapping[str, str]) -> tuple[sql.Asked, dict[str, Any]]:
    unknown = [o for o in options if o not in known]
    if unknown:
        raise Invalid(f"the redis source has no option {unknown[0]!r}", expected=f"one of {', '.join(known)}")
    address, _, behind = url.partition("#")
    keys = options.get("keys") or urllib.parse.unquote(behind)
    if not keys:
        raise Invalid("no keys", expected="a pattern such as user:*, behind # in the URL or as the option keys")
    return sql.Asked(address, (keys,), password=options.get("password") or ""), {**options, "keys": keys}


@contextmanager
def _connected(ask: sql.Asked) -> Iterator[Any]:
    sql.split(ask.url)
    where = sql.shown(ask.url)
    given = {"password": ask.password} if ask.password else {}
    try:
        client = redis.Redis.from_url(ask.url, socket_timeout=_PATIENCE, socket_connect_timeout=_PATIENCE, **given)
    except ValueError:
        raise Invalid("the redis URL cannot be read", expected="redis://user:password@host:port/0") from None
    try:
        yield client
    except (redis.AuthenticationError, redis.exceptions.NoPermissionError) as error:
        raise Refused(f"{where}: {sql.hidden(str(error), ask)}", expected="a user and password that may") from None
    except (redis.ConnectionError, redis.TimeoutError, redis.exceptions.BusyLoadingError) as error:
        raise Unavailable(f"{where}: {sql.hidden(str(error), ask)}", expected="a server that answers") from None
    except redis.RedisError as error:
        text = sql.hidden(str(error), ask)
        if text.startswith(("NOAUTH", "WRONGPASS")):
            raise Refused(f"{where}: {text}", expected="a user and password that may") from None
        raise Invalid(f"{where}: {text}", expected="what the server understands") from None
    finally:
        client.close()


# --- reading ---------------------------------------------------------------------------------------------------------


def _keys(client: Any, pattern: str) -> list[bytes]:
    """All keys of a pattern, each once (SCAN may give one twice), in order."""
    return sorted(set(client.scan_iter(match=pattern, count=_MANY)))


def _kind(client: Any, keys: Sequence[bytes]) -> str:
    kinds: set[str] = set()
    for start in range(0, len(keys), _MANY):
        with client.pipeline(transaction=False) as pipe:
            for key in keys[start : start + _MANY]:
                pipe.type(key)
            kinds |= {kind.decode() for kind in pipe.execute()} - {"none"}
    kind = kinds.pop() if len(kinds) == 1 else ""
    if kind not in ("hash", "string", "list"):
        said = kind or " and ".join(sorted(kinds)) or "none"
        raise Invalid(f"the keys hold values of type {said}", expected="only hashes, texts of JSON, or lists of them")
    return kind


def _values(client: Any, keys: Sequence[bytes], kind: str) -> Iterator[tuple[bytes, Any]]:
    """Key and value of each, asked for many at a time; of lists, of each element."""
    if kind == "list":
        for key in keys:
            start = 0
            while part := client.lrange(key, start, start + _MANY - 1):
                yield from ((key, _object(key, element)) for element in part)
                start += len(part)
        return
    for start in range(0, len(keys), _MANY):
        some = keys[start : start + _MANY]
        with client.pipeline(transaction=False) as pipe:
            for key in some:
                (pipe.hgetall if kind == "hash" else pipe.get)(key)
            got = pipe.execute()
        for key, value in zip(some, got, strict=True):
            if kind == "hash" and value:
                yield key, {_text(key, k): _text(key, v) for k, v in value.items()}
            elif kind == "string" and value is not None:
                yield key, _object(key, value)


def _text(key: bytes, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Invalid(f"{key.decode(errors='replace')} holds bytes that are not UTF-8", expected="text") from None


def _object(key: bytes, raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise Invalid(f"{key.decode(errors='replace')} does not hold a JSON object", expected='text such as {"a": 1}')
    return value


def _cut(values: Iterable[tuple[bytes, Any]]) -> Iterator[list[tuple[bytes, Any]]]:
    held: list[tuple[bytes, Any]] = []
    for pair in values:
        held.append(pair)
        if len(held) >= BATCH_ROWS // 8:
            yield held
            held = []
    if held:
        yield held


class _Hashes:
    """Values that are all text, whose types are guessed."""

    def __init__(self, types: Mapping[str, str]) -> None:
        self._shape, self._types = Shape.of_records(), types
        self._columns: dict[str, Any] = {}

    def look(self, _: bytes, value: Mapping[str, str]) -> None:
        self._shape.look(value)

    def columns(self) -> list[Column]:
        self._columns = {c.name: c for c in self._shape.columns(flat=True, types=self._types)}
        return [Column(c.name, c.type, c.nullable) for c in self._columns.values()]

    def batch(self, rows: Sequence[Mapping[str, str]], names: Sequence[str]) -> pa.RecordBatch:
        return pa.RecordBatch.from_arrays([self._columns[n].array(rows) for n in names], names=list(names))


class _Objects:
    """Values that have types."""

    def __init__(self, types: Mapping[str, str]) -> None:
        if types:
            raise Invalid("the option types is for hashes", expected="JSON values have types of their own")
        self._shape = documents.Shape()

    def look(self, key: bytes, value: Mapping[str, Any]) -> None:
        self._shape.look(value, key.decode(errors="replace"))

    def columns(self) -> list[Column]:
        from boucle.core.frames import type_name

        return [Column(n, type_name(s.arrow())) for n, s in self._shape.fields.items()]

    def batch(self, rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> pa.RecordBatch:
        return documents.batch(rows, self._shape, names)


# --- writing ---------------------------------------------------------------------------------------------------------


def _stage(client: Any, rows: sql.Rows, staged: str, pattern: str, named: Sequence[str], kind: str) -> int:
    written = 0
    for batch in rows.batches:
        for start in range(0, batch.num_rows, _MANY):
            part = batch.slice(start, _MANY).to_pylist()
            with client.pipeline(transaction=False) as pipe:
                for row in part:
                    if any(row[n] is None for n in named):
                        raise Invalid(f"the key {', '.join(named)} is null in a row", expected="a key in every row")
                    name = pattern.replace("*", ":".join(_plain(row[n]) for n in named))
                    pipe.sadd(staged, name)
                    if kind == "hash":
                        pipe.hset(staged + name, mapping={k: _plain(v) for k, v in row.items() if v is not None})
                    else:
                        pipe.set(staged + name, sql.as_json(row))
                    pipe.expire(staged + name, _STAGED_FOR)
                pipe.expire(staged, _STAGED_FOR)
                answers = pipe.execute()
            if 0 in answers[0:-1:3]:
                row = part[answers[0:-1:3].index(0)]
                said = ", ".join(f"{n}={row[n]}" for n in named)
                raise Invalid(f"two rows to write have the key {said}", expected="each key once")
        written += batch.num_rows
    return written


def _plain(value: Any) -> str:
    told = jsonable(value)
    return told if isinstance(told, str) else json.dumps(told, ensure_ascii=False, separators=(",", ":"))


def _drop(client: Any, staged: str) -> None:
    """Remove what was staged, as far as the server answers; the rest goes by itself in time."""
    try:
        for name in client.sscan_iter(staged, count=_MANY):
            client.unlink(staged.encode() + name)
        client.unlink(staged)
    except redis.RedisError:
        return
