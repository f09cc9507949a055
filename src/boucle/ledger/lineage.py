"""Lineage: the graph that the recorded edges make, walked both ways.

`why` goes towards where something came from, `impact` towards all that it touched.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from boucle.core import predictions
from boucle.core.errors import Invalid, NotFound
from boucle.core.records import RECORDS, Alert, Artifact, Code, Dataset, Model, Record, Rollout, Run, Service, Verdict
from boucle.core.refs import KINDS, Ref
from boucle.core.where import field as column
from boucle.ledger import recording

if TYPE_CHECKING:
    from boucle.workspace import Workspace

R = TypeVar("R", bound=Record)

SHORT = 8  # characters at the end of an id, which tell things apart as the start does not


@dataclass(frozen=True, slots=True)
class Node:
    """A thing in a lineage tree: its reference, how it is tied to the one above, facts to show, and what lies beyond."""

    ref: str
    relation: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    children: tuple[Node, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "ref": self.ref,
            **({"relation": self.relation} if self.relation else {}),
            "facts": self.facts,
            "children": [c.to_json() for c in self.children],
        }

    def flat(self) -> Iterator[Node]:
        """This node and all below it."""
        yield self
        for child in self.children:
            yield from child.flat()


def why(ws: Workspace, ref: str) -> Node:
    """Where something came from: a prediction, model, dataset, run, artifact or service, down to data, code and
    environment. Raises `NotFound`."""
    kind, key = locate(ws, ref)
    if kind == "prediction":
        return _why_prediction(ws, key)
    return _up(ws, f"{kind}:{key}", "", set())


def impact(ws: Workspace, ref: str) -> Node:
    """What something touched: a dataset, run, model, artifact, `commit:SHA` or `package:NAME==VERSION`, down to the
    services that run on it and how many predictions they gave. Raises `NotFound`."""
    head, _, rest = ref.partition(":")
    if head in ("commit", "package") and rest:
        runs = _runs_of_commit(ws, rest) if head == "commit" else _runs_with_package(ws, rest)
        if not runs:
            raise NotFound(f"no run knows {head} {rest!r}", expected="one that a run was made with", fix="boucle runs")
        seen: set[str] = set()
        children = tuple(
            c for r in runs if (c := _down(ws, f"run:{r.id}", "ran with" if head == "package" else "ran", seen))
        )
        return Node(ref, "", {"runs": len(runs)}, children)
    kind, key = locate(ws, ref)
    if kind == "prediction":
        raise Invalid(
            "a prediction has no effect that is known here",
            expected="a dataset, commit, package or model",
            fix=f"boucle why {ref}",
        )
    node = _down(ws, f"{kind}:{key}", "", set())
    assert node is not None
    return node


def locate(ws: Workspace, ref: str) -> tuple[str, str]:
    """The kind and exact key of what a reference names, whatever its form; the kind may be left out where only one fits."""
    from boucle.ledger import datasets, models, runs, services

    kind, sep, _ = ref.partition(":")
    if sep and kind not in KINDS:
        raise NotFound.named("kind of thing", kind, KINDS)
    looks = {
        "dataset": lambda r: datasets.resolve(ws, r).key,
        "model": lambda r: models.resolve(ws, r).key,
        "run": lambda r: runs.get(ws, r).key,
        "service": lambda r: services.resolve(ws, r).key,
        "artifact": lambda r: _by_digest(ws, Artifact, Ref.parse(r, "artifact").name),
        "code": lambda r: _by_digest(ws, Code, Ref.parse(r, "code").name),
        "prediction": lambda r: _prediction_id(ws, Ref.parse(r, "prediction").name),
        "rollout": lambda r: by_id(ws, Rollout, Ref.parse(r, "rollout").name).key,
        "verdict": lambda r: by_id(ws, Verdict, Ref.parse(r, "verdict").name).key,
        "alert": lambda r: by_id(ws, Alert, Ref.parse(r, "alert").name).key,
    }
    if sep:
        if kind in looks:
            return kind, looks[kind](ref)
        parsed = Ref.parse(ref)
        if ws.store.get(RECORDS[kind], parsed.name) is None:
            raise NotFound(f"no {kind} {parsed.name}", expected="its id")
        return kind, parsed.name
    found = []
    for name in ("model", "dataset", "service", "run", "prediction", "artifact"):
        try:
            found.append((name, looks[name](ref)))
        except (NotFound, Invalid):
            continue
        if name == "service" and len(found) > 1:
            # A service usually has the name of its model, and then the model is meant.
            found.pop()
    if not found:
        known = {m.name for m in ws.store.find(Model)} | {d.name for d in ws.store.find(Dataset)}
        raise NotFound.named("model, dataset, service, run or prediction", ref.partition("@")[0], known)
    if len(found) > 1:
        raise Invalid(
            f"{ref!r} is the name of more than one thing",
            expected="one of " + ", ".join(f"{k}:{ref}" for k, _ in found),
        )
    return found[0]


def by_id(ws: Workspace, kind: type[R], id: str, *, fix: str = "") -> R:
    """A rollout, verdict or alert by its id, or by enough of its start or end, which tells them apart sooner. Raises `NotFound`,
    and `Invalid` when it fits several."""
    id = id.upper()
    found = ws.store.get(kind, id)
    if found is not None:
        return found
    part = ws.store.find(kind, column("id").contains(id)) if id else []
    fitting = [r for r in part if r.key.endswith(id)] or [r for r in part if r.key.startswith(id)]
    if len(fitting) > 1:
        raise Invalid(f"{id!r} is part of the id of more than one {kind.KIND}", expected="more of the id")
    if not fitting:
        recent = ws.store.find(kind, order=["-id"], limit=50)
        raise NotFound.named(kind.KIND, id, {r.key[-SHORT:] for r in recent}, fix=fix)
    return fitting[0]


def _by_digest(ws: Workspace, kind: type[Record], start: str) -> str:
    found = ws.store.find(kind, column("digest").starts(start.removeprefix("sha")), limit=2) if len(start) >= 4 else []
    if len(found) != 1:
        raise NotFound(f"no single {kind.KIND} begins with {start!r}", expected="its digest, or enough of the start")
    return found[0].key


def log_folders(ws: Workspace) -> Iterator[tuple[Service, Path]]:
    """The prediction log of every revision there was."""
    for service in ws.store.find(Service, order=["name", "-revision"]):
        yield service, Path(service.folder) / "predictions"


def _prediction_id(ws: Workspace, name: str) -> str:
    _prediction(ws, name)
    return name


def _prediction(ws: Workspace, name: str) -> tuple[dict[str, Any], Service]:
    for service, folder in log_folders(ws):
        if folder.is_dir() and (record := predictions.find(folder, name)) is not None:
            return record, service
    raise NotFound(
        f"no prediction {name}", expected="an id that a service answered with", fix="boucle services lists the services"
    )


def _why_prediction(ws: Workspace, name: str) -> Node:
    record, service = _prediction(ws, name)
    shown: dict[str, Any] = {k: record[k] for k in ("time", "inputs", "output", "latency_us", "digest") if k in record}
    return Node(f"prediction:{name}", "", shown, (_up(ws, str(service), "given by", set()),))


def _get(ws: Workspace, ref: str) -> Any:
    kind, _, key = ref.partition(":")
    return ws.store.get(RECORDS[kind], key) if kind in RECORDS else None


def _up(ws: Workspace, ref: str, relation: str, seen: set[str]) -> Node:
    """The tree towards the origins; what was shown before is named again but not unfolded again. A step's run is shown as
    part of its pipeline's run, whose code and environment are what matters."""
    record = _get(ws, ref)
    facts = _facts(record)
    if ref in seen:
        return Node(ref, relation, facts)
    seen.add(ref)
    children: list[Node] = []

    def add(other: str, how: str) -> None:
        children.append(_up(ws, other, how, seen))

    match record:
        case Service():
            add(f"model:{record.model}", "serves")
        case Model():
            for role, how in (("trained_on", "trained on"), ("tested_on", "tested on")):
                for edge in ws.store.edges(source=ref, relation=role):
                    add(edge.target, how)
            if record.run:
                add(f"run:{record.run}", "made by")
            for edge in ws.store.edges(source=ref, relation="derived"):
                if edge.target not in seen:
                    add(edge.target, "from")
        case Artifact():
            if record.run:
                add(f"run:{record.run}", "made by")
        case Dataset():
            if record.run:
                add(f"run:{record.run}", "made by")
            above = ws.store.edges(source=ref, relation="derived")
            for edge in above:
                add(edge.target, "from")
            earlier = _earlier(ws, ref)
            for run in dict.fromkeys(d.run for d in earlier if d.run and d.run != record.run):
                add(f"run:{run}", "made by")
            read = [] if record.run or above else [record.source]
            read += [d.source for d in earlier if not d.run]
            children += [Node(f"source:{source}", "read from") for source in dict.fromkeys(read) if source]
        case Run():
            children += _run_origins(ws, record, seen)
    return Node(ref, relation, facts, tuple(children))


