"""A service as a process of its own.

`python -m boucle.ops.serve BUNDLE --service churn --revision 2 --log DIR` serves one bundle. With `--route FILE` instead of a
bundle it serves what that file says (`core.route`, as JSON), and goes on to do so when the file changes: it is the only
way in which a running service is told anything.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import uvicorn

from boucle.core.errors import BoucleError, Invalid, Unavailable
from boucle.core.refs import check_name
from boucle.core.route import Arm, Route
from boucle.ops.serve.app import MAX_BODY, App
from boucle.ops.serve.arms import Here, Loaded

PATIENCE_SECONDS = 120.0
LOOK_SECONDS = 0.05
HAND_OVER_SECONDS = 10.0
LEAVE_SECONDS = 2.0
KEEP_ALIVE_SECONDS = 75  # longer than the 60 of common proxies, so that they hang up first

_log = logging.getLogger("boucle.serve")


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m boucle.ops.serve", description="Serve one model bundle over HTTP.")
    parser.add_argument("bundle", type=Path, nargs="?", help="folder of the bundle")
    parser.add_argument("--route", type=Path, metavar="FILE", help="serve what this file says, and follow its changes")
    parser.add_argument("--service", required=True, help="name of the service, stamped on each prediction")
    parser.add_argument("--revision", type=int, default=1, help="its revision (default 1)")
    parser.add_argument("--model", default="", help="name and version of the model (default: the bundle's name)")
    parser.add_argument("--log", type=Path, help="folder of the prediction log")
    parser.add_argument("--log-optional", action="store_true", help="answer even when a prediction cannot be logged")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on, 0 for any free one (default 8080)")
    parser.add_argument(
        "--patience",
        type=float,
        default=PATIENCE_SECONDS,
        help=f"with --route: end when it gives no revision a share for so long (default {PATIENCE_SECONDS:g} s)",
    )
    parser.add_argument(
        "--starter",
        type=int,
        default=0,
        metavar="PID",
        help="with --route: until there is a share, end with this parent",
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
    service = _Service(arguments)
    listener = _listen(arguments.host, arguments.port)
    await service.listen(listener)
    try:
        if arguments.route:
            await service.follow_file()
        else:
            await service.serve_one()
    finally:
        await service.end()


class _Service:
    """The process: its application, the sockets it answers on, and the file it follows."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.app = App(arguments.service, max_body=arguments.max_body, log_optional=arguments.log_optional)
        self.facts: dict[str, object] = {"pid": os.getpid()}
        self._servers: list[uvicorn.Server] = []
        self._serving: list[asyncio.Task[None]] = []
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        self.app.stopping = True
        self._stopped.set()
        for server in self._servers:
            server.should_exit = True

    async def listen(self, on: socket.socket) -> None:
        """Answer on a socket; the last one is the service's address."""
        server = uvicorn.Server(_config(self.app, self.arguments.grace))
        self._servers.append(server)
        self._serving.append(asyncio.create_task(server.serve(sockets=[on])))
        while not server.started and not self._serving[-1].done():
            await asyncio.sleep(0.001)
        # Only now: the server sets handlers of its own when it starts, which would end the process by the signal.
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self.stop)
        self._listener = on
        self.facts["url"] = _url(on)

    async def serve_one(self) -> None:
        """The bundle of the command line."""
        given = self.arguments
        if given.bundle is None or given.log is None:
            raise Invalid("there is nothing to serve", expected="BUNDLE and --log DIR, or --route FILE")
        arm = Arm(given.revision, given.model, str(given.bundle), str(given.log), str(given.log / "failures"), 1.0)
        bundle, predictor = await asyncio.to_thread(Loaded().load, arm)
        here = Here(given.service, arm, bundle, predictor, log_optional=given.log_optional)
        self.app.turn(Route((arm,)), {arm.revision: here})
        self._say({str(arm.revision): "ready"}, "")
        _log.info("%s serves %s on %s", f"{given.service}@{given.revision}", self.app.model, self.facts["url"])
        await self._stopped.wait()

    async def follow_file(self) -> None:
        """Look at the file again and again; a change is put in force as a whole, and then said in the ready file."""
        path, seen, idle_since = self.arguments.route, None, time.monotonic()
        while not self._stopped.is_set():
            stamp = _stamp(path)
            if stamp != seen:
                seen = stamp
                told = _read_told(path)
                route = Route.from_json(told["route"])
                states = await self.app.follow(route)
                _settle_memory()
                if told.get("take"):
                    await self._take(told["take"])
                self._say(states, route.digest)
                _log.info("route %s: %s", route.digest[:8], states)
                if told.get("give"):
                    await self._give(told["give"])
            if self.app.ready:
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since > self.arguments.patience:
                _log.info("nothing to serve for %g seconds", self.arguments.patience)
                self.stop()
            elif self.arguments.starter not in (0, os.getppid()):
                _log.info("whoever started this died before giving it anything to do")
                self.stop()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), LOOK_SECONDS)

    async def _give(self, path: str) -> None:
        """Hand the listening socket to the process that waits for it, then leave: no connection is refused or cut."""
        with socket.socket(socket.AF_UNIX) as channel:
            channel.settimeout(HAND_OVER_SECONDS)
            try:
                await asyncio.to_thread(channel.connect, path)
                await asyncio.to_thread(socket.send_fds, channel, [b"listener"], [self._listener.fileno()])
                heard = await asyncio.to_thread(channel.recv, 16)
            except OSError as error:
                _log.error("the address could not be handed over: %s", error)
                return
        if heard != b"taken":
            _log.error("whoever asked for the address did not take it")
            return
        self.app.leaving = True
        for server in self._servers:
            for accepting in server.servers:
                accepting.close()
        # Connections that are open already have their say; what they answer asks the client to connect anew.
        await asyncio.sleep(LEAVE_SECONDS)
        self.stop()

    async def _take(self, path: str) -> None:
        """Wait for the listening socket of another process and answer on it."""
        if self.facts.pop("refused", None) and self.arguments.ready_file:
            # What came of an earlier try must not be taken for what comes of this one.
            _write_whole(self.arguments.ready_file, self.facts)
        with socket.socket(socket.AF_UNIX) as waiting:
            waiting.settimeout(HAND_OVER_SECONDS)
            try:
                waiting.bind(path)
                waiting.listen(1)
                channel, _ = await asyncio.to_thread(waiting.accept)
                with channel:
                    channel.settimeout(HAND_OVER_SECONDS)
                    _, found, _, _ = await asyncio.to_thread(socket.recv_fds, channel, 16, 1)
                    if not found:
                        raise OSError("no socket came")
                    await self.listen(socket.socket(fileno=found[0]))
                    await asyncio.to_thread(channel.sendall, b"taken")
            except OSError as error:
                _log.error("the address could not be taken over: %s", error)
                self.facts["refused"] = str(error)
            finally:
                Path(path).unlink(missing_ok=True)

    def _say(self, states: dict[str, str], digest: str) -> None:
        self.facts.update(arms=states, route=digest)
        if self.arguments.ready_file and not self.app.stopping:
            _write_whole(self.arguments.ready_file, self.facts)

    async def end(self) -> None:
        self.stop()
        await asyncio.gather(*self._serving)
        self.app.close()
        if self.arguments.ready_file and (_read_ready(self.arguments.ready_file) or {}).get("pid") == os.getpid():
            self.arguments.ready_file.unlink(missing_ok=True)
        _log.info("stopped")


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_ino


def _read_told(path: Path) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise Invalid(f"{path} cannot be read: {error}", expected="a route as JSON") from error
    return told


def _read_ready(path: Path) -> dict[str, Any] | None:
    try:
        facts: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return facts


def _settle_memory() -> None:
    """What is loaded stays; the collector need not look at it again and again."""
    gc.collect()
    gc.freeze()


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


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise Unavailable(f"{host!r} is not an address to listen on: {error.strerror}") from error
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
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
