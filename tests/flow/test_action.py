"""The grammar of actions."""

from __future__ import annotations

import pytest

from boucle.core.errors import Invalid
from boucle.flow.action import Action, action, actions


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("seal", Action("seal")),
        ("seal churn", Action("seal", "churn")),
        ("seal 500", Action("seal", "500")),
        ("seal churn 500", Action("seal", "churn 500")),
        ("run churn", Action("run", "churn")),
        ("  run   pipeline:churn ", Action("run", "pipeline:churn")),
        ("rollout", Action("rollout")),
        ("rollout churn@3", Action("rollout", "churn@3")),
        ("promote staging", Action("promote", "staging")),
        ("alert critical churn has moved", Action("alert", "critical churn has moved")),
    ],
)
def test_actions_are_read_and_written(text, made):
    assert action(text) == made
    assert action(str(made)) == made


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not an action"),
        ("rnu churn", "did you mean 'run'?"),
        ("run", "is not an action"),
        ("run a b", "is not an action"),
        ("seal churn many", "is not an action"),
        ("rollout a b", "is not an action"),
        ("promote", "is not an action"),
        ("promote prodction", "did you mean 'production'?"),
        ("alert critcal it broke", "did you mean 'critical'?"),
        ("alert critical", "is not an action"),
    ],
)
def test_what_is_no_action_says_what_would_be(text, said):
    with pytest.raises(Invalid) as error:
        action(text)
    assert said in error.value.what
    assert error.value.expected


@pytest.mark.parametrize("given", [None, [], [1], 3, {"run": "churn"}])
def test_a_do_is_an_action_or_a_list(given):
    with pytest.raises(Invalid, match=r"^here: do is"):
        actions(given, "here")


def test_one_is_a_list_of_one():
    assert actions("run churn", "here") == actions(["run churn"], "here") == (Action("run", "churn"),)
