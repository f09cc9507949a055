"""The contract of a store, as tests. A plugin proves itself by subclassing it:

class TestMine(StoreContract):
    def make(self, tmp_path):
        return MyStore(tmp_path / "store")
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from boucle.core.errors import Conflict, Invalid, Refused
from boucle.core.records import (
    RECORDS,
    Alert,
    Artifact,
    Code,
    Dataset,
    Edge,
    Event,
    Lease,
    Model,
    Points,
    Record,
    Rollout,
    Run,
    Service,
    Verdict,
)
from boucle.core.where import And, Compare, Not, Or, Where, arranged, field, matches
from boucle.ports.store import Store

EXAMPLES: tuple[Record, ...] = (
    Dataset(
        name="tx", version=3, digest="d" * 64, manifest="m" * 64, rows=10, size=99, schema={"columns": [{"name": "a"}]},
        created=1.5, tags={"pii": True, "größe": "naïve ☕"},
    ),
    Code(digest="c" * 64, entry="train.py", sources="s" * 64, commit="abc", dirty=True, created=2.0),
    Run(
        id="01RUN", name="train", started=3.0, params={"depth": 3, "lr": 0.1, "on": True, "none": None, "list": [1, "a"]},
        metrics={"auc": 0.93, "n": 12}, tags={"team": "risk"}, seed=7, attempts=2,
    ),
    Artifact(digest="a" * 64, name="scores", type="frame", value={"codec": "parquet", "blobs": ["b" * 64]}, size=5),
    Model(name="churn", version=1, digest="e" * 64, artifact="a" * 64, stage="staging", metrics={"auc": 0.9}),
    Service(name="churn", revision=2, model="churn@1", handle={"pid": 12, "started": 4.25}, status="ready"),
    Rollout(id="01ROLL", service="churn", strategy="replace", phases={"start": {"status": "finished"}}, after=2),
    Verdict(id="01VERD", subject="dataset:tx@3", check="unique", status="fail", score=None, threshold=0.5),
    Lease(name="rule:retrain", holder="host:12:ab", until=9.5, token=3, state={"cursor": 41, "doing": {"event": 40}}),
    Alert(
        id="01ALER", name="drift", subject="service:churn@2", title="größer ☕", count=3, onset=1.0, opened=2.0, last=3.0,
        data={"js": 0.3}, delivered={"team": {"time": 2.5, "severity": "warning"}},
    ),
)  # fmt: skip
"""One record of each kind but events, with nothing left empty that a store could lose."""


def sample_run(i: int, **given: Any) -> Run:
    """A run that differs from its neighbours; the same for the same number."""
    fields: dict[str, Any] = {
        "id": f"run{i:04}",
        "name": f"name{i % 3}",
        "status": ("finished", "failed", "running")[i % 3],
        "started": float(i % 7),
        "params": {"p": str(i % 4), "depth": i % 5},
        "metrics": {"m": (i * 37 % 101) / 101} if i % 5 else {},
    }
    return Run(**(fields | given))


# Values on both sides of everything that could confuse a store: types that compare across, and edges of each.
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 2**53 + 1, 2**62, 10**25, 0.0, 0.5, 1.0, -1.5, 3.0, 1e300, math.inf, -math.inf,
    math.nan, "", "0", "1", "a", "A", "ab", "b", "É", "é", "☕", "\U0010ffff", "%", "_", "'", '"', "a\x00b", [1, 2], {"a": 1},
)  # fmt: skip
_KEYS = ("a", "b.c", 'q"uote', "naïve", "")
_TEXTS = tuple(v for v in VALUES if isinstance(v, str))
_PATHS = (
    "key", "id", "name", "status", "parent", "started", "ended", "pid", "seed",
    *(f"{head}.{key}" for head in ("params", "metrics", "outputs") for key in ("a", "b.c", 'q"uote', "naïve", "zz")),
)  # fmt: skip


def random_run(chance: random.Random, i: int) -> Run:
    """A run with anything in it that a run may hold."""

    def mapping() -> dict[str, Any]:
        return {key: chance.choice(VALUES) for key in _KEYS if chance.random() < 0.6}

    return Run(
        id=f"{chance.choice(_TEXTS)}{i}",
        name=chance.choice(_TEXTS),
        status=chance.choice(("finished", "failed", "")),
        parent=chance.choice(("", "", "up")),
        started=float(chance.choice((0, 1, 1.5, -2))),
        ended=chance.choice((0.0, math.inf)),
        pid=chance.choice((0, 1, 2**62)),
        params=mapping(),
        metrics=mapping(),
        outputs=mapping(),
    )


def random_where(chance: random.Random, depth: int = 3) -> Where:
    """Any expression that is valid for a run."""
    kind = chance.random()
    if depth and kind < 0.5:
        parts = tuple(random_where(chance, depth - 1) for _ in range(chance.randrange(4)))
        return chance.choice((And, Or))(parts) if kind < 0.4 else Not(random_where(chance, depth - 1))
    path = chance.choice(_PATHS)
    op = chance.choice(("=", "!=", "<", "<=", ">", ">=", "in", "contains", "starts"))
    if op == "in":
        return Compare(path, op, tuple(chance.choices(VALUES, k=chance.randrange(4))))
    return Compare(path, op, chance.choice(_TEXTS if op in ("contains", "starts") else VALUES))


def random_order(chance: random.Random) -> list[str]:
    """Up to three paths, some descending."""
    return [chance.choice(("", "-")) + path for path in chance.sample(_PATHS, chance.randrange(4))]


def columns(points: Points) -> tuple[str, list[int], list[float], list[float]]:
    """A series in a form that compares."""
    return points.name, list(points.steps), list(points.times), list(points.values)


class StoreContract:
    """What every store must do. Subclasses give `make`."""

    def make(self, tmp_path: Path) -> Store:
        """A new, empty store; for a `durable` one, the same store again for the same path."""
        raise AssertionError(f"give the store to test, for {tmp_path}")

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        store = self.make(tmp_path)
        yield store
        store.close()

    # Records

    def test_it_says_what_it_is(self, store: Store) -> None:
        assert store.name
        assert store.capabilities <= {"durable", "shared", "sql"}

    @pytest.mark.parametrize("record", EXAMPLES, ids=lambda r: r.KIND)
    def test_a_record_comes_back_as_it_was(self, store: Store, record: Record) -> None:
        store.put(record)
        assert store.get(type(record), record.key) == record
        assert store.find(type(record)) == [record]

    def test_every_kind_has_an_example(self) -> None:
        assert {type(r) for r in EXAMPLES} | {Event} == set(RECORDS.values())

    def test_what_is_not_there_is_none(self, store: Store) -> None:
        assert store.get(Run, "nothing") is None
        assert store.find(Run) == []
        assert store.count(Run) == 0

    def test_kinds_with_the_same_key_do_not_meet(self, store: Store) -> None:
        model, service = (
            Model(name="a", version=1, digest="", artifact="", metrics={"m": 1.0}),
            Service(name="a", revision=1, model="a@1"),
        )
        run = sample_run(1, metrics={"m": 2.0})
        store.put(model, service, run)
        assert store.find(Model, field("metrics.m") == 1.0) == [model]
        assert store.find(Run, field("metrics.m") == 1.0) == []
        assert store.drop(Model, "a@1") == 1
        assert store.get(Service, "a@1") == service
        assert store.find(Run, field("metrics.m") == 2.0) == [run]

    def test_put_replaces_all_of_it(self, store: Store) -> None:
        store.put(sample_run(1, params={"old": "x", "same": "y"}, metrics={"m": 1.0}))
        now = sample_run(1, params={"same": "y", "new": 5}, metrics={"m": 2.0})
        store.put(now)
        assert store.get(Run, now.key) == now
        assert store.find(Run, field("params.old") == "x") == []
        assert store.find(Run, field("params.old") == None) == [now]  # noqa: E711
        assert store.find(Run, (field("params.new") == 5) & (field("metrics.m") == 2)) == [now]
        assert store.find(Run, field("metrics.m") == 1.0) == []
        assert store.count(Run) == 1

    def test_a_record_put_twice_at_once_keeps_the_last(self, store: Store) -> None:
        store.put(sample_run(1, params={"p": 1}), sample_run(1, params={"p": 2}))
        assert [r.params for r in store.find(Run)] == [{"p": 2}]

    def test_add_refuses_what_exists_and_then_adds_nothing(self, store: Store) -> None:
        store.add(sample_run(1))
        with pytest.raises(Conflict):
            store.add(sample_run(2), sample_run(1, params={"p": "changed"}))
        with pytest.raises(Conflict):
            store.add(sample_run(3), sample_run(3))
        assert store.find(Run) == [sample_run(1)]

    def test_drop_says_how_many_there_were(self, store: Store) -> None:
        store.put(*(sample_run(i) for i in range(3)))
        assert store.drop(Run, "run0000", "run0001", "nothing") == 2
        assert store.drop(Run) == 0
        assert [r.id for r in store.find(Run)] == ["run0002"]
        assert store.find(Run, field("params.depth") == 0) == []
        store.put(sample_run(5))
        assert [r.id for r in store.find(Run, field("params.depth") == 0)] == ["run0005"]

    def test_a_record_is_kept_by_value(self, store: Store) -> None:
        params: dict[str, Any] = {"p": [1]}
        store.put(sample_run(1, params=params))
        params["p"].append(2)
        found = store.get(Run, "run0001")
        assert found is not None
        found.params["q"] = 1
        assert [r.params for r in store.find(Run)] == [{"p": [1]}]

    def test_dicts_keep_their_order(self, store: Store) -> None:
        store.put(sample_run(1, params={"b": 1, "a": 2}))
        (run,) = store.find(Run)
        assert list(run.params) == ["b", "a"]

    def test_what_json_cannot_carry_becomes_none(self, store: Store) -> None:
        store.put(sample_run(1, metrics={"nan": math.nan, "inf": math.inf, "ok": 1.0}, outputs={"n": math.nan}))
        (run,) = store.find(Run)
        assert run.metrics == {"nan": None, "inf": None, "ok": 1.0}
        assert run.outputs == {"n": None}
        assert store.find(Run, field("metrics.nan") == None) == [run]  # noqa: E711
        assert store.find(Run, field("metrics.inf") > 0) == []

    def test_keys_that_are_not_texts_become_texts(self, store: Store) -> None:
        store.put(sample_run(1, params={1: "one"}))
        assert [r.params for r in store.find(Run, field("params.1") == "one")] == [{"1": "one"}]

    def test_an_optional_number_keeps_none_apart_from_zero(self, store: Store) -> None:
        verdicts = [
            Verdict(id=str(i), subject="s", check="c", status="pass", score=score)
            for i, score in enumerate((None, 0.0, 1.0, math.nan))
        ]
        store.put(*verdicts)
        assert [v.score for v in store.find(Verdict)] == [None, 0.0, 1.0, None]
        assert [v.id for v in store.find(Verdict, field("score") == None)] == ["0", "3"]  # noqa: E711
        assert [v.id for v in store.find(Verdict, field("score") < 1)] == ["1"]
        assert [v.id for v in store.find(Verdict, ~(field("score") < 1))] == ["0", "2", "3"]
        assert [v.id for v in store.find(Verdict, order=["-score"])] == ["2", "1", "0", "3"]

    @pytest.mark.parametrize(
        "bad",
        [
            {"name": None}, {"started": None}, {"started": "soon"}, {"started": math.nan}, {"params": None},
            {"params": [1]}, {"pid": 1.5}, {"pid": 2**63}, {"name": "\ud800"}, {"params": {"p": "\ud800"}},
        ],
        ids=repr,
    )  # fmt: skip
    def test_a_value_of_the_wrong_type_is_refused_and_nothing_written(self, store: Store, bad: dict[str, Any]) -> None:
        with pytest.raises(Invalid):
            store.put(sample_run(1), sample_run(2, **bad))
        with store.transaction():
            store.put(sample_run(3))
            with pytest.raises(Invalid):
                store.put(sample_run(1), sample_run(2, **bad))
        assert store.find(Run) == [sample_run(3)]

    # Questions

    def test_a_question_about_no_field_is_refused(self, store: Store) -> None:
        for path in ("nothing", "params", "name.x", "ref", "KIND", ""):
            with pytest.raises(Invalid):
                store.find(Run, field(path) == 1)
            with pytest.raises(Invalid):
                store.find(Run, order=[path])
        with pytest.raises(Invalid):
            store.count(Run, Compare("name", "~", "x"))
        with pytest.raises(Invalid):
            store.find(Run, Compare("name", "contains", 5))
        with pytest.raises(Invalid):
            store.find(Run, limit=-1)

    def test_two_conditions_an_order_and_a_limit(self, store: Store) -> None:
        runs = [sample_run(i) for i in range(60)]
        store.put(*runs)
        where = (field("params.p") == "1") & (field("metrics.m") > 0.2)
        expected = sorted(
            (r for r in runs if r.params["p"] == "1" and r.metrics.get("m", 0) > 0.2), key=lambda r: -r.metrics["m"]
        )
        assert len(expected) > 5
        assert store.find(Run, where, order=["-metrics.m"], limit=5) == expected[:5]
        assert store.find(Run, where, order=["-metrics.m"]) == expected
        assert store.count(Run, where) == len(expected)

    def test_ties_are_broken_by_key_and_none_is_last(self, store: Store) -> None:
        store.put(*(sample_run(i) for i in (4, 2, 9, 7, 5, 0)))
        assert [r.id[-1] for r in store.find(Run)] == ["0", "2", "4", "5", "7", "9"]
        assert [r.id[-1] for r in store.find(Run, order=["name"])] == ["0", "9", "4", "7", "2", "5"]
        for sign, limit in itertools.product(("", "-"), (None, 3, 5, 6)):
            found = [r.id[-1] for r in store.find(Run, order=[f"{sign}metrics.m"], limit=limit)]
            with_it = sorted("2479", key=lambda d: sample_run(int(d)).metrics["m"], reverse=sign == "-")
            assert found == [*with_it, "0", "5"][:limit]

    def test_pages_follow_each_other_without_gap_or_repeat(self, store: Store) -> None:
        runs = [sample_run(i) for i in range(40)]
        store.put(*runs)
        for order in (
            [],
            ["name"],
            ["-started", "status"],
            ["metrics.m"],
            ["-metrics.m", "params.p"],
            ["-params.depth"],
        ):
            pages: list[Run] = []
            while page := store.find(Run, order=order, limit=7, after=pages[-1] if pages else None):
                pages += page
            assert pages == store.find(Run, order=order) == arranged(runs, order)

    def test_the_next_page_is_found_when_its_start_is_gone(self, store: Store) -> None:
        store.put(*(sample_run(i) for i in range(6)))
        first = store.find(Run, order=["-started"], limit=2)
        store.drop(Run, *(r.id for r in first))
        assert [r.id for r in store.find(Run, order=["-started"], after=first[-1], limit=2)] == ["run0003", "run0002"]

    def test_a_limit_of_nothing_is_nothing(self, store: Store) -> None:
        store.put(sample_run(1))
        assert store.find(Run, limit=0) == []
        assert store.find(Run, order=["metrics.m"], limit=0) == []

    def test_a_word_that_means_something_in_sql_means_nothing(self, store: Store) -> None:
        odd = """x'); DROP TABLE runs; --"%_"""
        store.put(sample_run(1, name=odd, params={odd: odd}), sample_run(2, name="xyz"))
        assert [r.id for r in store.find(Run, field("name").contains("%"))] == ["run0001"]
        assert [r.id for r in store.find(Run, field("name").contains("_"))] == ["run0001"]
        assert [r.id for r in store.find(Run, field("name").starts("X"))] == []
        assert [r.id for r in store.find(Run, field(f"params.{odd}") == odd, order=[f"params.{odd}"])] == ["run0001"]

    @pytest.mark.parametrize("seed", range(12))
    def test_any_question_means_what_core_says(self, store: Store, seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311  questions, not keys
        runs = {r.key: r for r in (random_run(chance, i) for i in range(30))}
        store.put(*runs.values())
        kept = [r for key in runs if (r := store.get(Run, key)) is not None]
        assert len(kept) == len(runs)
        for _ in range(60):
            where, order = random_where(chance), random_order(chance)
            expected = arranged((r for r in kept if matches(r, where)), order)
            limit = chance.choice((None, 1, 4, 40))
            after = chance.choice((None, None, chance.choice(kept)))
            if after is not None:
                everything = arranged({r.key: r for r in [*expected, after]}.values(), order)
                expected = everything[everything.index(after) + 1 :]
            asked = f"{where} order {order} limit {limit} after {after}"
            assert store.find(Run, where, order=order, limit=limit, after=after) == expected[:limit], asked
            assert store.count(Run, where) == sum(matches(r, where) for r in kept), asked

    def test_many_values_in_one_question(self, store: Store) -> None:
        store.put(*(sample_run(i) for i in range(5)))
        assert store.count(Run, field("id").within(f"run{i:04}" for i in range(2, 3000))) == 3

    # Edges

    def test_edges_are_found_by_each_part_oldest_first(self, store: Store) -> None:
        second = Edge("run:b", "used", "dataset:tx@1", 2.0, {"asked": "tx@latest"})
        first = Edge("run:a", "used", "dataset:tx@1", 1.0)
        other = Edge("run:a", "made", "artifact:x", 3.0)
        store.link(second, first, other)
        assert store.edges(target="dataset:tx@1") == [first, second]
        assert store.edges(source="run:a") == [first, other]
        assert store.edges(source="run:a", relation="made") == [other]
        assert store.edges(relation="used", target="dataset:tx@1", source="run:b") == [second]
        assert store.edges(source="nothing") == []
        assert store.edges() == [first, second, other]

    def test_an_edge_keeps_its_first_time_and_outlives_its_ends(self, store: Store) -> None:
        store.put(sample_run(1))
        store.link(Edge("run:run0001", "made", "artifact:x", 1.0))
        store.link(Edge("run:run0001", "made", "artifact:x", 9.0, {"a": 1}))
        store.drop(Run, "run0001")
        assert store.edges() == [Edge("run:run0001", "made", "artifact:x", 1.0)]

    # Points

    def test_points_come_back_in_the_order_they_were_logged(self, store: Store) -> None:
        store.add_points("run:a", [Points("loss", [0, 1], [1.0, 2.0], [0.5, 0.25]), Points("acc", [0], [1.5], [0.1])])
        store.add_points("run:a", [Points("loss", [5, 3, 9], [3.0, 2.5, 4.0], [0.2, math.inf, 0.1])])
        store.add_points("run:b", [Points("loss", [0], [0.0], [9.0])])
        loss = ("loss", [0, 1, 5, 3, 9], [1.0, 2.0, 3.0, 2.5, 4.0], [0.5, 0.25, 0.2, math.inf, 0.1])
        assert [columns(p) for p in store.points("run:a")] == [("acc", [0], [1.5], [0.1]), loss]
        assert [columns(p) for p in store.points("run:a", "loss")] == [loss]
        assert store.points("run:a", "nothing") == []
        assert store.points("run") == []

    @pytest.mark.parametrize("n", [1, 2, 1000])
    @pytest.mark.parametrize("shape", ["even", "descending", "constant", "random"])
    def test_any_series_survives(self, store: Store, n: int, shape: str) -> None:
        chance = random.Random(n)  # noqa: S311  numbers, not keys
        steps = {
            "even": [10 + 3 * i for i in range(n)],
            "descending": [-2 * i for i in range(n)],
            "constant": [5] * n,
            "random": [chance.randrange(-(2**63), 2**63) for _ in range(n)],
        }[shape]
        times = [7.5] * n if shape == "constant" else [chance.random() for _ in range(n)]
        values = [chance.choice((0.1, -0.0, 1e308, chance.random())) for _ in range(n)]
        store.add_points("run:a", [Points("x", tuple(steps), tuple(times), tuple(values))])
        assert [columns(p) for p in store.points("run:a")] == [("x", steps, times, values)]

    def test_nan_is_a_point(self, store: Store) -> None:
        store.add_points("run:a", [Points("loss", [0], [0.0], [math.nan])])
        ((_, _, _, (value,)),) = map(columns, store.points("run:a"))
        assert math.isnan(value)

    def test_a_series_that_is_none_is_refused(self, store: Store) -> None:
        good = Points("good", [1], [1.0], [1.0])
        bad: list[Any] = [
            Points("x", [1], [1.0], []),
            Points("x", ["a"], [1.0], [1.0]),  # type: ignore[list-item]
            Points("x", [1.5], [1.0], [1.0]),  # type: ignore[list-item]
            Points("x", [1], [1.0], [None]),  # type: ignore[list-item]
            Points("x", [2**63], [1.0], [1.0]),
        ]
        for series in bad:
            with pytest.raises(Invalid):
                store.add_points("run:a", [good, series])
        store.add_points("run:a", [Points("empty", [], [], [])])
        assert store.points("run:a") == []

    # The journal

    def test_events_are_numbered_stamped_and_chained(self, store: Store) -> None:
        first = store.append(Event(type="model.stage", subject="model:churn@3", data={"from": "none"}))
        second = store.append(Event(type="model.stage", subject="model:churn@4", time=5.0))
        assert (first.sequence, second.sequence) == (1, 2)
        assert first.time > 0
        assert second.time == 5.0
        assert (first.previous, second.previous) == ("", first.digest)
        assert len(first.digest) == len(second.digest) == 64
        assert store.events() == [first, second]
        assert list(store.check()) == []

    def test_events_are_found_by_type_subject_and_place(self, store: Store) -> None:
        for type_, subject in (
            ("model.stage", "model:churn@3"), ("model.registered", "model:churn"), ("model", "model:churner@1"),
            ("models.x", "model:churn@10"), ("run.failed", "run:x"),
        ):  # fmt: skip
            store.append(Event(type=type_, subject=subject))

        def found(**asked: Any) -> list[int]:
            return [event.sequence for event in store.events(**asked)]

        assert found(type="model") == [1, 2, 3]
        assert found(type="model.stage") == [1]
        assert found(subject="model:churn") == [1, 2, 4]
        assert found(subject="model:churn@3") == [1]
        assert found(subject="model:churn", type="model") == [1, 2]
        assert found(after=3) == [4, 5]
        assert found(after=1, limit=2) == [2, 3]
        assert found(after=1, subject="model:churn", type="model") == [2]
        assert found(after=99) == []
        assert found(limit=0) == []

    def test_events_are_records_to_read_and_never_to_write(self, store: Store) -> None:
        event = store.append(Event(type="a", subject="s", data={"n": math.nan}))
        assert store.get(Event, "1") == event
        assert store.find(Event, field("type") == "a") == [event]
        assert store.count(Event) == 1
        for change in (store.put, store.add):
            with pytest.raises(Refused):
                change(dataclasses.replace(event, reason="another"))
        with pytest.raises(Refused):
            store.drop(Event, "1")
        assert store.events() == [event]

    # Transactions

    def test_a_transaction_is_all_or_nothing(self, store: Store) -> None:
        store.put(sample_run(9))
        with pytest.raises(ZeroDivisionError), store.transaction():
            store.put(sample_run(1), sample_run(9, name="changed", params={"brand": "new"}))
            store.drop(Run, "run0009")
            store.link(Edge("run:a", "used", "dataset:b"))
            store.add_points("run:a", [Points("x", [0], [0.0], [0.0])])
            store.append(Event(type="a"))
            assert store.count(Run) == 1
            assert store.get(Run, "run0001") is not None
            1 / 0  # noqa: B018
        assert store.find(Run) == [sample_run(9)]
        assert store.find(Run, field("params.p") == "1") == [sample_run(9)]
        assert store.edges() == []
        assert store.points("run:a") == []
        assert store.append(Event(type="b")).sequence == 1
        store.put(sample_run(2, params={"brand": "old"}))
        assert store.count(Run, field("params.brand") == "old") == 1
        assert list(store.check()) == []

    def test_nested_transactions_join_the_outermost(self, store: Store) -> None:
        with pytest.raises(ZeroDivisionError), store.transaction():
            with store.transaction():
                store.put(sample_run(1))
            1 / 0  # noqa: B018
        assert store.find(Run) == []
        with store.transaction(), store.transaction():
            store.put(sample_run(1))
        assert store.find(Run) == [sample_run(1)]

    def test_what_fails_within_and_is_caught_takes_only_itself_back(self, store: Store) -> None:
        with store.transaction():
            store.put(sample_run(1))
            with pytest.raises(ZeroDivisionError), store.transaction():
                store.put(sample_run(2, params={"fresh": 1}))
                1 / 0  # noqa: B018
            with pytest.raises(Conflict):
                store.add(sample_run(3), sample_run(1))
            store.put(sample_run(4, params={"fresh": 1}))
        assert [r.id for r in store.find(Run)] == ["run0001", "run0004"]
        assert [r.id for r in store.find(Run, field("params.fresh") == 1)] == ["run0004"]

    def test_threads_write_at_once_and_lose_nothing(self, store: Store) -> None:
        failures: list[BaseException] = []

        def work(worker: int) -> None:
            try:
                for i in range(10):
                    with store.transaction():
                        store.put(sample_run(worker * 10 + i, params={f"own{worker}": i}))
                        store.append(Event(type="made", subject=f"run:{worker}"))
            except BaseException as error:  # noqa: BLE001  it is raised again below
                failures.append(error)

        threads = [threading.Thread(target=work, args=(worker,)) for worker in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert store.count(Run) == 80
        assert [event.sequence for event in store.events()] == list(range(1, 81))
        assert [store.count(Run, field(f"params.own{w}") >= 5) for w in range(8)] == [5] * 8
        assert list(store.check()) == []

    def test_a_read_and_then_a_write_in_a_transaction_are_one(self, store: Store) -> None:
        store.put(sample_run(1, params={"n": 0}))

        def work() -> None:
            for _ in range(15):
                with store.transaction():
                    run = store.get(Run, "run0001")
                    assert run is not None
                    store.put(sample_run(1, params={"n": run.params["n"] + 1}))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [r.params["n"] for r in store.find(Run)] == [60]

    def test_a_durable_store_remembers(self, tmp_path: Path) -> None:
        store = self.make(tmp_path)
        try:
            if "durable" not in store.capabilities:
                pytest.skip(f"{store.name} is not durable")
            store.put(*EXAMPLES)
            store.link(Edge("run:a", "used", "dataset:b", 1.0, {"x": 1}))
            store.add_points("run:a", [Points("x", [0], [0.5], [1.0])])
            event = store.append(Event(type="a"))
            store.close()
            store = self.make(tmp_path)
            assert all(store.get(type(r), r.key) == r for r in EXAMPLES)
            assert store.find(Run, field("params.depth") == 3) != []
            assert store.edges() == [Edge("run:a", "used", "dataset:b", 1.0, {"x": 1})]
            assert [columns(p) for p in store.points("run:a")] == [("x", [0], [0.5], [1.0])]
            assert store.append(Event(type="b")).previous == event.digest
        finally:
            store.close()

    def test_closing_twice_is_closing(self, store: Store) -> None:
        store.close()
        store.close()
