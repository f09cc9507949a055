import itertools
from typing import Any

import pytest

from boucle.core.errors import Invalid, NotFound
from boucle.core.stages import EXCLUSIVE, MOVES, STAGES, Facts, Gate, check_move, judge


def test_the_table_is_about_stages_only() -> None:
    assert set(MOVES) == set(STAGES)
    assert {after for moves in MOVES.values() for after in moves} <= set(STAGES)
    assert set(EXCLUSIVE) | set(EXCLUSIVE.values()) <= set(STAGES)


@pytest.mark.parametrize(("before", "after"), list(itertools.product(STAGES, STAGES)))
def test_a_move_is_legal_exactly_when_the_table_has_it(before: str, after: str) -> None:
    if after in MOVES[before]:
        check_move("churn@1", before, after)
    else:
        with pytest.raises(Invalid, match="churn@1"):
            check_move("churn@1", before, after)


def test_what_is_replaced_may_come_back() -> None:
    for stage, put_to in EXCLUSIVE.items():
        check_move("churn@1", stage, put_to)
        check_move("churn@1", put_to, stage)


def test_a_stage_that_is_none_is_not_found() -> None:
    with pytest.raises(NotFound, match="prodution") as caught:
        check_move("churn@1", "none", "prodution")
    assert "production" in caught.value.expected


FACTS = Facts("churn@2", "staging", {"auc": 0.8, "loss": 0.3}, {"proof": "pass"}, frozenset({"ada", "bob"}))


def failing(facts: Facts = FACTS, **gate: Any) -> list[str]:
    return [c.name for c in judge(Gate("production", **({"verdicts": ()} | gate)), facts) if not c.holds]


@pytest.mark.parametrize(
    ("gate", "fails"),
    [
        ({}, []),
        ({"come_from": "staging"}, []),
        ({"come_from": "none"}, ["come_from"]),
        ({"minimum": {"auc": 0.8}}, []),
        ({"minimum": {"auc": 0.81}}, ["minimum"]),
        ({"minimum": {"missing": 0.0}}, ["minimum"]),
        ({"maximum": {"loss": 0.3}}, []),
        ({"maximum": {"loss": 0.29}}, ["maximum"]),
        ({"maximum": {"missing": 1.0}}, ["maximum"]),
        ({"verdicts": ("proof",)}, []),
        ({"verdicts": ("proof", "fairness")}, ["verdicts"]),
        ({"approvals": 2}, []),
        ({"approvals": 3}, ["approvals"]),
        ({"better": "auc"}, []),
        ({"minimum": {"auc": 0.9}, "maximum": {"loss": 0.1}, "approvals": 9}, ["minimum", "maximum", "approvals"]),
    ],
)
def test_a_gate_holds_or_says_what_does_not(gate: dict[str, Any], fails: list[str]) -> None:
    assert failing(**gate) == fails


@pytest.mark.parametrize(
    ("comparison", "higher", "gate", "holds"),
    [
        ((0.7, 0.8, 0.05, 0.15, True), True, {}, True),
        ((0.8, 0.8, -0.01, 0.01, False), True, {}, False),
        ((0.7, 0.8, 0.05, 0.15, True), False, {}, False),
        ((0.8, 0.7, -0.15, -0.05, True), False, {}, True),
        ((0.7, 0.8, 0.05, 0.15, True), True, {"margin": 0.2}, False),
        ((0.7, 0.71, -0.05, 0.07, False), True, {"significant": True}, False),
        ((0.7, 0.71, 0.001, 0.07, True), True, {"significant": True}, True),
    ],
)
def test_better_than_production(comparison: Any, higher: bool, gate: dict[str, Any], holds: bool) -> None:
    facts = Facts("m@2", "staging", {}, {}, frozenset(), "", comparison, higher)
    assert failing(facts, better="auc", **gate) == ([] if holds else ["better"])


def test_nan_passes_no_gate() -> None:
    facts = Facts("m@2", "staging", {"auc": float("nan")}, {}, frozenset())
    assert failing(facts, minimum={"auc": 0.0}) == ["minimum"]
    assert failing(facts, maximum={"auc": 1.0}) == ["maximum"]
    facts = Facts("m@2", "staging", {}, {}, frozenset(), "", (float("nan"), 0.8, 0.0, 0.0, True))
    assert failing(facts, better="auc") == ["better"]


def test_a_gate_is_read_from_a_table() -> None:
    table = {"minimum": {"auc": 0.8}, "verdicts": ["proof"], "approvals": 1, "come_from": "staging"}
    assert Gate.from_table("production", table) == Gate(
        "production", minimum={"auc": 0.8}, verdicts=("proof",), approvals=1, come_from="staging"
    )


@pytest.mark.parametrize(
    "table", [{"minimun": {}}, {"minimum": 5}, {"minimum": {"auc": "high"}}, {"approvals": True}, {"margin": "x"}]
)
def test_a_gate_that_does_not_fit_is_refused(table: dict[str, Any]) -> None:
    with pytest.raises(Invalid, match=r"gates\.production"):
        Gate.from_table("production", table)


def test_a_gate_of_no_stage_is_not_found() -> None:
    with pytest.raises(NotFound):
        Gate.from_table("prod", {})
