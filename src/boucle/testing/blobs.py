"""The contract of blobs, as tests; a plugin proves itself by subclassing it and giving `make`."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from boucle.core.errors import Corrupt, Invalid, NotFound
from boucle.ports.blobs import Blobs

MISSING = "0" * 64


class BlobsContract:
    """What every place for blobs must do. Subclasses give `make`."""

    def make(self, tmp_path: Path) -> Blobs:
        """A new, empty place; for a `durable` one, the same place again for the same path."""
        raise AssertionError(f"give the blobs to test, for {tmp_path}")

    def damage(self, blobs: Blobs, digest: str) -> bool:  # noqa: ARG002  for those who override it
        """Change a stored byte behind the back of `blobs`; False where that cannot be done."""
        return False

    @pytest.fixture
    def blobs(self, tmp_path: Path) -> Blobs:
        return self.make(tmp_path)

    def test_it_says_what_it_is(self, blobs: Blobs) -> None:
        assert blobs.name
        assert blobs.capabilities <= {"durable", "shared", "paths"}

    @pytest.mark.parametrize("size", [0, 1, 1000, 5_000_000, 12_000_000])
    def test_bytes_come_back_under_their_digest(self, blobs: Blobs, tmp_path: Path, size: int) -> None:
        data = hashlib.shake_128(b"seed").digest(size)
        expected = blake3(data).hexdigest()
        file = tmp_path / "given"
        file.write_bytes(data)
        chunks = (data[i : i + 700_001] for i in range(0, size, 700_001))
        for given in (data, file, chunks):
            assert blobs.put(given) == expected
            assert blobs.get(expected) == data
            assert blobs.size(expected) == size
            assert blobs.has(expected)
            assert list(blobs.list()) == [expected]
            assert blobs.remove(expected)
        assert file.read_bytes() == data

    def test_the_same_content_is_kept_once(self, blobs: Blobs, tmp_path: Path) -> None:
        (tmp_path / "given").write_bytes(b"x" * 10)
        digests = {blobs.put(b"x" * 10), blobs.put(tmp_path / "given"), blobs.put([b"x" * 4, b"", b"x" * 6])}
        assert list(blobs.list()) == list(digests)

    def test_a_reader_seeks(self, blobs: Blobs) -> None:
        digest = blobs.put(b"0123456789")
        with blobs.open(digest) as file:
            assert file.read(3) == b"012"
            file.seek(-2, 2)
            assert file.read() == b"89"

    def test_what_is_not_there_is_not_found(self, blobs: Blobs) -> None:
        assert not blobs.has(MISSING)
        assert not blobs.remove(MISSING)
        for ask in (blobs.open, blobs.get, blobs.size):
            with pytest.raises(NotFound):
                ask(MISSING)
        assert list(blobs.list()) == []

    @pytest.mark.parametrize(
        "bad", ["", "abc", "../" * 20 + "etc", "A" * 64, "g" * 64, "0" * 63, "0" * 65, "../" + "0" * 61]
    )
    def test_what_is_no_digest_is_refused(self, blobs: Blobs, bad: str) -> None:
        for ask in (blobs.open, blobs.get, blobs.size, blobs.has, blobs.remove):
            with pytest.raises(Invalid):
                ask(bad)

    def test_a_file_that_is_not_there_is_not_found(self, blobs: Blobs, tmp_path: Path) -> None:
        with pytest.raises(NotFound):
            blobs.put(tmp_path / "nothing")
        with pytest.raises(Invalid):
            blobs.put(tmp_path)

    def test_a_write_that_is_cut_off_leaves_nothing(self, blobs: Blobs) -> None:
        def broken() -> Iterator[bytes]:
            yield b"half"
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            blobs.put(broken())
        assert list(blobs.list()) == []
        assert not blobs.has(blake3(b"half").hexdigest())
        assert list(blobs.check()) == []

    def test_remove_says_whether_it_was_there(self, blobs: Blobs) -> None:
        digest = blobs.put(b"x")
        assert blobs.remove(digest)
        assert not blobs.remove(digest)
        assert not blobs.has(digest)
        assert blobs.put(b"x") == digest
        assert blobs.get(digest) == b"x"

    def test_many_are_put_at_once(self, blobs: Blobs) -> None:
        contents = [b"", b"a" * 1000, b"b", b"a" * 1000, hashlib.shake_128(b"seed").digest(3_000_000)]
        known = blobs.put(b"b")
        digests = blobs.put_many(contents)
        assert digests == [blake3(c).hexdigest() for c in contents]
        assert sorted(blobs.list()) == sorted(set(digests))
        for digest, content in zip(digests, contents, strict=True):
            assert blobs.has(digest)
            assert blobs.get(digest) == content
            assert blobs.size(digest) == len(content)
            with blobs.open(digest) as file:
                assert file.seek(len(content) // 2) == len(content) // 2
                assert file.read() == content[len(content) // 2 :]
                file.seek(0)
                assert file.read() == content
        assert blobs.put_many(contents) == digests
        assert blobs.put(b"a" * 1000) == digests[1]
        assert sorted(blobs.list()) == sorted(set(digests))
        assert blobs.remove(known)
        assert blobs.remove(digests[1])
        assert not blobs.remove(digests[1])
        assert not blobs.has(digests[1])
        with pytest.raises(NotFound):
            blobs.get(digests[1])
        assert blobs.put_many([b"a" * 1000, b"b"]) == digests[1:3]
        assert blobs.get(digests[1]) == b"a" * 1000
        assert sorted(blobs.list()) == sorted(set(digests))
        assert list(blobs.check()) == []
        assert blobs.put_many([]) == []

    def test_one_buffer_may_serve_many(self, blobs: Blobs) -> None:
        def contents() -> Iterator[memoryview]:
            buffer = bytearray(1000)
            for i in range(20):
                buffer[:] = bytes([i]) * 1000
                yield memoryview(buffer)[: 1000 - i]

        digests = blobs.put_many(contents())
        assert [blobs.get(d) for d in digests] == [bytes([i]) * (1000 - i) for i in range(20)]

    def test_many_come_all_or_not_at_all(self, blobs: Blobs) -> None:
        def broken() -> Iterator[bytes]:
            yield b"one"
            yield b"x" * 20_000_000
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            blobs.put_many(broken())
        assert list(blobs.list()) == []
        assert not blobs.has(blake3(b"one").hexdigest())

    def test_threads_put_at_once(self, blobs: Blobs) -> None:
        contents = [bytes([i]) * 1000 for i in range(20)]
        results: list[list[str]] = []

        def work() -> None:
            results.append([blobs.put(c) for c in contents])

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        expected = [blake3(c).hexdigest() for c in contents]
        assert results == [expected] * 6
        assert sorted(blobs.list()) == sorted(expected)
        assert list(blobs.check()) == []

    def test_damage_is_noticed(self, blobs: Blobs) -> None:
        digest, sound = blobs.put(b"x" * 100), blobs.put(b"sound")
        if not self.damage(blobs, digest):
            pytest.skip(f"{blobs.name} lets nobody damage it")
        with pytest.raises(Corrupt):
            blobs.get(digest)
        (problem,) = blobs.check()
        assert digest in problem
        assert blobs.get(sound) == b"sound"

    def test_a_path_is_a_read_only_file(self, blobs: Blobs) -> None:
        if "paths" not in blobs.capabilities:
            pytest.skip(f"{blobs.name} has no paths")
        for digest in (blobs.put(b"content"), *blobs.put_many([b"packed", b"others"])):
            path = blobs.path(digest)
            assert blake3(path.read_bytes()).hexdigest() == digest
            assert path.stat().st_mode & 0o777 == 0o444
            assert blobs.remove(digest)
            assert not blobs.has(digest)
        with pytest.raises(NotFound):
            blobs.path(MISSING)

    def test_durable_blobs_are_remembered(self, tmp_path: Path) -> None:
        blobs = self.make(tmp_path)
        if "durable" not in blobs.capabilities:
            pytest.skip(f"{blobs.name} is not durable")
        digest, (packed,) = blobs.put(b"kept"), blobs.put_many([b"packed"])
        assert self.make(tmp_path).get(digest) == b"kept"
        assert self.make(tmp_path).get(packed) == b"packed"

    def test_a_stream_is_read_once_and_lazily(self, blobs: Blobs) -> None:
        asked: list[int] = []

        def stream() -> Iterable[bytes]:
            for i in range(3):
                asked.append(i)
                yield b"x" * 10

        digest = blobs.put(stream())
        assert asked == [0, 1, 2]
        assert blobs.size(digest) == 30
