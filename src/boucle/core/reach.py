"""What a function reaches: the functions, constants and libraries its result may depend on.

A cached result may be used again only when nothing it depends on has changed. So the walk follows what the compiled code
really names: globals, attributes of the user's own modules, closures, defaults, classes and their methods. The user's own
code counts by its bytecode (comments, blank lines and docstrings do not), installed libraries by their version, constants
by their value. Reading bytecode instead of source means that what is fingerprinted is what is run, also when the file was
edited since it was imported.
"""

from __future__ import annotations

import builtins
import copyreg
import dataclasses
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

from boucle.core.errors import Invalid

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


def reach(thing: Any) -> Reached:
    """Walk a function or class, or whatever code a value holds. Raises `Invalid` for what is nested too deep."""
    walk = _Walk()
    walk.all(thing)
    return walk.reached


def value_digest(value: Any) -> str:
    """The digest of a value: the same for equal content, whatever process asks. The user's own code that the value holds
    (functions, classes of its instances) counts with all that it reaches."""
    walk = _Walk()
    digest = walk.all(value)
    return (
        digest
        if not (walk.reached.parts or walk.reached.packages)
        else _hash(digest.encode(), walk.reached.digest.encode())
    )


class _Walk:
    def __init__(self) -> None:
        self.reached = Reached()
        self.named: dict[str, set[str]] = {}
        self.known: dict[int, str] = {}
        self.kept: list[Any] = []  # ids stay unique only while their objects live

    def all(self, thing: Any) -> str:
        try:
            return _hash(self.piece(thing))
        except RecursionError:
            raise Invalid(
                f"a {type(thing).__qualname__} is nested too deep to tell whether it changed",
                expected="less than about 200 levels",
                fix="keep it flat, or in a file that the step reads",
            ) from None

    def once(self, thing: Any, digest: Callable[[Any], str]) -> str:
        """A digest that is computed once per object; what refers to itself finds a mark instead of an end."""
        known = self.known.get(id(thing))
        if known is None:
            self.kept.append(thing)
            self.known[id(thing)] = "itself"
            known = self.known[id(thing)] = digest(thing)
        return known

    def put(self, part: str, digest: str) -> None:
        """Several things may have one name, such as lambdas, or functions made by a function: then the part is all."""
        digests = self.named.setdefault(part, set())
        digests.add(digest)
        self.reached.parts[part] = digest if len(digests) == 1 else _hash(*(d.encode() for d in sorted(digests)))

    # --- names in code ------------------------------------------------------------------------------------------------

    def chain(self, chain: tuple[str, ...], globals_: Mapping[str, Any], module: str) -> None:
        """Follow `a.b.c` as far as it leads through the user's modules."""
        head, *rest = chain
        if head in globals_:
            value, where, label = globals_[head], module, head
        elif hasattr(builtins, head):
            return
        else:
            self.put(f"value {module}:{head}", "undefined")
            return
        while isinstance(value, types.ModuleType) and rest and not is_library(value.__name__):
            self.source(value.__name__)
            where, label = value.__name__, rest.pop(0)
            if not hasattr(value, label):
                self.put(f"value {where}:{label}", "undefined")
                return
            value = getattr(value, label)
        self.name(value, label, where)

    def name(self, value: Any, label: str, module: str) -> None:
        """A value that code names: walk into what is the user's own, take the version of what is a library's."""
        if _is_marker(value):
            return
        digest = self.piece(value)
        if not isinstance(value, _CODE) and not (_wraps(value) and is_library(type(value).__module__)):
            self.put(f"value {module}:{label}", _hash(digest))
        elif (getattr(value, "__module__", ""), getattr(value, "__qualname__", "")) != (module, label):
            self.put(f"name {module}:{label}", _hash(digest))  # another thing may get this name later

    def imported(self, module: str, names: tuple[str, ...], package: str) -> None:
        """An import inside a function. The user's own modules are imported now, to see what lies behind them."""
        try:
            full = importlib.util.resolve_name(module, package) if module.startswith(".") else module
        except ImportError:
            return
        if is_library(full):
            self.package(full)
            return
        loaded = _imported(full)
        if loaded is None:
            self.put(f"module {full}", "absent")
        elif not names:
            self.piece(loaded)
        for name in names if loaded is not None else ():
            found = getattr(loaded, name, None)
            if found is None:
                found = _imported(f"{full}.{name}") or loaded  # `import a.b as c` asks a.b for b
            self.name(found, name, full)

    # --- things of the user -------------------------------------------------------------------------------------------

    def piece(self, value: Any) -> bytes:
        """What stands for a value in the hash of what holds it: type first, so that 1, 1.0, True and "1" differ."""
        kind = type(value)
        if value is None or kind in _PLAIN:
            return f"{kind.__name__}\0{value!r}".encode()
        if kind is bytes:
            return b"bytes\0" + bytes(value)
        return self.once(value, self.compound).encode()

    def compound(self, value: Any) -> str:
        kind = type(value)
        head = f"{kind.__module__}.{kind.__qualname__}".encode()
        if kind in (list, tuple):
            return _hash(head, *map(self.piece, value))
        if kind in (dict, types.MappingProxyType):  # in its order, for who goes over a mapping sees it
            return _hash(head, *(self.piece(x) for pair in value.items() for x in pair))
        if isinstance(value, set | frozenset):
            return _hash(head, *sorted(map(self.piece, value)))
        if isinstance(value, types.FunctionType):
            return self.function(value)
        if isinstance(value, type):
            return self.klass(value)
        if isinstance(value, types.ModuleType):
            return self.module(value)
        if isinstance(value, types.MethodType):
            return _hash(head, self.piece(value.__func__), self.piece(value.__self__))
        if kind is functools.partial:
            return _hash(head, *map(self.piece, (value.func, value.args, value.keywords)))
        if isinstance(value, types.BuiltinFunctionType):
            self.package(value.__module__ or "")
            return _hash(head, f"{value.__module__}:{value.__qualname__}".encode())
        if _wraps(value) and is_library(kind.__module__):
            self.package(kind.__module__)
            return _hash(head, self.piece(value.__wrapped__))
        if isinstance(value, enum.Enum):
            self.piece(kind)
            return _hash(head, value.name.encode())
        if kind.__module__ == "numpy" and hasattr(value, "tobytes"):
            return self.array(value)
        return self.instance(value)

    def function(self, function: types.FunctionType) -> str:
        module = _home(function)
        name = f"{function.__module__}:{function.__qualname__}"
        if is_library(module):
            self.package(module)
            # A library's decorator may hold what is the user's.
            return _hash(name.encode(), *(self.piece(v) for v in _held(function)))
        self.source(module, function.__code__.co_filename)
        hasher = blake3(_code_digest(function.__code__))
        hasher.update(repr(sorted((k, str(v)) for k, v in function.__annotations__.items())).encode())
        defaults = (*(function.__defaults__ or ()), *sorted((function.__kwdefaults__ or {}).items()))
        hasher.update(_hash(*map(self.piece, defaults)).encode())
        own = str(hasher.hexdigest())
        self.put(f"def {name}", own)
        for chain in _global_chains(function.__code__):
            self.chain(chain, function.__globals__, module)
        for imported, names in _imports(function.__code__):
            self.imported(imported, names, function.__globals__.get("__package__") or "")
        closure = []
        for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                content = cell.cell_contents
            except ValueError:  # not filled yet
                continue
            if not _is_marker(content):
                closure.append(self.piece(content))
                self.put(f"value {name}.<closure>:{variable}", _hash(closure[-1]))
        return _hash(own.encode(), *closure)

    def klass(self, cls: type) -> str:
        name = f"{cls.__module__}:{cls.__qualname__}"
        if is_library(cls.__module__):
            self.package(cls.__module__)
            return _hash(name.encode())
        self.source(cls.__module__)
        pieces = [name.encode(), *(self.piece(base) for base in cls.__bases__), self.piece(type(cls))]
        if issubclass(cls, enum.Enum):
            pieces += [self.piece((n, m.value)) for n, m in cls.__members__.items()]
        for f in vars(cls).get("__dataclass_fields__", {}).values():
            # Defaults made by a factory, and all defaults of a class with slots, are found nowhere else.
            given = [None if v is dataclasses.MISSING else v for v in (f.default, f.default_factory)]
            pieces.append(self.piece((f.name, *given, f.init, f.compare, f.kw_only)))
        for key, member in sorted(vars(cls).items()):
            if (
                key in _CLASS_NOISE
                or isinstance(member, _DESCRIPTORS)
                or (key in _ENUM_NOISE and issubclass(cls, enum.Enum))
            ):
                continue
            plain = getattr(member, "__func__", member)
            if isinstance(member, property):
                pieces += [key.encode(), *(self.piece(part) for part in (member.fget, member.fset, member.fdel))]
            elif isinstance(plain, types.FunctionType) and plain.__code__.co_filename == "<string>":
                continue  # what dataclasses and NamedTuples generate is made of the fields
            elif not (isinstance(member, enum.Enum) and type(member) is cls):
                pieces += [key.encode(), self.piece(plain)]
        pieces.append(repr(sorted((k, str(v)) for k, v in vars(cls).get("__annotations__", {}).items())).encode())
        digest = _hash(*pieces)
        self.put(f"class {name}", digest)
        return digest

    def module(self, module: types.ModuleType) -> str:
        """A module that code holds as a whole: its file, and all that its names lead to."""
        name = module.__name__
        if is_library(name):
            self.package(name)
        else:
            self.source(name)
            path = Path(getattr(module, "__file__", None) or "")
            if path.is_file():
                self.put(f"module {name}", _hash(path.read_bytes()))
            for label, value in sorted(vars(module).items()):
                if not label.startswith("__"):
                    self.name(value, label, name)
        return _hash(name.encode())

    def array(self, value: Any) -> str:
        """A NumPy array or scalar."""
        head = f"{type(value).__name__} {value.dtype} {value.shape}".encode()
        return _hash(head, self.piece(value.tolist()) if value.dtype.hasobject else value.tobytes())

    def instance(self, value: Any) -> str:
        cls = type(value)
        pieces = [self.piece(cls)]
        if cls.__module__ not in ("logging", "_thread", "threading", "_io"):
            state = _state(value)
            if state is None:
                self.reached.opaque.append(f"{cls.__module__}.{cls.__qualname__}")
            else:
                pieces.append(self.piece(state))
        return _hash(*pieces)

    # --- libraries and files ------------------------------------------------------------------------------------------

    def package(self, module: str) -> None:
        top = module.partition(".")[0]
        if top in ("", "builtins") or top.startswith("_cython_"):  # Cython's types come with the library that uses them
            return
        if top not in self.reached.packages and top not in sys.stdlib_module_names:
            self.reached.packages[top] = package_version(top)

    def source(self, module: str, otherwise: str = "") -> None:
        if module not in self.reached.files:
            path = getattr(sys.modules.get(module), "__file__", None) or otherwise
            if path and not path.startswith("<"):
                self.reached.files[module] = path


