"""The decision in a phase: laws that hold for all facts, and policies that are refused."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from boucle.core.errors import BoucleError, Invalid, NotFound
from boucle.measure.sequential import Interval
from boucle.ops.rollout.plan import KINDS, STRATEGIES, Facts, Measure, Phase, Policy, decide, needed, plan

NAMES = ("score", "differ", "errors", "slow")

phases = st.sampled_from(
    [
        Phase("replay", "replay"),
        Phase("shadow", "shadow"),
        Phase("canary 5 %", "canary", 0.05),
        Phase("all", "all", 1.0),
    ]
)


@st.composite
def measures(draw):
    low, high = sorted(draw(st.tuples(*[st.one_of(st.floats(-1, 1), st.just(-math.inf), st.just(math.inf))] * 2)))
    return Measure("", Interval((low + high) / 2, low, high, 10, 0.05), draw(st.floats(0, 1)), "said")


@st.composite
def policies(draw):
    timeout = draw(st.floats(1, 1e6))
    return Policy(
        rows=draw(st.integers(0, 1000)), labels=draw(st.booleans()), timeout=timeout, soak=draw(st.floats(0, timeout))
    )  # fmt: skip


@st.composite
def all_facts(draw):
    found = draw(st.dictionaries(st.sampled_from(NAMES), measures()))
    return Facts(
        draw(st.integers(0, 2000)), draw(st.floats(0, 2e6)), {n: replace(m, name=n) for n, m in found.items()},
        draw(st.sampled_from(["", "", "it cannot be asked"])), draw(st.lists(st.sampled_from(NAMES))), draw(st.booleans()),
    )  # fmt: skip


@given(phases, policies(), all_facts())
def test_it_goes_on_only_with_all_that_is_needed(phase, policy, facts):
    if decide(phase, policy, facts).action == "go":
        assert facts.rows >= policy.rows
        assert facts.seconds >= policy.soak
        assert not facts.broken
        assert all(facts.measures[n].harm.high <= facts.measures[n].allowed for n in needed(phase, policy, facts))


@given(phases, policies(), st.booleans(), st.lists(st.sampled_from(NAMES)), st.data())
def test_what_is_missing_never_promotes(phase, policy, labelled, shown, data):
    fine = {n: Measure(n, Interval(0.0, -0.1, 0.1, 100, 0.05), 0.2, "") for n in NAMES}
    facts = Facts(policy.rows, policy.soak, fine, shown=shown, labelled=labelled)
    assert decide(phase, policy, facts).action == "go"
    gone = data.draw(st.sampled_from(needed(phase, policy, facts)))
    less = {n: m for n, m in fine.items() if n != gone}
    assert decide(phase, policy, replace(facts, measures=less)).action == "wait"
    for harm in (Interval(math.nan, -math.inf, math.inf, 0, 0.05), Interval(0.0, -0.3, 0.21, 9, 0.05)):
        unknown = {**less, gone: Measure(gone, harm, 0.2, "")}
        assert decide(phase, policy, replace(facts, measures=unknown)).action == "wait"
    assert policy.rows == 0 or decide(phase, policy, replace(facts, rows=policy.rows - 1)).action == "wait"
    assert policy.soak == 0 or decide(phase, policy, replace(facts, seconds=0.0)).action == "wait"
    assert decide(phase, policy, replace(facts, measures={})).action == "wait"
    assert decide(phase, policy, replace(facts, broken="it cannot be asked")).action == "back"


@given(phases, policies(), all_facts(), st.sampled_from(NAMES))
def test_worse_always_gives_back(phase, policy, facts, name):
    assume(name != "differ" or not (policy.labels and facts.labelled))
    assume(name != "slow" or phase.kind != "shadow")
    worse = Measure(name, Interval(0.4, 0.3, 0.5, 100, 0.05), 0.2, "it is worse")
    decision = decide(phase, policy, replace(facts, measures={**facts.measures, name: worse}))
    assert decision.action == "back"
    assert facts.broken or "it is worse" in decision.sentence


@given(phases, policies(), all_facts())
def test_other_answers_are_no_harm_where_outcomes_are_known(phase, policy, facts):
    other = Measure("differ", Interval(0.9, 0.8, 1.0, 100, 0.05), 0.2, "other answers")
    with_labels = replace(policy, labels=True)
    known = replace(facts, labelled=True, measures={n: m for n, m in facts.measures.items() if n != "differ"})
    after = replace(known, measures={**known.measures, "differ": other})
    assert decide(phase, with_labels, after).action == decide(phase, with_labels, known).action


@given(phases, policies(), all_facts(), st.floats(0, 1e6))
def test_time_alone_never_turns_back_into_go(phase, policy, facts, more):
    if decide(phase, policy, facts).action == "back":
        assert decide(phase, policy, replace(facts, seconds=facts.seconds + more)).action == "back"


@given(phases, policies(), all_facts())
def test_nothing_waits_beyond_its_timeout(phase, policy, facts):
    late = replace(facts, seconds=math.nextafter(policy.timeout, math.inf))
    decision = decide(phase, policy, late)
    assert decision.action in ("go", "back")
    if decide(phase, policy, replace(facts, seconds=policy.soak)).action == "wait":
        assert decision.action == "back"
        assert "not decided after" in decision.sentence


@pytest.mark.parametrize(
    ("kind", "labelled", "shown", "must"),
    [
        ("replay", False, (), ("differ",)),
        ("replay", True, (), ("score",)),
        ("shadow", False, (), ("errors", "differ")),
        ("shadow", False, ("differ",), ("errors",)),
        ("shadow", True, (), ("errors",)),
        ("canary", True, (), ("errors", "slow", "score")),
        ("canary", True, ("differ",), ("errors", "slow", "score")),
        ("canary", True, ("score",), ("errors", "slow")),
        ("canary", False, (), ("errors", "slow")),
        ("all", True, (), ("errors",)),
        ("all", False, (), ("errors",)),
    ],
)
def test_what_each_phase_must_show(kind, labelled, shown, must):
    facts = Facts(0, 0.0, shown=shown, labelled=labelled)
    assert needed(Phase(kind, kind), Policy(), facts) == must
    ignoring = needed(Phase(kind, kind), Policy(labels=False), facts)
    assert ignoring == needed(Phase(kind, kind), Policy(), replace(facts, labelled=False))


def test_a_sentence_says_what_is_lacking():
    open_one = Measure("errors", Interval(0.0, -0.1, 0.1, 20, 0.05), 0.02, "0 of 20 requests failed")
    facts = Facts(20, 5.0, {"errors": open_one})
    decision = decide(Phase("canary 5 %", "canary", 0.05), Policy(soak=60.0), facts)
    assert decision.action == "wait"
    assert decision.sentence == (
        "20 of 200 answers; the share of failures is not certain yet (0 of 20 requests failed); nothing is known about the "
        "response time; it lasts 1 minute at least"
    )


# --- policies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_strategy_leads_from_little_to_all(strategy):
    found = plan(Policy(strategy=strategy))
    assert found[-1] == Phase("all", "all", 1.0)
    assert [KINDS.index(p.kind) for p in found] == sorted(KINDS.index(p.kind) for p in found)
    assert [p.share for p in found] == sorted(p.share for p in found)


def test_phases_say_what_they_are():
    found = plan(Policy(phases=("shadow", "canary 0.5 %", "canary 12%", "all")))
    assert found == (
        Phase("shadow", "shadow"), Phase("canary 0.5 %", "canary", 0.005), Phase("canary 12%", "canary", 0.12),
        Phase("all", "all", 1.0),
    )  # fmt: skip


@pytest.mark.parametrize(
    "names",
    [
        ("replay",), ("shadow", "replay", "all"), ("canary 25 %", "canary 5 %", "all"), ("all", "all"),
        ("replay", "replay", "all"), ("canary 0 %", "all"), ("canary 100 %", "all"), ("canary", "all"), ("trial", "all"),
        ("canary 5 %", "canary 5%", "all"),
    ],
)  # fmt: skip
def test_phases_that_make_no_sense(names):
    with pytest.raises(Invalid) as error:
        plan(Policy(phases=names))
    assert error.value.expected


def test_a_table_is_read():
    table = {
        "strategy": "ab", "phases": ["replay", "canary 10 %", "all"], "rows": 50, "labels": False, "worse": 0,
        "timeout": "2 hours", "soak": 30, "approve": ["all"], "by": "customer",
    }  # fmt: skip
    policy = Policy.from_table(table, "[rollouts.churn]")
    assert policy == Policy(
        strategy="ab", phases=("replay", "canary 10 %", "all"), rows=50, labels=False, worse=0, timeout=7200.0, soak=30,
        approve=("all",), by="customer",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("table", "kind", "said", "near"),
    [
        ({"row": 5}, NotFound, "row", "rows"),
        ({"strategy": "canaries"}, NotFound, "canaries", "canary"),
        ({"strategy": "ab", "approve": ["canary 5 %"]}, NotFound, "canary 5 %", "canary 50 %"),
        ({"rows": -1}, Invalid, "rows is -1", "200"),
        ({"rows": "many"}, Invalid, "rows is 'many'", "200"),
        ({"rows": True}, Invalid, "rows is True", "200"),
        ({"labels": 1}, Invalid, "labels is 1", "True"),
        ({"worse": 1.5}, Invalid, "worse is 1.5", "0 to 1"),
        ({"differ": math.nan}, Invalid, "differ is nan", "0 to 1"),
        ({"alpha": 0}, Invalid, "alpha is 0", "between 0 and 1"),
        ({"alpha": 1.0}, Invalid, "alpha is 1.0", "between 0 and 1"),
        ({"timeout": "soon"}, Invalid, "timeout is 'soon'", "hours"),
        ({"timeout": math.inf}, Invalid, "timeout is inf", "2 hours"),
        ({"timeout": math.nan}, Invalid, "timeout is nan", "2 hours"),
        ({"soak": "2 days"}, Invalid, "2 days at least, and is rolled back after 1 day", "shorter"),
        ({"phases": "all"}, Invalid, "phases is 'all'", "replay"),
        ({"phases": [1]}, Invalid, "phases is [1]", "replay"),
        ({"phases": ["replay", "canari 5 %", "all"]}, Invalid, "'canari 5 %' is no phase", "canary 5 %"),
    ],
)
def test_a_table_with_a_mistake(table, kind, said, near):
    with pytest.raises(BoucleError) as error:
        Policy.from_table(table, "[rollouts.churn]")
    assert isinstance(error.value, kind)
    assert said in error.value.what
    assert near in str(error.value)


def test_how_long_a_shadow_takes_is_no_harm():
    slow = Measure("slow", Interval(0.5, 0.4, 0.6, 500, 0.05), 0.1, "half of them are slow")
    well = Measure("errors", Interval(0.0, -0.01, 0.001, 500, 0.05), 0.02, "none failed")
    facts = Facts(500, 10.0, {"slow": slow, "errors": well}, shown=("score",), labelled=True)
    assert decide(Phase("shadow", "shadow"), Policy(), facts).action == "go"
    assert decide(Phase("canary 5 %", "canary", 0.05), Policy(), facts).action == "back"
