"""The types of SQLAlchemy and of Arrow, both ways, and the values that go with them."""

from __future__ import annotations

import datetime as dt
import decimal
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.dialects import mssql, mysql, oracle, postgresql
from sqlalchemy.types import TypeEngine

from boucle.core.errors import Invalid
from boucle.plugins.sources import sql

Type = TypeEngine[Any]

MYSQL = ("mysql", "mariadb")
_SIZED = (*MYSQL, "postgresql", "mssql")  # INTEGER has 32 bits, and SMALLINT 16
_NAIVE_UTC = (*MYSQL, "sqlite")  # a time with a zone comes without one, and is in UTC
_ZONED = ("DATETIMEOFFSET", "TIMESTAMP_TZ", "TIMESTAMP_LTZ")  # dialects' own names of times with a zone
_UTC = pa.timestamp("us", "UTC")
_US = pa.timestamp("us")
_DIGITS = 15  # of a number where decimals are not native


# --- what comes ------------------------------------------------------------------------------------------------------


def arrow_type(kind: Type, dialect: str) -> pa.DataType | None:
    """The Arrow type of a column, or None where the values have to say it."""
    if isinstance(kind, sa.Boolean) or (isinstance(kind, mysql.TINYINT) and kind.display_width == 1):
        return pa.bool_()
    if isinstance(kind, sa.Float):
        return pa.float64()
    if isinstance(kind, sa.Numeric):
        return _decimal(kind.precision, kind.scale)
    if isinstance(kind, sa.Integer):
        if getattr(kind, "unsigned", False):
            return pa.uint64() if isinstance(kind, sa.BigInteger) else pa.int64()
        if dialect not in _SIZED or isinstance(kind, sa.BigInteger):
            return pa.int64()
        return pa.int16() if isinstance(kind, sa.SmallInteger) else pa.int32()
    if isinstance(kind, sa.DateTime):
        return _UTC if _is_zoned(kind, dialect) else _US
    if isinstance(kind, mysql.TIME):
        return pa.duration("us")
    if isinstance(kind, sa.ARRAY):
        inner = arrow_type(kind.item_type, dialect)
        return pa.list_(inner) if inner is not None and (kind.dimensions or 1) == 1 else None
    for family, arrow in _FAMILIES:
        if isinstance(kind, family):
            return arrow
    return None


_RAW = (sa.LargeBinary, sa.BINARY, sa.VARBINARY, mysql.TINYBLOB, mysql.MEDIUMBLOB, mysql.LONGBLOB)
_FAMILIES: tuple[tuple[Any, pa.DataType], ...] = (
    (sa.Date, pa.date32()), (sa.Time, pa.time64("us")), ((sa.Interval, postgresql.INTERVAL), pa.duration("us")),
    (_RAW, pa.binary()), (sa.JSON, pa.string()),
    ((sa.Uuid, sa.String), pa.string()),
)  # fmt: skip


def _decimal(precision: int | None, scale: int | None) -> pa.DataType:
    whole = precision is not None and 0 < precision <= 38 and 0 <= (scale or 0) <= precision
    return pa.decimal128(precision, scale or 0) if whole else pa.float64()


def _is_zoned(kind: Any, dialect: str) -> bool:
    told = getattr(kind, "timezone", False) or getattr(kind, "local_timezone", False)
    named = type(kind).__name__ in _ZONED or (dialect == "bigquery" and isinstance(kind, sa.TIMESTAMP))
    return bool(told or named or isinstance(kind, mysql.TIMESTAMP))


def selected(column: sa.ColumnElement[Any], kind: Type, dialect: str) -> sa.ColumnElement[Any]:
    """How a column is selected: SQLAlchemy itself would cut long times, make 2 true, and dates out of text."""
    if isinstance(kind, mysql.TIME | sa.Boolean):
        return sa.type_coerce(column, sa.types.NullType())
    if isinstance(kind, mysql.FLOAT):  # as text it would lose digits
        return sa.type_coerce(column.op("+")(sa.literal_column("0e0")), sa.Float())
    if dialect == "sqlite" and isinstance(kind, sa.DateTime | sa.Date | sa.Time):
        return sa.type_coerce(column, sa.String())
    if isinstance(kind, sa.Numeric) and not isinstance(kind, sa.Float) and dialect == "sqlite":
        return sa.type_coerce(column, sa.Float())
    return column


def compared(kind: Type, after: Any, dialect: str) -> tuple[Any, Type]:
    """A cursor's value as it is bound, and its type. Raises `Invalid` where the order is not that of what is read."""
    if isinstance(kind, (sa.JSON, sa.ARRAY, *_RAW)):
        raise Invalid(f"a column of {type(kind).__name__} cannot be the cursor", expected="a number, text or time")
    if isinstance(after, dt.datetime) and after.tzinfo is not None and dialect in _NAIVE_UTC:
        after = after.astimezone(dt.UTC).replace(tzinfo=None)
    if isinstance(after, decimal.Decimal) and dialect == "sqlite":
        return float(after), sa.Float()
    if isinstance(kind, sa.Uuid) and isinstance(after, str):
        return _uuid(after), sa.Uuid()
    return after, kind


