"""Evidence that traffic does not come from where the reference came from, that may be looked at as often as one likes.

An e-process is a number that stays below 1/a for ever with a chance of at least 1 - a while nothing has changed, however
often it is looked at and whenever one stops (Ville 1939; Howard, Ramdas, McAuliffe and Sekhon 2021; Ramdas, Grunwald, Vovk
and Shafer 2023). A p-value of a fixed-size test has no such property: looked at after every batch it alarms sooner or later.

For counts of K groups, with true shares p, the e-process here is a mixture likelihood ratio

    E(p) = M(c) / prod p_k^c_k,    M a mixture of Dirichlet-multinomials around the reference,

a martingale for every fixed p (Robbins 1970; for multinomials Lindon and Malek 2022). The true p is not known, only a
reference of n rows: the smallest E(p) over all p that the reference does not rule out is taken, that is over
n KL(r/n || p) <= radius, which holds the true p but for a chance of `delta` (Agrawal 2020: P(n KL >= x) <=
e^-x (e x / (K-1))^(K-1) for every n). So a small reference gives weak evidence, and no reference is taken for the truth.
Groups that are cut at the reference's own quantiles make that bound an approximation, with room to spare.

A change may come late, after much that was as before. So one e-process is started at every chunk boundary j and their
average with the fixed weights 1/(j (j+1)) is looked at, which is an e-process again (compare Shin, Ramdas and Rinaldo
2023): whoever waits a thousand chunks pays 14 nats of evidence and not the dilution by a thousand chunks.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, logsumexp, xlogy

Floats = NDArray[np.float64]

CHUNK = 100  # rows; the unit of starting points, fixed so that their weights never change
_CONCENTRATIONS = (1.0, 10.0, 100.0, 1000.0)  # of the Dirichlets, from large changes to small ones
_STEPS = 50


def radius(groups: int, delta: float) -> float:
    """How large n KL(r/n || p) of a multinomial with so many groups gets but for a chance of delta (Agrawal 2020,
    *Finite-sample concentration of the multinomial in relative entropy*, theorem I.2)."""
    free = max(1, groups - 1)
    low, high = float(free), 10.0 * free - 4 * math.log(delta)
    for _ in range(_STEPS):
        x = (low + high) / 2
        bound = -x + free * (1 + math.log(x / free))
        low, high = (x, high) if bound > math.log(delta) else (low, x)
    return high


def log_e(reference: NDArray[Any], current: NDArray[Any], delta: float) -> Floats:
    """The logarithm of the e-process after counts `current` of shape (starts, groups), against reference counts of shape
    (groups,); shape (starts,). Holds up to a chance of `delta` that the reference is unlike its source."""
    r, c = np.asarray(reference, np.float64), np.asarray(current, np.float64)
    n, m = r.sum(), c.sum(axis=1)
    return _mixture(r, c, m) - _best(r, c, n, m, radius(len(r), delta))


def _mixture(r: Floats, c: Floats, m: Floats) -> Floats:
    centre = (r + 0.5) / (r.sum() + 0.5 * len(r))
    parts = []
    for weight in _CONCENTRATIONS:
        a = weight * len(r) * centre
        total = a.sum()
        parts.append(gammaln(total) - gammaln(total + m) + (gammaln(a + c) - gammaln(a)).sum(axis=1))
    return np.asarray(logsumexp(np.array(parts), axis=0) - math.log(len(parts)))


def _best(r: Floats, c: Floats, n: float, m: Floats, room: float) -> Floats:
    """The largest log-likelihood of `c` among the p that the reference allows: p is proportional to c + t r, with the t
    where n KL(r/n || p) = room (Lagrange). Where the bisection ends it errs to the larger set."""
    low, high = np.full(len(c), -30.0), np.full(len(c), 40.0)  # log t

    def shares(log_t: Floats) -> Floats:
        t = np.exp(log_t)[:, None]
        both: Floats = (c + t * r) / (m[:, None] + t * n)
        return both

    with np.errstate(divide="ignore"):
        for _ in range(_STEPS):
            middle = (low + high) / 2
            far = (xlogy(r, r / n) - xlogy(r, shares(middle))).sum(axis=1) > room
            low, high = np.where(far, middle, low), np.where(far, high, middle)
        return np.asarray(xlogy(c, shares(low)).sum(axis=1))


def log_weights(starts: NDArray[Any]) -> Floats:
    """The logarithm of the weight of an e-process that starts at these rows; of several within one `CHUNK` the first has
    it all, and the others have nothing."""
    j = np.ceil(np.asarray(starts) / CHUNK) + 1
    first = np.concatenate([[True], j[1:] != j[:-1]])
    return np.where(first, -np.log(j) - np.log(j + 1), -np.inf)


def e_bh(log_values: NDArray[Any], level: float) -> NDArray[np.bool_]:
    """Which of several hypotheses to reject so that of the rejected ones at most the share `level` are true, on average and
    whatever the dependence (e-BH: Wang and Ramdas 2022)."""
    values = np.asarray(log_values, np.float64)
    order = np.argsort(-values, kind="stable")
    ranks = np.arange(1, len(values) + 1)
    enough = np.flatnonzero(values[order] >= np.log(len(values) / (ranks * level)))
    out = np.zeros(len(values), bool)
    if enough.size:
        out[order[: enough[-1] + 1]] = True
    return out
