"""Watching a service: a real workspace and a log as a service writes it, without a server."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import boucle
from boucle.core import predictions
from boucle.core.errors import Corrupt, Invalid
from boucle.core.labels import read
from boucle.core.records import Edge, Service, Verdict
from boucle.core.refs import new_id
from boucle.core.where import field
from boucle.ledger import datasets, models, services
from boucle.ops.label import label
from boucle.ops.serve.predictions import PredictionLog
from boucle.ops.watch import PREDICTION, log, look, reference, tally, watch

PRICES = "def price(rows):\n    return [3.0 + 2.0 * (row['km'] or 0.0) for row in rows]\n"


def rides(rows: int, seed: int = 0, far: float = 0.0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {"km": random.gamma(2.0, 3.0, rows) + far, "zone": random.choice(["north", "south", "east"], rows)}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[boucle.Workspace, models.Model]]:
    """A workspace with one model, registered once for all tests."""
    folder = tmp_path_factory.mktemp("rides")
    (folder / "pricing.py").write_text(PRICES)
    sys.path.insert(0, str(folder))
    try:
        import pricing

        with boucle.init(folder) as ws:
            datasets.commit(ws, "rides", boucle.Frame.of(rides(1500)))
            trained = datasets.load(ws, "rides")
            yield ws, models.register(ws, "price", pricing.price, data=trained, trained=trained)
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("pricing", None)


class Fake:
    """A service whose log is written here."""

    def __init__(self, ws: boucle.Workspace, service: Service) -> None:
        self.ws, self.service = ws, service
        self.model = models.resolve(ws, service.model)
        self.log = PredictionLog(Path(service.folder, "predictions"))

    def answer(self, table: dict[str, Any], request: str = "r", ago: float = 60.0) -> list[str]:
        began = time.time() - ago
        lines = []
        for km, zone in zip(table["km"].tolist(), table["zone"].tolist(), strict=True):
            body = {
                "time": began, "inputs": {"km": km, "zone": zone}, "output": {"prediction": 3.0 + 2.0 * km},
                "latency_us": 2000, "request": request,
            }  # fmt: skip
            lines.append(json.dumps(body)[1:-1])
        return self.log.append(lines)


@pytest.fixture
def fake(place) -> Iterator[Callable[..., Fake]]:
    ws, model = place
    made: list[Fake] = []

    def make(of: models.Model = model) -> Fake:
        made.append(Fake(ws, services.reserve(ws, f"s{new_id().lower()}", of, "process", time.time())))
        return made[-1]

    yield make
    for one in made:
        one.log.close()


def verdicts(one: Fake) -> list[Verdict]:
    return one.ws.store.find(
        Verdict, (field("subject") == str(one.service)) & (field("check") == "drift"), order=["created"]
    )


def events(one: Fake) -> list[tuple[str, str]]:
    found = one.ws.store.events(subject=str(one.service), type="service.drift")
    return [(e.data["before"], e.data["after"]) for e in found]


def test_finds_its_reference_by_lineage_and_passes_what_is_as_in_training(fake):
    one = fake()
    one.answer(rides(20, far=99.0), request="probe")
    one.answer(rides(400, seed=1))
    seen = watch(one.ws, one.service)
    assert (seen.status, seen.sentence) == ("pass", "all 3 columns are as in training")
    assert seen.reference == "dataset:rides@1"
    assert [c.name for c in seen.drift.columns] == ["km", "zone", PREDICTION]
    assert (seen.rows, seen.probes) == (400, 20)
    assert seen.latency["p50"] == pytest.approx(0.002, rel=0.05)
    assert [v.status for v in verdicts(one)] == ["pass"]
    assert events(one) == []
    assert json.loads(json.dumps(seen.to_json()))["drift"]["status"] == "pass"


def test_an_alarm_is_noted_once_and_so_is_its_end(fake, monkeypatch):
    monkeypatch.setattr(look, "_BEHIND", 0.0)
    one = fake()
    one.answer(rides(300, seed=2))
    assert watch(one.ws, one.service).status == "pass"
    one.answer(rides(300, seed=3, far=6.0), ago=30.0)
    seen = watch(one.ws, one.service)
    assert seen.status == "fail"
    assert "2 of 3 columns moved" in seen.sentence
    assert seen.drift["zone"].status == "pass"
    assert seen.drift["km"].since == 300
    assert seen.since_time["km"] == pytest.approx(time.time() - 30, abs=25)
    again = watch(one.ws, one.service)
    assert again.verdict == seen.verdict
    assert [v.status for v in verdicts(one)] == ["pass", "fail"]
    assert verdicts(one)[1].evidence["moved"] == [PREDICTION, "km"]
    assert events(one) == [("pass", "fail")]
    (event,) = one.ws.store.events(subject=str(one.service), type="service.drift")
    assert event.data["since"] == min(seen.since_time.values())
    one.answer(rides(6000, seed=4))
    assert watch(one.ws, one.service).status == "pass"
    assert events(one) == [("pass", "fail"), ("fail", "pass")]
    assert "since" not in one.ws.store.events(subject=str(one.service), type="service.drift")[-1].data


def test_reading_on_gives_what_reading_at_once_gives(fake, monkeypatch):
    monkeypatch.setattr(look, "_BEHIND", 0.0)
    monkeypatch.setattr(look, "_WORTH", 1)
    monkeypatch.setattr(tally, "MOST_CHUNKS", 4)
    one = fake()
    rows, parts = rides(2350, seed=5), []
    for start in (0, 130, 131, 900, 2100):
        end = {0: 130, 130: 131, 131: 900, 900: 2100, 2100: 2350}[start]
        one.answer({n: v[start:end] for n, v in rows.items()})
        parts.append(watch(one.ws, one.service))
    state = Path(one.service.folder, "watch", "state.json")
    kept = json.loads(state.read_text())
    assert kept["rows"] == sum(kept["sizes"]) <= 2350
    assert len(kept["sizes"]) <= 4
    state.unlink()
    fresh = watch(one.ws, one.service)
    assert [p.rows for p in parts] == [130, 131, 900, 2100, 2350]
    assert parts[-1].latency == fresh.latency
    whole = {n: s.counts.tolist() for n, s in fresh.sketches.columns.items()}
    assert {n: s.counts.tolist() for n, s in parts[-1].sketches.columns.items()} == whole


def test_reads_only_what_is_new(fake, monkeypatch):
    monkeypatch.setattr(look, "_BEHIND", 0.0)
    monkeypatch.setattr(look, "_WORTH", 500)
    one = fake()
    one.answer(rides(1000, seed=6))
    watch(one.ws, one.service)
    looked: list[int] = []
    real = tally.Tally._count
    monkeypatch.setattr(tally.Tally, "_count", lambda self, part: looked.append(len(part)) or real(self, part))
    for more in (150, 10):
        one.answer(rides(more, seed=7))
        watch(one.ws, one.service)
    assert looked == [150, 160], "so few are cheaper to read again than to keep"


def test_a_torn_last_line_does_not_matter(fake):
    one = fake()
    one.answer(rides(200, seed=8))
    (path,) = Path(one.service.folder, "predictions").glob("*.jsonl")
    with path.open("ab") as file:
        file.write(b'{"id":"01')
    assert watch(one.ws, one.service).rows == 200


def test_a_long_part_has_few_chunks(fake, monkeypatch):
    monkeypatch.setattr(tally, "MOST_CHUNKS", 4)
    one = fake()
    one.answer(rides(2050, seed=18))
    form = reference.layout(one.ws, one.model)
    found = look._folded(log.read(Path(one.service.folder), form), reference.Origin(None, ""))
    assert (found.rows, found.unit) == (2050, 800)
    assert len(found.times) == 3
    assert watch(one.ws, one.service, window=2050).status == "pass"


def test_a_part_is_judged_without_being_kept(fake):
    one = fake()
    one.answer(rides(400, seed=9), ago=7200.0)
    one.answer(rides(200, seed=10, far=6.0), ago=10.0)
    last = watch(one.ws, one.service, window=200)
    assert (last.rows, last.status) == (200, "fail")
    assert watch(one.ws, one.service, since="1 hour ago").rows == 200
    assert watch(one.ws, one.service, since=time.time() + 60).sentence == "nothing was asked yet"
    assert verdicts(one) == []
    with pytest.raises(Invalid, match="window of 0"):
        watch(one.ws, one.service, window=0)


def test_without_training_rows_the_first_thousand_are_the_reference(fake, place):
    ws, model = place
    bare = models.Model(
        **{f: getattr(model, f) for f in ("digest", "artifact", "task", "framework")}, name="bare", version=1
    )
    ws.store.put(bare)
    one = fake(bare)
    one.answer(rides(500, seed=11))
    seen = watch(ws, one.service)
    assert (seen.status, seen.drift) == ("pass", None)
    assert "of the first 1,000 rows to compare with 500 have come" in seen.sentence
    one.answer(rides(900, seed=12))
    assert watch(ws, one.service).status == "pass"
    one.answer(rides(600, seed=13, far=6.0))
    assert watch(ws, one.service).status == "fail"


def test_training_rows_that_lack_columns_are_used_for_the_others(fake, place):
    ws, model = place
    part = models.Model(
        **{f: getattr(model, f) for f in ("digest", "artifact", "task", "framework")}, name="part", version=1
    )
    ws.store.put(part)
    table = rides(800, seed=20)
    dataset, _ = datasets.commit(ws, "part", boucle.Frame.of({"km": table["km"], "zone": np.arange(800)}))
    ws.store.link(Edge(str(part), "derived", str(dataset), 0.0))
    one = fake(part)
    one.answer(rides(300, seed=21))
    seen = watch(ws, one.service)
    assert seen.reference == "dataset:part@1"
    assert [c.name for c in seen.drift.columns] == ["km"], "zone was of another kind, and answers need all columns"
    one.answer(rides(800, seed=22))
    assert [c.name for c in watch(ws, one.service).drift.columns] == ["km", PREDICTION]


def test_labels_are_kept_and_scored_by_when_the_question_came(fake):
    one = fake()
    late = one.answer(rides(60, seed=14), ago=2 * 86400.0)
    new = one.answer(rides(40, seed=15))
    unknown = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
    truth = {r["id"]: r["output"]["prediction"] for r in predictions.scan(Path(one.service.folder, "predictions"))}
    done = label(one.ws, one.service, {**{i: truth[i] + 1.0 for i in late}, unknown: 1.0})
    assert (done.kept, done.unknown) == (60, (unknown,))
    label(one.ws, one.service.name, boucle.Frame.of({"id": new[:10], "label": [str(truth[i]) for i in new[:10]]}))
    seen = watch(one.ws, one.service)
    assert (seen.outcome.answered, seen.outcome.labelled) == (100, 70)
    assert seen.outcome.completeness == 0.7
    assert seen.outcome.scores["mae"] == pytest.approx(60 / 70)
    first, last = seen.outcomes[0], seen.outcomes[-1]
    assert (first.scores["mae"], last.scores["mae"]) == (pytest.approx(1.0), pytest.approx(0.0))
    assert (first.completeness, last.completeness) == (1.0, 0.25)
    label(one.ws, one.service, [(late[0], truth[late[0]])])
    assert watch(one.ws, one.service).outcome.scores["mae"] == pytest.approx(59 / 70), "the last label counts"


def test_bad_labels_keep_nothing(fake):
    one = fake()
    ids = one.answer(rides(3, seed=16))
    for bad in ({ids[0]: 1.0, "nonsense": 2.0}, {ids[0]: None}, {ids[0]: [1]}, {"id": [ids[0]], "lable": [1]}):
        with pytest.raises(Invalid):
            label(one.ws, one.service, bad)
    assert read(Path(one.service.folder)) == {}


def test_a_torn_label_is_forgotten_and_the_next_one_is_whole(fake):
    one = fake()
    ids = one.answer(rides(3, seed=17))
    path = Path(one.service.folder, "labels.jsonl")
    label(one.ws, one.service, {ids[0]: 1})
    with path.open("ab") as file:
        file.write(b'{"id": "01')
    assert read(path.parent) == {ids[0]: 1}
    label(one.ws, one.service, {ids[1]: 2})
    assert read(path.parent) == {ids[0]: 1, ids[1]: 2}
    path.write_bytes(b"nonsense\n" + path.read_bytes())
    with pytest.raises(Corrupt, match="line 1"):
        read(path.parent)


@pytest.mark.slow
def test_a_real_service(tmp_path):
    random = np.random.default_rng(0)
    spend = random.gamma(2.0, 20.0, 1200)
    table = {"spend": spend, "plan": random.choice(["basic", "plus"], 1200)}
    table["left"] = np.where(random.random(1200) < 1 / (1 + np.exp((spend - 40) / 10)), "yes", "no")
    with boucle.init(tmp_path) as ws:
        boucle.ingest(ws, table, "customers")
        model = boucle.train(ws, "customers", "left", "churn").result
        service = boucle.deploy(ws, model.key)
        try:
            rows = [{"spend": s, "plan": p} for s, p in zip(table["spend"][:400], table["plan"][:400], strict=True)]
            answers = boucle.predict(ws, service, rows)
            seen = watch(ws, "churn")
            assert (seen.status, seen.rows) == ("pass", 400)
            assert seen.probes > 0
            assert seen.reference.startswith("artifact:"), "the very rows it was trained on"
            done = label(ws, "churn", {a["id"]: t for a, t in zip(answers, table["left"][:200], strict=False)})
            assert done.kept == 200
            boucle.predict(ws, service, [{**r, "spend": r["spend"] + 60, "plan": "max"} for r in rows])
            seen = watch(ws, "churn")
            assert seen.drift["spend"].status == seen.drift["plan"].status == "fail"
            assert seen.drift["plan"].new_values == {"max": 400}
            assert 0.5 < seen.outcome.scores["roc_auc"] <= 1
            assert seen.estimate.calibrated, "on the rows that training kept back"
            low, high = seen.estimate.scores["accuracy"][1:]
            assert 0 <= low < high <= 1
        finally:
            boucle.stop(ws, service.key)


def test_an_odd_row_is_shown_with_why(fake):
    one = fake()
    one.answer(rides(300, seed=30))
    (id_,) = one.answer({"km": np.array([4000.0]), "zone": np.array(["moon"])})
    seen = watch(one.ws, one.service)
    strangest = seen.anomaly.odd[0]
    assert strangest.id == id_
    assert len(strangest.why) == 2
    assert {w.split()[0] for w in strangest.why} == {"km", "zone"}
    assert seen.anomaly.odd_rows <= 4
    assert seen.status == "pass", "one row is no drift"


def test_errors_that_rise_are_concept_drift_and_noted_once(fake):
    one = fake()
    ids = [i for part in range(8) for i in one.answer(rides(50, seed=40 + part), ago=8000.0 - 1000 * part)]
    truth = {r["id"]: r["output"]["prediction"] for r in predictions.scan(Path(one.service.folder, "predictions"))}
    random = np.random.default_rng(41)
    gaps = np.abs(random.normal(0, 0.1, 400))
    gaps[250:] += 2.0
    order = random.permutation(400).tolist()
    label(one.ws, one.service, {ids[i]: truth[ids[i]] + gaps[i] for i in order})
    seen = watch(one.ws, one.service)
    assert (seen.status, seen.concept.status) == ("pass", "fail")
    assert seen.concept.since == pytest.approx(time.time() - 3000, abs=1100)
    watch(one.ws, one.service)
    found = one.ws.store.events(subject=str(one.service), type="service.concept")
    assert [(e.data["before"], e.data["after"]) for e in found] == [("pass", "fail")]
    assert watch(one.ws, one.service, since=time.time() - 2500).concept.status == "pass"


def test_a_model_that_was_never_as_good_as_on_the_rows_kept_back_is_found(fake, place):
    ws, _ = place
    import pricing

    random = np.random.default_rng(7)
    kept = rides(400, seed=8)
    truth = 3.0 + 2.0 * kept["km"] + random.normal(0, 0.1, 400)
    holdout = boucle.Frame.of({**kept, "price": truth})
    data = datasets.load(ws, "rides")
    model = models.register(
        ws, "price", pricing.price, data=data, trained=data, holdout=holdout, target="price", task="regression"
    )
    one = fake(model)
    ids = one.answer(rides(120, seed=9))
    said = {r["id"]: r["output"]["prediction"] for r in predictions.scan(Path(one.service.folder, "predictions"))}
    label(ws, one.service, {i: said[i] + 1.0 for i in ids})
    seen = watch(ws, one.service)
    assert seen.status == "pass"
    assert seen.concept.status == "fail", "off by as much from the first answer on, but more than on the rows kept back"
    assert seen.concept.before < seen.concept.after


def test_failures_are_an_anomaly_while_they_last(fake, monkeypatch):
    one = fake()
    start = time.time() // 300 * 300 - 40 * 300
    for i in range(40):
        one.answer(rides(20, seed=50), request=f"r{i}", ago=time.time() - start - 300 * i - 150)
    assert watch(one.ws, one.service).anomaly.status == "pass"
    failures = Path(one.service.folder, "failures")
    log_ = PredictionLog(failures)
    lines = [
        json.dumps({"time": start + 39 * 300 + 5, "status": 500, "what": "boom", "rows": 1, "request": f"f{i}"})[1:-1]
        for i in range(12)
    ]
    log_.append([*lines, *(f'{line},"shadow":true' for line in lines)])
    log_.close()
    one.answer(rides(5, seed=51), request="late", ago=time.time() - start - 300 * 40 - 1)
    seen = watch(one.ws, one.service)
    assert (seen.anomaly.status, seen.anomaly.kind) == ("fail", "errors")
    assert "of the requests failed" in seen.anomaly.sentence
    watch(one.ws, one.service)
    (event,) = one.ws.store.events(subject=str(one.service), type="service.anomaly")
    assert (event.data["status"], event.data["kind"]) == ("fail", "errors")
    assert event.data["sentence"] == event.reason == seen.anomaly.sentence
    one.ws.store.put(dataclasses.replace(one.service, status="ready"))
    monkeypatch.setattr(one.ws, "now", lambda: start + 60 * 300)
    assert watch(one.ws, one.service.key).anomaly.status != "fail", "failures are over; silence is another matter"


def test_mirrored_lines_are_judged_but_are_no_volume(fake):
    one = fake()
    one.answer(rides(200, seed=60))
    body = {
        "time": time.time() - 60, "inputs": {"km": 3.0, "zone": "north"}, "output": {"prediction": 9.0},
        "latency_us": 2000, "request": "m", "shadow": "01ARZ3NDEKTSV4RRFFQ69G5FAV",
    }  # fmt: skip
    one.log.append([json.dumps(body)[1:-1]] * 50)
    form = reference.layout(one.ws, one.model)
    found = look._folded(log.read(Path(one.service.folder), form), reference.Origin(None, ""))
    assert found.rows == 250
    assert sum(b.answered for b in found.bins.values()) == 200


def test_a_regressor_has_no_estimate_and_it_is_said_why(fake):
    one = fake()
    one.answer(rides(200, seed=70))
    seen = watch(one.ws, one.service)
    assert seen.estimate.scores == {}
    assert "no probabilities" in seen.estimate.sentence or "regressor" in seen.estimate.sentence


def test_a_value_of_another_type_is_read_all_the_same(fake):
    one = fake()
    one.answer(rides(150, seed=71))
    body = {
        "time": time.time() - 60, "inputs": {"km": "7.5", "zone": "north"}, "output": {"prediction": 18},
        "latency_us": 2000, "request": "m",
    }  # fmt: skip
    one.log.append([json.dumps(body)[1:-1]])
    assert watch(one.ws, one.service).rows == 151
    (path,) = Path(one.service.folder, "predictions").glob("*.jsonl")
    with path.open("ab") as file:
        file.write(b'{"id":"01ARZ3NDEKTSV4RRFFQ69G5FAV","time":nonsense}\n')
    with pytest.raises(Corrupt):
        watch(one.ws, one.service)


def test_blocks_hold_the_lines_of_files_that_overlap_in_order(tmp_path):
    logs = [PredictionLog(tmp_path), PredictionLog(tmp_path)]
    ids = [i for part in range(6) for i in logs[part % 2].append([f'"time":{part}'] * 3)]
    for one in logs:
        one.close()
    for size in (1, 200, 1 << 20):
        for after in ("", ids[4], ids[-1]):
            raw = b"".join(predictions.blocks(tmp_path, after, size))
            found = [json.loads(line)["id"] for line in raw.splitlines()]
            assert found == [r["id"] for r in predictions.scan(tmp_path, after)]
    assert ids == [r["id"] for r in predictions.scan(tmp_path)]
