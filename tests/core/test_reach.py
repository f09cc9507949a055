"""What a function reaches: every change that may change a result shows, and nothing else does."""

from __future__ import annotations

import importlib
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boucle.core import reach as module
from boucle.core.errors import Invalid
from boucle.core.reach import package_version, reach, value_digest


@pytest.fixture
def look(tmp_path, monkeypatch):
    """Write modules, import them afresh, and walk `f` of the first."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)

    def forget():
        for name in set(sys.modules) - before:
            if name.split(".")[0] in ("main", "other", "third", "kit"):
                del sys.modules[name]
        module.is_library.cache_clear()
        importlib.invalidate_caches()

    def walk(main, **others):
        forget()
        for name, text in {"main": main, **others}.items():
            path = tmp_path / f"{name}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(textwrap.dedent(text))
        return reach(importlib.import_module("main").f)

    yield walk
    forget()


# name -> code, with @@ where it is changed from the one to the other
CHANGES = {
    "itself": ("def f(): return @@", "1", "2"),
    "operator": ("def f(x): return x @@ 1", "+", "-"),
    "helper": ("def g(): return @@\ndef f(): return g()", "1", "2"),
    "helper's helper": ("def h(): return @@\ndef g(): return h()\ndef f(): return g()", "1", "2"),
    "class method": ("class C:\n  def m(self): return @@\ndef f(): return C().m()", "1", "2"),
    "inherited": ("class B:\n  def m(self): return @@\nclass C(B): pass\ndef f(): return C().m()", "1", "2"),
    "metaclass": (
        "class M(type):\n  def m(cls): return @@\nclass C(metaclass=M): pass\ndef f(): return C.m()",
        "1",
        "2",
    ),
    "static method": ("class C:\n  @staticmethod\n  def m(): return @@\ndef f(): return C.m()", "1", "2"),
    "property": ("class C:\n  @property\n  def p(self): return @@\ndef f(): return C().p", "1", "2"),
    "cached property": (
        "import functools\nclass C:\n  @functools.cached_property\n  def p(self): return @@\ndef f(): return C().p",
        "1",
        "2",
    ),
    "cached method": (
        "import functools\nclass C:\n  @functools.cache\n  def m(self): return @@\ndef f(): return C().m()",
        "1",
        "2",
    ),
    "cached helper": ("import functools\n@functools.cache\ndef g(): return @@\ndef f(): return g()", "1", "2"),
    "method taken from elsewhere": ("def g(self): return @@\nclass C:\n  m = g\ndef f(): return C().m()", "1", "2"),
    "closure": ("def make(n):\n  def inner(): return n\n  return inner\nf = make(@@)", "1", "2"),
    "one of two closures": (
        "def make(n):\n  return lambda: n\na = make(@@)\nb = make(3)\ndef f(): return a() + b()",
        "1",
        "2",
    ),
    "closures exchanged": (
        "def make(n):\n  return lambda: n\na = make(@@)\ndef f(): return a() - b()",
        "1)\nb = make(3",
        "3)\nb = make(1",
    ),
    "default": ("def f(x=@@): return x", "1", "2"),
    "keyword default": ("def f(*, x=@@): return x", "1", "2"),
    "default function": ("def g(): return @@\ndef f(call=g): return call()", "1", "2"),
    "partial": ("from functools import partial\ndef g(x): return x\np = partial(g, @@)\ndef f(): return p()", "1", "2"),
    "function of a partial": (
        "from functools import partial\ndef g(x): return @@x\np = partial(g, 1)\ndef f(): return p()",
        "",
        "-",
    ),
    "decorator": (
        "import functools\n"
        "def d(g):\n"
        "  @functools.wraps(g)\n"
        "  def w(): return @@ * g()\n"
        "  return w\n"
        "@d\n"
        "def f(): return 1",
        "2",
        "3",
    ),
    "decorated": (
        "import functools\n"
        "def d(g):\n"
        "  @functools.wraps(g)\n"
        "  def w(): return 2 * g()\n"
        "  return w\n"
        "@d\n"
        "def f(): return @@",
        "1",
        "2",
    ),
    "a library's decorator without wraps": (
        "import contextlib\n@contextlib.contextmanager\ndef g():\n  yield @@\ndef f():\n  with g() as x: return x",
        "1",
        "2",
    ),
    "decorator that is an object": (
        "class T:\n"
        "  def __init__(self, g): self.g = self.__wrapped__ = g\n"
        "  def __call__(self): return @@ * self.g()\n"
        "@T\n"
        "def g(): return 1\n"
        "def f(): return g()",
        "2",
        "3",
    ),
    "single dispatch": (
        "import functools\n"
        "@functools.singledispatch\n"
        "def g(x): return 0\n"
        "@g.register\n"
        "def _(x: int): return @@\n"
        "def f(): return g(1)",
        "1",
        "2",
    ),
    "nested function": ("def f():\n  def g(): return @@\n  return g()", "1", "2"),
    "lambda": ("g = lambda: @@\ndef f(): return g()", "1", "2"),
    "one of two lambdas": ("a = lambda: @@\nb = lambda: 2\ndef f(): return a() + b()", "1", "7"),
    "lambda in a dict": ("T = {'a': lambda x: x + @@, 'b': lambda x: 0}\ndef f(): return T['a'](1)", "1", "2"),
    "lambdas exchanged": (
        "@@",
        ("T = {'a': lambda x: x + 1, 'b': lambda x: 0}\ndef f(): return T['a'](1)"),
        ("T = {'a': lambda x: 0, 'b': lambda x: x + 1}\ndef f(): return T['a'](1)"),
    ),
    "constant in a generator expression": ("def f(): return list('@@' for _ in range(2))", "a", "b"),
    "constant in a comprehension": ("def f(): return ['@@' for _ in range(2)]", "a", "b"),
    "constant": ("N = @@\ndef f(): return N", "1", "2"),
    "type of a constant": ("N = 1@@\ndef f(): return N", "", ".0"),
    "constant in a dict": ("D = {'a': [1, {'b': @@}]}\ndef f(): return D", "2", "3"),
    "order of a dict": ("D = {'@@}\ndef f(): return list(D)", "a': 1, 'b': 2", "b': 2, 'a': 1"),
    "regular expression": ("import re\nP = re.compile('a@@')\ndef f(t): return P.findall(t)", "+", "*"),
    "namespace": ("from types import SimpleNamespace as N\nC = N(depth=@@)\ndef f(): return C.depth", "1", "2"),
    "list with a class of its own": ("class L(list): pass\nX = L([@@])\ndef f(): return X", "1", "2"),
    "slots": (
        "class S:\n  __slots__ = ('__n',)\n  def __init__(self, n): self.__n = n\nX = S(@@)\ndef f(): return X",
        "1",
        "2",
    ),
    "dataclass": (
        "from dataclasses import dataclass\n"
        "@dataclass(frozen=True, slots=True)\n"
        "class C:\n"
        "  n: int\n"
        "X = C(@@)\n"
        "def f(): return X.n",
        "1",
        "2",
    ),
    "default of a dataclass with slots": (
        "from dataclasses import dataclass\n@dataclass(slots=True)\nclass C:\n  n: int = @@\ndef f(): return C().n",
        "1",
        "2",
    ),
    "default factory": (
        "from dataclasses import dataclass, field\n"
        "@dataclass\n"
        "class C:\n"
        "  n: list = field(default_factory=lambda: [@@])\n"
        "def f(): return C().n",
        "1",
        "2",
    ),
    "enum": ("from enum import Enum\nclass E(Enum):\n  A = [@@]\ndef f(): return E.A.value", "1", "2"),
    "named tuple": (
        "from typing import NamedTuple\nclass N(NamedTuple):\n  n: int = @@\ndef f(): return N().n",
        "1",
        "2",
    ),
    "class attribute": ("class C:\n  n = @@\ndef f(): return C.n", "1", "2"),
    "array": ("import numpy as np\nA = np.array([1, @@])\ndef f(): return A", "2", "3"),
    "deep": (
        "class N:\n"
        "  def __init__(self, n, next): self.n, self.next = n, next\n"
        "X = None\n"
        "for i in range(40): X = N(0 if i else @@, X)\n"
        "def f(): return X",
        "1",
        "2",
    ),
    "same name from another library": ("from @@math import sqrt\ndef f(): return sqrt(4)", "", "c"),
    "global that is not there": ("@@def f(): return LATER", "", "LATER = 1\n"),
    "kind of function": ("def f(@@x): return x", "", "*"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_shows(look, name):
    code, *versions = CHANGES[name]
    before, after = (code.replace("@@", version) for version in versions)
    assert look(before).digest == look(before).digest
    assert look(before).digest != look(after).digest


@pytest.mark.parametrize(
    "main",
    [
        "import other\ndef f(): return other.g()",
        "import other as o\ndef f(): return o.g()",
        "from other import g\ndef f(): return g()",
        "from other import g as h\ndef f(): return h()",
        "import kit.part\ndef f(): return kit.part.g()",
        "def f():\n  import other\n  return other.g()",
        "def f():\n  import kit.part as p\n  return p.g()",
        "def f():\n  from kit import part\n  return part.g()",
        "def f():\n  from other import g\n  return g()",
        "import other\ndef f(): return [m.g() for m in [other]]",
        "def f():\n  def late():\n    from other import g\n    return g()\n  return late()",
    ],
)
@pytest.mark.parametrize("regular", [{}, {"kit/__init__": ""}])
def test_another_module(look, main, regular):
    def others(n, extra=""):
        text = f"from third import n\ndef g(): return n() + 1{extra}"
        return {
            "other": text,
            "kit/part": text,
            **regular,
            "third": f"N = {n}\ndef n(): return N",
        }

    assert look(main, **others(1)).digest == look(main, **others(1)).digest
    assert look(main, **others(1)).digest != look(main, **others(2)).digest
    assert look(main, **others(1)).digest != look(main, **others(1, " + 1")).digest


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("def f():\n  return None", "# said\ndef f():\n\n  # more\n  return None  # end"),
        ("def f():\n  return None", "def f():\n  'A docstring.'\n  return None"),
        ("def f():\n  'One.'\n  return 1", "def f():\n  'Two.'\n  return 1"),
        (
            "def f():\n  def g():\n    'One.'\n    return 1\n  return g",
            "def f():\n  def g():\n    return 1\n  return g",
        ),
        ("class C:\n  'One.'\n  n = 1\ndef f(): return C.n", "class C:\n  'Two.'\n  n = 1\ndef f(): return C.n"),
        ("def f(): return 1", "def unrelated(): return 2\ndef f(): return 1\nOTHER = 3"),
        (
            "def a(): return 1\ndef b(): return 2\ndef f(): return a() + b()",
            "def b(): return 2\ndef f(): return a() + b()\ndef a(): return 1",
        ),
        (
            "class C:\n  def a(self): return 1\n  def b(self): return 2\ndef f(): return C()",
            "class C:\n  def b(self): return 2\n  def a(self): return 1\ndef f(): return C()",
        ),
        ("S = {'a', 'b'}\ndef f(): return S", "S = {'b', 'a'}\ndef f(): return S"),
    ],
)
def test_what_changes_no_result_does_not_show(look, before, after):
    assert look(before).digest == look(after).digest


def test_a_docstring_of_another_module_does_not_show(look):
    main = "from other import g\ndef f(): return g()"
    assert look(main, other="def g(): return 1").digest == look(main, other="'Text.'\n\ndef g(): return 1").digest


@pytest.mark.parametrize(
    "main",
    [
        "def f(n): return f(n - 1) if n else 0",
        "def g(n): return f(n)\ndef f(n): return g(n - 1) if n else 0",
        "class C:\n  def m(self): return f()\nX = C()\nX.me = X\ndef f(): return X",
        "X = []\nX.append(X)\ndef f(): return X",
        "X = {}\nX['x'] = {'y': X}\ndef f(): return X",
        "def make():\n  def g(n): return g(n - 1) if n else 0\n  return g\nf = make()",
        "class N:\n  pass\nN.best = N()\ndef f(): return N",
        "import main\ndef f(): return main.f",
        "import main\ndef f(): return [main]",
        "import logging, threading\nL = logging.getLogger('x')\nK = threading.Lock()\ndef f(): return L, K",
        "from unittest.mock import sentinel\nfrom typing import TypeVar\nT = TypeVar('T')\ndef f(x): return T, sentinel.a",
        "import weakref\nclass C: pass\nW = weakref.WeakKeyDictionary()\ndef f(): return W",
        "G = (x for x in 'ab')\ndef f(): return G",
    ],
)
def test_it_ends_and_is_the_same_again(look, main):
    assert look(main).digest == look(main).digest


def test_what_cannot_be_judged_is_said(look):
    code = "import pickle\nclass C:\n  def __reduce__(self): raise pickle.PicklingError\nX = C()\ndef f(): return X"
    assert look(code).opaque == ["main.C"]
    assert look("G = (x for x in 'ab')\ndef f(): return G").opaque == ["builtins.generator"]


def test_too_deep_is_an_error():
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(Invalid, match="nested too deep"):
        value_digest(deep)


def test_the_version_of_a_library_counts(look, monkeypatch):
    text = "import numpy as np\ndef f(x): return np.mean(x)"
    before = look(text)
    assert before.packages == {"numpy": package_version("numpy")}
    monkeypatch.setattr(module, "package_version", lambda name: "99")
    after = look(text)
    assert after.digest != before.digest
    assert after.changes(before.snapshot()) == [f"numpy {package_version('numpy')} became 99"]


def test_the_version_of_a_library_imported_inside_counts(look):
    found = look(
        "def f():\n  from sklearn.linear_model import Ridge\n  import pyarrow.compute as pc\n  return Ridge, pc"
    )
    assert found.packages.keys() == {"sklearn", "pyarrow"}


def test_changes_in_words(look):
    before = look("N = 1\ndef g(): return N\ndef h(): return 0\nclass C: n = 1\ndef f(): return g(), h(), C")
    after = look("N = 2\ndef g(): return -N\ndef k(): return 0\nclass C: n = 2\ndef f(): return g(), k(), C")
    assert set(after.changes(before.snapshot())) == {
        "class main:C changed",
        "constant main:N changed",
        "function main:f changed",
        "function main:g changed",
        "function main:h is no longer used",
        "function main:k is now used",
    }
    assert after.changes(after.snapshot()) == []


def test_files_are_those_of_the_code_that_was_reached(look, tmp_path):
    found = look(
        "from other import twice\nfrom third import g\n@twice\ndef f(): return g()",
        other="import functools\ndef twice(h):\n  @functools.wraps(h)\n  def w(): return 2 * h()\n  return w",
        third="def g(): return 1",
    )
    assert found.files == {n: str(tmp_path / f"{n}.py") for n in ("main", "other", "third")}


def test_the_same_in_every_process(tmp_path):
    (tmp_path / "main.py").write_text(
        "import re, enum, functools\nfrom dataclasses import dataclass, field\n"
        "S = {'a', 'b', ('c', 1)}\nF = frozenset('xyz')\nP = re.compile('a|b')\n"
        "class E(enum.Flag):\n  A = 1\n  B = 2\n"
        "@dataclass\nclass C:\n  s: set = field(default_factory=lambda: {'p', 'q'})\n"
        "@functools.singledispatch\ndef g(x): return x in {'k', 'l', 'm'}\n"
        "def f(x): return S, F, P, E.A | E.B, C(), g(x), object\n"
    )
    code = "from boucle.core.reach import reach; import main; main.f(1); print(reach(main.f).digest)"
    found = {
        subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("0", "1", "2")
    }  # fmt: skip
    assert len(found) == 1


# --- values ---------------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=4)
    | st.binary(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=2), inner, max_size=3)
        | st.frozensets(st.integers() | st.text(max_size=2), max_size=3)
    ),
    max_leaves=8,
)


def exact(value):
    """Text that tells apart what differs in content, type, or the order of a mapping, and nothing else."""
    if isinstance(value, frozenset):
        return f"frozenset({sorted(map(exact, value))})"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}({[exact(v) for v in value]})"
    if isinstance(value, dict):
        return f"dict({[(exact(k), exact(v)) for k, v in value.items()]})"
    return f"{type(value).__name__} {value!r}"


@given(JSON, JSON)
def test_digests_are_equal_exactly_when_values_are(a, b):
    assert (value_digest(a) == value_digest(b)) == (exact(a) == exact(b))


@given(JSON)
def test_a_copy_has_the_same_digest(value):
    import copy

    assert value_digest(value) == value_digest(copy.deepcopy(value))


def test_what_is_shared_counts_like_what_is_equal():
    class Box:
        def __init__(self, n):
            self.n = n

    one = Box(1)
    assert value_digest([one, one]) == value_digest([Box(1), Box(1)])
    assert value_digest([one, one]) != value_digest([Box(1), Box(2)])


def test_bytes_cannot_pose_as_several_values():
    assert value_digest([b"x\1bytes\0y"]) != value_digest([b"x", b"y"])


def test_a_function_given_as_an_argument_counts_with_its_code():
    def make(n):
        return lambda x: x * n

    assert value_digest(make(2)) == value_digest(make(2)) != value_digest(make(3))
    assert value_digest({"a": make(2)}) != value_digest({"a": make(3)})


def test_an_instance_given_as_an_argument_counts_with_the_code_of_its_class():
    def one(self):
        return 1

    def two(self):
        return 2

    digests = []
    for method in (one, one, two):
        kind = type("Strategy", (), {"apply": method, "__module__": __name__})
        digests.append(value_digest(kind()))
    assert digests[0] == digests[1] != digests[2]


def test_arrays_and_frames():
    import numpy as np
    import pandas as pd

    assert value_digest(np.array([1, 2])) == value_digest(np.array([1, 2]))
    assert value_digest(np.array([1, 2])) != value_digest(np.array([[1, 2]]))
    assert value_digest(np.array([1, 2], "int32")) != value_digest(np.array([1, 2], "int64"))
    assert value_digest(np.array(["a", None], object)) != value_digest(np.array(["a", "b"], object))
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    before = value_digest(frame)
    frame["a"].sum()
    assert value_digest(frame) == before == value_digest(frame.copy())
    assert value_digest(frame.assign(a=[1, 3])) != before


def test_a_path_is_its_text():
    assert value_digest(Path("a")) == value_digest(Path("a")) != value_digest(Path("b"))
