"""Schedules: [schedules.NAME] of boucle.toml, and when each is due. Pure: the time is an argument.

[schedules.nightly]
cron = "0 3 * * *"           # or: every = "15 minutes"
zone = "Europe/Berlin"       # of the clock on the wall; UTC unless told
do = ["run churn"]
missed = "once"              # or "skip" or "all"
jitter = "5 minutes"
"""

from __future__ import annotations

import datetime as dt
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from blake3 import blake3
from cronsim import CronSim, CronSimError

from boucle.core.errors import Invalid
from boucle.core.refs import check_name
from boucle.flow.action import Action, actions, check_keys
from boucle.settings import FILE, Settings, part

MISSED = ("once", "skip", "all")
LATE = 60.0  # seconds after its time from when on a run counts as missed
MOST = 100  # runs that are named at once

_UNITS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0, "week": 604800.0}
_SHORT = {"s": "second", "sec": "second", "m": "minute", "min": "minute", "h": "hour", "d": "day", "w": "week"}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+?)s?\Z", re.IGNORECASE | re.ASCII)
_KEYS = {"cron": str, "every": str, "zone": str, "do": (str, list), "missed": str, "jitter": str, "with": dict}


@dataclass(frozen=True, slots=True)
class Schedule:
    """What is to be done, and when: at the times of `cron`, or each `every` seconds."""

    name: str
    do: tuple[Action, ...]
    cron: str = ""
    every: float = 0.0
    zone: str = "UTC"
    missed: str = "once"
    jitter: float = 0.0  # seconds; each schedule is late by a part of it that is always the same
    arguments: dict[str, Any] = field(default_factory=dict)  # for the pipelines that it runs

    @property
    def when(self) -> str:
        """Its times as text, the same for the same times."""
        times = self.cron or f"every {in_words(self.every)}"
        zone = "" if self.zone == "UTC" or not self.cron else f" {self.zone}"
        return times + zone + (f", up to {in_words(self.jitter)} later" if self.jitter else "")

    @property
    def words(self) -> str:
        """Its times as a sentence."""
        if not self.cron:
            return self.when
        said = CronSim(self.cron, dt.datetime(2000, 1, 1, tzinfo=dt.UTC)).explain()
        return said + (f", up to {in_words(self.jitter)} later" if self.jitter else "")


def read(settings: Settings) -> dict[str, Schedule]:
    """The schedules of boucle.toml; raises `Invalid` for whatever could not run."""
    file = settings.project / FILE
    tables = part(settings.table, "schedules", file)
    return {name: _one(name, table, f"{file}: [schedules.{name}]") for name, table in tables.items()}


def _one(name: str, table: Any, place: str) -> Schedule:
    check_name(name, "schedule name")
    given = check_keys(table, _KEYS, place)
    if ("cron" in given) == ("every" in given):
        raise Invalid(
            f"{place} has {'both cron and every' if 'cron' in given else 'neither cron nor every'}",
            expected='one of them: cron = "0 3 * * *" or every = "15 minutes"',
        )
    zone = given.get("zone", "UTC")
    if zone not in _zones():
        raise Invalid(f"{place}: there is no time zone {zone!r}", expected="a name such as UTC or Europe/Berlin")
    missed = given.get("missed", "once")
    if missed not in MISSED:
        raise Invalid(f"{place}: missed is {missed!r}", expected=f"one of {', '.join(MISSED)}")
    every = span(given["every"], f"{place}: every") if "every" in given else 0.0
    if "every" in given and every < 1.0:
        raise Invalid(f"{place}: every is {given['every']!r}", expected="a second or more")
    made = Schedule(
        name, actions(given.get("do"), place), given.get("cron", ""), every, zone, missed,
        span(given["jitter"], f"{place}: jitter") if "jitter" in given else 0.0, given.get("with", {}),
    )  # fmt: skip
    if made.cron:
        _check_cron(made, place)
    return made


