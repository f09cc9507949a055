import io
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boucle.core.errors import Corrupt, Invalid, NotFound
from boucle.ledger import datasets, trees
from boucle.plugins.blobs.local import LocalBlobs
from boucle.plugins.stores.memory import MemoryStore

D = "a" * 64
LARGE = random.Random(2).randbytes(5_000_000)


@pytest.fixture
def blobs(tmp_path: Path) -> LocalBlobs:
    return LocalBlobs(tmp_path / "blobs", durable=False)


def stored(blobs: LocalBlobs, *lines: str) -> trees.Tree:
    return trees.files(blobs, blobs.put("\n".join([trees.HEAD, *lines, ""]).encode("utf-8", "surrogatepass")))


def test_files_come_back(blobs: LocalBlobs, tmp_path: Path) -> None:
    script = tmp_path / "run.sh"
    script.write_bytes(b"#!/bin/sh\n")
    script.chmod(0o755)
    given = [("b/large.bin", LARGE), ("a", b"x"), ("run.sh", script), ("empty", b""), ("stream", io.BytesIO(LARGE))]
    tree = trees.add(blobs, given)
    found = {e.path: e for e in trees.files(blobs, tree.manifest)}
    assert list(found) == ["a", "b/large.bin", "empty", "run.sh", "stream"]
    assert [e.mode for e in found.values()] == ["f", "F", "f", "x", "F"]
    assert found["stream"].digest == found["b/large.bin"].digest
    for path, content in (("a", b"x"), ("b/large.bin", LARGE), ("run.sh", b"#!/bin/sh\n"), ("empty", b"")):
        with trees.open_file(blobs, found[path]) as file:
            assert file.read() == content
    assert tree.size == sum(e.size for e in found.values()) == 2 * len(LARGE) + 11
    assert trees.add(blobs, reversed(given[:4])).manifest == trees.add(blobs, given[:4]).manifest


def test_a_reader_of_chunks_seeks(blobs: LocalBlobs) -> None:
    (file,) = trees.add(blobs, [("large", LARGE)])
    draw = random.Random(4)
    with trees.open_file(blobs, file) as reader:
        for _ in range(50):
            at, length = draw.randrange(len(LARGE) + 10), draw.randrange(200_000)
            reader.seek(at)
            assert reader.read(length) == LARGE[at : at + length]
        assert reader.seek(-5, 2) == len(LARGE) - 5
        assert reader.read() == LARGE[-5:]
        with pytest.raises(ValueError):
            reader.seek(-1)


def test_all_that_is_needed_is_all_there_is(blobs: LocalBlobs) -> None:
    tree = trees.add(blobs, [("large", LARGE), ("a", b"x"), ("b", b"x")])
    assert set(trees.needed(blobs, tree.manifest)) == set(blobs.list())
    assert trees.present(blobs, tree.manifest)
    chunk = next(d for d, _ in trees.chunks_of(blobs, next(e for e in tree if e.cut)))
    blobs.remove(chunk)
    assert not trees.present(blobs, tree.manifest)
    assert not trees.present(blobs, D)


names = st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=20)


@given(
    st.lists(
        st.one_of(names, st.binary(min_size=1, max_size=9).map(lambda b: b.decode("utf-8", "surrogateescape"))),
        min_size=1,
    )
)
def test_any_name_comes_back(parts: list[str]) -> None:
    path = "/".join(parts)
    written = trees.escaped(path)
    assert written.isprintable() or all(c.isprintable() or ord(c) >= 0xA0 for c in written)
    assert "\n" not in written
    written.encode()
    if "\0" in path or any(p in ("", ".", "..") or p.lower() in trees.OURS for p in path.split("/")):
        with pytest.raises(Corrupt):
            trees.unescaped(written)
    else:
        assert trees.unescaped(written) == path


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd", "../x", "a/../x", "a/..", "..", ".", "a//b", "a/", "", "./a", ".git/hooks/post-checkout", "a/.GIT/x",
        ".boucle/store.db", "a\\x00b", "\\x2e\\x2e/x", "\\x2fetc", "a\\xff/..", "\\xc3\\xa9", "a\\", "a\\q", "\\x41", "a\tb",
        "a" * 4001, "a/\\x2e./b",
    ],
)  # fmt: skip
def test_a_path_that_leads_elsewhere_is_corrupt(blobs: LocalBlobs, path: str) -> None:
    with pytest.raises(Corrupt):
        list(stored(blobs, f"{D} f 1 {path}"))


@pytest.mark.parametrize(
    "line", ["", "x", f"{D} f 1", f"{D} z 1 a", f"{D} f -1 a", f"{D} f 01 a", f"{D[1:]} f 1 a", f"{D.upper()} f 1 a",
             f"{D} f 9999999999999999999 a", f"{D}  f 1 a"]
)  # fmt: skip
def test_a_line_that_is_none_is_corrupt(blobs: LocalBlobs, line: str) -> None:
    with pytest.raises(Corrupt):
        list(stored(blobs, line))


