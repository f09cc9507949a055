"""A study finds the task, the kinds, the leaks and the split, says so, and refuses what cannot be learned."""

from __future__ import annotations

import datetime as dt
import json

import numpy as np
import pytest

from boucle.core.errors import Invalid
from boucle.core.frames import Frame
from boucle.ml.tabular import Study, split, study

ROWS = 200


def noise(seed: int = 9, rows: int = ROWS):
    return np.random.default_rng(seed).normal(size=rows)


def labels(rows: int = ROWS):
    return np.random.default_rng(5).choice(["a", "b"], rows, p=[0.7, 0.3]).tolist()


def test_a_mixed_table_is_understood(customers):
    found = study(customers(), "churn")
    assert (found.task, found.classes, found.positive) == ("binary", ("no", "yes"), "yes")
    assert {f.name: f.kind for f in found.features} == {
        "age": "number",
        "plan": "category",
        "visits": "number",
        "active": "number",
    }
    assert found.split == "stratified"
    assert found.primary == "roc_auc"
    assert any("missing values" in f for f in found.findings)
    assert Study.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize(
    ("values", "task"),
    [
        ([0, 1] * 100, "binary"),
        ([True, False] * 100, "binary"),
        ([0.0, 1.0] * 100, "binary"),
        (["x", "y", "z", "x"] * 50, "multiclass"),
        (list(range(10)) * 20, "multiclass"),
        ([1, 2, 3, 4, 5] * 40, "multiclass"),
        (list(range(100)) * 2, "regression"),
        ([0.5, 1.5, 2.0, 3.25] * 50, "regression"),
        ([0] * 100 + [1] * 50 + [2] * 30 + [3] * 15 + [4] * 5, "regression"),
    ],
)
def test_the_task_follows_from_the_values(values, task):
    shuffled = [values[i] for i in np.random.default_rng(0).permutation(len(values))]
    assert study(Frame.of({"x": noise(), "y": shuffled}), "y").task == task


def test_the_task_can_be_named():
    table = Frame.of({"x": noise(), "stars": np.random.default_rng(1).integers(1, 6, ROWS)})
    assert study(table, "stars", task="regression").task == "regression"
    with pytest.raises(Invalid, match="task"):
        study(table, "stars", task="ranking")


@pytest.mark.parametrize(
    ("pair", "positive"),
    [
        (("no", "yes"), "yes"), (("ham", "spam"), "spam"), ((0, 1), 1), ((1, 2), 2), (("<=50K", ">50K"), ">50K"),
        ((False, True), True), (("bad", "good"), "bad"), ((-1, 1), 1),
    ],
)  # fmt: skip
def test_the_positive_class_is_the_affirmative_or_the_rare_one(pair, positive):
    common = next(v for v in pair if v != positive)
    assert study(Frame.of({"x": noise(), "y": [common] * 150 + [positive] * 50}), "y").positive == positive


def test_an_affirmative_class_may_be_the_common_one():
    assert study(Frame.of({"x": noise(), "y": ["yes"] * 150 + ["no"] * 50}), "y").positive == "yes"


def test_counts_are_told_from_other_numbers():
    random = np.random.default_rng(2)
    assert study(Frame.of({"x": noise(), "y": random.negative_binomial(2, 0.05, ROWS)}), "y").counts
    assert not study(Frame.of({"x": noise(), "y": random.normal(size=ROWS)}), "y").counts


def test_columns_without_use_are_dropped_with_the_reason():
    random = np.random.default_rng(3)
    found = study(
        Frame.of(
            {
                "x": noise(),
                "same": [1] * ROWS,
                "empty": [None] * ROWS,
                "row": list(range(ROWS)),
                "order_id": random.permutation(10**6)[:ROWS],
                "code": [f"P{i:05}" for i in range(ROWS)],
                "tags": [["a", "b"]] * ROWS,
                "unwanted": noise(1),
                "y": labels(),
            }
        ),
        "y",
        ignore=["unwanted"],
    )
    assert found.names == ["x"]
    for name, word in {
        "same": "every row",
        "empty": "no value",
        "row": "numbers the rows",
        "order_id": "different",
        "code": "different",
        "tags": "list",
        "unwanted": "request",
    }.items():
        assert word in found.dropped[name]
        assert any(f"'{name}'" in f for f in found.findings)


