"""What is matched with what, keys that are found, statistics that moved."""

import json
from collections import Counter

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from boucle.core.frames import Frame
from boucle.measure import difference
from boucle.measure.difference import FilesDifference, crowded, files_difference, likely_key, moved, paired, said
from boucle.measure.quality import profile

LANES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=30)


def lanes(pairs):
    return np.array(pairs, np.uint64).reshape(-1, 2).T


@given(LANES, LANES)
def test_equal_ones_are_paired_the_first_with_the_first(a, b):
    here, there = paired(lanes(a), lanes(b))
    assert [a[i] for i in here] == [b[j] for j in there]
    assert Counter(a[i] for i in here) == Counter(a) & Counter(b)
    for value in set(a) & set(b):
        mine, theirs = ([i for i, v in enumerate(side) if v == value] for side in (a, b))
        count = min(len(mine), len(theirs))
        found = [(i, j) for i, j in zip(here.tolist(), there.tolist(), strict=True) if a[i] == value]
        assert found == list(zip(mine[:count], theirs[:count], strict=True))


@given(LANES)
def test_crowded_ones_are_those_that_are_not_alone(a):
    assert crowded(lanes(a)).tolist() == [a.count(x) > 1 for x in a]


def key(a, b):
    return likely_key(profile(Frame.of(a)), profile(Frame.of(b)))


def test_a_key_is_called_one_or_stands_first():
    assert key({"x": [1, 2], "order_id": ["a", "b"]}, {"order_id": ["c", "b"], "x": [1, 2]}) == "order_id"
    assert key({"name": ["a", "b"], "x": [1, 2]}, {"name": ["a", "c"], "x": [1, 2]}) == "name"
    assert key({"x": [0.5, 1.5], "y": [1, 2]}, {"x": [0.5, 1.5], "y": [1, 2]}) == ""
    assert key({"id": [1, 1]}, {"id": [1, 2]}) == ""
    assert key({"id": [1, None]}, {"id": [1, 2]}) == ""
    assert key({"id": [1, 2]}, {"other": [1, 2]}) == ""
    assert key({"userId": [1, 2], "id": [1, 2]}, {"userId": [1, 2], "id": [1, 2]}) == "userId"
    assert key({"solid": [1, 2], "b": [1, 2]}, {"b": [1, 2], "solid": [1, 2]}) == ""


def test_a_long_key_is_only_known_nearly():
    many = list(range(5000))
    assert key({"a": [0] * 5000, "id": many}, {"a": [0] * 5000, "id": many}) == "id"
    assert key({"first": many}, {"first": many}) == ""
    assert key({"id": [i // 2 for i in many]}, {"id": many}) == ""


def test_statistics_are_called_what_they_are():
    a = pa.table({"s": ["a", "bb", "a"], "t": pa.array([0, 10, 20], pa.timestamp("s")), "x": [1, 1, 2]})
    b = pa.table({"s": ["a", "cccc", "a"], "t": pa.array([0, 10, 50], pa.timestamp("s")), "x": [1, 1, 3]})
    found = {m.column: m for m in moved(profile(Frame.of(a)), profile(Frame.of(b)), ("s", "t", "x"))}
    assert found["s"].statistics["length max"] == (2, 4)
    assert "mean" not in found["s"].statistics
    assert (found["s"].fresh, found["s"].vanished) == (("cccc",), ("bb",))
    assert found["t"].statistics["mean"] == ("1970-01-01 00:00:10", "1970-01-01 00:00:20")
    assert found["x"].statistics["max"] == (2, 3)
    assert not found["x"].fresh, "a number whose values do not repeat has none that are new"
    same = profile(Frame.of(a))
    assert moved(same, same, ("s", "t", "x")) == ()


def test_json_keeps_what_floats_are():
    words = said({"x": [float("nan"), float("inf"), -float("inf"), -0.0, 1]})
    assert json.dumps(words) == '{"x": ["NaN", "Infinity", "-Infinity", -0.0, 1]}'


FILES = st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.integers(0, 2), st.sampled_from("xyz")), max_size=6)


@given(FILES, FILES)
def test_files_are_added_removed_changed_or_renamed(old, new):
    old = {p: (s, f"{s}{d}") for p, (s, d) in old.items()}
    new = {p: (s, f"{s}{d}") for p, (s, d) in new.items()}
    about = FilesDifference("a", "b", (len(old), len(new)), (0, 0))
    found = files_difference(about, old, new, 100)
    after = dict(old)
    for path, size in found.removed_files:
        assert after.pop(path)[0] == size
    moved_ones = {to: after.pop(path) for path, to in found.renamed_files}
    assert all(size for size, _ in moved_ones.values())
    after |= moved_ones
    after |= {path: new[path] for path, _ in found.added_files}
    for path, before, now in found.changed_files:
        assert (after[path][0], new[path][0]) == (before, now)
        after[path] = new[path]
    assert after == new
    assert found.same == (old == new)
    back = files_difference(about, new, old, 100)
    assert (back.added, back.removed, back.changed, back.renamed) == (
        found.removed, found.added, found.changed, found.renamed,
    )  # fmt: skip
    gone = {v for p, v in old.items() if p not in new and v[0]}
    assert not gone & {v for p, v in new.items() if p not in old} or found.renamed


def test_schema_changes_that_types_do_not_tell():
    def changes(a, b):
        frames = Frame.of(a.empty_table()).schema, Frame.of(b.empty_table()).schema
        return [(c.what, c.safe) for c in difference.schema_changes(*frames, a, b)]

    def one(kind):
        return pa.schema([("x", kind)])

    assert changes(one(pa.timestamp("s")), one(pa.timestamp("us"))) == [("timestamp[s] became timestamp[us]", True)]
    assert changes(one(pa.timestamp("us")), one(pa.timestamp("s"))) == [("timestamp[us] became timestamp[s]", False)]
    assert changes(one(pa.decimal128(5, 2)), one(pa.decimal128(9, 3))) == [
        ("decimal128(5, 2) became decimal128(9, 3)", True)
    ]
    assert changes(one(pa.decimal128(5, 2)), one(pa.decimal128(5, 3)))[0][1] is False
    assert changes(one(pa.binary(2)), one(pa.binary(3)))[0][1] is False
    assert changes(one(pa.int8()), one(pa.int64())) == [("int8 became int64", True)]
