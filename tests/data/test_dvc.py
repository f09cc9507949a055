"""DVC repositories, made and read by the real DVC."""

import hashlib
import json
import os
import subprocess

import pytest

import boucle
from boucle.core.errors import Corrupt, Invalid, NotFound
from boucle.data.checkout import checkout
from boucle.data.dvc import from_dvc, to_dvc, tracked
from boucle.ledger import datasets, trees
from boucle.workspace import init


@pytest.fixture
def ws(tmp_path):
    with init(tmp_path / "project", store="memory") as ws:
        yield ws


def run(*command, cwd):
    env = {
        **os.environ, "DVC_NO_ANALYTICS": "true", "HOME": str(cwd), "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b", "DVC_GLOBAL_CONFIG_DIR": str(cwd / ".g"),
        "DVC_SITE_CACHE_DIR": str(cwd / ".s"),
    }  # fmt: skip
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def repository(tmp_path, dvc):
    folder = tmp_path / "repo"
    (folder / "data" / "sub").mkdir(parents=True)
    run("git", "init", "-q", ".", cwd=folder)
    run(dvc, "init", "-q", cwd=folder)
    run(dvc, "remote", "add", "-q", "-d", "there", tmp_path / "remote", cwd=folder)
    return folder


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.slow
def test_what_dvc_tracks_becomes_versions(ws, repository, dvc, tmp_path):
    (repository / "data" / "a.txt").write_bytes(b"one\r\ntwo\n")
    (repository / "data" / "sub" / "b.bin").write_bytes(bytes(range(256)) * 20_000)
    (repository / "t.csv").write_text("id,x\n1,2.5\n")
    run(dvc, "add", "-q", "data", "t.csv", cwd=repository)
    (repository / "dvc.yaml").write_text(
        "stages:\n  copy:\n    cmd: cp t.csv made.csv\n    deps: [t.csv]\n    outs: [made.csv]\n    metrics:\n"
        "    - m.json:\n        cache: false\n".replace("cp t.csv made.csv", "cp t.csv made.csv && echo 1 > m.json")
    )
    run(dvc, "repro", "-q", cwd=repository)
    run("git", "add", "-A", cwd=repository)
    run("git", "commit", "-qm", "one", cwd=repository)
    first = contents(repository / "data")
    (repository / "data" / "a.txt").write_bytes(b"three\n")
    run(dvc, "add", "-q", "data", cwd=repository)
    run("git", "commit", "-qam", "two", cwd=repository)
    run(dvc, "push", "-q", "--all-commits", cwd=repository)

    got = from_dvc(ws, repository)
    assert sorted(d.key for d, new in got.done if new) == ["data@1", "made.csv@1", "t.csv@1"]
    assert got.skipped == [("m.json", "it is not kept in DVC's cache")]
    checkout(ws, "data@1", tmp_path / "out")
    assert contents(tmp_path / "out") == contents(repository / "data")
    assert not any(new for _, new in from_dvc(ws, repository).done)

    shutil_rmtree(repository / ".dvc" / "cache")  # now all comes from the remote
    with init(tmp_path / "other", store="memory") as other:
        told = from_dvc(other, repository, history=True, paths=["data"], prefix="old.")
        assert [d.key for d, _ in told.done] == ["old.data@1", "old.data@2"]
        assert told.done[0][0].tags["commit"] == run("git", "rev-parse", "HEAD~1", cwd=repository).strip()
        checkout(other, "old.data@1", tmp_path / "before")
        assert contents(tmp_path / "before") == first
        tables = from_dvc(other, repository, paths=["t.csv"], tables=True)
        assert boucle.load(other, "t.csv").table().to_pylist() == [{"id": 1, "x": 2.5}]
        assert tables.done[0][0].source == f"dvc:{repository}/t.csv"
        older = from_dvc(other, repository, revision="HEAD~1", paths=["data"], prefix="rev.")
        assert older.done[0][0].digest == told.done[0][0].digest
    with pytest.raises(NotFound, match=r"nothing\.csv"):
        from_dvc(ws, repository, paths=["nothing.csv"])
    with pytest.raises(NotFound, match="git"):
        from_dvc(ws, repository, revision="no-such-revision")


def shutil_rmtree(folder):
    import shutil

    shutil.rmtree(folder)


