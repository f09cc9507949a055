"""Steps and pipelines in plain Python.

    @step
    def clean(data: Frame) -> Frame: ...

    @pipeline
    def churn(customers: Frame, folds: int = 5):
        parts = split(clean(customers))
        candidates = fit.map(["linear", "boosting"], parts.train, folds=folds)
        return choose(candidates, parts.test)

Called by itself a step is the function it decorates. Inside a pipeline that is being traced, a call notes down a node of a
graph and gives an `Output` that stands for the value to come; its attributes and items stand for parts of it.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import typing
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from boucle.core.errors import Invalid, NotFound
from boucle.core.refs import check_name

_tracing: ContextVar[Graph | None] = ContextVar("boucle_tracing", default=None)


class Step:
    """A function that a pipeline can plan, reuse, retry and record. Made by `step`."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str = "",
        retries: int = 0,
        backoff: float = 1.0,
        timeout: float | None = None,
        isolate: bool = False,
        cache: bool = True,
    ) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.name = check_name(name or function.__name__, "step name")
        if retries < 0 or backoff < 0 or (timeout is not None and timeout <= 0):
            raise Invalid(
                f"step {self.name}: retries={retries}, backoff={backoff}, timeout={timeout}",
                expected="retries and backoff of at least 0, and a timeout above 0 or None",
            )
        self.retries, self.backoff, self.timeout = retries, backoff, timeout
        self.isolate = isolate or timeout is not None
        self.cache = cache
        self.signature = inspect.signature(function)

    @functools.cached_property
    def hints(self) -> dict[str, Any]:
        """The annotations, resolved; those that only a type checker can resolve are left out."""
        try:
            return typing.get_type_hints(self.function)
        except NameError:
            return {k: v for k, v in self.function.__annotations__.items() if not isinstance(v, str)}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        graph = _tracing.get()
        if graph is None:
            return self.function(*args, **kwargs)
        return graph.add(self, self.bind(args, kwargs))

    def map(self, items: Any, *args: Any, **kwargs: Any) -> Any:
        """One call per item, as the first argument; the others are the same for all. The items run in parallel and are
        reused one by one. `items` is a list, or the output of a step that gives one."""
        graph = _tracing.get()
        if graph is None:
            return [self.function(item, *args, **kwargs) for item in items]
        first = next(iter(self.signature.parameters), None)
        if first is None:
            raise Invalid(f"step {self.name} takes no argument, so there is nothing to map over")
        listed = items if isinstance(items, Output) else list(items)
        return graph.add(self, self.bind((listed, *args), kwargs), mapped=first)

    def bind(self, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Arguments by parameter name, defaults filled in."""
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise Invalid(f"step {self.name}: {error}", expected=f"{self.name}{self.signature}") from None
        bound.apply_defaults()
        return dict(bound.arguments)

    def call(self, arguments: dict[str, Any]) -> Any:
        """The function with arguments by parameter name, as `bind` gives them."""
        args, kwargs = [], {}
        for name, parameter in self.signature.parameters.items():
            if name not in arguments:
                continue
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                args.append(arguments[name])
            elif parameter.kind is parameter.VAR_POSITIONAL:
                args.extend(arguments[name])
            elif parameter.kind is parameter.VAR_KEYWORD:
                kwargs.update(arguments[name])
            else:
                kwargs[name] = arguments[name]
        return self.function(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_find, (self.function.__module__, self.function.__qualname__))

    def __repr__(self) -> str:
        return f"<step {self.name}>"


def _find(module: str, qualname: str) -> Any:
    thing: Any = importlib.import_module(module)
    for part in qualname.split("."):
        thing = getattr(thing, part)
    return thing


@typing.overload
def step(function: Callable[..., Any], /) -> Step: ...
@typing.overload
def step(
    *,
    name: str = "",
    retries: int = 0,
    backoff: float = 1.0,
    timeout: float | None = None,
    isolate: bool = False,
    cache: bool = True,
) -> Callable[[Callable[..., Any]], Step]: ...
def step(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a function a step.

    `retries` more attempts after an error, waiting `backoff` seconds, then twice as long each time; `timeout` in seconds
    (the step then has a process of its own, as with `isolate`); `cache=False` to run it every time.
    """
    if function is not None:
        return Step(function)
    return lambda plain: Step(plain, **options)


class Pipeline:
    """A function that puts steps together. Made by `pipeline`."""

    def __init__(self, function: Callable[..., Any], *, name: str = "") -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.name = check_name(name or function.__name__, "pipeline name")
        self.signature = inspect.signature(function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Plain Python: inside another pipeline its steps join that one's graph, otherwise they just run."""
        return self.function(*args, **kwargs)

    @property
    def data_inputs(self) -> list[str]:
        """The parameters that take a dataset: those annotated `Frame`."""
        return [
            n for n, p in self.signature.parameters.items()
            if (p.annotation if isinstance(p.annotation, str) else getattr(p.annotation, "__name__", "")).endswith("Frame")
        ]  # fmt: skip

    def trace(self, arguments: dict[str, Any]) -> Graph:
        """The graph of its steps for these arguments; nothing runs. Raises `Invalid` for arguments that do not fit."""
        known = self.signature.parameters
        for name in arguments:
            if name not in known:
                raise NotFound.named(f"parameter of pipeline {self.name}", name, known)
        try:
            bound = self.signature.bind(**arguments)
        except TypeError as error:
            raise Invalid(
                f"pipeline {self.name}: {error}",
                expected=f"{self.name}{self.signature}",
                fix=f"give it a value: boucle run {self.name} --set NAME=VALUE",
            ) from None
        bound.apply_defaults()
        graph = Graph(self.name, dict(bound.arguments))
        graph.sources = {name: Source(bound.arguments[name]) for name in self.data_inputs if name in bound.arguments}
        values = {**bound.arguments, **graph.sources}
        token = _tracing.set(graph)
        try:
            graph.result = self.function(**values)
        finally:
            _tracing.reset(token)
        return graph

    def __repr__(self) -> str:
        return f"<pipeline {self.name}>"


@typing.overload
def pipeline(function: Callable[..., Any], /) -> Pipeline: ...
@typing.overload
def pipeline(*, name: str = "") -> Callable[[Callable[..., Any]], Pipeline]: ...
def pipeline(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a function a pipeline: its body calls steps and may use plain Python around them."""
    if function is not None:
        return Pipeline(function)
    return lambda plain: Pipeline(plain, **options)


@dataclass(frozen=True, slots=True)
class Source:
    """A pipeline's data input: a reference to a dataset, or something `Frame.of` takes."""

    data: Any


@dataclass(slots=True, eq=False)
class Node:
    """One call of a step in a graph."""

    id: int
    step: Step
    arguments: dict[str, Any]
    label: str
    mapped: str | None = None

    @property
    def needs(self) -> list[Node]:
        """The nodes whose outputs it takes."""
        return list(dict.fromkeys(node_of(o) for o in outputs_in(self.arguments)))


@dataclass(slots=True, eq=False)
class Graph:
    """The calls of a pipeline in the order they were made, which is a topological order."""

    name: str
    arguments: dict[str, Any]
    sources: dict[str, Source] = field(default_factory=dict)  # those of the arguments that are data
    nodes: list[Node] = field(default_factory=list)
    result: Any = None
    _labels: dict[str, int] = field(default_factory=dict)

    def add(self, step: Step, arguments: dict[str, Any], mapped: str | None = None) -> Output:
        count = self._labels[step.name] = self._labels.get(step.name, 0) + 1
        label = step.name if count == 1 else f"{step.name}-{count}"
        self.nodes.append(Node(len(self.nodes), step, arguments, label, mapped))
        return Output(self.nodes[-1], ())


class Output:
    """Stands for a value, or a part of it, that a step will give."""

    __slots__ = ("_node", "_path")

    def __init__(self, node: Node, path: tuple[str | int, ...]) -> None:
        self._node, self._path = node, path

    def __getattr__(self, name: str) -> Output:
        if name.startswith("_"):
            raise AttributeError(name)
        return Output(self._node, (*self._path, name))

    def __getitem__(self, key: str | int) -> Output:
        return Output(self._node, (*self._path, key))

    def __iter__(self) -> Iterator[Output]:
        size = _length(self._node.step.hints.get("return")) if not self._path and not self._node.mapped else None
        if size is None:
            raise Invalid(
                f"the output of step {self._node.label} cannot be unpacked: how many parts it has is not known yet",
                expected="a step annotated to return a NamedTuple or a tuple[A, B]",
                fix="annotate the step, take parts by name or number, or use .map to go over a list",
            )
        return (self[i] for i in range(size))

    def __bool__(self) -> bool:
        raise self._unknown()

    def __eq__(self, other: object) -> bool:
        raise self._unknown()

    __hash__ = object.__hash__

    def _unknown(self) -> Invalid:
        return Invalid(
            f"the output of step {self._node.label} is not known while the pipeline is put together",
            expected="decisions on values inside a step",
            fix="move the `if` into a step",
        )

    def __repr__(self) -> str:
        return f"<output of {self._node.label}{''.join(f'.{p}' for p in self._path)}>"


# Functions, because every public attribute of an output is a part of the value to come.


def node_of(output: Output) -> Node:
    """The node that will give it."""
    return output._node


def path_of(output: Output) -> tuple[str | int, ...]:
    """Which part of the node's value it is."""
    return output._path


def _length(annotation: Any) -> int | None:
    if hasattr(annotation, "_fields"):
        return len(annotation._fields)
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is tuple and arguments and arguments[-1] is not ...:
        return len(arguments)
    return None


def outputs_in(value: Any) -> Iterator[Output]:
    """The outputs inside lists, tuples and dicts."""
    if isinstance(value, Output):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from outputs_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from outputs_in(item)