def _check_cron(schedule: Schedule, place: str) -> None:
    expected = "minute, hour, day of the month, month, day of the week: '0 3 * * *' is at 03:00 every day"
    if len(schedule.cron.split()) != 5:
        raise Invalid(f"{place}: cron is {schedule.cron!r}, {len(schedule.cron.split())} fields", expected=expected)
    try:
        next_fire(schedule, 0.0)
    except CronSimError as error:
        said = str(error)
        raise Invalid(f"{place}: cron is {schedule.cron!r}: {said[:1].lower()}{said[1:]}", expected=expected) from None
    except Invalid as error:
        raise Invalid(f"{place}: {error.what}", expected=error.expected) from None


def span(text: str, what: str = "it") -> float:
    """Seconds of a length of time such as `90 seconds`, `1.5 hours`, `7 days` or `10s`; raises `Invalid`."""
    found = _SPAN.match(text.strip())
    unit = _SHORT.get(found[2].lower(), found[2].lower()) if found else ""
    if not found or unit not in _UNITS:
        raise Invalid(f"{what} is {text!r}", expected=f"a number and one of {', '.join(u + 's' for u in _UNITS)}")
    return float(found[1]) * _UNITS[unit]


def in_words(seconds: float) -> str:
    """A length of time in the largest unit that keeps it short: `15 minutes`, `1.5 hours`."""
    unit, size = next(((u, s) for u, s in reversed(_UNITS.items()) if seconds >= s), ("second", 1.0))
    if unit == "week" and seconds % size:
        unit, size = "day", 86400.0
    number = f"{seconds / size:.1f}".removesuffix(".0")
    return f"{number} {unit}" if number == "1" else f"{number} {unit}s"


def next_fire(schedule: Schedule, after: float) -> float:
    """The first time past `after`, in seconds since the epoch.

    `cron` is about the clock on the wall of its zone: a time that the clock leaps over in spring comes when the leap ends,
    and one that it shows twice in autumn comes at the first. Where minute or hour begins with a star it is about time as it
    passes, as in Debian's cron. `every` counts from the epoch, so that it does not matter when a worker was started.
    """
    late = _lateness(schedule)
    if not schedule.cron:
        count = (after - late) // schedule.every
        while count * schedule.every + late <= after:
            count += 1
        return count * schedule.every + late
    for tick in CronSim(schedule.cron, dt.datetime.fromtimestamp(after - late, _zone(schedule.zone))):
        # An hour that is shown twice is one hour for the library, which then looks back.
        if tick.timestamp() + late > after:
            return tick.timestamp() + late
    raise Invalid(f"cron is {schedule.cron!r}, which never comes", expected="a date that exists")


def _lateness(schedule: Schedule) -> int:
    return int.from_bytes(blake3(schedule.name.encode()).digest(8)) % (int(schedule.jitter) + 1)


def due(schedule: Schedule, last: float, now: float) -> list[float]:
    """The times past `last` and up to `now` for which it must be run now, oldest first.

    Of the times that went by while nobody looked, `once` makes up for the latest, `all` for each (`MOST` of them at a time),
    and `skip` for none: only a time that is not yet `LATE` seconds ago counts.
    """
    if schedule.missed == "all":
        return list(itertools.islice(_fires(schedule, last, now), MOST))
    if schedule.missed == "skip":
        return list(_fires(schedule, max(last, now - LATE), now))[-1:]
    # The latest is looked for from the end: a schedule that slept for a year has many times.
    back = LATE
    while True:
        start = max(last, now - back)
        found = list(_fires(schedule, start, now))[-1:]
        if found or start == last:
            return found
        back *= 2


def _fires(schedule: Schedule, after: float, until: float) -> Iterator[float]:
    while (after := next_fire(schedule, after)) <= until:
        yield after


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones()) | {"UTC"}


def _zone(name: str) -> dt.tzinfo:
    return dt.UTC if name == "UTC" else ZoneInfo(name)  # the library is quicker where no clock is ever put forward


def shown_in_zone(schedule: Schedule, moment: float) -> str:
    """A moment as the clock on the wall of the schedule's zone shows it."""
    return dt.datetime.fromtimestamp(moment, _zone(schedule.zone)).strftime("%Y-%m-%d %H:%M:%S %Z")
