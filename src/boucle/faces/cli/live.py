"""Live progress of an execution: one line per step, filled in as it goes."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Self

from boucle.faces.cli.out import console, took


class Live:
    """Listens to an execution and shows it. On a terminal lines change in place; elsewhere each end is a line."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._began: dict[str, float] = {}
        self._done: dict[str, int] = {}
        self._reused: dict[str, int] = {}
        self._display: Any = None

    def __enter__(self) -> Self:
        if not self._quiet and sys.stdout.isatty():
            from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

            self._display = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                TimeElapsedColumn(),
                console=console(),
                transient=True,
            )
            self._display.start()
        self._tasks: dict[str, Any] = {}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._display is not None:
            self._display.stop()

    def __call__(self, progress: Any) -> None:
        """Take one `flow.execute.Progress`."""
        if self._quiet:
            return
        label = progress.label
        match progress.kind:
            case "started":
                self._began.setdefault(label, time.perf_counter())
                if self._display is not None and label not in self._tasks:
                    self._tasks[label] = self._display.add_task(
                        f"{label}  [dim]{_plain(progress.text)}[/dim]", total=None
                    )
            case "printed":
                for text in progress.text.rstrip().splitlines():
                    self._say(f"  {label:<12} | {text}", "dim")
            case "retried":
                self._say(f"  {label:<12} {progress.text}", "yellow")
            case "failed":
                self._end(label)
                self._say(f"x {label:<12} {progress.text}", "red")
            case "finished" | "reused":
                self._done[label] = self._done.get(label, 0) + 1
                self._reused[label] = self._reused.get(label, 0) + (progress.kind == "reused")
                if self._done[label] < progress.total:
                    return
                seconds = time.perf_counter() - self._began[label] if label in self._began else progress.seconds
                self._end(label)
                calls = f" x{progress.total}" if progress.total > 1 else ""
                if self._reused[label] == progress.total:
                    self._say(f"= {label + calls:<12} reused     {progress.text}", "green")
                else:
                    self._say(f"+ {label + calls:<12} {took(seconds):>8}   {progress.text}", "")

    def _end(self, label: str) -> None:
        if self._display is not None and label in self._tasks:
            self._display.remove_task(self._tasks.pop(label))

    def _say(self, text: str, style: str) -> None:
        from rich.text import Text

        console().print(Text(text, style=style))


def _plain(text: str) -> str:
    return text.replace("[", "\\[")
