"""The order in which XLA:GPU runs kernels so that they hide collectives.

A collective is two kernels, its start and its end. From the last kernel back to the
first, each time the one is taken that

* is an end, while no other collective is under way; else
* keeps the device waiting least: a start may come once enough has been taken since its
  end to hide it; else
* comes last in the order that takes the least memory.

Compilers for older GPUs do not know what would hide what: there each collective starts
as soon as it can and ends where its result is read, in the order that takes the least
memory.

Source:
    XLA's ``LatencyHidingScheduler``, of which this leaves out ties that it breaks by
    how deep a kernel lies, and ``PostprocessorToScheduleAsEarlyOrLateAsPossible``.
"""

import heapq
from collections.abc import Sequence

from tepdist.analysis.schedule import Kernels, least_memory


def start_early(kernels: Kernels) -> list[int]:
    """The order of the least memory, but that collectives start as soon as they can."""
    order = least_memory(kernels)
    if not kernels.ends:
        return order
    ends = frozenset(kernels.ends.values())
    missing = [len(operands) for operands in kernels.operands]
    early: list[int] = []
    done = [False] * len(order)
    for at in order:
        if at in ends or done[at]:
            continue
        pending = [at, *(op for op in kernels.operands[at] if not done[op])]
        while pending:
            now = pending.pop()
            if done[now]:
                continue
            early.append(now)
            done[now] = True
            for user in kernels.users[now]:
                missing[user] -= 1
                if missing[user] == 0 and user in kernels.ends:
                    pending.append(user)
    return [*early, *(at for at in order if not done[at])]


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
        # What nothing left to take reads, last first: ends, and all that is not
        # waited for. Starts come first when they are hidden.
        self._ends: list[tuple[int, int]] = []
        self._ready: list[tuple[int, int]] = []
        self._starting: list[tuple[float, int, int]] = []
        self._hidden_at: dict[int, float] = {}
        self._now = 0.0

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
            heapq.heappush(self._starting, (self._hidden_at[at], *entry))
        else:
            heapq.heappush(self._ready, entry)

    def _take(self) -> int:
        if self._ends and not self._hidden_at:
            at = heapq.heappop(self._ends)[1]
            start = self._starts[at]
            self._hidden_at[start] = self._now + self._kernels.seconds[start]
            return at
        if not self._ready:
            self._now = max(self._now, self._starting[0][0])
        while self._starting and self._starting[0][0] <= self._now:
            heapq.heappush(self._ready, heapq.heappop(self._starting)[1:])
        at = heapq.heappop(self._ready)[1]
        if at in self._hidden_at:
            del self._hidden_at[at]
        else:
            self._now += self._kernels.seconds[at]
        return at
