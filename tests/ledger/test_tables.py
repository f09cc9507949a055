"""Stored tables: round trip, and a digest that means the content and nothing else."""

import io
import json

import numpy as np
import pyarrow as pa
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from boucle.core.errors import Corrupt, Invalid
from boucle.core.frames import Frame, schema_of
from boucle.ledger import tables


class Shelf:
    """Blobs in a dict, in the order they came."""

    name = "shelf"
    capabilities = frozenset()

    def __init__(self):
        self.kept = {}

    def put(self, data):
        key = blake3(bytes(data)).hexdigest()
        self.kept[key] = bytes(data)
        return key

    def get(self, key):
        return self.kept[key]

    def open(self, key):
        return io.BytesIO(self.kept[key])


def chunked(table, sizes):
    """The table as a frame with batches of these sizes, over and over."""
    batches, at, i = [], 0, 0
    while at < table.num_rows:
        step = sizes[i % len(sizes)]
        batches += table.slice(at, step).combine_chunks().to_batches()
        at, i = at + step, i + 1
    return Frame(schema_of(table.schema), lambda c: iter(b if c is None else b.select(list(c)) for b in batches))


INT, FLOAT = st.none() | st.integers(-(2**63), 2**63 - 1), st.none() | st.floats(allow_nan=False)
TEXT = st.none() | st.text(st.characters(codec="utf-8"), max_size=5)
CELL = {
    "int": (pa.int64(), INT),
    "float": (pa.float64(), FLOAT),
    "text": (pa.string(), TEXT),
    "bool": (pa.bool_(), st.none() | st.booleans()),
    "bytes": (pa.binary(), st.none() | st.binary(max_size=4)),
    "time": (pa.timestamp("us"), st.none() | st.datetimes()),
    "list": (pa.list_(pa.string()), st.none() | st.lists(TEXT, max_size=3)),
    "struct": (pa.struct([("x", pa.int64()), ("y", pa.list_(pa.float64()))]),
               st.none() | st.fixed_dictionaries({"x": INT, "y": st.none() | st.lists(FLOAT, max_size=2)})),
}  # fmt: skip


@st.composite
def content(draw):
    rows = draw(st.integers(1, 12))
    kinds = draw(st.lists(st.sampled_from(sorted(CELL)), min_size=1, max_size=4))
    return {
        f"c{i}": (CELL[k][0], draw(st.lists(CELL[k][1], min_size=rows, max_size=rows)), k) for i, k in enumerate(kinds)
    }


def made(columns):
    return pa.table({name: pa.array(values, kind) for name, (kind, values, _) in columns.items()})


@settings(deadline=None)
@given(columns=content(), sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3))
def test_round_trip_and_batching(columns, sizes):
    table, shelf = made(columns), Shelf()
    stored = tables.write(shelf, chunked(table, sizes))
    back = tables.read(shelf, stored.manifest)
    assert back.table().equals(table)
    assert (back.digest, stored.rows) == (stored.digest, table.num_rows)
    assert stored.digest == tables.digest(Frame.of(table))
    assert [c.nullable for c in stored.schema.columns] == [table[n].null_count > 0 for n in table.column_names]


@settings(deadline=None, max_examples=300)
@given(columns=content(), data=st.data())
def test_any_changed_cell_changes_the_digest(columns, data):
    before = tables.digest(Frame.of(made(columns)))
    name = data.draw(st.sampled_from(sorted(columns)))
    kind, values, strategy = columns[name]
    row = data.draw(st.integers(0, len(values) - 1))
    other = data.draw(CELL[strategy][1].filter(lambda v: repr(v) != repr(values[row])))
    changed = {**columns, name: (kind, [*values[:row], other, *values[row + 1 :]], strategy)}
    same = made(changed).to_pylist() == made(columns).to_pylist() and "0.0" not in repr((values[row], other))
    assert (tables.digest(Frame.of(made(changed))) == before) == same


