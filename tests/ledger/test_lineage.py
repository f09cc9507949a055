"""Lineage: from a model down to rows, code and environment, and from data or code up to all it touched."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from boucle.core.errors import Invalid, NotFound
from boucle.core.frames import Frame
from boucle.core.records import Alert, Code, Rollout, Service, Verdict
from boucle.ledger import datasets, lineage, models, recording, runs, services
from boucle.ledger.lineage import impact, locate, touched, why


@pytest.fixture
def loop(shop, register, rows):
    """raw -> (run) -> clean -> (run) -> churn@1 -> service; and a file of a run."""
    datasets.commit(shop, "raw", rows, source="file.csv")
    with runs.track(shop, "cleaning") as cleaning:
        datasets.commit(shop, "clean", datasets.load(shop, "raw").head(20))
    with runs.track(shop, "training") as training:
        frame = datasets.load(shop, "clean@latest")
        register(trained=frame, holdout=Frame.of({"x": [1.0], "y": ["no"]}), target="y")
    service = services.reserve(shop, "scoring", models.resolve(shop, "churn"), "process", 1.0)
    services.change(shop, service, "ready", url="http://127.0.0.1:1")
    return {"shop": shop, "cleaning": cleaning.id, "training": training.id}


def refs(node):
    return [n.ref.partition(":")[0] if n.ref.startswith(("code:", "environment:")) else n.ref for n in node.flat()]


def test_why_goes_down_to_rows_code_and_environment(loop):
    found = why(loop["shop"], "model:churn@1")
    tied = {(n.relation, n.ref) for n in found.flat() if not n.ref.startswith(("code:", "environment:", "artifact:"))}
    assert tied >= {
        ("trained on", "dataset:clean@1"), ("made by", f"run:{loop['training']}"), ("made by", f"run:{loop['cleaning']}"),
        ("used", "dataset:raw@1"), ("read from", "source:file.csv"),
    }  # fmt: skip
    assert {r for r in refs(found) if ":" not in r} == {"code", "environment"}
    assert found.facts["stage"] == "none"
    json.dumps(found.to_json())


@pytest.mark.parametrize("ref", ["service:scoring", "scoring", "service:scoring@1"])
def test_why_of_a_service_begins_with_its_model(loop, ref):
    assert refs(why(loop["shop"], ref))[:2] == ["service:scoring@1", "model:churn@1"]


def test_impact_goes_up_to_the_services(loop):
    found = impact(loop["shop"], "dataset:raw")
    assert {k: len(v) for k, v in touched(found).items() if k in ("run", "dataset", "model", "service")} == {
        "run": 2, "dataset": 1, "model": 1, "service": 1,
    }  # fmt: skip
    (service,) = [n for n in found.flat() if n.ref == "service:scoring@1"]
    assert service.facts["predictions"] == 0
    assert touched(found)["model"] == ["model:churn@1"]


def test_impact_shows_each_thing_once(loop):
    found = [n.ref for n in impact(loop["shop"], "raw@1").flat()]
    assert len(found) == len(set(found))


def test_impact_of_an_untouched_thing(loop, rows):
    datasets.commit(loop["shop"], "alone", rows.head(3))
    assert touched(impact(loop["shop"], "dataset:alone")) == {}


def test_impact_of_a_commit(loop):
    shop = loop["shop"]
    (code,) = shop.store.find(Code)
    shop.store.put(replace(code, commit="abcdef0123"))
    found = impact(shop, "commit:abcdef")
    assert found.facts == {"runs": 2}
    assert "model:churn@1" in touched(found)["model"]
    for unknown in ("commit:ffff", "commit:ab"):
        with pytest.raises(NotFound, match="no run knows commit"):
            impact(shop, unknown)


def test_impact_of_a_package(loop):
    from importlib import metadata

    shop, version = loop["shop"], metadata.version("scikit-learn")
    for package in (f"package:scikit-learn=={version}", f"package:Scikit_Learn=={version}", "package:scikit-learn"):
        assert "service:scoring@1" in touched(impact(shop, package))["service"]
    with pytest.raises(NotFound, match="no run knows package"):
        impact(shop, "package:scikit-learn==0.0.1")


def test_impact_of_a_prediction_is_nonsense(loop, monkeypatch):
    monkeypatch.setattr(lineage, "_prediction_id", lambda ws, name: name)
    with pytest.raises(Invalid, match="no effect"):
        impact(loop["shop"], "prediction:X1")


def test_things_are_found_whatever_the_form(loop):
    shop = loop["shop"]
    model = models.resolve(shop, "churn")
    for ref, kind in {
        "churn": "model", "churn@latest": "model", f"churn@sha{model.digest[:6]}": "model", "raw": "dataset",
        "scoring": "service", loop["training"]: "run", "training": "run", f"artifact:{model.artifact[:10]}": "artifact",
    }.items():  # fmt: skip
        assert locate(shop, ref)[0] == kind, ref
    (code,) = shop.store.find(Code)
    assert locate(shop, f"code:{code.digest[:8]}") == ("code", code.digest)


def test_what_cannot_be_found_or_told_apart(loop, rows):
    shop = loop["shop"]
    with pytest.raises(NotFound, match="no kind of thing named 'modle'"):
        locate(shop, "modle:churn")
    with pytest.raises(NotFound, match="'chrun'") as caught:
        locate(shop, "chrun")
    assert "churn" in caught.value.expected
    for ref in ("artifact:abc", "artifact:ffffffff", "verdict:x", "prediction:x", "run:nothing"):
        with pytest.raises(NotFound):
            locate(shop, ref)
    datasets.commit(shop, "churn", rows)
    with pytest.raises(Invalid, match="more than one thing"):
        locate(shop, "churn")
    assert locate(shop, "model:churn") == ("model", "churn@1")


def test_a_service_with_the_name_of_its_model_means_the_model(loop):
    shop = loop["shop"]
    services.reserve(shop, "churn", models.resolve(shop, "churn"), "process", 1.0)
    assert locate(shop, "churn")[0] == "model"


def test_what_was_read_is_known_while_a_run_goes_on(shop, rows):
    datasets.commit(shop, "raw", rows)
    assert recording.current_run() == ""
    assert recording.used_now() == []
    recording.log_metrics({"nobody": 1})
    with pytest.raises(Invalid, match="no run is going on"):
        recording.running()
    with runs.track(shop, "x") as run:
        datasets.load(shop, "raw")
        assert recording.running() is run
        assert recording.current_run() == run.id
        assert recording.used_now() == ["dataset:raw@1"]
    assert run.record.reads == {"raw": datasets.resolve(shop, "raw").digest}


def test_a_model_without_a_run_names_its_data(shop, register):
    register()
    assert refs(why(shop, "churn")) == ["model:churn@1"]


def test_a_service_that_is_gone_from_disk_counts_no_predictions(loop):
    shop = loop["shop"]
    shop.store.put(replace(shop.store.get(Service, "scoring@1"), folder="/nowhere"))
    (service,) = [n for n in impact(shop, "churn").flat() if n.ref == "service:scoring@1"]
    assert service.facts["predictions"] == 0


@pytest.mark.parametrize("kind", [Rollout, Verdict, Alert])
def test_what_has_an_id_for_a_name_is_found_by_part_of_it(shop, kind):
    more = {
        Rollout: {"service": "churn", "strategy": "canary"},
        Verdict: {"subject": "dataset:a@1", "check": "c", "status": "pass"},
        Alert: {"name": "drift", "subject": "service:churn"},
    }[kind]
    one, two = "01JC00000000000000000AAAAA", "01JC00000000000000000BBBBB"
    shop.store.put(kind(id=one, **more), kind(id=two, **more))
    for ref in (one, one.lower(), "aaaaa", one[:22]):
        assert lineage.locate(shop, f"{kind.KIND}:{ref}") == (kind.KIND, one)
    with pytest.raises(Invalid, match="more than one"):
        lineage.locate(shop, f"{kind.KIND}:01JC")
    with pytest.raises(NotFound, match="AAAAB"):
        lineage.locate(shop, f"{kind.KIND}:AAAAB")
