import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from blake3 import blake3

from boucle.core.errors import Corrupt, NotFound
from boucle.plugins.blobs import packs
from boucle.plugins.blobs.local import LocalBlobs


@pytest.fixture
def blobs(tmp_path: Path) -> LocalBlobs:
    return LocalBlobs(tmp_path / "blobs", durable=False)


def contents(number: int, seed: int = 0, size: int = 1000) -> list[bytes]:
    draw = random.Random(seed)
    return [draw.randbytes(size) for _ in range(number)]


def files(blobs: LocalBlobs, ending: str) -> list[Path]:
    return sorted((blobs.root / "packs").glob(f"*.{ending}"))


def test_many_blobs_are_two_files(blobs: LocalBlobs) -> None:
    blobs.put_many(contents(50))
    assert len(files(blobs, "pack")) == len(files(blobs, "index")) == 1
    assert files(blobs, "pack")[0].stat().st_size == 50_000
    assert list((blobs.root / "tmp").iterdir()) == []


def test_what_is_known_is_not_packed_again(blobs: LocalBlobs) -> None:
    apart, packed, new = contents(3)
    blobs.put(apart)
    blobs.put_many([packed])
    blobs.put_many([apart, packed, new, new])
    assert sorted(p.stat().st_size for p in files(blobs, "pack")) == [1000, 1000]
    before = files(blobs, "pack")
    blobs.put_many([apart, packed, new])
    assert files(blobs, "pack") == before


@pytest.mark.parametrize("size", [packs._BUFFER - 1, packs._BUFFER, packs._BUFFER + 1, 2 * packs._BUFFER + 4097])
@pytest.mark.parametrize("direct", [True, False])
def test_packs_of_any_length_come_back(blobs: LocalBlobs, monkeypatch, size: int, direct: bool) -> None:
    monkeypatch.setattr(packs, "_cost", {direct: 0.0, not direct: 1.0})
    whole = random.Random(1).randbytes(size)
    parts = [whole[i : i + 3_000_001] for i in range(0, size, 3_000_001)]
    digests = blobs.put_many(parts)
    assert b"".join(blobs.get(d) for d in digests) == whole
    assert files(blobs, "pack")[0].stat().st_size == size


