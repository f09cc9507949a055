"""Bundles in a workspace: kept as blobs, written out again, proved in a clean process."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boucle.core.bundle import MANIFEST, Bundle, open_bundle
from boucle.core.errors import NotFound, Refused
from boucle.core.records import Artifact, Model
from boucle.core.schema import jsonable

if TYPE_CHECKING:
    from boucle.workspace import Workspace

PROOF_SECONDS = 300.0


def prove(folder: Path, *, python: str = "") -> dict[str, Any]:
    """Replay a bundle's golden outputs in a clean process: {ok, said, rows, differences, seconds}.

    The process is isolated (`python -I`): it sees the installed packages and the bundle, not the project.
    """
    command = [python or sys.executable, "-I", "-m", "boucle.core.prove", str(folder)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=PROOF_SECONDS,
            check=False,
            cwd=folder,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return {"ok": False, "said": f"it did not answer within {PROOF_SECONDS:g} s"}
    try:
        report = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        return {"ok": False, "said": f"the process ended with {done.returncode}: {done.stderr.strip()[-500:]}"}
    if "error" in report:
        return {"ok": False, "said": str(report["error"]), **report}
    differences = report["differences"]
    said = (
        f"{len(differences)} answers differ, first {differences[0]}"
        if differences
        else f"{report['rows']} golden answers given again in {report['seconds']} s"
    )
    return {"ok": not differences, "said": said, **report}


def answer(folder: Path, rows: Sequence[Mapping[str, Any]], *, seconds: float) -> list[dict[str, Any]]:
    """What a bundle says to rows of raw input, in a clean process; raises `Refused` with its words when it cannot answer all
    of them in time."""
    given = "".join(json.dumps(jsonable(row)) + "\n" for row in rows)
    command = [sys.executable, "-I", "-m", "boucle.core.answer", str(folder)]
    expected = "an answer to each row"
    try:
        done = subprocess.run(
            command, input=given, capture_output=True, text=True, timeout=seconds, check=False, cwd=folder
        )
    except subprocess.TimeoutExpired:
        raise Refused(f"it did not answer {len(rows):,} rows within {seconds:g} s", expected=expected) from None
    answers = [json.loads(line) for line in done.stdout.splitlines()] if done.returncode == 0 else []
    if done.returncode or len(answers) != len(rows):
        said = done.stderr.strip().splitlines()[-1:] or [f"the process ended with {done.returncode}"]
        raise Refused(said[0], expected=expected)
    return answers


def keep(ws: Workspace, bundle: Bundle, run: str) -> Artifact:
    """Store the files of a bundle; returns its artifact, not yet in the store."""
    files = {}
    size = 0
    for path in sorted(bundle.folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            files[path.relative_to(bundle.folder).as_posix()] = ws.blobs.put(path)
            size += path.stat().st_size
    return Artifact(
        digest=bundle.digest, name=bundle.name, type="bundle", value={"codec": "bundle", "files": files}, size=size,
        run=run, created=time.time(),
    )  # fmt: skip


def materialise(ws: Workspace, model: Model, folder: Path) -> Bundle:
    """Write a model's bundle into a folder, verified; all or nothing. One that is there already is checked and used."""
    artifact = ws.store.get(Artifact, model.artifact)
    if artifact is None:
        raise NotFound(f"{model} has lost its bundle", expected=f"artifact {model.artifact[:12]}", fix="boucle fsck")
    if (folder / MANIFEST).is_file() and (there := open_bundle(folder)).digest == model.digest:
        return there
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        draft = Path(scratch, "bundle")
        for name, blob in artifact.value["files"].items():
            target = draft / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with ws.blobs.open(blob) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file)
        bundle = open_bundle(draft)
        if bundle.digest != model.digest:
            raise Refused(f"the stored bundle of {model} is not what was registered", expected=model.digest)
        draft.rename(folder)
    return open_bundle(folder, verify=False)
