"""Plans: which steps of a pipeline must run, which results are used again, and why. Planning writes nothing.

A step's key is a digest over the code it reaches, the versions of the libraries it reaches, the interpreter, and the
content of its arguments. A result is used again only if a finished run has that key, what the step read by itself has not
changed, and the result is still there.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from boucle.core.errors import NotFound
from boucle.core.reach import Reached, reach, value_digest
from boucle.core.records import Dataset, Run
from boucle.core.schema import jsonable
from boucle.core.where import field as column
from boucle.flow.step import Graph, Node, Output, Source, Step, node_of, outputs_in, path_of
from boucle.flow.values import Result, Stored, composite, decode, encode, present
from boucle.ledger import datasets

if TYPE_CHECKING:
    from boucle.workspace import Workspace

INTERPRETER = f"{sys.implementation.cache_tag}"


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a call: its digest, and either what was kept, a dataset, or a plain value."""

    digest: str
    value: Any  # Stored, Dataset, or plain
    refs: tuple[str, ...] = ()  # for lineage


@dataclass(frozen=True, slots=True)
class Planned:
    """What will happen to one call, in words too."""

    label: str
    step: str
    action: str  # run, reuse, or wait: its inputs are not known before others have run
    why: str
    items: int = 1  # calls, when it is mapped over a list
    reused: int = 0
    seconds: float | None = None  # the last run of it took

    def to_json(self) -> dict[str, Any]:
        return {f: getattr(self, f) for f in self.__slots__}


@dataclass(frozen=True, slots=True)
class Plan:
    """What an execution would do now."""

    pipeline: str
    inputs: dict[str, str]
    steps: tuple[Planned, ...]

    def to_json(self) -> dict[str, Any]:
        return {"pipeline": self.pipeline, "inputs": self.inputs, "steps": [s.to_json() for s in self.steps]}


@dataclass(slots=True)
class Lookup:
    """Keys and hits against a workspace, remembering what is the same for a whole plan or execution."""

    ws: Workspace
    force: frozenset[str] = frozenset()
    seed: int = 0
    since: float = field(default_factory=time.time)  # what ran after it is part of the same execution
    reached: dict[int, Reached] = field(default_factory=dict)
    code: dict[int, str] = field(default_factory=dict)
    sources: dict[int, Argument] = field(default_factory=dict)
    earlier: dict[str, list[Run]] = field(default_factory=dict)  # step -> its last runs, to say what changed
    _literals: dict[Any, str] = field(default_factory=dict)

    def code_of(self, step: Step) -> str:
        """The digest of what the step's function reaches."""
        known = self.code.get(id(step))
        if known is None:
            self.reached[id(step)] = found = reach(step.function)
            known = self.code[id(step)] = found.digest
        return known

    def argument(self, value: Any, results: dict[int, Result]) -> Argument:
        """What a call gets for an argument; all nodes that it takes from must have their result in `results`."""
        if isinstance(value, Argument):
            return value
        if isinstance(value, Output):
            node = node_of(value)
            stored, refs = results[node.id].part(self.ws, path_of(value), node.mapped is not None)
            return Argument(stored.digest, stored, refs)
        if isinstance(value, Source):
            return self.source(value)
        if isinstance(value, list | tuple | dict) and any(True for _ in outputs_in(value)):
            whole: Any
            if isinstance(value, dict):
                whole = {k: self.argument(v, results) for k, v in value.items()}
                parts, keys = list(whole.values()), [value_digest(k) for k in whole]
            else:
                parts, keys = [self.argument(v, results) for v in value], []
                whole = parts if isinstance(value, list) else tuple(parts)
            listed = json.dumps([type(value).__name__, keys, [p.digest for p in parts]])
            return Argument(blake3(listed.encode()).hexdigest(), whole, tuple(r for p in parts for r in p.refs))
        if type(value) in (int, str, bool):
            literal = (type(value), value)
            digest = self._literals.get(literal) or self._literals.setdefault(literal, value_digest(value))
            return Argument(digest, value)
        return Argument(value_digest(value), value)

    def source(self, source: Source) -> Argument:
        """A data input: resolved to a version once, so that a whole execution sees the same."""
        known = self.sources.get(id(source))
        if known is None:
            if isinstance(source.data, str):
                dataset = datasets.resolve(self.ws, source.data)
                known = Argument(dataset.digest, dataset, (str(dataset),))
            elif isinstance(source.data, Dataset):
                known = Argument(source.data.digest, source.data, (str(source.data),))
            else:
                stored = encode(self.ws, source.data)
                known = Argument(stored.digest, stored, tuple(f"artifact:{a.digest}" for _, a in stored.artifacts()))
            self.sources[id(source)] = known
        return known

    def key(self, step: Step, arguments: dict[str, Argument]) -> str:
        """The key under which the result of this call is found again."""
        parts = [self.code_of(step), INTERPRETER, str(self.seed)]
        parts += [f"{name}={argument.digest}" for name, argument in sorted(arguments.items())]
        return blake3("\n".join(parts).encode()).hexdigest()

    def hit(self, step: Step, key: str) -> tuple[Run | None, str]:
        """The finished run whose result may be used, or None and why not."""
        if not step.cache:
            return None, "it is marked cache=False"
        if step.name in self.force or "*" in self.force:
            return None, "it was asked for with --force"
        found = [r for r in self.ws.store.find(Run, column("cache_key") == key) if r.status == "finished"]
        if not found:
            return None, ""
        run = max(found, key=lambda r: r.started)
        for asked, digest in run.reads.items():
            if _current(self.ws, asked) != digest:
                return None, f"{asked.removeprefix('file:')}, which it reads, has changed"
        if not present(self.ws, Stored.from_json(run.outputs)):
            return None, "its earlier result is no longer there"
        return run, f"nothing it depends on has changed since {run.id}"

    def difference(self, step: Step, arguments: dict[str, Argument]) -> str:
        """In words, what is different from the last finished run of this step."""
        before = self.earlier.get(step.name)
        if before is None:
            before = self.earlier[step.name] = self.ws.store.find(
                Run,
                (column("name") == step.name) & (column("type") == "step") & (column("status") == "finished")
                & (column("started") < self.since),
                order=["-started"], limit=40,
            )  # fmt: skip
        if not before:
            return "it has not run yet"
        now = {n: a.digest for n, a in arguments.items()}
        # Mapped steps have many last runs: the nearest one tells the least that changed.
        nearest = min(before, key=lambda r: _distance(r, now, self.code_of(step)))
        words = []
        if nearest.inputs.get("code") != self.code_of(step):
            parts = nearest.inputs.get("parts")
            if parts and self.ws.blobs.has(parts):
                words += self.reached[id(step)].changes(json.loads(self.ws.blobs.get(parts)))
            words = words or ["its code changed"]
        old = nearest.inputs.get("arguments", {})
        words += [f"input {n} changed" for n in sorted({*now, *old}) if now.get(n) != old.get(n)]
        if nearest.seed != self.seed:
            words.append(f"seed {nearest.seed} became {self.seed}")
        if nearest.inputs.get("interpreter") != INTERPRETER:
            words.append(f"Python {nearest.inputs.get('interpreter')} became {INTERPRETER}")
        return ", ".join(words) or "its earlier run cannot be used again"


