# ruff: noqa: PTH115
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from boucle.core.errors import Conflict, Corrupt, Invalid, NotFound
from boucle.data import checkout as module
from boucle.data.checkout import checkout
from boucle.data.snapshot import snapshot, status
from boucle.ledger import datasets, trees
from boucle.workspace import Workspace, init

LARGE = random.Random(1).randbytes(9_000_000)


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    with init(tmp_path / "project") as opened:
        yield opened


@pytest.fixture
def place(ws: Workspace) -> Path:
    path = ws.project / "files"
    (path / "sub" / "deep").mkdir(parents=True)
    (path / "a.txt").write_bytes(b"alpha")
    (path / "run.sh").write_bytes(b"#!/bin/sh\n")
    (path / "run.sh").chmod(0o755)
    (path / "sub" / "b.txt").write_bytes(b"beta")
    (path / "sub" / "link").symlink_to("b.txt")
    (path / "sub" / "deep" / "large.bin").write_bytes(LARGE)
    return path


def on_disk(place: Path) -> dict[str, tuple[str, bytes]]:
    found = {}
    for p in sorted(place.rglob("*")):
        if p.is_symlink():
            found[str(p.relative_to(place))] = "l", os.fsencode(os.readlink(p))
        elif p.is_file():
            found[str(p.relative_to(place))] = (
                "x" if os.access(p, os.X_OK) and p.stat().st_mode & 0o100 else "f",
                p.read_bytes(),
            )
        elif p.is_dir():
            assert not p.name.startswith(".boucle")
    return found


@pytest.fixture
def three(ws: Workspace, place: Path) -> list[dict[str, tuple[str, bytes]]]:
    """Three versions; the folder holds the third."""
    found = []

    def take() -> None:
        snapshot(ws, place, "docs")
        found.append(on_disk(place))

    take()
    with (place / "sub" / "deep" / "large.bin").open("ab") as file:
        file.write(b"more" * 100_000)
    (place / "a.txt").write_bytes(b"omega")
    (place / "sub" / "link").unlink()
    (place / "sub" / "link").symlink_to("../a.txt")
    take()
    with (place / "sub" / "deep" / "large.bin").open("r+b") as file:
        file.seek(4_000_000)
        file.write(b"change")
    (place / "run.sh").chmod(0o644)
    shutil.rmtree(place / "new", ignore_errors=True)
    (place / "new").mkdir()
    (place / "new" / "c.txt").write_bytes(b"gamma")
    (place / "sub" / "b.txt").unlink()
    (place / "sub" / "b.txt").mkdir()
    (place / "sub" / "b.txt" / "now_a_folder").write_bytes(b"")
    take()
    return found


@pytest.mark.parametrize("path", [(1,), (2, 1), (1, 2, 3), (2, 3, 1, 3, 2)])
def test_a_folder_becomes_any_version(ws: Workspace, place: Path, three, path) -> None:
    for version in path:
        checkout(ws, f"docs@{version}", place)
        assert on_disk(place) == three[version - 1]
        found = status(ws, place)
        assert (found.ref, bool(found)) == (f"docs@{version}", False)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_into_an_empty_folder(ws: Workspace, three, tmp_path: Path, version: int) -> None:
    for name in ("new", "deeper/new"):
        done = checkout(ws, f"docs@{version}", tmp_path / name)
        assert on_disk(tmp_path / name) == three[version - 1]
        assert done.written == sorted(three[version - 1])
    assert not status(ws, tmp_path / "new")


def test_only_what_differs_is_touched(ws: Workspace, place: Path, three) -> None:
    large, run = place / "sub" / "deep" / "large.bin", place / "run.sh"
    before = large.stat().st_ino, run.stat().st_mtime_ns
    done = checkout(ws, "docs@2", place)
    assert done.how == {"patch": 1, "copy": 2}
    assert done.removed == ["new/c.txt", "sub/b.txt/now_a_folder"]
    assert not (place / "new").exists()
    assert large.stat().st_ino == before[0]
    assert not checkout(ws, "docs@2", place).written
    assert checkout(ws, "docs@1", place).written == ["a.txt", "sub/deep/large.bin", "sub/link"]


def test_what_is_in_no_version_is_not_lost(ws: Workspace, place: Path, three) -> None:
    (place / "run.sh").write_bytes(b"mine")
    (place / "sub" / "untracked").write_bytes(b"mine too")
    with (place / "sub" / "deep" / "large.bin").open("r+b") as file:
        file.write(b"changed")
    before = on_disk(place)
    with pytest.raises(Conflict) as error:
        checkout(ws, "docs@1", place)
    for name in ("run.sh", "sub/untracked", "sub/deep/large.bin"):
        assert name in error.value.what
    assert on_disk(place) == before
    assert checkout(ws, "docs@1", place, dry_run=True, force=True).overwritten
    assert on_disk(place) == before
    done = checkout(ws, "docs@1", place, force=True)
    assert done.overwritten == ["run.sh", "sub/deep/large.bin", "sub/untracked"]
    assert on_disk(place) == three[0]


