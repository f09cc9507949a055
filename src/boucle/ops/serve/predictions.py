"""Writing the prediction log: nothing is answered that is not on file first. `core.predictions` says how it looks."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from boucle.core.errors import Unavailable
from boucle.core.predictions import SUFFIX
from boucle.core.refs import new_id

ROTATE_BYTES = 64 * 2**20
SYNC_SECONDS = 1.0

_log = logging.getLogger(__name__)


class PredictionLog:
    """Appends lines, gives out their ids. Safe to use from many threads.

    A line is with the operating system when `append` returns: the death of this process loses nothing. It is on the
    disk at most `SYNC_SECONDS` later, or when `close` returns: so much can be lost when the machine dies. With
    `optional`, a line that cannot be written is counted in `failures` instead of raised.
    """

    def __init__(self, folder: Path, *, rotate: int = ROTATE_BYTES, optional: bool = False) -> None:
        self.folder, self.failures = folder, 0
        self._rotate, self._optional = rotate, optional
        self._write_lock, self._sync_lock = threading.Lock(), threading.Lock()
        self._file, self._size, self._dirty = -1, 0, False
        self._ended: list[int] = []  # files that are full, to be synced and closed
        self._closing = threading.Event()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._next_file()
        except OSError as error:
            raise self._cannot(error) from error
        self._syncer = threading.Thread(target=self._sync_often, name="prediction-log", daemon=True)
        self._syncer.start()

    def append(self, rests: Sequence[str]) -> list[str]:
        """Write one line for each of `rests`, the JSON members of a line that follow its id, in one go: all of them or
        none. Returns the ids; raises `Unavailable`."""
        with self._write_lock:
            try:
                if self._file < 0 or self._size >= self._rotate:
                    self._next_file()
                # Under the lock, so that ids increase within the file.
                ids = [new_id() for _ in rests]
                self._write(
                    "".join([f'{{"id":"{id}",{rest}}}\n' for id, rest in zip(ids, rests, strict=True)]).encode()
                )
            except OSError as error:
                self.failures += 1
                if not self._optional:
                    raise self._cannot(error) from error
                _log.warning("a prediction was answered without a log line: %s", error)
                ids = [new_id() for _ in rests]
        return ids

    def close(self) -> None:
        """Everything to the disk; later appends fail."""
        with self._write_lock:
            self._rotate = -1
            if self._file >= 0:
                self._ended.append(self._file)
                self._file = -1
        self._closing.set()
        self._syncer.join()
        self._sync()

    def _write(self, data: bytes) -> None:
        done = 0
        try:
            while done < len(data):
                done += os.write(self._file, data[done:] if done else data)
        except OSError:
            if done:
                self._take_back()
            raise
        self._size += done
        self._dirty = True

    def _take_back(self) -> None:
        # Half a line in the middle of a file would end every later bisection there.
        try:
            os.ftruncate(self._file, self._size)
        except OSError:
            self._ended.append(self._file)
            self._file = -1

    def _next_file(self) -> None:
        if self._rotate < 0:
            raise OSError("the log is closed")
        path = self.folder / f"{new_id()}{SUFFIX}"
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        if self._file >= 0:
            self._ended.append(self._file)
        self._file, self._size = file, 0
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _sync_often(self) -> None:
        while not self._closing.wait(SYNC_SECONDS):
            self._sync()

    def _sync(self) -> None:
        with self._sync_lock:
            with self._write_lock:
                ended, self._ended = self._ended, []
                current = self._file if self._dirty else -1
                self._dirty = False
            # Outside the write lock: a slow disk must not hold up answers. Only this place closes files.
            for file in [*ended, *([current] if current >= 0 else [])]:
                try:
                    os.fsync(file)
                except OSError as error:
                    self.failures += 1
                    _log.error("the prediction log in %s may not be on the disk: %s", self.folder, error)
            for file in ended:
                os.close(file)

    def _cannot(self, error: OSError) -> Unavailable:
        return Unavailable(
            f"the prediction log cannot be written: {error.strerror or error}",
            expected=f"room and permission to write in {self.folder}",
            fix="make room; or start the service with --log-optional to answer without a log",
        )


class FailureLog:
    """Keeps the requests that a revision failed, in files like those of predictions. It is made with the first of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log: PredictionLog | None = None
        self._lock = threading.Lock()

    def note(
        self, stamp: str, status: int, what: str, latency_us: int, request: str, shadow: bool = False
    ) -> None:  # fmt: skip
        """Write one line; one that cannot be written is lost, since the client has an error already."""
        mirrored = ',"shadow":true' if shadow else ""
        rest = (
            f'"time":{time.time():.6f},{stamp},"status":{status},"what":{json.dumps(what)},'
            f'"latency_us":{latency_us},"request":"{request}"{mirrored}'
        )
        with self._lock:
            if self._log is None:
                self._log = PredictionLog(self._folder, optional=True)
        self._log.append([rest])

    def close(self) -> None:
        """What was written to the disk."""
        if self._log is not None:
            self._log.close()
