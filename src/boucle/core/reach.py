"""What a function reaches: the functions, constants and libraries its result may depend on.

A cached result may be used again only when nothing it depends on has changed. So the walk follows what the compiled code
really names: globals, attributes of the user's own modules, closures, defaults, classes and their methods. The user's own
code counts by its bytecode (comments, blank lines and docstrings do not), installed libraries by their version, constants
by their value. Reading bytecode instead of source means that what is fingerprinted is what is run, also when the file was
edited since it was imported.
"""

from __future__ import annotations

import builtins
import dis
import enum
import functools
import importlib.util
import inspect
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from blake3 import blake3

_LIBRARY = tuple(
    {
        str(Path(p).resolve())
        for p in (
            *(sysconfig.get_paths()[k] for k in ("stdlib", "platstdlib", "purelib", "platlib")),
            sys.base_prefix + "/lib",
        )
    }
)
_OWN = "boucle"  # counts as a library, also when it is installed from a checkout
_DEEPEST = 24  # nesting of plain values; past it something is self-referring in a way `seen` does not catch


@dataclass(slots=True)
class Reached:
    """Everything a function's result may depend on, by name; `digest` is over all of it."""

    parts: dict[str, str] = field(default_factory=dict)  # "def module:name", "value module:NAME" -> digest
    packages: dict[str, str] = field(default_factory=dict)  # top-level module -> version
    files: dict[str, str] = field(default_factory=dict)  # the user's modules -> path of the source
    opaque: list[str] = field(default_factory=list)  # what could be judged by its type only

    @property
    def digest(self) -> str:
        lines = [f"{k}={v}" for group in (self.parts, self.packages) for k, v in sorted(group.items())]
        return blake3("\n".join(lines).encode()).hexdigest()

    def changes(self, before: Mapping[str, str]) -> list[str]:
        """In words, what differs from the parts and packages of an earlier walk (`snapshot`)."""
        now = self.snapshot()
        words = []
        for key in sorted({*now, *before}):
            if now.get(key) != before.get(key):
                what, _, name = key.partition(" ")
                said = {"def": "function", "class": "class", "value": "constant"}.get(what, what)
                if what == "package":
                    words.append(f"{name} {before.get(key, 'absent')} became {now.get(key, 'unused')}")
                elif key not in before:
                    words.append(f"{said} {name} is now used")
                elif key not in now:
                    words.append(f"{said} {name} is no longer used")
                else:
                    words.append(f"{said} {name} changed")
        return words

    def snapshot(self) -> dict[str, str]:
        """Parts and packages as one mapping, to keep and compare with later."""
        return {**self.parts, **{f"package {k}": v for k, v in self.packages.items()}}


def reach(function: Callable[..., Any]) -> Reached:
    """Walk a function or a class. Objects with `__wrapped__` count with the function they wrap."""
    walk = _Walk()
    if isinstance(function, type):
        walk.klass(function)
    else:
        walk.function(inspect.unwrap(function))
    return walk.reached


def value_digest(value: Any) -> str:
    """The digest of a plain value (numbers, text, containers, dataclasses, arrays); the same for equal content."""
    return _Walk().value(value, 0)


