"""Splits are repeatable, leak nothing, and part as they say."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boucle.core.errors import Invalid
from boucle.core.frames import Frame
from boucle.ml.tabular import split, study
from boucle.ml.tabular.split import folds


def rows_of(frame: Frame) -> list[tuple[object, ...]]:
    return [tuple(row.values()) for row in frame.table().to_pylist()]


def test_classes_keep_their_share_and_no_row_is_lost(customers):
    table = customers(500)
    found = study(table, "churn")
    parts = split(table, found, test=0.3)
    assert len(parts.train) + len(parts.test) == 500
    assert len(parts.test) == pytest.approx(150, abs=3)
    whole, part = ([r[-1] for r in rows_of(f)].count("yes") / len(f) for f in (table, parts.test))
    assert part == pytest.approx(whole, abs=0.02)


def test_the_same_seed_splits_the_same_and_another_does_not(customers):
    table = customers()
    found = study(table, "churn")
    assert rows_of(split(table, found).test) == rows_of(split(table, found).test)
    assert rows_of(split(table, found).test) != rows_of(split(table, found, seed=1).test)


@given(st.integers(0, 1000), st.sampled_from(["stratified", "hash", "time"]))
@settings(max_examples=25, deadline=None)
def test_copies_never_straddle(seed, kind):
    random = np.random.default_rng(seed)
    x = random.normal(size=60)[random.integers(60, size=150)]
    start = dt.datetime(2024, 1, 1)
    at = [start + dt.timedelta(minutes=int(m)) for m in (np.abs(x) * 1000)]
    table = Frame.of({"x": x, "at": at, "y": random.integers(2, size=150)})
    found = replace(study(table, "y", time="at"), split=kind)
    parts = split(table, found, seed=seed)
    assert not {r[0] for r in rows_of(parts.train)} & {r[0] for r in rows_of(parts.test)}
    for to_fit, held in folds(parts.train.pandas(), replace(found, folds="stratified"), 3, seed):
        values = parts.train.pandas()["x"].to_numpy()
        assert not set(values[to_fit]) & set(values[held])


def test_equal_rows_of_a_table_with_few_values_are_no_copies():
    random = np.random.default_rng(0)
    table = Frame.of(
        {"a": random.integers(2, size=400), "b": random.integers(3, size=400), "y": random.normal(size=400)}
    )
    found = replace(study(table, "y"), split="predefined", split_column="set")
    parted = Frame.of({**dict(zip(table.columns, table.table().columns, strict=True)), "set": ["train", "test"] * 200})
    assert len(split(parted, found).train) == 200


def test_by_hash_a_row_stays_on_its_side_when_rows_and_nulls_are_added():
    random = np.random.default_rng(1)
    n, y = random.integers(10**6, size=300), random.normal(size=300)
    small = Frame.of({"n": n[:200], "y": y[:200]})
    large = Frame.of({"n": [*n.tolist(), None], "y": [*y, 0.5]})
    found = study(small, "y")
    assert found.split == "hash"
    before, after = split(small, found), split(large, found)
    assert {r[0] for r in rows_of(before.test)} <= {r[0] for r in rows_of(after.test)}
    assert {r[0] for r in rows_of(before.train)} <= {r[0] for r in rows_of(after.train)}


def test_by_time_the_last_rows_test_and_equal_times_stay_together(series):
    table = series()
    shuffled = table.take(np.random.default_rng(0).permutation(len(table)))
    parts = split(shuffled, study(shuffled, "demand"))
    train, test = ([r[0] for r in rows_of(p)] for p in (parts.train, parts.test))
    assert max(train) < min(test)
    assert train == sorted(train)
    assert len(test) == 80
    hours = [dt.datetime(2024, 1, 1) + dt.timedelta(hours=h // 30) for h in range(200)]
    tied = Frame.of({"at": hours, "x": np.random.default_rng(2).normal(size=200), "y": np.arange(200) + 0.5})
    by_hour = split(tied, study(tied, "y", time="at"))
    assert not {r[0] for r in rows_of(by_hour.train)} & {r[0] for r in rows_of(by_hour.test)}


def test_time_folds_only_look_back(series):
    table = series()
    found = study(table, "demand")
    data = split(table, found).train.pandas()
    pairs = folds(data, found, 4, 0)
    assert len(pairs) == 4
    for to_fit, held in pairs:
        assert data["at"].iloc[to_fit].max() < data["at"].iloc[held].min()


def test_a_class_that_comes_late_is_drawn_within_classes_instead():
    start = dt.datetime(2024, 1, 1)
    at = [start + dt.timedelta(hours=i) for i in range(200)]
    y = ["a"] * 100 + ["b", "a"] * 30 + ["c", "b"] * 20
    table = Frame.of({"at": at, "x": np.random.default_rng(0).normal(size=200), "y": y})
    parts = split(table, study(table, "y", time="at"), test=0.2)
    assert parts.kind == "stratified"
    assert "no row of some class" in parts.reason
    assert {"a", "b", "c"} == {r[-1] for r in rows_of(parts.test)}


def test_groups_stay_together():
    random = np.random.default_rng(3)
    who = random.integers(40, size=400)
    table = Frame.of({"user_id": who, "x": random.normal(size=400), "y": random.normal(size=400)})
    found = study(table, "y")
    parts = split(table, found)
    assert parts.kind == "group"
    assert not {r[0] for r in rows_of(parts.train)} & {r[0] for r in rows_of(parts.test)}
    data = parts.train.pandas()
    for to_fit, held in folds(data, found, 3, 0):
        assert not set(data["user_id"].iloc[to_fit]) & set(data["user_id"].iloc[held])


def test_two_groups_are_enough():
    random = np.random.default_rng(4)
    table = Frame.of({"site": [1, 2] * 50, "x": random.normal(size=100), "y": random.normal(size=100)})
    for seed in range(5):
        parts = split(table, study(table, "y", group="site"), seed=seed)
        assert (len(parts.train), len(parts.test)) == (50, 50)


def test_a_predefined_split_is_followed_and_copies_leave_the_training_part():
    random = np.random.default_rng(5)
    x = random.normal(size=100)
    x[:5] = x[60:65]
    table = Frame.of({"x": x, "split": ["train"] * 60 + ["test"] * 25 + ["test2"] * 15, "y": [0, 1] * 50})
    parts = split(table, study(table, "y"))
    assert parts.kind == "predefined"
    assert (len(parts.train), len(parts.test)) == (55, 40)
    assert parts.train.columns == ("x", "y")
    assert "5 training rows" in parts.reason


def test_rows_without_a_target_are_in_neither_part(customers):
    table = customers(100).table()
    blank = table.set_column(4, "churn", [[None] * 10 + table.column("churn").to_pylist()[10:]])
    parts = split(Frame.of(blank), study(Frame.of(blank), "churn"))
    assert len(parts.train) + len(parts.test) == 90


def test_a_share_that_is_none_is_refused(customers):
    table = customers(100)
    with pytest.raises(Invalid, match="share"):
        split(table, study(table, "churn"), test=20)
