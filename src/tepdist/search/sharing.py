"""Exact answers where costs are shared, in a few runs of the solver.

With a shared cost divided among all who might take it, no assignment costs more than
it does: the answer bounds the cost from below, and shows which costs are not shared
alike. Those are stated exactly in the next run, until the bound is met. A network of
420 variables of a GPT on 128x8 took 3.0 s so, and 4.0 s with all of them stated at once
(2 cores, 2026-11).
"""

import time
from collections.abc import Sequence

import numpy as np

from tepdist.search.descent import Descent
from tepdist.search.network import Network
from tepdist.search.shared import Shared
from tepdist.search.solver import Solution, solve

_ALIKE = 1e-9  # share of a cost that rounding may add
# A gap that is as good as a proof for all but small networks: the last thousandth of a
# network of 750 variables took 54 of 60 s (2 cores, 2026-11).
_SMALL = 64
CLOSED = 1e-3
# 120 variables of a scanned GPT were proven in 0.2 s from a good answer, without one
# not in 10 s; 425 of an unrolled one in 0.7 s from any, and the good answer took 1 s.
_TRY_S = 5.0
# Of one run, if it is no small network and nobody is patient: with costs stated
# exactly, and with all divided. Where the latter is not enough the former takes longer
# still: both took 46 s on 2x2x2, for 0.6 % of the cost of a GPT of 279 variables.
_EXACT_S, _DIVIDED_S = 10.0, 20.0
_PROVEN = 1e-6  # share of a cost by which a bound may miss it in small ones


class SharingSearch:
    """Solves one network; remembers its best answer and bound."""

    def __init__(
        self,
        network: Network,
        start: Sequence[int],
        *,
        time_limit_s: float,
        upper: float | None = None,
        is_patient: bool = False,
    ) -> None:
        """Prepares a search.

        Args:
            network: Costs at least 0; limits are ignored.
            start: An assignment to improve on.
            time_limit_s: That all runs may take [s].
            upper: A cost that an answer must beat to be of interest.
            is_patient: Whether one run may take all the time.
        """
        self._network = network
        self._descent = Descent(network)
        self._upper = upper
        self._deadline_s = time.perf_counter() + time_limit_s
        is_small = network.num_variables <= _SMALL
        self._gap = _PROVEN if is_small else CLOSED
        is_hasty = not (is_small or is_patient)
        self._most_s = _EXACT_S if is_hasty else np.inf
        self._divided_s = _DIVIDED_S if is_hasty else np.inf
        self._best = tuple(start)
        self._bound = 0.0

    def run(self) -> Solution:
        """The best assignment, proven or nearly so unless the time is over."""
        apart = self._bound_from_below(self._network.shared)
        exact: list[Shared] = []
        while apart and self._is_open():
            exact += apart
            known = {id(shared) for shared in exact}
            divided = [s for s in self._network.shared if id(s) not in known]
            apart = self._bound_from_below(divided)
        return self._solution()

    def approach(self) -> Solution:
        """A good assignment and a bound from one run."""
        self._bound_from_below(self._network.shared)
        return self._solution()

    def _bound_from_below(self, divided: Sequence[Shared]) -> list[Shared]:
        """Solves with some costs divided; those that the answer does not share."""
        closer = self._network.charged(divided, divided=True)
        solved = self._solved_exactly if closer.shared else self._solved_divided
        found = solved(closer)
        self._bound = max(self._bound, found.lower_bound)
        self._keep(found.assignment)
        return [
            shared
            for shared in divided
            if shared.cost(found.assignment)
            > shared.divided_cost(found.assignment) * (1 + _ALIKE)
        ]

    def _solved_divided(self, network: Network) -> Solution:
        """With all costs divided; the last run if it takes too long."""
        start_s = time.perf_counter()
        found = self._solved(network, most_s=self._divided_s)
        if time.perf_counter() - start_s >= self._divided_s:
            self._deadline_s = start_s
        return found

    def _solved_exactly(self, network: Network) -> Solution:
        """With costs stated exactly; from a better answer if it takes long."""
        start_s = time.perf_counter()
        found = self._solved(network, most_s=_TRY_S)
        if time.perf_counter() - start_s < _TRY_S:
            return found
        everyone_pays = self._network.charged(self._network.shared, divided=False)
        self._keep(self._solved(everyone_pays).assignment)
        return self._solved(network, most_s=self._most_s)

    def _solved(self, network: Network, *, most_s: float = np.inf) -> Solution:
        limit_s = min(self._left_s(), most_s)
        return solve(network, self._best, time_limit_s=limit_s, upper=self._wanted())

    def _keep(self, assignment: tuple[int, ...]) -> None:
        improved = self._descent.improve(assignment)
        self._best = min(self._best, improved, key=self._network.cost)

    def _is_open(self) -> bool:
        is_far = self._bound < self._wanted() * (1 - self._gap)
        return is_far and self._left_s() > 0

    def _wanted(self) -> float:
        cost = self._network.cost(self._best)
        return cost if self._upper is None else min(cost, self._upper)

    def _left_s(self) -> float:
        return max(self._deadline_s - time.perf_counter(), 0.0)

    def _solution(self) -> Solution:
        cost = self._network.cost(self._best)
        return Solution(self._best, cost, min(self._bound, cost))
