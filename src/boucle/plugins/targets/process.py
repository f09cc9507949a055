"""The process target: a service is a process of this machine, detached from whoever started it."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from boucle.core.errors import Invalid, NotFound, Unavailable
from boucle.core.route import Route
from boucle.ports.target import Placed, Placement

LOG_TAIL_LINES = 20
POLL_SECONDS = 0.02

# What a process needs of the caller's environment; secrets and settings of a workspace are not among it.
_KEPT = (
    "PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SSL_CERT_FILE",
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES",
)  # fmt: skip
_OPTIONS = {"log_optional": bool, "max_body": int, "grace": int, "patience": float, "environment": Mapping}


class ProcessTarget:
    """Starts `python -m boucle.ops.serve` and knows it again by its process id and the moment that process began.

    Options of a placement: `log_optional`, `max_body` (bytes), `grace` (seconds for running requests), `patience` (seconds to
    wait for a share), and `environment`, variables to add.
    """

    name: ClassVar[str] = "process"

    def start(self, placement: Placement, timeout: float = 60.0) -> Placed:
        """Start and wait until it runs as its route says. What it prints goes to `service.log` in the placement's folder.
        Raises `Unavailable` with the end of what it printed when it does not come up in time."""
        options = _checked(placement.options)
        folder = placement.folder.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        tag = secrets.token_hex(4)  # a process that is about to end may still write its own
        ready, told, log = folder / f"ready-{tag}.json", folder / f"route-{tag}.json", folder / "service.log"
        for old in (*folder.glob("ready-*.json"), *folder.glob("route-*.json")):
            if not _used(old):
                old.unlink(missing_ok=True)
        _write_whole(told, {"route": placement.route.to_json()})
        command = [
            # -P: the folder it runs in is no place to import from.
            *(sys.executable, "-P", "-m", "boucle.ops.serve", "--service", placement.service),
            *("--route", str(told), "--ready-file", str(ready), "--starter", str(os.getpid())),
            *("--host", placement.host, "--port", str(placement.port)),
            *(["--log-optional"] if options.get("log_optional") else []),
            *(["--max-body", str(options["max_body"])] if "max_body" in options else []),
            *(["--grace", str(options["grace"])] if "grace" in options else []),
            *(["--patience", str(options["patience"])] if "patience" in options else []),
        ]
        began = log.stat().st_size if log.exists() else 0
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=_environment(options.get("environment", {})),
                start_new_session=True,
            )
        # Somebody has to take note of its end, or it would stay a zombie for as long as this process lives.
        threading.Thread(target=process.wait, name=f"wait-{process.pid}", daemon=True).start()
        handle = {"pid": process.pid, "started": _started(process.pid), "ready": str(ready), "route": str(told)}
        deadline = time.monotonic() + timeout
        try:
            while (facts := _read_ready(ready)) is None:
                if process.poll() is not None:
                    raise _failed(placement, f"ended with code {process.returncode} before it was ready", log, began)
                if time.monotonic() > deadline:
                    raise _failed(placement, f"was not ready after {timeout:g} seconds", log, began)
                time.sleep(POLL_SECONDS)
            states = facts["arms"]
            if states and not any(state == "ready" for state in states.values()):
                raise _failed(placement, f"cannot be loaded: {'; '.join(states.values())}", log, began)
        except BaseException:
            self.stop(handle, 0)
            raise
        return Placed(str(facts["url"]), handle)

    def route(self, handle: Mapping[str, Any], route: Route, timeout: float = 60.0) -> Mapping[int, str]:
        """Write the file that the process follows, and wait for what it says."""
        _write_whole(Path(handle["route"]), {"route": route.to_json()})
        facts = self._wait(handle, lambda facts: facts.get("route") == route.digest, timeout, "follow its route")
        return {int(revision): str(state) for revision, state in facts["arms"].items()}

    def routed(self, handle: Mapping[str, Any]) -> str:
        facts = _read_ready(Path(handle["ready"])) if self.alive(handle) else None
        return str(facts["route"]) if facts else ""

    def address(self, handle: Mapping[str, Any]) -> str:
        facts = _read_ready(Path(handle["ready"])) if self.alive(handle) else None
        return str(facts["url"]) if facts else ""

    def take(self, handle: Mapping[str, Any], other: Mapping[str, Any], timeout: float = 30.0) -> str:
        """The listening socket goes from one process to the other through a socket in a private folder."""
        url, route = str(self._facts(other)["url"]), self._told(handle)["route"]
        # Not in the folder of the service: the name of such a socket must be short.
        with tempfile.TemporaryDirectory(prefix="boucle-") as folder:
            path = str(Path(folder, "address"))
            _write_whole(Path(handle["route"]), {"route": route, "take": path})
            deadline = time.monotonic() + timeout
            while not Path(path).exists():
                if not self.alive(handle) or time.monotonic() > deadline:
                    raise Unavailable(f"process {handle['pid']} does not take the address over")
                time.sleep(POLL_SECONDS)
            _write_whole(Path(other["route"]), {**self._told(other), "give": path})
            self._wait(
                handle, lambda facts: facts["url"] == url or "refused" in facts, timeout, f"take {url} over"
            )  # fmt: skip
        _write_whole(Path(handle["route"]), {"route": route})
        if self._facts(handle)["url"] != url:
            raise Unavailable(f"process {handle['pid']} could not take {url} over: {self._facts(handle)['refused']}")
        return url

    def _wait(
        self, handle: Mapping[str, Any], holds: Callable[[Mapping[str, Any]], bool], timeout: float, what: str
    ) -> Mapping[str, Any]:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if holds(facts := self._facts(handle)):
                return facts
            time.sleep(POLL_SECONDS)
        raise Unavailable(f"process {handle['pid']} did not {what} within {timeout:g} seconds")

    def _facts(self, handle: Mapping[str, Any]) -> Mapping[str, Any]:
        facts = _read_ready(Path(handle["ready"])) if self.alive(handle) else None
        if facts is None:
            raise Unavailable(
                f"process {handle['pid']} does not run any more", expected="the service that was started"
            )  # fmt: skip
        return facts

    def _told(self, handle: Mapping[str, Any]) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(Path(handle["route"]).read_text("utf-8"))
        return told

    def alive(self, handle: Mapping[str, Any]) -> bool:
        """Whether the process of the handle runs: the same id, begun at the same moment."""
        started = _started(int(handle["pid"]))
        return bool(started) and started == handle["started"]

    def stop(self, handle: Mapping[str, Any], timeout: float = 10.0) -> bool:
        """SIGTERM, and past the timeout SIGKILL to it and to whatever it started; returns whether it ran."""
        if not self.alive(handle):
            return False
        pid = int(handle["pid"])
        if timeout > 0:
            _send(pid, signal.SIGTERM)
            self._gone(handle, timeout)
        if self.alive(handle):
            _send(-pid, signal.SIGKILL)  # it leads a process group of its own
            self._gone(handle, 10.0)
        return True

    def _gone(self, handle: Mapping[str, Any], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while self.alive(handle) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # it ended by itself meanwhile


def _started(pid: int) -> str:
    """When a process began, in whatever way the system says it; empty when it does not run."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # the name may hold spaces
        return "" if state in "ZX" else rest[18]  # field 22 of proc(5): clock ticks since boot
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return ""
    asked = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    state, _, began = asked.stdout.strip().partition(" ")
    return "" if state.startswith("Z") else began.strip()


