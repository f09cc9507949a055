"""Tracking: a run with 10 params and 10 metrics, one metric call, 100,000 points; beside plain SQLite and plain files."""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
import uuid

from timing import best, table

import boucle
from boucle.core.where import field
from boucle.ledger import runs

RUNS, CALLS, POINTS = 500, 20_000, 100_000


def params(i: int) -> dict[str, str]:
    return {f"p{j}": str((i * 31 + j * 7) % 10) for j in range(10)}


def metrics(i: int) -> dict[str, float]:
    return {f"m{j}": ((i * 7919 + j * 104729) % 100003) / 100003 for j in range(10)}


def plain_sqlite(folder: str) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{folder}/plain.db", isolation_level=None)
    connection.executescript(
        """pragma journal_mode=wal; pragma synchronous=normal;
        create table runs(id text primary key, name text, status text, started real, ended real);
        create table params(run text, name text, value text, primary key(run, name)) without rowid;
        create table latest(run text, name text, value real, primary key(run, name)) without rowid;
        create table points(run text, name text, step integer, value real, time real);
        create index by_param on params(name, value); create index by_latest on latest(name, value);"""
    )
    return connection


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        ws = boucle.init(f"{folder}/ws")
        plain = plain_sqlite(folder)

        def ours() -> None:
            for i in range(RUNS):
                with boucle.track(ws, "bench", params=params(i)) as run:
                    run.log_metrics(metrics(i))

        def limit() -> None:
            for i in range(RUNS):
                run, now = uuid.uuid4().hex, time.time()
                plain.execute("begin immediate")
                plain.execute("insert into runs values(?,?,?,?,?)", (run, "bench", "finished", now, now))
                plain.executemany("insert into params values(?,?,?)", [(run, k, v) for k, v in params(i).items()])
                plain.executemany("insert into latest values(?,?,?)", [(run, k, v) for k, v in metrics(i).items()])
                plain.executemany(
                    "insert into points values(?,?,0,?,?)", [(run, k, v, now) for k, v in metrics(i).items()]
                )
                plain.execute("commit")

        rows.append(("a run, 10 params + 10 metrics, committed", best(ours, RUNS), best(limit, RUNS)))

        descriptor = os.open(f"{folder}/plain.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        with boucle.track(ws, "calls") as run:

            def calls() -> None:
                for i in range(CALLS):
                    run.log_metric("loss", i * 0.5, i)

            def writes() -> None:
                for i in range(CALLS):
                    os.write(descriptor, f"{i} {i * 0.5}\n".encode())

            rows.append(("one metric call, crash-safe", best(calls, CALLS), best(writes, CALLS)))

        with boucle.track(ws, "many") as many:

            def batched() -> None:
                for start in range(0, POINTS, 10):
                    many.log_metrics({f"m{j}": 0.5 * start for j in range(10)}, start)

            rows.append(("a point, ten to a call", best(batched, POINTS, rounds=1), None))
        record = many.record
        assert sum(len(p) for p in runs.points(ws, record)) == POINTS
        rows.append(("a point read back", best(lambda: runs.points(ws, record), POINTS), None))
        search = (field("params.p1") == "3") & (field("metrics.m3") > 0.5)

        def plain_search() -> None:
            plain.execute(
                "select l.run from latest l join params p on p.run=l.run and p.name='p1' and p.value='3' "
                "where l.name='m3' and l.value>0.5 order by l.value desc limit 10"
            ).fetchall()

        found = best(lambda: runs.find(ws, search, order=["-metrics.m3"], limit=10), 1, rounds=30)
        rows.append((f"search, order, top 10 of {RUNS * 3:,} runs", found, best(plain_search, 1, rounds=30)))
        table("Tracking, SQLite store, WAL, synchronous=normal", rows)


if __name__ == "__main__":
    main()
