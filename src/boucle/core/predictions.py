"""The prediction log as it lies on disk, and how to read it.

A folder of files. Each is named by an id older than all ids in it, `<id>.jsonl`, and was written by one process. Each
line is one JSON object that begins with its id: `{"id":"01JC...","time":1767225600.0,"service":"churn","revision":2,
"model":"churn@3","digest":"...","inputs":{...},"output":{...},"latency_us":412,"request":"01JC..."}`. Within a file the
ids increase, so that one of them is found by bisection. Only the last line of a file can be cut off.
"""

from __future__ import annotations

import heapq
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from boucle.core.errors import Corrupt
from boucle.core.refs import id_time

SUFFIX = ".jsonl"
HEAD = b'{"id":"'  # how every line begins; the id's 26 characters follow
_ID_END = len(HEAD) + 26

_log = logging.getLogger(__name__)


def find(folder: Path, id: str) -> dict[str, Any] | None:
    """The prediction with this id, or None. Reads O(log n) lines of each file that may hold it; raises `Invalid` for
    what is not an id, `Corrupt` for a damaged line on the way."""
    id_time(id)
    id = id.upper()
    head = HEAD + id.encode() + b'"'
    for path in reversed(_files(folder)):
        if path.stem > id:
            continue
        with path.open("rb") as file:
            file.seek(_bisect(file, path, id))
            line = file.readline()
        if line.endswith(b"\n") and line.startswith(head):
            return _parse(line, path)
    return None


def held(folder: Path, ids: Iterable[str]) -> set[str]:
    """Those of these ids (upper case) that are in the log. Reads O(log n) lines for each; raises `Corrupt` for a damaged line
    on the way."""
    left, found = set(ids), set[str]()
    for path in reversed(_files(folder)):
        here = sorted(i for i in left if i > path.stem)
        if not here:
            continue
        with path.open("rb") as file:
            for id in here:
                file.seek(_bisect(file, path, id))
                line = file.readline()
                if line.endswith(b"\n") and line.startswith(HEAD + id.encode() + b'"'):
                    found.add(id)
        left -= found
    return found


def scan(folder: Path, after_id: str = "", report: Callable[[str], object] = _log.warning) -> Iterator[dict[str, Any]]:
    """All predictions past an id, in the order of their ids across files; holds one line per file in memory.

    A last line that was cut off is left out and reported in words. A service that runs may be writing that line just
    now, and services that share the folder may still be writing ids a moment older than the last one given, so
    whoever goes on from there should stay a second behind. Raises `Corrupt` for any other damaged line.
    """
    waiting = _files(folder)[::-1]
    open_lines: list[tuple[str, int, bytes, Path, Iterator[bytes]]] = []
    try:
        while waiting or open_lines:
            # A file cannot hold an id older than its name, so it is opened when the merge gets there, not before.
            if waiting and (not open_lines or waiting[-1].stem < open_lines[0][0]):
                path = waiting.pop()
                _push(open_lines, path, _lines(path, after_id, report), len(waiting))
                continue
            _, place, line, path, lines = heapq.heappop(open_lines)
            _push(open_lines, path, lines, place)
            yield _parse(line, path)
    finally:
        for *_, lines in open_lines:
            lines.close()  # type: ignore[attr-defined]


def blocks(
    folder: Path, after_id: str = "", size: int = 1 << 22, report: Callable[[str], object] = _log.warning
) -> Iterator[bytes]:
    """The lines that `scan` would give, as they lie on the disk, in blocks of about so many bytes: for whoever parses many at
    once. What was appended after a file was first looked at is left for the next time. A damaged line is not noticed here."""
    group: list[tuple[Path, int, int]] = []
    newest = ""
    for path in _files(folder):
        start, end, last = _span(path, after_id, report)
        if start >= end:
            continue
        if group and path.stem > newest:
            yield from _merged(group, size)
            group = []
        group.append((path, start, end))
        newest = max(newest, last)
    yield from _merged(group, size)


def count(folder: Path) -> int:
    """How many predictions are in the log; a last line that was cut off does not count."""
    total = 0
    for path in _files(folder):
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                total += chunk.count(b"\n")
    return total


