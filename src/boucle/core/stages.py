"""The stages of a model: the legal moves between them as a table, and gates as pure judgement on facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from boucle.core.errors import Invalid, NotFound

STAGES = ("none", "staging", "production", "archived")

MOVES: dict[str, tuple[str, ...]] = {
    "none": ("staging", "production", "archived"),
    "staging": ("production", "archived", "none"),
    "production": ("archived", "staging"),
    "archived": ("staging", "production"),
}

# At most one version of a model is in each of these; the one that was there before goes to the stage named.
EXCLUSIVE: dict[str, str] = {"production": "archived"}


def check_move(model: str, before: str, after: str) -> None:
    """Raise when a model may not go from one stage to the other."""
    if after not in STAGES:
        raise NotFound.named("stage", after, STAGES)
    if after == before:
        raise Invalid(f"{model} is in {after} already", expected="another stage", fix=f"boucle history {model}")
    if after not in MOVES[before]:
        raise Invalid(f"{model} cannot go from {before} to {after}", expected=f"one of {', '.join(MOVES[before])}")


@dataclass(frozen=True, slots=True)
class Gate:
    """What must hold for a model to enter a stage; one table [gates.<stage>] of boucle.toml."""

    stage: str
    come_from: str = ""  # the stage it must be in before
    minimum: Mapping[str, float] = field(default_factory=dict)  # metric -> at least
    maximum: Mapping[str, float] = field(default_factory=dict)  # metric -> at most
    verdicts: tuple[str, ...] = ("proof",)  # checks whose newest verdict must be `pass`
    better: str = ""  # metric by which it must beat the version in production
    margin: float = 0.0  # by at least this much
    significant: bool = False  # and beyond chance, on its own untouched data
    approvals: int = 0  # people who must have approved

    @classmethod
    def from_table(cls, stage: str, table: Mapping[str, Any]) -> Gate:
        """Read a gate; raises `Invalid` for a key or value that does not fit."""
        if stage not in STAGES:
            raise NotFound.named("stage", stage, STAGES, fix=f"rename [gates.{stage}] in boucle.toml")
        wrong = Invalid(
            f"[gates.{stage}] holds a value of the wrong kind: {table}",
            expected="for example minimum = { roc_auc = 0.8 }, verdicts = ['proof'], approvals = 1",
        )
        if not isinstance(table, Mapping) or isinstance(table.get("verdicts"), str):
            raise wrong
        names = {f.name for f in fields(cls)} - {"stage"}
        unknown = sorted(set(table) - names)
        if unknown:
            raise Invalid(f"[gates.{stage}] has no key {unknown[0]!r}", expected=f"one of {', '.join(sorted(names))}")
        try:
            gate = cls(stage, **{**table, **({"verdicts": tuple(table["verdicts"])} if "verdicts" in table else {})})
            numbers = [*gate.minimum.values(), *gate.maximum.values(), gate.margin, gate.approvals]
        except (TypeError, AttributeError):
            raise wrong from None
        if not (
            all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers)
            and all(isinstance(w, str) for w in (*gate.verdicts, gate.better))
            and isinstance(gate.approvals, int)
            and isinstance(gate.significant, bool)
            and gate.come_from in ("", *STAGES)
        ):
            raise wrong
        return gate


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a model when it asks to pass a gate."""

    model: str
    stage: str
    metrics: Mapping[str, float]
    verdicts: Mapping[str, str]  # check -> status of the newest
    approvals: frozenset[str]  # who approved this version for this stage
    trainer: str = ""
    # Against production on the same rows: (before, after, low, high, significantly better); None when nothing is there.
    comparison: tuple[float, float, float, float, bool] | None = None
    higher_is_better: bool = True


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition of a gate, whether it holds, and the sentence that says so."""

    name: str
    holds: bool
    said: str


def judge(gate: Gate, facts: Facts) -> list[Condition]:
    """Every condition of a gate against the facts. The model may pass when all of them hold."""
    out = []
    if gate.come_from:
        out.append(
            Condition("come_from", facts.stage == gate.come_from, f"it is in {facts.stage}, {gate.come_from} is asked")
        )
    for name, bounds, word in (("minimum", gate.minimum, "at least"), ("maximum", gate.maximum, "at most")):
        for metric, bound in bounds.items():
            value = facts.metrics.get(metric)
            if value is None:
                out.append(Condition(name, False, f"{metric} was not measured, {word} {bound:g} is asked"))
            else:
                holds = value >= bound if name == "minimum" else value <= bound
                out.append(Condition(name, holds, f"{metric} is {value:.4g}, {word} {bound:g} is asked"))
    for check in gate.verdicts:
        status = facts.verdicts.get(check, "missing")
        out.append(Condition("verdicts", status == "pass", f"the verdict {check!r} is {status}"))
    if gate.better:
        out.append(_better(gate, facts))
    if gate.approvals:
        have = len(facts.approvals)
        who = f" ({', '.join(sorted(facts.approvals))})" if have else ""
        out.append(Condition("approvals", have >= gate.approvals, f"{have} of {gate.approvals} approvals{who}"))
    return out


def _better(gate: Gate, facts: Facts) -> Condition:
    if facts.comparison is None:
        return Condition("better", True, "nothing is in production to compare with")
    before, after, low, high, significant = facts.comparison
    gain = (after - before) if facts.higher_is_better else (before - after)
    holds = gain >= gate.margin and gain > 0 and (significant or not gate.significant)
    asked = f"a gain of at least {gate.margin:g}" if gate.margin else "a gain"
    chance = " beyond chance" if gate.significant else ""
    said = (
        f"{gate.better} {before:.4g} in production, {after:.4g} now on the same rows "
        f"(95 % interval of the change {low:+.4g} to {high:+.4g}); {asked}{chance} is asked"
    )
    return Condition("better", holds, said)
