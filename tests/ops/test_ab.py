"""Experiments: two revisions whose logs are written here, without a server."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import boucle
from boucle.core.errors import Invalid, NotFound
from boucle.core.records import Rollout, Service
from boucle.core.refs import new_id
from boucle.ledger import models, services
from boucle.ops.ab import Experiment, ab
from boucle.ops.label import label
from boucle.ops.serve.predictions import FailureLog, PredictionLog

START = 1_800_000_000.0
CODE = """
def says(rows):
    return ["stays"] * len(rows)

def costs(rows):
    return [3.0] * len(rows)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[boucle.Workspace, list[models.Model]]]:
    """A workspace with two versions of two models."""
    folder = tmp_path_factory.mktemp("ab")
    (folder / "answering.py").write_text(CODE)
    sys.path.insert(0, str(folder))
    try:
        import answering

        with boucle.init(folder) as ws:
            ws.now = lambda: START + 10_000.0
            data = boucle.Frame.of({"km": [1.0, 2.0, 3.0], "zone": ["north", "south", "north"]})
            made = []
            for _ in range(2):
                made.append(models.register(ws, "churn", answering.says, data=data))
                made.append(models.register(ws, "fare", answering.costs, data=data))
            yield ws, made
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("answering", None)


class Trial:
    """A rollout with the logs of both revisions."""

    def __init__(self, ws: boucle.Workspace, before: models.Model, after: models.Model, **facts: Any) -> None:
        self.ws, self.name = ws, f"s{new_id().lower()}"
        self.arms = [services.reserve(ws, self.name, m, "process", START) for m in (before, after)]
        fields = {"strategy": "ab", "policy": {"share": 0.5}, "status": "running", "started": START, **facts}
        self.rollout = Rollout(id=new_id(), service=self.name, before=1, after=2, **fields)
        ws.store.put(self.rollout)

    def answer(
        self, arm: int, answers: Sequence[Any], *, latency: Sequence[int] | int = 2000, request: str = "",
        begin: float = 1.0, every: float = 1.0, **members: Sequence[Any],
    ) -> list[str]:  # fmt: skip
        """One prediction per request; `members` are further ones of the lines, or `zone` of the inputs."""
        lines = []
        for i, value in enumerate(answers):
            body = {
                "time": START + begin + every * i, "service": self.name, "revision": arm + 1,
                "inputs": {"km": 1.0, "zone": members["zone"][i] if "zone" in members else "north"},
                "output": {"prediction": value}, "latency_us": latency if isinstance(latency, int) else int(latency[i]),
                "request": request or new_id(), **{k: v[i] for k, v in members.items() if k != "zone"},
            }  # fmt: skip
            lines.append(json.dumps(body)[1:-1])
        log = PredictionLog(Path(self.arms[arm].folder, "predictions"))
        try:
            return log.append(lines)
        finally:
            log.close()

    def fail(self, arm: int, times: int) -> None:
        """Requests that the revision failed just now."""
        body = {"time": START + 50.0, "status": 500, "what": "it broke", "latency_us": 100}
        log = PredictionLog(Path(self.arms[arm].folder, "failures"))
        log.append([json.dumps({**body, "request": new_id()})[1:-1] for _ in range(times)])
        log.close()

    def judge(self, arm: int, right: float, rows: int, seed: int, **members: Any) -> None:
        """Labelled answers of which so large a share is right."""
        random = np.random.default_rng(seed)
        ids = self.answer(arm, ["stays"] * rows, **members)
        truth = np.where(random.random(rows) < right, "stays", "leaves").tolist()
        label(self.ws, self.arms[arm], dict(zip(ids, truth, strict=True)))

    def look(self, **asked: Any) -> Experiment:
        return ab(self.ws, self.name, **asked)


@pytest.fixture
def trial(place) -> Callable[..., Trial]:
    ws, made = place
    return lambda task="churn", **facts: Trial(ws, *[m for m in made if m.name == task], **facts)


def named(seen: Experiment, name: str) -> Any:
    return next(m for m in seen.measures if m.name == name)


