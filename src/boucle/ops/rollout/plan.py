"""How a new revision is tried: phases, what is asked in each, and the decision. Pure: facts in, a decision out."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from boucle.core.errors import Invalid, NotFound
from boucle.flow.schedule import in_words, span
from boucle.measure.sequential import Interval

STRATEGIES: dict[str, tuple[str, ...]] = {
    "canary": ("replay", "shadow", "canary 5 %", "canary 25 %", "all"),
    "blue-green": ("replay", "shadow", "all"),
    "ab": ("replay", "canary 50 %", "all"),
}
KINDS = ("replay", "shadow", "canary", "all")

OK, WORSE, OPEN = "ok", "worse", "open"


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase: `replay` asks the new model what was asked before, `shadow` mirrors live requests to it, `canary` gives it a
    share of them, `all` gives it everything while the old revision stays loaded."""

    name: str
    kind: str
    share: float = 0.0


@dataclass(frozen=True, slots=True)
class Policy:
    """What a new revision must show; a table [rollouts.SERVICE] or [rollouts.default] of boucle.toml."""

    strategy: str = "canary"
    phases: tuple[str, ...] = ()  # instead of the strategy's
    rows: int = 200  # answers of the new revision that a phase needs at least
    labels: bool = True  # whether the score decides as soon as outcomes are known; otherwise only how often both differ
    worse: float = 0.02  # loss of score that is allowed: of accuracy, or as a part of the error of the old revision
    differ: float = 0.3  # share of other answers that is allowed where no outcome is known
    errors: float = 0.02  # share of failed requests that is allowed beyond the old revision's
    slow: float = (
        0.1  # share of requests beyond the old one's that may take longer than half as long again as its slowest 5 %
    )
    timeout: float = 86400.0  # seconds that a phase may take; then it is rolled back
    soak: float = 0.0  # seconds that a phase takes at least
    by: str = ""  # column by which rows stay with a revision; requests with the header X-Boucle-Key always do
    approve: tuple[str, ...] = ()  # phases that a person must let begin
    alpha: float = 0.05  # chance of a wrong decision over all phases

    @classmethod
    def from_table(cls, table: Mapping[str, Any], place: str) -> Policy:
        """Read a policy; raises `Invalid` or `NotFound` for a key or value that does not fit."""
        known = {f.name: f for f in fields(cls)}
        values: dict[str, Any] = {}
        for name, value in table.items():
            if name not in known:
                raise NotFound.named(f"key of {place}", name, known)
            values[name] = _fit(name, value, place)
        policy = cls(**values)
        if not 0 < policy.alpha < 1:
            raise Invalid(f"{place}: alpha is {policy.alpha!r}", expected="a chance between 0 and 1")
        if policy.soak > policy.timeout:
            raise Invalid(
                f"{place}: a phase lasts {in_words(policy.soak)} at least, and is rolled back after {in_words(policy.timeout)}",
                expected="a soak that is shorter than the timeout",
            )
        if policy.strategy not in STRATEGIES:
            raise NotFound.named("strategy", policy.strategy, STRATEGIES, fix=f"change it in {place}")
        names = [p.name for p in plan(policy)]
        for name in policy.approve:
            if name not in names:
                raise NotFound.named("phase", name, names, fix=f"change `approve` in {place}")
        return policy


def _fit(name: str, value: Any, place: str) -> Any:
    if name in ("timeout", "soak") and isinstance(value, str):
        return span(value, f"{place}: {name}")
    if name in ("phases", "approve") and isinstance(value, list | tuple) and all(isinstance(v, str) for v in value):
        return tuple(value)
    example = getattr(Policy(), name)
    wanted = (int, float) if isinstance(example, float) else type(example)
    fits = isinstance(value, wanted) and isinstance(value, bool) == isinstance(example, bool)
    odd = isinstance(value, int | float) and not 0 <= value < math.inf
    if not fits or odd or (name in _SHARES and value > 1):
        raise Invalid(f"{place}: {name} is {value!r}", expected=_EXPECTED.get(name, f"such as {example!r}"))
    return value


_SHARES = ("worse", "differ", "errors", "slow", "alpha")
_EXPECTED = {
    **dict.fromkeys(_SHARES, "a share, 0 to 1"),
    **dict.fromkeys(("timeout", "soak"), "a length of time such as '2 hours'"),
    "phases": f"a list such as {list(STRATEGIES['canary'])}",
    "approve": "a list of phases",
}


