"""Labels as they lie on disk: what really happened, told later, by the id of the prediction.

They are beside the prediction log they belong to, one JSON object a line: `{"id": ..., "label": ..., "time": ...}`. Nothing is
ever changed: of several labels for one prediction the last counts. Only the last line of a file can be cut off.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boucle.core import predictions
from boucle.core.errors import Corrupt, Invalid, Unavailable
from boucle.core.refs import id_time
from boucle.core.schema import jsonable

FILE = "labels.jsonl"
LOG = "predictions"


@dataclass(frozen=True, slots=True)
class Labelled:
    """What came of it: how many labels were kept, and the ids no revision of the service has given."""

    kept: int
    unknown: tuple[str, ...]


def keep(logs: Iterable[Path], pairs: Iterable[tuple[Any, Any]], time: float) -> Labelled:
    """Keep pairs of id and label, each beside the one of these prediction logs that has the id. `time` is when they are told,
    in seconds since the epoch; they are on the disk when this returns.

    Raises `Invalid` for what is no id or no label, and then nothing is kept; `Unavailable` when a file cannot be written.
    """
    given = [(_checked_id(i), _checked_label(i, v)) for i, v in pairs]
    left = {i for i, _ in given}
    kept = 0
    for log in logs:
        here = predictions.held(log, left)
        left -= here
        lines = [json.dumps({"id": i, "label": v, "time": time}, ensure_ascii=False) for i, v in given if i in here]
        if lines:
            _append(_beside(log), "\n".join([*lines, ""]).encode())
            kept += len(lines)
    return Labelled(kept, tuple(sorted(left)))


def logs(log: Path) -> list[Path]:
    """The prediction logs of all revisions of the service that one of them is of, the newest first. One that is not laid out as
    `<service>/<revision>/predictions` has no others."""
    if log.name != LOG:
        return [log]
    revisions = [r for r in log.parent.parent.iterdir() if r.name.isdecimal()] if log.parent.name.isdecimal() else []
    return [r / LOG for r in sorted(revisions, key=lambda r: -int(r.name))] or [log]


def _beside(log: Path) -> Path:
    return log.with_name(FILE) if log.name == LOG else log / FILE


def read(folder: Path) -> dict[str, Any]:
    """The labels of a revision by prediction id; `folder` is the service's. A last line that was cut off is left out.
    Raises `Corrupt` for any other damaged line."""
    out: dict[str, Any] = {}
    path = folder / FILE
    if not path.is_file():
        return out
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                row = json.loads(line)
                out[row["id"]] = row["label"]
            except (ValueError, KeyError, TypeError) as error:
                raise Corrupt(f"{path}, line {number}, is not a label: {error}", expected="as it was written") from None
    return out


def _checked_id(value: Any) -> str:
    id_time(str(value))
    return str(value).upper()


def _checked_label(id: str, value: Any) -> Any:
    plain = jsonable(value)
    if plain is None or isinstance(plain, list | dict):
        raise Invalid(f"the label of {id} is {value!r}", expected="a class or a number")
    try:
        str(plain).encode()
    except UnicodeEncodeError:
        raise Invalid(f"the label of {id} is {value!r}", expected="text without lone surrogates") from None
    return plain


def _append(path: Path, data: bytes) -> None:
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            size = _whole(file)
            # A line that was cut off was never acknowledged; appending to it would damage the next one, too.
            os.ftruncate(file, size)
            os.lseek(file, size, os.SEEK_SET)
            try:
                done = 0
                while done < len(data):
                    done += os.write(file, data[done:])
                os.fsync(file)
            except OSError:
                os.ftruncate(file, size)
                raise
        finally:
            os.close(file)
    except OSError as error:
        raise Unavailable(
            f"labels cannot be written to {path}: {error.strerror or error}", expected="a folder that may be written to"
        ) from error


def _whole(file: int) -> int:
    """Bytes up to the end of the last whole line."""
    end = os.lseek(file, 0, os.SEEK_END)
    while end:
        start = max(0, end - 4096)
        at = os.pread(file, end - start, start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0
