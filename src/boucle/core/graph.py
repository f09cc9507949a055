"""A small directed acyclic graph: enough for plans, lineage and imports, with no library behind it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import TypeVar

from boucle.core.errors import Invalid

N = TypeVar("N", bound=Hashable)


def order(needs: Mapping[N, Iterable[N]]) -> list[N]:
    """Every node after all that it needs, otherwise in the order given. A cycle raises `Invalid` and names its path."""
    done: dict[N, None] = {}
    for root in needs:
        stack: list[tuple[N, list[N]]] = [(root, list(needs.get(root, ())))]
        path = {root: None}
        while stack:
            node, waiting = stack[-1]
            if node in done:
                stack.pop()
                path.pop(node, None)
                continue
            while waiting and waiting[0] in done:
                waiting.pop(0)
            if not waiting:
                done[node] = None
                stack.pop()
                path.pop(node, None)
                continue
            ahead = waiting[0]
            if ahead in path:
                loop = [*path][[*path].index(ahead) :]
                raise Invalid("a cycle: " + " -> ".join(map(str, [*loop, ahead])), expected="a graph without cycles")
            path[ahead] = None
            stack.append((ahead, list(needs.get(ahead, ()))))
    return list(done)


def levels(needs: Mapping[N, Iterable[N]]) -> list[list[N]]:
    """The nodes in waves: all of a wave can go at once after the waves before it."""
    depth: dict[N, int] = {}
    for node in order(needs):
        depth[node] = 1 + max((depth[n] for n in needs.get(node, ())), default=-1)
    waves: list[list[N]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for node, level in depth.items():
        waves[level].append(node)
    return waves


def reach(start: Iterable[N], step: Callable[[N], Iterable[N]]) -> list[N]:
    """All nodes reachable from the start, the start among them, nearest first."""
    seen = dict.fromkeys(start)
    queue = list(seen)
    for node in queue:
        for following in step(node):
            if following not in seen:
                seen[following] = None
                queue.append(following)
    return queue