_PLAIN = frozenset({bool, int, float, complex, str, range, type(...), type(NotImplemented)})
_CODE = (
    types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType, functools.partial, type,
)  # fmt: skip
_DESCRIPTORS = (types.MemberDescriptorType, types.GetSetDescriptorType)
_CONTENT = (
    list,
    dict,
    tuple,
    str,
    bytes,
    bytearray,
    int,
    float,
    complex,
)  # of which a subclass has more than attributes


def _hash(*pieces: bytes) -> str:
    hasher = blake3()
    for piece in pieces:
        hasher.update(len(piece).to_bytes(8, "little") + piece)
    return str(hasher.hexdigest())


def _home(function: types.FunctionType) -> str:
    """The module whose code it is; `__module__` may be that of a function it wraps."""
    return str(function.__globals__.get("__name__") or function.__module__ or "__main__")


def _wraps(value: Any) -> bool:
    return callable(value) and hasattr(value, "__wrapped__")


def _held(function: types.FunctionType) -> Iterator[Any]:
    """Functions and classes in the closure of a function, also those in a mapping there (as `singledispatch` has)."""
    for cell in function.__closure__ or ():
        try:
            content = cell.cell_contents
        except ValueError:
            continue
        for thing in content.values() if type(content) is dict else (content,):
            if isinstance(thing, types.FunctionType | types.MethodType | functools.partial | type) or _wraps(thing):
                yield thing