def test_what_is_already_right_is_no_change(ws: Workspace, place: Path, three, tmp_path: Path) -> None:
    """Files put there by other means, and a memory that is lost."""
    shutil.copytree(place, tmp_path / "copy", symlinks=True)
    done = checkout(ws, "docs@3", tmp_path / "copy")
    assert (done.written, done.removed) == ([], [])
    assert not status(ws, tmp_path / "copy")
    for path in (ws.root / "trees").iterdir():
        path.unlink()
    with pytest.raises(Conflict):
        checkout(ws, "docs@2", place)  # nobody knows that these files are in a version
    checkout(ws, "docs@3", place)
    checkout(ws, "docs@2", place)
    assert on_disk(place) == three[1]


def test_a_deleted_file_comes_back(ws: Workspace, place: Path, three) -> None:
    (place / "run.sh").unlink()
    shutil.rmtree(place / "new")
    assert checkout(ws, "docs@3", place).written == ["new/c.txt", "run.sh"]
    assert on_disk(place) == three[2]


def test_a_change_right_after_a_checkout_is_seen(ws: Workspace, place: Path, three) -> None:
    for version in (1, 2, 1, 2):
        checkout(ws, f"docs@{version}", place)
        size = (place / "a.txt").stat().st_size
        (place / "a.txt").write_bytes(b"x" * size)
        assert status(ws, place).modified == ["a.txt"]
        checkout(ws, f"docs@{version}", place, force=True)


@pytest.mark.parametrize("link", ["auto", "reflink", "hardlink", "copy"])
def test_the_ways_of_linking(ws: Workspace, place: Path, three, tmp_path: Path, link: str) -> None:
    whole = ws.blobs.put(random.Random(8).randbytes(2_000_000))
    lines = [*trees.files(ws.blobs, datasets.resolve(ws, "docs@1").manifest).lines, f"{whole} f 2000000 whole"]
    tree = trees.Tree(trees.write(ws.blobs, lines), lines)
    trees.commit(ws, "linked", tree)
    done = checkout(ws, "linked@1", tmp_path / "out", link=link)
    assert {k: v[1] for k, v in on_disk(tmp_path / "out").items()} == {
        **{k: v[1] for k, v in three[0].items()},
        "whole": ws.blobs.get(whole),
    }
    assert sum(done.how.values()) == 6
    assert done.how["symlink"] == 1
    if link == "hardlink":
        assert done.how["hardlink"] == 3
        linked = (tmp_path / "out" / "a.txt").stat()
        assert (linked.st_nlink, linked.st_mode & 0o777) == (2, 0o444)
        checkout(ws, "docs@2", tmp_path / "out")  # which must not write into what is linked
        assert list(ws.blobs.check()) == []
        assert on_disk(tmp_path / "out") == three[1]
    else:
        assert "hardlink" not in done.how
        assert (tmp_path / "out" / "a.txt").stat().st_nlink == 1
    with pytest.raises(Invalid):
        checkout(ws, "docs@1", tmp_path / "out", link="magic")


def test_nothing_is_written_outside_through_a_link_in_the_folder(
    ws: Workspace, place: Path, three, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "b.txt").write_bytes(b"not yours")
    shutil.rmtree(place / "sub")
    (place / "sub").symlink_to(outside)
    with pytest.raises(Conflict):
        checkout(ws, "docs@1", place)
    with pytest.raises(Conflict):
        checkout(ws, "docs@1", place, force=True)
    assert [p.name for p in outside.iterdir()] == ["b.txt"]
    assert (outside / "b.txt").read_bytes() == b"not yours"
    (place / "sub").unlink()
    checkout(ws, "docs@1", place, force=True)
    assert on_disk(place) == three[0]


def commit(ws: Workspace, *lines: str) -> None:
    manifest = ws.blobs.put("\n".join([trees.HEAD, *lines, ""]).encode())
    trees.commit(ws, "evil", trees.Tree(manifest, list(lines)))


@pytest.mark.parametrize("path", ["../x", "/tmp/boucle-evil", ".git/hooks/post-checkout", "a/../../x", "sub/.boucle/x"])
def test_a_hostile_manifest_writes_nothing(ws: Workspace, tmp_path: Path, path: str) -> None:
    digest = ws.blobs.put(b"evil")
    commit(ws, *sorted([f"{digest} f 4 {path}", f"{digest} f 4 ok"], key=lambda line: line.split(" ", 3)[3]))
    with pytest.raises(Corrupt):
        checkout(ws, "evil@1", tmp_path / "out" / "in")
    assert [p for p in tmp_path.rglob("*") if p.name in ("x", "ok", "post-checkout", "boucle-evil")] == []


