"""Commands on models: models, show, history, promote, approve, rollback."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from boucle.faces.cli import out
from boucle.faces.cli.here import opened

_MOMENTS = ("created", "started", "ended", "time", "onset", "opened", "last", "acknowledged", "resolved")


def add_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", default="", help="only the versions of this model")
    parser.set_defaults(call=models)


def add_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "ref", help="model, dataset, service, run, ...: kind:name@version; @{yesterday} shows the stages then"
    )
    parser.set_defaults(call=show)


def add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="name@version, name@production, ...")
    parser.add_argument("folder", help="that does not exist yet")
    parser.set_defaults(call=export)


def add_history(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="of the model")
    parser.set_defaults(call=history)


def add_promote(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="name@version; without a version the newest")
    parser.add_argument("stage", help="staging, production, archived or none")
    parser.add_argument("--reason", default="", help="for the journal")
    parser.add_argument("--dry-run", action="store_true", help="say what the gate would say, change nothing")
    parser.set_defaults(call=promote)


def add_approve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="name@version")
    parser.add_argument("stage", help="that it may enter")
    parser.add_argument("--reason", default="", help="for the journal")
    parser.set_defaults(call=approve)


def add_rollback(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="of the model")
    parser.add_argument("--reason", default="", help="for the journal")
    parser.set_defaults(call=rollback)


def show_record(record: Any) -> dict[str, Any]:
    """A record as facts, times readable."""
    pairs = {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
    return {k: out.when(v) if k in _MOMENTS else v for k, v in pairs.items()}


def _row(model: Any) -> dict[str, Any]:
    return {
        "model": model.key, "stage": model.stage, "task": model.task, "metrics": model.metrics,
        "created": out.when(model.created), "by": model.actor, "digest": model.digest[:12],
    }  # fmt: skip


def models(args: argparse.Namespace) -> int:
    """All versions, newest first."""
    from boucle.ledger import models as ledger

    ws = opened(args)
    if args.name:
        ledger.resolve(ws, args.name)
    found = ledger.versions(ws, args.name)
    if args.json:
        out.as_json([_row(m) for m in found])
    else:
        rows = [{**_row(m), "metrics": dict(list(m.metrics.items())[:3])} for m in found]
        out.table(rows, "no models yet: boucle run")
    return 0


def show(args: argparse.Namespace) -> int:
    """One thing, whatever it is."""
    from boucle.core.records import RECORDS, Verdict
    from boucle.core.refs import Ref
    from boucle.core.where import field
    from boucle.ledger import lineage
    from boucle.ledger import models as ledger

    ws = opened(args)
    if "@{" in args.ref:
        ref = Ref.parse(args.ref, "" if ":" in args.ref.partition("@")[0] else "model")
        if ref.kind == "model":
            moment = ref.moment() or 0.0
            state = ledger.state_at(ws, ref.name, moment)
            ledger.resolve(ws, ref.at(""))
            if args.json:
                out.as_json({"model": ref.name, "at": out.when(moment), "stages": state})
            else:
                out.line(f"{ref.name} at {out.when(moment)} UTC", "bold")
                out.table([{"stage": s, "version": v} for s, v in state.items()], "no version was in any stage then")
            return 0
    kind, key = lineage.locate(ws, args.ref)
    if kind == "prediction":
        node = lineage.why(ws, args.ref)
        if args.json:
            out.as_json(node.facts)
        else:
            out.facts(node.facts)
        return 0
    record = ws.store.get(RECORDS[kind], key)
    pairs: dict[str, Any] = {"kind": kind, **show_record(record)}
    verdicts = ws.store.find(Verdict, field("subject") == str(record), order=["created"])
    if kind == "model":
        pairs |= _card(ws, record)
    if args.json:
        out.as_json({**pairs, "verdicts": [show_record(v) for v in verdicts]})
        return 0
    card = pairs.pop("card", "")
    columns = pairs.pop("input", [])
    if kind == "dataset":
        columns = pairs.pop("schema")["columns"]
    out.facts({k: v for k, v in pairs.items() if k not in ("manifest", "statistics", "value")})
    if columns:
        out.line()
        out.table([{k: c.get(k, "") for k in ("name", "type", "kind", "nullable")} for c in columns])
    if verdicts:
        out.line()
        out.table(
            [{"check": v.check, "status": v.status, "summary": v.summary, "at": out.when(v.created)} for v in verdicts]
        )
    if card:
        from rich.markdown import Markdown

        out.line()
        out.console().print(Markdown(card))
    return 0


def _card(ws: Any, model: Any) -> dict[str, Any]:
    from boucle.core.records import Artifact

    artifact = ws.store.get(Artifact, model.artifact)
    files = artifact.value["files"] if artifact else {}
    manifest = json.loads(ws.blobs.get(files["bundle.json"])) if "bundle.json" in files else {}
    return {
        "references": manifest.get("references", {}),
        "input": manifest.get("input", {}).get("columns", []),
        "size": artifact.size if artifact else 0,
        "card": ws.blobs.get(files["README.md"]).decode() if "README.md" in files else "",
    }


def export(args: argparse.Namespace) -> int:
    """The bundle, verified; all or nothing."""
    from boucle.ledger import bundles
    from boucle.ledger import models as ledger

    ws = opened(args)
    model = ledger.resolve(ws, args.model)
    bundle = bundles.materialise(ws, model, Path(args.folder))
    if args.json:
        out.as_json({"model": model.key, "folder": str(bundle.folder.resolve()), "digest": bundle.digest})
    else:
        out.line(f"{model.key} is in {args.folder}", "green")
    return 0


def history(args: argparse.Namespace) -> int:
    """Everything that happened to a model."""
    from boucle.ledger import models as ledger

    events = ledger.history(opened(args), args.name)
    if args.json:
        out.as_json([show_record(e) for e in events])
        return 0
    out.table(
        [
            {
                "at": out.when(e.time), "what": e.type, "version": e.subject.partition("@")[2],
                "move": f"{e.data['before']} -> {e.data['after']}" if "after" in e.data else e.data.get("stage", ""),
                "by": e.actor, "reason": e.reason,
            }
            for e in events
        ]
    )  # fmt: skip
    return 0


def promote(args: argparse.Namespace) -> int:
    """Through the gate, or not."""
    from boucle.ledger import gates
    from boucle.ledger import models as ledger

    ws = opened(args)
    if args.dry_run:
        model = ledger.resolve(ws, args.model)
        outcome = gates.judge_model(ws, model, args.stage)
        rows = [{"condition": c.name, "holds": c.holds, "said": c.said} for c in outcome.conditions]
        if args.json:
            out.as_json(
                {
                    "model": str(model),
                    "stage": args.stage,
                    "passes": outcome.verdict.status == "pass",
                    "conditions": rows,
                }
            )
        else:
            out.table(rows, "nothing is asked")
        return 0 if outcome.verdict.status == "pass" else 4
    moved = ledger.advance(ws, args.model, args.stage, reason=args.reason)
    if args.json:
        out.as_json(
            {
                "model": str(moved.model),
                "before": moved.before,
                "stage": moved.model.stage,
                "replaced": str(moved.replaced) if moved.replaced else None,
            }
        )
        return 0
    out.line(f"{moved.model.key}: {moved.before} -> {moved.model.stage}", "green")
    if moved.replaced:
        out.line(f"{moved.replaced.key} is {moved.replaced.stage} now")
    if moved.model.stage == "production":
        out.line(f"next: boucle deploy {moved.model.name}", "dim")
    return 0


def approve(args: argparse.Namespace) -> int:
    """A person's yes."""
    from boucle.ledger import models as ledger

    event = ledger.approve(opened(args), args.model, args.stage, reason=args.reason)
    if args.json:
        out.as_json(show_record(event))
    else:
        out.line(f"{event.subject} approved for {args.stage} by {event.actor}", "green")
    return 0


def rollback(args: argparse.Namespace) -> int:
    """Back to the version before."""
    from boucle.ledger import models as ledger

    moved = ledger.rollback(opened(args), args.name, reason=args.reason)
    if args.json:
        out.as_json({"model": str(moved.model), "stage": moved.model.stage, "replaced": str(moved.replaced)})
        return 0
    out.line(f"{moved.model.key} is in production again", "green")
    out.line(f"next: boucle deploy {moved.model.name}", "dim")
    return 0
