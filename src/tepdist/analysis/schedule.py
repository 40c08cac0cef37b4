"""Orders in which a compiler runs a graph of kernels.

XLA fixes the order before it assigns memory. On CPUs it takes breadth first, for
kernels that run side by side. On accelerators it tries three orders and keeps the one
that needs the least memory:

* greedy: of the kernels that could run, the one that frees most;
* depth first: operands before their reader, first those with most readers above them;
* plain post-order.

Source:
    XLA's ``hlo_memory_scheduler`` (list, DFS, BFS and post-order schedulers).
"""

import heapq
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Kernels:
    """Kernels and what they read of each other, in some order that could run.

    Attributes:
        operands: For each kernel those whose results it reads, each once.
        users: The same the other way.
        bytes_: Size of what each defines [B].
        is_given: Whether it is there from the start: an argument.
        roots: Kernels whose results are handed out, in order.
        inner_bytes: Needed besides while each runs: inside a loop [B].
        reusable: For each kernel operands that it may write over.
        seconds: That each takes; from a collective's start to its end.
        ends: Kernels that start a collective to those that end it.
        alone: Kernels that run beside no collective: loops with collectives inside.
        bundled: Kernels that hand out several results at once.
        results: For those of them that are ordered as one, who reads each result.
    """

    operands: tuple[tuple[int, ...], ...]
    users: tuple[tuple[int, ...], ...]
    bytes_: tuple[int, ...]
    is_given: tuple[bool, ...]
    roots: tuple[int, ...]
    inner_bytes: tuple[int, ...]
    reusable: tuple[tuple[int, ...], ...]
    seconds: tuple[float, ...]
    ends: Mapping[int, int]
    alone: frozenset[int] = frozenset()
    bundled: frozenset[int] = frozenset()
    results: Mapping[int, tuple[tuple[int, ...], ...]] = field(default_factory=dict)


def breadth_first(kernels: Kernels) -> list[int]:
    """Each as soon as its operands are there, first come first served."""
    missing = [len(operands) for operands in kernels.operands]
    ready = deque(at for at, count in enumerate(missing) if count == 0)
    order = []
    while ready:
        at = ready.popleft()
        order.append(at)
        for user in kernels.users[at]:
            missing[user] -= 1
            if missing[user] == 0:
                ready.append(user)
    return order


def least_memory(kernels: Kernels) -> list[int]:
    """The best of the three orders; the first of equals."""
    plain = post_order(kernels)
    orders = [greedy(kernels), _depth_first(kernels, plain), plain]
    return min(orders, key=lambda order: peak_bytes(kernels, order, reuses=True))


def greedy(kernels: Kernels) -> list[int]:
    """Of the kernels that could run, the one that frees most, net of what it makes."""
    return _Greedy(kernels).run()


class _Greedy:
    """One run of the greedy order."""

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels
        self._missing = [len(operands) for operands in kernels.operands]
        self._unread = [len(users) for users in kernels.users]
        self._done = [False] * len(self._missing)
        # Best first; of equals, the one that became ready last.
        self._ready: list[tuple[int, int, int, int]] = []
        self._pushed = 0

    def run(self) -> list[int]:
        order = []
        for at, count in enumerate(self._missing):
            if count == 0:
                self._push(at)
        while self._ready:
            at = heapq.heappop(self._ready)[-1]
            if self._done[at]:
                continue
            self._done[at] = True
            order.append(at)
            self._release(at)
        return order

    def _push(self, at: int) -> None:
        self._pushed += 1
        users = len(self._kernels.users[at])
        entry = (self._growth(at), -users, -self._pushed, at)
        heapq.heappush(self._ready, entry)

    def _growth(self, at: int) -> int:
        """Bytes that a kernel makes less those that it frees."""
        kernels = self._kernels
        freed = sum(
            kernels.bytes_[operand]
            for operand in kernels.operands[at]
            if self._unread[operand] == 1 and not kernels.is_given[operand]
        )
        return kernels.bytes_[at] + kernels.inner_bytes[at] - freed

    def _release(self, at: int) -> None:
        """What a kernel that ran makes ready, or better."""
        for operand in self._kernels.operands[at]:
            self._unread[operand] -= 1
            if self._unread[operand] == 1:
                for user in self._kernels.users[operand]:
                    if not self._done[user] and self._missing[user] == 0:
                        self._push(user)
        for user in self._kernels.users[at]:
            self._missing[user] -= 1
            if self._missing[user] == 0:
                self._push(user)


def depth_first(kernels: Kernels) -> list[int]:
    """Post-order; operands with most readers above them first, then the largest."""
    return _depth_first(kernels, post_order(kernels))


def _depth_first(kernels: Kernels, plain: Sequence[int]) -> list[int]:
    count = len(kernels.operands)
    total = sum(kernels.bytes_)
    extra_users, sizes = [0] * count, [0] * count
    for at in plain:
        operands = kernels.operands[at]
        extra = max(len(kernels.users[at]) - 1, 0)
        extra += sum(extra_users[operand] for operand in operands)
        extra_users[at] = min(extra, count)
        size = kernels.bytes_[at] + sum(sizes[operand] for operand in operands)
        sizes[at] = min(size, total)
    return _visit(kernels, lambda at: (-extra_users[at], -sizes[at]))


def post_order(kernels: Kernels) -> list[int]:
    """Operands before their reader, in the order in which it reads them."""
    return _visit(kernels, None)


def _visit(kernels: Kernels, key: Callable[[int], tuple[int, int]] | None) -> list[int]:
    visited = [False] * len(kernels.operands)
    order: list[int] = []

    def sorted_(nodes: Sequence[int]) -> Sequence[int]:
        return nodes if key is None else sorted(nodes, key=key)

    # What nothing reads is visited too, after what is handed out.
    for root in (*sorted_(kernels.roots), *range(len(visited))):
        stack = [(root, False)]
        while stack:
            at, is_expanded = stack.pop()
            if is_expanded:
                order.append(at)
            elif not visited[at]:
                visited[at] = True
                stack.append((at, True))
                stack.extend(
                    (operand, False)
                    for operand in reversed(sorted_(kernels.operands[at]))
                    if not visited[operand]
                )
    return order


def peak_bytes(kernels: Kernels, order: Sequence[int], *, reuses: bool = False) -> int:
    """Most that kernels' results take at a time under an order [B].

    Args:
        kernels: Any.
        order: Of all of them.
        reuses: Whether they write over operands that nothing reads later.
    """
    unread = [len(users) for users in kernels.users]
    for root in kernels.roots:
        unread[root] += 1
    size = list(kernels.bytes_)
    held = peak = 0
    for at in order:
        if kernels.is_given[at]:
            continue
        reused = _written_over(kernels, at, unread) if reuses else None
        if reused is None:
            held += size[at]
        else:
            size[reused] = 0
        peak = max(peak, held + kernels.inner_bytes[at])
        if unread[at] == 0:
            held -= size[at]
        for operand in kernels.operands[at]:
            unread[operand] -= 1
            if unread[operand] == 0 and not kernels.is_given[operand]:
                held -= size[operand]
    return peak


def _written_over(kernels: Kernels, at: int, unread: Sequence[int]) -> int | None:
    """The operand whose buffer a kernel takes."""
    for operand in kernels.reusable[at]:
        fits = kernels.bytes_[operand] == kernels.bytes_[at]
        if fits and unread[operand] == 1 and not kernels.is_given[operand]:
            return operand
    return None
