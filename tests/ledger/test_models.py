"""Models: registration proves, stages have gates, and the past can be asked."""

from __future__ import annotations

import time

import pytest

from boucle.core.bundle import answer
from boucle.core.errors import Invalid, NotFound, Refused
from boucle.core.frames import Frame
from boucle.core.records import Artifact, Model, Verdict
from boucle.core.where import field
from boucle.ledger import bundles, models
from boucle.settings import FILE

HOLDOUT = Frame.of({"x": [float(i) for i in range(60)], "y": ["yes" if i > 30 else "no" for i in range(60)]})


_opened = []


@pytest.fixture(autouse=True)
def _closed():
    """What a test opened beside its own workspace is closed when it is over."""
    yield
    while _opened:
        _opened.pop().close()


def acting(ws, actor):
    import boucle.workspace

    _opened.append(boucle.workspace.open(ws.project, actor=actor))
    return _opened[-1]


def set_gates(ws, text):
    (ws.project / FILE).write_text(text)
    return acting(ws, ws.actor)


def test_a_registered_model(shop, register):
    one = register(metrics={"accuracy": 0.9}, card="# Card", description="said", tags={"a": 1})
    assert (one.key, one.stage, one.task, one.framework, one.actor) == ("churn@1", "none", "binary", "python", "ann")
    assert (one.metrics, one.description, one.tags) == ({"accuracy": 0.9}, "said", {"a": 1})
    artifact = shop.store.get(Artifact, one.artifact)
    assert artifact.value["files"].keys() >= {
        "bundle.json",
        "sample.json",
        "golden.json",
        "requirements.txt",
        "MLmodel",
    }
    (proof,) = shop.store.find(Verdict, field("subject") == str(one))
    assert (proof.check, proof.status) == ("proof", "pass")
    assert [e.target for e in shop.store.edges(source=str(one), relation="packs")] == [str(artifact)]
    assert [e.type for e in models.history(shop, "churn")] == ["model.registered"]
    assert register(20.0).key == "churn@2"
    assert [m.key for m in models.versions(shop, "churn")] == ["churn@2", "churn@1"]


def test_its_bundle_can_be_written_out_again(shop, register, tmp_path):
    one = register()
    bundle = bundles.materialise(shop, one, tmp_path / "out" / "bundle")
    assert bundle.digest == one.digest
    assert [r["prediction"] for r in bundle.predict([{"x": 5.0}, {"x": 50.0}])] == ["no", "yes"]
    assert len(bundle.sample) == 20
    assert {bundle.sample[0]["x"], bundle.sample[-1]["x"]} == {0.0, 29.0}


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import random\ndef predict(rows): return [random.random() for _ in rows]", "answers differently"),
        (
            "import os\ndef predict(rows): return [os.getpid() for _ in rows]",
            "answers differ|not answer as the model did",
        ),
        ("def predict(rows): return [1]", "gave 1 rows"),
        ("def predict(rows): return {'score': [1] * len(rows)}", "with columns"),
        ("def predict(rows):\n  with open('words.txt') as f: return [f.read() for _ in rows]", "words.txt"),
        (
            "from pathlib import Path\ndef predict(rows): return [(Path(__file__).parent / 'w.txt').read_text() for _ in rows]",
            "fails where the model answered: FileNotFoundError",
        ),
    ],
)
def test_what_does_not_prove_itself_is_refused_and_nothing_is_registered(
    shop, module, rows, monkeypatch, tmp_path, code, said
):
    (tmp_path / "words.txt").write_text("x")
    monkeypatch.chdir(tmp_path)
    predict = module("strange", code, **{"w.txt": "x"}).predict
    with pytest.raises((Refused, Invalid), match=said):
        models.register(shop, "churn", predict, data=rows)
    assert shop.store.count(Model) == shop.store.count(Artifact) == shop.store.count(Verdict) == 0
    assert shop.store.events() == []
    assert list((shop.root / "tmp").iterdir()) == []


