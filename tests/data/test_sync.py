"""Datasets between stores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

import boucle.workspace
from boucle.core.errors import Conflict, Corrupt, Invalid, NotFound
from boucle.core.frames import Frame, to_rows
from boucle.core.records import Dataset
from boucle.data import sync
from boucle.ledger import contents, datasets, trees
from boucle.ledger.soundness import check


@pytest.fixture
def make(tmp_path):
    opened = []

    def workspace(name, **settings):
        ws = boucle.workspace.init(tmp_path / name, actor=name, **settings)
        opened.append(ws)
        return ws

    yield workspace
    for ws in opened:
        ws.close()


@pytest.fixture
def ann(make):
    """A workspace with two versions of a table, and files of which one is large."""
    ws = make("ann")
    for rows in (100, 200):
        statistics = ws.blobs.put(b"statistics %d" % rows)
        bad = ws.blobs.put(b"bad %d" % rows)
        datasets.commit(
            ws,
            "tx",
            Frame.of({"x": list(range(rows))}),
            source="a/file.csv",
            statistics=statistics,
            tags={"bad_lines": bad},
        )
    files = [(f"pics/{i}.png", b"%d" % i * 100) for i in range(300)]
    datasets.commit_files(ws, "pics", trees.add(ws.blobs, [*files, ("large.bin", os.urandom(9 << 20))]))
    return ws


@pytest.fixture
def there(tmp_path):
    return str(tmp_path / "there")


def rows(ws, ref):
    return to_rows(datasets.load(ws, ref).head(1000))


def test_what_is_pushed_can_be_pulled(ann, make, there):
    sent = sync.push(ann, there)
    assert set(sent.datasets) == {"tx@1", "tx@2", "pics@1"}
    bob = make("bob")
    fetched = sync.pull(bob, there)
    assert (set(fetched.datasets), fetched.blobs) == (set(sent.datasets), sent.blobs)
    assert rows(bob, "tx@1") == rows(ann, "tx@1")
    for key in sent.datasets:
        assert bob.store.get(Dataset, key) == ann.store.get(Dataset, key)
    assert check(bob).problems == []
    assert {e.data["digest"] for e in bob.store.events(type="dataset.pulled")} == {
        d.digest for d in ann.store.find(Dataset)
    }
    assert [e.data["remote"] for e in ann.store.events(type="dataset.pushed")] == [there] * 3
    tree = trees.files(bob.blobs, bob.store.get(Dataset, "pics@1").manifest)
    large = next(e for e in tree if e.path == "large.bin")
    assert trees.open_file(bob.blobs, large).read() == trees.open_file(ann.blobs, large).read()


def test_nothing_is_moved_twice(ann, make, there):
    sync.push(ann, there)
    again = sync.push(ann, there)
    assert (again.datasets, again.blobs, again.bytes, again.there) == ((), 0, 0, 3)
    bob = make("bob")
    sync.pull(bob, there)
    assert sync.pull(bob, there).datasets == ()
    datasets.commit(bob, "tx", Frame.of({"x": [1, 2, 3]}))
    assert sync.push(bob, there).datasets == ("tx@3",)
    assert sync.pull(ann, there).datasets == ("tx@3",)
    assert rows(ann, "tx@latest") == [{"x": 1}, {"x": 2}, {"x": 3}]


def test_many_small_blobs_are_few_objects(ann, there):
    sent = sync.push(ann, there, ["pics"])
    assert sent.blobs > 300
    assert len([p for p in Path(there).rglob("*") if p.is_file()]) < 20


def test_a_dry_run_moves_nothing(ann, make, there):
    would = sync.push(ann, there, dry_run=True)
    assert not Path(there).exists()
    sent = sync.push(ann, there)
    assert (would.datasets, would.blobs, would.bytes) == (sent.datasets, sent.blobs, sent.bytes)
    bob = make("bob")
    would = sync.pull(bob, there, dry_run=True)
    assert would.bytes > 9 << 20
    assert bob.store.count(Dataset) == 0
    assert list(bob.blobs.list()) == []


@pytest.mark.parametrize(
    ("names", "keys"), [(["tx"], {"tx@1", "tx@2"}), (["tx@1"], {"tx@1"}), (["tx@latest", "pics"], {"tx@2", "pics@1"})]
)
def test_names_choose_versions(ann, make, there, names, keys):
    assert set(sync.push(ann, there, names).datasets) == keys
    for key in {"tx@1", "tx@2", "pics@1"} - keys:
        with pytest.raises(NotFound):
            sync.pull(make("bob"), there, [key])
    assert set(sync.pull(make("cleo"), there, names).datasets) == keys


def test_names_that_are_nowhere_are_not_found(ann, make, there):
    with pytest.raises(NotFound, match="no datasets in"):
        sync.pull(make("bob"), there)
    with pytest.raises(NotFound, match="tz"):
        sync.push(ann, there, ["tz"])
    sync.push(ann, there)
    with pytest.raises(NotFound, match="tz"):
        sync.pull(make("bob"), there, ["tz"])
    with pytest.raises(NotFound, match="tz"):
        sync.sync(ann, there, ["tz"])
    with pytest.raises(Invalid):
        sync.pull(make("bob"), there, ["tx@{yesterday}"])


def test_another_content_of_a_version_is_a_conflict(ann, make, there):
    sync.push(ann, there)
    bob = make("bob")
    datasets.commit(bob, "tx", Frame.of({"x": [7]}))
    datasets.commit(bob, "mine", Frame.of({"x": [8]}))
    before = sorted(p for p in Path(there).rglob("*"))
    for move in (sync.push, sync.pull, sync.sync):
        with pytest.raises(Conflict) as told:
            move(bob, there)
        assert "tx@1" in told.value.what
        assert "by bob" in told.value.what
        assert "by ann" in told.value.what
        assert "boucle data export tx@1" in told.value.fix
    assert sorted(p for p in Path(there).rglob("*")) == before
    assert sync.push(bob, there, ["mine"]).datasets == ("mine@1",)
    assert bob.store.count(Dataset) == 2


def test_both_ways_at_once(ann, make, there):
    sync.push(ann, there, ["tx"])
    bob = make("bob")
    datasets.commit(bob, "mine", Frame.of({"x": [8]}))
    fetched, sent = sync.sync(bob, there)
    assert (set(fetched.datasets), sent.datasets) == ({"tx@1", "tx@2"}, ("mine@1",))
    fetched, sent = sync.sync(ann, there)
    assert (fetched.datasets, sent.datasets) == (("mine@1",), ("pics@1",))


def test_a_pull_that_fails_shows_nothing_and_goes_on_later(ann, make, there):
    sync.push(ann, there)
    bob = make("bob")
    packs = list(Path(there, "packs").glob("*.pack"))
    kept = packs[0].read_bytes()
    packs[0].write_bytes(kept[:100] + b"damaged" + kept[107:])
    with pytest.raises(Corrupt):
        sync.pull(bob, there)
    assert bob.store.count(Dataset) == 0
    packs[0].write_bytes(kept)
    assert len(sync.pull(bob, there).datasets) == 3
    assert check(bob).problems == []


def test_what_is_damaged_here_is_not_sent(ann, there):
    block = next(iter(contents.blobs_of(ann.blobs, ann.store.get(Dataset, "tx@1"))))
    path = ann.blobs.path(block)
    path.chmod(0o644)
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(Corrupt):
        sync.push(ann, there)
    assert not Path(there, "datasets").exists()


KILLED = """
import os, sys, threading
import boucle.workspace
from boucle.data import sync
from boucle.plugins.places.file import FilePlace
write, left = FilePlace.write, [int(sys.argv[3])]
def dying(self, path, data, *, new=False):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), 9)
    write(self, path, data, new=new)
