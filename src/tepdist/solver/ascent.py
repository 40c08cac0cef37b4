"""Limits as prices: the best multipliers of the usage at each time, and bounds.

Lagrange: with a price for usage at each time and no limits, no assignment that keeps
to the limits is cheaper than the best one of all. Each assignment found for some prices
says how its cost would change with the prices; the next prices are the best ones by
all assignments so far, near the best prices so far (bundle method with a box).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from tepdist.solver import highs
from tepdist.solver.candidates import Candidates
from tepdist.solver.layout import Layout
from tepdist.solver.problem import Array, Problem

_PATIENCE = 12  # steps without a better bound before the ascent ends
_PROGRESS = 1e-4  # relative: less does not renew the patience
_LEAST_GAIN = 1e-7  # relative: less is not worth a step that may end in a proof
_FIRST_RADIUS = 0.1  # of the first bound, for the price of a whole limit
_RENEWED_RADIUS = 0.3  # of the highest price, when another oracle goes on
_GROWTH, _SHRINKAGE = 1.5, 0.7
_ROUNDING = 1e-11  # relative: more than sums of floats are off
_MOST_CUTS = 300
_MOST_DOUBLINGS = 24


@dataclass(frozen=True, slots=True)
class Reply:
    """What an oracle says to some prices.

    Attributes:
        bound: No feasible assignment costs less.
        assignments: Good ones at these prices.
    """

    bound: float
    assignments: tuple[tuple[int, ...], ...]


Oracle = Callable[[Array], Reply]


@dataclass(frozen=True, slots=True)
class _Cut:
    """Cost of an assignment, and what a price of 1 at each time would add, [times]."""

    cost: float
    slopes: Array

    def at(self, prices: Array) -> float:
        return self.cost + float(self.slopes @ prices)


class Ascent:
    """Raises the bound; the assignments on the way go to the candidates.

    Prices are for as much usage as the highest limit.

    Attributes:
        problem: Whose bound it is.
        layout: Of the problem.
        candidates: Take note of every assignment met.
        bound: The best so far; no feasible assignment costs less.
        prices: That gave it, [times].
    """

    def __init__(
        self, problem: Problem, layout: Layout, candidates: Candidates
    ) -> None:
        self.problem, self.layout, self.candidates = problem, layout, candidates
        self.bound = -np.inf
        self.prices = np.zeros(problem.num_times)
        self._scale = float(np.abs(layout.limits).max(initial=0.0)) or 1.0
        self._cuts: list[_Cut] = []
        self._radius = 0.0

    def gap(self) -> float:
        """Between the best feasible cost and the bound, relative; infinite if none."""
        cost = self.candidates.feasible_cost
        if not np.isfinite(cost):
            return np.inf
        return (cost - self.bound) / (abs(cost) or 1.0)

    def unary(self, prices: Array) -> Array:
        """Cost of each value, usage priced, [values]."""
        return self.layout.unary + self.layout.prices(prices / self._scale)

    def constant(self, prices: Array) -> float:
        """What the priced costs are more than the costs at most, for what fits."""
        limits = self.layout.limits / self._scale
        paid = float(prices @ limits)
        return self.problem.constant - paid - _ROUNDING * abs(paid)

    def run(self, oracle: Oracle) -> Iterator[None]:
        """Steps, until they no longer pay; stop iterating to stop earlier."""
        prices, patience = self.prices, _PATIENCE
        self._radius = _RENEWED_RADIUS * float(prices.max(initial=0.0))
        while patience:
            bound = self._step(oracle, prices)
            gain = bound - self.bound
            if gain > 0:
                self.bound, self.prices = bound, prices
            if not gain <= _PROGRESS * abs(self.bound):
                patience = _PATIENCE
                self._radius *= _GROWTH
            else:
                patience -= 1
                self._radius *= _SHRINKAGE
            yield
            prices, expected = self._next_prices()
            if expected - self.bound <= self._worth(expected) * abs(self.bound):
                return

    def _worth(self, expected: float) -> float:
        """Relative gain of the bound that is worth another step."""
        cost = self.candidates.feasible_cost
        may_prove = np.isfinite(cost) and expected >= cost - _PROGRESS * abs(cost)
        return _LEAST_GAIN if may_prove else _PROGRESS

    def press(self, oracle: Oracle) -> Iterator[None]:
        """Doubles the prices, wherever a limit was exceeded, until an answer fits."""
        for doublings in range(1, _MOST_DOUBLINGS + 1):
            if not self.candidates.times or np.isfinite(self.candidates.feasible_cost):
                return
            least = float(self.prices.max(initial=0.0)) or self._radius
            prices = self.prices.copy()
            times = np.array(self.candidates.times)
            prices[times] = np.maximum(prices[times], least / 16) * 2.0**doublings
            self._step(oracle, prices)
            yield

    def _step(self, oracle: Oracle, prices: Array) -> float:
        reply = oracle(prices)
        for assignment in reply.assignments:
            cost, excess = self.candidates.offer(assignment)
            if np.isfinite(cost):
                self._cuts.append(_Cut(cost, excess / self._scale))
        self._cuts = sorted(self._cuts, key=lambda cut: cut.at(prices))[:_MOST_CUTS]
        if self._radius == 0:
            sizes = [abs(cost) for cost in (reply.bound, *self._costs()) if cost]
            self._radius = _FIRST_RADIUS * min(sizes, default=1.0)
        return reply.bound

    def _costs(self) -> list[float]:
        return [cut.cost for cut in self._cuts]

    def _next_prices(self) -> tuple[Array, float]:
        """The best prices near the best so far, by all cuts, and their value."""
        times = np.array(self.candidates.times, np.intp)
        near = self.prices[times]
        costs = np.array(self._costs())
        if not len(times) or not len(costs):
            return self.prices, self.bound
        slopes = np.array([cut.slopes[times] for cut in self._cuts])
        count = len(times)
        entries = np.hstack([np.ones((len(costs), 1)), -slopes])
        rows, columns = np.nonzero(entries)
        outcome = highs.solve(
            highs.Program(
                costs=np.concatenate([[-1.0], np.zeros(count)]),
                lower=np.concatenate([[-np.inf], np.maximum(0, near - self._radius)]),
                upper=np.concatenate([[np.inf], near + self._radius]),
                integral=np.zeros(count + 1, bool),
                row_lower=np.full(len(costs), -np.inf),
                row_upper=costs,
                entries=(rows, columns, entries[rows, columns]),
            ),
            time_limit_s=5.0,
        )
        if outcome.columns is None:
            return self.prices, self.bound
        prices = np.zeros_like(self.prices)
        prices[times] = np.maximum(0.0, outcome.columns[1:])
        return prices, float(outcome.columns[0])
