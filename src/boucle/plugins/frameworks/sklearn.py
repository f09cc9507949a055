"""scikit-learn: estimators and pipelines, stored with skops (no pickle) and asked with pandas frames."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from boucle.core.errors import Corrupt, Invalid
from boucle.core.frames import to_pandas
from boucle.core.reach import reach
from boucle.core.sources import copy_modules, importable

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

        skops.io.dump(model, folder / _FILE)
        foreign = sorted(t for t in skops.io.get_untrusted_types(file=folder / _FILE) if not _ours(t))
        for kind in foreign:
            copy_modules(reach(_class_at(kind)).files, folder / "code")
        return {"file": _FILE, "foreign": foreign}

    def restore(self, folder: Path, meta: Mapping[str, Any]) -> Any:
        import skops.io

        file = folder / str(meta["file"])
        importable(folder / "code")
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

    def load(self, folder: Path, meta: Mapping[str, Any]) -> SklearnPredictor:
        return SklearnPredictor(self.restore(folder, meta))

    def requirements(self, model: Any) -> tuple[str, ...]:
        from importlib import metadata

        tops = {c.__module__.partition(".")[0] for c in type(model).__mro__} - {"builtins", "sklearn", "boucle"}
        owners = metadata.packages_distributions() if tops else {}
        return (
            "boucle",
            "scikit-learn",
            "skops",
            "pandas",
            "numpy",
            *sorted({n for t in tops for n in owners.get(t, ())}),
        )


class SklearnPredictor:
    """An estimator behind Arrow batches."""

    def __init__(self, estimator: Any) -> None:
        self._estimator = estimator
        classes = getattr(estimator, "classes_", None)
        if isinstance(classes, list):
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


def _class_at(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _ours(kind: str) -> bool:
    return kind.startswith(_TRUSTED_ROOTS)
