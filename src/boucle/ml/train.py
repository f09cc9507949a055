"""Train: from a dataset to a registered model with the default pipeline, in one call."""

from __future__ import annotations

from boucle.core.frames import Frame
from boucle.core.records import Model
from boucle.core.refs import check_name
from boucle.flow.execute import Execution, Listener, execute
from boucle.flow.step import pipeline
from boucle.ml import steps
from boucle.workspace import Workspace


@pipeline(name="train")
def default(
    data: Frame, target: str, name: str, families: tuple[str, ...] = (), test: float = 0.2, seed: int = 0
) -> Model:
    """Study, split, fit candidates of several families (those worth trying unless named), choose, evaluate, report,
    register."""
    findings = steps.study(data, target)
    parts = steps.split(data, findings, test, seed)
    candidates = steps.fit.map(families or steps.families(findings), parts.train, findings, seed=seed)
    chosen = steps.choose(candidates, findings)
    evaluation = steps.evaluate(chosen, candidates, parts.test, findings)
    card = steps.report(findings, parts, candidates, chosen, evaluation)
    registered: Model = steps.register(name, chosen, findings, parts, evaluation, card)
    return registered


def train(
    ws: Workspace,
    data: str | Frame,
    target: str,
    name: str,
    *,
    test: float = 0.2,
    seed: int = 0,
    listen: Listener | None = None,
) -> Execution:
    """Train models of several families on a dataset and register the best one as the next version of `name`.

    `data` is a reference to a dataset (or a table), `target` the column to predict, `test` the share of rows kept back.
    What was done before with the same data and code is used again. The execution's `result` is the registered `Model`.

    >>> boucle.train(ws, "customers@latest", "churned", "churn").result
    """
    check_name(name, "model name")
    arguments = {"data": data, "target": target, "name": name, "test": test, "seed": seed}
    return execute(ws, default, arguments, listen=listen, seed=seed)
