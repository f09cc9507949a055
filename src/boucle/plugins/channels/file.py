"""Messages as lines of JSON at the end of a file, for `tail -f` and for programs that read lines."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from boucle.core.errors import Unavailable
from boucle.core.schema import jsonable
from boucle.ports.channel import Message, check_options, check_severity


class FileChannel:
    """One line per message, written whole and synced to the disk, so that processes may share the file."""

    name: ClassVar[str] = "file"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @classmethod
    def connect(cls, options: Mapping[str, Any], root: Path) -> Self:
        check_options(cls.name, options, {"path": (str,)}, ("path",))
        return cls(root / options["path"])

    def send(self, message: Message) -> None:
        check_severity(message.severity)
        fields = {f.name: getattr(message, f.name) for f in dataclasses.fields(message)}
        line = (json.dumps(jsonable(fields), ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
        try:
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                before = os.fstat(handle).st_size
                if os.write(handle, line) != len(line):  # the disk is full: half a line would spoil the next one
                    os.ftruncate(handle, before)
                    raise Unavailable(
                        f"{self.path} took only part of a message", expected="room on the disk", fix="free some space"
                    )
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            if isinstance(error, Unavailable):
                raise
            raise Unavailable(
                f"{self.path}: {error.strerror}",
                expected="a file that can be written",
                fix=f"look at {self.path.parent}",
            ) from error
