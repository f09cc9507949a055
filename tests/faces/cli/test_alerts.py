"""alerts on the command line."""

from __future__ import annotations

import json

import pytest

import boucle
from boucle.ops import alert


@pytest.fixture
def troubled(home, cli):
    """A project with an alert that was sent, one that could not be, and their ids."""
    assert cli("init").code == 0
    (home / "boucle.toml").write_text(
        '[channels.ops]\ntype = "file"\npath = "ops.jsonl"\nonly = "service:churn"\n'
        '[channels.void]\ntype = "file"\npath = "no/where"\nonly = "rule:*"\n'
    )
    with boucle.open(home) as ws:
        first = alert.raise_(ws, "drift", "service:churn", title="2 of 3 columns moved", data={"columns": ["a", "b"]})
        second = alert.raise_(ws, "rule", "rule:retrain", severity="critical", title="the rule fails")
        assert alert.deliver(ws) == 1
    return home, first.id, second.id


def test_the_list_says_what_is_open_and_who_was_told(troubled, cli):
    _, first, _ = troubled
    said = cli("alerts").out.splitlines()
    assert said[0].split() == ["id", "severity", "status", "what", "subject", "since", "count", "delivered"]
    assert said[2].startswith(second := troubled[2][-8:])
    assert second in said[2]
    assert "void failed (1x)" in said[2]
    assert said[3].startswith(first[-8:])
    assert said[3].rstrip().endswith("ops")
    assert cli("alerts", "list").out.splitlines() == said


def test_it_is_shown_like_anything_else(troubled, cli):
    _, first, _ = troubled
    shown = cli("show", f"alert:{first[-8:]}", "--json").json
    assert (shown["kind"], shown["id"], shown["status"], shown["opened"][:2]) == ("alert", first, "open", "20")
    assert "2 of 3 columns moved" in cli("show", f"alert:{first}").out


def test_nothing_is_open(home, cli):
    assert cli("init").code == 0
    assert cli("alerts").out == "no open alerts\n"
    assert cli("alerts", "--all").out == "no alerts\n"
    assert cli("alerts", "--json").json == {"alerts": [], "silences": []}
    assert cli("alerts", "-C", home).code == 0


def test_the_list_for_machines(troubled, cli):
    _, first, second = troubled
    found = cli("alerts", "--json").json["alerts"]
    assert [a["id"] for a in found] == [second, first]
    assert cli("alerts", "list", "--json").json["alerts"] == found
    assert cli("alerts", "resolve", first).code == 0
    assert [a["id"] for a in cli("alerts", "--json").json["alerts"]] == [second]
    assert [a["id"] for a in cli("alerts", "--all", "--json").json["alerts"]] == [second, first]
    assert [a["id"] for a in cli("alerts", "list", "--all", "--json").json["alerts"]] == [second, first]


def test_an_alert_from_acknowledging_to_its_end(troubled, cli):
    _, first, _ = troubled
    assert cli("alerts", "ack", first[-8:], "--reason", "looking").out == "2 of 3 columns moved is acknowledged\n"
    assert cli("alerts", "resolve", first[-8:].lower(), "--json").json["status"] == "resolved"
    assert cli("alerts", "ack", first).code == 5
    shown = cli("alerts", "show", first).out
    for part in (
        first,
        "columns",
        "a, b",
        "ops at 20",
        "alert.opened",
        "alert.acknowledged",
        "looking",
        "alert.resolved",
    ):
        assert part in shown
    events = cli("alerts", "show", first, "--json").json["events"]
    assert [e["type"] for e in events] == ["alert.opened", "alert.acknowledged", "alert.resolved"]


def test_show_says_why_it_was_not_sent(troubled, cli):
    said = cli("alerts", "show", troubled[2]).out
    assert "void failed (1x): " in said
    assert "No such file or directory, again at 20" in said


def test_silences(troubled, cli):
    said = cli("alerts", "silence", "service:churn", "--for", "2 hours", "--name", "drift", "--reason", "moving")
    assert said.out.startswith("nothing about service:churn is sent until 20")
    assert "service:churn named drift, by ann: moving" in cli("alerts").out
    (held,) = cli("alerts", "--json").json["silences"]
    assert (held["subject"], held["name"], held["reason"]) == ("service:churn", "drift", "moving")
    assert cli("alerts", "unsilence", "service:churn").code == 3
    assert cli("alerts", "unsilence", "service:churn", "--name", "drift", "--json").json["name"] == "drift"
    assert cli("alerts", "--json").json["silences"] == []
    made = cli("alerts", "silence", "*", "--for", "1 day", "--json").json
    assert made["subject"] == "*"
    assert cli("alerts", "unsilence", "*").out == "alerts about * are sent again\n"


def test_trying_a_channel(troubled, cli):
    home, *_ = troubled
    assert cli("alerts", "test", "ops").out == "ops took a message\n"
    made = cli("alerts", "test", "ops", "--json").json
    got = [json.loads(line) for line in (home / "ops.jsonl").read_text().splitlines()]
    assert got[-1]["id"] == made["id"]
    failed = cli("alerts", "test", "void", "--json")
    assert failed.code == 7
    assert "No such file" in failed.error["what"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["show", "ZZZZZZZZ"], 3), (["ack", "ZZZZZZZZ"], 3), (["resolve", "ZZZZZZZZ"], 3), (["test", "opps"], 3),
     (["silence", "x", "--for", "soon"], 2), (["silence", "x"], 2), (["silence", "", "--for", "1 day"], 2), (["loud"], 2)],
)  # fmt: skip
def test_bad_input(troubled, cli, arguments, code):
    assert cli("alerts", *arguments).code == code
