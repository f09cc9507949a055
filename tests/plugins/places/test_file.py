"""Files in folders."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from boucle.core.errors import Conflict, Invalid, NotFound, Unavailable
from boucle.plugins.places.file import FilePlace
from boucle.ports import place as places
from boucle.ports.place import Place
from boucle.testing.place import PlaceContract


class TestFilePlace(PlaceContract):
    def make(self, tmp_path: Path) -> Place:
        return FilePlace.connect(str(tmp_path / "root"), {})


class TestFileUrl(PlaceContract):
    def make(self, tmp_path: Path) -> Place:
        return FilePlace.connect((tmp_path / "my root").as_uri(), {})


def test_a_url_and_a_path_are_the_same_place(tmp_path):
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "file").write_bytes(b"x")
    for url in (str(tmp_path / "a b"), (tmp_path / "a b").as_uri(), f"file://localhost{tmp_path}/a%20b"):
        assert [e.path for e in places.connect(url).list()] == ["file"]


def test_the_root_may_be_the_file_itself(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    place = FilePlace.connect(str(tmp_path / "file"), {})
    assert place.entry("").size == 7
    assert b"".join(place.read("")) == b"content"


@pytest.mark.parametrize("url", ["file://server/share", "file://", "", "a\0b"])
def test_what_is_no_path_here_is_refused(url):
    with pytest.raises(Invalid):
        FilePlace.connect(url, {})


def test_a_folder_is_not_replaced_by_a_file(tmp_path):
    (tmp_path / "folder").mkdir()
    for new in (False, True):
        with pytest.raises((Invalid, Conflict)):
            FilePlace(tmp_path).write("folder", b"x", new=new)


def test_what_a_killed_write_left_is_not_seen(tmp_path):
    program = (
        "import os, sys, shutil\nfrom pathlib import Path\nfrom boucle.plugins.places import file\n"
        "os.fsync = lambda _: os.kill(os.getpid(), 9)\n"
        "file.FilePlace(Path(sys.argv[1])).write('a/name', b'half')\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert done.returncode == -9
    assert len(list((tmp_path / "a").iterdir())) == 1
    assert list(FilePlace(tmp_path).list()) == []
    with pytest.raises(NotFound):
        FilePlace(tmp_path).entry("a/name")


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unavailable, match="No space left"):
        FilePlace(tmp_path).write("a/name", b"content")
    assert list((tmp_path / "a").iterdir()) == []


def test_of_many_who_write_something_new_one_succeeds(tmp_path):
    program = (
        "import sys\nfrom pathlib import Path\nfrom boucle.core.errors import Conflict\n"
        "from boucle.plugins.places.file import FilePlace\nwon = 0\n"
        "for i in range(50):\n"
        "    try:\n        FilePlace(Path(sys.argv[1])).write(f'{i}', sys.argv[2].encode(), new=True)\n        won += 1\n"
        "    except Conflict:\n        pass\n"
        "print(won)\n"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path), str(n)], stdout=subprocess.PIPE, text=True)
        for n in range(3)
    ]
    assert sum(int(p.communicate()[0]) for p in started) == 50
