"""The contract of places, as tests; a plugin proves itself by subclassing it and giving `make`."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from boucle.core.errors import BoucleError, Conflict, Invalid, NotFound, Refused
from boucle.ports.place import Entry, Place

ODD = ("a b.txt", "naïve ☃.csv", "100%25 #1?.txt", "a+b&c=d;e.txt", "'quoted'.txt", "UPPER.TXT", "upper.txt")


class PlaceContract:
    """What every place must do. Subclasses give `make`, and `fill` where a place is only for reading."""

    LARGE = 9_000_000  # bytes of the largest file; more than a place sends or gives in one piece

    def make(self, tmp_path: Path) -> Place:
        """A new place without files; for the same path, the same place again."""
        raise AssertionError(f"give the place to test, for {tmp_path}")

    def fill(self, place: Place, tmp_path: Path, path: str, data: bytes) -> None:  # noqa: ARG002  for those who override it
        """Put a file there, whatever the place itself can do."""
        place.write(path, data)

    @pytest.fixture
    def place(self, tmp_path: Path) -> Iterator[Place]:
        made = self.make(tmp_path)
        yield made
        made.close()

    @pytest.fixture
    def writable(self, place: Place) -> Place:
        if "write" not in place.capabilities:
            pytest.skip(f"{place.name} is for reading")
        return place

    @pytest.fixture
    def listing(self, writable: Place) -> Place:
        if "list" not in writable.capabilities:
            pytest.skip(f"{writable.name} does not list")
        return writable

    def test_it_says_what_it_is(self, place: Place) -> None:
        assert place.name
        assert place.schemes
        assert place.capabilities <= {"list", "write"}

    @pytest.mark.parametrize("size", [0, 1, 1000, LARGE])
    def test_a_file_comes_back(self, place: Place, tmp_path: Path, size: int) -> None:
        data = hashlib.shake_128(b"seed").digest(size)
        self.fill(place, tmp_path, "folder/deep/file.bin", data)
        assert b"".join(place.read("folder/deep/file.bin")) == data
        entry = place.entry("folder/deep/file.bin")
        assert (entry.path, entry.size) == ("folder/deep/file.bin", size)

    def test_a_part_of_a_file_comes_back(self, place: Place, tmp_path: Path) -> None:
        self.fill(place, tmp_path, "digits", b"0123456789")
        for start, end in ((0, None), (3, None), (0, 4), (3, 7), (9, 10), (8, 100), (4, 4), (0, 0)):
            assert b"".join(place.read("digits", start, end)) == b"0123456789"[start:end], (start, end)
        assert b"".join(place.read("digits", 10)) == b""
        assert b"".join(place.read("digits", 50, 60)) == b""

    @pytest.mark.parametrize("name", ODD)
    def test_odd_names_are_names(self, place: Place, tmp_path: Path, name: str) -> None:
        self.fill(place, tmp_path, f"f {name}/{name}", name.encode())
        assert b"".join(place.read(f"f {name}/{name}")) == name.encode()
        assert place.entry(f"f {name}/{name}").size == len(name.encode())
        if "list" in place.capabilities:
            assert [e.path for e in place.list()] == [f"f {name}/{name}"]

    def test_what_is_not_there_is_not_found(self, place: Place, tmp_path: Path) -> None:
        self.fill(place, tmp_path, "folder/file", b"x")
        for path in ("nothing", "folder/nothing", "no/folder", "folder", "folder/file/below"):
            with pytest.raises(NotFound):
                place.entry(path)
            with pytest.raises(NotFound):
                list(place.read(path))

    @pytest.mark.parametrize(
        "path", ["/etc/passwd", "..", "../x", "a/../../x", "a//b", "a/", "./a", "a\\b", "a\0b", "a\nb"]
    )
    def test_a_path_that_leads_elsewhere_is_refused(self, place: Place, path: str) -> None:
        for ask in (place.entry, lambda p: list(place.read(p))):
            with pytest.raises(Invalid):
                ask(path)
        if "write" in place.capabilities:
            with pytest.raises(Invalid):
                place.write(path, b"x")
            with pytest.raises(Invalid):
                place.remove(path)

    @pytest.mark.parametrize("prefix", ["/", "../", "a/../../"])
    def test_a_prefix_that_leads_elsewhere_is_refused(self, listing: Place, prefix: str) -> None:
        with pytest.raises(Invalid):
            list(listing.list(prefix))

    def test_a_version_changes_with_the_file(self, writable: Place) -> None:
        writable.write("file", b"one")
        first = writable.entry("file")
        writable.write("file", b"other")
        second = writable.entry("file")
        assert second.size == 5
        assert (first.size, first.version) != (second.size, second.version)

    def test_a_local_file_is_written(self, writable: Place, tmp_path: Path) -> None:
        (tmp_path / "given").write_bytes(data := hashlib.shake_128(b"y").digest(self.LARGE))
        writable.write("copy", tmp_path / "given")
        assert b"".join(writable.read("copy")) == data
        with pytest.raises(NotFound):
            writable.write("other", tmp_path / "nothing")
        with pytest.raises(NotFound):
            writable.entry("other")

    def test_writing_again_replaces(self, writable: Place) -> None:
        writable.write("file", b"a longer content")
        writable.write("file", b"short")
        assert b"".join(writable.read("file")) == b"short"

    def test_what_is_there_is_not_replaced_by_something_new(self, writable: Place, tmp_path: Path) -> None:
        (tmp_path / "given").write_bytes(b"third")
        writable.write("a/file", b"first", new=True)
        for data in (b"second", b"first", tmp_path / "given"):
            with pytest.raises(Conflict):
                writable.write("a/file", data, new=True)
        assert b"".join(writable.read("a/file")) == b"first"
        if "list" in writable.capabilities:
            assert [e.path for e in writable.list()] == ["a/file"]

    def test_files_are_listed(self, listing: Place) -> None:
        sizes = {"b": 1, "a/1": 2, "a/2": 0, "a/deep/3": 4, "ab/4": 5, "ab5": 6}
        assert list(listing.list()) == []
        assert list(listing.list("a/")) == []
        for path, size in sizes.items():
            listing.write(path, b"x" * size)
        found: list[Entry] = list(listing.list())
        assert {e.path: e.size for e in found} == sizes
        for prefix, paths in (
            ("a", {"a/1", "a/2", "a/deep/3", "ab/4", "ab5"}), ("a/", {"a/1", "a/2", "a/deep/3"}), ("a/d", {"a/deep/3"}),
            ("ab", {"ab/4", "ab5"}), ("a/deep/3", {"a/deep/3"}), ("c", set()), ("c/d/", set()),
        ):  # fmt: skip
            assert {e.path for e in listing.list(prefix)} == paths, prefix
        assert {e.version for e in found} == {listing.entry(e.path).version for e in found}

    def test_remove_says_whether_it_was_there(self, writable: Place) -> None:
        writable.write("a/file", b"x")
        assert writable.remove("a/file")
        assert not writable.remove("a/file")
        assert not writable.remove("nothing/at/all")
        with pytest.raises(NotFound):
            writable.entry("a/file")
        writable.write("a/file", b"y", new=True)
        assert b"".join(writable.read("a/file")) == b"y"

    def test_another_sees_what_was_written(self, writable: Place, tmp_path: Path) -> None:
        writable.write("file", b"kept")
        writable.close()
        again = self.make(tmp_path)
        assert b"".join(again.read("file")) == b"kept"
        again.close()

    def test_threads_write_and_read_at_once(self, writable: Place) -> None:
        failed: list[BaseException] = []

        def work(number: int) -> None:
            try:
                for i in range(4):
                    writable.write(f"{number}/{i}", bytes([number]) * 1000)
                    writable.write("same", b"s" * 1000)
                    assert b"".join(writable.read(f"{number}/{i}")) == bytes([number]) * 1000
                    assert b"".join(writable.read("same")) == b"s" * 1000
            except BaseException as error:  # noqa: BLE001  shown by the test
                failed.append(error)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []

    def test_what_it_cannot_do_is_refused(self, place: Place) -> None:
        if "write" not in place.capabilities:
            with pytest.raises(Refused):
                place.write("file", b"x")
            with pytest.raises(Refused):
                place.remove("file")
        if "list" not in place.capabilities:
            with pytest.raises(Refused):
                list(place.list())

    def test_an_unknown_option_is_refused(self, place: Place) -> None:
        with pytest.raises(BoucleError) as told:
            type(place).connect(f"{place.schemes[0]}://host/folder", {"no_such_option": "hunter2"}).entry("x")
        assert "hunter2" not in str(told.value)
