"""Changes of a few variables together, exactly, within the memory limit.

Some variables around one are free to take any value while the others stay as they are
in the best answer: a small program (`linear.py`), which is solved to the end. Once all
variables were free so without gain, more are free together.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from tepdist.search.limited import LimitedSearch
from tepdist.search.memory import TimedMemory
from tepdist.search.network import Network
from tepdist.search.parts import improve_among

_FIRST_SIZE = 12  # variables that are free together
_GROWTH = 2
_REACH = 4  # neighbours that a variable brings in
_MOST_S = 3.0  # of one program


class Neighbourhoods:
    """One mesh's search around its best answer."""

    def __init__(
        self, network: Network, memory: TimedMemory, *, search: LimitedSearch
    ) -> None:
        """Prepares a search.

        Args:
            network: Of the search.
            memory: Of the search.
            search: Has an answer that fits.
        """
        self._network, self._memory, self._search = network, memory, search
        self._all = [np.arange(len(costs)) for costs in network.unary]
        self._around = _around(network)
        self._random = np.random.default_rng(0)

    def run(self, left_s: Callable[[], float]) -> None:
        """Offers the search better answers until the time is over, or all were free.

        Args:
            left_s: Time left [s].
        """
        size, is_whole = _FIRST_SIZE, False
        while left_s() > 0 and not is_whole:
            is_whole = size >= len(self._all)
            self._pass(size, left_s)
            size *= _GROWTH

    def _pass(self, size: int, left_s: Callable[[], float]) -> None:
        """Frees so many variables at a time until none are left without gain."""
        waiting = set(range(len(self._all)))
        while waiting and left_s() > 0:
            before = self._search.outcome.cost
            first = int(self._random.choice(sorted(waiting)))
            free = self._near(first, size)
            self._improve(free, left_s)
            waiting -= {first, *free}
            if self._search.outcome.cost < before:
                waiting |= {other for v in free for other in self._around[v]}

    def _improve(self, free: Sequence[int], left_s: Callable[[], float]) -> None:
        values: list[NDArray[np.intp]] = [
            np.array([value]) for value in self._search.outcome.assignment
        ]
        for variable in free:
            values[variable] = self._all[variable]
        least_s = left_s() - _MOST_S
        improve_among(
            values,
            self._network,
            self._memory,
            search=self._search,
            left_s=lambda: min(left_s() - least_s, left_s()),
        )

    def _near(self, first: int, size: int) -> list[int]:
        """Variables around one, nearest first; then around another one."""
        queue, seen = [first], {first}
        at = 0
        while len(queue) < min(size, len(self._all)):
            if at == len(queue):
                # The limit has to do with all variables.
                others = [v for v in range(len(self._all)) if v not in seen]
                found = [int(self._random.choice(others))]
            else:
                found = [v for v in self._around[queue[at]] if v not in seen]
                self._random.shuffle(found)
                found = found[:_REACH]
                at += 1
            queue += found
            seen.update(found)
        return queue[:size]


def _around(network: Network) -> list[list[int]]:
    """The variables that each has costs in common with, in order."""
    found: list[set[int]] = [set() for _ in network.unary]
    for i, j in network.binary:
        found[i].add(j)
        found[j].add(i)
    for shared in network.shared:
        payer = shared.payer.variable
        for reader in shared.readers:
            found[payer].add(reader.variable)
            found[reader.variable].add(payer)
    return [sorted(others - {v}) for v, others in enumerate(found)]