def test_blocks_do_not_show(monkeypatch):
    table = pa.table({"a": list(range(1000)), "b": [f"x{i % 7}" for i in range(1000)]})
    monkeypatch.setattr(tables, "most_rows", lambda columns: 64)
    shelf = Shelf()
    stored = tables.write(shelf, chunked(table, [1, 100, 63]))
    assert stored.digest == tables.write(Shelf(), Frame.of(table)).digest
    manifest = tables.load_manifest(shelf, stored.manifest)
    assert sum(b["rows"] for b in manifest["blocks"]) == 1000
    assert all(16 <= b["rows"] <= 64 for b in manifest["blocks"][:-1])
    assert stored.size == sum(b["size"] for b in manifest["blocks"])
    assert tables.read(shelf, stored.manifest).table().equals(table)


def test_a_row_put_in_changes_the_blocks_around_it_only(monkeypatch):
    monkeypatch.setattr(tables, "most_rows", lambda columns: 64)
    table = pa.table({"id": list(range(20_000)), "word": [f"w{i * 7919 % 1000}" for i in range(20_000)]})
    longer = pa.concat_tables([table.slice(0, 10_000), table.slice(5, 1), table.slice(10_000)])
    shelf = Shelf()
    before, after = (tables.load_manifest(shelf, tables.write(shelf, Frame.of(t)).manifest) for t in (table, longer))
    shared = {b["blob"] for b in before["blocks"]} & {b["blob"] for b in after["blocks"]}
    assert len(shared) > len(after["blocks"]) - 10 > 400


