"""The demo: the whole journey in one command, on data that comes with scikit-learn or on a file of yours."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from boucle.faces.cli import out


def add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", metavar="FILE", help="your own data (default: breast-cancer screening, 569 rows)")
    parser.add_argument("--target", metavar="COLUMN", help="the column to predict, with --data")
    parser.add_argument("--name", help="of the model (default: screening, or the file's name)")
    parser.add_argument("--folder", help="of the project (default: demo/NAME)")
    parser.add_argument("--stop", action="store_true", help="stop the services at the end")
    parser.add_argument("--no-loop", action="store_true", help="leave out the second half, where the loop closes")
    parser.set_defaults(call=demo)


class _Clock:
    """Says what each part of the journey did, and remembers how long it took."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.parts: list[dict[str, Any]] = []

    @contextmanager
    def part(self, name: str) -> Iterator[list[str]]:
        said: list[str] = []
        began = time.perf_counter()
        if not self.quiet:
            out.line(f"\n{name}", "bold")
        yield said
        seconds = time.perf_counter() - began
        self.parts.append({"part": name, "seconds": round(seconds, 3), "result": "; ".join(said)})
        if not self.quiet:
            for text in said:
                out.line(f"  {text}")


def demo(args: argparse.Namespace) -> int:
    """Ingest, validate, train, prove, register, gate, promote, deploy, ask, and trace one answer back. Then the loop."""
    from boucle.core.errors import Invalid

    if bool(args.data) != bool(args.target):
        raise Invalid("--data and --target go together", expected="both, or neither for the built-in data")
    name = args.name or (_name_of(args.data) if args.data else "screening")
    folder = Path(args.folder or Path(args.project or ".", "demo", name))
    clock = _Clock(args.json)
    result = _journey(args, name, folder, clock)
    closes = not args.data and not args.no_loop
    looped = _loop(args, folder.parent / "digits", clock) if closes else {}
    if args.json:
        out.as_json({**result, **({"loop": looped} if looped else {}), "parts": clock.parts})
        return _verdict(looped)
    out.line("\nThe journey", "bold")
    out.table([{"part": p["part"], "took": out.took(p["seconds"]), "result": p["result"]} for p in clock.parts])
    if looped:
        out.line("\nThe loop", "bold")
        out.facts(_told(looped))
    out.line(f"\nService  {result['url']}   (a page to try it, /openapi.json, /metrics)", "green")
    out.line(f"Ask it   curl -s {result['url']}/predict -H 'Content-Type: application/json' -d @{result['sample']}")
    # Run by make, the program lies in a virtual environment that the shell does not know.
    program = "boucle" if shutil.which("boucle") else sys.argv[0]
    out.line(f"Project  {folder}")
    out.line(f"Trace    {program} why prediction:{result['prediction']} -C {folder}")
    if args.stop:
        out.line("The service is stopped.")
    else:
        out.line(f"Stop it  {program} stop {name} -C {folder}", "dim")
        if looped:
            out.line(
                f"The loop {program} watch digits -C {folder.parent / 'digits'}   (also: rollout show, kpi, alerts)"
            )
    return _verdict(looped)


def _verdict(looped: dict[str, Any]) -> int:
    """The demo fails when a request was lost."""
    return 1 if looped.get("lost") else 0


def _told(looped: dict[str, Any]) -> dict[str, str]:
    return {
        "digits asked": f"{looped['asked']:,}, {looped['lost']} lost",
        "shift to detection": out.took(looped["detected_seconds"]),
        "shift to recovery": out.took(looped["recovered_seconds"]),
        "right before": f"{looped['score_before']:.1%}",
        "right while it drifted": f"{looped['score_drifted']:.1%}",
        "right after": f"{looped['score_after']:.1%} (digits that no model had seen)",
        "sabotaged candidate": f"{looped['sabotaged']} rolled back: {looped['sabotaged_said']}",
    }


