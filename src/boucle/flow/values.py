"""How the values between steps are kept: each by the codec of its type, named by the digest of its content.

Tables become stored tables, arrays .npy, plain values JSON, models what their framework writes, tuples and mappings their
parts one by one, so that a later step depends only on the part it takes. What nothing else fits is pickled and signed with
the workspace's key; what does not carry that signature is never unpickled.
"""

from __future__ import annotations

import dataclasses
import functools
import hmac
import importlib
import io
import json
import pickle
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from boucle.core.errors import Corrupt, Invalid, NotFound
from boucle.core.reach import reach, value_digest
from boucle.core.records import RECORDS, Record
from boucle.ports import lookup as plugins

if TYPE_CHECKING:
    from boucle.workspace import Workspace

INLINE = 2048  # bytes of JSON that live in the record itself


@dataclass(frozen=True, slots=True)
class Stored:
    """A value that was kept: the digest of its content, the kind of thing it is, and how to read it back (JSON)."""

    digest: str
    type: str
    value: dict[str, Any]
    size: int = 0

    def to_json(self) -> dict[str, Any]:
        return {"digest": self.digest, "type": self.type, "value": self.value, "size": self.size}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Stored:
        return cls(data["digest"], data["type"], data["value"], data.get("size", 0))

    @property
    def plain(self) -> bool:
        """Whether it is a plain value that lives in the record of the run that made it."""
        return self.value["codec"] == "json" and "json" in self.value

    def leaves(self, name: str = "") -> Iterator[tuple[str, Stored]]:
        """The parts that are values of their own, with their dotted names."""
        if "items" in self.value:
            for key, item in self.value["items"]:
                yield from Stored.from_json(item).leaves(f"{name}.{key}" if name else str(key))
        else:
            yield name, self

    def artifacts(self, name: str = "") -> Iterator[tuple[str, Stored]]:
        """The parts that are artifacts: all but plain values, and records, which say for themselves what they are."""
        return ((n, leaf) for n, leaf in self.leaves(name) if not leaf.plain and leaf.type != "record")


@dataclass(frozen=True, slots=True)
class Result:
    """What a node gave: the value that was kept, and the runs that made it (one per item of a map)."""

    stored: Stored
    runs: tuple[str, ...]

    def part(self, ws: Workspace, path: tuple[str | int, ...], mapped: bool) -> tuple[Stored, tuple[str, ...]]:
        """A part of it, and the references of what it is: artifacts, and for plain values the runs they lie in."""
        kept, inside = _kept_at(self.stored, path)
        refs = [f"artifact:{leaf.digest}" for _, leaf in kept.artifacts()]
        refs += [f"{leaf.value['kind']}:{leaf.value['key']}" for _, leaf in kept.leaves() if leaf.type == "record"]
        if any(leaf.plain for _, leaf in kept.leaves()):
            one = mapped and path and isinstance(path[0], int)
            refs += [f"run:{r}" for r in (self.runs[path[0] : path[0] + 1] if one else self.runs)]  # type: ignore[operator, index]
        return _inside(ws, kept, inside), tuple(dict.fromkeys(refs))