@pytest.mark.slow
def test_dvc_pulls_what_was_written(ws, repository, dvc):
    files = {"a/x.txt": b"one", "b.bin": bytes(range(256)) * 30_000, "leer.txt": b""}
    datasets.commit_files(ws, "pictures", trees.add(ws.blobs, list(files.items())))
    boucle.ingest(ws, {"id": [1, 2], "x": ["a", None]}, "tx")
    made, sent = to_dvc(ws, "pictures", repository)
    assert (made.name, sent) == ("pictures.dvc", 4)
    assert to_dvc(ws, "pictures", repository)[1] == 0
    to_dvc(ws, "tx@1", repository, path="tables/tx.parquet")
    run(dvc, "pull", "-q", cwd=repository)
    assert contents(repository / "pictures") == files
    import pyarrow.parquet as pq

    assert pq.read_table(repository / "tables" / "tx.parquet").to_pylist() == [
        {"id": 1, "x": "a"},
        {"id": 2, "x": None},
    ]
    assert "up to date" in run(dvc, "status", cwd=repository)
    assert "/pictures" in (repository / ".gitignore").read_text().splitlines()
    again = from_dvc(ws, repository, paths=["pictures"], prefix="back.")
    assert again.done[0][0].digest == datasets.resolve(ws, "pictures").digest


def make(folder, outs, objects=(), legacy=False):
    """A repository as DVC leaves it, without DVC."""
    (folder / ".dvc" / "cache").mkdir(parents=True)
    (folder / "x.dvc").write_text(json.dumps({"outs": outs}))
    for name, data in objects:
        place = folder / ".dvc" / "cache" / ("" if legacy else "files/md5") / name[:2] / name[2:]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    return folder


def md5(data):
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def test_text_that_dvc_2_hashed_without_its_carriage_returns(ws, tmp_path):
    data = b"one\r\ntwo\r\n" + b"x" * (1 << 20) + b"\r\n"
    name = md5(data.replace(b"\r\n", b"\n"))
    make(tmp_path / "r", [{"md5": name, "path": "t.txt"}], [(name, data)], legacy=True)
    ((dataset, _),) = from_dvc(ws, tmp_path / "r").done
    (entry,) = trees.files(ws.blobs, dataset.manifest)
    assert trees.open_file(ws.blobs, entry).read() == data


@pytest.mark.parametrize(
    ("outs", "objects", "error", "match"),
    [
        ([{"md5": md5(b"x"), "path": "a", "hash": "md5"}], [], NotFound, "neither"),
        ([{"md5": md5(b"x"), "path": "a", "hash": "md5"}], [(md5(b"x"), b"y")], Corrupt, "not what its name says"),
        ([{"md5": "../../../etc/passwd", "path": "a", "hash": "md5"}], [], Invalid, "no MD5"),
        ([{"md5": md5(b"[") + ".dir", "path": "a", "hash": "md5"}], [(md5(b"[") + ".dir", b"[")], Corrupt, "does not parse"),
        ([{"md5": md5(b"x")}], [], Invalid, "no path"),
    ],
)  # fmt: skip
def test_repositories_that_are_damaged(ws, tmp_path, outs, objects, error, match):
    make(tmp_path / "r", outs, objects)
    with pytest.raises(error, match=match):
        from_dvc(ws, tmp_path / "r")
    assert datasets.names(ws) == []


def test_a_list_that_leads_out_of_the_folder(ws, tmp_path):
    body = json.dumps([{"md5": md5(b"x"), "relpath": "../../evil"}]).encode()
    name = md5(body) + ".dir"
    make(tmp_path / "r", [{"md5": name, "path": "a", "hash": "md5"}], [(name, body), (md5(b"x"), b"x")])
    with pytest.raises(Invalid, match="evil"):
        from_dvc(ws, tmp_path / "r")


def test_what_is_left_out_is_said(tmp_path):
    make(tmp_path / "r", [{"path": "a"}, {"path": "../b", "md5": md5(b"")}, {"path": "s3://x/y", "md5": md5(b"")}])
    found, skipped = tracked(tmp_path / "r")
    assert not found
    assert [p for p, _ in skipped] == ["a", "../b", "s3:/x/y"]


def test_what_is_no_repository(ws, tmp_path):
    with pytest.raises(NotFound, match="DVC repository"):
        from_dvc(ws, tmp_path)
    make(tmp_path / "r", [])
    with pytest.raises(NotFound, match="remote"):
        boucle.ingest(ws, {"a": [1]}, "t")
        to_dvc(ws, "t", tmp_path / "r")
    (tmp_path / "r" / "x.dvc").write_text("outs: [")
    with pytest.raises(Invalid, match="does not parse"):
        from_dvc(ws, tmp_path / "r")


@pytest.mark.parametrize("path", ["..", "../x", "/etc/x", "a/../../x", ".git/hooks/x", "a/../.dvc/config"])
def test_tracking_only_among_the_files_of_the_repository(ws, tmp_path, path):
    root = tmp_path / "r"
    (root / ".dvc").mkdir(parents=True)
    (root / ".dvc" / "config").write_text(
        f"[core]\n    remote = r\n['remote \"r\"']\n    url = {tmp_path / 'remote'}\n"
    )
    boucle.ingest(ws, {"a": [1]}, "odd")
    with pytest.raises(Invalid, match=r"outside of the repository|keep their own"):
        to_dvc(ws, "odd", root, path=path)
    assert not list(tmp_path.rglob("*x.dvc"))
