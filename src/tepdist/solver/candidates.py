"""The assignments found so far."""

from collections.abc import Sequence

import numpy as np

from tepdist.solver.layout import Layout
from tepdist.solver.problem import Array, Indices, Problem

_MOST = 64  # assignments kept; the oldest is forgotten first


class Candidates:
    """Keeps the best assignment, the last different ones, and where they overflowed.

    Attributes:
        times: At which some assignment overflowed most, in order of discovery.
        recent: The last assignments, oldest first.
    """

    def __init__(self, problem: Problem, layout: Layout) -> None:
        self._problem, self._layout = problem, layout
        self.times: list[int] = []
        self.recent: list[tuple[int, ...]] = []
        self._best: tuple[int, ...] | None = None
        self._rank = (np.inf, np.inf, np.inf)

    @property
    def best(self) -> tuple[int, ...] | None:
        """The best so far: allowed, then within the limits, then cheap."""
        return self._best

    @property
    def feasible_cost(self) -> float:
        """Cost of the best one if it is feasible, else infinite."""
        return self._rank[2] if self._rank[:2] == (0, 0) else np.inf

    def offer(self, assignment: Sequence[int]) -> tuple[float, Array]:
        """Takes note of an assignment.

        Returns:
            Its cost, and by how much it exceeds the limit at each time, [times].
        """
        known = tuple(int(value) for value in assignment)
        cost = self._problem.cost(known)
        excess = self._layout.profile_of(known) - self._layout.limits
        for time in _peaks(excess):
            if time not in self.times:
                self.times.append(time)
        is_forbidden = not np.isfinite(cost)
        overflow = max(0.0, float(excess.max(initial=0.0)))
        rank = (float(is_forbidden), overflow, cost)
        if self._best is None or rank < self._rank:
            self._best, self._rank = known, rank
        if not is_forbidden and known not in self.recent:
            self.recent = [*self.recent[1 - _MOST :], known]
        return cost, excess

    def values(self) -> list[Indices]:
        """Of each variable the values that some recent assignment has, ascending."""
        chosen = np.array(self.recent, np.intp).reshape(-1, self._problem.num_variables)
        return [np.unique(column) for column in chosen.T]


def _peaks(excess: Array) -> list[int]:
    """The worst time of each stretch of times over the limit."""
    over = np.concatenate([[False], excess > 0, [False]])
    edges = np.flatnonzero(np.diff(over.astype(np.int8)))
    return [
        int(start + excess[start:end].argmax())
        for start, end in zip(edges[::2], edges[1::2], strict=True)
    ]
