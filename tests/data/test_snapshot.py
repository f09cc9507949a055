# ruff: noqa: PTH115, PTH109, PTH208
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from boucle.core.errors import Conflict, Invalid, NotFound
from boucle.data import folder as folders
from boucle.data import reading
from boucle.data.snapshot import snapshot, status
from boucle.ledger import datasets, trees
from boucle.workspace import Workspace, init

LARGE = random.Random(1).randbytes(6_000_000)


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    with init(tmp_path / "project") as opened:
        yield opened


@pytest.fixture
def place(ws: Workspace) -> Path:
    path = ws.project / "files"
    (path / "sub" / "deep").mkdir(parents=True)
    (path / "a.txt").write_bytes(b"alpha")
    (path / "sub" / "b.txt").write_bytes(b"beta")
    (path / "sub" / "deep" / "large.bin").write_bytes(LARGE)
    return path


def content(ws: Workspace, ref: str) -> dict[str, bytes]:
    found = {}
    for entry in trees.files(ws.blobs, datasets.resolve(ws, ref).manifest):
        with trees.open_file(ws.blobs, entry) as file:
            found[entry.path] = file.read()
    return found


def on_disk(place: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(place)): os.fsencode(os.readlink(p)) if p.is_symlink() else p.read_bytes()
        for p in place.rglob("*")
        if p.is_symlink() or p.is_file()
    }


def stored(ws: Workspace) -> int:
    return sum(p.stat().st_size for p in (ws.root / "blobs").rglob("*") if p.is_file())


def older(place: Path) -> None:
    """Long enough ago for a file not to be read again."""
    for path in place.rglob("*"):
        if path.is_file():
            os.utime(path, (1_700_000_000, 1_700_000_000))


def test_a_folder_becomes_a_version(ws: Workspace, place: Path) -> None:
    taken = snapshot(ws, place, "docs")
    assert (taken.dataset.key, taken.new, taken.dataset.rows, taken.dataset.size) == ("docs@1", True, 3, 6_000_009)
    assert taken.changes.added == ["a.txt", "sub/b.txt", "sub/deep/large.bin"]
    assert content(ws, "docs@1") == on_disk(place)
    assert not status(ws, place)
    assert status(ws, place).unchanged == 3


def test_the_same_files_are_no_new_version(ws: Workspace, place: Path) -> None:
    one = snapshot(ws, place, "docs")
    before = stored(ws)
    again = snapshot(ws, place, "docs")
    assert (again.dataset, again.new) == (one.dataset, False)
    os.utime(place / "a.txt")
    (place / "sub" / "deep" / "large.bin").write_bytes(LARGE)
    touched = snapshot(ws, place, "docs")
    assert (touched.new, bool(touched.changes)) == (False, False)
    assert stored(ws) == before
    other = snapshot(ws, place, "copy")
    assert (other.dataset.key, other.new) == ("copy@1", True)
    assert other.dataset.manifest == one.dataset.manifest


def test_what_changed_is_told_and_stored(ws: Workspace, place: Path) -> None:
    snapshot(ws, place, "docs")
    (place / "a.txt").write_bytes(b"other")
    (place / "new").write_bytes(b"n")
    (place / "sub" / "b.txt").unlink()
    found = status(ws, place)
    assert (found.added, found.modified, found.removed, found.unchanged) == (["new"], ["a.txt"], ["sub/b.txt"], 1)
    taken = snapshot(ws, place, "docs")
    assert (taken.dataset.version, taken.changes.added, taken.changes.modified) == (2, ["new"], ["a.txt"])
    assert taken.changes.removed == ["sub/b.txt"]
    assert content(ws, "docs@2") == on_disk(place)
    assert content(ws, "docs@1")["a.txt"] == b"alpha"
    assert not status(ws, place)


def test_a_change_that_leaves_size_and_time_is_found_when_it_came_at_once(ws: Workspace, place: Path) -> None:
    for word in (b"omega", b"gamma", b"delta"):
        snapshot(ws, place, "docs")
        before = (place / "a.txt").stat()
        (place / "a.txt").write_bytes(word)
        os.utime(place / "a.txt", ns=(before.st_atime_ns, before.st_mtime_ns))
        assert status(ws, place).modified == ["a.txt"]


def test_only_what_changed_is_read(ws: Workspace, place: Path, monkeypatch) -> None:
    older(place)
    snapshot(ws, place, "docs")
    time.sleep(0.02)
    snapshot(ws, place, "docs")
    asked = []
    take = reading.take
    monkeypatch.setattr(
        reading, "take", lambda blobs, root, found, *rest: asked.append(found) or take(blobs, root, found, *rest)
    )
    (place / "a.txt").write_bytes(b"other")
    snapshot(ws, place, "docs")
    assert [[f.path for f in found] for found in asked] == [["a.txt"]]