def encode(ws: Workspace, value: Any, depth: int = 0) -> Stored:
    """Keep a value; raises `Invalid` when nothing can."""
    kind: Any = type(value)
    local = "<locals>" in kind.__qualname__  # nobody could find such a class again
    if value is None or kind in (bool, int, float, str):
        return _json(ws, value)
    module = kind.__module__.partition(".")[0]
    if isinstance(value, Record):
        key = {"codec": "record", "kind": value.KIND, "key": value.key}
        return Stored(_digest(key), "record", key)
    if isinstance(value, list | dict) and _plain(value):
        return _json(ws, value)
    if depth < _DEEPEST:
        if isinstance(value, tuple) and hasattr(value, "_fields") and not local:
            items = [(f, encode(ws, getattr(value, f), depth + 1)) for f in value._fields]
            return composite("named", items, _class(kind))
        if kind in (tuple, list):
            return composite(kind.__name__, [(i, encode(ws, v, depth + 1)) for i, v in enumerate(value)])
        if kind is dict and all(type(k) is str for k in value):
            return composite("dict", [(k, encode(ws, v, depth + 1)) for k, v in value.items()])
    if hasattr(kind, "to_json") and hasattr(kind, "from_json") and not isinstance(value, type) and not local:
        content = value.to_json()
        if _plain(content):
            return _kept_json(ws, {"codec": "object", **_class(kind), "json": content}, "object")
    if _is_table(value, module):
        return _table(ws, value, module)
    if module == "numpy" and kind.__name__ == "ndarray" and not value.dtype.hasobject:
        return _array(ws, value)
    if isinstance(value, Path):
        if not value.is_file():
            raise Invalid(f"{value} is not a file", expected="a file that exists, when a step returns a path")
        digest = ws.blobs.put(value)
        return Stored(digest, "file", {"codec": "file", "blob": digest, "name": value.name}, value.stat().st_size)
    for name in plugins.names("framework"):
        framework = plugins.lookup("framework", name)()
        if name != "python" and framework.accepts(value):
            return _model(ws, value, framework)
    if depth < _DEEPEST and not local and _only_fields(value):
        fields = [f.name for f in dataclasses.fields(value)]
        return composite("dataclass", [(f, encode(ws, getattr(value, f), depth + 1)) for f in fields], _class(kind))
    return _pickled(ws, value)


_DEEPEST = 50  # parts within parts that are kept one by one


def _only_fields(value: Any) -> bool:
    """Whether a value is a dataclass whose fields are all there is to it, so that it can be made again from them."""
    kind = type(value)
    if not dataclasses.is_dataclass(kind) or kind.__new__ is not object.__new__:
        return False
    names = {f.name for f in dataclasses.fields(kind)}
    slots = {s for c in kind.__mro__ for s in c.__dict__.get("__slots__", ())} - {"__weakref__"}
    return {*getattr(value, "__dict__", {}), *slots} <= names and all(hasattr(value, n) for n in names)


def decode(ws: Workspace, stored: Stored, wanted: Any = None) -> Any:
    """The value, as the annotation `wanted` asks for it where that is a kind of table."""
    how = stored.value
    match how["codec"]:
        case "json":
            return _read_json(ws, how)
        case "record":
            record = ws.store.get(RECORDS[how["kind"]], how["key"])
            if record is None:
                raise NotFound(f"no {how['kind']} {how['key']}", expected="a record that was not removed")
            return record
        case "object":
            content = _read_json(ws, how)
            return _class_at(content["class"]).from_json(content["json"])
        case "frame":
            return as_table(read_frame(ws, stored), wanted, how.get("as", "frame"))
        case "array":
            import numpy as np

            return np.load(io.BytesIO(ws.blobs.get(how["blob"])), allow_pickle=False)
        case "file":
            return ws.blobs.path(how["blob"])
        case "model":
            with tempfile.TemporaryDirectory() as folder:
                for name, blob in how["files"].items():
                    target = Path(folder, name)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with ws.blobs.open(blob) as source, target.open("wb") as file:
                        shutil.copyfileobj(source, file)
                return plugins.lookup("framework", how["framework"])().restore(Path(folder), how["meta"])
        case "pickle":
            return _unpickled(ws, how)
        case "list" | "tuple" | "named" | "dict" | "dataclass" as codec:
            parts = {key: decode(ws, Stored.from_json(item)) for key, item in how["items"]}
            if codec == "named":
                return _class_at(how["class"])(**parts)
            if codec == "dataclass":
                made = object.__new__(_class_at(how["class"]))
                for name, part in parts.items():  # as they were, without what __init__ would make of them
                    object.__setattr__(made, name, part)
                return made
            return {"list": list, "tuple": tuple}[codec](parts.values()) if codec != "dict" else parts
    raise Corrupt(f"a value was kept with the unknown codec {how['codec']!r}", fix="upgrade boucle")


def select(ws: Workspace, stored: Stored, path: tuple[str | int, ...]) -> Stored:
    """A part of a kept value, without reading the other parts where they were kept one by one."""
    return _inside(ws, *_kept_at(stored, path))


