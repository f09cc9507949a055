"""The steps of a fitted pipeline that scikit-learn has no part for: plain functions without state.

They travel inside a stored model by name (`sklearn.preprocessing.FunctionTransformer`), so a name here never changes
its meaning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

# What `skops.io.load` has to be told to trust for a pipeline that uses them.
NAMES = tuple(f"boucle.core.transforms.{name}" for name in ("plain_text", "time_parts", "time_part_names"))

# name -> names of the columns it gives; a cycle is a point on a circle, so that its end meets its beginning.
PARTS: dict[str, tuple[str, ...]] = {
    "trend": ("days",),
    "year": ("season", "season_sin", "season_cos"),
    "week": ("weekday", "weekday_sin", "weekday_cos"),
    "day": ("hour", "hour_sin", "hour_cos"),
}


def plain_text(frame: pd.DataFrame) -> NDArray[np.object_]:
    """The one text column of a frame as an array of strings of shape (rows,); anything else is empty."""
    values = np.asarray(frame, dtype=object).reshape(-1)
    return np.array([v if isinstance(v, str) else "" for v in values], dtype=object)


def time_parts(frame: pd.DataFrame, parts: tuple[str, ...] = ("year", "week", "day")) -> NDArray[np.float64]:
    """Numbers for the one time column of a frame: shape (rows, columns of `parts`), see `PARTS`; missing is NaN.

    Times are UTC; strings are read as ISO 8601 and are missing where they are not.
    """
    import pandas as pd

    column = frame.iloc[:, 0]
    if column.dtype.kind in "OUT":
        column = pd.to_datetime(column.astype(object), errors="coerce", format="ISO8601", utc=True)
    elif column.dtype.kind != "M":
        column = pd.to_datetime(pd.Series(np.nan, index=column.index))
    times = pd.DatetimeIndex(column)
    times = times.tz_convert(None) if times.tz is not None else times
    out: list[Any] = []
    for part in parts:
        if part == "trend":
            out.append((times - pd.Timestamp("2000-01-01")) / pd.Timedelta(days=1))
        else:
            value, period = _cycle(times, part)
            out += [value, np.sin(2 * np.pi * value / period), np.cos(2 * np.pi * value / period)]
    return np.column_stack([np.asarray(c, dtype=np.float64) for c in out])


def _cycle(times: pd.DatetimeIndex, part: str) -> tuple[NDArray[np.float64], float]:
    if part == "year":
        return np.asarray(times.day_of_year, dtype=np.float64), 365.25
    if part == "week":
        return np.asarray(times.day_of_week, dtype=np.float64), 7.0
    return np.asarray(times.hour + times.minute / 60, dtype=np.float64), 24.0


def time_part_names(transformer: Any, names: list[str]) -> NDArray[np.object_]:
    """The names of the columns `time_parts` gives: `opened` becomes `opened_hour` and so on."""
    parts = transformer.kw_args["parts"]
    return np.array([f"{names[0]}_{column}" for part in parts for column in PARTS[part]], dtype=object)
