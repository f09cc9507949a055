"""Model bundles: a folder that needs nothing else. Raw input in, result out.

    bundle.json        what it is: schemas, task, references to run, code and data, and the digest of every other file
    model/             the model as its framework wrote it, preprocessing and the user's own
                       source included
    sample.json        rows of raw input
    golden.json        what the model answered to them when it was packed
    requirements.txt   the packages it needs, pinned, hashed
    environment.json   everything that was installed where it was trained
    README.md          the model card
    MLmodel, python_env.yaml   so that `mlflow.pyfunc.load_model` opens it too

The digest of a bundle is over bundle.json, which names the digest of each file: no byte can change unseen.
"""

from __future__ import annotations

import json
import math
import platform
import re
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from boucle.core.errors import Corrupt, Invalid, NotFound, Refused
from boucle.core.schema import INTEGERS, Schema
from boucle.ports.framework import Framework, Predictor
from boucle.ports.lookup import lookup

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1
MANIFEST = "bundle.json"
_KEYS = {"name", "task", "framework", "input", "output", "references", "metrics", "created", "python", "files"}
TOLERANCE = 1e-9  # relative, for floats of golden outputs replayed on another machine or library build


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle. `load` gives the model; nothing of it is imported before."""

    folder: Path
    digest: str
    manifest: Mapping[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        return str(self.manifest["name"])

    @property
    def task(self) -> str:
        return str(self.manifest["task"])

    @property
    def framework(self) -> str:
        return str(self.manifest["framework"]["name"])

    @property
    def input(self) -> Schema:
        return Schema.from_json(self.manifest["input"])

    @property
    def output(self) -> Schema:
        return Schema.from_json(self.manifest["output"])

    @property
    def references(self) -> Mapping[str, Any]:
        """What it was made of: run, code, datasets."""
        return dict(self.manifest["references"])

    @property
    def metrics(self) -> Mapping[str, float]:
        return dict(self.manifest["metrics"])

    @property
    def created(self) -> float:
        return float(self.manifest["created"])

    @property
    def sample(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads((self.folder / "sample.json").read_text(encoding="utf-8"))
        return rows

    @property
    def golden(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads((self.folder / "golden.json").read_text(encoding="utf-8"))
        return rows

    @property
    def card(self) -> str:
        return (self.folder / "README.md").read_text(encoding="utf-8")

    @property
    def requirements(self) -> str:
        return (self.folder / "requirements.txt").read_text(encoding="utf-8")

    def load(self) -> Predictor:
        """The model, ready to answer."""
        framework: Framework = lookup("framework", self.framework)()
        return framework.load(self.folder / "model", self.manifest["framework"]["meta"])

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Rows of JSON values in, rows out: for trying a bundle; a service keeps the model loaded."""
        return answer(self.load(), self.input, rows)


