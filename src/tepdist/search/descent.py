"""Coordinate descent: one variable at a time, the best for the others."""

from collections import deque
from collections.abc import Sequence

import numpy as np

from tepdist.search.network import Network
from tepdist.search.shared import Array, Shared

_MOST_VISITS = 50  # of each variable on average


class Descent:
    """Improves assignments of one network, one variable and one edge at a time."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._around: list[list[tuple[int, Array]]] = [[] for _ in network.unary]
        for (i, j), table in network.binary.items():
            self._around[i].append((j, table.T))
            self._around[j].append((i, table))
        self._shared: list[list[Shared]] = [[] for _ in network.unary]
        for shared in network.shared:
            variables = {choice.variable for choice in (shared.payer, *shared.readers)}
            for variable in variables:
                self._shared[variable].append(shared)

    def improve(self, start: Sequence[int]) -> tuple[int, ...]:
        """A local optimum near `start`, never worse than it."""
        values = list(start)
        waiting = deque(range(len(values)))
        is_waiting = [True] * len(values)
        for _ in range(_MOST_VISITS * len(values)):
            if not waiting:
                break
            index = waiting.popleft()
            is_waiting[index] = False
            if not self._move(values, index):
                continue
            for other in self._neighbours(index):
                if not is_waiting[other]:
                    is_waiting[other] = True
                    waiting.append(other)
        return tuple(values)

    def _move(self, values: list[int], index: int) -> bool:
        """Gives a variable its best value for the others; whether that is another."""
        costs = self.conditional(values, index)
        best = int(np.argmin(costs))
        if costs[best] >= costs[values[index]] * (1 - 1e-12):
            return False
        values[index] = best
        return True

    def _neighbours(self, index: int) -> set[int]:
        found = {other for other, _ in self._around[index]}
        for shared in self._shared[index]:
            found |= {choice.variable for choice in (shared.payer, *shared.readers)}
        return found - {index}

    def cheaper(self, values: list[int], index: int) -> list[int]:
        """Values of one variable that cost less than its own, cheapest first."""
        costs = self.conditional(values, index)
        better = np.flatnonzero(costs < costs[values[index]] * (1 - 1e-12))
        return [int(v) for v in better[np.argsort(costs[better], kind="stable")]]

    def conditional(self, values: Sequence[int], index: int) -> Array:
        """Cost of each value of one variable, but for what it does not change."""
        costs = self._network.unary[index].copy()
        for other, table in self._around[index]:
            costs += table[values[other]]
        for shared in self._shared[index]:
            costs += shared.conditional(values, index)
        return costs