def test_code_that_only_the_project_has_is_missed_in_the_clean_process(shop, module, rows):
    """The name is built at run time, so nobody can know that this module belongs to the model."""
    module("hidden", "N = 1")
    code = "import importlib\ndef predict(rows): return [importlib.import_module('hid' + 'den').N for _ in rows]"
    with pytest.raises(Refused, match=r"No module named 'hidden'"):
        models.register(shop, "churn", module("finder", code).predict, data=rows)
    assert shop.store.count(Model) == 0


def test_two_versions_of_one_module_keep_their_own_code(shop, module, rows, tmp_path):
    code = "from helper import T\ndef predict(rows): return [r['x'] > T for r in rows]"
    made = []
    for threshold in (10, 20):
        module("helper", f"T = {threshold}")
        made.append(models.register(shop, "churn", module("ruler", code).predict, data=rows))
    loaded = [bundles.materialise(shop, m, tmp_path / str(i)).load() for i, m in enumerate(made)]
    assert [answer(p, rows.schema, [{"x": 15.0}])[0]["prediction"] for p in loaded] == [True, False]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"holdout": HOLDOUT, "target": "z"}, "no target column 'z'"),
        ({"name": "no name"}, "not a usable model name"),
    ],
)
def test_bad_arguments(shop, register, options, said):
    with pytest.raises(Invalid, match=said):
        register(**options)
    assert shop.store.count(Model) == 0


def test_an_empty_sample_and_any_kind_of_table(shop, register, module, rows):
    predict = module("plain", "def predict(rows): return [1 for _ in rows]").predict
    register()
    with pytest.raises(Invalid, match="sample is empty"):
        models.register(shop, "empty", predict, data=rows.head(0))
    assert models.register(shop, "arrow", predict, data=rows.table()).version == 1
    assert models.register(shop, "pandas", predict, data=rows.pandas()).version == 1


def test_references(shop, register):
    one, two = register(), register(20.0)
    models.advance(shop, "churn@1", "production")
    for ref, model in {
        "churn": two, "churn@latest": two, "churn@1": one, "model:churn@production": one, "churn@none": two,
        f"churn@sha{one.digest[:8]}": one, "churn@{now}": one,
    }.items():  # fmt: skip
        assert models.resolve(shop, ref).key == model.key, ref
    with pytest.raises(NotFound, match="no version of model churn is '9'"):
        models.resolve(shop, "churn@9")
    with pytest.raises(NotFound, match="no model named 'chrun'"):
        models.resolve(shop, "chrun")
    with pytest.raises(NotFound, match="was in production then"):
        models.resolve(shop, "churn@{2001-01-01}")


def test_one_version_is_in_production(shop, register):
    for threshold in (1.0, 2.0, 3.0):
        register(threshold)
    first = models.advance(shop, "churn@1", "production", reason="go")
    assert (first.before, first.replaced) == ("none", None)
    models.advance(shop, "churn@2", "staging")
    second = models.advance(shop, "churn@2", "production")
    assert (second.before, second.replaced.key, second.replaced.stage) == ("staging", "churn@1", "archived")
    assert {m.key: m.stage for m in models.versions(shop)} == {
        "churn@1": "archived",
        "churn@2": "production",
        "churn@3": "none",
    }
    with pytest.raises(Invalid, match="is in production already"):
        models.advance(shop, "churn@2", "production")
    with pytest.raises(NotFound, match="no stage named 'prod'"):
        models.advance(shop, "churn@2", "prod")
    with pytest.raises(Invalid, match="cannot go from production to none"):
        models.advance(shop, "churn@2", "none")