def test_a_better_revision_is_found_and_said_to_be(trial):
    one = trial()
    one.judge(0, 0.80, 1500, seed=1)
    one.judge(1, 0.88, 1500, seed=2)
    seen = one.look()
    main = seen.main
    assert (main.name, main.verdict, main.rows, main.counted) == (
        "right",
        "better",
        (1500, 1500),
        "labelled predictions",
    )
    assert main.effect.low > 0
    assert main.needed is None
    assert main.effect.estimate == pytest.approx(main.after - main.before)
    assert re.fullmatch(
        r"churn@2 is right in 8\d\.\d % of cases, churn@1 in \d\d\.\d %: \d\.\d points better \(95 % interval "
        r"\d\.\d to \d+\.\d, from 3,000 labelled predictions\)\. The experiment may be stopped\.",
        seen.sentence,
    )
    assert (seen.before.labelled, seen.after.labelled) == (1500, 1500)
    assert seen.path[-1] == main.effect
    assert [i.rows for i in seen.path] == sorted({i.rows for i in seen.path})
    assert json.loads(json.dumps(seen.to_json()))["measures"][0]["verdict"] == "better"


def test_a_worse_one_as_well(trial):
    one = trial()
    one.judge(0, 0.9, 800, seed=1)
    one.judge(1, 0.7, 800, seed=2)
    seen = one.look()
    assert seen.main.verdict == "worse"
    assert "points worse (95 % interval" in seen.sentence


def test_too_few_rows_say_so_and_how_many_more_it_takes(trial):
    one = trial()
    one.judge(0, 0.80, 200, seed=3)
    one.judge(1, 0.83, 200, seed=4)
    seen = one.look(smallest=0.02)
    main = seen.main
    assert main.verdict == "not enough yet"
    assert main.effect.low < 0 < main.effect.high
    assert main.needed is not None
    assert 5_000 < main.needed < 50_000
    assert main.seconds == pytest.approx(main.needed, rel=0.02)  # one a second in each arm
    assert "may be chance" in seen.sentence
    assert re.search(r"About [\d,]+ more labelled predictions per revision, \d+ hours at the present rate, would show "
                     r"a difference of 2\.0 points", seen.sentence)  # fmt: skip
    assert ab(one.ws, one.name, smallest=0.04).main.needed < main.needed / 3


def test_two_that_are_alike_are_found_to_be(trial):
    one = trial()
    one.judge(0, 0.95, 4000, seed=5, every=0.1)
    one.judge(1, 0.95, 4000, seed=6, every=0.1)
    assert one.look().main.verdict == "not enough yet"
    seen = one.look(smallest=0.03)
    assert seen.main.verdict == "no difference"
    assert "no difference larger than 3.0 points" in seen.sentence
    assert seen.sentence.endswith("The experiment may be stopped.")


def test_numbers_are_judged_by_their_error(trial):
    one, random = trial("fare"), np.random.default_rng(7)
    for arm, spread in ((0, 2.0), (1, 1.0)):
        ids = one.answer(arm, [3.0] * 600)
        truth = (3.0 + random.normal(0, spread, 600)).tolist()
        label(one.ws, one.arms[arm], {i: str(v) for i, v in zip(ids, truth, strict=True)})  # as a file has it
    seen = one.look()
    assert (seen.main.name, seen.main.good, seen.main.verdict) == ("error", "lower", "better")
    assert seen.main.before == pytest.approx(2.0 * np.sqrt(2 / np.pi), rel=0.1)
    assert seen.sentence.startswith("fare@2 is off by ")
    assert named(seen, "prediction").verdict == "not enough yet"


def test_labels_may_be_rewards(trial):
    one, random = trial(), np.random.default_rng(8)
    for arm, worth in ((0, 1.0), (1, 1.6)):
        ids = one.answer(arm, ["stays"] * 900)
        label(one.ws, one.arms[arm], dict(zip(ids, random.gamma(1.0, worth, 900).tolist(), strict=True)))
    seen = one.look(metric="reward")
    assert (seen.main.name, seen.main.unit, seen.main.verdict) == ("reward", "", "better")
    assert "earns" in seen.sentence
    paid = trial()
    paid.judge(0, 0.5, 50, seed=1)
    with pytest.raises(Invalid, match="expected: a number"):
        paid.look(metric="reward")


def test_conversions_are_rewards_in_points(trial):
    one, random = trial(), np.random.default_rng(9)
    for arm, chance in ((0, 0.1), (1, 0.3)):
        ids = one.answer(arm, ["stays"] * 600)
        label(one.ws, one.arms[arm], dict(zip(ids, (random.random(600) < chance).astype(int).tolist(), strict=True)))
    seen = one.look(metric="reward")
    assert (seen.main.unit, seen.main.verdict) == ("%", "better")
    assert "points better" in seen.sentence


