"""Frameworks: how a model of some library is stored without pickle, loaded, and asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

import pyarrow as pa


class Predictor(Protocol):
    """A loaded model: raw input columns in, result columns out, the same number of rows."""

    def predict(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """`batch` has the bundle's input schema. The result has a column `prediction` and, for classifiers that give
        them, `probabilities`, a struct of one float64 per class."""


class Framework(Protocol):
    """One machine-learning library, or plain Python."""

    name: ClassVar[str]
    extra: ClassVar[str]  # the extra that installs it, empty for none

    def accepts(self, model: Any) -> bool:
        """Whether this framework knows how to store the object. Must not import its library to say no."""

    def save(self, model: Any, folder: Path) -> Mapping[str, Any]:
        """Write the model into an empty folder; returns what `load` needs to know, as JSON."""

    def predictor(self, model: Any) -> Predictor:
        """The model in memory, asked as a loaded one is: what the packed copy is compared with."""

    def load(self, folder: Path, meta: Mapping[str, Any]) -> Predictor:
        """Read back what `save` wrote. Runs no code from the folder but what `meta` says was packed on purpose."""

    def restore(self, folder: Path, meta: Mapping[str, Any]) -> Any:
        """The model object itself, as it was given to `save`."""

    def requirements(self, model: Any) -> tuple[str, ...]:
        """Distribution names that must be installed where the model runs, without versions."""
