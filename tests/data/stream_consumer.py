"""A consumer for tests to kill: reads a stream into a dataset, in small versions, and takes its time where it is most delicate:
between keeping a version and telling the broker."""

import json
import sys
import time

import boucle
from boucle.data.stream import stream
from boucle.ports.stream import plugin

project, url, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
more = json.loads(sys.argv[4]) if len(sys.argv) > 4 else {}
kind = plugin(url)
tell = kind.acknowledge


def slowly(self: object, positions: dict[str, object]) -> None:
    time.sleep(0.03)
    tell(self, positions)


kind.acknowledge = slowly
with boucle.open(project) as ws:
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    stream(ws, url, "tx", options=options, **{"batch_rows": 40, "batch_seconds": 0.05, **more})