def _kept_at(stored: Stored, path: tuple[str | int, ...]) -> tuple[Stored, tuple[str | int, ...]]:
    """As far down a path as parts were kept one by one, and the rest of the path."""
    while path and "items" in stored.value:
        key, *rest = path
        items = dict(stored.value["items"])
        if isinstance(key, int) and stored.value["codec"] != "dict":
            places = list(items)
            if not -len(places) <= key < len(places):
                raise NotFound(f"no part {key} of {len(places)}", expected=f"a number below {len(places)}")
            key = places[key]
        if key not in items:
            raise NotFound.named("part", str(key), map(str, items))
        stored, path = Stored.from_json(items[key]), tuple(rest)
    return stored, path


def _inside(ws: Workspace, stored: Stored, path: tuple[str | int, ...]) -> Stored:
    if not path:
        return stored
    part = decode(ws, stored)
    for key in path:
        try:
            part = part[key] if isinstance(key, int) or isinstance(part, Mapping) else getattr(part, key)
        except (LookupError, AttributeError, TypeError) as error:
            raise NotFound(
                f"a {type(part).__name__} has no part {key!r}", expected="a part of what the step returned"
            ) from error
    if stored.value["codec"] == "json":
        return Stored(_json_digest(part), "json", {"codec": "json", "json": part})  # it is kept within the whole
    return encode(ws, part)


def present(ws: Workspace, stored: Stored) -> bool:
    """Whether all that a kept value needs is still there."""
    how = stored.value
    if "items" in how:
        return all(present(ws, Stored.from_json(item)) for _, item in how["items"])
    if how["codec"] == "record":
        return ws.store.get(RECORDS[how["kind"]], how["key"]) is not None
    if how["codec"] == "frame":
        from boucle.ledger import tables

        return tables.present(ws.blobs, how["manifest"])
    blobs = [*([how["blob"]] if "blob" in how else []), *how.get("files", {}).values()]
    return all(ws.blobs.has(blob) for blob in blobs)


def read_frame(ws: Workspace, stored: Stored) -> Any:
    """A kept table as a lazy frame."""
    from boucle.ledger import tables

    return tables.read(ws.blobs, stored.value["manifest"])


def as_table(frame: Any, wanted: Any, kept: str = "frame") -> Any:
    """A frame as the kind of table an annotation names (Frame, pandas, Polars, Arrow); as it was kept without one."""
    module = getattr(wanted, "__module__", "") or ""
    name = getattr(wanted, "__name__", "")
    if name == "DataFrame":
        kept = "pandas" if module.startswith("pandas") else "polars"
    elif name == "Table" and module.startswith("pyarrow"):
        kept = "arrow"
    elif name == "Frame":
        kept = "frame"
    return {"frame": lambda: frame, "pandas": frame.pandas, "polars": frame.polars, "arrow": frame.table}[kept]()


def _is_table(value: Any, module: str) -> bool:
    name = type(value).__name__
    if module == "pandas":
        plain_index = name == "DataFrame" and type(value.index).__name__ == "RangeIndex" and value.index.start == 0
        return bool(plain_index and value.index.step == 1 and all(isinstance(c, str) for c in value.columns))
    return (module, name) in {
        ("pyarrow", "Table"), ("pyarrow", "RecordBatch"), ("polars", "DataFrame"), ("boucle", "Frame"),
    }  # fmt: skip


def _table(ws: Workspace, value: Any, module: str) -> Stored:
    from boucle.core.frames import Frame
    from boucle.ledger import tables

    kept = tables.write(ws.blobs, Frame.of(value))
    how = {
        "codec": "frame",
        "manifest": kept.manifest,
        "as": {"pyarrow": "arrow", "boucle": "frame"}.get(module, module),
    }
    return Stored(kept.digest, "frame", {**how, "rows": kept.rows}, kept.size)


def _array(ws: Workspace, value: Any) -> Stored:
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, value, allow_pickle=False)
    digest = ws.blobs.put(buffer.getvalue())
    return Stored(digest, "array", {"codec": "array", "blob": digest, "shape": list(value.shape)}, buffer.tell())


