import pytest
from hypothesis import given
from hypothesis import strategies as st

from boucle.core.errors import Invalid
from boucle.core.graph import levels, order, reach

# Needs that point only to smaller numbers cannot form a cycle.
acyclic = st.dictionaries(st.integers(0, 12), st.lists(st.integers(0, 12), max_size=4), max_size=10).map(
    lambda graph: {node: [n for n in needs if n < node] for node, needs in graph.items()}
)


@given(acyclic)
def test_every_node_comes_once_and_after_all_it_needs(needs: dict[int, list[int]]) -> None:
    ordered = order(needs)
    assert sorted(ordered) == sorted({*needs, *(n for some in needs.values() for n in some)})
    place = {node: i for i, node in enumerate(ordered)}
    assert all(place[need] < place[node] for node, some in needs.items() for need in some)


@given(st.permutations(range(8)))
def test_nodes_without_needs_stay_in_the_order_given(nodes: list[int]) -> None:
    assert order({node: [] for node in nodes}) == nodes


@given(acyclic)
def test_waves_hold_every_node_as_early_as_it_can_go(needs: dict[int, list[int]]) -> None:
    waves = levels(needs)
    depth = {node: i for i, wave in enumerate(waves) for node in wave}
    assert sorted(depth) == sorted(order(needs))
    assert sum(map(len, waves)) == len(depth)
    for node, level in depth.items():
        assert level == 1 + max((depth[n] for n in needs.get(node, ())), default=-1)


@given(acyclic, st.lists(st.integers(0, 12), max_size=3))
def test_reach_is_the_closure_and_begins_with_the_start(needs: dict[int, list[int]], start: list[int]) -> None:
    found = reach(start, lambda node: needs.get(node, ()))
    assert found[: len(set(start))] == list(dict.fromkeys(start))
    assert len(found) == len(set(found))
    closure, before = set(start), None
    while before != closure:
        before = set(closure)
        closure |= {n for node in before for n in needs.get(node, ())}
    assert set(found) == closure


@pytest.mark.parametrize(
    ("needs", "path"),
    [
        ({"a": ["a"]}, "a -> a"),
        ({"a": ["b"], "b": ["a"]}, "a -> b -> a"),
        ({"x": ["y"], "y": ["a"], "a": ["c"], "c": ["b"], "b": ["a"]}, "a -> c -> b -> a"),
    ],
)
def test_a_cycle_is_refused_and_its_path_named(needs: dict[str, list[str]], path: str) -> None:
    with pytest.raises(Invalid) as caught:
        order(needs)
    assert caught.value.what == f"a cycle: {path}"
    with pytest.raises(Invalid):
        levels(needs)


def test_reach_ends_in_a_cycle() -> None:
    assert reach(["a"], {"a": ["b"], "b": ["a"]}.__getitem__) == ["a", "b"]


def test_a_long_chain_does_not_exhaust_the_stack() -> None:
    chain = {i: [i + 1] for i in range(20_000)}
    assert order(chain) == list(range(20_000, -1, -1))


def test_nothing_needs_nothing() -> None:
    assert order({}) == levels({}) == []
    assert reach([], lambda _: [1]) == []
