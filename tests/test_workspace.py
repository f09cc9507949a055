"""The workspace: made, opened, found, and its handles opened only when they are needed."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading

import pytest

import boucle
from boucle.core.errors import Conflict, NotFound, Unavailable
from boucle.core.records import Run
from boucle.workspace import Workspace, init, open


def test_init_makes_it_and_can_be_repeated(tmp_path):
    folder = tmp_path / "deep" / "shop"
    with init(folder, actor="ann") as ws:
        assert ws.actor == "ann"
        ws.store.put(Run(id="R", name="x", started=1.0))
    assert (folder / "boucle.toml").read_text().endswith("[boucle]\n")
    assert (folder / ".boucle" / ".gitignore").read_text() == "*\n"
    (folder / "boucle.toml").write_text("[boucle]\nworkers = 2\n")
    with init(folder) as again:
        assert (again.settings.workers, again.store.count(Run)) == (2, 1)


def test_open_finds_it_from_below(tmp_path, monkeypatch):
    init(tmp_path).close()
    (tmp_path / "src").mkdir()
    monkeypatch.chdir(tmp_path / "src")
    with open() as ws:
        assert (ws.project, ws.root) == (tmp_path, tmp_path / ".boucle")
    assert repr(ws) == f"<Workspace {tmp_path}>"


def test_there_is_none(tmp_path):
    with pytest.raises(NotFound, match="no workspace") as caught:
        open(tmp_path)
    assert caught.value.fix == "boucle init"
    (tmp_path / "boucle.toml").touch()
    with pytest.raises(NotFound, match="no workspace"):
        open(tmp_path)


def test_places_where_none_can_be(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Conflict, match="is a file"):
        init(tmp_path / "file")
    with pytest.raises((Conflict, Unavailable)):
        init(tmp_path / "file" / "below")


def test_nothing_is_opened_before_it_is_needed(tmp_path):
    init(tmp_path).close()
    code = """if True:
        import sys, boucle
        ws = boucle.open(sys.argv[1])
        heavy = {"sqlite3", "numpy", "pyarrow", "pandas", "sklearn"} & set(sys.modules)
        print(sorted(heavy), sorted(k for k in ws.__dict__ if k not in ("settings", "now")))
    """
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "[] []\n"


def test_an_unknown_plugin_is_told_the_known_ones(tmp_path):
    init(tmp_path).close()
    for family in ("store", "blobs", "vault", "engine", "target"):
        with pytest.raises(NotFound, match=f"no {family} named 'nonsense'"):
            thing = getattr(open(tmp_path, **{family: "nonsense"}), family)
            if callable(thing):
                thing()


def test_the_key_is_one_for_all_who_ask_at_once(tmp_path):
    init(tmp_path).close()
    found = []
    barrier = threading.Barrier(8)

    def ask():
        ws = open(tmp_path)
        barrier.wait()
        found.append(ws.key)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(set(found)) == 1
    assert [p.name for p in (tmp_path / ".boucle").glob("key*")] == ["key"]


def test_another_process_gets_its_own_handles(tmp_path):
    with init(tmp_path, actor="bob") as ws:
        ws.store.put(Run(id="R", name="x", started=1.0))
        copy = pickle.loads(pickle.dumps(ws))
    assert type(copy) is Workspace
    with copy:
        assert (copy.actor, copy.store.count(Run)) == ("bob", 1)


def test_folders_are_made_when_asked_for(tmp_path):
    with init(tmp_path) as ws:
        assert ws.folder("a", "b").is_dir()
        (ws.root / "file").touch()
        with pytest.raises(Unavailable, match="cannot make"):
            ws.folder("file", "below")


def test_the_public_names_exist_and_are_described():
    for name in boucle.__all__:
        assert getattr(boucle, name).__doc__, name
    assert set(dir(boucle)) >= {*boucle.__all__, "__version__"}
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = boucle.nonsense
