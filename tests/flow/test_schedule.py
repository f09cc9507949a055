"""Schedules: when they are due, over changes of the clock, restarts and sleep."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from dataclasses import replace
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boucle.core.errors import Invalid
from boucle.flow.action import Action
from boucle.flow.schedule import LATE, MOST, Schedule, due, in_words, next_fire, read, shown_in_zone, span
from boucle.settings import Settings

DO = (Action("run", "churn"),)
BERLIN = ZoneInfo("Europe/Berlin")
CRONS = (
    "30 2 * * *",
    "0 3 * * *",
    "*/15 * * * *",
    "0,30 1-3 * * *",
    "15 */6 * * *",
    "0 0 1 * *",
    "5 4 * * SUN",
    "59 23 31 12 *",
)
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "America/Sao_Paulo")

moments = st.floats(
    dt.datetime(2000, 1, 1, tzinfo=dt.UTC).timestamp(), dt.datetime(2037, 1, 1, tzinfo=dt.UTC).timestamp()
)
schedules = st.one_of(
    st.builds(lambda c, z: Schedule("s", DO, cron=c, zone=z), st.sampled_from(CRONS), st.sampled_from(ZONES)),
    st.builds(lambda e: Schedule("s", DO, every=e), st.floats(1.0, 1e6)),
).flatmap(lambda s: st.sampled_from([s, replace(s, jitter=90.0)]))


def at(text):
    return dt.datetime.fromisoformat(text).timestamp()


def tables(**found):
    return Settings(root=Path("/p/.boucle"), project=Path("/p"), table={"schedules": found})


@given(schedules, moments, st.floats(0, 3 * 86400))
def test_the_next_time_is_later_and_none_is_left_out(schedule, after, more):
    fire = next_fire(schedule, after)
    assert fire > after
    later = next_fire(schedule, after + more)
    assert later >= fire
    if after + more < fire:
        assert later == fire


@pytest.mark.parametrize("year", range(2019, 2036))
def test_a_daily_job_runs_once_on_the_days_the_clock_is_changed(year):
    schedule = Schedule("nightly", DO, cron="30 2 * * *", zone="Europe/Berlin")
    first, last = dt.datetime(year, 1, 1, tzinfo=BERLIN), dt.datetime(year + 1, 1, 1, tzinfo=BERLIN)
    days, fire = Counter(), first.timestamp()
    while (fire := next_fire(schedule, fire)) < last.timestamp():
        days[dt.datetime.fromtimestamp(fire, BERLIN).date()] += 1
    assert set(days.values()) == {1}
    assert len(days) == (last.date() - first.date()).days


def test_it_runs_once_however_often_one_looks():
    schedule = Schedule("nightly", DO, cron="30 2 * * *", zone="Europe/Berlin")
    for day, fires in (("2026-03-29", "01:00:00"), ("2026-10-25", "00:30:00")):
        begin, found = at(f"{day}T00:00:00+02:00"), []
        last = begin - 7200
        for minute in range(24 * 60):
            for fire in due(schedule, last, begin + 60 * minute):
                found.append(fire)
                last = fire
        assert found == [at(f"{day}T{fires}+00:00")]


def test_a_time_that_the_clock_leaps_over_comes_when_the_leap_ends():
    schedule = Schedule("nightly", DO, cron="30 2 * * *", zone="Europe/Berlin")
    assert shown_in_zone(schedule, next_fire(schedule, at("2026-03-29T00:00:00+01:00"))) == "2026-03-29 03:00:00 CEST"
    assert shown_in_zone(schedule, next_fire(schedule, at("2026-10-25T00:00:00+02:00"))) == "2026-10-25 02:30:00 CEST"


def test_every_does_not_depend_on_when_one_began():
    schedule = Schedule("often", DO, every=900.0)
    fires = {next_fire(schedule, 1_000_000_000.0 + offset) for offset in (0.0, 1.0, 450.5, 799.9)}
    assert fires == {1_000_000_800.0}
    fire = 0.0
    for n in range(1, 1000):
        fire = next_fire(schedule, fire)
        assert fire == 900.0 * n


def test_jitter_is_the_same_each_time_and_another_for_each_schedule():
    plain = Schedule("a", DO, cron="0 3 * * *")
    late = [next_fire(replace(plain, name=n, jitter=300.0), 0.0) - next_fire(plain, 0.0) for n in "abcdefgh"]
    assert all(0 <= x <= 300 for x in late)
    assert len(set(late)) == 8
    again = next_fire(replace(plain, jitter=300.0), 86400.0) - next_fire(plain, 86400.0)
    assert again == pytest.approx(late[0])


@given(schedules, moments, st.floats(0, 3 * 86400), st.floats(0, 3 * 86400))
def test_of_missed_times_once_is_the_latest_and_all_is_each(schedule, last, more, rest):
    every = replace(schedule, every=max(schedule.every, 7200.0) if schedule.every else 0.0, missed="all")
    now = last + more
    found, later = due(every, last, now), due(every, now, now + rest)
    assert (found + later)[:MOST] == due(every, last, now + rest)
    if len(found) < MOST:
        assert due(replace(every, missed="once"), last, now) == found[-1:]
    for fire in due(replace(every, missed="skip"), last, now):
        assert last < fire <= now
        assert now - fire < LATE


def test_what_is_missed():
    hourly = Schedule("hourly", DO, cron="0 * * * *", missed="all")
    last, now = at("2026-01-01T00:00:00+00:00"), at("2026-01-01T05:30:00+00:00")
    assert [shown_in_zone(hourly, f)[11:16] for f in due(hourly, last, now)] == [
        "01:00",
        "02:00",
        "03:00",
        "04:00",
        "05:00",
    ]
    assert [shown_in_zone(hourly, f)[11:16] for f in due(replace(hourly, missed="once"), last, now)] == ["05:00"]
    assert due(replace(hourly, missed="skip"), last, now) == []
    assert len(due(replace(hourly, missed="skip"), last, now - 1790)) == 1
    assert len(due(hourly, last, last + 365 * 86400)) == MOST
    assert due(hourly, last, last) == due(hourly, last, last + 3599) == []


def test_reading():
    found = read(
        tables(
            nightly={"cron": "0 3 * * *", "zone": "Europe/Berlin", "do": ["run churn", "rollout"], "with": {"n": 1}},
            often={"every": "15 minutes", "do": "run churn", "missed": "skip", "jitter": "1 minute"},
        )
    )
    assert found["nightly"] == Schedule(
        "nightly",
        (Action("run", "churn"), Action("rollout")),
        cron="0 3 * * *",
        zone="Europe/Berlin",
        arguments={"n": 1},
    )
    assert found["often"] == Schedule("often", DO, every=900.0, missed="skip", jitter=60.0)
    assert (found["nightly"].when, found["nightly"].words) == ("0 3 * * * Europe/Berlin", "At 03:00 every day")
    assert found["often"].words == "every 15 minutes, up to 1 minute later"
    assert read(tables()) == {}


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"do": "run a"}, "neither cron nor every"),
        ({"do": "run a", "cron": "0 3 * * *", "every": "1 hour"}, "both cron and every"),
        ({"do": "run a", "cron": "0 25 * * *"}, "bad hour"),
        ({"do": "run a", "cron": "0 3 * *"}, "4 fields"),
        ({"do": "run a", "cron": "0 0 3 * * *"}, "6 fields"),
        ({"do": "run a", "cron": "0 0 31 2 *"}, "bad day-of-month"),
        ({"do": "run a", "cron": "0 0 */31 2 1L"}, "never comes"),
        ({"do": "run a", "every": "often"}, "every is 'often'"),
        ({"do": "run a", "every": "0.1 seconds"}, "every is '0.1 seconds'"),
        ({"do": "run a", "every": "1 hour", "zone": "Europe/Berln"}, "no time zone 'Europe/Berln'"),
        ({"do": "run a", "every": "1 hour", "missed": "never"}, "missed is 'never'"),
        ({"do": "run a", "every": "1 hour", "jiter": "1 s"}, "did you mean 'jitter'"),
        ({"do": "run a", "every": 3}, "every is 3"),
        ({"every": "1 hour"}, "do is None"),
        ({"do": "walk a", "every": "1 hour"}, "'walk a' is not an action"),
        ("daily", "is 'daily'"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(table, said):
    with pytest.raises(Invalid) as error:
        read(tables(nightly=table))
    assert said in error.value.what
    assert "boucle.toml: [schedules.nightly]" in error.value.what
    assert error.value.expected


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90 seconds", 90),
        ("1.5 hours", 5400),
        ("7 days", 604800),
        ("1 week", 604800),
        ("10s", 10),
        ("15m", 900),
        ("1 Hour", 3600),
    ],
)
def test_spans(text, seconds):
    assert span(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "five minutes", "-1 hour", "1 month", "1 hour ago"])
def test_what_is_no_span(text):
    with pytest.raises(Invalid, match="cooldown is"):
        span(text, "cooldown")


@given(st.sampled_from(["second", "minute", "hour", "day"]), st.integers(1, 20))
def test_words_read_back(unit, n):
    assert span(in_words(span(f"{n} {unit}"))) == span(f"{n} {unit}") or n > 1