def _imported(module: str) -> types.ModuleType | None:
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


def _state(value: Any) -> Any:
    """What makes up an instance: its attributes, or what it would be pickled as; None when it cannot be told."""
    cls = type(value)
    special = copyreg.dispatch_table.get(cls)
    # One that says itself what counts is asked; so is a list or a number with attributes, of which they are the lesser part.
    plain = all(
        getattr(cls, m, None) is getattr(object, m, None) for m in ("__reduce__", "__reduce_ex__", "__getstate__")
    )
    if special is None and plain and not issubclass(cls, _CONTENT):
        slots = [s for c in cls.__mro__ for s in _slots(c)]
        if hasattr(value, "__dict__") or slots:
            return {**getattr(value, "__dict__", {}), **{s: getattr(value, s) for s in slots if hasattr(value, s)}}
    try:
        made = special(value) if special is not None else value.__reduce_ex__(4)
    except Exception:  # noqa: BLE001  whatever its class raises there: it will not say
        return None
    return made if isinstance(made, str) else [list(x) if isinstance(x, Iterator) else x for x in made]


def _slots(cls: type) -> tuple[str, ...]:
    slots = cls.__dict__.get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    private = f"_{cls.__name__.lstrip('_')}"
    return tuple(private + n if n.startswith("__") and not n.endswith("__") else n for n in names)