class _Walk:
    def __init__(self) -> None:
        self.reached = Reached()
        self.seen: set[int] = set()
        self.keep: list[Any] = []  # ids stay unique only while their objects live

    def once(self, thing: Any) -> bool:
        if id(thing) in self.seen:
            return False
        self.seen.add(id(thing))
        self.keep.append(thing)
        return True

    def function(self, function: Any) -> None:
        if not isinstance(function, types.FunctionType):
            call = getattr(type(function), "__call__", None)
            if isinstance(call, types.FunctionType) and not _is_library(call.__module__):
                self.function(call)
                self.part("value", f"{type(function).__module__}:{type(function).__qualname__}", function)
            else:
                self.name(function, getattr(function, "__qualname__", type(function).__qualname__), "")
            return
        if not self.once(function):
            return
        name = f"{function.__module__}:{function.__qualname__}"
        self.source(function.__module__, function.__code__.co_filename)
        hasher = blake3(_code_bytes(function.__code__, function.__doc__))
        hasher.update(repr(sorted((k, str(v)) for k, v in function.__annotations__.items())).encode())
        for default in (*(function.__defaults__ or ()), *sorted((function.__kwdefaults__ or {}).items())):
            hasher.update(self.value(default, 0).encode())
        self.reached.parts[f"def {name}"] = hasher.hexdigest()
        for chain in _global_chains(function.__code__):
            self.chain(chain, function.__globals__, function.__module__)
        for module, names in _imports(function.__code__):
            self.imported(module, names, function.__globals__.get("__package__") or "")
        for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                content = cell.cell_contents
            except ValueError:  # not filled yet: a function that refers to itself
                continue
            self.name(content, variable, f"{name}.<closure>")

    def chain(self, chain: tuple[str, ...], globals_: Mapping[str, Any], module: str) -> None:
        """Follow `a.b.c` as far as it leads through the user's modules."""
        head, *rest = chain
        if head in globals_:
            value, where, label = globals_[head], module, head
        elif hasattr(builtins, head):
            return
        else:
            self.reached.parts[f"value {module}:{head}"] = "undefined"
            return
        while isinstance(value, types.ModuleType) and rest and not _is_library(value.__name__):
            self.source(value.__name__, getattr(value, "__file__", None) or "")
            where, label = value.__name__, rest.pop(0)
            if not hasattr(value, label):
                self.reached.parts[f"value {where}:{label}"] = "undefined"
                return
            value = getattr(value, label)
        self.name(value, label, where)

    def imported(self, module: str, names: tuple[str, ...], package: str) -> None:
        try:
            full = importlib.util.resolve_name(module, package) if module.startswith(".") else module
        except ImportError:
            return
        if _is_library(full):
            self.package(full)
            return
        loaded = sys.modules.get(full)
        if loaded is not None:
            for name in names or ():
                if hasattr(loaded, name):
                    self.name(getattr(loaded, name), name, full)
            if not names:
                self.whole_file(full, getattr(loaded, "__file__", None))
            return
        try:
            spec = importlib.util.find_spec(full)
        except (ImportError, ValueError):
            spec = None
        if spec is not None:
            self.whole_file(full, spec.origin)

    def whole_file(self, module: str, path: str | None) -> None:
        if path and Path(path).is_file():
            self.source(module, path)
            self.reached.parts[f"module {module}"] = blake3(Path(path).read_bytes()).hexdigest()

    def name(self, value: Any, label: str, module: str) -> None:
        """A value that code names: walk into what is the user's own, take the version of what is a library's."""
        value = inspect.unwrap(value) if callable(value) and hasattr(value, "__wrapped__") else value
        if isinstance(value, types.ModuleType):
            if _is_library(value.__name__):
                self.package(value.__name__)
            else:
                self.whole_file(value.__name__, getattr(value, "__file__", None))
        elif isinstance(value, types.FunctionType):
            if _is_library(value.__module__):
                self.package(value.__module__)
            else:
                self.function(value)
        elif isinstance(value, type):
            self.klass(value)
        elif isinstance(value, types.BuiltinFunctionType | types.MethodType | functools.partial):
            self.callable(value)
        elif _is_marker(value):
            return
        else:
            self.part("value", f"{module}:{label}", value)

    def callable(self, value: Any) -> None:
        if isinstance(value, functools.partial):
            self.name(value.func, getattr(value.func, "__qualname__", "partial"), "")
            self.part("value", f"partial:{getattr(value.func, '__qualname__', '?')}", (value.args, value.keywords))
        elif isinstance(value, types.MethodType):
            self.name(value.__func__, value.__func__.__qualname__, "")
            self.value(value.__self__, 0)
        elif getattr(value, "__module__", None):
            self.package(value.__module__)

    def klass(self, cls: type) -> None:
        if _is_library(cls.__module__):
            self.package(cls.__module__)
            return
        if not self.once(cls):
            return
        name = f"{cls.__module__}:{cls.__qualname__}"
        self.source(cls.__module__, getattr(sys.modules.get(cls.__module__), "__file__", None) or "")
        hasher = blake3()
        for base in cls.__bases__:
            self.klass(base)
            hasher.update(base.__qualname__.encode())
        for key, member in sorted(vars(cls).items()):
            plain = getattr(member, "__func__", member)
            if isinstance(member, property):
                for part in (member.fget, member.fset, member.fdel):
                    if part is not None:
                        self.name(part, key, name)
            elif isinstance(plain, types.FunctionType):
                # Methods that dataclasses and NamedTuples generate are made of the fields, which count below.
                if plain.__code__.co_filename == "<string>" or plain.__module__ != cls.__module__:
                    continue
                self.function(plain)
            elif key not in _CLASS_NOISE and not isinstance(
                plain, types.MemberDescriptorType | types.GetSetDescriptorType
            ):
                hasher.update(key.encode() + self.value(plain, 1).encode())
        hasher.update(repr(sorted((k, str(v)) for k, v in cls.__dict__.get("__annotations__", {}).items())).encode())
        self.reached.parts[f"class {name}"] = hasher.hexdigest()

    def part(self, what: str, name: str, value: Any) -> None:
        self.reached.parts[f"{what} {name}"] = self.value(value, 0)

    def package(self, module: str) -> None:
        top = module.partition(".")[0]
        if top and top not in self.reached.packages and top not in sys.stdlib_module_names and top != "builtins":
            self.reached.packages[top] = package_version(top)

    def source(self, module: str, path: str) -> None:
        if path and not path.startswith("<") and module not in self.reached.files:
            self.reached.files[module] = path

    def value(self, value: Any, depth: int) -> str:
        hasher = blake3()
        self.feed(value, hasher, depth)
        return hasher.hexdigest()

    def feed(self, value: Any, hasher: Any, depth: int) -> None:
        """Put a value into a hash, type first, so that 1, 1.0, True and "1" differ."""
        kind = type(value)
        hasher.update(kind.__qualname__.encode() + b"\0")
        if value is None or kind in (bool, int, float, complex, str, range, slice) or value is ...:
            hasher.update(repr(value).encode())
        elif kind in (bytes, bytearray):
            hasher.update(bytes(value))
        elif kind in (list, tuple):
            self.items(value, hasher, depth)
        elif kind in (set, frozenset):
            self.items(sorted(self.value(v, depth + 1) for v in value), hasher, depth)
        elif isinstance(value, enum.Enum):
            self.klass(kind)
            hasher.update(value.name.encode())
        elif isinstance(value, Mapping):
            self.items(
                sorted((self.value(k, depth + 1), self.value(v, depth + 1)) for k, v in value.items()), hasher, depth
            )
        elif isinstance(value, types.FunctionType | type | types.ModuleType | functools.partial | types.MethodType):
            self.name(
                value, getattr(value, "__qualname__", getattr(value, "__name__", "")), getattr(value, "__module__", "")
            )
            hasher.update(getattr(value, "__qualname__", getattr(value, "__name__", "")).encode())
        elif kind.__module__ == "numpy" and hasattr(value, "tobytes"):
            if getattr(value, "dtype", None) is not None and value.dtype.hasobject:
                self.feed(value.tolist(), hasher, depth + 1)
            else:
                hasher.update(f"{getattr(value, 'dtype', '')}{getattr(value, 'shape', '')}".encode() + value.tobytes())
        else:
            self.instance(value, hasher, depth)

    def items(self, values: Any, hasher: Any, depth: int) -> None:
        for value in values:
            self.feed(value, hasher, depth + 1)
            hasher.update(b"\1")

    def instance(self, value: Any, hasher: Any, depth: int) -> None:
        cls = type(value)
        if not _is_library(cls.__module__):
            self.klass(cls)
        else:
            self.package(cls.__module__)
        if depth > _DEEPEST or not self.once(value):
            return
        if cls.__module__ in ("logging", "_thread", "threading", "_io"):
            return
        state = _state(value)
        if state is None:
            self.reached.opaque.append(f"{cls.__module__}.{cls.__qualname__}")
        else:
            self.feed(state, hasher, depth + 1)


