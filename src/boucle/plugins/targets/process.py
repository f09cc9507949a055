"""The process target: a service is a process of this machine, detached from whoever started it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from boucle.core.errors import Invalid, NotFound, Unavailable
from boucle.ports.target import Placed, Placement

LOG_TAIL_LINES = 20
POLL_SECONDS = 0.02

# What a process needs of the caller's environment; secrets and settings of a workspace are not among it.
_KEPT = (
    "PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SSL_CERT_FILE",
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES",
)  # fmt: skip
_OPTIONS = {"log_optional": bool, "max_body": int, "grace": int, "environment": Mapping}


class ProcessTarget:
    """Starts `python -m boucle.ops.serve` and knows it again by its process id and the moment that process began.

    Options of a placement: `log_optional`, `max_body` (bytes), `grace` (seconds), and `environment`, variables to add.
    """

    name: ClassVar[str] = "process"

    def start(self, placement: Placement, timeout: float = 60.0) -> Placed:
        """Start and wait until it is ready. What it prints goes to `service.log` in the placement's folder, predictions
        to `predictions/`. Raises `Unavailable` with the end of what it printed when it is not ready in time."""
        options = _checked(placement.options)
        folder = placement.folder.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        ready, log = folder / f"ready-{placement.revision}.json", folder / "service.log"
        ready.unlink(missing_ok=True)
        command = [
            # -P: the folder it runs in is no place to import from.
            *(sys.executable, "-P", "-m", "boucle.ops.serve", str(placement.bundle.absolute())),
            *("--service", placement.service, "--revision", str(placement.revision), "--model", placement.model),
            *("--log", str(folder / "predictions"), "--ready-file", str(ready)),
            *("--host", placement.host, "--port", str(placement.port)),
            *(["--hold"] if placement.hold else []),
            *(["--log-optional"] if options.get("log_optional") else []),
            *(["--max-body", str(options["max_body"])] if "max_body" in options else []),
            *(["--grace", str(options["grace"])] if "grace" in options else []),
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
        handle = {"pid": process.pid, "started": _started(process.pid), "ready": str(ready)}
        deadline = time.monotonic() + timeout
        try:
            while (facts := _read_ready(ready)) is None:
                if process.poll() is not None:
                    raise _failed(placement, f"ended with code {process.returncode} before it was ready", log, began)
                if time.monotonic() > deadline:
                    raise _failed(placement, f"was not ready after {timeout:g} seconds", log, began)
                time.sleep(POLL_SECONDS)
        except BaseException:
            self.stop(handle, 0)
            raise
        return Placed(str(facts["url"]), handle)

    def expose(self, handle: Mapping[str, Any], timeout: float = 10.0) -> str:
        """SIGUSR1, and wait for what the ready file says then."""
        if not self.alive(handle):
            raise Unavailable(f"process {handle['pid']} does not run any more", expected="the service that was started")
        os.kill(int(handle["pid"]), signal.SIGUSR1)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            facts = _read_ready(Path(handle["ready"])) or {}
            if "public" in facts:
                return str(facts["public"])
            if "refused" in facts:
                raise Unavailable(
                    str(facts["refused"]), expected="a port that is free", fix="choose another with --port"
                )
            time.sleep(POLL_SECONDS)
        raise Unavailable(f"process {handle['pid']} did not open its port within {timeout:g} seconds")

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
        f"service {placement.service}@{placement.revision} {what}",
        expected="it to load its bundle and answer",
        fix=f"see {log}, which ends:\n" + "\n".join(f"    {line}" for line in said or ["(nothing)"]),
    )
