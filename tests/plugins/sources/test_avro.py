"""Avro files."""

import datetime as dt
import decimal
import gzip
import io
import json

import fastavro
import pyarrow as pa
import pytest

from boucle.core.errors import Invalid
from boucle.plugins.sources import avro as module
from boucle.plugins.sources.avro import AvroSource
from boucle.testing.source import SourceContract


def record(*fields):
    return {"type": "record", "name": "Row", "fields": [{"name": n, "type": t} for n, t in fields]}


def container(schema, blocks, codec=b"null"):
    """A file written by hand; `blocks` are rows and bytes."""
    about = {b"avro.schema": json.dumps(schema).encode(), b"avro.codec": codec}
    out = b"Obj\x01" + module._number(len(about))
    for key, value in about.items():
        out += module._number(len(key)) + key + module._number(len(value)) + value
    out += module._number(0) + b"s" * 16
    for rows, data in blocks:
        out += module._number(rows) + module._number(len(data)) + data + b"s" * 16
    return out


class TestContract(SourceContract):
    source = AvroSource

    def write(self, table, folder):
        path = folder / "sample.avro"
        schema = record(("n", "long"), ("x", ["null", "double"]), ("word", "string"))
        with path.open("wb") as file:
            fastavro.writer(file, schema, table.to_pylist())
        return path


@pytest.fixture
def read(tmp_path):
    def read(schema, rows, codec="null", /, **options):
        path = tmp_path / "x.avro"
        if isinstance(rows, bytes):
            path.write_bytes(rows)
        else:
            sink = io.BytesIO()
            fastavro.writer(sink, schema, rows, codec=codec)
            path.write_bytes(sink.getvalue())
        reading = AvroSource().read(str(path), options)
        return reading, reading.frame.table()

    return read


def test_logical_types(read):
    def logical(plain, name, **more):
        return {"type": plain, "logicalType": name, **more}

    fields = {
        "d": (logical("int", "date"), dt.date(2026, 1, 31), pa.date32()),
        "t": (
            logical("long", "timestamp-micros"),
            dt.datetime(2026, 1, 1, 2, tzinfo=dt.UTC),
            pa.timestamp("us", "UTC"),
        ),
        "ms": (logical("long", "timestamp-millis"), dt.datetime(2026, 1, 1, tzinfo=dt.UTC), pa.timestamp("ms", "UTC")),
        "lo": (logical("long", "local-timestamp-micros"), dt.datetime(2026, 1, 1, 3), pa.timestamp("us")),
        "ti": (logical("int", "time-millis"), dt.time(1, 2, 3), pa.time32("ms")),
        "dec": (logical("bytes", "decimal", precision=10, scale=2), decimal.Decimal("-1.25"), pa.decimal128(10, 2)),
        "uu": (logical("string", "uuid"), "6b1c8e7a-7f0e-4b0e-9a7e-0c7d6e5f4a3b", pa.string()),
        "fi": ({"type": "fixed", "name": "F", "size": 3}, b"abc", pa.binary()),
        "en": ({"type": "enum", "name": "E", "symbols": ["A", "B"]}, "B", pa.string()),
    }
    reading, table = read(
        record(*((n, t) for n, (t, _, _) in fields.items())), [{n: v for n, (_, v, _) in fields.items()}]
    )
    assert [f.type for f in table.schema] == [kind for _, _, kind in fields.values()]
    assert table.to_pylist() == [{n: v for n, (_, v, _) in fields.items()}]
    assert not any(c.nullable for c in reading.frame.schema.columns)


def test_years_that_python_does_not_know(read):
    schema = record(("t", {"type": "long", "logicalType": "timestamp-micros"}))
    raw = container(schema, [(1, module._number(10**18))])
    assert read(None, raw)[1]["t"].cast(pa.int64()).to_pylist() == [10**18]


def test_unions(read):
    schema = record(("a", ["null", "long"]), ("b", ["int", "double"]), ("c", ["null", "string", "long", "boolean"]))
    reading, table = read(
        schema, [{"a": 1, "b": 2, "c": "x"}, {"a": None, "b": 2.5, "c": 2**40}, {"a": 3, "b": 1, "c": None}]
    )
    assert reading.frame.schema["a"].nullable
    assert table["b"].to_pylist() == [2.0, 2.5, 1.0]
    assert table["c"].to_pylist() == [
        {"string": "x", "long": None, "boolean": None}, {"string": None, "long": 2**40, "boolean": None}, None,
    ]  # fmt: skip
    two = [{"type": "record", "name": n, "fields": [{"name": "x", "type": "int"}]} for n in "PQ"]
    with pytest.raises(Invalid, match="union of P, Q"):
        read(record(("u", two)), [{"u": ("P", {"x": 1})}])


