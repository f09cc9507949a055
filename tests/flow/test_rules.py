"""Rules: which event fires, and what is left out."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boucle.core.errors import Invalid
from boucle.core.records import Event
from boucle.core.where import Compare
from boucle.flow.action import Action
from boucle.flow.rules import WAIT, Rule, applies, decide, read
from boucle.settings import Settings

RUN = (Action("run", "churn"),)


def tables(**found):
    return Settings(root=Path("/p/.boucle"), project=Path("/p"), table={"rules": found})


def event(sequence, type="service.drift", subject="service:churn@2", **data):
    return Event(sequence=sequence, type=type, subject=subject, data=data)


def test_reading():
    found = read(
        tables(
            retrain={
                "on": "service.drift", "subject": "service:churn", "if": "data.status = fail",
                "do": ["seal", "run churn", "rollout"], "cooldown": "6 hours", "wait": "7 days", "with": {"n": 2},
            },
            tell={"on": "model", "do": "alert info a model has moved", "if": ["data.after=production", "actor != worker"]},
        )
    )  # fmt: skip
    assert found["retrain"] == Rule(
        "retrain", "service.drift", (Action("seal"), Action("run", "churn"), Action("rollout")), "service:churn",
        (Compare("data.status", "=", "fail"),), ("data.status = fail",), 21600.0, 604800.0, {"n": 2},
    )  # fmt: skip
    assert read(tables(own={"on": "shipment.late", "do": "run churn"}))["own"].on == "shipment.late"
    assert (found["tell"].cooldown, found["tell"].wait) == (0.0, WAIT)
    assert len(found["tell"].conditions) == 2


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"do": "run a"}, "on is ''"),
        ({"on": "servce.drift", "do": "run a"}, "did you mean 'service'?"),
        ({"on": "service..drift", "do": "run a"}, "on is 'service..drift'"),
        ({"on": "service.drift"}, "do is None"),
        ({"on": "service.drift", "do": "run"}, "'run' is not an action"),
        ({"on": "service.drift", "do": "run a", "if": "status = fail"}, "'status' does not name a value"),
        ({"on": "service.drift", "do": "run a", "if": "fail"}, "'fail' is not a condition"),
        ({"on": "service.drift", "do": "run a", "if": [3]}, "if holds 3"),
        ({"on": "service.drift", "do": "run a", "cooldwn": "6 hours"}, "did you mean 'cooldown'?"),
        ({"on": "service.drift", "do": "run a", "cooldown": "long"}, "cooldown is 'long'"),
        ({"on": "service.drift", "do": "run a", "wait": 7}, "wait is 7"),
        ({"on": "service.drift", "do": "run a", "with": "n"}, "with is 'n'"),
        ({"on": "service.drift", "do": "run a", "subject": "churn"}, "subject is 'churn'"),
        (["service.drift"], "is ['service.drift']"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(table, said):
    with pytest.raises(Invalid) as error:
        read(tables(retrain=table))
    assert said in error.value.what
    assert "boucle.toml: [rules.retrain]" in error.value.what
    assert error.value.expected


@pytest.mark.parametrize(
    ("rule", "happened", "yes"),
    [
        (Rule("r", "service.drift", RUN), event(1), True),
        (Rule("r", "service", RUN), event(1), True),
        (Rule("r", "serv", RUN), event(1), False),
        (Rule("r", "service.drift", RUN), event(1, "service.drifting"), False),
        (Rule("r", "service.drift", RUN, "service:churn"), event(1), True),
        (Rule("r", "service.drift", RUN, "service:churn@2"), event(1), True),
        (Rule("r", "service.drift", RUN, "service:chur"), event(1), False),
        (
            Rule("r", "service.drift", RUN, conditions=(Compare("data.status", "=", "fail"),)),
            event(1, status="fail"),
            True,
        ),
        (
            Rule("r", "service.drift", RUN, conditions=(Compare("data.status", "=", "fail"),)),
            event(1, status="warn"),
            False,
        ),
        (Rule("r", "service.drift", RUN, conditions=(Compare("data.status", "=", "fail"),)), event(1), False),
        (Rule("r", "rule", RUN), event(1, "rule.done", "rule:r"), False),
        (Rule("r", "rule", RUN), event(1, "rule.done", "rule:other"), True),
    ],
)
def test_what_a_rule_waits_for(rule, happened, yes):
    assert applies(rule, happened) is yes


def test_the_first_that_applies_fires_and_the_rest_is_left_for_later():
    rule = Rule("r", "service.drift", RUN)
    events = [event(4, "model.stage"), event(5), event(6)]
    made = decide(rule, events, {"cursor": 3}, 100.0)
    assert (made.fires, made.skipped, made.state) == (events[1], (), {"cursor": 5, "fired": 100.0})
    assert decide(rule, events, made.state, 101.0).fires == events[2]


def test_while_it_rests_events_are_left_out_with_the_reason():
    rule = Rule("r", "service.drift", RUN, cooldown=21600.0)
    made = decide(rule, [event(4), event(5)], {"cursor": 3, "fired": 1000.0}, 1000.0 + 7200)
    assert made.fires is None
    assert made.state == {"cursor": 5, "fired": 1000.0}
    assert [e.sequence for e, _ in made.skipped] == [4, 5]
    assert {why for _, why in made.skipped} == {"fired 2 hours ago and rests for 6 hours"}
    assert decide(rule, [event(6)], made.state, 1000.0 + 21600).fires == event(6)


def test_what_was_kept_beside_stays():
    assert decide(Rule("r", "service.drift", RUN), [], {"cursor": 3, "done": 1.0}, 5.0).state == {
        "cursor": 3,
        "done": 1.0,
    }


@given(
    st.lists(st.tuples(st.sampled_from(["service.drift", "model.stage"]), st.floats(0, 5)), max_size=30),
    st.floats(0, 20), st.integers(1, 7),
)  # fmt: skip
def test_each_event_is_looked_at_once_and_firings_are_a_cooldown_apart(found, cooldown, size):
    rule = Rule("r", "service.drift", RUN, cooldown=cooldown)
    events = [event(n + 1, type) for n, (type, _) in enumerate(found)]
    state, now, fired, skipped = {"cursor": 0}, 0.0, [], []
    for step in range(2 * len(events) + 1):
        unread = [e for e in events if e.sequence > state["cursor"]][:size]
        made = decide(rule, unread, state, now)
        skipped += [e.sequence for e, _ in made.skipped]
        if made.fires is not None:
            fired.append((made.fires.sequence, now))
        state, now = made.state, now + (found[step % len(found)][1] if found else 1.0)
    seen = sorted([n for n, _ in fired] + skipped)
    assert seen == [e.sequence for e in events if e.type == "service.drift"]
    assert all(b - a >= cooldown for (_, a), (_, b) in itertools.pairwise(fired))
