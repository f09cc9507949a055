"""MongoDB: documents as rows, nested ones as structs."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import urllib.parse
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import bson
import pyarrow as pa
import pymongo
from bson import errors as bson_errors
from pymongo import errors

from boucle.core.errors import Conflict, Invalid, NotFound, Refused, Unavailable
from boucle.core.frames import BATCH_ROWS, Frame, type_name
from boucle.core.schema import Column, Schema
from boucle.plugins.sources import documents, sql
from boucle.ports.source import Mode, Reading

_OPTIONS = {
    "table": "the collection; in the URL it may stand behind #",
    "query": 'which documents, such as {"state": "paid"}',
    "cursor": sql.OPTIONS["cursor"],
    "after": sql.OPTIONS["after"],
    "inclusive": sql.OPTIONS["inclusive"],
    "snapshot": "false: read on while others write; a replica set otherwise shows one moment, for about five minutes",
    "password": sql.OPTIONS["password"],
}
_PATIENCE = 10_000  # milliseconds to find a server
_PIECE = 1000  # documents


class MongoSource:
    """Collections of MongoDB, and of what speaks its protocol."""

    name: ClassVar[str] = "mongo"
    suffixes: ClassVar[tuple[str, ...]] = ()
    schemes: ClassVar[tuple[str, ...]] = ("mongodb", "mongodb+srv")
    options: ClassVar[Mapping[str, str]] = _OPTIONS

    def read(self, url: str, options: Mapping[str, Any]) -> Reading:
        """The documents of a collection in the order of `_id` or of the cursor. They are read twice: for their types, then for
        their values. A document is a struct, an array a list, an ObjectId text, a date a time in UTC. Raises `NotFound` for
        a collection that is not there, and `Invalid` where a field has values of types that do not go together."""
        ask, where = _asked(url, options, _OPTIONS)
        collection = ask.table[-1]
        with _connected(ask) as client:
            database = _database(client)
            names = database.list_collection_names()
            if collection not in names:
                raise NotFound.named("collection", collection, names)
            set_name = _replicated(client) and options.get("snapshot", True) is not False
            shape = documents.Shape()
            for document in _found(client, collection, where, ask.cursor, set_name):
                shape.look({name: _plain(value) for name, value in document.items()}, f"_id {document.get('_id')}")
        schema = Schema(tuple(Column(n, type_name(s.arrow())) for n, s in shape.fields.items()))
        if ask.cursor and shape.fields and ask.cursor not in shape.fields and ask.after is None:
            raise NotFound.named("column", ask.cursor, shape.fields, fix="see the option cursor")

        def opener(chosen: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
            wanted = list(schema.names if chosen is None else chosen)
            held: list[dict[str, Any]] = []
            with _connected(ask) as client:
                for document in _found(client, collection, where, ask.cursor, set_name, wanted):
                    held.append({name: _plain(value) for name, value in document.items()})
                    if len(held) >= BATCH_ROWS // 8:
                        yield documents.batch(held, shape, wanted)
                        held = []
            if held:
                yield documents.batch(held, shape, wanted)

        return Reading(Frame(schema, opener), {"snapshot": set_name})

    def write(self, frame: Frame, url: str, mode: Mode, key: Sequence[str], options: Mapping[str, Any]) -> int:
        """Write a document per row. What replaces a collection, or makes one, is written under another name and renamed; rows
        are added and merged in one transaction, which MongoDB ends after a minute and has in replica sets only (`Refused`
        otherwise). Merging sets the fields written and no others, and makes an index on the key. Times keep their
        milliseconds, which is what BSON has."""
        ask, _ = _asked(url, options, {k: _OPTIONS[k] for k in ("table", "password")})
        rows = sql.rows_of(frame)
        sql.check_write(self.name, mode, key, rows.schema)
        collection = ask.table[-1]
        with _connected(ask) as client:
            database = _database(client)
            if mode == "replace" or collection not in database.list_collection_names():
                return _renamed(database, collection, rows, key)
            if not _replicated(client):
                raise Refused(
                    f"{sql.shown(ask.url)} has no transactions, so that rows could be written in part",
                    expected="a replica set",
                    fix="replace the collection, or start the server with --replSet",
                )
            _indexed(database[collection], key)
            with client.start_session() as session, session.start_transaction():
                return _put(database[collection], rows, key, session)


def _asked(url: str, options: Mapping[str, Any], known: Mapping[str, str]) -> tuple[sql.Asked, dict[str, Any]]:
    unknown = [o for o in options if o not in known]
    if unknown:
        raise Invalid(f"the mongo source has no option {unknown[0]!r}", expected=f"one of {', '.join(known)}")
    if options.get("after") is not None and not options.get("cursor"):
        raise Invalid("after without a cursor", expected="the field it is compared with, as the option cursor")
    address, _, behind = url.partition("#")
    name, query = options.get("table") or urllib.parse.unquote(behind), options.get("query") or {}
    if not name or not isinstance(name, str) or "\0" in name or "$" in name:
        raise Invalid(
            "no collection" if not name else f"{name!r} is no collection", expected="its name, behind # in the URL"
        )
    if isinstance(query, str):
        try:
            query = json.loads(query)
        except ValueError as error:
            raise Invalid(f"the query is not JSON: {error}", expected='such as {"state": "paid"}') from None
    if not isinstance(query, Mapping):
        raise Invalid("the query is not a document", expected='such as {"state": "paid"}')
    where, after = dict(query), options.get("after")
    if after is not None:
        test = "$gte" if options.get("inclusive") else "$gt"
        where = {"$and": [where, {options["cursor"]: {test: after}}]}
    return sql.Asked(
        address, (name,), cursor=options.get("cursor") or "", after=after, password=options.get("password") or ""
    ), where


@contextmanager
def _connected(ask: sql.Asked) -> Iterator[pymongo.MongoClient[Any]]:
    where = sql.shown(ask.url)
    client: pymongo.MongoClient[Any] | None = None
    try:
        given: dict[str, Any] = {"password": ask.password} if ask.password else {}
        client = _client(ask.url, given)
        yield client
    except (errors.InvalidURI, errors.ConfigurationError, errors.InvalidName):
        raise Invalid("the mongodb URL cannot be read", expected="mongodb://user:password@host:port/database") from None
    except errors.OperationFailure as error:
        raise _told(error, ask) from None
    except errors.PyMongoError as error:
        raise Unavailable(
            f"{where}: {_short(error, ask)}", expected="a server that answers", fix="check host and port, try again"
        ) from None
    except (bson_errors.InvalidDocument, OverflowError) as error:
        raise Invalid(f"a value cannot be kept as BSON: {_short(error, ask)}", expected="values that fit") from None
    finally:
        if client is not None:
            client.close()


def _client(url: str, given: Mapping[str, Any]) -> pymongo.MongoClient[Any]:
    try:
        return pymongo.MongoClient(url, serverSelectionTimeoutMS=_PATIENCE, tz_aware=True, appname="boucle", **given)
    except ValueError:
        raise errors.InvalidURI from None


def _short(error: Exception, ask: sql.Asked) -> str:
    return sql.hidden(str(error), ask)[:300]


def _told(error: errors.OperationFailure, ask: sql.Asked) -> Exception:
    where = sql.shown(ask.url)
    if isinstance(error, errors.BulkWriteError) and error.details:
        found = error.details.get("writeErrors") or [{}]
        code, text = found[0].get("code", 0), sql.hidden(str(found[0].get("errmsg", error)), ask)
    else:
        code, text = error.code or 0, _short(error, ask)
    if code in (11, 13, 18, 8000):
        return Refused(f"{where}: {text}", expected="a user and password that may", fix="see the option password")
    if code in (112, 11000, 11001, 12582, 48):
        return Conflict(f"{where}: {text}", expected="documents that keep to the indexes, and nobody else writing them")
    if code in (6, 7, 50, 89, 91, 189, 239, 246, 251, 290, 11600, 11602):
        return Unavailable(f"{where}: {text}", expected="a server that has the time", fix="or read with snapshot=false")
    return Invalid(f"{where}: {text}", expected="a query and documents that the server takes")


def _database(client: pymongo.MongoClient[Any]) -> Any:
    return client.get_default_database(default="test")


def _replicated(client: pymongo.MongoClient[Any]) -> bool:
    hello = client.admin.command("hello")
    return "setName" in hello or hello.get("msg") == "isdbgrid"


# --- reading ---------------------------------------------------------------------------------------------------------


def _found(
    client: pymongo.MongoClient[Any], name: str, where: Mapping[str, Any], cursor: str, snapshot: bool,
    wanted: Sequence[str] | None = None,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    collection = _database(client)[name]
    order = [(cursor, 1), ("_id", 1)] if cursor and cursor != "_id" else [("_id", 1)]
    only = None if wanted is None else {**dict.fromkeys(wanted, 1), **({} if "_id" in wanted else {"_id": 0})}
    with client.start_session(snapshot=True) if snapshot else client.start_session() as session:
        fitting = _compared(collection, where, cursor, session)
        yield from collection.find(fitting, only, session=session, batch_size=_PIECE).sort(order).allow_disk_use(True)


def _compared(collection: Any, where: Mapping[str, Any], cursor: str, session: Any) -> Mapping[str, Any]:
    """The condition with `after` as a value of the cursor's type, which text stands for where it came from elsewhere."""
    if not cursor or "$and" not in where:
        return where
    query, after = where["$and"][0], where["$and"][-1]
    if cursor not in after:
        return where
    (test, value), *_ = after[cursor].items()
    if not isinstance(value, str):
        return where
    one = collection.find_one({cursor: {"$ne": None}}, {cursor: 1}, session=session) or {}
    kept = one.get(cursor)
    try:
        if isinstance(kept, dt.datetime):
            moment = dt.datetime.fromisoformat(value)
            return {"$and": [query, {cursor: {test: moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)}}]}
        if isinstance(kept, bson.ObjectId):
            return {"$and": [query, {cursor: {test: bson.ObjectId(value)}}]}
    except (ValueError, bson_errors.InvalidId):
        raise Invalid(
            f"after={value!r} cannot be compared with {cursor!r}", expected=f"a {type(kept).__name__}"
        ) from None
    return where


