"""Plain text, line by line."""

import bz2

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boucle.core.errors import Invalid, NotFound
from boucle.plugins.sources import text as module
from boucle.plugins.sources.csv import CsvSource
from boucle.plugins.sources.text import TextSource

LOG = "2026-01-01 INFO started, pid 7\n\n2026-01-02 ERROR it broke\n"


@pytest.fixture
def read(tmp_path):
    def read(content, name="x.log", source=TextSource, **options):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        reading = source().read(str(path), options)
        return reading, reading.frame.table().to_pylist()

    return read


def test_lines_with_their_numbers(read):
    reading, rows = read(LOG)
    assert [(r["line"], r["text"]) for r in rows] == list(enumerate(LOG.removesuffix("\n").split("\n"), 1))
    assert reading.frame.rows == 3
    assert reading.frame.table(["text"]).column_names == ["text"]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_line_ends(read, newline):
    assert [r["text"] for r in read(newline.join(["a", "b", "c"]))[1]] == ["a", "b", "c"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1252"])
def test_encodings(read, encoding):
    reading, rows = read("à la carte\ncafé, thé\n".encode(encoding))
    assert [r["text"] for r in rows] == ["à la carte", "café, thé"]
    assert reading.found["encoding"] == encoding


def test_bad_lines_keep_their_numbers(read):
    reading, rows = read("ü\n".encode() + b"x\xff\n\x00\n" + "ö\n".encode())
    assert [r["line"] for r in rows] == [1, 4]
    assert [(b.number, b.why) for b in reading.bad] == [(2, "broken UTF-8"), (3, "a NUL byte")]


def test_compressed_and_limited(read):
    assert read(bz2.compress(LOG.encode()), "x.log.bz2")[0].found["compression"] == "bz2"
    with pytest.raises(Invalid, match="unpacks to more than 100 bytes"):
        read(bz2.compress(b"x\n" * 1000), "x.log.bz2", largest=100)


def test_what_is_no_text(read, tmp_path, monkeypatch):
    with pytest.raises(Invalid, match="not text"):
        read(bytes(range(256)) * 8)
    with pytest.raises(NotFound):
        TextSource().read(str(tmp_path / "y.log"), {})
    with pytest.raises(Invalid, match="'wings'"):
        read(LOG, wings=1)
    monkeypatch.setattr(module, "LONGEST", 1 << 20)
    with pytest.raises(Invalid, match="line 2 has more than"):
        read("a\n" + "x" * (1 << 25))


PROSE = "Once upon a time, there was\na table; it had no legs.\n\nIt could, all the same, stand, or so it said.\n"


@pytest.mark.parametrize("content", [PROSE, LOG, "# Title\n\nSome words.\n", "one line, no more"])
def test_prose_is_no_table(read, content):
    reading, rows = read(content, "x.txt", CsvSource)
    assert "each line is a row" in reading.found["note"]
    assert [r["text"] for r in rows] == content.removesuffix("\n").split("\n")


def test_a_table_is_a_table_whatever_its_ending(read):
    assert read("a,b\n1,2\n3,4\n", "x.txt", CsvSource)[1][0] == {"a": 1, "b": 2}
    assert read("112\n98\n69\n", "x.txt", CsvSource)[1][0] == {"column_1": 112}
    with pytest.raises(Invalid, match="none of its 2 lines"):
        read(PROSE, "x.txt", CsvSource, delimiter=",")


@settings(deadline=None)
@given(
    lines=st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\n\r\0\ufeff"), max_size=9), min_size=1, max_size=9
    )
)
def test_no_line_is_lost(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("text") / "x.log"
    path.write_bytes("\n".join(["start", *lines, "end"]).encode())
    try:
        got = TextSource().read(str(path), {"encoding": "utf-8"}).frame.table()["text"].to_pylist()
    except Invalid as error:
        assert "not text" in error.what
        return
    assert got == ["start", *lines, "end"]
