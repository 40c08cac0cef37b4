"""One mesh within its memory: prices of a byte at the times that overflow.

Memory is relaxed into the costs with a price at each time that overflowed so far. For
any prices, messages give a bound and an answer in a few hundredths of a second. Each
answer says how its cost would change with the prices; the next prices are the best ones
by all answers (bundle method). Answers that overflow are changed one variable at a time
until they fit, and then while that is cheaper.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tepdist.search.memory import Memory
from tepdist.search.network import Network
from tepdist.search.relaxation import Relaxation
from tepdist.search.shared import Array
from tepdist.search.within import Within
from tepdist.solver.bundle import best_prices
from tepdist.solver.candidates import peaks

Prices = tuple[tuple[int, float], ...]  # a time, price of a whole limit at it [s]
OutOfTime = Callable[[], bool]

_STEPS = 10
_NEXT_STEPS = 4  # from prices of a similar problem
_PROGRESS = 1e-3  # relative gain that is worth another step
_FIRST_RADIUS = 0.1  # of the first cost, for the price of a whole limit
_GROWTH, _SHRINKAGE = 1.5, 0.7
_PRESSURES = (1.0, 1.5, 2.0, 3.0, *(4.0**power for power in range(1, 10)))
_MOST_TIMES = 40
_REPAIRED = 3  # of the answers of the ascent, the most promising
_NEXT_REPAIRED = 1
_SPREAD = 0.5  # of the logarithm of random prices
_LEAST_SCALE, _MOST_SCALE = 0.8, 2.0  # of all random prices of one try
_PATIENCE = 16  # tries without a cheaper answer before the last


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was found for one mesh.

    Attributes:
        assignment: The best that fits; the one that needs least if none does.
        cost: Its cost [s].
        peak: Its peak memory [B].
        lower_bound: No assignment that fits costs less [s]; None without a proof.
        prices: Where the search of a similar problem may begin.
    """

    assignment: tuple[int, ...]
    cost: float
    peak: float
    lower_bound: float | None
    prices: Prices = ()


