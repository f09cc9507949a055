"""Pipelines: trivial steps in a chain and fanned out, first and cached; beside plain calls with one SQLite row each."""

from __future__ import annotations

import json
import sqlite3
import tempfile
import time
from functools import partial
from hashlib import blake2b

from timing import best, table

import boucle
from boucle import execute, pipeline, step
from boucle.flow.step import Pipeline

STEPS = 1000


@step
def increase(x: int) -> int:
    return x + 1


@step
def double(x: int) -> int:
    return 2 * x


@step
def total(numbers: list) -> int:
    return sum(numbers)


@pipeline
def chain(n: int) -> int:
    x: int = 0
    for _ in range(n):
        x = increase(x)
    return x


@pipeline
def fan(n: int) -> int:
    return total(double.map(list(range(n))))


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        plain = sqlite3.connect(f"{folder}/plain.db", isolation_level=None)
        plain.executescript(
            """pragma journal_mode=wal; pragma synchronous=normal;
            create table steps(key blob primary key, name text, started real, ended real, out text) without rowid;"""
        )

        def one(name: str, code: bytes, x: int, compute: int) -> int:
            key = blake2b(code + json.dumps(x).encode(), digest_size=16).digest()
            known = plain.execute("select out from steps where key=?", (key,)).fetchone()
            if known:
                return int(json.loads(known[0]))
            now = time.time()
            plain.execute("insert into steps values(?,?,?,?,?)", (key, name, now, time.time(), json.dumps(compute)))
            return compute

        def plain_chain() -> None:
            x = 0
            for _ in range(STEPS):
                x = one("increase", b"increase", x, x + 1)

        def plain_fan() -> None:
            for i in range(STEPS):
                one("double", b"double", i, 2 * i)

        for body, limit in ((chain, plain_chain), (fan, plain_fan)):
            ws = boucle.init(f"{folder}/{body.name}")
            execute(ws, fan, {"n": 1})  # a process looks at its environment and code once, whatever it runs
            first, floor = best(partial(run, ws, body), STEPS, 1), best(limit, STEPS, 1)
            again, floor_again = best(partial(run, ws, body), STEPS), best(limit, STEPS)
            rows.append((f"{body.name}: a step, its row and edges", first, floor))
            rows.append((f"{body.name}: a step used again", again, floor_again))
        table(f"Pipelines of {STEPS} trivial steps", rows)


def run(ws: boucle.Workspace, body: Pipeline) -> None:
    done = execute(ws, body, {"n": STEPS})
    assert done.result == (STEPS if body is chain else STEPS * (STEPS - 1))


if __name__ == "__main__":
    main()
