"""Small generated tables that the tests of the tabular pipeline share."""

from __future__ import annotations

import datetime as dt

import numpy as np

from boucle.core.frames import Frame


def customers(rows: int = 300, seed: int = 0, **more) -> Frame:
    """Mixed columns with gaps, and a target that depends on them with some noise."""
    random = np.random.default_rng(seed)
    age = random.normal(40, 12, rows).round(1)
    plan = random.choice(["basic", "plus", "pro"], rows)
    visits = random.poisson(4, rows)
    score = 0.1 * (age - 40) + (plan == "pro") * 1.5 - 0.3 * visits + random.normal(0, 0.7, rows)
    return Frame.of(
        {
            "age": [None if gap else a for a, gap in zip(age.tolist(), random.random(rows) < 0.1, strict=True)],
            "plan": [None if gap else p for p, gap in zip(plan.tolist(), random.random(rows) < 0.1, strict=True)],
            "visits": visits,
            "active": random.random(rows) < 0.5,
            "churn": np.where(score > 0, "yes", "no").tolist(),
            **more,
        }
    )


def messages(rows: int = 200, seed: int = 0) -> Frame:
    """Short texts of two kinds."""
    random = np.random.default_rng(seed)
    words = {
        "spam": "win cash prize now call free claim urgent offer".split(),
        "ham": "see you at home later dinner mum thanks love".split(),
    }
    label = random.choice(["ham", "spam"], rows, p=[0.7, 0.3])
    return Frame.of({"text": [" ".join(random.choice(words[k], 7)) + f" {i}" for i, k in enumerate(label)], "label": label})


def series(rows: int = 400, seed: int = 0) -> Frame:
    """Hourly demand with a daily cycle and a trend."""
    random = np.random.default_rng(seed)
    start = dt.datetime(2024, 1, 1)
    hour = np.arange(rows)
    demand = 20 + 10 * np.sin(2 * np.pi * hour / 24) + 0.01 * hour + random.normal(0, 1, rows)
    return Frame.of(
        {
            "at": [start + dt.timedelta(hours=int(h)) for h in hour],
            "wind": random.normal(size=rows),
            "demand": demand,
        }
    )
