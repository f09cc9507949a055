"""JSON lines and arrays."""

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boucle.core.errors import Invalid, NotFound
from boucle.plugins.sources import jsonl as module
from boucle.plugins.sources.jsonl import JsonlSource
from boucle.testing.source import SourceContract


class TestLines(SourceContract):
    source = JsonlSource

    def write(self, table, folder):
        path = folder / "sample.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()), encoding="utf-8")
        return path


class TestArray(SourceContract):
    source = JsonlSource

    def write(self, table, folder):
        path = folder / "sample.json"
        path.write_text(json.dumps(table.to_pylist(), indent=2, ensure_ascii=False), encoding="utf-8")
        return path


@pytest.fixture
def read(tmp_path):
    def read(content, name="x.jsonl", **options):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        reading = JsonlSource().read(str(path), options)
        return reading, reading.frame.table().to_pylist()

    return read


def test_keys_of_all_rows(read):
    reading, rows = read('{"a": 1}\n{"b": "x", "a": 2.5}\n{"c": null}\n')
    assert rows == [{"a": 1.0, "b": None, "c": None}, {"a": 2.5, "b": "x", "c": None}, dict.fromkeys("abc")]
    assert [(c.type, c.nullable) for c in reading.frame.schema.columns] == [
        ("float64", True),
        ("string", True),
        ("null", True),
    ]


def test_nested(read):
    reading, rows = read('{"a": {"x": 1, "y": [1, 2.5]}}\n{"a": {"z": true}}\n')
    assert reading.frame.schema["a"].type == "struct<x: int64, y: list<float64>, z: bool>"
    assert rows[1] == {"a": {"x": None, "y": None, "z": True}}


@pytest.mark.parametrize(("second", "message"), [
    ('{"a": "x"}', r"line 2: 'a' is a string, and in line 1 an integer"),
    ('{"a": true}', r"line 2: 'a' is a bool"),
    ('{"a": 123456789012345678901}', "64 bits"),
])  # fmt: skip
def test_types_that_do_not_go_together(read, second, message):
    with pytest.raises(Invalid, match=message):
        read('{"a": 1}\n' + second)


def test_lines_set_aside(read):
    reading, rows = read(b'{"a": 1}\n\n{"a": 2\n[3]\n{"a": "\xff"}\n{"a": 4, "a": 5}\n\x00\n{"a": 6}')
    assert [r["a"] for r in rows] == [1, 6]
    assert [(b.number, b.why.partition(":")[0]) for b in reading.bad] == [
        (3, "not JSON"), (4, "a JSON array, not an object"), (5, "broken UTF-8"), (6, "not JSON"), (7, "not JSON"),
    ]  # fmt: skip


def test_no_line_is_an_object(read):
    with pytest.raises(Invalid, match="none of its 2 lines"):
        read("1\nx\n")
    with pytest.raises(Invalid, match="no keys"):
        read("{}\n{}\n")


def test_given_types(read):
    reading, rows = read('{"t": "2026-01-01T10:00:00"}\n{"t": null}\n', types={"t": "timestamp"})
    assert reading.frame.schema["t"].type == "timestamp"
    assert rows[1] == {"t": None}


def test_utf16_and_gzip(read):
    assert read('{"a": "ü"}\n'.encode("utf-16"))[1] == [{"a": "ü"}]
    assert read(gzip.compress(b'{"a": 1}'), "x.json.gz")[1] == [{"a": 1}]


@pytest.mark.parametrize(("content", "message"), [
    ('[{"a": 1}, {"a": 2}', "cut off"), ('[{"a": 1}\n{"a": 2}]', "not followed by"), ('[{"a": 1}] x', "after the end"),
    ('[\n{"a": }]', "line 2: not JSON"),
])  # fmt: skip
def test_broken_arrays(read, content, message):
    with pytest.raises(Invalid, match=message):
        read(content, "x.json")


def test_values_in_an_array_that_are_no_objects(read):
    reading, rows = read('[{"a": 1},\n 5,\n {"a": 2}]', "x.json")
    assert rows == [{"a": 1}, {"a": 2}]
    assert [(b.number, b.text) for b in reading.bad] == [(2, "5")]


FEATURES = {
    "type": "FeatureCollection", "crs": {"type": "name", "properties": {"name": "x"}},
    "features": [
        {"type": "Feature", "id": 7, "properties": {"a": 1}, "geometry": {"type": "Point", "coordinates": [1, 2.5]}},
        {"type": "Feature", "properties": None, "geometry": None},
    ],
}  # fmt: skip


@pytest.mark.parametrize("indent", [None, 1])
def test_geojson(read, indent):
    reading, rows = read(json.dumps(FEATURES, indent=indent), "x.json")
    assert reading.found == {"layout": "document", "record": "features"}
    assert rows == [
        {"a": 1, "geometry": '{"type":"Point","coordinates":[1,2.5]}', "id": 7}, {"a": None, "geometry": None, "id": None},
    ]  # fmt: skip