@settings(max_examples=40)
@given(st.data())
def test_appending_gives_what_writing_it_all_would(data):
    whole = made(data.draw(content()))
    place = data.draw(st.integers(0, whole.num_rows))
    most = data.draw(st.sampled_from([4, 16, 131_072]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "most_rows", lambda columns: most)
        shelf = Shelf()
        first = tables.write(shelf, Frame.of(whole.slice(0, place)))
        appended = tables.append(shelf, first.manifest, chunked(whole.slice(place), [3, 1, 7]))
        written = tables.write(shelf, Frame.of(whole))
    assert (appended.digest, appended.rows, appended.schema) == (written.digest, written.rows, written.schema)
    assert tables.read(shelf, appended.manifest).table().equals(whole)


def test_a_block_that_grows_is_made_one_again(monkeypatch):
    monkeypatch.setattr(tables, "most_rows", lambda columns: 1024)
    shelf = Shelf()
    stored = tables.write(shelf, Frame.of(pa.table({"id": list(range(50)), "n": [None] * 50})))
    for start in range(50, 1500, 5):
        more = pa.table({"id": list(range(start, start + 5)), "n": pa.array([None] * 5)})
        stored = tables.append(shelf, stored.manifest, Frame.of(more))
        blocks = tables.load_manifest(shelf, stored.manifest)["blocks"]
        assert all(len(tables.stored_in(b)) == 1 for b in blocks[:-1])
        assert len(tables.stored_in(blocks[-1])) <= 16
        assert blocks[0]["ranges"]["id"][0] == 0
    whole = pa.table({"id": list(range(1500)), "n": pa.array([None] * 1500)})
    assert stored.digest == tables.digest(Frame.of(whole))
    assert tables.append(shelf, stored.manifest, Frame.of(whole.slice(0, 0))).digest == stored.digest
    assert tables.read(shelf, stored.manifest).table().equals(whole)


def test_appending_costs_the_new_rows_and_one_block(monkeypatch):
    monkeypatch.setattr(tables, "most_rows", lambda columns: 64)
    shelf = Shelf()
    first = tables.write(shelf, Frame.of(pa.table({"id": list(range(5000))})))
    count = len(shelf.kept)
    tables.append(shelf, first.manifest, Frame.of(pa.table({"id": [5000, 5001]})))
    assert len(shelf.kept) - count <= 3
    with pytest.raises(Invalid, match="cannot be appended"):
        tables.append(shelf, first.manifest, Frame.of(pa.table({"id": ["a"]})))


def test_blocks_of_the_first_format_are_read_and_appended_to():
    shelf = Shelf()
    table = pa.table({"id": list(range(10))})
    manifest = tables.load_manifest(shelf, tables.write(shelf, Frame.of(table)).manifest)
    manifest["format"] = 1
    for block in manifest["blocks"]:
        del block["ranges"]
    old = shelf.put(json.dumps(manifest).encode())
    assert tables.read(shelf, old).table().equals(table)
    appended = tables.append(shelf, old, Frame.of(pa.table({"id": [10]})))
    assert tables.load_manifest(shelf, appended.manifest)["format"] == tables.FORMAT
    assert tables.read(shelf, appended.manifest).table()["id"].to_pylist() == list(range(11))


def test_blocks_tell_their_ranges():
    shelf = Shelf()
    table = pa.table(
        {"n": [3, None, 1], "x": [float("nan"), 2.5, -1.0], "s": ["b", "a", None], "t": pa.array([0, 5, 9], pa.date32()),
         "long": ["x" * 100, "y", "z"], "none": pa.array([None] * 3, pa.int64())}
    )  # fmt: skip
    (block,) = tables.load_manifest(shelf, tables.write(shelf, Frame.of(table)).manifest)["blocks"]
    assert block["ranges"] == {"n": [1, 3], "x": [-1.0, 2.5], "s": ["a", "b"], "t": ["1970-01-01", "1970-01-10"]}


def base():
    return pa.table({"a": [1, 2, None], "b": ["x", None, "z"]})


@pytest.mark.parametrize("change", [
    lambda t: t.rename_columns(["a", "c"]),
    lambda t: t.select(["b", "a"]),
    lambda t: t.set_column(0, "a", t["a"].cast(pa.int32())),
    lambda t: t.set_column(0, "a", t["a"].cast(pa.float64())),
    lambda t: t.slice(0, 2),
    lambda t: pa.concat_tables([t, t.slice(0, 1)]),
    lambda t: t.take([1, 0, 2]),
    lambda t: t.append_column("n", pa.nulls(3)),
    lambda t: t.set_column(0, "a", pa.array([1, 2, 0])),
    lambda t: t.set_column(1, "b", pa.array(["x", "", "z"])),
    lambda t: t.set_column(1, "b", pa.array(["xz", None, ""])),
])  # fmt: skip
def test_what_changes_the_digest(change):
    assert tables.digest(Frame.of(change(base()))) != tables.digest(Frame.of(base()))


def garbage():
    values = pa.array([1, 2, 77])
    mask = pa.array([True, True, False]).buffers()[1]
    numbers = pa.Array.from_buffers(pa.int64(), 3, [mask, values.buffers()[1]])
    text = pa.array(["x", "junk", "z"])
    words = pa.Array.from_buffers(pa.string(), 3, [pa.array([True, False, True]).buffers()[1], *text.buffers()[1:]])
    return pa.table({"a": numbers, "b": words})


@pytest.mark.parametrize("same", [
    lambda t: t.set_column(1, "b", t["b"].dictionary_encode()),
    lambda t: t.set_column(1, "b", t["b"].cast(pa.large_string())),
    lambda t: t.set_column(1, "b", t["b"].cast(pa.string_view())),
    lambda t: t.replace_schema_metadata({"k": "v"}),
    lambda t: pa.concat_tables([t.slice(0, 1), t.slice(1)]),
    lambda t: pa.concat_tables([t, t]).slice(3),
    lambda _: garbage(),
])  # fmt: skip
def test_what_does_not_change_the_digest(same):
    assert tables.digest(Frame.of(same(base()))) == tables.digest(Frame.of(base()))


def test_garbage_under_null_lists():
    values, offsets = pa.array([1, 2, 3]), pa.array([0, 1, 3], pa.int32())
    dirty = pa.ListArray.from_arrays(offsets, values, mask=pa.array([False, True]))
    assert tables.digest(Frame.of(pa.table({"l": dirty}))) == tables.digest(Frame.of(pa.table({"l": [[1], None]})))


def test_one_nan():
    other = np.array([0x7FF8000000000001, 0xFFF8000000000000], np.uint64).view(np.float64)
    assert tables.digest(Frame.of({"a": other})) == tables.digest(Frame.of({"a": np.array([np.nan, np.nan])}))


def test_batches_that_encode_differently():
    first, second = pa.table({"b": ["x", "y"]}), pa.table({"b": pa.array(["z"]).dictionary_encode()})
    frame = Frame(schema_of(first.schema), lambda _: iter([*first.to_batches(), *second.to_batches()]))
    assert tables.digest(frame) == tables.digest(Frame.of({"b": ["x", "y", "z"]}))


def test_batches_of_other_types_or_columns():
    first = pa.table({"a": [1]})
    for second, message in [
        (pa.table({"a": ["x"]}), "changes from int64"),
        (pa.table({"b": [1]}), "has the columns b"),
    ]:
        batches = [*first.to_batches(), *second.to_batches()]
        with pytest.raises(Invalid, match=message):
            tables.write(Shelf(), Frame(schema_of(first.schema), lambda _, b=batches: iter(b)))


def test_no_rows_and_no_columns():
    shelf = Shelf()
    stored = tables.write(shelf, Frame.of(pa.table({"a": pa.array([], pa.int64())})))
    assert (stored.rows, tables.read(shelf, stored.manifest).table().num_rows) == (0, 0)
    with pytest.raises(Invalid, match="no columns"):
        tables.write(shelf, Frame.of(pa.table({})))


def test_maps_become_lists_of_pairs():
    shelf = Shelf()
    table = pa.table({"m": pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int64()))})
    back = tables.read(shelf, tables.write(shelf, Frame.of(table)).manifest).table()
    assert back["m"].to_pylist() == [[{"key": "k", "value": 1}], None, []]