def test_nested_and_named_types(read):
    point = {
        "type": "record",
        "name": "geo.P",
        "fields": [{"name": "m", "type": {"type": "map", "values": ["null", "int"]}}],
    }
    schema = record(("one", point), ("more", {"type": "array", "items": ["null", "geo.P"]}))
    _, table = read(schema, [{"one": {"m": {"a": 1}}, "more": [{"m": {}}, None]}])
    assert table.to_pylist() == [{"one": {"m": [("a", 1)]}, "more": [{"m": []}, None]}]


@pytest.mark.parametrize("codec", ["null", "deflate", "bzip2", "xz"])
def test_codecs(read, codec):
    rows = [{"n": i, "w": f"word {i}"} for i in range(20_000)]
    reading, table = read(record(("n", "long"), ("w", "string")), rows, codec)
    assert (reading.found["codec"], reading.frame.rows) == (codec, 20_000)
    assert table.to_pylist() == rows


@pytest.mark.parametrize("codec", ["snappy", "zstandard"])
def test_codecs_that_arrow_knows(read, codec):
    import struct
    import zlib

    plain = b"".join(module._number(i) for i in range(1000))
    packed = pa.compress(plain, {"snappy": "snappy", "zstandard": "zstd"}[codec], asbytes=True)
    if codec == "snappy":
        packed += struct.pack(">I", zlib.crc32(plain))
    raw = container(record(("n", "long")), [(1000, packed)], codec.encode())
    assert read(None, raw)[1]["n"].to_pylist() == list(range(1000))
    with pytest.raises(Invalid, match="not a whole Avro file"):
        read(None, container(record(("n", "long")), [(1000, packed[:-9])], codec.encode()))


def test_gzip_around_it(tmp_path):
    path = tmp_path / "x.avro.gz"
    path.write_bytes(gzip.compress(container(record(("n", "int")), [(2, b"\x02\x04")])))
    assert AvroSource().read(str(path), {}).frame.table()["n"].to_pylist() == [1, 2]


def test_read_with_another_schema(read):
    newer = record(("n", "double"), ("new", "string"))
    newer["fields"][1]["default"] = "?"
    newer["fields"][0] |= {"name": "number", "aliases": ["n"]}
    old = record(("n", "int"), ("gone", "string"))
    assert read(old, [{"n": 1, "gone": "x"}], schema=json.dumps(newer))[1].to_pylist() == [{"number": 1.0, "new": "?"}]
    with pytest.raises(Invalid, match="not a whole Avro file"):
        read(old, [{"n": 1, "gone": "x"}], schema=record(("other", "int")))


@pytest.mark.parametrize(("schema", "blocks", "message"), [
    (record(("a", {"type": "array", "items": "null"})), [(1, b"\xfe\xff\xff\xff\x0f\x00")], "take no bytes"),
    (record(("a", "null")), [(1 << 40, b"")], "take no bytes"),
    (record(("n", "int")), [(1 << 40, b"\x02")], "declares 1099511627776 rows"),
    (record(("n", "int")), [(-1, b"\x02")], "declares -1 rows"),
    (record(("s", "string")), [(1, b"\xfe\xff\xff\xff\x0fxx")], "not a whole"),
    ({"type": "record", "name": "N", "fields": [{"name": "next", "type": ["null", "N"]}]}, [(1, b"\0")], "holds itself"),
    (record(("a", "Nobody")), [], "'Nobody'"),
    (record(("n", "int"), ("n", "int")), [(1, b"\x02\x02")], "occur twice"),
    ({"type": "array", "items": "int"}, [], "does not hold records"),
])  # fmt: skip
def test_what_a_file_may_not_say(read, schema, blocks, message):
    with pytest.raises(Invalid, match=message):
        read(None, container(schema, blocks))


def test_a_block_that_unpacks_to_far_too_much(read, monkeypatch):
    import zlib

    monkeypatch.setattr(module, "_BLOCK", 1 << 20)
    packer = zlib.compressobj(wbits=-15)
    data = packer.compress(bytes(1 << 22)) + packer.flush()
    with pytest.raises(Invalid, match="unpacks to more than 1048576"):
        read(None, container(record(("n", "int")), [(1 << 22, data)], b"deflate"))
    assert (
        read(None, container(record(("n", "int")), [(1 << 22, data)], b"deflate"), largest=1 << 23)[1].num_rows
        == 1 << 22
    )


def test_a_block_of_another_file(read):
    raw = container(record(("n", "int")), [(1, b"\x02"), (1, b"\x02")])
    with pytest.raises(Invalid, match="another mark"):
        read(None, raw[:-1] + b"x")
