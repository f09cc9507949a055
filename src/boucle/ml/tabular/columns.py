"""Columns: what one column means to a model, found from its type, its values and, for identifiers, its name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from boucle.core.schema import FLOATS, INTEGERS

if TYPE_CHECKING:
    import pandas as pd

_ID_NAME = re.compile(r"(^|[\s_.-])(id|uid|uuid|guid|key|index|idx|instant|rowid|row|no|nr)$")
_ENTITY_NAME = re.compile(
    r"(^|[\s_.-])(id|uid|uuid|guid|user|customer|client|patient|subject|session|household)$|^group$"
)
_ISO_TIME = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:?\d{2})?)?\Z")
_SPLIT_NAMES = {"split", "set", "dataset", "data_set", "subset", "partition", "fold", "usage", "is_test", "is_train"}
_COINCIDENCE = 0.2  # below this share of different rows a table has so few values that equal rows are no copies
_SAMPLE = 2_000  # values looked at to tell text from categories


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One column read: its kind (number, category, text, time, identifier), '' with the `reason` when it has no use."""

    name: str
    type: str
    kind: str
    values: pd.Series
    codes: NDArray[np.int64]  # of each row's value among the different ones, -1 for null
    distinct: int
    nulls: int
    reason: str = ""

    @property
    def entity(self) -> bool:
        """Whether it names things that come back in several rows."""
        return self.kind == "identifier" and self.distinct < len(self.codes) - self.nulls

    @property
    def numbers(self) -> NDArray[np.float64]:
        """The values as float64 with NaN for null and infinite ones; times as days."""
        if self.kind == "time":
            return (as_times(self.values) / np.timedelta64(1, "D")).astype(np.float64)
        found = self.values.to_numpy(dtype=np.float64, na_value=np.nan)
        return np.where(np.isfinite(found), found, np.nan)


def read(values: pd.Series, type_: str, name: str) -> Column:
    """What a column is. `values` is as `core.frames.to_pandas` gives it, `type_` as the schema names it."""
    import pandas as pd

    nulls = int(values.isna().sum())
    known = len(values) - nulls
    if not known:
        return Column(name, type_, "", values, np.full(len(values), -1), 0, nulls, "has no value in any row")
    if type_ not in {"bool", "string", "date", "timestamp", "decimal", *INTEGERS, *FLOATS}:
        return Column(name, type_, "", values, np.full(len(values), -1), 0, nulls, f"holds {type_}, not single values")
    codes, levels = pd.factorize(values)
    distinct = len(levels)
    if distinct == 1 and not nulls:
        return Column(name, type_, "", values, codes, 1, 0, f"is {levels[0]!s} in every row")
    kind, reason = _kind(type_, name, known, levels)
    return Column(name, type_, kind, values, codes, distinct, nulls, reason)


def _kind(type_: str, name: str, known: int, levels: pd.Index) -> tuple[str, str]:
    distinct = len(levels)
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    repeats = distinct >= 20 and known >= 2 * distinct and bool(_ENTITY_NAME.search(words))
    entity = "tells which one a row belongs to, and new ones will come"
    if type_ in {"date", "timestamp"}:
        return "time", ""
    if type_ in INTEGERS:
        counter = distinct == known and float(levels.max()) - float(levels.min()) == known - 1
        if known >= 20 and (counter or (distinct >= 0.95 * known and _ID_NAME.search(words))):
            return "identifier", "numbers the rows" if counter else "is different in nearly every row"
        return ("identifier", entity) if repeats else ("number", "")
    if type_ != "string":
        return "number", ""
    sample = [str(v) for v in levels[:_SAMPLE]]
    if sum(bool(_ISO_TIME.match(v)) for v in sample) >= 0.98 * len(sample):
        return "time", ""
    length = float(np.mean([len(v.split()) for v in sample]))
    if known >= 20 and distinct >= 0.95 * known:
        return ("text", "") if length >= 3 else ("identifier", "is different in nearly every row")
    if length >= 4 and distinct >= max(20, 0.1 * known):
        return "text", ""
    return ("identifier", entity) if repeats and length < 3 else ("category", "")


def as_times(values: pd.Series) -> NDArray[np.timedelta64]:
    """Times since the epoch, NaT for null; strings as ISO 8601."""
    import pandas as pd

    if values.dtype.kind != "M":
        values = pd.to_datetime(values.astype(object), errors="coerce", format="ISO8601", utc=True).dt.tz_localize(None)
    return np.asarray(values.to_numpy(dtype="datetime64[us]") - np.datetime64(0, "us"))


_TRAIN = re.compile(r"(train(ing)?|learn(ing)?)\d*\Z")
_TUNE = re.compile(r"(val|valid|validation|dev)\d*\Z")
_TEST = re.compile(r"(test(ing)?|eval(uation)?|hold_?out)\d*\Z")


def split_roles(values: pd.Series, name: str) -> dict[object, str] | None:
    """What each value of a column such as `split` or `is_test` says of its rows, `train` or `test`.

    None when the column is not one of those. Validation rows train, and test only where there are no others to test.
    """
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().strip()
    if words not in _SPLIT_NAMES or values.isna().any():
        return None
    levels = list(values.unique())
    if words in {"is_test", "is_train"}:
        if len(levels) != 2 or not all(str(v).lower() in {"0", "1", "0.0", "1.0", "true", "false"} for v in levels):
            return None
        return {
            v: "test" if (str(v).lower() in {"1", "1.0", "true"}) == (words == "is_test") else "train" for v in levels
        }
    roles: dict[object, str] = {}
    for value in levels:
        text = str(value).strip().lower()
        found = [r for r, p in (("train", _TRAIN), ("tune", _TUNE), ("test", _TEST)) if p.match(text)]
        if not found:
            return None
        roles[value] = found[0]
    held = "tune" if "test" not in roles.values() else "test"
    roles = {v: "test" if r == held else "train" for v, r in roles.items()}
    return roles if set(roles.values()) == {"train", "test"} else None


def row_keys(data: pd.DataFrame, names: list[str]) -> NDArray[np.uint64]:
    """A hash of each row's values in these columns.

    It does not depend on other rows: numbers count as float64, so a null elsewhere in the column changes nothing.
    """
    import pandas as pd

    plain = data[names].copy()
    for name in names:
        if plain[name].dtype.kind in "biuf":
            plain[name] = plain[name].astype(np.float64)
    return np.asarray(pd.util.hash_pandas_object(plain, index=False), dtype=np.uint64)


def value_keys(values: pd.Series) -> NDArray[np.uint64]:
    """A hash of each value, null included."""
    return row_keys(values.to_frame("value"), ["value"])


def copied(keys: NDArray[np.uint64]) -> bool:
    """Whether rows that agree are copies rather than a coincidence of few different values."""
    different = len(np.unique(keys))
    return _COINCIDENCE * len(keys) <= different < len(keys)
