"""What a phase has seen: however often one looks it is the same, and the measures are those of the rows themselves."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import boucle
from boucle.core.records import Model, Service
from boucle.core.refs import id_at
from boucle.ledger import models, services
from boucle.measure.sequential import Moments, difference, paired, share, shares
from boucle.ops.rollout import tally as tallies
from boucle.ops.rollout.plan import Policy
from boucle.ops.rollout.replay import replay
from boucle.ops.rollout.tally import Tally
from boucle.testing.target import double

BEGAN = 1_750_000_000.0
CLASSES = Model(name="m", version=1, digest="d", artifact="a", task="multiclass")
NUMBERS = Model(name="m", version=1, digest="d", artifact="a", task="regression")
POLICY = Policy(worse=0.1, differ=0.4, errors=0.05, slow=0.2)


def made(at: float) -> str:
    """An id that was made so many seconds after the phase began."""
    return id_at(BEGAN + at)[:-1] + "1"


def line(at: float, said: object = "a", request: str = "", **more: object) -> dict:
    """A prediction, asked so many seconds after the phase began."""
    return {
        "id": made(at), "time": BEGAN + at, "inputs": {"x": 1.0}, "output": {"prediction": said}, "latency_us": 1000,
        "request": request or f"request {at}", **more,
    }  # fmt: skip


def failure(at: float, **more: object) -> dict:
    return {
        "id": made(at),
        "time": BEGAN + at,
        "status": 500,
        "what": "it broke",
        "request": f"request {at}",
        **more,
    }


def revision(
    folder: Path, lines: list[dict], failures: list[dict] = (), labels: list[tuple[str, object]] = ()
) -> Service:
    service = Service(name="m", revision=1, model="m@1", folder=str(folder))
    for name, rows in (("predictions", lines), ("failures", failures)):
        if rows:
            (folder / name).mkdir(parents=True, exist_ok=True)
            with (folder / name / f"{id_at(BEGAN - 1000)}.jsonl").open("a") as file:
                file.writelines(
                    json.dumps(r, separators=(",", ":")) + "\n" for r in sorted(rows, key=lambda r: r["id"])
                )
    tell(folder, labels)
    return service


def tell(folder: Path, labels: list[tuple[str, object]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "labels.jsonl").open("a") as file:
        file.writelines(json.dumps({"id": i, "label": v, "time": BEGAN}) + "\n" for i, v in labels)


def look(tally: Tally, service: Service, until: float, *, shadow: bool = False, model: Model = CLASSES) -> list[dict]:
    """What one turn of a rollout reads of a revision."""
    lines = tallies.read_answers(tally.after, service, id_at(BEGAN), BEGAN + until, shadow=shadow)
    for record, label in tallies.read_labels(tally.after, service, BEGAN, {r["id"]: r for r in lines}):
        wrong = tallies.loss(model, record["output"]["prediction"], label)
        if wrong is not None:
            tally.after.loss.add(wrong)
    return lines


# --- reading -----------------------------------------------------------------------------------------------------------

moments = st.floats(-50, 100, allow_nan=False).map(lambda x: round(x, 2))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    st.lists(moments, unique=True, max_size=40), st.lists(moments, unique=True, max_size=10),
    st.lists(st.floats(0, 100), max_size=6), st.randoms(use_true_random=False),
)  # fmt: skip
def test_any_number_of_looks_sees_the_same(tmp_path_factory, asked, failed, looks, chance):
    folder = tmp_path_factory.mktemp("revision")
    kinds = [{}, {"request": "probe"}, {"shadow": made(0)}, {"request": "one of many rows"}]
    lines = [line(at, chance.choice("ab"), **chance.choice(kinds)) for at in asked]
    lines = [{**r, "latency_us": chance.randrange(1, 10**6)} for r in lines]
    labels = [(r["id"], chance.choice(["a", "b", "c"])) for r in lines if chance.random() < 0.6]
    failures = [failure(at, shadow=chance.random() < 0.3) for at in failed]
    service = revision(folder, lines, failures, labels)
    whole, parts = Tally(), Tally()
    in_one = look(whole, service, 100)
    in_many = []
    for until in [*sorted(looks), 100]:
        in_many += look(parts, service, until)
        parts = Tally.from_json(json.loads(json.dumps(parts.to_json())))
    assert [r["id"] for r in in_many] == [r["id"] for r in in_one]
    assert parts.to_json() == whole.to_json()
    counted = sorted(
        (r for r in lines if r["time"] >= BEGAN and r["request"] != "probe" and "shadow" not in r), key=lambda r: r["id"]
    )  # fmt: skip
    assert whole.after.rows == len(counted) == len(in_one)
    assert whole.after.requests == sum(
        a["request"] != (b["request"] if b else "") for a, b in zip(counted, [None, *counted], strict=False)
    )
    assert sum(whole.after.latency.values()) == whole.after.requests
    assert whole.after.failed == sum(f["time"] >= BEGAN and not f["shadow"] for f in failures)


def test_reading_goes_on_where_it_stopped_with_what_came_meanwhile(tmp_path):
    service = revision(tmp_path, [line(1), line(2)], [failure(1.5)])
    tally = Tally()
    assert len(look(tally, service, 10)) == 2
    assert look(tally, service, 10) == []
    revision(tmp_path, [line(3), line(20)], [failure(4), failure(5, shadow=True)])
    assert [r["time"] - BEGAN for r in look(tally, service, 10)] == [3]
    assert (tally.after.rows, tally.after.requests, tally.after.failed) == (3, 3, 2)
    assert [r["time"] - BEGAN for r in look(tally, service, 30)] == [20]


def test_what_was_mirrored_counts_for_the_shadow_alone(tmp_path):
    lines = [line(1), line(2, shadow=made(0)), line(3, shadow=made(1))]
    service = revision(tmp_path, lines, [failure(4, shadow=True), failure(5)])
    live, mirrored = Tally(), Tally()
    assert [r["time"] - BEGAN for r in look(live, service, 10)] == [1]
    assert [r["time"] - BEGAN for r in look(mirrored, service, 10, shadow=True)] == [2, 3]
    assert (live.after.failed, mirrored.after.failed) == (1, 1)


def test_a_request_with_many_rows_is_one(tmp_path):
    service = revision(tmp_path, [line(i / 10, request="r1" if i < 5 else "r2", latency_us=3000) for i in range(9)])
    tally = Tally()
    look(tally, service, 10)
    assert (tally.after.rows, tally.after.requests, sum(tally.after.latency.values())) == (9, 2, 2)


# --- labels ------------------------------------------------------------------------------------------------------------


def test_labels_count_when_the_answer_is_of_this_phase_however_late_they_come(tmp_path):
    before, within, later = line(-30), line(5), line(8)
    service = revision(tmp_path, [before, within, later], labels=[(before["id"], "b"), (within["id"], "b")])
    tally = Tally()
    look(tally, service, 10)
    assert (tally.after.loss.rows, tally.after.loss.mean) == (1, 1.0)  # one label, and the answer was wrong
    tell(tmp_path, [(later["id"], "a")])
    look(tally, service, 10)
    assert (tally.after.loss.rows, tally.after.loss.mean) == (2, 0.5)
    look(tally, service, 10)
    assert tally.after.loss.rows == 2


def test_half_a_label_waits_for_its_other_half(tmp_path):
    said = line(1)
    service = revision(tmp_path, [said])
    whole = json.dumps({"id": said["id"], "label": "a", "time": BEGAN}) + "\n"
    tally = Tally()
    with (tmp_path / "labels.jsonl").open("a") as file:
        file.write(whole[:20])
        file.flush()
        look(tally, service, 10)
        assert tally.after.loss.rows == 0
        file.write(whole[20:])
    look(tally, service, 10)
    assert tally.after.loss.rows == 1


def test_labels_of_shadows_and_of_unknown_answers_are_left_out(tmp_path):
    mirrored = line(1, shadow=made(0))
    service = revision(tmp_path, [mirrored], labels=[(mirrored["id"], "a"), (made(7), "a")])
    assert list(tallies.read_labels(Tally().after, service, BEGAN, {})) == []


@pytest.mark.parametrize(
    ("model", "said", "label", "wrong"),
    [
        (CLASSES, "a", "a", 0.0), (CLASSES, "a", "b", 1.0), (CLASSES, 1, "1", 0.0), (CLASSES, True, "false", 1.0),
        (CLASSES, True, "perhaps", None), (CLASSES, None, "a", None), (NUMBERS, 2.5, "4", 1.5), (NUMBERS, 2.5, "far", None),
    ],
)  # fmt: skip
def test_how_wrong_an_answer_was(model, said, label, wrong):
    assert tallies.loss(model, said, label) == wrong


# --- pairs and measures ------------------------------------------------------------------------------------------------


def paired_up(rows: list[tuple], model: Model, spread: float = 0.0) -> Tally:
    tally = Tally(spread=spread)
    for old, new, label in rows:
        tallies.compare(tally, old, new, model, label)
    return Tally.from_json(json.loads(json.dumps(tally.to_json())))


def test_pairs_of_classes_against_counting():
    chance = random.Random(0)
    rows = [(chance.choice("ab"), chance.choice("ab"), chance.choice(["a", "b", None])) for _ in range(500)]
    tally = paired_up(rows, CLASSES)
    told = [r for r in rows if r[2] is not None]
    gaps = [float(new != label) - float(old != label) for old, new, label in told]
    assert (tally.pairs, tally.labelled) == (500, len(told))
    assert tally.differ == sum(a != b for a, b, _ in rows)
    assert (tally.worse, tally.better) == (gaps.count(1.0), gaps.count(-1.0))
    found = tallies.measures(tally, POLICY, 0.01)
    assert set(found) == {"score", "differ"}
    harm, sure = found["score"].harm, paired(gaps, 0.01)
    assert (harm.estimate, harm.low, harm.high) == pytest.approx((np.mean(gaps), sure.low, sure.high))
    assert found["differ"].harm == share(tally.differ, 500, 0.01)
    right = 1 - np.mean([old != label for old, _, label in told])
    assert f"{right:.1%} before" in found["score"].said


def test_pairs_of_numbers_against_their_sums():
    chance = np.random.default_rng(0)
    truth = chance.normal(50, 10, 400)
    old, new = truth + chance.normal(0, 4, 400), truth + chance.normal(0, 2, 400)
    tally = paired_up(
        list(zip(old.tolist(), new.tolist(), truth.tolist(), strict=True)), NUMBERS, tallies.spread_of(old.tolist())
    )
    assert tally.differ == np.sum(np.abs(old - new) > old.std() / 4)
    gap, base = np.abs(new - truth) - np.abs(old - truth), np.abs(old - truth)
    assert tally.gap.moments.mean == pytest.approx(gap.mean())
    assert tally.gap.moments.variance == pytest.approx(gap.var(ddof=1))
    score = tallies.measures(tally, POLICY, 0.01)["score"]
    assert score.harm.estimate == pytest.approx(gap.mean() / base.mean())
    assert score.harm.low < score.harm.estimate < score.harm.high < 0
    assert score.state == "ok"
    assert tallies.measures(paired_up([(1.0, 2.0, 1.5)] * 9, NUMBERS), POLICY, 0.01)["score"].state == "open"


def test_a_function_without_a_task_that_answers_with_amounts_is_off_by_some():
    tally = paired_up([(10.0, 10.5, 10.2)] * 40, Model(name="fare", version=1, digest="", artifact=""))
    assert tally.numbers
    assert "off by 0.3 on average, 0.2 before" in tallies.measures(tally, POLICY, 0.05)["score"].said


def test_two_that_are_never_off_are_equals_and_one_that_is_is_worse():
    assert tallies.measures(paired_up([(1.0, 1.0, 1.0)] * 40, NUMBERS), POLICY, 0.05)["score"].state == "ok"
    assert tallies.measures(paired_up([(1.0, 1.1, 1.0)] * 40, NUMBERS), POLICY, 0.05)["score"].state == "worse"


def test_two_revisions_against_counting():
    chance = random.Random(1)
    tally = Tally()
    wrong = {"before": 0, "after": 0}
    for name, part in (("before", 0.3), ("after", 0.1)):
        seen = getattr(tally, name)
        for _ in range(300):
            miss = float(chance.random() < part)
            wrong[name] += int(miss)
            seen.loss.add(miss)
    tally.before.requests, tally.before.failed = 290, 10
    tally.after.requests, tally.after.failed = 100, 0
    found = tallies.measures(tally, POLICY, 0.02)
    assert found["score"].harm == shares((wrong["before"], 300), (wrong["after"], 300), 0.02)
    assert found["score"].state == "ok"
    assert found["errors"].harm == shares((10, 300), (0, 100), 0.02)
    assert "0 of 100 requests failed" in found["errors"].said


def test_losses_of_numbers_are_told_as_a_part_of_the_old_error():
    chance = np.random.default_rng(2)
    old, new = chance.gamma(2, 1, 500), chance.gamma(2, 1.6, 500)
    tally = Tally(numbers=True)
    for seen, losses in ((tally.before, old), (tally.after, new)):
        for value in losses.tolist():
            seen.loss.add(value)
    score = tallies.measures(tally, POLICY, 0.05)["score"]
    gap = difference(Moments.of(old), Moments.of(new), 0.05)
    assert score.harm.low == pytest.approx(gap.low / old.mean())
    assert score.harm.high == pytest.approx(gap.high / old.mean())
    assert score.state == "worse"


def test_slow_is_half_as_long_again_as_the_slowest_of_before(tmp_path):
    before = revision(tmp_path / "1", [line(i / 10, latency_us=10_000) for i in range(200)])
    after = revision(tmp_path / "2", [line(i / 10, latency_us=40_000 if i % 2 else 11_000) for i in range(200)])
    tally = Tally()
    tallies.read_answers(tally.before, before, id_at(BEGAN), BEGAN + 100, shadow=False)
    tallies.read_answers(tally.after, after, id_at(BEGAN), BEGAN + 100, shadow=False)
    slow = tallies.measures(tally, POLICY, 0.05)["slow"]
    assert slow.harm == shares((0, 200), (100, 200), 0.05)
    assert slow.state == "worse"


def test_nothing_is_known_of_nothing():
    assert tallies.measures(Tally(), POLICY, 0.05) == {}
    assert tallies.measures(Tally.from_json({}), POLICY, 0.05) == {}
    alone = Tally()
    alone.before.requests = alone.before.rows = 50
    alone.before.latency = {"80": 50}
    alone.before.loss.add(0.0)
    assert tallies.measures(alone, POLICY, 0.05) == {}  # of the new revision nothing was seen


def test_what_was_read_is_not_changed_by_counting_on():
    kept = Tally().to_json()
    counted = Tally.from_json(kept)
    counted.after.latency["3"] = 1
    counted.before.loss.add(1.0)
    assert kept == Tally().to_json()


def test_numbers_differ_by_a_quarter_of_their_spread():
    assert tallies.spread_of([1.0, 3.0]) == 1.0
    assert tallies.spread_of(["a", "b"]) == tallies.spread_of([1.0]) == tallies.spread_of([True, False]) == 0.0
    tally = Tally(spread=4.0)
    for new in (10.9, 11.1, 9.0):
        tallies.compare(tally, 10.0, new, NUMBERS)
    assert tally.differ == 1
    ids = Tally(spread=4.0)
    tallies.compare(ids, 1, 2, CLASSES)
    assert ids.differ == 1


# --- replay ------------------------------------------------------------------------------------------------------------


def test_replay_reads_on_until_it_is_decided(tmp_path):
    with boucle.init(tmp_path / "shop") as ws:
        model = models.register(ws, "twice", double, data=boucle.Frame.of({"x": [1.0, 2.0]}))
        before = services.reserve(ws, "twice", model, "process", BEGAN)
        folder = Path(before.folder)

        def asked(start, rows):
            lines = [line(start + i / 100, 2.0, request="probe" if i == 0 else "") for i in range(rows)]
            revision(folder, lines)
            return lines

        asked(0, 41)
        policy = Policy(rows=60)
        tally, broken = replay(ws, Tally(), before, model, tmp_path, policy, BEGAN + 10)
        assert (tally.pairs, tally.differ, tally.labelled, broken) == (40, 0, 0, "")
        asked(1, 10)
        tally, _ = replay(ws, tally, before, model, tmp_path, policy, BEGAN + 10)
        assert tally.pairs == 40  # too few to load the model for
        last = asked(2, 21)
        tally, _ = replay(ws, tally, before, model, tmp_path, policy, BEGAN + 10)
        assert tally.pairs == 40 + 9 + 20
        tell(folder, [(r["id"], 2.0 if i % 2 else 3.0) for i, r in enumerate(last)])
        tally, _ = replay(ws, tally, before, model, tmp_path, policy, BEGAN + 10)
        assert (tally.pairs, tally.labelled) == (89, 20)
        assert math.isclose(tally.base.mean, 0.5)
        again, _ = replay(ws, tally, before, model, tmp_path, policy, BEGAN + 10)
        assert again.to_json() == tally.to_json()
