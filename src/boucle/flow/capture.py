"""What a step prints and which files it opens, told apart by context variables, so that steps in threads do not mix."""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TextIO

from boucle.ledger import recording, runs


class Log:
    """What one call of a step printed; whole lines are also passed on."""

    __slots__ = ("_begun", "_passed_on", "text")

    def __init__(self, passed_on: Callable[[str], object]) -> None:
        self.text = io.StringIO()
        self._passed_on = passed_on
        self._begun = ""  # a line that has not ended

    def write(self, text: str) -> None:
        self.text.write(text)
        lines, end, self._begun = (self._begun + text).rpartition("\n")
        self._pass_on(lines + end)

    def whole(self) -> str:
        """All of it; nothing more will come."""
        self._pass_on(self._begun)
        self._begun = ""
        return self.text.getvalue()

    def _pass_on(self, text: str) -> None:
        if text.strip():
            # Whoever listens may print, and that is not the step's.
            token = _log.set(None)
            try:
                self._passed_on(text)
            finally:
                _log.reset(token)


_log: ContextVar[Log | None] = ContextVar("boucle_step_log", default=None)
_opened: ContextVar[dict[str, bool] | None] = ContextVar("boucle_step_files", default=None)


class _Splitter(io.TextIOBase):
    """Stands in for stdout or stderr: what a step prints goes to its log, all else where it went before."""

    def __init__(self, original: TextIO) -> None:
        self._original = original

    def write(self, text: str) -> int:
        log = _log.get()
        if log is None:
            return self._original.write(text)
        log.write(text)
        return len(text)

    def flush(self) -> None:
        self._original.flush()

    def isatty(self) -> bool:
        return False

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._original.encoding

    def fileno(self) -> int:
        return self._original.fileno()


_captures = 0
_captures_lock = threading.Lock()


@contextmanager
def captured() -> Iterator[None]:
    """While it is open, stdout and stderr know which step prints."""
    global _captures  # noqa: PLW0603  the streams are the process's own, so their guard is too
    with _captures_lock:
        _captures += 1
        if _captures == 1:
            sys.stdout, sys.stderr = _Splitter(sys.stdout), _Splitter(sys.stderr)
    try:
        yield
    finally:
        with _captures_lock:
            _captures -= 1
            if _captures == 0 and isinstance(sys.stdout, _Splitter) and isinstance(sys.stderr, _Splitter):
                sys.stdout, sys.stderr = sys.stdout._original, sys.stderr._original


@contextmanager
def observed(tracked: runs.Tracked, log: Log) -> Iterator[list[Path]]:
    """While it is open, reads, prints and opened files in this context belong to the run. The list of files that were
    read is filled when it closes."""
    _install_audit()
    opened: dict[str, bool] = {}
    found: list[Path] = []
    tokens = (recording.active.set(tracked), _log.set(log), _opened.set(opened))
    try:
        yield found
    finally:
        recording.active.reset(tokens[0])
        _log.reset(tokens[1])
        _opened.reset(tokens[2])
        root = f"{tracked.ws.root}{os.sep}"
        found += [
            Path(p) for p, written in opened.items() if not written and not p.startswith(root) and Path(p).is_file()
        ]


_audited = False
_SYSTEM = tuple(
    {
        os.path.realpath(p) + os.sep
        for p in (sys.prefix, sys.base_prefix, "/proc", "/dev", "/sys", "/etc", "/usr", "/run")
    }
)


def _install_audit() -> None:
    """Python tells audit hooks of every file it opens (PEP 578); a hook cannot be taken away again, so there is one."""
    global _audited  # noqa: PLW0603
    if not _audited:
        _audited = True
        sys.addaudithook(_on_audit)


def _on_audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open":
        return
    opened = _opened.get()
    if opened is None:
        return
    path, mode, flags = arguments
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    if not isinstance(path, str) or path.endswith((".py", ".pyc")):
        return
    real = os.path.realpath(path)
    if real.startswith(_SYSTEM):
        return
    writes = bool(flags & (os.O_WRONLY | os.O_RDWR)) if isinstance(flags, int) else bool(set(mode or "r") & set("wax+"))
    opened[real] = opened.get(real, False) or writes
