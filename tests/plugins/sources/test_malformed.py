"""Every format of files against what is no longer, or never was, a file of its format: a clear error or the rows, nothing else,
with bounded memory."""

import gzip
import io
import json
import subprocess
import sys

import fastavro
import openpyxl
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import orc

from boucle.core.errors import Invalid, NotFound
from boucle.ports.lookup import lookup

TABLE = pa.table({
    "n": list(range(300)), "x": [0.5, None, 2.5] * 100, "word": ["a", "b b", "ü"] * 100,
})  # fmt: skip
ROWS = TABLE.to_pylist()


def csv():
    lines = ["{n},{x},{word}".format_map({k: "" if v is None else v for k, v in r.items()}) for r in ROWS]
    return "\n".join(["n,x,word", *lines, ""]).encode()


def xml():
    rows = ['<r a="{n}"><w>{word}</w><w/></r>'.format_map(r) for r in ROWS]
    return "".join(["<l>", *rows, "</l>"]).encode()


def arrow(new):
    sink = io.BytesIO()
    with new(sink, TABLE.schema) as writer:
        writer.write_table(TABLE)
    return sink.getvalue()


def into(write):
    sink = io.BytesIO()
    write(sink)
    return sink.getvalue()


def sheet(file):
    book = openpyxl.Workbook(write_only=True)
    rows = book.create_sheet("s")
    for row in [list("nxw"), *(list(r.values()) for r in ROWS)]:
        rows.append(row)
    book.save(file)


AVRO = {"type": "record", "name": "R", "fields": [
    {"name": "n", "type": "long"}, {"name": "x", "type": ["null", "double"]}, {"name": "word", "type": "string"},
]}  # fmt: skip
# name -> plugin, ending, bytes of a good file
FORMATS = {
    "csv": ("csv", ".csv", csv()),
    "jsonl": ("jsonl", ".jsonl", "".join(json.dumps(r) + "\n" for r in ROWS).encode()),
    "json": ("jsonl", ".json", json.dumps({"data": {"items": ROWS}, "ok": True}).encode()),
    "xml": ("xml", ".xml", xml()),
    "text": ("text", ".log", csv()),
    "parquet": ("parquet", ".parquet", into(lambda f: pq.write_table(TABLE, f, compression="zstd"))),
    "arrow": ("arrow", ".arrow", arrow(pa.ipc.new_file)),
    "stream": ("arrow", ".arrows", arrow(pa.ipc.new_stream)),
    "feather": ("arrow", ".feather", into(lambda f: feather.write_feather(TABLE, f, compression="lz4"))),
    "avro": ("avro", ".avro", into(lambda f: fastavro.writer(f, AVRO, ROWS, codec="deflate"))),
    "orc": ("orc", ".orc", into(lambda f: orc.write_table(TABLE, f))),
    "excel": ("excel", ".xlsx", into(sheet)),
}
SLOW = {"orc", "excel"}  # each read starts a program
TEXTS = {"csv", "jsonl", "json", "xml", "text"}
FORMAT = pytest.mark.parametrize("name", FORMATS)


def outcome(folder, name, raw):
    """How many rows, or the error; anything but a clear error fails."""
    plugin, ending, _ = FORMATS[name]
    path = folder / f"x{ending}"
    path.write_bytes(raw)
    try:
        return lookup("source", plugin)().read(str(path), {}).frame.table().num_rows
    except Invalid as error:
        assert len(str(error)) < 2000
        return error


@FORMAT
def test_the_good_file_is_good(tmp_path, name):
    assert outcome(tmp_path, name, FORMATS[name][2]) in (300, 301)


