"""The worker: what makes the loop run while nobody looks.

One turn does everything that is due: rules that an event fires, schedules whose time has come, a look at each service,
rollouts that go on, services that died, alerts to deliver. Each of these is a unit with a lease of its own, so that any
number of workers on one workspace share the work, and one takes over within seconds what another dropped.
"""

from __future__ import annotations

import os
import platform
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from boucle.core.errors import BoucleError, Conflict
from boucle.flow import rules, schedule
from boucle.ledger.leases import SECONDS
from boucle.ops.worker.firing import by_rule, by_schedule, fire_schedule
from boucle.ops.worker.pulse import Pulse
from boucle.ops.worker.tending import newest, seal_seconds, tending, watch_seconds
from boucle.ops.worker.unit import Unit, failed, succeeded
from boucle.ops.worker.verbs import VERBS, Verbs
from boucle.settings import FILE, Settings, read_table

if TYPE_CHECKING:
    from boucle.workspace import Workspace

__all__ = ["check", "holder_name", "newest", "run_now", "turn", "units", "work"]

PAUSE = 5.0  # seconds before a worker that could not reach its store tries again


def units(ws: Workspace, verbs: Verbs = VERBS, stop: threading.Event | None = None) -> tuple[list[Unit], list[Unit]]:
    """All there is to look after now: what fires (and may run for hours), and what is tended (and is quick).

    Raises `Invalid` as `check` does.
    """
    fires = [by_rule(ws, r, verbs, stop) for r in rules.read(ws.settings).values()]
    fires += [by_schedule(ws, s, verbs, stop) for s in schedule.read(ws.settings).values()]
    return fires, tending(ws, verbs)


def check(settings: Settings) -> None:
    """Raise `Invalid` for rules, schedules or a [worker] table that cannot be."""
    rules.read(settings)
    schedule.read(settings)
    watch_seconds(settings)
    seal_seconds(settings)


def turn(
    ws: Workspace,
    holder: str,
    *,
    verbs: Verbs = VERBS,
    seconds: float = SECONDS,
    stop: threading.Event | None = None,
    only: str = "",
) -> list[str]:
    """Do all that is due, once; returns in words what was done.

    `holder` is the name that no other process and thread has, `seconds` how long a lease holds without a heartbeat. What
    fails is said and tried again later; the rest goes on. `only` is `fires` or `tends` for one half of the work.
    """
    fires, tends = units(ws, verbs, stop)
    said: list[str] = []
    with Pulse(ws, seconds) as pulse:
        for unit in [*(fires if only != "tends" else ()), *(tends if only != "fires" else ())]:
            if stop is not None and stop.is_set():
                break
            said += _attend(ws, unit, holder, pulse)
    return said


def _attend(ws: Workspace, unit: Unit, holder: str, pulse: Pulse) -> list[str]:
    if not unit.awaits(ws):
        return []  # a look costs no write
    with pulse.hold(unit.name, holder) as hold:
        if hold is None or not unit.awaits(ws, hold.state):
            return []
        try:
            said = unit.do(hold)
            succeeded(hold)
        except Conflict as error:
            if not pulse.lost(unit.name):
                return [f"{unit.name}: {failed(hold, error)}"]
            return [f"{unit.name}: another worker has taken it over"]
        except Exception as error:  # noqa: BLE001  it is told, and the other units go on
            return [f"{unit.name}: {failed(hold, error)}"]
    return [f"{unit.name}: {line}" for line in said]


def run_now(
    ws: Workspace, planned: schedule.Schedule, *, verbs: Verbs = VERBS, seconds: float = SECONDS
) -> tuple[list[str], str]:
    """Do what a schedule says, here and now; returns in words what was done, and why it failed ('' when it did not).

    Raises `Conflict` when a worker is doing it just now, or has not come to the end of an earlier time.
    """
    name = f"schedule:{planned.name}"
    with Pulse(ws, seconds) as pulse, pulse.hold(name, holder_name()) as hold:
        if hold is None or "doing" in hold.state:
            raise Conflict(f"{name} is being done just now", expected="one that rests", fix="boucle schedules shows it")
        said = fire_schedule(hold, planned, ws.now(), verbs)
        return [f"{name}: {line}" for line in said], str(hold.state.get("failed", ""))


def holder_name() -> str:
    """A name for this process that no other has, on any machine."""
    return f"{platform.node()}:{os.getpid()}:{secrets.token_hex(4)}"


def work(
    ws: Workspace,
    *,
    every: float = 1.0,
    stop: threading.Event,
    say: Callable[[str], object] = lambda _: None,
    verbs: Verbs = VERBS,
    seconds: float = SECONDS,
) -> None:
    """Turns, `every` so many seconds, until `stop` is set. Rules and schedules run in this thread, everything else in one of
    its own, so that a pipeline of an hour delays no rollback.

    Called in the main thread, SIGTERM and SIGINT end a running pipeline as Ctrl-C does; the firing stays where it is, and
    whoever looks after it next goes on. Raises `Invalid` for settings that cannot be; when boucle.toml changes later it is
    read again, and a file with a mistake is told and left aside.
    """
    check(ws.settings)
    name = holder_name()
    failures: list[BaseException] = []

    def tend() -> None:
        try:
            _turns(ws, every, stop, say, partial(turn, ws, f"{name}/tends", verbs=verbs, seconds=seconds, only="tends"))
        except BaseException as error:  # noqa: BLE001  it is raised where `work` was called
            failures.append(error)
            stop.set()

    thread = threading.Thread(target=tend, name="boucle-tends")
    thread.start()
    once = partial(turn, ws, f"{name}/fires", verbs=verbs, seconds=seconds, only="fires", stop=stop)
    try:
        _turns(ws, every, stop, say, once, watch_settings=True)
    except KeyboardInterrupt:
        if not stop.is_set():
            raise
    finally:
        stop.set()
        thread.join()
    if failures:
        raise failures[0]


def _turns(
    ws: Workspace,
    every: float,
    stop: threading.Event,
    say: Callable[[str], object],
    once: Callable[[], Sequence[str]],
    watch_settings: bool = False,
) -> None:
    seen: tuple[int, int] | None = None  # the file may have changed since the workspace was opened
    last: tuple[int, int] | None = None
    while not stop.is_set():
        pause = every
        try:
            if watch_settings:
                # An editor empties a file before it writes it: what is there counts once it has stayed for a turn.
                now, before = _stamp(ws), last
                last = now
                if now == before and now != seen:
                    seen = now
                    if news := _read_again(ws):
                        say(news)
            for line in once():
                say(line)
                pause = 0.0  # where something was done there may be more to do
        except BoucleError as error:
            say(f"worker: {error.what}; the next try is in {PAUSE:g} seconds")
            pause = PAUSE
        stop.wait(pause)


def _stamp(ws: Workspace) -> tuple[int, int]:
    try:
        found = (ws.project / FILE).stat()
    except FileNotFoundError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


def _read_again(ws: Workspace) -> str:
    try:
        table = read_table(ws.project / FILE)
        if table == ws.settings.table:
            return ""
        settings = replace(ws.settings, table=table)
        check(settings)
    except BoucleError as error:
        return f"worker: {error.what}; going on with the settings of before"
    ws.settings = settings
    return f"worker: {FILE} was read again"