@pytest.mark.parametrize("where", [0, 100_000_000])
def test_an_insertion_stores_a_few_chunks(ws: Workspace, place: Path, where: int) -> None:
    big = bytearray(random.Random(3).randbytes(200_000_000 if where else 20_000_000))
    (place / "big").write_bytes(big)
    snapshot(ws, place, "docs")
    before = stored(ws)
    big[where:where] = b"inserted"
    (place / "big").write_bytes(big)
    taken = snapshot(ws, place, "docs")
    assert taken.changes.modified == ["big"]
    assert stored(ws) - before < 13_000_000
    entry = next(e for e in trees.files(ws.blobs, taken.dataset.manifest) if e.path == "big")
    with trees.open_file(ws.blobs, entry) as file:
        assert file.read() == bytes(big)
    fresh = trees.add(ws.blobs, [("big", bytes(big))])
    assert next(iter(fresh)) == entry  # the chunks are those of cutting from scratch


changes = st.lists(
    st.tuples(st.sampled_from(["write", "insert", "cut", "append"]), st.floats(0, 1), st.integers(1, 1 << 20)),
    max_size=3,
)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(changes)
def test_any_change_of_a_large_file_comes_back(ws: Workspace, place: Path, edits) -> None:
    path = place / "sub" / "deep" / "large.bin"
    data = bytearray(path.read_bytes())
    for what, at, length in edits:
        i = int(at * len(data))
        fresh = random.Random(length).randbytes(length)
        if what == "write":
            data[i : i + length] = fresh
        elif what == "insert":
            data[i:i] = fresh
        elif what == "append":
            data += fresh
        else:
            del data[i : i + length]
    path.write_bytes(data)
    taken = snapshot(ws, place, "docs")
    assert content(ws, taken.dataset.key) == on_disk(place)
    (fresh_entry,) = trees.add(ws.blobs, [("x", bytes(data))])
    assert fresh_entry.digest in {e.digest for e in trees.files(ws.blobs, taken.dataset.manifest)}


def test_modes_links_and_odd_names(ws: Workspace, place: Path, tmp_path: Path) -> None:
    (place / "a.txt").chmod(0o755)
    (place / "to_b").symlink_to("sub/b.txt")
    (place / "sub" / "up").symlink_to("../a.txt")
    (place / "out").symlink_to("/etc/passwd")
    (place / "sub" / "sly").symlink_to("deep/../../../x")
    (place / "line\nbreak\\").write_bytes(b"odd")
    Path(os.fsdecode(os.fsencode(place) + b"/\xff\xfe")).write_bytes(b"not utf-8")
    os.mkfifo(place / "pipe")
    here = os.open(place, os.O_RDONLY)  # the address of a socket is short
    before = os.getcwd()
    os.fchdir(here)
    with socket.socket(socket.AF_UNIX) as listening:
        try:
            listening.bind("socket")
        finally:
            os.chdir(before)
            os.close(here)
    (place / ".git").mkdir()
    (place / ".git" / "config").write_bytes(b"")
    taken = snapshot(ws, place, "docs")
    modes = {e.path: e.mode for e in trees.files(ws.blobs, taken.dataset.manifest)}
    assert modes == {
        "a.txt": "x", "sub/b.txt": "f", "sub/deep/large.bin": "F", "to_b": "l", "sub/up": "l", "line\nbreak\\": "f",
        "\udcff\udcfe": "f",
    }  # fmt: skip
    assert content(ws, "docs@1")["to_b"] == b"sub/b.txt"
    assert {p for p, _ in taken.changes.skipped} == {"out", "sub/sly", "pipe", "socket"}
    again = status(ws, place)
    assert not again
    (place / "a.txt").chmod(0o644)
    assert status(ws, place).modified == ["a.txt"]


def test_what_is_ignored_is_left_out(ws: Workspace, place: Path) -> None:
    (place / "cache").mkdir()
    for name in ("cache/x", "sub/cache", "note.tmp", "sub/deep/note.tmp", "keep.tmp", "sub/log1", "sub/logx"):
        (place / name).write_bytes(b"")
    (place / ".boucleignore").write_text(
        "# comment\n\n*.tmp\n!keep.tmp\ncache/\n/a.txt\nsub/log[0-9]\nsub/**/large.bin\n"
    )
    taken = snapshot(ws, place, "docs")
    found = sorted(content(ws, taken.dataset.key))
    assert found == [".boucleignore", "keep.tmp", "sub/b.txt", "sub/cache", "sub/logx"]
    (place / ".boucleignore").write_text("*.tmp\n")
    assert status(ws, place).added == ["a.txt", "cache/x", "sub/deep/large.bin", "sub/log1"]