def test_unions_cannot_be_stored():
    union = pa.UnionArray.from_sparse(pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array(["a", "b"])])
    with pytest.raises(Invalid, match="cannot be stored"):
        tables.write(Shelf(), Frame.of(pa.table({"u": union})))


def test_the_manifest_comes_last():
    shelf = Shelf()
    stored = tables.write(shelf, Frame.of(base()))
    assert list(shelf.kept)[-1] == stored.manifest
    manifest = json.loads(shelf.kept[stored.manifest])
    assert set(manifest) == {"format", "digest", "rows", "schema", "arrow", "blocks"}
    assert all(b["blob"] in shelf.kept for b in manifest["blocks"])


def test_a_source_that_fails_leaves_no_manifest():
    def batches(_):
        yield from base().to_batches()
        raise Invalid("the end of the tape")

    shelf = Shelf()
    with pytest.raises(Invalid, match="tape"):
        tables.write(shelf, Frame(schema_of(base().schema), batches))
    assert not any(raw.startswith(b'{"format"') for raw in shelf.kept.values())


def test_reading_columns_and_meaning_is_kept():
    shelf = Shelf()
    frame = Frame.of(base())
    frame.schema = frame.schema.replaced("a", kind="identifier", description="who")
    back = tables.read(shelf, tables.write(shelf, frame).manifest, "dataset:t@1")
    assert back.table(["b"]).to_pylist() == base().select(["b"]).to_pylist()
    assert (back.schema["a"].kind, back.schema["a"].description, back.ref) == ("identifier", "who", "dataset:t@1")


def test_damage_is_noticed():
    shelf = Shelf()
    stored = tables.write(shelf, Frame.of({"a": np.arange(5000.0)}))
    blob = tables.load_manifest(shelf, stored.manifest)["blocks"][0]["blob"]
    raw = bytearray(shelf.kept[blob])
    raw[len(raw) // 2] ^= 0xFF
    shelf.kept[blob] = bytes(raw)
    with pytest.raises(Corrupt, match="cannot be read"):
        tables.read(shelf, stored.manifest).table()
    shelf.kept["0" * 64] = b"not json"
    with pytest.raises(Corrupt, match="not the manifest"):
        tables.read(shelf, "0" * 64)
    shelf.kept["1" * 64] = b'{"format": 99}'
    with pytest.raises(Invalid, match="format 99"):
        tables.read(shelf, "1" * 64)


def test_blocks_of_wide_tables_are_short():
    assert tables.most_rows(20) == 131_072
    assert tables.most_rows(10_000) * 10_000 <= 2**23
    assert tables.most_rows(10**6) == 256