@pytest.mark.parametrize("target", [b"/etc", b"../..", b"a/../../.."])
def test_a_hostile_link_is_not_made(ws: Workspace, tmp_path: Path, target: bytes) -> None:
    link, file = ws.blobs.put(target), ws.blobs.put(b"evil")
    commit(ws, f"{link} l {len(target)} a", f"{file} f 4 b")
    with pytest.raises(Corrupt):
        checkout(ws, "evil@1", tmp_path / "out")
    assert not (tmp_path / "out" / "a").is_symlink()
    commit(ws, f"{link} l {len(target)} a", f"{file} f 4 a/b")
    with pytest.raises(Corrupt):
        checkout(ws, "evil@2", tmp_path / "out")


def test_sizes_and_chunks_that_lie_are_noticed(ws: Workspace, tmp_path: Path) -> None:
    file = ws.blobs.put(b"evil")
    commit(ws, f"{file} f 5 a")
    listed = ws.blobs.put(b"boucle chunks 1\n" + f"{file} 4\n".encode() * 3)
    commit(ws, f"{listed} F 99999999 a")
    commit(ws, f"{file} F 4 a")
    for version in (1, 2, 3):
        with pytest.raises(Corrupt):
            checkout(ws, f"evil@{version}", tmp_path / "out")
        assert on_disk(tmp_path / "out") == {}


def test_bad_references(ws: Workspace, place: Path, three, tmp_path: Path) -> None:
    datasets.commit(ws, "table", {"x": [1]})
    with pytest.raises(Invalid, match="is a table"):
        checkout(ws, "table@1", tmp_path / "out")
    for ref in ("docs@9", "dogs"):
        with pytest.raises(NotFound):
            checkout(ws, ref, tmp_path / "out")
    with pytest.raises(Invalid):
        checkout(ws, "docs@1", place / "a.txt")
    assert not (tmp_path / "out").exists()


def test_a_checkout_that_fails_is_finished_by_the_next(ws: Workspace, place: Path, three, monkeypatch) -> None:
    write, count = os.pwrite, iter(range(1000))

    def fails(*given):
        if next(count) == 1:
            raise OSError(5, "Input/output error")
        return write(*given)

    monkeypatch.setattr(os, "pwrite", fails)
    with pytest.raises(OSError, match="Input/output"):
        checkout(ws, "docs@1", place)
    monkeypatch.undo()
    assert status(ws, place).unfinished == "docs@1"
    with pytest.raises(Conflict, match="cut off"):
        snapshot(ws, place, "docs")
    checkout(ws, "docs@2", place)
    assert on_disk(place) == three[1]
    assert not status(ws, place).unfinished


BRINGING = """
import sys
from boucle.workspace import open
from boucle.data.checkout import checkout
ws = open(sys.argv[1])
print("go", flush=True)
checkout(ws, sys.argv[3], sys.argv[2])
"""


@pytest.mark.parametrize("again", [1, 3])
def test_a_killed_checkout_is_mended_by_the_next(ws: Workspace, place: Path, again: int) -> None:
    draw, versions = random.Random(again), []
    for version in range(3):
        for i in range(version, 60, 2):
            (place / f"f{i}").write_bytes(draw.randbytes(200_000))
        (place / "sub" / "deep" / "large.bin").write_bytes(draw.randbytes(1000) + draw.randbytes(20_000_000))
        snapshot(ws, place, "docs")
        versions.append(on_disk(place))
    cut_off = 0
    for i in range(10):
        version = (i + 1) % 3 + 1
        child = subprocess.Popen(
            [sys.executable, "-c", BRINGING, str(ws.project), str(place), f"docs@{version}"], stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.015 + draw.random() * 0.08)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        cut_off += bool(status(ws, place).unfinished)
        checkout(ws, f"docs@{again}", place)
        assert on_disk(place) == versions[again - 1]
        assert not status(ws, place)
    assert cut_off


def test_two_versions_with_the_same_paths_take_the_short_way(ws: Workspace, place: Path, three) -> None:
    one = trees.files(ws.blobs, datasets.resolve(ws, "docs@1").manifest)
    two = trees.files(ws.blobs, datasets.resolve(ws, "docs@2").manifest)
    three_ = trees.files(ws.blobs, datasets.resolve(ws, "docs@3").manifest)
    differing = module._same_paths(one, two)
    assert differing is not None
    assert [one.paths[i] for i in differing] == ["a.txt", "sub/deep/large.bin", "sub/link"]
    assert module._same_paths(one, three_) is None
