"""Counts and latencies of a service, as Prometheus reads them.

Text format 0.0.4, https://prometheus.io/docs/instrumenting/exposition_formats/. Labels are bounded: paths come from
the table of routes, codes from the table of errors.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping

MEDIA = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds


class Metrics:
    """Written by the event loop only."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()  # path, code
        self.answers: Counter[tuple[int, int]] = Counter()  # revision, code
        self.shares: Mapping[int, float] = {}
        self.rows = self.labels = self.not_mirrored = 0
        self._latencies = [0] * (len(BUCKETS) + 1)
        self._latency_sum = 0.0

    def observe(self, seconds: float) -> None:
        """How long a prediction took, from its whole body read to its answer made."""
        self._latencies[bisect_left(BUCKETS, seconds)] += 1
        self._latency_sum += seconds

    def text(self, info: Mapping[str, str], *, ready: bool, waiting: int, log_failures: int) -> str:
        """All of it. What others know better is given: facts about the service, and the gauges."""
        lines: list[str] = []
        facts = ",".join(f'{name}="{_escaped(value)}"' for name, value in info.items())

        def family(name: str, kind: str, meaning: str, *samples: str) -> None:
            lines.extend((f"# HELP boucle_{name} {meaning}", f"# TYPE boucle_{name} {kind}"))
            lines.extend(f"boucle_{name}{sample}" for sample in samples)

        counts, total = [], 0
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), self._latencies, strict=True):
            total += count
            counts.append(f'_bucket{{le="{bound}"}} {total}')
        family("service_info", "gauge", "What is served here.", f"{{{facts}}} 1")
        family("ready", "gauge", "Whether predictions are answered.", f" {int(ready)}")
        family(
            "requests_total",
            "counter",
            "Requests answered, by path and status code.",
            *(f'{{path="{path}",code="{code}"}} {n}' for (path, code), n in sorted(self.requests.items())),
        )
        family(
            "revision_share",
            "gauge",
            "Part of the traffic that a revision gets.",
            *(f'{{revision="{revision}"}} {share:g}' for revision, share in sorted(self.shares.items())),
        )
        family(
            "revision_answers_total",
            "counter",
            "Requests that a revision answered, by status code; one it failed may have been answered by another.",
            *(f'{{revision="{revision}",code="{code}"}} {n}' for (revision, code), n in sorted(self.answers.items())),
        )
        family("not_mirrored_total", "counter", "Requests that a shadow was too busy for.", f" {self.not_mirrored}")
        family("rows_total", "counter", "Rows predicted.", f" {self.rows}")
        family("labels_total", "counter", "Labels kept.", f" {self.labels}")
        family("waiting", "gauge", "Predictions that are asked for and not answered yet.", f" {waiting}")
        family("log_failures_total", "counter", "Failed writes of the prediction log.", f" {log_failures}")
        family(
            "predict_seconds",
            "histogram",
            "Latency of predictions that were answered.",
            *counts,
            f"_sum {self._latency_sum:.6f}",
            f"_count {total}",
        )
        return "\n".join([*lines, ""])


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
