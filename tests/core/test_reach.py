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
        module._is_library.cache_clear()
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


CHANGES = {
    "itself": ("def f(): return 1", "def f(): return 2"),
    "operator": ("def f(x): return x + 1", "def f(x): return x - 1"),
    "helper": ("def g(): return 1\ndef f(): return g()", "def g(): return 2\ndef f(): return g()"),
    "helper's helper": (
        "def h(): return 1\ndef g(): return h()\ndef f(): return g()",
        "def h(): return 2\ndef g(): return h()\ndef f(): return g()",
    ),
    "class method": (
        "class C:\n  def m(self): return 1\ndef f(): return C().m()",
        "class C:\n  def m(self): return 2\ndef f(): return C().m()",
    ),
    "inherited": (
        "class B:\n  def m(self): return 1\nclass C(B): pass\ndef f(): return C().m()",
        "class B:\n  def m(self): return 2\nclass C(B): pass\ndef f(): return C().m()",
    ),
    "metaclass": (
        "class M(type):\n  def m(cls): return 1\nclass C(metaclass=M): pass\ndef f(): return C.m()",
        "class M(type):\n  def m(cls): return 2\nclass C(metaclass=M): pass\ndef f(): return C.m()",
    ),
    "static method": (
        "class C:\n  @staticmethod\n  def m(): return 1\ndef f(): return C.m()",
        "class C:\n  @staticmethod\n  def m(): return 2\ndef f(): return C.m()",
    ),
    "property": (
        "class C:\n  @property\n  def p(self): return 1\ndef f(): return C().p",
        "class C:\n  @property\n  def p(self): return 2\ndef f(): return C().p",
    ),
    "cached property": (
        "import functools\nclass C:\n  @functools.cached_property\n  def p(self): return 1\ndef f(): return C().p",
        "import functools\nclass C:\n  @functools.cached_property\n  def p(self): return 2\ndef f(): return C().p",
    ),
    "cached method": (
        "import functools\nclass C:\n  @functools.cache\n  def m(self): return 1\ndef f(): return C().m()",
        "import functools\nclass C:\n  @functools.cache\n  def m(self): return 2\ndef f(): return C().m()",
    ),
    "cached helper": (
        "import functools\n@functools.cache\ndef g(): return 1\ndef f(): return g()",
        "import functools\n@functools.cache\ndef g(): return 2\ndef f(): return g()",
    ),
    "method taken from elsewhere": (
        "def g(self): return 1\nclass C:\n  m = g\ndef f(): return C().m()",
        "def g(self): return 2\nclass C:\n  m = g\ndef f(): return C().m()",
    ),
    "closure": (
        "def make(n):\n  def inner(): return n\n  return inner\nf = make(1)",
        "def make(n):\n  def inner(): return n\n  return inner\nf = make(2)",
    ),
    "one of two closures": (
        "def make(n):\n  return lambda: n\na = make(1)\nb = make(3)\ndef f(): return a() + b()",
        "def make(n):\n  return lambda: n\na = make(2)\nb = make(3)\ndef f(): return a() + b()",
    ),
    "closures exchanged": (
        "def make(n):\n  return lambda: n\na = make(1)\nb = make(3)\ndef f(): return a() - b()",
        "def make(n):\n  return lambda: n\na = make(3)\nb = make(1)\ndef f(): return a() - b()",
    ),
    "default": ("def f(x=1): return x", "def f(x=2): return x"),
    "keyword default": ("def f(*, x=1): return x", "def f(*, x=2): return x"),
    "default function": (
        "def g(): return 1\ndef f(call=g): return call()",
        "def g(): return 2\ndef f(call=g): return call()",
    ),
    "partial": (
        "from functools import partial\ndef g(x): return x\np = partial(g, 1)\ndef f(): return p()",
        "from functools import partial\ndef g(x): return x\np = partial(g, 2)\ndef f(): return p()",
    ),
    "function of a partial": (
        "from functools import partial\ndef g(x): return x\np = partial(g, 1)\ndef f(): return p()",
        "from functools import partial\ndef g(x): return -x\np = partial(g, 1)\ndef f(): return p()",
    ),
    "decorator": (
        "import functools\ndef d(g):\n  @functools.wraps(g)\n  def w(): return 2 * g()\n  return w\n@d\ndef f(): return 1",
        "import functools\ndef d(g):\n  @functools.wraps(g)\n  def w(): return 3 * g()\n  return w\n@d\ndef f(): return 1",
    ),
    "decorated": (
        "import functools\ndef d(g):\n  @functools.wraps(g)\n  def w(): return 2 * g()\n  return w\n@d\ndef f(): return 1",
        "import functools\ndef d(g):\n  @functools.wraps(g)\n  def w(): return 2 * g()\n  return w\n@d\ndef f(): return 2",
    ),
    "a library's decorator without wraps": (
        "import contextlib\n@contextlib.contextmanager\ndef g():\n  yield 1\ndef f():\n  with g() as x: return x",
        "import contextlib\n@contextlib.contextmanager\ndef g():\n  yield 2\ndef f():\n  with g() as x: return x",
    ),
    "decorator that is an object": (
        "class T:\n  def __init__(self, g): self.g = self.__wrapped__ = g\n  def __call__(self): return 2 * self.g()\n"
        "@T\ndef g(): return 1\ndef f(): return g()",
        "class T:\n  def __init__(self, g): self.g = self.__wrapped__ = g\n  def __call__(self): return 3 * self.g()\n"
        "@T\ndef g(): return 1\ndef f(): return g()",
    ),
    "single dispatch": (
        "import functools\n@functools.singledispatch\ndef g(x): return 0\n@g.register\ndef _(x: int): return 1\ndef f(): return g(1)",
        "import functools\n@functools.singledispatch\ndef g(x): return 0\n@g.register\ndef _(x: int): return 2\ndef f(): return g(1)",
    ),
    "nested function": (
        "def f():\n  def g(): return 1\n  return g()",
        "def f():\n  def g(): return 2\n  return g()",
    ),
    "lambda": ("g = lambda: 1\ndef f(): return g()", "g = lambda: 2\ndef f(): return g()"),
    "one of two lambdas": (
        "a = lambda: 1\nb = lambda: 2\ndef f(): return a() + b()",
        "a = lambda: 7\nb = lambda: 2\ndef f(): return a() + b()",
    ),
    "lambda in a dict": (
        "T = {'a': lambda x: x + 1, 'b': lambda x: 0}\ndef f(): return T['a'](1)",
        "T = {'a': lambda x: x + 2, 'b': lambda x: 0}\ndef f(): return T['a'](1)",
    ),
    "lambdas exchanged": (
        "T = {'a': lambda x: x + 1, 'b': lambda x: 0}\ndef f(): return T['a'](1)",
        "T = {'a': lambda x: 0, 'b': lambda x: x + 1}\ndef f(): return T['a'](1)",
    ),
    "constant in a generator expression": (
        "def f(): return list('a' for _ in range(2))",
        "def f(): return list('b' for _ in range(2))",
    ),
    "constant in a comprehension": ("def f(): return ['a' for _ in range(2)]", "def f(): return ['b' for _ in range(2)]"),
    "constant": ("N = 1\ndef f(): return N", "N = 2\ndef f(): return N"),
    "type of a constant": ("N = 1\ndef f(): return N", "N = 1.0\ndef f(): return N"),
    "constant in a dict": ("D = {'a': [1, {'b': 2}]}\ndef f(): return D", "D = {'a': [1, {'b': 3}]}\ndef f(): return D"),
    "order of a dict": ("D = {'a': 1, 'b': 2}\ndef f(): return list(D)", "D = {'b': 2, 'a': 1}\ndef f(): return list(D)"),
    "regular expression": (
        "import re\nP = re.compile('a+')\ndef f(t): return P.findall(t)",
        "import re\nP = re.compile('a*')\ndef f(t): return P.findall(t)",
    ),
    "namespace": (
        "from types import SimpleNamespace as N\nC = N(depth=1)\ndef f(): return C.depth",
        "from types import SimpleNamespace as N\nC = N(depth=2)\ndef f(): return C.depth",
    ),
    "list with a class of its own": (
        "class L(list): pass\nX = L([1])\ndef f(): return X",
        "class L(list): pass\nX = L([2])\ndef f(): return X",
    ),
    "slots": (
        "class S:\n  __slots__ = ('__n',)\n  def __init__(self, n): self.__n = n\nX = S(1)\ndef f(): return X",
        "class S:\n  __slots__ = ('__n',)\n  def __init__(self, n): self.__n = n\nX = S(2)\ndef f(): return X",
    ),
    "dataclass": (
        "from dataclasses import dataclass\n@dataclass(frozen=True, slots=True)\nclass C:\n  n: int\nX = C(1)\ndef f(): return X.n",
        "from dataclasses import dataclass\n@dataclass(frozen=True, slots=True)\nclass C:\n  n: int\nX = C(2)\ndef f(): return X.n",
    ),
    "default of a dataclass with slots": (
        "from dataclasses import dataclass\n@dataclass(slots=True)\nclass C:\n  n: int = 1\ndef f(): return C().n",
        "from dataclasses import dataclass\n@dataclass(slots=True)\nclass C:\n  n: int = 2\ndef f(): return C().n",
    ),
    "default factory": (
        "from dataclasses import dataclass, field\n@dataclass\nclass C:\n  n: list = field(default_factory=lambda: [1])\ndef f(): return C().n",
        "from dataclasses import dataclass, field\n@dataclass\nclass C:\n  n: list = field(default_factory=lambda: [2])\ndef f(): return C().n",
    ),
    "enum": (
        "from enum import Enum\nclass E(Enum):\n  A = [1]\ndef f(): return E.A.value",
        "from enum import Enum\nclass E(Enum):\n  A = [2]\ndef f(): return E.A.value",
    ),
    "named tuple": (
        "from typing import NamedTuple\nclass N(NamedTuple):\n  n: int = 1\ndef f(): return N().n",
        "from typing import NamedTuple\nclass N(NamedTuple):\n  n: int = 2\ndef f(): return N().n",
    ),
    "class attribute": ("class C:\n  n = 1\ndef f(): return C.n", "class C:\n  n = 2\ndef f(): return C.n"),
    "array": (
        "import numpy as np\nA = np.array([1, 2])\ndef f(): return A",
        "import numpy as np\nA = np.array([1, 3])\ndef f(): return A",
    ),
    "deep": (
        "class N:\n  def __init__(self, n, next): self.n, self.next = n, next\n"
        "X = None\nfor i in range(40): X = N(0 if i else 1, X)\ndef f(): return X",
        "class N:\n  def __init__(self, n, next): self.n, self.next = n, next\n"
        "X = None\nfor i in range(40): X = N(0 if i else 2, X)\ndef f(): return X",
    ),
    "same name from another library": ("from math import sqrt\ndef f(): return sqrt(4)", "from cmath import sqrt\ndef f(): return sqrt(4)"),
    "global that is not there": ("def f(): return LATER", "LATER = 1\ndef f(): return LATER"),
    "kind of function": ("def f(x): return x", "def f(*x): return x"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_shows(look, name):
    before, after = CHANGES[name]
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
        "from unittest.mock import sentinel\nfrom typing import TypeVar, Any\nT = TypeVar('T')\ndef f(x: Any): return T, sentinel.a",
        "import weakref\nclass C: pass\nW = weakref.WeakKeyDictionary()\ndef f(): return W",
        "G = (x for x in 'ab')\ndef f(): return G",
    ],
)
def test_it_ends_and_is_the_same_again(look, main):
    assert look(main).digest == look(main).digest


def test_what_cannot_be_judged_is_said(look):
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
