"""CPU microseconds per operation of the SQLite store, beside raw sqlite3 doing the least that would do, in the same run.

python bench/store.py [runs]
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from boucle.core.records import Artifact, Edge, Event, Points, Run
from boucle.core.refs import new_id
from boucle.core.where import field
from boucle.plugins.stores.sqlite import SqliteStore

RUNS = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
POINTS, BATCH = 100_000, 1000
Row = tuple[str, float, float | None]


def params(i: int) -> dict[str, str]:
    return {f"p{j}": str((i * 31 + j * 7) % 10) for j in range(10)}


def metrics(i: int) -> dict[str, float]:
    return {f"m{j}": ((i * 7919 + j * 104729) % 100003) / 100003.0 for j in range(10)}


def point(s: int) -> float:
    return ((s * 2654435761) % 1000003) / 1000003.0


def a_run(i: int) -> Run:
    return Run(
        id=new_id(), name=f"r{i}", status="finished", started=time.time(), ended=time.time(), actor="me",
        code="c" * 64, params=params(i), metrics=metrics(i),
    )  # fmt: skip


def cpu(times: int, call: Callable[[int], object], rounds: int = 3) -> float:
    """Median over rounds of CPU microseconds per call."""
    taken = []
    for r in range(rounds):
        start = time.process_time()
        for i in range(times):
            call(r * times + i)
        taken.append((time.process_time() - start) / times * 1e6)
    return statistics.median(taken)


class Raw:
    """The floor: five tables, one statement per row, nothing checked."""

    def __init__(self, path: Path) -> None:
        self.c = c = sqlite3.connect(path, isolation_level=None)
        c.execute("pragma journal_mode = wal")
        c.execute("pragma synchronous = normal")
        c.executescript("""
            create table run (n integer primary key, id text unique, name text, status text, t0 real, t1 real);
            create table param (run integer, k text, v text, primary key (run, k)) without rowid;
            create table metric (run integer, k text, v real, step integer, t real, primary key (run, k)) without rowid;
            create table point (run integer, k integer, step integer, v real, t real);
            create table thing (key text primary key, body text);
            create table edge (a text, r text, b text, primary key (a, r, b)) without rowid;
            create index param_kv on param (k, v); create index metric_kv on metric (k, v);
            create index edge_b on edge (b);
        """)

    def put(self, i: int) -> None:
        c, now = self.c, time.time()
        c.execute("begin")
        c.execute("insert into run values (?, ?, ?, ?, ?, ?)", (i + 1, new_id(), f"r{i}", "finished", now, now))
        c.executemany("insert into param values (?, ?, ?)", [(i + 1, k, v) for k, v in params(i).items()])
        values = metrics(i).items()
        c.executemany("insert into metric values (?, ?, ?, 0, ?)", [(i + 1, k, v, now) for k, v in values])
        c.executemany("insert into point values (?, ?, 0, ?, ?)", [(i, j, v, now) for j, (_, v) in enumerate(values)])
        c.execute("commit")

    def step(self, _: int) -> None:
        c, run, made = self.c, new_id(), os.urandom(32).hex()
        c.execute("begin")
        c.execute("insert into thing values (?, ?)", (run, "{}" * 100))
        c.execute("insert into thing values (?, ?)", (made, "{}" * 20))
        edges = [(run, "made", made), (run, "part_of", "pipeline"), (run, "ran", "c" * 64)]
        c.executemany("insert into edge values (?, ?, ?)", edges)
        c.execute("commit")

    def batch(self, i: int) -> None:
        now, first = time.time(), i * BATCH
        self.c.execute("begin")
        rows = [(-1, 0, s, point(s), now) for s in range(first, first + BATCH)]
        self.c.executemany("insert into point values (?, ?, ?, ?, ?)", rows)
        self.c.execute("commit")

    def one(self, i: int) -> None:
        self.c.execute("insert into point values (-2, 0, ?, ?, ?)", (i, point(i), time.time()))

    def read(self, _: int) -> object:
        return self.c.execute("select step, v, t from point where run = -1 order by step").fetchall()

    def listed(self, _: int) -> object:
        runs: dict[int, dict[str, Any]] = {
            n: {"id": id_, "p": {}, "m": {}} for n, id_ in self.c.execute("select n, id from run limit 1000")
        }
        for name, table in (("p", "param"), ("m", "metric")):
            for n, k, v in self.c.execute(f"select run, k, v from {table} where run <= 1000"):
                runs[n][name][k] = v
        return runs

    def search(self, _: int) -> object:
        return self.c.execute(
            "select m.run from metric m join param p on p.run = m.run and p.k = 'p1' and p.v = '3'"
            " where m.k = 'm3' and m.v > 0.5 order by m.v desc, m.run limit 10"
        ).fetchall()

    def by_id(self, _: int) -> object:
        return self.c.execute("select * from run where id = ?", (self.some,)).fetchone()


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="boucle-bench-"))
    raw, store = Raw(folder / "raw.db"), SqliteStore(folder / "store.db")
    rows: list[Row] = []
    rounds = 3

    def both(what: str, times: int, ours: Callable[[int], object], floor: Callable[[int], object] | None) -> None:
        mine = cpu(times, ours, rounds)
        rows.append((what, mine, cpu(times, floor, rounds) if floor else None))

    made = [a_run(i) for i in range(RUNS * rounds)]
    both("put a run, 10 params, 10 metrics, committed", RUNS, lambda i: store.put(made[i]), raw.put)
    raw.some = raw.c.execute("select id from run limit 1 offset 500").fetchone()[0]
    some = made[500].id
    both("get a run", 2000, lambda _: store.get(Run, some), raw.by_id)

    def update(i: int) -> None:
        store.put(made[i])

    both("put the same run again", RUNS, update, None)
    both("list 1000 runs with params and metrics", 3, lambda _: store.find(Run, limit=1000), raw.listed)
    where = (field("params.p1") == "3") & (field("metrics.m3") > 0.5)
    both(
        "search: param = and metric >, top 10",
        50,
        lambda _: store.find(Run, where, order=["-metrics.m3"], limit=10),
        raw.search,
    )
    both("count that match", 50, lambda _: store.count(Run, where), None)

    key = os.urandom(32).hex()
    store.put(Run(id=new_id(), name="cached", type="step", started=0.0, cache_key=key))
    cached = (field("cache_key") == key) & (field("status") == "running")
    both("find one by an indexed field", 1000, lambda _: store.find(Run, field("cache_key") == key, limit=1), None)
    both("find one by two indexed fields", 1000, lambda _: store.find(Run, cached, order=["-started"], limit=1), None)
    both(
        "latest 20 of a common status",
        50,
        lambda _: store.find(Run, field("status") == "finished", order=["-started"], limit=20),
        None,
    )

    def step(_: int) -> None:
        run, digest = new_id(), os.urandom(32).hex()
        with store.transaction():
            store.put(
                Run(id=run, name="step", type="step", status="finished", started=1.0, code="c" * 64, cache_key=digest),
                Artifact(digest=digest, name="out", type="json", value={"codec": "json", "value": 1}, run=run),
            )
            store.link(
                Edge(f"run:{run}", "made", f"artifact:{digest}", 1.0),
                Edge(f"run:{run}", "part_of", "run:pipeline", 1.0),
                Edge(f"run:{run}", "ran", "code:" + "c" * 64, 1.0),
            )

    both("small step: run, artifact, 3 edges, committed", 1000, step, raw.step)

    def batch(i: int) -> None:
        now, first = time.time(), i * BATCH
        store.add_points(
            "run:p",
            [
                Points(
                    "x",
                    list(range(first, first + BATCH)),
                    [now] * BATCH,
                    [point(s) for s in range(first, first + BATCH)],
                )
            ],
        )

    rounds = 1
    both("add 1000 points in one call", POINTS // BATCH, batch, raw.batch)
    both("read 100,000 points", 1, lambda _: store.points("run:p", "x"), raw.read)
    rounds = 3
    both("add one point", 2000, lambda i: store.add_points("run:q", [Points("x", (i,), (1.0,), (point(i),))]), raw.one)
    both("append an event", 1000, lambda i: store.append(Event(type="a.b", subject="run:x", data={"i": i})), None)
    store.close()
    both("open an up-to-date store", 50, lambda _: SqliteStore(folder / "store.db").close(), None)

    print(f"{'':48s}{'boucle':>12s}{'raw':>12s}{'ratio':>8s}")
    for what, mine, floor in rows:
        beside = f"{floor:12.1f}{mine / floor:8.2f}" if floor else ""
        print(f"{what:48s}{mine:12.1f}{beside}")
    print(
        json.dumps(
            {"runs": RUNS * 3, "sqlite": sqlite3.sqlite_version, "mb": (folder / "store.db").stat().st_size / 1e6}
        )
    )
    raw.c.close()
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
