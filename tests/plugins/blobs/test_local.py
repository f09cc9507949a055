import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from boucle.core.errors import NotFound, Unavailable
from boucle.plugins.blobs.local import LocalBlobs
from boucle.ports.blobs import Blobs
from boucle.testing.blobs import BlobsContract


class TestLocalBlobs(BlobsContract):
    def make(self, tmp_path: Path) -> Blobs:
        return LocalBlobs(tmp_path / "blobs")

    def damage(self, blobs: Blobs, digest: str) -> bool:
        path = blobs.path(digest)
        path.chmod(0o644)
        path.write_bytes(b"y" + path.read_bytes()[1:])
        return True


class TestLocalBlobsThatDoNotSync(TestLocalBlobs):
    def make(self, tmp_path: Path) -> Blobs:
        return LocalBlobs(tmp_path / "blobs", durable=False)


def test_a_blob_lies_under_its_digest(tmp_path: Path) -> None:
    digest = LocalBlobs(tmp_path / "new" / "deep").put(b"content")
    assert (tmp_path / "new" / "deep" / digest[:2] / digest[2:]).read_bytes() == b"content"


def test_known_content_is_not_written_again(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    given = tmp_path / "given"
    given.write_bytes(b"x" * 1000)
    before = blobs.path(blobs.put(b"x" * 1000)).stat()
    for data in (b"x" * 1000, given, [b"x" * 1000]):
        after = blobs.path(blobs.put(data)).stat()
        assert after.st_ino == before.st_ino
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_blob_cut_short_is_written_again(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    path = blobs.path(blobs.put(b"x" * 1000))
    path.chmod(0o644)
    os.truncate(path, 10)
    assert blobs.get(blobs.put(b"x" * 1000)) == b"x" * 1000


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    def full() -> Iterator[bytes]:
        yield b"half"
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    blobs = LocalBlobs(tmp_path)
    with pytest.raises(Unavailable, match="No space") as caught:
        blobs.put(full())
    assert "free some space" in caught.value.fix
    assert list(blobs.list()) == []
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_file_that_grows_too_large_leaves_nothing(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    blobs = LocalBlobs(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(Unavailable):
            blobs.put(b"x" * 10_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list((tmp_path / "tmp").iterdir()) == []
    assert list(blobs.list()) == []


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.EPERM, errno.EIO])
def test_a_disk_that_cannot_be_written_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fchmod", refuse)
    blobs = LocalBlobs(tmp_path)
    with pytest.raises(Unavailable) as caught:
        blobs.put(b"x")
    assert str(tmp_path) in caught.value.what
    assert caught.value.fix
    monkeypatch.undo()
    assert list(blobs.list()) == []


def test_a_root_that_cannot_be_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable):
        LocalBlobs(tmp_path / "file" / "blobs").put(b"x")


def test_old_temporary_files_are_reported_and_swept(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    digest = blobs.put(b"kept")
    old, young = tmp_path / "tmp" / "1-2-3-4", tmp_path / "tmp" / "5-6-7-8"
    old.write_bytes(b"half")
    young.write_bytes(b"half")
    os.utime(old, (time.time() - 90_000,) * 2)
    (problem,) = blobs.check()
    assert str(old) in problem
    assert blobs.sweep() == 1
    assert blobs.sweep() == 0
    assert young.exists()
    assert list(blobs.list()) == [digest]


def test_a_large_file_is_hashed_as_it_is_stored(tmp_path: Path) -> None:
    data = os.urandom(1 << 20) * 20
    (tmp_path / "large").write_bytes(data)
    assert LocalBlobs(tmp_path / "blobs").put(tmp_path / "large") == blake3(data).hexdigest()


def test_sync_reaches_file_and_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync

    def watch(handle: int) -> None:
        synced.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        real(handle)

    monkeypatch.setattr(os, "fsync", watch)
    digest = LocalBlobs(tmp_path).put(b"x")
    assert synced[-1] == digest[:2]
    assert tmp_path.name in synced
    assert len(synced) == 3
    synced.clear()
    LocalBlobs(tmp_path, durable=False).put(b"y")
    assert synced == []


def test_who_stores_what_is_there_already_makes_it_young(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    apart, packed = blobs.put(b"apart"), blobs.put_many([b"packed", b"other"])[0]
    for data, digest in ((b"apart", apart), (b"packed", packed)):
        for store in (blobs.put, lambda d: blobs.put_many([d]), lambda d: blobs.put(iter([d]))):
            for path in tmp_path.rglob("*"):
                if path.is_file():
                    os.utime(path, (1000, 1000))
            assert blobs.stored(digest) == 1000
            store(data)
            assert blobs.stored(digest) > 1_000_000
    with pytest.raises(NotFound):
        blobs.stored("0" * 64)