def test_the_past_can_be_asked_and_brought_back(shop, register):
    moments = [time.time()]
    register(1.0)
    register(2.0)
    for version in (1, 2):
        models.advance(shop, f"churn@{version}", "production")
        moments.append(time.time())
    assert models.state_at(shop, "churn", moments[0]) == {}
    assert models.state_at(shop, "churn", moments[1]) == {"none": 2, "production": 1}
    assert models.state_at(shop, "churn", moments[2]) == {"production": 2}
    later = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moments[2] + 1))
    assert models.resolve(shop, f"churn@{{{later}}}").version == 2
    back = models.rollback(shop, "churn", reason="worse")
    assert (back.model.key, back.replaced.key) == ("churn@1", "churn@2")
    assert models.rollback(shop, "churn").model.key == "churn@2"
    said = [(e.type, e.subject.partition("@")[2], e.data.get("after"), e.reason) for e in models.history(shop, "churn")]
    assert said[-4:] == [
        ("model.stage", "2", "archived", "churn@1 took its place"), ("model.stage", "1", "production", "worse"),
        ("model.stage", "1", "archived", "churn@2 took its place"), ("model.stage", "2", "production", "rollback from churn@1"),
    ]  # fmt: skip


def test_nothing_to_go_back_to(shop, register):
    register()
    with pytest.raises(NotFound, match="is 'production'"):
        models.rollback(shop, "churn")
    models.advance(shop, "churn", "production")
    with pytest.raises(NotFound, match="no earlier version"):
        models.rollback(shop, "churn")
    with pytest.raises(NotFound):
        models.history(shop, "nothing")


# --- gates ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ("minimum = { accuracy = 0.95 }", "accuracy is 0.9, at least 0.95 is asked"),
        ("minimum = { auc = 0.5 }", "auc was not measured"),
        ("maximum = { loss = 0.05 }", "loss is 0.1, at most 0.05 is asked"),
        ('verdicts = ["fairness"]', "the verdict 'fairness' is missing"),
        ('come_from = "staging"', "it is in none, staging is asked"),
        ("approvals = 2", "0 of 2 approvals"),
    ],
)
def test_a_gate_refuses_and_says_why_and_records_it(shop, register, gate, said):
    register(metrics={"accuracy": 0.9, "loss": 0.1})
    ws = set_gates(shop, f"[gates.production]\n{gate}\n")
    with pytest.raises(Refused, match=said) as caught:
        models.advance(ws, "churn", "production", reason="please")
    assert "[gates.production]" in caught.value.expected
    assert models.resolve(ws, "churn").stage == "none"
    (verdict,) = ws.store.find(Verdict, field("check") == "gate:production")
    assert (verdict.status, said in verdict.summary) == ("fail", True)
    event = models.history(ws, "churn")[-1]
    assert (event.type, event.reason, event.actor) == ("model.refused", "please", "ann")
    assert said in " ".join(c["said"] for c in event.data["conditions"]["conditions"] if not c["holds"])


def test_a_gate_lets_through_what_holds(shop, register):
    register(metrics={"accuracy": 0.9, "loss": 0.1})
    ws = set_gates(
        shop, "[gates.production]\nminimum = { accuracy = 0.9 }\nmaximum = { loss = 0.1 }\nverdicts = ['proof']\n"
    )
    moved = models.advance(ws, "churn", "production")
    verdict = ws.store.get(Verdict, moved.event.data["evidence"]["gate"])
    assert (verdict.status, len(verdict.evidence["conditions"])) == ("pass", 3)


def test_a_later_verdict_counts(shop, register):
    one = register()
    ws = set_gates(shop, '[gates.production]\nverdicts = ["fairness"]\n')
    for i, status in enumerate(("pass", "fail")):
        ws.store.put(Verdict(id=f"V{i}", subject=str(one), check="fairness", status=status, created=float(i + 1)))
    with pytest.raises(Refused, match="the verdict 'fairness' is fail"):
        models.advance(ws, "churn", "production")


