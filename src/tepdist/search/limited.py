"""Solving one mesh within its memory: multipliers on the times that overflow.

Memory is relaxed into the costs with a price per byte at each time that overflowed so
far. Any prices give a lower bound (Lagrange); raising them until the answer fits, then
lowering them again, closes in on the best answer that fits.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tepdist.search.network import Network
from tepdist.search.shared import Array

# (network, start) -> assignment and a lower bound on the network's cost, or None.
Solve = Callable[[Network, Sequence[int]], tuple[tuple[int, ...], float | None]]
# assignment -> bytes at each position in time
Profile = Callable[[Sequence[int]], Array]
# price of a byte at each of some times -> the network with memory priced in
Price = Callable[[Mapping[int, float]], Network]

_RAISES = 16  # by four each: at the last, memory is all that counts
_REFINEMENTS = 6
_MAX_ALIKE = 6  # raises that change nothing; the price has grown by 4096


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
        price: Price,
        price_more: Price,
        limit: float,
    ) -> None:
        """Prepares a search.

        Args:
            network: Costs, no limits.
            solve: Finds a good or the best assignment of a network.
            profile: Memory of an assignment.
            price: Prices no more bytes than are in use: gives lower bounds.
            price_more: Prices what may be in use too: tried where nothing fits.
            limit: Of the memory at any time [B].
        """
        self._network = network
        self._solve = solve
        self._profile = profile
        self._price = price
        self._price_more = price_more
        self._limit = limit
        self._times: list[int] = []
        self._best: Outcome | None = None
        self._bound: float | None = None
        self._is_exact = True

    def run(self, start: Sequence[int], *, out_of_time: Callable[[], bool]) -> Outcome:
        """The best assignment within the limit that was found.

        Args:
            start: Any assignment.
            out_of_time: Asked between solves.
        """
        first = self._try(self._network, start, {})
        if first.peak <= self._limit:
            return first
        best = self._raise(first, out_of_time=out_of_time)
        if best.peak > self._limit and not out_of_time():
            self._is_exact = False
            best = self._raise(best, out_of_time=out_of_time)
        return Outcome(best.assignment, best.cost, best.peak, self._bound)

    def _raise(self, outcome: Outcome, *, out_of_time: Callable[[], bool]) -> Outcome:
        """The best so far, the price raised until an answer fits or none will."""
        low = price = outcome.cost / self._limit / 16
        num_alike = 0
        for _ in range(_RAISES):
            before, num_times = outcome.assignment, len(self._times)
            outcome = self._at(price, before)
            if outcome.peak <= self._limit:
                start = outcome.assignment
                self._refine(low, price, start, out_of_time=out_of_time)
                break
            is_alike = outcome.assignment == before and len(self._times) == num_times
            num_alike = num_alike + 1 if is_alike else 0
            if num_alike == _MAX_ALIKE or out_of_time():
                break
            low, price = price, price * 4
        assert self._best is not None
        return self._best

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
        prices = dict.fromkeys(self._times, price / len(self._times))
        priced = self._price if self._is_exact else self._price_more
        return self._try(priced(prices), start, prices)

    def _try(
        self, network: Network, start: Sequence[int], prices: Mapping[int, float]
    ) -> Outcome:
        assignment, bound = self._solve(network, start)
        if bound is not None and self._is_exact:
            bound -= sum(prices.values()) * self._limit
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

    def _keep(self, outcome: Outcome) -> None:
        best = self._best
        if best is None or rank(outcome, self._limit) < rank(best, self._limit):
            self._best = outcome


def rank(outcome: Outcome, limit: float) -> tuple[float, float]:
    """Order of outcomes, best first: what fits, then what costs least."""
    return (max(outcome.peak - limit, 0.0), outcome.cost)
