"""A consumer for tests to kill: reads a stream into a dataset, in small versions."""

import json
import sys

import boucle
from boucle.data.stream import stream

project, url, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
more = json.loads(sys.argv[4]) if len(sys.argv) > 4 else {}
with boucle.open(project) as ws:
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    stream(ws, url, "tx", options=options, **{"batch_rows": 40, "batch_seconds": 0.05, **more})
