"""Rows behind a version, or merged into it by key, against what plain Python makes of them."""

import datetime as dt
import math
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boucle.core.errors import Refused
from boucle.core.frames import Frame
from boucle.data.combine import appended, merged
from boucle.ledger.tables import plain_batches

_KEYS = {
    "float64": st.sampled_from([math.nan, 0.0, -0.0, 1.0, 2.0]),
    "int64": st.integers(0, 3),
    "uint64": st.sampled_from([0, 2**63, 2**64 - 1]),
    "string": st.sampled_from(["", "a", "é", "e\u0301"]),
    "bool": st.booleans(),
}
_PAIRS = st.sampled_from(sorted(_KEYS)).flatmap(
    lambda kind: st.tuples(st.just(kind), st.lists(_KEYS[kind], max_size=6), st.lists(_KEYS[kind], max_size=6))
)


def _frame(kind, keys, first):
    values = pa.array(range(first, first + len(keys)), pa.int64())
    return Frame.of(pa.table({"k": pa.array(keys, pa.type_for_alias(kind)), "v": values}))


def _alike(key):
    """What makes two keys one: a NaN is every NaN, and there is one zero."""
    return "nan" if key != key else key


@given(_PAIRS)
def test_merge_is_what_a_dictionary_does(case):
    kind, before, after = case
    old, new = _frame(kind, before, 0), _frame(kind, after, 100)
    table = merged(old, plain_batches(old)[0], new, ["k"]).table()
    last = {_alike(k): i for i, k in enumerate(after, 100)}
    met, expected = set(), []
    for i, key in enumerate(map(_alike, before)):
        if key not in last:
            expected.append(i)
        elif key not in met:
            met.add(key)
            expected.append(last[key])
    expected += sorted(i for key, i in last.items() if key not in met)
    assert table["v"].to_pylist() == expected


_US, _NS = 1_577_836_800_000_001, 1_577_836_800_000_000_001
_DAY = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        (pa.array([1, None]), pa.array([1.5, math.inf]), pa.float64()),
        (pa.array([1, 2]), pa.array([Decimal("1.25")]), pa.decimal128(22, 2)),
        (pa.array([Decimal("1.25")]), pa.array([2**63 - 1]), pa.decimal128(22, 2)),
        (pa.array([Decimal("1.25")]), pa.array([2**64 - 1], pa.uint64()), pa.decimal128(22, 2)),
        (pa.array([Decimal("1.25")]), pa.array([Decimal("0.12345")]), pa.decimal128(6, 5)),
        (pa.array([1.5]), pa.array([Decimal("99999.99")]), pa.float64()),
        (pa.nulls(2), pa.array(["x"]), pa.string()),
        (pa.nulls(2), pa.array([_DAY]), pa.timestamp("us", "UTC")),
        (pa.array([1, 2], pa.int8()), pa.nulls(1), pa.int8()),
        (pa.array([_US], pa.timestamp("us")), pa.array([_NS], pa.timestamp("ns")), pa.timestamp("ns")),
        (pa.array([1.5]), pa.array([], pa.int64()), pa.float64()),
    ],
)
def test_append_widens_and_loses_nothing(old, new, kind):
    there, here = Frame.of(pa.table({"v": old})), Frame.of(pa.table({"v": new}))
    made = appended(there, plain_batches(there)[0], here)
    before = [] if not made.grows else list(there.batches())
    column = pa.Table.from_batches([*before, *made.frame.batches()])["v"]
    assert column.type == kind
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        assert column.cast(pa.int64()).to_pylist() == [_US * 1000, _NS]
    else:
        read = float if kind == pa.float64() else lambda x: x
        assert column.to_pylist() == [None if v is None else read(v) for v in old.to_pylist() + new.to_pylist()]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (pa.array([2**53 + 1]), pa.array([0.5])),
        (pa.array([0.5]), pa.array([2**53 + 1])),
        (pa.array([0.5], pa.float32()), pa.array([Decimal("99999.99")])),
        (pa.array([0.5]), pa.array([Decimal("12345678901234567890.12")])),
        (pa.array([10**11], pa.timestamp("s")), pa.array([_NS], pa.timestamp("ns"))),
        (pa.array([1]), pa.array(["1"])),
        (pa.array([_DAY.date()]), pa.array([_DAY])),
    ],
)
def test_append_refuses_what_would_be_lost(old, new):
    there, here = Frame.of(pa.table({"v": old})), Frame.of(pa.table({"v": new}))
    with pytest.raises(Refused):
        list(appended(there, plain_batches(there)[0], here).frame.batches())
