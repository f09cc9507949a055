"""The hash chain of the journal: each event's digest covers all of it and the digest of the event before."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterable, Iterator
from typing import Any

from blake3 import blake3

from boucle.core.records import Event
from boucle.core.rows import from_json, to_json

_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode
_DEFAULTS: dict[str, Any] = {
    f.name: {} if f.default_factory is not dataclasses.MISSING else f.default
    for f in dataclasses.fields(Event)
    if f.name != "digest"
}


def digest_of(event: Event) -> str:
    """BLAKE3 over canonical JSON of all fields but `digest`. Fields at their default are left out, so that a field
    added to `Event` later changes no digest that was written before."""
    covered = {name: value for name, default in _DEFAULTS.items() if (value := getattr(event, name)) != default}
    return str(blake3(_CANONICAL(covered).encode()).hexdigest())


def chained(event: Event, sequence: int, previous: str) -> Event:
    """The event with its place in the chain: number, digest of the one before, its own digest, and a time."""
    fields = {
        **{name: getattr(event, name) for name in _DEFAULTS},
        "sequence": sequence,
        "previous": previous,
        "time": float(event.time) or time.time(),
        "data": from_json(to_json(event.data)),
    }
    return Event(**fields, digest=digest_of(Event(**fields)))


def broken(events: Iterable[Event]) -> Iterator[str]:
    """What is wrong with a chain that should begin at sequence 1, in words; nothing when it is whole."""
    sequence, previous = 0, ""
    for event in events:
        if event.sequence != sequence + 1:
            yield f"event {sequence + 1} is missing from the journal"
        elif event.previous != previous:
            yield f"event {event.sequence} does not follow the one before it"
        if event.digest != digest_of(event):
            yield f"event {event.sequence} was changed after it was written"
        sequence, previous = event.sequence, event.digest
