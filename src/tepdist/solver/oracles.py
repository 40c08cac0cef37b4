"""Bounds and assignments for given prices: by message passing, or exactly."""

from collections.abc import Callable

import numpy as np

from tepdist.solver import exact
from tepdist.solver.ascent import Ascent
from tepdist.solver.candidates import Candidates
from tepdist.solver.descent import Descent
from tepdist.solver.layout import Layout
from tepdist.solver.messages import Messages
from tepdist.solver.problem import Array, Problem

_FIRST_SWEEPS = 100
_SWEEPS = 20
_CONVERGED = 1e-5  # relative gain of a sweep that ends the sweeps


class Relaxation:
    """A problem's network at any prices; the messages stay from call to call."""

    def __init__(
        self,
        problem: Problem,
        layout: Layout,
        candidates: Candidates,
        *,
        is_out_of_time: Callable[[], bool],
    ) -> None:
        self._problem, self._layout = problem, layout
        self._candidates = candidates
        self._is_out_of_time = is_out_of_time
        self._messages = Messages(layout, problem.edges)
        self._descent = Descent(problem)
        self.is_exact = True

    def sweep(self, unary: Array, most: int) -> float:
        """Lets the messages settle; a lower bound.

        Args:
            unary: Cost of each value, [values].
            most: Sweeps at most.
        """
        best = -np.inf
        for _ in range(most):
            bound = self._messages.improve(unary)
            gain, best = bound - best, max(bound, best)
            if gain <= _CONVERGED * abs(best) or self._is_out_of_time():
                break
        return best

    def marginals(self, unary: Array) -> Array:
        """About what the network costs at least with each value, [values]."""
        return self._messages.marginals(unary)

    def _rounded(self, unary: Array) -> tuple[int, ...]:
        rounded = self._messages.round(unary)
        return self._descent.improve(
            rounded, self._layout.split(unary), is_out_of_time=self._is_out_of_time
        )

    def passing(
        self, ascent: Ascent
    ) -> "Callable[[Array], tuple[float, list[tuple[int, ...]]]]":
        """The oracle by message passing."""
        most = _FIRST_SWEEPS

        def ask(prices: Array) -> tuple[float, list[tuple[int, ...]]]:
            nonlocal most
            unary = ascent.unary(prices)
            bound = self.sweep(unary, most)
            most = _SWEEPS
            return bound + ascent.constant(prices), [self._rounded(unary)]

        return ask

    def exactly(
        self, ascent: Ascent, time_limit_s: float
    ) -> "Callable[[Array], tuple[float, list[tuple[int, ...]]]]":
        """The oracle by toulbar2, each call within a time."""

        def ask(prices: Array) -> tuple[float, list[tuple[int, ...]]]:
            unary = ascent.unary(prices)
            self.sweep(unary, _SWEEPS)
            parts = self._layout.split(unary)
            rounded = self._rounded(unary)
            start = min(
                (*self._candidates.recent, rounded),
                key=lambda known: self._cost(parts, known),
            )
            network = self._messages.reparametrized(unary)
            found = exact.solve(
                self._problem, network, start=start, time_limit_s=time_limit_s
            )
            self.is_exact = found.is_complete
            return found.lower_bound + ascent.constant(prices), [
                found.assignment,
                rounded,
            ]

        return ask

    def _cost(self, parts: list[Array], assignment: tuple[int, ...]) -> float:
        total = sum(float(costs[v]) for costs, v in zip(parts, assignment, strict=True))
        for (i, j), table in self._problem.edges.items():
            total += float(table[assignment[i], assignment[j]])
        return total
