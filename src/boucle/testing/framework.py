"""The contract of frameworks: subclass, give `framework`, `model` and `rows`, and run with pytest."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa

from boucle.core.frames import Frame, to_rows
from boucle.ports.framework import Framework, Predictor

_ELSEWHERE = """
import importlib, json, sys
import pyarrow as pa
from boucle.core.frames import to_rows
module, name, folder, meta = sys.argv[1:]
from pathlib import Path
batch = pa.ipc.open_stream(sys.stdin.buffer.read()).read_next_batch()
framework = getattr(importlib.import_module(module), name)()
print(json.dumps(to_rows(framework.load(Path(folder), json.loads(meta)).predict(batch))))
"""


class FrameworkContract:
    """What every framework must do."""

    rows: Mapping[str, list[Any]]  # raw input, two rows or more

    def framework(self) -> Framework:
        """A new one, of a class that a new process can import."""
        raise AssertionError("give the framework to test")

    def model(self) -> Any:
        """A model that it accepts, ready to answer `rows`."""
        raise AssertionError("give a model of the framework")

    def batch(self) -> pa.RecordBatch:
        """`rows` as a predictor gets them."""
        (batch,) = Frame.of(self.rows).table().combine_chunks().to_batches()
        return batch

    def saved(self, folder: Path) -> tuple[Mapping[str, Any], Predictor]:
        """A model written into a folder, and read back."""
        folder.mkdir()
        meta = json.loads(json.dumps(self.framework().save(self.model(), folder), allow_nan=False))
        return meta, self.framework().load(folder, meta)

    def test_names_itself(self) -> None:
        framework = self.framework()
        assert framework.name
        assert isinstance(framework.extra, str)

    def test_accepts_its_own_and_nothing_else(self) -> None:
        framework = self.framework()
        assert framework.accepts(self.model())
        assert not any(framework.accepts(other) for other in (None, 3, "model", [], object(), object))

    def test_answers_each_row(self, tmp_path: Path) -> None:
        _, predictor = self.saved(tmp_path / "model")
        answer = predictor.predict(self.batch())
        assert answer.num_rows == self.batch().num_rows
        assert "prediction" in answer.schema.names
        if "probabilities" in answer.schema.names:
            for row in answer.column("probabilities").to_pylist():
                assert abs(sum(row.values()) - 1) < 1e-9

    def test_a_row_is_answered_the_same_beside_others_and_alone(self, tmp_path: Path) -> None:
        _, predictor = self.saved(tmp_path / "model")
        batch = self.batch()
        alone = [to_rows(predictor.predict(batch.slice(i, 1)))[0]["prediction"] for i in range(batch.num_rows)]
        assert alone == [row["prediction"] for row in to_rows(predictor.predict(batch))]

    def test_what_was_restored_can_be_saved_again(self, tmp_path: Path) -> None:
        meta, predictor = self.saved(tmp_path / "first")
        restored = self.framework().restore(tmp_path / "first", meta)
        (tmp_path / "second").mkdir()
        again = self.framework().save(restored, tmp_path / "second")
        other = self.framework().load(tmp_path / "second", again)
        assert to_rows(other.predict(self.batch())) == to_rows(predictor.predict(self.batch()))

    def test_a_new_process_gives_the_same_answers(self, tmp_path: Path) -> None:
        meta, predictor = self.saved(tmp_path / "model")
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.batch().schema) as stream:
            stream.write_batch(self.batch())
        cls = type(self.framework())
        done = subprocess.run(
            [
                *(sys.executable, "-P", "-c", _ELSEWHERE, cls.__module__, cls.__qualname__),
                *(str(tmp_path / "model"), json.dumps(meta)),
            ],
            input=sink.getvalue().to_pybytes(),
            capture_output=True,
            cwd=tmp_path,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr.decode()
        assert json.loads(done.stdout) == json.loads(json.dumps(to_rows(predictor.predict(self.batch()))))

    def test_writes_no_pickle(self, tmp_path: Path) -> None:
        self.saved(tmp_path / "model")
        files = [p for p in (tmp_path / "model").rglob("*") if p.is_file()]
        assert files
        for path in files:
            assert path.suffix not in (".pkl", ".pickle", ".joblib")
            assert not path.read_bytes().startswith((b"\x80\x03", b"\x80\x04", b"\x80\x05"))

    def test_what_it_requires_is_installed(self) -> None:
        names = self.framework().requirements(self.model())
        assert names
        assert all(metadata.version(name) for name in names)