@pytest.mark.parametrize(
    "lines",
    [("b", "a"), ("a", "a"), ("a", "a/b"), ("a", "a-", "a/b/c"), ("x/y", "x/y/z/w")],
)
def test_paths_that_cannot_be_one_folder_are_corrupt(blobs: LocalBlobs, lines: tuple[str, ...]) -> None:
    with pytest.raises(Corrupt):
        stored(blobs, *(f"{D} f 1 {p}" for p in lines)).paths  # noqa: B018


@pytest.mark.parametrize(
    "raw", [b"", b"boucle files 2\n", b"boucle files 1", b"\xff\xfe", b"boucle files 1\n" + D.encode()]
)
def test_what_is_no_manifest_is_corrupt(blobs: LocalBlobs, raw: bytes) -> None:
    with pytest.raises(Corrupt):
        trees.files(blobs, blobs.put(raw))


def test_chunks_that_are_not_as_long_as_the_file_are_corrupt(blobs: LocalBlobs) -> None:
    (file,) = trees.add(blobs, [("large", LARGE)])
    with pytest.raises(Corrupt):
        trees.chunks_of(blobs, trees.Entry("large", "F", 7, file.digest))


@pytest.mark.parametrize(
    ("link", "target", "ok"),
    [
        ("a", "b", True), ("a", "b/c", True), ("d/a", "../b", True), ("d/e/a", "../../b/c", True), ("a", "./b", True),
        ("a", "../b", False), ("d/a", "../../b", False), ("a", "/etc", False), ("a", "b/../../c", False), ("a", "", False),
        ("d/e/a", "f/../../../../x", False), ("a", "b/../c", False), ("d/a", "..", True), ("a", "..", False),
    ],
)  # fmt: skip
def test_links_that_point_inside(link: str, target: str, ok: bool) -> None:
    assert trees.inside(link, target) is ok


@pytest.mark.parametrize("path", ["../x", "/x", "", "a//b", ".git/config", "x\0"])
def test_a_path_that_cannot_be_one_is_refused(blobs: LocalBlobs, path: str) -> None:
    with pytest.raises(Invalid):
        trees.add(blobs, [(path, b"")])


def test_paths_that_collide_are_refused(blobs: LocalBlobs) -> None:
    for pair in (["a", "a"], ["a", "a/b"]):
        with pytest.raises(Invalid):
            trees.add(blobs, [(p, b"x") for p in pair])


@pytest.fixture
def ws(tmp_path: Path, blobs: LocalBlobs) -> SimpleNamespace:
    return SimpleNamespace(store=MemoryStore(), blobs=blobs, actor="ann", root=tmp_path, now=lambda: 1000.0)


def test_versions_of_files_are_datasets(ws: SimpleNamespace) -> None:
    tree = trees.add(ws.blobs, [("cat.png", b"\x89PNG"), ("notes.txt", b"hi")])
    one, new = datasets.commit_files(ws, "pets", tree, source="/data/pets")
    assert (one.key, new, one.rows, one.size, one.type, one.created) == ("pets@1", True, 2, 6, "files", 1000.0)
    assert datasets.commit_files(ws, "pets", tree) == (one, False)
    two, new = datasets.commit_files(ws, "pets", trees.add(ws.blobs, [("cat.png", b"other")]))
    assert (two.version, new) == (2, True)
    assert [e.subject for e in ws.store.events(type="dataset.committed")] == ["dataset:pets@1", "dataset:pets@2"]
    datasets.commit(ws, "table", {"x": [1]})
    with pytest.raises(Invalid, match="is a table"):
        datasets.commit_files(ws, "table", tree)


def test_files_are_a_table_whose_contents_are_read_when_asked_for(ws: SimpleNamespace) -> None:
    tree = trees.add(
        ws.blobs, [("b/large.bin", LARGE), ("cat.png", b"\x89PNG"), ("notes.txt", b"hi"), ("x\udcff", b"")]
    )
    datasets.commit_files(ws, "pets", tree)
    frame = datasets.load(ws, "pets@1")
    assert frame.columns == ("path", "size", "digest", "mode", "media_type", "content")
    assert (frame.ref, len(frame), frame.digest) == ("dataset:pets@1", 4, tree.manifest)
    assert frame.table(["path", "media_type"]).to_pydict() == {
        "path": ["b/large.bin", "cat.png", "notes.txt", "x\\xff"],
        "media_type": ["application/octet-stream", "image/png", "text/plain", None],
    }
    assert frame.table(["content"]).column(0).to_pylist() == [LARGE, b"\x89PNG", b"hi", b""]
    assert len(list(frame.batches(["content"]))) == 2  # what is large is not joined with others
    for entry in tree:
        if not entry.cut:
            ws.blobs.remove(entry.digest)
    assert frame.table(["size"]).column(0).to_pylist() == [len(LARGE), 4, 2, 0]
    with pytest.raises(NotFound):
        frame.table(["content"])