def test_failures_decide_where_nothing_is_labelled_and_warn_where_something_is(trial):
    one = trial()
    for arm in (0, 1):
        one.answer(arm, ["stays"] * 500)
    one.fail(1, 60)
    seen = one.look()
    assert (seen.main.name, seen.main.verdict, seen.main.rows) == ("failures", "worse", (500, 560))
    assert seen.main.after == pytest.approx(60 / 560)
    two = trial()
    two.judge(0, 0.6, 500, seed=1)
    two.judge(1, 0.9, 500, seed=2)
    two.fail(1, 60)
    assert two.look().sentence.endswith("The experiment may be stopped, but it is worse in failures.")


def test_response_times_are_compared_by_mean_and_by_the_slow_ones(trial):
    one, random = trial(), np.random.default_rng(10)
    one.answer(0, ["stays"] * 1200, latency=random.gamma(4.0, 500.0, 1200))
    one.answer(1, ["stays"] * 1000, latency=random.gamma(4.0, 900.0, 1000))
    seen = one.look(metric="latency")
    assert (seen.main.unit, seen.main.verdict) == ("ms", "worse")
    assert seen.main.before == pytest.approx(2.0, rel=0.1)
    assert seen.main.detail.startswith("p95 ")
    slow = named(seen, "slow")
    assert slow.rows == (1000, 1000)  # those that set the limit are left out
    assert slow.before == pytest.approx(0.05, abs=0.04)
    assert slow.verdict == "worse"


def test_what_is_predicted_is_compared_class_by_class(trial):
    one = trial()
    one.answer(0, ["stays", "leaves"] * 300)
    one.answer(1, ["stays", "stays", "stays", "leaves"] * 150)
    mix = named(one.look(), "prediction")
    assert (mix.detail, mix.before, mix.after, mix.verdict) == ("stays", 0.5, 0.75, "higher")


def test_probes_shadows_and_what_was_before_do_not_count(trial):
    one = trial()
    one.answer(0, ["stays"] * 7, begin=-50.0)  # before the rollout
    one.answer(0, ["stays"] * 5, begin=1.0)  # before the new revision had its first request
    one.answer(0, ["stays"] * 11, begin=20.0)
    one.answer(1, ["stays"] * 13, begin=20.0)
    one.answer(1, ["stays"] * 3, request="probe")
    one.answer(1, ["stays"] * 4, shadow=[new_id() for _ in range(4)])
    one.answer(1, ["stays"] * 6, begin=20_000.0)  # not yet
    seen = one.look()
    assert (seen.before.predictions, seen.after.predictions) == (11, 13)
    assert seen.since == START + 20.0


def test_failures_are_read_as_a_service_writes_them(trial):
    one = trial(started=0.0)
    one.ws.now, before = (lambda: 1e12), one.ws.now
    try:
        log = FailureLog(Path(one.arms[1].folder, "failures"))
        log.note(f'"service":"{one.name}","revision":2', 500, "it broke", 120, new_id())
        log.note(f'"service":"{one.name}","revision":2', 500, "it broke", 120, new_id(), shadow=True)
        log.close()
        assert one.look().after.failures == 1
    finally:
        one.ws.now = before


def test_keys_that_return_count_once(trial):
    one, random = trial(), np.random.default_rng(11)
    for arm in (0, 1):
        # 20 people who each ask 50 times, and get the same every time: no news after the first.
        people = np.repeat(np.arange(20), 50)
        right = (random.random(20) < (0.3, 0.7)[arm])[people]
        ids = one.answer(arm, ["stays"] * 1000, key=[f"{arm}-{p}" for p in people])
        label(one.ws, one.arms[arm], {i: "stays" if r else "leaves" for i, r in zip(ids, right.tolist(), strict=True)})
    seen = one.look()
    assert seen.main.rows == (20, 20)
    assert seen.main.counted == "keys with labelled predictions"
    assert seen.main.verdict == "not enough yet"  # 1,000 rows would have been plenty
    assert (seen.split.keys, seen.split.both) == (40, 0)
    assert any("each key counts once" in n for n in seen.notes)


def test_keys_that_got_both_are_counted(trial):
    one = trial()
    one.answer(0, ["stays"] * 30, key=[f"p{i}" for i in range(30)])
    one.answer(1, ["stays"] * 30, key=[f"p{i}" for i in range(20, 50)])
    seen = one.look()
    assert (seen.split.keys, seen.split.both) == (50, 10)
    assert any("10 of 50 keys" in n for n in seen.notes)