def _state(value: Any) -> Any:
    """What makes up an instance: its attributes, or what it would be pickled as; None when it cannot be told."""
    if type(value).__reduce_ex__ is object.__reduce_ex__ and type(value).__reduce__ is object.__reduce__:
        slots = [s for c in type(value).__mro__ for s in _slots(c)]
        if hasattr(value, "__dict__") or slots:
            return {**getattr(value, "__dict__", {}), **{s: getattr(value, s) for s in slots if hasattr(value, s)}}
    try:
        made = value.__reduce_ex__(4)
    except (TypeError, ValueError, AttributeError, NotImplementedError, RuntimeError):
        return None
    return made if isinstance(made, str) else [list(x) if isinstance(x, Iterator) else x for x in made]


def _slots(cls: type) -> tuple[str, ...]:
    slots = cls.__dict__.get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


_CLASS_NOISE = {
    "__module__", "__doc__", "__dict__", "__weakref__", "__qualname__", "__annotations__", "__slots__", "__orig_bases__",
    "__dataclass_fields__", "__dataclass_params__", "__match_args__", "__abstractmethods__", "_abc_impl", "__hash__",
    "__parameters__", "__firstlineno__", "__static_attributes__", "__annotate__", "__annotate_func__", "__replace__",
    "__annotations_cache__", "__type_params__",
}  # fmt: skip


