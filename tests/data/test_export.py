"""Exports: what goes out comes back, in part or as a whole, and a file is there only when it is complete."""

from __future__ import annotations

import bz2
import datetime as dt
import decimal
import gzip
import json
import lzma
import math
from pathlib import Path

import fastavro
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet as pq
import pytest

import boucle
from boucle.core.errors import Corrupt, Invalid, NotFound, Unavailable
from boucle.data.export import FORMATS, PACKED, encode, export
from boucle.ledger import datasets, tables
from boucle.workspace import Workspace

TABLE = pa.table({
    "id": [1, 2, 3], "amount": [1.5, None, 3.25], "city": ["Lyon", None, 'a "quoted", one\n'],
    "day": [dt.date(2026, 3, d) for d in (1, 2, 3)],
    "at": pa.array([dt.datetime(2026, 1, 1, 9, 30)] * 3, pa.timestamp("us")), "ok": [True, False, None],
})  # fmt: skip


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    ws = boucle.init(tmp_path / "project")
    boucle.ingest(ws, TABLE, "tx")
    return ws


def read(file: Path) -> list[dict[str, object]]:
    data = file.read_bytes()
    unpack = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress,
              ".zst": lambda b: pa.CompressedInputStream(pa.BufferReader(b), "zstd").read()}  # fmt: skip
    ending = file.suffix
    if ending in unpack:
        data, ending = unpack[ending](data), Path(file.stem).suffix
    buffer = pa.BufferReader(data)
    match ending:
        case ".csv" | ".tsv":
            options = pa.csv.ConvertOptions(strings_can_be_null=True)
            parse = pa.csv.ParseOptions(delimiter="\t" if ending == ".tsv" else ",", newlines_in_values=True)
            return pa.csv.read_csv(buffer, parse_options=parse, convert_options=options).to_pylist()
        case ".jsonl":
            return [json.loads(line) for line in data.splitlines()]
        case ".parquet":
            return pq.read_table(buffer).to_pylist()
        case ".orc":
            return pa.orc.read_table(buffer).to_pylist()
        case ".avro":
            with file.open("rb") as opened:
                return list(fastavro.reader(opened))
        case ".feather":
            return pa.feather.read_table(buffer).to_pylist()
    return pa.ipc.open_file(buffer).read_all().to_pylist()


@pytest.mark.parametrize("ending", [*FORMATS, *(f"{t}{p}" for t in (".csv", ".tsv", ".jsonl") for p in PACKED)])
def test_what_goes_out_comes_back(ws: Workspace, tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"out{ending}"
    assert export(ws, "tx@1", file) == 3
    expected = TABLE.to_pylist()
    if ".jsonl" in ending:
        expected = [{k: v.isoformat() if isinstance(v, dt.date) else v for k, v in row.items()} for row in expected]
    assert read(file) == expected
    again = tmp_path / f"again{ending}"
    export(ws, "tx@1", again)
    if ending != ".avro":  # it has a random mark between its blocks
        assert again.read_bytes() == file.read_bytes()


def test_rows_and_columns_are_chosen(ws: Workspace, tmp_path: Path) -> None:
    file = tmp_path / "part.csv"
    assert export(ws, "tx", file, where="amount > 1 and ok is not null", columns=["city", "id"]) == 1
    assert file.read_text() == '"city","id"\n"Lyon",1\n'
    assert export(ws, "tx", file, limit=2, columns=["id"]) == 2
    assert export(ws, "tx", file, limit=0, columns=["id"]) == 0
    assert file.read_text() == '"id"\n'
    assert oct(file.stat().st_mode & 0o777) != "0o600"


@pytest.mark.parametrize(("name", "options", "words"), [
    ("x.xlsx", {}, r"one of \.csv"), ("x", {}, r"one of \.csv"), ("x.parquet.gz", {}, "parquet.gz"), ("x.gz", {}, "gz"),
    ("x.csv", {"where": "amount >"}, "it ends"), ("x.csv", {"where": "amont > 1"}, "amount"),
    ("x.csv", {"columns": ["no"]}, "no"),
    ("x.csv", {"limit": -1}, "limit of -1"),
])  # fmt: skip
def test_what_cannot_be_written(
    ws: Workspace, tmp_path: Path, name: str, options: dict[str, object], words: str
) -> None:
    with pytest.raises(Invalid, match=words):
        export(ws, "tx", tmp_path / name, **options)
    assert not (tmp_path / name).exists()


def test_types_that_a_format_does_not_have(ws: Workspace, tmp_path: Path) -> None:
    boucle.ingest(ws, {"x": [[1, 2]], "s": [{"a": 1}]}, "nested")
    boucle.ingest(ws, pa.table({"a b": [1]}), "spaced")
    boucle.ingest(ws, pa.table({"d": pa.array([1], pa.duration("us"))}), "spans")
    for name, file in [
        ("nested", "n.csv"),
        ("nested", "n.tsv.gz"),
        ("spaced", "s.avro"),
        ("spans", "d.avro"),
        ("spans", "d.orc"),
    ]:
        with pytest.raises(Invalid):
            export(ws, name, tmp_path / file)
        assert [p.name for p in tmp_path.iterdir()] == ["project"]
    for file in ("n.jsonl", "n.avro", "n.parquet", "n.orc"):
        export(ws, "nested", tmp_path / file)
        assert read(tmp_path / file) == [{"x": [1, 2], "s": {"a": 1}}]


def test_uncommon_numbers(ws: Workspace, tmp_path: Path) -> None:
    table = pa.table({
        "h": pa.array([1.5], pa.float16()), "u": pa.array([2**64 - 1], pa.uint64()),
        "x": pa.array([decimal.Decimal("1.25")], pa.decimal128(9, 2)), "n": pa.array([math.nan]),
    })  # fmt: skip
    boucle.ingest(ws, table, "numbers")
    for ending in (".csv", ".avro", ".parquet", ".arrow"):
        file = tmp_path / f"numbers{ending}"
        export(ws, "numbers", file)
        row = read(file)[0]
        if ending == ".csv":  # as a number without its digits lost
            row["u"] = file.read_text().splitlines()[1].split(",")[1]
        assert (float(row["h"]), int(row["u"]), float(row["x"])) == (1.5, 2**64 - 1, 1.25)
        assert row["n"] is None if ending == ".csv" else math.isnan(row["n"])  # its reader takes nan for null


def test_nothing_is_left_of_what_failed(ws: Workspace, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        export(ws, "nope", tmp_path / "x.csv")
    with pytest.raises(Unavailable, match="folder"):
        export(ws, "tx", tmp_path / "no" / "folder" / "x.csv")
    (tmp_path / "kept.csv").write_text("before")
    manifest = tables.load_manifest(ws.blobs, datasets.resolve(ws, "tx").manifest)
    path = ws.blobs.path(manifest["blocks"][0]["blob"])
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(Corrupt):
        export(ws, "tx", tmp_path / "kept.csv")
    assert (tmp_path / "kept.csv").read_text() == "before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kept.csv", "project"]


def test_pieces_come_as_they_are_made(ws: Workspace) -> None:
    boucle.ingest(ws, {"i": range(300_000)}, "many")
    read_so_far = []
    frame = datasets.load(ws, "many")

    def counted(columns: object) -> object:
        for batch in frame.batches(columns):
            read_so_far.append(batch.num_rows)
            yield batch

    pieces = encode(boucle.Frame(frame.schema, counted), "csv")
    next(pieces), next(pieces)
    assert sum(read_so_far) < 300_000
    pieces.close()
