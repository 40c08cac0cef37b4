"""The order in which XLA:GPU runs kernels so that they hide collectives.

A collective is two kernels, its start and its end. From the last kernel back to the
first, each time the one is taken that

* is an end, while no other collective is under way; else
* keeps the device waiting least: a start may come once enough has been taken since its
  end to hide it; else
* came last in the order that takes the least memory.

Source:
    XLA's ``LatencyHidingScheduler`` and ``GpuLatencyEstimator``, of which this leaves
    out ties that it breaks by how deep a kernel lies.
"""

import heapq
from collections.abc import Sequence

from tepdist.analysis.schedule import Kernels, least_memory

# In units of XLA's: a loop over elements is 1000, any other kernel 1.
LATENCY = 5000
LOOP_COST = 1000
OTHER_COST = 1


def hide_latency(kernels: Kernels) -> list[int]:
    """An order that runs other kernels beside collectives."""
    order = least_memory(kernels)
    return _Backwards(kernels, order).run() if kernels.ends else order


class _Backwards:
    """One run, from the last kernel to the first."""

    def __init__(self, kernels: Kernels, order: Sequence[int]) -> None:
        self._kernels = kernels
        self._starts = {end: start for start, end in kernels.ends.items()}
        self._unread = [len(users) for users in kernels.users]
        self._place = [0] * len(order)
        for place, at in enumerate(order):
            self._place[at] = place
        # Last first: ends, starts and all others that nothing left to take reads.
        self._ends: list[tuple[int, int]] = []
        self._others: list[tuple[int, int]] = []
        self._start: int | None = None
        self._under_way: int | None = None
        self._now = self._hidden_at = 0

    def run(self) -> list[int]:
        for at, count in enumerate(self._unread):
            if count == 0:
                self._push(at)
        taken: list[int] = []
        while len(taken) < len(self._place):
            at = self._take()
            taken.append(at)
            for operand in self._kernels.operands[at]:
                self._unread[operand] -= 1
                if self._unread[operand] == 0:
                    self._push(operand)
        return taken[::-1]

    def _push(self, at: int) -> None:
        entry = (-self._place[at], at)
        if at in self._starts:
            heapq.heappush(self._ends, entry)
        elif at in self._kernels.ends:
            self._start = at
        else:
            heapq.heappush(self._others, entry)

    def _take(self) -> int:
        if self._under_way is None and self._ends:
            at = heapq.heappop(self._ends)[1]
            self._under_way = self._starts[at]
            self._hidden_at = self._now + LATENCY
            return at
        is_hidden = self._now >= self._hidden_at
        if self._start is not None and (is_hidden or not self._others):
            at, self._start, self._under_way = self._start, None, None
            self._now = max(self._now, self._hidden_at)
            return at
        at = heapq.heappop(self._others)[1]
        self._now += self._kernels.cost[at]
        return at
