"""Routes: which revisions answer at one address, and who gets which part of the traffic."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from blake3 import blake3

from boucle.core.errors import Invalid


@dataclass(frozen=True, slots=True)
class Arm:
    """One revision of a service. With a `url` it has a process of its own, and requests are passed on to it."""

    revision: int
    model: str  # name@version, stamped on each prediction
    bundle: str  # folder
    log: str  # folder of its prediction log
    failures: str = ""  # folder of the log of requests that it failed
    share: float = 0.0
    shadow: bool = False
    url: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """How traffic is split. Shares need not sum to 1: what counts is their proportion.

    Requests with the same key are answered by the same revision: the key is the header `X-Boucle-Key`, or else for each row
    the input column named by `by`. `salt` makes one experiment's assignment independent of another's. `inner` is the route of a
    process that another one of the same service passes requests on to.
    """

    arms: tuple[Arm, ...]
    by: str = ""
    salt: str = ""
    inner: bool = False

    def __post_init__(self) -> None:
        if len({a.revision for a in self.arms}) < len(self.arms):
            raise Invalid("a revision occurs twice in the route", expected="each once")
        if any(not 0 <= a.share <= 1 or (a.shadow and a.share) for a in self.arms):
            raise Invalid("a share of the route does not fit", expected="0 to 1, and 0 for what is only mirrored")

    @property
    def digest(self) -> str:
        """Of all that it says."""
        return blake3(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:32]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Route:
        return cls(
            tuple(Arm(**a) for a in data["arms"]), data.get("by", ""), data.get("salt", ""), data.get("inner", False)
        )


def main(arms: Sequence[Arm]) -> Arm | None:
    """The arm that answers when another cannot: the one with the largest share, the oldest of equals."""
    live = [a for a in arms if a.share > 0]
    return max(live, key=lambda a: (a.share, -a.revision)) if live else None


def choose(arms: Sequence[Arm], point: float) -> Arm:
    """The arm that a point of [0, 1) falls to. The newest revision begins at 0, so that whoever got it keeps getting it
    while its share grows."""
    total = sum(a.share for a in arms)
    live = sorted((a for a in arms if a.share > 0), key=lambda a: -a.revision)
    below = 0.0
    for arm in live[:-1]:
        below += arm.share / total
        if point < below:
            return arm
    return live[-1]


def point(key: str, salt: str) -> float:
    """Where a key falls in [0, 1): the same for the same salt everywhere, evenly spread over keys."""
    head = blake3(f"{salt}\x00{key}".encode("utf-8", "surrogatepass")).digest(8)
    return int.from_bytes(head, "big") / 2**64