FilePlace.write = dying
with boucle.workspace.open(sys.argv[1]) as ws:
    sync.push(ws, sys.argv[2])
"""


def test_a_push_that_is_killed_goes_on_where_it_stopped(ann, make, there):
    for writes in (0, 2, 4, 6):
        done = subprocess.run([sys.executable, "-c", KILLED, str(ann.project), there, str(writes)], check=False)
        assert done.returncode == -9
        records = list(Path(there).glob("datasets/*/*.json"))
        bob = make(f"bob{writes}")
        if records:  # what is visible is whole
            sync.pull(bob, there)
            assert check(bob).problems == []
        else:
            with pytest.raises(NotFound):
                sync.pull(bob, there)
    total = sync.push(ann, str(Path(there) / "another"), dry_run=True).blobs
    assert sync.push(ann, there).blobs < total
    cleo = make("cleo")
    assert len(sync.pull(cleo, there).datasets) == 3
    assert check(cleo).problems == []


PUSH = """
import sys
import boucle.workspace
from boucle.data import sync
with boucle.workspace.open(sys.argv[1]) as ws:
    sync.push(ws, sys.argv[2])
"""


def test_pushes_at_once_do_not_disturb_each_other(ann, make, there):
    sync.push(ann, there, ["tx@1"])
    bob = make("bob")
    sync.pull(bob, there)
    for i in range(5):
        datasets.commit(bob, "mine", Frame.of({"x": [i]}))
    same = trees.files(ann.blobs, ann.store.get(Dataset, "pics@1").manifest)
    for entry in same:
        for blob in {entry.digest, *(d for d, _ in trees.chunks_of(ann.blobs, entry))}:
            bob.blobs.put(ann.blobs.get(blob))
    datasets.commit_files(bob, "pics", trees.Tree(trees.write(bob.blobs, same.lines), same.lines))
    started = [subprocess.Popen([sys.executable, "-c", PUSH, str(ws.project), there]) for ws in (ann, bob, ann, bob)]
    assert [p.wait() for p in started] == [0, 0, 0, 0]
    cleo = make("cleo")
    assert len(sync.pull(cleo, there).datasets) == 8
    assert check(cleo).problems == []


@pytest.mark.parametrize(
    "said",
    [
        "", "[]", "{}", '{"format": 1}', '{"format": 1, "dataset": []}', '{"format": 1, "dataset": {"name": "tx"}}', "{not",
        "name", "version", "manifest", "rows", "type", "newer", "field",
    ],
)  # fmt: skip
def test_a_record_that_is_none_is_told(ann, make, there, said):
    sync.push(ann, there, ["tx@1"])
    path = Path(there, "datasets/tx/1.json")
    good = json.loads(path.read_text())
    changed = {
        "name": {"name": "../x"}, "version": {"version": 2}, "manifest": {"manifest": 7}, "rows": {"rows": "many"},
        "type": {"type": "tree"}, "field": {"wings": 2},
    }  # fmt: skip
    if said in changed:
        good["dataset"].update(changed[said])
        said = json.dumps(good)
    elif said == "newer":
        said = json.dumps({**good, "format": 2})
    path.write_text(said)
    bob = make("bob")
    with pytest.raises((Corrupt, Invalid)):
        sync.pull(bob, there)
    assert bob.store.count(Dataset) == 0


def test_a_manifest_that_is_no_digest_is_refused(ann, make, there):
    sync.push(ann, there, ["tx@1"])
    path = Path(there, "datasets/tx/1.json")
    good = json.loads(path.read_text())
    good["dataset"]["manifest"] = "../../etc/passwd"
    path.write_text(json.dumps(good))
    with pytest.raises((Corrupt, Invalid)):
        sync.pull(make("bob"), there)


# --- mirror -----------------------------------------------------------------------------------------------------------


def damage(path: Path) -> None:
    path.chmod(0o644)
    raw = path.read_bytes()
    path.write_bytes(bytes([raw[0] ^ 1]) + raw[1:])


def test_a_mirror_is_whole(ann, there, make):
    kept = sync.mirror(ann, there)
    assert (kept.problems, kept.mended, set(kept.datasets)) == ([], [], {"tx@1", "tx@2", "pics@1"})
    assert kept.sent == kept.checked
    again = sync.mirror(ann, there)
    assert (again.sent, again.problems, again.datasets) == (0, [], ())
    assert len(sync.pull(make("bob"), there).datasets) == 3


def test_damage_is_found_on_both_sides_and_mended(ann, there, make):
    sync.mirror(ann, there)
    blobs = sync.opened(ann, there).blobs
    dataset = ann.store.get(Dataset, "tx@2")
    damage(ann.blobs.path(dataset.manifest))
    ann.blobs.remove(dataset.statistics)
    packs = sorted(Path(there, "packs").glob("*.pack"), key=lambda p: p.stat().st_size)
    damage(packs[-1])
    loose = next(p for p in Path(there, "blobs").rglob("*") if p.is_file())
    loose.unlink()
    found = sync.mirror(ann, there)
    assert len(found.problems) == 3
    assert found.mended == []
    assert found.sent == 1  # what is missing there is sent in any case
    mended = sync.mirror(ann, there, repair=True)
    assert mended.problems == []
    assert len(mended.mended) == 3
    assert sync.mirror(ann, there).problems == []
    assert check(ann).problems == []
    assert list(blobs.check()) == []
    assert len(sync.pull(make("bob"), there).datasets) == 3


def test_a_damaged_index_is_mended(ann, there):
    sync.mirror(ann, there)
    damage(next(Path(there, "packs").glob("*.index")))
    with pytest.raises(Corrupt):
        sync.mirror(ann, there)
    mended = sync.mirror(ann, there, repair=True)
    assert mended.problems == []
    assert len(mended.mended) == 1
    assert sync.mirror(ann, there).problems == []


def test_what_is_sound_nowhere_stays_a_problem(ann, there):
    sync.mirror(ann, there)
    manifest = ann.store.get(Dataset, "tx@2").statistics
    ann.blobs.remove(manifest)
    sync.opened(ann, there).blobs.remove(manifest)
    for repair in (False, True):
        kept = sync.mirror(ann, there, repair=repair)
        assert len(kept.problems) == 1
        assert manifest[:12] in kept.problems[0]


# --- which remote -----------------------------------------------------------------------------------------------------


def test_a_remote_has_a_name_and_its_secrets_are_in_the_vault(ann, make, s3_server, monkeypatch, tmp_path):
    (tmp_path / "bob").mkdir()
    (tmp_path / "bob" / "boucle.toml").write_text(
        f'[boucle]\n[remotes.team]\nurl = "s3://boucle-tests/{uuid.uuid4().hex}"\n'
        f'options = {{ endpoint = "{s3_server["endpoint"]}", region = "us-east-1", access_key_id = "test", '
        'secret_access_key = "vault:team/key" }\n[remotes.shelf]\nurl = "../shelf"\n'
    )
    bob = make("bob")
    datasets.commit(bob, "mine", Frame.of({"x": [1]}))
    assert [r["remote"] for r in sync.remotes(bob)] == ["shelf", "team"]
    assert "vault:" not in json.dumps(sync.remotes(bob))
    with pytest.raises(NotFound, match="team/key"):
        sync.push(bob, "team")
    monkeypatch.setenv("BOUCLE_SECRET_TEAM_KEY", "hunter2")
    assert sync.push(bob, "team").datasets == ("mine@1",)
    assert sync.push(bob, "shelf").datasets == ("mine@1",)
    assert (tmp_path / "shelf" / "datasets" / "mine" / "1.json").exists()
    with pytest.raises(NotFound, match="no remote named 'teem'"):
        sync.push(bob, "teem")


@pytest.mark.parametrize(
    "table",
    [
        "x = 1", "[remotes.a]\n", "[remotes.a]\nurl = 1", '[remotes.a]\nurl = "x"\nkey = 2',
        '[remotes.a]\nurl = "x"\noptions = 3',
    ],
)  # fmt: skip
def test_a_table_that_is_no_remote_is_told(make, tmp_path, table):
    (tmp_path / "bob").mkdir()
    head = "[remotes]\n" if table.startswith("x") else ""
    (tmp_path / "bob" / "boucle.toml").write_text(f"[boucle]\n{head}{table}\n")
    with pytest.raises(Invalid, match="remotes"):
        sync.remotes(make("bob"))


def test_the_bytes_are_counted(ann, there):
    told = []
    sent = sync.push(ann, there, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (sent.bytes, sent.bytes)
    assert told == sorted(told)


def test_the_blobs_of_a_workspace_may_be_remote(make, tmp_path, there):
    bob = make("bob", blobs=f"remote:{tmp_path / 'blobs'}")
    datasets.commit(bob, "mine", Frame.of({"x": [1, 2]}))
    sync.push(bob, there)
    cleo = make("cleo", blobs=f"remote:{tmp_path / 'more'}")
    sync.pull(cleo, there)
    assert rows(cleo, "mine@1") == [{"x": 1}, {"x": 2}]
    assert check(cleo).problems == []
    assert time.time() - cleo.blobs.stored(cleo.store.get(Dataset, "mine@1").manifest) < 1000


@pytest.mark.parametrize(
    "change",
    [
        {"digest": "0" * 64},
        {"rows": 7},
        {"rows": True},
        {"size": 2**70},
        {"created": 2**70},
        {"manifest": "../../x"},
        {"statistics": "x"},
        {"tags": {"bad_lines": ["x"]}},
        {"position": {"held": [1]}},
        {"schema": {"columns": [{"name": "y", "type": "int64"}]}},
        {"schema": {}},
        {"type": "files"},
    ],
    ids=str,
)
def test_a_record_that_is_not_of_its_content_is_refused(ann, make, there, change):
    sync.push(ann, there, ["tx@1"])
    path = Path(there, "datasets/tx/1.json")
    said = json.loads(path.read_text())
    path.write_text(json.dumps({**said, "dataset": {**said["dataset"], **change}}))
    bob = make("bob")
    with pytest.raises((Corrupt, Invalid)):
        sync.pull(bob, there)
    assert bob.store.find(Dataset) == []


@pytest.mark.parametrize(
    "said", ["[" * 200_000, '{"format": 1e999, "dataset": {}}', '{"format": 1, "dataset": {"created": NaN}}']
)
def test_a_record_made_to_break_a_reader_is_refused(ann, make, there, said):
    sync.push(ann, there, ["tx@1"])
    Path(there, "datasets/tx/1.json").write_text(said)
    with pytest.raises(Corrupt, match="not the record"):
        sync.pull(make("bob"), there)


@pytest.mark.parametrize(
    "change",
    [
        {"blocks": 3},
        {"blocks": [3]},
        {"blocks": [{}]},
        {"arrow": "%%%"},
        {"arrow": "AAAA"},
        {"schema": []},
        {"tree": 3},
        {"rows": "x"},
        {"digest": "0" * 64},
    ],
    ids=str,
)
def test_a_manifest_that_is_none_is_refused(ann, make, there, change):
    sync.push(ann, there, ["tx@1"])
    path = Path(there, "datasets/tx/1.json")
    said = json.loads(path.read_text())
    manifest = {**json.loads(ann.blobs.get(said["dataset"]["manifest"])), **change}
    said["dataset"]["manifest"] = sync.opened(ann, there).blobs.put(json.dumps(manifest).encode())
    path.write_text(json.dumps(said))
    bob = make("bob")
    with pytest.raises(Corrupt):
        sync.pull(bob, there)
    assert bob.store.find(Dataset) == []
