"""Alerts: what people are told when something goes wrong, from its opening to its resolution.

`states` opens, counts and ends them, `following` reads them off the journal, `sending` sends them through the channels of
boucle.toml.
"""

from boucle.ops.alert.following import follow
from boucle.ops.alert.sending import Route, deliver, routes, test
from boucle.ops.alert.states import (
    Silence,
    acknowledge,
    find,
    get,
    raise_,
    resolve,
    silence,
    silenced,
    silences,
    unsilence,
)

__all__ = [
    "Route", "Silence", "acknowledge", "deliver", "find", "follow", "get", "raise_", "resolve", "routes",
    "silence", "silenced", "silences", "test", "unsilence",
]  # fmt: skip
