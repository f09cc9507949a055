"""Reading a stream into a dataset: stream."""

from __future__ import annotations

import argparse
from typing import Any

from boucle.faces.cli import out
from boucle.faces.cli.here import opened


def add(verbs: Any) -> None:
    parser = verbs.add_parser("stream", help="append the messages of a broker to a dataset, each exactly once")
    parser.add_argument(
        "url",
        help="kafka://host/topic, amqp://host/vhost/queue, nats://host/stream, mqtt://host/topic, redis-stream://host/0/key",
    )
    parser.add_argument("--name", required=True, help="of the dataset")
    parser.add_argument(
        "--format", default="json", choices=("json", "avro", "text", "bytes", "csv"), help="of a message"
    )
    parser.add_argument(
        "--batch-rows", type=int, default=50_000, metavar="N", help="a version at the latest after so many rows"
    )
    parser.add_argument("--batch-seconds", default="5s", metavar="TIME", help="or after this time, such as 30s")
    parser.add_argument("--window", metavar="TIME", help="a version for each stretch of event time, such as 5m")
    parser.add_argument(
        "--lateness", default="0s", metavar="TIME", help="how late a row may be for its window, such as 1m"
    )
    parser.add_argument(
        "--event-time", default="", metavar="COLUMN", help="that says when it happened; COLUMN:ms in milliseconds"
    )
    parser.add_argument("--once", action="store_true", help="end when all is read")
    parser.add_argument("--most", type=int, metavar="N", help="end after so many messages")
    parser.add_argument("--strict", action="store_true", help="fail on a bad message instead of setting it aside")
    parser.add_argument("--moved", action="store_true", help="it is the same stream as before, at another address")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="for the stream, such as password=vault:KAFKA",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="read some messages and say what was found, keep nothing"
    )
    parser.set_defaults(call=stream)


def duration(text: str, flag: str) -> float:
    """Seconds of a text such as 90, 30s, 5m, 2h or 1d."""
    from boucle.core.errors import Invalid

    number, unit = (text[:-1], text[-1]) if text[-1:] in "smhd" and text else (text, "s")
    try:
        seconds = float(number) * {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}[unit]
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e10:
        raise Invalid(f"{flag} {text!r}", expected="a time such as 30s, 5m, 2h or 1d")
    return seconds


def stream(args: argparse.Namespace) -> int:
    """A line per version; what is complete is kept when it is stopped."""
    from boucle.data.stream import stream as read
    from boucle.faces.cli.data.ingest import pairs

    ws = opened(args)
    options = pairs(args.option, "--option")
    if args.dry_run:
        return _dry(ws, args, options)
    window = duration(args.window, "--window") if args.window else None
    with _Stop() as stop:
        done = read(
            ws, args.url, args.name, options=options, format=args.format, batch_rows=args.batch_rows,
            batch_seconds=duration(args.batch_seconds, "--batch-seconds"), window=window,
            late=duration(args.lateness, "--lateness"), event_time=args.event_time, once=args.once, most=args.most,
            moved=args.moved, on_bad="fail" if args.strict else "set_aside", stop=stop, progress=_said(args.json),
        )  # fmt: skip
    if args.json:
        out.as_json(
            {
                "dataset": done.dataset.key if done.dataset else "", "versions": done.versions, "messages": done.messages,
                "rows": done.rows, "bad": done.bad, "late": done.late, "again": done.again, "held": done.held,
                "seconds": done.seconds, "ended": done.ended,
            }
        )  # fmt: skip
    else:
        rest = "".join(
            f", {number:,} {what}"
            for number, what in (
                (done.bad, "set aside"), (done.late, "late"), (done.held, "waiting for their window"),
                (done.again, "given out twice"),
            )
            if number
        )  # fmt: skip
        out.line(
            f"{out.many(done.messages, 'message')}, {out.many(done.rows, 'row')} in {out.many(done.versions, 'version')}{rest}"
        )
    return 130 if stop.interrupted else 0


def _said(quiet: bool) -> Any:
    import datetime as dt

    def say(step: Any) -> None:
        if quiet:
            return
        parts = [f"{step.dataset.key}: {out.many(step.rows, 'row')} more"]
        if step.window:
            start, end = (dt.datetime.fromtimestamp(t, dt.UTC).isoformat(timespec="seconds")[:19] for t in step.window)
            parts[0] += f" of {start} to {end}"
        parts += [f"{n:,} {what}" for n, what in ((step.bad, "set aside"), (step.late, "late")) if n]
        if step.messages:
            parts.append(f"{step.rate:,.0f} messages/s")
        if step.lag is not None:
            parts.append(f"{step.lag:,} to come")
        out.line(", ".join(parts))

    return say


class _Stop:
    """Set by SIGTERM and Ctrl-C; a second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.asked = self.interrupted = False

    def __call__(self) -> bool:
        return self.asked

    def __enter__(self) -> _Stop:
        import signal
        import threading

        self._before = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {each: signal.signal(each, self._note) for each in (signal.SIGTERM, signal.SIGINT)}
        return self

    def _note(self, number: int, _: object) -> None:
        import signal

        if self.interrupted:
            raise KeyboardInterrupt
        self.asked, self.interrupted = True, number == signal.SIGINT

    def __exit__(self, *exc: object) -> None:
        import signal

        for each, before in self._before.items():
            signal.signal(each, before)


def _dry(ws: Any, args: argparse.Namespace, options: dict[str, Any]) -> int:
    from boucle.data.stream import preview

    seen = preview(ws, args.url, options=options, format=args.format, most=args.most or 1000)
    if args.json:
        out.as_json(seen)
        return 0
    more = f", {seen['lag']:,} more to come" if seen["lag"] else ""
    out.line(f"{out.many(seen['messages'], 'message')} read{more}; nothing was kept")
    out.table(seen["columns"], "none of them can be read")
    if seen["bad"]:
        out.line(f"would be set aside: {out.many(len(seen['bad']), 'message')}", "yellow")
        out.table([{"why": b["why"], "text": b["text"][:80]} for b in seen["bad"][:10]])
    return 0
