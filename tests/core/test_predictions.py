"""The prediction log: whatever was written is found, in order, however the files are cut."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boucle.core import predictions
from boucle.core.errors import Corrupt, Invalid
from boucle.core.refs import _base32


def ulid(number: int) -> str:
    return _base32(number, 26)


def line(id: str, payload: str = "") -> bytes:
    return (json.dumps({"id": id, "inputs": {"x": payload}}, separators=(",", ":")) + "\n").encode()


def write(folder: Path, files: list[list[tuple[int, str]]]) -> None:
    """Files of (number, payload); each file is named by an id just below its first."""
    for entries in files:
        name = ulid(entries[0][0] - 1)
        (folder / f"{name}.jsonl").write_bytes(b"".join(line(ulid(n), text) for n, text in entries))


# Distinct even numbers dealt out to files, each file sorted: what several services write to one folder.
LOGS = st.lists(
    st.tuples(st.integers(1, 400).map(lambda n: 2 * n), st.integers(0, 3), st.text(max_size=40)),
    unique_by=lambda entry: entry[0],
    max_size=60,
)


def dealt(entries: list[tuple[int, int, str]]) -> list[list[tuple[int, str]]]:
    files: dict[int, list[tuple[int, str]]] = {}
    for number, file, text in sorted(entries):
        files.setdefault(file, []).append((number, text))
    return list(files.values())


@given(LOGS, st.sets(st.integers(0, 802)))
def test_held_are_those_that_find_finds(tmp_path_factory, entries, asked):
    folder = tmp_path_factory.mktemp("log")
    write(folder, dealt(entries))
    ids = {ulid(n) for n in asked}
    assert predictions.held(folder, ids) == {i for i in ids if predictions.find(folder, i) is not None}
    assert predictions.held(folder, ids) == ids & {ulid(n) for n, *_ in entries}


@given(LOGS, st.integers(0, 802))
def test_scan_gives_all_past_an_id_in_order(tmp_path_factory, entries, after):
    folder = tmp_path_factory.mktemp("log")
    write(folder, dealt(entries))
    torn: list[str] = []
    found = list(predictions.scan(folder, ulid(after), torn.append))
    assert [(row["id"], row["inputs"]["x"]) for row in found] == [
        (ulid(n), text) for n, _, text in sorted(entries) if n > after
    ]
    assert torn == []
    assert [row["id"] for row in predictions.scan(folder)] == [ulid(n) for n, *_ in sorted(entries)]
    assert list(predictions.check(folder)) == []


@given(LOGS)
def test_find_finds_exactly_what_is_there(tmp_path_factory, entries):
    folder = tmp_path_factory.mktemp("log")
    write(folder, dealt(entries))
    for number, _, text in entries:
        found = predictions.find(folder, ulid(number))
        assert found is not None
        assert found["inputs"]["x"] == text
        assert predictions.find(folder, ulid(number + 1)) is None
    assert predictions.find(folder, ulid(0)) is None


@given(st.lists(st.text(max_size=30), min_size=1, max_size=12), st.data())
def test_a_cut_loses_only_the_line_it_hits(tmp_path_factory, texts, data):
    folder = tmp_path_factory.mktemp("log")
    lines = [line(ulid(2 * i + 2), text) for i, text in enumerate(texts)]
    whole = b"".join(lines)
    cut = data.draw(st.integers(0, len(whole)))
    (folder / f"{ulid(1)}.jsonl").write_bytes(whole[:cut])
    kept = [i for i in range(len(lines)) if sum(map(len, lines[: i + 1])) <= cut]
    torn: list[str] = []
    assert [row["id"] for row in predictions.scan(folder, report=torn.append)] == [ulid(2 * i + 2) for i in kept]
    assert len(torn) == (cut not in {sum(map(len, lines[:i])) for i in range(len(lines) + 1)})
    for i in range(len(lines)):
        assert (predictions.find(folder, ulid(2 * i + 2)) is not None) == (i in kept)
    assert len(list(predictions.check(folder))) == len(torn)


def test_a_long_file_is_bisected(tmp_path, monkeypatch):
    write(tmp_path, [[(2 * i, "x" * (i % 50)) for i in range(1, 20_001)]])
    looked = []
    real = predictions._id
    monkeypatch.setattr(predictions, "_id", lambda *a: looked.append(1) or real(*a))
    assert predictions.find(tmp_path, ulid(2 * 777)) is not None
    assert len(looked) < 64


def test_damage_in_the_middle_is_said_not_skipped(tmp_path):
    path = tmp_path / f"{ulid(1)}.jsonl"
    path.write_bytes(line(ulid(2)) + b"\0\0\0\n" + line(ulid(4)))
    with pytest.raises(Corrupt, match="at byte 54 does not begin with an id"):
        list(predictions.scan(tmp_path))
    path.write_bytes(line(ulid(2)) + line(ulid(3))[:-3] + b"\n" + line(ulid(4)))
    with pytest.raises(Corrupt, match=f"the line of {ulid(3)} is not JSON"):
        list(predictions.scan(tmp_path))
    assert len(list(predictions.check(tmp_path))) == 1
    path.write_bytes(line(ulid(4)) + line(ulid(2)))
    assert "comes after" in next(predictions.check(tmp_path))


def test_no_folder_and_no_id(tmp_path):
    assert predictions.find(tmp_path / "none", ulid(5)) is None
    assert list(predictions.scan(tmp_path / "none")) == []
    with pytest.raises(Invalid, match="not an id"):
        predictions.find(tmp_path, "churn@3")


def test_other_files_in_the_folder_are_left_alone(tmp_path):
    (tmp_path / "service.log").write_text("hello")
    (tmp_path / "notes.jsonl").write_text("{}\n")
    write(tmp_path, [[(2, "a")]])
    assert [row["id"] for row in predictions.scan(tmp_path)] == [ulid(2)]