class LimitedSearch:
    """One mesh's search; remembers what it found.

    Attributes:
        limit: Of the memory at any time [B].
    """

    def __init__(
        self, network: Network, memory: Memory, limit: float, *, relaxation: Relaxation
    ) -> None:
        """Prepares a search.

        Args:
            network: Costs, no limits.
            memory: Of its assignments.
            limit: Of the memory at any time [B].
            relaxation: Messages of the network; they go on from prices to prices.
        """
        self._network = network
        self._memory = memory
        self.limit = limit
        self._relaxation = relaxation
        self._within = Within(network, memory, limit)
        self._times: list[int] = []
        self._prices = np.zeros(0)
        self._answers: dict[tuple[int, ...], tuple[float, Array]] = {}
        self._fitting: dict[tuple[int, ...], float] = {}
        self._best: Outcome | None = None
        self._bound = 0.0
        self._random = np.random.default_rng(0)

    @property
    def outcome(self) -> Outcome:
        """The best so far; something must have been offered."""
        best = self._best
        assert best is not None
        prices = tuple(zip(self._times, self._prices.tolist(), strict=False))
        return Outcome(best.assignment, best.cost, best.peak, self._bound, prices)

    @property
    def times(self) -> tuple[int, ...]:
        """At which answers overflowed, as far as they are known."""
        return tuple(self._times)

    @property
    def binds(self) -> bool:
        """Whether an answer without prices overflowed."""
        return bool(self._times)

    @property
    def fitting(self) -> list[tuple[int, ...]]:
        """Assignments that fit, cheapest first."""
        return sorted(self._fitting, key=self._fitting.__getitem__)

    def run(
        self,
        start: Sequence[int],
        *,
        bound: float,
        out_of_time: OutOfTime,
        prices: Prices = (),
    ) -> Outcome:
        """An answer within the limit, after a few prices.

        Args:
            start: The best answer known, whether it fits or not.
            bound: No assignment costs less.
            out_of_time: Asked between prices; some answer is found in any case.
            prices: To begin with.
        """
        self._bound = max(bound, self._bound)
        if self.offer(tuple(start)).peak <= self.limit:
            return self.outcome
        if self._prices.any() and self._fitting:
            return self.outcome  # what prices can find is found
        self._times += [time for time, _ in prices if time not in self._times]
        known = dict(prices)
        self._prices = np.array([known.get(time, 0.0) for time in self._times])
        self._ascend(out_of_time)
        self._raise_bound()
        for assignment in self._most_promising(_NEXT_REPAIRED if prices else _REPAIRED):
            if self.outcome.peak <= self.limit and out_of_time():
                break
            self._repair(assignment, out_of_time)
        if self.outcome.peak > self.limit:
            self._press(out_of_time)
        return self.outcome

    def scatter(self, *, out_of_time: OutOfTime) -> Outcome:
        """A better answer, by random prices around the best ones.

        Ends once nothing cheaper is found any more, or it is out of time.
        """
        waiting = _PATIENCE
        while waiting and not out_of_time():
            before = self.outcome
            prices = np.pad(self._prices, (0, len(self._times) - len(self._prices)))
            prices *= np.exp(self._random.normal(0.0, _SPREAD, len(prices)))
            prices *= self._random.uniform(_LEAST_SCALE, _MOST_SCALE)
            found = self._at(prices)
            if found not in self._answers:
                self.offer(found)
                self._repair(found, out_of_time)
            waiting = _PATIENCE if self.outcome.cost < before.cost else waiting - 1
        return self.outcome

    def marginals(self) -> list[Array]:
        """About what the best assignment costs with each value, at the best prices."""
        self._at(self._prices)
        return self._relaxation.marginals()

    def offer(self, assignment: tuple[int, ...]) -> Outcome:
        """Takes note of an assignment and of the times at which it overflows."""
        profile = self._memory.profile(assignment)
        cost = self._network.cost(assignment)
        outcome = Outcome(assignment, cost, float(profile.max()), None)
        if outcome.peak <= self.limit:
            self._fitting[assignment] = cost
        else:
            self._answers[assignment] = (cost, profile)
        over = sorted(peaks(profile - self.limit), key=lambda time: -profile[time])
        for time in over:
            if time not in self._times and len(self._times) < _MOST_TIMES:
                self._times.append(time)
        if self._best is None or rank(outcome, self.limit) < rank(
            self._best, self.limit
        ):
            self._best = outcome
        return outcome

    def _ascend(self, out_of_time: OutOfTime) -> None:
        """Looks for the prices at which the answer costs most."""
        near, reached = self._prices, -np.inf
        if near.any():
            self.offer(self._at(near))
            reached = self._relaxation.bound - float(near.sum())
        (first, _), *_ = self._answers.values()
        radius = _FIRST_RADIUS * first
        for _ in range(_NEXT_STEPS if near.any() else _STEPS):
            if out_of_time():
                break
            near = np.pad(near, (0, len(self._times) - len(near)))
            costs = np.array([cost for cost, _ in self._answers.values()])
            prices, expected = best_prices(costs, self._slopes(), near, radius=radius)
            if expected is None:
                break
            if np.isfinite(reached) and expected - reached <= _PROGRESS * abs(reached):
                break
            self.offer(self._at(prices))
            value = self._relaxation.bound - float(prices.sum())
            if value > reached:
                near, reached = prices, value
                radius *= _GROWTH
            else:
                radius *= _SHRINKAGE
        self._prices = near

    def _raise_bound(self) -> None:
        """A bound from what is in use for certain at the best prices (Lagrange)."""
        self._at(self._prices, spanning=False)
        bound = self._relaxation.bound - float(self._prices.sum())
        self._bound = max(self._bound, bound)

    def _at(self, prices: Array, *, spanning: bool = True) -> tuple[int, ...]:
        """What messages answer with each known time priced."""
        of_bytes = {
            time: price / self.limit
            for time, price in zip(self._times, prices.tolist(), strict=False)
            if price > 0
        }
        priced = self._memory.priced(self._network, of_bytes, spanning=spanning)
        self._relaxation.price(priced)
        self._relaxation.sweep(1 if spanning else 3)
        return self._relaxation.rounded()

    def _slopes(self) -> Array:
        """Relative overflow at each known time, [answers, times]."""
        used = [profile[self._times] for _, profile in self._answers.values()]
        slopes: Array = np.array(used) / self.limit - 1
        return slopes

    def _most_promising(self, count: int) -> list[tuple[int, ...]]:
        """The answers that overflow and cost least at the best prices."""
        prices = np.pad(self._prices, (0, len(self._times) - len(self._prices)))
        costs = [cost for cost, _ in self._answers.values()] + self._slopes() @ prices
        known = list(self._answers)
        return [known[at] for at in np.argsort(costs, kind="stable")[:count]]

    def _repair(self, assignment: tuple[int, ...], out_of_time: OutOfTime) -> None:
        """Offers the assignments that a change of one variable after another leads to.

        Args:
            assignment: To begin with.
            out_of_time: Asked between changes, once something fits.
        """

        def is_enough() -> bool:
            return self.outcome.peak <= self.limit and out_of_time()

        repaired = self._within.repaired(assignment, is_enough)
        if self.offer(repaired).peak <= self.limit:
            self.offer(self._within.filled(repaired, is_enough))

    def _press(self, out_of_time: OutOfTime) -> None:
        """Raises the prices until an answer fits, or more would change nothing."""
        least = max(float(self._prices.max(initial=0.0)), 0.01 * self.outcome.cost)
        for pressure in _PRESSURES:
            missing = len(self._times) - len(self._prices)
            prices = np.maximum(np.pad(self._prices, (0, missing)), least / 16)
            found = self._at(prices * pressure)
            self.offer(found)
            self._repair(found, out_of_time)
            if self.outcome.peak <= self.limit or out_of_time():
                return


def rank(outcome: Outcome, limit: float) -> tuple[float, float]:
    """Order of outcomes, best first: what fits, then what costs least."""
    return (max(outcome.peak - limit, 0.0), outcome.cost)
