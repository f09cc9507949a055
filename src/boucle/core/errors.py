"""Every error says three things: what happened, what was expected, what to do.

Each class also inherits the builtin a caller would expect, so `except LookupError` works on `NotFound`.
`exit_code` is what the command line returns; HTTP faces map classes to status codes in one table of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar


class BoucleError(Exception):
    """The base of all errors raised on purpose.

    `what` names the offending value, `expected` what would have been right, `fix` the next thing to do.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, expected: str = "", fix: str = "") -> None:
        self.what, self.expected, self.fix = what, expected, fix
        Exception.__init__(self, what)

    def __str__(self) -> str:
        lines = [self.what]
        if self.expected:
            lines.append(f"  expected: {self.expected}")
        if self.fix:
            lines.append(f"  to do:    {self.fix}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments would be lost by the default protocol when a worker process sends its error back.
        return (_rebuild, (type(self), self.what, self.expected, self.fix), self.__dict__)


def _rebuild(kind: type[BoucleError], what: str, expected: str, fix: str) -> BoucleError:
    return kind(what, expected=expected, fix=fix)


class Invalid(BoucleError, ValueError):
    """Input that cannot be right: a bad value, file, option or configuration."""

    exit_code = 2


class NotFound(BoucleError, LookupError):
    """Something named does not exist."""

    exit_code = 3

    @classmethod
    def named(cls, kind: str, name: str, known: Iterable[str], *, fix: str = "") -> NotFound:
        """Say what was asked for and the nearest names that exist."""
        import difflib

        names = sorted(set(known))
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5) or names[:5]
        expected = f"one of {', '.join(near)}" if near else f"there is no {kind} yet"
        return cls(f"no {kind} named {name!r}", expected=expected, fix=fix)


class Refused(BoucleError, PermissionError):
    """A gate, policy or rule said no."""

    exit_code = 4


class Conflict(BoucleError, RuntimeError):
    """The state of the world does not allow it: it exists already, or somebody else was first."""

    exit_code = 5


class Corrupt(BoucleError, OSError):
    """Stored bytes are not what was written."""

    exit_code = 6


class Unavailable(BoucleError, OSError):
    """Something needed does not answer: a disk, a server, a port."""

    exit_code = 7


class MissingExtra(BoucleError, ImportError):
    """A plugin needs a library that is not installed."""

    exit_code = 8


class StepFailed(BoucleError, RuntimeError):
    """A step of a pipeline raised, timed out or was cancelled."""

    exit_code = 1
