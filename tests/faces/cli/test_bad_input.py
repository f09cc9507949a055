"""Bad data, full disks and read-only folders: a clear error with its exit code, and nothing half-written."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest


def rows(n=40, **columns):
    """A CSV text: x, a label y, and columns by a function of the row number."""
    lines = [",".join(["x", "y", *columns])]
    for i in range(n):
        more = [str(f(i)) for f in columns.values()]
        lines += [",".join([str(i % 7 + i / 100), "yes" if i % 3 else "no", *more])]
    return "\n".join(lines) + "\n"


def everything(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


def begin(cli, home, text, target="y"):
    (home / "data.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return cli("new", "p", "--from", "data.csv", "--target", target)


@pytest.mark.parametrize(
    ("text", "target", "code", "said"),
    [
        ("", "y", 2, "is empty"),
        ("\n\n\n", "y", 2, ""),
        (rows(), "z", 2, "no column named 'z'"),
        ("a,a,y\n1,2,3\n", "y", 2, "a"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 100, "y", 2, "PNG"),
        (b"\0\1\2\3" * 100, "y", 2, "not text"),
    ],
)
def test_a_file_that_will_not_do_leaves_nothing(cli, home, text, target, code, said):
    made = begin(cli, home, text, target)
    assert (made.code, said in made.err) == (code, True), made.err
    assert "Traceback" not in made.err
    assert everything(home) == ["data.csv"]


@pytest.mark.parametrize(
    ("text", "target", "said"),
    [
        (rows(), "x2", "no column"),
        (rows(only=lambda i: "same"), "only", "only"),
        (rows(empty=lambda i: ""), "empty", "empty"),
        ("x,y\n1,a\n", "y", ""),
        ("y\n" + "a\nb\n" * 20, "y", ""),
        (rows(id=lambda i: f"u{i}"), "id", ""),
    ],
)
def test_data_that_nothing_can_be_learned_from_is_said(cli, home, text, target, said):
    made = begin(cli, home, text, target)
    if made.code == 0:
        made = cli("run", "-C", "p")
        assert made.code in (1, 2)
        assert cli("models", "-C", "p", "--json").json == []
        assert cli("fsck", "-C", "p").code == 0
    else:
        assert everything(home) == ["data.csv"]
    error = made.err.splitlines()
    assert said in made.err
    assert any(line.strip().startswith(("expected:", "to do:")) for line in error), made.err
    assert "Traceback" not in made.err


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        rows(60, mixed=lambda i: i if i % 2 else f"w{i}"),
        rows(60, empty=lambda i: ""),
        rows(60).encode() + b"1,yes\n" + "2,caf\u00e9\n".encode("latin-1"),
        rows(60, word=lambda i: "naïve 日本 😀"[i % 9 :]),
        rows(60, big=lambda i: 10**30 + i, date=lambda i: "2024-13-45" if i == 5 else f"2024-01-{i % 28 + 1:02}"),
    ],
    ids=["mixed types", "an empty column", "not UTF-8", "any script", "out of range"],
)
def test_odd_but_usable_data_gets_a_model(cli, home, text):
    assert begin(cli, home, text).code == 0
    done = cli("run", "-C", "p", "--json")
    assert done.code == 0, done.err
    assert done.json["result"] == "model:p@1"
    assert cli("fsck", "-C", "p").code == 0


@pytest.mark.slow
def test_ten_thousand_columns(cli, home):
    dice = random.Random(0)
    names = [f"c{i}" for i in range(10_000)]
    lines = [",".join([*names, "y"])]
    lines += [",".join([*(str(dice.randint(0, 99)) for _ in names), dice.choice("ab")]) for _ in range(30)]
    (home / "wide.csv").write_text("\n".join(lines) + "\n")
    cli("init")
    said = cli("data", "ingest", "wide.csv", "--name", "wide", "--json")
    assert (said.code, said.json["columns"], said.json["rows"]) == (0, 10_001, 30)
    assert cli("data", "show", "wide", "--json").code == 0
    assert cli("fsck").code == 0


def test_an_error_of_the_system_is_no_traceback(cli, home, monkeypatch):
    cli("init")

    def fail(*_, **__):
        raise OSError(28, "No space left on device", "/somewhere")

    monkeypatch.setattr("boucle.data.ingest.preview", fail)
    (home / "a.csv").write_text(rows())
    said = cli("data", "ingest", "a.csv", "--name", "a", "--dry-run")
    assert (said.code, said.err.splitlines()[0]) == (7, "error: /somewhere: No space left on device")


# --- disks ----------------------------------------------------------------------------------------------------------


def mounted(folder, *options):
    """Mount a small file system, or skip where that is not allowed."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")


@pytest.fixture
def disk(home):
    """A file system of 4 MiB; removed afterwards."""
    folder = home / "disk"
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    mounted(folder, "-t", "tmpfs", "-o", "size=4m", "tmpfs")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def command(folder, *arguments):
    line = [sys.executable, "-m", "boucle.faces.cli.main", *map(str, arguments)]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_a_full_disk(disk, home):
    dice = random.Random(0)
    (home / "big.csv").write_text(
        rows(200_000, a=lambda i: dice.random(), b=lambda i: dice.random(), c=lambda i: dice.random())
    )
    (home / "small.csv").write_text(rows())
    assert command(disk, "init")[0] == 0
    assert command(disk, "data", "ingest", home / "small.csv", "--name", "small")[0] == 0
    code, _, error = command(disk, "data", "ingest", home / "big.csv", "--name", "big")
    assert (code, "Traceback" in error) == (7, False), error
    assert "room on the disk" in error
    assert command(disk, "fsck")[0] == 0
    code, out, _ = command(disk, "data", "list", "--json")
    assert '"small@1"' in out
    assert "big" not in out
    mounted(disk, "-o", "remount,size=40m")
    assert command(disk, "fsck")[0] == 0
    assert command(disk, "data", "ingest", home / "big.csv", "--name", "big")[0] == 0


@pytest.mark.slow
def test_a_read_only_workspace(disk, home):
    (home / "small.csv").write_text(rows())
    assert command(disk, "init")[0] == 0
    assert command(disk, "data", "ingest", home / "small.csv", "--name", "small")[0] == 0
    mounted(disk, "-o", "remount,ro")
    for arguments, codes in {
        ("data", "ingest", str(home / "small.csv"), "--name", "more"): (7,),
        ("init", "sub"): (7,),
        ("data", "list"): (0, 7),
        ("models",): (0, 7),
        ("fsck",): (0, 7),
        ("doctor",): (0, 1),
    }.items():
        code, _, error = command(disk, *arguments)
        assert (code in codes, "Traceback" in error) == (True, False), (arguments, code, error)
    mounted(disk, "-o", "remount,rw")
    assert command(disk, "fsck")[0] == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_rights(cli, home):
    (home / "closed").mkdir(mode=0o500)
    assert cli("init", "closed").code == 7
    assert everything(home / "closed") == []
