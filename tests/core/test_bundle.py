"""Bundles: a folder that needs nothing else, opens in MLflow, and shows every byte that was changed."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from boucle.core.bundle import TOLERANCE, differences, open_bundle, pack, replay
from boucle.core.errors import Corrupt, Invalid, NotFound, Refused
from boucle.core.frames import schema_of

SAMPLE = pa.table({"age": [20.0, 40.0, None, 60.0], "plan": ["a", "b", "a", None]})


@pytest.fixture
def user(tmp_path, monkeypatch):
    """Write user modules into a folder on the import path; gives the first."""
    folder = tmp_path / "user"
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before, finders = set(sys.modules), list(sys.meta_path)

    def make(name, files):
        for path, text in files.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(textwrap.dedent(text))
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield make
    sys.meta_path[:] = finders
    for name in set(sys.modules) - before:
        if str(tmp_path) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


def packed(folder, model, sample=SAMPLE, **options):
    schema = schema_of(sample.schema)
    return pack(folder, model, **{"name": "m", "input": schema, "sample": sample, "task": "binary", **options})


@pytest.fixture(scope="module")
def fitted():
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    rows = pd.DataFrame({"age": [20.0, 40.0, np.nan, 60.0] * 5, "plan": ["a", "b", "a", np.nan] * 5}).astype(
        {"plan": object}
    )
    both = make_column_transformer((SimpleImputer(), ["age"]), (OneHotEncoder(handle_unknown="ignore"), ["plan"]))
    return make_pipeline(both, LogisticRegression()).fit(rows, ["no", "yes"] * 10)


@pytest.fixture(scope="module")
def bundle(fitted, tmp_path_factory):
    return packed(
        tmp_path_factory.mktemp("bundle") / "b", fitted, metrics={"auc": 0.5}, card="# Hello", references={"run": "R"}
    )


@pytest.fixture
def copy(bundle, tmp_path):
    return Path(shutil.copytree(bundle.folder, tmp_path / "copy"))


def test_what_is_in_it(bundle, fitted):
    again = open_bundle(bundle.folder)
    assert again == bundle
    assert (again.name, again.task, again.framework) == ("m", "binary", "sklearn")
    assert (again.metrics, again.references, again.card) == ({"auc": 0.5}, {"run": "R"}, "# Hello")
    assert again.sample == SAMPLE.to_pylist()
    frame = SAMPLE.to_pandas().astype({"plan": object})
    wanted = fitted.predict_proba(frame)[:, 1]
    assert [g["probabilities"]["yes"] for g in again.golden] == pytest.approx(list(wanted))
    assert again.output.names == ("prediction", "probabilities")
    assert replay(again) == []


def test_it_answers_rows_and_refuses_others(bundle):
    (answer,) = bundle.predict([{"age": None, "plan": "never seen"}])
    assert answer["prediction"] in ("yes", "no")
    for row in ({"age": "old", "plan": "a"}, {"age": 1.0, "plan": "a", "more": 1}):
        with pytest.raises(Invalid):
            bundle.predict([row])


def test_it_works_where_nothing_else_is(bundle, copy):
    code = "import sys; from boucle.core.bundle import *; b = open_bundle(sys.argv[1]); print(replay(b), b.digest)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(copy)], cwd="/", env={}, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"[] {bundle.digest}\n"


def test_the_proof_tells_what_differs(bundle, copy):
    golden = json.loads((copy / "golden.json").read_text())
    golden[1]["prediction"] = "maybe"
    (copy / "golden.json").write_text(json.dumps(golden))
    manifest = json.loads((copy / "bundle.json").read_text())
    manifest["files"]["golden.json"] = blake3((copy / "golden.json").read_bytes()).hexdigest()
    (copy / "bundle.json").write_text(json.dumps(manifest))
    said = subprocess.run(
        [sys.executable, "-I", "-m", "boucle.core.prove", str(copy)], capture_output=True, text=True, check=False
    )
    report = json.loads(said.stdout)
    assert said.returncode == 1
    assert report["differences"] == [f"row 1, prediction: {bundle.golden[1]['prediction']!r} instead of 'maybe'"]


# --- tampering ------------------------------------------------------------------------------------------------------


def test_every_changed_byte_is_caught(bundle, copy):
    for path in [p for p in copy.rglob("*") if p.is_file() and p.stat().st_size]:
        content = path.read_bytes()
        for at in {0, len(content) // 2, len(content) - 1}:
            path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
            try:
                changed = open_bundle(copy)
            except (Corrupt, Invalid):
                continue
            # A manifest may still be one, but then it is another bundle.
            assert path.name == "bundle.json"
            assert changed.digest != bundle.digest
        path.write_bytes(content)
    assert open_bundle(copy).digest == bundle.digest


@pytest.mark.parametrize(
    ("tamper", "said"),
    [
        (lambda f: (f / "extra.txt").touch(), "holds extra.txt"),
        (lambda f: (f / "model" / "more.py").write_text("x"), "holds model/more.py"),
        (lambda f: ((f / "__pycache__").mkdir(), (f / "__pycache__" / "a.pyc").touch()), "holds __pycache__/a.pyc"),
        (lambda f: os.mkfifo(f / "pipe"), "holds pipe"),
        (lambda f: (f / "README.md").unlink(), "lacks README.md"),
        (lambda f: shutil.rmtree(f / "model"), "lacks model/"),
        (lambda f: (f / "golden.json").write_text("[]"), "golden.json is not what was packed"),
        (lambda f: ((f / "README.md").rename(f.parent / "r"), (f / "README.md").symlink_to(f.parent / "r")), "lacks README.md"),
        (lambda f: (f / "link").symlink_to("/etc"), "holds link"),
        (lambda f: ((f / "model").rename(f.parent / "m"), (f / "model").symlink_to(f.parent / "m")), "holds model"),
        (lambda f: edit(f, lambda m: m["files"].update({"../secret": "0"})), "names '../secret'"),
        (lambda f: edit(f, lambda m: m["files"].update({"/etc/passwd": "0"})), "names '/etc/passwd'"),
        (lambda f: edit(f, lambda m: m.pop("files")), "lacks files"),
        (lambda f: edit(f, lambda m: m.pop("input")), "lacks input"),
        (lambda f: (f / "bundle.json").write_text("[1]"), "holds a list"),
        (lambda f: (f / "bundle.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "bundle.json").write_bytes(b"\xff\xfe"), "cannot be read"),
    ],
)  # fmt: skip
def test_tampering_is_caught(copy, tamper, said):
    tamper(copy)
    with pytest.raises(Corrupt, match=said):
        open_bundle(copy)


def edit(folder, change):
    manifest = json.loads((folder / "bundle.json").read_text())
    change(manifest)
    (folder / "bundle.json").write_text(json.dumps(manifest))


def test_what_is_no_bundle_or_not_ours(copy, tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere", copy / "README.md"):
        with pytest.raises(NotFound, match="is not a bundle"):
            open_bundle(folder)
    edit(copy, lambda m: m.update(format=99))
    with pytest.raises(Invalid, match="bundle format 99"):
        open_bundle(copy)


def test_a_class_that_was_not_named_when_it_was_saved_is_not_loaded(user, tmp_path):
    thing = user("thing", THING)
    made = packed(tmp_path / "b", thing.Scaled(3).fit(SAMPLE.to_pandas(), [0, 1, 0, 1]))
    meta = dict(made.manifest["framework"]["meta"])
    from boucle.plugins.frameworks.sklearn import SklearnFramework

    assert meta["foreign"] == ["thing.Scaled"]
    with pytest.raises(Corrupt, match=r"holds a thing\.Scaled"):
        SklearnFramework().load(made.folder / "model", {**meta, "foreign": []})


def test_bytecode_that_was_planted_is_not_run(user, tmp_path):
    """Python would take a cached .pyc without looking at the source (PEP 552, unchecked)."""
    import py_compile

    made = packed(tmp_path / "b", user("honest", {"honest.py": "def predict(rows): return [1 for _ in rows]"}).predict)
    evil = tmp_path / "evil.py"
    evil.write_text("def predict(rows): return [666 for _ in rows]")
    source = made.folder / "model" / "honest.py"
    py_compile.compile(
        str(evil),
        importlib.util.cache_from_source(str(source)),
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    assert [r["prediction"] for r in made.predict(made.sample)] == [1] * 4
    with pytest.raises(Corrupt, match="__pycache__"):
        open_bundle(made.folder)


# --- what can be packed ---------------------------------------------------------------------------------------------

THING = {
    "thing.py": """
        from sklearn.base import BaseEstimator, ClassifierMixin
        import scaling
        class Scaled(ClassifierMixin, BaseEstimator):
            def __init__(self, factor=1): self.factor = factor
            def fit(self, X, y):
                self.classes_ = sorted(set(y)); self.fitted_ = True
                return self
            def predict(self, X): return [int(scaling.scale(a, self.factor) > 100) for a in X["age"].fillna(0)]
    """,
    "scaling.py": "def scale(a, by): return a * by",
}


def test_an_estimator_of_the_users_own_brings_its_modules(user, tmp_path):
    thing = user("thing", THING)
    made = packed(tmp_path / "b", thing.Scaled(3).fit(SAMPLE.to_pandas(), [0, 1, 0, 1]))
    assert {p.name for p in (made.folder / "model" / "code").iterdir()} == {"thing.py", "scaling.py"}
    assert [r["prediction"] for r in made.golden] == [0, 1, 0, 1]
    assert prove(made)["differences"] == []


def test_a_transformer_of_the_users_own_inside_a_pipeline(user, tmp_path):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    kit = user("kit.features", {"kit/__init__.py": "", "kit/features.py": "def ages(X): return X[['age']].fillna(0)"})
    model = make_pipeline(FunctionTransformer(kit.ages), LogisticRegression())
    made = packed(tmp_path / "b", model.fit(SAMPLE.to_pandas(), [0, 1, 0, 1]))
    assert prove(made)["differences"] == []
    shutil.rmtree(tmp_path / "user")
    assert prove(made)["differences"] == []


PACKAGE = {
    "shop/__init__.py": "from shop.words import WORDS",
    "shop/words.py": "from pathlib import Path\nWORDS = (Path(__file__).parent / 'data' / 'words.txt').read_text().split()",
    "shop/data/words.txt": "a x",
    "shop/rules.py": """
        from __future__ import annotations
        import functools
        import pandas as pd
        from . import WORDS
        from .deep.more import limit
        import unused_but_imported
        def twice(f):
            @functools.wraps(f)
            def both(frame: pd.DataFrame): return [2 * x for x in f(frame)]
            return both
        @twice
        def predict(frame: pd.DataFrame):
            from late import shift
            return [int(p in WORDS) + shift() + limit for p in frame["plan"]]
    """,
    "shop/deep/more.py": "limit = 5",
    "unused_but_imported.py": "",
    "late.py": "def shift(): return 10",
}


def test_a_function_brings_all_that_its_modules_import_and_the_files_of_its_package(user, tmp_path):
    rules = user("shop.rules", PACKAGE)
    made = packed(tmp_path / "b", rules.predict)
    assert [r["prediction"] for r in made.golden] == [32, 30, 32, 30]
    shutil.rmtree(tmp_path / "user")
    assert prove(made)["differences"] == []
    model = made.folder / "model"
    assert {p.relative_to(model).as_posix() for p in model.rglob("*") if p.is_file()} == {*PACKAGE}
    assert not list(made.folder.rglob("__pycache__"))


def test_too_much_beside_the_modules_of_a_package_is_refused(user, tmp_path, monkeypatch):
    monkeypatch.setattr("boucle.core.sources.MOST_DATA", 10)
    rules = user("shop.rules", {**PACKAGE, "shop/data/words.txt": "a " * 50})
    with pytest.raises(Invalid, match="files that are no Python"):
        packed(tmp_path / "b", rules.predict)


def test_a_file_beside_a_module_that_is_in_no_package_is_missed_at_once(user, tmp_path):
    code = """
        from pathlib import Path
        def predict(rows): return [len((Path(__file__).parent / "w.txt").read_text()) for _ in rows]
    """
    loose = user("loose", {"loose.py": code, "w.txt": "abc"})
    with pytest.raises(Refused, match=r"FileNotFoundError.*w\.txt") as caught:
        packed(tmp_path / "b", loose.predict)
    assert "package folder" in caught.value.fix


@pytest.mark.parametrize(
    ("annotation", "body"),
    [
        ("", "[r['age'] for r in rows]"),
        (": list", "[r['age'] for r in rows]"),
        (": pd.DataFrame", "rows['age']"),
        (": pl.DataFrame", "rows['age']"),
        (": pa.Table", "rows.column('age')"),
        (": pa.RecordBatch", "rows.column('age')"),
        (": Frame", "rows.table().column('age')"),
        (": pd.DataFrame", "rows[['age']].rename(columns={'age': 'prediction'})"),
        (": pd.DataFrame", "{'prediction': rows['age'], 'more': rows['plan']}"),
        ("", "[{'prediction': r['age']} for r in rows]"),
        (": pa.Table", "rows.column('age').to_numpy()"),
    ],
)
def test_a_function_gets_and_gives_what_it_likes(user, tmp_path, annotation, body):
    head = "import pandas as pd, polars as pl, pyarrow as pa\nfrom boucle import Frame\n"
    code = f"{head}def predict(rows{annotation}): return {body}"
    made = packed(tmp_path / "b", user("anything", {"anything.py": code}).predict)
    given = [
        None if r["prediction"] is None or r["prediction"] != r["prediction"] else r["prediction"] for r in made.golden
    ]
    assert given == [20.0, 40.0, None, 60.0]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda rows: rows, "made inside another function|<lambda>"),
        (object(), "no framework knows how to pack a builtins.object"),
        (b"cos\nsystem\n", "no framework knows how to pack a builtins.bytes"),
    ],
)
def test_what_cannot_be_packed(tmp_path, model, said):
    with pytest.raises(Invalid, match=said):
        packed(tmp_path / "b", model)


def test_a_script_packs_its_functions_and_refuses_its_classes(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent("""
        import sys
        from pathlib import Path
        import pyarrow as pa
        from sklearn.base import BaseEstimator
        from boucle.core.bundle import pack
        from boucle.core.errors import Invalid
        from boucle.core.frames import schema_of
        def predict(rows): return [r["a"] + 1 for r in rows]
        class Own(BaseEstimator):
            def fit(self, X, y): return self
            def predict(self, X): return X["a"]
        if __name__ == "__main__":
            sample = pa.table({"a": [1, 2]})
            for name, model in (("function", predict), ("class", Own())):
                try:
                    pack(Path(name), model, name="m", input=schema_of(sample.schema), sample=sample)
                except Invalid as error:
                    print(error.what)
    """)
    )
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "the model holds a __main__.Own, made in the program that runs\n"
    made = open_bundle(tmp_path / "function")
    script.unlink()
    assert prove(made)["differences"] == []


def prove(made):
    done = subprocess.run(
        [sys.executable, "-I", "-m", "boucle.core.prove", str(made.folder)], capture_output=True, text=True, check=False
    )
    return json.loads(done.stdout)


# --- MLflow ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sklearn", "python"])
def test_mlflow_opens_it_and_answers_the_same(bundle, user, tmp_path, kind):
    if kind == "python":
        code = "def predict(rows): return [{'prediction': r['plan'] or 'none', 'score': (r['age'] or 0) / 2} for r in rows]"
        bundle = packed(tmp_path / "b", user("scorer", {"scorer.py": code}).predict)
    program = """if True:
        import sys, json, logging
        logging.disable()
        import pandas as pd, mlflow.pyfunc
        rows = pd.DataFrame(json.load(open(sys.argv[1] + "/sample.json")))
        found = mlflow.pyfunc.load_model(sys.argv[1])
        print(found.predict(rows).to_json(orient="records"))
    """
    command = [sys.executable, "-W", "ignore", "-c", program, str(bundle.folder)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    if kind == "sklearn":
        for now, golden in zip(found, bundle.golden, strict=True):
            assert now["prediction"] == golden["prediction"]
            assert now["probabilities.yes"] == pytest.approx(golden["probabilities"]["yes"])
    else:
        assert found == bundle.golden


# --- comparing answers ----------------------------------------------------------------------------------------------

ANSWERS = st.recursive(
    st.none() | st.booleans() | st.floats(-1e6, 1e6) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=6,
)


@given(ANSWERS)
def test_an_answer_does_not_differ_from_itself(answer):
    assert differences(answer, json.loads(json.dumps(answer))) == []


@given(ANSWERS, ANSWERS)
def test_a_difference_is_one_both_ways(a, b):
    assert [d[0] for d in differences(a, b)] == [d[0] for d in differences(b, a)]
    assert bool(differences([a], [b])) == bool(differences(a, b))


@given(st.floats(-1e9, 1e9))
def test_numbers_may_differ_by_the_tolerance_and_no_more(value):
    step = TOLERANCE * max(1.0, abs(value))
    assert differences(value, value + step / 2) == []
    assert differences(value, value + step * 2) == [("answer", value, value + step * 2)]
    assert differences(value, True) == [("answer", value, True)]


def test_where_answers_differ():
    before = {"a": [1.0, {"b": "x"}], "c": True}
    assert differences(before, {"a": [1.0 + 1e-12, {"b": "x"}], "c": True}) == []
    assert differences(before, {"a": [1.1, {"b": "y"}], "c": 1}) == [
        ("a[0]", 1.0, 1.1), ("a[1].b", "x", "y"), ("c", True, 1),
    ]  # fmt: skip
    assert differences(before, {"a": [1.0], "c": True}) == [("a", before["a"], [1.0])]
    assert differences(1.0, None) == [("answer", 1.0, None)]
