"""Start-up of `import boucle` and `boucle --help` as a ratio to a bare interpreter, bytecode compiled."""

from __future__ import annotations

import compileall
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

ROUNDS = 21
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import boucle": ["-c", "import boucle"],
    "boucle --help": ["-m", "boucle.faces.cli.main", "--help"],
    "boucle run --help": ["-m", "boucle.faces.cli.main", "run", "--help"],
}


def cpu_of(arguments: list[str], environment: dict[str, str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)


def main() -> None:
    import boucle

    compileall.compile_dir(Path(boucle.__file__).parent, quiet=2)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):  # round-robin, so that a disturbance hits all alike
        for name, arguments in COMMANDS.items():
            times[name].append(cpu_of(arguments, environment))
    bare = statistics.median(times["python -c pass"])
    print(f"\n{'start-up':24}{'CPU ms, median':>16}{'ratio':>8}")
    for name, found in times.items():
        middle = statistics.median(found)
        print(f"{name:24}{middle * 1000:16.1f}{middle / bare:7.1f}x")


if __name__ == "__main__":
    main()
