"""Alerts from opening to resolution, and silences."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boucle.core.errors import Conflict, Invalid, NotFound
from boucle.core.records import Alert
from boucle.ops import alert
from boucle.ops.alert.states import is_about
from boucle.workspace import Workspace

CHURN = "service:churn"


def test_the_same_trouble_is_one_alert_that_is_counted(shop: Any) -> None:
    first = alert.raise_(shop.ws, "drift", CHURN, title="one column moved", data={"columns": ["a"]})
    shop.pass_(60)
    again = alert.raise_(shop.ws, "drift", CHURN, title="two columns moved", data={"columns": ["a", "b"]})
    assert (again.id, again.count, again.opened, again.last) == (first.id, 2, first.opened, first.opened + 60)
    assert (again.title, again.data) == ("two columns moved", {"columns": ["a", "b"]})
    assert alert.find(shop.ws) == [again]
    assert shop.events() == ["alert.opened", "alert.repeated"]
    opened, repeated = shop.ws.store.events(type="alert")
    assert (opened.subject, opened.reason, opened.data["alert"]) == (CHURN, "one column moved", first.id)
    assert repeated.data == {"alert": first.id, "name": "drift", "severity": "warning", "count": 2}


def test_another_name_or_subject_is_another_alert(shop: Any) -> None:
    ids = {alert.raise_(shop.ws, n, s).id for n in ("drift", "rule") for s in (CHURN, "service:fares")}
    assert len(ids) == 4


def test_severity_rises_and_never_falls(shop: Any) -> None:
    seen = [alert.raise_(shop.ws, "drift", CHURN, severity=s).severity for s in ("info", "critical", "warning")]
    assert seen == ["info", "critical", "critical"]


def test_the_onset_is_the_earliest_that_is_known(shop: Any) -> None:
    seen = [alert.raise_(shop.ws, "drift", CHURN, onset=t).onset for t in (0.0, 50.0, 70.0, 40.0, 0.0)]
    assert seen == [0.0, 50.0, 50.0, 40.0, 40.0]


def test_what_is_over_opens_anew(shop: Any) -> None:
    first = alert.raise_(shop.ws, "drift", CHURN)
    shop.pass_(5)
    over = alert.resolve(shop.ws, ("drift", CHURN), "all is well")
    assert over is not None
    assert (over.id, over.status, over.reason, over.actor) == (first.id, "resolved", "all is well", "ann")
    assert over.resolved == first.opened + 5
    assert alert.find(shop.ws) == []
    assert alert.raise_(shop.ws, "drift", CHURN).id != first.id
    assert len(alert.find(shop.ws, all=True)) == 2
    assert shop.events() == ["alert.opened", "alert.resolved", "alert.opened"]


def test_resolving_is_safe_to_repeat(shop: Any) -> None:
    first = alert.raise_(shop.ws, "drift", CHURN)
    assert alert.resolve(shop.ws, ("drift", "service:other")) is None
    over = alert.resolve(shop.ws, first.id)
    assert alert.resolve(shop.ws, first.id, "again") == over
    assert alert.resolve(shop.ws, ("drift", CHURN)) is None
    assert shop.events() == ["alert.opened", "alert.resolved"]


def test_acknowledged_is_still_the_same_alert(shop: Any) -> None:
    first = alert.raise_(shop.ws, "drift", CHURN)
    mine = alert.acknowledge(shop.ws, first.id[-8:], "looking")
    assert (mine.status, mine.actor, mine.reason, mine.acknowledged) == ("acknowledged", "ann", "looking", first.opened)
    assert alert.acknowledge(shop.ws, first.id) == mine
    assert alert.raise_(shop.ws, "drift", CHURN).count == 2
    assert alert.get(shop.ws, first.id).status == "acknowledged"
    alert.resolve(shop.ws, first.id)
    with pytest.raises(Conflict):
        alert.acknowledge(shop.ws, first.id)


def test_ids_may_be_shortened_as_long_as_they_are_one(shop: Any) -> None:
    ids = [alert.raise_(shop.ws, "drift", f"service:{i}").id for i in range(20)]
    for id in ids:
        assert alert.get(shop.ws, id[-8:].lower()).id == id
        assert alert.get(shop.ws, f"alert:{id}").id == id
    with pytest.raises(Invalid, match="more than one"):
        alert.get(shop.ws, ids[0][:5])
    for nothing in ("ZZZZZZ", ""):
        with pytest.raises(NotFound):
            alert.get(shop.ws, nothing)


def test_find_filters(shop: Any) -> None:
    for severity in ("info", "warning", "critical"):
        shop.pass_(1)
        alert.raise_(shop.ws, "drift", f"service:{severity}", severity=severity)
    alert.raise_(shop.ws, "rule", "rule:retrain", severity="critical")

    def found(**asked: Any) -> list[str]:
        return [a.subject for a in alert.find(shop.ws, **asked)]

    assert found(name="drift") == ["service:critical", "service:warning", "service:info"]
    assert found(severity="warning", name="drift") == ["service:critical", "service:warning"]
    assert found(subject="rule:*") == ["rule:retrain"]
    assert found(name="drift", limit=1) == ["service:critical"]
    with pytest.raises(Invalid):
        found(severity="loud")


@pytest.mark.parametrize(
    ("name", "subject", "severity"),
    [
        ("", CHURN, "info"),
        ("a b", CHURN, "info"),
        ("drift", "", "info"),
        ("drift", " ", "info"),
        ("drift", CHURN, "loud"),
    ],
)
def test_bad_input_leaves_nothing_behind(shop: Any, name: str, subject: str, severity: str) -> None:
    with pytest.raises(Invalid):
        alert.raise_(shop.ws, name, subject, severity=severity)
    assert shop.ws.store.find(Alert) == []
    assert shop.events() == []


def test_several_workers_open_one_alert(shop: Any) -> None:
    start, ids = threading.Barrier(4), list[str]()

    def work() -> None:
        with Workspace(shop.ws.settings) as ws:
            start.wait()
            for _ in range(5):
                ids.append(alert.raise_(ws, "drift", CHURN).id)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == 1
    assert alert.get(shop.ws, ids[0]).count == len(ids) == 20
    assert sorted(shop.events()) == ["alert.opened"] + ["alert.repeated"] * 19


# --- silences ----------------------------------------------------------------------------------------------------------


def test_a_silence_holds_until_its_end(shop: Any) -> None:
    made = alert.silence(shop.ws, CHURN, shop.clock.now + 100, "moving house", name="drift")
    assert alert.silences(shop.ws) == [made]
    assert (made.subject, made.name, made.actor, made.reason) == (CHURN, "drift", "ann", "moving house")
    quiet = alert.raise_(shop.ws, "drift", f"{CHURN}@3")
    assert alert.silenced(quiet, alert.silences(shop.ws))
    assert not alert.silenced(alert.raise_(shop.ws, "rule", CHURN), alert.silences(shop.ws))
    shop.pass_(100)
    assert alert.silences(shop.ws) == []


def test_a_silence_is_replaced_and_ended(shop: Any) -> None:
    for seconds in (100, 50):
        alert.silence(shop.ws, CHURN, shop.clock.now + seconds)
    alert.silence(shop.ws, "*", shop.clock.now + 10)
    assert [(s.subject, s.until - shop.clock.now) for s in alert.silences(shop.ws)] == [(CHURN, 50), ("*", 10)]
    alert.unsilence(shop.ws, CHURN, "back")
    assert [s.subject for s in alert.silences(shop.ws)] == ["*"]
    with pytest.raises(NotFound):
        alert.unsilence(shop.ws, CHURN)
    with pytest.raises(NotFound):
        alert.unsilence(shop.ws, "*", name="drift")


def test_a_silence_that_makes_no_sense_is_refused(shop: Any) -> None:
    for subject, seconds, name in (("", 5, ""), (CHURN, 0, ""), (CHURN, 5, "a b")):
        with pytest.raises(Invalid):
            alert.silence(shop.ws, subject, shop.clock.now + seconds, name=name)
    assert shop.events() == []


@given(st.text("ab@*:", max_size=6), st.text("ab@:", min_size=1, max_size=6))
def test_what_a_pattern_is_about(pattern: str, subject: str) -> None:
    assert is_about(subject, subject)
    assert is_about("*", subject)
    assert is_about(subject, f"{subject}@7")
    assert not is_about(subject, f"{subject}x")
    if is_about(pattern, subject):
        assert subject.startswith(pattern.removesuffix("*"))