@FORMAT
def test_cut_off_anywhere(tmp_path, name):
    good = FORMATS[name][2]
    steps = 5 if name in SLOW else 40
    for i in range(1, steps):
        found = outcome(tmp_path, name, good[: len(good) * i // steps])
        # Lines that are there are rows, and so are batches of a stream; what has an index or an end must say so.
        if name not in ("csv", "jsonl", "text", "stream"):
            assert isinstance(found, Invalid), i
        elif not isinstance(found, Invalid):
            assert found < 301


@FORMAT
def test_flipped_bytes(tmp_path, name):
    good = FORMATS[name][2]
    for i in range(4 if name in SLOW else 60):
        raw = bytearray(good)
        raw[(i * 7919) % len(raw)] ^= 1 << i % 8
        outcome(tmp_path, name, bytes(raw))


@FORMAT
@pytest.mark.parametrize(
    "other", [b"", b"PK\x03\x04" + bytes(40), b"%PDF-1.7\n" + bytes(99), bytes(500), bytes(range(256)) * 4]
)
def test_another_format(tmp_path, name, other):
    assert isinstance(outcome(tmp_path, name, other), Invalid)


@FORMAT
def test_the_file_of_another_format(tmp_path, name):
    for other, (_, _, raw) in FORMATS.items():
        found = outcome(tmp_path, name, raw)
        if other not in TEXTS and FORMATS[other][0] != FORMATS[name][0]:
            assert isinstance(found, Invalid), other


@FORMAT
def test_places_that_are_no_file(tmp_path, name):
    source = lookup("source", FORMATS[name][0])()
    with pytest.raises(Invalid, match="is a folder"):
        source.read(str(tmp_path), {})
    with pytest.raises(NotFound):
        source.read(str(tmp_path / f"nothing{FORMATS[name][1]}"), {})
    with pytest.raises(Invalid, match="not a path"):
        source.read("a\0b", {})


@FORMAT
def test_compressed(tmp_path, name):
    plugin, ending, good = FORMATS[name]
    path = tmp_path / f"x{ending}.gz"
    path.write_bytes(gzip.compress(good))
    source = lookup("source", plugin)()
    if plugin in ("parquet", "arrow", "orc", "excel"):
        with pytest.raises(Invalid, match="is compressed with gzip"):
            source.read(str(path), {})
        return
    assert source.read(str(path), {}).frame.table().num_rows in (300, 301)
    with pytest.raises(Invalid, match="unpacks to more than 500 bytes"):
        source.read(str(path), {"largest": 500}).frame.table()
    path.write_bytes(gzip.compress(good)[:-20])
    with pytest.raises(Invalid, match="cut off or damaged"):
        source.read(str(path), {}).frame.table()


@FORMAT
@pytest.mark.parametrize("value", [0, -1, "many", True, [1]])
def test_a_limit_that_is_none(tmp_path, name, value):
    plugin, ending, good = FORMATS[name]
    (tmp_path / f"x{ending}").write_bytes(good)
    with pytest.raises(Invalid, match="largest"):
        lookup("source", plugin)().read(str(tmp_path / f"x{ending}"), {"largest": value})


def test_columns_of_one_name(tmp_path):
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, twice.schema) as writer:
        writer.write_table(twice)
    for name, raw in {
        "csv": b"a,a\n1,2\n", "jsonl": b'{"a": 1, "a": 2}\n', "json": b'{"l": [{"a": 1, "a": 2}]}',
        "parquet": into(lambda f: pq.write_table(twice, f)), "arrow": sink.getvalue(),
    }.items():  # fmt: skip
        found = outcome(tmp_path, name, raw)
        assert isinstance(found, Invalid), name
        assert "'a'" in found.what


@pytest.mark.parametrize("name", [n for n in FORMATS if n not in SLOW])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_bytes(tmp_path, name, data):
    good = FORMATS[name][2]
    if data.draw(st.booleans()):
        raw = data.draw(st.binary(max_size=200))
    else:
        at, length = data.draw(st.integers(0, len(good) - 1)), data.draw(st.integers(0, 40))
        raw = good[:at] + data.draw(st.binary(max_size=40)) + good[at + length :]
    outcome(tmp_path, name, raw)


# --- memory: each in a process of its own, with at most 1.5 GiB of address space above what the libraries take

BOMBS = {
    "line.csv.gz": "[b'a' * 1_000_000] * 2000",
    "second.csv.gz": "[b'a,b\\n1,2\\n', *[b'a' * 1_000_000] * 200]",
    "quote.csv.gz": "[b'a,b\\n', *[b'1,\"' + b'x' * 1_000_000] * 200]",
    "rows.csv.gz": "[b'a,b\\n', *[b'0,0\\n' * 250_000] * 300]",
    "line.log.gz": "[b'a' * 1_000_000] * 2000",
    "line.jsonl.gz": "[b'{\"a\":\"', *[b'a' * 1_000_000] * 200]",
    "value.json.gz": '[b\'{"l":[{"a":"\', *[b\'a\' * 1_000_000] * 200]',
    "deep.json.gz": "[b'[' * 1_000_000] * 100",
    "text.xml.gz": "[b'<l><r/><r>', *[b'a' * 1_000_000] * 100, b'</r></l>']",
    "tag.xml.gz": "[b'<l><r a=\"', *[b'a' * 1_000_000] * 200]",
    "deep.xml.gz": "[b'<a>' * 1_000_000] * 200",
}

PROGRAM = """
import gzip, resource, sys
from pathlib import Path
from boucle.core import files
from boucle.core.errors import Invalid
from boucle.data.ingest import source_for
from boucle.ports.lookup import lookup
path = Path(sys.argv[1])
with gzip.open(path, "wb", compresslevel=1) as file:
    for piece in {pieces}:
        file.write(piece)
files.UNPACKED = 1 << 28
source = lookup("source", source_for(str(path)))()
used = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + (3 << 29),) * 2)
try:
    print(source.read(str(path), {{}}).frame.table().num_rows)
except Invalid as error:
    print(error.what)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is limited through /proc and RLIMIT_AS")
@pytest.mark.parametrize("name", BOMBS)
def test_bombs_end_in_bounded_memory(tmp_path, name):
    program = PROGRAM.format(pieces=BOMBS[name])
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / name)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert any(word in done.stdout for word in ("more than", "nested", "unpacks to", "could be read")), done.stdout
