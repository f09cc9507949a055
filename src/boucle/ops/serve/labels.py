"""From the body of a request to labels on the disk, beside the predictions that they are of."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from boucle.core import labels
from boucle.core.errors import Invalid
from boucle.ops.serve.errors import TooLarge
from boucle.ops.serve.rows import JSON, decoded, named, parsed

MOST = 10_000  # in one request, so that no request takes long
_SHAPE = '{"id": ..., "label": ...}, an array of them, or {"labels": [...]}'


def keep(body: bytes, media: str, logs: Sequence[Path]) -> labels.Labelled:
    """Keep the labels of a body, all of them or, where one makes no sense, none. `logs` are prediction logs of the service; those
    of its other revisions are found from there.

    Raises `WrongMedia`, `Malformed`, `TooLarge`, `Invalid`, and `Unavailable` when they cannot be written.
    """
    pairs = _pairs(parsed(decoded(body, media, (JSON,))[1], _SHAPE))
    found = [log for given in logs for log in labels.logs(given)]
    return labels.keep(dict.fromkeys(found), pairs, time.time())


def _pairs(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, dict):
        value = value["labels"] if set(value) == {"labels"} else [value]
    if not isinstance(value, list):
        raise Invalid(f"the body has {named(value)} where labels should be", expected=_SHAPE)
    if len(value) > MOST:
        raise TooLarge(f"{len(value)} labels in one request", expected=f"at most {MOST}", fix="send several requests")
    for i, one in enumerate(value):
        if not isinstance(one, dict) or set(one) != {"id", "label"} or not isinstance(one["id"], str):
            raise Invalid(f"label {i} is {_said(one)}", expected="an object with an id and a label, and nothing else")
    return [(one["id"], one["label"]) for one in value]


def _said(one: Any) -> str:
    if not isinstance(one, dict):
        return named(one)
    return f"an object with {', '.join(map(repr, sorted(one))) or 'nothing in it'}"
