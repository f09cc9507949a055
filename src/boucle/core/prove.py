"""Prove a bundle in a clean process: `python -I -m boucle.core.prove FOLDER` opens it, loads it and replays its golden
outputs. Prints one line of JSON; exit code 0 when every answer is the same."""

from __future__ import annotations

import json
import sys
import time
import traceback

from boucle.core.bundle import open_bundle, replay
from boucle.core.errors import BoucleError


def main(folder: str) -> int:
    """Returns the exit code."""
    began = time.perf_counter()
    try:
        bundle = open_bundle(folder)
        differences = replay(bundle)
        report = {"digest": bundle.digest, "rows": len(bundle.golden), "differences": differences}
    except BoucleError as error:
        report = {"error": str(error)}
    except Exception as error:  # noqa: BLE001  whatever packed code raises is the finding
        last = traceback.extract_tb(error.__traceback__)[-1]
        report = {"error": f"{type(error).__name__}: {error} ({last.filename}:{last.lineno})"}
    report["seconds"] = round(time.perf_counter() - began, 3)
    sys.stdout.write(json.dumps(report) + "\n")
    return 0 if report.get("differences") == [] else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