def _earlier(ws: Workspace, ref: str) -> list[Dataset]:
    """The versions whose rows a version holds too, the newest first. There may be thousands, one for each batch of a stream."""
    found: list[Dataset] = []
    while edges := ws.store.edges(source=ref, relation="continues"):
        ref = edges[0].target
        record = _get(ws, ref)
        if record is not None:
            found.append(record)
    return found


def _later(ws: Workspace, ref: str, seen: set[str]) -> list[str]:
    """The versions that hold the rows of a version too, the oldest first, up to one that was seen."""
    found: list[str] = []
    while edges := ws.store.edges(target=ref, relation="continues"):
        ref = edges[0].source
        if ref in seen:
            break
        found.append(ref)
    return found


def _run_origins(ws: Workspace, run: Run, seen: set[str]) -> list[Node]:
    out: list[Node] = []
    parent = _get(ws, f"run:{run.parent}") if run.parent else None
    if run.type == "step" and parent is not None:
        if str(parent) not in seen:
            seen.add(str(parent))
            out.append(Node(str(parent), "part of", _facts(parent), tuple(_code_and_environment(ws, parent))))
    else:
        out += _code_and_environment(ws, run)
    out += [_up(ws, source, "used", seen) for source in recording.datasets_above(ws, [str(run)])]
    return out


