"""The default model pipeline for tables: study, split, build and fit candidates, choose, evaluate, explain.

Pure functions: frames in, values out. Nothing here reads or writes a workspace.
"""

from __future__ import annotations

from boucle.ml.tabular.evaluate import Evaluation, evaluate, explain
from boucle.ml.tabular.features import FAMILIES, build, candidates
from boucle.ml.tabular.fit import Fitted, Scores, choose, fit
from boucle.ml.tabular.split import Parts, split
from boucle.ml.tabular.study import Feature, Study, study

__all__ = [
    "FAMILIES",
    "Evaluation",
    "Feature",
    "Fitted",
    "Parts",
    "Scores",
    "Study",
    "build",
    "candidates",
    "choose",
    "evaluate",
    "explain",
    "fit",
    "split",
    "study",
]
