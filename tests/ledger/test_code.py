"""Code as a noun: commit, uncommitted change, and the sources that were reached."""

from __future__ import annotations

import json
import subprocess

import pytest

import boucle.workspace
from boucle.core.records import Code
from boucle.ledger import code as codes


@pytest.fixture(autouse=True)
def fresh():
    codes.checkout.cache_clear()
    yield
    codes.checkout.cache_clear()


def git(folder, *arguments):
    options = [
        "-c",
        "user.name=a",
        "-c",
        "user.email=a@b",
        "-c",
        "commit.gpgsign=false",
        "-c",
        "init.defaultBranch=main",
    ]
    done = subprocess.run(["git", *options, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "repo"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "work.py").write_text("x = 1\n")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    git(folder, "remote", "add", "origin", "https://user:secret@example.org/repo.git")
    with boucle.workspace.init(folder) as ws:
        git(folder, "add", ".")
        git(folder, "commit", "-qm", "settings")
        yield ws


def test_in_a_clean_checkout(repository):
    work = repository.project / "work.py"
    code = codes.keep(repository, "work:main", {"work": str(work)})
    assert code.commit == git(repository.project, "rev-parse", "HEAD")
    assert (code.branch, code.dirty, code.diff) == ("main", False, "")
    assert code.repository == "https://example.org/repo.git"
    sources = json.loads(repository.blobs.get(code.sources))
    assert sources["work"]["path"] == "work.py"
    assert repository.blobs.get(sources["work"]["blob"]) == work.read_bytes()
    assert codes.keep(repository, "work:main", {"work": str(work)}) == code
    assert repository.store.count(Code) == 1


def test_an_uncommitted_change_is_kept_with_new_files(repository):
    work, new = repository.project / "work.py", repository.project / "new.py"
    work.write_text("x = 2\n")
    new.write_text("y = 3\n")
    code = codes.keep(repository, "work:main", {"work": str(work)})
    assert code.dirty
    diff = repository.blobs.get(code.diff).decode()
    assert "+x = 2" in diff
    assert "new.py" in diff
    assert "y = 3" in diff


def test_the_diff_can_be_applied(repository, tmp_path):
    work = repository.project / "work.py"
    work.write_text("x = 2\n")
    code = codes.keep(repository, "work:main", {"work": str(work)})
    copy = tmp_path / "copy"
    git(tmp_path, "clone", "-q", str(repository.project), str(copy))
    git(copy, "checkout", "-q", code.commit)
    (tmp_path / "change.diff").write_bytes(repository.blobs.get(code.diff))
    git(copy, "apply", str(tmp_path / "change.diff"))
    assert (copy / "work.py").read_text() == "x = 2\n"


def test_other_code_is_another_record(repository):
    work = repository.project / "work.py"
    first = codes.keep(repository, "work:main", {"work": str(work)})
    assert codes.keep(repository, "work:other", {"work": str(work)}).digest != first.digest
    codes.checkout.cache_clear()
    work.write_text("x = 5\n")
    assert codes.keep(repository, "work:main", {"work": str(work)}).digest != first.digest


def test_outside_of_a_repository(shop, tmp_path):
    file = tmp_path / "alone.py"
    file.write_text("z = 1\n")
    code = codes.keep(shop, "alone.py", {"alone": str(file), "gone": str(tmp_path / "gone.py")})
    assert (code.commit, code.branch, code.dirty, code.repository) == ("", "", False, "")
    assert json.loads(shop.blobs.get(code.sources)).keys() == {"alone"}


def test_without_git(shop, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert codes.checkout(shop.project) is None


def test_when_the_commit_was_made(repository, shop):
    code = codes.keep(repository, "work:main", {})
    assert code.committed == float(git(repository.project, "log", "-1", "--format=%ct")) > 1e9
    assert codes.keep(shop, "alone.py", {}).committed == 0.0
