"""Commands on services: deploy, services, stop, predict."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from boucle.faces.cli import out
from boucle.faces.cli.here import opened


def add_deploy(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="name for the version in production, or name@version")
    parser.add_argument("--name", default="", help="of the service (default: the model's)")
    parser.add_argument("--target", default="", help="where it runs (default: the setting)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (default: as before, or a free one)")
    parser.add_argument("--reason", default="", help="for the journal")
    parser.set_defaults(call=deploy)


def add_services(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help="revisions that were stopped too")
    parser.set_defaults(call=services)


def add_stop(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", help="name, or name@revision")
    parser.add_argument("--reason", default="", help="for the journal")
    parser.set_defaults(call=stop)


def add_predict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", help="name, or name@revision")
    parser.add_argument(
        "rows", nargs="?", default="-", help="JSON: a row or a list of rows, a file with them, or - for standard input"
    )
    parser.add_argument("--key", default="", help="who asks: the same key gets the same revision while several answer")
    parser.set_defaults(call=predict)


def _row(service: Any) -> dict[str, Any]:
    return {
        "service": service.key, "model": service.model, "status": service.status, "share": service.share,
        "shadow": service.shadow, "url": service.url, "target": service.target, "since": out.when(service.created),
    }  # fmt: skip


def _shown(service: Any) -> dict[str, Any]:
    row = _row(service)
    row["share"] = "shadow" if row.pop("shadow") else f"{100 * service.share:.3g} %" if service.share else ""
    return row


def deploy(args: argparse.Namespace) -> int:
    """Start, prove, take over."""
    from boucle.ops.deploy import deploy as start

    ws = opened(args)

    def listen(phase: str, seconds: float) -> None:
        if not args.json:
            out.line(f"+ {phase:<8} {out.took(seconds):>8}")

    service = start(
        ws, args.model, args.name, target=args.target, host=args.host, port=args.port, reason=args.reason, listen=listen
    )
    if args.json:
        out.as_json(_row(service))
        return 0
    out.line(f"{service.key} serves {service.model} at {service.url}", "green")
    sample = json.loads((Path(service.folder) / "bundle" / "sample.json").read_text(encoding="utf-8"))[0]
    body = json.dumps(sample, ensure_ascii=False).replace("'", "'\\''")
    out.line(f"curl -s {service.url}/predict -H 'Content-Type: application/json' -d '{body}'", "dim")
    return 0


def services(args: argparse.Namespace) -> int:
    """What runs, after a look at whether it really does; the newest revision where nothing does."""
    from boucle.core.records import Service
    from boucle.ops.host import LIVE, settle

    ws = opened(args)
    settle(ws)
    found = ws.store.find(Service, order=["name", "-revision"])
    if not args.all:
        live = [s for s in found if s.status in LIVE]
        running = {s.name for s in live}
        newest = {s.name: s for s in reversed(found) if s.name not in running}
        found = sorted([*live, *newest.values()], key=lambda s: (s.name, -s.revision))
    if args.json:
        out.as_json([_row(s) for s in found])
    else:
        out.table([_shown(s) for s in found], "no services yet: boucle deploy MODEL")
    return 0


def stop(args: argparse.Namespace) -> int:
    """Gracefully."""
    from boucle.ops.deploy import stop as end

    service = end(opened(args), args.service, reason=args.reason)
    if args.json:
        out.as_json(_row(service))
    else:
        out.line(f"{service.key} is stopped")
    return 0


def predict(args: argparse.Namespace) -> int:
    """Rows in, answers out."""
    from boucle.core.errors import Invalid
    from boucle.ops.ask import predict as ask

    text = args.rows
    if text == "-":
        text = sys.stdin.read()
    elif not text.lstrip().startswith(("{", "[")):
        try:
            text = Path(text).read_text(encoding="utf-8")
        except OSError as error:
            raise Invalid(
                f"cannot read {args.rows}: {error.strerror}", expected="JSON, a file with JSON, or -"
            ) from error
    try:
        rows = json.loads(text)
    except ValueError:
        try:
            rows = [json.loads(part) for part in text.splitlines() if part.strip()]
        except ValueError as error:
            raise Invalid(f"the rows are not JSON: {error}", expected='such as {"age": 41} or [{"age": 41}]') from None
    if rows == []:
        raise Invalid("there are no rows to ask about", expected='such as {"age": 41} or [{"age": 41}]')
    answers = ask(opened(args), args.service, rows if isinstance(rows, list) else [rows], key=args.key)
    if args.json:
        out.as_json(answers)
        return 0
    shown = [
        {"prediction": a["prediction"], **_shares(a), "revision": a["revision"], "model": a["model"], "id": a["id"]}
        for a in answers
    ]
    out.table(shown)
    out.line(f"boucle why prediction:{answers[0]['id']}", "dim")
    return 0


def _shares(answer: dict[str, Any]) -> dict[str, Any]:
    shares = answer.get("probabilities") or {}
    best = sorted(shares.items(), key=lambda kv: -(kv[1] or 0.0))[:3]
    return {"probabilities": ", ".join(f"{k} {v:.3f}" for k, v in best)} if best else {}
