"""Solving one mesh within its memory: prices of a byte at the times that overflow.

Memory is relaxed into the costs with a price at each time that overflowed so far. Each
answer says how its cost would change with the prices; the next prices are the best
ones by all answers (bundle method). They are raised until an answer fits, and what
room that leaves is used up by descent within the limit.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tepdist.search.descent import Descent
from tepdist.search.memory import Term
from tepdist.search.network import Network
from tepdist.search.shared import Array
from tepdist.solver.bundle import best_prices
from tepdist.solver.candidates import peaks

Prices = tuple[tuple[int, float], ...]  # a time, price of a whole limit at it [s]
# (network, start) -> assignment and a lower bound on the network's cost, or None.
Solve = Callable[[Network, Sequence[int]], tuple[tuple[int, ...], float | None]]

_STEPS = 12
_PROGRESS = 1e-3  # relative gain that is worth another step
_FIRST_RADIUS = 0.1  # of the first cost, for the price of a whole limit
_GROWTH, _SHRINKAGE = 1.5, 0.7
_PRESSURES = (1.0, 1.2, 1.5, 2.0, 3.0, *(4.0**power for power in range(1, 10)))
_EASINGS = 4
_MOST_TIMES = 40
_MOST_ROUNDS = 4  # of adding times while memory is all that counts
_MOST_TRIES = 400  # of changes of one variable within the limit


class Memory(Protocol):
    """Memory of assignments over time; see `MemoryModel`."""

    def profile(self, assignment: Sequence[int], /) -> Array:
        """Bytes in use at each time."""
        ...

    def terms(self, assignment: Sequence[int], time: int, /) -> Iterable[Term]:
        """What is in use at a time, and which variables put it there."""
        ...

    def priced(
        self, network: Network, prices: Mapping[int, float], /, *, spanning: bool
    ) -> Network:
        """A network with the use at some times priced into its costs.

        No more is priced than is in use, unless `spanning`.
        """
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was found for one mesh.

    Attributes:
        assignment: The best that fits; the one that needs least if none does.
        cost: Its cost [s].
        peak: Its peak memory [B].
        lower_bound: No assignment that fits costs less [s]; None without a proof.
        prices: Where a search with a better solver goes on.
    """

    assignment: tuple[int, ...]
    cost: float
    peak: float
    lower_bound: float | None
    prices: Prices = ()