def _is_marker(value: Any) -> bool:
    """Typing constructs say nothing about a result that the annotation's text does not."""
    return type(value).__module__ in ("typing", "types") or type(value) is types.GenericAlias


@functools.cache
def _is_library(module: str | None) -> bool:
    if not module or module == "__main__":
        return not module
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names or top in ("builtins", _OWN):
        return True
    loaded = sys.modules.get(module) or sys.modules.get(top)
    path = getattr(loaded, "__file__", None) if loaded is not None else _origin(top)
    if path is None:
        folders = list(getattr(loaded, "__path__", []))
        path = folders[0] if folders else None
    return path is None or str(Path(path).resolve()).startswith(_LIBRARY)


def _origin(module: str) -> str | None:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    return None if spec is None else spec.origin


@functools.cache
def package_version(module: str) -> str:
    """The version of an installed top-level module, as short work as possible."""
    if module == _OWN:
        return _own_version()
    try:
        return metadata.version(module)
    except metadata.PackageNotFoundError:
        pass
    version = getattr(sys.modules.get(module), "__version__", None)
    if isinstance(version, str):
        return version
    for name in metadata.packages_distributions().get(module, ()):
        return metadata.version(name)
    return "unknown"


def _own_version() -> str:
    """Our version; run from a checkout, where it does not change with every edit, the state of the files too."""
    folder = Path(__file__).resolve().parents[1]
    version = metadata.version(_OWN)
    if str(folder).startswith(_LIBRARY):
        return version
    states = sorted((str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*.py"))
    return f"{version}+{blake3(repr(states).encode()).hexdigest()[:12]}"


@functools.cache
def _code_bytes(code: types.CodeType, doc: str | None) -> bytes:
    hasher = blake3(code.co_code)
    consts = code.co_consts
    if doc is not None and consts and consts[0] == doc:
        consts = (None, *consts[1:])
    for const in consts:
        if isinstance(const, types.CodeType):
            inner = const.co_consts[0] if const.co_consts and isinstance(const.co_consts[0], str) else None
            hasher.update(_code_bytes(const, inner if const.co_flags & inspect.CO_NEWLOCALS else None))
        else:
            hasher.update(f"{type(const).__name__}:{_stable(const)}".encode())
    hasher.update(
        repr((code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars, code.co_argcount)).encode()
    )
    hasher.update(code.co_exceptiontable)
    return hasher.digest()


def _stable(const: Any) -> str:
    """`repr` of a constant, with sets in one order whatever the hash seed."""
    return repr(sorted(map(repr, const))) if isinstance(const, frozenset) else repr(const)


@functools.cache
def _global_chains(code: types.CodeType) -> tuple[tuple[str, ...], ...]:
    """Each global a code object (and those inside it) names, with the attributes read off it: ('np', 'mean')."""
    chains: dict[tuple[str, ...], None] = {}
    current: list[str] = []
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            if current:
                chains[tuple(current)] = None
            current = [instruction.argval]
        elif current and instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            current.append(instruction.argval)
        elif instruction.opname not in ("CACHE", "PRECALL", "EXTENDED_ARG", "PUSH_NULL"):
            if current:
                chains[tuple(current)] = None
            current = []
    if current:
        chains[tuple(current)] = None
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            chains.update(dict.fromkeys(_global_chains(const)))
    return tuple(chains)


@functools.cache
def _imports(code: types.CodeType) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Imports inside a function: module (relative ones with their dots) and the names taken from it."""
    found: list[tuple[str, tuple[str, ...]]] = []
    names: list[str] = []
    module = ""
    level = 0
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_CONST", "LOAD_SMALL_INT") and isinstance(instruction.argval, int):
            level = instruction.argval
        elif instruction.opname == "IMPORT_NAME":
            if module:
                found.append((module, tuple(names)))
            module, names = "." * level + instruction.argval, []
        elif instruction.opname == "IMPORT_FROM":
            names.append(instruction.argval)
    if module:
        found.append((module, tuple(names)))
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            found += _imports(const)
    return tuple(found)
