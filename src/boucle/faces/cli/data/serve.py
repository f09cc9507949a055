"""Reading datasets over HTTP: serve."""

from __future__ import annotations

import argparse
from typing import Any

from boucle.faces.cli import out
from boucle.faces.cli.here import opened

_LOCAL = ("127.0.0.1", "localhost", "::1")


def add(verbs: Any) -> None:
    serving = verbs.add_parser("serve", help="let other programs read datasets over HTTP, until it is interrupted")
    serving.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    serving.add_argument("--port", type=int, default=8085, help="port to listen on, 0 for any free one (default 8085)")
    serving.add_argument(
        "--token", default="", metavar="SECRET", help="name of the secret in the vault that every request must carry"
    )
    serving.set_defaults(call=serve)


def serve(args: argparse.Namespace) -> int:
    """Serve; beyond this machine only with a token."""
    import socket

    import uvicorn

    from boucle.core.errors import Invalid, Refused, Unavailable
    from boucle.faces.api.data import app

    if not 0 <= args.port <= 65535:
        raise Invalid(f"--port {args.port}", expected="a port from 0 to 65535", fix="--port 0 finds a free one")
    ws = opened(args)
    token = ws.vault.get(args.token) if args.token else ""
    if not token and args.host not in _LOCAL:
        raise Refused(
            f"everybody who reaches {args.host} could read all data",
            expected="a token, or an address of this machine alone",
            fix="put a secret into the vault and name it: --token NAME",
        )
    family = socket.AF_INET6 if ":" in args.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((args.host, args.port))
        except OSError as error:
            raise Unavailable(
                f"cannot listen on {args.host}:{args.port}: {error.strerror}",
                expected="a free port",
                fix="--port 0 finds one",
            ) from error
        host = f"[{args.host}]" if ":" in args.host else args.host
        url = f"http://{host}:{listener.getsockname()[1]}"
        if args.json:
            out.as_json({"url": f"{url}/data"})
        else:
            out.line(f"datasets are at {url}/data; Ctrl-C ends it")
        import sys

        sys.stdout.flush()
        application = app(ws, token=token, hosts=() if token else _LOCAL)
        config = uvicorn.Config(application, log_level="warning", access_log=False, server_header=False)
        uvicorn.Server(config).run(sockets=[listener])
    return 0