def _model(ws: Workspace, value: Any, framework: Any) -> Stored:
    with tempfile.TemporaryDirectory() as folder:
        meta = dict(framework.save(value, Path(folder)))
        files = {}
        size = 0
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                files[path.relative_to(folder).as_posix()] = ws.blobs.put(path)
                size += path.stat().st_size
    how = {"codec": "model", "framework": framework.name, "meta": meta, "files": files}
    return Stored(_digest(how), "model", how, size)


def _json(ws: Workspace, value: Any) -> Stored:
    text = json.dumps(value)  # in its order, which a later step may go by
    digest = _json_digest(value)
    if len(text) <= INLINE and _inline(value):
        return Stored(digest, "json", {"codec": "json", "json": value}, len(text))
    return Stored(digest, "json", {"codec": "json", "blob": ws.blobs.put(text.encode())}, len(text))


def _json_digest(value: Any) -> str:
    return blake3(json.dumps(value).encode()).hexdigest()


def _inline(value: Any) -> bool:
    """Whether the JSON of a record can carry it: a number that is finite, text that is Unicode."""
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except ValueError:
        return False
    return True


def _kept_json(ws: Workspace, content: dict[str, Any], kind: str) -> Stored:
    plain = _json(ws, content)
    return Stored(plain.digest, kind, {**plain.value, "codec": kind}, plain.size)


def _read_json(ws: Workspace, how: Mapping[str, Any]) -> Any:
    return json.loads(ws.blobs.get(how["blob"])) if "blob" in how else how["json"]


def composite(codec: str, items: list[tuple[str | int, Stored]], extra: dict[str, Any] | None = None) -> Stored:
    """Several kept values as one; its parts stay values of their own."""
    how = {"codec": codec, "items": [[k, s.to_json()] for k, s in items], **(extra or {})}
    digest = blake3(json.dumps([codec, extra, [[k, s.digest] for k, s in items]]).encode()).hexdigest()
    return Stored(digest, codec, how, sum(s.size for _, s in items))


def _pickled(ws: Workspace, value: Any) -> Stored:
    try:
        body = pickle.dumps(value, protocol=5)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise Invalid(
            f"a {type(value).__qualname__} cannot be kept: {error}",
            expected="a table, array, model, dataclass, plain value or something picklable",
            fix="return what later steps need in one of these forms",
        ) from None
    blob = ws.blobs.put(hmac.digest(ws.key, body, "sha256") + body)
    reached = reach(value)
    # Equal values may have different pickles (sets, say), and then what stands below need not run again.
    digest = blake3(body + reached.digest.encode()).hexdigest() if reached.opaque else value_digest(value)
    return Stored(digest, "pickle", {"codec": "pickle", "blob": blob}, len(body))


def _unpickled(ws: Workspace, how: Mapping[str, Any]) -> Any:
    sealed = ws.blobs.get(how["blob"])
    signature, body = sealed[:32], sealed[32:]
    if not hmac.compare_digest(signature, hmac.digest(ws.key, body, "sha256")):
        raise Corrupt(
            f"a pickled value ({how['blob'][:12]}) was not signed by this workspace, so it is not opened",
            expected="values made here",
            fix="run the step again: boucle run --force",
        )
    return pickle.loads(body)  # noqa: S301  signed with this workspace's own key


def _plain(value: Any, depth: int = 0) -> bool:
    if value is None or type(value) in (bool, int, float, str):
        return True
    if depth > 50:
        return False
    if type(value) is list:
        return all(_plain(v, depth + 1) for v in value)
    return type(value) is dict and all(type(k) is str and _plain(v, depth + 1) for k, v in value.items())


def _digest(value: Any) -> str:
    return blake3(json.dumps(value, sort_keys=True).encode()).hexdigest()


@functools.cache
def _class(kind: type) -> dict[str, str]:
    """How a class is found again, and for one of the user's own the digest of its code, which comes with its values."""
    reached = reach(kind)
    code = {"code": reached.digest} if reached.parts else {}
    return {"class": f"{kind.__module__}:{kind.__qualname__}", **code}


def _class_at(path: str) -> Any:
    module, _, name = path.partition(":")
    thing: Any = importlib.import_module(module)
    for part in name.split("."):
        thing = getattr(thing, part)
    return thing