def test_a_feature_per_line_is_no_file_of_lines(read):
    features = "\n,\n".join(json.dumps(f) for f in FEATURES["features"] * 2)
    assert len(read('{"type": "FeatureCollection",\n"features": [\n' + features + "\n]}\n", "x.geojson")[1]) == 4


def test_the_only_list_of_objects_holds_the_rows(read):
    document = {"meta": {"n": [1, 2]}, "data": {"items": [{"a": [{"deep": 1}]}, {"a": []}]}}
    assert read(json.dumps(document), "x.json")[0].found["record"] == "data.items"
    both = json.dumps(document | {"more": [{"b": 1}]})
    with pytest.raises(Invalid, match=r"2 lists of objects: data\.items, more"):
        read(both, "x.json")
    assert read(both, "x.json", record="more")[1] == [{"b": 1}]
    with pytest.raises(NotFound, match="'none'"):
        read(both, "x.json", record="none")


def test_a_document_without_a_list_is_one_row(read):
    assert read('{"a": 1,\n "b": [1, 2]}', "x.json")[1] == [{"a": 1, "b": [1, 2]}]
    assert read('{"a": [{"b": 1}]}', "x.json", record=".")[1] == [{"a": [{"b": 1}]}]
    with pytest.raises(Invalid, match="no rows"):
        read('{"items": []}', "x.json", record="items")


def test_lines_are_lines_whatever_the_ending(read):
    assert read('{"a": [{"b": 1}]}\n{"a": []}\n', "x.json")[0].found["layout"] == "lines"
    assert read('{"a": [{"b": 1}]}\n', "x.jsonl")[0].found["layout"] == "lines"
    assert read('{"a": \n{"a": 2}\n{"a": 3}\n', "x.json")[0].found["bad_lines"] == 1


@pytest.mark.parametrize(("content", "message"), [
    ('{"l": [{"a": 1}', "cut off"), ('{"l": [{"a": 1},]}', "a comma stands before"), ('{"l" [1]}', "':'"), ("{1: 2}", "quotes"),
    ('{"l": [1], "l": [{"a": 1}]}', "'l' occurs twice"), ('{"x":' * 200, "nested too deeply"),
    ('{"l": [{"a": 1}]} x', "not JSON"),
])  # fmt: skip
def test_broken_documents(read, content, message):
    with pytest.raises(Invalid, match=message):
        read(content, "x.json")


VALUES = st.one_of(st.none(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False))
ROW = st.fixed_dictionaries(
    {"n": VALUES, "s": st.none() | st.text(st.characters(codec="utf-8"), max_size=9), "b": st.booleans()}
)


@settings(deadline=None)
@given(
    rows=st.lists(ROW, min_size=1, max_size=9),
    chunk=st.sampled_from([1, 5, 1 << 20]),
    indent=st.sampled_from([None, 1]),
)
def test_what_json_writes_is_read(tmp_path_factory, rows, chunk, indent):
    folder = tmp_path_factory.mktemp("json")
    (folder / "x.json").write_text(json.dumps(rows, indent=indent, ensure_ascii=False), encoding="utf-8")
    (folder / "x.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    before = module.files.chunks.__defaults__
    module.files.chunks.__defaults__ = (chunk,)
    try:
        for name in ("x.json", "x.jsonl"):
            assert JsonlSource().read(str(folder / name), {}).frame.table().to_pylist() == rows
    finally:
        module.files.chunks.__defaults__ = before


@pytest.mark.parametrize("shape", ['{{"k{0}": {0}}}', '{{"a": {{"k{0}": {0}}}}}'], ids=["columns", "fields"])
def test_ever_new_keys(read, shape):
    lines = [shape.format(i) + "\n" for i in range(module.MOST_COLUMNS + 1)]
    with pytest.raises(Invalid, match=r"line 10001.* more than 10,000 different keys") as failure:
        read("".join(lines))
    assert "record" in failure.value.fix
    assert "source=text" in failure.value.fix


def test_many_columns_in_small_batches(read, monkeypatch):
    monkeypatch.setattr(module, "_CELLS", 100)
    count = 60
    reading, rows = read("".join(json.dumps({f"k{i}": i, "s": {"x": i}}) + "\n" for i in range(count)))
    assert max(b.num_rows for b in reading.frame.batches()) == 2
    assert [{k: v for k, v in row.items() if v is not None} for row in rows] == [
        {f"k{i}": i, "s": {"x": i}} for i in range(count)
    ]
    assert reading.frame.table(["k7", "k3"]).column_names == ["k7", "k3"]
