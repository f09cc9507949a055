"""Tracing: a pipeline in plain Python becomes a graph, and nothing runs."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from boucle.core.errors import Invalid, NotFound
from boucle.core.frames import Frame
from boucle.flow.step import Pipeline, Source, Step, node_of, path_of, pipeline, step


class Parts(NamedTuple):
    node: int  # names that could clash with what an output has itself
    path: int


@step
def one(x: int = 1) -> int:
    return x


@step
def two(x: Any, y: Any = 0, *rest: Any, z: Any = 0, **more: Any) -> Any:
    return x, y, rest, z, more


@step
def parts() -> Parts:
    return Parts(1, 2)


@step
def pair() -> tuple[int, int]:
    return 1, 2


@step
def some() -> tuple[int, ...]:
    return (1,)


def trace(body, **arguments):
    return Pipeline(body, name="main").trace(arguments)


def test_a_step_called_by_itself_is_its_function():
    assert one(3) == 3
    assert one.map([1, 2]) == [1, 2]
    assert two(1, 2, 3, z=4, w=5) == (1, 2, (3,), 4, {"w": 5})
    assert one.__name__ == "one"


def test_a_call_in_a_pipeline_becomes_a_node_with_its_needs():
    def main():
        a = one()
        b = one(a)
        return two(a, [b, {"k": a}])

    graph = trace(main)
    assert [n.label for n in graph.nodes] == ["one", "one-2", "two"]
    assert [[m.id for m in n.needs] for n in graph.nodes] == [[], [0], [0, 1]]
    assert graph.nodes[0].arguments == {"x": 1}
    assert node_of(graph.result) is graph.nodes[2]


def test_every_kind_of_parameter_finds_its_way():
    def main():
        return two(1, 2, 3, z=4, w=5)

    node = trace(main).nodes[0]
    assert node.step.call(node.arguments) == (1, 2, (3,), 4, {"w": 5})


def test_a_bad_call_is_refused_where_it_stands():
    def main():
        return one(1, 2)

    with pytest.raises(Invalid, match="step one: too many positional"):
        trace(main)


def test_parts_by_name_number_and_unpacking():
    def main():
        p = parts()
        node, path = p
        a, b = pair()
        return [p.node, p.path, node, path, a, b, p["k"][0].deep]

    found = trace(main).result
    assert [path_of(o) for o in found] == [("node",), ("path",), (0,), (1,), (0,), (1,), ("k", 0, "deep")]


@pytest.mark.parametrize("made", [some, one])
def test_what_has_no_known_length_cannot_be_unpacked(made):
    def main():
        a, b = made()
        return a, b

    with pytest.raises(Invalid, match="cannot be unpacked"):
        trace(main)


@pytest.mark.parametrize(
    "decide", [bool, lambda o: o == 1, lambda o: o != 1, lambda o: o in [1, 2], lambda o: "a" in o]
)
def test_a_decision_on_an_output_is_refused(decide):
    def main():
        return decide(one())

    with pytest.raises(Invalid, match="output of step one"):
        trace(main)


def test_map_over_a_list_and_over_an_output():
    def main():
        many = one.map([1, 2])
        return two.map(many, 5)

    graph = trace(main)
    assert [n.mapped for n in graph.nodes] == ["x", "x"]
    assert graph.nodes[0].arguments["x"] == [1, 2]
    assert graph.nodes[1].needs == [graph.nodes[0]]


def test_a_step_without_arguments_has_nothing_to_map_over():
    with pytest.raises(Invalid, match="takes no argument"):
        trace(lambda: pair.map([1]))


def test_a_pipeline_inside_a_pipeline_joins_its_graph():
    @pipeline
    def inner(n: int):
        return one(n)

    def outer():
        return two(inner(3))

    assert [n.label for n in trace(outer).nodes] == ["one", "two"]


def test_frames_are_data_inputs_and_nothing_else_is():
    @pipeline
    def main(a: Frame, b: Frame, target: str, c: str = "Frame"):
        return two(a, b)

    assert main.data_inputs == ["a", "b"]
    graph = main.trace({"a": "x@latest", "b": "y", "target": "x"})
    assert graph.sources == {"a": Source("x@latest"), "b": Source("y")}
    assert graph.arguments["target"] == "x"


def test_arguments_that_do_not_fit():
    @pipeline
    def main(depth: int):
        return one(depth)

    with pytest.raises(NotFound, match="no parameter of pipeline main named 'dept'") as caught:
        main.trace({"dept": 1})
    assert "depth" in caught.value.expected
    with pytest.raises(Invalid, match="missing a required argument"):
        main.trace({})


def test_options_are_checked():
    with pytest.raises(Invalid, match="retries=-1"):
        Step(lambda: 1, name="x", retries=-1)
    with pytest.raises(Invalid, match="timeout=0"):
        Step(lambda: 1, name="x", timeout=0)
    with pytest.raises(Invalid, match="'<lambda>' is not a usable step name"):
        Step(lambda: 1)
    assert Step(lambda: 1, name="x", timeout=1).isolate


def test_a_failed_trace_leaves_nothing_behind():
    with pytest.raises(ZeroDivisionError):
        trace(lambda: 1 / 0)
    assert one(2) == 2
