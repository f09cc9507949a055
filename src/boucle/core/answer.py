"""Ask a bundle in a clean process: `python -I -m boucle.core.answer FOLDER`. Rows of JSON on standard input, one a line;
answers on standard output in the same way. What the model prints goes to standard error. Ends with code 1 and the reason when
it fails."""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import TextIO

from boucle.core.bundle import open_bundle
from boucle.core.schema import jsonable


def main(folder: str, out: TextIO) -> int:
    """Returns the exit code."""
    try:
        rows = [json.loads(line) for line in sys.stdin]
        out.writelines(json.dumps(jsonable(row)) + "\n" for row in open_bundle(folder, verify=False).predict(rows))
        out.flush()
    except Exception as error:  # noqa: BLE001  whatever packed code raises is the finding
        last = traceback.extract_tb(error.__traceback__)[-1]
        sys.stderr.write(f"{type(error).__name__}: {error} ({last.filename}:{last.lineno})\n")
        return 1
    return 0


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    raise SystemExit(main(sys.argv[1], answers))
