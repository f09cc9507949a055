"""Blobs in a place."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from blake3 import blake3

from boucle.core.errors import Corrupt, Invalid
from boucle.plugins.blobs.remote import RemoteBlobs
from boucle.ports import lookup
from boucle.ports import place as places
from boucle.ports.blobs import Blobs
from boucle.testing.blobs import BlobsContract


class TestInAFolder(BlobsContract):
    def make(self, tmp_path: Path) -> Blobs:
        return RemoteBlobs(places.connect(str(tmp_path / "there")))

    def damage(self, blobs: Blobs, digest: str) -> bool:
        path = f"blobs/{digest[:2]}/{digest[2:]}"
        data = b"".join(blobs.place.read(path))
        blobs.place.write(path, b"y" + data[1:])
        return True


class TestInMemory(TestInAFolder):
    @pytest.fixture(autouse=True)
    def _of_its_own(self):
        self.root = f"memory://{uuid.uuid4().hex}"

    def make(self, tmp_path: Path) -> Blobs:
        return RemoteBlobs(places.connect(self.root))


class TestInS3(TestInAFolder):
    @pytest.fixture(autouse=True)
    def _server(self, s3_server):
        self.root, self.options = f"s3://boucle-tests/{uuid.uuid4().hex}", s3_server

    def make(self, tmp_path: Path) -> Blobs:
        return RemoteBlobs(places.connect(self.root, self.options))


@pytest.fixture
def there(tmp_path):
    return tmp_path / "there"


@pytest.fixture
def blobs(there):
    return RemoteBlobs(places.connect(str(there)))


def files(there: Path) -> list[str]:
    return sorted(p.relative_to(there).as_posix() for p in there.rglob("*") if p.is_file())


MANY = [b"%d" % i * 50 for i in range(500)]


def test_many_small_blobs_are_two_objects(blobs, there):
    digests = blobs.put_many(MANY)
    assert digests == [blake3(b).hexdigest() for b in MANY]
    assert [Path(f).suffix for f in files(there)] == [".index", ".pack"]
    other = RemoteBlobs(places.connect(str(there)))
    assert sorted(other.list()) == sorted(digests)
    assert [other.get(d) for d in digests[:5]] == MANY[:5]
    assert other.open(digests[7]).read() == MANY[7]
    assert dict(other.get_many(digests[100:300])) == dict(zip(digests[100:300], MANY[100:300], strict=True))
    assert list(other.check()) == []


def test_the_same_many_are_the_same_pack(blobs, there):
    blobs.put_many(MANY)
    before = files(there)
    for again in (blobs, RemoteBlobs(places.connect(str(there)))):
        again.put_many(MANY)
        again.put(MANY[3])
        again.put_many(MANY[:10])
    assert files(there) == before


def test_one_who_looked_before_finds_what_came_after(blobs, there):
    assert list(blobs.list()) == []
    other = RemoteBlobs(places.connect(str(there)))
    digests = other.put_many(MANY)
    assert blobs.has(digests[0])
    assert blobs.get(digests[1]) == MANY[1]


def test_what_is_removed_from_a_pack_is_gone_and_the_rest_is_there(blobs, there):
    digests = blobs.put_many(MANY)
    looked = RemoteBlobs(places.connect(str(there)))
    assert looked.has(digests[0])
    for digest in digests[:3]:
        assert blobs.remove(digest)
        assert not blobs.remove(digest)
        assert not blobs.has(digest)
    assert sorted(blobs.list()) == sorted(digests[3:])
    assert list(blobs.check()) == []
    assert len(files(there)) == 2
    assert looked.get(digests[4]) == MANY[4]
    assert dict(looked.get_many(digests[4:9])) == dict(zip(digests[4:9], MANY[4:9], strict=True))
    assert blobs.put(MANY[0]) == digests[0]
    assert blobs.get(digests[0]) == MANY[0]


def test_the_last_of_a_pack_may_be_removed(blobs, there):
    (digest,) = blobs.put_many([b"one"])
    assert blobs.remove(digest)
    assert files(there) == []


def test_many_that_fail_leave_nothing(blobs, there):
    def broken():
        yield b"first"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        blobs.put_many(broken())
    assert files(there) == []


def test_a_pack_without_an_index_is_not_there_and_goes_after_a_day(blobs, there):
    digests = blobs.put_many(MANY)
    index, pack = files(there)
    (there / index).unlink()
    fresh = RemoteBlobs(places.connect(str(there)))
    assert list(fresh.list()) == []
    assert not fresh.has(digests[0])
    assert fresh.sweep() == 0
    os.utime(there / pack, (1, 1))
    assert any("left behind" in said for said in fresh.check())
    assert fresh.sweep() == 1
    assert files(there) == []


@pytest.mark.parametrize("at", [0, 20, 30, 100, -1])
def test_a_damaged_index_is_told(blobs, there, at):
    blobs.put_many(MANY)
    index = there / files(there)[0]
    raw = bytearray(index.read_bytes())
    raw[at] ^= 1
    index.chmod(0o644)
    index.write_bytes(raw)
    with pytest.raises(Corrupt, match="index"):
        list(RemoteBlobs(places.connect(str(there))).list())


def test_a_damaged_pack_is_told(blobs, there):
    digests = blobs.put_many(MANY)
    pack = there / files(there)[1]
    raw = bytearray(pack.read_bytes())
    raw[0] ^= 1
    pack.write_bytes(raw[:-1])
    for ask in (
        lambda: dict(blobs.get_many(digests[:2])),
        lambda: blobs.get(digests[0]),
        lambda: blobs.get(digests[-1]),
    ):
        with pytest.raises(Corrupt):
            ask()
    assert blobs.get(digests[1]) == MANY[1]
    assert len(list(blobs.check())) == 2


def test_a_large_blob_is_read_where_it_is_wanted(blobs, tmp_path):
    data = bytes(range(256)) * (40 << 10)
    (tmp_path / "large").write_bytes(data)
    digest = blobs.put(tmp_path / "large")
    asked = []
    read = blobs.place.read

    class Counting:
        def __getattr__(self, name):
            return getattr(blobs_place, name)

        def read(self, path, start=0, end=None):
            asked.append((start, end))
            return read(path, start, end)

    blobs_place, blobs.place = blobs.place, Counting()
    with blobs.open(digest) as file:
        file.seek(-10, 2)
        assert file.read() == data[-10:]
        file.seek(5 << 20)
        assert file.read(3) == data[5 << 20 : (5 << 20) + 3]
    assert sum(end - start for start, end in asked) <= 3 << 20


def test_many_processes_put_the_same_at_once(there):
    program = (
        "import sys\nfrom boucle.plugins.blobs.remote import RemoteBlobs\nfrom boucle.ports import place\n"
        "blobs = RemoteBlobs(place.connect(sys.argv[1]))\n"
        "for i in range(5):\n    blobs.put_many([b'%d' % (i * 100 + j) * 30 for j in range(100)])\n"
        "    blobs.put(b'large' * 1000 * i)\n"
    )
    started = [subprocess.Popen([sys.executable, "-c", program, str(there)]) for _ in range(3)]
    assert [p.wait() for p in started] == [0, 0, 0]
    blobs = RemoteBlobs(places.connect(str(there)))
    assert len(list(blobs.list())) == 505
    assert list(blobs.check()) == []
    assert len(files(there)) == 15


def test_the_setting_names_a_place_and_its_options(tmp_path, s3_server, monkeypatch):
    kind = lookup.lookup("blobs", "remote")
    assert kind.connect(str(tmp_path), tmp_path).put(b"x") == blake3(b"x").hexdigest()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    location = f"s3://boucle-tests/{uuid.uuid4().hex}?endpoint={s3_server['endpoint']}&region=us-east-1"
    assert kind.connect(location, tmp_path).put(b"x") == blake3(b"x").hexdigest()
    with pytest.raises(Invalid):
        kind.connect("", tmp_path)
    with pytest.raises(Invalid, match="cannot be written"):
        kind.connect("https://host/files", tmp_path)