def test_a_split_that_is_not_as_planned_spoils_the_experiment(trial):
    one = trial()
    one.judge(0, 0.5, 900, seed=1)
    one.judge(1, 0.9, 500, seed=2)
    seen = one.look()
    assert seen.split.mismatch
    assert seen.split.observed == pytest.approx(500 / 1400)
    assert "must not be trusted" in seen.sentence
    fine = trial(policy={"share": 0.35})
    fine.judge(0, 0.5, 900, seed=1)
    fine.judge(1, 0.9, 500, seed=2)
    assert not fine.look().split.mismatch
    canary = trial(strategy="canary", policy={"share": 0.5})
    canary.judge(0, 0.5, 900, seed=1)
    canary.judge(1, 0.9, 500, seed=2)
    seen = canary.look()
    assert (seen.split.planned, seen.split.mismatch) == (None, False)
    assert any("not the same all the time" in n for n in seen.notes)


def test_only_the_phases_in_which_both_answer_count(trial):
    phases = {
        "replay": {"started": START, "ended": START + 10},
        "canary 40 %": {"started": START + 10, "ended": START + 2000},
        "all": {"started": START + 2000, "ended": 0.0},
    }
    one = trial(policy={}, phases=phases)
    one.judge(0, 0.5, 1000, seed=1, begin=5.0)
    one.judge(1, 0.9, 650, seed=2, begin=20.0)
    one.answer(1, ["stays"] * 3000, begin=2001.0)
    seen = one.look()
    assert (seen.before.predictions, seen.after.predictions) == (985, 650)  # from the first request of the new one on
    assert (seen.since, seen.until) == (START + 20.0, START + 2000.0)
    assert seen.split.planned == 0.4
    assert not seen.split.mismatch
    assert seen.notes == ()
    rising = trial(strategy="canary", phases={**phases, "canary 5 %": {"started": START + 5, "ended": START + 10}})
    rising.judge(0, 0.5, 900, seed=1)
    rising.judge(1, 0.9, 300, seed=2)
    seen = rising.look()
    assert seen.split.planned is None
    assert any("not the same all the time" in n for n in seen.notes)


def test_segments_share_alpha(trial):
    one = trial()
    for arm, seed in ((0, 1), (1, 2)):
        random = np.random.default_rng(seed)
        zones = random.choice(["north", "south"], 2000)
        ids = one.answer(arm, ["stays"] * 2000, zone=zones.tolist(), every=0.1)
        right = random.random(2000) < np.where((zones == "north") & (arm == 1), 0.9, 0.7)
        label(one.ws, one.arms[arm], {i: "stays" if r else "leaves" for i, r in zip(ids, right.tolist(), strict=True)})
    seen = one.look(by_segment="zone")
    found = {s.value: s.measure for s in seen.segments}
    assert found["north"].verdict == "better"
    assert found["south"].verdict == "not enough yet"
    assert found["north"].level == found["south"].level == 0.025
    assert found["north"].rows[0] + found["south"].rows[0] == 2000
    assert any("Bonferroni" in n for n in seen.notes)
    with pytest.raises(NotFound, match="zone"):
        one.look(by_segment="zones")
    with pytest.raises(Invalid, match="inputs"):
        one.look(metric="failures", by_segment="zone")


def test_nothing_yet_is_said_plainly(trial):
    seen = trial().look()
    assert seen.main.rows == (0, 0)
    assert seen.sentence == "there are no requests of churn@1 and churn@2 to compare yet. More requests are needed."
    assert json.loads(json.dumps(seen.to_json()))["measures"][0]["effect"]["estimate"] is None


def test_the_running_rollout_comes_before_the_newest(trial):
    one = trial()
    later = Rollout(
        id=new_id(), service=one.name, strategy="replace", status="finished", before=1, after=2, started=START + 5,
        ended=START + 6,
    )  # fmt: skip
    one.ws.store.put(later)
    assert one.look().rollout == one.rollout.id


def test_what_cannot_be_compared_is_refused(place, trial):
    ws, _ = place
    with pytest.raises(NotFound):
        ab(ws, "nobody")
    one = trial()
    with pytest.raises(NotFound, match="latency"):
        one.look(metric="latncy")
    with pytest.raises(Invalid, match="boucle label"):
        one.look(metric="right")
    with pytest.raises(Invalid):
        one.look(alpha=0.0)
    with pytest.raises(Invalid):
        one.look(smallest=-1.0)
    name = f"s{new_id().lower()}"
    ws.store.put(Rollout(id=new_id(), service=name, strategy="replace", after=1, started=START))
    with pytest.raises(Invalid, match="one revision"):
        ab(ws, name)
    ws.store.put(Rollout(id=new_id(), service=name, strategy="replace", before=1, after=2, started=START))
    assert ws.store.get(Service, f"{name}@1") is None
    with pytest.raises(NotFound, match="fsck"):
        ab(ws, name)
