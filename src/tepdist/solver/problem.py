"""What the solver solves: a cost function network with usage over time.

Choose one value for each variable. The cost is a constant plus a unary cost for each
variable plus a cost for each edge, of the values at its two ends. An infinite cost
forbids. At each time the usages of the chosen values that are live then must not
exceed the limit of that time. Plain arrays; no sharding in here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Usage:
    """What a variable uses while it is live.

    Attributes:
        variable: Whose.
        start: First time.
        end: One past the last time; nothing is used if it is not after `start`.
        amounts: Of each value, at least 0, [values].
    """

    variable: int
    start: int
    end: int
    amounts: Array


@dataclass(frozen=True, slots=True)
class Problem:
    """Variables 0..n-1.

    Attributes:
        unary: Cost of each value of each variable, [values of i].
        edges: For pairs i < j the cost of each pair of values, [values i, values j].
        usages: A variable may have several, at different times, or none.
        limits: Of the usage at each time, [times].
        constant: Part of the cost that no choice changes.
    """

    unary: tuple[Array, ...]
    edges: Mapping[tuple[int, int], Array]
    usages: tuple[Usage, ...]
    limits: Array
    constant: float = 0.0

    @property
    def num_variables(self) -> int:
        return len(self.unary)

    @property
    def num_times(self) -> int:
        return len(self.limits)

    def cost(self, assignment: Sequence[int]) -> float:
        """Cost of an assignment; infinite if a choice is forbidden."""
        total = self.constant
        for costs, value in zip(self.unary, assignment, strict=True):
            total += float(costs[value])
        for (i, j), table in self.edges.items():
            total += float(table[assignment[i], assignment[j]])
        return total

    def profile(self, assignment: Sequence[int]) -> Array:
        """Usage at each time, [times]."""
        changes = np.zeros(self.num_times + 1)
        for usage in self.usages:
            if usage.end > usage.start:
                amount = usage.amounts[assignment[usage.variable]]
                changes[usage.start] += amount
                changes[usage.end] -= amount
        return np.cumsum(changes[:-1])

    def overflow(self, assignment: Sequence[int]) -> float:
        """By how much the worst time exceeds its limit; 0 if none does."""
        if not self.num_times:
            return 0.0
        return max(0.0, float((self.profile(assignment) - self.limits).max()))

    def is_feasible(self, assignment: Sequence[int]) -> bool:
        """Whether nothing forbidden is chosen and no limit is exceeded."""
        return self.overflow(assignment) <= 0 and isfinite(self.cost(assignment))


@dataclass(frozen=True, slots=True)
class Solution:
    """What a solve found.

    Attributes:
        assignment: Value of each variable.
        cost: Of that assignment.
        is_feasible: Whether it keeps to all limits; if not, none was found that does.
        lower_bound: No feasible assignment costs less; equals `cost` if it is proven
            best.
    """

    assignment: tuple[int, ...]
    cost: float
    is_feasible: bool
    lower_bound: float
