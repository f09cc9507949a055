"""Parsers in a process of their own, with limited memory: a file that was made to crash or to fill the memory ends that
process, not this one."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO

from boucle.core.errors import Unavailable
from boucle.plugins.sources.columnar import damaged

MEMORY = 4 << 30  # bytes of memory, or 4 times as much as the option `largest` where that is more


class Apart:
    """A program beside this file, reading one file and writing to `output`. Use it as a context, and `finish` it when all was
    read; it is ended in any case."""

    def __init__(self, path: Path, what: str, program: str, largest: int, *arguments: str) -> None:
        self._path, self._what, self._memory = path, what, max(MEMORY, 4 * largest)
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  closed on leaving
        source = str(Path(__file__).with_name(program))
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", source, str(path), str(self._memory), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._said,
                env={**os.environ, "RUST_BACKTRACE": "0"},
            )
        except OSError as error:
            self._said.close()
            raise Unavailable(f"no process can be started to read {path}: {error}") from error
        assert self._process.stdout is not None
        self.output: IO[bytes] = self._process.stdout

    def __enter__(self) -> Apart:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self.output.close()
        self._said.close()

    def finish(self) -> None:
        """Wait for its end; raises `Invalid` with what it said when it did not come through."""
        self.output.read()
        code = self._process.wait()
        if not code:
            return
        self._said.seek(0)
        lines = [line for line in self._said.read()[-4000:].decode(errors="replace").splitlines() if line.strip()]
        if missing := [line for line in lines if line.startswith("ModuleNotFoundError")]:
            raise Unavailable(f"the program that reads {self._path} does not run: {missing[0]}")
        told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        full = [line for line in lines if "memory" in line]
        why = told[-1] if told else full[0] if full else f"its parser crashed ({code})"
        if full and not told:
            why = f"{why}; it may have {self._memory >> 20} MiB"
        raise damaged(self._path, self._what, why)
