"""Study: what a table is for a model that should predict one of its columns, found out before anything is fitted.

The task and its classes, what each column means, which columns must not be used and why, and how rows may be parted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boucle.core.errors import Invalid
from boucle.core.frames import Frame
from boucle.core.schema import FLOATS
from boucle.measure.scores import TASKS, primary
from boucle.ml.tabular import columns as column_reading
from boucle.ml.tabular import target as target_reading
from boucle.ml.tabular.columns import Column, as_times, split_roles
from boucle.ml.tabular.leaks import leaks, strongest
from boucle.ml.tabular.target import Target


@dataclass(frozen=True, slots=True)
class Feature:
    """A column that is used: its storage type, its kind (number, category, text or time), how many different values and
    nulls it has, and for a time the parts that are read from it (names in `core.transforms.PARTS`)."""

    name: str
    type: str
    kind: str
    distinct: int
    nulls: int
    parts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Study:
    """What was found out about a table and its target.

    `imbalance` is rows of the largest class per row of the smallest; `counts` says that a regression target counts
    something; `dropped` maps a column to why it is not used; `split` is how rows should be parted (predefined, time,
    group, stratified or hash), by the column `split_column` where it needs one, and `folds` and `folds_column` the same
    for the folds within the training rows, which differ where the test part is predefined; `unlabelled` rows had no
    target.
    """

    target: str
    task: str
    rows: int
    features: tuple[Feature, ...]
    dropped: dict[str, str]
    split: str
    split_column: str
    split_reason: str
    folds: str
    folds_column: str
    findings: tuple[str, ...]
    classes: tuple[Any, ...] = ()
    positive: Any = None
    imbalance: float = 1.0
    counts: bool = False
    unlabelled: int = 0

    @property
    def names(self) -> list[str]:
        """The columns a model takes, in the order of the table."""
        return [f.name for f in self.features]

    @property
    def primary(self) -> str:
        """The metric that models are chosen by."""
        return primary(self.task, self.imbalance)

    def of_kind(self, kind: str) -> list[str]:
        """The features of a kind, in the order of the table."""
        return [f.name for f in self.features if f.kind == kind]

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "features": [{**asdict(f), "parts": list(f.parts)} for f in self.features],
            "findings": list(self.findings),
            "classes": list(self.classes),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Study:
        features = tuple(Feature(**{**f, "parts": tuple(f["parts"])}) for f in data["features"])
        lists = {
            "findings": tuple(data["findings"]),
            "classes": tuple(data["classes"]),
            "dropped": dict(data["dropped"]),
        }
        return cls(**{**data, **lists, "features": features})


def study(
    frame: Frame,
    target: str,
    *,
    time: str | None = None,
    group: str | None = None,
    ignore: Iterable[str] = (),
    keep: Iterable[str] = (),
    task: str | None = None,
) -> Study:
    """Find out what has to be known before fitting a model of `target`.

    `time` names the column rows are ordered by, `group` the one whose rows must stay together; both are looked for when
    not given. `ignore` columns are not used, `keep` columns are used whatever they look like, `task` (binary,
    multiclass, regression) overrides the one inferred. Rows without a target are left out and counted. Reads the frame
    into memory. Raises `Invalid` for a name that is no column (with the near ones) and for a target that cannot be
    learned: null in every row, one value, fewer than 20 rows, a class with one row, no column to learn from.
    """
    ignored, kept = _names(ignore), _names(keep)
    _check(frame, target, (*(n for n in (time, group) if n is not None), *ignored, *kept))
    if task is not None and task not in TASKS:
        raise Invalid(f"{task!r} is not a task", expected=f"one of {', '.join(TASKS)}")
    labelled, unlabelled, lone = labelled_rows(frame, target)
    data = labelled.pandas()
    asked = target_reading.read(data[target], frame.schema[target].type, target, task)

    dropped: dict[str, str] = {}
    columns: dict[str, Column] = {}
    predefined = ""
    for name in frame.columns:
        if name == target:
            continue
        if name in ignored:
            dropped[name] = "left out on request"
        elif name not in kept and split_roles(data[name], name):
            dropped[name] = "says which rows are for training and which for testing"
            predefined = predefined or name
        else:
            columns[name] = column_reading.read(data[name], frame.schema[name].type, name)
    given_away = leaks({n: c for n, c in columns.items() if n not in (time, group)}, asked)
    if time is not None:
        kind, by, reason = "time", time, f"{time!r} was named as the order of the rows"
    elif group is not None:
        kind, by, reason = "group", group, f"{group!r} was named as what keeps rows together"
    else:
        kind, by, reason = _split(columns, asked, [*kept, *given_away])
    within, within_by = kind, by
    if predefined and time is None and group is None:
        kind, by, reason = "predefined", predefined, f"the column {predefined!r} says which rows are for testing"

    features = []
    for name, column in columns.items():
        feature, why = _feature(column, name in kept, trend=within == "time" and asked.task == "regression")
        if name == within_by and within == "group":
            feature, why = None, "keeps rows together when they are split, and new ones will come"
        if name in given_away and name not in kept:
            feature, why = None, given_away[name]
        if feature is None:
            dropped[name] = why
        else:
            features.append(feature)
    if not features:
        reasons = "; ".join(f"{n!r} {why}" for n, why in list(dropped.items())[:5])
        raise Invalid(
            f"no column is left to learn {target!r} from: {reasons or 'the table has no other'}",
            expected="at least one column that is known before the outcome is",
            fix="add columns, or name those to use all the same with `keep`",
        )
    findings = [*asked.findings]
    if lone:
        shown = ", ".join(map(repr, lone[:5])) + (" and others" if len(lone) > 5 else "")
        findings.insert(
            0, f"{len(lone)} classes have a single row ({shown}), which teaches nothing: they are left out."
        )
    if unlabelled:
        findings.insert(0, f"{unlabelled:,} rows have no value of {target!r} and are left out.")
    findings += [f"{name!r} is not used: it {why}." for name, why in dropped.items()]
    findings += _remarks({f.name: columns[f.name] for f in features}, asked, kind)
    keys = column_reading.row_keys(data, [f.name for f in features])
    if column_reading.copied(keys):
        again = len(keys) - len(np.unique(keys))
        findings.append(
            f"{again:,} rows repeat an earlier one in every feature; copies stay in one part when rows are split."
        )
    findings.append(f"Test rows are set aside by {_SPLITS[kind]}: {reason}.")
    return Study(
        target=target,
        task=asked.task,
        rows=len(data),
        features=tuple(features),
        dropped=dropped,
        split=kind,
        split_column=by,
        split_reason=reason,
        folds=within,
        folds_column=within_by,
        findings=tuple(findings),
        classes=asked.classes,
        positive=asked.positive,
        imbalance=asked.imbalance,
        counts=asked.counts,
        unlabelled=unlabelled,
    )


_SPLITS = {
    "predefined": "the table's own column",
    "time": "time",
    "group": "group",
    "stratified": "chance within each class",
    "hash": "a hash of each row",
}


def labelled_rows(frame: Frame, target: str) -> tuple[Frame, int, tuple[str, ...]]:
    """The rows to learn from, in memory: those with a target (for floats: a finite one) whose class, where it is text,
    has a second row. Also how many have no target, and the classes that stood alone."""
    import pyarrow as pa
    import pyarrow.compute as pc

    table = frame.table()
    known = table.column(target).is_valid()
    if frame.schema[target].type in FLOATS:
        known = pc.fill_null(pc.is_finite(table.column(target)), False)
    labelled = table.filter(known)
    if not labelled.num_rows:
        raise Invalid(
            f"the target {target!r} is null in every row",
            expected="rows with known outcomes",
            fix="choose another target, or join the outcomes to the table first",
        )
    unlabelled = table.num_rows - labelled.num_rows
    lone: tuple[str, ...] = ()
    if frame.schema[target].type == "string":
        sizes = labelled.column(target).value_counts().to_pylist()
        alone = sorted(s["values"] for s in sizes if s["counts"] == 1)
        # A table of nothing but single rows is another mistake, and gets its own error.
        if alone and len(sizes) - len(alone) >= 2:
            lone = tuple(alone)
            labelled = labelled.filter(pc.invert(pc.is_in(labelled.column(target), value_set=pa.array(lone))))
    return Frame.of(labelled), unlabelled, lone


def _names(names: Iterable[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _check(frame: Frame, target: str, others: tuple[str, ...]) -> None:
    for name in (target, *others):
        frame.schema[name]
    if target in others:
        raise Invalid(
            f"the target {target!r} cannot be ignored, kept, or order or group the rows", expected="another column"
        )


def _feature(column: Column, kept: bool, *, trend: bool) -> tuple[Feature | None, str]:
    kind = column.kind
    parts: tuple[str, ...] = ()
    if not kind or (kind == "identifier" and not kept):
        return None, column.reason
    if kind == "identifier":
        kind = "category" if column.type == "string" else "number"
    if kind == "time":
        parts = _parts(column, trend)
        if not parts:
            return None, "covers too little time to show a cycle (two days, two weeks or a year)"
    return Feature(column.name, column.type, kind, column.distinct, column.nulls, parts), ""


def _parts(column: Column, trend: bool) -> tuple[str, ...]:
    days = column.numbers[np.isfinite(column.numbers)]
    span = float(np.ptp(days))
    clock = bool(np.any(days != np.floor(days)))
    found = {"trend": trend, "year": span >= 365, "week": span >= 14, "day": clock and span >= 2}
    return tuple(part for part, seen in found.items() if seen)


def _split(
    columns: Mapping[str, Column],
    target: Target,
    skip: Iterable[str],
) -> tuple[str, str, str]:
    times = [c for c in columns.values() if c.kind == "time" and c.distinct >= 10 and c.nulls <= 0.05 * len(c.codes)]
    if times:
        column = max(times, key=lambda c: c.distinct)
        ordered = target.signal[np.argsort(as_times(column.values), kind="stable")]
        alike, moved = _neighbours(ordered), _drift(ordered, target)
        if alike >= 0.2:
            why = f"rows next to each other in {column.name!r} have like targets (correlation {alike:.2f})"
            return "time", column.name, f"{why}, which a random split would leak"
        if moved >= 0.1:
            return "time", column.name, f"{target.name!r} changes along {column.name!r}, as it will go on doing"
    entities = [c for n, c in columns.items() if c.entity and n not in skip]
    if entities:
        column = max(entities, key=lambda c: c.distinct)
        each = (len(column.codes) - column.nulls) / column.distinct
        return "group", column.name, f"each {column.name!r} has {each:.1f} rows on average, and new ones will come"
    if target.task == "regression":
        return "hash", "", "rows look independent, and a row stays where it is when others are added"
    return "stratified", "", "rows look independent, and each class keeps its share"


def _neighbours(ordered: NDArray[np.float64]) -> float:
    """The lag-1 autocorrelation; 0 for a constant. Class positions are as good as any numbers for "the same or not"."""
    before, after = ordered[:-1], ordered[1:]
    if np.ptp(before) == 0 or np.ptp(after) == 0:
        return 0.0
    return float(np.corrcoef(before, after)[0, 1])


def _drift(ordered: NDArray[np.float64], target: Target) -> float:
    """How far the first and the last third of the rows are apart beyond chance: total variation of the classes, or half
    the standard deviations between the means; 0 below 200 rows, and for a table sorted by its target."""
    third = len(ordered) // 3
    first, last = ordered[:third], ordered[-third:]
    steps = np.diff(ordered)
    if len(ordered) < 200 or np.all(steps >= 0) or np.all(steps <= 0):
        return 0.0
    if target.task == "regression":
        return float(abs(first.mean() - last.mean()) / (2 * ordered.std()) - np.sqrt(2 / third))
    levels = np.unique(ordered)
    shares = [np.array([(part == v).mean() for v in levels]) for part in (first, last)]
    return float(np.abs(shares[0] - shares[1]).sum() / 2 - np.sqrt(len(levels) / third))


def _remarks(columns: Mapping[str, Column], target: Target, split: str) -> list[str]:
    out = []
    best = strongest(columns, target)
    if best and best[1] >= 0.8:
        out.append(
            f"{best[0]!r} alone tells much (ROC AUC {best[1]:.2f}): make sure that it is known before the outcome is."
        )
    if split in {"stratified", "hash"} and _drift(target.signal, target) >= 0.1:
        out.append(
            f"{target.name!r} changes from the beginning of the table to its end: if the rows are in order of time, "
            "name the time column, or new rows will be predicted worse than the test says."
        )
    missing = [n for n, c in columns.items() if c.nulls]
    if missing:
        worst = max(missing, key=lambda n: columns[n].nulls)
        share = columns[worst].nulls / len(columns[worst].codes)
        out.append(f"{len(missing)} of {len(columns)} columns have missing values, most in {worst!r} ({share:.1%}).")
    return out
