"""Values between steps: each comes back as it was, and its digest is that of its content."""

from __future__ import annotations

import datetime as dt
import math
import subprocess
import sys
import threading
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import boucle.workspace
from boucle.core.errors import Corrupt, Invalid, NotFound
from boucle.core.frames import Frame
from boucle.core.records import Run
from boucle.core.schema import Column, Schema
from boucle.flow.values import Stored, composite, decode, encode, present, select
from boucle.ledger import runs


@pytest.fixture(scope="module")
def ws(tmp_path_factory):
    with boucle.workspace.init(tmp_path_factory.mktemp("values")) as opened:
        yield opened


def round_trip(ws, value, wanted=None):
    """Through JSON, as a record keeps it."""
    import json

    stored = encode(ws, value)
    return decode(ws, Stored.from_json(json.loads(json.dumps(stored.to_json(), allow_nan=False))), wanted)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_plain_values_come_back_exactly(ws, value):
    assert repr(round_trip(ws, value)) == repr(value)  # tells types, order, NaN and -0.0 apart


@given(JSON, JSON)
def test_plain_values_are_equal_exactly_when_their_digests_are(ws, a, b):
    assert (encode(ws, a).digest == encode(ws, b).digest) == (repr(a) == repr(b))


class Pair(NamedTuple):
    left: Any
    right: Any


class Colour(Enum):
    RED = "r"


@dataclass(frozen=True, slots=True)
class Point:
    x: int
    y: Any = None


@dataclass
class Counter:
    name: str
    count: int = field(init=False, default=0)
    log: list = field(default_factory=list)

    def __post_init__(self):
        self.log.append("made")


class Plain:
    def __init__(self, n):
        self.n = n

    def __eq__(self, other):
        return type(other) is Plain and other.n == self.n

    __hash__ = None


def counted():
    made = Counter("a")
    made.count = 5
    return made


def extended():
    made = Counter("a")
    made.more = [1]
    return made


@pytest.mark.parametrize(
    "value",
    [
        (),
        [],
        (1, "a", None),
        [(1, 2), {"a": (3,)}],
        {1: "int key", "b": 2},
        {"a", "b"},
        Pair(1, Pair([2], "x")),
        Point(1, Point(2, [3])),
        counted(),
        Plain(3),
        Colour.RED,
        Decimal("1.50"),
        dt.datetime(2024, 1, 2, tzinfo=dt.UTC),
        b"bytes",
        deque([1, 2]),
        OrderedDict(b=1, a=2),
        Schema((Column("a", "int64"),)),
        list(range(5000)),
        {"long": "x" * 5000, "nan": 1.5},
        "x" * 5000,
        2**100,
        complex(1, 2),
        math.sqrt,
        "\ud800",
    ],
    ids=lambda v: type(v).__name__,
)
def test_a_value_of_any_kind(ws, value):
    back = round_trip(ws, value)
    assert back == value
    assert type(back) is type(value)
    assert encode(ws, value).digest == encode(ws, back).digest


def test_a_dataclass_comes_back_as_it_was_and_not_as_it_would_be_made(ws):
    assert round_trip(ws, counted()).log == ["made"]
    assert round_trip(ws, extended()).more == [1]


def test_what_is_nested_too_deep_or_holds_itself_is_kept_too(ws):
    deep: list = [Plain(1)]
    for _ in range(80):
        deep = [deep]
    assert round_trip(ws, deep) == deep
    loop: list = [1]
    loop.append(loop)
    back = round_trip(ws, loop)
    assert back[1][1][0] == 1


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6).reshape(2, 3), np.array(3.5), np.array([], "int8"), np.array(["a", "bc"]), np.asfortranarray(np.eye(3)),
        np.array([np.datetime64("2024-01-01")]), np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        np.array(["a", None], object), np.float32(1.5), np.array([np.nan, 1]),
    ],
    ids=repr,
)  # fmt: skip
def test_arrays(ws, array):
    back = round_trip(ws, array)
    assert type(back) is type(array)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


TABLE = {"i": [1, 2, None], "f": [1.5, None, 2.5], "s": ["a", None, "c"], "b": [True, None, False]}


def test_tables_keep_their_kind_or_become_the_one_asked_for(ws):
    arrow = pa.table(TABLE)
    for value in (arrow, pl.from_arrow(arrow), Frame.of(arrow)):
        back = round_trip(ws, value)
        assert type(back) is type(value)
        assert Frame.of(back).table().to_pydict() == arrow.to_pydict()
    assert type(round_trip(ws, arrow, pd.DataFrame)) is pd.DataFrame
    assert type(round_trip(ws, arrow, pl.DataFrame)) is pl.DataFrame
    assert type(round_trip(ws, arrow, Frame)) is Frame
    assert type(round_trip(ws, Frame.of(arrow), pa.Table)) is pa.Table
    assert len({encode(ws, v).digest for v in (arrow, pl.from_arrow(arrow), Frame.of(arrow))}) == 1


def test_pandas_frames_with_what_arrow_has_not(ws):
    plain = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    pd.testing.assert_frame_equal(round_trip(ws, plain), plain, check_dtype=False)  # text becomes `object`
    indexed = plain.set_index("b")
    pd.testing.assert_frame_equal(round_trip(ws, indexed), indexed)
    series = pd.Series([1, 2], name="n")
    pd.testing.assert_series_equal(round_trip(ws, series), series)


