"""Every example in README and docs is run, page by page, in the order a reader would.

The blocks of a page share a temporary folder, one shell and one Python process:

    ```console             lines that begin with "$ " are run by bash ("> " goes on with the line before); what stands below
                           one must match what it prints, with "..." for anything. A command must succeed, unless the
                           next one is `echo $?`
    ```python              run; a ```text block right below must match what it prints
    ```python title="f"    written to that file in the shell's folder (the same for toml, csv, json and text)
    <!-- not run: why -->  right before a block: it is not run
"""

from __future__ import annotations

import json
import os
import re
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PATIENCE = 240.0  # seconds for one command
MOST_NOT_RUN = 9  # blocks of all pages

_BLOCK = re.compile(
    r"(?P<before><!-- not run:(?P<why>[^>]*)-->\s*\n)?^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: where it stands, what it is, and, for Python, the output that must follow."""

    line: int
    language: str
    title: str
    text: str
    not_run: str
    indented: bool
    expected: str | None = None


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    out: list[Block] = []
    end = 0
    for found in _BLOCK.finditer(text):
        language, _, rest = found["info"].strip().partition(" ")
        title = re.search(r'title="([^"]+)"', rest)
        block = Block(
            line=text.count("\n", 0, found.start("text")),
            language=language,
            title=title[1] if title else "",
            text=found["text"],
            not_run=(found["why"] or "").strip(),
            indented=bool(found["indent"]),
        )
        if language == "text" and not title and out and not text[end : found.start()].strip():
            before = out[-1]
            if before.language == "python" and not before.title and not before.not_run:
                out[-1] = Block(*(getattr(before, f) for f in Block.__slots__[:-1]), expected=block.text)
                end = found.end()
                continue
        out.append(block)
        end = found.end()
    return out


@dataclass(frozen=True, slots=True)
class Command:
    """A command of a console block and what it must print, where that is given."""

    text: str
    expected: str


def commands(text: str) -> list[Command]:
    out: list[tuple[list[str], list[str]]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            out.append(([line[2:]], []))
        elif line.startswith("> ") and not out[-1][1]:
            out[-1][0].append(line[2:])
        else:
            out[-1][1].append(line)
    return [Command("\n".join(said), "\n".join(expected).strip()) for said, expected in out]


def matches(expected: str, actual: str) -> bool:
    """Whether it is the same up to white space and the length of rules, with `...` for anything."""
    said = _loose(actual)
    first, *others = map(_loose, expected.split("..."))
    if not others:
        return said == first
    if not said.startswith(first):
        return False
    at = len(first)
    for part in others[:-1]:
        found = said.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return said.endswith(others[-1]) and len(said) - len(others[-1]) >= at


def _loose(text: str) -> str:
    return " ".join(re.sub("─+", "─", text).split())


class Shell:
    """A bash that is told one command after the other."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, command: str) -> tuple[int, str]:
        """Its exit status and what it printed."""
        mark = f"<{secrets.token_hex(8)}>"
        script = f"{{ {command}\n}} </dev/null\n__status=$?; printf '{mark}%s\\n' $__status; (exit $__status)\n"
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(script.encode())
        self._process.stdin.flush()
        said, until = b"", time.monotonic() + PATIENCE
        while not (end := re.search(mark.encode() + rb"(\d+)\n", said)):
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, until - time.monotonic()))
            read = os.read(self._process.stdout.fileno(), 65536) if ready else b""
            assert read, f"{command!r} did not come back: {said.decode()}"
            said += read
        return int(end[1]), said[: end.start()].decode()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class Python:
    """A Python that is given one block after the other; started when the first comes."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder, self._environment = folder, environment
        self._process: subprocess.Popen[str] | None = None

    def run(self, code: str, name: str) -> dict[str, str]:
        """What it printed, and the traceback if it failed."""
        if self._process is None:
            program = Path(__file__).with_name("session.py")
            self._process = subprocess.Popen(
                [sys.executable, program],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps({"code": code, "name": name}) + "\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE)
        assert ready, f"{name} did not come to an end"
        answer: dict[str, str] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


@contextmanager
def reading(folder: Path) -> Iterator[tuple[Shell, Python]]:
    """A shell and a Python in a folder of their own; the services that they leave behind are stopped."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("BOUCLE_", "PYTEST_", "PYTHON", "COV_", "GIT_"))}
    people = {
        f"GIT_{who}_{what}": "reader@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    environment = {
        **kept,
        **people,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(folder),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "COLUMNS": "120",
        "NO_COLOR": "1",
        "TERM": "dumb",
    }
    shell, python = Shell(folder, environment), Python(folder, environment)
    try:
        yield shell, python
    finally:
        _end_what_runs_in(folder)  # first, for what was started in the background holds the shell's output
        shell.close()
        python.close()


def _end_what_runs_in(folder: Path) -> None:
    """Services, workers and whatever else a page started and did not end, which is so when it fails on the way."""
    inside = str(folder.resolve())
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if str((entry / "cwd").readlink()).startswith(inside):
                os.kill(int(entry.name), signal.SIGKILL)
        except (OSError, ProcessLookupError):
            continue  # it ended meanwhile, or is not ours


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda p: str(p.relative_to(ROOT)))
def test_the_examples_of_a_page_work(page: Path, tmp_path: Path) -> None:
    with reading(tmp_path) as (shell, python):
        for block in blocks(page):
            where = f"{page.relative_to(ROOT)}:{block.line}"
            if block.not_run:
                continue
            if block.title:
                target = Path(shell.run("pwd -P")[1].strip(), block.title)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(block.text, encoding="utf-8")
            elif block.language == "python":
                answer = python.run(block.text, f"<{where}>")
                if answer["error"]:
                    pytest.fail(f"{where} raised\n{answer['error']}\n{answer['out']}", pytrace=False)
                if block.expected is not None and not matches(block.expected, answer["out"]):
                    pytest.fail(f"{where} printed\n{answer['out']}", pytrace=False)
            elif block.language in ("console", "bash"):
                _run_commands(block, where, shell)


def _run_commands(block: Block, where: str, shell: Shell) -> None:
    todo = commands(block.text) if block.language == "console" else [Command(block.text, "")]
    for command, following in zip(todo, [*todo[1:], None], strict=True):
        status, said = shell.run(command.text)
        may_fail = following is not None and following.text == "echo $?"
        if status and not may_fail:
            pytest.fail(f"{where}: {command.text} ended with {status}\n{said}", pytrace=False)
        if command.expected and not matches(command.expected, said):
            pytest.fail(f"{where}: {command.text} printed\n{said}", pytrace=False)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_blocks_are_where_they_are_found(page: Path) -> None:
    found = blocks(page)
    assert page.read_text(encoding="utf-8").count("```") == 2 * len(found) + 2 * sum(
        b.expected is not None for b in found
    )
    assert not [b for b in found if b.indented and b.language in ("python", "console", "bash")]
    assert {b.language for b in found} <= {"python", "console", "bash", "text", "toml", "json", "csv", "mermaid", "sql"}


def test_few_blocks_are_not_run_and_each_says_why() -> None:
    left_out = [(p.name, b.line, b.not_run) for p in PAGES for b in blocks(p) if b.not_run]
    assert len(left_out) <= MOST_NOT_RUN, left_out


@pytest.mark.parametrize(
    ("expected", "actual", "same"),
    [
        ("a b", "a   b\n", True),
        ("a ... d", "a b c d", True),
        ("a ...", "a", True),
        ("...\nlast", "first\nsecond\nlast\n", True),
        ("a b", "ab", False),
        ("a ... d", "a b c", False),
        ("1.5", "1x5", False),
    ],
)
def test_matching_is_loose_but_not_blind(expected: str, actual: str, same: bool) -> None:
    assert matches(expected, actual) is same


def test_a_wrong_example_is_noticed(tmp_path: Path) -> None:
    with reading(tmp_path) as (shell, python):
        assert shell.run("cd /; false") == (1, "")
        assert shell.run("echo $?; pwd") == (0, "1\n/\n")
        assert python.run("x = 1", "<a>") == {"out": "", "error": ""}
        assert python.run("print(x + 1)", "<b>") == {"out": "2\n", "error": ""}
        assert "ZeroDivisionError" in python.run("x / 0", "<c>")["error"]