def _distance(run: Run, now: dict[str, str], code: str) -> int:
    old: dict[str, str] = run.inputs.get("arguments", {})
    return sum(old.get(n) != d for n, d in now.items()) + int(run.inputs["code"] != code)


def _current(ws: Workspace, asked: str) -> str:
    """The digest that something read by a step has now; '' when it is gone."""
    if asked.startswith("file:"):
        path = Path(asked[5:])
        return file_digest(path) if path.is_file() else ""
    try:
        return datasets.resolve(ws, asked).digest
    except NotFound:
        return ""


def file_digest(path: Path) -> str:
    """The BLAKE3 digest of a file."""
    hasher = blake3(max_threads=blake3.AUTO)
    hasher.update_mmap(path)
    return str(hasher.hexdigest())


def calls(lookup: Lookup, node: Node, results: dict[int, Result]) -> list[dict[str, Any]]:
    """The arguments of each call of a node whose inputs are known: one, or one per item it is mapped over."""
    if node.mapped is None:
        return [node.arguments]
    items = node.arguments[node.mapped]
    if isinstance(items, Output):
        given = lookup.argument(items, results)
        # Each item by itself, so that one that changed does not make the others run again.
        if given.value.value["codec"] in ("list", "tuple", "named"):
            items = [items[i] for i in range(len(given.value.value["items"]))]
        else:
            items = [Argument(value_digest(item), item, given.refs) for item in decode(lookup.ws, given.value)]
    return [{**node.arguments, node.mapped: item} for item in items]


def plan(ws: Workspace, graph: Graph, *, force: frozenset[str] = frozenset(), seed: int = 0) -> Plan:
    """What executing a traced pipeline would do now, and why."""
    lookup = Lookup(ws, force, seed)
    results: dict[int, Result] = {}
    steps: list[Planned] = []
    for node in graph.nodes:
        waiting = [n.label for n in node.needs if n.id not in results]
        if waiting:
            lookup.code_of(node.step)
            steps.append(
                Planned(
                    node.label,
                    node.step.name,
                    "wait",
                    f"its input comes from {', '.join(waiting)}, which {'runs' if len(waiting) == 1 else 'run'} first",
                )
            )
            continue
        planned, result = _plan_node(lookup, node, results)
        steps.append(planned)
        if result is not None:
            results[node.id] = result
    inputs = {n: _said(lookup, graph.sources.get(n, v)) for n, v in graph.arguments.items()}
    return Plan(graph.name, inputs, tuple(steps))


def _said(lookup: Lookup, value: Any) -> str:
    if isinstance(value, Source):
        found = lookup.source(value).value
        return str(found) if isinstance(found, Dataset) else type(value.data).__name__
    return str(jsonable(value)) if isinstance(value, str | int | float | bool | list | None) else type(value).__name__


def _plan_node(lookup: Lookup, node: Node, results: dict[int, Result]) -> tuple[Planned, Result | None]:
    every = calls(lookup, node, results)
    kept: list[Stored] = []
    runs: list[str] = []
    whys: list[str] = []
    seconds = 0.0
    for call in every:
        arguments = {n: lookup.argument(v, results) for n, v in call.items()}
        run, why = lookup.hit(node.step, lookup.key(node.step, arguments))
        if run is not None:
            kept.append(Stored.from_json(run.outputs))
            runs.append(run.id)
            seconds += max(0.0, run.ended - run.started)
        else:
            why = why or lookup.difference(node.step, arguments)
        whys.append(why)
    if len(kept) == len(every):
        whole = kept[0] if node.mapped is None else composite("list", list(enumerate(kept)))
        why = whys[0] if len(set(whys)) == 1 or node.mapped is None else "nothing they depend on has changed"
        return Planned(node.label, node.step.name, "reuse", why, len(every), len(kept), seconds), Result(
            whole, tuple(runs)
        )
    fresh = [w for w in whys if not w.startswith("nothing ")]
    return Planned(node.label, node.step.name, "run", "; ".join(dict.fromkeys(fresh)), len(every), len(kept)), None