def check(folder: Path) -> Iterator[str]:
    """Reads everything; problems in words."""
    found: list[str] = []
    for path in _files(folder):
        before = path.stem
        try:
            for line in _lines(path, "", found.append):
                id = line[len(HEAD) : _ID_END].decode()
                if id <= before:
                    found.append(f"{path}: id {id} comes after {before}")
                before = id
                _parse(line, path)
        except Corrupt as error:
            found.append(error.what)
        yield from found
        found.clear()


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob(f"*{SUFFIX}") if len(p.stem) == 26) if folder.is_dir() else []


def _push(
    heap: list[tuple[str, int, bytes, Path, Iterator[bytes]]], path: Path, lines: Iterator[bytes], place: int
) -> None:
    line = next(lines, None)
    if line is not None:
        heapq.heappush(heap, (line[len(HEAD) : _ID_END].decode(), place, line, path, lines))


def _lines(path: Path, after_id: str, report: Callable[[str], object]) -> Iterator[bytes]:
    with path.open("rb") as file:
        start = 0
        if after_id:
            start = _bisect(file, path, after_id)
            file.seek(start)
        for line in file:
            if not line.endswith(b"\n"):
                report(f"{path}: the last line, at byte {start}, is cut off after {len(line)} bytes")
                return
            if _id(line, path, start) > after_id:
                yield line
            start += len(line)


def _span(path: Path, after_id: str, report: Callable[[str], object]) -> tuple[int, int, str]:
    """Where the lines past an id begin and end, and the id of the last one."""
    with path.open("rb") as file:
        end = size = file.seek(0, 2)
        tail = b""
        while end and b"\n" not in tail[:-1]:
            step = min(end, 1 << 16)
            end -= step
            file.seek(end)
            tail = file.read(step) + tail
        whole = tail[: tail.rfind(b"\n") + 1]
        if len(whole) < len(tail):
            at = end + len(whole)
            report(f"{path}: the last line, at byte {at}, is cut off after {size - at} bytes")
        if not whole:
            return 0, 0, ""
        first = whole[:-1].rfind(b"\n") + 1
        last = _id(whole[first:], path, end + first)
        if last <= after_id:
            return 0, 0, last
        start = _bisect(file, path, after_id) if after_id else 0
        file.seek(start)
        line = file.readline()
        if _id(line, path, start) == after_id:
            start += len(line)
        return start, end + len(whole), last


def _merged(group: list[tuple[Path, int, int]], size: int) -> Iterator[bytes]:
    """Blocks of one file as they are; lines of files whose ids overlap in the order of their ids."""
    if len(group) == 1:
        path, start, end = group[0]
        with path.open("rb") as file:
            file.seek(start)
            while start < end:
                block = file.read(min(size, end - start))
                if start + len(block) < end:
                    block += file.readline()
                start += len(block)
                yield block
        return
    parts = [_between(*one) for one in group]
    held: list[bytes] = []
    length = 0
    for line in heapq.merge(*parts, key=lambda line: line[len(HEAD) : _ID_END]):
        held.append(line)
        length += len(line)
        if length >= size:
            yield b"".join(held)
            held, length = [], 0
    if held:
        yield b"".join(held)


def _between(path: Path, start: int, end: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        while start < end:
            line = file.readline()
            start += len(line)
            yield line


def _bisect(file: BinaryIO, path: Path, id: str) -> int:
    """Where the first line starts whose id is not older than this one; the end of the whole lines if none is."""
    low, high = 0, file.seek(0, 2)
    while low < high:
        middle = (low + high) // 2
        start = middle
        if middle > low:
            # From one byte before, so that a line that starts right at the middle is not skipped.
            file.seek(middle - 1)
            start = middle - 1 + len(file.readline())
        file.seek(start)
        line = file.readline()
        if start >= high or not line.endswith(b"\n") or _id(line, path, start) >= id:
            high = middle
        else:
            low = start + len(line)
    return low


def _id(line: bytes, path: Path, start: int) -> str:
    if not line.startswith(HEAD) or line[_ID_END : _ID_END + 1] != b'"' or not line[:_ID_END].isascii():
        raise _damaged(path, f"the line at byte {start} does not begin with an id")
    return line[len(HEAD) : _ID_END].decode()


def _parse(line: bytes, path: Path) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise _damaged(path, f"the line of {line[len(HEAD) : _ID_END].decode()} is not JSON: {error}") from None
    assert isinstance(row, dict)  # it begins with HEAD
    return row


def _damaged(path: Path, what: str) -> Corrupt:
    return Corrupt(
        f"{path}: {what}",
        expected="a prediction log as a service wrote it",
        fix="restore the file from a copy, or move it out of the folder to go on without it",
    )