def _loop(args: argparse.Namespace, folder: Path, clock: _Clock) -> dict[str, Any]:
    import boucle.workspace
    from boucle.faces.cli import demo_data, demo_loop
    from boucle.faces.cli.begin import begin
    from boucle.flow.execute import execute
    from boucle.flow.load import load
    from boucle.ledger import models
    from boucle.ops.deploy import deploy, stop

    with clock.part("the loop: learn from digits that lean one way") as said:
        if (folder / "boucle.toml").is_file() and demo_loop.SETTINGS in (folder / "boucle.toml").read_text("utf-8"):
            _discard(folder)  # the story has one beginning
        found = demo_loop.groups()
        demo_loop.write(found.train, folder.parent / "digits.csv")
        begin(demo_loop.NAME, folder.parent / "digits.csv", demo_loop.TARGET, folder).ws.close()
        with (folder / "boucle.toml").open("a", encoding="utf-8") as file:
            file.write(demo_loop.SETTINGS)
        ws = boucle.workspace.open(folder)
        pipeline, arguments = load(ws.settings, demo_loop.NAME)
        model = execute(ws, pipeline, arguments).result
        for stage in ("staging", "production"):
            models.advance(ws, model.key, stage, reason="demo")
        service = deploy(ws, model.key, reason="demo")
        said.append(f"{service.key} serves {model.key}: {model.description}")

    def say(text: str) -> None:
        if not args.json:
            out.line(f"  {text}")

    with clock.part("the loop: it drifts, relearns, and replaces itself") as said:
        looped = demo_loop.loop(ws, service.url, found, say)
        said.append(f"{looped['winner']} won, {looped['sabotaged']} did not; {looped['lost']} requests lost")
    with clock.part("the data: what changed, and a copy elsewhere") as said:
        said.append(demo_data.changed(ws, demo_loop.NAME))
        said.append(demo_data.copied(ws, folder.parent / "remote", folder.parent / "elsewhere"))
    if args.stop:
        stop(ws, demo_loop.NAME, reason="end of the demo")
    return {**looped, "project": str(folder)}


def _discard(folder: Path) -> None:
    import boucle.workspace
    from boucle.core.records import Service
    from boucle.core.where import field
    from boucle.ops.deploy import stop
    from boucle.ops.host import LIVE

    with boucle.workspace.open(folder) as ws:
        for name in {s.name for s in ws.store.find(Service, field("status").within(LIVE))}:
            stop(ws, name, reason="the demo begins anew")
    shutil.rmtree(folder)


def _name_of(file: str) -> str:
    import re

    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(file).name.split(".")[0]).strip("-._").lower() or "demo"


def _built_in(folder: Path) -> Path:
    """scikit-learn's breast-cancer table as a CSV with readable labels (Wisconsin Diagnostic Breast Cancer, 569 rows)."""
    from sklearn.datasets import load_breast_cancer

    found = load_breast_cancer(as_frame=True)
    frame = found.frame.rename(columns=lambda c: c.replace(" ", "_"))
    frame["diagnosis"] = [str(found.target_names[t]) for t in frame.pop("target")]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tumours.csv"
    frame.to_csv(path, index=False)
    return path


