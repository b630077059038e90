"""Two questions about "comes before", without recursion: a chain of causes can be long."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet


def topological(before: Sequence[AbstractSet[int]]) -> list[int]:
    """The nodes of a graph without cycles, each after all that come before it."""
    after: list[list[int]] = [[] for _ in before]
    waits = [len(found) for found in before]
    for node, found in enumerate(before):
        for earlier in found:
            after[earlier].append(node)
    order = [node for node, left in enumerate(waits) if left == 0]
    for node in order:  # grows while it is read
        for later in after[node]:
            waits[later] -= 1
            if waits[later] == 0:
                order.append(later)
    return order


def components(before: Sequence[AbstractSet[int]]) -> list[int]:
    """For each node the number of its strongly connected component (Tarjan, 1972)."""
    found = [-1] * len(before)
    low, index = [0] * len(before), [-1] * len(before)
    stack: list[int] = []
    visited = 0
    for root in range(len(before)):
        path = [(root, iter(before[root]))] if index[root] < 0 else []
        if path:
            index[root] = low[root] = visited
            visited += 1
            stack.append(root)
        while path:
            node, left = path[-1]
            unseen = next((n for n in left if found[n] < 0 and _see(n, node, index, low)), None)
            if unseen is not None:
                index[unseen] = low[unseen] = visited
                visited += 1
                stack.append(unseen)
                path.append((unseen, iter(before[unseen])))
                continue
            path.pop()
            if path:
                low[path[-1][0]] = min(low[path[-1][0]], low[node])
            if low[node] == index[node]:
                _close(node, stack, found)
    return found


def _see(node: int, seen_from: int, index: Sequence[int], low: list[int]) -> bool:
    """Whether a node of no component yet is new; one on the stack lowers who sees it."""
    if index[node] < 0:
        return True
    low[seen_from] = min(low[seen_from], index[node])
    return False


def _close(root: int, stack: list[int], found: list[int]) -> None:
    while True:
        node = stack.pop()
        found[node] = root
        if node == root:
            return