def test_bad_folders(ws: Workspace, place: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for bad, error in (
        (tmp_path / "none", NotFound),
        (tmp_path / "empty", Invalid),
        (place / "a.txt", Invalid),
        (ws.root, Invalid),
    ):
        with pytest.raises(error):
            snapshot(ws, bad, "docs")
    with pytest.raises(Invalid):
        snapshot(ws, place, "not a name")
    assert datasets.names(ws) == []
    datasets.commit(ws, "table", {"x": [1]})
    with pytest.raises(Invalid):
        snapshot(ws, place, "table")


def test_a_file_that_never_stays_as_it_is_is_a_conflict(ws: Workspace, place: Path, monkeypatch) -> None:
    real = os.preadv
    count = iter(range(10**6))

    def restless(descriptor, buffers, offset):
        (place / "a.txt").write_bytes(b"x" * (next(count) % 7 + 1))
        return real(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", restless)
    with pytest.raises(Conflict, match="changes faster"):
        snapshot(ws, place, "docs")
    monkeypatch.undo()
    assert content(ws, snapshot(ws, place, "docs").dataset.key) == on_disk(place)


def test_a_lost_or_broken_memory_costs_only_time(ws: Workspace, place: Path) -> None:
    one = snapshot(ws, place, "docs")
    for damage in (lambda raw: raw[: len(raw) // 2], lambda raw: b"", lambda raw: b"other" + raw):
        (memory,) = [p for p in (ws.root / "trees").iterdir() if not p.suffix]
        memory.write_bytes(damage(memory.read_bytes()))
        again = snapshot(ws, place, "docs")
        assert (again.dataset, again.new) == (one.dataset, False)
        assert not status(ws, place)


def test_a_version_that_is_gone_is_stored_again(ws: Workspace, place: Path) -> None:
    one = snapshot(ws, place, "docs")
    for digest in set(trees.needed(ws.blobs, one.dataset.manifest)):
        ws.blobs.remove(digest)
    snapshot(ws, place, "docs")
    assert content(ws, "docs@1") == on_disk(place)


@pytest.mark.parametrize("forked", [True, False])
def test_many_files_are_looked_at_by_two_processes(ws: Workspace, place: Path, monkeypatch, forked: bool) -> None:
    monkeypatch.setattr(folders, "_FORK", 1)
    monkeypatch.setattr(folders, "_may_fork", lambda: forked)
    for i in range(50):
        (place / f"f{i}").write_bytes(b"%d" % i)
    snapshot(ws, place, "docs")
    assert not status(ws, place)
    for i in range(0, 50, 7):
        (place / f"f{i}").write_bytes(b"changed %d" % i)
    (place / "f1").unlink()
    (place / "new").write_bytes(b"")
    found = status(ws, place)
    assert found.modified == sorted(f"f{i}" for i in range(0, 50, 7))
    assert (found.removed, found.added, found.unchanged) == (["f1"], ["new"], 53 - 8 - 1)
    snapshot(ws, place, "docs")
    assert content(ws, "docs") == on_disk(place)


def test_snapshots_at_once_give_one_version_each_content(ws: Workspace, place: Path) -> None:
    results, errors = [], []

    def work() -> None:
        try:
            results.append(snapshot(ws, place, "docs").dataset.key)
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert results == ["docs@1"] * 4


TAKING = """
import sys
from boucle.data import reading
from boucle.workspace import open
from boucle.data.snapshot import snapshot
reading._PACK = 3_000_000
print("go", flush=True)
snapshot(open(sys.argv[1]), sys.argv[2], "docs")
"""


def test_a_killed_snapshot_goes_on_where_it_was(ws: Workspace, place: Path) -> None:
    draw = random.Random(9)
    for i in range(30):
        (place / f"f{i}").write_bytes(draw.randbytes(300_000))
    (place / "big").write_bytes(draw.randbytes(40_000_000))
    kept = []
    for delay in (0.0, 0.02, 0.04, 0.06, 0.08, 0.12):
        child = subprocess.Popen([sys.executable, "-c", TAKING, str(ws.project), str(place)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(delay + draw.random() / 50)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        assert list(ws.blobs.check()) == []
        kept.append(len(list(ws.blobs.list())))
    assert kept == sorted(kept)
    taken = snapshot(ws, place, "docs")
    assert content(ws, taken.dataset.key) == on_disk(place)
    assert taken.dataset.version == 1
    assert set(trees.needed(ws.blobs, taken.dataset.manifest)) == set(ws.blobs.list())
    assert len(os.listdir(ws.root / "trees")) == 2