def test_a_file(ws, tmp_path):
    path = tmp_path / "report.txt"
    path.write_text("hello")
    assert round_trip(ws, path).read_text() == "hello"
    with pytest.raises(Invalid, match="is not a file"):
        encode(ws, tmp_path)


def test_a_model_is_the_same_by_content(ws):
    from sklearn.linear_model import LogisticRegression

    x, y = np.arange(10.0).reshape(-1, 1), [0, 1] * 5
    one, two = (LogisticRegression().fit(x, y) for _ in range(2))
    back = round_trip(ws, one)
    assert (back.predict_proba(x) == one.predict_proba(x)).all()
    assert encode(ws, one).digest == encode(ws, two).digest == encode(ws, back).digest
    assert encode(ws, LogisticRegression(C=2.0).fit(x, y)).digest != encode(ws, one).digest


def test_a_record_stays_a_reference(ws):
    record = runs.start(ws, "a").finish()
    stored = encode(ws, record)
    assert stored.value == {"codec": "record", "kind": "run", "key": record.id}
    assert decode(ws, stored) == record
    ws.store.drop(Run, record.id)
    assert not present(ws, stored)
    with pytest.raises(NotFound, match=f"no run {record.id}"):
        decode(ws, stored)


@pytest.mark.parametrize("made", [lambda: (x for x in "ab"), threading.Lock, lambda: lambda: 1])
def test_what_cannot_be_kept_is_refused(ws, made):
    with pytest.raises(Invalid, match="cannot be kept"):
        encode(ws, made())


def test_a_class_made_in_a_function_is_refused_at_once(ws):
    @dataclass
    class Local:
        a: int

    class Tuple(NamedTuple):
        a: int

    for value in (Local(1), Tuple(1)):
        with pytest.raises(Invalid, match="cannot be kept"):
            encode(ws, value)


def test_a_pickle_signed_elsewhere_is_never_opened(ws, tmp_path):
    with boucle.workspace.init(tmp_path / "other") as other:
        stored = encode(other, Plain(1))
        ws.blobs.put(other.blobs.get(stored.value["blob"]))
    with pytest.raises(Corrupt, match="not signed by this workspace"):
        decode(ws, stored)
    forged = ws.blobs.put(b"\0" * 32 + b"cos\nsystem\n(S'echo hacked'\ntR.")
    with pytest.raises(Corrupt, match="not signed"):
        decode(ws, Stored("", "pickle", {"codec": "pickle", "blob": forged}))


def test_the_key_is_readable_by_its_owner_only(ws):
    assert ws.key == ws.key
    assert len(ws.key) == 32
    assert (ws.root / "key").stat().st_mode & 0o777 == 0o600


def test_equal_sets_have_one_digest_in_every_process(tmp_path):
    code = """if True:
    from boucle.flow.values import encode
    from boucle.workspace import init
    print(encode(init("."), {"a", "b", "c", ("d", 1)}).digest)
    """
    found = {
        subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONHASHSEED": s}, capture_output=True, text=True, check=True
        ).stdout
        for s in "12"
    }  # fmt: skip
    assert len(found) == 1


@pytest.mark.parametrize(
    ("value", "path", "part"),
    [
        (Pair(1, {"a": [1, (2,)]}), ("right", "a", 1, 0), 2),
        (Pair(1, 2), (1,), 2),
        ((1, Plain(7)), (1, "n"), 7),
        ({"a": {"b": [1, 2]}}, ("a", "b", -1), 2),
        ([Plain(1), Plain(2)], (-1, "n"), 2),
        (Point(1, [5]), ("y", 0), 5),
        (list(range(3000)), (2999,), 2999),
    ],
)
def test_parts(ws, value, path, part):
    assert decode(ws, select(ws, encode(ws, value), path)) == part


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (Pair(1, 2), ("middle",)),
        ((1, Plain(2)), (2,)),
        ({"a": 1}, ("b",)),
        ([1], (1,)),
        (1, ("a",)),
        ({"a": Plain(1)}, (0,)),
    ],
)
def test_a_part_that_is_not_there(ws, value, path):
    with pytest.raises(NotFound, match="no part"):
        select(ws, encode(ws, value), path)


def test_present_looks_at_every_part(ws):
    stored = encode(ws, (np.arange(3), [Plain(1)], "x" * 5000))
    assert present(ws, stored)
    for _, leaf in stored.leaves():
        blob = leaf.value["blob"]
        content = ws.blobs.get(blob)
        ws.blobs.remove(blob)
        assert not present(ws, stored)
        ws.blobs.put(content)
    assert present(ws, stored)


def test_a_codec_from_the_future_is_said(ws):
    with pytest.raises(Corrupt, match="unknown codec 'crystal'"):
        decode(ws, Stored("", "crystal", {"codec": "crystal"}))


def test_composites_of_the_same_parts_differ_by_kind(ws):
    parts: Any = [(0, encode(ws, 1))]
    assert composite("list", parts).digest != composite("tuple", parts).digest
