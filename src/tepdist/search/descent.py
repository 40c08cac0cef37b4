"""Coordinate descent: one variable at a time, the best for the others."""

from collections.abc import Iterable, Sequence

import numpy as np

from tepdist.search.network import Network
from tepdist.search.shared import Array, Shared

_MAX_SWEEPS = 50


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
        for _ in range(_MAX_SWEEPS):
            changed = self._sweep(values, range(len(values)))
            changed |= self._sweep(values, reversed(range(len(values))))
            if not changed:
                break
        return tuple(values)

    def cheaper(self, values: list[int], index: int) -> list[int]:
        """Values of one variable that cost less than its own, cheapest first."""
        costs = self._conditional(values, index)
        better = np.flatnonzero(costs < costs[values[index]] * (1 - 1e-12))
        return [int(v) for v in better[np.argsort(costs[better], kind="stable")]]

    def _sweep(self, values: list[int], order: Iterable[int]) -> bool:
        changed = False
        for index in order:
            costs = self._conditional(values, index)
            best = int(np.argmin(costs))
            if costs[best] < costs[values[index]] * (1 - 1e-12):
                values[index] = best
                changed = True
        return changed

    def _conditional(self, values: list[int], index: int) -> Array:
        costs = self._network.unary[index].copy()
        for other, table in self._around[index]:
            costs += table[values[other]]
        for shared in self._shared[index]:
            costs += shared.conditional(values, index)
        return costs
