"""scikit-learn: estimators and pipelines, stored with skops (no pickle) and asked with pandas frames."""

from __future__ import annotations

import importlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from boucle.core.errors import Corrupt, Invalid
from boucle.core.frames import to_pandas
from boucle.core.reach import distributions, reach
from boucle.core.sources import copy_modules, imports, lent, packed

_FILE = "model.skops"
_TRUSTED_ROOTS = ("sklearn.", "numpy.", "scipy.", "boucle.core.transforms.")


class SklearnFramework:
    """Anything with `fit` and `predict` whose class comes from scikit-learn or derives from its BaseEstimator."""

    name: ClassVar[str] = "sklearn"
    extra: ClassVar[str] = ""

    def accepts(self, model: Any) -> bool:
        return hasattr(model, "predict") and any(c.__module__.startswith("sklearn.") for c in type(model).__mro__)

    def save(self, model: Any, folder: Path) -> Mapping[str, Any]:
        import skops.io

        # Trees and vocabularies compress to a third and less; past the lowest level only time grows.
        skops.io.dump(model, folder / _FILE, compression=zipfile.ZIP_DEFLATED, compresslevel=1)
        _settle(folder / _FILE)
        foreign = sorted(t for t in skops.io.get_untrusted_types(file=folder / _FILE) if not _ours(t))
        for kind in foreign:
            if kind.startswith("__main__."):
                raise Invalid(
                    f"the model holds a {kind}, made in the program that runs",
                    expected="classes and functions in modules of their own",
                    fix="move it to a file and import it from there",
                )
            copy_modules(imports(reach(_class_at(kind)).files)[0], folder / "code")
        return {"file": _FILE, "foreign": foreign}

    def predictor(self, model: Any) -> SklearnPredictor:
        return SklearnPredictor(model)

    def restore(self, folder: Path, meta: Mapping[str, Any]) -> Any:
        with lent(folder / "code"):
            return self._read(folder, meta)

    def load(self, folder: Path, meta: Mapping[str, Any]) -> SklearnPredictor:
        with packed(folder / "code"):
            return SklearnPredictor(self._read(folder, meta))

    def _read(self, folder: Path, meta: Mapping[str, Any]) -> Any:
        import skops.io

        file = folder / str(meta["file"])
        unknown = skops.io.get_untrusted_types(file=file)
        # A class outside of these packages is trusted only if it was named when the model was saved; what the file itself
        # says decides nothing.
        for kind in unknown:
            if not _ours(kind) and kind not in meta.get("foreign", ()):
                raise Corrupt(
                    f"{file} holds a {kind}, which it did not when it was saved",
                    expected=f"classes of {', '.join((*_TRUSTED_ROOTS, *meta.get('foreign', ())))}",
                )
        return skops.io.load(file, trusted=unknown)

    def requirements(self, model: Any) -> tuple[str, ...]:
        reached = reach(model)
        tops = {*reached.packages, *imports(reached.files)[1]} - {"sklearn", "numpy", "boucle"}
        plain = ("boucle", "scikit-learn", "skops", "pandas", "numpy")
        others = {name for top in tops if top[0] != "_" for name in distributions().get(top, ())}
        return (*plain, *sorted(others - {*plain}))


class SklearnPredictor:
    """An estimator behind Arrow batches."""

    def __init__(self, estimator: Any) -> None:
        self._estimator = estimator
        classes = getattr(estimator, "classes_", None)
        if isinstance(classes, list) and any(np.ndim(c) for c in classes):
            raise Invalid("the model predicts several targets", expected="one target")
        self._classes = None if classes is None else [_word(c) for c in classes]
        self._labels = None if classes is None else np.asarray(classes)

    def predict(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        frame = to_pandas(batch)
        columns: dict[str, pa.Array] = {}
        if self._classes is None or self._labels is None or not hasattr(self._estimator, "predict_proba"):
            columns["prediction"] = _column(np.asarray(self._estimator.predict(frame)))
        else:
            shares = np.asarray(self._estimator.predict_proba(frame), dtype=np.float64)
            # For these the prediction is the most probable class by definition; asking twice would cost as much again.
            likely = _by_argmax(self._estimator)
            predicted = self._labels[shares.argmax(axis=1)] if likely else np.asarray(self._estimator.predict(frame))
            columns["prediction"] = _column(predicted)
            columns["probabilities"] = pa.StructArray.from_arrays(
                [pa.array(np.ascontiguousarray(shares[:, i])) for i in range(shares.shape[1])], names=self._classes
            )
        return pa.RecordBatch.from_pydict(columns)


def _by_argmax(estimator: Any) -> bool:
    while type(estimator).__name__ == "Pipeline" and type(estimator).__module__.startswith("sklearn."):
        estimator = estimator.steps[-1][1]
    kind = type(estimator)
    return kind.__module__.startswith("sklearn.") and kind.__name__ in (
        "LogisticRegression", "HistGradientBoostingClassifier", "RandomForestClassifier", "ExtraTreesClassifier",
        "GaussianNB", "MultinomialNB", "MLPClassifier",
    )  # fmt: skip


def _column(values: np.ndarray[Any, Any]) -> pa.Array:
    if values.ndim != 1:
        raise Invalid(f"the model gave an array of shape {values.shape}", expected="one value per row")
    return pa.array(values.tolist()) if values.dtype == object else pa.array(values)


def _word(label: Any) -> str:
    return str(label.item() if hasattr(label, "item") else label)


def _settle(file: Path) -> None:
    """Make the bytes of a skops file those of the model alone: skops writes the time, and names parts by their place in
    memory."""
    with zipfile.ZipFile(file) as archive:
        schema = json.loads(archive.read("schema.json"))
        parts = {info.filename: archive.read(info) for info in archive.infolist() if info.filename != "schema.json"}
    numbers: dict[int, int] = {}
    names: dict[str, str] = {}

    def renamed(node: Any) -> Any:
        if isinstance(node, list):
            return [renamed(n) for n in node]
        if not isinstance(node, dict):
            return node
        out = {k: renamed(v) for k, v in node.items()}
        if isinstance(node.get("__id__"), int):
            out["__id__"] = numbers.setdefault(node["__id__"], len(numbers))
        if isinstance(node.get("file"), str) and node["file"] in parts:
            out["file"] = names.setdefault(node["file"], f"{len(names)}{Path(node['file']).suffix}")
        return out

    schema = renamed(schema)
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in parts.items():
            archive.writestr(zipfile.ZipInfo(names.get(name, name)), content)
        archive.writestr(zipfile.ZipInfo("schema.json"), json.dumps(schema))


def _class_at(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _ours(kind: str) -> bool:
    return kind.startswith(_TRUSTED_ROOTS)
