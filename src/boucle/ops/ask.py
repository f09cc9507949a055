"""Ask a running service, as any HTTP client would."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from boucle.core.errors import Invalid, Unavailable
from boucle.core.records import Service
from boucle.core.refs import Ref
from boucle.core.schema import jsonable
from boucle.ledger import services

if TYPE_CHECKING:
    from boucle.workspace import Workspace


def predict(
    ws: Workspace,
    service: Service | str,
    rows: Sequence[Mapping[str, Any]],
    *,
    timeout: float = 60.0,
    key: str = "",
) -> list[dict[str, Any]]:
    """Send rows of raw input to a service; returns one answer per row, each with the id of its prediction. `key` names who
    asks, so that an experiment always gives them the same revision. Of name@revision that one is asked, whatever its share."""
    found = service if isinstance(service, Service) else services.resolve(ws, service)
    named = isinstance(service, str) and Ref.parse(service, "service").version not in ("", "latest")
    if found.status != "ready" and not (named and found.status == "trial"):
        raise Unavailable(
            f"{found} is {found.status}", expected="a service that runs", fix=f"boucle deploy {found.name}"
        )
    return post(found.url, rows, timeout=timeout, key=key, revision=found.revision if named else 0)


def post(
    url: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    timeout: float = 60.0,
    request_id: str = "",
    revision: int = 0,
    key: str = "",
) -> list[dict[str, Any]]:
    """Send rows to a service's address; returns the predictions with model, digest and revision. With `revision` that one is
    asked, whatever its share; `key` is what a request is assigned by in an experiment. Raises `Invalid` with the service's
    own words for input it refuses, `Unavailable` when it does not answer."""
    body = json.dumps({"rows": [jsonable(r) for r in rows]}).encode()
    optional = {"X-Request-Id": request_id, "X-Boucle-Revision": str(revision or ""), "X-Boucle-Key": key}
    headers = {"Content-Type": "application/json", **{name: value for name, value in optional.items() if value}}
    request = urllib.request.Request(f"{url}/predict", body, headers)  # noqa: S310  an address that a target gave us
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:  # noqa: S310
            answer = json.load(response)
    except urllib.error.HTTPError as error:
        try:
            said = json.load(error)["error"]
            kind = Invalid if error.code < 500 else Unavailable
            refusal = kind(said["what"], expected=said.get("expected", ""), fix=said.get("fix", ""))
        except (ValueError, KeyError):
            raise Unavailable(f"{url} answered {error.code}") from error
        raise refusal from None
    except (OSError, ValueError) as error:
        raise Unavailable(f"{url} does not answer: {error}", fix="boucle services") from error
    predictions: list[dict[str, Any]] = answer["predictions"]
    # Where the rows went to several revisions, each says its own.
    stamp = {name: answer[name] for name in ("model", "digest", "revision") if name in answer}
    return [{**p, **stamp} for p in predictions]
