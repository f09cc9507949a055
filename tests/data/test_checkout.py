# ruff: noqa: PTH115
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from boucle.core.errors import Conflict, Corrupt, Invalid, NotFound
from boucle.data import checkout as module
from boucle.data import folder as folders
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
    for name in ("run.sh", "sub/deep/large.bin"):
        assert name in error.value.what
    assert "sub/untracked" not in error.value.what
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
    datasets.commit_files(ws, "linked", tree)
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
    datasets.commit_files(ws, "evil", trees.Tree(manifest, list(lines)))


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


def test_a_line_with_too_few_parts_is_corrupt(ws: Workspace, tmp_path: Path) -> None:
    file = ws.blobs.put(b"good")
    commit(ws, f"{file} f 4 a")
    manifest = ws.blobs.put(f"{trees.HEAD}\n{file} f\n".encode())
    datasets.commit_files(ws, "evil", trees.Tree(manifest, [f"{file} f 4 a"]))
    checkout(ws, "evil@1", tmp_path / "out")
    for folder in ("out", "other"):
        with pytest.raises(Corrupt):
            checkout(ws, "evil@2", tmp_path / folder)
    assert on_disk(tmp_path / "out") == {"a": ("f", b"good")}


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
import os, signal, sys
from boucle.workspace import open
from boucle.data.checkout import checkout
ws, write, left = open(sys.argv[1]), os.pwrite, int(sys.argv[4])
def dies(descriptor, data, at):
    global left
    left -= 1
    if left < 0:
        write(descriptor, data[: len(data) // 2], at)
        os.kill(os.getpid(), signal.SIGKILL)
    return write(descriptor, data, at)
os.pwrite = dies
checkout(ws, sys.argv[3], sys.argv[2])
"""


@pytest.mark.parametrize("again", [1, 3])
def test_a_killed_checkout_is_mended_by_the_next(ws: Workspace, place: Path, again: int) -> None:
    draw, versions = random.Random(again), []
    for version in range(3):
        for i in range(version, 60, 2):
            (place / f"f{i}").write_bytes(draw.randbytes(20_000 + 1000 * version))
        (place / "sub" / "deep" / "large.bin").write_bytes(draw.randbytes(1000) + draw.randbytes(6_000_000))
        snapshot(ws, place, "docs")
        versions.append(on_disk(place))
    for i, writes in enumerate((0, 1, 5, 20, 30)):
        version = (again + i) % 3 + 1
        if version == again:
            version = again % 3 + 1
        arguments = [str(ws.project), str(place), f"docs@{version}", str(writes)]
        assert subprocess.run([sys.executable, "-c", BRINGING, *arguments], check=False).returncode == -signal.SIGKILL
        assert status(ws, place).unfinished == f"docs@{version}"
        checkout(ws, f"docs@{again}", place)
        assert on_disk(place) == versions[again - 1]
        assert not status(ws, place)
        assert not status(ws, place).unfinished


def test_small_files_are_changed_in_place_only_where_nobody_else_has_them(ws: Workspace, place: Path, three) -> None:
    checkout(ws, "docs@1", place)
    inode = (place / "a.txt").stat().st_ino
    assert checkout(ws, "docs@2", place).how == {"patch": 2, "symlink": 1}
    assert (place / "a.txt").stat().st_ino == inode
    os.link(place / "a.txt", ws.project / "other")
    assert checkout(ws, "docs@2", place).kept == []  # its inode changed, its content did not
    assert checkout(ws, "docs@1", place).how == {"patch": 1, "symlink": 1, "copy": 1}
    assert (ws.project / "other").read_bytes() == b"omega"
    (place / "a.txt").chmod(0o444)
    assert checkout(ws, "docs@2", place).how == {"patch": 1, "symlink": 1, "copy": 1}
    assert on_disk(place) == three[1]


@pytest.fixture(params=["alone", "forked"])
def scanned(request: pytest.FixtureRequest, monkeypatch) -> None:
    """Other files are looked at after those that differ were written, or meanwhile by another process."""
    if request.param == "forked":
        monkeypatch.setattr(folders, "_FORK", 1)
        monkeypatch.setattr(folders, "_may_fork", lambda: True)


def test_local_changes_of_other_files_are_kept_and_told(ws: Workspace, place: Path, three, scanned) -> None:
    checkout(ws, "docs@1", place)
    (place / "run.sh").write_bytes(b"mine")
    (place / "sub" / "untracked").write_bytes(b"mine too")
    done = checkout(ws, "docs@2", place)
    assert (done.kept, done.overwritten) == (["run.sh", "sub/untracked"], [])
    assert done.written == ["a.txt", "sub/deep/large.bin", "sub/link"]
    mine = {"run.sh": ("x", b"mine"), "sub/untracked": ("f", b"mine too")}
    assert on_disk(place) == three[1] | mine
    found = status(ws, place)
    assert (found.ref, found.modified, found.added, found.removed) == ("docs@2", ["run.sh"], ["sub/untracked"], [])
    assert checkout(ws, "docs@1", place, dry_run=True).kept == done.kept
    with pytest.raises(Conflict, match=r"run\.sh"):
        checkout(ws, "docs@3", place)  # which has another run.sh
    assert on_disk(place) == three[1] | mine
    forced = checkout(ws, "docs@1", place, force=True)
    assert (forced.overwritten, forced.kept, forced.removed) == (["run.sh", "sub/untracked"], [], ["sub/untracked"])
    assert on_disk(place) == three[0]
    assert not status(ws, place)


def test_what_is_missing_comes_back_with_another_version(ws: Workspace, place: Path, three, scanned) -> None:
    checkout(ws, "docs@1", place)
    (place / "run.sh").unlink()
    (place / "a.txt").unlink()
    done = checkout(ws, "docs@2", place)
    assert done.written == ["a.txt", "run.sh", "sub/deep/large.bin", "sub/link"]
    assert on_disk(place) == three[1]
    assert not status(ws, place)


def test_what_cannot_come_back_past_a_file_of_mine_stays_away(ws: Workspace, place: Path, scanned) -> None:
    (place / "other").mkdir()
    (place / "other" / "x").write_bytes(b"x")
    snapshot(ws, place, "docs")
    (place / "a.txt").write_bytes(b"two")
    snapshot(ws, place, "docs")
    shutil.rmtree(place / "other")
    (place / "other").write_bytes(b"mine")
    (place / "run.sh").unlink()
    (place / "run.sh").mkdir()
    (place / "run.sh" / "mine").write_bytes(b"mine")
    done = checkout(ws, "docs@1", place)
    assert (done.written, done.kept) == (["a.txt"], ["other", "run.sh/mine"])
    found = status(ws, place)
    assert (found.added, found.removed) == (["other", "run.sh/mine"], ["other/x", "run.sh"])
    checkout(ws, "docs@1", place, force=True)
    assert not status(ws, place)
    assert (place / "other" / "x").read_bytes() == b"x"


def test_a_file_of_mine_where_the_version_has_one_is_a_conflict(ws: Workspace, place: Path, three, scanned) -> None:
    checkout(ws, "docs@2", place)
    for mine, blocked in (("new/c.txt", "new/c.txt"), ("new", "new"), ("new/c.txt/mine", "new/c.txt/mine")):
        (place / mine).parent.mkdir(parents=True, exist_ok=True)
        (place / mine).write_bytes(b"mine")
        before = on_disk(place)
        with pytest.raises(Conflict, match=f" {blocked}$|: {blocked}\n"):
            checkout(ws, "docs@3", place)
        assert on_disk(place) == before
        if (place / "new").is_dir():
            shutil.rmtree(place / "new")
        else:
            (place / "new").unlink()
    checkout(ws, "docs@3", place)
    assert on_disk(place) == three[2]


def test_what_differs_between_two_versions(ws: Workspace, place: Path, three) -> None:
    one, two, three_ = (trees.files(ws.blobs, datasets.resolve(ws, f"docs@{i}").manifest) for i in (1, 2, 3))
    differ = module._differ(one, two)
    assert list(differ.before) == list(differ.after) == ["a.txt", "sub/deep/large.bin", "sub/link"]
    assert differ.places == {path: one.paths.index(path) for path in differ.before}
    differ = module._differ(two, three_)
    assert differ.places is None
    assert sorted(differ.before) == ["run.sh", "sub/b.txt", "sub/deep/large.bin"]
    assert sorted(differ.after) == ["new/c.txt", "run.sh", "sub/b.txt/now_a_folder", "sub/deep/large.bin"]
