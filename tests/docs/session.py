"""Runs the Python blocks of a page one after the other in one process, as a reader would type them into one.

Reads a line of JSON per block, {code, name}, and answers with {out, error}.
"""

from __future__ import annotations

import contextlib
import io
import json
import linecache
import sys
import traceback
from pathlib import Path


def main() -> None:
    answers = sys.stdout
    module = sys.modules["__main__"]
    sys.path[0] = str(Path.cwd())
    del module.__file__  # nothing that is typed in has one
    for line in sys.stdin:
        block = json.loads(line)
        linecache.cache[block["name"]] = (len(block["code"]), None, block["code"].splitlines(True), block["name"])
        said, error = io.StringIO(), ""
        with contextlib.redirect_stdout(said):
            try:
                exec(compile(block["code"], block["name"], "exec"), vars(module))
            except BaseException:  # noqa: BLE001  whatever an example raises is the finding
                error = traceback.format_exc()
        answers.write(json.dumps({"out": said.getvalue(), "error": error}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