def _code_and_environment(ws: Workspace, run: Run) -> list[Node]:
    out = []
    if run.code:
        out.append(Node(f"code:{run.code[:12]}", "ran", _facts(ws.store.get(Code, run.code))))
    if run.environment and ws.blobs.has(run.environment):
        environment = json.loads(ws.blobs.get(run.environment))
        facts = {
            "python": environment["python"],
            "platform": environment["platform"],
            "packages": len(environment["packages"]),
        }
        out.append(Node(f"environment:{run.environment[:12]}", "in", facts))
    return out


def _facts(record: Any) -> dict[str, Any]:
    match record:
        case Dataset():
            counts = {"files": record.rows} if record.type == "files" else {"rows": record.rows}
            if record.type != "files":
                counts["columns"] = len(record.schema["columns"])
            return {
                **counts,
                "digest": record.digest[:12],
                "source": record.source,
            }
        case Model():
            return {"stage": record.stage, "task": record.task, "digest": record.digest[:12], "metrics": record.metrics}
        case Run():
            facts: dict[str, Any] = {
                "name": record.name,
                "type": record.type,
                "status": record.status,
                "actor": record.actor,
                "started": record.started,
            }
            if record.params:
                facts["params"] = record.params
            if record.metrics:
                facts["metrics"] = record.metrics
            return facts
        case Code():
            place = (
                {"commit": record.commit[:12], "branch": record.branch, "uncommitted changes": record.dirty}
                if record.commit
                else {"commit": "not in a git repository"}
            )
            return {"entry": record.entry, **place}
        case Service():
            return {"status": record.status, "url": record.url, "target": record.target}
        case Artifact():
            return {"name": record.name, "type": record.type, "rows": record.value.get("rows"), "size": record.size}
    return {}