_ENUM_NOISE = {
    "_member_map_", "_value2member_map_", "_member_names_", "_unhashable_values_", "_hashable_values_", "_sort_order_",
    "_unhashable_values_map_", "_new_member_", "_use_args_", "_value_repr_",
}  # fmt: skip
_CLASS_NOISE = {
    "__module__", "__doc__", "__dict__", "__weakref__", "__qualname__", "__annotations__", "__slots__", "__orig_bases__",
    "__dataclass_fields__", "__dataclass_params__", "__match_args__", "__abstractmethods__", "_abc_impl", "__hash__",
    "__parameters__", "__firstlineno__", "__static_attributes__", "__annotate__", "__annotate_func__", "__replace__",
    "__annotations_cache__", "__type_params__",
}  # fmt: skip


def _is_marker(value: Any) -> bool:
    """Typing constructs say nothing about a result that the annotation's text does not."""
    return type(value).__module__ == "typing" or type(value) in (types.GenericAlias, types.UnionType)


@functools.cache
def is_library(module: str | None) -> bool:
    """Whether a module is installed or part of Python, as opposed to the user's own."""
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
    if spec is None:
        return None
    if spec.has_location:
        return spec.origin
    return next(iter(spec.submodule_search_locations or ()), None)  # a namespace package


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
    for name in distributions().get(module, ()):
        return metadata.version(name)
    return "unknown"


@functools.cache
def distributions() -> Mapping[str, list[str]]:
    """Top-level modules -> the distributions that installed them."""
    return metadata.packages_distributions()


def _own_version() -> str:
    """Our version; run from a checkout, where it does not change with every edit, the state of the files too."""
    folder = Path(__file__).resolve().parents[1]
    version = metadata.version(_OWN)
    if str(folder).startswith(_LIBRARY):
        return version
    states = sorted((str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*.py"))
    return f"{version}+{blake3(repr(states).encode()).hexdigest()[:12]}"


@functools.cache
def _code_digest(code: types.CodeType) -> bytes:
    """Over the instructions with what they name. Line numbers do not count, nor constants that nothing loads, which is what
    docstrings are."""
    hasher = blake3()
    for instruction in dis.get_instructions(code):
        hasher.update(f"{instruction.opname}\0".encode())
        if isinstance(instruction.argval, types.CodeType):
            hasher.update(_code_digest(instruction.argval))
        elif instruction.opcode in dis.hasconst:
            hasher.update(f"{type(instruction.argval).__name__}:{_stable(instruction.argval)}\0".encode())
        else:
            hasher.update(f"{instruction.arg}:{instruction.argval!r}\0".encode())
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & _HOW_CALLED)
    hasher.update(repr((counts, code.co_varnames, code.co_freevars, code.co_cellvars)).encode())
    hasher.update(code.co_exceptiontable)
    return bytes(hasher.digest())


_HOW_CALLED = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS | inspect.CO_GENERATOR | inspect.CO_COROUTINE


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
