"""Commands on alerts: list, show, acknowledge, resolve, silence, and try a channel."""

from __future__ import annotations

import argparse
from typing import Any

from boucle.faces.cli import out
from boucle.faces.cli.here import opened


def add_alerts(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    listing = verbs.add_parser("list", help="what is open, and what is silenced; the same as `boucle alerts` alone")
    for at in (parser, listing):
        at.add_argument("--all", action="store_true", help="what is resolved, too")
        at.set_defaults(call=listed)
    # The options of every command, for when there is no verb.
    parser.add_argument("--json", action="store_true", help="print JSON for machines")
    parser.add_argument("-C", "--project", metavar="FOLDER", help="the project's folder (default: here)")
    showing = verbs.add_parser("show", help="all that is known of one, and what happened to it")
    showing.set_defaults(call=show)
    acking = verbs.add_parser("ack", help="say that you look after one: no more reminders")
    acking.set_defaults(call=ack)
    resolving = verbs.add_parser("resolve", help="say that one is over")
    resolving.set_defaults(call=resolve)
    for at in (showing, acking, resolving):
        at.add_argument("id", help="of the alert, or enough of its start or end")
    silencing = verbs.add_parser("silence", help="keep alerts about something from being sent for a time")
    silencing.add_argument("--for", dest="span", required=True, metavar="TIME", help="how long, such as '2 hours'")
    silencing.set_defaults(call=silence)
    unsilencing = verbs.add_parser("unsilence", help="end a silence now")
    unsilencing.set_defaults(call=unsilence)
    for at in (silencing, unsilencing):
        at.add_argument("subject", help="such as service:churn, with its versions; may end in *")
        at.add_argument("--name", default="", help="only alerts of this name, such as drift")
    for at in (acking, resolving, silencing, unsilencing):
        at.add_argument("--reason", default="", help="kept in the journal")
    testing = verbs.add_parser("test", help="send a message through a channel")
    testing.add_argument("channel", help="as boucle.toml names it")
    testing.set_defaults(call=test)


def _row(alert: Any) -> dict[str, Any]:
    from boucle.ledger.lineage import SHORT

    return {
        "id": alert.id[-SHORT:], "severity": alert.severity, "status": alert.status, "what": alert.title,
        "subject": alert.subject, "since": out.when(alert.onset or alert.opened), "count": alert.count,
        "delivered": ", ".join(_told(name, state) for name, state in alert.delivered.items()),
    }  # fmt: skip


def _told(channel: str, state: dict[str, Any]) -> str:
    if "error" in state:
        return f"{channel} failed ({state['attempts']}x)"
    return channel if "time" in state else f"{channel} (sending)"


def _json(alert: Any) -> dict[str, Any]:
    import dataclasses

    return dataclasses.asdict(alert)


def listed(args: argparse.Namespace) -> int:
    """One line per alert, then the silences."""
    import dataclasses

    from boucle.ops import alert

    ws = opened(args)
    found, quiet = alert.find(ws, all=args.all), alert.silences(ws)
    if args.json:
        out.as_json({"alerts": [_json(a) for a in found], "silences": [dataclasses.asdict(s) for s in quiet]})
        return 0
    out.table([_row(a) for a in found], "no alerts" if args.all else "no open alerts")
    for held in quiet:
        name = f" named {held.name}" if held.name else ""
        why = f": {held.reason}" if held.reason else ""
        out.line(f"silenced until {out.when(held.until)}: {held.subject}{name}, by {held.actor}{why}", "yellow")
    return 0


def show(args: argparse.Namespace) -> int:
    """Facts, deliveries, history."""
    from boucle.ops import alert

    ws = opened(args)
    found = alert.get(ws, args.id)
    events = [e for e in ws.store.events(type="alert", subject=found.subject) if e.data.get("alert") == found.id]
    if args.json:
        out.as_json({**_json(found), "events": [{"type": e.type, "time": e.time, "actor": e.actor} for e in events]})
        return 0
    times = {t: out.when(getattr(found, t)) for t in ("onset", "opened", "last", "acknowledged", "resolved")}
    out.facts(
        {"id": found.id, "name": found.name, "subject": found.subject, "severity": found.severity, "what": found.title,
         "status": found.status, "count": found.count, **times, "by": found.actor, "reason": found.reason, **found.data}
    )  # fmt: skip
    for name, state in found.delivered.items():
        again = f", again at {out.when(state['next'])}" if "next" in state else ""
        said = f": {state['error']}{again}" if "error" in state else f" at {out.when(state.get('time', 0.0))}"
        out.line(f"{_told(name, state)}{said}", "red" if "error" in state else "")
    out.line()
    out.table([{"time": out.when(e.time), "type": e.type, "by": e.actor, "reason": e.reason} for e in events])
    return 0


def ack(args: argparse.Namespace) -> int:
    """No more reminders."""
    from boucle.ops import alert

    return _said(args, alert.acknowledge(opened(args), args.id, args.reason))


def resolve(args: argparse.Namespace) -> int:
    """It is over."""
    from boucle.ops import alert

    return _said(args, alert.resolve(opened(args), args.id, args.reason))


def _said(args: argparse.Namespace, alert: Any) -> int:
    if args.json:
        out.as_json(_json(alert))
    else:
        out.line(f"{alert.title} is {alert.status}", "green")
    return 0


def silence(args: argparse.Namespace) -> int:
    """Quiet for a time."""
    from boucle.flow.schedule import span
    from boucle.ops import alert

    ws = opened(args)
    made = alert.silence(ws, args.subject, ws.now() + span(args.span, "--for"), args.reason, name=args.name)
    if args.json:
        out.as_json({"subject": made.subject, "name": made.name, "until": made.until, "reason": made.reason})
    else:
        out.line(f"nothing about {made.subject} is sent until {out.when(made.until)}")
    return 0


def unsilence(args: argparse.Namespace) -> int:
    """No longer quiet."""
    from boucle.ops import alert

    alert.unsilence(opened(args), args.subject, args.reason, name=args.name)
    if args.json:
        out.as_json({"subject": args.subject, "name": args.name})
    else:
        out.line(f"alerts about {args.subject} are sent again")
    return 0


def test(args: argparse.Namespace) -> int:
    """Whether a channel works, and if not, why."""
    from boucle.ops import alert

    message = alert.test(opened(args), args.channel)
    if args.json:
        out.as_json({"channel": args.channel, "id": message.id})
    else:
        out.line(f"{args.channel} took a message", "green")
    return 0