class LimitedSearch:
    """One mesh's search; remembers the best answer so far."""

    def __init__(
        self, network: Network, memory: Memory, limit: float, *, solve: Solve
    ) -> None:
        """Prepares a search.

        Args:
            network: Costs, no limits.
            memory: Of its assignments.
            limit: Of the memory at any time [B].
            solve: Finds a good or the best assignment of a network.
        """
        self._network = network
        self._memory = memory
        self._limit = limit
        self._solve = solve
        self._times: list[int] = []
        self._profiles: dict[tuple[int, ...], Array] = {}
        self._best: Outcome | None = None
        self._bound: float | None = None

    def run(
        self,
        start: Sequence[int],
        *,
        out_of_time: Callable[[], bool],
        prices: Prices = (),
    ) -> Outcome:
        """The best assignment within the limit that was found.

        Args:
            start: Any assignment.
            out_of_time: Asked between solves.
            prices: To begin with.
        """
        self._times = [time for time, _ in prices]
        assignment, self._bound = self._solve(self._network, start)
        first = self._offer(assignment)
        found = np.array([price for _, price in prices])
        if first.peak > self._limit:
            self._offer(tuple(start))
            found = self._ascend(found, out_of_time)
            self._raise_bound(found)
            self._press(found, out_of_time)
            self._shrink(out_of_time)
            self._fill(out_of_time)
        best = self._best
        assert best is not None
        known = tuple(zip(self._times, found.tolist(), strict=False))
        return Outcome(best.assignment, best.cost, best.peak, self._bound, known)

    def _ascend(self, near: Array, out_of_time: Callable[[], bool]) -> Array:
        """The best prices found, of a whole limit at each known time."""
        reached = -np.inf
        if near.any():
            reached = self._value(self._at(near), near)
        radius = _FIRST_RADIUS * self._network.cost(next(iter(self._profiles)))
        for _ in range(_STEPS):
            near = np.pad(near, (0, len(self._times) - len(near)))
            costs = np.array([self._network.cost(known) for known in self._profiles])
            prices, expected = best_prices(costs, self._slopes(), near, radius=radius)
            if expected is None:
                break
            if np.isfinite(reached) and expected - reached <= _PROGRESS * abs(reached):
                break
            value = self._value(self._at(prices), prices)
            if value > reached:
                near, reached = prices, value
                radius *= _GROWTH
            else:
                radius *= _SHRINKAGE
            if out_of_time():
                break
        return np.pad(near, (0, len(self._times) - len(near)))

    def _raise_bound(self, prices: Array) -> None:
        """A bound from what is in use for certain at these prices (Lagrange)."""
        network = self._memory.priced(
            self._network, self._of_bytes(prices), spanning=False
        )
        assert self._best is not None
        assignment, bound = self._solve(network, self._best.assignment)
        self._offer(assignment)
        if bound is not None:
            bound -= float(prices.sum())
            self._bound = bound if self._bound is None else max(bound, self._bound)

    def _of_bytes(self, prices: Array) -> dict[int, float]:
        """Known time to the price of a byte, from prices of a whole limit."""
        return {
            time: price / self._limit
            for time, price in zip(self._times, prices.tolist(), strict=False)
            if price > 0
        }

    def _slopes(self) -> Array:
        """Relative overflow at each known time, [answers, times]."""
        used = [profile[self._times] for profile in self._profiles.values()]
        slopes: Array = np.array(used) / self._limit - 1
        return slopes

    def _value(self, outcome: Outcome, prices: Array) -> float:
        used = self._profiles[outcome.assignment][self._times[: len(prices)]]
        return outcome.cost + float(prices @ (used / self._limit - 1))

    def _press(self, prices: Array, out_of_time: Callable[[], bool]) -> None:
        """Raises the prices until an answer fits, or more would change nothing."""
        assert self._best is not None
        least = max(float(prices.max(initial=0.0)), 0.01 * self._best.cost) / 16
        rounds, low = 0, 0.0
        for pressure in _PRESSURES:
            while not out_of_time():
                known = len(self._times)
                prices = np.pad(prices, (0, known - len(prices)))
                prices = np.maximum(prices, least)
                if self._at(prices * pressure).peak <= self._limit:
                    self._ease(prices, low, pressure)
                    return
                rounds += 1
                if len(self._times) == known or rounds % _MOST_ROUNDS == 0:
                    break
            low = pressure

    def _ease(self, prices: Array, low: float, high: float) -> None:
        """Lowers a pressure at which an answer fits towards one at which none did."""
        for _ in range(_EASINGS):
            middle = (low + high) / 2
            pressed = np.pad(prices, (0, len(self._times) - len(prices)))
            if self._at(pressed * middle).peak <= self._limit:
                high = middle
            else:
                low = middle

    def _at(self, prices: Array) -> Outcome:
        """The answer with each known time priced."""
        network = self._memory.priced(
            self._network, self._of_bytes(prices), spanning=True
        )
        assert self._best is not None
        assignment, _ = self._solve(network, self._best.assignment)
        return self._offer(assignment)

    def _offer(self, assignment: tuple[int, ...]) -> Outcome:
        """Takes note of an answer and of the times at which it overflows."""
        profile = self._memory.profile(assignment)
        outcome = Outcome(
            assignment, self._network.cost(assignment), float(profile.max()), None
        )
        self._profiles[assignment] = profile
        over = sorted(peaks(profile - self._limit), key=lambda time: -profile[time])
        for time in over:
            if time not in self._times and len(self._times) < _MOST_TIMES:
                self._times.append(time)
        if self._best is None or rank(outcome, self._limit) < rank(
            self._best, self._limit
        ):
            self._best = outcome
        return outcome

    def _shrink(self, out_of_time: Callable[[], bool]) -> None:
        """Changes one variable at a time while less overflows."""
        assert self._best is not None
        values, tries = list(self._best.assignment), 0
        excess = self._excess(values)
        while excess > 0 and not out_of_time():
            before = excess
            for variable in self._holding(values):
                for value in range(len(self._network.unary[variable])):
                    other = [*values[:variable], value, *values[variable + 1 :]]
                    tries += 1
                    found = self._excess(other)
                    if found < excess:
                        values, excess = other, found
                if excess == 0 or tries >= _MOST_TRIES:
                    break
            if excess >= before or tries >= _MOST_TRIES:
                break
        self._offer(tuple(values))

    def _excess(self, values: Sequence[int]) -> float:
        """What overflows, summed over all times [B]."""
        profile = self._memory.profile(values)
        return float(np.maximum(profile - self._limit, 0.0).sum())

    def _holding(self, values: Sequence[int]) -> list[int]:
        """Variables that hold memory at the worst time, most first."""
        worst = int(self._memory.profile(values).argmax())
        held: dict[int, float] = {}
        for term in self._memory.terms(values, worst):
            for variable in term.variables:
                held[variable] = held.get(variable, 0.0) + term.bytes_
        return sorted(held, key=lambda variable: -held[variable])

    def _fill(self, out_of_time: Callable[[], bool]) -> None:
        """Changes one variable at a time while that is cheaper and fits."""
        assert self._best is not None
        if self._best.peak > self._limit:
            return
        descent = Descent(self._network)
        tries = 0
        while not out_of_time():
            before = self._best.assignment
            for variable in range(self._network.num_variables):
                values = list(self._best.assignment)
                for value in descent.cheaper(values, variable):
                    tries += 1
                    values[variable] = value
                    if self._offer(tuple(values)).peak <= self._limit:
                        break
                    if tries == _MOST_TRIES:
                        return
            if self._best.assignment == before:
                return


def rank(outcome: Outcome, limit: float) -> tuple[float, float]:
    """Order of outcomes, best first: what fits, then what costs least."""
    return (max(outcome.peak - limit, 0.0), outcome.cost)
