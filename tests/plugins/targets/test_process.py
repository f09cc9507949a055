"""The process target keeps the contract of targets, and leaves other people's processes alone."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from boucle.core.errors import Invalid, NotFound, Unavailable
from boucle.core.route import Route
from boucle.plugins.targets import process
from boucle.plugins.targets.process import ProcessTarget
from boucle.testing.target import TargetContract, post, wait_for


class TestProcessTarget(TargetContract):
    make = staticmethod(ProcessTarget)

    def test_a_recycled_pid_is_not_ours(self, target):
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
            handle = {"pid": stranger.pid, "started": "1"}
            assert not target.alive(handle)
            assert not target.stop(handle)
            assert stranger.poll() is None
            assert target.alive({**handle, "started": process._started(stranger.pid)})
            stranger.communicate(b"\n")
        assert process._started(stranger.pid) == ""

    def test_runs_apart_from_the_caller(self, placement, start, monkeypatch, tmp_path):
        (tmp_path / "workspace").mkdir()
        monkeypatch.chdir(tmp_path / "workspace")
        monkeypatch.setenv("BOUCLE_SECRET", "hush")
        placed = start(placement)
        pid = placed.handle["pid"]
        assert os.getsid(pid) == pid
        if Path("/proc/self/environ").exists():
            assert b"hush" not in Path(f"/proc/{pid}/environ").read_bytes()
            assert Path(f"/proc/{pid}/cwd").readlink() == placement.folder

    def test_a_taken_port_is_named(self, target, placement, start):
        placed = start(placement)
        port = int(placed.url.rpartition(":")[2])
        with pytest.raises(
            Unavailable, match=f"(?s)ended with code 7.*cannot listen on 127.0.0.1 port {port}"
        ) as failure:
            target.start(dataclasses.replace(placement, port=port))
        assert "--port 0" in failure.value.fix

    def test_one_that_hangs_is_ended(self, target, placement):
        stuck = placement.folder.parent / "stuck"
        (stuck / "boucle" / "ops" / "serve").mkdir(parents=True)
        for folder in ("boucle", "boucle/ops", "boucle/ops/serve"):
            (stuck / folder / "__init__.py").touch()
        pid = placement.folder.parent / "pid"
        (stuck / "boucle/ops/serve/__main__.py").write_text(
            "import os, time, pathlib\n"
            f"pathlib.Path({str(pid)!r}).write_text(str(os.getpid()))\n"
            "print('hm')\n"
            "time.sleep(60)\n"
        )
        hanging = dataclasses.replace(placement, options={"environment": {"PYTHONPATH": str(stuck)}})
        with pytest.raises(Unavailable, match="not ready after 1 seconds") as failure:
            target.start(hanging, timeout=1)
        assert "hm" in failure.value.fix
        assert process._started(int(pid.read_text())) == ""

    def test_one_that_ignores_the_signal_is_killed(self, target):
        code = "import signal as s, time; s.signal(s.SIGTERM, s.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True) as deaf:
            assert deaf.stdout.readline() == b"deaf\n"
            handle = {"pid": deaf.pid, "started": process._started(deaf.pid)}
            begin = time.monotonic()
            assert target.stop(handle, timeout=0.1)
            assert time.monotonic() - begin >= 0.1
        assert deaf.returncode == -9

    def test_options(self, target, placement, start):
        with pytest.raises(NotFound, match="max_bodi"):
            target.start(dataclasses.replace(placement, options={"max_bodi": 1}))
        with pytest.raises(Invalid, match="grace"):
            target.start(dataclasses.replace(placement, options={"grace": "long"}))
        placed = start(dataclasses.replace(placement, options={"max_body": 20, "log_optional": True, "grace": 3}))
        assert post(placed.url, {"x": 1})[0] == 200
        assert post(placed.url, [{"x": 1}, {"x": 1}, {"x": 1}])[0] == 413

    def test_a_take_over_that_was_left_half_way_is_done_by_the_next_try(
        self, target, placement, other, start, tmp_path
    ):
        old = start(placement)
        arm = dataclasses.replace(other, share=1.0)
        new = start(dataclasses.replace(placement, route=Route((arm,)), folder=tmp_path / "other"))
        # Whoever began it told one side and died: that side waits, and then says that nobody came.
        told = {"route": Route((arm,)).to_json(), "take": f"/tmp/boucle-{os.getpid()}"}
        process._write_whole(Path(new.handle["route"]), told)
        wait_for(lambda: "refused" in (process._read_ready(Path(new.handle["ready"])) or {}))
        process._write_whole(Path(new.handle["route"]), {**told, "take": str(tmp_path / "gone" / "address")})
        time.sleep(0.2)
        assert target.take(new.handle, old.handle) == old.url
        assert post(old.url, {"x": 1})[1]["revision"] == 3
