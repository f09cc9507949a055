"""Commands on pipelines and runs: plan, run, runs."""

from __future__ import annotations

import argparse
import json
from typing import Any

from boucle.faces.cli import out
from boucle.faces.cli.here import opened


def add_plan(parser: argparse.ArgumentParser) -> None:
    _pipeline_arguments(parser)
    parser.set_defaults(call=plan)


def add_run(parser: argparse.ArgumentParser) -> None:
    _pipeline_arguments(parser)
    parser.add_argument("--explain", "--dry-run", action="store_true", help="say what would run and why, run nothing")
    parser.set_defaults(call=run)


def _pipeline_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pipeline", nargs="?", default="", help="its name in boucle.toml, or module:function")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="an argument; VALUE is JSON or text"
    )
    parser.add_argument(
        "--force", action="append", default=[], metavar="STEP", help="run this step anyway; '*' for all"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random generators (default 0)")


def add_runs(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    listing = verbs.add_parser("list", help="the newest runs")
    listing.add_argument("--name", help="only of this pipeline or run")
    listing.add_argument("--status", help="only in this status")
    listing.add_argument(
        "--where", action="append", default=[], metavar="CONDITION", help="such as metrics.auc>0.9 or params.depth=3"
    )
    listing.add_argument(
        "--order", default="started", help="a field, such as metrics.auc, largest first (default started)"
    )
    listing.add_argument("--ascending", action="store_true", help="smallest first")
    listing.add_argument("--limit", type=int, default=20, help="how many (default 20)")
    listing.add_argument("--steps", action="store_true", help="steps of pipelines too")
    listing.set_defaults(call=runs_list)
    showing = verbs.add_parser("show", help="one run, with its log")
    showing.add_argument("run", help="id, the start of one, or a name for the newest of it")
    showing.set_defaults(call=runs_show)
    comparing = verbs.add_parser("compare", help="runs side by side")
    comparing.add_argument("runs", nargs="+", help="ids or names")
    comparing.add_argument("--plot", metavar="FILE", help="write a plot of the metrics to FILE (.html, .png or .svg)")
    comparing.set_defaults(call=runs_compare)


def _load(args: argparse.Namespace) -> tuple[Any, Any, dict[str, Any]]:
    from boucle.core.errors import Invalid
    from boucle.flow.load import load

    ws = opened(args)
    pipeline, arguments = load(ws.settings, args.pipeline)
    for given in args.set:
        name, equals, text = given.partition("=")
        if not equals:
            raise Invalid(f"--set {given!r}", expected="NAME=VALUE")
        try:
            arguments[name] = json.loads(text)
        except ValueError:
            arguments[name] = text
    return ws, pipeline, arguments


def plan(args: argparse.Namespace) -> int:
    """What would run, and why."""
    from boucle.flow.plan import plan as make_plan

    ws, pipeline, arguments = _load(args)
    made = make_plan(ws, pipeline.trace(arguments), force=frozenset(args.force), seed=args.seed)
    if args.json:
        out.as_json(made.to_json())
        return 0
    out.line(f"{made.pipeline}({', '.join(f'{k}={v}' for k, v in made.inputs.items())})", "bold")
    out.table(
        [
            {
                "step": s.label + (f" x{s.items}" if s.items > 1 else ""),
                "action": s.action if not 0 < s.reused < s.items else f"run {s.items - s.reused}, reuse {s.reused}",
                "why": s.why,
            }
            for s in made.steps
        ]
    )
    return 0


def run(args: argparse.Namespace) -> int:
    """Execute a pipeline, with live progress."""
    if args.explain:
        return plan(args)
    from boucle.core.records import Record
    from boucle.faces.cli.live import Live
    from boucle.flow.execute import execute

    ws, pipeline, arguments = _load(args)
    with Live(quiet=args.json) as live:
        done = execute(ws, pipeline, arguments, force=frozenset(args.force), listen=live, seed=args.seed)
    result = str(done.result) if isinstance(done.result, Record) else done.result
    if args.json:
        steps = [
            {"step": o.label, "status": o.status, "run": o.run, "why": o.why, "seconds": o.seconds}
            for o in done.outcomes
        ]
        out.as_json({"run": done.run.id, "status": done.run.status, "steps": steps, "result": result})
        return 0
    seconds = out.took(done.run.ended - done.run.started)
    fresh = len(done.outcomes) - done.reused
    out.line(f"run {done.run.id} finished in {seconds}: {out.many(fresh, 'step')} run, {done.reused} reused", "bold")
    if isinstance(done.result, Record):
        out.line(f"made {result}")
    elif isinstance(result, str | int | float):
        out.line(f"result {result}")
    return 0


def _row(run: Any) -> dict[str, Any]:
    return {
        "id": run.id, "name": run.name, "status": run.status, "started": out.when(run.started),
        "seconds": round(max(0.0, run.ended - run.started), 3), "metrics": run.metrics, "params": run.params,
    }  # fmt: skip


def runs_list(args: argparse.Namespace) -> int:
    """The newest runs that match."""
    from boucle.core.where import field, read
    from boucle.ledger import runs

    ws = opened(args)
    conditions = [read(text) for text in args.where]
    if args.name:
        conditions.append(field("name") == args.name)
    if args.status:
        conditions.append(field("status") == args.status)
    where: Any = None
    for condition in conditions:
        where = condition if where is None else where & condition
    found = runs.find(
        ws, where, order=[args.order if args.ascending else f"-{args.order}"], limit=args.limit, steps=args.steps
    )
    if args.json:
        out.as_json([_row(r) for r in found])
    else:
        out.table([{k: v for k, v in _row(r).items() if k != "params"} for r in found], "no runs yet: boucle run")
    return 0


def runs_show(args: argparse.Namespace) -> int:
    """One run: facts, steps, metrics, log."""
    from boucle.core.where import field
    from boucle.faces.cli.models import show_record
    from boucle.ledger import runs

    ws = opened(args)
    found = runs.get(ws, args.run)
    steps = runs.find(ws, field("parent") == found.id, order=["started"], steps=True)
    log = ws.blobs.get(found.log).decode() if found.log and ws.blobs.has(found.log) else ""
    if args.json:
        out.as_json({**show_record(found), "steps": [_row(s) for s in steps], "log": log})
        return 0
    out.facts({k: v for k, v in show_record(found).items() if k not in ("inputs", "outputs", "log")})
    if steps:
        out.line()
        out.table(
            [{k: v for k, v in _row(s).items() if k in ("name", "status", "seconds", "metrics", "id")} for s in steps]
        )
    if log:
        out.line()
        out.line(log.rstrip())
    return 0


def runs_compare(args: argparse.Namespace) -> int:
    """Runs side by side, as a table and, when asked, as a plot."""
    from boucle.ledger import runs

    ws = opened(args)
    found = [runs.get(ws, r) for r in args.runs]
    compared = runs.compare(found)
    if args.plot:
        from boucle.faces.cli.plot import compare as plot

        plot(ws, found, args.plot)
    if args.json:
        out.as_json(compared)
        return 0
    names = [f"{r['name']} {r['id'][-6:]}" for r in compared["runs"]]
    rows = [{"": "status", **{n: r["status"] for n, r in zip(names, compared["runs"], strict=True)}}]
    for kind in ("params", "metrics"):
        rows += [{"": name, **dict(zip(names, values, strict=True))} for name, values in compared[kind].items()]
    out.table(rows)
    if compared["same"]:
        out.line(f"the same in all: {out.cell(compared['same'])}", "dim")
    if args.plot:
        out.line(f"plot written to {args.plot}")
    return 0