def test_a_disk_that_takes_no_direct_writes_gets_others(blobs: LocalBlobs, monkeypatch) -> None:
    monkeypatch.setattr(packs, "_cost", {True: 0.0, False: 1.0})
    write, refused = os.pwrite, []

    def choosy(descriptor, data, offset):
        if packs.fcntl.fcntl(descriptor, packs.fcntl.F_GETFL) & os.O_DIRECT:
            refused.append(offset)
            raise OSError(22, "Invalid argument")
        return write(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", choosy)
    whole = random.Random(1).randbytes(3 * packs._BUFFER)
    assert blobs.get(blobs.put_many([whole])[0]) == whole
    assert refused


def test_a_full_disk_leaves_nothing(blobs: LocalBlobs, monkeypatch) -> None:
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space"):
        blobs.put_many(contents(3))
    monkeypatch.undo()
    assert list(blobs.list()) == []
    assert list((blobs.root / "tmp").iterdir()) == []


def test_what_another_process_stores_or_removes_is_seen(tmp_path: Path) -> None:
    ours, theirs = LocalBlobs(tmp_path, durable=False), LocalBlobs(tmp_path, durable=False)
    for i in range(20):
        one, two = contents(2, seed=i)
        first, second = ours.put_many([one, two])
        assert theirs.get(first) == one
        assert theirs.remove(second)
        assert not ours.has(second)
        assert ours.has(first)
        assert ours.put_many([two]) == [second]
        assert theirs.get(second) == two


def test_without_a_pause_or_with_one_changes_are_seen(tmp_path: Path) -> None:
    ours, theirs = LocalBlobs(tmp_path, durable=False), LocalBlobs(tmp_path, durable=False)
    (first,) = ours.put_many([b"one"])
    time.sleep(0.03)  # what was read before is believed from now on
    assert theirs.has(first)
    (second,) = ours.put_many([b"two"])
    assert theirs.has(second)
    time.sleep(0.03)
    assert theirs.has(second)
    assert ours.remove(second)
    assert not theirs.has(second)


def test_many_lookups_find_the_same_as_few(blobs: LocalBlobs) -> None:
    digests = [d for i in range(5) for d in blobs.put_many(contents(40, seed=i))]
    for digest in digests[::7]:
        blobs.remove(digest)
    gone = set(digests[::7])
    time.sleep(0.03)
    for _ in range(3):
        assert [blobs.has(d) for d in digests] == [d not in gone for d in digests]
        assert not blobs.has("0" * 64)
    assert set(blobs.list()) == set(digests) - gone


def test_sweeping_writes_mostly_dead_packs_again(blobs: LocalBlobs) -> None:
    digests = blobs.put_many(contents(10))
    other = blobs.put_many(contents(10, seed=1))
    for digest in digests[:6]:
        blobs.remove(digest)
    blobs.remove(other[0])
    blobs.sweep()
    assert sum(p.stat().st_size for p in files(blobs, "pack")) == 4000 + 10_000
    assert set(blobs.list()) == set(digests[6:]) | set(other[1:])
    assert [blobs.get(d) for d in digests[6:]] == contents(10)[6:]
    assert not blobs.has(other[0])
    for digest in digests[6:]:
        blobs.remove(digest)
    blobs.sweep()
    assert len(files(blobs, "pack")) == 1
    assert list(blobs.check()) == []


def test_sweeping_joins_small_packs(blobs: LocalBlobs) -> None:
    digests = [d for i in range(packs._MANY) for d in blobs.put_many(contents(2, seed=i))]
    assert len(files(blobs, "pack")) == packs._MANY
    assert blobs.sweep()
    assert len(files(blobs, "pack")) == 1
    assert sorted(blobs.list()) == sorted(digests)
    assert blobs.sweep() == 0


def test_readers_do_not_notice_that_a_pack_is_swept(tmp_path: Path) -> None:
    ours, theirs = LocalBlobs(tmp_path, durable=False), LocalBlobs(tmp_path, durable=False)
    digests = ours.put_many(contents(20))
    time.sleep(0.03)
    stop, wrong = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            wrong.extend(d for d in digests[15:] if blake3(theirs.get(d)).hexdigest() != d)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for digest in digests[:15]:
            ours.remove(digest)
        for i in range(5):
            ours.sweep()
            for d in ours.put_many(contents(20, seed=i + 1)):
                ours.remove(d)
    finally:
        stop.set()
        thread.join()
    assert not wrong


def test_damage_is_noticed(blobs: LocalBlobs) -> None:
    digests = blobs.put_many(contents(3))
    (pack,) = files(blobs, "pack")
    pack.chmod(0o644)
    raw = bytearray(pack.read_bytes())
    raw[1500] ^= 1
    pack.write_bytes(raw)
    with pytest.raises(Corrupt):
        blobs.get(digests[1])
    assert blobs.get(digests[0]) == contents(3)[0]
    (problem,) = blobs.check()
    assert digests[1] in problem
    pack.write_bytes(raw[:1500])
    with pytest.raises(Corrupt):
        blobs.get(digests[1])


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:-1], lambda raw: b"x" + raw[1:], lambda raw: b"", lambda raw: raw + b"x"]
)
def test_a_damaged_index_is_noticed(blobs: LocalBlobs, damage) -> None:
    digests = blobs.put_many(contents(3))
    (index,) = files(blobs, "index")
    raw = index.read_bytes()
    index.chmod(0o644)
    index.write_bytes(damage(raw))
    again = LocalBlobs(blobs.root)
    with pytest.raises(Corrupt):
        again.get(digests[0])
    assert len(list(again.check())) == 1
    with pytest.raises(Corrupt):
        again.put_many([b"new"])


def test_what_never_got_an_index_is_swept_after_a_day(blobs: LocalBlobs) -> None:
    blobs.put_many(contents(2))
    orphan = blobs.root / "packs" / "0.pack"
    orphan.write_bytes(b"x")
    assert blobs.sweep() == 0
    os.utime(orphan, (0, 0))
    assert blobs.sweep() == 1
    assert not orphan.exists()


KILLED = """
import sys
from boucle.plugins.blobs.local import LocalBlobs
import random
draw = random.Random(3)
def items():
    for i in range(200):
        yield draw.randbytes(200_000)
        print(i, flush=True)
LocalBlobs(sys.argv[1], durable=False).put_many(items())
"""


@pytest.mark.parametrize("after", [0, 3, 100, 150])
def test_a_killed_writer_leaves_nothing_that_is_seen(tmp_path: Path, after: int) -> None:
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    while child.stdout.readline().strip() != str(after):
        pass
    child.kill()
    child.communicate()
    blobs = LocalBlobs(tmp_path, durable=False)
    assert list(blobs.list()) == []
    with pytest.raises(NotFound):
        blobs.get(blake3(random.Random(3).randbytes(200_000)).hexdigest())
    draw = random.Random(3)
    assert len(blobs.put_many(draw.randbytes(200_000) for _ in range(3))) == 3
    assert list(blobs.check()) == []