def _journey(args: argparse.Namespace, name: str, folder: Path, clock: _Clock) -> dict[str, Any]:
    import boucle.workspace
    from boucle.core.errors import Refused
    from boucle.data.ingest import ingest
    from boucle.data.validate import expectations, statistics, validate
    from boucle.faces.cli.begin import begin
    from boucle.faces.cli.live import Live
    from boucle.flow.execute import execute
    from boucle.flow.load import load
    from boucle.ledger import datasets, lineage, services
    from boucle.ledger import models as ledger
    from boucle.ops import deploy as ops
    from boucle.ops.ask import predict
    from boucle.ops.host import settle

    with clock.part("ingest") as said:
        source = Path(args.data).resolve() if args.data else _built_in(folder.parent)
        target = args.target or "diagnosis"
        if (folder / "boucle.toml").is_file():
            ws = boucle.workspace.open(folder)
            data_name = source.name.split(".")[0] if not args.data else _dataset_of(ws, name)
            taken = ingest(ws, source, data_name)
            dataset, fresh = taken.dataset, taken.new
        else:
            begun = begin(name, source, target, folder)
            ws, dataset, fresh = begun.ws, begun.dataset, True
        said.append(
            f"{dataset.key}: {dataset.rows:,} rows x {len(dataset.schema['columns'])} columns"
            + ("" if fresh else " (same content as before: reused)")
        )
    with clock.part("validate") as said:
        verdicts = validate(ws, dataset.key, expectations(statistics(ws, dataset.key)))
        failed = [v for v in verdicts if v.status == "fail"]
        said.append(f"{len(verdicts) - len(failed)} of {len(verdicts)} checks pass")
        said += [f"{v.check}: {v.summary}" for v in failed]
    with clock.part("train, evaluate, package, prove, register") as said:
        pipeline, arguments = load(ws.settings, name)
        with Live(quiet=args.json) as live:
            done = execute(ws, pipeline, arguments, listen=live)
        model = done.result
        said.append(f"{out.many(len(done.outcomes) - done.reused, 'step')} run, {done.reused} reused")
        said.append(f"{model.key}: {model.description}")
    for stage in ("staging", "production"):
        with clock.part(f"promote to {stage}") as said:
            now = ledger.resolve(ws, model.key)
            if now.stage in (stage, "production"):
                said.append(f"{now.key} is in {now.stage} already")
                continue
            try:
                moved = ledger.advance(ws, now.key, stage, reason="demo")
                said.append(
                    f"{now.key}: {moved.before} -> {stage}"
                    + (f", {moved.replaced.key} archived" if moved.replaced else "")
                )
            except Refused as error:
                said.append(error.what)
    with clock.part("deploy") as said:
        settle(ws)
        running = services.current(ws, name)
        chosen = ledger.resolve(ws, f"{name}@production")
        if running is not None and running.digest == chosen.digest:
            service = running
            said.append(f"{service.key} serves {service.model} already")
        else:
            service = ops.deploy(ws, f"{name}@production", reason="demo")
            said.append(f"{service.key} serves {service.model}, its answers equal to the golden ones")
    with clock.part("ask over HTTP") as said:
        sample_file = Path(service.folder) / "bundle" / "sample.json"
        rows = json.loads(sample_file.read_text(encoding="utf-8"))
        answers = predict(ws, service, rows)
        said.append(f"{len(answers)} answers, the first: {answers[0]['prediction']}" + _share(answers[0]))
    with clock.part("trace one answer back") as said:
        node = lineage.why(ws, f"prediction:{answers[0]['id']}")
        if not args.json:
            out.tree(node)
        sources = [n.ref for n in node.flat() if n.ref.startswith("dataset:")]
        said.append(f"prediction -> {service} -> model:{service.model} -> {', '.join(dict.fromkeys(sources))}")
    if args.stop:
        ops.stop(ws, service.key, reason="end of the demo")
    return {
        "project": str(folder), "dataset": datasets.resolve(ws, dataset.key).key, "model": model.key, "metrics": model.metrics,
        "service": service.key, "url": service.url, "prediction": answers[0]["id"], "reused": done.reused,
        "steps": len(done.outcomes), "sample": str(sample_file), "lineage": node.to_json(),
    }  # fmt: skip


def _dataset_of(ws: Any, name: str) -> str:
    from boucle.core.refs import Ref
    from boucle.flow.load import entries

    return Ref.parse(str(entries(ws.settings)[name].arguments["data"]), "dataset").name


def _share(answer: dict[str, Any]) -> str:
    shares = answer.get("probabilities")
    return f" ({max(shares.values()):.1%})" if shares else ""
