# ruff: noqa: PTH108, PTH123  the limit does with a path what the system does
"""Versions of folders: one large file and many small ones; snapshot, 1 % changed, status, checkout.

Ours, DVC and Oxen are timed as whole commands in new processes. The limits are the bare work in this process, without starting
one: hash and copy every file, and hash and store fixed chunks. Contestants take turns, and the medians are shown.

    python bench/versions.py --bytes 2e9 --files 20000 --rounds 3 --dvc VENV --hardlink --oxen VENV
"""

from __future__ import annotations

import argparse
import compileall
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from blake3 import blake3

CHUNK = 4 << 20
STEPS = ("first", "status", "append 1 %", "1 % in place", "status after", "checkout v1")


def make(folder: Path, kind: str, size: int, files: int) -> None:
    """Bytes that do not repeat, cheaply: random blocks, of which each page holds its own number."""
    folder.mkdir(parents=True)
    base = random.Random(1).randbytes(1 << 24)
    if kind == "large":
        with (folder / "large.bin").open("wb") as file:
            for i in range(max(1, size >> 24)):
                block = bytearray(base)
                for at in range(0, len(block), 4096):
                    block[at : at + 8] = (i * 1000003 + at).to_bytes(8, "little")
                file.write(block)
        return
    each = size // files
    for i in range(files):
        if i % 100 == 0:
            (folder / f"d{i // 100:03d}").mkdir()
        at = i * 97 % (len(base) - each)
        (folder / f"d{i // 100:03d}" / f"f{i:05d}.bin").write_bytes(i.to_bytes(8, "little") + base[at : at + each - 8])