def converted(kind: pa.DataType, dialect: str, *, json: bool = False) -> Callable[[list[Any]], pa.Array]:
    """What makes an Arrow array of the values of a driver. It raises `ValueError` for those that are of another type."""
    one = _one(kind, dialect, json=json)
    if pa.types.is_null(kind):
        return lambda values: pa.array(values, pa.null())
    return lambda values: pa.array([None if v is None else one(v) for v in values], kind)


def _one(kind: pa.DataType, dialect: str, *, json: bool) -> Callable[[Any], Any]:
    t = pa.types
    if t.is_timestamp(kind):
        return lambda value: _moment(value, zoned=kind.tz is not None, naive=dialect in _NAIVE_UTC)
    if t.is_list(kind):
        inner = _one(kind.value_type, dialect, json=False)
        return lambda value: [None if v is None else inner(v) for v in value]
    if json:
        return sql.as_json
    for test, convert in (
        (t.is_boolean, _bool), (t.is_integer, _int), (t.is_floating, _float), (t.is_decimal, _exact), (t.is_date, _day),
        (t.is_time, _clock), (t.is_binary, _raw), (t.is_string, _text), (t.is_duration, _span),
    ):  # fmt: skip
        if test(kind):
            return convert
    return lambda value: value


def _odd(value: Any) -> ValueError:
    text = repr(value)
    return ValueError(text if len(text) < 80 else text[:80] + "...")


def _bool(value: Any) -> bool:
    if isinstance(value, bool | int) and value in (0, 1):
        return bool(value)
    raise _odd(value)


def _int(value: Any) -> int:
    if isinstance(value, int) or (isinstance(value, float | decimal.Decimal) and value == int(value)):
        return int(value)
    raise _odd(value)


def _float(value: Any) -> float:
    if isinstance(value, int | float | decimal.Decimal):
        return float(value)
    raise _odd(value)


def _exact(value: Any) -> decimal.Decimal:
    if isinstance(value, int | float | decimal.Decimal):
        return value if isinstance(value, decimal.Decimal) else decimal.Decimal(repr(value))
    raise _odd(value)


def _moment(value: Any, *, zoned: bool, naive: bool) -> dt.datetime:
    if isinstance(value, str):
        value = dt.datetime.fromisoformat(value)
    if not isinstance(value, dt.datetime):
        raise _odd(value)
    if zoned and value.tzinfo is None and not naive:
        raise ValueError(f"{value} came without its zone")
    if not zoned and value.tzinfo is not None:
        raise ValueError(f"{value} has a zone, and others have none")
    return value.replace(tzinfo=dt.UTC) if zoned and value.tzinfo is None else value


def _day(value: Any) -> dt.date:
    if isinstance(value, str):
        return dt.date.fromisoformat(value)
    if isinstance(value, dt.datetime):  # Oracle's DATE is one
        if value.time() != dt.time(0):
            raise _odd(value)
        return value.date()
    if isinstance(value, dt.date):
        return value
    raise _odd(value)


def _clock(value: Any) -> dt.time:
    if isinstance(value, str):
        return dt.time.fromisoformat(value)
    if isinstance(value, dt.time):
        return value
    raise _odd(value)


def _span(value: Any) -> dt.timedelta:
    if isinstance(value, dt.timedelta):
        return value
    raise _odd(value)


def _raw(value: Any) -> bytes:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise _odd(value)


def _text(value: Any) -> str:
    if isinstance(value, bytes | bytearray | memoryview | bool | float):
        raise _odd(value)
    return sql.as_json(value) if isinstance(value, dict | list | tuple) else str(value)


# Python types of values -> the Arrow type of a column of them, where they are read as they come.
_SEEN: tuple[tuple[tuple[type, ...], pa.DataType], ...] = (
    ((bool,), pa.bool_()), ((int,), pa.int64()), ((int, float, decimal.Decimal), pa.float64()),
    ((dt.date,), pa.date32()), ((dt.time,), pa.time64("us")), ((dt.timedelta,), pa.duration("us")),
    ((bytes, bytearray, memoryview), pa.binary()), ((str,), pa.string()), ((dict, list, tuple), pa.string()),
)  # fmt: skip


def seen(name: str, values: Sequence[Any], described: Sequence[Any]) -> pa.DataType:
    """The Arrow type that values of a driver are of, with what its cursor says of the column (PEP 249). Raises `Invalid` where
    they are of several."""
    kinds = {type(v) for v in values if v is not None}
    if not kinds:
        return pa.null()
    if decimal.Decimal in kinds and len(described) > 5 and described[5] is not None and float not in kinds:
        scale = int(described[5])
        kind = _decimal(min(int(described[4] or 38), 38), scale)
        return kind if scale >= 0 else pa.float64()
    if kinds == {dt.datetime}:
        zones = {v.tzinfo is not None for v in values if v is not None}
        if len(zones) == 1:
            return _UTC if zones.pop() else _US
    if kinds == {int} and max(v for v in values if v is not None) >= 2**63:
        return pa.uint64()
    for family, arrow in _SEEN:
        if kinds <= set(family):
            return arrow
    if len(kinds) == 1:  # a UUID, an address: as it is written
        return pa.string()
    raise Invalid(
        f"column {name!r} holds {' and '.join(sorted(k.__name__ for k in kinds))}",
        expected="values of one type",
        fix="read it by a query with CAST",
    )


