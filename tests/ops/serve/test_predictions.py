"""The writer of the prediction log: what it gave an id for is on file, in order, whatever happens to the disk."""

from __future__ import annotations

import os
import threading

import pytest

from boucle.core import predictions
from boucle.core.errors import Unavailable
from boucle.ops.serve.predictions import PredictionLog


def rest(n: int) -> str:
    return f'"inputs":{{"n":{n}}}'


def test_ids_increase_within_each_file_under_threads_and_rotation(tmp_path):
    log = PredictionLog(tmp_path, rotate=2_000)
    given: dict[str, int] = {}

    def write(start: int) -> None:
        for n in range(start, start + 100, 2):
            given.update(zip(log.append([rest(n), rest(n + 1)]), (n, n + 1), strict=True))

    threads = [threading.Thread(target=write, args=(100 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert list(predictions.check(tmp_path)) == []
    assert {row["id"]: row["inputs"]["n"] for row in predictions.scan(tmp_path)} == given
    assert sorted(given.values()) == list(range(400))
    files = list(tmp_path.iterdir())
    assert len(files) > 5
    assert all(file.stat().st_size < 2_200 for file in files)
    some = next(iter(given))
    assert predictions.find(tmp_path, some)["inputs"]["n"] == given[some]


def test_is_with_the_system_when_append_returns(tmp_path):
    log = PredictionLog(tmp_path)
    (id,) = log.append([rest(1)])
    assert [row["id"] for row in predictions.scan(tmp_path)] == [id]
    log.close()
    with pytest.raises(Unavailable, match="closed"):
        log.append([rest(2)])


def test_a_write_that_was_cut_short_is_taken_back(tmp_path, monkeypatch):
    log = PredictionLog(tmp_path)
    log.append([rest(1)])
    real = os.write
    calls = []

    def half(fd: int, data: bytes) -> int:
        calls.append(1)
        if len(calls) % 2:
            return real(fd, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", half)
        with pytest.raises(Unavailable, match="No space left on device"):
            log.append([rest(2), rest(3)])
    log.append([rest(4)])
    log.close()
    assert [row["inputs"]["n"] for row in predictions.scan(tmp_path)] == [1, 4]
    assert len(list(tmp_path.iterdir())) == 1
    assert log.failures == 1


def test_a_short_write_goes_on(tmp_path, monkeypatch):
    log = PredictionLog(tmp_path)
    real = os.write
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda fd, data: real(fd, data[:7]))
        log.append([rest(1)])
    log.close()
    assert [row["inputs"]["n"] for row in predictions.scan(tmp_path)] == [1]


def test_what_cannot_be_taken_back_ends_its_file(tmp_path, monkeypatch):
    log = PredictionLog(tmp_path)
    log.append([rest(1)])
    real = os.write
    calls = []

    def half(fd: int, data: bytes) -> int:
        calls.append(1)
        if len(calls) == 1:
            return real(fd, data[:10])
        raise OSError(5, "Input/output error")

    def fails(fd: int, size: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", half)
        patched.setattr(os, "ftruncate", fails)
        with pytest.raises(Unavailable):
            log.append([rest(2)])
    log.append([rest(3)])
    log.close()
    torn: list[str] = []
    assert [row["inputs"]["n"] for row in predictions.scan(tmp_path, report=torn.append)] == [1, 3]
    assert "cut off after 10 bytes" in torn[0]


def test_syncs_what_was_written_and_only_then(tmp_path, monkeypatch):
    synced: list[int] = []
    happened = threading.Event()
    real = os.fsync

    def note(fd: int) -> None:
        real(fd)
        synced.append(fd)
        happened.set()

    monkeypatch.setattr("boucle.ops.serve.predictions.SYNC_SECONDS", 0.01)
    monkeypatch.setattr(os, "fsync", note)
    log = PredictionLog(tmp_path)
    happened.clear()
    before = len(synced)
    log.append([rest(1)])
    assert happened.wait(5)
    log.close()
    # Once in the background, and once more when its file is closed; nothing while there was nothing to sync.
    assert len(synced) == before + 2


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="cannot be written"):
        PredictionLog(tmp_path / "file" / "log")
