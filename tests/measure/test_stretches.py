"""Stretches of a reference: rows that depend on each other count for less, and rows in no order of time as ever."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest

from boucle.measure.drift import drift
from boucle.measure.sketch import Reference
from boucle.measure.stretches import Usual, beyond, chosen, clumps, corrected, in_time_order


def slow(random, rows, keep=0.99):
    """Values that forget where they were after about 1 / (1 - keep) rows."""
    out, value = np.empty(rows), 0.0
    for i, step in enumerate(random.normal(size=rows) * np.sqrt(1 - keep**2)):
        value = keep * value + step
        out[i] = value
    return out


def looked_at_after_every_batch(reference, table, batch=200):
    chunks, alarmed = [], set()
    for start in range(0, len(next(iter(table.values()))), batch):
        chunks.append(reference.window({n: v[start : start + batch] for n, v in table.items()}))
        alarmed |= {c.name for c in drift(reference, chunks).columns if c.status != "pass"}
    return alarmed


def tides(random, start, rows):
    hours = np.arange(start, start + rows) / 60
    return {
        "tide": np.sin(2 * np.pi * hours / 24) + 0.2 * random.normal(size=rows),
        "shift": np.array(list("abc"))[(hours // 8).astype(int) % 3],
        "slow": slow(random, rows),
    }


def test_traffic_that_goes_on_as_before_does_not_alarm_however_often_it_is_looked_at():
    random = np.random.default_rng(0)
    before = tides(random, 0, 8000)
    after = tides(random, 8000, 4000)
    assert looked_at_after_every_batch(Reference.of(before, ordered=True), after) == set()
    naive = looked_at_after_every_batch(Reference.of(before), after)
    assert naive == {"tide", "shift", "slow"}, "a morning is not like a day"


def test_what_no_stretch_had_is_found_at_once_and_a_new_level_soon():
    random = np.random.default_rng(1)
    reference = Reference.of(tides(random, 0, 8000), ordered=True)
    beyond_all = tides(random, 8000, 200)
    beyond_all["tide"] += 5
    beyond_all["shift"] = np.full(200, "d")
    judged = drift(reference, reference.window(beyond_all))
    assert [judged[n].status for n in ("tide", "shift", "slow")] == ["fail", "fail", "pass"]
    moved = tides(random, 8000, 4000)
    moved["tide"] += 0.8
    assert looked_at_after_every_batch(reference, moved) == {"tide"}


def test_independent_rows_count_for_one_each():
    random = np.random.default_rng(2)
    table = {"n": random.normal(size=20_000), "c": random.choice(list("abc"), 20_000)}
    reference = Reference.of(table, ordered=True)
    for column in reference.columns.values():
        assert [u.rows for u in column.usual] == [100, 200, 400, 800, 1600, 3200, 6400]
        assert all(u.clumps < 1.3 for u in column.usual)
    judged = drift(reference, reference.window({"n": random.normal(0.7, 1, 500), "c": table["c"][:500]}))
    assert (judged["n"].status, judged["c"].status) == ("fail", "pass")


def test_a_reference_of_each_tenth_row_knows_stretches_ten_times_as_long():
    values = slow(np.random.default_rng(3), 20_000)
    some = Reference.of({"n": values[::10]}, ordered=True, every=10).columns["n"].usual
    whole = {u.rows: u.clumps for u in Reference.of({"n": values}, ordered=True).columns["n"].usual}
    assert [u.rows for u in some] == [1000, 2000, 4000, 8000]
    assert some[0].clumps == pytest.approx(whole[800], rel=0.5)


def test_an_order_of_time_is_seen():
    moments = [dt.datetime(2026, 1, 1) + dt.timedelta(hours=i) for i in range(300)]
    assert in_time_order({"t": moments, "n": range(300)})
    assert in_time_order({"t": [m.date() for m in moments], "n": range(300)})
    assert not in_time_order({"t": moments[::-1], "n": range(300)})
    assert not in_time_order({"t": [moments[0]] * 300})
    assert not in_time_order({"t": [None, *moments]})
    assert not in_time_order({"n": range(300)})
    assert Reference.of({"t": moments, "n": range(300)}).columns["n"].usual
    assert not Reference.of({"n": range(300)}).columns["n"].usual


def test_stretches_are_rows_of_the_table():
    for rows in (199, 200, 1000, 30_000, 1_000_000):
        for length, parts, places in chosen(rows):
            assert 2 * length <= rows
            assert places.min() >= 0
            assert places.max() < rows
            assert len(places) >= 2 * parts
    assert chosen(199) == []


def test_what_is_usual_of_a_length_is_that_of_the_next_shorter():
    known = (Usual(100, 5.0, 0.8), Usual(200, 7.0, 0.2))
    assert [clumps(known, rows) for rows in (50, 100, 199, 200, 10_000)] == [5, 5, 5, 7, 7]
    assert clumps((), 100) == 1
    assert [beyond(share, known, 100) for share in (0.9, 0.91)] == [False, True]
    assert not beyond(0.61, known, 5000), "nor is it less than that of any shorter one"
    assert beyond(0.51, (), 100)


def test_the_corrected_distance_works_along_the_last_axis():
    before, now = np.array([[50, 50], [10, 90]]), np.array([[50, 50], [90, 10]])
    each = [float(corrected(b, n)) for b, n in zip(before, now, strict=True)]
    assert corrected(before, now).tolist() == each
    assert each[0] == 0 < each[1]


def test_survives_json():
    column = Reference.of({"n": slow(np.random.default_rng(4), 1000)}, ordered=True).columns["n"]
    assert type(column).from_json(column.to_json()).usual == column.usual
    assert len(pa.array(column.to_json()["usual"])) == 3