def _plain(value: Any) -> Any:
    """A value of BSON as one of Python."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, bson.Decimal128):
        return value.to_decimal()
    if isinstance(value, bool | float | str | dt.datetime) or value is None:
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, bytes):
        return bytes(value)
    if isinstance(value, bson.Timestamp):
        return value.as_datetime()
    return str(value)  # ObjectId, Regex, Code, ...


# --- writing ---------------------------------------------------------------------------------------------------------


def _renamed(database: Any, collection: str, rows: sql.Rows, key: Sequence[str]) -> int:
    fresh = database[f"boucle_new_{uuid.uuid4().hex[:16]}"]
    database.create_collection(fresh.name)
    try:
        _indexed(fresh, key)
        written = _put(fresh, rows, key, None)
        fresh.rename(collection, dropTarget=True)
    except BaseException:
        fresh.drop()
        raise
    return written


def _indexed(collection: Any, key: Sequence[str]) -> None:
    """See that documents are found by the key without reading all of them."""
    known = [[name for name, _ in index["key"]] for index in collection.index_information().values()]
    if key and not any(fields[: len(key)] == list(key) for fields in known):
        collection.create_index([(name, 1) for name in key])


def _put(collection: Any, rows: sql.Rows, key: Sequence[str], session: Any) -> int:
    written, seen = 0, set()
    for batch in rows.batches:
        for start in range(0, batch.num_rows, _PIECE):
            some = [{k: _kept(v) for k, v in row.items()} for row in batch.slice(start, _PIECE).to_pylist()]
            for document in some if key else ():
                named = tuple(str(document[k]) for k in key)
                if any(document[k] is None for k in key):
                    raise Invalid(f"the key {', '.join(key)} is null in a row", expected="a key in every row to merge")
                if hash(named) in seen:
                    said = ", ".join(f"{k}={v}" for k, v in zip(key, named, strict=True))
                    raise Invalid(f"two rows to merge have the key {said}", expected="each key once")
                seen.add(hash(named))
            if key:
                changes = [pymongo.UpdateOne({k: d[k] for k in key}, {"$set": d}, upsert=True) for d in some]
                collection.bulk_write(changes, session=session)
            else:
                collection.insert_many(some, session=session)
        written += batch.num_rows
    return written


def _kept(value: Any) -> Any:
    """A value as BSON keeps it."""
    if isinstance(value, dict):
        return {name: _kept(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_kept(part) for part in value]
    if isinstance(value, decimal.Decimal):
        try:
            return bson.Decimal128(value)
        except decimal.DecimalException:
            raise Invalid(f"{value} has more than 34 digits, which is what BSON has", expected="less") from None
    if isinstance(value, dt.datetime):
        return value
    if isinstance(value, dt.date):
        return dt.datetime(value.year, value.month, value.day)  # BSON has no dates without a time
    if isinstance(value, dt.time):
        return value.isoformat()
    if isinstance(value, dt.timedelta):
        return value // dt.timedelta(microseconds=1)
    return value
