"""Ready-made steps of the default pipeline. A project's pipeline.py puts them together and adds its own."""

from __future__ import annotations

from typing import Any

from boucle.core.frames import Frame, schema_of
from boucle.core.records import Model
from boucle.core.schema import Schema
from boucle.flow.step import step
from boucle.ledger import models, recording
from boucle.ml import tabular
from boucle.ml.tabular import Evaluation, Fitted, Parts, Study


@step
def study(data: Frame, target: str, time: str | None = None, group: str | None = None) -> Study:
    """Find out what the table is: task, kinds of columns, leaks, how rows may be parted."""
    found = tabular.study(data, target, time=time, group=group)
    print("\n".join(found.findings))  # noqa: T201  a step's log
    return found


@step
def split(data: Frame, study: Study, test: float = 0.2, seed: int = 0) -> Parts:
    """Part the rows into those to train on and those that nothing sees before the end."""
    return tabular.split(data, study, test=test, seed=seed)


@step
def families(study: Study) -> list[str]:
    """The families of models worth trying on such data, the simplest first."""
    return list(tabular.candidates(study))


@step
def fit(family: str, train: Frame, study: Study, folds: int = 5, seed: int = 0) -> Fitted:
    """Cross-validate a family of models and fit it on all training rows."""
    fitted = tabular.fit(family, train, study, folds=folds, seed=seed)
    recording.log_metrics({name: fitted.scores.mean(name) for name in fitted.scores.folds})
    return fitted


@step
def choose(candidates: list[Fitted], study: Study) -> Fitted:
    """The best candidate by cross-validation, or a simpler one that is as good."""
    return tabular.choose(candidates, study)


@step
def evaluate(chosen: Fitted, candidates: list[Fitted], test: Frame, study: Study) -> Evaluation:
    """Judge the chosen one on the rows kept back, against the naive baseline."""
    baseline = next((c.estimator for c in candidates if c.family == "baseline"), None)
    judged = tabular.evaluate(chosen.estimator, test, study, baseline)
    recording.log_metrics(judged.metrics)
    print(judged.verdict)  # noqa: T201  a step's log
    return judged


@step
def report(study: Study, parts: Parts, candidates: list[Fitted], chosen: Fitted, evaluation: Evaluation) -> str:
    """What was done and what came out, in plain words; it becomes the model card."""
    return tabular.explain(study, parts, candidates, chosen, evaluation)


@step
def register(
    name: str,
    chosen: Fitted,
    study: Study,
    parts: Parts,
    evaluation: Evaluation,
    card: str,
    metrics: dict[str, float] | None = None,
) -> Model:
    """Pack the chosen model with its preprocessing, prove the bundle, and register it. `metrics` of your own join those of
    the evaluation, and gates may ask for them."""
    return models.register(
        recording.running().ws,
        name,
        chosen.estimator,
        data=parts.test.select(study.names),
        input=input_schema(parts.test, study),
        task=study.task,
        metrics={**evaluation.metrics, **(metrics or {})},
        trained=parts.train,
        holdout=parts.test,
        target=study.target,
        card=card,
        description=evaluation.verdict,
        tags={"family": chosen.family, "primary": study.primary, **_positive(study)},
    )


def input_schema(frame: Frame, study: Study) -> Schema:
    """What the model takes: every feature with its kind, and null allowed, since the pipeline fills what is missing."""
    kinds = {f.name: f.kind for f in study.features}
    plain = schema_of(frame.select(study.names).head(0).schema)
    for name, kind in kinds.items():
        plain = plain.replaced(name, kind=kind, nullable=True)
    return plain


def _positive(study: Study) -> dict[str, Any]:
    return {} if study.positive is None else {"positive": study.positive}