def test_texts_dates_and_categories_are_told_apart(messages):
    table = messages().table()
    start = dt.date(2020, 1, 1)
    found = study(
        Frame.of(
            {
                "note": table.column("text"),
                "day": [(start + dt.timedelta(days=i)).isoformat() for i in range(ROWS)],
                "city": np.random.default_rng(0).choice(["Oslo", "New York", "Rome"], ROWS).tolist(),
                "y": np.random.default_rng(6).normal(size=ROWS),
            }
        ),
        "y",
    )
    assert {f.name: f.kind for f in found.features} == {"note": "text", "day": "time", "city": "category"}
    assert found.features[1].parts == ("week",)


def test_a_copy_of_the_target_is_a_leak():
    y = labels()
    table = Frame.of({"x": noise(), "copy": y, "coded": [{"a": 7, "b": 9}[v] for v in y], "y": y})
    found = study(table, "y")
    assert found.names == ["x"]
    assert all("one-to-one" in found.dropped[n] for n in ("copy", "coded"))
    assert set(study(table, "y", keep=["copy"]).names) == {"x", "copy"}


def test_a_finer_grouping_of_the_target_is_a_leak():
    y = np.array(labels())
    detail = np.char.add(y, np.random.default_rng(0).choice(["1", "2", "3"], ROWS)).tolist()
    found = study(Frame.of({"x": noise(), "detail": detail, "y": y.tolist()}), "y")
    assert "determines" in found.dropped["detail"]


def test_a_useful_column_is_no_leak():
    y = np.array(labels()) == "b"
    found = study(Frame.of({"strong": np.where(noise() > 1.6, ~y, y).astype(int), "x": noise(1), "y": y}), "y")
    assert found.names == ["strong", "x"]


def test_flags_that_make_up_the_target_are_leaks():
    random = np.random.default_rng(7)
    first, second = random.random(2000) < 0.03, random.random(2000) < 0.04
    failed = first | second
    failed[np.flatnonzero(~failed)[:3]] = True
    unrelated = (random.random(2000) < 0.05).astype(int)
    table = {"x": noise(0, 2000), "wear": first.astype(int), "heat": second.astype(int), "other": unrelated}
    found = study(Frame.of({**table, "failed": failed.astype(int)}), "failed")
    assert set(found.dropped) == {"wear", "heat"}


def test_components_of_a_sum_are_leaks_and_other_numbers_are_not():
    random = np.random.default_rng(8)
    casual, registered, extra = random.poisson(20, ROWS), random.poisson(90, ROWS), random.normal(size=ROWS)
    found = study(
        Frame.of({"casual": casual, "extra": extra, "registered": registered, "cnt": casual + registered}), "cnt"
    )
    assert set(found.dropped) == {"casual", "registered"}
    assert found.names == ["extra"]


def test_the_target_in_another_unit_is_a_leak():
    y = noise(4)
    found = study(Frame.of({"x": noise(), "in_cents": 100 * y + 3, "y": y}), "y")
    assert "up to scale" in found.dropped["in_cents"]


def test_a_number_that_alone_tells_the_classes_apart_is_a_leak_in_many_rows_and_a_remark_in_few():
    y = np.array(labels(600)) == "b"
    number = np.random.default_rng(1).random(600) + y
    assert "apart" in study(Frame.of({"x": noise(0, 600), "n": number, "y": y}), "y").dropped["n"]
    few = study(Frame.of({"x": noise(0, 100), "n": number[:100], "y": y[:100]}), "y")
    assert "n" in few.names
    assert any("'n' alone" in f for f in few.findings)


def test_only_leaks_is_nothing_to_learn_from():
    y = labels()
    with pytest.raises(Invalid, match="no column is left") as caught:
        study(Frame.of({"copy": y, "y": y}), "y")
    assert "keep" in caught.value.fix


def test_a_series_is_split_by_time(series):
    found = study(series(), "demand")
    assert (found.split, found.split_column) == ("time", "at")
    assert next(f for f in found.features if f.kind == "time").parts == ("trend", "week", "day")


