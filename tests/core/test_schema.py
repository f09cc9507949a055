"""Schemas: JSON both ways, checked rows, and what may follow what."""

import datetime as dt
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boucle.core.errors import Invalid, Refused
from boucle.core.schema import FLOATS, INTEGERS, KINDS, SCALARS, Column, Schema, check_evolution, evolve, jsonable

COLUMN = st.builds(
    Column, st.text(min_size=1, max_size=4), st.sampled_from(SCALARS), st.booleans(), st.sampled_from(KINDS),
    st.lists(st.integers() | st.text(max_size=3), max_size=3).map(tuple), st.text(max_size=5),
)  # fmt: skip
SCHEMA = st.lists(COLUMN, max_size=5, unique_by=lambda c: c.name).map(lambda columns: Schema(tuple(columns)))


def schema(**types):
    return Schema(tuple(Column(n, t.rstrip("!"), not t.endswith("!")) for n, t in types.items()))


@given(SCHEMA)
def test_json_both_ways(value):
    assert Schema.from_json(json.loads(json.dumps(value.to_json()))) == value


@given(SCHEMA)
def test_nothing_changed_is_no_change(value):
    assert evolve(value, value) == []


def test_names():
    value = schema(a="int64", b="string")
    assert (value.names, len(value), "a" in value, "z" in value) == (("a", "b"), 2, True, False)
    assert value.select(["b"]).names == value.without("a").names == ("b",)
    assert value.replaced("a", kind="identifier")["a"].kind == "identifier"
    with pytest.raises(Invalid, match="no column named 'aa'"):
        value["aa"]
    with pytest.raises(Invalid, match="two columns are named 'a'"):
        Schema((Column("a", "int64"), Column("a", "string")))


@pytest.mark.parametrize(("old", "new", "renames", "said", "safe"), [
    ({"a": "int64"}, {"a": "int64", "b": "string"}, {}, "added (string)", True),
    ({"a": "int64"}, {"a": "int64", "b": "string!"}, {}, "added (string)", True),
    ({"a": "int64", "b": "string"}, {"a": "int64"}, {}, "removed", False),
    ({"a": "int32"}, {"a": "int64"}, {}, "int32 became int64", True),
    ({"a": "int64"}, {"a": "int32"}, {}, "int64 became int32", False),
    ({"a": "int64"}, {"a": "float64"}, {}, "int64 became float64", False),
    ({"a": "int32"}, {"a": "float64"}, {}, "int32 became float64", True),
    ({"a": "null"}, {"a": "string"}, {}, "null became string", True),
    ({"a": "date"}, {"a": "timestamp"}, {}, "date became timestamp", True),
    ({"a": "int64!"}, {"a": "int64"}, {}, "may now be null", True),
    ({"a": "int64"}, {"a": "int64!"}, {}, "may no longer be null", True),
    ({"a": "int64"}, {"b": "int64"}, {"a": "b"}, "renamed to b", True),
])  # fmt: skip
def test_evolution(old, new, renames, said, safe):
    (change,) = evolve(schema(**old), schema(**new), renames)
    assert (change.what, change.safe) == (said, safe)
    if safe:
        assert check_evolution("t", schema(**old), schema(**new), renames) == [change]
    else:
        with pytest.raises(Refused, match=change.column) as caught:
            check_evolution("t", schema(**old), schema(**new), renames)
        assert "--evolve" in caught.value.fix


def test_a_rename_that_is_not_declared_is_a_loss():
    assert [c.safe for c in evolve(schema(a="int64"), schema(b="int64"))] == [False, True]


@pytest.mark.parametrize(("kind", "value", "read"), [
    ("int64", 3, 3), ("int64", 3.0, 3), ("float64", 3, 3.0), ("float64", 0.5, 0.5), ("bool", True, True), ("string",
    "x", "x"),
    ("date", "2026-01-02", dt.date(2026, 1, 2)), ("timestamp",
    "2026-01-02T03:04:05+01:00", dt.datetime(2026, 1, 2, 2, 4, 5)),
    ("binary", "AA==", b"\0"), ("int8", -128, -128), ("uint64", 2**64 - 1, 2**64 - 1), ("int64", None, None),
])  # fmt: skip
def test_values_are_read(kind, value, read):
    assert schema(a=kind).decode([{"a": value}]) == {"a": [read]}


@pytest.mark.parametrize(("kind", "value"), [
    ("int64", 3.5), ("int64", True), ("int64", "3"), ("int64", 2**63), ("int8", 128), ("uint8", -1), ("float64", "1"),
    ("float64", True), ("bool", 1), ("string", 1), ("string", "\ud800"), ("date", "yesterday"), ("timestamp", 5),
    ("binary", "%"),
    ("int64!", None), ("float64", 10**400), ("int64", math.inf), ("int64", math.nan),
])  # fmt: skip
def test_values_are_refused_naming_row_and_column(kind, value):
    with pytest.raises(Invalid, match=r"row 1, column 'a'") as caught:
        schema(a=kind).decode([{"a": 1} if "int" in kind or "float" in kind else {"a": None}, {"a": value}])
    assert caught.value.expected


def test_rows_of_another_shape():
    value = schema(amount="int64!", note="string")
    assert value.decode([{"amount": 1}]) == {"amount": [1], "note": [None]}
    with pytest.raises(Invalid, match=r"row 0: unknown column 'amout'; did you mean 'amount'"):
        value.decode([{"amout": 1}])
    with pytest.raises(Invalid, match="column 'amount' is missing"):
        value.decode([{"note": "x"}])
    with pytest.raises(Invalid, match=r"row 0 is \[1\]"):
        value.decode([[1]])


def test_json_schema():
    got = schema(n="int8!", x="float64", t="timestamp", b="bool!").json_schema({"n": 1})
    assert got["required"] == ["n", "b"]
    assert got["properties"]["n"] == {"type": "integer", "minimum": -128, "maximum": 127}
    assert got["properties"]["x"] == {"type": ["number", "null"]}
    assert got["properties"]["t"] == {"type": ["string", "null"], "format": "date-time"}
    assert (got["additionalProperties"], got["examples"]) == (False, [{"n": 1}])


@given(SCHEMA)
def test_json_schema_has_every_column(value):
    got = value.json_schema()
    assert list(got["properties"]) == list(value.names)
    assert got["required"] == [c.name for c in value.columns if not c.nullable]
    for column in value.columns:
        if column.type in (*INTEGERS, *FLOATS):
            kind = "integer" if column.type in INTEGERS else "number"
            assert got["properties"][column.name]["type"] == ([kind, "null"] if column.nullable else kind)


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.datetimes() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3) |
    st.tuples(inner),
))  # fmt: skip
def test_anything_becomes_json(value):
    json.dumps(jsonable(value), allow_nan=False)