def _read_ready(path: Path) -> dict[str, Any] | None:
    try:
        facts: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    return facts


def _used(path: Path) -> bool:
    """Whether a process may still look at a file that says its name: its ready file says who it is."""
    facts = _read_ready(path.with_name(path.name.replace("route-", "ready-")))
    return facts is not None and bool(_started(int(facts["pid"])))


def _write_whole(path: Path, facts: Mapping[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    partial.write_text(json.dumps(facts), "utf-8")
    partial.replace(path)


def _checked(options: Mapping[str, Any]) -> Mapping[str, Any]:
    for name, value in options.items():
        if name not in _OPTIONS:
            raise NotFound.named("option of target 'process'", name, _OPTIONS)
        if not isinstance(value, _OPTIONS[name]):
            raise Invalid(f"option {name} is {value!r}", expected=f"a value of type {_OPTIONS[name].__name__}")
    return options


def _environment(added: Mapping[str, str]) -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    if "PYTHONPATH" in os.environ:
        # It runs in another folder, where relative entries would mean something else.
        parts = [str(Path(part).absolute()) for part in os.environ["PYTHONPATH"].split(os.pathsep) if part]
        kept["PYTHONPATH"] = os.pathsep.join(parts)
    # One row at a time is too little work to share among threads.
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**threads, "OMP_WAIT_POLICY": "PASSIVE", **kept, "PYTHONUNBUFFERED": "1", **added}


def _failed(placement: Placement, what: str, log: Path, began: int) -> Unavailable:
    with log.open("rb") as file:
        file.seek(began)
        said = file.read().decode(errors="replace").strip().splitlines()[-LOG_TAIL_LINES:]
    return Unavailable(
        f"service {placement.service} {what}",
        expected="it to load its bundle and answer",
        fix=f"see {log}, which ends:\n" + "\n".join(f"    {line}" for line in said or ["(nothing)"]),
    )