# --- what goes -------------------------------------------------------------------------------------------------------


def made(kind: pa.DataType, dialect: str, *, key: bool) -> Type:
    """The type of a column that is made for an Arrow type: in every database one that keeps microseconds and all digits."""
    t = pa.types
    if t.is_timestamp(kind):
        return _moments(dialect, zoned=kind.tz is not None)
    if t.is_time(kind):
        if dialect == "oracle":  # has no such type
            return sa.String(15)
        return mysql.TIME(fsp=6) if dialect in MYSQL else sa.Time()
    if t.is_duration(kind):
        if dialect in MYSQL:
            return mysql.TIME(fsp=6)
        return sa.Interval(native=True) if dialect in ("postgresql", "oracle") else sa.BigInteger()
    if t.is_decimal(kind) or t.is_uint64(kind):
        precision, scale = (kind.precision, kind.scale) if t.is_decimal(kind) else (20, 0)
        cut = dialect == "sqlite" and precision > _DIGITS
        return sa.String(precision + 2) if cut else sa.Numeric(precision, scale)
    if t.is_string(kind) or t.is_null(kind):
        return _texts(dialect, key=key)
    if t.is_binary(kind):
        return mysql.LONGBLOB() if dialect in MYSQL and not key else sa.VARBINARY(255) if key else sa.LargeBinary()
    if t.is_nested(kind):
        if dialect == "postgresql":
            return postgresql.JSONB(none_as_null=True)
        return sa.JSON(none_as_null=True) if dialect in (*MYSQL, "sqlite") else _texts(dialect, key=False)
    for test, column in (
        (t.is_boolean, sa.Boolean()), (t.is_floating, sa.Double()), (t.is_date, sa.Date()),
        (t.is_int8, sa.SmallInteger()), (t.is_int16, sa.SmallInteger()), (t.is_uint8, sa.SmallInteger()),
        (t.is_int32, sa.Integer()), (t.is_uint16, sa.Integer()), (t.is_integer, sa.BigInteger()),
    ):  # fmt: skip
        if test(kind):
            return column
    raise Invalid(f"a column is {kind}", expected="numbers, text, times, lists or structs")


def _moments(dialect: str, *, zoned: bool) -> Type:
    if dialect in MYSQL:
        return mysql.TIMESTAMP(fsp=6) if zoned else mysql.DATETIME(fsp=6)
    if dialect == "mssql":
        untyped: Any = mssql
        found: Type = untyped.DATETIMEOFFSET(6) if zoned else untyped.DATETIME2(6)
        return found
    if dialect == "oracle":
        return oracle.TIMESTAMP(timezone=zoned)
    return sa.DateTime(timezone=zoned)


def _texts(dialect: str, *, key: bool) -> Type:
    if dialect in MYSQL:
        return sa.String(255) if key else mysql.LONGTEXT()
    if dialect == "mssql":
        return sa.Unicode(255) if key else sa.Unicode()
    return sa.String(255) if key and dialect != "sqlite" else sa.Text()


def bound(kind: Type, arrow: pa.DataType, dialect: str) -> Type:
    """The type that values are bound as, for a column of this one."""
    if dialect == "sqlite" and isinstance(kind, sa.Numeric) and pa.types.is_decimal(arrow):
        return sa.String()
    if isinstance(kind, mysql.TIME):
        return sa.types.NullType()
    return kind


def sent(column: pa.Array, kind: Type, dialect: str) -> list[Any]:
    """The values of an Arrow column as SQLAlchemy takes them for a column of a table."""
    arrow, t = column.type, pa.types
    if isinstance(kind, sa.String) and (t.is_time(arrow) or t.is_date(arrow) or t.is_timestamp(arrow)):
        return [None if v is None else v.isoformat() for v in column.to_pylist()]
    if t.is_duration(arrow) and isinstance(kind, sa.Integer):
        return list(column.cast(pa.int64()).to_pylist())
    if t.is_timestamp(arrow) and arrow.tz and (dialect in _NAIVE_UTC or not _is_zoned(kind, dialect)):
        return list(column.cast(_US).to_pylist())
    values = list(column.to_pylist())
    if t.is_nested(arrow) and not isinstance(kind, sa.JSON | sa.ARRAY):
        return [None if v is None else sql.as_json(v) for v in values]
    if isinstance(kind, sa.Uuid):
        return [_uuid(v) if isinstance(v, str) else v for v in values]
    if dialect == "sqlite" and (t.is_decimal(arrow) or (t.is_integer(arrow) and isinstance(kind, sa.String))):
        return [None if v is None else str(v) for v in values]
    return values


def _uuid(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise Invalid(f"{text[:60]!r} is no UUID", expected="32 hexadecimal digits") from None