def plan(policy: Policy) -> tuple[Phase, ...]:
    """The phases of a policy, in order. Raises `Invalid` where they make no sense."""
    names = policy.phases or STRATEGIES[policy.strategy]
    phases = tuple(_phase(name) for name in names)
    order = [(KINDS.index(p.kind), p.share) for p in phases]
    if order != sorted(set(order)) or not phases or phases[-1].kind != "all":
        raise Invalid(
            f"the phases {', '.join(names)} do not lead from little to all",
            expected="replay, shadow, canary with rising shares, and 'all' at the end; each at most once",
        )
    return phases


def _phase(name: str) -> Phase:
    found = re.fullmatch(r"canary (\d+(?:\.\d+)?) ?%", name)
    if found and 0 < float(found[1]) < 100:
        return Phase(name, "canary", float(found[1]) / 100)
    if name not in ("replay", "shadow", "all"):
        raise Invalid(f"{name!r} is no phase", expected="replay, shadow, 'canary 5 %' or all")
    return Phase(name, name, 1.0 if name == "all" else 0.0)


@dataclass(frozen=True, slots=True)
class Measure:
    """One thing that could be worse. `harm` is how much worse the new revision is (negative: better), `allowed` how much it
    may be, `said` the figures in words."""

    name: str
    harm: Interval
    allowed: float
    said: str = ""

    @property
    def state(self) -> str:
        """`ok` or `worse` when that is shown, else `open`."""
        return WORSE if self.harm.low > self.allowed else OK if self.harm.high <= self.allowed else OPEN


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known in a phase. `quality` names the measures that say how good answers are, best first."""

    rows: int  # answers of the new revision in this phase
    seconds: float  # since the phase began
    measures: Mapping[str, Measure] = field(default_factory=dict)
    broken: str = ""  # the new revision cannot be asked at all
    shown: Sequence[str] = ()  # what earlier phases have shown to be ok
    labelled: bool = False  # outcomes of this service become known


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do: `go` on, `wait`, or `back` to the old revision; and why, in words."""

    action: str
    sentence: str


def needed(phase: Phase, policy: Policy, facts: Facts) -> tuple[str, ...]:
    """The measures that must be shown to be ok before a phase is left."""
    quality = "score" if policy.labels and facts.labelled else "differ"
    open_quality = () if quality in facts.shown else (quality,)
    match phase.kind:
        case "replay":
            return ("score",) if quality == "score" else ("differ",)
        case "shadow":
            # Outcomes of live requests come too late for a shadow; how often it differs is known at once.
            return ("errors", *(("differ",) if open_quality == ("differ",) else ()))
        case "canary":
            # Answers of different requests cannot be compared one by one: only the score can.
            return ("errors", "slow", *(("score",) if open_quality == ("score",) else ()))
    return ("errors",)


def decide(phase: Phase, policy: Policy, facts: Facts) -> Decision:
    """The decision in a phase. Nothing that is not known ever counts in favour."""
    if facts.broken:
        return Decision("back", facts.broken)
    worse = [m for m in facts.measures.values() if m.state == WORSE and _counts(m.name, phase, policy, facts)]
    if worse:
        return Decision("back", "; ".join(m.said for m in worse))
    lacking = [] if facts.rows >= policy.rows else [f"{facts.rows:,} of {policy.rows:,} answers"]
    for name in needed(phase, policy, facts):
        measure = facts.measures.get(name)
        if measure is None:
            lacking.append(f"nothing is known about {_NAMES[name]}")
        elif measure.state != OK:
            lacking.append(f"{_NAMES[name]} is not certain yet ({measure.said})")
    if facts.seconds < policy.soak:
        lacking.append(f"it lasts {in_words(policy.soak)} at least")
    if not lacking:
        said = "; ".join(m.said for m in facts.measures.values() if m.said) or "nothing speaks against it"
        return Decision("go", said)
    if facts.seconds > policy.timeout:
        return Decision("back", f"not decided after {in_words(policy.timeout)}: {'; '.join(lacking)}")
    return Decision("wait", "; ".join(lacking))


_NAMES = {
    "score": "how good the answers are", "differ": "how often the answers differ", "errors": "the share of failures",
    "slow": "the response time",
}  # fmt: skip


def _counts(name: str, phase: Phase, policy: Policy, facts: Facts) -> bool:
    if name == "slow":
        # What is mirrored waits behind what people asked, so how long it takes says little of the model.
        return phase.kind != "shadow"
    # Where outcomes are known, other answers are no harm by themselves: they may be the better ones.
    return name != "differ" or not (policy.labels and facts.labelled)
