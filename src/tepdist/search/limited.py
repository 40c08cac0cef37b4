"""Solving one mesh within its memory: multipliers on the times that overflow.

Memory is relaxed into the costs with a price per byte at each time that overflowed so
far. Any prices give a lower bound (Lagrange); raising them until the answer fits, then
lowering them again, closes in on the best answer that fits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tepdist.search.network import Array, Network

# (network, start) -> assignment and a lower bound on the network's cost, or None.
Solve = Callable[[Network, Sequence[int]], tuple[tuple[int, ...], float | None]]
# assignment -> bytes at each position in time
Profile = Callable[[Sequence[int]], Array]
# times -> usage of each value of each variable at these times
Usages = Callable[[Sequence[int]], tuple[Array, ...]]

_RAISES = 16  # by four each: at the last, memory is all that counts
_REFINEMENTS = 6


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was found for one mesh.

    Attributes:
        assignment: The best that fits; the one that needs least if none does.
        cost: Its cost [s].
        peak: Its peak memory [B].
        lower_bound: No assignment that fits costs less [s]; None without a proof.
    """

    assignment: tuple[int, ...]
    cost: float
    peak: float
    lower_bound: float | None


class LimitedSearch:
    """One mesh's search; remembers the best answer so far."""

    def __init__(
        self,
        network: Network,
        solve: Solve,
        *,
        profile: Profile,
        usages: Usages,
        limit: float,
    ) -> None:
        self._network = network
        self._solve = solve
        self._profile = profile
        self._usages = usages
        self._limit = limit
        self._times: list[int] = []
        self._table: tuple[Array, ...] = ()
        self._best: Outcome | None = None
        self._bound: float | None = None

    def run(self, start: Sequence[int], *, out_of_time: Callable[[], bool]) -> Outcome:
        """The best assignment within the limit that was found.

        Args:
            start: Any assignment.
            out_of_time: Asked between solves.
        """
        outcome = self._try(self._network, start, np.zeros(0))
        if outcome.peak <= self._limit:
            return outcome
        price = outcome.cost / self._limit / 16
        low, high = 0.0, price
        for _ in range(_RAISES):
            outcome = self._at(price, outcome.assignment)
            if outcome.peak <= self._limit:
                high = price
                break
            if out_of_time():
                break
            low, price = price, price * 4
        if outcome.peak <= self._limit:
            self._refine(low, high, outcome.assignment, out_of_time=out_of_time)
        assert self._best is not None
        best = self._best
        return Outcome(best.assignment, best.cost, best.peak, self._bound)

    def _refine(
        self,
        low: float,
        high: float,
        start: Sequence[int],
        *,
        out_of_time: Callable[[], bool],
    ) -> None:
        for _ in range(_REFINEMENTS):
            if out_of_time():
                return
            middle = (max(low, high / 64) * high) ** 0.5
            outcome = self._at(middle, start)
            if outcome.peak <= self._limit:
                high = middle
            else:
                low = middle

    def _at(self, price: float, start: Sequence[int]) -> Outcome:
        """The answer with every known time priced equally."""
        count = len(self._times)
        multipliers = np.full(count, price / count)
        network = Network(
            self._network.unary,
            self._network.binary,
            self._table,
            np.full(count, self._limit),
            np.zeros(count),
        )
        return self._try(network.priced(multipliers), start, multipliers)

    def _try(
        self, network: Network, start: Sequence[int], multipliers: Array
    ) -> Outcome:
        assignment, bound = self._solve(network, start)
        if bound is not None:
            bound -= float(multipliers.sum()) * self._limit
            self._bound = bound if self._bound is None else max(bound, self._bound)
        profile = self._profile(assignment)
        outcome = Outcome(
            assignment,
            self._network.cost(assignment),
            float(profile.max()),
            self._bound,
        )
        self._watch(profile)
        self._keep(outcome)
        return outcome

    def _watch(self, profile: Array) -> None:
        """Adds the time of the worst overflow to the priced ones."""
        worst = int(profile.argmax())
        if profile[worst] > self._limit and worst not in self._times:
            self._times.append(worst)
            self._table = self._usages(self._times)

    def _keep(self, outcome: Outcome) -> None:
        best = self._best
        if best is None or _rank(outcome, self._limit) < _rank(best, self._limit):
            self._best = outcome


def _rank(outcome: Outcome, limit: float) -> tuple[float, float]:
    return (max(outcome.peak - limit, 0.0), outcome.cost)