def append(folder: Path, kind: str) -> None:
    if kind == "large":
        path = folder / "large.bin"
        added = random.Random(3).randbytes(path.stat().st_size // 100)
        with path.open("ab") as file:
            file.write(added)
        return
    for path in sorted(folder.rglob("*.bin"))[::100]:
        with path.open("ab") as file:
            file.write(random.Random(4).randbytes(1024))


def in_place(folder: Path, kind: str) -> None:
    if kind == "large":
        path, draw = folder / "large.bin", random.Random(5)
        size = path.stat().st_size
        with path.open("r+b") as file:
            for _ in range(max(1, size // 100 >> 20)):
                file.seek(draw.randrange(0, size - (1 << 20)))
                file.write(draw.randbytes(1 << 20))
        return
    for path in sorted(folder.rglob("*.bin"))[::100]:
        with path.open("r+b") as file:
            file.write(random.Random(6).randbytes(4096))


def digest(folder: Path) -> str:
    whole = blake3()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        whole.update(str(path.relative_to(folder)).encode() + blake3(max_threads=2).update_mmap(path).digest())
    return str(whole.hexdigest())


def stored(*folders: Path) -> int:
    return sum(p.stat().st_blocks * 512 for f in folders for p in f.rglob("*") if p.is_file())


class Ours:
    """`boucle data ...` as people type it."""

    def __init__(self, place: Path) -> None:
        self.place, self.data = place, place / "data"
        self._boucle = [str(Path(sys.executable).parent / "boucle")]
        place.mkdir(parents=True)
        self._run("init")

    def snapshot(self) -> None:
        self._run("data", "snapshot", "data", "--name", "d")

    def status(self) -> None:
        self._run("data", "status", "data")

    def checkout(self) -> None:
        self._run("data", "checkout", "d@1", "data")

    def stored(self) -> int:
        return stored(self.place / ".boucle")

    def _run(self, *arguments: str) -> None:
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        subprocess.run(
            [*self._boucle, *arguments], cwd=self.place, check=True, stdout=subprocess.DEVNULL, env=environment
        )


class Dvc:
    """`dvc` of another environment, with copies or hard links."""

    link = "copy"

    def __init__(self, place: Path, venv: Path) -> None:
        self.place, self.data = place, place / "data"
        place.mkdir(parents=True)
        self._environment = {
            **os.environ, "PATH": f"{venv / 'bin'}:{os.environ['PATH']}", "DVC_NO_ANALYTICS": "true", "HOME": str(place),
            "GIT_AUTHOR_NAME": "b", "GIT_AUTHOR_EMAIL": "b@x", "GIT_COMMITTER_NAME": "b", "GIT_COMMITTER_EMAIL": "b@x",
        }  # fmt: skip
        self._run(
            "git init -q . && dvc init -q && dvc config core.analytics false && dvc config core.check_update false"
        )
        self._run(f"dvc config cache.type {self.link} && git add -A && git commit -qm begin")

    def snapshot(self) -> None:
        self._run("dvc add -q data && git add -A && git commit -qm version")

    def status(self) -> None:
        self._run("dvc status")

    def checkout(self) -> None:
        self._run("git checkout -q HEAD~2 -- data.dvc && dvc checkout -q --force")

    def before_edit(self) -> None:
        if self.link == "hardlink":
            self._run("dvc unprotect data")

    def stored(self) -> int:
        return stored(self.place / ".dvc")

    def _run(self, command: str) -> None:
        subprocess.run(
            command, shell=True, cwd=self.place, check=True, stdout=subprocess.DEVNULL, env=self._environment
        )


class DvcHardlink(Dvc):
    link = "hardlink"


class Oxen:
    """`oxen` of another environment, by its Python library: a new process for each step."""

    def __init__(self, place: Path, venv: Path) -> None:
        self.place, self.data, self._python = place, place / "data", venv / "bin" / "python"
        config = place / ".config" / "oxen"
        config.mkdir(parents=True)
        (config / "user_config.toml").write_text('name = "b"\nemail = "b@x"\n')
        self._environment = {**os.environ, "HOME": str(place)}
        self._run("repo.init()")

    def snapshot(self) -> None:
        self._run("repo.add('data'); repo.commit('version')")

    def mark_first(self) -> None:
        """Only a branch leads back to a version."""
        self._run("repo.checkout('first', True); repo.checkout('main')")

    def status(self) -> None:
        self._run("print(repo.status())")

    def checkout(self) -> None:
        self._run("repo.checkout('first')")

    def stored(self) -> int:
        return stored(self.place / ".oxen")

    def _run(self, code: str) -> None:
        subprocess.run(
            [self._python, "-c", f"from oxen import Repo; repo = Repo('.'); {code}"],
            cwd=self.place, check=True, stdout=subprocess.DEVNULL, env=self._environment,
        )  # fmt: skip


class Limit:
    """The bare work, in this process: a cache of times and sizes, a hash, a copy."""

    chunked = False

    def __init__(self, place: Path) -> None:
        self.place, self.data, self.blobs = place, place / "data", place / "blobs"
        self.blobs.mkdir(parents=True)
        self._pool = ThreadPoolExecutor(2)
        self._seen: dict[str, tuple[tuple[int, int, int], list[str]]] = {}
        self._versions: list[dict[str, list[str]]] = []

    def snapshot(self) -> None:
        self._versions.append(self._scan(store=True))

    def status(self) -> None:
        self._scan(store=False)

    def checkout(self) -> None:
        now, then = self._versions[-1], self._versions[0]
        list(self._pool.map(lambda p: self._restore(p, now[p], then[p]), [p for p in then if now[p] != then[p]]))

    def stored(self) -> int:
        return stored(self.blobs)

    def _scan(self, store: bool) -> dict[str, list[str]]:
        found, todo, below = {}, [], [str(self.data)]
        while below:
            with os.scandir(below.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        below.append(entry.path)
                        continue
                    now = entry.stat(follow_symlinks=False)
                    row = now.st_size, now.st_mtime_ns, now.st_ino
                    seen = self._seen.get(entry.path)
                    if seen is not None and seen[0] == row:
                        found[entry.path] = seen[1]
                    elif store:
                        todo.append((entry.path, row))
        halves = [todo] if len(todo) < 2 else [todo[::2], todo[1::2]]
        for part, digests in zip(
            halves, self._pool.map(lambda h: [self._store(p, r[0]) for p, r in h], halves), strict=True
        ):
            for (path, row), names in zip(part, digests, strict=True):
                self._seen[path], found[path] = (row, names), names
        return found

    def _store(self, path: str, size: int) -> list[str]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            if size <= 1 << 20:
                data = os.read(descriptor, size)
                return [self._put(blake3(data).hexdigest(), data)]
            if self.chunked:
                return list(ThreadPoolExecutor(2).map(lambda at: self._chunk(descriptor, at), range(0, size, CHUNK)))
            name = blake3(max_threads=2).update_mmap(path).hexdigest()
            with open(self.blobs / name, "wb") as out:
                _copy(descriptor, out.fileno(), size)
            return [name]
        finally:
            os.close(descriptor)

    def _chunk(self, descriptor: int, at: int) -> str:
        data = os.pread(descriptor, CHUNK, at)
        return self._put(blake3(data).hexdigest(), data)

    def _put(self, name: str, data: bytes) -> str:
        path = self.blobs / name
        if not path.exists():
            path.write_bytes(data)
        return name

    def _restore(self, path: str, now: list[str], then: list[str]) -> None:
        if not self.chunked or len(then) == 1:
            source = os.open(self.blobs / then[0], os.O_RDONLY)
            os.unlink(path)
            with open(path, "wb") as out:
                _copy(source, out.fileno(), os.fstat(source).st_size)
            os.close(source)
            return
        with open(path, "r+b") as file:
            size = 0
            for i, name in enumerate(then):
                if i < len(now) and now[i] == name:
                    continue
                os.pwrite(file.fileno(), (self.blobs / name).read_bytes(), i * CHUNK)
            size = (len(then) - 1) * CHUNK + (self.blobs / then[-1]).stat().st_size
            file.truncate(size)


class ChunkLimit(Limit):
    chunked = True


def _copy(source: int, target: int, size: int) -> None:
    at = 0
    while at < size:
        at += os.copy_file_range(source, target, min(1 << 30, size - at))


def one_round(kind: str, make_contestant: Callable[[Path], object], template: Path, place: Path) -> dict[str, float]:
    contestant: object = make_contestant(place)
    data = contestant.data  # type: ignore[attr-defined]
    shutil.copytree(template, data)
    os.sync()
    time.sleep(0.1)
    times: dict[str, float] = {}

    def timed(step: str, call: Callable[[], None]) -> None:
        began = time.perf_counter()
        call()
        times[step] = time.perf_counter() - began

    first = digest(data)
    timed("first", contestant.snapshot)  # type: ignore[attr-defined]
    getattr(contestant, "mark_first", lambda: None)()
    timed("status", contestant.status)  # type: ignore[attr-defined]
    one = contestant.stored()  # type: ignore[attr-defined]
    for step, edit in (("append 1 %", append), ("1 % in place", in_place)):
        getattr(contestant, "before_edit", lambda: None)()
        edit(data, kind)
        os.sync()
        timed(step, contestant.snapshot)  # type: ignore[attr-defined]
    timed("status after", contestant.status)  # type: ignore[attr-defined]
    times["stored, three / one"] = contestant.stored() / one  # type: ignore[attr-defined]
    os.sync()
    timed("checkout v1", contestant.checkout)  # type: ignore[attr-defined]
    if digest(data) != first:
        raise SystemExit(f"{make_contestant}: what was checked out is not what was stored")
    shutil.rmtree(place)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bytes", type=float, default=2e8)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("large", "small"))
    parser.add_argument("--dvc", type=Path, help="an environment with dvc and git")
    parser.add_argument("--hardlink", action="store_true", help="dvc with hard links too")
    parser.add_argument("--oxen", type=Path, help="an environment with oxenai")
    parser.add_argument("--no-limits", action="store_true")
    parser.add_argument("--at", type=Path, default=Path("/var/tmp"), help="the disk to measure")
    args = parser.parse_args()
    import boucle

    compileall.compile_dir(Path(boucle.__file__).parent, quiet=2)
    contestants: dict[str, Callable[[Path], object]] = {"boucle": Ours}
    if not args.no_limits:
        contestants |= {"limit: copy": Limit, "limit: chunks": ChunkLimit}
    if args.dvc:
        contestants["dvc"] = lambda place: Dvc(place, args.dvc)
        if args.hardlink:
            contestants["dvc hardlink"] = lambda place: DvcHardlink(place, args.dvc)
    if args.oxen:
        contestants["oxen"] = lambda place: Oxen(place, args.oxen)
    for kind in ("large", "small"):
        if args.only not in (None, kind):
            continue
        with tempfile.TemporaryDirectory(dir=args.at, prefix="versions-") as folder:
            template = Path(folder) / "template"
            make(template, kind, int(args.bytes), args.files)
            found: dict[str, list[dict[str, float]]] = {name: [] for name in contestants}
            loads = []
            for _ in range(args.rounds):
                for name, contestant in contestants.items():
                    loads.append(os.getloadavg()[0])
                    found[name].append(one_round(kind, contestant, template, Path(folder) / "work"))
        what = (
            f"one file of {args.bytes / 1e9:g} GB"
            if kind == "large"
            else f"{args.files:,} files, {args.bytes / 1e9:g} GB"
        )
        print(f"\n{what}; medians of {args.rounds}, load {min(loads):.1f} to {max(loads):.1f}")
        print(f"{'':22}" + "".join(f"{name:>16}" for name in contestants) + f"{'x limit':>10}{'dvc x':>8}")
        for step in (*STEPS, "stored, three / one"):
            middle = {name: statistics.median(r[step] for r in rounds) for name, rounds in found.items()}
            unit = "" if step.startswith("stored") else " s"
            row = f"{step:22}" + "".join(f"{value:14.3f}{unit:2}" for value in middle.values())
            limits = [middle[name] for name in middle if name.startswith("limit")]
            row += f"{middle['boucle'] / min(limits):10.1f}" if limits and unit else f"{'':10}"
            row += f"{middle['dvc'] / middle['boucle']:8.1f}" if "dvc" in middle and unit else ""
            print(row)


if __name__ == "__main__":
    main()
