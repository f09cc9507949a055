"""Whether the errors of a model changed, and since when: detectors that are fed one error after the other.

Inputs may look as ever while what they mean has changed; only the truth shows that. `Adwin` (Bifet and Gavalda 2007,
*Learning from time-changing data with adaptive windowing*) keeps a window of errors and cuts off its old part when the
means of both parts differ by more than chance: its bound holds over all cuts and all looks. `PageHinkley` (Page 1954;
Hinkley 1971) sums what the errors lie above their mean and alarms when the sum has risen by a threshold: quicker for a
change that it was tuned for, without a guarantee. The verdict is Adwin's; that of Page-Hinkley is shown beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEVEL = 0.05  # chance of a false alarm of Adwin, in all
LEAST = 30  # labelled predictions on each side of a change
EFFECT = 0.05  # change of the mean error, of errors between 0 and 1, that is worth saying in any case,
SHARE, SMALL = 0.25, 0.01  # as is one by a quarter of what it was, if it is not tiny
_BUCKETS = 5  # of each size
_EVERY = 32  # errors between looks for a cut


class PageHinkley:
    """Page-Hinkley test for a rise of the mean. `slack`: rises of the mean below it do not count; `threshold`: of the sum.
    `onset` is the number of the first error after the lowest sum: where the rise began."""

    __slots__ = ("_lowest", "_mean", "_sum", "onset", "seen", "slack", "threshold")

    def __init__(self, slack: float = 0.05, threshold: float = 30.0) -> None:
        self.slack, self.threshold = slack, threshold
        self.seen = self.onset = 0
        self._mean = self._sum = self._lowest = 0.0

    def add(self, error: float) -> bool:
        """Take one error; True when the sum is over the threshold."""
        self.seen += 1
        self._mean += (error - self._mean) / self.seen
        self._sum += error - self._mean - self.slack
        if self._sum <= self._lowest:
            self._lowest, self.onset = self._sum, self.seen
        return self._sum - self._lowest > self.threshold

    def to_json(self) -> dict[str, Any]:
        return {name.lstrip("_"): getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PageHinkley:
        made = cls(data["slack"], data["threshold"])
        for name in cls.__slots__:
            setattr(made, name, data[name.lstrip("_")])
        return made


class Adwin:
    """Adaptive window over numbers between 0 and 1, in memory logarithmic in its length. `start` is the number of the first
    error in the window: it moves when a change is found, to where the new mean begins. `level` is the chance that a stream
    without a change is ever cut: the n-th look may spend 6 / (pi n)^2 of it, over the cuts it tries."""

    __slots__ = ("_buckets", "_looks", "level", "seen", "start")

    def __init__(self, level: float = LEVEL) -> None:
        self.level, self.seen, self.start, self._looks = level, 0, 0, 0
        self._buckets: list[list[tuple[float, float]]] = [[]]  # per power of two: (sum, sum of squares), newest first

    def add(self, error: float) -> bool:
        """Take one error; True when the window was cut: the mean has changed."""
        self.seen += 1
        self._buckets[0].insert(0, (error, error * error))
        for size, row in enumerate(self._buckets):
            if len(row) <= _BUCKETS:
                break
            second, first = row.pop(), row.pop()
            if size + 1 == len(self._buckets):
                self._buckets.append([])
            self._buckets[size + 1].insert(0, (first[0] + second[0], first[1] + second[1]))
        return self.seen % _EVERY == 0 and self._cut()

    @property
    def mean(self) -> float:
        """Of the errors in the window."""
        length = self.seen - self.start
        return sum(b[0] for row in self._buckets for b in row) / length if length else 0.0

    def _parts(self) -> tuple[Floats, Floats, Floats]:
        """Sizes, sums and squares of the buckets, oldest first."""
        found = [(2.0**size, *b) for size, row in enumerate(self._buckets) for b in row][::-1]
        whole = np.array(found)
        return whole[:, 0], whole[:, 1], whole[:, 2]

    def _cut(self) -> bool:
        self._looks += 1
        changed = False
        spent = self.level * 6 / (math.pi * self._looks) ** 2
        while self.seen - self.start >= 2 * LEAST:
            sizes, sums, squares = self._parts()
            length = sizes.sum()
            before = np.cumsum(sizes)[:-1]
            after = length - before
            gap = np.abs(np.cumsum(sums)[:-1] / before - (sums.sum() - np.cumsum(sums)[:-1]) / after)
            variance = max(0.0, squares.sum() / length - (sums.sum() / length) ** 2)
            # Bernstein's inequality on either side, as in the paper; all cuts of all looks share the level.
            share = math.log(4 * len(before) / spent)
            size = 1 / (1 / before + 1 / after)
            bound = np.sqrt(2 / size * variance * share) + 2 / (3 * size) * share
            usable = (before >= LEAST) & (after >= LEAST)
            if not (usable & (gap > bound)).any():
                break
            self._drop(sizes)
            changed = True
        return changed

    def _drop(self, sizes: Floats) -> None:
        self._buckets[-1].pop()
        while len(self._buckets) > 1 and not self._buckets[-1]:
            self._buckets.pop()
        self.start += int(sizes[0])

    def to_json(self) -> dict[str, Any]:
        return {name.lstrip("_"): getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Adwin:
        made = cls(data["level"])
        made.seen, made.start, made._looks = data["seen"], data["start"], data["looks"]
        made._buckets = [[(float(a), float(b)) for a, b in row] for row in data["buckets"]]
        return made


@dataclass(frozen=True, slots=True)
class Concept:
    """Whether errors changed: `status` is pass, warn (they fell: the world changed in the model's favour) or fail (they rose).
    `before` and `after` are means of the error (of 0 or 1, or of the scaled distance); `since` is the time of the first
    prediction after the change; `rising` is when a rise began by Page-Hinkley, None without one."""

    status: str
    sentence: str
    labelled: int
    before: float
    after: float
    since: float | None = None
    rows_since: int = 0
    rising: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def concept(
    times: Sequence[float], errors: Sequence[float], *, known: Sequence[float] | Floats = (), level: float = LEVEL,
    what: str = "error",
) -> Concept:  # fmt: skip
    """Judge errors between 0 and 1, each with the time its question was asked; they may come in any order.

    Both detectors go through them in the order of those times. A change is dated by where the split into two means explains
    the errors best, within the part that Adwin singles out. `known` are errors on rows that were kept back when the model was
    made: they come first, so that a model that was worse from its first answer on is found as well.

    >>> concept(times, errors).status
    """
    order = np.argsort(np.asarray(times, np.float64), kind="stable")
    fresh, moments = np.clip(np.asarray(errors, np.float64)[order], 0, 1), np.asarray(times, np.float64)[order]
    count = len(fresh)
    if count < 2 * LEAST:
        return Concept("pass", f"too few labels to judge: {count} of {2 * LEAST}", count, 0.0, 0.0)
    # In random order, so that what varies among them is no change.
    kept = np.random.default_rng(0).permutation(np.clip(np.asarray(known, np.float64), 0, 1))
    ordered = np.concatenate([kept, fresh])
    adwin, start = Adwin(level), 0
    for error in ordered.tolist():
        if adwin.add(error):
            start = adwin.start
    mean, rising = float(fresh.mean()), onset(moments, fresh)
    if not start:
        return Concept("pass", f"the {what} is steady at {mean:.3g}", count, mean, mean, rising=rising)
    at = max(_split(ordered, max(0, start - (len(ordered) - start))), len(kept))
    before, after = float(ordered[:at].mean()), float(ordered[at:].mean())
    if abs(after - before) < min(EFFECT, max(SMALL, SHARE * before)):
        said = f"the {what} went from {before:.3g} to {after:.3g}, too little to matter"
        return Concept("pass", said, count, before, after, rising=rising)
    rose, at = after > before, at - len(kept)
    said = f"the {what} {'rose' if rose else 'fell'} from {before:.3g} to {after:.3g}"
    return Concept("fail" if rose else "warn", said, count, before, after, float(moments[at]), count - at, rising)


def _split(errors: Floats, first: int) -> int:
    """Where two means explain the errors from `first` on best, by least squares."""
    part = errors[first:]
    sizes = np.arange(1, len(part))
    sums = np.cumsum(part)[:-1]
    gain = sums**2 / sizes + (part.sum() - sums) ** 2 / (len(part) - sizes)
    usable = (sizes >= LEAST // 2) & (len(part) - sizes >= LEAST // 2)
    return first + int(np.argmax(np.where(usable, gain, -np.inf))) + 1


def onset(times: Sequence[float] | Floats, errors: Sequence[float] | Floats) -> float | None:
    """When Page-Hinkley says that a rise of the errors, given in the order of their times, began; None without an alarm."""
    test = PageHinkley()
    for error in errors:
        if test.add(float(error)):
            return float(times[min(test.onset, len(times) - 1)])
    return None


def scaled(errors: Floats, reference: Floats | None = None) -> Floats:
    """Distances of a regressor as numbers between 0 and 1: |error| against three times the reference's 90th percentile
    (of the first half of the errors themselves where there is none), so that one wild row does not decide."""
    usual = reference if reference is not None and len(reference) else errors[: max(1, len(errors) // 2)]
    unit = 3 * float(np.quantile(np.abs(usual), 0.9)) or 1.0
    return np.asarray(np.minimum(np.abs(errors) / unit, 1.0))
