"""The order in which XLA:GPU runs kernels so that they hide collectives.

A collective is two kernels, its start and its end. Kernels are taken from the last back
to the first. Of those that nothing left to take reads, each time the one is taken that

* is an end, while no other collective is under way; else
* keeps the device waiting least: a start may come once enough has been taken since its
  end to hide it; else
* is a start that another collective's end waits for; else
* is no start without collectives before it; else
* has the longest chain of collectives before it; else
* takes nearest to the time that is left to hide; else
* reads the end of a collective; else
* is the last reader of most others; else
* comes last in the order that takes the least memory.

Loops with collectives inside run beside none.

Compilers for older GPUs do not know what would hide what: there each collective starts
as soon as it can and ends where its result is read, in the order that takes the least
memory.

Source:
    XLA's ``LatencyHidingScheduler`` and
    ``PostprocessorToScheduleAsEarlyOrLateAsPossible``.
"""

import heapq
import math
from collections import defaultdict
from collections.abc import Sequence

from tepdist.analysis.schedule import Kernels, least_memory

# From a kernel to those that read it; also to start or end a collective [s].
_STEP_S = 1e-6


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
        self._start_of = {end: start for start, end in kernels.ends.items()}
        self._reads_no_end = [
            self._start_of.keys().isdisjoint(operands) for operands in kernels.operands
        ]
        self._unread = [
            sum(map(bool, kernels.results[at])) if at in kernels.results else len(users)
            for at, users in enumerate(kernels.users)
        ]
        # Results of bundles, by who reads them: those that are left to take.
        self._results: dict[tuple[int, int], list[list[int]]] = defaultdict(list)
        for at, results in kernels.results.items():
            for readers in results:
                left = [*readers]
                for reader in readers:
                    self._results[at, reader].append(left)
        self._place = [0] * len(order)
        for place, at in enumerate(order):
            self._place[at] = place
        self._chain_s = self._find_chains(order)
        self._ready_s = [0.0] * len(order)
        self._now_s = 0.0
        self._under_way = False
        # What nothing left to take reads: ends; the start of the collective under way;
        # loops with collectives; kernels that keep the device waiting, by when they do
        # no longer; the others, by their chains.
        self._ends: list[int] = []
        self._start: int | None = None
        self._loops: list[int] = []
        self._stalled: list[tuple[float, int, int]] = []
        self._due: dict[float, list[int]] = {}
        self._chains: list[float] = []

    def run(self) -> list[int]:
        taken: list[int] = []
        given: list[int] = []
        for at, count in enumerate(self._unread):
            if count == 0:
                self._push(at)
        while len(taken) < len(self._place):
            at = given.pop() if given else self._take()
            taken.append(at)
            self._advance(at)
            for operand in self._kernels.operands[at]:
                is_bundle = operand in self._kernels.results
                self._unread[operand] -= self._settle(operand, at) if is_bundle else 1
                if self._unread[operand] == 0:
                    self._ready_s[operand] = self._earliest_s(operand)
                    if self._kernels.is_given[operand]:
                        given.append(operand)
                    else:
                        self._push(operand)
        return taken[::-1]

    def _settle(self, operand: int, reader: int) -> int:
        """How many results of a bundle nobody is left to read after a reader is taken.

        What takes a result out of it comes at once, a step after its last reader.
        """
        count = 0
        for left in self._results[operand, reader]:
            left.remove(reader)
            if not left:
                count += 1
                after_s = self._ready_s[reader] + _STEP_S
                self._now_s = max(self._now_s, after_s)
        return count

    def _find_chains(self, order: Sequence[int]) -> list[float]:
        """Time of the longest chain of collectives that each kernel waits for [s]."""
        chain_s = [0.0] * len(order)
        for at in order:
            operands = self._kernels.operands[at]
            longest_s = max((chain_s[op] for op in operands), default=0.0)
            start = self._start_of.get(at)
            if start is not None:
                hidden_s = chain_s[start] + self._kernels.seconds[start]
                longest_s = max(longest_s, hidden_s)
            chain_s[at] = longest_s
        return chain_s

    def _earliest_s(self, at: int) -> float:
        """When enough has been taken since those that read a kernel [s]."""
        end, own_s = self._kernels.ends.get(at), self._kernels.seconds[at]
        after_s = (
            self._ready_s[user] + (own_s if user == end else _STEP_S)
            for user in self._kernels.users[at]
        )
        if at in self._kernels.results and end is None:
            return self._now_s + _STEP_S
        return max(self._now_s, *after_s)

    def _push(self, at: int) -> None:
        if at in self._start_of:
            self._ends.append(at)
        elif at in self._kernels.alone:
            self._loops.append(at)
        elif at in self._kernels.ends:
            self._start = at
        else:
            entry = (self._ready_s[at], -self._place[at], at)
            heapq.heappush(self._stalled, entry)

    def _advance(self, at: int) -> None:
        """Moves on the time by a kernel that is taken."""
        self._now_s = self._ready_s[at] = max(self._now_s, self._ready_s[at])
        if at in self._start_of or at in self._kernels.ends:
            self._under_way = at in self._start_of
            self._now_s += _STEP_S
        elif not self._kernels.is_given[at]:
            self._now_s += self._kernels.seconds[at]

    def _take(self) -> int:
        """The next kernel, no longer among those that are ready."""
        while self._stalled and self._stalled[0][0] <= self._now_s:
            self._push_due(heapq.heappop(self._stalled)[-1])
        if self._ends and not self._under_way:
            end = min(self._ends, key=self._end_key)
            self._ends.remove(end)
            return end
        candidates = self._with_longest_chain()
        if self._is_start_next(candidates):
            assert self._start is not None
            start, self._start = self._start, None
            return start
        if not candidates:
            return heapq.heappop(self._stalled)[-1]
        at = self._best(candidates)
        if at in self._kernels.alone:
            self._loops.remove(at)
        else:
            self._due[self._chain_s[at]].remove(at)
        return at

    def _push_due(self, at: int) -> None:
        chain_s = self._chain_s[at]
        if not self._due.get(chain_s):
            heapq.heappush(self._chains, -chain_s)
        self._due.setdefault(chain_s, []).append(at)

    def _end_key(self, end: int) -> tuple[float, float, int]:
        stall_s = max(self._ready_s[end] - self._now_s, 0.0)
        return stall_s, -self._chain_s[end], -self._place[end]

    def _with_longest_chain(self) -> list[int]:
        """Of the kernels that keep nobody waiting those with the longest chains."""
        while self._chains and not self._due[-self._chains[0]]:
            heapq.heappop(self._chains)
        found = self._due[-self._chains[0]] if self._chains else []
        is_blocked = self._under_way and (
            found or self._stalled or self._start is not None
        )
        if is_blocked or not self._loops:
            return found
        longest_s = max(self._chain_s[at] for at in (*found[:1], *self._loops))
        return [at for at in (*found, *self._loops) if self._chain_s[at] == longest_s]

    def _is_start_next(self, candidates: Sequence[int]) -> bool:
        """Whether the start of the collective under way goes before some kernels."""
        if self._start is None:
            return False
        if self._ready_s[self._start] > self._now_s:
            earliest_s = self._stalled[0][0] if self._stalled else math.inf
            return not candidates and self._ready_s[self._start] <= earliest_s
        if self._ends or not candidates:
            return True
        return self._chain_s[self._start] > self._chain_s[candidates[0]]

    def _best(self, candidates: Sequence[int]) -> int:
        """Of kernels with chains of one length the one to take."""
        stalls_s = [self._stalled[0][0]] if self._stalled else []
        if self._start is not None and self._ready_s[self._start] >= self._now_s:
            stalls_s.append(self._ready_s[self._start])
        until_s = min(stalls_s, default=None)
        return min(candidates, key=lambda at: self._key(at, until_s))

    def _key(self, at: int, until_s: float | None) -> tuple[float, bool, int, int]:
        wasted_s = 0.0
        if until_s is not None:
            wasted_s = abs(until_s - self._now_s - self._kernels.seconds[at])
        operands = self._kernels.operands[at]
        return (
            wasted_s,
            self._reads_no_end[at],
            -sum(
                self._last_reads(operand, at)
                if operand in self._kernels.results
                else self._unread[operand] == 1
                for operand in operands
            ),
            -self._place[at],
        )

    def _last_reads(self, operand: int, reader: int) -> int:
        """How many results of a bundle nothing but one reader is left to read."""
        return sum(len(left) == 1 for left in self._results[operand, reader])