def test_a_date_that_tells_nothing_of_the_target_does_not_order_the_rows():
    start = dt.datetime(2024, 1, 1)
    when = [start + dt.timedelta(hours=i) for i in range(ROWS)]
    assert study(Frame.of({"at": when, "x": noise(), "y": noise(3)}), "y").split == "hash"


def test_classes_that_drift_are_split_by_time():
    random = np.random.default_rng(4)
    rows = 1000
    when = [dt.datetime(2024, 1, 1) + dt.timedelta(hours=i) for i in range(rows)]
    y = random.random(rows) < np.linspace(0.3, 0.6, rows)
    assert study(Frame.of({"at": when, "x": noise(0, rows), "y": y}), "y").split == "time"
    without = study(Frame.of({"x": noise(0, rows), "y": y}), "y")
    assert without.split == "stratified"
    assert any("from the beginning of the table" in f for f in without.findings)


def test_rows_of_one_entity_stay_together():
    who = np.repeat(np.arange(40), 5)
    table = Frame.of({"customerId": who * 7, "x": noise(), "y": labels()})
    found = study(table, "y")
    assert (found.split, found.split_column, found.names) == ("group", "customerId", ["x"])
    assert study(table, "y", keep=["customerId"]).split == "stratified"
    named = study(Frame.of({"shop": who, "x": noise(), "y": labels()}), "y", group="shop")
    assert (named.split, named.split_column, named.names) == ("group", "shop", ["x"])


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("split", ["train", "test", "test2", "train"]),
        ("Set", ["training", "validation", "testing", "training"]),
        ("is_test", [0, 1, 0, 0]),
        ("is_train", [True, False, True, True]),
        ("subset", ["train", "dev", "train", "train"]),
    ],
)
def test_a_column_that_says_the_split_is_recognised(name, values):
    found = study(Frame.of({"x": noise(), name: values * 50, "y": labels()}), "y")
    assert (found.split, found.split_column, found.names) == ("predefined", name, ["x"])


def test_a_column_that_only_sounds_like_a_split_is_a_feature():
    found = study(Frame.of({"x": noise(), "set": ["gold", "silver"] * 100, "y": labels()}), "y")
    assert found.split == "stratified"
    assert "set" in found.names


def test_rows_without_a_target_are_counted():
    y = [None, *labels()[1:]]
    found = study(Frame.of({"x": noise(), "y": y}), "y")
    assert (found.rows, found.unlabelled) == (ROWS - 1, 1)
    assert found.findings[0].startswith("1 rows have no value")
    gaps = study(Frame.of({"x": noise(), "y": [float("nan"), float("inf"), *noise(1)[2:]]}), "y")
    assert gaps.unlabelled == 2


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([None] * ROWS, "null in every row"),
        (["a"] * ROWS, "in every row"),
        ([3.5] * ROWS, "in every row"),
        (["a"] * 10 + [None] * (ROWS - 10), "only 10 rows"),
        (["a"] * (ROWS - 1) + ["b"], "have one row"),
        ([f"text {i}" for i in range(ROWS)], "different values"),
        ([["a"]] * ROWS, "list"),
    ],
)
def test_what_cannot_be_learned_is_refused_with_a_way_out(values, said):
    with pytest.raises(Invalid, match=said) as caught:
        study(Frame.of({"x": noise(), "y": values}), "y")
    assert caught.value.expected
    assert caught.value.fix


def test_a_wrong_name_brings_the_near_ones(customers):
    with pytest.raises(Invalid, match="churm") as caught:
        study(customers(), "churm")
    assert "churn" in caught.value.expected
    with pytest.raises(Invalid, match="visit"):
        study(customers(), "churn", ignore=["visit"])
    with pytest.raises(Invalid, match="target"):
        study(customers(), "churn", time="churn")


def test_classes_of_a_single_row_are_left_out_and_named():
    frame = Frame.of({"x": [i * i % 17 for i in range(61)], "y": ["a", "b"] * 30 + ["lonely"]})
    found = study(frame, "y")
    assert found.classes == ("a", "b")
    assert any("'lonely'" in finding for finding in found.findings)
    parts = split(frame, found)
    assert len(parts.train) + len(parts.test) == 60
