"""Split: which rows train, which are kept back to test, and which validate; the same every time."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from boucle.core.errors import Invalid
from boucle.core.frames import Frame
from boucle.ml.tabular.columns import as_times, copied, row_keys, split_roles, value_keys
from boucle.ml.tabular.study import Study, labelled_rows

if TYPE_CHECKING:
    import pandas as pd


class Parts(NamedTuple):
    """Rows to train on and rows to test on, how they were parted, and why in words."""

    train: Frame
    test: Frame
    kind: str
    reason: str


def split(frame: Frame, study: Study, *, test: float = 0.2, seed: int = 0) -> Parts:
    """Part the rows that have a target as the study says; `test` is the share to test on (ignored when predefined).

    The frames hold the features, the target, and the column that orders or groups the rows. Rows with equal features
    (and with one group) never fall on both sides, unless the table has so few different rows that they are equal by
    coincidence. By time: the last rows test, sorted, equal times together. By hash: a row stays on its side when rows
    are added. Where a split by time would leave a side with a class missing, rows are drawn within classes instead and
    the reason says so. Raises `Invalid` when a side would be empty or `test` is not between 0 and 1.
    """
    if not 0 < test < 1:
        raise Invalid(f"a test share of {test}", expected="a number between 0 and 1, such as 0.2")
    labelled, _, _ = labelled_rows(frame, study.target)
    data = labelled.pandas()
    keys = row_keys(data, study.names)
    kind, reason = study.split, study.split_reason
    order = np.arange(len(data))
    if kind == "time":
        order = time_order(data[study.split_column])
        chosen = _latest(data[study.split_column], order, test)
        if study.classes and not _all_classes(data[study.target], chosen):
            kind = "stratified"
            reason = f"{reason}; but then a side has no row of some class, so rows are drawn within each class"
            order = np.arange(len(data))
    if kind == "predefined":
        column = data[study.split_column]
        roles = split_roles(column, study.split_column)
        if roles is None:
            raise Invalid(f"the column {study.split_column!r} no longer says which rows are for testing")
        chosen = column.map(roles).to_numpy() == "test"
    elif kind == "group":
        chosen = _fraction(hashed(value_keys(data[study.split_column]), seed), test)
    elif kind == "hash":
        chosen = hashed(keys, seed) < test
    elif kind == "stratified":
        strata = value_keys(data[study.target]) if study.classes else np.zeros(len(data), dtype=np.uint64)
        chosen = deal(keys, strata, seed, test)
    train_rows, test_rows = order[~chosen[order]], order[chosen[order]]
    straddling = np.isin(keys[train_rows], keys[test_rows]) & copied(keys)
    if straddling.any():
        train_rows = train_rows[~straddling]
        reason = f"{reason}; {straddling.sum():,} training rows that also stand in the test part are left out"
    if not len(train_rows) or not len(test_rows):
        raise Invalid(
            f"splitting by {kind} leaves {len(train_rows)} rows to train on and {len(test_rows)} to test on",
            expected="rows on both sides",
            fix="choose another test share, or name another column to order or group the rows by",
        )
    part = labelled.select([n for n in frame.columns if n in {*study.names, study.target, study.folds_column}])
    return Parts(part.take(train_rows), part.take(test_rows), kind, reason)


def time_order(times: pd.Series) -> NDArray[np.int64]:
    """The positions of rows in order of time; equal times keep the order of the table, unknown ones come first."""
    values = _comparable(times)
    known = ~(np.isnat(values) if values.dtype.kind == "m" else np.isnan(values))
    position = np.argsort(values, kind="stable")
    return np.concatenate([position[~known[position]], position[known[position]]])


def _comparable(times: pd.Series) -> NDArray[Any]:
    return times.to_numpy(dtype=np.float64) if times.dtype.kind in "biuf" else as_times(times)


def _latest(times: pd.Series, order: NDArray[np.int64], test: float) -> NDArray[np.bool_]:
    values = _comparable(times)
    first = values[order[min(len(order) - 1, round(len(order) * (1 - test)))]]
    late = values >= first
    return np.asarray(values > first if late.all() else late)


def _all_classes(target: pd.Series, chosen: NDArray[np.bool_]) -> bool:
    return target[~chosen].nunique() == target.nunique() and target[chosen].nunique() > 1


def hashed(keys: NDArray[np.uint64], seed: int) -> NDArray[np.float64]:
    """A number in [0, 1) for each key, uniform and unrelated for another seed (the finaliser of SplitMix64: Steele, Lea
    and Flood, 2014)."""
    z = keys + np.uint64((0x9E3779B97F4A7C15 * (seed + 1)) % 2**64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray((z ^ (z >> np.uint64(31))) >> np.uint64(11)) / 2.0**53


def ranks(keys: NDArray[np.uint64], strata: NDArray[np.uint64], seed: int) -> NDArray[np.float64]:
    """Where each row's key stands among the keys of its stratum in hashed order, between 0 and 1.

    Rows with one key have one place, by the stratum of the first of them; so a cut at any height parts each stratum
    alike and no key.
    """
    unique, first, row_unit = np.unique(keys, return_index=True, return_inverse=True)
    sizes = np.bincount(row_unit)
    stratum = np.unique(strata[first], return_inverse=True)[1]
    order = np.lexsort((hashed(unique, seed), stratum))
    before = np.cumsum(sizes[order]) - sizes[order] / 2
    totals = np.bincount(stratum, weights=sizes)
    starts = np.concatenate([[0.0], np.cumsum(totals)[:-1]])
    place = np.empty(len(unique))
    place[order] = (before - starts[stratum[order]]) / totals[stratum[order]]
    return place[row_unit]


def deal(keys: NDArray[np.uint64], strata: NDArray[np.uint64], seed: int, test: float) -> NDArray[np.bool_]:
    """Which rows test: that share of each stratum."""
    return ranks(keys, strata, seed) < test


def _fraction(places: NDArray[np.float64], test: float) -> NDArray[np.bool_]:
    chosen = places < test
    if chosen.any() and not chosen.all():
        return chosen
    # Few groups may all hash to one side: the one nearest to the border changes over.
    nearest = places.min() if not chosen.any() else places.max()
    return np.asarray(places != nearest if chosen.any() else places == nearest)


def folds(data: pd.DataFrame, study: Study, count: int, seed: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Positions to fit and to validate on, `count` times, parted as the study says.

    By time: each fold validates on the rows after those it fits on (forward chaining), unless fewer than two folds
    would do. Otherwise each row validates once. Folds that would be fitted without some class, or validated on a single
    one, are left out.
    """
    if study.folds == "time":
        order = time_order(data[study.folds_column])
        edges = np.linspace(0, len(order), count + 2).astype(int)[1:]
        found = _complete([(order[:a], order[a:b]) for a, b in pairwise(edges)], data, study)
        if len(found) > 1:
            return found
    if study.folds == "group":
        places = hashed(value_keys(data[study.folds_column]), seed + 1)
    else:
        strata = value_keys(data[study.target]) if study.classes else np.zeros(len(data), dtype=np.uint64)
        places = ranks(row_keys(data, study.names), strata, seed + 1)
    fold = np.minimum((places * count).astype(int), count - 1)
    return _complete([(np.flatnonzero(fold != i), np.flatnonzero(fold == i)) for i in range(count)], data, study)


def _complete(
    pairs: list[tuple[NDArray[np.int64], NDArray[np.int64]]], data: pd.DataFrame, study: Study
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    pairs = [(fit, held) for fit, held in pairs if len(fit) and len(held)]
    if not study.classes:
        return pairs
    answers = data[study.target].to_numpy()
    everything = len(np.unique(answers))
    seen = [(len(np.unique(answers[fit])), len(np.unique(answers[held]))) for fit, held in pairs]
    return [pair for pair, (fit, held) in zip(pairs, seen, strict=True) if fit == everything and held > 1]