def test_approvals_count_people_and_belong_to_one_version_and_stage(shop, register):
    for i in range(11):
        register(float(i))
    set_gates(shop, "[gates.production]\napprovals = 2\n")
    said = [("ann", "churn@1", "production"), ("bob", "churn@11", "production"), ("bob", "churn@1", "staging")]
    for actor, model, stage in [*said, said[0]]:
        models.approve(acting(shop, actor), model, stage)
    with pytest.raises(Refused, match=r"1 of 2 approvals \(ann\)") as caught:
        models.advance(acting(shop, "ann"), "churn@1", "production")
    assert caught.value.fix == "boucle approve churn@1 production"
    models.approve(acting(shop, "bob"), "churn@1", "production")
    assert models.advance(acting(shop, "ann"), "churn@1", "production").model.stage == "production"
    with pytest.raises(NotFound, match="no stage named 'prod'"):
        models.approve(shop, "churn@1", "prod")


def better(register, *thresholds):
    for threshold in thresholds:
        register(threshold, holdout=HOLDOUT, target="y")


def test_better_compares_on_the_same_rows_with_the_code_of_each(shop, register):
    better(register, 10.0, 30.0, 29.0)
    ws = set_gates(shop, '[gates.production]\nbetter = "accuracy"\n')
    models.advance(ws, "churn@1", "production")
    models.advance(ws, "churn@2", "production")
    with pytest.raises(Refused, match=r"accuracy 1 in production, 0\.9833 now on the same rows"):
        models.advance(ws, "churn@3", "production")
    (verdict,) = ws.store.find(Verdict, (field("check") == "gate:production") & (field("status") == "fail"))
    assert verdict.evidence["compared"] == "60 untouched rows"


def test_a_margin_and_significance(shop, register):
    better(register, 29.0, 30.0, 15.0)
    ws = set_gates(shop, '[gates.production]\nbetter = "accuracy"\nmargin = 0.1\n')
    models.advance(ws, "churn@1", "production")
    with pytest.raises(Refused, match=r"a gain of at least 0\.1 is asked"):
        models.advance(ws, "churn@2", "production")
    ws = set_gates(shop, '[gates.production]\nbetter = "accuracy"\nsignificant = true\n')
    with pytest.raises(Refused, match="beyond chance"):
        models.advance(ws, "churn@2", "production")
    models.move(ws, models.resolve(ws, "churn@3"), "production")
    assert models.advance(ws, "churn@2", "production").model.stage == "production"


def test_better_without_rows_goes_by_the_recorded_metrics(shop, register):
    register(1.0, metrics={"rmse": 2.0})
    register(2.0, metrics={"rmse": 3.0})
    register(3.0, metrics={"rmse": 1.0})
    register(4.0)
    ws = set_gates(shop, '[gates.production]\nbetter = "rmse"\n')
    models.advance(ws, "churn@1", "production")
    for version in (2, 4):
        with pytest.raises(Refused, match="rmse"):
            models.advance(ws, f"churn@{version}", "production")
    assert models.advance(ws, "churn@3", "production").model.version == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[gates.prodction]\napprovals = 1\n", "no stage named 'prodction'"),
        ("[gates.production]\napproval = 1\n", "has no key 'approval'"),
        ('[gates.production]\nverdicts = "proof"\n', "wrong kind"),
        ("[gates.production]\napprovals = 1.5\n", "wrong kind"),
        ("[gates.production]\nminimum = 3\n", "wrong kind"),
        ('[gates.production]\ncome_from = "test"\n', "wrong kind"),
        ('[gates.production]\nminimum = { a = "b" }\n', "wrong kind"),
        ('[gates.production]\nsignificant = "yes"\n', "wrong kind"),
        ("gates = 3\n", "gates is 3"),
        ("[gates]\nproduction = 3\n", "wrong kind"),
    ],
)
def test_a_gate_that_is_written_wrong_lets_nobody_through(shop, register, text, said):
    register()
    with pytest.raises((Invalid, NotFound), match=said):
        models.advance(set_gates(shop, text), "churn", "production")
    assert models.resolve(shop, "churn").stage == "none"


def test_leaving_needs_no_leave(shop, register):
    register()
    ws = set_gates(shop, "[gates.production]\napprovals = 0\n[gates.archived]\napprovals = 5\n")
    models.advance(ws, "churn", "production")
    assert models.advance(ws, "churn", "archived").model.stage == "archived"
