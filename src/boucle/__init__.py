"""Boucle: from raw data to a model in production and back, in one package with one lineage graph.

The public names, each imported when it is first used, so that `import boucle` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from boucle.core.errors import BoucleError as BoucleError
    from boucle.core.frames import Frame as Frame
    from boucle.core.records import Dataset as Dataset
    from boucle.core.records import Model as Model
    from boucle.core.records import Run as Run
    from boucle.core.records import Service as Service
    from boucle.core.schema import Column as Column
    from boucle.core.schema import Schema as Schema
    from boucle.data.ingest import ingest as ingest
    from boucle.data.sql import sql as sql
    from boucle.data.validate import validate as validate
    from boucle.flow.execute import execute as execute
    from boucle.flow.step import pipeline as pipeline
    from boucle.flow.step import step as step
    from boucle.flow.watching import logged as logged
    from boucle.flow.watching import profiled as profiled
    from boucle.flow.watching import timed as timed
    from boucle.ledger.datasets import commit as commit
    from boucle.ledger.datasets import load as load
    from boucle.ledger.lineage import impact as impact
    from boucle.ledger.lineage import why as why
    from boucle.ledger.models import advance as promote  # noqa: F401
    from boucle.ledger.models import approve as approve
    from boucle.ledger.models import history as history
    from boucle.ledger.models import register as register
    from boucle.ledger.models import rollback as rollback
    from boucle.ledger.recording import log_metrics as log_metrics
    from boucle.ledger.recording import running as running
    from boucle.ledger.runs import track as track
    from boucle.ml.train import train as train
    from boucle.ops.ask import predict as predict
    from boucle.ops.deploy import deploy as deploy
    from boucle.ops.deploy import stop as stop
    from boucle.ops.label import label as label
    from boucle.ops.seal import seal as seal
    from boucle.ops.watch import watch as watch
    from boucle.workspace import Workspace as Workspace
    from boucle.workspace import init as init
    from boucle.workspace import open as open

_PLACES = {
    "BoucleError": "core.errors", "Frame": "core.frames", "Dataset": "core.records", "Model": "core.records",
    "Run": "core.records", "Service": "core.records", "Column": "core.schema", "Schema": "core.schema",
    "ingest": "data.ingest", "sql": "data.sql", "validate": "data.validate", "execute": "flow.execute", "pipeline": "flow.step",
    "step": "flow.step", "logged": "flow.watching", "profiled": "flow.watching", "timed": "flow.watching",
    "commit": "ledger.datasets", "load": "ledger.datasets", "impact": "ledger.lineage", "why": "ledger.lineage",
    "log_metrics": "ledger.recording", "running": "ledger.recording",
    "promote": "ledger.models:advance", "approve": "ledger.models", "history": "ledger.models",
    "register": "ledger.models", "rollback": "ledger.models", "track": "ledger.runs", "train": "ml.train",
    "predict": "ops.ask", "deploy": "ops.deploy", "stop": "ops.deploy", "label": "ops.label", "watch": "ops.watch",
    "seal": "ops.seal",
    "Workspace": "workspace", "init": "workspace", "open": "workspace",
}  # fmt: skip

__all__ = list(_PLACES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("boucle")
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module 'boucle' has no attribute {name!r}")
    module, _, other = place.partition(":")
    value = getattr(importlib.import_module(f"boucle.{module}"), other or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
