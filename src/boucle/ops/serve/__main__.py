"""A service as a process of its own: `python -m boucle.ops.serve BUNDLE --service churn --revision 2 --log DIR`."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import os
import signal
import socket
import sys
from pathlib import Path

import uvicorn

from boucle.core.bundle import Bundle, open_bundle, replay
from boucle.core.errors import BoucleError, Corrupt, Unavailable
from boucle.core.refs import check_name
from boucle.ops.serve.app import MAX_BODY, App, Stamp
from boucle.ops.serve.predictions import PredictionLog
from boucle.ports.framework import Predictor

HOLD_SECONDS = 120.0
KEEP_ALIVE_SECONDS = 75  # longer than the 60 of common proxies, so that they hang up first

_log = logging.getLogger("boucle.serve")


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m boucle.ops.serve", description="Serve one model bundle over HTTP.")
    parser.add_argument("bundle", type=Path, help="folder of the bundle")
    parser.add_argument("--service", required=True, help="name of the service, stamped on each prediction")
    parser.add_argument("--revision", type=int, default=1, help="its revision (default 1)")
    parser.add_argument("--model", default="", help="name and version of the model (default: the bundle's name)")
    parser.add_argument("--log", type=Path, required=True, help="folder of the prediction log")
    parser.add_argument("--log-optional", action="store_true", help="answer even when a prediction cannot be logged")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on, 0 for any free one (default 8080)")
    parser.add_argument(
        "--hold", action="store_true", help="listen on a free port only; on --port too when SIGUSR1 comes"
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=HOLD_SECONDS,
        help=f"with --hold: end after so long (default {HOLD_SECONDS:g} s)",
    )
    parser.add_argument("--max-body", type=int, default=MAX_BODY, help=f"largest body in bytes (default {MAX_BODY})")
    parser.add_argument(
        "--grace", type=int, default=30, help="seconds that running requests get to finish (default 30)"
    )
    parser.add_argument("--ready-file", type=Path, help="written with the address when the service is ready")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    try:
        check_name(arguments.service, "service name")
        asyncio.run(_serve(arguments))
    except BoucleError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


async def _serve(arguments: argparse.Namespace) -> None:
    listener = _listen(arguments.host, 0 if arguments.hold else arguments.port)
    log = PredictionLog(arguments.log, optional=arguments.log_optional)
    app = App(Stamp(arguments.service, arguments.revision, arguments.model), log, max_body=arguments.max_body)
    loop = asyncio.get_running_loop()
    servers: list[uvicorn.Server] = []
    serving: list[asyncio.Task[None]] = []
    facts: dict[str, object] = {}

    def stop() -> None:
        app.stopping = True
        for server in servers:
            server.should_exit = True

    async def listen(on: socket.socket) -> None:
        server = uvicorn.Server(_config(app, arguments.grace))
        servers.append(server)
        serving.append(asyncio.create_task(server.serve(sockets=[on])))
        while not server.started and not serving[-1].done():
            await asyncio.sleep(0.001)
        # Only now: the server sets handlers of its own when it starts, which would end the process by the signal.
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)

    async def expose() -> None:
        try:
            public = _listen(arguments.host, arguments.port, beside=True)
        except BoucleError as error:
            facts["refused"] = error.what
        else:
            await listen(public)
            facts["public"] = _url(public)
        if arguments.ready_file:
            _write_whole(arguments.ready_file, facts)

    await listen(listener)
    try:
        bundle, predictor = await asyncio.to_thread(_load, arguments.bundle)
        app.open(bundle, predictor)
        # What is loaded stays; the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        url = _url(listener)
        if arguments.ready_file and not app.stopping:
            facts.update(url=url, pid=os.getpid(), digest=bundle.digest)
            _write_whole(arguments.ready_file, facts)
        if arguments.hold:
            exposing: list[asyncio.Task[None]] = []  # the loop itself holds tasks only weakly
            loop.add_signal_handler(signal.SIGUSR1, lambda: exposing.append(asyncio.create_task(expose())))
            # Whoever started it may have died meanwhile, and nobody else would ever end it.
            loop.call_later(arguments.patience, lambda: None if len(servers) > 1 else stop())
        _log.info("%s serves %s on %s", f"{arguments.service}@{arguments.revision}", app.model, url)
        await serving[0]
    finally:
        stop()
        await asyncio.gather(*serving)
        app.close()
        if arguments.ready_file:
            arguments.ready_file.unlink(missing_ok=True)
        _log.info("stopped")


def _config(app: App, grace: int) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        loop="asyncio",
        lifespan="off",
        interface="asgi3",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=grace,
    )


def _load(folder: Path) -> tuple[Bundle, Predictor]:
    bundle = open_bundle(folder)
    predictor = bundle.load()
    changed = replay(bundle, predictor)  # also warms up: the first call is slow, and nobody should wait for it
    if changed:
        raise Corrupt(
            f"the model does not answer as it did when it was packed: {changed[0]}",
            expected="its golden outputs",
            fix="install the versions that requirements.txt of the bundle names",
        )
    return bundle, predictor


def _listen(host: str, port: int, *, beside: bool = False) -> socket.socket:
    """A bound socket; with `beside`, another one that was bound so may have the port at the same time."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise Unavailable(f"{host!r} is not an address to listen on: {error.strerror}") from error
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if beside:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise Unavailable(
            f"cannot listen on {host} port {port}: {error.strerror}",
            expected="a port that is free and may be used",
            fix="choose another with --port, or --port 0 for any free one",
        ) from error
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  comparing, not binding
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _write_whole(path: Path, facts: dict[str, object]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(facts), "utf-8")
    partial.replace(path)


if __name__ == "__main__":
    sys.exit(main())
