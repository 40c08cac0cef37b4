"""Bounds and assignments for given prices: by message passing, or exactly."""

from collections.abc import Callable, Sequence

import numpy as np

from tepdist.solver import exact
from tepdist.solver.ascent import Ascent, Reply
from tepdist.solver.descent import Descent
from tepdist.solver.messages import Messages
from tepdist.solver.problem import Array

_FIRST_SWEEPS = 40
_SWEEPS = 20
_CONVERGED = 1e-5  # relative gain of a sweep that ends the sweeps


class MessageOracle:
    """By message passing; the messages stay from prices to prices."""

    def __init__(self, ascent: Ascent, *, is_out_of_time: Callable[[], bool]) -> None:
        """Prepares the messages.

        Args:
            ascent: Whose problem it is.
            is_out_of_time: Asked between sweeps; one is made in any case.
        """
        self.ascent = ascent
        self._is_out_of_time = is_out_of_time
        self._messages = Messages(ascent.layout, ascent.problem.edges)
        self._descent = Descent(ascent.problem)
        self._most_sweeps = _FIRST_SWEEPS

    def __call__(self, prices: Array) -> Reply:
        unary = self.ascent.unary(prices)
        bound = self.sweep(unary)
        return Reply(bound + self.ascent.constant(prices), (self.rounded(unary),))

    def sweep(self, unary: Array) -> float:
        """Lets the messages settle; a lower bound.

        Args:
            unary: Cost of each value, usage priced, [values].
        """
        best = -np.inf
        for _ in range(self._most_sweeps):
            bound = self._messages.improve(unary)
            gain, best = bound - best, max(bound, best)
            if gain <= _CONVERGED * abs(best) or self._is_out_of_time():
                break
        self._most_sweeps = _SWEEPS
        return best

    def rounded(self, unary: Array) -> tuple[int, ...]:
        """An assignment by the messages, each variable the best for the others."""
        return self._descent.improve(
            self._messages.round(unary),
            self.ascent.layout.split(unary),
            is_out_of_time=self._is_out_of_time,
        )

    def reparametrized(self, unary: Array) -> exact.Reparametrized:
        return self._messages.reparametrized(unary)

    def marginals(self, prices: Array) -> Array:
        """About what a problem costs at least with each value, [values]."""
        unary = self.ascent.unary(prices)
        self.sweep(unary)
        return self._messages.marginals(unary)


class ExactOracle:
    """By toulbar2, which starts from what the messages have made of the costs.

    Attributes:
        is_complete: Whether the last call came to its end in time.
    """

    def __init__(self, messages: MessageOracle, *, time_limit_s: float) -> None:
        self._messages = messages
        self._time_limit_s = time_limit_s
        self.is_complete = True

    def __call__(self, prices: Array) -> Reply:
        ascent = self._messages.ascent
        unary = ascent.unary(prices)
        self._messages.sweep(unary)
        rounded = self._messages.rounded(unary)
        network = self._messages.reparametrized(unary)
        known = [*ascent.candidates.recent, rounded]
        found = exact.solve(
            tuple(ascent.problem.edges),
            network,
            start=min(known, key=lambda start: self._cost(network, start)),
            time_limit_s=self._time_limit_s,
        )
        self.is_complete = found.is_complete
        bound = found.lower_bound + ascent.constant(prices)
        return Reply(bound, (found.assignment, rounded))

    def _cost(self, network: exact.Reparametrized, start: Sequence[int]) -> float:
        return network.cost(tuple(self._messages.ascent.problem.edges), start)
