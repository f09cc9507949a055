"""Small generated tables that the tests of the tabular pipeline share."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest

from boucle.core.frames import Frame


@pytest.fixture(scope="session")
def customers():
    """Mixed columns with gaps, and a target that depends on them with some noise."""

    def make(rows: int = 300, seed: int = 0, **more) -> Frame:
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
                "churn": np.where(score > -1, "yes", "no").tolist(),
                **more,
            }
        )

    return make


@pytest.fixture(scope="session")
def messages():
    """Short texts of two kinds."""

    def make(rows: int = 200, seed: int = 0) -> Frame:
        random = np.random.default_rng(seed)
        words = {
            "spam": ["win", "cash", "prize", "now", "call", "free", "claim", "urgent", "offer"],
            "ham": ["see", "you", "at", "home", "later", "dinner", "mum", "thanks", "now", "call"],
        }
        label = random.choice(["ham", "spam"], rows, p=[0.7, 0.3]).tolist()
        text = [" ".join(random.choice(words[kind], 7)) + f" {i}" for i, kind in enumerate(label)]
        return Frame.of({"text": text, "label": label})

    return make


@pytest.fixture(scope="session")
def series():
    """Hourly demand with a daily cycle and a trend."""

    def make(rows: int = 400, seed: int = 0) -> Frame:
        random = np.random.default_rng(seed)
        hour = np.arange(rows)
        demand = 20 + 10 * np.sin(2 * np.pi * hour / 24) + 0.01 * hour + random.normal(0, 1, rows)
        start = dt.datetime(2024, 1, 1)
        at = [start + dt.timedelta(hours=int(h)) for h in hour]
        return Frame.of({"at": at, "wind": random.normal(size=rows), "demand": demand})

    return make
