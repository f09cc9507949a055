"""What a client did wrong, as errors, and the one table from errors to status codes."""

from __future__ import annotations

import json

from boucle.core.errors import BoucleError, Conflict, Invalid, NotFound, Refused, Unavailable


class Malformed(Invalid):
    """A body that cannot be read at all."""


class TooLarge(Invalid):
    """A body over the limit."""


class WrongMedia(Invalid):
    """A body of a type or encoding that is not read here."""


class WrongMethod(Invalid):
    """A path that exists, asked in a way it does not answer."""


class Unacceptable(Invalid):
    """An answer wanted in a form that there is not."""


class Unknown(Refused):
    """A request that does not say who asks, or not in a way that is believed."""


STATUS: dict[type[BoucleError], int] = {
    Malformed: 400,
    Unknown: 401,
    Refused: 403,
    NotFound: 404,
    WrongMethod: 405,
    Unacceptable: 406,
    Conflict: 409,
    TooLarge: 413,
    WrongMedia: 415,
    Invalid: 422,
    BoucleError: 500,
    Unavailable: 503,
}


def status_of(error: BoucleError) -> int:
    """The code of the nearest class in the table."""
    return next(STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)


def encode(error: BoucleError) -> bytes:
    """An error as the body of a response."""
    return json.dumps({"error": {"what": error.what, "expected": error.expected, "fix": error.fix}}).encode()


def internal(request: str) -> bytes:
    """What is said about a failure inside: an id to look it up in the service's log, and nothing else."""
    return json.dumps(
        {
            "error": {
                "what": f"the service failed to answer request {request}",
                "expected": "",
                "fix": "give this id to whoever runs the service: its log says what happened",
                "id": request,
            }
        }
    ).encode()
