"""Commands that make the loop run by itself: worker, up, rules, schedules."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from boucle.faces.cli import out
from boucle.faces.cli.here import opened

if TYPE_CHECKING:
    from boucle.workspace import Workspace

GRACE = 30.0  # seconds for a worker to end
_RESTARTS = (1.0, 30.0)  # seconds before a worker that died is started again, at first and at last
_STEADY = 60.0  # seconds after which a worker counts as one that runs


def add_worker(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--once", action="store_true", help="do what is due now, and end")
    parser.add_argument("--every", default="1s", metavar="TIME", help="between turns, such as 10s (default 1s)")
    parser.add_argument("--parent", type=int, default=0, metavar="PID", help="end when that process, our parent, does")
    parser.set_defaults(call=worker)


def add_up(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="worker processes (default 1)")
    parser.add_argument("--keep-services", action="store_true", help="leave the services running at the end")
    parser.set_defaults(call=up)


def add_rules(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(call=rules)


def add_schedules(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "verb", nargs="?", choices=("list", "run"), default="list", help="list (default), or run one now"
    )
    parser.add_argument("name", nargs="?", default="", help="the schedule to run")
    parser.set_defaults(call=schedules)


def worker(args: argparse.Namespace) -> int:
    """One turn, or turns until a signal comes."""
    from boucle.flow.schedule import span
    from boucle.ops.worker import holder_name, newest, turn, work

    every = span(args.every, "--every")
    ws = _as_worker(args)
    say = _teller(args.json)
    if args.once:
        before = newest(ws)
        said = turn(ws, holder_name())
        for line in said:
            say(line)
        if not said and not args.json:
            out.line("nothing was due", "dim")
        ended = ws.store.events(after=before)
        return int(any(e.type in ("rule.failed", "schedule.failed") and e.actor == ws.actor for e in ended))
    stop = _stop_on_signals()
    if args.parent:
        threading.Thread(target=_follow_parent, args=(args.parent, stop), daemon=True).start()
    work(ws, every=every, stop=stop, say=say)
    return 0


def _as_worker(args: argparse.Namespace) -> Workspace:
    import boucle.workspace

    return boucle.workspace.open(args.project, actor="worker")


def _teller(as_json: bool) -> Callable[[str], None]:
    lock = threading.Lock()

    def say(text: str) -> None:
        now = time.time()
        if as_json:
            unit, _, said = text.partition(": ")
            line = json.dumps({"time": now, "pid": os.getpid(), "unit": unit, "said": said}, ensure_ascii=False)
        else:
            line = f"{out.when(now)}  {text}"
        with lock:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()

    return say


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _follow_parent(parent: int, stop: threading.Event) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    stop.set()


@dataclass(slots=True)
class _Child:
    """A worker process: since when it runs, how long to wait before it is started again, and from when on it may be."""

    number: int
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    pause: float = _RESTARTS[0]
    again: float = 0.0


def up(args: argparse.Namespace) -> int:
    """Services that should run, and workers, until a signal comes."""
    from boucle.core.errors import Invalid
    from boucle.core.records import Service
    from boucle.core.where import field
    from boucle.ops import host
    from boucle.ops.worker import check

    if args.workers < 1:
        raise Invalid(f"{args.workers} workers", expected="1 or more")
    ws = _as_worker(args)
    check(ws.settings)  # settings that cannot be are told before anything starts
    stop, say = _stop_on_signals(), _teller(args.json)
    host.keep(ws)
    for service in ws.store.find(Service, field("status").within(["ready", "trial"]), order=["name", "revision"]):
        say(f"up: {service.key} ({service.model}) is {service.status} at {service.url}")
    children = [_Child(n + 1) for n in range(args.workers)]
    try:
        while not stop.is_set():
            for child in children:
                _look_after(child, ws, args.json, say)
            stop.wait(0.2)
    finally:
        _end(children, say)
        if not args.keep_services:
            _end_services(ws, say)
    return 0


def _look_after(child: _Child, ws: Workspace, as_json: bool, say: Callable[[str], None]) -> None:
    now = time.monotonic()
    if child.process is not None:
        code = child.process.poll()
        if code is None:
            return
        steady = now - child.began > _STEADY
        child.pause = _RESTARTS[0] if steady else min(2 * child.pause, _RESTARTS[1])
        child.process, child.again = None, now + child.pause
        how = f"signal {-code}" if code < 0 else f"code {code}"
        say(f"up: worker {child.number} ended with {how}; it is started again in {child.pause:g} seconds")
    if now >= child.again:
        command = [sys.executable, "-P", "-m", "boucle.faces.cli.main", "worker", "--project", str(ws.project)]
        command += ["--parent", str(os.getpid()), *(["--json"] if as_json else [])]
        # In a session of its own: Ctrl-C reaches us alone, and we end the workers in order.
        child.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        child.began = now
        say(f"up: worker {child.number} is process {child.process.pid}")


def _end(children: list[_Child], say: Callable[[str], None]) -> None:
    alive = [(c.number, c.process) for c in children if c.process is not None and c.process.poll() is None]
    for _, process in alive:
        process.terminate()
    deadline = time.monotonic() + GRACE
    for number, process in alive:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()  # nothing is lost by it: another worker goes on where this one was
            process.wait()
        say(f"up: worker {number} is stopped")


def _end_services(ws: Workspace, say: Callable[[str], None]) -> None:
    """The records stay as they are, so that the next `up` brings back what ran."""
    from boucle.core.records import Service
    from boucle.core.where import field

    for service in ws.store.find(Service, field("status").within(["ready", "trial"]), order=["name", "revision"]):
        if service.handle and ws.target(service.target).stop(service.handle):
            say(f"up: {service.key} is stopped until the next `boucle up`")


def rules(args: argparse.Namespace) -> int:
    """The rules of boucle.toml and how they stand."""
    from boucle.core.records import Lease
    from boucle.flow.rules import read
    from boucle.flow.schedule import in_words

    ws = opened(args)
    rows: list[dict[str, Any]] = []
    for rule in read(ws.settings).values():
        lease = ws.store.get(Lease, f"rule:{rule.name}")
        state = lease.state if lease else {}
        rows.append(
            {
                "rule": rule.name, "on": f"{rule.on} of {rule.subject}" if rule.subject else rule.on,
                "if": list(rule.said), "do": [str(a) for a in rule.do],
                "cooldown": in_words(rule.cooldown) if rule.cooldown else "", "last fired": state.get("fired", 0.0),
                "state": _standing(state),
            }
        )  # fmt: skip
    if args.json:
        out.as_json(rows)
    else:
        shown = [{**r, "last fired": out.when(r["last fired"])} for r in rows]
        out.table(shown, "no rules yet: [rules.NAME] in boucle.toml")
    return 0


def _standing(state: dict[str, Any]) -> str:
    if not state:
        return "new"
    if "doing" in state:
        doing = state["doing"]
        step = f"{doing['do'][doing['step']]} ({doing['step'] + 1} of {len(doing['do'])})"
        return f"waits to {step}: {doing['waits']}" if "waits" in doing else f"does {step}"
    if "trouble" in state:
        return f"in trouble: {state['trouble']['said']}"
    if "failed" in state:
        return f"failed: {state['failed']}"
    return "done" if "done" in state else "waits"


def schedules(args: argparse.Namespace) -> int:
    """The schedules of boucle.toml and when they are due, or one of them now."""
    from boucle.core.errors import Invalid
    from boucle.core.records import Lease
    from boucle.flow.schedule import next_fire, read, shown_in_zone

    if args.verb == "run":
        return _run_schedule(args)
    if args.name:
        raise Invalid(f"schedules list takes no name, and there is {args.name!r}", expected="boucle schedules")
    ws = opened(args)
    now = ws.now()
    rows: list[dict[str, Any]] = []
    for planned in read(ws.settings).values():
        lease = ws.store.get(Lease, f"schedule:{planned.name}")
        state = lease.state if lease else {}
        fire = next_fire(planned, now)
        rows.append(
            {
                "schedule": planned.name, "when": planned.words, "zone": planned.zone, "do": [str(a) for a in planned.do],
                "next": shown_in_zone(planned, fire), "next (UTC)": fire, "last (UTC)": state.get("fired", 0.0),
                "missed": planned.missed, "state": _standing(state),
            }
        )  # fmt: skip
    if args.json:
        out.as_json(rows)
    else:
        shown = [{**r, "next (UTC)": out.when(r["next (UTC)"]), "last (UTC)": out.when(r["last (UTC)"])} for r in rows]
        out.table(shown, "no schedules yet: [schedules.NAME] in boucle.toml")
    return 0


def _run_schedule(args: argparse.Namespace) -> int:
    from boucle.core.errors import NotFound
    from boucle.flow.schedule import read
    from boucle.ops.worker import run_now

    ws = opened(args)
    known = read(ws.settings)
    if args.name not in known:
        raise NotFound.named("schedule", args.name, known, fix="boucle schedules")
    said, failure = run_now(ws, known[args.name])
    say = _teller(args.json)
    for line in said:
        say(line)
    return int(bool(failure))
