"""Coordinate descent: one variable at a time, forbidden pairs first."""

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from tepdist.solver.problem import Array, Problem

_MOST_VISITS = 30  # of each variable on average


class Descent:
    """Improves assignments of one network, its limits left out."""

    def __init__(self, problem: Problem) -> None:
        self._around: list[list[tuple[int, Array]]] = [[] for _ in problem.unary]
        for (i, j), table in problem.edges.items():
            self._around[i].append((j, table.T))
            self._around[j].append((i, table))

    def improve(
        self,
        start: Sequence[int],
        unary: Sequence[Array],
        *,
        is_out_of_time: Callable[[], bool],
    ) -> tuple[int, ...]:
        """A local optimum: no more forbidden pairs than the start, then no dearer.

        Args:
            start: An assignment.
            unary: Costs of each variable's values, finite.
            is_out_of_time: Asked now and then.
        """
        chosen = [int(value) for value in start]
        waiting = deque(range(len(chosen)))
        is_waiting = [True] * len(chosen)
        for visit in range(_MOST_VISITS * len(chosen)):
            if not waiting or (visit % 256 == 0 and is_out_of_time()):
                break
            variable = waiting.popleft()
            is_waiting[variable] = False
            value = self._best(variable, chosen, unary[variable])
            if value != chosen[variable]:
                chosen[variable] = value
                for other, _ in self._around[variable]:
                    if not is_waiting[other]:
                        is_waiting[other] = True
                        waiting.append(other)
        return tuple(chosen)

    def _best(self, variable: int, chosen: Sequence[int], unary: Array) -> int:
        costs = unary.copy()
        forbidden = np.zeros(len(costs), np.intp)
        for other, table in self._around[variable]:
            row = table[chosen[other]]
            finite = np.isfinite(row)
            if finite.all():
                costs += row
            else:
                forbidden += ~finite
                costs += np.where(finite, row, 0.0)
        costs[forbidden > forbidden.min()] = np.inf
        best = int(costs.argmin())
        current = chosen[variable]
        return current if costs[current] <= costs[best] else best