def answer(predictor: Predictor, schema: Schema, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Check rows against a schema and ask a loaded model."""
    from boucle.core.frames import to_batch, to_rows

    return to_rows(predictor.predict(to_batch(schema, schema.decode(rows))))


def open_bundle(folder: str | Path, *, verify: bool = True) -> Bundle:
    """Open a bundle; with `verify`, every file is checked against its digest, and strange files are refused."""
    root = Path(folder)
    try:
        text = (root / MANIFEST).read_bytes()
        manifest = json.loads(text)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"{root} is not a bundle", expected=f"a folder with {MANIFEST}") from None
    except ValueError as error:
        raise Corrupt(f"{root / MANIFEST} cannot be read: {error}", expected="JSON") from None
    if not isinstance(manifest, dict):
        raise Corrupt(f"{root / MANIFEST} holds a {type(manifest).__name__}", expected="a JSON object")
    if manifest.get("format") != FORMAT:
        raise Invalid(
            f"{root} has bundle format {manifest.get('format')}", expected=f"format {FORMAT}", fix="upgrade boucle"
        )
    lacking = sorted(_KEYS - manifest.keys())
    if lacking:
        raise Corrupt(f"{root / MANIFEST} lacks {', '.join(lacking)}", expected="the manifest that was packed")
    if verify:
        _verify(root, manifest["files"])
    return Bundle(root, blake3(text).hexdigest(), manifest)


def _verify(root: Path, files: Mapping[str, str]) -> None:
    found = [p for p in root.rglob("*") if p.is_symlink() or not p.is_dir()]
    present = {p.relative_to(root).as_posix() for p in found if not p.is_symlink()}
    strange = sorted({p.relative_to(root).as_posix() for p in found} - {*files, MANIFEST})
    if strange:
        raise Corrupt(f"{root} holds {strange[0]}, which its manifest does not name", expected="only what was packed")
    for name, digest in files.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise Corrupt(f"the manifest of {root} names {name!r}", expected="paths inside the bundle")
        if name not in present:
            raise Corrupt(f"{root} lacks {name}", expected="every file of the manifest")
        if blake3((root / name).read_bytes()).hexdigest() != digest:
            raise Corrupt(f"{root / name} is not what was packed", expected=f"BLAKE3 {digest[:16]}...")


def framework_for(model: Any) -> Framework:
    """The installed framework that accepts a model; raises `Invalid` when none does."""
    from boucle.ports.lookup import names

    # Plain Python accepts any function, so it is asked last.
    for name in sorted(names("framework"), key=lambda n: n == "python"):
        framework: Framework = lookup("framework", name)()
        if framework.accepts(model):
            return framework
    raise Invalid(
        f"no framework knows how to pack a {type(model).__module__}.{type(model).__qualname__}",
        expected=f"a model of {', '.join(names('framework'))}; any Python function counts",
        fix="wrap it in a function that takes a table and returns predictions",
    )


def pack(
    folder: Path,
    model: Any,
    *,
    name: str,
    input: Schema,
    sample: pa.Table,
    task: str = "",
    requirements: str = "",
    environment: Mapping[str, Any] | None = None,
    references: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    card: str = "",
) -> Bundle:
    """Write a bundle into an empty folder and open it.

    `sample` holds raw input rows with the columns of `input`; the model's answers to them become the golden outputs.
    bundle.json is written last: without it there is no bundle.
    """
    from boucle.core.frames import schema_of, to_batch, to_rows

    if sample.num_rows == 0:
        raise Invalid("the sample is empty", expected="at least one row of raw input, to replay as a proof")
    folder.mkdir(parents=True, exist_ok=True)
    framework = framework_for(model)
    (folder / "model").mkdir(exist_ok=True)
    meta = dict(framework.save(model, folder / "model"))
    rows = to_rows(sample)
    _write_json(folder / "sample.json", rows)
    _write_json(folder / "environment.json", dict(environment or {}))
    (folder / "requirements.txt").write_text(requirements, encoding="utf-8")
    (folder / "README.md").write_text(card or f"# {name}\n", encoding="utf-8")
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "name": name,
        "task": task,
        "framework": {"name": framework.name, "meta": meta},
        "input": input.to_json(),
        "python": platform.python_version(),
        "references": dict(references or {}),
        "metrics": dict(metrics or {}),
        "created": time.time(),
    }
    batch = to_batch(input, input.decode(rows))
    wanted = framework.predictor(model).predict(batch)
    predicted = _of_copy(Bundle(folder, "", manifest), batch)
    if predicted.num_rows != len(rows) or "prediction" not in predicted.schema.names:
        raise Invalid(
            f"the model gave {predicted.num_rows} rows with columns {predicted.schema.names} for {len(rows)} rows",
            expected="one row per input row, with a column 'prediction'",
        )
    for path, before, after in differences(to_rows(wanted), to_rows(predicted)):
        raise Refused(
            f"the packed copy of {name} answers differently, first at {path}: {after!r} instead of {before!r}",
            expected="the answers of the model itself, each time it is asked",
            fix="seed what is random, and keep what the answers depend on in the model",
        )
    output = schema_of(predicted.schema, {n: predicted.column(n).null_count > 0 for n in predicted.schema.names})
    manifest["output"] = output.to_json()
    _write_json(folder / "golden.json", to_rows(predicted))
    _write_mlmodel(folder, manifest, input)
    manifest["files"] = {
        path.relative_to(folder).as_posix(): blake3(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    _write_json(folder / MANIFEST, manifest)
    return open_bundle(folder, verify=False)


def _of_copy(draft: Bundle, batch: pa.RecordBatch) -> pa.RecordBatch:
    try:
        return draft.load().predict(batch)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise Refused(
            f"the packed copy of {draft.name} fails where the model answered: {type(error).__name__}: {error} "
            f"({last.filename}:{last.lineno})",
            expected="a model that needs nothing but what is packed with it",
            fix="keep its code in modules, and the files it reads in the package folder of the module",
        ) from error


def replay(bundle: Bundle, predictor: Predictor | None = None) -> list[str]:
    """Ask the model (loaded already, or loaded now) again what it was asked when packed; returns the differences in
    words, none when it answers the same."""
    golden = bundle.golden
    now = answer(predictor or bundle.load(), bundle.input, bundle.sample)
    if len(now) != len(golden):
        return [f"{len(now)} answers instead of {len(golden)}"]
    return [
        f"row {i}, {path}: {new!r} instead of {old!r}"
        for i, (before, after) in enumerate(zip(golden, now, strict=True))
        for path, old, new in differences(before, after)
    ]


def differences(before: Any, after: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Where two answers differ, as (path, before, after); floats may differ by `TOLERANCE`."""
    if isinstance(before, Mapping) and isinstance(after, Mapping) and before.keys() == after.keys():
        return [d for k in before for d in differences(before[k], after[k], f"{path}.{k}" if path else k)]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [
            d for i, (b, a) in enumerate(zip(before, after, strict=True)) for d in differences(b, a, f"{path}[{i}]")
        ]
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in (before, after)):
        same = math.isclose(before, after, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    else:
        same = before == after and isinstance(before, bool) == isinstance(after, bool)
    return [] if same else [(path or "answer", before, after)]


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


_MLFLOW_TYPES = {
    "bool": "boolean", "string": "string", "binary": "binary", "date": "datetime", "timestamp": "datetime",
    "float32": "float", "float64": "double", "float16": "float", "int64": "long", "uint32": "long",
    **dict.fromkeys(("int8", "int16", "int32", "uint8", "uint16"), "integer"),
}  # fmt: skip


def _write_mlmodel(folder: Path, manifest: Mapping[str, Any], input: Schema) -> None:
    """MLflow's descriptor (https://mlflow.org/docs/latest/ml/model). JSON is YAML, so no YAML library is needed."""
    inputs: list[dict[str, Any]] = []
    for column in input.columns:
        kind = _MLFLOW_TYPES.get(column.type)
        if kind is None:
            inputs = []  # a type the signature cannot say; without a signature MLflow passes input through
            break
        if column.nullable and column.type in INTEGERS:
            kind = "double"  # pandas has integers with nulls as floats, and MLflow would refuse them as long
        if column.nullable and kind == "boolean":
            kind = "double"
        inputs.append({"type": kind, "name": column.name, "required": not column.nullable})
    created = time.gmtime(float(manifest["created"]))
    descriptor = {
        "flavors": {
            "python_function": {
                "loader_module": "boucle.core.mlmodel",
                "python_version": manifest["python"],
                "env": {"virtualenv": "python_env.yaml"},
            }
        },
        "model_uuid": blake3(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:32],
        "utc_time_created": time.strftime("%Y-%m-%d %H:%M:%S.000000", created),
        "mlflow_version": "3.0.0",
        **({"signature": {"inputs": json.dumps(inputs), "outputs": None, "params": None}} if inputs else {}),
    }
    _write_json(folder / "MLmodel", descriptor)
    _write_json(
        folder / "python_env.yaml",
        {"python": re.match(r"[\d.]+", manifest["python"])[0], "dependencies": ["-r requirements.txt"]},  # type: ignore[index]
    )