# How an edge reads from its target's side, for those that lead towards effects.
_TAKEN = {
    "used": "used by", "trained_on": "trained", "tested_on": "tested", "derived": "led to", "serves": "served by",
    "ran": "ran in",
}  # fmt: skip


def _down(ws: Workspace, ref: str, relation: str, seen: set[str]) -> Node | None:
    """The tree towards the effects; each thing is shown where it is reached first."""
    if ref in seen:
        return None
    seen.add(ref)
    record = _get(ws, ref)
    onward = [(e.source, _TAKEN[e.relation]) for e in ws.store.edges(target=ref) if e.relation in _TAKEN]
    if isinstance(record, Run):
        onward += [(e.target, "made") for e in ws.store.edges(source=ref, relation="made")]
        onward += [(e.source, "step") for e in ws.store.edges(target=ref, relation="part_of")]
    children = [_down(ws, other, how, seen) for other, how in onward]
    if isinstance(record, Dataset):  # the last first, so that none stands below another
        later = [_down(ws, other, "continued by", seen) for other in reversed(_later(ws, ref, seen))]
        children += [*reversed(later), *_outside(ws, ref)]
    facts = _facts(record)
    if isinstance(record, Service):
        facts["predictions"] = predictions.count(Path(record.folder) / "predictions")
    return Node(ref, relation, facts, tuple(c for c in children if c is not None))


def _outside(ws: Workspace, ref: str) -> list[Node]:
    """Where a version went: tables it was written into, remotes it was pushed to."""
    found: dict[str, Node] = {}
    for event in ws.store.events(type="dataset.written", subject=ref):
        into = f"#{event.data['into']}" if event.data.get("into") else ""
        sink = f"sink:{event.data['to']}{into}"
        found[sink] = Node(sink, "written into", {"rows": event.data["rows"], "mode": event.data["mode"]})
    for event in ws.store.events(type="dataset.pushed", subject=ref):
        remote = f"remote:{event.data['remote']}"
        found[remote] = Node(remote, "pushed to")
    return list(found.values())


def condensed(node: Node) -> Node:
    """The same tree without artifacts and steps: what lies below them moves up."""

    def lifted(at: Node) -> list[Node]:
        below = [c for child in at.children for c in lifted(child)]
        if at.ref.startswith("artifact:") or at.facts.get("type") == "step":
            return [replace(c, relation="led to") for c in below]
        return [Node(at.ref, at.relation, at.facts, tuple(below))]

    return Node(node.ref, node.relation, node.facts, tuple(c for child in node.children for c in lifted(child)))


def touched(node: Node) -> dict[str, list[str]]:
    """What an impact tree holds, by kind, each once: the summary of the blast radius."""
    out: dict[str, list[str]] = {}
    for child in node.flat():
        kind = child.ref.partition(":")[0]
        if child.ref != node.ref and child.ref not in out.setdefault(kind, []):
            out[kind].append(child.ref)
    return {k: v for k, v in out.items() if v}


def _runs_of_commit(ws: Workspace, commit: str) -> list[Run]:
    codes = ws.store.find(Code, column("commit").starts(commit)) if len(commit) >= 4 else []
    found = [_get(ws, edge.source) for code in codes for edge in ws.store.edges(target=str(code), relation="ran")]
    return sorted((r for r in found if r is not None), key=lambda r: r.started)


def _runs_with_package(ws: Workspace, package: str) -> list[Run]:
    from boucle.ledger.environment import normal

    name, _, version = package.partition("==")
    matching = set()
    found = ws.store.find(Run, column("type") != "step", order=["started"])
    for digest in {r.environment for r in found if r.environment}:
        packages = json.loads(ws.blobs.get(digest))["packages"]
        if any(normal(p["name"]) == normal(name) and version in ("", p["version"]) for p in packages):
            matching.add(digest)
    return [r for r in found if r.environment in matching]
