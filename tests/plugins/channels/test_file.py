import json
import os
from pathlib import Path
from typing import Any

import pytest

from boucle.core.errors import Unavailable
from boucle.plugins.channels.file import FileChannel
from boucle.ports.channel import Message
from boucle.testing.channel import ChannelContract


class TestFileChannel(ChannelContract):
    plugin = FileChannel

    def options(self, tmp_path: Path) -> dict[str, Any]:
        self.path = tmp_path / "alerts.jsonl"
        return {"path": "alerts.jsonl"}

    def received(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_bytes().splitlines()] if self.path.exists() else []


def test_it_appends_to_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "alerts.jsonl"
    FileChannel(path).send(Message("info", "a"))
    FileChannel(path).send(Message("info", "b"))
    assert [json.loads(line)["title"] for line in path.read_text().splitlines()] == ["a", "b"]


def test_a_message_is_one_write_and_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    write, sync = os.write, os.fsync
    monkeypatch.setattr(os, "write", lambda h, b: (calls.append("write"), write(h, b))[1])
    monkeypatch.setattr(os, "fsync", lambda h: (calls.append("sync"), sync(h))[1])
    FileChannel(tmp_path / "alerts.jsonl").send(Message("info", "x" * 100_000))
    assert calls == ["write", "sync"]


def test_half_a_line_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "alerts.jsonl"
    FileChannel(path).send(Message("info", "whole"))
    before = path.read_bytes()
    write = os.write
    monkeypatch.setattr(os, "write", lambda h, b: write(h, b[:10]))
    with pytest.raises(Unavailable, match="part of a message"):
        FileChannel(path).send(Message("info", "cut"))
    assert path.read_bytes() == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="No space"):
        FileChannel("/dev/full").send(Message("info", "x"))


def test_a_folder_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        FileChannel(tmp_path / "nothing" / "alerts.jsonl").send(Message("info", "x"))
