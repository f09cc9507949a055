"""Drift: how far traffic lies from the rows that a model was trained on, and whether that is more than chance.

A verdict needs both. The *effect* says whether the difference is large enough to matter, however much data there is; the
*evidence* (`measure.evidence`) says whether chance can be ruled out, however often one looks. Neither does alone: with a
million rows a test finds differences nobody cares for, with thirty any distance is large.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boucle.core.errors import Invalid
from boucle.core.schema import jsonable
from boucle.measure import evidence
from boucle.measure.sketch import ABOVE, BELOW, MISSING, NEW, ColumnReference, Reference, Sketch, Window
from boucle.measure.stretches import Usual, beyond, clumps, corrected, divergence

Floats = NDArray[np.float64]

WARN, FAIL = 0.1, 0.2  # Jensen-Shannon distance; a PSI of 0.1 is about 0.13, one of 0.25 about 0.21
SHARES = (0.05, 0.2)  # of rows more missing, new or out of range: warn, fail
LEVEL = 0.05  # false alarms
LEAST_ROWS = 100
_STATUSES = ("pass", "warn", "fail")


@dataclass(frozen=True, slots=True)
class Scores:
    """Distances between one column of a window and its reference, and the shares they come from; None where a measure
    does not apply. See the function of the same name for what each is."""

    missing: float
    missing_before: float
    new: float | None = None
    outside: float | None = None
    psi: float | None = None
    js: float | None = None
    effect: float = 0.0
    ks: float | None = None
    ks_p: float | None = None
    wasserstein: float | None = None
    chi_square: float | None = None
    chi_square_p: float | None = None
    domain: float | None = None


@dataclass(frozen=True, slots=True)
class ColumnDrift:
    """The verdict on one column: its scores over the last `rows` rows, from row `since` on, the evidence as the base-10
    logarithm of an e-value, and a sentence."""

    name: str
    kind: str
    status: str
    sentence: str
    rows: int
    since: int
    scores: Scores
    log10_e: float
    new_values: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Drift:
    """The verdict on a window: the worst of its columns, whose share of false alarms is at most `level`."""

    status: str
    sentence: str
    rows: int
    reference_rows: int
    level: float
    columns: tuple[ColumnDrift, ...]

    def __getitem__(self, name: str) -> ColumnDrift:
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = jsonable(asdict(self))
        return out

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Drift:
        columns = tuple(ColumnDrift(**{**c, "scores": Scores(**c["scores"])}) for c in data["columns"])
        return cls(**{**data, "columns": columns})


def drift(
    reference: Reference,
    current: Window | Sequence[Window],
    *,
    warn: float = WARN,
    fail: float = FAIL,
    shares: tuple[float, float] = SHARES,
    level: float = LEVEL,
    least_rows: int = LEAST_ROWS,
) -> Drift:
    """Judge traffic against a reference; safe to call again after every batch.

    `current` is one window, or chunks of the traffic in order, each of at least `evidence.CHUNK` rows except the last:
    then a change that began at any of the chunks is found, and scores are of the rows since. A column is `warn` or `fail`
    when its effect (the Jensen-Shannon distance without what sampling alone gives; of texts and vectors also how well a
    classifier tells them from the reference, `measure.domain`) reaches that threshold, or the share
    of rows more missing, new or out of range reaches that of `shares`; and when e-BH over the columns
    (`evidence.e_bh`) rejects that nothing changed. A column without the effect counts as an e-value of 0, which keeps the
    guarantee: of the columns that alarm at most the share `level` are false, at any look (at any stopping time; the rows
    are taken to be independent). A tenth of `level` is spent on what the reference itself does not know. Of a reference in
    the order of time (`Reference.of`) rows count for as little as they do there, `measure.stretches`: the level is then
    approximate. Rows most of which are as no stretch of it had are found at once.

    Raises `Invalid` for windows of another reference or thresholds that do not rise.
    """
    chunks = [current] if isinstance(current, Window) else list(current)
    if not 0 < warn <= fail or not 0 < shares[0] <= shares[1] or not 0 < level < 1:
        raise Invalid(f"thresholds {warn}, {fail}, {shares}, level {level}", expected="0 < warn <= fail, 0 < level < 1")
    if not chunks or any(set(c.columns) - set(reference.columns) for c in chunks):
        raise Invalid("the windows are not of this reference", expected="one window or more, made by its `window`")
    names = list(chunks[0].columns)
    sizes = np.array([c.rows for c in chunks])
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    rows = int(sizes.sum())
    delta = level / 10 / len(names)
    judged = [
        _judge(
            reference.columns[n], [c.columns[n] for c in chunks], starts, rows, delta, least_rows, (warn, fail), shares
        )
        for n in names
    ]
    effective = [f.log_e if grade else -math.inf for f, grade in judged]
    alarms = evidence.e_bh(np.array(effective), 0.9 * level)
    columns = tuple(
        _verdict(reference.columns[n], f, grade if alarm else 0, bool(grade), rows, least_rows)
        for n, (f, grade), alarm in zip(names, judged, alarms, strict=True)
    )
    worst = max(_STATUSES.index(c.status) for c in columns)
    return Drift(_STATUSES[worst], _overall(columns, rows, least_rows), rows, reference.rows, level, columns)


@dataclass(frozen=True, slots=True)
class _Found:
    scores: Scores
    log_e: float
    since: int
    sketch: Sketch


def _judge(
    column: ColumnReference, sketches: Sequence[Sketch], starts: NDArray[Any], rows: int, delta: float, least: int,
    bounds: tuple[float, float], shares: tuple[float, float],
) -> tuple[_Found, int]:  # fmt: skip
    """What was found and how bad it would be if it is no chance. Of a reference in the order of time, both that rows count for
    less than one each, and that there are values as no stretch of it had, are weighed; what is said of a column is the one
    that shows, and each gets half of the evidence."""
    one = _examine(column, sketches, starts, rows, delta, least, column.usual)
    grade = _grade(one.scores, bounds, shares)
    if not column.usual:
        return one, grade
    other = _examine(column, sketches, starts, rows, delta, least, ())
    strange = _strange(other.scores)
    worse = _reached(strange, shares) if beyond(strange, column.usual, other.sketch.rows) else 0
    one, other = (replace(f, log_e=f.log_e - math.log(2)) for f in (one, other))
    return (other, worse) if worse and (not grade or other.log_e > one.log_e) else (one, grade)


def _examine(
    column: ColumnReference, sketches: Sequence[Sketch], starts: NDArray[Any], rows: int, delta: float, least: int,
    usual: Sequence[Usual],
) -> _Found:  # fmt: skip
    # Sums over what comes after each start: a window per chunk boundary.
    after = np.cumsum(np.array([s.counts for s in sketches])[::-1], axis=0)[::-1]
    since, log_e = 0, 0.0
    if rows >= least and column.rows:
        usable = rows - starts >= least
        groups = column.groups
        pooled = np.stack([np.bincount(groups, row, int(groups.max()) + 1) for row in after])
        reference = column.pooled(column.counts) / clumps(usual, column.rows)
        pooled = pooled / np.array([clumps(usual, int(m)) for m in rows - starts])[:, None]
        coarse = _coarse(column.kind, pooled)
        rough = _coarse(column.kind, reference[None])[0]
        each = np.logaddexp(
            evidence.log_e(reference, pooled, delta / 2), evidence.log_e(rough, coarse, delta / 2)
        ) - math.log(2)  # fmt: skip
        if column.domain is not None:
            wealth = np.cumsum(np.array([s.told.log_e for s in sketches])[::-1])[::-1]
            each = np.logaddexp(each, wealth) - math.log(2)
        weights = evidence.log_weights(starts) if len(starts) > 1 else np.zeros(1)
        weighed = np.where(usable, each + weights, -np.inf)
        log_e = float(np.logaddexp.reduce(weighed))
        # Without evidence all rows are shown, not the stretch that happens to look oddest.
        if log_e >= -math.log(10 * delta):
            since = int(np.argmax(weighed))
            if column.domain is not None:
                # Bets are small before a change, so any start before it has the same wealth: the last of them is it.
                since = int(np.flatnonzero(usable & (each >= each[usable].max() - 1))[-1])
    parts = sketches[since:]
    whole = parts[0]
    for part in parts[1:]:
        whole = whole + part
    return _Found(scores(column, whole), log_e, int(starts[since]), whole)


def _coarse(kind: str, pooled: NDArray[Any]) -> NDArray[Any]:
    """Missing, outside what is known, inside: the same traffic in so few groups that a few new values show."""
    known = _outside(kind)
    return np.stack([pooled[:, 0], pooled[:, 1:known].sum(axis=1), pooled[:, known:].sum(axis=1)], axis=1)


def _outside(kind: str) -> int:
    """How many of the groups are not values that training knew."""
    return {"category": 2, "other": 1}.get(kind, 3)


def scores(column: ColumnReference, sketch: Sketch) -> Scores:
    """All scores of one column; those over cells or groups leave out nothing but what does not apply to its kind."""
    if sketch.counts.shape != column.counts.shape:
        raise Invalid(
            f"the sketch of {column.name!r} has other cells than the reference", expected="the same reference"
        )
    m, n = sketch.rows, column.rows
    if not m or not n:
        return Scores(0.0, _share(column.counts, MISSING))
    before, now = column.pooled(column.counts), column.pooled(sketch.counts)
    # Categories are not pooled for these two, so that they are what their definitions say.
    single = column.kind == "category"
    whole = (column.counts, sketch.counts) if single else (before, now)
    distance = js(*whole)
    statistic, p = chi_square(*whole)
    facts: dict[str, Any] = {
        "missing": _share(sketch.counts, MISSING), "missing_before": _share(column.counts, MISSING),
        "psi": psi(before, now), "js": distance, "effect": float(corrected(before, now)),
        "chi_square": statistic, "chi_square_p": p,
    }  # fmt: skip
    if column.kind == "category" and column.complete:
        facts["new"] = _share(sketch.counts, NEW)
    if column.edges.size:
        facts["outside"] = _share(sketch.counts, BELOW) + _share(sketch.counts, ABOVE)
        facts["ks"], facts["ks_p"] = ks(column.counts[1:], sketch.counts[1:])
        facts["wasserstein"] = wasserstein(column, sketch)
    if column.domain is not None:
        facts["domain"] = sketch.told.auc
        facts["effect"] = max(facts["effect"], sketch.told.effect)
    return Scores(**facts)


def _share(counts: NDArray[Any], cell: int) -> float:
    total = counts.sum()
    return float(counts[cell] / total) if total else 0.0


def psi(before: NDArray[Any], now: NDArray[Any]) -> float:
    """Population stability index of two count vectors: the sum of (q - p) ln(q / p), half a row added to each group so that
    an empty one does not make it infinite. Siddiqi, *Credit Risk Scorecards* (2006); by chance alone it is about
    (K-1)(1/n + 1/m) (Yurdakul and Naranjo 2020), which is why no fixed bound on it fits all sizes."""
    p, q = ((c + 0.5) / (c.sum() + 0.5 * len(c)) for c in (before, now))
    return float(((q - p) * np.log(q / p)).sum())


def js(before: NDArray[Any], now: NDArray[Any]) -> float:
    """Jensen-Shannon distance, base 2: 0 for the same shares, 1 for nothing in common (Lin 1991; a metric by Endres and
    Schindelin 2003). Defined for empty groups."""
    return math.sqrt(divergence(before, now))


def ks(before: NDArray[Any], now: NDArray[Any]) -> tuple[float, float]:
    """Kolmogorov-Smirnov distance of two count vectors over ordered cells, and the p-value of one look (two-sample,
    asymptotic with Stephens' 1970 correction). The distance is at most one cell's share (half a percent) too small, so the
    p-value errs to the large side, as it does for repeated values."""
    from scipy.special import kolmogorov

    n, m = int(before.sum()), int(now.sum())
    if not n or not m:
        return 0.0, 1.0
    distance = float(np.abs(np.cumsum(before) / n - np.cumsum(now) / m).max())
    size = math.sqrt(n * m / (n + m))
    return distance, float(kolmogorov((size + 0.12 + 0.11 / size) * distance))


def wasserstein(column: ColumnReference, sketch: Sketch) -> float:
    """Wasserstein-1 distance in standard deviations of the reference: the area between the distribution functions, which
    are known at the edges and taken as straight between them; exact for what lies outside the range. Values that are not
    finite count as lying at its ends."""
    before, now = column.counts[1:], sketch.counts[1:]
    n, m = before.sum(), now.sum()
    if not n or not m:
        return 0.0
    # At an edge both functions are known; the cell after the last edge is what lies above.
    gap = np.abs(np.cumsum(before)[1:-1] / n - np.cumsum(now)[1:-1] / m)
    width = np.diff(column.edges)
    if np.array_equal(column.edges, np.round(column.edges)) and len(column.edges) <= 100:
        inside = float((gap[:-1] * width).sum())  # few whole numbers: steps, and no straight lines
    else:
        inside = float(((gap[:-1] + gap[1:]) / 2 * width).sum())
    area = inside + (sketch.under + sketch.over) / m
    return float(area / column.std) if column.std > 0 else (0.0 if area == 0 else math.inf)


def chi_square(before: NDArray[Any], now: NDArray[Any]) -> tuple[float, float]:
    """Pearson's chi-square for two samples over groups, and the p-value of one look; groups with fewer than five expected
    rows are pooled first (Cochran 1954)."""
    from scipy.special import chdtrc

    n, m = before.sum(), now.sum()
    rare = (before + now) * min(n, m) / (n + m) < 5
    table = np.stack([np.append(c[~rare], c[rare].sum()) for c in (before, now)]).astype(np.float64)
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] < 2:
        return 0.0, 1.0
    expected = table.sum(axis=0) * (np.array([[n], [m]]) / (n + m))
    statistic = float(((table - expected) ** 2 / expected).sum())
    return statistic, float(chdtrc(table.shape[1] - 1, statistic))


def _grade(found: Scores, bounds: tuple[float, float], shares: tuple[float, float]) -> int:
    return max(_reached(found.effect, bounds), _reached(_strange(found), shares))


def _strange(found: Scores) -> float:
    """The share of rows more missing than before, new, or out of range."""
    return max(abs(found.missing - found.missing_before), found.new or 0.0, found.outside or 0.0)


def _reached(value: float, bounds: tuple[float, float]) -> int:
    return sum(value >= b for b in bounds)


def _verdict(
    column: ColumnReference, found: _Found, grade: int, far: bool, rows: int, least: int
) -> ColumnDrift:  # fmt: skip
    said = _sentence(column, found, grade, far, rows, least)
    return ColumnDrift(
        column.name, column.kind, _STATUSES[grade], said, found.sketch.rows, found.since, found.scores,
        found.log_e / math.log(10), found.sketch.new,
    )  # fmt: skip


def _sentence(column: ColumnReference, found: _Found, grade: int, far: bool, rows: int, least: int) -> str:
    if rows < least:
        return f"too few rows to judge: {rows:,} of {least:,}"
    if not grade:
        return "differs, but no more than chance can make it" if far else "as in training"
    parts = _what_moved(column, found)
    where = f"since row {found.since:,}" if found.since else f"over {found.sketch.rows:,} rows"
    return f"{'; '.join(parts)} ({where})"


def _what_moved(column: ColumnReference, found: _Found) -> list[str]:
    s, parts = found.scores, []
    if abs(s.missing - s.missing_before) >= SHARES[0]:
        parts.append(f"{s.missing:.0%} missing, {s.missing_before:.0%} in training")
    if s.new is not None and s.new >= 0.01:
        values = ", ".join(repr(v) for v in list(found.sketch.new)[:3])
        parts.append(f"{s.new:.0%} are values not seen in training, such as {values}")
    for cell, word in ((BELOW, "below"), (ABOVE, "above")):
        share = _share(found.sketch.counts, cell) if column.edges.size else 0.0
        if share >= 0.01:
            edge = column.edges[0 if cell == BELOW else -1]
            parts.append(f"{share:.0%} lie {word} the range of training ({edge:.4g})")
    if column.domain is not None and found.sketch.told.effect >= WARN:
        what = "texts" if column.kind == "text" else "vectors"
        parts.append(f"other {what} than in training: told apart with an AUC of {found.sketch.told.auc:.2f}")
    if column.kind == "vector" and parts:
        return parts
    if not parts or _inside(column, found.sketch) >= WARN:
        parts.append(_shift(column, found.sketch))
    return parts


def _inside(column: ColumnReference, sketch: Sketch) -> float:
    """The effect among the values that training knew."""
    before, now = (column.pooled(c)[_outside(column.kind) :] for c in (column.counts, sketch.counts))
    return float(corrected(before, now)) if before.sum() and now.sum() else 0.0


def _shift(column: ColumnReference, sketch: Sketch) -> str:
    if column.kind == "category":
        before, now = column.counts / max(1, column.rows), sketch.counts / max(1, sketch.rows)
        at = int(np.argmax(np.abs(now - before)[2:])) + 2 if len(before) > 2 else NEW
        name = repr(column.categories[at - 2]) if at >= 2 else "other values"
        return f"{name} is {now[at]:.0%} of the rows, {before[at]:.0%} in training"
    if column.kind == "other" or not column.edges.size:
        return "another share of the rows has a value"
    was, now_at = (_median(column, c) for c in (column.counts, sketch.counts))
    what = "length" if column.kind == "text" else "median"
    if was == now_at:
        return f"the spread changed around the same {what} of {was:.4g}"
    return f"the {what} went from {was:.4g} to {now_at:.4g}"


def _median(column: ColumnReference, counts: NDArray[Any]) -> float:
    inner = counts[1:]
    place = int(np.searchsorted(np.cumsum(inner), inner.sum() / 2))
    return float(column.edges[min(max(0, place - 1), len(column.edges) - 1)])


def _overall(columns: Sequence[ColumnDrift], rows: int, least: int) -> str:
    if rows < least:
        return f"too few rows to judge: {rows:,} of {least:,}"
    far = [c for c in columns if c.status != "pass"]
    if not far:
        return f"all {len(columns)} columns are as in training"
    far.sort(key=lambda c: (-_STATUSES.index(c.status), -c.scores.effect))
    named = ", ".join(c.name for c in far[:3]) + (f" and {len(far) - 3} more" if len(far) > 3 else "")
    return f"{len(far)} of {len(columns)} columns moved: {named}"
